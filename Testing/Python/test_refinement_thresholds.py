"""The mixture of residuals is chosen by the Dice of what it leaves of each sample's candidate."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import GRID, training_scan, write_case
from phantoms import ct_phantom

from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config, ResidualConfig, load_config
from DiffuGTSLib.residual import Evidence, ResidualMaps, ResidualProjection
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.training.refinement_thresholds import (
    KEYS,
    by_kind,
    measured,
    refined_settings,
    tried,
    write_refined,
)
from DiffuGTSLib.training.twins import TwinnedWindow


@pytest.fixture(scope="module")
def a_config() -> Config:
    """Untrained networks, whose attention is near 0.5 everywhere: all of it is a candidate, or nothing."""
    keys = ["canonical.spacing_mm=4.0", "backbone.window_voxels=32", "masks.threshold=0.01", "inpainting.steps=1"]
    return load_config("tiny", overrides=["runtime.device=cpu", *keys])


@pytest.fixture(scope="module")
def some_components(a_config: Config) -> Components:
    return load_components(a_config, allow_untrained=True)


@pytest.fixture(scope="module")
def a_sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    data = tmp_path_factory.mktemp("scan")
    scan = training_scan(data, write_case(data, "sick", ct_phantom(GRID), "validation"))
    return Sample(scan.scan.image, scan.tumor, "liver", "CT", scan.scan.spacing_mm)


def a_window(group: str = "liver", cut_off: int = 0) -> TwinnedWindow:
    """A candidate of 8 × 8 × 8 voxels, half of which is tumor."""
    nothing = torch.zeros(1, 1, 16, 16, 16)
    candidate, truth = nothing.clone(), nothing.clone()
    candidate[..., 4:12, 4:12, 4:12] = 1
    truth[..., 4:8, 4:12, 4:12] = 1
    latent = torch.zeros(1, 4, 4, 4, 4)
    evidence = Evidence(nothing, nothing, nothing, candidate, latent, latent, torch.zeros(1, 2, 8))
    return TwinnedWindow(evidence, candidate, nothing, nothing, truth, cut_off, group, "CT")


def some_maps(window: TwinnedWindow, height: float = 1.0) -> ResidualMaps:
    """The picture changed in the tumor, the attention in all of the candidate, and the map says nothing."""
    candidate, truth = window.evidence.candidate[0, 0], window.truth[0, 0]
    return ResidualMaps(height * truth, height * candidate, torch.zeros_like(truth))


def test_every_mixture_is_tried_by_otsu_and_at_every_cut_by_both_rules() -> None:
    ways = list(tried(ResidualConfig(feature="attention")))
    assert ways[0] == ResidualConfig(feature="attention"), "the preset's own way is among them"
    assert len(ways) == 6 * 25 + 1 and len({tuple(getattr(way, key) for key in KEYS) for way in ways[1:]}) == 6 * 25
    assert {way.rule for way in ways} == {"otsu", "fixed", "relative"}


def test_a_way_to_refine_is_measured_by_what_it_leaves() -> None:
    window = a_window()
    pixel = ResidualConfig(beta_pixel=1.0, beta_feature=0.0, rule="fixed", threshold=0.5)
    feature = replace(pixel, beta_pixel=0.0, beta_feature=1.0)
    real, painted = "liver, CT, real", "liver, CT, painted"

    def dice(residual: ResidualConfig, height: float = 1.0) -> float:
        return measured([window], [some_maps(window, height)], [real], residual).by_group[real]

    assert dice(pixel) == 1.0 and dice(feature) == pytest.approx(2 / 3), "the tumor, the whole candidate"
    assert dice(pixel, 0.2) == 0.0 and dice(replace(pixel, rule="relative"), 0.2) == 1.0
    cut = a_window(cut_off=256)
    both = measured([window, cut], [some_maps(window), some_maps(cut, 0.2)], [real, painted], pixel)
    assert both.by_group == {real: 1.0, painted: 0.0}
    assert both.gains == {"real": pytest.approx(1 / 3), "painted": pytest.approx(-1 / 2)}, "candidates had 2/3 and 1/2"


def test_kinds_are_means_over_organs() -> None:
    groups = {"liver, CT, painted": 0.2, "brain, MR, painted": 0.4, "soft tissue, CT, real": 0.9}
    assert by_kind(groups) == {"painted": pytest.approx(0.3), "real": pytest.approx(0.9)}


def test_real_networks_repaint_a_sample_once_and_every_way_is_ranked(
    a_sample: Sample, some_components: Components, a_config: Config, tmp_path: Path
) -> None:
    said: list[str] = []
    settings = refined_settings([a_sample], tmp_path / "twins", some_components, a_config, said.append)
    assert said == ["thresholds: repainted 1 of 1: liver, CT"]
    figures = [setting.gains["real"] for setting in settings]
    assert len(settings) == 151 and figures == sorted(figures, reverse=True) and figures[0] > figures[-1]
    (kept,) = (tmp_path / "twins").iterdir()
    before = kept.stat().st_mtime_ns
    again = refined_settings([a_sample], tmp_path / "twins", some_components, a_config, said.append)
    assert kept.stat().st_mtime_ns == before and [setting.gains["real"] for setting in again] == figures
    write_refined(tmp_path / "table.csv", settings)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [rows[0][key] for key in KEYS] == [str(getattr(settings[0].residual, key)) for key in KEYS]


def test_another_picture_or_question_has_another_twin(
    a_sample: Sample, some_components: Components, a_config: Config, tmp_path: Path
) -> None:
    brighter = replace(a_sample, image=a_sample.image * np.float32(0.9))
    samples = [a_sample, brighter, replace(a_sample, organ="lung")]
    refined_settings(samples, tmp_path, some_components, a_config, lambda said: None)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_trained_projection_is_measured_by_what_it_says(
    a_sample: Sample, some_components: Components, a_config: Config, tmp_path: Path
) -> None:
    network = ResidualProjection(some_components.autoencoder.latent_channels, some_components.text_encoder.dim)
    config = replace(a_config, residual=replace(a_config.residual, feature="projection"))
    others = [
        refined_settings([a_sample], tmp_path, replace(some_components, residual=each), config, lambda said: None)
        for each in (None, network)
    ]
    assert len(list(tmp_path.iterdir())) == 1, "the twin does not follow from the projection"
    assert {setting.residual.feature for setting in others[1]} == {"projection"}
    assert [setting.by_group for setting in others[0]] != [setting.by_group for setting in others[1]]


def test_without_a_candidate_there_is_nothing_to_choose_by(
    a_sample: Sample, some_components: Components, a_config: Config, tmp_path: Path
) -> None:
    deaf = replace(a_config, masks=replace(a_config.masks, threshold=0.99))
    assert refined_settings([a_sample], tmp_path, some_components, deaf, lambda said: None) == []
