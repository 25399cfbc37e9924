"""Tables of an ablation: means, and differences paired over patients."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from ablated_cases import ABOUT, figures, some_cases

from DiffuGTSLib.config import load_config
from DiffuGTSLib.evaluation.ablation_report import by_organ, case_rows, summarize_study, write_ablation
from DiffuGTSLib.evaluation.ablation_variants import COARSE, ELLIPSOID, FULL, AblationOptions, variants

NAMES = (FULL, ELLIPSOID, COARSE)


def test_a_variant_is_compared_with_the_whole_method_on_the_same_scans() -> None:
    whole, ellipsoid, coarse = summarize_study(some_cases(), "parts", NAMES)
    assert whole["dice"] == pytest.approx(0.6) and math.isnan(float(whole["difference"]))
    assert (ellipsoid["difference"], coarse["difference"]) == (pytest.approx(-0.1), pytest.approx(-0.2))
    assert ellipsoid["difference_low"] == pytest.approx(-0.1), "the same in every patient"
    assert ellipsoid["p"] == 0.25 and ellipsoid["p_holm"] == 0.5  # 2 of 8 patterns of signs; two variants
    assert (whole["scans"], whole["patients"]) == (3, 3), "a healthy scan has no overlap"


def test_false_positives_are_told_of_all_and_of_healthy_scans() -> None:
    whole, ellipsoid, _ = summarize_study(some_cases(), "parts", NAMES)
    assert whole["false_positives"] == 0.5 and whole["false_positives_healthy"] == 2.0
    assert ellipsoid["false_positives"] == 1.25


def test_organs_are_told_apart() -> None:
    rows = by_organ(some_cases(), "parts", NAMES)
    assert [(row["organ"], row["scans"]) for row in rows] == [("brain", 1), ("liver", 2)]
    assert rows[0][FULL] == pytest.approx(0.7) and rows[1][ELLIPSOID] == pytest.approx(0.45)


def test_an_ablation_is_five_files_that_say_the_same(tmp_path: Path) -> None:
    config, options = load_config("mini"), AblationOptions(studies=("parts",))
    names = tuple(variants("parts", options, config))
    write_ablation(some_cases(names), tmp_path, config, options, ABOUT, ["A note."])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cases.csv", "config.json", "report.html", "report.json", "report.md", "variants.csv",
    ]  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    with (tmp_path / "variants.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variant"] for row in table] == [row["variant"] for row in report["studies"]["parts"]] == list(names)
    assert float(table[1]["difference"]) == report["studies"]["parts"][1]["difference"]
    assert len(report["cases"]) == 4 * len(names) and report["cases"][0]["cut"] == 0.25
    text = (tmp_path / "report.md").read_text()
    assert "- A note." in text and "Mean Dice by organ:" in text


def test_every_case_row_has_the_same_columns() -> None:
    cases = some_cases()
    without = {key: {name: v for name, v in row.items() if name != "cut"} for key, row in cases[0].figures.items()}
    rows = case_rows([replace(cases[0], figures=without), cases[1]])
    assert len({tuple(sorted(row)) for row in rows}) == 1
    assert math.isnan(figures(math.nan)["lesion_sensitivity"])
