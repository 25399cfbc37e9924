"""Train the anomaly head on frozen features: two phases, on smaller windows and then on larger ones.

`RUN/aova` holds the log and the checkpoint of each phase, and `head.json`, what was chosen; a run that was begun with
other choices does not go on with these.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace

import torch

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.interfaces import LatentAutoencoder
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.storage import make_folder, write_json
from DiffuGTSLib.text.encoder import build_encoder
from DiffuGTSLib.training.anomalies import AnomalySampler
from DiffuGTSLib.training.aova import HeadRecipe
from DiffuGTSLib.training.distributed import rank
from DiffuGTSLib.training.head_features import FrozenFeatures
from DiffuGTSLib.training.head_options import MODES, HeadOptions
from DiffuGTSLib.training.head_start import started
from DiffuGTSLib.training.head_windows import in_words, require_validation_windows, scans_by_split, validation_windows
from DiffuGTSLib.training.job import Job, Part, differing_overrides
from DiffuGTSLib.training.rehearsal import all_left, duration, peak_memory_gb
from DiffuGTSLib.training.resuming import networks_sha256, read_record
from DiffuGTSLib.training.trainer import TrainingPlan, rehearse
from DiffuGTSLib.training.window_workers import WindowWorkers

RECORD = "head.json"


@dataclass(frozen=True)
class Phase:
    """One part of the training.

    Attributes:
        name: Of its folder.
        side: Of its windows, in voxels.
        plan: How long, how fast.
    """

    name: str
    side: int
    plan: TrainingPlan


def phases(options: HeadOptions, plan: TrainingPlan, preset_voxels: int, multiple: int = 8) -> list[Phase]:
    """Return the phases: most iterations on windows that cost less than half, so that many tumors are seen sooner.

    Raises:
        ConfigError: If the windows are no multiple of what the networks halve, or leave one cell of them.
    """
    large, least = options.window_voxels or preset_voxels, 2 * multiple
    if large % multiple or large < least:
        raise ConfigError(
            f"The networks need windows whose sides are multiples of {multiple} voxels, {least} or more, got {large}.",
            hint=f"use --set window_voxels={max(2, large // multiple) * multiple}, or denoiser_timestep=0.",
        )
    small = max(least, large * 3 // 4 // multiple * multiple)
    first = plan.iterations * 3 // 4
    every = options.validate_every if options.validate_every % plan.every else plan.every
    plan = replace(
        plan, average=options.average, every=every, checkpoint_every=options.validate_every, watch=options.watch,
        patience=options.patience,
    )  # fmt: skip
    rate = options.learning_rate
    return [
        Phase("phase_1", small, replace(plan, iterations=max(1, first), learning_rate=rate)),
        Phase(
            "phase_2",
            large,
            replace(plan, iterations=plan.iterations - first, learning_rate=rate / 2, seed=plan.seed + 1),
        ),
    ]


class HeadTraining:
    """What both phases share: the frozen networks, the head, and the scans that the mode may use.

    Args:
        job: What is to be done.

    Raises:
        ConfigError: If the run was begun with other choices, `start` holds another kind of head, or the windows do not
            fit the networks.
        InputError: If the mode has no scans to use, or the denoiser whose features are used does not know one.
        WeightsError: If the frozen networks or the start cannot be read.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.options: HeadOptions = job.options
        self.scans, self._held_out = scans_by_split(self.options, job.scans)
        self._features = FrozenFeatures(job, self.options.denoiser_timestep)
        networks = ("autoencoder", "denoiser") if self.options.denoiser_timestep else ("autoencoder",)
        self.frozen = networks_sha256(job.base / name for name in networks)
        if self.options.denoiser_timestep:
            job.config.backbone.require_known(
                (scan.case.painted_as for each in self.scans.values() for scan in each),
                "leave these out of the protocol, choose another preset, or denoiser_timestep=0.",
            )
        window_voxels = job.config.backbone.window_voxels
        self.phases = phases(self.options, job.plan, window_voxels, max(8, *self._features.strides))
        self.text_encoder = build_encoder(job.config.text.encoder, job.config.text.folder)
        self._samplers = {
            phase.name: AnomalySampler(self.scans["train"], phase.side, self.options.mixture) for phase in self.phases
        }
        self.windows = {
            phase.name: validation_windows(self.scans["validation"], phase.side, self.options) for phase in self.phases
        }
        for windows in self.windows.values():
            require_validation_windows(self.options, windows)
        self.head = self._head().to(job.device, memory_format=torch.channels_last_3d)

    def _head(self) -> AovaHead:
        options, channels = self.options, self._features.channels
        if options.start:
            return started(options, channels, self.text_encoder.dim, self.job)
        windows = self._samplers[self.phases[0].name]
        scale = self._known("feature_scale") or options.feature_scale or self._features.scale(windows)
        head: AovaHead = AovaHead(
            channels, self.text_encoder.dim, adapter=options.adapter, alpha=options.alpha,
            context_widths=options.widths, fuse=options.fuse, feature_scale=scale,
            denoiser_timestep=options.denoiser_timestep,
            denoiser_scale=self._known("denoiser_scale") or self._features.denoiser_scale(windows, scale),
            elsewhere=options.three_answers,
        )  # fmt: skip
        return head

    def feature_encoder(self, spacing_mm: tuple[float, float, float], modality: str) -> LatentAutoencoder:
        """Return what the head looks at a window through."""
        return self._features.feature_encoder(self.head.tap, spacing_mm, modality)

    def _tap_in_words(self) -> str:
        tap = self.head.tap
        return "" if tap is None else f"; the denoiser's at timestep {tap.timestep:g}, times {tap.scale:g} before"

    def _known(self, scale: str) -> float:
        """Return what was measured when the run was begun, 0 where it was not, or on other networks."""
        path = self.job.output / "aova" / RECORD
        record = read_record(path) if path.is_file() else {}
        return float(record.get(scale, 0.0)) if record.get("frozen", self.frozen) == self.frozen else 0.0

    @contextmanager
    def recipe(self, phase: Phase, workers: int) -> Iterator[HeadRecipe]:
        """Lend a phase's recipe, and end its processes."""
        sampler = self._samplers[phase.name]
        with WindowWorkers(sampler, 1, workers) if workers else nullcontext() as ahead:
            yield HeadRecipe(
                self.head, self.feature_encoder, self.text_encoder, sampler, self.windows[phase.name],
                weights=self.options.weights, similarity_by_label=self.options.similarity_form == "label", ahead=ahead,
                cache_bytes=int(self.options.cache_gb * 1e9),
            )  # fmt: skip

    def tell(self) -> None:
        """Say what is learned from what."""
        options, train = self.options, self.scans["train"]
        left_out = sum(len(loaded) for loaded in self.job.scans.values()) - sum(map(len, self.scans.values()))
        more = f"; {left_out} scans with an outlined tumor are left out" if left_out else ""
        with_tumor = sum(bool(scan.tumor.any()) for scan in train)
        lines = [
            f"mode {options.mode}: {MODES[options.mode]}{more}",
            f"windows: {in_words(options.mixture, with_tumor, organs=any(scan.organs for scan in train))}",
            f"organs: {', '.join(self._samplers[self.phases[0].name].organs)}",
            "losses: " + ", ".join(f"{name} {weight:g}" for name, weight in asdict(options.weights).items())
            + f"; similarity {options.similarity_form}",
            f"head: {self.head.config['adapter']} adapter, fused by {self.head.config['fuse']}, features times "
            f"{self.head.config['feature_scale']:g}{self._tap_in_words()}"
            + (f", from {options.start}" if options.start else ""),
        ]  # fmt: skip
        windows = self.windows[self.phases[-1].name]
        kept = f"the best {options.watch} is kept" if options.watch else "the last weights are kept"
        if self._held_out:
            lines.append(
                "validation: none of its scans is without a tumor; held out of training for it: "
                + ", ".join(self._held_out)
            )
        lines.append(f"validation: {len(windows)} windows, {sum(w.abnormal for w in windows)} abnormal; {kept}")
        for line in lines:
            self.job.report(f"aova: {line}")


