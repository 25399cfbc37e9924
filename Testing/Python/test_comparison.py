"""Paired comparison: tests written out by hand, reports that pair, and reports that do not."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_cases import a_case, a_phantom, a_result

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.baselines import ThresholdRule
from DiffuGTSLib.evaluation.case_scores import score_case
from DiffuGTSLib.evaluation.comparison import (
    compare,
    compare_reports,
    holm,
    left_out,
    number_of_tests,
    patient_means,
    permutation_test,
)
from DiffuGTSLib.evaluation.protocol_cases import read_as
from DiffuGTSLib.evaluation.report import write_report


def textbook_signed_ranks(differences: np.ndarray) -> float:
    """Wilcoxon's exact two-sided p without ties and zeros: every pattern of signs, ranks of absolute values."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = ranks[differences > 0].sum()
    middle = ranks.sum() / 2
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    return float(np.mean([abs(total - middle) >= abs(seen - middle) for total in sums]))


def test_wilcoxon_is_that_of_every_pattern_of_signs() -> None:
    gaps = np.random.default_rng(0).normal(0.3, 1.0, 9)
    result = compare(np.zeros(9).tolist(), gaps.tolist(), [f"p{n}" for n in range(9)])
    assert result.wilcoxon_p == pytest.approx(textbook_signed_ranks(gaps))
    assert result.difference.mean == pytest.approx(gaps.mean()) and result.b == pytest.approx(gaps.mean())


def test_four_patients_that_all_gain_have_a_p_of_one_eighth() -> None:
    # Of 16 patterns of signs only all plus and all minus are as far out.
    assert permutation_test(np.array([0.1, 0.2, 0.3, 0.4]), np.random.default_rng(0)) == 2 / 16
    nothing = np.array([0.1, 0.1, 0.1, -0.3])
    assert 0 < abs(nothing.sum()) < 1e-15, "0 but for rounding"
    assert permutation_test(nothing, np.random.default_rng(0)) == 1


def test_many_random_patterns_agree_with_all_of_them() -> None:
    gaps = np.random.default_rng(2).normal(0.35, 1.0, 14)
    every = [abs(np.dot(signs, gaps)) for signs in itertools.product((1, -1), repeat=14)]
    exact = np.mean(np.array(every) >= abs(gaps.sum()) - 1e-12)
    assert permutation_test(gaps, np.random.default_rng(0)) == pytest.approx(exact, abs=0.02)


def test_p_values_of_pure_luck_are_uniform() -> None:
    rng = np.random.default_rng(4)
    values = [permutation_test(rng.normal(size=10), rng) for _ in range(300)]
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=0.035)


def test_scans_of_one_patient_are_one_pair() -> None:
    assert patient_means(np.array([1.0, 3.0, 5.0]), ["b", "b", "a"]).tolist() == [5.0, 2.0]
    alone = compare([0.0] * 8, [1.0] * 8, ["same"] * 8)
    assert alone.patients == 1 and alone.permutation_p == 1.0, "eight scans of one patient prove nothing"
    assert math.isnan(alone.difference.low)


def test_the_difference_by_patient_is_the_one_that_p_is_about() -> None:
    """A patient with seven scans gains, two with one scan each lose: seven ninths by case, a third the other way by patient."""
    result = compare([0.0] * 9, [1.0] * 7 + [-1.0] * 2, ["a"] * 7 + ["b", "c"])
    assert result.difference.mean == pytest.approx(5 / 9) and result.by_patient.mean == pytest.approx(-1 / 3)
    assert result.by_patient.cases == result.patients == 3 and result.permutation_p == 1.0


def test_cases_that_one_variant_lacks_are_left_out() -> None:
    result = compare([0.5, math.nan, 0.1], [0.7, 0.9, math.nan], ["a", "b", "c"])
    assert (result.a, result.b, result.patients) == (0.5, 0.7, 1)
    nothing = compare([math.nan], [0.5], ["a"])
    assert math.isnan(nothing.permutation_p) and math.isnan(nothing.wilcoxon_p) and math.isnan(nothing.a)


def test_equal_variants_do_not_differ() -> None:
    same = compare([0.2, 0.4, 0.9], [0.2, 0.4, 0.9], ["a", "b", "c"])
    assert (same.difference.mean, same.permutation_p, same.wilcoxon_p) == (0.0, 1.0, 1.0)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([math.nan, 0.6, 0.5])[1:] == pytest.approx([1.0, 1.0])


# Reports


def a_report(folder: Path, gain: float = 0.0, names: str = "abcdefgh") -> Path:
    folder.mkdir()
    rows = [
        {"case": name, "patient": f"patient {name}", "dice": 0.05 * n + gain, "seconds": 3.0, "n": math.nan}
        for n, name in enumerate(names)
    ]
    write_report(rows, folder, title="A report", group_by="patient")
    return folder


