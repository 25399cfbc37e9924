"""The chance test: identical kinds are not told apart, different ones are, and no patient helps (row 30)."""

from collections.abc import Mapping

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.similarity import _cross_validated, chance_test


def some_tumors(
    seed: int, shift: float = 0.0, count: int = 60, kinds: tuple[str, ...] = ("liver", "pancreas", "kidney")
) -> tuple[list[Mapping[str, float]], list[str], list[str]]:
    """Tumors of three kinds with eight features; those of the first kind are shifted in one."""
    rng = np.random.default_rng(seed)
    names = [kinds[number % len(kinds)] for number in range(count)]
    table = rng.normal(size=(count, 8))
    table[np.array(names) == kinds[0], 0] += shift
    rows = [{f"f{column}": float(value) for column, value in enumerate(row)} for row in table]
    return rows, names, [f"patient {number}" for number in range(count)]


def test_identical_distributions_are_not_told_apart() -> None:
    """Over 20 studies, 5 % may look significant by chance: at most 4 of 20 in all but 1 in 100 such sets."""
    tests = [chance_test(*some_tumors(seed), np.random.default_rng(seed), permutations=39) for seed in range(20)]
    assert sum(test.p_value <= 0.05 for test in tests) <= 4
    accuracy = np.mean([test.accuracy.share for test in tests])
    assert accuracy == pytest.approx(1 / 3, abs=0.06)
    assert sum(test.accuracy.low <= 1 / 3 <= test.accuracy.high for test in tests) >= 16
    assert np.mean([test.chance for test in tests]) == pytest.approx(1 / 3, abs=0.03)


def test_a_shifted_kind_is_told_from_the_others() -> None:
    test = chance_test(*some_tumors(0, shift=6.0), np.random.default_rng(0), permutations=99)
    assert test.told_apart and test.p_value == pytest.approx(0.01)
    figures = {figure.name: figure for figure in test.kinds}
    assert figures["liver"].recall.share > 0.95 and figures["liver"].precision.share > 0.95
    assert figures["kidney"].recall.share < 0.85
    assert test.accuracy.count == sum(figure.recall.count for figure in test.kinds)


def test_a_patient_that_gives_itself_away_does_not_help() -> None:
    """Ten tumors of each of eight patients share a feature that names the patient; the kinds are drawn at random."""
    rng = np.random.default_rng(1)
    patients = [f"p{number // 10}" for number in range(80)]
    mark = rng.normal(size=(8, 3))[[int(name[1:]) for name in patients]]
    rows = [{"a": float(a), "b": float(b), "c": float(c)} for a, b, c in mark]
    kinds = [("x", "y")[int(name[1:]) % 2] for name in patients]
    test = chance_test(rows, kinds, patients, np.random.default_rng(2), permutations=39)
    assert test.p_value > 0.05 and test.accuracy.share < 0.5 and test.chance < 0.6


def test_real_and_painted_tumors_of_one_patient_are_compared_within_it() -> None:
    rng = np.random.default_rng(3)
    rows, kinds, patients = [], [], []
    for patient in range(12):
        level = rng.normal() * 5
        for kind in ("real", "painted", "painted"):
            rows.append({"a": level + (0.0 if kind == "real" else 2.0) + 0.1 * rng.normal(), "b": level})
            kinds.append(kind)
            patients.append(f"p{patient}")
    assert chance_test(rows, kinds, patients, np.random.default_rng(4), permutations=99).told_apart


def test_one_patient_with_both_kinds_does_not_hide_that_they_differ() -> None:
    """Fifteen patients of each kind, told apart perfectly, and one with a tumor of each."""
    rng = np.random.default_rng(0)
    kinds = ["real"] * 15 + ["painted"] * 15 + ["real", "painted"]
    features = [{"shape": rng.normal(3.0 * (kind == "real"), 0.2), "texture": rng.normal()} for kind in kinds]
    patients = [f"p{number}" for number in range(30)] + ["both", "both"]
    test = chance_test(features, kinds, patients, np.random.default_rng(1), permutations=99)
    assert test.accuracy.share > 0.95 and test.chance < 0.65 and test.told_apart


def test_the_same_generator_gives_the_same_answer() -> None:
    one, two = (chance_test(*some_tumors(5), np.random.default_rng(7), permutations=5) for _ in range(2))
    assert one == two


def test_a_case_that_is_held_out_does_not_set_the_scale_for_the_others() -> None:
    """One feature tells the kinds; in the part that is told, one case has a vast value of it."""
    rng = np.random.default_rng(0)
    labels, parts = np.arange(80) % 2, np.arange(80) // 40
    table = np.stack([labels + 0.01 * rng.normal(size=80), rng.normal(size=80)], axis=1)
    table[0, 0] = -1e6
    told = _cross_validated(table, labels, parts, 2)
    assert np.array_equal(told[:40], labels[:40])


def test_what_cannot_be_compared_is_refused() -> None:
    rows, kinds, patients = some_tumors(0, count=6)
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="6 tumors, 5 kinds, 6 patients"):
        chance_test(rows, kinds[:5], patients, rng)
    with pytest.raises(InputError, match="two kinds and two patients, got 1 and 6") as caught:
        chance_test(rows, ["a"] * 6, patients, rng)
    assert caught.value.code == "groups"
    with pytest.raises(InputError, match="same features"):
        chance_test([*rows[:5], {"other": 1.0}], kinds, patients, rng)
    with pytest.raises(InputError, match="'f0' is not finite"):
        chance_test([*rows[:5], {**rows[5], "f0": float("nan")}], kinds, patients, rng)
