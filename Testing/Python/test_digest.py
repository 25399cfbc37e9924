"""A scan is known again by the bytes that its voxels come from, whatever it is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import ct_phantom, grid, write_dicom

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.io import read_volume, write_volume


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


def test_headers_that_are_alike_are_no_one_scan(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        image = sitk.GetImageFromArray(np.full((3, 4, 5), number, np.int16))
        sitk.WriteImage(image, str(tmp_path / name / "scan.mhd"))
    headers = [(tmp_path / name / "scan.mhd").read_bytes() for name in "ab"]
    assert headers[0] == headers[1]
    assert scan_sha256(tmp_path / "a" / "scan.mhd") != scan_sha256(tmp_path / "b" / "scan.mhd")


def test_a_scan_that_was_read_before_has_the_same_digest(tmp_path: Path) -> None:
    write_volume(ct_phantom(grid((8, 9, 4), (6.0, 6.0, 6.0))).scan, tmp_path / "scan.mha")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.mha")), str(tmp_path / "scan.mhd"))
    read = read_volume(tmp_path / "scan.mhd")
    assert scan_sha256(tmp_path / "scan.mhd", read) == scan_sha256(tmp_path / "scan.mhd")


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        scan_sha256(tmp_path / "none.nii.gz")
    assert caught.value.code == "missing"
