"""DICOM folders: one series becomes one box, or is refused with the reason and the place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import Phantom, grid, write_dicom

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.dicom import without_warnings
from DiffuGTSLib.volumes.io import read_geometry, read_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume


@pytest.fixture
def a_small_ct() -> Volume:
    """Five by six by seven voxels of distinct HU on an oblique grid of 0.7 x 0.7 x 2.5 mm."""
    geometry = grid((5, 6, 7), (0.7, 0.7, 2.5), np.diag([-1.0, -1.0, 1.0]), degrees=(12, -7, 21))
    return Volume(np.arange(210, dtype=np.int16).reshape(5, 6, 7) - 1000, geometry, "CT")


def _placed(scan: Volume, k: int, moved_mm: tuple[float, float, float]) -> dict[str, str]:
    """Return the ImagePositionPatient tag of slice k, moved along (i, j, k)."""
    ras = scan.geometry.to_ras(np.array([0, 0, k])) + scan.geometry.direction @ moved_mm
    return {"0020|0032": "\\".join(f"{v:.10g}" for v in ras * (-1, -1, 1))}


def test_a_series_comes_back_exactly_whatever_the_order_of_its_names(tmp_path: Path, a_small_ct: Volume) -> None:
    write_dicom(a_small_ct, tmp_path)
    scan = read_volume(tmp_path)
    assert np.array_equal(scan.array, a_small_ct.array)
    assert scan.array.dtype == np.float32
    assert np.abs(scan.geometry.ijk_to_ras - a_small_ct.geometry.ijk_to_ras).max() <= 1e-4
    assert scan.modality == "CT"


def test_the_modality_of_mr_is_known_too(tmp_path: Path, an_mr_phantom: Phantom) -> None:
    crop = an_mr_phantom.scan.array[20:30, 20:30, 20:24]
    write_dicom(Volume(crop, grid(crop.shape), "MR"), tmp_path)
    assert read_volume(tmp_path).modality == "MR"


def test_rescale_slope_and_intercept_are_applied_slice_by_slice(tmp_path: Path, a_small_ct: Volume) -> None:
    slopes = [1.0, 1.5, 2.0, 0.25, 1.0, 3.0, 1.0]
    native = np.broadcast_to(np.array(slopes) * 10 - 4, (5, 6, 7))  # 10 is stored in every voxel
    tags = {k: {"0028|1053": str(slope), "0028|1052": "-4"} for k, slope in enumerate(slopes)}
    write_dicom(a_small_ct.with_array(native), tmp_path, slice_tags=tags)
    # The first slice's values are whole; the fraction of the fourth must not be lost.
    assert read_volume(tmp_path).array[0, 0].tolist() == [6, 11, 16, -1.5, 6, 26, 6]


@pytest.mark.parametrize("shown", [True, False])
def test_itk_says_as_much_as_before_whichever_thread_is_done_first(shown: bool) -> None:
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    try:
        first, second = without_warnings(), without_warnings()
        with ThreadPoolExecutor(2) as threads:
            for step in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
                threads.submit(step).result()
                assert not sitk.ProcessObject.GetGlobalWarningDisplay()
            threads.submit(second.__exit__, None, None, None).result()
        assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="expected one CT or MR series, got no DICOM images") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "dicom_series"


def test_two_series_are_refused_with_what_each_is(tmp_path: Path, a_small_ct: Volume) -> None:
    write_dicom(a_small_ct, tmp_path)
    write_dicom(a_small_ct, tmp_path, {"0008|103e": "Bone kernel DOE JANE"}, series=2)
    with pytest.raises(InputError, match="expected one CT or MR series, got 2") as caught:
        read_volume(tmp_path)
    assert "CT of 7 file(s), first s1_001.dcm, uid 1.2.826.0.1.3680043.2.1125.99.1" in caught.value.message
    assert "CT of 7 file(s), first s2_001.dcm" in caught.value.message
    assert "DOE" not in caught.value.message, "the description may hold a name, and messages end in logs and tables"
    assert "one series only" in caught.value.hint


def test_other_objects_beside_the_scan_are_passed_over_but_are_no_scan_themselves(
    tmp_path: Path, a_small_ct: Volume
) -> None:
    write_dicom(a_small_ct, tmp_path / "both")
    write_dicom(a_small_ct, tmp_path / "both", {"0008|0060": "PT"}, series=2)
    assert np.array_equal(read_volume(tmp_path / "both").array, a_small_ct.array)
    write_dicom(a_small_ct, tmp_path / "alone", {"0008|0060": "PT"})
    with pytest.raises(InputError, match="expected one CT or MR series, got 0: PT of 7"):
        read_volume(tmp_path / "alone")


@pytest.mark.parametrize(
    ("kind", "code"),
    [("481.3", "no_scan"), ("88.11", "no_scan"), ("2", "dicom_series"), ("4.1", "dicom_series"), ("", "dicom_series")],
)
def test_a_folder_of_structures_or_reports_is_told_from_one_of_damaged_slices(
    tmp_path: Path, kind: str, code: str
) -> None:
    uid = f"1.2.840.10008.5.1.4.1.1.{kind}".encode() if kind else b""
    uid += bytes(len(uid) % 2)
    element = b"\x02\0\x02\0UI" + len(uid).to_bytes(2, "little") + uid
    (tmp_path / "1.dcm").write_bytes(bytes(128) + b"DICM" + element)
    with pytest.raises(InputError, match="expected one CT or MR series") as caught:
        read_volume(tmp_path)
    assert caught.value.code == code
    assert ("DICOM objects of other kinds" in caught.value.message) == (code == "no_scan")


def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path, a_small_ct: Volume) -> None:
    files = write_dicom(a_small_ct, tmp_path)
    files[4].unlink()
    with pytest.raises(GeometryError, match="lacks 1 slice") as caught:
        read_volume(tmp_path)
    assert "a gap of 5 mm where 2.5 mm is usual" in caught.value.message
    assert f"between {files[3].name} and {files[5].name}, 7.5 mm into the series" in caught.value.message


def test_uneven_slices_are_refused_and_rounded_positions_are_not(tmp_path: Path, a_small_ct: Volume) -> None:
    write_dicom(a_small_ct, tmp_path, slice_tags={3: _placed(a_small_ct, 3, (0, 0, 0.1))})  # 4 % of the distance
    assert read_volume(tmp_path).geometry.spacing_mm[2] == pytest.approx(2.5, abs=1e-6)
    files = write_dicom(a_small_ct, tmp_path, slice_tags={3: _placed(a_small_ct, 3, (0, 0, 0.4))})
    with pytest.raises(GeometryError, match=r"unevenly spaced: 2\.1 to 2\.9 mm \(allowed 5% of 2\.5 mm\)") as caught:
        read_volume(tmp_path)
    assert files[3].name in caught.value.message


def test_gaps_that_are_all_nearly_right_may_not_add_up(tmp_path: Path) -> None:
    """Twenty gaps of 2.45 mm and twenty of 2.55: the middle of the scan lies 1 mm from where an even grid has it."""
    scan = Volume(np.zeros((2, 2, 41), np.int16), grid((2, 2, 41), (0.7, 0.7, 2.5), np.diag([-1.0, -1.0, 1.0])), "CT")
    late_mm = 0.05 * np.abs(np.arange(41) - 20) - 1
    write_dicom(scan, tmp_path, slice_tags={k: _placed(scan, k, (0, 0, late_mm[k])) for k in range(41)})
    with pytest.raises(GeometryError, match=r"unevenly spaced: 2\.45 to 2\.55 mm"):
        read_volume(tmp_path)


def test_slices_at_one_position_are_refused(tmp_path: Path, a_small_ct: Volume) -> None:
    files = write_dicom(a_small_ct, tmp_path, slice_tags={3: _placed(a_small_ct, 2, (0, 0, 0))})
    with pytest.raises(GeometryError, match="Several slices lie at one position: between") as caught:
        read_volume(tmp_path)
    assert files[2].name in caught.value.message
    assert "5 mm into the series" in caught.value.message


def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path: Path, a_small_ct: Volume) -> None:
    step = 2.5 * np.tan(np.radians(15))
    write_dicom(a_small_ct, tmp_path, slice_tags={k: _placed(a_small_ct, k, (0, k * step, 0)) for k in range(7)})
    with pytest.raises(GeometryError, match=r"sheared \(gantry tilt of about 15\.0 degrees\)") as caught:
        read_volume(tmp_path)
    assert "up to 4.019 mm sideways, allowed 0.1 mm" in caught.value.message


def test_a_drift_that_is_allowed_is_straightened_whether_voxels_are_read_or_not(
    tmp_path: Path, a_small_ct: Volume
) -> None:
    slices = a_small_ct.geometry.shape[2]
    drift_mm = np.linspace(0, 0.08, slices)
    write_dicom(
        a_small_ct, tmp_path, slice_tags={k: _placed(a_small_ct, k, (0, drift_mm[k], 0)) for k in range(slices)}
    )
    read, planned = read_volume(tmp_path).geometry, read_geometry(tmp_path)
    assert planned.shape == read.shape
    np.testing.assert_allclose(planned.ijk_to_ras, read.ijk_to_ras, atol=1e-4)


def test_a_drift_that_adds_up_to_more_than_a_tenth_of_a_millimeter_is_refused(
    tmp_path: Path, a_small_ct: Volume
) -> None:
    slices = a_small_ct.geometry.shape[2]
    tags = {k: _placed(a_small_ct, k, (0, 0.3 * k / (slices - 1), 0)) for k in range(slices)}
    write_dicom(a_small_ct, tmp_path, slice_tags=tags)
    with pytest.raises(GeometryError, match=r"stray up to 0\.3 mm sideways, allowed 0\.1 mm"):
        read_volume(tmp_path)


@pytest.mark.parametrize("turned", ["row", "column"])
def test_several_orientations_in_one_series_are_refused(tmp_path: Path, a_small_ct: Volume, turned: str) -> None:
    """A slice that is turned about its row or its column: the other direction is that of all."""
    x, y, z = (a_small_ct.geometry.direction[:, axis] * (-1, -1, 1) for axis in range(3))
    angle = np.deg2rad(5)
    row = np.cos(angle) * x + np.sin(angle) * z if turned == "row" else x
    column = np.cos(angle) * y + np.sin(angle) * z if turned == "column" else y
    said = "\\".join(f"{value:.8f}" for value in (*row, *column))
    write_dicom(a_small_ct, tmp_path, slice_tags={0: {"0020|0037": said}})
    with pytest.raises(GeometryError, match=r"several orientations: .* differ by .* in a direction cosine"):
        read_volume(tmp_path)


@pytest.mark.parametrize("other", [grid((5, 5, 1), (0.7, 0.7, 2.5)), grid((5, 6, 1), (0.8, 0.7, 2.5))])
def test_several_sizes_in_one_series_are_refused(tmp_path: Path, a_small_ct: Volume, other: Geometry) -> None:
    files = write_dicom(a_small_ct, tmp_path)
    (odd,) = write_dicom(Volume(np.zeros(other.shape), other, "CT"), tmp_path / "odd")
    odd.replace(files[3])
    with pytest.raises(GeometryError, match=r"differ in size: .* has columns, rows and mm \(5, "):
        read_volume(tmp_path)


def test_a_single_slice_is_refused(tmp_path: Path, a_small_ct: Volume) -> None:
    for file in write_dicom(a_small_ct, tmp_path)[1:]:
        file.unlink()
    with pytest.raises(
        GeometryError, match=r"s1_007\.dcm is a single slice; expected a series of at least 2"
    ) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "single_slice"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"0020|0032": ""}, r"expected 3 numbers in ImagePositionPatient \(0020,0032\), got"),
        ({"0020|0037": "1\\0\\0"}, r"expected 6 numbers in ImageOrientationPatient \(0020,0037\), got"),
    ],
)
def test_slices_without_a_place_are_refused(
    tmp_path: Path, a_small_ct: Volume, tags: dict[str, str], message: str
) -> None:
    for file in write_dicom(a_small_ct, tmp_path):
        _without_place(file, tags)
    with pytest.raises(GeometryError, match=message):
        read_volume(tmp_path)


def _without_place(file: Path, tags: dict[str, str]) -> None:
    """Blank a value inside the file, since the writer would put a default of its own."""
    content = file.read_bytes()
    for tag, text in tags.items():
        group, element = (bytes.fromhex(part)[::-1] for part in tag.split("|"))
        start = content.index(group + element)
        length = int.from_bytes(content[start + 4 : start + 8], "little")
        value = text.encode().ljust(length)
        content = content[: start + 8] + value + content[start + 8 + length :]
    file.write_bytes(content)


def test_a_multi_frame_file_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), dtype=np.int16))
    image.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(image, str(tmp_path / "frames.dcm"))
    with pytest.raises(InputError, match=r"frames\.dcm is a multi-frame DICOM file \(3 frames\)") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "dicom_multiframe"


def test_a_color_image_is_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 3), dtype=np.uint8), isVector=True)
    image.SetMetaData("0008|0060", "MR")
    sitk.WriteImage(image, str(tmp_path / "color.dcm"))
    with pytest.raises(InputError, match=r"color\.dcm is a color image; expected one value a voxel"):
        read_volume(tmp_path)


def test_a_slice_whose_voxels_are_cut_off_is_refused(tmp_path: Path, a_small_ct: Volume) -> None:
    files = write_dicom(a_small_ct, tmp_path)
    content = files[3].read_bytes()
    files[3].write_bytes(content[:-30])
    with pytest.raises(InputError):
        read_volume(tmp_path)


@pytest.mark.parametrize("left", [0, 60, 131, 132, 400, -100, -1], ids=lambda left: f"{left} bytes")
@pytest.mark.parametrize("where", [slice(0, 2), slice(-2, None)], ids=["first", "last"])
def test_damaged_slices_at_an_end_of_the_series_are_refused_by_name(
    tmp_path: Path, a_small_ct: Volume, where: slice, left: int
) -> None:
    """GDCM passes them over, and the scan would be two slices shorter without a word."""
    files = write_dicom(a_small_ct, tmp_path)[where]
    for file in files:
        file.write_bytes(file.read_bytes()[:left])
    for reader in (read_volume, read_geometry):
        with pytest.raises(InputError, match=r"2 file\(s\) of the series are empty or end early: s1_00") as caught:
            reader(tmp_path)
        assert caught.value.code == "dicom_damaged" and "5 are whole" in caught.value.message
        assert all(file.name in caught.value.message for file in files)


def test_an_empty_slice_is_known_by_its_name_where_names_have_no_suffix(tmp_path: Path, a_small_ct: Volume) -> None:
    for number, file in enumerate(write_dicom(a_small_ct, tmp_path)):
        file.replace(tmp_path / f"IM{number}")
    (tmp_path / "IM6").write_bytes(b"")
    (tmp_path / "LOCK").touch()
    with pytest.raises(InputError, match=r"1 file\(s\) of the series are empty or end early: IM6;"):
        read_volume(tmp_path)


def test_what_is_no_slice_may_lie_beside_the_scan(tmp_path: Path, a_small_ct: Volume) -> None:
    files = write_dicom(a_small_ct, tmp_path)
    content = files[0].read_bytes()
    structures = content.replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.66")
    assert structures != content
    (tmp_path / "structures.dcm").write_bytes(structures[:400])
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "._s1_001.dcm").write_bytes(b"")
    (tmp_path / "readme.txt").write_text("seven slices")
    (tmp_path / "empty.txt").touch()
    assert np.array_equal(read_volume(tmp_path).array, a_small_ct.array)


_STORED_UNSIGNED = {"0028|0101": "12", "0028|0102": "11", "0028|0103": "0", "0028|1053": "1.5", "0028|1052": "-1024"}


@pytest.mark.parametrize("tags", [{}, {"0028|1053": "0.25", "0028|1052": "-4"}, _STORED_UNSIGNED])
@pytest.mark.parametrize("codec", ["", "JPEG2000", "JPEG"])
def test_what_is_to_be_shown_inverted_is_read_as_it_is_stored(tmp_path: Path, tags: dict[str, str], codec: str) -> None:
    """MONOCHROME1 says that the largest value is black; HU are slope · stored + intercept all the same."""
    slope, intercept = float(tags.get("0028|1053", 1)), float(tags.get("0028|1052", 0))
    stored = np.arange(16 * 18 * 3).reshape(16, 18, 3)
    scan = Volume(stored * slope + intercept, grid(stored.shape, (0.7, 0.7, 2.5), np.diag([-1.0, -1.0, 1.0])), "CT")
    for file in write_dicom(scan, tmp_path, tags, codec=codec):
        _inverted(file)
    assert np.array_equal(read_volume(tmp_path).array, scan.array)


def _inverted(file: Path) -> None:
    """Make a file say MONOCHROME1, its stored values untouched."""
    content = file.read_bytes()
    assert b"MONOCHROME2" in content
    file.write_bytes(content.replace(b"MONOCHROME2", b"MONOCHROME1"))


def test_an_inverted_file_that_cannot_be_read_as_stored_is_refused(tmp_path: Path, a_small_ct: Volume) -> None:
    for file in write_dicom(a_small_ct, tmp_path):
        file.write_bytes(file.read_bytes().replace(b"MONOCHROME2 ", b" MONOCHROME1"))
    with pytest.raises(InputError, match=r"\.dcm is MONOCHROME1 and deflated or written oddly") as caught:
        read_volume(tmp_path)
    assert caught.value.code == "dicom_inverted"
