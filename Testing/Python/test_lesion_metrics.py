"""Lesions as instances: pairs by hand, and against every possible pairing."""

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.lesion_metrics import Instances, lesion_f1, match_instances

EMPTY = np.zeros((30, 8, 8), dtype=bool)
ONE_MM = (1.0, 1.0, 1.0)


def bars(*spans: tuple[int, int]) -> np.ndarray:
    """Bars of 4 voxels across, along i."""
    mask = EMPTY.copy()
    for low, high in spans:
        mask[low:high, 2:4, 2:4] = True
    return mask


def blobs(rng: np.random.Generator) -> np.ndarray:
    return ndimage.gaussian_filter(rng.normal(size=(20, 20, 20)), 1.6) > 0.09


def textbook(pred: np.ndarray, ref: np.ndarray, minimum_iou: float) -> tuple[int, float]:
    """The most pairs of IoU ≥ the minimum, one to one, and the sum of their IoU; every assignment is tried."""
    full = np.ones((3, 3, 3))
    (p, p_count), (r, r_count) = ndimage.label(pred, full), ndimage.label(ref, full)
    iou = {}
    for i, j in itertools.product(range(1, r_count + 1), range(1, p_count + 1)):
        value = np.count_nonzero((r == i) & (p == j)) / np.count_nonzero((r == i) | (p == j))
        if value >= minimum_iou:
            iou[i, j] = value
    best = (0, 0.0)
    for size in range(min(r_count, p_count, len(iou)) + 1):
        for pairs in itertools.combinations(iou, size):
            if len({i for i, _ in pairs}) == len({j for _, j in pairs}) == size:
                best = max(best, (size, sum(iou[pair] for pair in pairs)))
    return best


def test_two_of_three_lesions_are_matched_and_one_prediction_is_false() -> None:
    ref = bars((0, 4), (6, 10), (12, 16))
    pred = bars((0, 4), (6, 9), (20, 24))  # IoU 1 and 3/4; the third is missed, one is false
    found = match_instances(pred, ref)
    assert found.matched_iou == (1.0, 0.75)
    assert (found.missed, found.false_positives) == (1, 1)
    assert found.recognition_quality == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found.segmentation_quality == pytest.approx(0.875)
    assert found.panoptic_quality == pytest.approx(1.75 / (2 + 0.5 + 0.5))


def test_one_prediction_over_two_lesions_is_one_match_at_most() -> None:
    ref, pred = bars((0, 10), (11, 14)), bars((0, 14))
    found = match_instances(pred, ref)
    assert len(found.matched_iou) == 1 and (found.missed, found.false_positives) == (1, 0)
    assert lesion_f1(detect(pred, ref, ONE_MM)) == 1.0, "our own rule does not punish merging twice"


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_trying_every_pairing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ref = blobs(rng)
    pred = np.roll(ref, rng.integers(0, 2, 3), (0, 1, 2)) ^ (blobs(rng) & (rng.random(ref.shape) < 0.3))
    found = match_instances(pred, ref)
    pairs, summed = textbook(pred, ref, 0.5)
    refs, preds = (ndimage.label(mask, np.ones((3, 3, 3)))[1] for mask in (ref, pred))
    assert len(found.matched_iou) == pairs
    assert (found.missed, found.false_positives) == (refs - pairs, preds - pairs)
    assert found.panoptic_quality == pytest.approx(summed / (pairs + (refs + preds - 2 * pairs) / 2))


def test_an_iou_of_exactly_one_half_matches() -> None:
    assert match_instances(bars((0, 4)), bars((0, 8))).matched_iou == (0.5,)
    assert match_instances(bars((0, 3)), bars((0, 8))).matched_iou == ()


def test_far_from_the_lesions_nothing_changes_them() -> None:
    rng = np.random.default_rng(0)
    ref = blobs(rng)
    pred = ref & (rng.random(ref.shape) < 0.9)
    far = tuple(np.pad(mask, ((30, 5), (0, 40), (7, 0))) for mask in (pred, ref))
    found = match_instances(pred, ref)
    assert match_instances(*far) == found and found.matched_iou


def test_f1_of_our_rule_is_the_mean_of_precision_and_sensitivity() -> None:
    ref = bars((0, 4), (6, 10), (12, 16))
    detection = detect(bars((0, 4), (6, 9), (20, 24), (26, 28)), ref, ONE_MM)
    assert lesion_f1(detection) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_two_empty_masks_have_no_f1_and_one_gives_zero() -> None:
    seen = bars((0, 4))
    for pred, ref, expected in ((EMPTY, EMPTY, math.nan), (seen, EMPTY, 0.0), (EMPTY, seen, 0.0)):
        found = match_instances(pred, ref)
        figures = (found.recognition_quality, found.panoptic_quality, lesion_f1(detect(pred, ref, ONE_MM)))
        assert figures == pytest.approx((expected,) * 3, nan_ok=True)
        assert math.isnan(found.segmentation_quality)


def test_lesions_that_never_touch_have_an_f1_of_zero() -> None:
    assert lesion_f1(detect(bars((0, 4)), bars((10, 14)), ONE_MM)) == 0.0
    assert Instances((), 1, 1).panoptic_quality == 0.0
