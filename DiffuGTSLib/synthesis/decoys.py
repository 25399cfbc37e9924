"""Healthy look-alikes of tumors: bright or dark tubes that wind and branch, as vessels, ducts and airways do.

Ours, not part of any paper that we follow: a network that learns tumors from painted ones only learns whatever tells
paint from scan. Where every blob that is bright and sharp was painted, every sharp vessel of a better scanner becomes
a tumor. Decoys are painted with the same edges and the same grain, and nobody calls them tumors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RADIUS_MM = (1.0, 8.0)
"""From a segmental vessel to the arteries and veins at a root of the lung; drawn log-uniform."""
BRANCHES = 3
"""A tube has up to so many branches: where vessels part they are as thick as a nodule."""
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
    for _ in range(int(rng.integers(BRANCHES + 1))):
        root = int(rng.integers(len(path_mm)))
        branch = path_mm[root] + _walk(rng.normal(size=3), rng.uniform(0.2, 0.5) * length_mm, rng)
        path_mm = np.concatenate([path_mm, branch])
        radii_mm = np.concatenate([radii_mm, radii_mm[root] * np.linspace(0.8, 0.4, len(branch))])
    points = np.round(start + path_mm / np.array(spacing_mm)).astype(np.intp)
    inside = ((points >= 0) & (points < shape)).all(axis=1)
    return _filled(shape, points[inside], radii_mm[inside], spacing_mm)


def _filled(
    shape: tuple[int, ...],
    points: NDArray[np.intp],
    radii_mm: NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Return each voxel's share of the tube around a path, (points, 3), that has a radius at every point."""
    radius_at = np.zeros(shape, dtype=np.float32)
    np.maximum.at(radius_at, tuple(points.T), radii_mm.astype(np.float32))
    margin = int(np.ceil(radii_mm.max() / min(spacing_mm))) + 2
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
