"""Train a segmenter: from a protocol or from lists of cases, into `RUN/segmenter`.

`RUN/segmenter/model` holds the network that was best by tumor Dice, with the grid that it was trained on;
`RUN/segmenter` the log, the checkpoint and what resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from DiffuGTSLib.backbones.weights import seeded
from DiffuGTSLib.config import CanonicalConfig, RuntimeConfig, load_config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.trained_cases import record_training
from DiffuGTSLib.device import find_device
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import TrainedSegmenter, load_segmenter, save_segmenter
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painters import find_painter
from DiffuGTSLib.training.case_lists import ListedCase
from DiffuGTSLib.training.distributed import by_first, prepare_together, process_group, rank, world_size
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.lock import alone_in
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.resuming import arrays_sha256, split_digests
from DiffuGTSLib.training.segmenter import SCHEDULES, SegmenterPlan, SegmenterRecipe
from DiffuGTSLib.training.segmenter_cases import SEGMENTER_GRID, SegmenterScan, from_protocol, load_listed
from DiffuGTSLib.training.segmenter_data import (
    PaintedTumors,
    SegmenterSampler,
    SynthesisChances,
    TumorSource,
    painted_windows,
)
from DiffuGTSLib.training.trainer import TrainingPlan

LEAST_VALIDATIONS = 10
"""In a run: a best network is chosen among so many."""
SAVE_EVERY = 250
"""Iterations between checkpoints: minutes on a card, a quarter of an hour on a processor."""


@dataclass(frozen=True)
class SegmenterOptions:
    """A segmenter's own choices; the defaults are DiffTumor's.

    Attributes:
        model: "unet", "nnunet" or "swin_unetr".
        start: Folder of a segmenter of that model, whose weights and shape training begins from; empty: begin anew.
        channels: Of "unet" and "nnunet", as in "16,32,64,128,256"; empty takes the published ones.
        swin_type: "tiny", "small" or "base".
        organs: Organs whose tumors are looked for, separated by commas.
        painter: "handcrafted", "recipe" (SyntheticTumors), a trained painter's folder, or "none". A trained painter may
            have learned another organ's tumors.
        late_painter: Paints medium and large tumors; empty: the same.
        synthesis_rate: Share of healthy windows that are painted into.
        tiny: Share of tiny tumors among the painted ones; the four shares make 1 together.
        small: Share of small tumors among the painted ones.
        medium: Share of medium tumors among the painted ones.
        large: Share of large tumors among the painted ones.
        real_share: Share of windows from cases with outlined tumors. -1: as many as there are; 0: painted tumors only.
        window: Side in voxels.
        batch: Windows a step in each process.
        workers: Threads that draw windows.
        learning_rate: Peak.
        weight_decay: AdamW's.
        warmup_epochs: Epochs of rise.
        validate_every: Epochs between validations, by which the best network is chosen; fewer where a run would see less
            than ten of them.
        schedule: "warmup_cosine", "cosine_anneal" or "none".
        overlap: Of the windows of the validation.
        spacing_mm: Voxel size.
        low_hu: HU that become 0.
        high_hu: HU that become 1.
        working_grid: Use the grid of the preset `mini` instead of these three.
    """

    model: str = "unet"
    start: str = ""
    channels: str = ""
    swin_type: str = "base"
    organs: str = "liver"
    painter: str = "handcrafted"
    late_painter: str = ""
    synthesis_rate: float = 0.5
    tiny: float = 0.4
    small: float = 0.4
    medium: float = 0.1
    large: float = 0.1
    real_share: float = -1.0
    window: int = 96
    batch: int = 1
    workers: int = 0
    learning_rate: float = 4e-4
    weight_decay: float = 1e-5
    warmup_epochs: int = 100
    validate_every: int = 200
    schedule: str = "warmup_cosine"
    overlap: float = 0.5
    spacing_mm: float = 1.0
    low_hu: float = -175.0
    high_hu: float = 250.0
    working_grid: bool = False

    def __post_init__(self) -> None:
        if not self.organ_names:
            raise ConfigError(f"organs: expected the name of an organ, got '{self.organs}'.")
        if self.real_share > 1:
            raise ConfigError(f"real_share: expected 0 to 1, or -1, got {self.real_share}.")
        for name in ("batch", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if not 0 < self.learning_rate <= 1:
            raise ConfigError(f"learning_rate: expected above 0, at most 1, got {self.learning_rate}.")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule: expected one of {', '.join(SCHEDULES)}, got '{self.schedule}'.")
        _ = self.chances  # refused now, not when the scans are loaded

    @property
    def organ_names(self) -> tuple[str, ...]:
        """The organs, one by one."""
        return tuple(name.strip() for name in self.organs.split(",") if name.strip())

    @property
    def chances(self) -> SynthesisChances:
        """How often what is painted."""
        early = self.tiny + self.small
        shares = {"tiny": self.tiny / early, "small": self.small / early} if early else {"tiny": 0.5, "small": 0.5}
        stages = {"early": early, "medium": self.medium, "large": self.large}
        return SynthesisChances(self.synthesis_rate, stages, shares)

    def grid(self, mini: CanonicalConfig | None = None) -> CanonicalConfig:
        """Return the grid that scans are brought to; `mini` is the preset's."""
        if self.working_grid and mini is not None:
            return replace(mini, minimum_side=max(mini.minimum_side, 32 * math.ceil(self.window / 32)))
        return replace(
            SEGMENTER_GRID, spacing_mm=self.spacing_mm, ct_knots_hu=(self.low_hu, self.high_hu),
            minimum_side=32 * math.ceil(self.window / 32),
        )  # fmt: skip


