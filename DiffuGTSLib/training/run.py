"""Train the parts of a model, one after the other, into one model folder.

    autoencoder → denoiser (on its latents) and aova (on its features)

Every part resumes where it stopped. `RUN/model` is a model folder in the diffusers layout as soon as the first part
is done; `RUN/<part>/` holds the log and the checkpoint.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.backbones import FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import read_json, seeded
from DiffuGTSLib.components import find_device
from DiffuGTSLib.config import CanonicalConfig, Config, RuntimeConfig, load_config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.trained_cases import TRAINING_CASES, record_training
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError, did_you_mean
from DiffuGTSLib.storage import write_json
from DiffuGTSLib.training.autoencoder import AutoencoderRecipe, latent_scaling_factor, require_a_scan, start_linear
from DiffuGTSLib.training.cases import training_cases
from DiffuGTSLib.training.data import TrainingScan, load_case, load_cases, split_cases
from DiffuGTSLib.training.denoiser import (
    DenoiserOptions,
    DenoiserRecipe,
    cache_latents,
    is_healthy,
    require_healthy,
    started_denoiser,
)
from DiffuGTSLib.training.distributed import by_first, prepare_together, process_group, rank, world_size
from DiffuGTSLib.training.head_options import BY_MODE
from DiffuGTSLib.training.head_run import PART as HEAD
from DiffuGTSLib.training.head_run import RECORD as HEAD_RECORD
from DiffuGTSLib.training.job import Job, Part, Report, learned_with, networks_sha256
from DiffuGTSLib.training.job import overrides as differences
from DiffuGTSLib.training.lock import alone_in
from DiffuGTSLib.training.model_folder import (
    looks_through_denoiser,
    model_of,
    replaced,
    require_same_networks,
    write_index,
)
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.rehearsal import tell_left
from DiffuGTSLib.training.residual import PART as RESIDUAL
from DiffuGTSLib.training.segmenter_run import PART as SEGMENTER
from DiffuGTSLib.training.thresholds import PART as THRESHOLDS
from DiffuGTSLib.training.trainer import TrainingPlan
from DiffuGTSLib.training.tumor_painter import TUMOR_PAINTER, VQGAN

MINI_AUTOENCODER: dict[str, Any] = {
    "num_channels": (16, 32, 64), "num_res_blocks": (1, 1, 1), "norm_num_groups": 1, "norm_eps": 1.0,
}  # fmt: skip
MINI_UNET: dict[str, Any] = {
    "num_channels": (32, 64, 96), "attention_levels": (False, False, True), "num_head_channels": (0, 0, 32),
    "num_res_blocks": 1, "norm_num_groups": 16, "num_class_embeds": 16, "resblock_updown": False,
}  # fmt: skip
"""What makes `mini` small; everything else is the published network's default."""


