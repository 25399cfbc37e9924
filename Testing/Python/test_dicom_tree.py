"""Trees of DICOM folders: the largest series of each study, and nothing that stops the others (row 33)."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import grid, write_dicom

from DiffuGTSLib.errors import GeometryError, InputError, StorageError
from DiffuGTSLib.volumes import dicom_tree
from DiffuGTSLib.volumes.dicom import list_series, ordered_slices
from DiffuGTSLib.volumes.dicom_tree import (
    LOG,
    Conversion,
    convert_study,
    convert_tree,
    find_studies,
    read_log,
    require_same,
    write_checked,
)
from DiffuGTSLib.volumes.io import _require_place, read_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

SECRET = "DOE^JANE"


def a_ct(slices: int = 12, seed: int = 0, modality: str = "CT") -> Volume:
    """A few oblique slices of distinct values."""
    geometry = grid((6, 7, slices), (0.7, 0.7, 2.5), np.diag([-1.0, -1.0, 1.0]), degrees=(12, -7, 21))
    array = np.random.default_rng(seed).integers(-1000, 1000, geometry.shape).astype(np.int16)
    return Volume(array, geometry, modality)


def write(scan: Volume, folder: Path, series: int = 1) -> list[Path]:
    return write_dicom(scan, folder, {"0010|0010": SECRET, "0008|103e": f"{SECRET} abdomen"}, series=series)


def test_the_largest_series_of_each_study_becomes_one_file_on_its_grid(tmp_path: Path) -> None:
    large, mr = a_ct(14, seed=1), a_ct(11, seed=2, modality="MR")
    write(a_ct(12), tmp_path / "tree" / "P1" / "A1" / "thin")
    write(large, tmp_path / "tree" / "P1" / "A1" / "thick", series=2)
    write(mr, tmp_path / "tree" / "P1" / "A2" / "T1", series=3)
    (tmp_path / "tree" / ".git" / "objects").mkdir(parents=True)
    told: list[tuple[str, float]] = []
    rows = convert_tree(tmp_path / "tree", tmp_path / "out", on_progress=lambda *done: told.append(done))
    assert [(row.accession, row.status, row.series, row.modality, row.slices) for row in rows] == [
        ("A1", "converted", "thick", "CT", 14),
        ("A2", "converted", "T1", "MR", 11),
    ]
    assert told == [("cases", 0.0), ("cases", 0.5)]
    for row, scan in zip(rows, (large, mr), strict=True):
        copy = read_volume(tmp_path / "out" / row.file)
        assert np.array_equal(copy.array, scan.array)
        assert copy.geometry.difference(scan.geometry) == ""
    assert rows[0].file == "P1/A1/thick/ct.nii.gz" and rows[1].file == "P1/A2/T1/mr.nii.gz"


def test_several_series_in_one_folder_are_parted(tmp_path: Path) -> None:
    folder = tmp_path / "tree" / "P" / "A" / "all"
    write(a_ct(12), folder)
    large = a_ct(13, seed=1)
    write(large, folder, series=2)
    (row,) = convert_tree(tmp_path / "tree", tmp_path / "out")
    assert row.slices == 13
    assert np.array_equal(read_volume(tmp_path / "out" / row.file).array, large.array)


def test_a_damaged_file_is_logged_and_the_next_series_taken(tmp_path: Path) -> None:
    files = write(a_ct(14), tmp_path / "tree" / "P" / "A" / "best")
    files[5].write_bytes(files[5].read_bytes()[:400])
    write(a_ct(11), tmp_path / "tree" / "P" / "A" / "next", series=2)
    (row,) = convert_tree(tmp_path / "tree", tmp_path / "out")
    assert (row.status, row.series) == ("converted", "next")
    assert row.remarks == f"best: 1 file(s) of the series are empty or end early: {files[5].name}; 13 are whole."


@pytest.mark.parametrize("end", [0, -1], ids=["first", "last"])
def test_a_series_with_a_damaged_slice_at_an_end_is_not_converted_without_it(tmp_path: Path, end: int) -> None:
    """GDCM passes it over, and a shorter scan would be written: `segment` and `batch` refuse it, too."""
    file = write(a_ct(14), tmp_path / "tree" / "P" / "A" / "S")[end]
    file.write_bytes(file.read_bytes()[:-60])
    (tmp_path / "tree" / "P" / "A" / "S" / "Thumbs.db").write_bytes(b"small pictures")
    (row,) = convert_tree(tmp_path / "tree", tmp_path / "out")
    assert (row.status, row.file) == ("failed", "")
    assert f"S: 1 file(s) of the series are empty or end early: {file.name}; 13 are whole." in row.remarks
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_series_that_grew_since_is_converted_again_and_a_study_keeps_one_scan(tmp_path: Path) -> None:
    """An archive that was still being copied: first 12 of 14 slices, then all, then a larger series."""
    study, out = tmp_path / "tree" / "P" / "A", tmp_path / "out"
    late = write(a_ct(14), study / "S")[12:]
    for file in late:
        file.replace(tmp_path / file.name)
    assert [(row.status, row.slices) for row in convert_tree(tmp_path / "tree", out)] == [("converted", 12)]
    assert [row.status for row in convert_tree(tmp_path / "tree", out)] == ["kept"]
    for file in late:
        (tmp_path / file.name).replace(file)
    assert [(row.status, row.slices) for row in convert_tree(tmp_path / "tree", out)] == [("converted", 14)]
    write(a_ct(20, seed=1), study / "longer", series=2)
    (row,) = convert_tree(tmp_path / "tree", out)
    assert (row.status, row.series, row.slices) == ("converted", "longer", 20)
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz")] == ["P/A/longer/ct.nii.gz"]
    (row,) = convert_tree(tmp_path / "tree", out, minimum_slices=30)
    assert row.status == "skipped" and "P/A/longer/ct.nii.gz is of an earlier run" in row.remarks
    assert [row.status for row in convert_tree(tmp_path / "tree", out)] == ["converted"]


def test_only_what_a_conversion_of_the_study_has_made_gives_way(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path / "tree" / "P" / "A" / "S")
    (tmp_path / "mine.nii.gz").write_text("mine")
    before = Conversion("P", "A", "converted", "S", "CT", 11, file="../mine.nii.gz")
    row = convert_study(tmp_path / "tree" / "P" / "A", tmp_path / "out", before=before)
    assert row.status == "converted" and (tmp_path / "mine.nii.gz").read_text() == "mine"


def test_an_earlier_scan_that_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(a_ct(12), tmp_path / "tree" / "P" / "A" / "S")
    convert_tree(tmp_path / "tree", tmp_path / "out")
    write(a_ct(20, seed=1), tmp_path / "tree" / "P" / "A" / "longer", series=2)
    unlink = Path.unlink

    def guarded(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "S":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", guarded)
    with pytest.raises(StorageError, match=r"Cannot delete .*P/A/S/ct\.nii\.gz: Permission denied"):
        convert_tree(tmp_path / "tree", tmp_path / "out")


def test_a_reason_says_what_is_there_instead_of_a_series(tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "P"
    write(a_ct(12), tree / "direct")
    write(a_ct(12), tree / "deeper" / "CT" / "series1", series=2)
    write_dicom(a_ct(12), tree / "unnamed" / "S", {"0008|0060": ""}, series=3)
    (tree / "frames" / "S").mkdir(parents=True)
    image = sitk.GetImageFromArray(np.zeros((30, 4, 5), dtype=np.int16))
    image.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(image, str(tree / "frames" / "S" / "all.dcm"))
    (tree / "empty").mkdir()
    write_dicom(a_ct(12), tree / "emission" / "S", {"0008|0060": "PT"}, series=4)
    rows = {row.accession: row for row in convert_tree(tmp_path / "tree", tmp_path / "out")}
    for name, status, reason in (
        ("direct", "failed", "DICOM files lie in the study's own folder; expected a folder of each series"),
        ("deeper", "failed", "CT/series1: DICOM files lie deeper than in a series' own folder"),
        ("unnamed", "failed", "S: no modality (0008,0060), 12 file(s)"),
        ("frames", "failed", "S: all.dcm is a multi-frame DICOM file (30 frames); expected one file a slice."),
        ("empty", "failed", "the folder is empty"),
        ("emission", "skipped", "S: PT, 12 file(s)"),
    ):
        assert (rows[name].status, reason in rows[name].remarks) == (status, True), rows[name].remarks


def test_nothing_is_printed_by_the_library_that_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(a_ct(3), tmp_path / "tree" / "P" / "A" / "scout")
    (tmp_path / "tree" / "P" / "A" / "reports").mkdir()
    (tmp_path / "tree" / "P" / "A" / "reports" / "report.txt").write_text("no DICOM")
    convert_tree(tmp_path / "tree", tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_results_among_the_patients_are_no_studies(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path / "P" / "A" / "S")
    for status in ("converted", "kept"):
        rows = convert_tree(tmp_path, tmp_path / "out")
        assert [(row.mrn, row.status) for row in rows] == [("P", status)]


def test_halves_of_a_series_in_two_folders_are_no_scans_and_copies_are(tmp_path: Path) -> None:
    files = write(a_ct(24), tmp_path / "tree" / "P" / "halves" / "1")
    (tmp_path / "tree" / "P" / "halves" / "2").mkdir()
    for file in files[:11]:
        file.replace(tmp_path / "tree" / "P" / "halves" / "2" / file.name)
    for name in "12":
        write(a_ct(12), tmp_path / "tree" / "P" / "copies" / name)
    copies, halves = convert_tree(tmp_path / "tree", tmp_path / "out")
    assert (copies.status, copies.series, copies.remarks) == ("converted", "1", "")
    assert halves.status == "failed"
    assert "one series lies in several folders: 1 (13 files), 2 (11 files); expected it in one" in halves.remarks


def test_a_study_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "tree" / "P" / "bad" / "S").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / "P" / "bad" / "S" / f"{number}.dcm").write_bytes(b"no DICOM")
    write(a_ct(3), tmp_path / "tree" / "P" / "localizer" / "S")
    write(a_ct(12), tmp_path / "tree" / "P" / "sound" / "S")
    rows = {row.accession: row for row in convert_tree(tmp_path / "tree", tmp_path / "out")}
    assert {name: row.status for name, row in rows.items()} == {
        "bad": "failed", "localizer": "skipped", "sound": "converted",
    }  # fmt: skip
    assert "0.dcm, 1.dcm, 2.dcm and 2 more" in rows["bad"].remarks
    assert "no CT or MR series of at least 10 slices" in rows["localizer"].remarks


def test_a_folder_that_may_not_be_opened_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for accession in ("closed", "open"):
        write(a_ct(12), tmp_path / "tree" / "P" / accession / "S")

    def guarded(folder: Path) -> Any:
        if folder.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return list_series(folder)

    monkeypatch.setattr(dicom_tree, "list_series", guarded)
    rows = {row.accession: row for row in convert_tree(tmp_path / "tree", tmp_path / "out")}
    assert {name: row.status for name, row in rows.items()} == {"closed": "failed", "open": "converted"}
    assert "S: cannot be read: Permission denied" in rows["closed"].remarks


def test_a_stopped_run_goes_on_and_force_does_it_again(tmp_path: Path) -> None:
    for name in ("A1", "A2"):
        write(a_ct(12), tmp_path / "tree" / "P" / name / "S")

    def stop(stage: str, done: float) -> None:
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_tree(tmp_path / "tree", tmp_path / "out", on_progress=stop)
    assert list(read_log(tmp_path / "out" / LOG)) == [("P", "A1")]
    first = tmp_path / "out" / "P" / "A1" / "S" / "ct.nii.gz"
    made = first.stat().st_mtime_ns
    assert [row.status for row in convert_tree(tmp_path / "tree", tmp_path / "out")] == ["kept", "converted"]
    assert first.stat().st_mtime_ns == made
    first.unlink()
    assert [row.status for row in convert_tree(tmp_path / "tree", tmp_path / "out")] == ["converted", "kept"]
    rows = convert_tree(tmp_path / "tree", tmp_path / "out", force=True)
    assert [row.status for row in rows] == ["converted", "converted"]


def test_no_patient_reaches_the_log_or_the_scan(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path / "tree" / "P" / "A" / "S")
    write(a_ct(12), tmp_path / "tree" / "P" / "B" / "S")[6].unlink()
    rows = convert_tree(tmp_path / "tree", tmp_path / "out")
    assert {row.status for row in rows} == {"converted", "failed"}
    assert (
        SECRET not in (tmp_path / "out" / LOG).read_text() and str(tmp_path) not in (tmp_path / "out" / LOG).read_text()
    )
    image = sitk.ReadImage(str(tmp_path / "out" / rows[0].file))
    assert not any("DOE" in image.GetMetaData(key) for key in image.GetMetaDataKeys())


def test_fractions_are_kept(tmp_path: Path) -> None:
    tags = {k: {"0028|1053": "0.5", "0028|1052": "-4"} for k in range(12)}
    scan = a_ct(12)
    write_dicom(scan.with_array(scan.array * 0.5 - 4), tmp_path / "P" / "A" / "S", slice_tags=tags)
    row = convert_study(tmp_path / "P" / "A", tmp_path / "out")
    assert np.array_equal(read_volume(tmp_path / "out" / row.file).array, scan.array * 0.5 - 4)


def test_a_copy_that_differs_in_place_or_value_is_refused() -> None:
    scan = a_ct(12)
    moved = Geometry(scan.geometry.shape, scan.geometry.ijk_to_ras + np.eye(4)[:, [3]] * 0 + np.eye(4, k=3) * 0.01)
    with pytest.raises(GeometryError, match="affine changed when the scan was written: origin"):
        require_same(scan, Volume(scan.array, moved))
    other = scan.array.copy()
    other[0, 0, 0] += 1
    with pytest.raises(InputError, match="1 voxels changed"):
        require_same(scan, scan.with_array(other))


def test_a_file_that_reads_back_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_a_bad_disk(path: Path) -> Volume:
        copy = read_volume(path)
        copy.array[0, 0, 0] += 1
        return copy

    monkeypatch.setattr(dicom_tree, "read_volume", by_a_bad_disk)
    with pytest.raises(InputError, match="1 voxels changed") as caught:
        write_checked(a_ct(12), tmp_path / "ct.nii.gz")
    assert caught.value.code == "not_written" and not list(tmp_path.iterdir())


def test_a_box_that_lies_elsewhere_than_its_slices_is_refused(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path)
    slices = ordered_slices(list_series(tmp_path)[0])
    image = sitk.ReadImage([each.file for each in slices])
    _require_place(image, slices)
    image.SetSpacing((0.7, 0.7, 2.4))
    with pytest.raises(GeometryError, match=r"was read 1\.1 mm from where it says that it lies \(allowed 0\.12 mm\)"):
        _require_place(image, slices)


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no <MRN>/<Acc> folders"):
        find_studies(tmp_path)
    with pytest.raises(InputError, match="at least 2 slices, got 1"):
        convert_tree(tmp_path, tmp_path / "out", minimum_slices=1)
    (tmp_path / LOG).write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not a log of conversions"):
        read_log(tmp_path / LOG)


def test_an_output_that_cannot_be_made_stops_the_run(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path / "tree" / "P" / "A" / "S")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="Cannot make"):
        convert_tree(tmp_path / "tree", tmp_path / "out")


def test_the_log_is_a_table_that_others_can_read(tmp_path: Path) -> None:
    write(a_ct(12), tmp_path / "tree" / "P" / "A" / "S")
    convert_tree(tmp_path / "tree", tmp_path / "out")
    with (tmp_path / "out" / LOG).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "mrn": "P", "accession": "A", "status": "converted", "series": "S", "modality": "CT", "slices": "12",
        "file": "P/A/S/ct.nii.gz", "remarks": "",
    }  # fmt: skip
