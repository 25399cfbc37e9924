"""The refined mask: cut on the scan's own grid, inside the grown candidate, from any mixture of the same residuals."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantoms import ct_phantom, grid
from scipy import ndimage

from DiffuGTSLib.config import ResidualConfig, load_config
from DiffuGTSLib.refinement import Refinement, _nearest_regions
from DiffuGTSLib.residual import ResidualMaps
from DiffuGTSLib.volumes import Volume, to_canonical

BOX = (slice(8, 24), slice(8, 24), slice(8, 24))
PIXEL = ResidualConfig(beta_pixel=1.0, beta_feature=0.0, rule="fixed", threshold=0.5)


@pytest.fixture
def a_refinement() -> Refinement:
    """A candidate of 10³ voxels in a box of 16³; one half of it changed much in the picture, all of it in the features."""
    scan = to_canonical(ct_phantom().scan, load_config("mini").canonical, "CT")
    candidate = np.zeros(scan.image.shape, dtype=bool)
    candidate[11:21, 11:21, 11:21] = True
    feature = torch.from_numpy(candidate[BOX].astype(np.float32))
    pixel = feature.clone()
    pixel[8:] *= 0.3
    inside = scan.restore(candidate) > 0.5
    return Refinement(scan, BOX, candidate, inside, ResidualMaps(pixel, feature, torch.zeros_like(pixel)), 0.0)


def test_mask_and_residual_lie_on_the_scan_s_own_grid(a_refinement: Refinement) -> None:
    mask, residual = a_refinement.outlined(PIXEL)
    assert mask.shape == residual.shape == a_refinement.scan.source.shape
    assert mask.dtype == np.uint8 and residual.dtype == np.float32
    assert mask.any() and not mask[~a_refinement.inside].any()


def test_a_tumor_through_all_slices_is_as_wide_on_the_first_and_last_as_between() -> None:
    array = np.full((60, 60, 100), 40.0, dtype=np.float32)
    array[0] = -1000
    scan = to_canonical(Volume(array, grid(array.shape, (1.0, 1.0, 1.0))), load_config("mini").canonical, "CT")
    (x, _), (y, _), (first, last) = scan.inside
    column = (slice(x + 10, x + 20), slice(y + 10, y + 20), slice(first, last))
    candidate = np.zeros(scan.image.shape, dtype=bool)
    candidate[column] = True
    # Faint, with one strong place that sets the relative rule's cut: what a slice loses at the border shows.
    values = torch.full((10, 10, last - first), 0.45)
    values[5, 5, 25] = 1.0
    inside = scan.restore(candidate) > 0.5
    maps = ResidualMaps(values, values, torch.zeros_like(values))
    mask, _ = Refinement(scan, column, candidate, inside, maps, 0.0).outlined(load_config("mini").residual)
    per_slice = mask.sum(axis=(0, 1))
    assert per_slice[1] > 0 and (per_slice[[0, -2, -1]] == per_slice[1]).all()


def test_another_mixture_of_the_same_residuals_makes_another_mask(a_refinement: Refinement) -> None:
    pixel, _ = a_refinement.outlined(PIXEL)
    feature, _ = a_refinement.outlined(replace(PIXEL, beta_pixel=0.0, beta_feature=1.0))
    assert np.array_equal(feature > 0, a_refinement.inside), "all of the candidate changed in the features"
    assert 0.3 < pixel.sum() / feature.sum() < 0.7, "half of it changed much in the picture"


def test_a_lower_cut_holds_more_and_never_more_than_the_candidate(a_refinement: Refinement) -> None:
    _, residual = a_refinement.outlined(PIXEL)
    low, high = a_refinement.cut(residual, 0.1), a_refinement.cut(residual, 0.9)
    assert high.any() and (low & high).sum() == high.sum() < low.sum()
    assert not low[~a_refinement.inside].any()


def test_the_relative_rule_cuts_at_a_share_of_the_highest(a_refinement: Refinement) -> None:
    relative = replace(PIXEL, rule="relative")
    fainter = replace(a_refinement, maps=replace(a_refinement.maps, pixel=a_refinement.maps.pixel / 4))
    assert a_refinement.threshold(relative) == pytest.approx(0.5) and fainter.threshold(relative) == pytest.approx(
        0.125
    )
    assert np.array_equal(fainter.outlined(relative)[0], a_refinement.outlined(relative)[0])
    assert not fainter.outlined(PIXEL)[0].any()


@pytest.mark.parametrize("rule", ["relative", "otsu"])
def test_a_drawn_region_of_equal_values_stays(a_refinement: Refinement, rule: str) -> None:
    """As one of a single voxel: Otsu's rule would find nothing in it that is above the rest."""
    even = torch.from_numpy(a_refinement.candidate[BOX].astype(np.float32))
    drawn = replace(a_refinement, maps=replace(a_refinement.maps, pixel=even), drawn=np.zeros_like(a_refinement.inside))
    middle = tuple(np.argwhere(a_refinement.inside).mean(axis=0).astype(int))
    drawn.drawn[middle] = True
    one = replace(drawn, inside=drawn.drawn)
    assert one.outlined(replace(PIXEL, rule=rule))[0].sum() == 1
    nothing = replace(one, maps=replace(one.maps, pixel=torch.zeros_like(even)))
    assert not nothing.outlined(replace(PIXEL, rule=rule))[0].any()


