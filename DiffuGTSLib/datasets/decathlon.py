"""`dataset.json`, as the Medical Segmentation Decathlon has it: what was scanned, what the labels mean, which files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import read_json

SPLIT_NAMES = {"train": "train", "training": "train", "val": "validation", "validation": "validation"}
"""What the lists call a split → what we call it."""


@dataclass(frozen=True)
class Decathlon:
    """What a `dataset.json` says.

    Attributes:
        name: Of the data set, or "".
        modalities: Of each channel, as the file writes them: "CT", "MRI", "FLAIR".
        labels: Value of the label map → its name.
        pairs: Split → (scan, label map), as the file writes their paths.
    """

    name: str
    modalities: tuple[str, ...]
    labels: dict[int, str]
    pairs: dict[str, list[tuple[str, str]]]


def read_dataset_json(path: Path) -> Decathlon:
    """Read a Decathlon JSON: {"training": [{"image": …, "label": …}], "labels": {"1": "liver"}, …}.

    Raises:
        InputError: As `read_pairs`; also if modalities or labels are not numbered.
    """
    content = read_object(path, "training")
    modalities, labels = (_numbered(content.get(key, {}), path, key) for key in ("modality", "labels"))
    channels = tuple(modalities[number] for number in sorted(modalities))
    return Decathlon(str(content.get("name", "")), channels, labels, read_pairs(path))


def read_pairs(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the scans and label maps of a Decathlon JSON by split, as the file writes their paths.

    Entries without a label map, as the Decathlon's own "test" has, are left out.

    Raises:
        InputError: If the file is not of that form or names no case to train on.
    """
    content = read_object(path, "training")
    pairs: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    for word, split in SPLIT_NAMES.items():
        entries = content.get(word, [])
        if not isinstance(entries, list):
            raise InputError(f"{path}, '{word}': expected a list of images and labels, got {entries!r:.80}.")
        for entry in entries:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
                raise InputError(f"{path}, '{word}': expected an object with image and label, got {entry!r}.")
            if isinstance(entry.get("label"), str):
                pairs[split].append((entry["image"], entry["label"]))
    if not pairs["train"]:
        raise InputError(f"{path} names no case with a label map under 'training'.")
    return pairs


def read_object(path: Path, key: str) -> Mapping[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputError: If it cannot be read, or holds something else than an object with this key among others.
    """
    hint = f"it is a list as dataset.json of the Medical Segmentation Decathlon, with the key '{key}'."
    return read_json(path, hint=hint)


def _numbered(content: object, path: Path, key: str) -> dict[int, str]:
    """Return {"0": "CT"} with numbers for keys."""
    if isinstance(content, Mapping) and all(str(number).isdigit() for number in content):
        return {int(number): str(name) for number, name in content.items()}
    raise InputError(f'{path}, \'{key}\': expected {{"0": "a name", …}}, got {content!r}.')
