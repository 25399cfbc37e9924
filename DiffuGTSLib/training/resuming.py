"""What a resumed run must have in common with its beginning: options, configuration, scans, networks.

`Job.run` writes the record beside the checkpoint, as `begun.json`, and compares it when the run is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from DiffuGTSLib.backbones.weights import WEIGHTS_FILE
from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import row_of
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.storage import read_json, sha256
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.trainer import TrainingPlan, read_state

BEGUN = "begun.json"
"""Beside a checkpoint: what its training was begun with."""
LEARNED_SECTIONS = ("canonical", "backbone", "text")
"""What of the configuration decides what is learned. Not where networks lie: their weights are known, see `Job.run`."""
MAY_CHANGE = ("workers", "patience", "validate_every", "cache_gb", "windows", "validation_windows")
"""Options that a run may go on with in another value: they change how it is run, or begin anew what they change (`Job.run`)."""


_SPLITS = {"train": "cases", "validation": "validation"}
"""Splits, and what a record calls them."""
_MUST_MATCH = {
    "preset": "another preset", "cases": "another set of training scans",
    "validation": "another set of validation scans", "seed": "another seed",
    "precision": "another precision", "processes": "another number of processes",
}  # fmt: skip
"""Keys of a record that must be the same when a run is resumed, and the words of the refusal where they differ."""
_DATA_MUST_MATCH = {
    "cases_sha256": "other organs or outlines in its training scans",
    "validation_sha256": "other organs or outlines in its validation scans",
    "cases_images_sha256": "other voxels in its training scans",
    "validation_images_sha256": "other voxels in its validation scans",
}
"""The same for the data. Compared last: on another grid all of these differ, and the grid is the better word."""


def read_record(path: Path) -> dict[str, Any]:
    """Read what a run was begun with.

    Args:
        path: Of the record, as `begun.json` beside a checkpoint.

    Raises:
        ConfigError: If it is missing, no JSON object, or not of a record's form.
    """
    hint = f"remove {path.parent} to begin it anew, or choose another --output."
    record = read_json(path, ConfigError, hint=hint)
    options, config, frozen = (record.get(key, {}) for key in ("options", "config", "frozen"))
    stages = config.values() if isinstance(config, Mapping) else ()
    if not all(isinstance(part, Mapping) for part in (options, config, frozen, *stages)):
        raise ConfigError(f"{path} is no record of a training: options, config and frozen must be objects.", hint=hint)
    return record


def require_as_begun(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another choice than a run was begun with: its figures would belong to neither.

    Args:
        folder: Of the run, for the words.
        begun: As `Job.begun` said it then.
        now: As it says it now.

    Raises:
        ConfigError: If an option, the preset or a key of it, the scans, their outlines or voxels, the seed, the precision or the
            number of processes is another one, or there was no such choice then, or is none now.
    """
    try:
        _require_same_choices(folder, begun, now, "choose another --output, or go on with the same choices.")
    except KeyError as error:
        raise ConfigError(
            f"{folder} was begun by another version of DiffuGTS, which had other choices: {error.args[0]}.",
            hint="choose another --output.",
        ) from error


def _require_same_choices(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any], hint: str) -> None:
    for name in begun["options"] | now["options"]:
        known, value = begun["options"][name], now["options"][name]
        if known != value and name not in MAY_CHANGE:
            raise ConfigError(f"{folder} was begun with {name}={known}, not {name}={value}.", hint=hint)
    _require_same(_MUST_MATCH, folder, begun, now, hint)
    for stage, values in now["config"].items():
        for key, value in values.items():
            known = begun["config"][stage][key]
            if known != value:
                raise ConfigError(
                    f"{folder} was begun with {stage}.{key}={known}, not {stage}.{key}={value}.", hint=hint
                )
    _require_same(_DATA_MUST_MATCH, folder, begun, now, hint)


def _require_same(
    same: Mapping[str, str], folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any], hint: str
) -> None:
    for name, words in same.items():
        if name in now and begun[name] != now[name]:
            raise ConfigError(f"{folder} was begun with {words}.", hint=hint)


def learned_settings(config: Config) -> dict[str, Any]:
    """Return what of a configuration decides what is learned: see `LEARNED_SECTIONS`."""
    plain = config.to_dict()
    return {stage: {key: value for key, value in plain[stage].items() if key != "folder"} for stage in LEARNED_SECTIONS}


def networks_sha256(folders: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the weights of some networks, by the names of their folders."""
    return {folder.name: sha256(folder / WEIGHTS_FILE) for folder in folders}


_IGNORED_CASE_KEYS = ("name", "patient", "split", "image", "tumor", "labels", "organ_files", "contrast")
"""Of a case what changes nothing of what is learned from it: names, and paths of files whose masks are looked at."""


def labels_sha256(scans: Iterable[TrainingScan]) -> str:
    """Return what stands for all that is said and outlined of some scans: another digest where a label was mended."""
    digest = hashlib.sha256()
    for scan in scans:
        said = {key: value for key, value in row_of(scan.case).items() if key not in _IGNORED_CASE_KEYS}
        digest.update(json.dumps(said, sort_keys=True).encode())
        for name, mask in (("tumor", scan.tumor), ("healthy", scan.healthy), *sorted(scan.organs.items())):
            digest.update(f"{name} {mask.shape}".encode())
            digest.update(np.packbits(mask).data)
    return digest.hexdigest()


def arrays_sha256(arrays: Iterable[NDArray[Any]]) -> str:
    """Return what stands for the voxels of some images or label maps, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def split_digests(labels: Mapping[str, str], images: Mapping[str, Iterable[NDArray[Any]]]) -> dict[str, str]:
    """Return what a record says of the scans of each split: what stands for their outlines, and for their voxels."""
    said = {f"{_SPLITS[split]}_sha256": digest for split, digest in labels.items()}
    return said | {f"{_SPLITS[split]}_images_sha256": arrays_sha256(arrays) for split, arrays in images.items()}


def read_checkpoint(path: Path, plan: TrainingPlan) -> dict[str, Any]:
    """Return a checkpoint that a plan may go on with.

    Raises:
        ConfigError: If it has had more iterations than the plan's.
        WeightsError: If it is damaged.
    """
    state = read_state(path, torch.device("cpu"))
    if state["iteration"] > plan.iterations:
        raise ConfigError(
            f"{path.parent} has had {state['iteration']} iterations already; it would now have {plan.iterations}.",
            hint="ask for as many --iterations as before or more, or choose another --output.",
        )
    return state


def restart_reason(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say why what is kept has grown from something else than it would now; empty where it has not, or does not tell."""
    if begun.get("grown_from", now["grown_from"]) != now["grown_from"]:
        return f"it had grown from {begun['grown_from']}"
    earlier = begun.get("frozen", {})
    others = [name for name, digest in now["frozen"].items() if earlier.get(name, digest) != digest]
    return f"it had been trained on another {' and another '.join(others)}" if others else ""
