"""Damage and silence that ITK would pass over."""

from __future__ import annotations

import gzip
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from phantoms import grid
from scipy.spatial.transform import Rotation

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.intact import require_intact
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@pytest.fixture
def a_noisy_scan() -> Volume:
    """Noise, which cannot be compressed away."""
    return Volume(np.random.default_rng(0).normal(size=(20, 22, 24)).astype(np.float32), grid((20, 22, 24)))


def _nifti(path: Path, scan: Volume, edits: dict[int, bytes]) -> Path:
    write_volume(scan, path)
    content = bytearray(path.read_bytes())
    for start, new in edits.items():
        content[start : start + len(new)] = new
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_whole_file_passes(tmp_path: Path, a_noisy_scan: Volume, suffix: str) -> None:
    write_volume(a_noisy_scan, tmp_path / f"scan{suffix}")
    require_intact(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_file_cut_short_is_refused(tmp_path: Path, a_noisy_scan: Volume, suffix: str, share: float) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(a_noisy_scan, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"ends early") as caught:
        read_volume(path)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_damage_in_the_middle_of_compressed_voxels_is_refused(
    tmp_path: Path, a_noisy_scan: Volume, suffix: str
) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(a_noisy_scan, path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: its compressed data do not unpack"):
        read_volume(path)


def test_a_whole_gzip_stream_that_holds_too_few_voxels_is_refused(tmp_path: Path, a_noisy_scan: Volume) -> None:
    write_volume(a_noisy_scan, tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()
    assert len(content) == 352 + 4 * 20 * 22 * 24 == 42592
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(InputError, match="expected 42592 bytes, got 42591"):
        read_volume(tmp_path / "scan.nii.gz")


def test_gzip_in_several_members_and_with_padding_is_one_file(tmp_path: Path, a_noisy_scan: Volume) -> None:
    write_volume(a_noisy_scan, tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(64))
    assert np.array_equal(read_volume(tmp_path / "two.nii.gz").array, a_noisy_scan.array)
    (tmp_path / "filled.nii.gz").write_bytes(gzip.compress(content) + bytes(200_000))
    assert np.array_equal(read_volume(tmp_path / "filled.nii.gz").array, a_noisy_scan.array)


def test_what_follows_the_voxels_of_a_nifti_is_not_looked_at(tmp_path: Path, a_noisy_scan: Volume) -> None:
    write_volume(a_noisy_scan, tmp_path / "scan.nii")
    with (tmp_path / "scan.nii").open("ab") as file:
        file.write(np.full(3, np.nan, np.float32).tobytes() + b"odd")
    assert np.array_equal(read_volume(tmp_path / "scan.nii").array, a_noisy_scan.array)


def test_a_big_endian_nifti_is_read(tmp_path: Path) -> None:
    header = bytearray(352)
    struct.pack_into(">i", header, 0, 348)
    struct.pack_into(">8h", header, 40, 3, 2, 1, 1, 1, 1, 1, 1)
    struct.pack_into(">2h", header, 70, 4, 16)
    struct.pack_into(">8f", header, 76, 1, 2, 3, 4, 1, 1, 1, 1)
    struct.pack_into(">f", header, 108, 352)
    struct.pack_into(">2h", header, 252, 0, 1)
    struct.pack_into(">12f", header, 280, 2, 0, 0, 5, 0, 3, 0, 6, 0, 0, 4, 7)
    header[344:348] = b"n+1\0"
    (tmp_path / "big.nii").write_bytes(header + struct.pack(">2h", 300, -300))
    scan = read_volume(tmp_path / "big.nii")
    assert scan.array.ravel().tolist() == [300, -300]
    assert scan.geometry.ijk_to_ras.tolist() == [[2, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]]
    (tmp_path / "big.nii").write_bytes(header + b"\0")
    with pytest.raises(InputError, match="expected 356 bytes, got 353"):
        require_intact(tmp_path / "big.nii")


def test_a_file_that_is_no_nifti_is_refused(tmp_path: Path) -> None:
    for content in (b"", bytes(400)):
        (tmp_path / "scan.nii").write_bytes(content)
        with pytest.raises(InputError, match="is not a NIfTI-1 file"):
            require_intact(tmp_path / "scan.nii")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_nifti_of_version_2_is_called_so_whether_packed_or_not(tmp_path: Path, order: str) -> None:
    content = struct.pack(f"{order}i", 540) + b"n+2\0\r\n\x1a\n" + bytes(1000)
    for path, written in ((tmp_path / "scan.nii", content), (tmp_path / "scan.nii.gz", gzip.compress(content))):
        path.write_bytes(written)
        with pytest.raises(InputError, match=r"is a NIfTI-2 file; expected NIfTI-1\.") as caught:
            read_volume(path)
        assert caught.value.code == "unreadable" and "NIfTI-1 (.nii.gz) or as .nrrd" in caught.value.hint


@pytest.mark.parametrize("header", [struct.pack("<i", 540), b"no header"])
def test_of_a_packed_file_with_another_header_no_more_than_its_beginning_is_unpacked(
    tmp_path: Path, header: bytes
) -> None:
    path = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).bytes(20_000_000)
    path.write_bytes(gzip.compress(header + noise, 1)[:-9])  # what it lacks at its end is not missed
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="NIfTI-1"):
            require_intact(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6


def test_a_nifti_without_orientation_is_refused(tmp_path: Path, a_noisy_scan: Volume) -> None:
    path = _nifti(tmp_path / "scan.nii", a_noisy_scan, {252: struct.pack("<2h", 0, 0)})
    with pytest.raises(GeometryError, match="does not say where its voxels lie: qform_code and sform_code are both 0"):
        read_volume(path)


@pytest.mark.parametrize("qform", [0, 1])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, 0.6, 0, 0), r"scan\.nii: The voxel axes are sheared"),
        ((0, 0, 0, 0), r"scan\.nii: The ijk_to_ras matrix is singular"),
        ((3, 0, 0, 0), r"states two voxel sizes: \[2.0, 2.0, 2.0\] mm \(pixdim\) and \[3.0, 2.0, 2.0\] mm \(sform\)"),
    ],
    ids=["sheared", "singular", "contradiction"],
)
def test_a_bad_sform_is_refused_even_where_itk_would_take_the_qform(
    tmp_path: Path, a_noisy_scan: Volume, qform: int, row: tuple[float, ...], message: str
) -> None:
    sform = struct.pack("<12f", *row, 0, 2, 0, 0, 0, 0, 2, 0)
    path = _nifti(tmp_path / "scan.nii", a_noisy_scan, {252: struct.pack("<2h", qform, 1), 280: sform})
    with pytest.raises(GeometryError, match=message):
        read_volume(path)


