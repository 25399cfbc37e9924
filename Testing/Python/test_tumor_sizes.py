"""Early and late tumors: spheres on both sides of 10 mm, on anisotropic voxels; lists and label maps that belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from DiffuGTSLib.errors import ConfigError, InputError, StorageError
from DiffuGTSLib.training.case_lists import ListedCase, read_list
from DiffuGTSLib.training.tumor_sizes import filter_cases, keep_stage
from DiffuGTSLib.volumes import Geometry, Volume, read_volume, write_volume

SPACING_MM = (1.0, 1.0, 2.0)


def sphere(center_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
    points = np.moveaxis(np.indices((64, 32, 16)), 0, -1) * SPACING_MM
    return np.asarray(np.square(points - center_mm).sum(-1) <= radius_mm**2)


@pytest.fixture
def a_label_map() -> NDArray[np.uint8]:
    """An organ with tumors of 9 and 11 mm, a speck of 7 voxels and a cyst."""
    labels = np.ones((64, 32, 16), dtype=np.uint8)
    labels[0] = 0
    labels[sphere((14, 15, 15), 9)] = 2
    labels[sphere((44, 15, 15), 11)] = 2
    labels[60, 20:27, 3] = 2
    labels[62, 2:6, 2] = 3
    return labels


def test_only_the_tumor_of_9_mm_is_early(a_label_map: NDArray[np.uint8]) -> None:
    staged = keep_stage(a_label_map, SPACING_MM, "early")
    assert np.array_equal(staged.labels == 2, sphere((14, 15, 15), 9))
    assert staged.kept_mm == pytest.approx((9,), abs=0.3) and staged.other_mm == pytest.approx((11,), abs=0.3)
    assert staged.specks == 1


def test_late_is_the_complement_without_the_speck(a_label_map: NDArray[np.uint8]) -> None:
    staged = keep_stage(a_label_map, SPACING_MM, "late")
    assert np.array_equal(staged.labels == 2, sphere((44, 15, 15), 11))
    assert staged.specks == 1


def test_everything_else_of_the_label_becomes_organ_and_background_stays(a_label_map: NDArray[np.uint8]) -> None:
    for stage in ("early", "late"):
        staged = keep_stage(a_label_map, SPACING_MM, stage).labels
        assert np.array_equal(staged == 0, a_label_map == 0)
        assert staged[60, 22, 3] == staged[62, 3, 2] == 1


def test_parts_that_meet_at_an_edge_are_two_tumors() -> None:
    labels = np.zeros((6, 6, 6), dtype=np.uint8)
    labels[0:2, 0:2, 0:2] = labels[2:4, 2:4, 0:2] = 2
    assert len(keep_stage(labels, SPACING_MM, "early").kept_mm) == 2


def test_eight_voxels_are_a_tumor_and_seven_are_not() -> None:
    labels = np.zeros((8, 8, 3), dtype=np.uint8)
    labels[0, :8, 0], labels[4, :7, 0] = 2, 2
    staged = keep_stage(labels, (1.0, 1.0, 1.0), "early")
    assert staged.kept_mm == pytest.approx(((3 * 8 / (4 * np.pi)) ** (1 / 3),)) and staged.specks == 1


def test_an_unknown_stage_and_an_unknown_label_are_refused(a_label_map: NDArray[np.uint8]) -> None:
    with pytest.raises(ConfigError, match="Unknown stage 'earl'"):
        keep_stage(a_label_map, SPACING_MM, "earl")
    with pytest.raises(InputError, match="got 7"):
        keep_stage(a_label_map * 7, SPACING_MM, "early")


def a_case(folder: Path, name: str, labels: NDArray[np.uint8] | NDArray[np.float32]) -> ListedCase:
    """Write a label map below `folder/labels` and list it."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    (folder / f"images/{name}.nii.gz").touch()
    geometry = Geometry.from_spacing((64, 32, 16), SPACING_MM)
    write_volume(Volume(labels, geometry), folder / f"labels/{name}.nii.gz")
    names = (f"images/{name}.nii.gz", f"labels/{name}.nii.gz")
    return ListedCase(folder / names[0], folder / names[1], False, *names)


