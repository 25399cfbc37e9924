"""Lists of numbers on the command line: read in one place, and refused by the option's name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from DiffuGTSLib.cli.options import numbers, whole_numbers
from DiffuGTSLib.errors import InputError


def test_numbers_are_parted_by_commas() -> None:
    assert numbers("5,10.5, 1e1", "--edges") == (5.0, 10.5, 10.0)
    assert whole_numbers("-3,2, 30", "--levels") == (-3, 2, 30)


@pytest.mark.parametrize("text", ["", "5,", "5;6", "five", "nan", "1,inf", "-inf"])
@pytest.mark.parametrize("read", [numbers, whole_numbers])
def test_what_is_no_finite_number_is_refused(read: Callable[[str, str], object], text: str) -> None:
    with pytest.raises(InputError, match=f"--edges: expected comma-separated numbers, got '{text}'") as caught:
        read(text, "--edges")
    assert caught.value.code == "numbers"


def test_a_part_of_one_is_no_whole_number() -> None:
    with pytest.raises(InputError, match="--tumor-values: expected comma-separated whole numbers, got '1,1.7'"):
        whole_numbers("1,1.7", "--tumor-values")
