"""Does each part earn its place? Every variant of the method on the same unseen scans, kept case by case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.trained_cases import TrainedCase, check_unseen
from DiffuGTSLib.errors import InputError, did_you_mean, naming_case
from DiffuGTSLib.evaluation.ablation_measure import Figures, Subject, measure, tuning_curves
from DiffuGTSLib.evaluation.ablation_report import NAMES, CaseFigures, write_ablation
from DiffuGTSLib.evaluation.ablation_variants import PARTS, THRESHOLD, AblationOptions, mixtures, variants
from DiffuGTSLib.evaluation.baselines import ThresholdRule
from DiffuGTSLib.evaluation.case_scores import case_file, fingerprint
from DiffuGTSLib.evaluation.froc import THRESHOLDS
from DiffuGTSLib.evaluation.protocol_cases import (
    BaselineRules,
    ReadCase,
    choose_cases,
    empty_mask_notes,
    read_case,
    require_files,
    require_organs,
)
from DiffuGTSLib.evaluation.provenance import report_provenance, require_same_cases
from DiffuGTSLib.evaluation.report import as_float
from DiffuGTSLib.storage import for_json, make_folder, read_json, require_folder_for, whole_file

CASES, TUNING = "cases", "tuning"
"""Folders of what is kept of each case; deleting them measures everything again."""
TUNING_SPLIT = "validation"
SCHEMA = 1
"""Raised whenever a figure changes its meaning."""
_BASELINE = "threshold baseline"
"""Beside the studies of a kept case: the rule that its figures of one plain threshold are of."""

OnCase = Callable[[str, float], None]
"""Called with (case, share of all cases done); may raise `Cancelled`."""


@dataclass(frozen=True)
class Study:
    """What is studied, on what.

    Attributes:
        protocol_path: See `DiffuGTSLib.datasets.protocol`.
        data: Folder that the protocol's paths start from.
        output: An existing or new folder.
        config: Of the method.
        split: "test" or "validation".
        names: Cases of it; empty: all.
        options: What to compare.
        allow_seen: Ask scans that the model was trained on, too; the report says so.
        tuned_on: Cases that the thresholds were chosen on, see `trained_cases.tuned_on`.
    """

    protocol_path: Path
    data: Path
    output: Path
    config: Config
    split: str = "test"
    names: tuple[str, ...] = ()
    options: AblationOptions = field(default_factory=AblationOptions)
    allow_seen: bool = False
    tuned_on: tuple[TrainedCase, ...] = ()


def run_ablation(study: Study, on_case: OnCase | None = None) -> list[CaseFigures]:
    """Measure every variant on every case; write `variants.csv`, `cases.csv`, `report.json`, `report.md`, `report.html`.

    Where the preset cuts residuals at a fixed threshold, that was chosen for its own mixture. Each other mixture gets
    the threshold with the highest mean Dice on the protocol's validation scans, so that none loses by its scale; the
    validation scans are looked at first. What is kept of a case is not measured again as long as its scan, mask,
    configuration, weights and these thresholds are the same.

    Raises:
        InputError: As `choose_cases` and `check_unseen`; or a case that the split does not have; or the folder holds
            files of a report that is no ablation, or is of another protocol or split (code "exists"); or a file of a
            case is missing (code "missing").
        PromptError: If the organ of a case is unknown (code "organ").
    """
    require_folder_for(study.output, NAMES[0], True, "choose another folder.", NAMES)
    cases = read_protocol(study.protocol_path)
    possible = choose_cases(cases, study.split, allow_seen=study.allow_seen)
    require_same_cases(study.output, study.protocol_path, study.split, possible)
    chosen, tuning = _named(possible, study), tuning_cases(cases, study)
    require_organs([*tuning, *chosen])
    require_files([*tuning, *chosen], study.data)
    components = load_components(study.config)
    tuned, allowed = study.tuned_on, study.allow_seen
    seen = check_unseen(chosen, study.data, components.folder, allow_seen=allowed, tuned_on=tuned)
    told = _Told(on_case, len(tuning) + len(chosen))
    runner = _Runner(study, components, BaselineRules(cases, study.data), told)
    curves: dict[str, dict[str, list[float]]] = {}
    for case in tuning:
        with naming_case(case.name):
            curves[case.name] = runner.curves(case)
    cuts = best_cuts(list(curves.values()))
    tuning = [case for case in tuning if _has_tumor(curves[case.name])]
    figures: list[CaseFigures] = []
    for case in chosen:
        with naming_case(case.name):
            figures.append(runner.figures(case, cuts))
    empty = empty_mask_notes(chosen, [each.sick for each in figures])
    about = report_provenance(study.protocol_path, study.split, cases, study.config, components)
    notes = [seen.note, *empty, *([_tuned_on(tuning, study)] if PARTS in study.options.studies else [])]
    write_ablation(figures, study.output, study.config, study.options, {**about, "cuts": cuts}, notes)
    return figures


def tuning_cases(cases: Sequence[Case], study: Study) -> list[Case]:
    """Return the cases that thresholds of mixtures are chosen on: none where they choose themselves (Otsu)."""
    if (
        study.config.residual.rule == "otsu"
        or PARTS not in study.options.studies
        or not mixtures(study.config.residual)
    ):
        return []
    return [case for case in cases if case.split == TUNING_SPLIT and case.tumor and case.modality in ("CT", "MR")]


def best_cuts(curves: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Return mixture → the threshold of `THRESHOLDS` with the highest mean Dice over cases; nothing without cases.

    A case whose mask is empty has no say: its NaN would win against every number.
    """
    told = [curve for curve in curves if _has_tumor(curve)]
    return {
        name: THRESHOLDS[int(np.mean([curve[name] for curve in told], axis=0).argmax())] for name in (told or [{}])[0]
    }


