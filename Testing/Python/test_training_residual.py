"""`train residual` end to end on phantoms and networks of a few channels: twins are kept, the network is in the model."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mini_data
import numpy as np
import pytest
import torch
from mini_data import mini_config, shared_run, tiny_networks
from torch import Tensor

from DiffuGTSLib.backbones.weights import verify_checksums
from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.residual import Evidence, ResidualProjection
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.training.residual import ResidualOptions, ResidualRecipe, compare
from DiffuGTSLib.training.run import train_part
from DiffuGTSLib.training.twins import CandidateDraw, TwinnedWindow, keep_twins, make_twins
from DiffuGTSLib.volumes import read_volume, write_volume


def train_residual(run: Path, windows: int = 3, **wishes: Any) -> list[str]:
    lines: list[str] = []
    with tiny_networks():
        train_part(
            "residual", protocol_path=run / "data" / "protocol.json", data=run / "data", output=run,
            device="cpu", options={"windows": str(windows), "validation_windows": "2"}, report=lines.append,
            **{"iterations": 2, **wishes},
        )  # fmt: skip
    return lines


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of its own with every part, the residual trained for two steps on three windows."""
    run = tmp_path_factory.mktemp("residual") / "run"
    shutil.copytree(shared_run(tmp_path_factory), run)
    train_residual(run)
    return run


@pytest.fixture(scope="module")
def a_config(a_run: Path) -> Config:
    config = mini_config()
    return replace(config, backbone=replace(config.backbone, folder=str(a_run / "model")))


@pytest.fixture(scope="module")
def some_components(a_config: Config) -> Components:
    return load_components(a_config)


def a_sample(value: float = 0.5) -> Sample:
    mask = np.zeros((32, 32, 32), dtype=bool)
    mask[8:16, 8:16, 8:16] = True
    image = np.full((32, 32, 32), value, dtype=np.float32)
    image[mask] = 0.9
    return Sample(image, mask, "liver", "CT", (4.0, 4.0, 4.0))


def window_of(candidate: Tensor, truth: Tensor, residual: Tensor) -> TwinnedWindow:
    """A window of 8³ whose twins differ in the latent only."""
    zero = torch.zeros_like(candidate)
    shown = Evidence(zero, zero, zero, candidate, residual, torch.zeros_like(residual), torch.eye(2, 4)[None])
    return TwinnedWindow(shown, truth, zero, zero, truth, 0, "liver", "CT")


def test_a_dry_run_refuses_another_seed_and_says_what_is_left(a_run: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in a_run.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="was begun with another seed"):
        train_residual(a_run, dry_run=True, seed=5)
    assert train_residual(a_run, dry_run=True)[-1] == "residual: nothing is left to do"
    assert train_residual(a_run, dry_run=True, iterations=7)[-2:] == [
        "residual: 3 training windows and 2 validation windows get twins first",
        "residual: projection: 5 of 7 iterations are left",
    ]
    assert {path: path.stat().st_mtime_ns for path in a_run.rglob("*") if path.is_file()} == made


def test_the_residual_lies_in_the_model_folder_with_its_checksum_and_is_loaded_from_it(
    a_run: Path, a_config: Config
) -> None:
    assert "residual/diffusion_pytorch_model.safetensors" in verify_checksums(a_run / "model")
    assert "ResidualProjection" in (a_run / "model" / "model_index.json").read_text()
    asked = load_components(replace(a_config, residual=ResidualConfig(feature="projection")))
    assert isinstance(asked.residual, ResidualProjection)


