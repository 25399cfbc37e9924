"""Overlap and surface metrics: numbers worked by hand, empty masks, units."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.lesion_metrics import match_instances
from DiffuGTSLib.evaluation.metrics import auroc, dice, surface_dice

EMPTY = np.zeros((8, 8, 8), dtype=np.uint8)


def a_voxel(i: int, j: int = 4, k: int = 4) -> np.ndarray:
    mask = EMPTY.copy()
    mask[i, j, k] = 1
    return mask


def a_box(low: int, high: int) -> np.ndarray:
    mask = np.zeros((24, 24, 24), dtype=bool)
    mask[low:high, 6:18, 6:18] = True
    return mask


def test_dice_of_three_and_five_voxels_sharing_two_is_one_half() -> None:
    pred, ref = np.zeros(10, dtype=np.uint8), np.zeros(10, dtype=np.uint8)
    pred[0:3] = 1  # 3 voxels
    ref[1:6] = 1  # 5 voxels, 2 of them shared: 2 * 2 / (3 + 5)
    assert dice(pred, ref) == 0.5


def test_two_empty_masks_have_no_dice_and_no_surface_dice() -> None:
    assert math.isnan(dice(EMPTY, EMPTY))
    assert math.isnan(surface_dice(EMPTY, EMPTY, (1.0, 1.0, 1.0), 2.0))


def test_one_empty_mask_scores_zero() -> None:
    for pred, ref in ((a_voxel(3), EMPTY), (EMPTY, a_voxel(3))):
        assert dice(pred, ref) == 0.0
        assert surface_dice(pred, ref, (1.0, 1.0, 1.0), 2.0) == 0.0


def test_nothing_found_where_nothing_is_may_count_as_right() -> None:
    assert dice(EMPTY, EMPTY, 1.0) == surface_dice(EMPTY, EMPTY, (1.0, 1.0, 1.0), 2.0, 1.0) == 1.0
    assert dice(EMPTY, a_voxel(3), 1.0) == surface_dice(EMPTY, a_voxel(3), (1.0, 1.0, 1.0), 2.0, 1.0) == 0.0


def test_surface_dice_of_two_voxels_two_mm_apart_is_half_at_one_mm() -> None:
    # A lone voxel's surface is eight equal triangles, one about each corner. Two voxels 2 mm apart along i: the four
    # near corners of each are 1 mm from the other's near corners, the four far ones 2 mm. Half the area is within 1 mm.
    pred, ref = a_voxel(2), a_voxel(4)
    assert surface_dice(pred, ref, (1.0, 1.0, 1.0), 0.9) == 0.0
    assert surface_dice(pred, ref, (1.0, 1.0, 1.0), 1.0) == pytest.approx(0.5)
    assert surface_dice(pred, ref, (1.0, 1.0, 1.0), 2.0) == 1.0


def test_surface_dice_measures_in_mm_along_the_right_axis() -> None:
    pred, ref = a_voxel(2), a_voxel(4)
    assert surface_dice(pred, ref, (3.0, 1.0, 1.0), 2.9) == 0.0
    assert surface_dice(pred, ref, (3.0, 1.0, 1.0), 3.0) == pytest.approx(0.5)
    assert surface_dice(pred, ref, (1.0, 1.0, 3.0), 1.0) == pytest.approx(0.5)


def test_surface_dice_weighs_surface_by_its_area_in_mm() -> None:
    # A box of 12 voxels a side against one that is 2 voxels longer along i: of the two end faces one is 2 voxels off.
    # Where j and k voxels grow, end faces gain area with the square of the size and side walls only linearly.
    near, far = a_box(6, 18), a_box(6, 20)
    assert surface_dice(near, far, (1.0, 4.0, 4.0), 1.0) < surface_dice(near, far, (1.0, 1.0, 1.0), 1.0) < 1.0


def test_surface_dice_does_not_depend_on_where_in_the_grid_the_masks_lie() -> None:
    inside = surface_dice(a_voxel(2, 3, 3), a_voxel(4, 3, 3), (1.0, 2.0, 3.0), 1.0)
    assert surface_dice(a_voxel(0, 0, 0), a_voxel(2, 0, 0), (1.0, 2.0, 3.0), 1.0) == pytest.approx(inside)
    assert surface_dice(a_voxel(5, 7, 7), a_voxel(7, 7, 7), (1.0, 2.0, 3.0), 1.0) == pytest.approx(inside)


def test_equal_masks_agree_at_no_tolerance() -> None:
    assert surface_dice(a_box(6, 18), a_box(6, 18), (0.7, 0.7, 2.5), 0.0) == 1.0


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.4, 0.5, 0.4)])
@pytest.mark.parametrize("tolerance_mm", [1.0, 2.0, 3.0])
def test_surface_dice_of_two_balls_is_that_of_the_formula(
    spacing_mm: tuple[float, float, float], tolerance_mm: float
) -> None:
    """Two balls of radius R, d apart: a point at angle θ is |√(R² + d² - 2 R d cos θ) - R| from the other surface.

    The staircases that voxels make of two surfaces lie up to half a voxel nearer each other than the surfaces.
    """
    radius, apart = 14.0, 4.0
    shape = tuple(int(38 / size) for size in spacing_mm)
    points = np.moveaxis(np.indices(shape), 0, -1) * spacing_mm
    near, far = (np.linalg.norm(points - (x, 18.0, 18.0), axis=-1) <= radius for x in (16.0, 16.0 + apart))

    def share(within_mm: float) -> float:
        high, low = (
            (apart**2 + sign * 2 * radius * within_mm - within_mm**2) / (2 * radius * apart) for sign in (1, -1)
        )
        return (min(high, 1.0) - max(low, -1.0)) / 2  # the area of a sphere between two cosines

    measured = surface_dice(near, far, spacing_mm, tolerance_mm)
    assert share(tolerance_mm) - 0.04 < measured < share(tolerance_mm + max(spacing_mm) / 2) + 0.04


@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_that_of_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, anomalous = np.round(rng.normal(size=60), 1), rng.random(60) < 0.4
    pairs = [(s > t) + (s == t) / 2 for s in scores[anomalous] for t in scores[~anomalous]]
    assert auroc(scores.tolist(), anomalous.tolist()) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("seed", range(3))
def test_dice_is_the_f1_of_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pred, ref = rng.random((2, 6, 6, 6)) < 0.3
    precision, recall = ref[pred].mean(), pred[ref].mean()
    assert dice(pred, ref) == pytest.approx(2 * precision * recall / (precision + recall))


def test_auroc_counts_the_pairs_in_the_right_order_and_ties_half() -> None:
    # Positives 0.9 and 0.4, negatives 0.4 and 0.1: 0.9 wins twice, 0.4 ties once and wins once. 3.5 of 4 pairs.
    assert auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)


def test_auroc_of_one_kind_of_scan_is_not_a_number() -> None:
    assert math.isnan(auroc([0.9, 0.4], [True, True]))


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"differ in shape: \(8, 8, 8\) and \(4, 8, 8\)"):
        dice(EMPTY, EMPTY[:4])


def test_a_probability_map_is_refused_as_a_mask() -> None:
    with pytest.raises(InputError, match=r"prediction is not a mask: expected 0 and 1, got 0.5"):
        dice(EMPTY + 0.5, EMPTY)
    with pytest.raises(InputError, match=r"reference is not a mask"):
        dice(EMPTY, EMPTY + 2)


def test_a_voxel_size_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match=r"above 0 mm"):
        surface_dice(a_voxel(2), a_voxel(2), (1.0, 0.0, 1.0), 1.0)


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(InputError, match=r"0 mm or more, got -1"):
        surface_dice(a_voxel(2), a_voxel(2), (1.0, 1.0, 1.0), -1.0)


def test_scores_and_labels_of_different_number_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 scores and 2 labels"):
        auroc([0.1, 0.2, 0.3], [True, False])


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 NaN or infinite"):
        auroc([0.1, float("nan")], [True, False])


@pytest.mark.usefixtures("an_unchecked_library")
def test_a_slice_is_no_volume() -> None:
    """Its lesions and its surface are none of a volume; as one slice of a volume they are."""
    flat = np.eye(6, dtype=bool)
    judges: list[Callable[[np.ndarray], object]] = [
        lambda mask: surface_dice(mask, mask, (1.0, 1.0, 1.0), 1.0),
        lambda mask: detect(mask, mask, (1.0, 1.0, 1.0)),
        lambda mask: match_instances(mask, mask),
    ]
    for judge in judges:
        with pytest.raises(InputError, match=r"masks of three dimensions, got the shape \(6, 6\)") as caught:
            judge(flat)
        assert "mask[:, :, None]" in caught.value.hint
        judge(flat[:, :, None])
    assert dice(flat, flat) == 1
