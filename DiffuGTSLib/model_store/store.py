"""Where published models lie on this computer: one folder a preset, whole or not at all.

    MODELS/maisi-ct/                 a model folder, see `backbones.weights`, and source.json
    MODELS/.downloads/owner/name/    files on their way
    MODELS/.maisi-ct-…               a model that is being written or removed: never looked at

MODELS is the folder that DIFFUGTS_MODELS names, or `models` in the user's own data folder.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.config import BackboneConfig
from DiffuGTSLib.errors import InputError, StorageError, WeightsError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import new_folder, read_json

MODELS_VARIABLE = "DIFFUGTS_MODELS"
SOURCE_FILE = "source.json"
_INDEX_FILE = "model_index.json"
_HEAD_WEIGHTS = "aova/diffusion_pytorch_model.safetensors"  # `backbones.weights` names it, with torch
_DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class StoredModel:
    """One model folder of the store.

    Attributes:
        name: Of the preset that it fills.
        folder: Where it lies.
        size_bytes: Of all its files.
        source: What `source.json` says: files, revisions, checksums, license, scale factor.
    """

    name: str
    folder: Path
    size_bytes: int
    source: dict[str, Any]

    @property
    def has_head(self) -> bool:
        """Whether an anomaly head was put beside the published networks."""
        return (self.folder / _HEAD_WEIGHTS).is_file()


def models_folder() -> Path:
    """Return the folder of the store; it need not exist.

    Raises:
        StorageError: If the user has no home folder, as in some containers, and no variable names another one.
    """
    chosen = os.environ.get(MODELS_VARIABLE, "")
    if chosen:
        return _with_home(chosen).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _with_home("~") / "AppData" / "Local") / "DiffuGTS" / "models"
    if sys.platform == "darwin":
        return _with_home("~") / "Library" / "Application Support" / "DiffuGTS" / "models"
    return Path(os.environ.get("XDG_DATA_HOME") or _with_home("~") / ".local" / "share") / "diffugts" / "models"


def find_stored(name: str) -> StoredModel | None:
    """Return the model of a preset, None where it is not in the store."""
    try:
        folder = stored_folder(name)
    except StorageError:  # no home, no store: what is bundled needs none
        return None
    if folder is None or not (folder / _INDEX_FILE).is_file():
        return None
    return StoredModel(name, folder, size_bytes(folder), _source(folder))


def model_folder(backbone: BackboneConfig) -> Path | None:
    """Return the folder that a configuration names: its own, there or not, else the store's or the bundled one.

    None where no model of that name is on this computer.
    """
    if backbone.folder:
        return Path(backbone.folder)
    stored = find_stored(backbone.name)
    bundled = resource_path("Models") / backbone.name
    return stored.folder if stored is not None else bundled if bundled.is_dir() else None


def stored_folder(name: str) -> Path | None:
    """Return the folder that lies under a model's name in the store, whether or not it holds a model."""
    folder = models_folder() / name
    within = not name.startswith(".") and Path(name).name == name != ""
    return folder if within and folder.is_dir() else None


def stored_models() -> list[StoredModel]:
    """Return every model of the store by name."""
    root = models_folder()
    if not root.is_dir():
        return []
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    return [model for name in names if (model := find_stored(name)) is not None]


def require_stored(name: str) -> StoredModel:
    """Return the model of a preset.

    Raises:
        WeightsError: If it is not in the store (code "weights_missing"); the hint is the command that fetches it.
    """
    model = find_stored(name)
    if model is None:
        raise WeightsError(
            f"The weights of '{name}' are not here: {models_folder() / name} holds no model.",
            hint=fetch_hint(name),
            code="weights_missing",
        )
    return model


def fetch_hint(name: str) -> str:
    """Return how a published model comes here, with and without a network."""
    return (
        f"diffugts weights fetch {name}; or, without network, diffugts weights import FOLDER --model {name}. "
        "A model folder of your own: --set backbone.folder=DIR."
    )


def downloads_folder(repository: str) -> Path:
    """Return where a repository's files lie on their way."""
    return all_downloads_folder() / Path(*repository.split("/"))


def all_downloads_folder() -> Path:
    """Return where everything lies that is on its way; it need not exist."""
    return models_folder() / _DOWNLOADS


def size_bytes(folder: Path) -> int:
    """Return how much room the files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size_text(count: int | float) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def require_room(needed_bytes: int) -> None:
    """Refuse, before anything is written, what the store's disk has no room for.

    Raises:
        StorageError: With what is needed and what is free.
    """
    root = models_folder()
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed_bytes > free:
        raise StorageError(
            f"{root} has no room: {size_text(needed_bytes)} are needed, {size_text(free)} are free.",
            hint=f"make room, or name a folder on another disk with {MODELS_VARIABLE}.",
        )


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """Lend an empty folder and give it the model's name at the end; on any failure nothing is left.

    Raises:
        InputError: If the store has that model already (code "exists").
        StorageError: If it cannot be written.
    """
    require_free(name)
    with new_folder(models_folder() / name, f"choose another folder by {MODELS_VARIABLE}") as staging:
        yield staging
        require_free(name)


def remove_stored(name: str) -> StoredModel:
    """Remove a model and return what it was: its name goes first, so that half a model is never found.

    A folder of that name that holds no whole model is removed, too, and what killed processes left.

    Raises:
        WeightsError: If it is not in the store.
        StorageError: If it cannot be removed. Where only its name is gone, `remove_leftovers` does the rest.
    """
    folder = stored_folder(name)
    if folder is None:
        return require_stored(name)  # which says so
    model = StoredModel(name, folder, size_bytes(folder), _source(folder))
    try:
        model.folder.rename(model.folder.with_name(f".{name}-{uuid.uuid4().hex}"))
    except OSError as error:
        raise _not_writable(model.folder, error) from error
    remove_leftovers(name)
    return model


def remove_leftovers(name: str) -> int:
    """Remove what processes left that were killed while they wrote or removed a model; return how many bytes that was.

    A model that another process is writing looks the same: call it within `fetch.alone`.

    Raises:
        StorageError: If something cannot be removed; it can be tried again.
    """
    freed = 0
    for left in models_folder().glob(".*"):
        if re.fullmatch(rf"\.{re.escape(name)}-[0-9a-f]{{32}}", left.name):
            freed += size_bytes(left)
            try:
                shutil.rmtree(left)
            except OSError as error:
                raise _not_writable(left, error) from error
    return freed


def require_free(name: str) -> None:
    """Refuse a name that something lies under in the store already.

    Raises:
        InputError: In that case (code "exists").
    """
    folder = models_folder() / name
    if folder.exists():
        raise InputError(
            f"{folder} is there already.",
            hint=f"remove it first: diffugts weights remove {folder.name}.",
            code="exists",
        )


def _with_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise StorageError(
            "The user of this process has no home folder, in which fetched models would lie.",
            hint=f"name a folder for them with {MODELS_VARIABLE}.",
        ) from None


def _source(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / SOURCE_FILE)
    except InputError:
        return {}


def _not_writable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder} cannot be changed: {(error.strerror or str(error)).rstrip('.')}.",
        hint=f"check the rights and the disk, or name another folder with {MODELS_VARIABLE}.",
    )
