"""What one lesion of a mask is and how long it is, for the library and for 3D Slicer alike.

A lesion is a set of voxels that touch by a face, an edge or a corner (26-connectivity).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from DiffuGTSLib.volumes.boxes import bounding_box

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def label_lesions(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Number the lesions of a mask from 1 in the order of the grid; return the numbers and how many there are.

    Only the box that holds them all is looked at: most of a scan is no lesion.
    """
    lesions = mask > 0
    box, labels = bounding_box(lesions), np.zeros(mask.shape, dtype=np.int32)
    return labels, int(ndimage.label(lesions[box], structure=_TOUCHING, output=labels[box]))


def acquisition_axis(spacing_mm: tuple[float, float, float]) -> int:
    """Return the voxel axis that runs across the acquired slices: the one of largest spacing, k when that is a tie.

    Sizes within 1 % of each other are a tie, since spacing read from a file is rounded.
    """
    largest = max(spacing_mm)
    candidates = [axis for axis in range(3) if spacing_mm[axis] >= 0.99 * largest]
    return candidates[0] if len(candidates) == 1 else 2


def longest_in_plane_diameter_mm(lesion: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Return the largest distance between two boundary points of a lesion within one acquired slice, in mm.

    Convention: the boundary points of a pixel are the middles of its four sides. A row of n pixels of width w thus
    measures n · w, its own width included, and a single pixel its longer side; centers would give (n - 1) · w and 0.

    Args:
        lesion: The voxels (i, j, k) of one lesion; at least one.
        spacing_mm: Voxel size along (i, j, k).
    """
    across = acquisition_axis(spacing_mm)
    size = np.delete(np.asarray(spacing_mm, dtype=np.float64), across)
    sides = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    longest = 0.0
    for pixels in np.moveaxis(lesion, across, 0):
        ends = _ends(pixels)
        if not len(ends) or np.linalg.norm((np.ptp(ends, axis=0) + 1) * size) <= longest:
            continue  # even the diagonal of its bounding box is shorter than what another slice holds
        points = ((ends[:, None] + sides) * size).reshape(-1, 2)
        # The two points furthest apart are corners of the convex hull; never flat, thanks to the sides.
        longest = max(longest, float(pdist(points[ConvexHull(points).vertices]).max()))
    return longest


def _ends(pixels: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the first and the last pixel (n, 2) of each row: no others can be the farthest from one another."""
    rows = np.flatnonzero(pixels.any(axis=1))
    filled = pixels[rows]
    last = filled.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return np.concatenate([np.stack([rows, filled.argmax(axis=1)], axis=1), np.stack([rows, last], axis=1)])