def build_segmenter(options: SegmenterOptions) -> Segmenter:
    """Build the network of some options.

    Raises:
        ConfigError: As `Segmenter`; or channels that are no whole numbers, or a window that the network cannot halve,
            or a start of another model.
        WeightsError: If the start cannot be read.
    """
    segmenter = _started(options) if options.start else _fresh(options)
    if options.window < 1 or options.window % segmenter.side_multiple:
        raise ConfigError(
            f"window: expected a multiple of {segmenter.side_multiple} for {options.model}, got {options.window}."
        )
    return segmenter


def _fresh(options: SegmenterOptions) -> Segmenter:
    try:
        channels = tuple(int(word) for word in options.channels.split(",") if word.strip())
    except ValueError:
        raise ConfigError(f"channels: expected whole numbers as in 16,32,64, got '{options.channels}'.") from None
    segmenter: Segmenter = Segmenter(options.model, channels=channels, swin_type=options.swin_type)
    return segmenter


def _started(options: SegmenterOptions) -> Segmenter:
    segmenter: Segmenter = load_segmenter(Path(options.start)).network
    if segmenter.config["model"] != options.model:
        raise ConfigError(f"start: {options.start} holds a {segmenter.config['model']}, not a {options.model}.")
    segmenter.requires_grad_(True).train()
    return segmenter


def build_source(options: SegmenterOptions, device: torch.device) -> TumorSource | None:
    """Make the painters of some options, once for the whole training; None for "none".

    Raises:
        InputError: Unknown painter.
        ConfigError: Unknown organ.
        WeightsError: If a trained painter's folder cannot be used.
    """
    if options.painter == "none":
        return None
    specs = {name: organ_spec(name) for name in options.organ_names}
    early, _ = find_painter(options.painter, str(device))
    late = find_painter(options.late_painter, str(device))[0] if options.late_painter else None
    return PaintedTumors(early, late, specs)


def train_segmenter(
    train_scans: Sequence[SegmenterScan],
    validation: Sequence[SegmenterScan],
    options: SegmenterOptions,
    plan: TrainingPlan,
    job: Job,
) -> None:
    """Train on some cases, choose the best network by tumor Dice, and write it with its grid.

    Where no real case is trained on, the best is chosen by tumors that are painted into the validation scans, once and
    for all: nobody's outlines are needed.

    Args:
        train_scans: Real and healthy cases.
        validation: Real and healthy cases of other patients.
        options: See `SegmenterOptions`.
        plan: How long, how precise, from which seed; learning rate, decay and intervals come from the options.
        job: Where to, on what, and who is told.

    Raises:
        InputError: Without cases to train on or to choose by.
    """
    recipe = _recipe(train_scans, validation, options, job)
    job.run(recipe, _plan(plan, options, len(train_scans)), "segmenter")
    if rank() == 0:
        modalities = tuple(sorted({scan.scan.modality for scan in train_scans}))
        grid = options.grid(job.config.canonical)
        trained = TrainedSegmenter(recipe.trainable.cpu(), grid, options.window, modalities, options.organ_names)
        save_segmenter(trained, job.output / "segmenter" / "model")


