"""The tables of an ablation: each variant's mean, and its difference to the whole method, paired over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.evaluation.ablation_page import SAID, TITLES, ablation_page
from DiffuGTSLib.evaluation.ablation_variants import AblationOptions, variants
from DiffuGTSLib.evaluation.comparison import compare, holm
from DiffuGTSLib.evaluation.report import Row, bootstrap_mean, table_lines, write_json, write_rows
from DiffuGTSLib.storage import whole_file

NAMES = ("variants.csv", "cases.csv", "config.json", "report.json", "report.md", "report.html")
"""What is written; by the first, which no other report has, the folder is known."""

NOTES = (
    "Every variant saw the same scans, cut or padded alike. Parts, steps and seeds go on from one look at a scan.",
    "difference: variant less the first row of its study; 95 % percentile bootstrap interval over patients.",
    "p: two-sided permutation within patients; p_holm: adjusted for the variants of its study; Dice only.",
    "Overlap and sensitivity are of scans with a tumor, a missed one being 0; lesions match at IoU 0.1.",
    "In the study of prompts Dice is of the candidates; voxel_auroc ranks the voxels inside the body by the AOVA map.",
)


@dataclass(frozen=True, eq=False)
class CaseFigures:
    """One scan under every variant.

    Attributes:
        case: Of the protocol.
        sick: Whether it holds a tumor.
        figures: (study, variant) → its figures; NaN is "not applicable".
    """

    case: Case
    sick: bool
    figures: Mapping[tuple[str, str], Mapping[str, float]]


def summarize_study(cases: Sequence[CaseFigures], study: str, names: Sequence[str]) -> list[Row]:
    """Return one row a variant of a study; the first is what the others are compared with.

    Args:
        cases: At least one.
        study: Its name.
        names: Of its variants.
    """
    patients = [each.case.patient for each in cases]

    def column(name: str, figure: str) -> list[float]:
        return [each.figures[study, name].get(figure, nan) for each in cases]

    def healthy(name: str) -> list[float]:
        return [
            nan if each.sick else value
            for each, value in zip(cases, column(name, "false_positives"), strict=True)
        ]  # fmt: skip

    own = column(names[0], "dice")
    pairs = [compare(own, column(name, "dice"), patients) for name in names]
    adjusted = [nan, *holm([pair.permutation_p for pair in pairs[1:]])]
    rows: list[Row] = []
    for number, (name, pair, p_holm) in enumerate(zip(names, pairs, adjusted, strict=True)):
        mean, gap = bootstrap_mean(column(name, "dice"), patients), pair.difference
        rows.append({
            "study": study, "variant": name, "scans": mean.cases, "patients": pair.patients,
            "dice": mean.mean, "low": mean.low, "high": mean.high,
            "difference": gap.mean if number else nan,
            "difference_low": gap.low if number else nan, "difference_high": gap.high if number else nan,
            "p": pair.permutation_p if number else nan, "p_holm": p_holm,
            "lesion_sensitivity": bootstrap_mean(column(name, "lesion_sensitivity")).mean,
            "false_positives": bootstrap_mean(column(name, "false_positives")).mean,
            "false_positives_healthy": bootstrap_mean(healthy(name)).mean,
            "voxel_auroc": bootstrap_mean(column(name, "voxel_auroc")).mean,
            "cut": column(name, "cut")[0],
        })  # fmt: skip
    return rows


def by_organ(cases: Sequence[CaseFigures], study: str, names: Sequence[str]) -> list[Row]:
    """Return the mean Dice of each variant, one row an organ; healthy scans are left out."""
    rows: list[Row] = []
    for organ in sorted({each.case.organ for each in cases if each.sick}):
        own = [each for each in cases if each.case.organ == organ and each.sick]
        dice = {name: bootstrap_mean([each.figures[study, name]["dice"] for each in own]).mean for name in names}
        rows.append({"organ": organ, "scans": len(own), **dice})
    return rows


def case_rows(cases: Sequence[CaseFigures]) -> list[Row]:
    """Return one row a case and variant."""
    return [
        {
            "case": each.case.name, "patient": each.case.patient, "organ": each.case.organ,
            "modality": each.case.modality, "kind": "tumor" if each.sick else "healthy",
            "study": study, "variant": name, "cut": nan, **figures,
        }
        for each in cases
        for (study, name), figures in each.figures.items()
    ]  # fmt: skip


def write_ablation(
    cases: Sequence[CaseFigures],
    output: Path,
    config: Config,
    options: AblationOptions,
    about: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    """Write `variants.csv`, `cases.csv`, `config.json`, `report.json`, `report.md` and `report.html` into a folder.

    Args:
        cases: At least one.
        output: An existing folder.
        config: Of the method.
        options: What was compared.
        about: See `report_provenance`.
        notes: Further sentences.

    Raises:
        StorageError: If a file cannot be written.
    """
    names = {study: variants(study, options, config) for study in options.studies}
    tables = {study: summarize_study(cases, study, each) for study, each in names.items()}
    organs = {study: by_organ(cases, study, each) for study, each in names.items()}
    write_rows([row for rows in tables.values() for row in rows], output / "variants.csv")
    write_rows(case_rows(cases), output / "cases.csv")
    write_json(output / "config.json", config.to_dict())
    title = f"Ablation of {about['preset']} on {about['protocol']}, split {about['split']}"
    report = {
        "title": title, "studies": tables, "by_organ": organs, "notes": [*notes, *NOTES], "about": dict(about),
        "cases": case_rows(cases),
    }  # fmt: skip
    write_json(output / "report.json", report)
    with whole_file(output / "report.md") as path:
        path.write_text(_markdown(report), encoding="utf-8")
    with whole_file(output / "report.html") as path:
        path.write_text(ablation_page(report), encoding="utf-8")


def _markdown(report: Mapping[str, Any]) -> str:
    lines = [f"# {report['title']}"]
    for study, rows in report["studies"].items():
        lines += ["", f"## {TITLES[study]}", "", SAID[study], "", *table_lines([_short(row) for row in rows])]
        if report["by_organ"][study]:
            lines += ["", "Mean Dice by organ:", "", *table_lines(report["by_organ"][study])]
    return "\n".join([*lines, "", *(f"- {note}" for note in report["notes"])]) + "\n"


def _short(row: Row) -> Row:
    """Return a row without what stands in the heading."""
    return {name: value for name, value in row.items() if name not in ("study", "patients")}
