"""Train the projection of the latent residual on kept twins, and compare it with what needs no training.

    RUN/residual/train, RUN/residual/validation    windows with their twins: made once, the long part
    RUN/residual/projection/                       log and checkpoint
    RUN/residual/comparison.csv                    Dice of every way of refining, a row a validation window
    RUN/model/residual                             the projection

Everything but the projection is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.components import Components, load_components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.evaluation.report import write_rows
from DiffuGTSLib.masks import fine_mask
from DiffuGTSLib.residual import (
    RESIDUAL_FOLDER,
    ResidualMaps,
    ResidualProjection,
    attention_residuals,
    projection_residuals,
)
from DiffuGTSLib.storage import make_folder
from DiffuGTSLib.training.anomalies import MINIMUM_VOXELS, AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.data import without_sick_organ
from DiffuGTSLib.training.head_windows import validation_windows
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.losses import dice_loss
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.resuming import arrays_sha256
from DiffuGTSLib.training.trainer import TrainingPlan
from DiffuGTSLib.training.twins import VALIDATION_CANDIDATES, CandidateDraw, Draw, TwinnedWindow, keep_twins


@dataclass(frozen=True)
class ResidualOptions:
    """What a user may choose, by `--set`.

    Attributes:
        windows: To learn from.
        validation_windows: To validate on: around the validation scans' real tumors first, then with freshly painted ones.
        window_voxels: Side of a window; 0 takes the preset's.
        wrong: Share of training windows in which healthy tissue is a candidate too.
    """

    windows: int = 100
    validation_windows: int = 24
    window_voxels: int = 0
    wrong: float = 0.15

    def __post_init__(self) -> None:
        if self.windows < 1 or self.validation_windows < 1 or not 0 <= self.wrong <= 1:
            raise ConfigError(
                "windows and validation_windows: expected at least 1; wrong: expected 0 to 1; "
                f"got {self.windows}, {self.validation_windows}, {self.wrong}."
            )


class ResidualRecipe:
    """Kept twins → logits → Dice and cross-entropy inside the candidate; outside nothing is reported.

    Args:
        network: To train.
        windows: To learn from.
        validation: Windows of patients or paintings that are not learned from.
        batch: Windows a step.
    """

    def __init__(
        self,
        network: ResidualProjection,
        windows: Sequence[TwinnedWindow],
        validation: Sequence[TwinnedWindow],
        batch: int = 4,
    ) -> None:
        self.trainable = network
        self._windows = windows
        self._validation = validation
        self._batch = batch

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Draw a batch and return its losses; windows differ in size and go one by one."""
        drawn = [
            self._loss(_flipped(self._windows[int(rng.integers(len(self._windows)))], rng)) for _ in range(self._batch)
        ]
        terms = {name: torch.stack([each[name] for each in drawn]).mean() for name in drawn[0]}
        return {"total": terms["dice"] + terms["voxel"], **terms}

    def validate(self) -> dict[str, float]:
        """Return mean Dice at a probability of 0.5."""
        config = ResidualConfig(beta_pixel=0.0, beta_feature=1.0, rule="fixed", threshold=0.5)
        return {
            "dice": float(
                np.mean(
                    [
                        refined_dice(w, projection_residuals(self.trainable, w.evidence), config)
                        for w in self._validation
                    ]
                )
            )
        }

    def _loss(self, window: TwinnedWindow) -> dict[str, Tensor]:
        candidate = window.evidence.candidate
        logits = self.trainable(window.evidence)
        truth = window.truth * candidate
        abnormal = (truth.sum() >= MINIMUM_VOXELS)[None]
        voxel = functional.binary_cross_entropy_with_logits(logits, truth, weight=candidate, reduction="sum")
        return {
            "dice": dice_loss(logits.sigmoid() * candidate, truth, abnormal),
            "voxel": voxel / candidate.sum(),
        }


_FOLDER = "residual/projection"