def test_two_reports_are_compared_case_by_case(tmp_path: Path) -> None:
    a, b = a_report(tmp_path / "a"), a_report(tmp_path / "b", 0.1, "hgfedcba")
    rows = {row["figure"]: row for row in compare_reports(a, b, ["dice"])}
    assert rows["dice"]["cases"] == 8 and rows["dice"]["difference"] == pytest.approx(0.1)
    assert list(rows) == ["dice"] and rows["dice"]["patient_difference"] == pytest.approx(0.1)
    everything = compare_reports(a, b)
    assert [row["figure"] for row in everything] == ["dice", "n"], "seconds say nothing about a method"


def test_a_gain_on_every_patient_is_seen(tmp_path: Path) -> None:
    row = compare_reports(a_report(tmp_path / "a"), a_report(tmp_path / "b", 0.1), ["dice"])[0]
    assert row["p"] == 2 / 2**8 and row["p_holm"] == row["p"] and row["low"] == pytest.approx(0.1)


def test_what_describes_the_data_is_no_test(tmp_path: Path) -> None:
    """As `evaluate` names its columns: the p of the others is not raised for them."""
    row = score_case(a_case(), a_phantom().scan, a_phantom().lesion, a_result(a_phantom()), ThresholdRule()).row
    for folder in "ab":
        (tmp_path / folder).mkdir()
        cases = [{**row, "case": f"case {n}", "patient": f"patient {n}"} for n in range(5)]
        write_report(cases, tmp_path / folder, title="A report", group_by="patient")
    rows = compare_reports(tmp_path / "a", tmp_path / "b")
    compared = {str(row["figure"]) for row in rows}
    data = {"lesions", "reference_ml", "dice_ellipsoid", "dice_threshold", "volume_ml", "seconds"}
    assert data <= set(row) and not data & compared and {"dice_refined", "false_positives"} <= compared
    assert number_of_tests(rows) == sum(not math.isnan(float(row["p"])) for row in rows) < len(rows), (
        "no test without values"
    )
    (named,) = compare_reports(tmp_path / "a", tmp_path / "b", ["volume_ml"])
    assert named["figure"] == "volume_ml", "by name it is compared"


def test_reports_without_a_common_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no case in common"):
        compare_reports(a_report(tmp_path / "a"), a_report(tmp_path / "b", names="xyz"))


def test_a_case_that_is_another_scan_is_refused(tmp_path: Path) -> None:
    folders = [a_report(tmp_path / name) for name in "ab"]
    for folder in folders:
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | {"scans": {"a": folder.name}}))
    with pytest.raises(InputError, match="Case 'a' is another scan") as caught:
        compare_reports(*folders)
    assert caught.value.code == "other_scan"


@pytest.mark.parametrize(
    ("key", "value"), [("reference_ml", 55.0), ("lesions", 2), ("organ", "spleen"), ("kind", "healthy")]
)
def test_a_case_with_another_reference_is_refused(tmp_path: Path, key: str, value: str | float) -> None:
    """As two protocols give it that name other values of one label map tumor; the rows alone tell it."""
    row = {"case": "a", "organ": "liver", "kind": "tumor", "lesions": 1, "reference_ml": 10.0, "dice_refined": 0.5}
    for folder, changes in (("a", {}), ("b", {key: value}), ("c", {"reference_ml": 10.0 + 1e-9})):
        (tmp_path / folder).mkdir()
        write_report([row | changes], tmp_path / folder, title="A report")
    with pytest.raises(InputError, match=f"has another {key} in the second report: {value}") as caught:
        compare_reports(tmp_path / "a", tmp_path / "b")
    assert caught.value.code == "other_scan"
    assert compare_reports(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("changes", [{"framed_on_tumor": True}, {"offset_hu": -1024.0}])
def test_a_case_that_was_read_in_another_way_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folders = [a_report(tmp_path / name) for name in "ab"]
    for folder, case in zip(folders, (a_case("a"), replace(a_case("a"), **changes)), strict=True):
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | {"read_as": {"a": read_as(case)}}))
    ((key, value),) = changes.items()
    with pytest.raises(InputError, match=f"has another {key} in the second report: {value}"):
        compare_reports(*folders)


def test_cases_of_one_report_only_are_named(tmp_path: Path) -> None:
    assert left_out(a_report(tmp_path / "a"), a_report(tmp_path / "b", 0.1, "abcdx")) == list("efghx")


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No figure 'dicee'") as caught:
        compare_reports(a_report(tmp_path / "a"), a_report(tmp_path / "b"), ["dicee"])
    assert "dice" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "{}", '{"cases": []}', '{"cases": [{"case": "a"}, {"case": "a"}]}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError) as caught:
        compare_reports(tmp_path, tmp_path)
    assert caught.value.code == "report"
    with pytest.raises(InputError, match="nowhere/report.json does not exist") as caught:
        left_out(tmp_path / "nowhere", tmp_path)
    assert (caught.value.code, caught.value.hint) == ("report", "name a folder that diffugts evaluate wrote.")


def test_values_without_a_partner_are_refused() -> None:
    with pytest.raises(InputError, match="got 2, 1 and 2 values"):
        compare([0.1, 0.2], [0.1], ["a", "b"])
