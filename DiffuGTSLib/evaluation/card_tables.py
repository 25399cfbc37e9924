"""The tables of a model card, in Markdown, to be pasted as they are: scan by scan, means, intervals, healthy scans."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from DiffuGTSLib.evaluation.case_scores import HEALTHY
from DiffuGTSLib.evaluation.html_parts import number_text
from DiffuGTSLib.evaluation.pooled import ScanAuroc
from DiffuGTSLib.evaluation.report import Estimate, Row, bootstrap_mean, table_line

TABLES = "tables.md"
_HEADS = ("scan", "asked for", "Dice ellipsoid", "Dice threshold", "Dice coarse", "Dice refined", "NSD", "found", "false positives")  # fmt: skip
FOUND = (
    "Found: of each scan its lesions; in the lines of means the scans in which any lesion was, and the lesions of all."
)
"""Below the table: a scan with one found lesion of 37 counts as a scan, and the lesions tell how much that says."""
_SHARES = ("dice_ellipsoid", "dice_threshold", "dice_coarse", "dice_refined", "nsd_2mm_refined")
_HEALTHY_HEADS = ("healthy scan", "asked for", "anomaly score", "false positives")


def card_tables(rows: Sequence[Row], scan_auroc: ScanAuroc) -> str:
    """Return one table of the scans with a tumor, organ by organ with means, and one of the healthy scans.

    Args:
        rows: One a case, as `score_case` measures it.
        scan_auroc: Of the anomaly score over all of them.
    """
    sick = [row for row in rows if row["kind"] != HEALTHY]
    healthy = [row for row in rows if row["kind"] == HEALTHY]
    parts = [_tumors(sick), FOUND, "\n".join(_intervals(sick))]
    if healthy:
        parts += [_healthy(healthy), _parted(scan_auroc)]
    return "\n\n".join(parts) + "\n"


def _tumors(rows: Sequence[Row]) -> str:
    lines = [table_line(_HEADS), "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"]
    organs = _organs(rows)
    for organ in organs:
        own = [row for row in rows if row["organ"] == organ]
        lines += [_scan(row) for row in own]
        if len(own) > 1:
            lines.append(_mean(f"mean of the {len(own)} {organ} scans", own))
    if len(organs) > 1:
        lines.append(_mean(f"mean of all {len(rows)} scans", rows))
    return "\n".join(lines)


def _scan(row: Row) -> str:
    shares = [number_text(float(row[name]), 2) for name in _SHARES]
    found, lesions = _found(row)
    said = ("no", "yes")[found] if lesions == 1 else f"{found} of {lesions}"
    return table_line(
        (str(row["case"]), str(row["organ"]), *shares, said, number_text(float(row["false_positives"]), 0))
    )


def _found(row: Row) -> tuple[int, int]:
    """Return how many lesions of a scan were found, and how many there are."""
    lesions = int(row["lesions"])
    return round(float(row["lesion_sensitivity"]) * lesions), lesions


def _mean(name: str, rows: Sequence[Row]) -> str:
    """Return the mean of each column; "found" counts the scans in which any lesion was, and the lesions."""
    means = [number_text(bootstrap_mean([float(row[each]) for row in rows]).mean, 2) for each in _SHARES]
    counts = [_found(row) for row in rows]
    scans = sum(found > 0 for found, _ in counts)
    found, lesions = (sum(numbers) for numbers in zip(*counts, strict=True))
    false = bootstrap_mean([float(row["false_positives"]) for row in rows]).mean
    cells = (name, "", *means, f"{scans} of {len(rows)} scans ({found} of {lesions} lesions)", number_text(false, 1))
    return table_line([f"**{cell}**" if cell else "" for cell in cells])


def _intervals(rows: Sequence[Row]) -> list[str]:
    """Say the mean Dice of the refined masks with its interval: of all scans, and of organs with several patients."""
    groups = {"scans with a tumor": list(rows)}
    for organ in _organs(rows):
        groups[f"{organ} scans"] = [row for row in rows if row["organ"] == organ]
    said = []
    for name, own in groups.items():
        patients = [str(row["patient"]) for row in own]
        if len(set(patients)) > 1 and (name == "scans with a tumor" or len(own) < len(rows)):
            estimate = bootstrap_mean([float(row["dice_refined"]) for row in own], patients)
            said.append(f"- Mean Dice of the {len(own)} {name}, {len(set(patients))} patients: {_told(estimate)}.")
    return said or ["- One patient: there is no interval."]


def _told(estimate: Estimate) -> str:
    ends = f"{number_text(estimate.low, 2)} to {number_text(estimate.high, 2)}"
    return f"{number_text(estimate.mean, 2)} (95 % interval by a bootstrap over patients: {ends})"


def _healthy(rows: Sequence[Row]) -> str:
    lines = [table_line(_HEALTHY_HEADS), "| --- | --- | ---: | ---: |"]
    for row in rows:
        score, false = number_text(float(row["anomaly_score"]), 2), number_text(float(row["false_positives"]), 0)
        lines.append(table_line((str(row["case"]), str(row["organ"]), score, false)))
    if len(rows) > 1:
        means = [
            bootstrap_mean([float(row[each]) for row in rows]).mean for each in ("anomaly_score", "false_positives")
        ]
        lines.append(table_line((f"**mean of the {len(rows)} healthy scans**", "", *(f"**{number_text(m, d)}**" for m, d in zip(means, (2, 1), strict=True)))))  # fmt: skip
    return "\n".join(lines)


def _parted(scan_auroc: ScanAuroc) -> str:
    ends = f" ({number_text(scan_auroc.low, 2)} to {number_text(scan_auroc.high, 2)})"
    if isnan(scan_auroc.low):
        ends = " (no interval: fewer than two patients of a kind)"
    counted = f"{scan_auroc.healthy} healthy, {scan_auroc.abnormal} abnormal"
    return f"- AUROC of the anomaly score over scans: {number_text(scan_auroc.value, 2)}{ends}; {counted}."


def _organs(rows: Sequence[Row]) -> list[str]:
    """Return the organs in the order of the protocol."""
    return list(dict.fromkeys(str(row["organ"]) for row in rows))
