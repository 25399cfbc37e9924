"""Lesions matched, counted and pooled, with numbers worked by hand."""

import math
import tracemalloc

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.detection import by_size, detect, false_positive_count

SPACING_MM = (1.0, 1.0, 5.0)


def a_mask(*boxes: tuple[int, int]) -> np.ndarray:
    """Bars 2 voxels thick along i, each from low to high."""
    mask = np.zeros((100, 12, 6), dtype=np.uint8)
    for low, high in boxes:
        mask[low:high, 4:6, 2:4] = 1
    return mask


def test_a_lesion_is_found_from_an_iou_of_one_tenth_on() -> None:
    # 10 voxels long each, so that sharing n of them gives n / (20 - n): 1 gives 0.053, 2 give 0.111.
    assert detect(a_mask((19, 29)), a_mask((10, 20)), SPACING_MM).found == 0
    two = detect(a_mask((18, 28)), a_mask((10, 20)), SPACING_MM)
    assert two.found == 1 and two.reference[0].best_iou == pytest.approx(2 / 18)
    assert detect(a_mask((18, 28)), a_mask((10, 20)), SPACING_MM, minimum_iou=0.12).found == 0
    assert detect(a_mask((18, 28)), a_mask((10, 20)), SPACING_MM, minimum_iou=2 / 18).found == 1


def test_found_missed_and_false_lesions_are_counted() -> None:
    detection = detect(a_mask((10, 20), (60, 64)), a_mask((10, 20), (30, 50)), SPACING_MM)
    assert (detection.found, detection.sensitivity) == (1, 0.5)
    assert (detection.false_positives, detection.precision) == (1, 0.5)


def test_false_positives_are_counted_alike_without_measuring() -> None:
    rng = np.random.default_rng(0)
    ref = rng.random((12, 12, 12)) < 0.05
    for share in (0.0, 0.02, 0.1):
        pred = (rng.random(ref.shape) < share) | (ref & (rng.random(ref.shape) < share))
        counted = detect(pred, ref, (1.0, 1.0, 1.0)).false_positives
        assert false_positive_count(pred, ref) == counted and (counted > 0) == (share > 0)


def test_lesions_of_a_large_scan_are_judged_in_the_box_that_holds_them() -> None:
    near = np.s_[60:80, 50:70, 0:20]
    ref, pred = np.zeros((2, 100, 100, 100), dtype=bool)
    ref[near] = np.random.default_rng(0).random((20, 20, 20)) < 0.05
    pred[near] = np.roll(ref[near], 1, axis=0)
    tracemalloc.start()
    detection = detect(pred, ref, SPACING_MM)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert detection == detect(pred[near], ref[near], SPACING_MM) and detection.reference
    assert peak < 5 * ref.nbytes, "three masks and a box; numbers of the whole scan are 4 bytes a voxel each"


def test_sizes_are_in_ml_and_mm() -> None:
    lesion = detect(a_mask(), a_mask((10, 20)), SPACING_MM).reference[0]
    assert lesion.volume_ml == pytest.approx(10 * 2 * 2 * 5 / 1000)
    # 10 mm by 2 mm between the middles of pixel sides: from (0, 0.5) to (10, 1.5).
    assert lesion.longest_in_plane_diameter_mm == pytest.approx(math.hypot(10, 1))
    assert lesion.best_iou == 0.0 and not lesion.matched


def test_a_small_fragment_of_a_tumor_is_a_false_positive() -> None:
    detection = detect(a_mask((10, 11)), a_mask((10, 40)), SPACING_MM)
    assert (detection.found, detection.false_positives) == (0, 1)
    assert detection.predicted[0].best_iou == pytest.approx(1 / 30)


def test_one_prediction_over_two_lesions_finds_both() -> None:
    detection = detect(a_mask((10, 40)), a_mask((10, 20), (30, 40)), SPACING_MM)
    assert (detection.found, detection.false_positives) == (2, 0)


def test_a_healthy_scan_has_no_sensitivity_but_false_positives() -> None:
    detection = detect(a_mask((10, 20)), a_mask(), SPACING_MM)
    assert math.isnan(detection.sensitivity) and detection.false_positives == 1
    nothing = detect(a_mask(), a_mask(), SPACING_MM)
    assert math.isnan(nothing.precision) and nothing.false_positives == 0


def test_any_overlap_is_a_rule_too() -> None:
    # One voxel in a thousand is enough, none is not.
    assert detect(a_mask((19, 60)), a_mask((10, 20)), SPACING_MM, minimum_iou=0.0).found == 1
    apart = detect(a_mask((20, 60)), a_mask((10, 19)), SPACING_MM, minimum_iou=0.0)
    assert (apart.found, apart.false_positives) == (0, 1)


def test_coverage_is_the_share_of_a_lesions_own_voxels() -> None:
    # 4 of the tumor's 10 columns are covered, by two predictions of 2 each; each prediction lies within it.
    detection = detect(a_mask((10, 12), (18, 20)), a_mask((10, 20)), SPACING_MM, 0.0, minimum_coverage=0.4)
    assert detection.found == 1 and detection.reference[0].coverage == pytest.approx(0.4)
    assert [lesion.coverage for lesion in detection.predicted] == [1.0, 1.0] and detection.false_positives == 0
    assert detect(a_mask((10, 12), (18, 20)), a_mask((10, 20)), SPACING_MM, 0.0, minimum_coverage=0.41).found == 0


def test_a_lesions_radius_is_that_of_the_ball_of_its_volume() -> None:
    lesion = detect(a_mask(), a_mask((10, 20)), SPACING_MM).reference[0]
    assert 4 / 3 * math.pi * lesion.radius_mm**3 == pytest.approx(200.0)


@pytest.mark.parametrize("value", [1.1, -0.1, math.nan])
def test_a_rule_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"minimum IoU of 0 to 1, got"):
        detect(a_mask(), a_mask(), SPACING_MM, value)
    with pytest.raises(InputError, match=r"minimum coverage of 0 to 1, got"):
        detect(a_mask(), a_mask(), SPACING_MM, 0.1, value)


@pytest.mark.parametrize("edges", [(0.0, 5.0), (5.0, 5.0), (9.0, 5.0)])
def test_size_edges_that_do_not_rise_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"size edges that rise from above 0 mm"):
        list(by_size([], edges, lambda lesion: lesion.radius_mm))


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"differ in shape"):
        detect(a_mask(), a_mask()[:50], SPACING_MM)