def _has_tumor(curve: Mapping[str, Sequence[float]]) -> bool:
    """Say whether there was something to find where a curve was measured: Dice is NaN only where there was not."""
    return not any(np.isnan(values).any() for values in curve.values())


class _Told:
    """Counts cases, and says which one is being asked whenever a stage goes on."""

    def __init__(self, on_case: OnCase | None, total: int) -> None:
        self.on_case, self.total, self.done, self.name = on_case, total, -1, ""

    def begin(self, name: str) -> None:
        """Go on to the next case."""
        self.done, self.name = self.done + 1, name
        self()

    def __call__(self, stage: str = "", share: float = 0.0) -> None:  # noqa: ARG002
        """Tell that the case goes on, whatever its stage."""
        if self.on_case is not None:
            self.on_case(self.name, self.done / self.total)


@dataclass
class _Runner:
    """Measures cases one by one and keeps their figures; remembers no voxel."""

    study: Study
    components: Components
    rules: BaselineRules
    told: _Told

    def curves(self, case: Case) -> dict[str, list[float]]:
        """Return a tuning case's Dice over thresholds, as kept or measured now."""
        self.told.begin(case.name)
        read = read_case(case, self.study.data)
        made_of, file = self._made_of(case, read), self._file(TUNING, case)
        kept = _kept(file, made_of)
        if not kept:
            kept = tuning_curves(self._subject(case, read))
            _keep(file, made_of, kept)
        return {name: [as_float(value) for value in curve] for name, curve in kept.items()}

    def figures(self, case: Case, cuts: Mapping[str, float]) -> CaseFigures:
        """Return a case's figures, measuring those variants that are not kept."""
        self.told.begin(case.name)
        study = self.study
        read = read_case(case, study.data)
        made_of, file = self._made_of(case, read), self._file(CASES, case)
        known: dict[str, dict[str, Figures]] = _kept(file, made_of)
        rule = self.rules.of(case.modality) if PARTS in study.options.studies else ThresholdRule()
        if PARTS in study.options.studies and str(rule) not in known.get(_BASELINE, {}):
            known.get(PARTS, {}).pop(THRESHOLD, None)  # it was another threshold's
            known[_BASELINE] = {str(rule): {}}
        every = [(name, each) for name in study.options.studies for each in variants(name, study.options, study.config)]
        wanted = [key for key in every if not _is_known(known, key, cuts, study.config.residual.threshold)]
        if wanted:
            for name, each, figures in measure(self._subject(case, read), study.options, rule, cuts, wanted):
                known.setdefault(name, {})[each] = figures
            _keep(file, made_of, known)
        numbers = {key: {figure: as_float(value) for figure, value in known[key[0]][key[1]].items()} for key in every}
        return CaseFigures(case, bool((read.mask.array > 0).any()), numbers)

    def _subject(self, case: Case, read: ReadCase) -> Subject:
        return Subject(case, read, self.components, self.study.config, self.told)

    def _file(self, folder: str, case: Case) -> Path:
        make_folder(self.study.output / folder)
        return case_file(self.study.output / folder, case.name, ".json")

    def _made_of(self, case: Case, read: ReadCase) -> str:
        same = fingerprint(case, read.digests, self.study.config, self.components.weights)
        return hashlib.sha256(f"{SCHEMA} {same}".encode()).hexdigest()


def _named(chosen: list[Case], study: Study) -> list[Case]:
    known = [case.name for case in chosen]
    for name in study.names:
        if name not in known:
            raise InputError(
                f"Split '{study.split}' has no case '{name}'.", hint=did_you_mean(name, known), code="case"
            )
    return [case for case in chosen if case.name in study.names or not study.names]


def _tuned_on(tuning: Sequence[Case], study: Study) -> str:
    if study.config.residual.rule == "otsu":
        return "Every mixture of residuals is cut by Otsu's threshold inside its candidate."
    if not tuning:
        return "There was no validation scan to choose thresholds on: every mixture is cut where the whole method is."
    listed = ", ".join(case.name for case in tuning)
    said = f"Thresholds of mixtures were chosen on {listed}."
    return f"{said} THE SAME SCANS ARE REPORTED HERE." if study.split == TUNING_SPLIT else said


def _is_known(
    known: Mapping[str, Mapping[str, Figures]], key: tuple[str, str], cuts: Mapping[str, float], threshold: float
) -> bool:
    """Say whether a variant was measured, and at the threshold that it has now: its own, or else the preset's."""
    figures = known.get(key[0], {}).get(key[1])
    if figures is None or key[0] != PARTS or figures.get("cut") is None:
        return figures is not None
    return bool(figures["cut"] == cuts.get(key[1], threshold))


def _kept(file: Path, made_of: str) -> dict[str, Any]:
    """Return what was kept of a case; nothing where it was made of something else, is damaged or is not there."""
    try:
        kept = read_json(file)
        return dict(kept["kept"]) if kept["made_of"] == made_of else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _keep(file: Path, made_of: str, kept: Mapping[str, Any]) -> None:
    with whole_file(file) as path:
        path.write_text(json.dumps({"made_of": made_of, "kept": for_json(kept)}, allow_nan=False), encoding="utf-8")
