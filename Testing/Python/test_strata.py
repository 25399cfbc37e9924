"""Figures grouped by a table of metadata: sexes, decades, and what nobody knows."""

import math
from pathlib import Path

import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.strata import group_figures, read_table, stratum, unmatched

CASES = [
    {"case": "a", "organ": "liver", "dice": "0.2", "found": "0"},
    {"case": "b", "organ": "liver", "dice": "0.4", "found": "1"},
    {"case": "c", "organ": "lung", "dice": "n/a", "found": "1"},
    {"case": "d", "organ": "lung", "dice": "0.9", "found": "1"},
]
METADATA = [
    {"case": "a", "sex": "F", "age": "53", "mrn": "1"},
    {"case": "b", "sex": "M", "age": "059Y", "mrn": "2"},
    {"case": "c", "sex": "F", "age": "61.5", "mrn": "1"},
]


def test_each_group_has_its_mean_and_all_stand_first() -> None:
    rows = group_figures(CASES, METADATA, ["sex", "age"])
    shown = {(row["by"], row["group"], row["figure"]): (row["cases"], row["mean"]) for row in rows}
    assert rows[0]["by"] == "all"
    assert shown["all", "all", "dice"] == (3, pytest.approx(0.5))
    assert shown["all", "all", "found"] == (4, 0.75)
    assert shown["sex", "F", "found"] == (2, 0.5) and shown["sex", "F", "dice"] == (1, pytest.approx(0.2))
    assert shown["sex", "M", "dice"] == (1, pytest.approx(0.4))
    assert shown["sex", "unknown", "dice"] == (1, pytest.approx(0.9))
    assert shown["age", "50 to 59", "dice"] == (2, pytest.approx(0.3))
    assert shown["age", "60 to 69", "dice"][0] == 0
    assert not any(row["figure"] == "organ" for row in rows)


def test_cases_without_metadata_are_named() -> None:
    assert unmatched(CASES, METADATA) == ["d"]


def test_scans_of_one_patient_are_no_two_patients() -> None:
    alone = group_figures(CASES[:1] * 1 + CASES[2:3], METADATA, ["sex"], patient="mrn")
    assert all(math.isnan(float(row["low"])) for row in alone)  # one patient has no interval
    apart = group_figures(CASES[:1] + CASES[2:3], METADATA, ["sex"])
    assert any(not math.isnan(float(row["low"])) for row in apart)


def test_cases_of_which_nobody_knows_the_patient_are_patients_of_their_own() -> None:
    unknown = [{"case": name, "sex": "F", "mrn": ""} for name in ("a", "b", "d")]
    rows = group_figures([CASES[0], CASES[1], CASES[3]], unknown, ["sex"], patient="mrn")
    assert not any(math.isnan(float(row["low"])) for row in rows)


def test_the_numbers_of_patients_are_no_figure_and_tell_whose_the_scans_are() -> None:
    cases = [
        {"case": name, "patient": "007", "lesion": "1", "dice": dice} for name, dice in (("a", "0.2"), ("b", "0.4"))
    ]
    for patient in (None, "patient"):
        rows = group_figures(cases, METADATA, ["sex"], patient=patient)
        assert {row["figure"] for row in rows} == {"dice"}
        assert math.isnan(float(rows[0]["low"])), "two scans of one patient"
    named = group_figures(cases, METADATA, ["sex"], patient="mrn")
    assert not math.isnan(float(named[0]["low"])), "the metadata's patients go before the cases' own"


@pytest.mark.parametrize(
    ("value", "column", "group"),
    [
        ("0", "age", "0 to 9"), ("39.9", "patient_age", "30 to 39"), ("040Y", "Age_Years", "40 to 49"),
        ("old", "age", "unknown"), ("-1", "age", "unknown"), ("inf", "age", "unknown"), ("", "sex", "unknown"),
        ("n/a", "sex", "unknown"), ("F", "sex", "F"), ("53", "stage", "53"), ("053Y", "PatientAge", "50 to 59"),
        ("53", "AGE", "50 to 59"), ("53", "Patient's Age (years)", "50 to 59"), ("006M", "age", "0 to 9"),
        ("120M", "age", "10 to 19"), ("008W", "age", "0 to 9"), ("060D", "age", "0 to 9"), ("53", "StageImage", "53"),
        ("5Y6M", "age", "unknown"), ("F", "", "F"),
    ],
)  # fmt: skip
def test_a_value_has_its_group(value: str, column: str, group: str) -> None:
    assert stratum(value, column) == group


def test_a_table_is_read_as_spreadsheets_write_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffcase,sex\na, F \nb,\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv") == [{"case": "a", "sex": "F"}, {"case": "b", "sex": ""}]


def test_tables_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no.csv cannot be read"):
        read_table(tmp_path / "no.csv")
    (tmp_path / "t.csv").write_text("name,sex\na,F\n")
    with pytest.raises(InputError, match="no column 'case'; it has name, sex"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("case\na\na\n")
    with pytest.raises(InputError, match="names 'a' twice"):
        read_table(tmp_path / "t.csv")


def test_groups_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(InputError, match="no cases to group"):
        group_figures([], METADATA, ["sex"])
    with pytest.raises(InputError, match="no column 'sx'") as caught:
        group_figures(CASES, METADATA, ["sx"])
    assert caught.value.hint == "did you mean 'sex'?"
    with pytest.raises(InputError, match="metadata have no rows"):
        group_figures(CASES, [], ["sex"])
    with pytest.raises(InputError, match="name none of the 4 cases: expected 'a', got 'A'") as caught:
        group_figures(CASES, [{"case": "A", "sex": "F"}], ["sex"])
    assert "capital letters" in caught.value.hint
    with pytest.raises(InputError, match="no column of numbers") as caught:
        group_figures([{"case": "a", "organ": "liver", "dice": "0,5"}], METADATA, ["sex"])
    assert caught.value.hint == "decimals have a point, as in 0.5."
