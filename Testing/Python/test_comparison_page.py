"""The files of a comparison: three that say the same, the page whole and escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

from test_html_report import Reader

from DiffuGTSLib.evaluation.comparison import compare_reports, left_out
from DiffuGTSLib.evaluation.comparison_page import write_comparison
from DiffuGTSLib.evaluation.report import write_report


def a_report(folder: Path, gain: float = 0.0, names: str = "abcdefgh") -> Path:
    folder.mkdir()
    rows = [
        {"case": name, "patient": f"patient {name}", "dice_refined": 0.05 * n + gain, "own_figure": 1}
        for n, name in enumerate(names)
    ]
    write_report(rows, folder, title="A report", group_by="patient")
    return folder


def test_a_comparison_is_three_files_that_say_the_same(tmp_path: Path) -> None:
    a, b = a_report(tmp_path / "a"), a_report(tmp_path / "b", 0.1, "abcdx")
    write_comparison(compare_reports(a, b), tmp_path / "new", ("<a>", "b"), left_out(a, b))
    figures = json.loads((tmp_path / "new" / "comparison.json").read_text())["figures"]
    assert figures[0]["cases"] == 4
    text = (tmp_path / "new" / "comparison.md").read_text()
    assert "| dice_refined |" in text and "left out: e, f, g, h, x." in text
    assert "p_holm: adjusted for 2 tests, one a figure." in text
    page = (tmp_path / "new" / "comparison.html").read_text(encoding="utf-8")
    for said in ("Dice, refined mask", "+0.100", "own figure", "&lt;a&gt;", "left out: e, f, g, h, x.", "too narrow"):
        assert said in page, said
    reader = Reader(page)
    assert reader.open == [] and reader.reaches == [] and not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"[>\" ]-?(nan|None)\b", page[page.index("<body>") : page.index("<script>")])


def test_figures_without_a_scale_of_one_are_not_drawn(tmp_path: Path) -> None:
    a, b = a_report(tmp_path / "a"), a_report(tmp_path / "b", 0.1)
    write_comparison(compare_reports(a, b, ["own_figure"]), tmp_path / "new", ("a", "b"), [])
    assert "<svg" not in (tmp_path / "new" / "comparison.html").read_text(encoding="utf-8")
