"""Shares and their intervals, against published and hand-worked numbers."""

import math

import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.intervals import wilson


def test_the_interval_of_81_in_263_is_the_published_one() -> None:
    """Newcombe, Statistics in Medicine 17, 1998, table I, method 3."""
    for count, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        proportion = wilson(count, total)
        assert (proportion.low, proportion.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_one_of_two_is_worked_by_hand() -> None:
    z2 = 1.959963984540054**2
    half = math.sqrt(z2) / (1 + z2 / 2) * math.sqrt(0.25 / 2 + z2 / 16)
    proportion = wilson(1, 2)
    assert proportion.share == 0.5
    assert (proportion.low, proportion.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


@pytest.mark.parametrize("total", [1, 3, 50])
def test_none_and_all_have_an_interval_that_ends_at_the_edge(total: int) -> None:
    none, every = wilson(0, total), wilson(total, total)
    assert none.low == 0.0 < none.high < 1
    assert every.high == 1.0 > every.low > 0
    assert none.high == pytest.approx(1 - every.low)


def test_more_cases_make_it_narrower() -> None:
    many, few = wilson(90, 100), wilson(9, 10)
    assert many.high - many.low < few.high - few.low


def test_none_of_none_is_not_applicable() -> None:
    nothing = wilson(0, 0)
    assert all(math.isnan(value) for value in (nothing.share, nothing.low, nothing.high))
    assert str(nothing) == "n/a (0 of 0)"


def test_a_proportion_says_itself() -> None:
    assert str(wilson(15, 148)) == "0.101 (0.062 to 0.160; 15 of 148)"


@pytest.mark.parametrize(("count", "total"), [(-1, 3), (4, 3), (0, -1)])
def test_counts_that_cannot_be_are_refused(count: int, total: int) -> None:
    with pytest.raises(InputError, match=f"Expected a count of 0 to {total}, got {count}"):
        wilson(count, total)
