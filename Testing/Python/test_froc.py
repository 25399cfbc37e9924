"""FROC: a curve by hand, candidates against `detect`, intervals against resampling written out."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.froc import RATES, THRESHOLDS, CaseCandidates, candidates, froc
from DiffuGTSLib.masks import drop_small

SPACING_MM = (1.0, 2.0, 1.5)


def counted(lesions: int, found: tuple[int, int], false_positives: tuple[int, int]) -> CaseCandidates:
    """A scan whose counts change once, at a threshold of 0.5."""
    first, second = (tuple(np.where(np.array(THRESHOLDS) < 0.5, *each).tolist()) for each in (found, false_positives))
    return CaseCandidates(lesions, first, second)


def a_scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth map, and lesions that it half knows of."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(24, 22, 20)), 1.5)
    probabilities = 1 / (1 + np.exp(-18 * (smooth - 0.12)))
    truth = np.roll(smooth, (1, 1, 0), (0, 1, 2)) > 0.25
    return probabilities, truth


@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_of_detect_at_each_threshold(seed: int) -> None:
    probabilities, truth = a_scan(seed)
    cut = candidates(probabilities, truth, SPACING_MM, minimum_ml=0.02)
    for number, threshold in enumerate(THRESHOLDS):
        seen = drop_small(probabilities > threshold, SPACING_MM, 0.02)
        judged = detect(seen, truth, SPACING_MM)
        assert cut.lesions == len(judged.reference)
        assert (cut.found[number], cut.false_positives[number]) == (judged.found, judged.false_positives)


@pytest.mark.parametrize("kind", ["u1", "i2", "i8", "f4"])
def test_the_reference_may_be_0_and_1_of_any_type(kind: str) -> None:
    """A mask that was read from a file is none of booleans."""
    probabilities, truth = a_scan(1)
    expected = candidates(probabilities, truth, SPACING_MM)
    assert expected.lesions > 0 and candidates(probabilities, truth.astype(kind), SPACING_MM) == expected
    with pytest.raises(InputError, match="The reference is not a mask: expected 0 and 1, got 2"):
        candidates(probabilities, (2 * truth).astype(kind), SPACING_MM)


def test_a_healthy_scan_has_false_positives_only() -> None:
    probabilities, _ = a_scan(0)
    cut = candidates(probabilities, np.zeros(probabilities.shape, dtype=bool), SPACING_MM)
    assert cut.lesions == 0 and not any(cut.found) and max(cut.false_positives) > 0


def test_a_map_that_sees_nothing_misses_all() -> None:
    truth = a_scan(0)[1]
    cut = candidates(np.zeros(truth.shape), truth, SPACING_MM)
    assert cut.lesions > 0 and not any(cut.found) and not any(cut.false_positives)


def test_a_curve_of_two_scans_is_worked_by_hand() -> None:
    # Below 0.5: 3 of 4 lesions, 3 false in 2 scans. From there on: 2 of 4, 1 false in 2 scans.
    curve = froc([counted(3, (2, 1), (1, 0)), counted(1, (1, 1), (2, 1))])
    assert curve.thresholds == pytest.approx(np.arange(0.05, 0.96, 0.05))
    assert curve.sensitivity == 9 * (0.75,) + 10 * (0.5,)
    assert curve.false_positives_per_scan == 9 * (1.5,) + 10 * (0.5,)
    assert curve.at_rates == (0.0, 0.0, 0.5, 0.5, 0.75, 0.75, 0.75)
    assert curve.score == pytest.approx((0 + 0 + 0.5 + 0.5 + 3 * 0.75) / 7)


def test_a_perfect_method_scores_one_and_healthy_scans_alone_have_no_score() -> None:
    assert froc([counted(2, (2, 2), (0, 0))] * 3).score == 1.0
    healthy = froc([counted(0, (0, 0), (1, 0))] * 3)
    assert math.isnan(healthy.score) and math.isnan(healthy.low)


def test_the_interval_is_that_of_drawing_patients_one_by_one() -> None:
    rng = np.random.default_rng(3)
    cases = [
        counted(int(n), (int(rng.integers(0, n + 1)), 0), (int(rng.integers(0, 6)), 0)) for n in rng.integers(0, 4, 30)
    ]
    patients = [f"p{number // 2}" for number in range(30)]
    curve = froc(cases, patients)
    scores = []
    for _ in range(3000):
        drawn = [f"p{number}" for number in rng.integers(15, size=15)]
        chosen = [case for name in drawn for case, owner in zip(cases, patients, strict=True) if owner == name]
        lesions, found = sum(case.lesions for case in chosen), sum(case.found[0] for case in chosen)
        rate = sum(case.false_positives[0] for case in chosen) / len(chosen)
        scores.append(np.mean([found / lesions if rate <= r else 0.0 for r in RATES]))
    assert (curve.low, curve.high) == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])), abs=0.03)


def test_the_interval_leaves_a_fortieth_at_each_end() -> None:
    """Of eight lesions half are found: in 256 draws of eight none is in 1 and one in 8, 3.5 % together; so at the top."""
    curve = froc([counted(1, (found, found), (0, 0)) for found in (0, 1) * 4])
    assert (curve.low, curve.high) == (1 / 8, 7 / 8)


def test_one_patient_has_no_interval() -> None:
    assert math.isnan(froc([counted(1, (1, 1), (0, 0))] * 2, ["a", "a"]).low)


def test_candidates_are_kept_as_json() -> None:
    case = CaseCandidates(3, (2, 1), (1, 0))
    assert CaseCandidates.from_json(json.loads(json.dumps(case.as_json()))) == case


def test_what_is_no_probability_or_another_shape_is_refused() -> None:
    probabilities, truth = a_scan(0)
    with pytest.raises(InputError, match="Expected probabilities of 0 to 1") as caught:
        candidates(probabilities * 2, truth, SPACING_MM)
    assert caught.value.code == "not_a_probability"
    with pytest.raises(InputError, match="differ in shape"):
        candidates(probabilities, truth[1:], SPACING_MM)


def test_cases_of_other_thresholds_or_patients_are_refused() -> None:
    for cases in ([], [CaseCandidates(1, (1, 1), (0, 0))]):
        with pytest.raises(InputError, match="with 19 thresholds each"):
            froc(cases)
    with pytest.raises(InputError, match="one patient a case, got 1 cases and 2 patients"):
        froc([counted(1, (1, 1), (0, 0))], ["a", "b"])
