"""`diffugts batch` as a person uses it: a folder of scans, again after a stop, masks by name, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from phantoms import grid, write_dicom
from terminal import TINY, coarse_body, plain, refused, run, write_case

from DiffuGTSLib.cli.batching import batch_cases
from DiffuGTSLib.cli.scan_folders import _named, scans_below
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.report import write_report
from DiffuGTSLib.output import results
from DiffuGTSLib.volumes import io
from DiffuGTSLib.volumes.io import read_volume, write_volume
from DiffuGTSLib.volumes.volume import Volume

LIVER = ("--organ", "liver", *TINY)


@pytest.fixture(scope="module")
def a_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scan.nii.gz and organ.nii.gz; not to be changed."""
    return write_case(tmp_path_factory.mktemp("data"), coarse_body())


@pytest.fixture
def a_cohort(tmp_path: Path, a_case: Path) -> Path:
    """Two scans, the second cut off, and a mask for each."""
    for kind, source in (("scans", "scan"), ("masks", "organ")):
        (tmp_path / kind).mkdir()
        for name in ("one", "two.v2"):
            shutil.copy(a_case / f"{source}.nii.gz", tmp_path / kind / f"{name}.nii.gz")
    broken = tmp_path / "scans" / "two.v2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_scan_that_fails_stops_no_other_and_a_second_call_goes_on(a_cohort: Path, a_case: Path) -> None:
    out = a_cohort / "out"
    call = ("batch", a_cohort / "scans", "-o", out, "--organ-mask", a_cohort / "masks", *LIVER)
    first = run(*call)
    assert first.exit_code == 2
    assert "1 of 2: one" in first.stderr and "Modality: CT" in first.stderr
    assert "1 of 2 scans failed; the others' results are whole." in plain(first.stderr)
    rows = rows_of(out / "cases.csv")
    assert [(row["name"], row["status"]) for row in rows] == [("one", "done"), ("two.v2", "failed")]
    assert "two.v2.nii.gz" in rows[1]["outcome"]
    assert not (out / "two.v2").exists()
    found = rows_of(out / "findings.csv")
    alone = rows_of(out / "one" / "findings.csv")
    assert found == [{"name": "one", **row} for row in alone] and int(rows[0]["findings"]) == len(alone)
    assert float(rows[0]["volume_ml"]) == pytest.approx(sum(float(row["volume_ml"]) for row in alone))

    shutil.copy(a_case / "scan.nii.gz", a_cohort / "scans" / "two.v2.nii.gz")
    made = (out / "one" / "record.json").stat().st_mtime_ns
    second = run(*call, "--json", "--quiet")
    assert second.exit_code == 0, second.output
    assert [(row["name"], row["status"]) for row in json.loads(second.stdout)] == [("one", "kept"), ("two.v2", "done")]
    assert (out / "one" / "record.json").stat().st_mtime_ns == made
    each = {name: len(rows_of(out / name / "findings.csv")) for name in ("one", "two.v2")}
    assert Counter(row["name"] for row in rows_of(out / "findings.csv")) == each
    assert min(each.values()) > 0, "else the tables were not tested"


