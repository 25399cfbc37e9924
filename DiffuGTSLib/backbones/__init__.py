"""Backbones: the frozen networks. The one registry, name → builder, is here.

Networks are imported by their builders: whoever needs only a protocol or a schedule does not wait for MONAI.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder, NoiseSchedule
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError, did_you_mean
from DiffuGTSLib.model_store.store import require_stored
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

PUBLISHED = ("maisi-ct", "maisi-ct-ddpm", "maisi-mr-brain", "maisi-mr")
"""Models whose weights NVIDIA publishes; their networks are `DiffuGTSLib.backbones.maisi.published_networks`."""


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


def _bundled(config: BackboneConfig) -> Backbone:
    try:
        folder = resource_path("Models", config.name)
    except InputError as error:
        raise WeightsError(error.message, hint=error.hint, code="weights_missing") from error
    return _from_folder(config, folder)


def _from_folder(config: BackboneConfig, folder: Path) -> Backbone:
    """Read a model folder, every file checked before any is used."""
    from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiDenoiser, MaisiUNet
    from DiffuGTSLib.backbones.schedules import DdimSchedule, FlowSchedule, build_schedule
    from DiffuGTSLib.backbones.weights import load_module, read_model_json, verify_checksums

    weights = verify_checksums(folder)
    prediction = str(read_model_json(folder / "model_index.json").get("prediction"))
    schedule = build_schedule(read_model_json(folder / "scheduler" / "scheduler_config.json"))
    fitting = {"flow": FlowSchedule, "epsilon": DdimSchedule}
    if not isinstance(schedule, fitting.get(prediction, ())):
        raise WeightsError(
            f"{folder}: a denoiser that predicts '{prediction}' does not go with a {type(schedule).__name__}; "
            "expected 'flow' with rectified flow, or 'epsilon' with DDIM.",
            hint="check prediction in model_index.json and scheduler/scheduler_config.json.",
        )
    unet = load_module(MaisiUNet, folder / "denoiser")
    denoiser = MaisiDenoiser(unet, schedule, prediction, config.class_label)
    return Backbone(load_module(MaisiAutoencoder, folder / "autoencoder"), denoiser, schedule, weights, folder)


def _tiny(config: BackboneConfig) -> Backbone:
    """Build real networks of a few channels, seeded and untrained: for tests, and refused elsewhere."""
    from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiDenoiser, MaisiUNet
    from DiffuGTSLib.backbones.schedules import build_schedule
    from DiffuGTSLib.backbones.weights import draw_where_zero, freeze, seeded

    with seeded(0):
        autoencoder = MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4)
        unet = MaisiUNet(
            num_channels=(8, 16), attention_levels=(False, True), num_head_channels=(0, 8), num_res_blocks=1,
            norm_num_groups=4, num_class_embeds=16, resblock_updown=False,
        )  # fmt: skip
        draw_where_zero(unet)
    schedule = build_schedule(FLOW_SCHEDULER)
    denoiser = MaisiDenoiser(freeze(unet), schedule, "flow", config.class_label)
    return Backbone(freeze(autoencoder), denoiser, schedule, {}, None)


def _published(config: BackboneConfig) -> Backbone:
    return _from_folder(config, require_stored(config.name).folder)


BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "mini": _bundled,
    "tiny": _tiny,
    **dict.fromkeys(PUBLISHED, _published),
}
"""Name → builder."""
