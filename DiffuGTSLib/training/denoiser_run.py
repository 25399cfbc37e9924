"""Train the denoiser on the latents of a run's frozen autoencoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.backbones import FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiUNet
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.storage import write_json
from DiffuGTSLib.training.denoiser import (
    DenoiserOptions,
    DenoiserRecipe,
    cache_latents,
    has_enough_healthy_tissue,
    require_healthy,
    started_denoiser,
)
from DiffuGTSLib.training.distributed import rank
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.model_folder import looks_through_denoiser
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.resuming import networks_sha256
from DiffuGTSLib.training.trainer import TrainingPlan

MINI_UNET: dict[str, Any] = {
    "num_channels": (32, 64, 96), "attention_levels": (False, False, True), "num_head_channels": (0, 0, 32),
    "num_res_blocks": 1, "norm_num_groups": 16, "num_class_embeds": 16, "resblock_updown": False,
}  # fmt: skip
"""What makes `mini`'s small; everything else is the published network's default."""


def _ready_to_denoise(job: Job) -> tuple[MaisiUNet, TrainingPlan, dict[str, str]]:
    """Return the network to train, its plan, and the digest of the autoencoder that it is trained on.

    Raises:
        WeightsError: If the run's head looks through the denoiser that is there, or the start cannot be gone on from.
        InputError: If no scan shows enough healthy tissue, to train on or to validate on.
    """
    if looks_through_denoiser(job.output / "model"):
        raise WeightsError(
            f"The head in {job.output / 'model'} looks through the denoiser there, and would see others' features.",
            hint="choose another --output, or remove its aova first.",
        )
    options: DenoiserOptions = job.options
    require_healthy(*(sum(map(has_enough_healthy_tissue, job.scans[split])) for split in ("train", "validation")))
    unet = started_denoiser(Path(options.start), job.base) if options.start else MaisiUNet(**MINI_UNET)
    plan = replace(job.plan, learning_rate=options.learning_rate, average=0.999, checkpoint_every=500)
    return unet, plan, networks_sha256([job.base / "autoencoder"])


def train_denoiser(job: Job) -> None:
    """Train the denoiser on the latents of healthy tissue into the run's model folder."""
    autoencoder = job.load_autoencoder()
    unet, plan, frozen = _ready_to_denoise(job)
    backbone = job.config.backbone
    options: DenoiserOptions = job.options
    latents = {
        split: cache_latents(
            loaded, autoencoder, backbone.window_voxels, backbone.overlap, mirror=options.mirror and split == "train"
        )
        for split, loaded in job.scans.items()
    }
    cells = sum(scan.healthy.sum() for scan in latents["train"])
    job.report(f"denoiser: {cells:.0f} healthy latent cells to learn from")
    unet.to(job.device)
    recipe = DenoiserRecipe(unet, latents["train"], latents["validation"], backbone.class_label)
    job.run(recipe, plan, "denoiser", frozen=frozen)
    job.save("denoiser", unet)
    if rank() == 0:
        scheduler = job.output / "model" / "scheduler"
        scheduler.mkdir(parents=True, exist_ok=True)
        write_json(scheduler / "scheduler_config.json", FLOW_SCHEDULER)


def rehearse_denoiser(job: Job) -> None:
    """Say how many iterations are left, and refuse what `train_denoiser` would refuse."""
    job.load_autoencoder()
    _, plan, frozen = _ready_to_denoise(job)
    tell_left(job, "denoiser", {"denoiser": plan}, frozen)


PART = Part(
    train=train_denoiser,
    rehearse=rehearse_denoiser,
    iterations=3000,
    options=DenoiserOptions(),
    requires=("autoencoder", "model/autoencoder"),
)
"""What `diffugts train denoiser` trains."""
