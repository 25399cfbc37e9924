"""Boxes of voxels: the part of a grid that a mask reaches, so that the rest costs nothing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice, slice]
"""Of a grid (X, Y, Z)."""


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds a mask (X, Y, Z); of an empty one the first voxel, so that counts go on."""
    found = ndimage.find_objects(mask.view(np.uint8))
    x, y, z = found[0] if found else (slice(0, 1),) * 3
    return x, y, z


def grown_box(box: Box, reach_voxels: Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box with a margin on both sides of each axis, cut where the grid ends."""
    x, y, z = (
        slice(max(0, part.start - reach), min(side, part.stop + reach))
        for part, reach, side in zip(box, reach_voxels, shape, strict=True)
    )
    return x, y, z
