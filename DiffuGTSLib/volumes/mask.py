"""The one door through which an array becomes a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError


def as_mask(array: NDArray[Any], name: str = "array") -> NDArray[np.bool_]:
    """Return a mask of 0 and 1, of whatever type of numbers, as booleans; a boolean one is returned as it is.

    As whole numbers a mask is a list of places to numpy where it stands in brackets, and its inverse is 254 and 255.

    Args:
        array: The mask, as `read_mask` and `segment` return it or as a comparison does.
        name: What it is called in the error.

    Raises:
        InputError: If a value is neither 0 nor 1: thresholding is the caller's choice (code "not_a_mask").
    """
    mask = array.astype(bool, copy=False)
    if array.dtype != bool and not np.array_equal(array, mask):
        strange = array[array != mask].flat[0]
        raise InputError(
            f"The {name} is not a mask: expected 0 and 1, got {strange}.",
            hint="choose a threshold or a label first.",
            code="not_a_mask",
        )
    return mask
