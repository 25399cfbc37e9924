"""The command line with a model folder: used, remembered, refused when spoiled, judged, trained."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from terminal import coarse_body, refused, run, write_case

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import WEIGHTS_FILE, save_module, write_checksums
from DiffuGTSLib.output import results

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with organ.nii.gz, lesion.nii.gz, scan.nii.gz and a copy of it for each split; not to be changed."""
    folder = write_case(tmp_path_factory.mktemp("data"), coarse_body())
    for split in SPLITS:
        shutil.copy(folder / "scan.nii.gz", folder / f"{split}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def a_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder of tiny networks; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "own"
    autoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4)
    unet = MaisiUNet(
        num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
        norm_num_groups=4, num_class_embeds=16, resblock_updown=False,
    )  # fmt: skip
    parts = {"autoencoder": autoencoder, "denoiser": unet, "aova": AovaHead(autoencoder.feature_channels, 384)}
    for name, module in parts.items():
        save_module(module, folder / name)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text('{"prediction": "flow"}')
    write_checksums(folder)
    return folder


def _lose(folder: Path) -> None:
    (folder / "denoiser" / WEIGHTS_FILE).unlink()


def _alter(folder: Path) -> None:
    path = folder / "denoiser" / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\1\1")


def _truncate(folder: Path) -> None:
    path = folder / "denoiser" / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-4])
    write_checksums(folder)


def _reshape(folder: Path) -> None:
    path = folder / "denoiser" / WEIGHTS_FILE
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file(tensors | {name: torch.zeros(3, 3)}, path)
    write_checksums(folder)


@pytest.mark.parametrize(
    ("spoil", "message", "hint"),
    [
        (shutil.rmtree, "There is no model folder", "diffugts doctor"),
        (_lose, "Weights are missing", "whole model folder"),
        (_alter, "is not the file that checksums.json names: SHA-256 expected", "cut off or altered"),
        (_truncate, "is not a complete safetensors file", "cut off or altered"),
        (_reshape, "1 tensors of another shape", "another network"),
    ],
    ids=["no folder", "missing", "altered", "cut off", "wrong size"],
)
def test_weights_that_cannot_be_used_arerefused(
    tmp_path: Path, a_folder: Path, a_model_folder: Path, an_unchecked_library: None,
    spoil: Callable[[Path], None], message: str, hint: str,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(a_model_folder, tmp_path / "model"))
    spoil(folder)
    own = ("--preset", "tiny", "--set", f"backbone.folder={folder}")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", "--organ", "liver", *own)
    refused(done, 3, message, hint)
    assert not (tmp_path / "result").exists()


def test_a_model_folder_of_ones_own_is_used_and_remembered(
    tmp_path: Path, a_folder: Path, a_model_folder: Path, an_unchecked_library: None
) -> None:
    folder = Path(shutil.copytree(a_model_folder, tmp_path / "model"))
    own = ("--preset", "tiny", "--set", f"backbone.folder={folder}", "--coarse-mask", a_folder / "lesion.nii.gz")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", "--organ", "liver", *own)
    assert done.exit_code == 0, done.stderr
    assert "Untrained" not in done.stdout
    assert sorted(results.read_record(tmp_path / "result")["weights"]) == [
        *(f"{part}/{WEIGHTS_FILE}" for part in ("aova", "autoencoder", "denoiser")), "text/model.safetensors",
    ]  # fmt: skip
    _reshape(folder)
    save_module(MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4), folder / "autoencoder")
    shutil.copy(a_model_folder / "denoiser" / WEIGHTS_FILE, folder / "denoiser" / WEIGHTS_FILE)
    write_checksums(folder)
    refused(run("refine", tmp_path / "result", "-q"), 3, "was made with other weights than are installed", "segment")


@pytest.fixture
def a_protocol(tmp_path: Path) -> Path:
    """A protocol of the phantom, as three patients in three splits."""
    case = {"modality": "CT", "organ": "liver", "tumor": "lesion.nii.gz"}
    cases = [
        {"name": f"case_{split}", "patient": f"patient_{split}", "split": split, "image": f"{split}.nii.gz", **case}
        for split in SPLITS
    ]
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps({"format": 1, "cases": cases}))
    return path


def test_evaluate_judges_every_case_of_a_protocol(
    tmp_path: Path, a_folder: Path, a_model_folder: Path, a_protocol: Path, an_unchecked_library: None
) -> None:
    own = ("--preset", "tiny", "--set", f"backbone.folder={a_model_folder}")
    report = tmp_path / "report"
    done = run("evaluate", "--protocol", a_protocol, "--data", a_folder, "-o", report, *own)
    assert done.exit_code == 0, done.stderr
    assert f"Report: {report}" in done.stdout
    assert "Cases: done" in done.stderr
    assert "case_test" in (report / "cases.csv").read_text()
    assert run("evaluate", "--protocol", a_protocol, "--data", a_folder, "-o", report, *own, "-q").output == ""
    told = run("evaluate", "--protocol", a_protocol, "--data", a_folder, "-o", report, *own, "--json").stdout
    assert json.loads(told) == json.loads((report / "report.json").read_text()), "nothing else is on stdout"


def test_a_dry_run_of_training_says_what_would_be_done(tmp_path: Path, a_folder: Path, a_protocol: Path) -> None:
    case = ("train", "autoencoder", "--protocol", a_protocol, "--data", a_folder, "-o", tmp_path / "run")
    done = run(*case, "--dry-run", "--iterations", "7", "--seed", "2")
    assert done.exit_code == 0, done.stderr
    assert "autoencoder: 7 iterations, float32, seed 2" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("swallowed", "said"),
    [
        (True, "Stopped. Nothing is kept yet.\nHint: the same command begins anew."),
        (False, "Stopped. The last checkpoint is kept.\nHint: the same command goes on from there."),
    ],
)
def test_stopping_a_training_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swallowed: bool, said: str
) -> None:
    checkpoint = tmp_path / "run" / "denoiser" / "state.pt"
    if not swallowed:
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"")

    def train_part(part: str, *, report: Callable[[str], None], **others: object) -> None:
        with contextlib.suppress(*([KeyboardInterrupt] if swallowed else [])):
            signal.raise_signal(signal.SIGINT)  # as a user does, in the midst of it
        report("on and on")

    monkeypatch.setattr("DiffuGTSLib.training.run.train_part", train_part)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background work ignores Ctrl-C
    try:
        done = run("train", "denoiser", "--data", tmp_path, "-o", tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.exit_code == 130
    assert said in done.stderr


def test_a_result_is_refined_from_another_folder_and_with_a_model_that_was_moved(
    tmp_path: Path, a_folder: Path, a_model_folder: Path, an_unchecked_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(a_model_folder, tmp_path / "run" / "model")
    monkeypatch.chdir(tmp_path / "run")
    own = ("--preset", "tiny", "--set", "backbone.folder=model", "--coarse-mask", a_folder / "lesion.nii.gz")
    done = run("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", "--organ", "liver", *own, "-q")
    assert done.exit_code == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    done = run("refine", tmp_path / "result", "-q")
    assert done.exit_code == 0, done.stderr
    (tmp_path / "run" / "model").rename(tmp_path / "moved")
    refused(run("refine", tmp_path / "result", "-q"), 3, "There is no model folder", "--model")
    done = run("refine", tmp_path / "result", "-q", "--model", "moved")
    assert done.exit_code == 0, done.stderr
    assert results.read_record(tmp_path / "result")["config"]["backbone"]["folder"] == str(tmp_path / "moved")
