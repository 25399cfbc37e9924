"""The frozen features that a head is trained on, and the numbers that bring them to one spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from DiffuGTSLib.backbones.interfaces import LatentAutoencoder
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.backbones.taps import DenoiserTap, tapped, tapped_levels
from DiffuGTSLib.device import use_fastest_layout
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.training.anomalies import AnomalySampler, Sample
from DiffuGTSLib.training.distributed import told_by_first
from DiffuGTSLib.training.job import Job


class FrozenFeatures:
    """The encoder's features, and the denoiser's where they are asked for.

    Args:
        job: Names the frozen networks, the grid and the device.
        timestep: Of the denoiser; 0 takes the encoder's features alone.

    Raises:
        WeightsError: If a network cannot be read, or there is no denoiser.
    """

    def __init__(self, job: Job, timestep: float) -> None:
        self._autoencoder: MaisiAutoencoder = job.load_autoencoder().to(job.device)
        use_fastest_layout(self._autoencoder, job.device, job.plan.precision)
        self._denoiser = job.load_denoiser() if timestep else None
        if isinstance(self._denoiser, torch.nn.Module):
            self._denoiser.to(job.device)
        self._timestep = timestep
        self._device = job.device

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features, fine to coarse."""
        return self._levels()[0]

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the features, in voxels, fine to coarse; a window's sides are multiples of each."""
        return self._levels()[1]

    def _levels(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._denoiser is None:
            return tuple(self._autoencoder.feature_channels), tuple(self._autoencoder.feature_strides)
        return tapped_levels(self._autoencoder, self._denoiser)

    def feature_encoder(
        self, tap: DenoiserTap | None, spacing_mm: tuple[float, float, float], modality: str
    ) -> LatentAutoencoder:
        """Return what a head with this tap looks at a window through."""
        if self._denoiser is None:
            return self._autoencoder
        return tapped(self._autoencoder, self._denoiser, tap, spacing_mm, modality)

    def scale(self, sampler: AnomalySampler) -> float:
        """Return what the encoder's features are multiplied by for a spread of about 1, the same in every process."""
        return self._measured(lambda image, _: self._autoencoder.encode(image).features, sampler)

    def denoiser_scale(self, sampler: AnomalySampler, scale: float) -> float:
        """Return what the denoiser's features are multiplied by, so that `scale` fits them, too; 1 without a denoiser."""
        denoiser = self._denoiser
        if denoiser is None:
            return 1.0

        def look(image: Tensor, sample: Sample) -> Sequence[Tensor]:
            latent = self._autoencoder.encode(image).latent
            return denoiser.features(latent, self._timestep, sample.spacing_mm, sample.modality)

        return float(f"{self._measured(look, sampler) / scale:.2g}")

    def _measured(self, look: Callable[[Tensor, Sample], Sequence[Tensor]], sampler: AnomalySampler) -> float:
        return told_by_first(measured_scale(look, sampler, self._device), self._device)


def measured_scale(
    look: Callable[[Tensor, Sample], Sequence[Tensor]], sampler: AnomalySampler, device: torch.device
) -> float:
    """Return what features are multiplied by for a spread of about 1, from 8 windows, to two digits.

    One number for all levels, as the head has it: over the root mean square of their standard deviations.

    Args:
        look: A window on the device, and what it is → its features.
        sampler: Of the windows.
        device: Of the networks.

    Raises:
        WeightsError: If the features do not differ at all, or are no numbers.
    """
    variances = []
    with torch.no_grad():
        for number in range(8):
            sample = sampler.draw(np.random.default_rng(number))
            image = torch.from_numpy(sample.image)[None, None].to(device)
            variances.append([float(feature.float().var()) for feature in look(image, sample)])
    spread = math.sqrt(float(np.mean(variances)))
    if not (math.isfinite(spread) and spread > 0):
        raise WeightsError(
            f"The frozen features have a spread of {spread:g}: there is nothing to learn from.",
            hint="check the networks' weights.",
        )
    return float(f"{1 / spread:.2g}")
