"""Recipe: train MAISI's diffusion UNet as a healthy prior, on latents of tumor-free tissue only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.backbones.interfaces import LatentAutoencoder
from DiffuGTSLib.backbones.maisi import MaisiUNet
from DiffuGTSLib.backbones.weights import load_module
from DiffuGTSLib.backbones.windows import encode_scan
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError
from DiffuGTSLib.training.data import Crop, TrainingScan
from DiffuGTSLib.training.model_folder import other_networks


@dataclass(frozen=True, eq=False)
class LatentScan:
    """A scan's cached latent, and which of its cells are known to be healthy.

    Attributes:
        latent: (l, x, y, z), scaled.
        healthy: (x, y, z), 1 where every voxel of the cell is healthy.
        spacing_mm: Of the image voxels.
        modality: "CT" or "MR".
    """

    latent: Tensor
    healthy: Tensor
    spacing_mm: tuple[float, float, float]
    modality: str


def cache_latents(
    scans: Sequence[TrainingScan], autoencoder: LatentAutoencoder, side: int, overlap: float, *, mirror: bool = False
) -> list[LatentScan]:
    """Encode every scan once; scans without healthy tissue and label maps are left out.

    Args:
        scans: On the canonical grid.
        autoencoder: Frozen.
        side: Of the windows it sees, in voxels.
        overlap: Of neighboring windows.
        mirror: Encode the left-right mirror image of each scan, too. A latent cannot be mirrored itself: the encoder tells
            left from right.
    """
    cached = []
    for scan in scans:
        if not has_enough_healthy_tissue(scan):
            continue
        image = torch.from_numpy(scan.scan.image)[None, None]
        sick = torch.from_numpy(~scan.healthy)[None, None].float()
        for flipped in (False, True) if mirror else (False,):
            shown, suspect = (image.flip(2), sick.flip(2)) if flipped else (image, sick)
            latent = encode_scan(shown, autoencoder, side, overlap, lambda done, total: None)[0]
            healthy = 1 - functional.max_pool3d(suspect, autoencoder.downsampling)[0, 0]
            cached.append(LatentScan(latent.clone(), healthy, scan.scan.spacing_mm, scan.case.modality))
    return cached


def has_enough_healthy_tissue(scan: TrainingScan) -> bool:
    """Say whether a scan shows enough healthy tissue to learn from: a fifth of it."""
    return not scan.painted and bool(scan.healthy.mean() >= 0.2)


def require_healthy(train: int, validation: int) -> None:
    """Refuse to train without healthy tissue.

    Args:
        train: Scans that show it, to train on.
        validation: Scans that show it, to validate on.

    Raises:
        InputError: If one of them is 0.
    """
    if not train or not validation:
        raise InputError(
            f"The healthy prior needs scans with healthy tissue, to train and to validate on; got {train} and {validation}.",
            hint="add scans to the protocol that show healthy tissue more than 10 mm away from tumors.",
        )


@dataclass(frozen=True)
class DenoiserOptions:
    """What a user may choose, by `--set`.

    Attributes:
        start: A model folder whose denoiser training goes on from, made on the same autoencoder; empty: from nothing.
        mirror: Whether it learns from each scan's left-right mirror image, too.
        learning_rate: Peak, falling to 1 % of it along a cosine.
    """

    start: str = ""
    mirror: bool = True
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 0.1:
            raise ConfigError(f"learning_rate: expected above 0, at most 0.1, got {self.learning_rate}.")


def started_denoiser(start: Path, base: Path) -> MaisiUNet:
    """Return the denoiser of a model folder, to train on.

    Args:
        start: The model folder.
        base: The one with the autoencoder whose latents it is trained on.

    Raises:
        WeightsError: If it cannot be read, or was trained on another autoencoder's latents.
    """
    unet: MaisiUNet = load_module(MaisiUNet, start / "denoiser")
    if "autoencoder" in other_networks(start, base):
        raise WeightsError(
            f"start: the denoiser in {start} was trained on another autoencoder's latents.",
            hint="a denoiser goes on only in the latent space that it was trained in.",
        )
    unet.requires_grad_(True).train()
    return unet


class DenoiserRecipe:
    """Flow matching: predict clean - noise from (1 - s) · clean + s · noise, MAISI's rectified flow.

    Published MAISI saw tumors and can paint them back. Ours never does: cells in or near a tumor are replaced by
    noise before the network sees them, and carry no loss.

    Args:
        unet: The network to train.
        latents: Cached latents of training scans.
        validation: Cached latents of scans that are not trained on.
        class_label: Modality name to code.
        cells: Sides of the latent crops; one is drawn each step.
        batch: Crops a step.

    Raises:
        InputError: No healthy tissue to train on, or none to validate on.
    """

    def __init__(
        self,
        unet: MaisiUNet,
        latents: Sequence[LatentScan],
        validation: Sequence[LatentScan],
        class_label: dict[str, int],
        cells: Sequence[int] = (16, 16, 24),
        batch: int = 4,
    ) -> None:
        require_healthy(sum(bool(scan.healthy.any()) for scan in latents), len(validation))
        self.trainable = unet
        self._latents = latents
        self._validation = validation
        self._class_label = class_label
        self._cells = cells
        self._batch = batch
        volumes = np.array([scan.healthy.sum() for scan in latents], dtype=float)
        self._chances = np.sqrt(volumes) / np.sqrt(volumes).sum()

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the flow-matching loss on the healthy cells of one batch."""
        side = self._cells[int(rng.integers(len(self._cells)))]
        chosen = [self._latents[rng.choice(len(self._latents), p=self._chances)] for _ in range(self._batch)]
        return {"total": self._flow_loss(chosen, side, rng)}

    def validate(self) -> dict[str, float]:
        """Return the loss on fixed crops, noises and levels of the validation scans."""
        rng = np.random.default_rng(7)
        figures = [float(self._flow_loss([scan] * self._batch, self._cells[0], rng)) for scan in self._validation]
        return {"flow": float(np.mean(figures))}

    def _flow_loss(self, scans: Sequence[LatentScan], side: int, rng: np.random.Generator) -> Tensor:
        device = next(self.trainable.parameters()).device
        cut = [_latent_crop(scan, side, rng) for scan in scans]
        clean = torch.stack([latent for latent, _ in cut]).to(device)
        healthy = torch.stack([mask for _, mask in cut])[:, None].to(device)
        noise = _normal(clean.shape, rng).to(device)
        clean = torch.where(healthy > 0, clean, _normal(clean.shape, rng).to(device))
        sigma = torch.from_numpy(rng.uniform(0, 1, len(scans)).astype(np.float32)).to(device)
        level = sigma[:, None, None, None, None]
        raw = self.trainable(
            (1 - level) * clean + level * noise,
            sigma * 1000,
            torch.tensor([scan.spacing_mm for scan in scans], device=device),
            torch.tensor([self._class_label[scan.modality] for scan in scans], device=device),
        )
        error = (raw.float() - (clean - noise)).square() * healthy
        loss: Tensor = error.sum() / (healthy.sum() * clean.shape[1]).clamp_min(1.0)
        return loss


def _latent_crop(scan: LatentScan, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut a cube with at least half of it healthy if a few tries find one."""
    for _ in range(4):
        start = [int(rng.integers(0, max(1, length - side + 1))) for length in scan.healthy.shape]
        crop = Crop((start[0], start[1], start[2]), (side, side, side))
        healthy = torch.from_numpy(crop.cut(scan.healthy.numpy()))
        if healthy.mean() >= 0.5:
            break
    latent = torch.stack([torch.from_numpy(crop.cut(channel.numpy())) for channel in scan.latent])
    return latent, healthy


def _normal(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
