"""What a tumor does to its surroundings: it pushes them outwards, and may wear a bright capsule.

SyntheticTumors describes both for its visual Turing test; the formula of the mass effect was not available to us.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MASS_REACH = 1.3
"""Nothing beyond this many local radii is displaced (SyntheticTumors)."""
_RING = MASS_REACH - 1


def mass_effect(
    image: NDArray[np.float32],
    distance: NDArray[np.float32],
    mask: NDArray[np.bool_],
    center_voxel: NDArray[np.float64],
    push: float,
    spacing_mm: tuple[float, float, float],
    still: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return the box with the tissue between 1 and 1.3 local radii pushed outwards.

    Paper silent; we chose the local scaling warp whose push falls with the square of the way to the reach. At distance
    d (in local radii) the result shows what was at d - push · ((1.3 - d) / 0.3)², on the same ray from the center:
    tissue from within the tumor's outline is squeezed into the ring, nothing is torn, and beyond 1.3 nothing moves. Under
    the paint the push falls to 0 at 0.7. Where the tumor was cut, d goes by what is left of it.

    Args:
        image: Native units (X, Y, Z).
        distance: Of `shapes.distance_to_center`, same shape.
        mask: The tumor as it is painted, cut by organ and earlier tumors; d is 1 on its border.
        center_voxel: The tumor's center in the box.
        push: How far the border is pushed, in local radii, 0 to 0.3.
        spacing_mm: Voxel size.
        still: What does not move, as earlier tumors; the tissue beside it moves half as far as it is away from it at most.
            So does the tissue at the faces of the box.
    """
    if push <= 0:
        return image
    away_mm = _away_mm(center_voxel, image.shape, spacing_mm)
    if ((distance < 1) & ~mask).any():
        distance = np.maximum(distance, _distance_in_kept(mask, away_mm, spacing_mm))
    moved = (distance < MASS_REACH) & (distance > 1 - _RING)
    d = distance[moved].astype(np.float64)
    shift = push * np.where(d < 1, (d - 1 + _RING) / _RING, ((MASS_REACH - d) / _RING) ** 2)
    room_mm = _room_mm(image.shape, spacing_mm, still)[moved]
    shrink = np.minimum(shift / d, 0.5 * room_mm / np.maximum(away_mm[moved], 1e-6))
    where = np.argwhere(moved)
    position = where - (where - center_voxel) * shrink[:, None]
    result = image.copy()
    result[moved] = ndimage.map_coordinates(image, position.T, order=1, mode="nearest")
    return result


def _distance_in_kept(
    mask: NDArray[np.bool_], away_mm: NDArray[np.float32], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return the distance to the center in radii of the mask: 1 on its border, the radius being what is within it.

    The border is taken half a voxel's diagonal beyond the centers of the last voxels.
    """
    half_mm = 0.5 * float(np.linalg.norm(spacing_mm))
    outside_mm, inside_mm = (
        np.maximum(ndimage.distance_transform_edt(part, sampling=spacing_mm) - half_mm, 0) for part in (~mask, mask)
    )
    return np.asarray(away_mm / np.maximum(away_mm - outside_mm + inside_mm, 1e-6), dtype=np.float32)


def _away_mm(
    center_voxel: NDArray[np.float64], shape: tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return how far each voxel is from the center."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    squared = sum(((axis - c) * s) ** 2 for axis, c, s in zip(axes, center_voxel, spacing_mm, strict=True))
    return np.asarray(np.sqrt(squared), dtype=np.float32)


def _room_mm(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], still: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return how far each voxel is from what does not move: the box's surroundings, and what is still in it."""
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    to_faces = [np.minimum(axis + 1, n - axis) * s for axis, n, s in zip(axes, shape, spacing_mm, strict=True)]
    room_mm = np.minimum(np.minimum(to_faces[0], to_faces[1]), to_faces[2])
    if still is not None and still.any():
        room_mm = np.minimum(room_mm, ndimage.distance_transform_edt(~still, sampling=spacing_mm))
    return np.asarray(room_mm, dtype=np.float32)


def capsule(distance: NDArray[np.float32], radius_mm: float, thickness_mm: float) -> NDArray[np.float32]:
    """Return a ring just inside the border, 1 in its middle and 0 elsewhere; multiply by how much brighter it is.

    Args:
        distance: Of `shapes.distance_to_center`.
        radius_mm: The tumor's, which turns local radii into mm.
        thickness_mm: Of the ring.
    """
    depth_mm = (1 - distance) * radius_mm
    return np.asarray(np.exp(-(((depth_mm - 0.6 * thickness_mm) / (0.5 * thickness_mm)) ** 2)), dtype=np.float32)