def test_every_way_of_refining_is_compared_on_the_same_windows(a_run: Path) -> None:
    with (a_run / "residual" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ways = ["coarse", "pixel", "attention", "preset, attention", "projection", "preset, projection", "best possible"]
    assert len(rows) == 2 and list(rows[0]) == ["organ", "modality", *ways]
    assert all(0 <= float(row[way]) <= 1 for row in rows for way in ways)


def test_what_was_trained_is_not_trained_again(a_run: Path) -> None:
    log = a_run / "residual" / "projection" / "log.csv"
    before = log.read_bytes()
    assert not any("begun anew" in line for line in train_residual(a_run))
    assert log.read_bytes() == before, "the projection of the first run lies beside the head now, and changes nothing"


def test_twins_that_were_kept_are_not_made_again(a_run: Path) -> None:
    kept = sorted((a_run / "residual" / "train").iterdir())
    before = [path.stat().st_mtime_ns for path in kept]
    train_residual(a_run, windows=4)
    assert len(before) == 3 and [path.stat().st_mtime_ns for path in kept] == before
    assert len(list((a_run / "residual" / "train").iterdir())) == 4


def test_on_twins_of_other_choices_the_projection_is_begun_anew_and_that_is_said(
    a_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    weights = run / "model" / "residual" / "diffusion_pytorch_model.safetensors"
    train_residual(run)  # as often as the other tests left it
    before = weights.read_bytes()
    config = mini_config()
    other = replace(config, inpainting=replace(config.inpainting, resample=3))
    monkeypatch.setattr(mini_data, "mini_config", lambda: other)
    lines = train_residual(run)
    assert any("begun anew" in line and "windows with twins" in line for line in lines)
    assert weights.read_bytes() != before


def test_mended_outlines_are_refused_before_twins_are_made_and_make_them_anew_where_nothing_was_begun(
    a_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    mask = run / "data" / "ct_1" / "tumor.nii.gz"
    tumor = read_volume(mask)
    write_volume(tumor.with_array(np.roll(tumor.array, 1, axis=0)), mask)
    kept = sorted((run / "residual" / "train").iterdir())[:3]
    before = [path.stat().st_mtime_ns for path in kept]
    with pytest.raises(ConfigError, match="other organs or outlines in its training scans"):
        train_residual(run)
    assert [path.stat().st_mtime_ns for path in kept] == before
    shutil.rmtree(run / "residual" / "projection")
    train_residual(run)
    assert not set(before) & {path.stat().st_mtime_ns for path in kept}


def test_twins_of_another_seed_or_a_damaged_file_are_made_again(
    tmp_path: Path, some_components: Components, a_config: Config
) -> None:
    def kept(seed: int) -> list[TwinnedWindow]:
        draw = CandidateDraw(1.0)
        return keep_twins(lambda *_: a_sample(), 1, tmp_path, draw, some_components, a_config, seed, lambda a, b: None)

    first, again, other = kept(0)[0], kept(0)[0], kept(1)[0]
    assert torch.allclose(first.evidence.healthy, again.evidence.healthy, atol=1e-3)
    assert first.evidence.healthy.shape != other.evidence.healthy.shape or not torch.allclose(
        first.evidence.healthy, other.evidence.healthy, atol=1e-3
    )
    (tmp_path / "0000.safetensors").write_bytes(b"cut off")
    assert kept(1)[0].organ == "liver"


def test_a_run_that_goes_on_sees_the_windows_that_the_first_one_saw_and_others_where_they_are_drawn_otherwise(
    tmp_path: Path, some_components: Components, a_config: Config
) -> None:
    drawn = []

    def kept(drawn_from: str) -> TwinnedWindow:
        def draw(*_: object) -> Sample:
            drawn.append(drawn_from)
            return a_sample()

        how = CandidateDraw(1.0)
        return keep_twins(draw, 1, tmp_path, how, some_components, a_config, 0, lambda a, b: None, drawn_from)[0]

    first, again = kept("64"), kept("64")
    assert torch.equal(first.evidence.healthy, again.evidence.healthy), "bit for bit"
    kept("48")
    assert drawn == ["64", "48"]


def test_a_window_without_candidate_has_no_twin(some_components: Components, a_config: Config) -> None:
    never = replace(a_config, masks=replace(a_config.masks, minimum_ml=1e6))
    rng = np.random.default_rng(0)
    assert make_twins(a_sample(), CandidateDraw(0.0), some_components, never, rng) is None
    forced = make_twins(a_sample(), CandidateDraw(1.0), some_components, never, rng)
    assert forced is not None and forced.evidence.candidate.any()


def test_twins_are_alike_outside_the_candidate_and_what_is_cut_off_is_counted(
    some_components: Components, a_config: Config
) -> None:
    window = make_twins(a_sample(), CandidateDraw(1.0), some_components, a_config, np.random.default_rng(0))
    assert window is not None
    shown, outside = window.evidence, window.evidence.candidate == 0
    assert torch.equal(shown.healthy[outside], shown.reconstruction[outside])
    assert window.truth.sum() + window.cut_off == 8**3
    assert [4 * side for side in shown.latent.shape[2:]] == list(shown.healthy.shape[2:])


def test_the_network_learns_which_change_is_a_tumor() -> None:
    """The first latent channel changes in tumors, the second in healthy tissue that was repainted otherwise."""
    residual, truth = torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 1, 16, 16, 16)
    residual[:, 0, :2], residual[:, 1, 2:] = 1.0, 1.0
    truth[:, :, :8] = 1.0
    window = window_of(torch.ones(1, 1, 16, 16, 16), truth, residual)
    torch.manual_seed(0)
    recipe = ResidualRecipe(ResidualProjection(2, 4), [window], [window], batch=1)
    optimizer = torch.optim.Adam(recipe.trainable.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    first = recipe.losses(rng)["total"].item()
    for _ in range(60):
        optimizer.zero_grad()
        recipe.losses(rng)["total"].backward()
        optimizer.step()
    assert recipe.losses(rng)["total"].item() < first / 2
    assert recipe.validate()["dice"] > 0.9


def test_losses_look_at_the_candidate_only() -> None:
    residual, candidate = torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 1, 8, 8, 8)
    candidate[..., :4] = 1.0
    inside, both = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    inside[..., :2] = 1.0
    both[..., :2], both[..., 6:] = 1.0, 1.0
    torch.manual_seed(0)
    network = ResidualProjection(2, 4)
    losses = [
        ResidualRecipe(network, [window_of(candidate, truth, residual)], [], batch=1).losses(np.random.default_rng(0))
        for truth in (inside, both)
    ]
    assert losses[0]["total"].item() == pytest.approx(losses[1]["total"].item())


def test_the_best_possible_is_what_the_candidate_covers() -> None:
    candidate, truth = torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    candidate[..., :4], truth[..., 2:6] = 1.0, 1.0
    window = window_of(candidate, truth, torch.zeros(1, 2, 2, 2, 2))
    row = compare([window], ResidualProjection(2, 4), ResidualConfig())[0]
    assert row["best possible"] == pytest.approx(2 * 128 / (128 + 256))
    assert row["coarse"] == 1.0 and row["pixel"] == 0.0 and row["attention"] == 0.0


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"validation_windows": 0}, {"wrong": 1.5}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1; wrong: expected 0 to 1"):
        ResidualOptions(**wrong)  # type: ignore[arg-type]


def test_twins_are_made_of_attention_that_is_smoothed_as_the_pipeline_s_is(
    some_components: Components, a_config: Config
) -> None:
    everything = replace(a_config.masks, rule="fixed", threshold=0.001, peak=0.0, floor=0.0, minimum_ml=0.0)
    plain, smooth = (
        make_twins(
            a_sample(), CandidateDraw(0.0, None), some_components,
            replace(a_config, masks=replace(everything, smooth_mm=reach)), np.random.default_rng(0),
        )
        for reach in (0.0, 12.0)
    )  # fmt: skip
    assert plain is not None and smooth is not None
    assert plain.evidence.attention.shape == smooth.evidence.attention.shape
    assert smooth.evidence.attention.std() < plain.evidence.attention.std()
