"""The page of an ablation: whole, escaped, and without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ablated_cases import ABOUT, some_cases
from test_html_report import Reader

from DiffuGTSLib.config import load_config
from DiffuGTSLib.evaluation.ablation_page import ablation_page
from DiffuGTSLib.evaluation.ablation_report import write_ablation
from DiffuGTSLib.evaluation.ablation_variants import AblationOptions, variants


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config, options = (
        tmp_path_factory.mktemp("ablation"),
        load_config("mini"),
        AblationOptions(studies=("parts",)),
    )
    write_ablation(some_cases(tuple(variants("parts", options, config))), folder, config, options, ABOUT, ["A note."])
    return folder


def test_the_page_is_whole_and_reaches_out_to_nothing(a_folder: Path) -> None:
    page = (a_folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.open == [] and reader.reaches == []
    assert not re.search(r"https?://|@import|url\(", page)
    assert not re.search(r"[>\" ]-?(nan|None)\b", page[page.index("<body>") : page.index("<script>")])


def test_it_tells_every_variant_and_escapes_what_comes_from_data(a_folder: Path) -> None:
    page = (a_folder / "report.html").read_text(encoding="utf-8")
    for said in ("without feature residual", "−0.100", "2 FP", "A note.", "b" * 64, "too narrow", "&lt;well&gt;"):
        assert said in page, said
    assert "<well>" not in page
    assert "diffugts ablate --protocol &#x27;my protocol.json&#x27; --data SCANS" in page


def test_the_page_comes_from_the_report_alone(a_folder: Path) -> None:
    report = json.loads((a_folder / "report.json").read_text())
    assert ablation_page(report) == (a_folder / "report.html").read_text(encoding="utf-8")
    assert "mean nothing" in ablation_page({**report, "about": {**report["about"], "trained": False}})
