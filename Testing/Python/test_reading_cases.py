from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantoms import grid, orientations, reoriented
from reading_parts import case, write_cases

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.reader_study.cases import (
    CaseFile,
    Preparation,
    _cut,
    in_ras_order,
    list_cases,
    prepared,
    read_case,
    resampled,
    tumor_center_ras,
)
from DiffuGTSLib.volumes.io import write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """Three scans with their masks."""
    return write_cases(tmp_path / "scans", range(3), painted=False)


@pytest.fixture
def a_case(a_folder: Path) -> CaseFile:
    """The first of them."""
    return list_cases(a_folder, "real")[0]


def ramp(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Volume:
    """Make a volume whose value is 2 x + 3 y - z in mm."""
    geometry = Geometry.from_spacing(shape, spacing_mm)
    points = geometry.to_ras(np.moveaxis(np.indices(shape), 0, -1))
    return Volume((points @ [2.0, 3.0, -1.0]).astype(np.float32), geometry)


def test_masks_in_a_folder_are_no_scans(a_folder: Path) -> None:
    (a_folder / "notes.txt").write_text("no scan")
    for name in ("patient_00", "patient_00_tumor"):
        (a_folder / f"._{name}.nii.gz").write_bytes(b"Mac OS X")
    cases = list_cases(a_folder, "real")
    assert [case.scan.name for case in cases] == ["patient_00.nii.gz", "patient_01.nii.gz", "patient_02.nii.gz"]
    assert [case.mask and case.mask.name for case in cases][1] == "patient_01_tumor.nii.gz"


def test_painted_cases_are_found_in_their_folders(a_folder: Path, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "painted" / name).mkdir(parents=True)
        for file in ("scan", "tumor", "label"):
            shutil.copy(a_folder / "patient_00.nii.gz", tmp_path / "painted" / name / f"{file}.nii.gz")
    (tmp_path / "painted" / "a" / "tumor.nii.gz").unlink()
    (tmp_path / "painted" / "cases.csv").write_text("")
    found = list_cases(tmp_path / "painted", "synthetic")
    assert [(c.scan.parent.name, c.scan.name, c.mask and c.mask.name) for c in found] == [
        ("a", "scan.nii.gz", None),
        ("b", "scan.nii.gz", "tumor.nii.gz"),
    ]
    assert [c.scan.parent.name for c in list_cases(tmp_path / "painted" / "b", "synthetic")] == ["b"]
    repeated = tmp_path / "repeated" / "patient"
    repeated.mkdir(parents=True)
    (tmp_path / "painted" / "a").rename(repeated / "001")
    (tmp_path / "painted" / "b").rename(repeated / "002")
    found = list_cases(tmp_path / "repeated", "synthetic")
    assert [c.scan.parent.name for c in found] == ["001", "002"]


def test_a_list_names_scans_and_masks_from_its_own_folder(a_folder: Path) -> None:
    lines = "# real ones\n\npatient_02.nii.gz\npatient_00.nii.gz, patient_00_tumor.nii.gz\npatient_01.nii.gz\tpatient_01_tumor.nii.gz\n"
    (a_folder / "list.txt").write_text(lines)
    cases = list_cases(a_folder / "list.txt", "synthetic")
    assert [(c.scan.name, c.mask is not None, c.truth) for c in cases] == [
        ("patient_00.nii.gz", True, "synthetic"),
        ("patient_01.nii.gz", True, "synthetic"),
        ("patient_02.nii.gz", False, "synthetic"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"gone.nii.gz\n", "line 1: there is no .*gone.nii.gz"),
        (
            b"#\npatient_00.nii.gz,patient_00.nii.gz,patient_00.nii.gz\n",
            "line 2: expected labels as 2 or 1 2, got 'patient",
        ),
        (b"patient_00.nii.gz,patient_00.nii.gz,1,2\n", "line 1: expected a scan, its mask and .* label, got 4 words"),
        (b"# none\n", "holds no real scan"),
        (b"\xff\xfe", "not text"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(a_folder: Path, content: bytes, words: str) -> None:
    (a_folder / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        list_cases(a_folder / "list.txt", "real")


def test_a_scan_is_no_list(a_folder: Path) -> None:
    with pytest.raises(InputError, match="expected a folder or a list"):
        list_cases(a_folder / "patient_00.nii.gz", "real")
    with pytest.raises(InputError, match="expected a folder or a list"):
        list_cases(a_folder / "nowhere", "real")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no real scan"):
        list_cases(tmp_path, "real")


def test_every_orientation_becomes_ras_and_no_voxel_moves() -> None:
    scan, _ = case(0, painted=False)
    for orientation in orientations():
        turned = in_ras_order(reoriented(scan, orientation))
        assert turned.geometry.difference(scan.geometry) == ""
        assert np.array_equal(turned.array, scan.array)


def test_an_oblique_scan_keeps_its_voxels() -> None:
    geometry = grid((12, 10, 8), degrees=(10.0, 20.0, 5.0))
    scan = Volume(np.arange(960, dtype=np.float32).reshape(12, 10, 8), geometry)
    assert np.array_equal(in_ras_order(scan).array, scan.array)
    said = replace(scan, offset_hu=-1024.0)
    assert resampled(in_ras_order(said), scan.geometry.spacing_mm).offset_hu == -1024, "what its values are stays said"


def test_a_crop_has_its_size_and_the_tumor_in_its_middle(a_case: CaseFile) -> None:
    scan = read_case(a_case)
    volume = prepared(scan, a_case, Preparation(crop_mm=45.0))
    assert volume.geometry.shape == (18, 18, 15)
    middle = volume.geometry.to_ras((np.array(volume.geometry.shape) - 1) / 2)
    assert np.abs(middle - tumor_center_ras(a_case, scan.geometry)).max() <= 1.5


def test_a_tumor_at_the_edge_is_shown_without_padding(tmp_path: Path) -> None:
    scan, _ = case(0, painted=False)
    corner = np.zeros(scan.geometry.shape, np.uint8)
    corner[0:2, 0:2, 0:2] = 1
    write_volume(scan, tmp_path / "a.nii.gz")
    write_volume(Volume(corner, scan.geometry), tmp_path / "a_mask.nii.gz")
    (found,) = list_cases(tmp_path, "real")
    volume = prepared(read_case(found), found, Preparation(crop_mm=45.0))
    assert np.array_equal(volume.array, scan.array[:18, :18, :15])


def test_the_largest_tumor_is_cut_around(tmp_path: Path) -> None:
    scan, _ = case(0, painted=False)
    mask = np.zeros(scan.geometry.shape, np.uint8)
    mask[2, 2, 2] = 1
    mask[20:23, 20:23, 20:23] = 1
    write_volume(Volume(mask, scan.geometry), tmp_path / "m.nii.gz")
    center = tumor_center_ras(CaseFile(tmp_path / "s.nii.gz", tmp_path / "m.nii.gz", "real"), scan.geometry)
    assert center == pytest.approx(scan.geometry.to_ras(np.array([21, 21, 21])), abs=1e-3)


def test_the_tumors_label_is_cut_around_not_the_organs(tmp_path: Path) -> None:
    scan, _ = case(0, painted=False)
    labels = np.zeros(scan.geometry.shape, np.uint8)
    labels[2:30, 2:30, 2:30], labels[20:23, 20:23, 20:23] = 1, 2
    write_volume(scan, tmp_path / "s.nii.gz")
    write_volume(Volume(labels, scan.geometry), tmp_path / "m.nii.gz")
    lines = ("s.nii.gz, m.nii.gz", "s.nii.gz, m.nii.gz, 2")
    (unnamed, named) = (list_cases(_list(tmp_path, line), "real")[0] for line in lines)
    with pytest.raises(InputError, match="holds the labels 1, 2") as caught:
        tumor_center_ras(unnamed, scan.geometry)
    assert "tumor's label after the mask" in caught.value.hint
    center = tumor_center_ras(named, scan.geometry)
    assert center == pytest.approx(scan.geometry.to_ras(np.array([21, 21, 21])), abs=1e-3)


def _list(folder: Path, line: str) -> Path:
    (folder / "list.txt").write_text(line)
    return folder / "list.txt"


def test_limits_cut_off(a_case: CaseFile) -> None:
    array = prepared(read_case(a_case), a_case, Preparation(limits=(-175.0, 250.0))).array
    assert (array.min(), array.max()) == (-175, 250)


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0, 2.0), (2.5, 3.0, 4.0), (2.0, 2.0, 5.0)])
def test_resampling_keeps_places(spacing_mm: tuple[float, float, float]) -> None:
    before = ramp((30, 28, 26), (2.0, 2.0, 2.0))
    after = resampled(before, spacing_mm)
    points = after.geometry.to_ras(np.moveaxis(np.indices(after.geometry.shape), 0, -1))
    inside = (slice(4, -4), slice(4, -4), slice(2, -2))
    assert after.geometry.spacing_mm == pytest.approx(spacing_mm)
    assert np.abs(after.array - points @ [2.0, 3.0, -1.0])[inside].max() < 0.05
    last = before.geometry.to_ijk(after.geometry.to_ras(np.array(after.geometry.shape) - 1))
    assert (last <= np.array(before.geometry.shape) - 1 + 1e-6).all(), "nothing is made up beyond the scan"


def test_a_coarser_grid_shows_the_mean_of_what_is_finer_than_its_voxels() -> None:
    """Planes of 1 mm, light and dark in turn, on 4 mm: gray."""
    planes = np.broadcast_to(200.0 * (np.arange(32) % 2), (8, 8, 32))
    gray = resampled(Volume(planes, grid((8, 8, 32), (1.0, 1.0, 1.0))), (1.0, 1.0, 4.0)).array
    assert gray[:, :, 1:-1] == pytest.approx(100, abs=2)


@pytest.mark.parametrize("side", [3, 4, 5])
def test_a_cube_has_its_middle_where_it_was_asked_for(side: int) -> None:
    volume = Volume(np.zeros((20, 20, 20), np.float32), grid((20, 20, 20), (1.0, 1.0, 1.0)))
    middle = np.array([10.0, 11.0, 12.0]) + (side - 1) / 2 % 1
    cube = _cut(volume, volume.geometry.to_ras(middle), float(side), None)
    assert cube.geometry.to_ras(np.full(3, (side - 1) / 2)) == pytest.approx(volume.geometry.to_ras(middle))


def test_a_scan_that_needs_no_resampling_is_interpolated_all_the_same() -> None:
    scan, _ = case(0, painted=False)
    after = resampled(scan, scan.geometry.spacing_mm)
    assert not np.isin(after.array, scan.array).all()


def test_a_resampled_crop_is_where_the_crop_is(a_case: CaseFile) -> None:
    scan = read_case(a_case)
    before = prepared(scan, a_case, Preparation(crop_mm=45.0))
    after = prepared(scan, a_case, Preparation(crop_mm=45.0, spacing_mm=(3.0, 3.0, 3.0)))
    assert after.geometry.shape == (15, 15, 15)
    middles = [v.geometry.to_ras((np.array(v.geometry.shape) - 1) / 2) for v in (before, after)]
    assert np.abs(middles[0] - middles[1]).max() < 3.0


def test_what_cannot_be_cut_is_refused(a_case: CaseFile, tmp_path: Path) -> None:
    scan = read_case(a_case)
    with pytest.raises(InputError, match="there is no mask"):
        prepared(scan, CaseFile(a_case.scan, None, "real"), Preparation(crop_mm=45.0))
    with pytest.raises(InputError, match="smaller than the crop: expected at least 101 mm .* got 100 x 95 x 108 mm"):
        prepared(scan, a_case, Preparation(crop_mm=101.0))
    write_volume(scan.with_array(np.zeros(scan.geometry.shape, np.uint8)), tmp_path / "m.nii.gz")
    with pytest.raises(InputError, match="is empty"):
        prepared(scan, CaseFile(a_case.scan, tmp_path / "m.nii.gz", "real"), Preparation(crop_mm=45.0))
    write_volume(ramp((3, 3, 3), (1.0, 1.0, 1.0)).with_array(np.ones((3, 3, 3), np.uint8)), tmp_path / "m.nii.gz")
    with pytest.raises(GeometryError):
        prepared(scan, CaseFile(a_case.scan, tmp_path / "m.nii.gz", "real"), Preparation(crop_mm=45.0))


def test_a_scan_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    scan, _ = case(0, painted=False)
    write_volume(scan.with_array(np.zeros(scan.geometry.shape, np.float32)), tmp_path / "s.nii.gz")
    with pytest.raises(InputError, match="constant"):
        read_case(CaseFile(tmp_path / "s.nii.gz", None, "real"))
