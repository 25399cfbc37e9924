"""A scan is known again by the bytes that its voxels come from, whatever it is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import ct_phantom, grid, orientations, reoriented, write_dicom

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import dicom
from DiffuGTSLib.volumes.digest import scan_sha256, voxels_sha256
from DiffuGTSLib.volumes.io import find_source, read_volume, write_volume


def test_the_digest_of_a_file_is_what_sha256sum_prints_for_it(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"voxels")
    assert scan_sha256(tmp_path / "scan.nii.gz") == hashlib.sha256(b"voxels").hexdigest()


def test_the_digest_of_a_dicom_folder_covers_its_slices_in_order(tmp_path: Path) -> None:
    scan = ct_phantom(grid((8, 9, 4), (6.0, 6.0, 6.0))).scan
    files = write_dicom(scan, tmp_path / "series")
    expected = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    for number, file in enumerate(reversed(files)):  # the names say another order
        file.rename(file.with_name(f"{number}.dcm"))
    (tmp_path / "series" / "notes.txt").write_text("no slice")
    assert scan_sha256(tmp_path / "series") == expected


def test_a_series_is_looked_up_once_for_its_digest_and_its_voxels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each header is read once, and one more for the series' modality; after that none."""
    scan = ct_phantom(grid((8, 9, 4), (6.0, 6.0, 6.0))).scan
    write_dicom(scan, tmp_path)
    expected = (scan_sha256(tmp_path), read_volume(tmp_path).array.tolist())
    read, header = [], dicom._header
    monkeypatch.setattr(dicom, "_header", lambda file: read.append(file) or header(file))
    source = find_source(tmp_path)
    assert len(read) == 4 + 1 and len(source.files) == 4 and source.modality == "CT"
    digest, volume = scan_sha256(source), read_volume(source)
    assert (digest, volume.array.tolist()) == expected and volume.modality == "CT" and len(read) == 5


def test_headers_that_are_alike_are_no_one_scan(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        image = sitk.GetImageFromArray(np.full((3, 4, 5), number, np.int16))
        sitk.WriteImage(image, str(tmp_path / name / "scan.mhd"))
    headers = [(tmp_path / name / "scan.mhd").read_bytes() for name in "ab"]
    assert headers[0] == headers[1]
    assert scan_sha256(tmp_path / "a" / "scan.mhd") != scan_sha256(tmp_path / "b" / "scan.mhd")


def test_the_voxels_beside_a_header_count(tmp_path: Path) -> None:
    write_volume(ct_phantom(grid((8, 9, 4), (6.0, 6.0, 6.0))).scan, tmp_path / "scan.mha")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.mha")), str(tmp_path / "scan.mhd"))
    header, before = tmp_path / "scan.mhd", scan_sha256(tmp_path / "scan.mhd")
    assert scan_sha256(header) == before
    voxels = bytearray((tmp_path / "scan.raw").read_bytes())
    voxels[0:4] = np.float32(5).tobytes()
    (tmp_path / "scan.raw").write_bytes(voxels)
    assert scan_sha256(header) != before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that opens and cannot be read")
def test_what_is_there_and_cannot_be_read_is_said_so() -> None:
    with pytest.raises(InputError, match="/proc/self/mem cannot be read: Input/output error") as caught:
        scan_sha256(Path("/proc/self/mem"))
    assert caught.value.code == "unreadable"


def test_what_is_not_there_and_what_is_no_one_series_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        scan_sha256(tmp_path / "none.nii.gz")
    assert caught.value.code == "missing"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no slice")
    with pytest.raises(InputError) as caught:
        scan_sha256(tmp_path / "notes")
    assert caught.value.code == "dicom_series"


def test_voxels_are_known_again_however_they_are_turned_and_no_others_are() -> None:
    scan = ct_phantom(grid((8, 9, 4), (6.0, 6.0, 6.0)), noise_hu=5).scan
    assert {voxels_sha256(reoriented(scan, each)) for each in orientations()} == {voxels_sha256(scan)}
    changed = scan.array.copy()
    changed[0, 0, 0] += 1
    assert voxels_sha256(scan.with_array(changed)) != voxels_sha256(scan)
    assert voxels_sha256(scan.with_array(scan.array.astype(np.float64))) == voxels_sha256(scan)
