"""All cases together: what pools, over what, and what one kind of scan cannot tell."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scored_cases import scored

from DiffuGTSLib.evaluation.case_scores import CaseScore
from DiffuGTSLib.evaluation.pooled import pool, scan_auroc
from DiffuGTSLib.storage import for_json


@pytest.fixture(scope="module")
def some_scores() -> list[CaseScore]:
    return [
        scored("a"),
        scored("b", shift=1),
        scored("c", shift=9),
        scored("d", modality="MR"),
        scored("h", healthy=True),
    ]


def test_lesions_and_voxels_of_all_cases_are_pooled(some_scores: list[CaseScore]) -> None:
    pooled = pool(some_scores)
    assert pooled.reliability.voxels == sum(score.reliability.voxels for score in some_scores)
    every = [row for row in pooled.sizes if row.size == "all"]
    assert [(row.measure, row.found.count, row.found.total) for row in every] == [("radius", 3, 4), ("diameter", 3, 4)]
    assert max(pooled.froc.sensitivity) == 0.75


def test_steps_are_compared_on_the_same_tumors(some_scores: list[CaseScore]) -> None:
    steps = {row["than"]: row for row in pool(some_scores).steps}
    gain = np.mean([float(s.row["dice_refined"]) - float(s.row["dice_coarse"]) for s in some_scores[:4]])
    assert steps["dice_coarse"]["difference"] == pytest.approx(gain)
    assert (steps["dice_coarse"]["cases"], steps["dice_coarse"]["patients"]) == (4, 4)


def test_groups_are_told_by_modality_and_organ(some_scores: list[CaseScore]) -> None:
    groups = {(row["by"], row["group"]): row for row in pool(some_scores).groups}
    assert list(groups) == [("modality", "CT"), ("modality", "MR"), ("organ", "brain"), ("organ", "liver")]
    assert groups["modality", "CT"]["cases"] == 4 and groups["organ", "brain"]["dice_refined"] == 1.0


def test_scans_of_one_patient_are_drawn_together(some_scores: list[CaseScore]) -> None:
    """All of one patient: nothing is known about others, however many scans there are."""
    pooled = pool([replace(score, row={**score.row, "patient": "same"}) for score in some_scores])
    assert math.isnan(pooled.froc.low)
    assert all(math.isnan(float(row["dice_refined_low"])) for row in pooled.groups)


def test_scans_that_come_twice_make_no_auroc_surer() -> None:
    scores, truth = [0.1, 0.4, 0.35, 0.8, 0.5, 0.6], [False, False, False, True, True, False]
    patients = list("abcdef")
    once, twice = scan_auroc(scores, truth, patients), scan_auroc(scores * 2, truth * 2, patients * 2)
    assert (once.low, once.high) == pytest.approx((twice.low, twice.high))


def test_what_is_pooled_is_json(some_scores: list[CaseScore]) -> None:
    for scores in (some_scores, some_scores[-1:]):
        told = json.loads(json.dumps(for_json(pool(scores).as_json()), allow_nan=False))
        assert set(told) == {"froc", "calibration", "sizes", "scan_auroc", "groups", "steps"}


def test_a_score_that_parts_healthy_from_abnormal_has_an_auroc_of_one(some_scores: list[CaseScore]) -> None:
    auroc = pool([*some_scores, scored("i", healthy=True)]).scan_auroc
    assert (auroc.value, auroc.low, auroc.high, auroc.healthy, auroc.abnormal) == (1.0, 1.0, 1.0, 2, 4)
    assert math.isnan(pool(some_scores[:4]).scan_auroc.value), "no healthy scan, nothing to part"


def test_the_interval_of_an_auroc_is_that_of_large_samples() -> None:
    """Hanley and McNeil, Radiology 143, 1982: the standard error of an AUROC."""
    rng = np.random.default_rng(0)
    truth = np.arange(120) < 60
    auroc = scan_auroc(rng.normal(truth * 0.8, 1.0).tolist(), truth.tolist(), [str(n) for n in range(120)])
    a = auroc.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + 59 * (q1 - a * a) + 59 * (q2 - a * a)) / 3600)
    assert auroc.high - auroc.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_one_patient_of_a_kind_has_no_interval() -> None:
    """Drawn again and again, one healthy patient stays the same one: what others would look like is not known."""
    for abnormal in ([False, False, True, True, True], [True, True, False, False, False]):
        auroc = scan_auroc([0.1, 0.2, 0.3, 0.4, 0.15], abnormal, ["one", "one", "a", "b", "c"])
        assert 0 < auroc.value < 1 and math.isnan(auroc.low) and math.isnan(auroc.high)


def test_scans_of_one_patient_have_no_interval() -> None:
    auroc = scan_auroc([0.1, 0.9], [False, True], ["same", "same"])
    assert auroc.value == 1.0 and math.isnan(auroc.low)
