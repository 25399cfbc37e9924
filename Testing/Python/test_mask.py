"""The one door through which an array becomes a mask."""

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.mask import as_mask


@pytest.mark.parametrize("kind", ["?", "u1", "i2", "i8", "f4", ">i2"])
def test_0_and_1_of_any_type_are_a_mask(kind: str) -> None:
    mask = as_mask(np.array([[0, 1], [1, 0]]).astype(kind))
    assert mask.dtype == bool and mask.tolist() == [[False, True], [True, False]]


def test_a_boolean_mask_is_not_copied() -> None:
    mask = np.ones((2, 2, 2), dtype=bool)
    assert as_mask(mask) is mask


@pytest.mark.parametrize("strange", [2.0, 0.5, -1.0, 255.0, np.nan])
def test_anything_else_is_no_mask_and_named(strange: float) -> None:
    with pytest.raises(InputError, match=f"The reference is not a mask: expected 0 and 1, got {strange}") as caught:
        as_mask(np.array([0.0, 1.0, strange]), "reference")
    assert caught.value.code == "not_a_mask" and "choose a threshold or a label" in caught.value.hint
