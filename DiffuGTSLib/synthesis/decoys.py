"""Healthy look-alikes of tumors: bright or dark tubes that wind through an organ, as vessels, ducts and airways do.

Ours, not part of any paper that we follow: a network that learns tumors from painted ones only learns whatever tells
paint from scan. Where every blob that is bright and sharp was painted, every sharp vessel of a better scanner becomes
a tumor. Decoys are painted with the same edges and the same grain, and nobody calls them tumors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RADIUS_MM = (1.0, 5.0)
"""From a segmental vessel to a lobar artery; drawn log-uniform."""
LENGTH_MM = (20.0, 90.0)


def paint_tubes(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    count: int,
    level: float,
    blur_voxels: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Paint winding, tapering tubes that start in an organ and may leave it.

    Args:
        image: (X, Y, Z), any units.
        organ: Where they start; without a voxel nothing is painted.
        count: How many.
        level: Mean intensity of what they carry, in the image's units.
        blur_voxels: Standard deviation of their edges' blur.
        spacing_mm: Voxel size.
        rng: Source of randomness.

    Returns:
        A painted copy.
    """
    starts = np.flatnonzero(organ)
    painted = image.copy()
    if starts.size == 0:
        return painted
    for _ in range(count):
        start = np.array(np.unravel_index(starts[rng.integers(starts.size)], organ.shape), dtype=np.float64)
        radius_mm = float(np.exp(rng.uniform(*np.log(RADIUS_MM))))
        share = _tube(image.shape, start, radius_mm, spacing_mm, rng)
        share = ndimage.gaussian_filter(share, blur_voxels)
        painted += share * (np.float32(level * rng.uniform(0.9, 1.1)) - painted)
    return painted


def _tube(
    shape: tuple[int, ...],
    start: NDArray[np.float64],
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return each voxel's share of one tube that grows from its start in both directions, thinner towards its ends."""
    length_mm = rng.uniform(*LENGTH_MM)
    direction = rng.normal(size=3)
    ahead = _walk(direction, length_mm / 2, rng)
    behind = _walk(-direction, length_mm / 2, rng)
    path_mm = np.concatenate([behind[::-1], np.zeros((1, 3)), ahead])
    taper = rng.uniform(0.3, 1.0)
    radii_mm = radius_mm * (1 - (1 - taper) * np.abs(np.linspace(-1, 1, len(path_mm))))
    points = np.round(start + path_mm / np.array(spacing_mm)).astype(np.intp)
    inside = ((points >= 0) & (points < shape)).all(axis=1)
    points, radii_mm = points[inside], radii_mm[inside]
    radius_at = np.zeros(shape, dtype=np.float32)
    radius_at[tuple(points.T)] = radii_mm
    margin = int(np.ceil(radius_mm / min(spacing_mm))) + 2
    box = tuple(
        slice(max(0, low - margin), min(side, high + margin + 1))
        for low, high, side in zip(points.min(axis=0), points.max(axis=0), shape, strict=True)
    )
    off_path, nearest = ndimage.distance_transform_edt(radius_at[box] == 0, sampling=spacing_mm, return_indices=True)
    share = np.zeros(shape, dtype=np.float32)
    # One voxel of the border is partly filled, as a scanner sees it.
    share[box] = np.clip(0.5 + (radius_at[box][tuple(nearest)] - off_path) / np.mean(spacing_mm), 0, 1)
    return share


def _walk(direction: NDArray[np.float64], length_mm: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a path from the origin in steps of 1 mm, (steps, 3) in mm, that bends a little at every step."""
    steps = max(1, int(length_mm))
    bend = rng.uniform(0.02, 0.12)
    turns = ndimage.gaussian_filter1d(rng.normal(size=(steps, 3)), 4.0, axis=0, mode="nearest") * 5 * bend
    heading = direction / max(float(np.linalg.norm(direction)), 1e-9) + np.cumsum(turns, axis=0)
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
    return np.asarray(np.cumsum(heading, axis=0))
