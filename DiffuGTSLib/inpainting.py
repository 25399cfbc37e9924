"""Repainting the candidate as healthy tissue, in latent space, with a frozen diffusion model.

Follows the approach of DiffuGTS with RePaint's update (Lugmayr et al., CVPR 2022). One loop serves DDPM (walked as
DDIM) and rectified flow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.backbones.interfaces import Denoiser, NoiseSchedule
from DiffuGTSLib.config import InpaintingConfig
from DiffuGTSLib.volumes.boxes import Box


@dataclass(frozen=True)
class Conditions:
    """What the denoiser is told besides the noisy latent."""

    spacing_mm: tuple[float, float, float]
    modality: str


def repaint(
    latent: Float[Tensor, "1 l x y z"],
    mask: Float[Tensor, "1 1 x y z"],
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    conditions: Conditions,
    config: InpaintingConfig,
    generator: torch.Generator,
    on_step: Callable[[int, int], None],
) -> Float[Tensor, "1 l x y z"]:
    """Return the latent with its masked cells painted anew; all others are bit for bit what they were.

    Notation (code → formula): latent → z, mask → m (1 = repaint), (signal, sigma) → (√ᾱ, √(1-ᾱ)) or (1-s, s)
        known     z_other(t') = signal' · z + sigma' · ε               Eq. (3), at the *next* level: RePaint prints
                                                                     the present one, which leaves noise outside m
        repainted z_tumor(t') = signal' · ẑ + sigma' · ε̂              Eq. (4), DDIM's (η = 0) or the flow's step
        sample    z(t') = m · z_tumor + (1 - m) · z_other              Eq. (5)
        again     z(t)  = (signal / signal') · z(t') + noise           RePaint's resampling; from pure noise, where signal
                                                                     is 0, nothing would come of repeating a step
    Equation numbers are those that the unofficial repository names; the paper's text was not available to us.

    Args:
        latent: Clean, scaled latent of the scan.
        mask: Cells to repaint; see `mask_to_latent`.
        denoiser: Frozen.
        schedule: The one the denoiser was trained with.
        conditions: Voxel spacing and modality.
        config: Steps, start level, resampling, seeds.
        generator: Every random draw.
        on_step: Called with (denoiser calls done, in all); may raise `Cancelled`.
    """
    cells = int(latent[0, 0].numel())
    times = schedule.timesteps(config.steps, cells, config.start)
    total, done = config.seeds * _calls(times, schedule, config.resample), 0
    samples = []
    with torch.inference_mode():
        for _ in range(config.seeds):
            signal, sigma = schedule.levels(times[0])
            sample = signal * latent + sigma * _noise(latent, generator)
            for time, next_time in pairwise(times):
                signal, sigma = schedule.levels(next_time)
                for left in reversed(range(config.resample)):
                    known = signal * latent + sigma * _noise(latent, generator)
                    if left and _is_pure_noise(time, schedule):
                        sample = _noise(latent, generator)  # all that the way back would leave of this repeat
                        continue
                    prediction = denoiser(sample, time, conditions.spacing_mm, conditions.modality)
                    repainted = signal * prediction.clean + sigma * prediction.noise
                    following = mask * repainted + (1 - mask) * known
                    if left:
                        sample = _noised_again(following, schedule, next_time, time, generator)
                    done += 1
                    on_step(done, total)
                sample = following
            samples.append(sample)
        return torch.where(mask > 0, _median(samples), latent)


def mask_to_latent(mask: Float[Tensor, "1 1 X Y Z"], downsampling: int) -> Float[Tensor, "1 1 x y z"]:
    """Return the latent cells that hold any masked voxel: max-pooling, since nearest would lose small lesions."""
    cells: Tensor = functional.max_pool3d(mask, downsampling)
    return cells


def cell_box(
    found: Box, shape: Sequence[int], factor: int, multiple: int, margin_mm: float,
    spacing_mm: tuple[float, float, float],
) -> Box:  # fmt: skip
    """Return the box of latent cells around a finding with its margin, each side a multiple.

    Args:
        found: In voxels.
        shape: Of the scan, in voxels; its sides are multiples too.
        factor: Voxels a cell.
        multiple: Cells.
        margin_mm: Around the finding.
        spacing_mm: Of the voxels.
    """
    parts = []
    for inside, voxels, spacing in zip(found, shape, spacing_mm, strict=True):
        length = voxels // factor
        margin = math.ceil(margin_mm / spacing / factor)
        low, high = inside.start // factor - margin, (inside.stop - 1) // factor + 1 + margin
        side = min(-(-(high - low) // multiple) * multiple, length)
        start = min(max((low + high - side) // 2, 0), length - side)
        parts.append(slice(start, start + side))
    return parts[0], parts[1], parts[2]


def _is_pure_noise(time: float, schedule: NoiseSchedule) -> bool:
    """Tell whether nothing of a sample is left at a level, so that a step from there need not be repeated."""
    return schedule.levels(time)[0] == 0


def _calls(times: Sequence[float], schedule: NoiseSchedule, resample: int) -> int:
    """Return how often one sample asks the denoiser."""
    return sum(1 if _is_pure_noise(time, schedule) else resample for time in times[:-1])


def _noised_again(
    sample: Tensor, schedule: NoiseSchedule, time: float, noisier_time: float, generator: torch.Generator
) -> Tensor:
    """Carry a sample from a level back to a noisier one (RePaint's resampling), keeping its variance right."""
    signal, sigma = schedule.levels(time)
    noisier_signal, noisier_sigma = schedule.levels(noisier_time)
    share = noisier_signal / signal
    added = math.sqrt(max(0.0, noisier_sigma**2 - (share * sigma) ** 2))
    return share * sample + added * _noise(sample, generator)


def _median(samples: list[Tensor]) -> Tensor:
    """Return the middle of the samples, or the mean of the two in the middle: torch's takes the lower one."""
    ordered = torch.stack(samples).sort(dim=0).values
    median: Tensor = (ordered[(len(samples) - 1) // 2] + ordered[len(samples) // 2]) / 2
    return median


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw on the CPU, so that one seed gives one result on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)
