"""What one pass of a network costs: floating-point operations and peak memory, counted on tensors without memory.

The networks are those of the configuration, built on torch's meta device: every operation runs, nothing is computed. A
multiply-add counts as two operations. Two things are put in their places by hand: attention is fused, so that its matrix
of all pairs is never held, and half precision follows CUDA's autocast (convolutions in bfloat16, group norms in float32).
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import FLOW_SCHEDULER, PUBLISHED, build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiDenoiser, MaisiUNet, published_networks
from DiffuGTSLib.backbones.schedules import build_schedule
from DiffuGTSLib.backbones.taps import tapped
from DiffuGTSLib.backbones.weights import Module, freeze, from_config, require_model_folder
from DiffuGTSLib.config import BackboneConfig, Config
from DiffuGTSLib.model_store.store import model_folder

Shape = tuple[int, int, int]

_META = torch.device("meta")
_SPACING_MM = (1.5, 1.5, 1.5)
_TEXT_DIM = {"minilm": 384, "clinicalbert": 768}
"""Of sentence encoders whose head does not exist yet."""
HEAD_FORM = {"adapter": "context", "alpha": 0.5, "fuse": "logit", "elsewhere": True}
"""A head as the bundled model's, for published networks without one."""


@dataclass(frozen=True)
class Cost:
    """Of one pass.

    Attributes:
        flop: Floating-point operations.
        peak_bytes: The most that its tensors hold at a time, input and output included, weights not.
    """

    flop: float
    peak_bytes: int


@dataclass(frozen=True, eq=False)
class Sketch:
    """The networks of a configuration, without numbers.

    Attributes:
        autoencoder: Images to latents and features.
        denoiser: The frozen diffusion model of healthy tissue.
        head: Anomaly-aware attention.
        modality: One that the denoiser knows.
    """

    autoencoder: LatentAutoencoder
    denoiser: Denoiser
    head: AovaHead
    modality: str

    def feature_encoder(self) -> LatentAutoencoder:
        """Return what the head looks through; of spacings one is as good as another here."""
        return tapped(self.autoencoder, self.denoiser, self.head.tap, _SPACING_MM, self.modality)

    @property
    def looking(self) -> tuple[str, ...]:
        """The parts that a look needs, by their names here."""
        return ("autoencoder", "head") if self.head.tap is None else ("autoencoder", "denoiser", "head")

    def weights_bytes(self, *names: str) -> int:
        """Return the room that parts take, by their names here, as float32."""
        parts = [getattr(self, name) for name in names]
        return sum(4 * each.numel() for part in parts if isinstance(part, nn.Module) for each in part.parameters())


def sketch(config: Config) -> Sketch:
    """Build the networks that a configuration names without loading or drawing a number.

    Raises:
        ConfigError: Unknown backbone.
        WeightsError: A model folder that does not describe its networks.
    """
    autoencoder, denoiser, folder = _networks(config.backbone)
    if folder is not None and (folder / "aova" / "config.json").is_file():
        head = _described(AovaHead, folder / "aova")
    else:
        with _META:
            head = AovaHead(autoencoder.feature_channels, _TEXT_DIM.get(config.text.encoder, 768), **HEAD_FORM)
    return Sketch(autoencoder, denoiser, head, next(iter(config.backbone.class_label), "CT"))


@lru_cache(maxsize=64)
def look_cost(networks: Sketch, shape: Shape, precision: str) -> Cost:
    """Return the cost of encoding one window and attending to two prompts."""
    prompts = torch.empty(1, 2, networks.head.config["text_dim"], device=_META)
    image = torch.empty(1, 1, *shape, device=_META)

    def look() -> object:
        encoding = networks.feature_encoder().encode(image)
        return encoding.latent, networks.head(encoding.features, prompts)

    return counted(look, precision, image)


@lru_cache(maxsize=64)
def encode_cost(networks: Sketch, shape: Shape, precision: str) -> Cost:
    """Return the cost of encoding one window without attending to it."""
    image = torch.empty(1, 1, *shape, device=_META)
    return counted(lambda: networks.autoencoder.encode(image), precision, image)


@lru_cache(maxsize=64)
def decode_cost(networks: Sketch, shape: Shape, precision: str) -> Cost:
    """Return the cost of decoding one window; its shape is in image voxels."""
    latent = _latent(networks, shape)
    return counted(lambda: networks.autoencoder.decode(latent), precision, latent)