def train_part(
    part: str,
    *,
    protocol_path: Path | str | None,
    data: Path | str,
    output: Path | str,
    preset: str | None = None,
    iterations: int | None = None,
    precision: str = "float32",
    seed: int = 0,
    device: str = "auto",
    options: Mapping[str, str] | None = None,
    tensorboard: bool = False,
    prepared: Path | str | None = None,
    dry_run: bool = False,
    report: Report = print,
) -> None:
    """Train one part, going on from its checkpoint when there is one.

    Args:
        part: A key of `PARTS`. The denoiser and the head need the autoencoder in `output/model`.
        protocol_path: Which scans, which split; see `DiffuGTSLib.datasets.protocol`. None looks at the data folder, see
            `DiffuGTSLib.training.cases`.
        data: Folder that the protocol's paths start from.
        output: Run folder.
        preset: Train on the networks, the grid and the windows of this preset; None on those of the run, as `mini`, and
            what follows the head as the head was trained.
        iterations: Optimizer steps; None takes the part's own number.
        precision: "float32" or "bfloat16"; see `TrainingPlan`.
        seed: Of weights and draws.
        device: "auto" (CUDA when there is one), "cpu", "cuda", "cuda:1".
        options: The part's own choices by name, see `Part.options`; with a dot, as in "text.encoder", the preset's.
        tensorboard: Write the log as TensorBoard's curves too.
        prepared: Folder of scans that were brought to their grid before, and where the others are kept now; None holds
            them in memory.
        dry_run: Read every scan, say what would be done and what is left of it, refuse what training would refuse, and
            stop; where another part is missing, stop before reading.
        report: Receives one line at a time.

    Raises:
        InputError: Unknown part, or a protocol without the splits or the tissue that are needed.
        ConfigError: Unknown device, precision, preset or option, or no iterations, or any for a part that learns nothing;
            a preset for a part that is always `mini`'s, or another one than the head's for what follows it.
        WeightsError: If the autoencoder is missing, or the run's is another than the preset's, or a checkpoint belongs
            to another network.
        StorageError: If the run folder cannot be written to, or another training of the part writes there.
    """
    protocol_path, data, output = None if protocol_path is None else Path(protocol_path), Path(data), Path(output)
    if part not in PARTS:
        raise InputError(f"Unknown part '{part}'.", hint=did_you_mean(part, PARTS))
    chosen = PARTS[part]
    if chosen.tunes and (iterations is not None or tensorboard):
        raise ConfigError(
            f"{part} learns nothing: it has no iterations and no curves.",
            hint="leave --iterations and --tensorboard away.",
        )
    wishes = dict(options or {})
    config, networks = _chosen_networks(part, chosen, preset, wishes, output)
    own = chosen.chosen({key: value for key, value in wishes.items() if "." not in key})
    wanted = find_device(RuntimeConfig(device=device))
    length = chosen.length(own) if iterations is None else iterations
    plan = TrainingPlan(length, precision=precision, seed=seed, tensorboard=tensorboard)
    missing = chosen.missing(output) if networks is None else ""
    if chosen.after is not None and missing and not dry_run:
        before = f"train it first: diffugts train {chosen.after[0]} --data {data} -o {output}."
        raise WeightsError(f"{part}: {missing}.", hint=before, code="weights_missing")
    canonical = config.canonical if chosen.grid is None else chosen.grid(own)
    with process_group(wanted) as own_device, seeded(seed, own_device):
        say = by_first(report)
        cases = training_cases(protocol_path, data, output, write=rank() == 0 and not dry_run, report=say)
        cases = [case for case in cases if case.modality in chosen.modalities]
        splits = {split: split_cases(cases, split) for split in ("train", "validation")}
        kept = None if prepared is None else PreparedFolder(Path(prepared))
        job = Job({}, config, plan, output, own_device, say, own, networks, prepared=kept)
        _tell(part, job, splits)
        if missing:
            say(f"{part}: {missing}: train that first")
            return
        with nullcontext() if dry_run else alone_in(output / part, say):
            job = replace(job, scans=_load(part, job, splits, data, canonical))
            if dry_run:
                chosen.rehearse(job)
            else:
                _train(chosen, job, data)


def _load(
    part: str, job: Job, splits: Mapping[str, Sequence[Case]], data: Path, canonical: CanonicalConfig
) -> dict[str, list[TrainingScan]]:
    """Read all scans, one after the other, and say what memory they take."""
    loaded: dict[str, list[TrainingScan]] = {split: [] for split in splits}
    taken = 0
    if job.prepared is not None:
        every = [case for cases in splits.values() for case in cases]
        prepare_together(every, lambda case: load_case(case, data, canonical, job.prepared))
    for split, cases in splits.items():
        for scan in load_cases(cases, data, canonical, job.report, job.prepared):
            taken += scan.nbytes
            loaded[split].append(scan)
    where = "of main memory" if job.prepared is None else f"in {job.prepared.folder}"
    job.report(f"{part}: the scans take {taken / 1e9:.2f} GB {where}")
    return loaded


def _train(part: Part, job: Job, data: Path) -> None:
    """Train, or choose; what is chosen bears the record of its cases itself, since the model may be a preset's."""
    used = [scan.case for each in job.scans.values() for scan in each]
    if part.tunes and rank() == 0:
        folder = job.output / "thresholds"
        (folder / TRAINING_CASES).unlink(missing_ok=True)  # of an earlier choice
        record_training(used, data, folder, learned=False)
    part.train(job)
    if rank() == 0:
        _record(part, job, data, used)


def _record(part: Part, job: Job, data: Path, used: Sequence[Case]) -> None:
    """Write beside a part's weights which cases they were made and tuned with."""
    model = job.output / part.model
    if not model.is_dir():
        return
    record_training(used, data, model, learned=not part.tunes, earlier=job.made_from)
    if part.model == "model":
        write_index(model)


