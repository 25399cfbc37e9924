"""Recipe: train a segmenter on real tumors, on painted ones, or on both.

Follows DiffTumor (Chen et al., CVPR 2024), the segmentation step of the published code: DiceCE, AdamW, a learning rate
that rises for 100 epochs and falls along a cosine, one value an epoch. Differs from upstream, where a resumed run began
its schedule anew: our trainer keeps optimizer and iteration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.supervised.networks import BACKGROUND, TUMOR, Segmenter
from DiffuGTSLib.supervised.prediction import TrainedSegmenter, class_probs
from DiffuGTSLib.training.segmenter_cases import SegmenterScan
from DiffuGTSLib.training.segmenter_data import SegmenterSampler
from DiffuGTSLib.training.trainer import TrainingPlan

SCHEDULES = ("warmup_cosine", "cosine_anneal", "none")

_CERTAIN = 20.0
"""Logit that stands for certainty: e^-40 is nothing in float32, and squares do not overflow."""


@dataclass(frozen=True)
class SegmenterPlan(TrainingPlan):
    """A plan in epochs: the learning rate changes once an epoch.

    Attributes:
        epoch_iterations: Iterations in an epoch; `iterations` and `warmup` count iterations as everywhere.
        schedule: "warmup_cosine" (rise, then a cosine down to 0), "cosine_anneal" (the cosine only) or "none".
    """

    epoch_iterations: int = 1
    schedule: str = "warmup_cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: expected one of {', '.join(SCHEDULES)}, got '{self.schedule}'.")
        if self.epoch_iterations < 1:
            raise ConfigError(f"Expected at least one iteration in an epoch, got {self.epoch_iterations}.")

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate of one iteration (from 0).

        The first epoch has 1/warmup of the peak; upstream's has 0 and learns nothing.
        """
        if self.schedule == "none":
            return self.learning_rate
        epoch, epochs = (math.floor(n / self.epoch_iterations) for n in (iteration, self.iterations))
        warmup = self.warmup // self.epoch_iterations if self.schedule == "warmup_cosine" else 0
        if epoch < warmup:
            return self.learning_rate * (epoch + 1) / warmup
        share = min(1.0, (epoch - warmup) / max(1, epochs - warmup))
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def segmentation_loss(logits: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Return DiceCE over the known voxels (DiffTumor: softmax, squared denominator, no smoothing of the numerator).

    An unknown voxel is taken for background that is recognized with certainty: it adds no loss and no gradient.

    Args:
        logits: (b, classes, X, Y, Z).
        labels: (b, 1, X, Y, Z), whole numbers.
        known: (b, 1, X, Y, Z), boolean.
    """
    certain = torch.full_like(logits, -_CERTAIN)
    certain[:, BACKGROUND] = _CERTAIN
    loss: Tensor = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)(
        torch.where(known, logits, certain), torch.where(known, labels, BACKGROUND)
    )
    return loss


class SegmenterRecipe:
    """Train a segmenter; see `DiffuGTSLib.training.trainer.Recipe`.

    Args:
        segmenter: The network.
        grid: What its scans were brought to; kept with the result.
        sampler: Draws its windows.
        validation: Scans to choose the best by: with real tumors, or with painted ones that stay the same.
        side: Window side in voxels.
        batch: Windows a step in each process.
        workers: Threads that draw them; every window has a generator of its own, so that their number changes nothing.
        overlap: Of the windows of the validation.

    Raises:
        InputError: If no validation scan holds a tumor to choose by.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        grid: CanonicalConfig,
        sampler: SegmenterSampler,
        validation: Sequence[SegmenterScan],
        *,
        side: int,
        batch: int = 1,
        workers: int = 0,
        overlap: float = 0.5,
    ) -> None:
        if not any(scan.tumor.any() for scan in validation):
            raise InputError(
                f"None of {len(validation)} validation scans holds a tumor: there is nothing to choose the best by.",
                hint="add one, or let tumors be painted into healthy ones.",
            )
        self.trainable = segmenter
        self._trained = TrainedSegmenter(segmenter, grid, side)
        self._sampler = sampler
        self._validation = validation
        self._batch = batch
        self._workers = workers
        self._overlap = overlap

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return DiceCE of one batch."""
        generators = rng.spawn(self._batch)
        if self._workers > 1:
            with ThreadPoolExecutor(self._workers) as pool:
                windows = list(pool.map(self._sampler.draw, generators))
        else:
            windows = [self._sampler.draw(generator) for generator in generators]
        device = next(self.trainable.parameters()).device
        images = torch.from_numpy(np.stack([window.image for window in windows]))[:, None].to(device)
        labels = torch.from_numpy(np.stack([window.labels for window in windows]))[:, None].long().to(device)
        known = torch.from_numpy(np.stack([window.known for window in windows]))[:, None].to(device)
        return {"total": segmentation_loss(self.trainable(images).float(), labels, known)}

    def validate(self) -> dict[str, float]:
        """Return mean organ and tumor Dice of the validation scans.

        A scan without a tumor, in which none was found, is left out of the mean; one that was found counts as 0.
        """
        organs, tumors = [], []
        for scan in self._validation:
            found = class_probs(self._trained, scan.scan, self._overlap).argmax(axis=0)
            tumors.append(dice((found == TUMOR) & scan.known, scan.tumor & scan.known))
            organs.append(dice((found > 0) & scan.known, scan.organ & scan.known))
        tumor_dice = float(np.nanmean(tumors))
        return {"tumor_dice": tumor_dice, "organ_dice": float(np.nanmean(organs))}
