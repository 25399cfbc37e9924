"""`data filter-tumors` on a list of phantoms: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from phantoms import ct_phantom
from terminal import refused, run

from DiffuGTSLib.volumes import read_volume, write_volume


@pytest.fixture
def a_list(tmp_path: Path) -> Path:
    """A list of one early and one late tumor, 8 and 14 mm in mean radius."""
    lines = []
    for name, radius_mm in (("early", 8.0), ("late", 14.0)):
        phantom = ct_phantom(lesion_mm=radius_mm)
        labels = phantom.organ.array + phantom.organ.array * phantom.lesion.array
        write_volume(phantom.scan, tmp_path / f"{name}.nii.gz")
        write_volume(phantom.organ.with_array(labels), tmp_path / f"{name}_label.nii.gz")
        lines.append(f"{name}.nii.gz {name}_label.nii.gz")
    path = tmp_path / "real_tumor_train_0.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("stage", ["early", "late"])
def test_one_stage_is_kept_and_listed(a_list: Path, tmp_path: Path, stage: str) -> None:
    output = tmp_path / "filtered"
    arguments = ("--list", a_list, "--data", tmp_path, "--stage", stage, "-o", output)
    said = run("data", "filter-tumors", *arguments).output
    assert "1 of 2 cases, 1 tumors" in " ".join(said.split())
    new = output.resolve() / f"{stage}_label.nii.gz"
    assert (output / a_list.name).read_text() == f"{stage}.nii.gz\t{new}\n"
    for name in ("early", "late"):
        assert (read_volume(output / f"{name}_label.nii.gz").array == 2).any() == (name == stage)


def test_a_decathlon_file_gives_a_list_a_split(a_list: Path, tmp_path: Path) -> None:
    image, label = a_list.read_text().splitlines()[0].split()
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"training": [{"image": image, "label": label}]}))
    run("data", "filter-tumors", "--list", path, "--data", tmp_path, "--stage", "early", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "train.txt").exists() and not (tmp_path / "out" / "validation.txt").exists()


def test_the_list_that_is_read_is_never_replaced(a_list: Path, tmp_path: Path) -> None:
    before = a_list.read_text()
    done = run("data", "filter-tumors", "--list", a_list, "--data", tmp_path, "--stage", "early", "-o", tmp_path)
    refused(done, 2, "would replace the one it is made from", "choose another output folder")
    assert a_list.read_text() == before


def test_a_folder_or_file_that_is_not_there_is_refused(a_list: Path, tmp_path: Path) -> None:
    rest = ("--list", a_list, "--stage", "early", "-o", tmp_path / "out")
    done = run("data", "filter-tumors", "--data", tmp_path / "none", *rest)
    refused(done, 2, "--data: there is no folder", "check the spelling")
    (tmp_path / "late_label.nii.gz").unlink()
    done = run("data", "filter-tumors", "--data", tmp_path, *rest)
    refused(done, 2, "late_label.nii.gz, which is not there", "the list's paths start from")
