"""Train the parts of a model, one after the other, into one model folder.

    autoencoder → denoiser (on its latents) and aova (on its features)

Every part resumes where it stopped. `RUN/model` is a model folder in the diffusers layout as soon as the first part
is done; `RUN/<part>/` holds the log and the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import write_checksums
from DiffuGTSLib.components import find_device
from DiffuGTSLib.config import RuntimeConfig, load_config
from DiffuGTSLib.datasets.trained_cases import record_training
from DiffuGTSLib.errors import InputError, WeightsError, did_you_mean
from DiffuGTSLib.protocol import read_protocol
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.text.encoder import build_encoder
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.aova import HeadRecipe
from DiffuGTSLib.training.autoencoder import AutoencoderRecipe, latent_scaling_factor, start_linear
from DiffuGTSLib.training.data import Crop, TrainingScan, load_split
from DiffuGTSLib.training.denoiser import DenoiserRecipe, cache_latents
from DiffuGTSLib.training.distributed import process_group, rank, world_size
from DiffuGTSLib.training.job import Job, Part, Report
from DiffuGTSLib.training.losses import HeadLossWeights
from DiffuGTSLib.training.segmenter_run import PART as SEGMENTER
from DiffuGTSLib.training.trainer import TrainingPlan
from DiffuGTSLib.training.tumor_painter import TUMOR_PAINTER, VQGAN

MINI_AUTOENCODER: dict[str, Any] = {
    "num_channels": (16, 32, 64), "num_res_blocks": (1, 1, 1), "norm_num_groups": 1, "norm_eps": 1.0,
}  # fmt: skip
MINI_UNET: dict[str, Any] = {
    "num_channels": (32, 64, 96), "attention_levels": (False, False, True), "num_head_channels": (0, 0, 32),
    "num_res_blocks": 1, "norm_num_groups": 16, "num_class_embeds": 16, "resblock_updown": False,
}  # fmt: skip
MINI_HEAD: dict[str, Any] = {"adapter": "context", "alpha": 0.5, "fuse": "logit", "feature_scale": 7.0}
"""What makes `mini` small; everything else is the published network's default."""

MINI_LOSSES = HeadLossWeights(anomaly=0.2, similarity=0.05)
"""In our first run, with all weights 1 and a learning rate of 1.5e-3, the maps were all-normal after 150 iterations
and stayed so: the gradient of the two image-level terms reaches every voxel at once. We lowered these weights and the
learning rate together and did not separate the causes."""


def train_part(
    part: str,
    *,
    protocol_path: Path,
    data: Path,
    output: Path,
    iterations: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    device: str = "auto",
    options: Mapping[str, str] | None = None,
    tensorboard: bool = False,
    dry_run: bool = False,
    report: Report = print,
) -> None:
    """Train one part, going on from its checkpoint when there is one.

    Args:
        part: A key of `PARTS`. The denoiser and the head need the autoencoder in `output/model`.
        protocol_path: Which scans, which split; see `DiffuGTSLib.protocol`.
        data: Folder that the protocol's paths start from.
        output: Run folder.
        iterations: Optimizer steps; None takes the part's own number.
        precision: "float32" or "bfloat16"; see `TrainingPlan`.
        seed: Of weights and draws.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1".
        options: The part's own choices by name, see `Part.options`.
        tensorboard: Write the log as TensorBoard's curves too.
        dry_run: Load the data, say what would be done, and stop.
        report: Receives one line at a time.

    Raises:
        InputError: Unknown part, or a protocol without the splits or the tissue that are needed.
        ConfigError: Unknown device, precision or option, or no iterations.
        WeightsError: If the autoencoder is missing or a checkpoint belongs to another network.
        StorageError: If the run folder cannot be written to.
    """
    if part not in PARTS:
        raise InputError(f"Unknown part '{part}'.", hint=did_you_mean(part, PARTS))
    chosen, own = PARTS[part], PARTS[part].chosen(options or {})
    wanted = find_device(RuntimeConfig(device=device))
    length = chosen.length(own) if iterations is None else iterations
    plan = TrainingPlan(length, precision=precision, seed=seed, tensorboard=tensorboard)
    missing = chosen.missing(output)
    if chosen.after is not None and missing and not dry_run:
        before = f"train it first: diffugts train {chosen.after[0]} --data {data} -o {output}."
        raise WeightsError(f"{part}: {missing}.", hint=before, code="weights_missing")
    config = load_config("mini")
    canonical = config.canonical if chosen.grid is None else chosen.grid(own)
    cases = [case for case in read_protocol(protocol_path) if case.modality in chosen.modalities]
    with process_group(wanted) as own_device:
        say = report if rank() == 0 else _silence
        scans = {split: load_split(cases, split, data, canonical) for split in ("train", "validation")}
        for split, loaded in scans.items():
            say(f"{split}: {len(loaded)} scans of {len({scan.case.patient for scan in loaded})} patients")
        together = f", {world_size()} processes" if world_size() > 1 else ""
        say(f"{part}: {plan.iterations} iterations, {plan.precision}, seed {plan.seed}, on {own_device}{together}")
        if own is not None:
            say(
                f"{part}: "
                + ", ".join(f"{name} {value if value != '' else '-'}" for name, value in asdict(own).items())
            )
        if dry_run:
            if missing:
                say(f"{part}: {missing}: train that first")
            return
        torch.manual_seed(seed)
        chosen.train(Job(scans, config, plan, output, own_device, say, own))
        if rank() == 0 and chosen.in_model:
            record_training([scan.case for scan in scans["train"]], data, output / "model")
            _write_index(output / "model")