def _recipe(
    train_scans: Sequence[SegmenterScan], validation: Sequence[SegmenterScan], options: SegmenterOptions, job: Job
) -> SegmenterRecipe:
    """Return how a segmenter is trained, and say with what, and what it is validated on.

    Raises:
        InputError, ConfigError, WeightsError: As `train_segmenter`, `build_source` and `build_segmenter`.
    """
    source = build_source(options, job.device)
    share = None if options.real_share < 0 else options.real_share
    sampler = SegmenterSampler(train_scans, options.window, source, options.chances, share)
    scored = [scan for scan in validation if scan.tumor.any()] if share != 0 else []
    if not scored and source is not None:
        scored = painted_windows([scan for scan in validation if scan.healthy], options.window, source)
    network = build_segmenter(options).to(job.device)
    job.report(
        f"segmenter: {sum(not scan.healthy for scan in train_scans)} real and "
        f"{sum(scan.healthy for scan in train_scans)} healthy cases; the best is chosen on {len(scored)} scans or windows"
    )
    return SegmenterRecipe(
        network, options.grid(job.config.canonical), sampler, scored, side=options.window, batch=options.batch,
        workers=options.workers, overlap=options.overlap,
    )  # fmt: skip


def train_listed(
    cases: Mapping[str, Sequence[ListedCase]],
    options: SegmenterOptions,
    *,
    epochs: int,
    output: Path,
    amp: bool = False,
    seed: int = 0,
    device: str = "auto",
    all_healthy: bool = False,
    prepared: Path | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train on the cases of DiffTumor's lists; a list names no patients, so that each scan is recorded as its own.

    Args:
        cases: "train" and "validation" → cases.
        options: See `SegmenterOptions`; its organ names what the lists outline.
        epochs: Each sees as many windows as there are cases to train on.
        output: Run folder.
        amp: bfloat16 on a GPU; a CPU computes in float32 in any case.
        seed: Of weights and draws.
        device: "auto", "cpu", "cuda", "cuda:1".
        all_healthy: Take every case for healthy, whatever its label's path says, that holds no tumor (SyntheticTumors'
            --syn); one that does stays a real case.
        prepared: Folder of cases that were brought to the grid before, and where the others are kept now; None holds
            them in memory.
        report: Receives one line at a time.

    Raises:
        InputError: As `load_listed` and `train_segmenter`; or without an epoch.
        StorageError: If another training of a segmenter writes into the run folder.
        ConfigError: Unknown device, or options that do not fit.
    """
    if epochs < 1:
        raise InputError(f"Expected at least one epoch, got {epochs}.")
    chosen = find_device(RuntimeConfig(device=device))
    build_segmenter(options)  # refused before anything is read
    grid, config = options.grid(), load_config("mini")
    kept = None if prepared is None else PreparedFolder(prepared)
    with process_group(chosen) as own_device, seeded(seed, own_device), alone_in(output / "segmenter", report):
        say = by_first(report)

        def load(case: ListedCase) -> SegmenterScan:
            healthy = case.healthy or (None if all_healthy else False)
            organ = options.organ_names[0]
            return load_listed(case.name, case.image, case.label, organ, healthy=healthy, config=grid, prepared=kept)

        if kept is not None:
            prepare_together([case for listed in cases.values() for case in listed], load)
        scans = {split: [load(case) for case in listed] for split, listed in cases.items()}
        if all_healthy:
            _tell_real(scans, say)
        listed = {split: list(map(_in_words, of_split, scans[split])) for split, of_split in cases.items()}
        precision = "bfloat16" if amp and own_device.type == "cuda" else "float32"
        length = epoch_length(len(scans["train"]), options.batch)
        plan = TrainingPlan(epochs * length, precision=precision, seed=seed, tensorboard=has_tensorboard())
        learned = split_digests(
            {split: arrays_sha256(scan.labels() for scan in loaded) for split, loaded in scans.items()},
            {split: [scan.scan.image for scan in loaded] for split, loaded in scans.items()},
        )
        job = Job({}, config, plan, output, own_device, say, options, listed=listed, listed_sha256=learned)
        train_segmenter(scans["train"], scans["validation"], options, plan, job)
        if rank() == 0:
            used = [
                Case(case.name, case.name, split, "CT", str(case.image))
                for split, of_split in cases.items()
                for case in of_split
            ]
            record_training(used, Path(), output / PART.model, earlier=job.made_from)


def _in_words(case: ListedCase, scan: SegmenterScan) -> str:
    """Say which scan a case is and what is learned from it: lists of one scan may name other label maps."""
    return f"{case.image_name} {case.label_name}{' healthy' if scan.healthy else ''}"


def _tell_real(scans: Mapping[str, Sequence[SegmenterScan]], say: Callable[[str], None]) -> None:
    """Say how many cases are real ones, although all were named healthy."""
    for split, loaded in scans.items():
        if real := sum(not scan.healthy for scan in loaded):
            say(f"{split}: {real} of {len(loaded)} cases have tumors in their label maps: real ones, not painted into")


def epoch_length(cases: int, batch: int) -> int:
    """Return the iterations of an epoch, which sees as many windows as there are cases, over all processes."""
    return max(1, math.ceil(cases / (batch * world_size())))


def has_tensorboard() -> bool:
    """Say whether curves can be written."""
    return find_spec("tensorboard") is not None


def _plan(plan: TrainingPlan, options: SegmenterOptions, cases: int) -> SegmenterPlan:
    """Lay epochs over a plan."""
    length = epoch_length(cases, options.batch)
    validate_every = min(options.validate_every, max(1, plan.iterations // length // LEAST_VALIDATIONS))
    return SegmenterPlan(
        iterations=plan.iterations, learning_rate=options.learning_rate, weight_decay=options.weight_decay,
        warmup=min(options.warmup_epochs * length, plan.iterations // 2), every=length,
        checkpoint_every=validate_every * length, save_every=SAVE_EVERY, precision=plan.precision, seed=plan.seed,
        tensorboard=plan.tensorboard, epoch_iterations=length, schedule=options.schedule, watch="tumor_dice",
    )  # fmt: skip


def _train(job: Job) -> None:
    scans = _shown(job)
    train_segmenter(scans["train"], scans["validation"], job.options, job.plan, job)


def _rehearse(job: Job) -> None:
    """Make what a training would be made of, so that a dry run refuses what it would refuse."""
    build_segmenter(job.options)  # what is wrong with the choices is said before what is wrong with the cases
    build_source(job.options, torch.device("cpu"))
    scans = _shown(job)
    recipe = _recipe(scans["train"], scans["validation"], job.options, job)
    weights, shown = sum(parameter.numel() for parameter in recipe.trainable.parameters()), len(scans["train"])
    job.report(f"segmenter: a network of {weights / 1e6:.1f} million weights, to be trained on {shown} cases")
    tell_left(job, "segmenter", {"segmenter": _plan(job.plan, job.options, shown)})


def _shown(job: Job) -> dict[str, list[SegmenterScan]]:
    """Return the cases by split that a protocol's scans show.

    Raises:
        InputError: If there is none to train on.
    """
    options: SegmenterOptions = job.options
    real = options.real_share != 0
    scans = {
        split: [
            scan
            for case in loaded
            for scan in (from_protocol(case, options.organ_names, real=True, prepared=job.prepared) if real else [])
            or from_protocol(case, options.organ_names, real=False, prepared=job.prepared)
        ]
        for split, loaded in job.scans.items()
    }
    if not scans["train"]:
        raise InputError(
            f"No training case of the protocol shows {' or '.join(options.organ_names) or 'an organ'}.",
            hint="name other organs: --set organs=liver,lung.",
        )
    return scans


def _grid(options: SegmenterOptions) -> CanonicalConfig:
    return options.grid(load_config("mini").canonical)


PART = Part(
    train=_train,
    rehearse=_rehearse,
    iterations=20000,
    options=SegmenterOptions(),
    grid=_grid,
    modalities=("CT", "MR"),
    model="segmenter/model",
)
"""What `diffugts train segmenter` trains."""
