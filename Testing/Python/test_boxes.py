"""Boxes: as small as the mask, grown by voxels, and never past the grid."""

from __future__ import annotations

import numpy as np

from DiffuGTSLib.volumes.boxes import bounding_box, grown_box

SHAPE = (8, 9, 10)


def a_mask(*voxels: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_the_box_is_as_small_as_the_mask_whether_it_hangs_together_or_not() -> None:
    assert bounding_box(a_mask((1, 2, 3))) == (slice(1, 2), slice(2, 3), slice(3, 4))
    assert bounding_box(a_mask((1, 8, 3), (6, 2, 9))) == (slice(1, 7), slice(2, 9), slice(3, 10))


def test_a_view_of_a_mask_has_a_box_as_well() -> None:
    assert bounding_box(a_mask((1, 2, 3)).transpose(2, 0, 1)[::-1]) == (slice(6, 7), slice(1, 2), slice(2, 3))


def test_a_box_is_that_of_all_voxels_that_are_set() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 20):
        voxels = [tuple(int(rng.integers(side)) for side in SHAPE) for _ in range(count)]
        expected = tuple(slice(min(line), max(line) + 1) for line in zip(*voxels, strict=True))
        assert bounding_box(a_mask(*voxels)) == bounding_box(np.asfortranarray(a_mask(*voxels))) == expected


def test_of_an_empty_mask_it_is_one_voxel() -> None:
    assert bounding_box(a_mask()) == (slice(0, 1),) * 3


def test_a_box_grows_by_voxels_and_ends_where_the_grid_does() -> None:
    box = bounding_box(a_mask((1, 4, 9)))
    assert grown_box(box, (3, 2, 1), SHAPE) == (slice(0, 5), slice(2, 7), slice(8, 10))
    assert grown_box(box, (0, 0, 0), SHAPE) == box
