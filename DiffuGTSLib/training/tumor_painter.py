"""Train a latent tumor painter: first the VQGAN, then the denoiser on its latents, into one painter's folder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import ConfigError, did_you_mean
from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion
from DiffuGTSLib.synthesis.latent_painter import PainterView, save_painter
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import VqganCritics
from DiffuGTSLib.training.distributed import rank, world_size
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.model_folder import replaced
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.resuming import networks_sha256
from DiffuGTSLib.training.trainer import TrainingPlan, read_state
from DiffuGTSLib.training.tumor_diffusion import (
    ALL,
    TumorDiffusionRecipe,
    TumorSampler,
    of_stage,
    published_state,
    validation_windows,
    write_published,
)
from DiffuGTSLib.training.tumor_sizes import SIZE_STAGES
from DiffuGTSLib.training.vqgan import VqganLosses, VqganRecipe, load_perceptual


@dataclass(frozen=True)
class PainterSize:
    """Networks of one size, and how they are trained; the defaults are DiffTumor's.

    Not DiffTumor's is the course of the rates, see `TrainingPlan`: both rise over 50 iterations and fall along a cosine
    to 1 %. DiffTumor's VQGAN kept its rate up to iteration 40000, and took a tenth of it there, at 50000 and at 60000;
    for its denoiser no course is known.

    Attributes:
        view: What both networks are shown.
        vqgan: Differences from the published VQGAN.
        denoiser: Differences from the published UNet.
        critic_channels: Of the discriminators.
        windows: (side, how many a batch) of the VQGAN's training.
        losses: Of the VQGAN's training.
        vqgan_rate: Its peak learning rate with one process; multiplied by their number, as DiffTumor does with GPUs.
        vqgan_iterations: Its length.
        batch: Windows a batch of the denoiser's training.
        accumulate: Batches a step.
        rate: Peak learning rate of the denoiser.
        iterations: Its length.
        average: Decay of the moving average, which is taken every 10 iterations.
        average_after: Before this iteration the average is a copy.
    """

    view: PainterView = field(default_factory=PainterView)
    vqgan: Mapping[str, Any] = field(default_factory=dict)
    denoiser: Mapping[str, Any] = field(default_factory=dict)
    critic_channels: int = 64
    windows: tuple[tuple[int, int], ...] = ((96, 2),)
    losses: VqganLosses = field(default_factory=VqganLosses)
    vqgan_rate: float = 1.875e-5
    vqgan_iterations: int = 80000
    batch: int = 10
    accumulate: int = 2
    rate: float = 1e-4
    iterations: int = 60000
    average: float = 0.995
    average_after: int = 2000


SIZES = {
    "published": PainterSize(),
    "mini": PainterSize(
        view=PainterView(spacing_mm=2.0, side=32),
        vqgan={"n_hiddens": 8, "downsample": (2, 2, 2), "embedding_dim": 4, "n_codes": 1024, "groups": 4},
        denoiser={"dim": 16, "channels": 9, "out_channels": 4, "dim_mults": (1, 2, 4)},
        critic_channels=16,
        windows=((32, 4), (48, 1)),
        losses=VqganLosses(gradient=1.0),
        vqgan_rate=1.5e-3,
        vqgan_iterations=2000,
        batch=2,
        accumulate=1,
        rate=5e-4,
        iterations=3000,
        average=0.95,
        average_after=200,
    ),
}
"""`mini` is made for two CPU cores: 2 mm, cubes of 64 mm, latents of half the side, so that a cell is 4 mm as in the
published painter. It ends before the discriminators would begin."""


@dataclass(frozen=True)
class VqganOptions:
    """What may be chosen: `--set size=published`.

    Attributes:
        size: A key of `SIZES`.
        perceptual: Folder of critics with LPIPS's weights, converted from a checkpoint; none are shipped.
        adversarial_from: Batch with which the discriminators begin.
    """

    size: str = "mini"
    perceptual: str = ""
    adversarial_from: int = 10000


@dataclass(frozen=True)
class TumorPainterOptions:
    """What may be chosen: `--set stage=late --set timesteps=200 --set ddim_steps=50` for later tumors.

    Attributes:
        size: A key of `SIZES`; the same as the VQGAN's.
        timesteps: Of the diffusion: 4 for early tumors, 200 for later ones (DiffTumor). Which it learns says `stage`.
        ddim_steps: How the painter will walk them, see `PainterView`.
        stage: Tumors that it learns, outlined and painted alike: "early" (a ball of the volume has a radius of 10 mm at
            most), "late" (more), or "all".
        handcrafted: Share of windows with handcrafted tumors, see `TumorSampler`.
        published: Write `painter.pt` too, in the form of the published files.
    """

    size: str = "mini"
    timesteps: int = 4
    ddim_steps: int = 0
    stage: str = ALL
    handcrafted: float = 0.5
    published: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.handcrafted <= 1:
            raise ConfigError(f"handcrafted: expected a share of 0 to 1, got {self.handcrafted:g}.")
        if self.stage not in (ALL, *SIZE_STAGES):
            raise ConfigError(f"stage: expected one of {', '.join((ALL, *SIZE_STAGES))}, got '{self.stage}'.")
        if self.published and self.size != "published":
            raise ConfigError(
                f"published: the form of the published files is for size=published only, got size={self.size}.",
                hint="such a file does not say how many groups its norms have, nor on which grid it paints.",
            )
        diffusion = CosineDiffusion(self.timesteps)
        if self.ddim_steps:
            diffusion.ddim_timesteps(self.ddim_steps)  # refused now, not when hours of training are over


def painter_size(name: str) -> PainterSize:
    """Return a size by its name.

    Raises:
        ConfigError: For another name.
    """
    if name not in SIZES:
        raise ConfigError(f"Unknown size '{name}' of a painter.", hint=did_you_mean(name, SIZES))
    return SIZES[name]


def _vqgan_recipe(job: Job) -> tuple[VqganRecipe, Vqgan3D, TrainingPlan]:
    """Return how the VQGAN is trained, and itself.

    Raises:
        InputError: If there is nothing to train on, or nothing to validate on.
        WeightsError: If the perceptual network cannot be read.
    """
    options: VqganOptions = job.options
    size = painter_size(options.size)
    vqgan = Vqgan3D(**size.vqgan).to(job.device)
    critics = VqganCritics(size.critic_channels, perceptual=False).to(job.device)
    perceptual = None
    if options.perceptual:
        perceptual = load_perceptual(Path(options.perceptual)).to(job.device)
    else:
        job.report("vqgan: the perceptual term is off: LPIPS's weights are not shipped (--set perceptual=FOLDER)")
    if job.plan.iterations <= options.adversarial_from:
        job.report(f"vqgan: the discriminators stay off: they would begin with batch {options.adversarial_from}")
    losses = replace(size.losses, adversarial_from=options.adversarial_from)
    recipe = VqganRecipe(vqgan, critics, perceptual, job.scans["train"], job.scans["validation"], size.windows, losses)
    rate = size.vqgan_rate * world_size()
    return recipe, vqgan, replace(job.plan, learning_rate=rate, weight_decay=0.0, checkpoint_every=100)


def train_vqgan(job: Job) -> None:
    """Train the VQGAN into `RUN/painter/vqgan`."""
    recipe, vqgan, plan = _vqgan_recipe(job)
    job.run(recipe, plan, "vqgan")
    if rank() > 0:
        return
    painter = job.output / "painter"
    other = replaced(painter / "vqgan", lambda: save_module(vqgan.cpu(), painter / "vqgan", torch.float16))
    if other and (painter / "denoiser").is_dir():
        job.report(
            f"vqgan: the painter in {painter} was made for the one before, and paints no more: train tumor-painter again"
        )


def _rehearse_vqgan(job: Job) -> None:
    _, _, plan = _vqgan_recipe(job)
    tell_left(job, "vqgan", {"vqgan": plan})


def train_tumor_painter(job: Job) -> None:
    """Train the denoiser on the run's VQGAN, and complete the folder `RUN/painter`."""
    options: TumorPainterOptions = job.options
    size = painter_size(options.size)
    folder = job.output / "painter"
    vqgan = _vqgan_of(folder / "vqgan", options.size).to(job.device)
    denoiser = LatentUNet3D(**size.denoiser).to(job.device)
    sampler = TumorSampler(job.scans["train"], size.view.side, options.handcrafted, options.stage)
    windows = validation_windows(job.scans["validation"], size.view.side, options.handcrafted, stage=options.stage)
    recipe = TumorDiffusionRecipe(denoiser, vqgan, options.timesteps, sampler, windows, size.batch)
    plan = _plan(job)
    job.run(recipe, plan, "tumor-painter", frozen=networks_sha256([folder / "vqgan"]))
    if rank() > 0:
        return
    view = replace(size.view, timesteps=options.timesteps, ddim_steps=options.ddim_steps)
    source = {
        "trained by": "diffugts train", "iterations": plan.iterations, "seed": plan.seed,
        "stage": options.stage, "handcrafted tumors": options.handcrafted,
        "scans": [
            scan.case.name
            for scan in job.scans["train"]
            if options.handcrafted or of_stage(scan, options.stage).tumor.any()
        ],
    }  # fmt: skip
    save_painter(folder, vqgan.cpu(), denoiser.cpu(), view, source, torch.float16)
    if options.published:
        state = read_state(job.output / "tumor-painter" / "state.pt", torch.device("cpu"))
        published = published_state(
            state["iteration"], state["model"], state["averaged"], vqgan.state_dict(), options.timesteps
        )
        write_published(job.output / "painter.pt", published)
    job.report(f"the painter is in {folder}")


