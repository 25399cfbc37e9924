"""The page of an ablation: for each study what its variants lose or win, on the mean, by organ and scan by scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from DiffuGTSLib.evaluation.charts import Gap, forest
from DiffuGTSLib.evaluation.html_parts import (
    UNTRAINED,
    bullets,
    document,
    escaped,
    few_patients,
    made_of,
    number_text,
    p_text,
    range_text,
    repeated,
    signed_text,
    table,
)
from DiffuGTSLib.evaluation.report import as_float
from DiffuGTSLib.output.record import RESEARCH_USE

TITLES = {
    "parts": "Parts", "prompts": "Prompts", "steps": "Denoising steps", "seeds": "Seeds",
}  # fmt: skip
SAID = {
    "parts": "What is lost where a part is left out, and what each can do alone. Left of 0: the part earns its place.",
    "prompts": "The candidates of other sentences, before anything is repainted. Left of 0: the words matter.",
    "steps": "The same candidates, repainted in fewer or more steps.",
    "seeds": "The same candidates, repainted with other noise: how much of a difference is chance.",
}
_HEADS = (
    "<Variant", "Dice", "95 %", "Difference", "95 %", "p", "p, Holm", "Lesions found", "False pos. a scan",
    "Of healthy scans", "Voxel AUROC", "Cut at", "Scans",
)  # fmt: skip


def ablation_page(report: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        report: The content of report.json, as `write_ablation` makes it.
    """
    about = report["about"]
    version, untrained = about["versions"]["diffugts"], "" if about["trained"] else UNTRAINED
    scans = {row["case"]: row["patient"] for row in report["cases"]}
    patients = len(set(scans.values()))
    made = f"{len(scans)} scans of {patients} patients · DiffuGTS {version} · {about['created']}"
    parts = [
        f'<p class="muted">{escaped(made)}</p>',
        f'<p class="research">{escaped(f"{RESEARCH_USE} {untrained}{few_patients(patients)}")}</p>',
    ]
    for study, rows in report["studies"].items():
        own = [row for row in report["cases"] if row["study"] == study]
        parts += [
            f"<h2>{TITLES[study]}</h2>", f"<p>{SAID[study]}</p>", _drawing(rows), _variants(rows),
            _organs(report["by_organ"][study]), _cases(own),
        ]  # fmt: skip
    return document(report["title"], [*parts, "<h2>How it was measured</h2>", _method(report)])


def _drawing(rows: Sequence[Mapping[str, Any]]) -> str:
    gaps = [
        Gap(row["variant"], *(as_float(row[key]) for key in ("difference", "difference_low", "difference_high")))
        for row in rows[1:]
    ]  # fmt: skip
    label = f"Dice, less “{rows[0]['variant']}”"
    return f'<div class="plots"><figure>{forest(gaps, label)}</figure></div>' if gaps else ""


def _variants(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            number_text(row["dice"]), range_text(as_float(row["low"]), as_float(row["high"])),
            f"<b>{signed_text(row['difference'])}</b>",
            range_text(as_float(row["difference_low"]), as_float(row["difference_high"]), signed=True),
            p_text(row["p"]), p_text(row["p_holm"]), number_text(row["lesion_sensitivity"]),
            number_text(row["false_positives"], 1), number_text(row["false_positives_healthy"], 1),
            number_text(row["voxel_auroc"]), number_text(row["cut"], 2), str(row["scans"]),
        )
        for row in rows
    ]  # fmt: skip
    return table(_HEADS, [_line(row["variant"], each) for row, each in zip(rows, cells, strict=True)])


def _organs(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = [name for name in rows[0] if name not in ("organ", "scans")]
    lines = [_line(name, [number_text(row[name]) for row in rows]) for name in names]
    heads = ("<Mean Dice", *(escaped(f"{row['organ']} ({row['scans']})") for row in rows))
    return f"<h3>By organ</h3>{table(heads, lines)}"


def _cases(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Dice of every scan; of a healthy one the false positives."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    scans: dict[str, list[str]] = {}
    for row in rows:
        healthy = f"{number_text(row['false_positives'], 0)} FP"
        scans.setdefault(row["case"], []).append(healthy if row["kind"] == "healthy" else number_text(row["dice"]))
    lines = [_line(name, values) for name, values in scans.items()]
    inside = table(("<Dice", *(escaped(name) for name in names)), lines)
    return f"<details><summary>Every scan</summary>{inside}</details>"


def _method(report: Mapping[str, Any]) -> str:
    about = report["about"]
    cases = {"Protocol": f"{about['protocol']}, SHA-256 {about['protocol_sha256']}, split {about['split']}"}
    return f"{made_of(about, cases)}{bullets(report['notes'])}{repeated('ablate', about)}"


def _line(name: str, values: Sequence[str]) -> str:
    return f'<tr><td class="text">{escaped(name)}</td>{"".join(f"<td>{value}</td>" for value in values)}</tr>'
