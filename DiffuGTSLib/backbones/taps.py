"""The frozen denoiser's features beside the encoder's: what it makes of a nearly clean latent.

The paper's abstract speaks of the diffusion model's internal representations; which layers, at which noise, is not known
to us. We chose the last block of each level of the UNet's rising half, where Baranchuk et al. (ICLR 2022) found most to
segment by, and the latent's expectation at a low noise level, signal · z: without a draw the same window always has the
same features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, cat

from DiffuGTSLib.backbones.interfaces import Denoiser, Encoding, LatentAutoencoder


@dataclass(frozen=True)
class DenoiserTap:
    """How the denoiser's features join the encoder's.

    Attributes:
        timestep: Of the denoiser's schedule, 0 to 1000: how noisy it is told that the latent is.
        scale: Its features are multiplied by it, so that they come in with the encoder's spread.
    """

    timestep: float
    scale: float = 1.0


class TappedAutoencoder:
    """An autoencoder whose pyramid also holds the denoiser's features, for scans of one spacing and modality.

    Levels of one stride become one, the encoder's channels first; the denoiser's coarser ones follow.

    Args:
        autoencoder: Frozen.
        denoiser: Frozen, trained on its latents.
        tap: At which level.
        spacing_mm: Of the image voxels.
        modality: A name that the denoiser knows.
    """

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        denoiser: Denoiser,
        tap: DenoiserTap,
        spacing_mm: tuple[float, float, float],
        modality: str,
    ) -> None:
        self.downsampling = autoencoder.downsampling
        self.latent_channels = autoencoder.latent_channels
        self.feature_channels, self.feature_strides = tapped_levels(autoencoder, denoiser)
        self._autoencoder = autoencoder
        self._denoiser = denoiser
        self._tap = tap
        self._conditions = (spacing_mm, modality)

    def encode(self, image: Float[Tensor, "b 1 X Y Z"]) -> Encoding:
        """Return the latent and the joined pyramid.

        Raises:
            GeometryError: If a side does not halve as often as autoencoder and denoiser halve it.
            InputError: If the denoiser does not know the modality.
        """
        encoding = self._autoencoder.encode(image)
        seen = self._denoiser.features(encoding.latent, self._tap.timestep, *self._conditions)
        levels = dict(zip(self._autoencoder.feature_strides, encoding.features, strict=True))
        for stride, feature in zip(_image_strides(self._autoencoder, self._denoiser), seen, strict=True):
            scaled = self._tap.scale * feature
            levels[stride] = cat([levels[stride], scaled.to(levels[stride])], dim=1) if stride in levels else scaled
        return Encoding(encoding.latent, tuple(levels.values()))

    def decode(self, latent: Float[Tensor, "b l x y z"]) -> Float[Tensor, "b 1 X Y Z"]:
        """Return the image of a latent."""
        return self._autoencoder.decode(latent)


def tapped(
    autoencoder: LatentAutoencoder,
    denoiser: Denoiser,
    tap: DenoiserTap | None,
    spacing_mm: tuple[float, float, float],
    modality: str,
) -> LatentAutoencoder:
    """Return what a head looks through: the autoencoder itself, unless the head wants the denoiser's features, too."""
    return autoencoder if tap is None else TappedAutoencoder(autoencoder, denoiser, tap, spacing_mm, modality)


def tapped_levels(autoencoder: LatentAutoencoder, denoiser: Denoiser) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return channels and strides of the joined pyramid, fine to coarse."""
    channels = dict(zip(autoencoder.feature_strides, autoencoder.feature_channels, strict=True))
    for stride, count in zip(_image_strides(autoencoder, denoiser), denoiser.feature_channels, strict=True):
        channels[stride] = channels.get(stride, 0) + count
    return tuple(channels.values()), tuple(channels)


def _image_strides(autoencoder: LatentAutoencoder, denoiser: Denoiser) -> Sequence[int]:
    return [autoencoder.downsampling * stride for stride in denoiser.feature_strides]