def _plan(job: Job) -> TrainingPlan:
    size = painter_size(job.options.size)
    return replace(
        job.plan, learning_rate=size.rate, weight_decay=0.0, average=size.average, average_every=10,
        average_after=size.average_after, accumulate=size.accumulate, checkpoint_every=100,
    )  # fmt: skip


def _vqgan_of(folder: Path, size: str) -> Vqgan3D:
    """Return the run's VQGAN.

    Raises:
        ConfigError: If it is of another size than the painter is to have.
        WeightsError: If it cannot be read.
    """
    vqgan: Vqgan3D = load_module(Vqgan3D, folder)
    published = {name: parameter.default for name, parameter in inspect.signature(Vqgan3D).parameters.items()}
    own = {name: vqgan.config[name] for name in published}
    fitting = [name for name, known in SIZES.items() if {**published, **known.vqgan} == own]
    if size not in fitting:
        raise ConfigError(
            f"size: the VQGAN in {folder} is of {f'size={fitting[0]}' if fitting else 'no size that is known'}, "
            f"the painter is to be of size={size}.",
            hint="give the size of the VQGAN, or another --output and train the VQGAN there first.",
        )
    return vqgan


def _rehearse(job: Job) -> None:
    """Make what a training would be made of, so that a dry run refuses what it would refuse."""
    options: TumorPainterOptions = job.options
    side = painter_size(options.size).view.side
    vqgan = job.output / "painter" / "vqgan"
    _vqgan_of(vqgan, options.size)
    for loaded in job.scans.values():
        TumorSampler(loaded, side, options.handcrafted, options.stage)
    tell_left(job, "tumor-painter", {"tumor-painter": _plan(job)}, networks_sha256([vqgan]))


def _grid(options: VqganOptions | TumorPainterOptions) -> CanonicalConfig:
    view = painter_size(options.size).view
    return CanonicalConfig(
        spacing_mm=view.spacing_mm, minimum_side=view.side, ct_knots_hu=view.window, ct_knots_unit=(0.0, 1.0)
    )


VQGAN = Part(
    train=train_vqgan,
    rehearse=_rehearse_vqgan,
    iterations=lambda options: painter_size(options.size).vqgan_iterations,
    options=VqganOptions(),
    grid=_grid,
    modalities=("CT",),
    model="painter",
)
TUMOR_PAINTER = Part(
    train=train_tumor_painter,
    rehearse=_rehearse,
    iterations=lambda options: painter_size(options.size).iterations,
    options=TumorPainterOptions(),
    grid=_grid,
    modalities=("CT",),
    model="painter",
    requires=("vqgan", "painter/vqgan"),
)
