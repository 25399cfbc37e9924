"""What a backbone must do: four protocols, and nothing about how.

Concrete classes are final; behavior is changed by wrapping. A new backbone is one adapter, one line in
`DiffuGTSLib.backbones.BACKBONES`, and a pass of `Testing/Python/test_backbone_contract.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from DiffuGTSLib.errors import ConfigError


@dataclass(frozen=True)
class Encoding:
    """One window seen by the frozen encoder.

    Attributes:
        latent: (b, l, x, y, z), already multiplied by the checkpoint's scale factor.
        features: Pyramid from fine to coarse, each (b, c, X/s, Y/s, Z/s).
    """

    latent: Float[Tensor, "b l x y z"]
    features: tuple[Tensor, ...]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of a noisy latent: the clean latent and the noise, in one convention."""

    clean: Float[Tensor, "b l x y z"]
    noise: Float[Tensor, "b l x y z"]


@runtime_checkable
class LatentAutoencoder(Protocol):
    """Images in [0, 1] to latents and back. Hides scale factor and precision."""

    downsampling: int
    latent_channels: int
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]

    def encode(self, image: Float[Tensor, "b 1 X Y Z"]) -> Encoding:
        """Return the deterministic latent (the mean) and the feature pyramid."""
        ...

    def decode(self, latent: Float[Tensor, "b l x y z"]) -> Float[Tensor, "b 1 X Y Z"]:
        """Return the image of a latent."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """A noisy latent to its clean part and its noise. Hides ε / v / flow, spacing × 100 and class codes."""

    side_multiple: int
    """Latent sides must be multiples of this."""
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]
    """Of `features`, in latent cells."""

    def __call__(
        self,
        noisy: Float[Tensor, "b l x y z"],
        timestep: float,
        spacing_mm: tuple[float, float, float],
        modality: str,
    ) -> Prediction:
        """Predict at one timestep of the schedule the denoiser was trained with."""
        ...

    def features(
        self,
        latent: Float[Tensor, "b l x y z"],
        timestep: float,
        spacing_mm: tuple[float, float, float],
        modality: str,
    ) -> tuple[Tensor, ...]:
        """Return what the network makes of a clean latent as it is, without noise, at a timestep; fine to coarse."""
        ...


@runtime_checkable
class NoiseSchedule(Protocol):
    """Timesteps, and how much signal and noise a latent holds at each."""

    def timesteps(self, steps: int, latent_voxels: int, start: float = 1.0) -> list[float]:
        """Return `steps` + 1 falling timesteps; the last is the clean end."""
        ...

    def levels(self, timestep: float) -> tuple[float, float]:
        """Return (signal, sigma): a latent at this timestep is signal · clean + sigma · noise."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Sentences to unit vectors.

    Attributes:
        dim: Width of the embeddings.
        weights: File → SHA-256 of the model that makes them.
    """

    dim: int
    weights: dict[str, str]

    def encode(self, sentences: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return one L2-normalized embedding a sentence, on the CPU, float32."""
        ...


def require_whole_cells(shape: Sequence[int], autoencoder: LatentAutoencoder, denoiser: Denoiser) -> None:
    """Refuse sides that the denoiser cannot take: the last cells of a side could never be repainted.

    Args:
        shape: Of the model's grid, in image voxels.
        autoencoder: Makes the latents.
        denoiser: Sees them.

    Raises:
        ConfigError: If a side is no multiple of what both networks need.
    """
    multiple = autoencoder.downsampling * denoiser.side_multiple
    if any(side % multiple for side in shape):
        raise ConfigError(
            f"The denoiser needs sides that are multiples of {multiple} voxels, got {tuple(shape)}.",
            hint=f"use --set canonical.side_multiple={multiple}.",
        )
