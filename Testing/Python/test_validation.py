"""The table of DiffTumor's validation and the report of a protocol, by hand where a figure can be."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, write_case, write_mini_data, write_protocol
from phantoms import Phantom, ct_phantom, grid
from test_segmenter import a_segmenter, a_thresholder

from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.trained_cases import record_training
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.protocol_cases import read_case
from DiffuGTSLib.evaluation.validation import (
    HowToPredict,
    ListedScan,
    mean_row,
    score,
    true_labels,
    validate_protocol,
    validate_scans,
)
from DiffuGTSLib.supervised.networks import TUMOR
from DiffuGTSLib.supervised.prediction import PostProcessing, TrainedSegmenter
from DiffuGTSLib.volumes import read_volume, write_volume

RAW = HowToPredict(0.0, PostProcessing(0.0), "CT")


def cube(start: int, value: int = 2, side: int = 20) -> np.ndarray:
    labels = np.zeros((60, 40, 40), dtype=np.uint8)
    labels[start : start + side, 10 : 10 + side, 10 : 10 + side] = value
    return labels


def write_scans(folder: Path, names: Sequence[str], *, healthy: Sequence[str] = ()) -> list[ListedScan]:
    """Write phantoms with their label maps and organ masks."""
    scans = []
    for seed, name in enumerate(names):
        phantom = ct_phantom(grid((50, 46, 36), (2.0, 2.0, 3.0)), noise_hu=5, seed=seed)
        labels = phantom.organ.array * (1 + (phantom.lesion.array if name not in healthy else 0))
        for kind, volume in (
            ("scans", phantom.scan), ("labels", phantom.organ.with_array(labels.astype(np.uint8))),
            ("organs", phantom.organ), ("tumors", phantom.lesion),
        ):  # fmt: skip
            (folder / kind).mkdir(exist_ok=True, parents=True)
            write_volume(volume, folder / kind / f"{name}.nii.gz")
        scans.append(ListedScan(name, folder / "scans" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"))
    return scans


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_shifted_cube_has_the_dice_and_the_surface_dice_of_the_formula() -> None:
    """A cube of 20 mm moved by 5 mm shares 15 of 20 slices; of its six faces the two across lie 5 mm off."""
    figures = score(cube(15), cube(20), (1.0, 1.0, 1.0))
    assert figures["tumor_dice"] == pytest.approx(2 * 15 / 40)
    # 400 mm² a face. Four faces agree along 15 mm and 2 mm beyond. One end lies inside the other cube and agrees in a
    # rim of 2 mm, the other end nowhere.
    expected = (4 * (15 + 2) * 20 + (400 - 16**2)) / (6 * 400)
    assert figures["tumor_nsd"] == pytest.approx(expected, abs=0.035)  # surface elements are voxels wide
    assert figures["organ_dice"] == figures["tumor_dice"], "a tumor is part of its organ"


def test_a_cube_moved_by_less_than_2_mm_agrees_everywhere() -> None:
    figures = score(cube(15), cube(17), (0.9, 1.0, 1.0))
    assert figures["tumor_nsd"] == 1.0 and figures["tumor_dice"] == pytest.approx(0.9)


@pytest.mark.parametrize(("found", "truth", "value"), [(1, 1, 1.0), (2, 1, 0.0), (1, 2, 0.0)])
def test_nothing_to_find_and_nothing_found_is_1_and_one_of_both_is_0(found: int, truth: int, value: float) -> None:
    figures = score(cube(15, found), cube(15, truth), (1.0, 1.0, 1.0))
    assert figures == {"organ_dice": 1.0, "organ_nsd": 1.0, "tumor_dice": value, "tumor_nsd": value}


def test_the_mean_is_a_number_and_leaves_out_what_does_not_apply() -> None:
    rows: list[dict[str, str | float]] = [{"name": "a", "x": 0.2, "y": np.nan}, {"name": "b", "x": 0.4, "y": np.nan}]
    mean = mean_row(rows)
    assert mean["name"] == "mean" and mean["x"] == pytest.approx(0.3) and np.isnan(float(mean["y"]))


def test_every_scan_gets_a_prediction_on_its_own_grid_and_a_row(tmp_path: Path) -> None:
    scans = write_scans(tmp_path, ("a", "b"))
    seen: list[tuple[str, float]] = []
    rows = validate_scans(a_thresholder(), scans, tmp_path / "out", RAW, lambda name, done: seen.append((name, done)))
    assert seen == [("a", 0.0), ("b", 0.5)]
    table = read_rows(tmp_path / "out" / "metrics.csv")
    assert list(table[0]) == ["name", "organ_dice", "organ_nsd", "tumor_dice", "tumor_nsd"]
    assert [row["name"] for row in table] == ["a", "b", "mean"]
    for column in ("organ_dice", "tumor_dice"):
        values = [float(row[column]) for row in table]
        assert values[2] == pytest.approx(np.mean(values[:2]), abs=1e-5)
    assert rows[2]["organ_dice"] == pytest.approx(float(table[2]["organ_dice"]), abs=1e-5)
    for scan in scans:
        found = read_volume(tmp_path / "out" / "pred" / f"{scan.name}.nii.gz")
        assert found.geometry.difference(read_volume(scan.image).geometry) == ""
        assert set(np.unique(found.array)) <= {0, 1, 2}


def test_an_organ_mask_is_optional_and_takes_the_organs_place(tmp_path: Path) -> None:
    (scan,) = write_scans(tmp_path, ("a",))
    inside = ListedScan("a", scan.image, scan.labels, tmp_path / "organs" / "a.nii.gz")
    rows = validate_scans(a_thresholder(), [inside], tmp_path / "out", RAW)
    assert rows[0]["organ_dice"] == 1.0 and rows[0]["organ_nsd"] == 1.0
    found = read_volume(tmp_path / "out" / "pred" / "a.nii.gz").array
    assert not found[read_volume(inside.organ).array == 0].any()  # type: ignore[arg-type]


def test_without_label_maps_scans_are_only_segmented(tmp_path: Path) -> None:
    (scan,) = write_scans(tmp_path, ("a",))
    assert validate_scans(a_thresholder(), [ListedScan("a", scan.image)], tmp_path / "out") == []
    assert (tmp_path / "out" / "pred" / "a.nii.gz").is_file() and not (tmp_path / "out" / "metrics.csv").exists()


def test_a_tumor_mask_scores_tumors_only(tmp_path: Path) -> None:
    (scan,) = write_scans(tmp_path, ("a",))
    masked = ListedScan("a", scan.image, tmp_path / "tumors" / "a.nii.gz", tumor_only=True)
    rows = validate_scans(a_thresholder(), [masked], tmp_path / "out", RAW)
    assert np.isnan(float(rows[0]["organ_dice"])) and 0 <= float(rows[0]["tumor_dice"]) <= 1
    assert read_rows(tmp_path / "out" / "metrics.csv")[0]["organ_dice"] == "n/a"


def test_scans_that_were_trained_on_are_refused_by_their_file_and_by_their_name(tmp_path: Path) -> None:
    scans = write_scans(tmp_path, ("a", "b"))
    for number, (trained, why) in enumerate(
        ((Case("x", "y", "train", "CT", "scans/b.nii.gz"), "b .the same file as x"),
         (Case("x", "a", "train", "CT", "labels/b.nii.gz"), "a .patient a of x")),
    ):  # fmt: skip
        model = tmp_path / f"model_{number}"
        record_training([trained], tmp_path, model)
        with pytest.raises(InputError, match=f"trained on 1 of 2 cases: {why}") as caught:
            validate_scans(a_thresholder(), scans, tmp_path / "out", RAW, model_folder=model)
        assert caught.value.code == "leakage" and not (tmp_path / "out").exists()
    record_training([Case("z", "z", "train", "CT", "organs/a.nii.gz")], tmp_path, tmp_path / "other")
    validate_scans(a_thresholder(), scans[:1], tmp_path / "out", RAW, model_folder=tmp_path / "other")
    assert (tmp_path / "out" / "training.txt").read_text().startswith("No case is among the 1 scans")


def lost(folder: Path, listed: ListedScan) -> ListedScan:
    """A CT as a program leaves it that forgets its offset."""
    scan = read_volume(listed.image)
    path = folder / "lost.nii.gz"
    write_volume(scan.with_array(np.clip(scan.array + 1024, 0, None).astype(np.int16)), path)
    return replace(listed, name="lost", image=path)


def test_a_ct_without_its_offset_is_not_taken_for_mr_by_a_segmenter_of_ct(tmp_path: Path) -> None:
    whole = write_scans(tmp_path, ["a"])
    listed = lost(tmp_path, *whole)
    trained, guessed = replace(a_thresholder(), modalities=("CT",)), list[tuple[str, ...]]()
    how = replace(RAW, modality=None)
    with pytest.raises(InputError, match="not in Hounsfield units"):
        validate_scans(trained, [listed], tmp_path / "out", how, on_guess=lambda *said: guessed.append(said))
    rows = validate_scans(trained, [listed], tmp_path / "out", replace(how, offset_hu=-1024.0))
    expected = validate_scans(trained, whole, tmp_path / "whole", how)
    assert rows[0]["organ_dice"] == pytest.approx(expected[0]["organ_dice"], abs=0.01) and guessed == []


def test_a_guess_is_told_where_the_segmenter_knows_both_or_does_not_say(tmp_path: Path) -> None:
    scans = write_scans(tmp_path, ["a"])
    scans += [replace(lost(tmp_path, *scans), labels=None)]
    told: list[tuple[str, ...]] = []
    for modalities in ((), ("CT", "MR")):
        trained = replace(a_segmenter(), modalities=modalities)
        validate_scans(
            trained, scans, tmp_path / "out", replace(RAW, modality=None), on_guess=lambda *said: told.append(said)
        )
    assert [(name, modality) for name, modality, _ in told] == 2 * [("a", "CT"), ("lost", "MR")]
    assert "no voxel is negative" in told[1][2]


def test_a_scan_whose_file_says_another_modality_is_refused(tmp_path: Path) -> None:
    scan = replace(ct_phantom(GRID).scan, modality="MR")
    trained = replace(a_segmenter(), modalities=("CT",))
    with pytest.raises(InputError, match="trained on CT; the scan's file says that it is MR") as caught:
        HowToPredict().taken_for(trained, scan)
    assert caught.value.code == "modality" and "--modality MR" in caught.value.hint
    assert HowToPredict(modality="MR").taken_for(trained, scan) == ("MR", "")


def test_a_scan_or_case_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    one, other = write_scans(tmp_path, ("a", "b"))
    write_volume(ct_phantom(GRID).organ, tmp_path / "labels" / "b.nii.gz")
    with pytest.raises(GeometryError, match="^Case 'b': The label map and the scan lie on different grids"):
        validate_scans(a_thresholder(), [one, other], tmp_path / "out", RAW)
    protocol = write_mini_data(tmp_path / "data")
    write_volume(ct_phantom().lesion, tmp_path / "data" / "ct_3" / "tumor.nii.gz")
    with pytest.raises(GeometryError, match="^Case 'ct_3': The mask and the scan lie on different grids"):
        validate_protocol(a_thresholder(), protocol, tmp_path / "data", tmp_path / "report", how=RAW)
    (tmp_path / "data" / "ct_3" / "tumor.nii.gz").unlink()
    with pytest.raises(InputError, match=r"^Case 'ct_3': .*tumor.nii.gz does not exist"):
        validate_protocol(a_thresholder(), protocol, tmp_path / "data", tmp_path / "other", how=RAW)
    assert not (tmp_path / "other").exists()


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    (scan,) = write_scans(tmp_path, ("a",))
    for scans in ([], [scan, scan]):
        with pytest.raises(InputError, match="Expected scans with names of their own"):
            validate_scans(a_segmenter(), scans, tmp_path / "out")


def test_a_true_label_map_is_checked(tmp_path: Path) -> None:
    phantom: Phantom = ct_phantom(GRID)
    path = tmp_path / "labels.nii.gz"
    write_volume(phantom.organ.with_array(phantom.organ.array * 3), path)
    assert set(np.unique(true_labels(path, phantom.scan))) == {0, 1}, "a cyst is organ"
    write_volume(phantom.organ.with_array(phantom.organ.array * 7), path)
    with pytest.raises(InputError, match="holds the label 7") as caught:
        true_labels(path, phantom.scan)
    assert "--tumors" in caught.value.hint
    with pytest.raises(GeometryError):
        true_labels(path, ct_phantom().scan)


def test_a_protocol_is_reported_as_evaluate_reports_it(tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    trained: TrainedSegmenter = a_thresholder(spacing_mm=4.0)
    validate_protocol(trained, protocol, tmp_path / "data", tmp_path / "report", how=RAW)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (row,) = report["cases"]
    assert row["case"] == "ct_3" and row["organ"] == "liver" and 0 <= row["dice"] <= 1
    assert {"nsd_2mm", "lesion_sensitivity", "false_positives", "dice_ellipsoid"} <= set(row)
    found = read_volume(tmp_path / "report" / "pred" / "ct_3.nii.gz").array == TUMOR
    (case,) = (case for case in read_protocol(protocol) if case.name == "ct_3")
    assert dice(found, read_case(case, tmp_path / "data").mask.array > 0) == row["dice"]
    validate_protocol(trained, protocol, tmp_path / "data", tmp_path / "mr", modalities=("MR",), how=RAW)
    assert json.loads((tmp_path / "mr" / "report.json").read_text())["cases"][0]["case"] == "mr_3"


def test_of_a_protocol_a_segmenter_is_scored_on_its_own_organs_and_modalities(tmp_path: Path) -> None:
    """Tumors of other organs are none that it could have learned to find: they would spoil its mean."""
    data = tmp_path / "data"
    protocol = write_mini_data(data)
    rows = json.loads(protocol.read_text())["cases"]
    other = {**write_case(data, "other", ct_phantom(GRID, seed=7), "test"), "organ": "kidney"}
    write_protocol(protocol, [*rows, other])
    trained: TrainedSegmenter = a_thresholder(spacing_mm=4.0)

    def scored(modalities: tuple[str, ...], organs: tuple[str, ...], wish: tuple[str, ...] = ()) -> list[str]:
        one = replace(trained, modalities=modalities, organs=organs)
        validate_protocol(one, protocol, data, tmp_path / "report", how=RAW, organs=wish)
        return [row["case"] for row in json.loads((tmp_path / "report" / "report.json").read_text())["cases"]]

    assert scored(("CT",), ("liver",)) == ["ct_3"]
    assert scored(("MR",), ("liver", "brain")) == ["mr_3"], "one that learned from MR is not scored on CT"
    assert scored((), ()) == ["ct_3", "other"], "one that does not say is scored on all of CT"
    assert scored(("CT",), ("liver",), ("kidney",)) == ["other"], "a wish counts"
    with pytest.raises(InputError, match="no CT case of the lung with a mask in split 'test'") as caught:
        scored(("CT",), ("lung",))
    assert "brain in MR, kidney in CT, liver in CT" in caught.value.hint


def test_in_a_protocol_scans_without_a_tumor_count_by_their_false_positives(tmp_path: Path) -> None:
    """One names no tumor, of one the mask is empty: neither has an overlap, and neither spoils a mean."""
    data = tmp_path / "data"
    protocol = write_mini_data(data)
    rows = json.loads(protocol.read_text())["cases"]
    rows += [
        write_case(data, "healthy", ct_phantom(GRID, noise_hu=10, seed=7), "test", tumor=""),
        write_case(data, "empty", ct_phantom(GRID, noise_hu=10, seed=8), "test"),
    ]
    nothing = read_volume(data / "empty" / "tumor.nii.gz")
    write_volume(nothing.with_array(np.zeros(GRID.shape, np.uint8)), data / "empty" / "tumor.nii.gz")
    write_protocol(protocol, rows)
    validate_protocol(a_thresholder(spacing_mm=4.0), protocol, data, tmp_path / "report", how=RAW)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [(row["case"], row["kind"]) for row in report["cases"]] == [
        ("ct_3", "tumor"), ("healthy", "healthy"), ("empty", "healthy"),
    ]  # fmt: skip
    sick, *healthy = report["cases"]
    for row in healthy:
        for figure in ("dice", "nsd_2mm", "dice_ellipsoid", "lesion_sensitivity", "tumor_prob_inside"):
            assert row[figure] is None, figure
        assert row["false_positives_healthy"] == row["false_positives"]
    assert sick["false_positives_healthy"] is None and report["estimates"]["dice"]["mean"] == sick["dice"]
    assert report["estimates"]["false_positives_healthy"]["cases"] == 2
    assert "WARNING: counted as healthy, since no voxel of the mask is tumor: empty." in report["notes"]


def test_cases_that_were_trained_on_are_not_scored(tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    with pytest.raises(InputError, match="trained on") as caught:
        validate_protocol(a_segmenter(), protocol, tmp_path / "data", tmp_path / "report", split="train")
    assert caught.value.code == "leakage"


def test_a_protocol_without_such_a_case_is_refused(tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    write_protocol(protocol, [row for row in json.loads(protocol.read_text())["cases"] if row["modality"] == "MR"])
    with pytest.raises(InputError, match="no CT case with a mask in split 'test'"):
        validate_protocol(a_segmenter(), protocol, tmp_path / "data", tmp_path / "report")
