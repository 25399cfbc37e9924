"""The model folder that training fills: whose frozen networks it holds, and its index."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import PUBLISHED
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import (
    CHECKSUMS_FILE,
    WEIGHTS_FILE,
    read_model_json,
    verify_checksums,
    write_checksums,
)
from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.datasets.trained_cases import TRAINING_CASES
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.model_store.store import SOURCE_FILE, require_stored
from DiffuGTSLib.residual import ResidualProjection
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import copy_contents, make_folder, new_folder, sha256, whole_file, write_json

INDEX_FILE = "model_index.json"
FROZEN = ("autoencoder", "denoiser", "scheduler")
"""Folders of what a head does not change."""

_CLASSES: dict[str, tuple[str, type[nn.Module]]] = {
    "autoencoder": ("DiffuGTSLib.backbones.maisi", MaisiAutoencoder),
    "denoiser": ("DiffuGTSLib.backbones.maisi", MaisiUNet),
    "aova": ("DiffuGTSLib.aova", AovaHead),
    "residual": ("DiffuGTSLib.residual", ResidualProjection),
}
_PREDICTIONS = {"FlowMatchEulerDiscreteScheduler": "flow", "DDIMScheduler": "epsilon"}


def model_of(backbone: BackboneConfig) -> Path:
    """Return the folder of the frozen networks that a configuration names, every file checked.

    Raises:
        ConfigError: For networks without weights, which there is nothing to learn on.
        WeightsError: If they are not here, or altered; the hint is what fetches them.
    """
    if backbone.folder:
        folder = Path(backbone.folder)
    elif backbone.name in PUBLISHED:
        folder = require_stored(backbone.name).folder
    elif backbone.name == "tiny":
        raise ConfigError(
            "The networks of preset 'tiny' are untrained; a head cannot learn on them.", hint="use --preset mini."
        )
    else:
        folder = resource_path("Models", backbone.name)
    verify_checksums(folder)
    return folder


def require_same_networks(base: Path, model: Path) -> None:
    """Refuse a run whose model folder holds other networks than the head is to be trained on.

    Raises:
        WeightsError: In that case.
    """
    for name in other_networks(base, model):
        raise WeightsError(
            f"{model} holds another {name} than {base}: a head is bound to the one it was trained on.",
            hint="choose another --output, or omit --preset to train on the run's own.",
        )


def other_networks(first: Path, second: Path) -> list[str]:
    """Return the networks whose weights differ between two model folders, by their checksums; both must have them."""
    if not all((folder / CHECKSUMS_FILE).is_file() for folder in (first, second)):
        return []
    sums = [read_model_json(folder / CHECKSUMS_FILE) for folder in (first, second)]
    files = {name: f"{name}/{WEIGHTS_FILE}" for name in ("autoencoder", "denoiser")}
    return [name for name, file in files.items() if len({each[file] for each in sums if file in each}) > 1]


def looks_through_denoiser(model: Path) -> bool:
    """Say whether the head in a model folder is bound to the denoiser there, too."""
    config = model / "aova" / "config.json"
    return config.is_file() and float(read_model_json(config).get("denoiser_timestep", 0.0)) > 0


def adopt(base: Path, model: Path) -> None:
    """Copy the frozen networks of a model into a run's folder, with what must go with them; a head of its own stays.

    Published networks come with their license and origin; a bundled model's card speaks of another head and stays.

    Raises:
        StorageError: If it cannot be written.
    """
    if base == model or (model / "autoencoder").is_dir():
        return
    make_folder(model)
    files = [TRAINING_CASES, INDEX_FILE]
    if (base / SOURCE_FILE).is_file():
        files += [path.name for path in base.iterdir() if path.is_file() and path.name != CHECKSUMS_FILE]
    for name in dict.fromkeys(files):
        if (base / name).is_file():
            with whole_file(model / name) as temporary:
                shutil.copyfile(base / name, temporary)
    for name in reversed(FROZEN):  # the autoencoder last: where it is, all of it is
        if (base / name).is_dir():
            _copy_folder(base / name, model / name)


def replaced(network: Path, save: Callable[[], None]) -> bool:
    """Save a network, and say whether another one lay there before: what was made for that one fits no more.

    Of several processes the first one calls it: the others would look for what it has not written yet.

    Args:
        network: Its folder.
        save: Saves it there.
    """
    path = network / WEIGHTS_FILE
    before = sha256(path) if path.is_file() else ""
    save()
    return before not in ("", sha256(path))


def write_index(model: Path) -> None:
    """Write the index of what is there, and the checksums; what the index names beside our parts stays in it.

    What the denoiser predicts follows from its noise schedule; before there is one, it is `mini`'s flow.
    """
    scheduler = model / "scheduler" / "scheduler_config.json"
    kind = (
        str(read_model_json(scheduler).get("_class_name")) if scheduler.is_file() else "FlowMatchEulerDiscreteScheduler"
    )
    known = read_model_json(model / INDEX_FILE) if (model / INDEX_FILE).is_file() else {}
    kept = {name: entry for name, entry in known.items() if not isinstance(entry, list) or (model / name).is_dir()}
    prediction = _PREDICTIONS.get(kind, str(known.get("prediction", "flow")))
    index: dict[str, Any] = {**kept, "_class_name": "DiffuGTSPipeline", "prediction": prediction}
    for name, (module, part) in _CLASSES.items():
        if (model / name).is_dir():
            index[name] = [module, part.__name__]
    write_json(model / INDEX_FILE, index)
    write_checksums(model)


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder so that it appears whole."""
    for left in target.parent.glob(f".{target.name}-*"):  # of a run that was killed; checksums would list it
        shutil.rmtree(left, ignore_errors=True)
    with new_folder(target) as staging:
        copy_contents(source, staging)
        shutil.rmtree(target, ignore_errors=True)
