"""Files: exact round trips on any grid, and everything that is refused at the door."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import Phantom, grid, orientations, reoriented, write_dicom
from scipy.spatial.transform import Rotation

from DiffuGTSLib.errors import GeometryError, InputError, StorageError
from DiffuGTSLib.volumes.io import (
    find_source,
    read_geometry,
    read_mask,
    read_volume,
    write_segmentation,
    write_volume,
)
from DiffuGTSLib.volumes.volume import Geometry, Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
MATRIX_TOLERANCE_MM = 1e-4


@pytest.fixture
def a_small_scan() -> Volume:
    """Four by five by six voxels of distinct whole numbers on an oblique, anisotropic grid."""
    geometry = grid((4, 5, 6), (0.7, 1.3, 5.0), degrees=(12, -7, 21))
    return Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6) - 1000, geometry)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (12.0, -7.0, 21.0)], ids=["straight", "oblique"])
def test_voxels_come_back_exactly_and_grids_nearly_so_in_all_48_orientations(
    tmp_path: Path, suffix: str, degrees: tuple[float, float, float]
) -> None:
    voxels = np.random.default_rng(0).integers(-1024, 3072, (4, 5, 6)).astype(np.int16)
    for orientation in orientations():
        scan = Volume(voxels, grid((4, 5, 6), (0.7, 1.3, 5.0), orientation, degrees))
        write_volume(scan, tmp_path / f"scan{suffix}")
        again = read_volume(tmp_path / f"scan{suffix}")
        assert again.array.dtype == np.float32
        assert np.array_equal(again.array, voxels)
        assert np.abs(again.geometry.ijk_to_ras - scan.geometry.ijk_to_ras).max() <= MATRIX_TOLERANCE_MM
        assert scan.geometry.difference(again.geometry) == ""


def test_files_hold_lps_and_kji_as_worked_by_hand(tmp_path: Path) -> None:
    scan = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), Geometry.from_spacing((2, 3, 4), (1.0, 2.0, 3.0)))
    write_volume(scan, tmp_path / "scan.nrrd")
    image = sitk.ReadImage(str(tmp_path / "scan.nrrd"))
    assert image.GetSize() == (2, 3, 4)
    assert image.GetPixelID() == sitk.sitkInt16
    assert image.GetPixel(1, 2, 3) == scan.array[1, 2, 3] == 23
    # One voxel along j is 2 mm anterior in RAS, so 2 mm toward negative P in LPS.
    assert image.TransformIndexToPhysicalPoint((1, 1, 1)) == (-1.0, -2.0, 3.0)


def test_a_header_in_ras_means_the_same_place(tmp_path: Path, a_small_scan: Volume) -> None:
    scan = Volume(a_small_scan.array, Geometry.from_spacing((4, 5, 6), (1, 1, 1)))
    write_volume(scan, tmp_path / "lps.nrrd")
    header, _, voxels = (tmp_path / "lps.nrrd").read_bytes().partition(b"\n\n")
    header = header.replace(b"left-posterior-superior", b"right-anterior-superior").replace(b"(-1,0,0)", b"(1,0,0)")
    (tmp_path / "ras.nrrd").write_bytes(header.replace(b"(0,-1,0)", b"(0,1,0)") + b"\n\n" + voxels)
    again = read_volume(tmp_path / "ras.nrrd")
    assert again.geometry.difference(scan.geometry) == ""
    assert np.array_equal(again.array, scan.array)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_a_header_beside_its_voxels_is_read(tmp_path: Path, a_small_scan: Volume, suffix: str) -> None:
    write_volume(a_small_scan, tmp_path / "one.nrrd")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "one.nrrd")), str(tmp_path / f"two{suffix}"))
    again = read_volume(tmp_path / f"two{suffix}")
    assert np.array_equal(again.array, a_small_scan.array)
    assert again.geometry.difference(a_small_scan.geometry) == ""


def test_float_scans_and_masks_keep_their_own_type_in_the_file(tmp_path: Path, a_small_scan: Volume) -> None:
    for array, kind in [
        (a_small_scan.array > -950, sitk.sitkUInt8),
        (a_small_scan.array.astype(np.float16), sitk.sitkFloat32),
        (a_small_scan.array.astype(">i2"), sitk.sitkInt16),
        (a_small_scan.array / 3, sitk.sitkFloat64),
    ]:
        write_volume(a_small_scan.with_array(array), tmp_path / "scan.mha")
        assert sitk.ReadImage(str(tmp_path / "scan.mha")).GetPixelID() == kind
        assert np.allclose(read_volume(tmp_path / "scan.mha").array, array, rtol=1e-7)


def test_the_nifti_slope_and_intercept_are_applied(tmp_path: Path, a_small_scan: Volume) -> None:
    write_volume(a_small_scan, tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    content[112:120] = np.array([2.0, -24.0], dtype="<f4").tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    assert read_volume(tmp_path / "scan.nii").array[0, 0, 1] == 2 * -999 - 24


def test_a_mask_comes_back_as_0_and_1_on_the_scans_own_grid(tmp_path: Path, a_small_scan: Volume) -> None:
    labels = np.zeros((4, 5, 6), dtype=np.float32)
    labels[1, 2, 3], labels[3, 4, 5] = 1, 7
    write_volume(a_small_scan.with_array(labels), tmp_path / "mask.nii.gz")
    mask = read_mask(tmp_path / "mask.nii.gz", a_small_scan.geometry)
    assert mask.array.dtype == np.uint8
    assert np.argwhere(mask.array).tolist() == [[1, 2, 3], [3, 4, 5]]
    assert mask.array.max() == 1
    assert mask.geometry is a_small_scan.geometry


@pytest.mark.parametrize("values", [(0.5, 1.0), (-1.0, 1.0), (np.nan, 1.0)], ids=["fraction", "negative", "nan"])
def test_an_image_that_is_no_mask_is_refused(tmp_path: Path, a_small_scan: Volume, values: tuple[float, float]) -> None:
    array = np.zeros((4, 5, 6), dtype=np.float32)
    array[0, 0, :2] = values
    write_volume(a_small_scan.with_array(array), tmp_path / "mask.nrrd")
    with pytest.raises(InputError, match="is not a mask: expected the labels") as caught:
        read_mask(tmp_path / "mask.nrrd", a_small_scan.geometry)
    assert caught.value.code == "not_a_mask"


def test_a_mask_on_another_grid_is_refused(tmp_path: Path, a_ct_phantom: Phantom) -> None:
    turned = reoriented(a_ct_phantom.lesion, np.diag([-1.0, -1.0, 1.0]))
    write_volume(turned, tmp_path / "mask.nii.gz")
    with pytest.raises(GeometryError, match="The mask and the scan lie on different grids: direction"):
        read_mask(tmp_path / "mask.nii.gz", a_ct_phantom.scan.geometry)


def test_a_segmentation_opens_in_slicer_with_its_name_color_and_meaning(tmp_path: Path, a_ct_phantom: Phantom) -> None:
    path = tmp_path / "scan.seg.nrrd"
    write_segmentation(a_ct_phantom.lesion, path, "Tumeur du\nfoie", (0.5, 0.25, 1.0))
    image = sitk.ReadImage(str(path))
    header = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    assert header == {
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "Tumeur du foie",
        "Segment0_NameAutoGenerated": "0",
        "Segment0_Color": "0.5 0.25 1",
        "Segment0_ColorAutoGenerated": "0",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Extent": "0 55 0 51 0 59",
        "Segment0_Tags": header["Segment0_Tags"],
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    status, terminology = header["Segment0_Tags"].rstrip("|").split("|")
    assert status == "Segmentation.Status:inprogress"
    assert terminology.startswith("TerminologyEntry:")
    parts = terminology.partition(":")[2].split("~")
    assert len(parts) == 7
    assert parts[2] == "SCT^108369006^Neoplasm"
    assert image.GetPixelID() == sitk.sitkUInt8
    again = read_mask(path, a_ct_phantom.scan.geometry)
    assert np.array_equal(again.array, a_ct_phantom.lesion.array)


@pytest.mark.parametrize(
    ("name", "color"), [("", (0, 0, 1)), (" \n", (0, 0, 1)), ("tumor", (0, 0, 255)), ("tumor", (-0.1, 0, 1))]
)
def test_a_segmentation_without_a_name_or_with_a_color_beyond_1_is_refused(
    tmp_path: Path, a_ct_phantom: Phantom, name: str, color: tuple[float, float, float]
) -> None:
    with pytest.raises(InputError, match="a segment name and a color of 0 to 1"):
        write_segmentation(a_ct_phantom.lesion, tmp_path / "a.seg.nrrd", name, color)


def test_a_segmentation_of_more_than_0_and_1_is_refused(tmp_path: Path, a_small_scan: Volume) -> None:
    with pytest.raises(InputError, match="a mask of 0 and 1, got values from -1000 to -881"):
        write_segmentation(a_small_scan, tmp_path / "a.seg.nrrd", "tumor", (1, 0, 0))


def test_a_segmentation_goes_to_seg_nrrd_only(tmp_path: Path, a_ct_phantom: Phantom) -> None:
    with pytest.raises(InputError, match=r"unknown suffix; expected \.seg\.nrrd"):
        write_segmentation(a_ct_phantom.lesion, tmp_path / "a.nrrd", "tumor", (1, 0, 0))


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        read_volume(str(tmp_path / "absent.nii.gz"))
    assert caught.value.code == "missing"


@pytest.mark.parametrize("name", ["scan.nii", "series"])
def test_a_name_that_is_no_text_is_refused_and_does_not_end_the_process(
    tmp_path: Path, a_small_scan: Volume, name: str
) -> None:
    odd = Path(os.fsdecode(b"M\xfcller"))
    for path in (tmp_path / odd / name, tmp_path / name / odd.with_suffix(".nii")):
        for use in (read_volume, read_geometry, find_source, lambda place: write_volume(a_small_scan, place)):
            with pytest.raises(InputError, match=r"is not UTF-8") as caught:
                use(path)
            assert caught.value.code == "name" and "rename" in caught.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems keep text only")
def test_a_slice_whose_name_is_no_text_is_refused(tmp_path: Path, a_ct_phantom: Phantom) -> None:
    files = write_dicom(a_ct_phantom.scan.cut((slice(0, 9), slice(0, 9), slice(0, 4))), tmp_path)
    files[1].rename(tmp_path / os.fsdecode(b"\xfc.dcm"))
    for use in (read_volume, read_geometry, find_source):
        with pytest.raises(InputError, match=r"\\udcfc\.dcm: its name"):
            use(tmp_path)


def test_what_the_file_system_refuses_is_told_as_it_says_it(tmp_path: Path) -> None:
    for use in (read_volume, read_geometry, find_source):
        with pytest.raises(InputError, match="cannot be read: File name too long") as caught:
            use(tmp_path / ("x" * 300))
        assert caught.value.code == "unreadable"


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, a_small_scan: Volume) -> None:
    for name in ("scan.jpg", "scan.dcm"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=r"unknown suffix; expected \.nii\.gz, \.nii, \.nrrd") as caught:
            read_volume(tmp_path / name)
        assert ("folder" in caught.value.hint) == (name == "scan.dcm")
    with pytest.raises(InputError, match=r"unknown suffix; expected \.nii\.gz, \.nii, \.nrrd, \.mha\."):
        write_volume(a_small_scan, tmp_path / "scan.mhd")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_other_content_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"scan{suffix}").write_bytes(b"not an image at all")
    with pytest.raises(InputError, match="scan"):
        read_volume(tmp_path / f"scan{suffix}")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, a_small_scan: Volume) -> None:
    write_volume(a_small_scan, tmp_path / "scan.nrrd")
    (tmp_path / "scan.nrrd").chmod(0)
    if os.access(tmp_path / "scan.nrrd", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_volume(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("array", "message", "code"),
    [
        (np.zeros((7, 8), np.float32), r"expected a 3D scan, got 2 dimensions of \(8, 7\)", "geometry"),
        (np.zeros((5, 7, 8, 3), np.uint8), "expected one value a voxel, got vector of 8-bit", "components"),
        (np.zeros((5, 7, 8), np.complex64), "expected one value a voxel, got (complex|vector) of 32-bit", "components"),
    ],
    ids=["2d", "color", "complex"],
)
def test_an_image_that_is_no_scan_is_refused(
    tmp_path: Path, suffix: str, array: np.ndarray, message: str, code: str
) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 4), str(tmp_path / f"scan{suffix}"))
    with pytest.raises(InputError, match=message) as caught:
        read_volume(tmp_path / f"scan{suffix}")
    assert caught.value.code == code


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_time_series_is_refused(tmp_path: Path, suffix: str) -> None:
    frames = [sitk.GetImageFromArray(np.full((5, 7, 8), t, np.float32)) for t in (1, 2)]
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / f"scan{suffix}"))
    with pytest.raises(GeometryError, match=r"expected a 3D scan, got 4 dimensions of \(8, 7, 5, 2\)"):
        read_volume(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize(
    ("suffix", "before", "sheared", "singular"),
    [
        (".nrrd", b"(-1,0,0) (0,-1,0)", b"(-1,0,0) (0.3,-1,0)", b"(-1,0,0) (-1,0,0)"),
        (
            ".mha",
            b"TransformMatrix = -1 0 0 0 -1",
            b"TransformMatrix = -1 0 0 0.3 -1",
            b"TransformMatrix = -1 0 0 -1 0",
        ),
    ],
)
def test_sheared_and_singular_axes_are_refused(
    tmp_path: Path, suffix: str, before: bytes, sheared: bytes, singular: bytes
) -> None:
    scan = Volume(np.arange(24.0).reshape(2, 3, 4), Geometry.from_spacing((2, 3, 4), (1.0, 1.0, 1.0)))
    path = tmp_path / f"scan{suffix}"
    write_volume(scan, path)
    content = path.read_bytes()
    assert before in content
    for after in (sheared, singular):
        path.write_bytes(content.replace(before, after))
        with pytest.raises(GeometryError, match=r"scan\.\w+: .*(sheared|singular)"):
            read_volume(path)


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_axes_whose_cosines_were_rounded_are_made_perpendicular_and_come_back_on_one_grid(
    tmp_path: Path, digits: int
) -> None:
    """An oblique scan of 460 mm as NRRD keeps it with few digits; NIfTI knows no shear, and what is written has to fit the scan."""
    turn = Rotation.from_euler("xyz", (17, 11, 23), degrees=True).as_matrix()
    vectors = " ".join(
        f"({','.join(f'{x:.{digits}f}' for x in axis * mm)})" for axis, mm in zip(turn.T, (0.9, 0.9, 3), strict=True)
    )
    header = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 512 4 60\n"
        f"space directions: {vectors}\nkinds: domain domain domain\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + bytes(512 * 4 * 60))
    scan = read_volume(tmp_path / "scan.nrrd")
    cosines = scan.geometry.direction.T @ scan.geometry.direction
    assert np.abs(cosines - np.eye(3)).max() < 1e-9
    write_volume(scan.with_array(np.zeros(scan.array.shape, np.uint8)), tmp_path / "mask.nii.gz")
    assert not read_mask(tmp_path / "mask.nii.gz", scan.geometry).array.any(), "on the scan's own grid"


def test_whole_numbers_that_float32_cannot_hold_are_refused(tmp_path: Path, a_small_scan: Volume) -> None:
    array = a_small_scan.array.astype(np.int32)
    array[0, 0, 0] = 1 << 24
    write_volume(a_small_scan.with_array(array), tmp_path / "scan.nrrd")
    assert read_volume(tmp_path / "scan.nrrd").array[0, 0, 0] == 1 << 24
    array[0, 0, 0] = -(1 << 24) - 1
    write_volume(a_small_scan.with_array(array), tmp_path / "scan.nrrd")
    with pytest.raises(InputError, match="from -16777217 to -881; beyond ±16777216"):
        read_volume(tmp_path / "scan.nrrd")


def test_nothing_but_the_file_is_left_and_an_older_one_is_replaced(tmp_path: Path, a_small_scan: Volume) -> None:
    for _ in range(2):
        write_volume(a_small_scan, tmp_path / "scan.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_a_missing_folder_is_a_storage_error(tmp_path: Path, a_small_scan: Volume) -> None:
    with pytest.raises(StorageError, match="there is no folder"):
        write_volume(a_small_scan, tmp_path / "absent" / "scan.nrrd")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="there is no folder"):
        write_volume(a_small_scan, tmp_path / "file" / "scan.nrrd")


def test_a_target_that_cannot_be_replaced_is_a_storage_error(tmp_path: Path, a_small_scan: Volume) -> None:
    (tmp_path / "scan.nrrd").mkdir()
    with pytest.raises(StorageError, match=r"Cannot write .*scan.nrrd") as caught:
        write_volume(a_small_scan, tmp_path / "scan.nrrd")
    assert "MB free" in caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nrrd"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_may_not_be_written_is_a_storage_error(tmp_path: Path, a_small_scan: Volume, suffix: str) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    try:
        with pytest.raises(StorageError, match="Cannot write") as caught:
            write_volume(a_small_scan, tmp_path / f"scan{suffix}")
    finally:
        tmp_path.chmod(0o700)
    assert "not writable for you" in caught.value.hint


_FILLS_THE_DISK = """
import resource, sys
import numpy as np
from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.volumes.io import write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))  # no file may grow beyond 20 kB
scan = Volume(np.random.default_rng(0).normal(size=(30, 30, 30)).astype(np.float32), Geometry((30, 30, 30), np.eye(4)))
codes = []
for compressed in (True, False):
    try:
        write_volume(scan, sys.argv[1], compressed=compressed)
    except StorageError as error:
        codes.append(error.exit_code)