@lru_cache(maxsize=64)
def step_cost(networks: Sketch, shape: Shape, precision: str) -> Cost:
    """Return the cost of one denoising step of a box; its shape is in image voxels."""
    latent = _latent(networks, shape)
    return counted(lambda: networks.denoiser(latent, 500.0, _SPACING_MM, networks.modality), precision, latent)


def counted(work: Callable[[], object], precision: str, *inputs: Tensor) -> Cost:
    """Return what running something costs.

    Args:
        work: Runs networks on tensors of the meta device, or of any other, where it is also computed.
        precision: "float32", or "bfloat16" as CUDA's autocast.
        inputs: Held from the beginning.
    """
    held, rules = HeldBytes(inputs), _Rules(precision == "bfloat16")
    with torch.no_grad(), FlopCounterMode(display=False) as counter, held, rules:
        kept = work()
    del kept
    return Cost(float(counter.get_total_flops()) + rules.attention_flop, held.peak)


class HeldBytes(TorchDispatchMode):
    """Counts what tensors hold that are made while it is on.

    Attributes:
        peak: The most at a time.
    """

    def __init__(self, held: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._sizes: dict[int, int] = {}
        for tensor in held:
            self._notice(tensor)

    def __torch_dispatch__(
        self, function: Any, _types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        for made in tree_iter(result):
            if isinstance(made, Tensor):
                self._notice(made)
        return result

    def _notice(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001, wrappers come and go, this stays
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)


class _Rules(TorchFunctionMode):
    """Runs attention as if fused, and, in half precision, each operation in the type that CUDA's autocast would choose."""

    def __init__(self, half: bool) -> None:
        super().__init__()
        self.half = half
        self.attention_flop = 0.0

    def __torch_function__(
        self, function: Any, _types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        if function is functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), arguments, strict=False)) | keywords
            query, key, value = (named[name] for name in ("query", "key", "value"))
            if not query.is_meta:
                return function(*arguments, **keywords)
            pairs = query.shape[:-1].numel() * key.shape[-2]
            self.attention_flop += 2.0 * pairs * (query.shape[-1] + value.shape[-1])
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        if self.half:
            kind = _autocast_type(function)
            arguments = tuple(_cast(each, kind) for each in arguments)
            keywords = {name: _cast(each, kind) for name, each in keywords.items()}
        return function(*arguments, **keywords)


def _autocast_type(function: Any) -> torch.dtype | None:
    if function in (functional.conv3d, functional.linear, torch.matmul, torch.einsum):
        return torch.bfloat16
    return torch.float32 if function in (functional.group_norm, functional.softmax) else None


def _cast(value: Any, kind: torch.dtype | None) -> Any:
    floating = kind is not None and isinstance(value, Tensor) and value.is_floating_point()
    return value.to(kind) if floating else value


def _latent(networks: Sketch, shape: Sequence[int]) -> Tensor:
    factor = networks.autoencoder.downsampling
    return torch.empty(1, networks.autoencoder.latent_channels, *(side // factor for side in shape), device=_META)


def _networks(config: BackboneConfig) -> tuple[LatentAutoencoder, Denoiser, Path | None]:
    """Return autoencoder, denoiser and model folder; published networks are known without their weights."""
    folder = model_folder(config)
    if folder is not None:
        require_model_folder(folder)
        unet = _described(MaisiUNet, folder / "denoiser")
        autoencoder = _described(MaisiAutoencoder, folder / "autoencoder")
    elif config.name in PUBLISHED:
        with _META:
            autoencoder, unet = published_networks(config.name)
    else:
        backbone = build_backbone(config)
        for part in (backbone.autoencoder, backbone.denoiser):
            if isinstance(part, nn.Module):
                part.to(_META)
        return backbone.autoencoder, backbone.denoiser, backbone.folder
    denoiser = MaisiDenoiser(unet.eval(), build_schedule(FLOW_SCHEDULER), "flow", config.class_label)
    return autoencoder.eval(), denoiser, folder


def _described(kind: type[Module], folder: Path) -> Module:
    """Build a network as its config.json says, without numbers."""
    with _META:
        return freeze(from_config(kind, folder))
