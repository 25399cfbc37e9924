"""Recipe: train the denoiser of a latent tumor painter, and write it as the published files are.

Follows DiffTumor (Chen et al., CVPR 2024), its second step, the diffusion model: the L1 distance to the noise in the
latent of a window with a tumor, given the latent of the same window with the tumor blanked, and the tumor's mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.supervised.networks import TUMOR
from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import condition
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D, depth_first
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.tumor_sizes import PAINTED_MM, SIZE_STAGES, keep_stage
from DiffuGTSLib.training.vqgan import to_network

_DRAWS = 50
"""After so many windows without a visible tumor of the stage the last one is taken as it is."""
ALL, EARLY = "all", SIZE_STAGES[0]


class TumorSampler:
    """Draws windows with tumors: real ones, and handcrafted ones where those are too few.

    A painter that learns from handcrafted tumors partly learns to imitate the handcrafted painter. Organs that the
    window does not show, such as the lung in -175 to 250 HU, are not painted into.

    Args:
        scans: On the painter's grid.
        side: Of a window in voxels.
        handcrafted: Share of windows whose tumor was painted by hand into a healthy organ; 0 takes outlined ones only.
        stage: "early" or "late": only tumors of that stage, outlined and painted alike; "all": whatever is there.

    Raises:
        InputError: If there are no tumors to learn from, or no healthy organ to paint into.
    """

    def __init__(self, scans: Sequence[TrainingScan], side: int, handcrafted: float, stage: str = ALL) -> None:
        shown = [of_stage(_within_window(scan), stage) for scan in scans]
        if handcrafted < 1 and not any(scan.tumor.any() for scan in shown):
            kind = "tumor" if stage == ALL else f"tumor of the stage '{stage}'"
            raise InputError(
                f"None of {len(scans)} scans has an outlined {kind} to learn from.",
                hint="train from handcrafted tumors alone: --set handcrafted=1.",
            )
        mixture = Mixture(real=1 - handcrafted, healthy=0.0, anywhere=0.0, turned=0.5, thick=0.0)
        self._windows = AnomalySampler(shown, side, mixture, PAINTED_MM.get(stage))
        self._stage = stage

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one window."""
        for _ in range(_DRAWS):
            sample = self._windows.draw(rng)
            if sample.abnormal and not (self._stage == EARLY and _outgrown(sample)):
                break
        return sample


def of_stage(scan: TrainingScan, stage: str) -> TrainingScan:
    """Return the scan with the outlines of one stage's tumors; those of the other are marked no more, and not painted near.

    Args:
        scan: On the painter's grid.
        stage: "early", "late", or "all", which changes nothing.
    """
    if stage == ALL:
        return scan
    staged = keep_stage(scan.tumor.astype(np.uint8) * TUMOR, scan.scan.spacing_mm, stage)
    return replace(scan, tumor=staged.labels == TUMOR)


def _outgrown(sample: Sample) -> bool:
    """Say whether a window shows more than early tumors: scaling it has enlarged one, or two painted ones have met."""
    return bool(keep_stage(sample.mask.astype(np.uint8) * TUMOR, sample.spacing_mm, EARLY).other_mm)


def _within_window(scan: TrainingScan) -> TrainingScan:
    """Return the scan without the organs that are as black or white as the window gets."""
    typical = {name: float(np.median(scan.scan.image[mask])) for name, mask in scan.organs.items() if mask.any()}
    return replace(scan, organs={name: scan.organs[name] for name, value in typical.items() if 0.02 < value < 0.98})


class TumorDiffusionRecipe:
    """Predict the noise in the latent of a tumor from its surroundings and its mask.

    Args:
        denoiser: The network to train.
        vqgan: Trained and frozen.
        timesteps: 4 for early tumors, 200 for later ones (DiffTumor).
        sampler: Of training windows.
        validation: Fixed windows of patients that are not trained on.
        batch: Windows a batch.
    """

    def __init__(
        self,
        denoiser: LatentUNet3D,
        vqgan: Vqgan3D,
        timesteps: int,
        sampler: TumorSampler,
        validation: Sequence[Sample],
        batch: int,
    ) -> None:
        self.trainable = denoiser
        self._vqgan = vqgan
        self._diffusion = CosineDiffusion(timesteps)
        self._sampler = sampler
        self._validation = validation
        self._batch = batch

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw windows, timesteps and noise, and return the L1 distance to the noise."""
        samples = [self._sampler.draw(rng) for _ in range(self._batch)]
        t = rng.integers(self._diffusion.timesteps, size=len(samples))
        return {"total": self._distance(samples, torch.from_numpy(t), rng)}

    def validate(self) -> dict[str, float]:
        """Return the mean distance on the fixed windows, at the first, a middle and the last timestep."""
        rng = np.random.default_rng(7)
        last = self._diffusion.timesteps - 1
        found = {
            t: [float(self._distance([sample], torch.tensor([t]), rng)) for sample in self._validation]
            for t in sorted({0, last // 2, last})
        }
        return {f"noise_t{t}": float(np.mean(values)) for t, values in found.items()}

    def _distance(self, samples: Sequence[Sample], t: Tensor, rng: np.random.Generator) -> Tensor:
        device = next(self.trainable.parameters()).device
        image = to_network(np.stack([sample.image for sample in samples]), device)
        masks = np.stack([sample.mask for sample in samples]).astype(np.float32)
        mask = depth_first(torch.from_numpy(masks)[:, None]).to(device)
        t = t.to(device)
        with torch.no_grad():
            clean = self._vqgan.normalize(self._vqgan.encode(image)).float()
            known = condition(self._vqgan, image, mask).float()
        noise = torch.from_numpy(rng.standard_normal(tuple(clean.shape), dtype=np.float32)).to(device)
        predicted = self.trainable(self._diffusion.add_noise(clean, t, noise), t, known)
        return functional.l1_loss(predicted.float(), noise)


def published_state(
    step: int,
    weights: Mapping[str, Tensor],
    averaged: Mapping[str, Tensor],
    vqgan: Mapping[str, Tensor],
    timesteps: int,
) -> dict[str, Any]:
    """Return what a published diffusion file holds: {step, model, ema, scaler}.

    Args:
        step: Iterations that were trained.
        weights: Of the denoiser, by its own names.
        averaged: Their moving average.
        vqgan: By the published container's names; with its critics these are 154.
        timesteps: Of the diffusion; a reader finds them as the length of `betas`.
    """
    shared = {**CosineDiffusion(timesteps).tables, **{f"vqgan.{name}": value for name, value in vqgan.items()}}

    def whole(denoiser: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = {**shared, **{f"denoise_fn.{name}": value for name, value in denoiser.items()}}
        return {name: value.detach().cpu().clone() for name, value in tensors.items()}

    return {"step": step, "model": whole(weights), "ema": whole(averaged), "scaler": {}}


def write_published(path: Path, state: Mapping[str, Any]) -> None:
    """Write such a file.

    Raises:
        StorageError: If it cannot be written; nothing is left behind.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def validation_windows(scans: Sequence[TrainingScan], side: int, handcrafted: float, stage: str = ALL) -> list[Sample]:
    """Return eight fixed windows, of the same kinds as those that are trained on.

    Raises:
        InputError: As `TumorSampler`.
    """
    sampler, rng = TumorSampler(scans, side, handcrafted, stage), np.random.default_rng(5)
    return [sampler.draw(rng) for _ in range(8)]