def _chosen_networks(
    part: str, chosen: Part, preset: str | None, wishes: Mapping[str, str], output: Path
) -> tuple[Config, Path | None]:
    """Return the configuration, and the folder of the networks to train on; None takes the run's own."""
    overrides = [f"{key}={value}" for key, value in wishes.items() if "." in key]
    if not chosen.on_preset and (overrides or preset not in (None, "mini")):
        raise ConfigError(
            f"{part} is always trained as a part of mini: it has no preset and none of its keys.",
            hint=f"a preset may be named for {', '.join(name for name, known in PARTS.items() if known.on_preset)}.",
        )
    follows = chosen.after is not None and chosen.after[0] == "aova"
    record = output / "aova" / HEAD_RECORD
    if follows and record.is_file():
        config = _as_head(preset, overrides, record)
    else:
        config = load_config(preset or "mini", overrides=overrides)
    if not chosen.on_preset or (preset is None and not config.backbone.folder):
        return config, None
    networks = model_of(config.backbone)
    require_same_networks(networks, output / "model")
    return config, networks


def _as_head(preset: str | None, overrides: list[str], record: Path) -> Config:
    """Return the configuration of what looks at scans as the run's head does: with the head's preset, grid, windows and text.

    Raises:
        ConfigError: If another preset is named, or the same one with other keys that nobody asked for.
    """
    begun = read_json(record)
    name = begun.get("preset", "mini")
    known = load_config(name, overrides=[]).to_dict()
    kept = [
        f"{stage}.{key}={json.dumps(value)}"
        for stage, values in begun.get("config", {}).items()
        for key, value in values.items()
        if key in known.get(stage, {})
    ]
    own = load_config(name, overrides=[*kept, *overrides])
    if preset is None:
        return own
    asked = load_config(preset, overrides=overrides)
    if preset != name or learned_with(asked) != learned_with(own):
        words = " ".join([f"--preset {name}", *(f"--set {shlex.quote(word)}" for word in differences(own))])
        raise ConfigError(
            f"The head in {record.parent} was trained with {words}, not with {' '.join([f'--preset {preset}', *overrides])}.",
            hint="leave --preset away: what follows the head takes its preset and keys.",
        )
    return asked


_SAID = {"": "-", BY_MODE: "by mode"}
"""What is said of an option that leaves something to others."""


def _tell(part: str, job: Job, splits: Mapping[str, Sequence[Case]]) -> None:
    """Say on what, for how long and with which choices, before anything is read."""
    for split, cases in splits.items():
        job.report(f"{split}: {len(cases)} scans of {len({case.patient for case in cases})} patients")
    together = f", {world_size()} processes" if world_size() > 1 else ""
    plan = job.plan
    steps = PARTS[part].iterations != 1  # one that chooses and learns nothing has no length
    length = f"{plan.iterations} iterations, {plan.precision}, " if steps else ""
    job.report(f"{part}: {length}seed {plan.seed}, on {job.device}{together}")
    if job.options is not None:
        words = (f"{name} {_SAID.get(value, value)}" for name, value in asdict(job.options).items())
        job.report(f"{part}: {', '.join(words)}")
    differs = differences(job.config)
    if PARTS[part].on_preset and (differs or job.config.preset != "mini"):
        job.report(f"{part}: {', '.join([f'preset {job.config.preset}', *differs])}")
    if job.networks is not None:
        job.report(f"{part}: on the networks in {job.networks}")


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


def _train_autoencoder(job: Job) -> None:
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


def _rehearse_autoencoder(job: Job) -> None:
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
    require_healthy(*(sum(map(is_healthy, job.scans[split])) for split in ("train", "validation")))
    unet = started_denoiser(Path(options.start), job.base) if options.start else MaisiUNet(**MINI_UNET)
    plan = replace(job.plan, learning_rate=options.learning_rate, average=0.999, checkpoint_every=500)
    return unet, plan, networks_sha256([job.base / "autoencoder"])


def _train_denoiser(job: Job) -> None:
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


def _rehearse_denoiser(job: Job) -> None:
    job.load_autoencoder()
    _, plan, frozen = _ready_to_denoise(job)
    tell_left(job, "denoiser", {"denoiser": plan}, frozen)


PARTS: dict[str, Part] = {
    "autoencoder": Part(_train_autoencoder, _rehearse_autoencoder, 2250),
    "denoiser": Part(
        _train_denoiser, _rehearse_denoiser, 3000, DenoiserOptions(), after=("autoencoder", "model/autoencoder")
    ),
    "aova": HEAD,
    "residual": RESIDUAL,
    "thresholds": THRESHOLDS,
    "vqgan": VQGAN,
    "tumor-painter": TUMOR_PAINTER,
    "segmenter": SEGMENTER,
}
"""What can be trained, and for how many iterations where nothing is asked for."""