def test_label_maps_and_list_are_written_for_cases_that_have_the_stage(
    tmp_path: Path, a_label_map: NDArray[np.uint8]
) -> None:
    only_late = np.where(sphere((14, 15, 15), 9), 1, a_label_map).astype(np.uint8)
    cases = [a_case(tmp_path, "both", a_label_map), a_case(tmp_path, "late", only_late)]
    lines: list[str] = []
    output = tmp_path / "early"
    assert len(filter_cases(cases, "early", output, "real_tumor_train_0.txt", lines.append)) == 2
    assert lines == ["both: 1 early, 1 not, 1 specks", "late: 0 early, 1 not, 1 specks"]
    new = output.resolve() / "labels" / "both.nii.gz"
    assert (output / "real_tumor_train_0.txt").read_text() == f"images/both.nii.gz\t{new}\n"
    back = read_volume(output / "labels" / "both.nii.gz")
    assert np.array_equal(back.array, keep_stage(a_label_map, SPACING_MM, "early").labels)
    assert back.geometry.spacing_mm == pytest.approx(SPACING_MM)
    (listed,) = read_list(output / "real_tumor_train_0.txt", tmp_path)
    assert (listed.name, listed.image, listed.healthy) == ("both", cases[0].image, False)
    assert np.array_equal(read_volume(listed.label).array, back.array), "the list is trained on with the new labels"


def test_a_label_map_that_was_interpolated_is_refused_and_no_list_is_written(
    tmp_path: Path, a_label_map: NDArray[np.uint8]
) -> None:
    """1.5 is no label: cut off it would be organ, and the tumor smaller than it was drawn."""
    soft = a_label_map.astype(np.float32)
    soft[14, 15, 7] = 1.5
    with pytest.raises(InputError, match="soft.nii.gz is no label map: expected whole numbers") as caught:
        filter_cases([a_case(tmp_path, "soft", soft)], "early", tmp_path / "early", "list.txt", print)
    assert caught.value.code == "not_a_mask" and not (tmp_path / "early" / "list.txt").exists()


def test_new_label_maps_do_not_lie_where_lists_have_healthy_ones(
    tmp_path: Path, a_label_map: NDArray[np.uint8]
) -> None:
    with pytest.raises(InputError, match="lists take a path with 'liver_label' in it for a healthy case's") as caught:
        filter_cases([a_case(tmp_path, "a", a_label_map)], "early", tmp_path / "liver_label_early", "l.txt", print)
    assert "another output folder" in caught.value.hint and not (tmp_path / "liver_label_early").exists()


def test_healthy_cases_are_left_out_and_no_tumor_at_all_is_refused(
    tmp_path: Path, a_label_map: NDArray[np.uint8]
) -> None:
    listed = a_case(tmp_path, "a", a_label_map)
    healthy = ListedCase(listed.image, listed.label, True, listed.image_name, listed.label_name)
    with pytest.raises(InputError, match="None of 1 cases has a tumor of the stage 'late'"):
        filter_cases([healthy], "late", tmp_path / "out", "l.txt", print)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../labels/a.nii.gz", "/labels/a.nii.gz"])
def test_a_label_map_outside_of_the_root_is_refused(tmp_path: Path, a_label_map: NDArray[np.uint8], name: str) -> None:
    listed = a_case(tmp_path, "a", a_label_map)
    outside = ListedCase(listed.image, listed.label, False, listed.image_name, name)
    with pytest.raises(InputError, match="lies outside of the list's root"):
        filter_cases([outside], "early", tmp_path / "out", "l.txt", print)


def test_the_label_maps_that_are_read_are_never_replaced(tmp_path: Path, a_label_map: NDArray[np.uint8]) -> None:
    case = a_case(tmp_path, "a", a_label_map)
    before = case.label.read_bytes()
    with pytest.raises(InputError, match="would replace the one it is made from") as caught:
        filter_cases([case], "early", tmp_path, "l.txt", print)
    assert caught.value.code == "exists" and case.label.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, a_label_map: NDArray[np.uint8]) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(StorageError, match="Cannot make the folder"):
        filter_cases([a_case(tmp_path, "a", a_label_map)], "early", tmp_path / "out", "l.txt", print)
