"""Score a model on the cases of a protocol: every step beside a blob that never looks and one plain threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.trained_cases import SeenCases, TrainedCase, check_unseen
from DiffuGTSLib.errors import naming_case
from DiffuGTSLib.evaluation.card_tables import TABLES, card_tables
from DiffuGTSLib.evaluation.case_picture import case_picture
from DiffuGTSLib.evaluation.case_scores import (
    TUMOR,
    CaseScore,
    case_file,
    fingerprint,
    keep_score,
    kept_score,
    score_case,
)
from DiffuGTSLib.evaluation.html_report import PAGE, write_page
from DiffuGTSLib.evaluation.pooled import pool
from DiffuGTSLib.evaluation.protocol_cases import (
    BaselineRules,
    choose_cases,
    empty_mask_notes,
    read_as,
    read_case,
    require_files,
    require_organs,
)
from DiffuGTSLib.evaluation.provenance import report_provenance, require_same_cases
from DiffuGTSLib.evaluation.report import write_json, write_report
from DiffuGTSLib.pipeline import segment
from DiffuGTSLib.storage import make_folder, require_folder_for, whole_file
from DiffuGTSLib.text.prompts import organ_prompts

CASES = "cases"
"""Folder of what is kept of each case; deleting it measures everything again."""
CONFIG = "config.json"
_NAMES = (CONFIG, TABLES, PAGE, "cases.csv", "report.json", "report.md")


def evaluate_protocol(
    protocol_path: Path,
    data: Path,
    output: Path,
    config: Config,
    split: str = "test",
    on_progress: Callable[[str, float], None] | None = None,
    allow_seen: bool = False,
    tuned_on: Sequence[TrainedCase] = (),
) -> None:
    """Segment every case of a split and write its report into a folder.

    `report.html`, `report.json` and `report.md` tell everything, `cases.csv` has every figure, `tables.md` the tables of a
    model card, `config.json` the configuration. A case with a mask is scored; one without, of which nothing says that it is ill, counts as healthy. What is kept in
    `cases` is not computed again as long as its scan, mask, configuration and weights are the same. The threshold
    baseline's percentile is chosen on training cases.

    Args:
        protocol_path: See `DiffuGTSLib.datasets.protocol`.
        data: Folder that the protocol's paths start from.
        output: An existing or new folder.
        config: Of the model to score.
        split: "test" or "validation"; what was trained on is refused.
        on_progress: Called with (case name, share of the cases done).
        allow_seen: Score what the model was trained on, too; the report says so.
        tuned_on: Cases that the thresholds were chosen on, see `trained_cases.tuned_on`.

    Raises:
        InputError: If the split, or one of its patients or scans, was trained on (code "leakage"), or it has no case
            with a mask; or a file is missing (code "missing"); or the folder holds files of a report that is no such one,
            or is of another protocol or split (code "exists").
        PromptError: If the organ of a case is unknown (code "organ").
    """
    require_folder_for(output, TABLES, True, "choose another folder.", _NAMES)
    cases = read_protocol(protocol_path)
    chosen = choose_cases(cases, split, allow_seen=allow_seen)
    require_same_cases(output, protocol_path, split, chosen)
    require_organs(chosen)
    require_files(chosen, data)
    components = load_components(config)
    seen = check_unseen(chosen, data, components.folder, allow_seen=allow_seen, tuned_on=tuned_on)
    make_folder(output / CASES)
    scorer = _CaseScorer(data, output / CASES, config, components, BaselineRules(cases, data))
    scores = []
    for number, case in enumerate(chosen):
        if on_progress is not None:
            on_progress(case.name, number / len(chosen))
        with naming_case(case.name):
            scores.append(scorer.score(case))
    _write(chosen, scores, scorer, seen, output, protocol_path, split)


@dataclass
class _CaseScorer:
    """Scores cases one by one; remembers digests and baselines, and no voxel.

    Attributes:
        data: Folder that the protocol's paths start from.
        folder: Where cases are kept.
        config: Of the model.
        components: The model.
        rules: The threshold baseline.
        digests: Case → file → SHA-256, of those scored.
        read_as: Case → what else its scan and reference follow from, of those scored.
    """

    data: Path
    folder: Path
    config: Config
    components: Components
    rules: BaselineRules
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    read_as: dict[str, dict[str, Any]] = field(default_factory=dict)

    def score(self, case: Case) -> CaseScore:
        """Return a case's score: as kept, or measured now and kept."""
        read = read_case(case, self.data)
        self.digests[case.name], self.read_as[case.name] = read.digests, read_as(case)
        rule = self.rules.of(case.modality)
        parts = {**self.components.weights, "threshold baseline": str(rule)}
        made_of = fingerprint(case, read.digests, self.config, parts)
        picture = case_file(self.folder, case.name, ".jpg")
        kept = kept_score(self.folder, case.name, made_of)
        if kept is not None and picture.is_file():
            return kept
        prompts = organ_prompts(case.organ, case.modality)
        result = segment(read.scan, prompts, self.components, self.config, modality=case.modality)
        score = score_case(case, read.scan, read.mask, result, rule)
        with whole_file(picture) as path:
            path.write_bytes(case_picture(read.scan, read.mask, result.mask, result.aova, case.modality))
        keep_score(self.folder, case.name, made_of, score)
        return score


def _write(
    cases: Sequence[Case], scores: Sequence[CaseScore], scorer: _CaseScorer, seen: SeenCases, output: Path,
    protocol_path: Path, split: str,
) -> None:  # fmt: skip
    config, name = scorer.config, protocol_path.stem
    pooled = pool(scores)
    rows = [score.row for score in scores]
    with whole_file(output / TABLES) as path:  # first: by it the folder is known as ours
        path.write_text(card_tables(rows, pooled.scan_auroc), encoding="utf-8")
    write_json(output / CONFIG, config.to_dict())
    about = report_provenance(protocol_path, split, scorer.rules.cases, config, scorer.components)
    more = {
        "pooled": pooled.as_json(),
        "scans": scorer.digests,
        "read_as": scorer.read_as,
        "about": {**about, "seen_in_training": seen.why},
    }
    title = f"{config.preset} on {name}, split {split}{' (SEEN IN TRAINING)' if seen.why else ''}"
    empty = empty_mask_notes(cases, [row["kind"] == TUMOR for row in rows])
    notes = [seen.note, *empty, *_notes(scorer)]
    write_report(rows, output, title=title, notes=notes, group_by="patient", more=more)
    write_page(output)


def _notes(scorer: _CaseScorer) -> list[str]:
    thresholds = "; ".join(f"{modality}: {rule}" for modality, rule in sorted(scorer.rules.rules.items()))
    return [
        "Scans that were published cut around their tumor are cut or padded at random by up to 40 mm a side first.",
        f"dice_ellipsoid looks at no image; dice_threshold takes what lies {thresholds}.",
        "That percentile is the best one of up to four training cases of the modality; without any, Otsu's threshold.",
        "Overlap is measured on scans with a tumor, a missed one being 0; healthy scans are judged by false positives.",
        "Lesions match at IoU 0.1, many references to one prediction: sensitivity, false positives, lesion_f1, FROC.",
        "Recognition (F1), segmentation and panoptic quality match one to one at IoU 0.5.",
        "Calibration (ece, brier) and voxel_auroc are of the AOVA map inside the body; air would flatter them.",
        *(f"{name}: SHA-256 {digest}" for name, digest in scorer.components.weights.items()),
    ]
