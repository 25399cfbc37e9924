"""Train the parts of a model, one after the other, into one model folder.

    autoencoder → denoiser (on its latents) and aova (on its features)

Every part resumes where it stopped. `RUN/model` is a model folder in the diffusers layout as soon as the first part
is done; `RUN/<part>/` holds the log and the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import load_module, save_module, write_checksums
from DiffuGTSLib.components import find_device
from DiffuGTSLib.config import Config, RuntimeConfig, load_config
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.protocol import read_protocol
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.text.encoder import build_encoder
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.aova import HeadRecipe
from DiffuGTSLib.training.autoencoder import AutoencoderRecipe, latent_scaling_factor, start_linear
from DiffuGTSLib.training.data import Crop, TrainingScan, load_split
from DiffuGTSLib.training.denoiser import DenoiserRecipe, cache_latents
from DiffuGTSLib.training.losses import HeadLossWeights
from DiffuGTSLib.training.trainer import Recipe, TrainingPlan, train

Report = Callable[[str], None]

MINI_AUTOENCODER: dict[str, Any] = {
    "num_channels": (16, 32, 64), "num_res_blocks": (1, 1, 1), "norm_num_groups": 1, "norm_eps": 1.0,
}  # fmt: skip
MINI_UNET: dict[str, Any] = {
    "num_channels": (32, 64, 96), "attention_levels": (False, False, True), "num_head_channels": (0, 0, 32),
    "num_res_blocks": 1, "norm_num_groups": 16, "num_class_embeds": 16, "resblock_updown": False,
}  # fmt: skip
MINI_HEAD: dict[str, Any] = {"adapter": "context", "alpha": 0.5, "fuse": "logit", "feature_scale": 7.0}
"""What makes `mini` small; everything else is the published network's default."""

MINI_LOSSES = HeadLossWeights(anomaly=0.2, similarity=0.05, voxel=2.0)
"""In our first run, with all weights 1 and a learning rate of 1.5e-3, the maps were all-normal after 150 iterations
and stayed so: the gradient of the two image-level terms reaches every voxel at once. We lowered these weights and the
learning rate together and did not separate the causes."""

ITERATIONS = {"autoencoder": 2250, "denoiser": 3000, "aova": 20000}
"""Where nothing is asked for. The bundled head had fewer windows and wants more, see its model card."""


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
    dry_run: bool = False,
    report: Report = print,
) -> None:
    """Train one part, going on from its checkpoint when there is one.

    Args:
        part: "autoencoder", "denoiser" or "aova"; the latter two need the first in `output/model`.
        protocol_path: Which scans, which split; see `DiffuGTSLib.protocol`.
        data: Folder that the protocol's paths start from.
        output: Run folder.
        iterations: Optimizer steps; None takes `ITERATIONS`.
        precision: "float32" or "bfloat16"; see `TrainingPlan`.
        seed: Of weights and draws.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1".
        dry_run: Load the data, say what would be done, and stop.
        report: Receives one line at a time.

    Raises:
        InputError: Unknown part, or a protocol without the splits or the tissue that are needed.
        ConfigError: Unknown device or precision, or no iterations.
        WeightsError: If the autoencoder is missing or a checkpoint belongs to another network.
        StorageError: If the run folder cannot be written to.
    """
    if part not in PARTS:
        raise InputError(f"Unknown part '{part}'.", hint=did_you_mean(part, PARTS))
    chosen_device = find_device(RuntimeConfig(device=device))
    plan = TrainingPlan(ITERATIONS[part] if iterations is None else iterations, precision=precision, seed=seed)
    config = load_config("mini")
    cases = read_protocol(protocol_path)
    scans = {split: load_split(cases, split, data, config.canonical) for split in ("train", "validation")}
    for split, loaded in scans.items():
        report(f"{split}: {len(loaded)} scans of {len({scan.case.patient for scan in loaded})} patients")
    report(f"{part}: {plan.iterations} iterations, {plan.precision}, seed {plan.seed}, on {chosen_device}")
    if dry_run:
        return
    torch.manual_seed(seed)
    PARTS[part](scans, config, plan, output, chosen_device, report)
    _write_index(output / "model")


