"""One case, measured: its figures, healthy scans, and what is kept so that it is measured once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import mini_config
from phantoms import grid, mr_phantom
from scored_cases import a_case, a_phantom, a_result, no_lesion, scored

from DiffuGTSLib.evaluation.baselines import ThresholdRule, body_mask
from DiffuGTSLib.evaluation.case_scores import case_file, fingerprint, keep_score, kept_score, score_case
from DiffuGTSLib.evaluation.metrics import dice

CASE, FILES, WEIGHTS = a_case(), {"scan.nii.gz": "0" * 64, "tumor.nii.gz": "1" * 64}, {"aova/model": "2" * 64}


def test_a_perfect_mask_has_perfect_figures() -> None:
    row = scored().row
    for name in ("dice_refined", "nsd_2mm_refined", "lesion_sensitivity", "lesion_f1", "panoptic_quality"):
        assert row[name] == 1.0, name
    assert (row["kind"], row["lesions"], row["false_positives"]) == ("tumor", 1, 0)
    assert row["voxel_auroc"] == 1.0 and row["volume_ml"] == row["reference_ml"]
    assert row["seconds"] == 3.0 and math.isnan(float(row["false_positives_healthy"]))


def test_the_coarse_mask_is_judged_on_its_own() -> None:
    phantom = a_phantom()
    row = scored(shift=1).row
    moved = np.roll(phantom.lesion.array, 2, 0)
    assert row["dice_coarse"] == dice(moved, phantom.lesion.array) < float(row["dice_refined"]) < 1


def test_calibration_is_that_of_the_body_and_not_of_the_air() -> None:
    row = scored().row
    # In the body the map says 0.1 where nothing is and 0.9 in the lesion: off by 0.1 everywhere.
    assert row["ece"] == pytest.approx(0.1, abs=1e-6) and row["brier"] == pytest.approx(0.01, abs=1e-6)


def test_a_lesion_outside_of_what_is_taken_for_the_body_counts_all_the_same() -> None:
    phantom = a_phantom()
    in_air = np.roll(phantom.lesion.array, -np.argwhere(phantom.lesion.array).min(axis=0), (0, 1, 2))
    assert not (body_mask(phantom.scan, "CT") & (in_air > 0)).any()
    moved = replace(phantom, lesion=phantom.lesion.with_array(in_air))
    row = score_case(CASE, moved.scan, moved.lesion, a_result(moved), ThresholdRule()).row
    assert row["voxel_auroc"] == 1.0 and row["ece"] == pytest.approx(0.1, abs=1e-6)


def test_surfaces_may_be_off_by_two_millimeters_and_in_brains_by_one() -> None:
    phantom = mr_phantom(grid((32, 32, 32), (1.5, 1.5, 1.5)), lesion_mm=5.0)
    row = score_case(
        a_case(modality="MR"), phantom.scan, phantom.lesion, a_result(phantom, shift=1), ThresholdRule()
    ).row
    assert row["nsd_2mm_refined"] == 1.0 and float(row["nsd_1mm_refined"]) < 0.9, "it is off by 1.5 mm"


def test_the_finer_tolerance_is_for_the_brain_only() -> None:
    assert math.isnan(float(scored().row["nsd_1mm_refined"]))
    assert scored(modality="MR").row["nsd_1mm_refined"] == 1.0


def test_a_healthy_scan_is_judged_by_its_false_positives() -> None:
    score = scored(healthy=True)
    for name in ("dice_refined", "dice_threshold", "nsd_2mm_refined", "lesion_f1", "panoptic_quality", "voxel_auroc"):
        assert math.isnan(float(score.row[name])), name
    assert score.row["kind"] == "healthy" and score.row["false_positives_healthy"] == 1
    assert score.lesions == () and score.candidates.lesions == 0


def test_a_missed_tumor_is_zero_and_not_left_out() -> None:
    phantom = a_phantom()
    result = replace(a_result(phantom), mask=no_lesion(phantom))
    row = score_case(CASE, phantom.scan, phantom.lesion, result, ThresholdRule()).row
    for name in ("dice_refined", "nsd_2mm_refined", "lesion_sensitivity", "lesion_f1", "panoptic_quality"):
        assert row[name] == 0.0, name


def test_candidates_that_the_method_drops_are_no_false_alarms() -> None:
    phantom = a_phantom()
    result = a_result(phantom)
    result.aova.array[1, 1, 1] = 0.9
    found = []
    for minimum_ml in (0.0, 10 * phantom.scan.geometry.voxel_volume_ml):
        masks = replace(result.config.masks, minimum_ml=minimum_ml)
        one = replace(result, config=replace(result.config, masks=masks))
        candidates = score_case(CASE, phantom.scan, phantom.lesion, one, ThresholdRule()).candidates
        found.append(candidates.false_positives[10])
    assert found == [1, 0], "above half of the highest there is one voxel beside the lesion"


# Kept


def test_a_kept_score_comes_back_as_it_was(tmp_path: Path) -> None:
    for score in (scored(shift=1), scored(healthy=True)):
        keep_score(tmp_path, "a", "made of this", score)
        back = kept_score(tmp_path, "a", "made of this")
        assert back is not None
        assert repr(back.row) == repr(score.row), "NaN included"
        assert (back.lesions, back.candidates) == (score.lesions, score.candidates)
        assert back.reliability.ece == score.reliability.ece


def test_what_was_made_of_something_else_is_measured_again(tmp_path: Path) -> None:
    keep_score(tmp_path, "a", "made of this", scored())
    assert kept_score(tmp_path, "a", "made of that") is None
    assert kept_score(tmp_path, "b", "made of this") is None


@pytest.mark.parametrize("text", ["", "[]", '{"made_of": "x"}', '{"made_of": "x", "row": {}, "lesions": [{}]}'])
def test_a_damaged_score_is_measured_again(tmp_path: Path, text: str) -> None:
    case_file(tmp_path, "a", ".json").write_text(text)
    assert kept_score(tmp_path, "a", "x") is None


def test_a_fingerprint_is_of_files_weights_configuration_and_case() -> None:
    config = mini_config()
    own = fingerprint(CASE, FILES, config, WEIGHTS)
    assert own == fingerprint(CASE, dict(FILES), mini_config(), dict(WEIGHTS))
    others = {
        fingerprint(replace(CASE, organ="lung"), FILES, config, WEIGHTS),
        fingerprint(CASE, FILES | {"scan.nii.gz": "3" * 64}, config, WEIGHTS),
        fingerprint(
            CASE, FILES, replace(config, masks=replace(config.masks, threshold=config.masks.threshold / 2)), WEIGHTS
        ),
        fingerprint(CASE, FILES, config, {"aova/model": "4" * 64}),
    }
    assert len(others | {own}) == 5


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "a b", "ä: %"])
def test_a_case_of_any_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    assert case_file(tmp_path, name, ".json").parent == tmp_path
    assert case_file(tmp_path, name, ".json") != case_file(tmp_path, name + "x", ".json")
