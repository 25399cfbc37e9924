"""`validate`: one scan, a folder or a protocol through a segmenter; what is scored, kept, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mini_data import write_mini_data
from terminal import plain, refused, run
from test_segmenter import a_segmenter
from test_validation import write_scans

from DiffuGTSLib.cli.validating import list_scans
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.trained_cases import record_training
from DiffuGTSLib.supervised.prediction import find_segmenter, save_segmenter
from DiffuGTSLib.volumes import read_volume, write_volume


@pytest.fixture(scope="module")
def a_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scans, the second healthy, their label maps, and masks of their tumors and organs."""
    folder = tmp_path_factory.mktemp("scans")
    write_scans(folder, ("a", "b"), healthy=("b",))
    return folder


@pytest.fixture(scope="module")
def a_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a tiny untrained segmenter."""
    folder = tmp_path_factory.mktemp("segmenter")
    save_segmenter(a_segmenter(), folder)
    return folder


def test_what_macos_packs_beside_a_scan_is_none(a_set: Path, tmp_path: Path) -> None:
    for folder in ("scans", "labels"):
        shutil.copytree(a_set / folder, tmp_path / folder)
        (tmp_path / folder / "._a.nii.gz").write_bytes(b"Mac OS X")
    listed = list_scans(tmp_path / "scans", tmp_path / "labels", None)
    assert [scan.name for scan in listed] == ["a", "b"]


def test_one_scan_is_validated_without_any_truth(a_model: Path, a_set: Path, tmp_path: Path) -> None:
    done = run("validate", a_model, a_set / "scans" / "a.nii.gz", "-o", tmp_path / "out", "--modality", "CT")
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "out" / "pred").iterdir()] == ["a.nii.gz"]
    assert "Written:" in done.stdout


def test_a_folder_of_scans_is_scored_against_label_maps_of_the_same_names(
    a_model: Path, a_set: Path, tmp_path: Path
) -> None:
    done = run(
        "validate", a_model, a_set / "scans", "--labels", a_set / "labels", "--organ-masks", a_set / "organs", "-o",
        tmp_path / "out", "--json", "--minimum-radius", "0", "--overlap", "0",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == ["a", "b", "mean"] and rows[2]["organ_dice"] == 1.0


def test_tumor_masks_give_a_table_without_organs(a_model: Path, a_set: Path, tmp_path: Path) -> None:
    done = run("validate", a_model, a_set / "scans", "--tumors", a_set / "tumors", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "mean" in done.stdout and "n/a" in done.stdout


def test_a_protocol_is_validated_into_a_report(a_model: Path, tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    done = run(
        "validate", a_model, "--protocol", protocol, "--data", tmp_path / "data", "-o", tmp_path / "report", "--quiet"
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / "report.md").is_file() and done.stdout == ""


def test_a_protocols_report_is_told_as_json_and_its_masks_are_its_own(a_model: Path, tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    asked = ("validate", a_model, "--protocol", protocol, "--data", tmp_path / "data", "-o", tmp_path / "report")
    report = json.loads(run(*asked, "--json", "-q").stdout)
    assert [row["case"] for row in report["cases"]] == ["ct_3"] and "dice" in report["estimates"]
    refused(run(*asked, "--organ-masks", tmp_path / "none"), 2, "A protocol names its masks itself", "omit them")


def test_a_folder_keeps_one_validation(a_model: Path, a_set: Path, tmp_path: Path) -> None:
    asked = ("validate", a_model, a_set / "scans" / "a.nii.gz", "-o", tmp_path / "out", "--modality", "CT", "-q")
    assert run(*asked).exit_code == 0 and run(*asked).exit_code == 0, "the same one is made again"
    refused(run(*asked, "--reach", "5"), 2, "holds a validation of another segmenter", "choose another folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.csv").write_text("mine")
    refused(run(*asked[:4], tmp_path / "mine", *asked[5:]), 2, "holds metrics.csv and no earlier result", "another")


def test_a_scan_that_is_taken_for_mr_is_told_and_an_offset_makes_it_a_ct(
    a_model: Path, a_set: Path, tmp_path: Path
) -> None:
    scan = read_volume(a_set / "scans" / "a.nii.gz")
    lost = tmp_path / "a.nii.gz"
    write_volume(scan.with_array((scan.array + 1024).clip(0)), lost)
    asked = ("validate", a_model, lost, "-o", tmp_path / "out")
    done = run(*asked)
    assert done.exit_code == 0 and "a: MR, since no voxel is negative" in plain(done.stderr), done.output
    assert "Warning: a is taken for MR" in plain(run(*asked, "-q").stderr)
    refused(run(*asked, "--offset-hu", "-1024"), 2, "holds a validation of another segmenter", "another folder")
    shifted = run(*asked[:3], "-o", tmp_path / "shifted", "--offset-hu", "-1024", "-q")
    plainly = run("validate", a_model, a_set / "scans" / "a.nii.gz", "-o", tmp_path / "plain", "--modality", "CT", "-q")
    assert shifted.exit_code == plainly.exit_code == 0, shifted.output
    found = [read_volume(tmp_path / name / "pred" / "a.nii.gz").array for name in ("shifted", "plain")]
    assert np.mean(found[0] == found[1]) > 0.99


def test_an_offset_for_mr_or_beside_a_protocol_is_refused(tmp_path: Path) -> None:
    wish = ("validate", tmp_path, "-o", tmp_path / "out", "--offset-hu", "-1024")
    refused(run(*wish, "--protocol", "mini", "--data", "."), 2, "A protocol names the offset of each case", "offset_hu")
    refused(run(*wish[:2], tmp_path, *wish[2:], "--modality", "MR"), 2, "--offset-hu is for CT", "omit one")


def test_a_protocol_with_cases_that_were_trained_on_is_refused(a_model: Path, tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    model = Path(shutil.copytree(a_model, tmp_path / "model"))
    rows = json.loads(protocol.read_text())["cases"]
    cases = [Case(**{**row, "split": "train"}) for row in rows if row["name"] == "ct_3"]
    record_training(cases, tmp_path / "data", find_segmenter(model))
    asked = ("validate", model, "--protocol", protocol, "--data", tmp_path / "data", "-o", tmp_path / "report", "-q")
    refused(run(*asked), 2, "was trained on 1 of 1 cases: ct_3", "--allow-seen")
    assert run(*asked, "--allow-seen").exit_code == 0
    assert "SEEN IN TRAINING" in (tmp_path / "report" / "report.md").read_text()


def test_a_patient_under_another_spelling_is_a_warning_on_the_console(a_model: Path, tmp_path: Path) -> None:
    protocol = write_mini_data(tmp_path / "data")
    model = Path(shutil.copytree(a_model, tmp_path / "model"))
    trained = Case("x", "PATIENT of ct-03", "train", "CT", "ct_1/scan.nii.gz")
    record_training([trained], tmp_path / "data", find_segmenter(model))
    asked = ("validate", model, "--protocol", protocol, "--data", tmp_path / "data", "-o", tmp_path / "report")
    done = run(*asked)
    said = "WARNING: one patient under several names? 'patient of ct_3' of ct_3, trained on as 'PATIENT of ct-03'."
    assert done.exit_code == 0 and said in plain(done.stderr), done.output
    assert "WARNING" not in run(*asked, "-q").stderr and said in (tmp_path / "report" / "report.md").read_text()


def test_a_folder_with_scans_that_were_trained_on_is_refused(a_model: Path, a_set: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(a_model, tmp_path / "model"))
    record_training([Case("x", "y", "train", "CT", "scans/b.nii.gz")], a_set, find_segmenter(model))
    asked = ("validate", model, a_set / "scans", "-o", tmp_path / "out")
    refused(
        run(*asked, "--labels", a_set / "labels"), 2, "trained on 1 of 2 cases: b (the same file as x)", "--allow-seen"
    )
    assert not (tmp_path / "out" / "pred").exists()
    done = run(*asked, "--labels", a_set / "labels", "--allow-seen")
    assert done.exit_code == 0 and "SEEN IN TRAINING" in plain(done.stdout), done.output
    assert (tmp_path / "out" / "training.txt").read_text().startswith("SEEN IN TRAINING")
    alone = run(*asked[:3], "-o", tmp_path / "alone")
    assert alone.exit_code == 0 and not (tmp_path / "alone" / "training.txt").exists(), "nothing is scored"


@pytest.mark.parametrize(
    "wish",
    [
        ("scans", "--protocol", "mini", "--data", "."),
        ("--protocol", "mini"),
        (),
        ("scans", "--labels", "x", "--tumors", "y"),
    ],
)
def test_a_choice_that_is_none_is_refused(tmp_path: Path, wish: tuple[str, ...]) -> None:
    refused(
        run("validate", tmp_path, *wish, "-o", tmp_path / "out"), 2, "Expected scans, or one protocol", "--protocol"
    )


@pytest.mark.parametrize("wish", [("--largest-organ",), ("--reach", "30")])
def test_a_choice_that_would_change_nothing_is_refused(tmp_path: Path, wish: tuple[str, ...]) -> None:
    done = run("validate", tmp_path, tmp_path, "--organ-masks", tmp_path, *wish, "-o", tmp_path / "out")
    refused(done, 2, "Organ masks take the place of the segmenter's own organ", "omit these two")
    done = run("validate", tmp_path, tmp_path, "--organ", "liver", "-o", tmp_path / "out")
    refused(done, 2, "--organ chooses among a protocol's cases", "omit it")


def test_a_mask_that_is_missing_is_refused_by_name(a_model: Path, a_set: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    done = run("validate", a_model, a_set / "scans", "--labels", tmp_path / "masks", "-o", tmp_path / "out")
    refused(done, 2, "a: expected one mask of its name", "the same name")
    done = run("validate", a_model, a_set / "scans", "--labels", tmp_path / "nowhere", "-o", tmp_path / "out")
    refused(done, 2, "--labels: there is no", "spelling")


@pytest.mark.parametrize("option", ["--labels", "--tumors", "--organ-masks"])
def test_one_mask_for_a_folder_of_scans_is_refused(a_model: Path, a_set: Path, tmp_path: Path, option: str) -> None:
    """Every scan would be scored against the one's truth, which fits their grid where they were registered."""
    mask = a_set / "organs" / "a.nii.gz"
    done = run("validate", a_model, a_set / "scans", option, mask, "-o", tmp_path / "out")
    refused(done, 2, "is a folder of scans and", f"give {option} a folder")
    assert not (tmp_path / "out").exists()


def test_a_scan_that_is_missing_is_refused(a_model: Path, tmp_path: Path) -> None:
    refused(run("validate", a_model, tmp_path / "x.nii.gz", "-o", tmp_path / "out"), 2, "There is no", "spelling")
    (tmp_path / "empty").mkdir()
    refused(run("validate", a_model, tmp_path / "empty", "-o", tmp_path / "out"), 2, "There is no scan in", ".nii.gz")


def test_a_folder_without_a_segmenter_is_refused(a_set: Path, tmp_path: Path) -> None:
    done = run("validate", tmp_path, a_set / "scans", "-o", tmp_path / "out")
    refused(done, 3, "There is no segmenter in", "diffugts train segmenter")
