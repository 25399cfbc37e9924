"""The trained parts of one run: loaded, checked against each other, on their device."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from DiffuGTSLib.aova import AovaHead, AovaMaps, attend
from DiffuGTSLib.backbones import Backbone, build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder, NoiseSchedule, TextEncoder
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.backbones.taps import tapped, tapped_levels
from DiffuGTSLib.backbones.trained_grid import require_trained_grid
from DiffuGTSLib.backbones.weights import Module, freeze, load_module, seeded
from DiffuGTSLib.backbones.windows import OnWindow
from DiffuGTSLib.config import Config
from DiffuGTSLib.device import find_device, use_fastest_layout
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.inpainting import Conditions
from DiffuGTSLib.residual import RESIDUAL_FOLDER, ResidualProjection
from DiffuGTSLib.text.encoder import build_encoder, embed_pair
from DiffuGTSLib.text.prompts import PromptPair


@dataclass(frozen=True)
class Components:
    """Every trained part of one run, frozen and on its device.

    Attributes:
        autoencoder: Images to latents and features.
        denoiser: The frozen diffusion model of healthy tissue.
        schedule: Its noise levels.
        head: Anomaly-aware attention.
        text_encoder: Sentences to vectors.
        weights: Weight file → SHA-256.
        device: Where the networks are.
        trained: False for the seeded test networks; a result of theirs means nothing.
        folder: The model folder; None for networks without one.
        residual: The trained feature residual; None where the configuration asks for the attention's drop.
    """

    autoencoder: LatentAutoencoder
    denoiser: Denoiser
    schedule: NoiseSchedule
    head: AovaHead
    text_encoder: TextEncoder
    weights: dict[str, str]
    device: torch.device
    trained: bool
    folder: Path | None = None
    residual: ResidualProjection | None = None

    def require_loaded_for(self, config: Config) -> None:
        """Refuse a configuration that asks for other parts, or another kind of device, than are here.

        Raises:
            ConfigError: Naming the key (code "components").
        """
        given = "attention" if self.residual is None else "projection"
        device = config.runtime.device.partition(":")[0]
        for key, wish, here in (
            ("residual.feature", config.residual.feature, given),
            ("runtime.device", device, self.device.type if device != "auto" else device),
        ):
            if wish != here:
                raise ConfigError(
                    f"The components were loaded with another configuration: expected {key}={wish}, got {here}.",
                    hint="load them with the one that segment is given: load_components(config).",
                    code="components",
                )

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells these networks from others, and from themselves once their weights were changed in place.

        It reads no weight and keeps no network alive. Another copy of the same weights is another one.
        """
        parts = (self.autoencoder, self.denoiser, self.head)
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        weights = [weight for part in modules for weight in part.parameters()]  # on whatever device they wait
        changes = [0 if each.is_inference() else each._version for each in weights]  # noqa: SLF001, torch's own count
        return *map(weakref.ref, parts), *map(id, weights), *changes

    def feature_encoder(self, spacing_mm: tuple[float, float, float], modality: str) -> LatentAutoencoder:
        """Return what the head sees features through: the autoencoder, with the denoiser's features if it wants them."""
        return tapped(self.autoencoder, self.denoiser, self.head.tap, spacing_mm, modality)

    def autocast(self, config: Config) -> torch.autocast:
        """Return the context in which these networks compute in the configuration's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=config.runtime.precision == "bfloat16")

    def hold(self, offload: bool, *used: str) -> None:
        """Bring parts to the device; the others too, or, with `offload`, back to main memory until they are used.

        Args:
            offload: `runtime.offload`.
            used: Names of the parts here that are used next; with a head that looks through the denoiser, that too.
        """
        if "head" in used and self.head.tap is not None:
            used += ("denoiser",)
        for name in ("autoencoder", "denoiser", "head", "residual"):
            part = getattr(self, name, None)
            if isinstance(part, torch.nn.Module):
                part.to(self.device if not offload or name in used else "cpu")


@dataclass(frozen=True, eq=False)
class ScanContext:
    """What stays the same while one scan is segmented.

    Attributes:
        components: The frozen networks.
        config: How they are used.
        conditions: Spacing and modality of the scan on the model's grid.
        embeddings: Of the normal and the abnormal sentence.
        memory: Keeps what was computed of each window, for the next question about the same scan.
    """

    components: Components
    config: Config
    conditions: Conditions
    embeddings: Float[Tensor, "2 d"]
    memory: WindowMemory

    @classmethod
    def of(
        cls,
        prompts: PromptPair,
        spacing_mm: tuple[float, float, float],
        modality: str,
        components: Components,
        config: Config,
        memory: WindowMemory | None = None,
    ) -> "ScanContext":
        """Gather what stays the same for a scan, and tell the memory whose answers it will keep.

        A head that uses the denoiser's features depends on spacing and modality, too. Without a memory nothing is kept.
        """
        memory = memory or WindowMemory(0)
        seen_as = None if components.head.tap is None else (spacing_mm, modality)
        memory.begin((components.identity, config.runtime.precision, seen_as))
        embeddings = embed_pair(components.text_encoder, prompts, config.text.ensemble, modality)
        return cls(components, config, Conditions(spacing_mm, modality), embeddings, memory)

    def attend(
        self,
        image: Float[Tensor, "1 1 X Y Z"],
        on_window: OnWindow = lambda done, total: None,
        where: Bool[Tensor, "X Y Z"] | None = None,
        *,
        remember: bool = True,
    ) -> AovaMaps:
        """Return the attention maps of the scan or of a part of it: see `DiffuGTSLib.aova.attend`."""
        how, told = self.config.backbone, self.conditions
        return attend(
            image, self.components.feature_encoder(told.spacing_mm, told.modality), self.components.head, self.embeddings,
            how.window_voxels, how.overlap, on_window, how.mirror, where, self.memory if remember else None,
        )  # fmt: skip


def load_components(config: Config, *, allow_untrained: bool = False) -> Components:
    """Load every trained part that a configuration names.

    Raises:
        ConfigError: Unknown backbone, encoder or device, or a precision that the device is no good at.
        WeightsError: Missing, altered or misfitting weights; a head that was trained on another grid; or untrained networks
            that were not allowed.
    """
    device = find_device(config.runtime)
    backbone = build_backbone(config.backbone)
    if backbone.folder is not None:
        head = _head_of(backbone.folder)
        require_trained_grid(backbone.folder / "aova", config)
    elif not allow_untrained:
        raise WeightsError(
            f"The networks of preset '{config.preset}' are untrained; their results mean nothing.",
            hint="use --preset mini, or --allow-untrained in a test.",
            code="untrained",
        )
    text_encoder = build_encoder(config.text.encoder, config.text.folder)  # may be a download: after what needs none
    if backbone.folder is None:
        head = _untrained_head(backbone.autoencoder, text_encoder)
    _require_fitting(head, backbone, text_encoder, config)
    residual = None
    if config.residual.feature == "projection":
        residual = _projection_of(backbone, text_encoder)
    for part in (backbone.autoencoder, backbone.denoiser, head, residual):
        if isinstance(part, torch.nn.Module):
            if not config.runtime.offload:
                part.to(device)
            use_fastest_layout(part, device, config.runtime.precision)
    if config.runtime.compile and isinstance(backbone.denoiser, torch.nn.Module):
        backbone.denoiser.compile()  # in place: it keeps its class, its weights and their names
    weights = {**backbone.weights, **{f"text/{file}": digest for file, digest in text_encoder.weights.items()}}
    return Components(
        backbone.autoencoder, backbone.denoiser, backbone.schedule, head, text_encoder,
        weights, device, backbone.folder is not None, backbone.folder, residual,
    )  # fmt: skip


def _head_of(folder: Path) -> AovaHead:
    """Return a model folder's head; the published networks come without one."""
    if not (folder / "aova").is_dir():
        raise WeightsError(
            f"{folder} holds no anomaly head.",
            hint="train one on its features, see docs/weights.md, or use --preset mini.",
            code="head_missing",
        )
    head: AovaHead = load_module(AovaHead, folder / "aova")
    return head


