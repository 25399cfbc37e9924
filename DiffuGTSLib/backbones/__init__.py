"""Backbones: the frozen networks. The one registry, name → builder, is here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder, NoiseSchedule
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiDenoiser, MaisiUNet
from DiffuGTSLib.backbones.schedules import build_schedule
from DiffuGTSLib.backbones.weights import freeze, load_module, read_json, verify_checksums
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import ConfigError, WeightsError, did_you_mean
from DiffuGTSLib.resources import resource_path


@dataclass(frozen=True)
class Backbone:
    """The frozen networks of one model.

    Attributes:
        autoencoder: Images to latents and back.
        denoiser: Noisy latents to clean ones.
        schedule: The denoiser's noise levels.
        weights: Weight file → SHA-256, what the record names.
        folder: The model folder, or None for networks without one.
    """

    autoencoder: LatentAutoencoder
    denoiser: Denoiser
    schedule: NoiseSchedule
    weights: dict[str, str]
    folder: Path | None


FLOW_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
}
"""MAISI's rectified flow: levels shifted with the number of latent cells."""

DDPM_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "linspace",
}
"""MAISI-v1's DDPM noise levels, walked as DDIM."""

PUBLISHED_UNETS: dict[str, dict[str, Any]] = {
    "maisi-ct": {},
    "maisi-ct-ddpm": {"num_class_embeds": None, "region_index": True, "resblock_updown": False, "include_fc": False},
    "maisi-mr-brain": {},
}
"""What differs from `MaisiUNet`'s defaults in each published checkpoint."""


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build the frozen networks that a configuration names.

    Raises:
        ConfigError: Unknown name ("did you mean").
        WeightsError: Missing, altered or misfitting weights.
    """
    if config.folder:
        return _from_folder(config, Path(config.folder))
    if config.name not in BACKBONES:
        raise ConfigError(f"Unknown backbone '{config.name}'.", hint=did_you_mean(config.name, BACKBONES))
    return BACKBONES[config.name](config)


def published_networks(name: str) -> tuple[MaisiAutoencoder, MaisiUNet]:
    """Build the networks of a published MAISI checkpoint at full size, untrained: what its weights will fill.

    Use `torch.device("meta")` around it to look at shapes without memory.

    Raises:
        ConfigError: Unknown name.
    """
    if name not in PUBLISHED_UNETS:
        raise ConfigError(f"Unknown published model '{name}'.", hint=did_you_mean(name, PUBLISHED_UNETS))
    return MaisiAutoencoder(), MaisiUNet(**PUBLISHED_UNETS[name])


def _bundled(config: BackboneConfig) -> Backbone:
    return _from_folder(config, resource_path("Models", config.name))


def _from_folder(config: BackboneConfig, folder: Path) -> Backbone:
    """Read a model folder, every file checked before any is used."""
    weights = verify_checksums(folder)
    index = read_json(folder / "model_index.json")
    schedule = build_schedule(read_json(folder / "scheduler" / "scheduler_config.json"))
    unet = load_module(MaisiUNet, folder / "denoiser")
    denoiser = MaisiDenoiser(unet, schedule, str(index.get("prediction", "flow")), config.class_label)
    return Backbone(load_module(MaisiAutoencoder, folder / "autoencoder"), denoiser, schedule, weights, folder)


def _tiny(config: BackboneConfig) -> Backbone:
    """Build real networks of a few channels, seeded and untrained: for tests, and refused elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4)
        unet = MaisiUNet(
            num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
            norm_num_groups=4, num_class_embeds=16, resblock_updown=False,
        )  # fmt: skip
        # MONAI starts the last convolution at zero: an untrained network would predict exactly nothing.
        torch.nn.init.normal_(unet.net.out[-1].conv.weight, std=0.02)
    schedule = build_schedule(FLOW_SCHEDULER)
    denoiser = MaisiDenoiser(freeze(unet), schedule, "flow", config.class_label)
    return Backbone(freeze(autoencoder), denoiser, schedule, {}, None)


def _published(config: BackboneConfig) -> Backbone:
    raise WeightsError(
        f"The weights of '{config.name}' are not here: NVIDIA publishes them, and this version cannot fetch them yet.",
        hint="convert them into a model folder and name it with --set backbone.folder=DIR, or use --preset mini.",
        code="weights_missing",
    )


BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "mini": _bundled,
    "tiny": _tiny,
    **dict.fromkeys(PUBLISHED_UNETS, _published),
}
"""Name → builder."""