@pytest.mark.parametrize("code", [1, 2, 4])
def test_two_places_that_differ_are_refused_whichever_a_reader_would_take(
    tmp_path: Path, a_noisy_scan: Volume, code: int
) -> None:
    content = _nifti(tmp_path / "scan.nii", a_noisy_scan, {252: struct.pack("<2h", 1, code)}).read_bytes()
    sform = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)
    for shift_mm, is_refused in ((0.1, False), (12.0, True)):
        moved = sform + np.array([0, 0, 0, shift_mm])
        path = _nifti(
            tmp_path / "scan.nii", a_noisy_scan, {252: struct.pack("<2h", 1, code), 280: moved.astype("<f4").tobytes()}
        )
        if is_refused:
            with pytest.raises(GeometryError, match=r"two places that lie up to 20\.8 mm apart"):
                read_volume(path)
        else:
            read_volume(path)


def test_two_places_more_than_half_of_the_smallest_side_apart_differ(tmp_path: Path, a_noisy_scan: Volume) -> None:
    thick = Volume(a_noisy_scan.array, grid((20, 22, 24), (0.7, 0.7, 5.0)))
    content = _nifti(tmp_path / "scan.nii", thick, {}).read_bytes()
    sform = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)
    sform[0, 3] += 1
    path = _nifti(tmp_path / "scan.nii", thick, {252: struct.pack("<2h", 1, 1), 280: sform.astype("<f4").tobytes()})
    with pytest.raises(GeometryError, match=r"two places that lie up to 1 mm apart"):
        read_volume(path)


