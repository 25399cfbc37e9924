"""A part's options, read from words of the command line, and what a run goes on with."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mini_data import GRID, training_scan, write_case
from phantoms import ct_phantom
from trainer_parts import LineRecipe

from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.training.job import Job, Part, differing_overrides
from DiffuGTSLib.training.resuming import networks_sha256
from DiffuGTSLib.training.segmenter_run import SegmenterOptions
from DiffuGTSLib.training.trainer import TrainingPlan


@dataclass(frozen=True)
class Choices:
    """One field of each kind."""

    model: str = "unet"
    steps: int = 4
    share: float = 0.5
    tumors: bool = True


def nothing(job: Job) -> None:
    """Train nothing."""


def test_options_are_read_as_the_type_of_their_defaults() -> None:
    part = Part(nothing, nothing, iterations=1, options=Choices())
    chosen = part.parse_options({"model": "swin", "steps": "200", "share": "0.25", "tumors": "no"})
    assert chosen == Choices("swin", 200, 0.25, False)
    assert part.parse_options({}) == Choices()


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="Unknown option 'step'") as caught:
        Part(nothing, nothing, iterations=1, options=Choices()).parse_options({"step": "4"})
    assert caught.value.hint == "did you mean 'steps'?"
    with pytest.raises(ConfigError) as caught:
        Part(nothing, nothing, iterations=1).parse_options({"step": "4"})
    assert caught.value.hint == "this part has no options."


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [("steps", "4.5", "a whole number"), ("share", "half", "a number"), ("tumors", "maybe", "yes or no")],
)
def test_a_value_of_another_type_is_refused(key: str, value: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected {kind}, got '{value}'"):
        Part(nothing, nothing, iterations=1, options=Choices()).parse_options({key: value})


LISTS = {"train": ["a.nii.gz a_label.nii.gz"], "validation": ["b.nii.gz b_label.nii.gz"]}


def a_job(output: Path, *wishes: str, **changes: Any) -> Job:
    """Return a job on two listed cases; what it reports is in `output/said`."""

    def report(line: str) -> None:
        with (output / "said").open("a") as file:
            file.write(line + "\n")

    config = load_config("mini", overrides=wishes)
    job = Job({}, config, TrainingPlan(1), output, torch.device("cpu"), report, Choices(), listed=LISTS)
    return replace(job, **changes)


def trained(job: Job, **more: Any) -> str:
    """Train two more lines than are there, and return what was said."""
    (job.output / "said").write_text("")
    job.run(LineRecipe(), TrainingPlan(2), "line", **more)
    return (job.output / "said").read_text()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_of_listed_cases_goes_on_with_these_alone(tmp_path: Path, split: str) -> None:
    trained(a_job(tmp_path))
    assert trained(a_job(tmp_path)) == "", "it is at its end"
    other = {**LISTS, split: ["c.nii.gz c_label.nii.gz"]}
    words = {"train": "training", "validation": "validation"}[split]
    with pytest.raises(ConfigError, match=f"line was begun with another set of {words} scans"):
        trained(a_job(tmp_path, listed=other))


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("validation", "validation")])
def test_a_run_does_not_go_on_with_other_outlines_of_its_scans(tmp_path: Path, split: str, words: str) -> None:
    scan = training_scan(tmp_path, write_case(tmp_path, "ct", ct_phantom(GRID), "train"))
    moved = replace(scan, case=replace(scan.case, image="elsewhere/ct.nii.gz", contrast="portal"))
    mended = [
        replace(scan, tumor=scan.tumor & (scan.scan.image > scan.scan.image[scan.tumor].min())),
        replace(scan, case=replace(scan.case, unmarked_near={"liver": 5.0})),
    ]
    begun = a_job(tmp_path, scans={"train": [scan], "validation": [scan]}, listed=None)
    trained(begun)
    assert trained(replace(begun, scans={**begun.scans, split: [moved]})) == "", "a file's place teaches nothing"
    for other in mended:
        with pytest.raises(ConfigError, match=f"begun with other organs or outlines in its {words} scans") as caught:
            trained(replace(begun, scans={**begun.scans, split: [other]}))
        assert "another --output" in caught.value.hint


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("validation", "validation")])
def test_a_run_does_not_go_on_with_other_voxels_under_the_names_of_its_scans(
    tmp_path: Path, split: str, words: str
) -> None:
    """As where a CT's lost intercept was put back into its file."""
    scan = training_scan(tmp_path, write_case(tmp_path, "ct", ct_phantom(GRID), "train"))
    mended = replace(scan, scan=replace(scan.scan, image=scan.scan.image + np.float32(0.1)))
    begun = a_job(tmp_path, scans={"train": [scan], "validation": [scan]}, listed=None)
    trained(begun)
    with pytest.raises(ConfigError, match=f"begun with other voxels in its {words} scans"):
        trained(replace(begun, scans={**begun.scans, split: [mended]}))


