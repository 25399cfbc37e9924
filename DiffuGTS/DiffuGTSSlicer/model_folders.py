"""Model folders on this computer: size, license, and verification of the files against their checksums.

Works without torch. The worker verifies the same checksums whenever it loads a model.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator
from pathlib import Path

from slicer.i18n import tr as _

from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.model_store.store import model_folder
from DiffuGTSLib.storage import read_json

INDEX_FILE, CHECKSUMS_FILE, CARD_FILE = "model_index.json", "checksums.json", "README.md"
WEIGHTS_PATTERN = "*.safetensors"
CHUNK_BYTES = 8 << 20
_PERMISSIVE = re.compile(r"apache|\bmit\b|\bbsd\b|cc0|cc[ -]by[ -]\d", re.IGNORECASE)
_RESTRICTIVE = re.compile(r"\bn[cd]\b|non-?\s?commercial|no-?\s?derivative", re.IGNORECASE)
"""Takes precedence: a folder may name one license for its weights and another for its code."""
_LICENSE = re.compile(
    r"Apache License,? (?:Version )?2\.0|Apache-2\.0|MIT License|BSD[- ][23][- ]Clause|CC[ -]BY(?:-[A-Z]{2})*[ -]\d\.\d"
    r"|NVIDIA[\w -]*? License"
)


def modelFolder(config: Config) -> Path | None:
    """Return the model folder of a configuration, None if it does not exist."""
    folder = model_folder(config.backbone)
    return folder if isFolder(folder) else None


def isFolder(folder: Path | None) -> bool:
    """Return whether a folder exists; one on a drive that cannot be read does not."""
    return folder is not None and os.path.isdir(folder)  # noqa: PTH112 - Path.is_dir raises that error


def requireModel(folder: Path) -> None:
    """Refuse a folder without a model.

    Raises:
        WeightsError: With the code "weights_missing".
    """
    if not (folder / INDEX_FILE).is_file():
        raise WeightsError(
            _("{folder} holds no model: it has no {file}.").format(folder=folder, file=INDEX_FILE),
            hint=_("choose the folder that holds autoencoder, denoiser and aova."),
            code="weights_missing",
        )


def sizeBytes(folder: Path) -> int:
    """Return the size of a model on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if os.path.isfile(path))  # noqa: PTH113 - as above


def sizeText(size: int) -> str:
    """Return a size as text, in MB or GB."""
    if size < 1e9:
        return _("{size} MB").format(size=f"{size / 1e6:.0f}" if size >= 1e7 else f"{size / 1e6:.1f}")
    return _("{size} GB").format(size=f"{size / 1e9:.1f}")


def licenseOf(folder: Path) -> str:
    """Return the license that a model folder states for its weights, "" if it states none.

    Searched in this order: `license:` at the head of its model card, the first line of a LICENSE file, and a line of the
    card that names both the weights and a known license.
    """
    lines = _lines(folder / CARD_FILE)
    for line in lines[:30]:
        if line.lower().startswith("license:"):
            return line.split(":", 1)[1].strip()
    for path in sorted(folder.glob("LICENSE*")):
        words = [line.strip() for line in _lines(path) if line.strip()]
        if words:
            return words[0]
    for line in lines:
        found = _LICENSE.search(line)
        if found and "weights" in line.lower():
            return found.group(0)
    return ""


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file, none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def isPermissive(license_: str) -> bool:
    """Return whether a license is known and permissive."""
    return _PERMISSIVE.search(license_) is not None and _RESTRICTIVE.search(license_) is None


def verification(folder: Path) -> Generator[float, None, list[str]]:
    """Compare listed files and all weight files with checksums.json, in pieces, to keep the GUI responsive.

    Yields:
        Progress, 0 to 1.

    Returns:
        Problems, one sentence each; empty if all files match.
    """
    try:
        expected = read_json(folder / CHECKSUMS_FILE)
    except InputError:
        return [_("{file} is missing or cannot be read: the files cannot be verified.").format(file=CHECKSUMS_FILE)]
    there = {name: folder / name for name in expected if (folder / name).is_file()}
    there |= {path.relative_to(folder).as_posix(): path for path in folder.rglob(WEIGHTS_PATTERN)}
    faults = [_("{file} is missing.").format(file=name) for name in sorted(expected.keys() - there.keys())]
    faults += [_("{file} is not listed.").format(file=name) for name in sorted(there.keys() - expected.keys())]
    names = sorted(expected.keys() & there.keys())
    total = sum(there[name].stat().st_size for name in names) or 1
    done = 0
    for name in names:
        digest = hashlib.sha256()
        with there[name].open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                digest.update(piece)
                done += len(piece)
                yield done / total
        if digest.hexdigest() != expected[name]:
            faults.append(_("{file} does not match checksums.json: it is incomplete or was altered.").format(file=name))
    return faults
