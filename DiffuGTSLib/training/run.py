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

from DiffuGTSLib.backbones.weights import seeded
from DiffuGTSLib.config import CanonicalConfig, Config, RuntimeConfig, load_config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.trained_cases import TRAINING_CASES, record_training
from DiffuGTSLib.device import find_device
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError, did_you_mean
from DiffuGTSLib.training.autoencoder_run import PART as AUTOENCODER
from DiffuGTSLib.training.cases import training_cases
from DiffuGTSLib.training.data import TrainingScan, load_case, load_cases, split_cases
from DiffuGTSLib.training.denoiser_run import PART as DENOISER
from DiffuGTSLib.training.distributed import by_first, prepare_together, process_group, rank, world_size
from DiffuGTSLib.training.head_options import BY_MODE
from DiffuGTSLib.training.head_run import PART as HEAD
from DiffuGTSLib.training.head_run import RECORD as HEAD_RECORD
from DiffuGTSLib.training.job import Job, Part, Report, differing_overrides
from DiffuGTSLib.training.lock import alone_in
from DiffuGTSLib.training.model_folder import model_of, require_same_networks, write_index
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.training.residual import PART as RESIDUAL
from DiffuGTSLib.training.resuming import learned_settings, read_record
from DiffuGTSLib.training.segmenter_run import PART as SEGMENTER
from DiffuGTSLib.training.thresholds import PART as THRESHOLDS
from DiffuGTSLib.training.trainer import TrainingPlan
from DiffuGTSLib.training.tumor_painter import TUMOR_PAINTER, VQGAN


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
    if not chosen.learns_weights and (iterations is not None or tensorboard):
        raise ConfigError(
            f"{part} learns nothing: it has no iterations and no curves.",
            hint="omit --iterations and --tensorboard.",
        )
    settings = dict(options or {})
    config, networks = _chosen_networks(part, chosen, preset, settings, output)
    own = chosen.parse_options({key: value for key, value in settings.items() if "." not in key})
    wanted = find_device(RuntimeConfig(device=device))
    length = chosen.iterations_for(own) if iterations is None else iterations
    plan = TrainingPlan(length, precision=precision, seed=seed, tensorboard=tensorboard)
    missing = chosen.missing(output) if networks is None else ""
    if chosen.requires is not None and missing and not dry_run:
        before = f"train it first: diffugts train {chosen.requires[0]} --data {data} -o {output}."
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
    if not part.learns_weights and rank() == 0:
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
    record_training(used, data, model, learned=part.learns_weights, earlier=job.made_from)
    if part.model == "model":
        write_index(model)


def _chosen_networks(
    part: str, chosen: Part, preset: str | None, settings: Mapping[str, str], output: Path
) -> tuple[Config, Path | None]:
    """Return the configuration, and the folder of the networks to train on; None takes the run's own."""
    overrides = [f"{key}={value}" for key, value in settings.items() if "." in key]
    if not chosen.any_preset and (overrides or preset not in (None, "mini")):
        raise ConfigError(
            f"{part} is always trained as a part of mini: it has no preset and none of its keys.",
            hint=f"a preset may be named for {', '.join(name for name, known in PARTS.items() if known.any_preset)}.",
        )
    follows = chosen.requires is not None and chosen.requires[0] == "aova"
    record = output / "aova" / HEAD_RECORD
    if follows and record.is_file():
        config = _config_of_head(preset, overrides, record)
    else:
        config = load_config(preset or "mini", overrides=overrides)
    if not chosen.any_preset or (preset is None and not config.backbone.folder):
        return config, None
    networks = model_of(config.backbone)
    require_same_networks(networks, output / "model")
    return config, networks


def _config_of_head(preset: str | None, overrides: list[str], record: Path) -> Config:
    """Return the configuration that the run's head was trained with: its preset, grid, windows and text.

    Raises:
        ConfigError: If another preset is named, or the same one with other keys that nobody asked for.
    """
    begun = read_record(record)
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
    if preset != name or learned_settings(asked) != learned_settings(own):
        words = " ".join([f"--preset {name}", *(f"--set {shlex.quote(word)}" for word in differing_overrides(own))])
        raise ConfigError(
            f"The head in {record.parent} was trained with {words}, not with {' '.join([f'--preset {preset}', *overrides])}.",
            hint="omit --preset: what follows the head takes its preset and keys.",
        )
    return asked


_SHOWN_AS = {"": "-", BY_MODE: "by mode"}
"""What is shown of an option that leaves the choice to others."""


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
        words = (f"{name} {_SHOWN_AS.get(value, value)}" for name, value in asdict(job.options).items())
        job.report(f"{part}: {', '.join(words)}")
    differs = differing_overrides(job.config)
    if PARTS[part].any_preset and (differs or job.config.preset != "mini"):
        job.report(f"{part}: {', '.join([f'preset {job.config.preset}', *differs])}")
    if job.networks is not None:
        job.report(f"{part}: on the networks in {job.networks}")


PARTS: dict[str, Part] = {
    "autoencoder": AUTOENCODER,
    "denoiser": DENOISER,
    "aova": HEAD,
    "residual": RESIDUAL,
    "thresholds": THRESHOLDS,
    "vqgan": VQGAN,
    "tumor-painter": TUMOR_PAINTER,
    "segmenter": SEGMENTER,
}
"""What can be trained, and for how many iterations where nothing is asked for."""