def test_an_odd_scan_stops_no_other(a_case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of NaN, memory that runs out while it is read, and what nobody has thought of; between two good ones."""
    scans, read = tmp_path / "scans", read_volume
    scans.mkdir()
    for name in "abcde":
        write_volume(read(a_case / "scan.nii.gz"), scans / f"{name}.nii")
    content = bytearray((scans / "b.nii").read_bytes())
    struct.pack_into("<2h3f", content, 252, 1, 1, np.nan, 0, 0)
    (scans / "b.nii").write_bytes(content)

    def little_memory(path: Path) -> Volume:
        if path.name == "c.nii":
            np.empty(1 << 50)
        if path.name == "d.nii":
            raise ZeroDivisionError("one over none")
        return read(path)

    monkeypatch.setattr(io, "read_volume", little_memory)
    done = run("batch", scans, "-o", tmp_path / "out", *LIVER, "--stages", "aova", "--quiet")
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert [row["status"] for row in rows] == ["done", "failed", "failed", "failed", "done"], done.output
    assert "nan" in rows[1]["outcome"] and "Not enough memory" in rows[2]["outcome"]
    assert "Unexpected ZeroDivisionError: one over none" in rows[3]["outcome"]
    assert done.exit_code == 2 and "3 of 5 scans failed" in plain(done.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems keep text only, and /proc cannot be read")
def test_names_that_are_no_text_and_files_that_cannot_be_read_stop_no_other_scan(a_case: Path, tmp_path: Path) -> None:
    scan = read_volume(a_case / "scan.nii.gz")
    for name in ("a", "c"):
        write_dicom(Volume(scan.array[:12, :12, :8], grid((12, 12, 8)), "CT"), tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "damaged.dcm").symlink_to("/proc/self/mem")
    shutil.copytree(tmp_path / "in" / "c", tmp_path / "in" / os.fsdecode(b"b\xfc"))
    done = run("batch", tmp_path / "in", "-o", tmp_path / "out", *LIVER, "--stages", "aova", "--json")
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert [row["status"] for row in rows] == ["failed", "failed", "done"], done.output
    assert "in/a cannot be read: Input/output error" in rows[0]["outcome"]
    assert rows[1]["name"] == "b\\udcfc" and "is not UTF-8" in rows[1]["outcome"]


def test_an_offset_is_part_of_what_was_asked_for(a_case: Path, tmp_path: Path) -> None:
    call = ("batch", a_case / "scan.nii.gz", "-o", tmp_path / "many", *LIVER, "--quiet", "--stages", "aova")
    assert run(*call, "--offset-hu", "0").exit_code == 0
    assert results.read_record(tmp_path / "many" / "scan")["asked"]["offset_hu"] == 0
    kept = run(*call, "--offset-hu", "0", "--json")
    assert [row["status"] for row in json.loads(kept.stdout)] == ["kept"]
    assert "made with another offset_hu" in plain(run(*call).stderr)


def test_what_a_killed_call_had_put_aside_is_there_again(a_case: Path, tmp_path: Path) -> None:
    call = ("batch", a_case / "scan.nii.gz", "-o", tmp_path, *LIVER, "--stages", "aova", "--json", "--quiet")
    assert run(*call).exit_code == 0
    result = tmp_path / "scan"
    aside = result / ".diffugts-killed" / "earlier"
    aside.mkdir(parents=True)
    for name in results.NAMES:
        if (result / name).exists():
            (result / name).rename(aside / name)
    for folder in (aside, aside.parent):
        os.utime(folder, (0, 0))
    (row,) = json.loads(run(*call).stdout)
    assert row["status"] == "kept" and not aside.exists()


def test_a_batch_gives_what_segment_gives(a_case: Path, tmp_path: Path) -> None:
    scan = a_case / "scan.nii.gz"
    assert run("batch", scan, "-o", tmp_path / "many", *LIVER, "--quiet").exit_code == 0
    assert run("segment", scan, "-o", tmp_path / "one", *LIVER, "--quiet").exit_code == 0
    for name in (results.SEGMENTATION, results.AOVA, results.RESIDUAL, results.FINDINGS):
        assert (tmp_path / "many" / "scan" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--seed", "3"), "runtime.seed"),
        (("--set", "masks.minimum_ml=0.3"), "masks.minimum_ml"),
        (("--stages", "aova"), "stages"),
        (("--modality", "mr"), "modality"),
        (("--organ-mask", "{folder}/organ.nii.gz"), "organ_mask_sha256"),
    ],
)
def test_a_result_that_was_made_otherwise_is_not_taken_for_what_is_asked_for(
    a_case: Path, tmp_path: Path, changed: tuple[str, str], named: str
) -> None:
    shutil.copy(a_case / "scan.nii.gz", tmp_path / "one.nii.gz")
    shutil.copy(a_case / "organ.nii.gz", tmp_path / "organ.nii.gz")
    call = ("batch", tmp_path / "one.nii.gz", "-o", tmp_path / "out", *LIVER, "--stages", "aova,repaint", "--quiet")
    assert run(*call).exit_code == 0
    if named == "organ_mask_sha256":
        (tmp_path / "one").mkdir()
        shutil.copy(tmp_path / "organ.nii.gz", tmp_path / "one" / "organ.nii.gz")
        changed = (changed[0], str(tmp_path / "{name}" / "organ.nii.gz"))
    other = run(*call, *changed)
    assert other.exit_code == 2
    assert named in other.stderr and "--force to replace it" in plain(other.stderr)
    assert rows_of(tmp_path / "out" / "cases.csv")[0]["status"] == "failed"
    assert run(*call, "--device", "cpu").exit_code == 0, "where it runs does not matter"
    assert run(*call, *changed, "--force").exit_code == 0


def test_scans_are_called_by_their_files_and_where_two_are_called_alike_by_the_folder_too(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        (tmp_path / patient).mkdir()
        for name in ("t1.nii.gz", f"{patient}.v2.nrrd"):
            (tmp_path / patient / name).touch()
            (tmp_path / patient / f"._{name}").touch()  # as macOS packs it
    named = scans_below([*sorted(tmp_path.glob("*/t1.nii.gz")), tmp_path / "p1"], tmp_path / "out")
    assert list(named) == ["p1_t1", "p2_t1", "p1.v2"]
    with pytest.raises(InputError, match="would both be called"):
        (tmp_path / "p1" / "t1.mha").touch()
        scans_below([tmp_path / "p1"], tmp_path / "out")


def test_series_of_an_archive_are_found_at_any_depth_and_results_among_them_are_none(tmp_path: Path) -> None:
    for place in ("p1/ST0/SE0", "p2/ST0/SE0", "p2/ST0/mr", "out/ct"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "IM0").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "notes.csv").touch()
    named = scans_below([tmp_path], tmp_path / "out")
    assert {name: str(path.relative_to(tmp_path)) for name, path in named.items()} == {
        "p1_ST0_SE0": "p1/ST0/SE0", "p2_ST0_SE0": "p2/ST0/SE0", "p2_ST0_mr": "p2/ST0/mr",
    }  # fmt: skip


def test_series_behind_links_are_found_once_and_folders_that_cannot_be_opened_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store" / "ct2"
    for folder in (archive / "p1" / "ct1", store):
        folder.mkdir(parents=True)
        (folder / "IM0").write_bytes(bytes(128) + b"DICM")
    (archive / "a").symlink_to(tmp_path / "store")
    (archive / "latest").symlink_to(archive / "p1" / "ct1")
    (archive / "p1" / "circle").symlink_to(archive)
    named = scans_below([archive], tmp_path / "out")
    assert {name: str(path.relative_to(archive)) for name, path in named.items()} == {
        "a_ct2": "a/ct2", "p1_ct1": "p1/ct1",
    }  # fmt: skip
    real = os.scandir

    def closed(place: Any) -> Any:
        if str(place).endswith("ct2"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match=r"a/ct2 cannot be looked into: Permission denied") as caught:
        scans_below([archive], tmp_path / "out")
    assert caught.value.code == "unreadable"


def called(*paths: str) -> list[str]:
    """Return the names of scans that were named themselves."""
    return list(_named({Path(path): 0 for path in paths}))


def test_a_folder_below_image_files_that_cannot_be_opened_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "one.nii.gz").touch()
    real = os.scandir

    def closed(place: Any) -> Any:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", closed)
    assert list(scans_below([tmp_path], tmp_path / "out")) == ["one"]


def test_no_name_leads_out_of_the_folder_of_results() -> None:
    assert called("/scans/ct.nii.gz", "/scans/old/scans/ct.nii.gz") == ["scans_ct", "old_scans_ct"]
    assert called("/a/b/ct.nii", "/z/b/ct.nii", "/a_b/ct.nii") == ["a_b_ct", "a_b_ct_2", "z_b_ct"]
    with pytest.raises(InputError, match="would both be called"):
        called("/ct.nii", "/ct.mha")


def test_names_that_are_one_folder_to_some_disks_are_told_apart() -> None:
    """To macOS, Windows, exFAT and their shares capital and small letters, and both spellings of an umlaut, are the same."""
    assert called("/s/a/CASE", "/s/b/case") == ["a_CASE", "b_case"]
    assert called("/s/a/M\u00fcller", "/s/b/Mu\u0308ller") == ["a_M\u00fcller", "b_Mu\u0308ller"]
    assert called("/a/b/ct.nii", "/z/b/CT.nii", "/A_b/ct.nii") == ["a_b_ct", "A_b_ct_2", "z_b_CT"]
    with pytest.raises(InputError, match="would both be called CT") as caught:
        called("/a/CT.nii", "/a/ct.nii")
    assert "capital and small letters" in caught.value.hint


def write_series(folder: Path) -> None:
    """Make a folder that looks like one of a DICOM series."""
    folder.mkdir(parents=True)
    (folder / "IM0").write_bytes(bytes(128) + b"DICM")


def test_a_scan_that_is_added_renames_no_other(tmp_path: Path) -> None:
    """In an archive the series of all patients are called alike; what was made of one has to be found again."""
    write_series(tmp_path / "a" / "CT1")
    assert list(scans_below([tmp_path], tmp_path / "out")) == ["a_CT1"]
    write_series(tmp_path / "b" / "CT1")
    assert list(scans_below([tmp_path], tmp_path / "out")) == ["a_CT1", "b_CT1"]
    assert list(scans_below([tmp_path / "b" / "CT1"], tmp_path / "out")) == ["CT1"], "it was named itself"


def test_a_name_that_a_file_system_would_not_take_is_cut_and_told_apart(tmp_path: Path) -> None:
    for study in ("x" * 150, "x" * 149 + "y"):
        write_series(tmp_path / ("ü" * 100) / study / "CT1")
    names = list(scans_below([tmp_path], tmp_path / "out"))
    assert len(set(names)) == 2 and all(name.startswith("ü" * 100 + "_xxx") for name in names)
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / f"{name}.seg.nrrd").touch()
    write_series(tmp_path / "b" / "CT1")
    assert names == list(scans_below([tmp_path], tmp_path / "out"))[1:], "another patient changes none of them"


def test_masks_among_an_archive_do_not_hide_it(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "CT1")
    (tmp_path / "organ_mask.nii.gz").touch()
    with pytest.raises(InputError, match=r"image files, as organ_mask.nii.gz, and DICOM files, as in .*CT1") as caught:
        scans_below([tmp_path], tmp_path / "out")
    assert caught.value.code == "folder" and "put those that are none elsewhere" in caught.value.hint


def test_image_files_that_lie_deeper_are_not_searched_for_since_masks_lie_among_them(tmp_path: Path) -> None:
    (tmp_path / "s0001").mkdir()
    (tmp_path / "s0001" / "ct.nii.gz").touch()
    with pytest.raises(InputError) as caught:
        scans_below([tmp_path], tmp_path / "out")
    assert "s0001" in str(caught.value.hint) and "scans/*/ct.nii.gz" in str(caught.value.hint)


def test_series_of_an_archive_that_are_no_scans_are_passed_over(a_case: Path, tmp_path: Path) -> None:
    scan = read_volume(a_case / "scan.nii.gz")
    write_dicom(Volume(scan.array[:12, :12, :8], grid((12, 12, 8)), "CT"), tmp_path / "in" / "ct")
    write_dicom(Volume(scan.array[:12, :12, :8], grid((12, 12, 8)), "CT"), tmp_path / "in" / "pt", {"0008|0060": "PT"})
    call = ("-o", tmp_path / "out", *LIVER, "--stages", "aova", "--quiet")
    assert run("batch", tmp_path / "in", *call).output == ""
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert [(row["name"], row["status"]) for row in rows] == [("ct", "done"), ("pt", "skipped")]
    refused(run("batch", tmp_path / "in" / "pt", *call), 2, "None of 1 series is a CT or MR scan", "other folders")


def test_what_is_no_scan_needs_no_mask(a_case: Path, tmp_path: Path) -> None:
    """A segmentation, a report without pixels and a scout, beside a scan whose mask is there."""
    scan = read_volume(a_case / "scan.nii.gz")
    part = Volume(scan.array[:12, :12, :8], grid((12, 12, 8)), "CT")
    write_dicom(part, tmp_path / "in" / "ct")
    write_dicom(part, tmp_path / "in" / "seg", {"0008|0060": "SEG"}, series=2)
    write_dicom(Volume(part.array[:, :, :1], grid((12, 12, 1)), "CT"), tmp_path / "in" / "scout", series=3)
    (tmp_path / "in" / "report").mkdir()
    report = sitk.ReadImage(str(next((tmp_path / "in" / "seg").iterdir())))
    report.SetMetaData("0008|0060", "SR")
    report.SetMetaData("0020|000e", "1.2.826.0.1.3680043.2.1125.99.4")
    sitk.WriteImage(report, str(tmp_path / "in" / "report" / "1.dcm"))
    (tmp_path / "organs" / "ct").mkdir(parents=True)
    write_volume(part.with_array(np.ones(part.array.shape, np.uint8)), tmp_path / "organs" / "ct" / "liver.nii.gz")
    masks = ("--organ-mask", tmp_path / "organs" / "{name}" / "liver.nii.gz")
    done = run("batch", tmp_path / "in", "-o", tmp_path / "out", *LIVER, *masks, "--stages", "aova", "--quiet")
    rows = rows_of(tmp_path / "out" / "cases.csv")
    assert {row["name"]: row["status"] for row in rows} == {
        "ct": "done", "report": "skipped", "scout": "skipped", "seg": "skipped"
    }  # fmt: skip
    assert done.exit_code == 0, done.output
    (tmp_path / "organs" / "ct" / "liver.nii.gz").unlink()
    refused(run("batch", tmp_path / "in", "-o", tmp_path / "out", *LIVER, *masks), 2, "ct: there is no mask", "--organ")


def test_masks_lie_under_the_scans_names_or_where_a_path_says(tmp_path: Path) -> None:
    (tmp_path / "one.nii.gz").touch()
    (tmp_path / "organs" / "one").mkdir(parents=True)
    (tmp_path / "organs" / "one" / "liver.nii.gz").touch()
    for name in ("one.nrrd", "one.json", "._one.nrrd"):  # what lies beside a mask is none
        (tmp_path / "organs" / name).touch()
    for organ_mask, found in (("organs", "one.nrrd"), ("organs/{name}/liver.nii.gz", "one/liver.nii.gz")):
        (case,) = batch_cases([tmp_path / "one.nii.gz"], tmp_path / "out", str(tmp_path / organ_mask))
        assert case.organ_mask == tmp_path / "organs" / found
    with pytest.raises(InputError, match="there is no mask"):
        batch_cases([tmp_path / "one.nii.gz"], tmp_path / "out", str(tmp_path / "{name}.nrrd"))


def test_what_fits_no_scan_is_refused_before_anything_is_done(a_case: Path, tmp_path: Path) -> None:
    scan, out = a_case / "scan.nii.gz", tmp_path / "out"
    refused(run("batch", scan, "-o", out, *TINY), 2, "nothing to look for", "--organ liver")
    refused(run("batch", scan, "-o", out, "--organ", "livr", *TINY), 2, "livr", "liver")
    refused(run("batch", scan, "-o", out, *LIVER, "--stages", "all"), 2, "Unknown stage 'all'", "aova")
    refused(run("batch", tmp_path / "no", "-o", out, *LIVER), 2, "There is no", "spelling")
    refused(run("batch", tmp_path, "-o", out, *LIVER), 2, "holds neither image files nor", ".nii.gz")
    mask = a_case / "organ.nii.gz"
    refused(run("batch", scan, "-o", out, *LIVER, "--organ-mask", mask), 2, "no mask in common", "{name}")
    assert not out.exists()
    refused(run("batch", scan, "-o", out, "--organ", "liver", "--preset", "tiny"), 3, "untrained", "--allow-untrained")


def test_tables_of_others_and_a_single_result_are_not_written_over(a_case: Path, tmp_path: Path) -> None:
    (tmp_path / "findings.csv").write_text("mine")
    refused(run("batch", a_case / "scan.nii.gz", "-o", tmp_path, *LIVER), 2, "findings.csv", "another folder")
    (tmp_path / "record.json").write_text("{}")
    refused(run("batch", a_case / "scan.nii.gz", "-o", tmp_path, *LIVER), 2, "the result of one scan", "another folder")
    assert (tmp_path / "findings.csv").read_text() == "mine"


def test_another_table_of_the_cases_is_not_written_over(a_case: Path, tmp_path: Path) -> None:
    """Somebody's list of patients, what Excel made of one, and an evaluation's table, which has the same name."""
    for name in ("lists", "excel", "evaluated"):
        (tmp_path / name).mkdir()
    (tmp_path / "lists" / "cases.csv").write_text("name,age\none,56\n")
    (tmp_path / "excel" / "cases.csv").write_bytes("name;größe".encode("cp1252"))
    write_report([{"case": "one", "dice_refined": 0.5}], tmp_path / "evaluated", title="A report")
    for name in ("lists", "excel", "evaluated"):
        before = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        done = run("batch", a_case / "scan.nii.gz", "-o", tmp_path / name, *LIVER)
        refused(done, 2, "cases.csv, which no batch wrote", "another folder")
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == before


def test_a_result_that_a_killed_run_had_put_aside_is_no_place_for_many(a_case: Path, tmp_path: Path) -> None:
    aside = tmp_path / ".diffugts-killed" / "earlier"
    aside.mkdir(parents=True)
    for name in (results.RECORD, results.FINDINGS, results.SEGMENTATION):
        (aside / name).write_text("earlier")
    (tmp_path / results.FINDINGS).write_text("new, but not whole")
    for folder in (aside, aside.parent):
        os.utime(folder, (0, 0))
    refused(run("batch", a_case / "scan.nii.gz", "-o", tmp_path, *LIVER), 2, "which no batch wrote", "another folder")
    assert sorted(path.name for path in aside.iterdir()) == ["findings.csv", "record.json", "segmentation.nii.gz"]