def _projection_of(backbone: Backbone, text_encoder: TextEncoder) -> ResidualProjection:
    """Return a model folder's trained projection; a seeded one beside untrained networks."""
    latent_channels, text_dim = backbone.autoencoder.latent_channels, text_encoder.dim
    if backbone.folder is None:
        untrained: ResidualProjection = _seeded(lambda: ResidualProjection(latent_channels, text_dim))
        return untrained
    folder = backbone.folder / RESIDUAL_FOLDER
    if not folder.is_dir():
        raise WeightsError(
            f"{backbone.folder} holds no trained projection of the latent residual.",
            hint="train one with diffugts train residual, or use --set residual.feature=attention.",
            code="residual_missing",
        )
    projection: ResidualProjection = load_module(ResidualProjection, folder)
    given = (projection.config["latent_channels"], projection.config["text_dim"])
    if given != (latent_channels, text_dim):
        raise WeightsError(
            f"The projection was trained on latents of {given[0]} channels and sentences of {given[1]} numbers; "
            f"these networks give {latent_channels} and {text_dim}.",
            hint="the model folder mixes parts of two models.",
        )
    return projection


def _require_fitting(head: AovaHead, backbone: Backbone, text_encoder: TextEncoder, config: Config) -> None:
    if head.config["text_dim"] != text_encoder.dim:
        raise WeightsError(
            f"The head was trained on sentences of {head.config['text_dim']} numbers; "
            f"'{config.text.encoder}' gives {text_encoder.dim}.",
            hint="check text.encoder.",
        )
    given = backbone.autoencoder.feature_channels
    if head.tap is not None:
        given, strides = tapped_levels(backbone.autoencoder, backbone.denoiser)
        if config.backbone.window_voxels % max(strides):
            raise ConfigError(
                f"A head that looks through the denoiser needs windows of a multiple of {max(strides)} voxels, "
                f"got {config.backbone.window_voxels}.",
                hint=f"use --set backbone.window_voxels={max(1, config.backbone.window_voxels // max(strides)) * max(strides)}.",
            )
    if tuple(head.config["feature_channels"]) != given:
        raise WeightsError(
            f"The head was trained on features of {tuple(head.config['feature_channels'])} channels; "
            f"the {'autoencoder gives' if head.tap is None else 'autoencoder and the denoiser give'} {given}.",
            hint="the model folder mixes parts of two models.",
        )


def _untrained_head(autoencoder: LatentAutoencoder, text_encoder: TextEncoder) -> AovaHead:
    head: AovaHead = _seeded(lambda: AovaHead(autoencoder.feature_channels, text_encoder.dim))
    return head


def _seeded(build: Callable[[], Module]) -> Module:
    with seeded(0):
        return freeze(build())
