"""Where a tumor sits: in its organ, clear of vessels, and always an answer."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.synthesis.placement import TRIES, NoPlace, Placement, place, vessel_mask

SPACING = (1.5, 1.5, 4.0)
"""Anisotropic on purpose."""
SHAPE = (72, 72, 30)


@pytest.fixture(scope="module")
def an_organ() -> np.ndarray:
    """A ball of 36 mm radius in the middle."""
    x, y, z = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    return np.asarray(x**2 + y**2 + z**2 <= 36**2)


@pytest.fixture(scope="module")
def a_tube() -> np.ndarray:
    """A vessel of 5 mm radius along the patient through the middle."""
    x, y, _ = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    return np.asarray(x**2 + y**2 <= 25)


def test_a_center_lies_in_the_organ_and_in_the_middle_of_its_extent(an_organ: np.ndarray) -> None:
    rng, levels = np.random.default_rng(0), []
    used = np.flatnonzero(an_organ.any(axis=(0, 1)))
    for _ in range(200):
        found = place(an_organ, 8.0, SPACING, rng)
        assert isinstance(found, Placement) and an_organ[found.center_voxel]
        levels.append((found.center_voxel[2] - used[0]) / len(used))
    assert min(levels) >= 0.3 - 1 / len(used) and max(levels) <= 0.7
    assert np.ptp(levels) > 0.3


def test_the_search_widens_when_the_middle_of_the_organ_is_missing() -> None:
    organ = np.zeros((30, 30, 40), bool)
    organ[:, :, :5] = organ[:, :, -5:] = True  # two thin plates; nothing between 0.13 and 0.87 of the extent
    found = place(organ, 4.0, (2.0, 2.0, 2.0), np.random.default_rng(0))
    assert isinstance(found, Placement) and organ[found.center_voxel]


def test_a_tumor_sits_mostly_inside(an_organ: np.ndarray) -> None:
    depth = ndimage.distance_transform_edt(an_organ, sampling=SPACING)
    rng = np.random.default_rng(0)
    depths = [depth[place(an_organ, 20.0, SPACING, rng).center_voxel] for _ in range(60)]
    voxels = np.argwhere(an_organ)
    anywhere = np.mean([depth[tuple(voxel)] for voxel in voxels[rng.integers(len(voxels), size=400)]])
    assert np.mean(depths) > 1.1 * anywhere


def test_an_eroded_rim_is_kept_clear_and_given_up_where_nothing_is_left(an_organ: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        x, y, z = place(an_organ, 3.0, SPACING, rng, erosion_mm=6.0).center_voxel
        assert an_organ[x - 4 : x + 5, y - 4 : y + 5, z].all()  # a square of 6 mm to each side
    thin = np.zeros(SHAPE, bool)
    thin[30:32, 30:60, 5:25] = True
    assert isinstance(place(thin, 3.0, SPACING, rng, erosion_mm=6.0), Placement)


def test_an_empty_organ_answers_in_words_and_at_once() -> None:
    started = time.process_time()
    found = place(np.zeros(SHAPE, bool), 10.0, SPACING, np.random.default_rng(0))
    assert found == NoPlace("the organ mask is empty") and time.process_time() - started < 1


def test_an_organ_of_one_voxel_answers_at_once() -> None:
    organ = np.zeros(SHAPE, bool)
    organ[10, 20, 5] = True
    started = time.process_time()
    found = place(organ, 1.0, SPACING, np.random.default_rng(0), erosion_mm=2.0)
    assert isinstance(found, Placement) and found.center_voxel == (10, 20, 5)
    refused = place(organ, 8.0, SPACING, np.random.default_rng(0))
    assert isinstance(refused, NoPlace) and "is too small for a tumor of 8.0 mm radius (2.1 ml)" in refused.reason
    vast = place(organ, 35.3, SPACING, np.random.default_rng(0))
    assert isinstance(vast, NoPlace) and vast.reason.endswith("35.3 mm radius (184 ml)")
    assert time.process_time() - started < 1


def test_vessels_never_come_within_the_radius(an_organ: np.ndarray, a_tube: np.ndarray) -> None:
    rng, placed = np.random.default_rng(0), 0
    away_mm = ndimage.distance_transform_edt(~a_tube, sampling=SPACING)
    for _ in range(200):
        found = place(an_organ, 10.0, SPACING, rng, forbidden=a_tube)
        if isinstance(found, Placement):
            placed += 1
            assert away_mm[found.center_voxel] > 10.0
    assert placed > 190


def test_an_organ_full_of_vessels_says_so_after_a_bounded_search(an_organ: np.ndarray) -> None:
    found = place(an_organ, 6.0, SPACING, np.random.default_rng(0), forbidden=an_organ)
    assert found == NoPlace(f"no place in {TRIES} tries keeps 6.0 mm clear of vessels and other tumors")


def test_an_organ_without_any_slice_in_reach_says_so() -> None:
    organ = np.zeros((8, 8, 4000), bool)
    organ[..., 0] = organ[..., -1] = True
    found = place(organ, 1.0, (1.0, 1.0, 1.0), np.random.default_rng(0))
    assert isinstance(found, NoPlace) and found.reason == f"no slice in {TRIES} tries shows the organ"


def test_a_centered_tumor_takes_the_organ_s_voxel_nearest_to_the_middle_of_its_box() -> None:
    bent = np.zeros((20, 20, 10), bool)
    bent[2:18, 2:5, 2:8] = bent[2:5, 2:18, 2:8] = True  # an L: the middle of its box lies outside
    found = place(bent, 4.0, (1.0, 1.0, 1.0), np.random.default_rng(0), centered=True)
    assert isinstance(found, Placement) and bent[found.center_voxel]
    assert found.center_voxel[2] in (4, 5)


def test_the_same_seed_finds_the_same_place(an_organ: np.ndarray) -> None:
    first, second = (place(an_organ, 8.0, SPACING, np.random.default_rng(3)) for _ in range(2))
    assert first == second


def test_vessels_are_what_is_bright_within_the_organ(an_organ: np.ndarray, a_tube: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    image = np.where(an_organ, 100.0, -100.0) + np.where(a_tube, 80.0, 0.0) + rng.normal(0, 8, SHAPE)
    image[~an_organ & (np.indices(SHAPE)[0] > 60)] = 900  # a rib beside it
    vessels = vessel_mask(image.astype(np.float32), an_organ, 30.0, SPACING)
    assert not vessels[~an_organ].any()
    tube = a_tube & an_organ
    assert vessels[tube].mean() > 0.8
    assert vessels[an_organ & ~ndimage.binary_dilation(a_tube, iterations=2)].mean() < 0.01


def test_a_vessel_in_one_thick_slice_is_found_there_and_not_in_the_next() -> None:
    """Both lie within a millimeter, which is what the scan is smoothed by, in the slice, and 5 mm apart across them."""
    organ = np.ones((24, 24, 15), bool)
    vessel = np.zeros_like(organ)
    vessel[10:14, :, 7] = True
    image = np.where(vessel, 200.0, 100.0).astype(np.float32)
    found = vessel_mask(image, organ, 20.0, (1.5, 1.5, 5.0))
    assert found[vessel].all() and not found[:, :, [6, 8]].any()


def test_a_vessel_at_the_surface_of_the_organ_is_found_although_half_of_what_is_around_it_is_no_organ() -> None:
    organ = np.zeros((20, 20, 20), bool)
    organ[6:] = organ[2:, :3] = True  # not as wide everywhere: its surface is not its box's
    vessel = np.zeros_like(organ)
    vessel[6:9, 9:12] = True
    image = np.where(vessel, 160.0, 100.0).astype(np.float32)
    assert vessel_mask(image, organ, 30.0, (1.5, 1.5, 1.5))[6, 10].all()


def test_an_empty_organ_has_no_vessels() -> None:
    assert not vessel_mask(np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool), 30.0, SPACING).any()