def _set_up(job: Job) -> tuple[Config, Components, int]:
    """Return how twins are made, by which networks, and the side of a window in voxels.

    Raises:
        ConfigError: If the run was begun with other choices.
        WeightsError: If the model cannot be read.
    """
    job.require_as_begun(_FOLDER)  # before the long part
    config = replace(job.inference_config(job.head_base), residual=replace(job.config.residual, feature="attention"))
    return config, load_components(config), job.options.window_voxels or config.backbone.window_voxels


def _frozen_sha256(components: Components) -> dict[str, str]:
    digests = {Path(file).parent.name: digest for file, digest in components.weights.items()}
    digests.pop(RESIDUAL_FOLDER, None)  # an earlier run's
    return digests


def _twins_sha256(windows: Sequence[TwinnedWindow]) -> str:
    """Return what stands for all that is learned from: made in another way, twins want another projection."""
    return arrays_sha256(values.cpu().numpy() for window in windows for values in window.tensors().values())


def _plan(plan: TrainingPlan) -> TrainingPlan:
    return replace(plan, learning_rate=1e-2, warmup=min(20, plan.iterations), average=0.98)


def train_residual(job: Job) -> None:
    """Make twins, learn from them, and say how each way of refining does on windows that were not learned from."""
    options: ResidualOptions = job.options
    folder = job.output / "residual"
    config, components, side = _set_up(job)
    draw_training, draw_validation = _draws(job, side)

    names = [scan.case.name for each in job.scans.values() for scan in each]
    drawn_from = f"{side} {names} {list(job.scans_sha256.values())}"

    def twins(split: str, draw: Draw, count: int) -> list[TwinnedWindow]:
        candidates = CandidateDraw(options.wrong) if split == "train" else VALIDATION_CANDIDATES
        tell = _teller(job, f"{split}: windows with their twins")
        return keep_twins(draw, count, folder / split, candidates, components, config, job.plan.seed, tell, drawn_from)

    windows = [moved(window, job.device) for window in twins("train", draw_training, options.windows)]
    validation = [
        moved(window, job.device) for window in twins("validation", draw_validation, options.validation_windows)
    ]
    network = ResidualProjection(components.autoencoder.latent_channels, components.text_encoder.dim).to(job.device)
    grown_from = f"{len(windows)} windows with twins of SHA-256 {_twins_sha256(windows)[:16]}"
    recipe = ResidualRecipe(network, windows, validation)
    job.run(recipe, _plan(job.plan), _FOLDER, grown_from, _frozen_sha256(components))
    _tell_comparison(job, validation, compare(validation, network, config.residual))
    if job.head_base != job.output / "model":  # the head first: with it the folder is a whole model
        job.save("aova", components.head)
    job.save(RESIDUAL_FOLDER, network)


def _rehearse(job: Job) -> None:
    _, components, side = _set_up(job)
    _draws(job, side)
    job.report(
        f"residual: {job.options.windows} training windows and {job.options.validation_windows} validation windows "
        "get twins first"
    )
    tell_left(job, "residual", {_FOLDER: _plan(job.plan)}, _frozen_sha256(components))


def _draws(job: Job, side: int) -> tuple[Draw, Draw]:
    """Return where windows come from: to learn from, and to validate on.

    Validation windows are those around the validation scans' tumors in which the head finds something, and for the rest tumors
    that are painted into any scan: of most organs there is no second patient. The painting is another one, the patient
    may be the same.
    """
    train = AnomalySampler(job.scans["train"], side, Mixture())
    painted = Mixture(real=0.0, healthy=0.0, anywhere=0.0)
    every = [*job.scans["train"], *job.scans["validation"]]
    fresh = AnomalySampler([without_sick_organ(scan) for scan in every], side, painted)
    real = [w for w in validation_windows(job.scans["validation"], side) if w.abnormal]

    def learn(_number: int, _attempt: int, rng: np.random.Generator) -> Sample:
        return train.draw(rng)

    def validate(number: int, attempt: int, rng: np.random.Generator) -> Sample:
        return real[number] if number < len(real) and attempt == 0 else fresh.draw(rng)

    return learn, validate


WAYS = {
    "pixel": ResidualConfig(beta_pixel=1.0, beta_feature=0.0),
    "attention": ResidualConfig(beta_pixel=0.0, beta_feature=1.0),
}
"""Ways of refining that need no training: one residual alone, cut by Otsu's rule as in the paper's form."""