sys.exit(codes[0] if len(codes) == 2 else 1)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_may_be_written_without_compression(tmp_path: Path, a_small_scan: Volume, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(a_small_scan, path, compressed=False)
    back = read_volume(path)
    assert np.array_equal(back.array, a_small_scan.array) and not back.geometry.difference(a_small_scan.geometry)
    assert suffix == ".nii.gz" or path.stat().st_size >= a_small_scan.array.nbytes


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_noticed_and_the_older_file_is_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(b"older")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _FILLS_THE_DISK, str(path)], cwd=root, capture_output=True, check=False
    )
    assert done.returncode == StorageError.exit_code, done.stderr.decode()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_says_nothing_on_the_console(
    tmp_path: Path, a_small_scan: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    write_volume(a_small_scan, tmp_path / "scan.nii.gz")
    read_volume(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError):
        read_volume(tmp_path)  # a folder without DICOM, of which ITK would warn
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ""], ids=[*SUFFIXES, "dicom"])
def test_the_grid_is_read_without_the_voxels(tmp_path: Path, a_small_scan: Volume, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    if suffix:
        write_volume(a_small_scan, path)
    else:
        write_dicom(Volume(a_small_scan.array, a_small_scan.geometry, "CT"), path)
    expected = read_volume(path).geometry
    if suffix:
        path.write_bytes(path.read_bytes()[:-8])
    given = read_geometry(path)
    assert given.shape == expected.shape
    np.testing.assert_allclose(given.ijk_to_ras, expected.ijk_to_ras, atol=1e-4)


def test_a_grid_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_geometry(tmp_path / "none.nii.gz")
    (tmp_path / "words.nrrd").write_text("words")
    with pytest.raises(InputError, match="cannot be read"):
        read_geometry(tmp_path / "words.nrrd")