def test_small_parts_are_dropped(a_refinement: Refinement) -> None:
    everything = replace(a_refinement, minimum_ml=1e6)
    assert not everything.outlined(PIXEL)[0].any()


def test_what_lies_between_two_drawn_regions_follows_the_one_that_is_nearer_in_millimeters(
    a_refinement: Refinement,
) -> None:
    """A voxel two slices of 5 mm above a strong region and four voxels of 1 mm beside a weak one."""
    source = Volume(np.full((20, 20, 12), 40.0, dtype=np.float32), grid((20, 20, 12), (1.0, 1.0, 5.0)))
    source.array[0] = -1000
    scan = to_canonical(source, load_config("mini").canonical, "CT")
    residual, drawn = np.zeros(source.array.shape, dtype=np.float32), np.zeros(source.array.shape, dtype=bool)
    drawn[8, 8, 4] = drawn[12, 8, 6] = True
    residual[8, 8, 4], residual[12, 8, 6], residual[8, 8, 6] = 1.0, 0.2, 0.15
    both = replace(a_refinement, scan=scan, inside=residual > 0, drawn=drawn)
    cuts = both._own_thresholds(drawn, residual, replace(PIXEL, rule="relative"))
    assert (cuts[8, 8, 4], cuts[12, 8, 6], cuts[8, 8, 6]) == pytest.approx((0.5, 0.1, 0.1))


def test_each_voxel_inside_belongs_to_the_nearest_of_many_regions() -> None:
    """Whichever it is where two are as near."""
    spacing_mm, rng = (0.7, 0.7, 2.5), np.random.default_rng(0)
    drawn = ndimage.gaussian_filter(rng.normal(size=(40, 40, 16)), 1.5) > 0.16
    inside = ndimage.binary_dilation(drawn, iterations=3) & (rng.random(drawn.shape) < 0.9)
    numbers, parts = _nearest_regions(drawn, inside, spacing_mm), ndimage.label(drawn, np.ones((3, 3, 3)))[0]
    assert parts.max() > 5 and np.array_equal(numbers[drawn], parts[drawn])
    to_any, to_own = ndimage.distance_transform_edt(~drawn, spacing_mm), np.zeros(drawn.shape)
    for number in range(1, parts.max() + 1):
        to_own[numbers == number] = ndimage.distance_transform_edt(parts != number, spacing_mm)[numbers == number]
    assert (numbers[inside] > 0).all() and to_own[inside] == pytest.approx(to_any[inside])


def test_regions_in_opposite_corners_of_a_scan_cost_no_distances_of_what_lies_between() -> None:
    drawn = np.zeros((100, 100, 100), dtype=bool)
    drawn[3:6, 3:6, 3:6] = drawn[94:97, 94:97, 94:97] = True
    inside = ndimage.binary_dilation(drawn, iterations=2)
    tracemalloc.start()
    numbers = _nearest_regions(drawn, inside, (1.0, 1.0, 1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (numbers[:50] == inside[:50]).all() and (numbers[50:] == 2 * inside[50:]).all()
    assert peak < 10 * drawn.nbytes, "numbers and masks; the places of the nearest voxels are 12 bytes a voxel more"


def test_without_a_drawn_region_nothing_is_near_one() -> None:
    assert not _nearest_regions(
        *np.stack([np.zeros((4, 4, 4)), np.ones((4, 4, 4))]).astype(bool), (1.0, 1.0, 1.0)
    ).any()


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("gap", [4, 2])
@pytest.mark.parametrize("rule", ["relative", "otsu"])
def test_what_a_person_drew_is_not_dropped_for_a_stronger_findings_sake(
    a_refinement: Refinement, rule: str, drawn: bool, gap: int
) -> None:
    """Two regions of 5 voxels of 2 mm, grown by two voxels: with a gap of 2 they grow into one."""
    own, candidate = np.zeros_like(a_refinement.candidate), np.zeros_like(a_refinement.candidate)
    for start in (10, 15 + gap):
        own[start : start + 5 - gap // 2, 12:17, 12:17] = True
        candidate[start - 2 : start + 7 - gap // 2, 10:19, 10:19] = True
    pixel = torch.from_numpy((0.2 * candidate[BOX] + 0.8 * own[BOX]).astype(np.float32))
    pixel[15 + gap - gap // 2 - 8 :] *= 0.05  # the second one hardly changed
    maps = ResidualMaps(pixel, torch.zeros_like(pixel), torch.zeros_like(pixel))
    scan = a_refinement.scan
    inside, by_hand = scan.restore(candidate) > 0.5, scan.restore(own) > 0.5
    two = replace(a_refinement, candidate=candidate, inside=inside, maps=maps, drawn=by_hand if drawn else None)
    mask, _ = two.outlined(replace(PIXEL, rule=rule))
    columns = np.arange(own.shape[0])[:, None, None] >= 15 + gap
    faint = (scan.restore(own & columns) > 0.5) & by_hand
    strong = by_hand & ~faint
    assert mask[strong].any() and mask[faint].any() == drawn
    assert not two.outlined(replace(PIXEL, rule="fixed"))[0][faint].any(), "a fixed cut is what it says"
