"""Decoys: tubes that look like tumors in a slice, and that nobody calls tumors."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from DiffuGTSLib.synthesis.decoys import LENGTH_MM, RADIUS_MM, paint_tubes

GRID_MM = (2.0, 2.0, 2.0)
LUNG = np.full((48, 48, 48), -850.0, np.float32)
MIDDLE = np.zeros(LUNG.shape, bool)
MIDDLE[20:28, 20:28, 20:28] = True


def tubes(seed: int, count: int = 1, spacing_mm: tuple[float, float, float] = GRID_MM) -> np.ndarray:
    return paint_tubes(LUNG, MIDDLE, count, 40.0, 0.4, spacing_mm, np.random.default_rng(seed))


def test_a_tube_is_long_and_thin_and_starts_in_its_organ() -> None:
    for seed in range(8):
        painted = tubes(seed)
        vessel = painted > -600
        parts, number = ndimage.label(vessel, np.ones((3, 3, 3)))
        assert number >= 1 and (vessel & ndimage.binary_dilation(MIDDLE, iterations=2)).any()
        depth_mm = ndimage.distance_transform_edt(vessel, sampling=GRID_MM)
        assert depth_mm.max() <= RADIUS_MM[1] + 4  # where branches part it is thicker
        extent_mm = 2 * max(np.ptp(np.argwhere(parts > 0), axis=0))
        assert 8 < extent_mm <= 1.5 * LENGTH_MM[1] + 2 * RADIUS_MM[1]


def ends(vessel: np.ndarray) -> int:
    """Return how many ends a tube has: parts of it that are far from its middle, counted apart."""
    middle = np.argwhere(vessel).mean(axis=0)
    off = np.linalg.norm(np.indices(vessel.shape).T - middle, axis=-1).T
    return int(ndimage.label(vessel & (off > 8), np.ones((3, 3, 3)))[1])


def test_some_tubes_branch() -> None:
    counted = [ends(tubes(seed) > -600) for seed in range(40)]
    assert sum(count > 2 for count in counted) >= 5, "as vessels do"
    assert sum(count <= 2 for count in counted) >= 5, "and some do not"


def test_a_tube_holds_what_it_is_told_to_hold() -> None:
    brightest = [float(tubes(seed).max()) for seed in range(12)]
    assert max(brightest) > 0 and max(brightest) < 40 * 1.1 + 1


def test_tubes_are_measured_in_millimeters() -> None:
    """On a grid twice as fine the same tube takes more voxels."""
    coarse, fine = (
        np.mean([np.count_nonzero(tubes(seed, spacing_mm=(mm,) * 3) > -600) for seed in range(6)]) for mm in (3.0, 1.5)
    )
    assert fine > 2 * coarse


def test_the_scan_is_not_touched_and_the_same_seed_paints_the_same() -> None:
    before = LUNG.copy()
    first, second, other = tubes(1, 3), tubes(1, 3), tubes(2, 3)
    assert np.array_equal(LUNG, before) and np.array_equal(first, second) and not np.array_equal(first, other)


def test_without_an_organ_nothing_is_painted() -> None:
    painted = paint_tubes(LUNG, np.zeros_like(MIDDLE), 3, 40.0, 0.4, GRID_MM, np.random.default_rng(0))
    assert np.array_equal(painted, LUNG) and painted is not LUNG
