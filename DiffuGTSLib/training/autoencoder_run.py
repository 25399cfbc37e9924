"""Train the autoencoder, the first part of a run: small windows, then large ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.training.autoencoder import AutoencoderRecipe, latent_scaling_factor, require_a_scan, start_linear
from DiffuGTSLib.training.distributed import rank
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.model_folder import replaced
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.trainer import TrainingPlan

MINI_AUTOENCODER: dict[str, Any] = {
    "num_channels": (16, 32, 64), "num_res_blocks": (1, 1, 1), "norm_num_groups": 1, "norm_eps": 1.0,
}  # fmt: skip
"""What makes `mini`'s small; everything else is the published network's default."""


def _autoencoder_phases(job: Job, autoencoder: MaisiAutoencoder) -> dict[str, tuple[AutoencoderRecipe, TrainingPlan]]:
    """Return what is done in each folder: many small windows first, then a fifth of the time on large ones, as MAISI went from 64³ to 128³.

    Raises:
        InputError: If there is no scan to train on, or none to validate on.
    """
    plan, train_scans = replace(job.plan, average=0.99), job.scans["train"]
    require_a_scan(train_scans)
    validation = [scan for scan in job.scans["validation"] if not scan.painted]
    large = max(1, plan.iterations // 5)
    small_plan = replace(plan, iterations=max(1, plan.iterations - large), learning_rate=1e-3)
    large_plan = replace(plan, iterations=large, learning_rate=3e-4, seed=plan.seed + 1)
    return {
        "autoencoder/phase_1": (AutoencoderRecipe(autoencoder, train_scans, validation, 32, 6), small_plan),
        "autoencoder/phase_2": (AutoencoderRecipe(autoencoder, train_scans, validation, 64, 1), large_plan),
    }


def train_autoencoder(job: Job) -> None:
    """Train `mini`'s autoencoder into the run's model folder, and say which parts there are outdated by it."""
    autoencoder = MaisiAutoencoder(**MINI_AUTOENCODER)
    start_linear(autoencoder)
    autoencoder.to(job.device)
    before = ""
    for folder, (recipe, plan) in _autoencoder_phases(job, autoencoder).items():
        job.run(recipe, plan, folder, before)
        before = f"{plan.iterations} iterations of {Path(folder).name}"
    autoencoder.cpu()
    autoencoder.register_to_config(scaling_factor=latent_scaling_factor(autoencoder, job.scans["train"]))
    if rank() == 0 and replaced(job.output / "model" / "autoencoder", lambda: job.save("autoencoder", autoencoder)):
        _tell_outdated(job)


def rehearse_autoencoder(job: Job) -> None:
    """Say how many iterations are left, and refuse what `train_autoencoder` would refuse."""
    phases = _autoencoder_phases(job, MaisiAutoencoder(**MINI_AUTOENCODER))
    tell_left(job, "autoencoder", {folder: plan for folder, (_, plan) in phases.items()})


def _tell_outdated(job: Job) -> None:
    """Say which parts of the model folder belong to the autoencoder that was there before."""
    model = job.output / "model"
    left = [name for name in ("denoiser", "aova", "residual") if (model / name).is_dir()]
    if left:
        job.report(
            f"autoencoder: made for the one before, in {model}: {', '.join(left)}; train them again, in this order"
        )


PART = Part(train=train_autoencoder, rehearse=rehearse_autoencoder, iterations=2250)
"""What `diffugts train autoencoder` trains."""
