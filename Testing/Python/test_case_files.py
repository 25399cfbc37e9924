"""Which file belongs to which case, and what is refused instead of being left out."""

from pathlib import Path

import numpy as np
import pytest

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.case_files import (
    TumorLabel,
    find_files,
    label_values,
    pair_cases,
    read_label,
    read_part_mask,
    read_tumor_mask,
)
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

GRID = Geometry.from_spacing((4, 5, 6), (1.0, 1.0, 2.0))


def write(path: Path, value: float = 1.0, grid: Geometry = GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(grid.shape, np.float32)
    array[1:3, 1:3, 1:3] = value
    write_volume(Volume(array, grid), path)
    return path


def test_files_and_result_folders_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "b.1.seg.nrrd")
    write(tmp_path / "c" / "segmentation.nrrd")
    write(tmp_path / "d" / "other.nii.gz")
    (tmp_path / "notes.txt").write_text("no image")
    write(tmp_path / ".hidden.nii.gz")
    found = find_files(tmp_path)
    assert list(found) == ["a", "b.1", "c"]
    assert found["c"] == tmp_path / "c" / "segmentation.nrrd"


def test_every_case_gets_its_file_of_each_role(tmp_path: Path) -> None:
    for role in ("predictions", "references"):
        for name in ("a", "b"):
            write(tmp_path / role / f"{name}.nii.gz")
    write(tmp_path / "predictions" / "extra.nii.gz")
    folders = {role: tmp_path / role for role in ("predictions", "references")}
    cases = pair_cases("references", {**folders, "organs": None})
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[1].files == {role: folder / "b.nii.gz" for role, folder in folders.items()}


def test_organ_and_tumor_are_not_taken_together_for_a_tumor(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", 2)
    array = np.array(read_label(path).array)
    assert TumorLabel(None, "references").read(path).array.sum() == array.sum()
    array[0] = 1
    array[1:3, 1:3, 1:3] = 2
    write_volume(Volume(array, GRID), path)
    with pytest.raises(InputError, match="holds the labels 1, 2: expected one") as caught:
        TumorLabel(None, "references").read(path)
    assert "--reference-label 2" in caught.value.hint
    assert TumorLabel(2, "references").read(path).array.sum() == 8


def test_a_case_without_a_prediction_is_refused_and_not_left_out(tmp_path: Path) -> None:
    write(tmp_path / "r" / "a.nii.gz")
    write(tmp_path / "r" / "b.nii.gz")
    write(tmp_path / "p" / "a.nii.gz")
    with pytest.raises(InputError, match=r"1 of 2 cases have nothing in predictions: b") as caught:
        pair_cases("references", {"references": tmp_path / "r", "predictions": tmp_path / "p"})
    assert caught.value.code == "missing" and "same name" in caught.value.hint


def test_a_folder_that_is_missing_empty_or_ambiguous_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder"):
        find_files(tmp_path / "no")
    with pytest.raises(InputError, match="holds no image"):
        find_files(tmp_path)
    write(tmp_path / "a.nii.gz")
    write(tmp_path / "a.nrrd")
    with pytest.raises(InputError, match="holds 'a' twice"):
        find_files(tmp_path)


def test_one_label_or_all_of_a_label_map(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", value=2)
    assert read_label(path).array.sum() == TumorLabel(None, "predictions").read(path).array.sum() == 8
    two, one = TumorLabel(2, "predictions"), TumorLabel(1, "references")
    assert (two.read(path, GRID).array.sum(), one.read(path).array.sum()) == (8, 0)
    assert two.notes() == [] and one.notes() == ["WARNING: label 1 is in none of the references; they hold 2."]
    one.read(write(tmp_path / "b.nii.gz", value=1))
    assert one.notes() == [], "one file with it is enough"


def test_files_without_any_label_are_no_slip(tmp_path: Path) -> None:
    label = TumorLabel(3, "predictions")
    label.read(write(tmp_path / "a.nii.gz", value=0))
    assert label.notes() == []


def test_no_label_map_and_another_grid_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", value=0.5)
    with pytest.raises(InputError, match="is not a label map") as caught:
        TumorLabel(1, "predictions").read(path)
    assert caught.value.code == "not_a_mask"
    with pytest.raises(InputError, match="is not a label map"):
        read_label(path)
    with pytest.raises(GeometryError, match="label map"):
        read_label(write(tmp_path / "b.nii.gz"), Geometry.from_spacing((4, 5, 6), (1.0, 1.0, 3.0)))


def test_of_a_label_map_the_tumors_labels_have_to_be_named(tmp_path: Path) -> None:
    array = np.zeros(GRID.shape, np.float32)
    array[1:3, 1:3, 1:3], array[1, 1, 1:3] = 1, 2
    write_volume(Volume(array, GRID), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match="holds the labels 1, 2: expected one") as caught:
        read_tumor_mask(tmp_path / "labels.nii.gz", GRID, (), "name it.")
    assert (caught.value.code, caught.value.hint) == ("several_labels", "name it.")
    for values, voxels in (((2,), 2), ((1, 2), 8), ((2, 3), 2)):
        assert read_tumor_mask(tmp_path / "labels.nii.gz", GRID, values, "").array.sum() == voxels
    with pytest.raises(InputError, match="labels 1, 2: expected the tumor among them, which is 3") as caught:
        read_tumor_mask(tmp_path / "labels.nii.gz", GRID, (3,), "name it.")
    said = "name it. Where there is no tumor, give a mask of zeros."
    assert (caught.value.code, caught.value.hint) == ("no_label", said)
    with pytest.raises(InputError, match="expected the organ among them, which is 3") as caught:
        read_part_mask(tmp_path / "labels.nii.gz", GRID, (3,), "organ", "name it.")
    assert caught.value.hint == "name it.", "to paint into an organ it has to be there"
    write(tmp_path / "zeros.nii.gz", 0.0)
    assert not read_tumor_mask(tmp_path / "zeros.nii.gz", GRID, (3,), "").array.any(), "no tumor to be found"
    write(tmp_path / "five.nii.gz", 5.0)
    assert read_tumor_mask(tmp_path / "five.nii.gz", GRID, (), "").array.max() == 1, "one label is the tumor"


def test_labels_of_a_list_are_whole_numbers_above_0() -> None:
    assert label_values("", "here") == () and label_values(" 1 2", "here") == (1, 2)
    for text in ("tumor", "1.5", "0", "-1"):
        with pytest.raises(InputError, match=f"here: expected labels as 2 or 1 2, got '{text}'"):
            label_values(text, "here")