@pytest.mark.parametrize("tilt_deg", [0.0, 3.0, 9.5, 17.25, 29.0, 38.5])
def test_a_large_grid_turned_by_180_degrees_is_written_and_read(tmp_path: Path, tilt_deg: float) -> None:
    """Of such a turn the quaternion's first number is 0, and rounding the others must not tilt the grid."""
    turned = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = turned * [0.35, 0.35, 0.4]
    volume = Volume(np.zeros((1300, 2, 1300), np.uint8), Geometry((1300, 2, 1300), matrix))
    write_volume(volume, tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").geometry.difference(volume.geometry) == ""


def test_a_nifti_with_a_qform_only_is_read(tmp_path: Path, a_noisy_scan: Volume) -> None:
    path = _nifti(tmp_path / "scan.nii", a_noisy_scan, {254: struct.pack("<h", 0), 280: bytes(48)})
    assert read_volume(path).geometry.difference(a_noisy_scan.geometry) == ""


@pytest.mark.parametrize("sform", [0, 1])
@pytest.mark.parametrize(
    ("place", "number", "said"),
    [
        (80, 0.0, r"\[0.0, 2.0, 2.0\] mm"),
        (84, -2.0, r"\[2.0, -2.0, 2.0\] mm"),
        (88, np.nan, r"\[2.0, 2.0, nan\] mm"),
        (256, np.nan, r"got \[nan, "),
        (268, np.inf, r"inf, "),
    ],
    ids=["a side of 0", "a negative side", "a side of NaN", "quaternion", "offset"],
)
def test_a_qform_that_itk_would_mend_is_refused(
    tmp_path: Path, a_noisy_scan: Volume, sform: int, place: int, number: float, said: str
) -> None:
    codes = {252: struct.pack("<2h", 1, sform)}
    path = _nifti(tmp_path / "scan.nii", a_noisy_scan, codes | {place: struct.pack("<f", number)})
    with pytest.raises(GeometryError, match=said):
        read_volume(path)
    mask = Volume(np.ones(a_noisy_scan.array.shape, np.uint8), a_noisy_scan.geometry)
    path = _nifti(tmp_path / "mask.nii", mask, codes | {place: struct.pack("<f", number)})
    with pytest.raises(GeometryError, match=said):
        read_mask(path, a_noisy_scan.geometry)


@pytest.mark.parametrize(
    ("suffix", "pattern", "missing"),
    [
        (".nrrd", rb"space: .*\n", "the header has no 'space'"),
        (".nrrd", rb"space directions: .*\n", "the header has no 'space directions'"),
        (".nrrd", rb"space origin: .*\n", "the header has no 'space origin'"),
        (".mha", rb"ElementSpacing = .*\n", "the header has no 'ElementSpacing'"),
        (".mha", rb"TransformMatrix = .*\n", "the header has no 'TransformMatrix'"),
        (".mha", rb"Offset = .*\n", "the header has no 'Offset'"),
    ],
)
def test_a_header_without_spacing_or_orientation_is_refused_and_gets_no_default(
    tmp_path: Path, a_noisy_scan: Volume, suffix: str, pattern: bytes, missing: str
) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(a_noisy_scan, path)
    changed, count = re.subn(pattern, b"", path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(changed)
    with pytest.raises(GeometryError, match=missing):
        read_volume(path)


def test_a_space_that_is_not_of_the_patient_is_refused(tmp_path: Path, a_noisy_scan: Volume) -> None:
    path = tmp_path / "scan.nrrd"
    write_volume(a_noisy_scan, path)
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", b"3D-right-handed"))
    with pytest.raises(GeometryError, match="its space is '3D-right-handed', expected one of"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_voxels_of_a_nifti_are_refused_though_itk_reads_zero(
    tmp_path: Path, suffix: str, bad: float
) -> None:
    array = np.zeros((4, 5, 6), dtype=np.float32)
    array[1, 2, 3] = 7.0
    path = tmp_path / f"scan{suffix}"
    write_volume(Volume(array, Geometry.from_spacing((4, 5, 6), (1.0, 1.0, 1.0))), path)
    data = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    spoiled = data.replace(np.float32(7.0).tobytes(), np.float32(bad).tobytes())
    assert spoiled != data
    path.write_bytes(gzip.compress(spoiled) if suffix == ".nii.gz" else spoiled)
    with pytest.raises(InputError, match="1 NaN or infinite voxels of 120") as caught:
        read_volume(path)
    assert caught.value.code == "not_finite"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_large_file_of_floats_is_never_held_whole(tmp_path: Path, suffix: str) -> None:
    """96 MB, in blocks that end within a voxel, the last one infinite."""
    array = np.tile(np.random.default_rng(0).normal(size=(200, 200, 1)), (1, 1, 300))
    write_volume(Volume(array, grid(array.shape)), tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()[:-8] + struct.pack("<d", np.inf)
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="1 NaN or infinite voxels of 12000000"):
            require_intact(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6 < array.nbytes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_intercept_without_a_slope_is_refused_since_itk_would_add_it(
    tmp_path: Path, a_noisy_scan: Volume, suffix: str
) -> None:
    whole = a_noisy_scan.with_array((100 * a_noisy_scan.array).astype(np.int16))
    for slope, intercept, refused in ((0, -1024, True), (0, 0, False), (1, -1024, False)):
        plain = _nifti(tmp_path / "plain.nii", whole, {112: struct.pack("<2f", slope, intercept)})
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(gzip.compress(plain.read_bytes()) if suffix == ".nii.gz" else plain.read_bytes())
        if not refused:
            assert np.array_equal(read_volume(path).array, whole.array + np.float32(intercept))
            continue
        with pytest.raises(InputError, match=r"an intercept of -1024 \(scl_inter\) without a slope") as caught:
            read_volume(path)
        assert "write the file again" in caught.value.hint


def _with_line(path: Path, scan: Volume, line: str, before: bytes) -> Path:
    """Write a scan, uncompressed, and a line more in its header."""
    write_volume(scan, path, compressed=False)
    path.write_bytes(path.read_bytes().replace(before, f"{line}\n".encode() + before, 1))
    return path


def test_lengths_of_a_nrrd_that_are_no_millimeters_are_refused(tmp_path: Path, a_noisy_scan: Volume) -> None:
    """ITK takes the numbers for mm: of centimeters, volumes would be a thousandth."""
    for unit in ("cm", "um", "m"):
        line = f'space units: "{unit}" "{unit}" "{unit}"'
        path = _with_line(tmp_path / "scan.nrrd", a_noisy_scan, line, b"space origin")
        with pytest.raises(GeometryError, match=f"states lengths in '{unit}'"):
            read_volume(path)
    path = _with_line(tmp_path / "scan.nrrd", a_noisy_scan, 'space units: "mm" "mm" "mm"', b"space origin")
    assert read_volume(path).geometry.difference(a_noisy_scan.geometry) == ""


@pytest.mark.parametrize("line", ["Slope = 2", "Offset = -1024"])
def test_a_slope_or_offset_of_a_metaimage_is_refused_since_itk_leaves_it_out(
    tmp_path: Path, a_noisy_scan: Volume, line: str
) -> None:
    path = _with_line(tmp_path / "scan.mha", a_noisy_scan, f"ElementToIntensityFunction{line}", b"ElementDataFile")
    with pytest.raises(InputError, match=r"states a slope of .* and an offset of .*, which are not applied") as caught:
        read_volume(path)
    assert caught.value.code == "unreadable"
    path = _with_line(path, a_noisy_scan, "ElementToIntensityFunctionSlope = 1", b"ElementDataFile")
    assert np.array_equal(read_volume(path).array, a_noisy_scan.array)


def test_a_metaimage_with_too_few_voxels_is_refused_in_our_words(
    tmp_path: Path, a_noisy_scan: Volume, capfd: pytest.CaptureFixture[str]
) -> None:
    write_volume(a_noisy_scan, tmp_path / "scan.mha", compressed=False)
    assert np.array_equal(read_volume(tmp_path / "scan.mha").array, a_noisy_scan.array)
    (tmp_path / "scan.mha").write_bytes((tmp_path / "scan.mha").read_bytes()[:-10])
    with pytest.raises(InputError, match=r"scan.mha ends early: expected 42240 bytes of voxels, got 42230"):
        read_volume(tmp_path / "scan.mha")
    assert capfd.readouterr() == ("", "")
