"""Protocols: which scans, which patients are kept apart, which masks.

A protocol is one JSON file that names every case, its patient, its split and its masks; see
`Resources/Protocols/mini.json`. Paths in it are relative to a data folder that the user names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from DiffuGTSLib.errors import InputError, did_you_mean

SPLITS = ("train", "validation", "test", "excluded")
MODALITIES = ("CT", "MR", "labels")


@dataclass(frozen=True)
class Case:
    """One scan of a protocol.

    Attributes:
        name: Unique name.
        patient: Scans of one patient never fall into two splits.
        split: "train", "validation", "test" or "excluded".
        modality: "CT", "MR", or "labels" for an anatomy that is only ever painted with random contrasts.
        image: Path of the scan (or label map), relative to the data folder.
        organ: Organ of the tumor, or the organ that the whole scan shows.
        tumor: Path of the tumor mask, or "".
        labels: Path of an organ label map, or "".
        label_names: Organ name → its values in the label map.
        lung_by_air: Find the lungs of a CT as the air enclosed by the body.
        healthy_only_in: Where the scan shows tumors that nobody outlined, the organs that are known to be healthy.
        framed_on_tumor: The scan was cut around its tumor: it is cut or padded anew before it is scored, since a blob
            in the middle of the picture would score without looking.
        unmarked_near: Organ name → mm around it that may hold a tumor that nobody outlined.
    """

    name: str
    patient: str
    split: str
    modality: str
    image: str
    organ: str = ""
    tumor: str = ""
    labels: str = ""
    label_names: dict[str, list[int]] = field(default_factory=dict)
    lung_by_air: bool = False
    healthy_only_in: list[str] = field(default_factory=list)
    unmarked_near: dict[str, float] = field(default_factory=dict)
    framed_on_tumor: bool = False


def read_protocol(path: Path) -> list[Case]:
    """Read and check a protocol file.

    Raises:
        InputError: Not a protocol; an unknown key, split or modality; a key that is missing or of another type; an
            organ that no key defines; a name used twice; a patient in two splits (code "leakage").
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
        if not isinstance(rows, list):
            raise TypeError(f"expected a list of cases, got {type(rows).__name__}")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a protocol: {error}.", hint="see Resources/Protocols/mini.json for the form."
        ) from error
    cases = [_case(row) for row in rows]
    split_of: dict[str, str] = {}
    names: set[str] = set()
    for case in cases:
        if case.name in names:
            raise InputError(f"Two cases are named '{case.name}' in {path}.")
        names.add(case.name)
        if split_of.setdefault(case.patient, case.split) != case.split:
            raise InputError(
                f"Patient '{case.patient}' is in splits '{split_of[case.patient]}' and '{case.split}'.",
                hint="keep all scans of a patient in one split, or the figures are worthless.",
                code="leakage",
            )
    return cases


def _case(row: object) -> Case:
    if not isinstance(row, dict):
        raise InputError(f"Expected an object for each case, got {row!r}.")
    name, kinds = row.get("name"), get_type_hints(Case)
    for key, value in row.items():
        if key not in kinds:
            raise InputError(f"Unknown key '{key}' in case '{name}'.", hint=did_you_mean(key, kinds))
        if not _fits(value, kinds[key]):
            wanted = getattr(kinds[key], "__name__", "") if get_origin(kinds[key]) is None else str(kinds[key])
            raise InputError(f"Case '{name}': expected {key} to be {wanted}, got {value!r}.")
    missing = [key for key in ("name", "patient", "split", "modality", "image") if key not in row]
    if missing:
        raise InputError(f"Case '{name}' lacks {', '.join(missing)}.")
    case = Case(**row)
    for key, value, known in (("split", case.split, SPLITS), ("modality", case.modality, MODALITIES)):
        if value not in known:
            raise InputError(f"Case '{name}': unknown {key} '{value}'; expected one of {', '.join(known)}.")
    organs = {*case.label_names, case.organ, *(["lung"] if case.lung_by_air else [])}
    for organ in (*case.healthy_only_in, *case.unmarked_near):
        if organ not in organs:
            raise InputError(
                f"Case '{name}' speaks of the {organ}, but does not say where it is.",
                hint="name it in label_names, as the organ, or with lung_by_air.",
            )
    return case


def _fits(value: object, kind: Any) -> bool:
    """Say whether a JSON value is of a field's type; a whole number may stand for a float."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    return type(value) in ((int, float) if kind is float else (kind,))
