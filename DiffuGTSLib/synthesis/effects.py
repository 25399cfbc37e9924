"""What a tumor does to its surroundings: it pushes them outwards, and may wear a bright capsule.

SyntheticTumors describes both for its visual Turing test; the formula of the mass effect was not available to us.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MASS_REACH = 1.3
"""Nothing beyond this many local radii is displaced (SyntheticTumors)."""


def mass_effect(
    image: NDArray[np.float32], distance: NDArray[np.float32], center_voxel: NDArray[np.float64], push: float
) -> NDArray[np.float32]:
    """Return the box with the tissue between 1 and 1.3 local radii pushed outwards.

    Paper silent; we chose the local scaling warp whose push falls with the square of the way to the reach. At distance
    d (in local radii) the result shows what was at d - push · ((1.3 - d) / 0.3)², on the same ray from the center:
    tissue from within the tumor's outline is squeezed into the ring, nothing is torn, and beyond 1.3 nothing moves.

    Args:
        image: Native units (X, Y, Z).
        distance: Of `shapes.distance_to_center`, same shape.
        center_voxel: The tumor's center in the box.
        push: How far the border is pushed, in local radii, 0 to 1.
    """
    moved = (distance < MASS_REACH) & (distance > 1 - 0.3)
    if push <= 0 or not moved.any():
        return image
    where = np.argwhere(moved)
    d = distance[moved].astype(np.float64)
    # Further in than the border the paint covers all: the push only has to go on without a step.
    source = np.maximum(d - push * np.minimum((MASS_REACH - d) / (MASS_REACH - 1), 2.0) ** 2, 0.0)
    position = center_voxel + (where - center_voxel) * (source / np.maximum(d, 1e-6))[:, None]
    result = image.copy()
    result[moved] = ndimage.map_coordinates(image, position.T, order=1, mode="nearest")
    return result


def capsule(distance: NDArray[np.float32], radius_mm: float, thickness_mm: float) -> NDArray[np.float32]:
    """Return a ring just inside the border, 1 in its middle and 0 elsewhere; multiply by how much brighter it is.

    Args:
        distance: Of `shapes.distance_to_center`.
        radius_mm: The tumor's, which turns local radii into mm.
        thickness_mm: Of the ring.
    """
    depth_mm = (1 - distance) * radius_mm
    return np.asarray(np.exp(-(((depth_mm - 0.6 * thickness_mm) / (0.5 * thickness_mm)) ** 2)), dtype=np.float32)