def compare(
    windows: Sequence[TwinnedWindow], network: ResidualProjection, preset: ResidualConfig
) -> list[dict[str, float | str]]:
    """Return the Dice of every way of refining on each window: alone, and fused as the preset says.

    Args:
        windows: With the truth.
        network: Trained.
        preset: Weights, rule and threshold of the preset.
    """
    alone = ResidualConfig(beta_pixel=0.0, beta_feature=1.0, rule="fixed", threshold=0.5)
    rows = []
    for window in windows:
        row: dict[str, float | str] = {"organ": window.organ, "modality": window.modality}
        row["coarse"] = coarse_dice(window)
        untrained, projected = untrained_maps(window), projection_residuals(network, window.evidence)
        for name, config in (*WAYS.items(), ("preset, attention", preset)):
            row[name] = refined_dice(window, untrained, config)
        for name, config in (("projection", alone), ("preset, projection", preset)):
            row[name] = refined_dice(window, projected, config)
        candidate = window.evidence.candidate * window.truth
        row["best possible"] = _overlap(window, candidate[0, 0].cpu().numpy() > 0)
        rows.append(row)
    return rows


def untrained_maps(window: TwinnedWindow) -> ResidualMaps:
    """Return the residuals that need no training: intensity and the drop in attention."""
    shown = window.evidence
    reconstruction, healthy, attention, candidate = (
        each[0, 0] for each in (shown.reconstruction, shown.healthy, shown.attention, shown.candidate)
    )
    return attention_residuals(reconstruction, healthy, window.before[0, 0], window.after[0, 0], attention, candidate)


def coarse_dice(window: TwinnedWindow) -> float:
    """Return the Dice of the candidates in the whole window."""
    return _overlap(window, window.coarse[0, 0].cpu().numpy() > 0)


def refined_dice(window: TwinnedWindow, maps: ResidualMaps, config: ResidualConfig) -> float:
    """Return the Dice of the refined mask in the whole window, 1 where nothing is to find and nothing was found."""
    candidate = window.evidence.candidate[0, 0].cpu().numpy() > 0
    return _overlap(window, fine_mask(maps.fused(config).cpu().numpy(), candidate, config))


def _overlap(window: TwinnedWindow, mask: np.ndarray) -> float:
    """Return the Dice in the whole window, 1 where nothing is to find and nothing was found."""
    truth = window.truth[0, 0].cpu().numpy() > 0
    size = mask.sum() + truth.sum() + window.cut_off
    return float(2 * (mask & truth).sum() / size) if size else 1.0


def _flipped(window: TwinnedWindow, rng: np.random.Generator) -> TwinnedWindow:
    axes = [axis for axis in (2, 3, 4) if rng.random() < 0.5]

    return window.mapped(lambda _, tensor: tensor.flip(axes) if tensor.dim() == 5 else tensor)


def moved(window: TwinnedWindow, device: torch.device) -> TwinnedWindow:
    """Return a window on a device."""
    return window.mapped(lambda _, tensor: tensor.to(device))


def _teller(job: Job, what: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            job.report(f"residual: {what}: {done} of {total}")

    return tell


def _tell_comparison(job: Job, windows: Sequence[TwinnedWindow], rows: list[dict[str, float | str]]) -> None:
    folder = job.output / "residual"
    make_folder(folder)
    shown = [{name: v if isinstance(v, str) else f"{v:.4f}" for name, v in row.items()} for row in rows]
    write_rows(shown, folder / "comparison.csv")
    job.report(f"residual: mean Dice on {len(windows)} validation windows")
    for name in rows[0]:
        if name not in ("organ", "modality"):
            job.report(f"residual: {name}: {np.mean([float(row[name]) for row in rows]):.3f}")


PART = Part(
    train=train_residual,
    rehearse=_rehearse,
    iterations=300,
    options=ResidualOptions(),
    requires=("aova", "model/aova"),
    any_preset=True,
)
"""What `diffugts train residual` trains."""