def train_head(job: Job) -> None:
    """Train the head into the run's model folder, beside the frozen networks that it belongs to."""
    job.require_as_begun("aova", RECORD)  # before anything is encoded
    training = HeadTraining(job)
    _write_record(job, training)
    training.tell()
    before = ""
    for phase in training.phases:
        with training.recipe(phase, training.options.workers) as recipe:
            outcome = job.run(recipe, phase.plan, f"aova/{phase.name}", before, training.frozen)
        before = f"the weights after {outcome.best_iteration} iterations of {phase.name}"
    job.save("aova", training.head)
    folder = job.output / "model"
    config = replace(job.config, backbone=replace(job.config.backbone, folder=str(folder)))
    settings = differing_overrides(config)
    if job.base != folder or len(settings) > 1:
        words = " ".join(f"--set {shlex.quote(setting)}" for setting in settings)
        job.report(f"aova: diffugts segment SCAN -o RESULT --organ ORGAN --preset {config.preset} {words}")
    if not (folder / "denoiser").is_dir():
        job.report(f"aova: {folder} cannot segment yet: it has no denoiser; train it: diffugts train denoiser")


def rehearse_head(job: Job) -> None:
    """Say what training would learn from, how long it takes and what memory it needs, measured on two iterations.

    Raises:
        ConfigError: As `train_head`, where it would not go on with what is there.
    """
    job.require_as_begun("aova", RECORD)
    training = HeadTraining(job)
    training.tell()
    left = all_left(job, {f"aova/{phase.name}": phase.plan for phase in training.phases}, training.frozen)
    if not any(left.values()):
        job.report("aova: nothing is left to do")
        return
    total, features = 0.0, 0
    for phase in training.phases:
        with training.recipe(phase, 0) as recipe:
            seconds = min(rehearse(recipe, phase.plan))
        still = left[f"aova/{phase.name}"]
        total += seconds * still
        done = phase.plan.iterations - still
        job.report(
            f"aova: {phase.name}: {phase.plan.iterations} iterations on windows of {phase.side}³, "
            + (f"{done} of them done, " if done else "")
            + f"{seconds:.2f} s each (the faster of 2), {duration(seconds * still)}"
        )
        first = training.windows[phase.name][0]
        feature_encoder = training.feature_encoder(first.spacing_mm, first.modality)
        levels = zip(feature_encoder.feature_channels, feature_encoder.feature_strides, strict=True)
        window = sum(4 * count * (phase.side // stride) ** 3 for count, stride in levels)
        features = max(features, len(training.windows[phase.name]) * window)
    kept_gb = min(features / 1e9, training.options.cache_gb)
    peak = peak_memory_gb(job.device)
    known = "not known on this system" if peak is None else f"{peak:.1f} GB so far on {job.device}"
    job.report(f"aova: {duration(total)} in all, validations not counted")
    job.report(f"aova: memory: {known}, and {kept_gb:.1f} GB of main memory for the validation's features")


def _write_record(job: Job, training: HeadTraining) -> None:
    if rank() > 0:
        return
    scales = {name: training.head.config[name] for name in ("feature_scale", "denoiser_scale")}
    record = {**job.begun(job.plan.seed), "frozen": training.frozen, **scales}
    folder = job.output / "aova"
    make_folder(folder)
    write_json(folder / RECORD, record, ensure_ascii=False)


PART = Part(
    train=train_head,
    rehearse=rehearse_head,
    iterations=20000,
    options=HeadOptions(),
    requires=("autoencoder", "model/autoencoder"),
    any_preset=True,
)
"""What `diffugts train aova` trains. The bundled head had fewer windows and wants more, see its model card."""
