"""The files of a comparison of two reports: JSON, Markdown, and one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from DiffuGTSLib.evaluation.charts import Gap, forest
from DiffuGTSLib.evaluation.comparison import number_of_tests
from DiffuGTSLib.evaluation.html_parts import (
    bullets,
    document,
    escaped,
    few_patients,
    number_text,
    p_text,
    range_text,
    signed_text,
    table,
)
from DiffuGTSLib.evaluation.html_report import FIGURES
from DiffuGTSLib.evaluation.report import Row, as_float, table_lines, write_json
from DiffuGTSLib.output.record import RESEARCH_USE
from DiffuGTSLib.storage import make_folder, whole_file

TITLE = "Comparison"
_HEADS = (
    "<Figure",
    "Cases",
    "Patients",
    "a",
    "b",
    "b − a",
    "95 %",
    "b − a, by patient",
    "95 %",
    "p",
    "p, Holm",
    "p, Wilcoxon",
    "<Meaning",
)


def write_comparison(rows: Sequence[Row], output: Path, names: tuple[str, str], unpaired: Sequence[str]) -> None:
    """Write `comparison.html`, `comparison.json` and `comparison.md` into a folder, made if absent.

    Args:
        rows: As `compare_reports` returns them.
        output: The folder.
        names: Of the two reports, the baseline first.
        unpaired: Cases that only one has.

    Raises:
        StorageError: If a file cannot be written.
    """
    make_folder(output)
    notes = [
        f"a: {names[0]}; b: {names[1]}; difference: b less a, 95 % percentile bootstrap interval over patients.",
        "patient_difference: the mean of one difference a patient, so that one with many scans counts once.",
        "p: two-sided permutation of the variants within patients, of that difference.",
        f"p_holm: adjusted for {number_of_tests(rows)} tests, one a figure.",
        *([f"In one report only, left out: {', '.join(unpaired)}."] if unpaired else []),
    ]
    comparison = {"title": TITLE, "figures": list(rows), "notes": notes}
    write_json(output / "comparison.json", comparison)
    with whole_file(output / "comparison.md") as path:
        text = [f"# {TITLE}", "", *table_lines(rows), "", *(f"- {note}" for note in notes)]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
    with whole_file(output / "comparison.html") as path:
        path.write_text(comparison_page(comparison, names), encoding="utf-8")


def comparison_page(comparison: Mapping[str, Any], names: tuple[str, str]) -> str:
    """Return the page.

    Args:
        comparison: The content of comparison.json.
        names: Of the two reports, the baseline first.
    """
    rows = comparison["figures"]
    few = few_patients(max(row["patients"] for row in rows))
    gaps = [
        Gap(_name(row), as_float(row["difference"]), as_float(row["low"]), as_float(row["high"]))
        for row in rows
        if row["figure"] in FIGURES and FIGURES[row["figure"]].of_one
    ]
    drawing = f'<div class="plots"><figure>{forest(gaps, "b less a")}</figure></div>' if gaps else ""
    parts = [
        f'<p class="muted">a: {escaped(names[0])}<br>b: {escaped(names[1])}</p>',
        f'<p class="research">{escaped(f"{RESEARCH_USE}{few}")}</p>',
        "<p>Right of 0: b has more. Of errors and false positives less is better.</p>",
        drawing, table(_HEADS, [_line(row) for row in rows]), bullets(comparison["notes"]),
    ]  # fmt: skip
    return document(comparison["title"], parts)


def _line(row: Mapping[str, Any]) -> str:
    low, high = as_float(row["low"]), as_float(row["high"])
    cells = (
        str(row["cases"]), str(row["patients"]), number_text(row["a"]), number_text(row["b"]),
        f"<b>{signed_text(row['difference'])}</b>", range_text(low, high, signed=True),
        f"<b>{signed_text(row['patient_difference'])}</b>",
        range_text(as_float(row["patient_low"]), as_float(row["patient_high"]), signed=True), p_text(row["p"]),
        p_text(row["p_holm"]), p_text(row["p_wilcoxon"]),
    )  # fmt: skip
    figure = FIGURES.get(row["figure"])
    meaning = f'<td class="text wide">{escaped(figure.meaning if figure else "")}</td>'
    return f'<tr><td class="text">{escaped(_name(row))}</td>{"".join(f"<td>{c}</td>" for c in cells)}{meaning}</tr>'


def _name(row: Mapping[str, Any]) -> str:
    figure = FIGURES.get(row["figure"])
    return figure.name if figure else str(row["figure"]).replace("_", " ")
