"""Boxes of voxels: the part of a grid that a mask reaches, so that the rest costs nothing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]
"""Of a grid (X, Y, Z)."""


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds a mask (X, Y, Z); of an empty one the first voxel, so that counts go on."""
    box = [slice(None)] * 3
    for axis in range(3):  # each within what those before have left: the first alone looks at the whole
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not filled.size:
            return slice(0, 1), slice(0, 1), slice(0, 1)
        box[axis] = slice(int(filled[0]), int(filled[-1]) + 1)
    return box[0], box[1], box[2]


def grown_box(box: Box, reach_voxels: Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box with a margin on both sides of each axis, cut where the grid ends."""
    x, y, z = (
        slice(max(0, part.start - reach), min(side, part.stop + reach))
        for part, reach, side in zip(box, reach_voxels, shape, strict=True)
    )
    return x, y, z
