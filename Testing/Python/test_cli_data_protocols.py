"""`data protocol`, `data check` and `data split` as commands: what they write, what they say, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import write_kits, write_msd, write_nnunet
from terminal import plain, refused, run

from DiffuGTSLib.datasets.protocol import read_protocol


@pytest.fixture
def a_folder(tmp_path: Path) -> Path:
    """Two data sets side by side."""
    write_msd(tmp_path / "data" / "Task03_Liver", 5)
    write_kits(tmp_path / "data" / "kits23", 3)
    return tmp_path / "data"


def made(folder: Path, name: str, layout: str) -> Path:
    """Make a protocol whose paths start from the folder."""
    output = folder / f"{layout}.json"
    arguments = ("data", "protocol", folder / name, "--layout", layout, "--root", folder, "-o", output, "--seed", "3")
    assert run(*arguments).exit_code == 0
    return output


def test_a_folder_becomes_a_protocol_and_says_how(a_folder: Path) -> None:
    output = a_folder / "liver.json"
    done = run(
        "data", "protocol", a_folder / "Task03_Liver", "--layout", "msd", "-o", output, "--fractions", "0.6,0.2,0.2"
    )
    assert done.exit_code == 0 and "liver.json" in done.output and "Patients" in done.output
    assert "Tumor in 5 scans: 2." in plain(done.output)
    cases = read_protocol(output)
    assert sorted(case.split for case in cases) == ["test", "train", "train", "train", "validation"]
    origin = json.loads(output.read_text())["origin"]
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    assert origin == {"layout": "msd", "seed": 0, "fractions": shares}


def test_values_that_are_neither_tumor_nor_healthy_are_told(a_folder: Path) -> None:
    done = run("data", "protocol", a_folder / "kits23", "--layout", "kits", "-o", a_folder / "told.json")
    assert "Tumor in 3 scans: 2; neither tumor nor healthy: 3." in plain(done.output)


def test_labels_of_which_nothing_is_known_are_told(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Dataset100", ["CT"], {"background": 0, "liver": 1, "Klatskin": 2})
    done = run("data", "protocol", folder, "--layout", "nnunet", "-o", tmp_path / "told.json")
    assert done.exit_code == 0 and "Nothing is known of the labels Klatskin (2)" in plain(done.output)
    done = run("data", "check", tmp_path / "told.json", "--data", folder)
    assert done.exit_code == 0 and "nothing is known of Klatskin" in plain(done.stdout)


def test_sound_data_end_with_code_0_and_damaged_data_with_2(a_folder: Path, tmp_path: Path) -> None:
    path = made(a_folder, "kits23", "kits")
    done = run("data", "check", path, "--data", a_folder, "--quiet", "-o", tmp_path / "r.json")
    assert done.exit_code == 0 and json.loads((tmp_path / "r.json").read_text())["errors"] == 0
    assert "Nothing is wrong" in plain(run("data", "check", path, "--data", a_folder).stdout)
    (a_folder / "kits23" / "case_00001" / "segmentation.nii.gz").write_bytes(b"")
    done = run("data", "check", path, "--data", a_folder, "-o", tmp_path / "r.json")
    assert done.exit_code == 2 and "Errors found in kits.json: 1." in plain(done.stderr)
    assert "Errors: 1. Warnings: 0." in plain(done.stdout)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["errors"] == 1 and report["problems"][0]["case"] == "case_00001"


def test_many_problems_of_a_kind_are_shown_by_the_first_five_and_json_has_all(a_folder: Path) -> None:
    path = made(a_folder, "Task03_Liver", "msd")
    rows = json.loads(path.read_text())
    for row in rows["cases"]:
        row["modality"] = "MR"
    rows["cases"] += [{**row, "name": row["name"] + "_b"} for row in rows["cases"]]
    path.write_text(json.dumps(rows))
    done = run("data", "check", path, "--data", a_folder)
    assert done.exit_code == 0 and "5 more" in plain(done.stdout)
    done = run("data", "check", path, "--data", a_folder, "--json", "--quiet")
    assert json.loads(done.stdout)["warnings"] == 10


def test_a_name_with_brackets_is_printed_as_it_is(a_folder: Path) -> None:
    path = made(a_folder, "kits23", "kits")
    path.write_text(path.read_text().replace('"case_00001"', '"ct [arterial]"'))
    (a_folder / "kits23" / "case_00001" / "segmentation.nii.gz").write_bytes(b"")
    assert "ct [arterial]" in plain(run("data", "check", path, "--data", a_folder).stdout)


def test_two_data_sets_make_a_protocol_for_each_tumor_left_out(a_folder: Path, tmp_path: Path) -> None:
    paths = (made(a_folder, "Task03_Liver", "msd"), made(a_folder, "kits23", "kits"))
    done = run("data", "split", *paths, "--kind", "leave-one-out", "-o", tmp_path / "protocols")
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "protocols").iterdir()) == [
        "leave-one-out-kidney.json", "leave-one-out-liver.json",
    ]  # fmt: skip
    cases = read_protocol(tmp_path / "protocols" / "leave-one-out-kidney.json")
    assert {case.organ for case in cases if case.split == "test"} == {"kidney"}
    content = json.loads((tmp_path / "protocols" / "leave-one-out-kidney.json").read_text())
    assert (content["kind"], content["made_from"]) == ("leave-one-out", ["msd", "kits"])
    done = run("data", "check", tmp_path / "protocols" / "leave-one-out-kidney.json", "--data", a_folder, "--quiet")
    assert done.exit_code == 0, done.output


def test_no_protocol_is_replaced_unasked(a_folder: Path, tmp_path: Path) -> None:
    path = made(a_folder, "kits23", "kits")
    before = path.read_bytes()
    check = ("data", "check", path, "--data", a_folder, "--quiet", "-o")
    refused(run(*check, path, "--force"), 2, "is the protocol itself", "name another file")
    other = made(a_folder, "Task03_Liver", "msd")
    refused(run(*check, other), 2, f"{other} is there already", "--force")
    assert run(*check, tmp_path / "r.json").exit_code == 0
    assert run(*check, tmp_path / "r.json").exit_code == 0, "an earlier report may go"
    again = ("data", "protocol", a_folder / "kits23", "--layout", "kits", "-o", path)
    refused(run(*again), 2, f"{path} is there already", "--force")
    split = ("data", "split", path, other, "--kind", "seen", "-o", tmp_path / "protocols")
    assert run(*split).exit_code == 0
    refused(run(*split), 2, "seen.json is there already", "--force")
    assert path.read_bytes() == before
    assert run(*split, "--force").exit_code == 0 and run(*again, "--force").exit_code == 0
    assert path.read_bytes() != before


def test_what_is_not_there_or_no_number_is_refused(a_folder: Path, tmp_path: Path) -> None:
    rest = ("--layout", "msd", "-o", tmp_path / "p.json")
    refused(run("data", "protocol", tmp_path / "none", *rest), 2, "There is no", "check the spelling")
    for words, expected in (("a,b,c", "comma-separated numbers"), ("0.5,0.5", "3 comma-separated numbers")):
        done = run("data", "protocol", a_folder / "Task03_Liver", *rest, "--fractions", words)
        refused(done, 2, f"--fractions: expected {expected}", "")
    done = run("data", "protocol", a_folder / "Task03_Liver", *rest, "--tumor-values", "1.7")
    refused(done, 2, "--tumor-values: expected comma-separated whole numbers", "")
    done = run("data", "check", "mini", "--data", tmp_path / "none")
    refused(done, 2, "--data: there is no folder", "check the spelling")