def _train_autoencoder(job: Job) -> None:
    """Many small windows first, then a fifth of the time on large ones, as MAISI went from 64³ to 128³."""
    autoencoder = MaisiAutoencoder(**MINI_AUTOENCODER)
    start_linear(autoencoder)
    autoencoder.to(job.device)
    plan, train_scans = job.plan, job.scans["train"]
    validation = [scan for scan in job.scans["validation"] if scan.case.modality != "labels"]
    large = max(1, plan.iterations // 5)
    phases = [
        (32, 6, replace(plan, iterations=max(1, plan.iterations - large), learning_rate=1e-3, average=0.99)),
        (64, 1, replace(plan, iterations=large, learning_rate=3e-4, average=0.99, seed=plan.seed + 1)),
    ]
    for number, (side, batch, phase) in enumerate(phases, start=1):
        job.run(
            AutoencoderRecipe(autoencoder, train_scans, validation, side, batch), phase, f"autoencoder/phase_{number}"
        )
    autoencoder.cpu()
    autoencoder.register_to_config(scaling_factor=latent_scaling_factor(autoencoder, train_scans))
    job.save("autoencoder", autoencoder)


def _train_denoiser(job: Job) -> None:
    autoencoder = job.load_autoencoder()
    backbone = job.config.backbone
    latents = {
        split: cache_latents(loaded, autoencoder, backbone.window_voxels, backbone.overlap)
        for split, loaded in job.scans.items()
    }
    cells = sum(scan.healthy.sum() for scan in latents["train"])
    job.report(f"denoiser: {cells:.0f} healthy latent cells to learn from")
    unet = MaisiUNet(**MINI_UNET).to(job.device)
    recipe = DenoiserRecipe(unet, latents["train"], latents["validation"], backbone.class_label)
    job.run(recipe, replace(job.plan, learning_rate=1e-3, average=0.999, checkpoint_every=500), "denoiser")
    job.save("denoiser", unet)
    if rank() == 0:
        scheduler = job.output / "model" / "scheduler"
        scheduler.mkdir(parents=True, exist_ok=True)
        with whole_file(scheduler / "scheduler_config.json") as temporary:
            temporary.write_text(json.dumps(FLOW_SCHEDULER, indent=1) + "\n", encoding="utf-8")


def _train_aova(job: Job) -> None:
    autoencoder = job.load_autoencoder().to(job.device)
    text_encoder = build_encoder(job.config.text.encoder)
    head = AovaHead(autoencoder.feature_channels, text_encoder.dim, **MINI_HEAD)
    head = head.to(job.device, memory_format=torch.channels_last_3d)
    large = job.config.backbone.window_voxels
    small = large * 3 // 4  # most iterations on windows that cost less than half: sooner to many tumors seen
    plan = replace(job.plan, average=0.999, checkpoint_every=500)
    first = plan.iterations * 3 // 4
    phases = [
        (small, replace(plan, iterations=max(1, first), learning_rate=1e-3)),
        (large, replace(plan, iterations=plan.iterations - first, learning_rate=5e-4, seed=plan.seed + 1)),
    ]
    for number, (side, phase) in enumerate(phases, start=1):
        sampler = AnomalySampler(job.scans["train"], side, Mixture())
        windows = validation_windows(job.scans["validation"], side)
        recipe = HeadRecipe(head, autoencoder, text_encoder, sampler, windows, weights=MINI_LOSSES)
        job.run(recipe, phase, f"aova/phase_{number}")
    job.save("aova", head)


PARTS: dict[str, Part] = {
    "autoencoder": Part(_train_autoencoder, 2250, in_model=True),
    "denoiser": Part(_train_denoiser, 3000, in_model=True, after=("autoencoder", "model/autoencoder")),
    "aova": Part(_train_aova, 20000, in_model=True, after=("autoencoder", "model/autoencoder")),
    "vqgan": VQGAN,
    "tumor-painter": TUMOR_PAINTER,
    "segmenter": SEGMENTER,
}
"""What can be trained, and for how many iterations where nothing is asked for. The bundled head had fewer windows and
wants more, see its model card."""


def validation_windows(scans: Sequence[TrainingScan], side: int) -> list[Sample]:
    """Return fixed windows of unseen patients: their real tumors, cut off center, and painted ones elsewhere."""
    rng = np.random.default_rng(5)
    windows = []
    for scan in scans:
        if scan.tumor.any():
            voxels = np.argwhere(scan.tumor)
            for _ in range(2):
                start = voxels[rng.integers(len(voxels))] - rng.integers(side // 4, 3 * side // 4, 3)
                crop = Crop((int(start[0]), int(start[1]), int(start[2])), (side, side, side))
                mask = crop.cut(scan.tumor)
                windows.append(Sample(crop.cut(scan.scan.image), mask, scan.case.organ, scan.scan.modality))
    painted = AnomalySampler(scans, side, Mixture(real=0.0, healthy=0.4, other_organ=0.0, anywhere=0.0, turned=0.0))
    windows += [painted.draw(rng) for _ in range(8)]
    return windows


def _silence(line: str) -> None:
    """Say nothing: of several processes the first one speaks."""


def _write_index(model_folder: Path) -> None:
    """Write the index of what is there, and the checksums."""
    classes: dict[str, tuple[str, type[nn.Module]]] = {
        "autoencoder": ("DiffuGTSLib.backbones.maisi", MaisiAutoencoder),
        "denoiser": ("DiffuGTSLib.backbones.maisi", MaisiUNet),
        "aova": ("DiffuGTSLib.aova", AovaHead),
    }
    index: dict[str, Any] = {"_class_name": "DiffuGTSPipeline", "prediction": "flow"}
    for name, (module, kind) in classes.items():
        if (model_folder / name).is_dir():
            index[name] = [module, kind.__name__]
    with whole_file(model_folder / "model_index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    write_checksums(model_folder)
