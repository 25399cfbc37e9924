"""Calibration: bins by hand, and against the definitions written out voxel by voxel."""

import json
import math

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.calibration import BINS, count_voxels
from DiffuGTSLib.evaluation.metrics import auroc

EVERYWHERE = np.ones((10, 10, 10), dtype=bool)


def a_map(seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are exactly right, or too sure of themselves."""
    rng = np.random.default_rng(seed)
    right = rng.beta(0.5, 1.5, EVERYWHERE.shape)
    truth = rng.random(EVERYWHERE.shape) < right
    return (right**sharpness / (right**sharpness + (1 - right) ** sharpness)).astype(np.float32), truth


def textbook_ece(probabilities: np.ndarray, truth: np.ndarray) -> float:
    total = 0.0
    for low in range(BINS):
        inside = [
            (p, t) for p, t in zip(probabilities.ravel(), truth.ravel(), strict=True)
            if low / BINS <= p < (low + 1) / BINS or (low == BINS - 1 and p == 1)
        ]  # fmt: skip
        if inside:
            confidence, accuracy = (sum(x) / len(inside) for x in zip(*inside, strict=True))
            total += len(inside) / probabilities.size * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 0.3])
def test_ece_and_brier_are_those_of_the_definition(sharpness: float) -> None:
    probabilities, truth = a_map(1, sharpness)
    counted = count_voxels(probabilities, truth, EVERYWHERE)
    assert counted.ece == pytest.approx(textbook_ece(probabilities, truth), abs=1e-6)
    brier = sum((float(p) - t) ** 2 for p, t in zip(probabilities.ravel(), truth.ravel(), strict=True)) / truth.size
    assert counted.brier == pytest.approx(brier)


@pytest.mark.parametrize("kind", ["u1", "i8", "f4"])
def test_the_masks_may_be_0_and_1_of_any_type(kind: str) -> None:
    """As a list of places, which is what whole numbers in brackets are to numpy, half of the map would be two planes."""
    probabilities, truth = a_map(3)
    half = np.arange(10)[:, None, None] < 5
    expected = count_voxels(probabilities, truth, half & EVERYWHERE)
    counted = count_voxels(probabilities, truth.astype(kind), (half & EVERYWHERE).astype(kind))
    assert counted.as_json() == expected.as_json() and counted.voxels == 500
    for masks in ((255 * truth.astype("i8"), EVERYWHERE), (truth, 2 * EVERYWHERE.astype("i8"))):
        with pytest.raises(InputError, match="is not a mask: expected 0 and 1, got 2"):
            count_voxels(probabilities, *masks)


def test_auroc_of_voxels_is_the_exact_one_to_a_bin() -> None:
    probabilities, truth = a_map(2)
    exact = auroc(probabilities.ravel().tolist(), truth.ravel().tolist())
    assert count_voxels(probabilities, truth, EVERYWHERE).auroc == pytest.approx(exact, abs=1e-3)
    coarse = np.round(probabilities, 2) * 0.99 + 0.0005  # in the middle of bins: equal values share one
    exact = auroc(coarse.ravel().tolist(), truth.ravel().tolist())
    assert count_voxels(coarse, truth, EVERYWHERE).auroc == pytest.approx(exact, abs=1e-12)


def test_a_right_map_is_calibrated_and_a_too_sure_one_is_not() -> None:
    assert count_voxels(*a_map(3), EVERYWHERE).ece < 0.05
    assert count_voxels(*a_map(3, 4.0), EVERYWHERE).ece > 0.1


def test_bins_tell_what_was_predicted_and_what_is_true() -> None:
    probabilities, truth = np.full((2, 5, 1), 0.25), np.zeros((2, 5, 1), dtype=bool)
    probabilities[1] = 1.0
    truth[0, 0] = truth[1, :4] = True
    counted = count_voxels(probabilities, truth, np.ones_like(truth))
    assert counted.counts.tolist() == [0, 0, 5, 0, 0, 0, 0, 0, 0, 5]
    assert (counted.predicted[2], counted.observed[2]) == pytest.approx((0.25, 0.2))
    assert (counted.predicted[9], counted.observed[9]) == pytest.approx((1.0, 0.8))
    assert np.isnan(counted.predicted[0]) and np.isnan(counted.observed[0])
    assert counted.ece == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)
    assert counted.prevalence == 0.5


def test_scans_add_up_to_what_counting_both_at_once_gives() -> None:
    first, second = a_map(4), a_map(5, 2.0)
    within = np.random.default_rng(0).random(EVERYWHERE.shape) < 0.7
    pooled = count_voxels(*first, within) + count_voxels(*second, within)
    at_once = count_voxels(
        *(np.concatenate(pair) for pair in zip(first, second, strict=True)), np.concatenate([within, within])
    )
    for name in ("voxels", "ece", "brier", "auroc", "prevalence"):
        assert getattr(pooled, name) == pytest.approx(getattr(at_once, name)), name


def test_only_the_voxels_inside_count() -> None:
    probabilities, truth = a_map(6)
    within = EVERYWHERE.copy()
    within[5:] = False
    probabilities[5:] = math.nan
    counted = count_voxels(probabilities, truth, within)
    assert counted.voxels == 500 and not math.isnan(counted.ece)


def test_counts_are_kept_as_json() -> None:
    counted = count_voxels(*a_map(7), EVERYWHERE)
    read = type(counted).from_json(json.loads(json.dumps(counted.as_json())))
    assert (read.ece, read.brier, read.auroc, read.voxels) == (
        counted.ece, counted.brier, counted.auroc, counted.voxels,
    )  # fmt: skip


def test_no_voxel_has_no_figure_and_one_kind_has_no_auroc() -> None:
    nothing = count_voxels(*a_map(8), ~EVERYWHERE)
    assert all(math.isnan(x) for x in (nothing.ece, nothing.brier, nothing.auroc, nothing.prevalence))
    healthy = count_voxels(a_map(8)[0], ~EVERYWHERE, EVERYWHERE)
    assert math.isnan(healthy.auroc) and healthy.brier > 0


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    probabilities, truth = a_map(9)
    probabilities[0, 0, 0] = value
    with pytest.raises(InputError, match="Expected probabilities of 0 to 1") as caught:
        count_voxels(probabilities, truth, EVERYWHERE)
    assert caught.value.code == "not_a_probability"
