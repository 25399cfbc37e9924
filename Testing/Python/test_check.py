"""A data set against its protocol: every fault is planted and found, and a sound one passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from layouts import labels_of, write_kits, write_msd
from mini_data import GRID, write_case, write_labels
from phantoms import Phantom, ct_phantom, grid, mr_phantom, orientations

from DiffuGTSLib.datasets.check import Problem, check_cases, counts, likely_modality, orientation, summary
from DiffuGTSLib.datasets.layouts import read_layout
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.volumes import Volume, write_volume
from DiffuGTSLib.volumes.volume import Geometry


def problems(data: Path, *rows: dict[str, Any]) -> dict[str, Problem]:
    """Check some cases and return what was found, by code."""
    return {problem.code: problem for problem in check_cases([Case(**row) for row in rows], data).problems}


def scan_of(data: Path, phantom: Phantom, **keys: Any) -> dict[str, Any]:
    return write_case(data, "a", phantom, "train", **keys)


@pytest.fixture
def a_phantom() -> Phantom:
    return ct_phantom(GRID, noise_hu=10)


def test_sound_data_pass_without_a_word(tmp_path: Path) -> None:
    cases = [replace(case, split="train") for case in read_layout(write_kits(tmp_path), "kits")]
    seen: list[tuple[str, float]] = []
    report = check_cases(cases, tmp_path, lambda *done: seen.append(done))
    assert report.problems == [] and [name for name, _ in seen] == [case.name for case in cases]
    first = report.cases[0]
    assert (first.shape, first.spacing_mm, first.orientation) == (GRID.shape, (4.0, 4.0, 4.0), "RAS")
    assert first.tumor_ml == pytest.approx((labels_of(ct_phantom(GRID)) == 2).sum() * 0.064, abs=1.0)
    assert first.intensities[0] < -900 and first.oblique_deg == 0.0
    assert report.total_bytes == sum(f.stat().st_size for f in tmp_path.rglob("*.nii.gz"))
    assert "3 RAS; 0 oblique. Voxels of 4 to 4 mm" in summary(report)
    json.dumps(report.as_json(), allow_nan=False)


def test_a_label_map_that_is_only_painted_is_no_wrong_modality(tmp_path: Path) -> None:
    assert problems(tmp_path, write_labels(tmp_path, "head", "train")) == {}


def test_excluded_cases_are_counted_and_not_read(tmp_path: Path) -> None:
    broken = Case("a", "p", "excluded", "CT", "none.nii.gz")
    report = check_cases([broken], tmp_path)
    assert report.problems == [] and report.counts[0]["scans"] == 1


# Files and grids


def test_a_missing_scan_and_a_missing_mask_are_errors(tmp_path: Path, a_phantom: Phantom) -> None:
    row = scan_of(tmp_path, a_phantom)
    (tmp_path / row["tumor"]).unlink()
    assert problems(tmp_path, row)["missing"].level == "error"
    (tmp_path / row["image"]).unlink()
    report = check_cases([Case(**row)], tmp_path)
    assert report.cases == [] and "scan.nii.gz does not exist" in report.errors[0].message


def test_a_mask_that_does_not_come_with_the_project_is_an_error_among_the_others(
    tmp_path: Path, a_phantom: Phantom
) -> None:
    row = scan_of(tmp_path, a_phantom, organ_files={"liver": ["resource:Outlines/nobody/liver.nii.gz"]})
    assert "Outlines/nobody/liver.nii.gz' not found" in problems(tmp_path, row)["resource_missing"].message


def test_an_organ_that_nothing_is_known_of_is_an_error(tmp_path: Path, a_phantom: Phantom) -> None:
    found = problems(tmp_path, scan_of(tmp_path, a_phantom, organ="livver"))["organ"]
    assert (found.level, found.message) == ("error", "Unknown organ 'livver'.")


def test_a_mask_on_another_grid_is_an_error(tmp_path: Path, a_phantom: Phantom) -> None:
    row = scan_of(tmp_path, a_phantom)
    moved = a_phantom.lesion.geometry.ijk_to_ras.copy()
    moved[0, 3] += 2.0
    write_volume(Volume(a_phantom.lesion.array, Geometry(GRID.shape, moved)), tmp_path / row["tumor"])
    found = problems(tmp_path, row)["geometry"]
    assert found.level == "error" and "origin" in found.message and "tumor.nii.gz" in found.message


def test_fractions_in_a_mask_are_an_error(tmp_path: Path, a_phantom: Phantom) -> None:
    row = scan_of(tmp_path, a_phantom)
    write_volume(a_phantom.lesion.with_array(a_phantom.lesion.array * np.float32(0.5)), tmp_path / row["tumor"])
    assert problems(tmp_path, row)["not_a_mask"].level == "error"


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "code"),
    [((0.05, 4.0, 4.0), (28, 26, 30), "spacing"), ((4.0, 4.0, 25.0), (28, 26, 30), "spacing"),
     ((4.0, 4.0, 4.0), (28, 26, 5), "shape")],
)  # fmt: skip
def test_strange_voxels_and_thin_scans_are_warnings(
    tmp_path: Path, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int], code: str
) -> None:
    array = np.random.default_rng(0).normal(0, 400, shape).astype(np.float32)
    write_volume(Volume(array, grid(shape, spacing_mm)), tmp_path / "a.nii.gz")
    found = problems(tmp_path, {"name": "a", "patient": "a", "split": "train", "modality": "CT", "image": "a.nii.gz"})
    assert found[code].level == "warning"


def test_a_ct_of_one_mm_at_the_origin_may_have_lost_its_geometry(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(0, 400, (9, 9, 9)).astype(np.float32)
    write_volume(Volume(array, Geometry((9, 9, 9), np.eye(4))), tmp_path / "a.nrrd")
    found = problems(tmp_path, {"name": "a", "patient": "a", "split": "train", "modality": "CT", "image": "a.nrrd"})
    assert list(found) == ["no_geometry"]


def test_orientation_is_said_in_letters() -> None:
    assert orientation(GRID) == "RAS"
    said = {orientation(grid((9, 9, 9), (1.0, 1.0, 1.0), each)) for each in orientations()}
    assert len(said) == 48 and {"LPS", "SAL", "AIR"} <= said


# Intensities


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_nan_is_an_error(tmp_path: Path, a_phantom: Phantom, value: float, suffix: str) -> None:
    row = scan_of(tmp_path, a_phantom, image=f"scan{suffix}")
    image = sitk.ReadImage(str(tmp_path / "a" / "scan.nii.gz"))
    image[3, 4, 5] = value
    sitk.WriteImage(image, str(tmp_path / row["image"]))  # our own writer would refuse
    assert problems(tmp_path, row)["not_finite"].level == "error"


def test_a_constant_scan_is_an_error(tmp_path: Path, a_phantom: Phantom) -> None:
    a_phantom.scan.array[:] = -1000.0
    assert problems(tmp_path, scan_of(tmp_path, a_phantom))["constant"].level == "error"


def test_values_of_the_other_modality_are_a_warning(tmp_path: Path) -> None:
    shifted = ct_phantom(GRID)
    shifted.scan.array[:] += 1024
    found = problems(tmp_path, scan_of(tmp_path, shifted))["modality"]
    assert found.level == "warning" and "rescale intercept" in found.message
    row = write_case(tmp_path, "b", ct_phantom(GRID), "train", modality="MR")
    assert "are those of CT; the protocol says MR" in problems(tmp_path, row)["modality"].message
    assert likely_modality(np.array([-3.0, 2.0])) == "", "normalized values do not say"


# Labels


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, True),
        ({"split": "test"}, False),
        ({"organ": "brain"}, False),
        ({"organ_files": {"liver": ["a/organ.nii.gz"]}}, False),
    ],
)
def test_a_healthy_organ_that_nothing_places_is_a_warning_where_it_is_trained_on(
    tmp_path: Path, a_phantom: Phantom, keys: dict[str, Any], told: bool
) -> None:
    row = scan_of(tmp_path, a_phantom, tumor="", labels="", label_names={}) | keys
    assert ("no_outline" in problems(tmp_path, row)) == told


def test_labels_that_nobody_named_are_a_warning(tmp_path: Path) -> None:
    cases = read_layout(write_msd(tmp_path, 1), "msd")
    labels = labels_of(ct_phantom(GRID))
    labels[0, 0, 0] = 7
    write_volume(Volume(labels, GRID), tmp_path / cases[0].tumor)
    (found,) = check_cases([replace(cases[0], split="train")], tmp_path).problems
    assert (found.level, found.code) == ("warning", "unnamed_labels") and "the labels 7 are not" in found.message


def test_an_empty_tumor_mask_is_a_warning_and_of_a_scan_cut_around_it_an_error(
    tmp_path: Path, a_phantom: Phantom
) -> None:
    a_phantom.lesion.array[:] = 0
    row = scan_of(tmp_path, a_phantom)
    assert problems(tmp_path, row)["empty_tumor"].level == "warning"
    assert problems(tmp_path, {**row, "framed_on_tumor": True})["empty_tumor"].level == "error"


def test_no_named_organ_in_the_label_map_is_a_warning(tmp_path: Path, a_phantom: Phantom) -> None:
    found = problems(tmp_path, scan_of(tmp_path, a_phantom, label_names={"liver": [5]}))
    assert set(found) == {"empty_organs", "unnamed_labels"}


def test_several_labels_that_all_count_as_tumor_are_a_warning(tmp_path: Path, a_phantom: Phantom) -> None:
    row = scan_of(tmp_path, a_phantom)
    write_volume(a_phantom.lesion.with_array(labels_of(a_phantom)), tmp_path / row["tumor"])
    assert "the labels 1, 2 all count as tumor" in problems(tmp_path, row)["merged"].message


def test_a_mask_of_nearly_everything_is_a_warning(tmp_path: Path, a_phantom: Phantom) -> None:
    row = scan_of(tmp_path, a_phantom)
    write_volume(a_phantom.lesion.with_array((a_phantom.lesion.array == 0).astype(np.uint8)), tmp_path / row["tumor"])
    assert problems(tmp_path, row)["large_tumor"].level == "warning"


# Patients


def test_a_patient_in_two_splits_is_an_error_and_another_spelling_of_one_a_warning(tmp_path: Path) -> None:
    people = [("a", "train", "P-1"), ("b", "test", "P-1"), ("c", "train", "P-2"), ("d", "test", "p_002")]
    rows = [
        write_case(tmp_path, name, mr_phantom(GRID, noise=10, seed=number), split, patient=patient)
        for number, (name, split, patient) in enumerate(people)
    ]
    found = problems(tmp_path, *rows)
    assert set(found) == {"leakage", "similar_patients"}
    assert found["leakage"].level == "error" and "train and test" in found["leakage"].message
    assert "'P-2' (train), 'p_002' (test)" in found["similar_patients"].message


def test_the_same_voxels_in_two_splits_are_an_error_and_of_two_patients_a_warning(
    tmp_path: Path, a_phantom: Phantom
) -> None:
    first = write_case(tmp_path, "a", a_phantom, "train")
    second = write_case(tmp_path, "b", a_phantom, "test")
    found = problems(tmp_path, first, second)["duplicate"]
    assert found.level == "error" and "the same voxels as a, which is in split train, this in test" in found.message
    found = problems(tmp_path, first, {**second, "split": "train"})["duplicate"]
    assert found.level == "warning" and "another patient" in found.message
    assert problems(tmp_path, first, {**second, "split": "train", "patient": first["patient"]}) == {}


def test_scans_and_patients_are_counted_for_each_split_and_organ(tmp_path: Path) -> None:
    cases = [
        Case("a", "p", "train", "CT", "a", "liver", "t"),
        Case("b", "p", "train", "CT", "b", "liver"),
        Case("c", "q", "test", "MR", "c", "brain", "t"),
    ]
    rows = [tuple(row.values()) for row in counts(cases)]
    assert rows == [("test", "MR", "brain", 1, 1, 1), ("train", "CT", "liver", 2, 1, 1)]