def _train_autoencoder(
    scans: dict[str, list[TrainingScan]],
    _config: Config,
    plan: TrainingPlan,
    output: Path,
    device: torch.device,
    report: Report,
) -> None:
    """Many small windows first, then a fifth of the time on large ones, as MAISI went from 64³ to 128³."""
    autoencoder = MaisiAutoencoder(**MINI_AUTOENCODER)
    start_linear(autoencoder)
    autoencoder.to(device)
    validation = [scan for scan in scans["validation"] if scan.case.modality != "labels"]
    large = max(1, plan.iterations // 5)
    phases = [
        (32, 6, replace(plan, iterations=max(1, plan.iterations - large), learning_rate=1e-3, average=0.99)),
        (64, 1, replace(plan, iterations=large, learning_rate=3e-4, average=0.99, seed=plan.seed + 1)),
    ]
    for number, (side, batch, phase) in enumerate(phases, start=1):
        recipe = AutoencoderRecipe(autoencoder, scans["train"], validation, side, batch)
        _run(recipe, phase, output / "autoencoder" / f"phase_{number}", report)
    autoencoder.cpu()
    autoencoder.register_to_config(scaling_factor=latent_scaling_factor(autoencoder, scans["train"]))
    save_module(autoencoder, output / "model" / "autoencoder", torch.float16)


def _train_denoiser(
    scans: dict[str, list[TrainingScan]],
    config: Config,
    plan: TrainingPlan,
    output: Path,
    device: torch.device,
    report: Report,
) -> None:
    autoencoder = load_module(MaisiAutoencoder, output / "model" / "autoencoder")
    window, overlap = config.backbone.window_voxels, config.backbone.overlap
    latents = {split: cache_latents(loaded, autoencoder, window, overlap) for split, loaded in scans.items()}
    report(f"denoiser: {sum(scan.healthy.sum() for scan in latents['train']):.0f} healthy latent cells to learn from")
    unet = MaisiUNet(**MINI_UNET).to(device)
    recipe = DenoiserRecipe(unet, latents["train"], latents["validation"], config.backbone.class_label)
    _run(recipe, replace(plan, learning_rate=1e-3, average=0.999, checkpoint_every=500), output / "denoiser", report)
    save_module(unet.cpu(), output / "model" / "denoiser", torch.float16)
    scheduler = output / "model" / "scheduler"
    scheduler.mkdir(parents=True, exist_ok=True)
    with whole_file(scheduler / "scheduler_config.json") as temporary:
        temporary.write_text(json.dumps(FLOW_SCHEDULER, indent=1) + "\n", encoding="utf-8")


def _train_aova(
    scans: dict[str, list[TrainingScan]],
    config: Config,
    plan: TrainingPlan,
    output: Path,
    device: torch.device,
    report: Report,
) -> None:
    autoencoder = load_module(MaisiAutoencoder, output / "model" / "autoencoder").to(device)
    text_encoder = build_encoder(config.text.encoder)
    head = AovaHead(autoencoder.feature_channels, text_encoder.dim, **MINI_HEAD).to(device)
    large = config.backbone.window_voxels
    small = large * 3 // 4  # most iterations on windows that cost less than half: sooner to many tumors seen
    first = plan.iterations * 3 // 4
    phases = [
        (small, replace(plan, iterations=max(1, first), learning_rate=1e-3, average=0.998, checkpoint_every=500)),
        (large, replace(plan, iterations=plan.iterations - first, learning_rate=6e-4, average=0.998,
                        checkpoint_every=500, seed=plan.seed + 1)),
    ]  # fmt: skip
    for number, (side, phase) in enumerate(phases, start=1):
        sampler = AnomalySampler(scans["train"], side, Mixture())
        windows = validation_windows(scans["validation"], side)
        recipe = HeadRecipe(head, autoencoder, text_encoder, sampler, windows, weights=MINI_LOSSES)
        _run(recipe, phase, output / "aova" / f"phase_{number}", report)
    save_module(head.cpu(), output / "model" / "aova", torch.float16)


PARTS: dict[str, Callable[[dict[str, list[TrainingScan]], Config, TrainingPlan, Path, torch.device, Report], None]] = {
    "autoencoder": _train_autoencoder,
    "denoiser": _train_denoiser,
    "aova": _train_aova,
}


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
    painted = AnomalySampler(scans, side, Mixture(real=0.0, healthy=0.4, other_organ=0.0))
    windows += [painted.draw(rng) for _ in range(8)]
    return windows


def _run(recipe: Recipe, plan: TrainingPlan, folder: Path, report: Report) -> None:
    def progress(done: int, total: int, row: dict[str, float]) -> None:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "iteration")
        report(f"{folder.name} {done}/{total}: {figures}")

    train(recipe, plan, folder, progress)


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
