"""Reports: means and intervals worked by hand, files that others can read, and what is refused."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError, StorageError
from DiffuGTSLib.evaluation.report import Row, bootstrap_mean, summarize, write_report


def some_rows() -> list[Row]:
    return [
        {"case": "A1", "patient": "A", "dice": 0.2, "false_positives": 1},
        {"case": "A2", "patient": "A", "dice": 0.4, "false_positives": 0},
        {"case": "B|1", "patient": "B", "dice": 0.9, "false_positives": 2},
        {"case": "healthy", "patient": "C", "dice": math.nan, "false_positives": np.int64(0)},
    ]


def test_the_mean_of_zero_and_one_is_a_half_anywhere_between_them() -> None:
    # Two cases: drawn means are 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4, so the 95 % interval is all of it.
    estimate = bootstrap_mean([0.0, 1.0])
    assert (estimate.mean, estimate.low, estimate.high, estimate.cases) == (0.5, 0.0, 1.0, 2)


def test_the_interval_of_many_cases_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    estimate = bootstrap_mean(list(values))
    half = 1.96 * values.std() / math.sqrt(400)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.05)
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.05)


def test_not_applicable_values_are_counted_and_left_out() -> None:
    estimate = bootstrap_mean([0.2, math.nan, 0.4, 0.9])
    assert estimate.mean == pytest.approx(0.5) and estimate.median == pytest.approx(0.4)
    assert (estimate.cases, estimate.not_applicable) == (3, 1)


def test_one_case_has_a_mean_but_no_interval_and_none_has_neither() -> None:
    one = bootstrap_mean([0.7])
    assert one.mean == 0.7 and math.isnan(one.low) and math.isnan(one.high)
    none = bootstrap_mean([math.nan])
    assert math.isnan(none.mean) and (none.cases, none.not_applicable) == (0, 1)


def test_scans_of_one_patient_are_drawn_together() -> None:
    # Patients A (0, 0) and B (1, 1): drawn together the mean is 0, 1/2 or 1; four single cases would be narrower.
    together = bootstrap_mean([0.0, 0.0, 1.0, 1.0] * 4, ["A", "A", "B", "B"] * 4)
    alone = bootstrap_mean([0.0, 0.0, 1.0, 1.0] * 4)
    assert (together.low, together.high) == (0.0, 1.0)
    assert 0.0 < alone.low < 0.5 < alone.high < 1.0
    assert math.isnan(bootstrap_mean([0.1, 0.2], ["A", "A"]).low)


def test_the_same_values_have_the_same_interval_every_time() -> None:
    values = [0.1, 0.35, 0.4, 0.77, 0.9]
    assert bootstrap_mean(values) == bootstrap_mean(values)


def test_every_column_of_numbers_is_summarized_and_text_is_not() -> None:
    estimates = summarize(some_rows(), "patient")
    assert list(estimates) == ["dice", "false_positives"]
    assert estimates["dice"].mean == pytest.approx(0.5)
    assert estimates["false_positives"].mean == pytest.approx(0.75)


def test_a_report_is_three_files_that_say_the_same(tmp_path: Path) -> None:
    estimates = write_report(
        some_rows(), tmp_path, title="Dice on phantoms", notes=["NSD at 2 mm."], group_by="patient"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "report.json", "report.md"]
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["dice"] for row in rows] == ["0.2", "0.4", "0.9", "n/a"]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["cases"][3] == {"case": "healthy", "patient": "C", "dice": None, "false_positives": 0}
    assert report["estimates"]["dice"]["mean"] == pytest.approx(estimates["dice"].mean)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| **mean** |  | **0.500** | **0.750** |" in text
    assert "| cases (n/a) |  | 3 (1) | 4 (0) |" in text
    assert "draws of patients, seed 0" in text and "- NSD at 2 mm." in text and "B\\|1" in text


def test_a_table_whose_first_column_is_a_number_keeps_it(tmp_path: Path) -> None:
    write_report([{"dice": 0.5}, {"dice": 0.7}], tmp_path, title="Two")
    assert "**0.600**" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_report_of_one_case_says_that_it_has_no_interval(tmp_path: Path) -> None:
    write_report(some_rows()[:1], tmp_path, title="One")
    assert "| 95 % CI |  | n/a | n/a |" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_report_into_a_missing_folder_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot write .*cases.csv"):
        write_report(some_rows(), tmp_path / "missing", title="Nowhere")


def test_no_cases_are_refused() -> None:
    with pytest.raises(InputError, match=r"no cases to report"):
        summarize([])


def test_rows_of_different_columns_are_refused() -> None:
    with pytest.raises(InputError, match=r"Case 2 has columns case; expected case, dice"):
        summarize([{"case": "A", "dice": 0.5}, {"case": "B"}])


def test_a_column_of_text_and_numbers_is_refused() -> None:
    with pytest.raises(InputError, match=r"'dice' mixes text and numbers: case 2 holds 'n/a'"):
        summarize([{"dice": 0.5}, {"dice": "n/a"}])


def test_an_unknown_column_to_group_by_is_refused() -> None:
    with pytest.raises(InputError, match=r"No column 'subject'"):
        summarize(some_rows(), "subject")


def test_groups_of_another_number_are_refused() -> None:
    with pytest.raises(InputError, match=r"2 values and 1 groups"):
        bootstrap_mean([0.1, 0.2], ["A"])


def test_an_infinite_value_is_refused() -> None:
    with pytest.raises(InputError, match=r"infinite value has no mean"):
        bootstrap_mean([0.1, math.inf])
