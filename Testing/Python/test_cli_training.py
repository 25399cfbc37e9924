"""`train` with a part's own choices: shown by a dry run, read from --set, refused where they cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from layouts import write_msd
from terminal import coarse_body, plain, refused, run, write_case

from DiffuGTSLib.cli.training import PartName, key_values
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.training.run import PARTS


@pytest.fixture
def a_training_case(tmp_path: Path) -> tuple[str | Path, ...]:
    """The options that name a data folder, a protocol of one phantom as two patients, and a run folder."""
    folder = write_case(tmp_path, coarse_body())
    case = {"modality": "CT", "organ": "liver", "tumor": "lesion.nii.gz"}
    cases = []
    for split in ("train", "validation"):
        shutil.copy(folder / "scan.nii.gz", folder / f"{split}.nii.gz")
        cases.append({"name": split, "patient": split, "split": split, "image": f"{split}.nii.gz", **case})
    (tmp_path / "protocol.json").write_text(json.dumps({"format": 1, "cases": cases}))
    return ("--data", folder, "--protocol", tmp_path / "protocol.json", "-o", tmp_path / "run", "--device", "cpu")


def test_every_part_can_be_named_before_torch_is_loaded() -> None:
    assert tuple(PARTS) == get_args(PartName)


def test_the_help_names_the_parts_that_a_preset_may_be_named_for() -> None:
    shown = plain(run("train", "--help").stdout)
    on_preset = [name for name, part in PARTS.items() if part.any_preset]
    assert f"Of {', '.join(on_preset[:-1])} and {on_preset[-1]}: the networks" in shown.replace("│ ", "")


def test_a_dry_run_shows_a_part_s_options(a_training_case: tuple[str | Path, ...]) -> None:
    done = run("train", "tumor-painter", *a_training_case, "--dry-run", "--set", "timesteps=200", "--iterations", "9")
    assert done.exit_code == 0, done.stderr
    assert "tumor-painter: 9 iterations, float32, seed 0, on cpu" in done.stdout
    assert "size mini, timesteps 200, ddim_steps 0, stage all, handcrafted 0.5" in done.stdout
    done = run("train", "segmenter", *a_training_case, "--dry-run", "--set", "model=nnunet")
    assert done.exit_code == 0, done.stderr
    assert "segmenter: model nnunet" in done.stdout


def test_a_task_of_the_decathlon_needs_no_protocol(tmp_path: Path) -> None:
    data = write_msd(tmp_path / "Task03_Liver", 4)
    case = ("train", "aova", "--data", data, "-o", tmp_path / "run", "--device", "cpu", "--dry-run")
    done = run(*case, "--set", "mode=seen")
    assert done.exit_code == 0, done.stderr
    assert "protocol: Task03_Liver in the layout msd" in done.stdout and "mode seen" in done.stdout
    assert "train that first" in done.stdout, "the run has no autoencoder of its own"
    refused(run(*case, "--preset", "maisi"), 2, "Unknown preset 'maisi'", "did you mean")
    refused(run(*case, "--set", "mode=labels"), 2, "mode: unknown choice 'labels'", "image-labels")


def test_a_part_is_trained_with_its_curves(a_training_case: tuple[str | Path, ...], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    done = run("train", "vqgan", *a_training_case, "--iterations", "1", "--precision", "bfloat16", "--tensorboard")
    assert done.exit_code == 0, done.stderr
    with (tmp_path / "run" / "vqgan" / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["l1"]) > 0 and float(row["validation_psnr_db"]) > 0
    assert list((tmp_path / "run" / "vqgan").glob("events.out.tfevents.*"))


def test_a_choice_that_cannot_be_read_is_refused(a_training_case: tuple[str | Path, ...]) -> None:
    for wish, message in (
        ("timestep=4", "Unknown option 'timestep'"),
        ("timesteps=four", "timesteps: expected a whole number, got 'four'"),
        ("timesteps", "--set: expected KEY=VALUE, got 'timesteps'"),
        ("size=huge", "Unknown size 'huge' of a painter"),
    ):
        refused(run("train", "tumor-painter", *a_training_case, "--set", wish), 2, message, "")


@pytest.mark.parametrize("wish", [("--iterations", "77"), ("--tensorboard",)])
def test_a_part_that_learns_nothing_has_no_length_and_no_curves(
    a_training_case: tuple[str | Path, ...], wish: tuple[str, ...]
) -> None:
    done = run("train", "thresholds", *a_training_case, "--dry-run", *wish)
    refused(done, 2, "thresholds learns nothing", "omit --iterations and --tensorboard")


def test_key_and_value_are_parted_at_the_first_equals_sign() -> None:
    assert key_values(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    assert key_values(None) == {}
    with pytest.raises(ConfigError, match="expected KEY=VALUE, got '=1'"):
        key_values(["=1"])