def test_a_run_does_not_go_on_in_another_precision_or_by_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both change the weights that it ends with, and its epochs."""
    trained(a_job(tmp_path))
    with pytest.raises(ConfigError, match="line was begun with another precision"):
        trained(a_job(tmp_path, plan=TrainingPlan(1, precision="bfloat16")))
    with monkeypatch.context() as patch:
        patch.setattr("DiffuGTSLib.training.job.world_size", lambda: 2)
        with pytest.raises(ConfigError, match="line was begun with another number of processes"):
            trained(a_job(tmp_path))


@pytest.mark.parametrize(
    ("asked", "of_preset", "precision"),
    [("float32", "float32", "float32"), ("bfloat16", "float32", "bfloat16"), ("float32", "bfloat16", "bfloat16")],
)
def test_a_model_is_run_in_the_precision_that_was_asked_for(
    tmp_path: Path, asked: str, of_preset: str, precision: str
) -> None:
    job = a_job(tmp_path, f"runtime.precision={of_preset}", plan=TrainingPlan(1, precision=asked))
    config = job.inference_config(tmp_path / "model")
    assert config.runtime.precision == precision and config.runtime.device == "cpu"
    assert config.backbone.folder == str(tmp_path / "model")


def test_fewer_iterations_than_there_are_done_are_refused(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    trained(job)
    with pytest.raises(ConfigError, match="line has had 2 iterations already; it would now have 1") as caught:
        job.run(LineRecipe(), TrainingPlan(1), "line")
    assert "--iterations" in caught.value.hint
    with pytest.raises(ConfigError, match="has had 2 iterations"):
        job.left("line", TrainingPlan(1), {})
    assert [job.left("line", TrainingPlan(count), {}) for count in (2, 5)] == [0, 3]
    assert job.left("another", TrainingPlan(5), {}) == 5


def test_a_run_that_another_version_began_with_other_choices_is_refused(tmp_path: Path) -> None:
    trained(a_job(tmp_path))
    record = tmp_path / "line" / "begun.json"
    told = json.loads(record.read_text())
    some = next(iter(told["options"]))
    fewer = {key: value for key, value in told["options"].items() if key != some}
    for other, name in (
        ({**told, "options": told["options"] | {"gone": 1}}, "gone"),
        ({**told, "options": fewer}, some),
        ({key: value for key, value in told.items() if key != "validation"}, "validation"),
        ({**told, "config": {}}, "canonical"),
    ):
        record.write_text(json.dumps(other))
        with pytest.raises(
            ConfigError, match=f"another version of DiffuGTS, which had other choices: {name}"
        ) as caught:
            trained(a_job(tmp_path))
        assert caught.value.hint == "choose another --output."


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"options": 1}', '{"frozen": "x"}', '{"config": {"canonical": null}}', None]
)
def test_a_checkpoint_without_a_readable_record_of_its_beginning_is_refused(tmp_path: Path, damage: str | None) -> None:
    trained(a_job(tmp_path))
    record = tmp_path / "line" / "begun.json"
    if damage is None:
        record.unlink()
    else:
        record.write_text(damage)
    for again in (trained, lambda job: job.left("line", TrainingPlan(2), {})):
        with pytest.raises(ConfigError, match="begun.json") as caught:
            again(a_job(tmp_path))
        assert caught.value.hint == f"remove {tmp_path / 'line'} to begin it anew, or choose another --output."


def test_a_key_of_the_preset_is_part_of_what_a_run_was_begun_with(tmp_path: Path) -> None:
    fine = ("canonical.spacing_mm=1.0", "backbone.folder=here")
    trained(a_job(tmp_path, *fine))
    with pytest.raises(ConfigError, match=r"with canonical.spacing_mm=1.0, not canonical.spacing_mm=2.0"):
        trained(a_job(tmp_path))
    with pytest.raises(ConfigError, match=r"with text.encoder=minilm, not text.encoder=clinicalbert"):
        trained(a_job(tmp_path, *fine, "text.encoder=clinicalbert"))
    trained(a_job(tmp_path, fine[0], "backbone.folder=there", "masks.threshold=0.3"))


def test_on_other_networks_a_part_is_begun_anew(tmp_path: Path) -> None:
    for number, name in enumerate(("autoencoder", "denoiser")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "diffusion_pytorch_model.safetensors").write_bytes(bytes([number]))
    frozen = networks_sha256([tmp_path / "autoencoder", tmp_path / "denoiser"])
    assert list(frozen) == ["autoencoder", "denoiser"] and len(set(frozen.values())) == 2
    assert trained(a_job(tmp_path), frozen=frozen).startswith("line 2/2")
    assert trained(a_job(tmp_path), frozen=frozen) == ""
    curves = tmp_path / "line" / "events.out.tfevents.1796072099.host.1.0"
    curves.touch()
    said = trained(a_job(tmp_path), frozen={**frozen, "autoencoder": frozen["denoiser"]}).splitlines()
    assert said[0] == "line: begun anew, since it had been trained on another autoencoder"
    assert said[1].startswith("line 2/2")
    assert not curves.exists(), "what it was before is no part of its curves"
    record = tmp_path / "line" / "begun.json"
    earlier = {key: value for key, value in json.loads(record.read_text()).items() if key != "frozen"}
    record.write_text(json.dumps(earlier))
    assert trained(a_job(tmp_path), frozen=frozen) == "", "an earlier version did not say on which"


def test_the_words_of_a_command_make_the_same_configuration_again() -> None:
    wishes = ["canonical.ct_knots_hu=[-200,300]", "canonical.ct_knots_unit=[0,1]", "text.encoder=clinicalbert"]
    config = load_config("mini", overrides=[*wishes, "backbone.mirror=false", "backbone.folder=a folder"])
    words = differing_overrides(config)
    assert "backbone.folder=a folder" in words and "backbone.mirror=false" in words
    assert not any(word.startswith("canonical.spacing_mm") for word in words), "the preset says that"
    assert load_config("mini", overrides=words) == config


def test_a_part_is_made_from_what_it_began_from_its_painters_and_its_networks(tmp_path: Path) -> None:
    by_hand = SegmenterOptions(painter="recipe", late_painter="handcrafted")
    assert a_job(tmp_path, options=by_hand).made_from == []
    assert a_job(tmp_path, options=replace(by_hand, painter="none", late_painter="")).made_from == []
    learned = SegmenterOptions(start="start", painter="early/painter", late_painter="late/painter")
    assert a_job(tmp_path, options=learned).made_from == [Path("start"), Path("early/painter"), Path("late/painter")]
    assert a_job(tmp_path, networks=tmp_path / "published").made_from == [tmp_path / "published"]
