"""`dicom-to-nifti` as users meet it."""

import json
from pathlib import Path

import numpy as np
from phantoms import grid, write_dicom
from terminal import plain, refused, run

from DiffuGTSLib.volumes import Volume


def write_study(folder: Path, slices: int = 12) -> None:
    geometry = grid((6, 7, slices), (0.7, 0.7, 2.5), np.diag([-1.0, -1.0, 1.0]))
    array = np.random.default_rng(0).integers(-1000, 1000, geometry.shape).astype(np.int16)
    write_dicom(Volume(array, geometry, "CT"), folder, {"0010|0010": "DOE^JANE", "0008|103e": "DOE^JANE"})


def test_studies_are_converted_and_what_went_wrong_is_said(tmp_path: Path) -> None:
    write_study(tmp_path / "tree" / "P1" / "A1" / "S1")
    write_study(tmp_path / "tree" / "P2" / "A1" / "S1", slices=3)
    done = run("dicom-to-nifti", tmp_path / "tree", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "1 of 2 studies. Log:" in plain(done.stdout)
    assert "P2/A1: skipped: S1: CT, 3 file(s) | no CT or MR series of at least 10 slices" in done.stderr
    assert "DOE" not in done.output
    assert (tmp_path / "out" / "P1" / "A1" / "S1" / "ct.nii.gz").is_file()
    rows = json.loads(run("dicom-to-nifti", tmp_path / "tree", "-o", tmp_path / "out", "--json", "-q").stdout)
    assert [row["status"] for row in rows] == ["kept", "skipped"]
    rows = json.loads(
        run("dicom-to-nifti", tmp_path / "tree", "-o", tmp_path / "out", "--json", "-q", "--minimum-slices", "3").stdout
    )
    assert [row["status"] for row in rows] == ["kept", "converted"]


def test_a_study_in_which_something_is_wrong_is_an_error_and_the_others_are_whole(tmp_path: Path) -> None:
    write_study(tmp_path / "tree" / "P1" / "A1" / "S1")
    write_study(tmp_path / "tree" / "P2" / "A1")
    done = run("dicom-to-nifti", tmp_path / "tree", "-o", tmp_path / "out", "-q")
    refused(done, 2, "1 of 2 studies failed; the others' scans are whole", "conversion.csv")
    assert "P2/A1: failed: DICOM files lie in the study's own folder" in plain(done.stderr), "told even with --quiet"
    assert (tmp_path / "out" / "P1" / "A1" / "S1" / "ct.nii.gz").is_file()


def test_a_tree_of_which_nothing_can_be_converted_is_an_error(tmp_path: Path) -> None:
    write_study(tmp_path / "tree" / "P" / "A" / "S", slices=3)
    done = run("dicom-to-nifti", tmp_path / "tree", "-o", tmp_path / "out", "-q")
    refused(done, 2, "No study could be converted", "conversion.csv")
    refused(run("dicom-to-nifti", tmp_path / "no", "-o", tmp_path / "out"), 2, "there is no folder", "spelling")
