"""Protocols: which scans, which patients are kept apart, which masks.

A protocol is one JSON file that names every case, its patient, its split and its masks; see
`Resources/Protocols/mini.json`. Paths in it are relative to a data folder that the user names; of masks that come with
DiffuGTS, "resource:Outlines/…".
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from DiffuGTSLib.errors import InputError, PromptError, did_you_mean
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import is_finite, read_json, write_json
from DiffuGTSLib.text.prompts import find_organ
from DiffuGTSLib.volumes import Volume, read_volume
from DiffuGTSLib.volumes.hounsfield import in_hounsfield

SPLITS = ("train", "validation", "test", "excluded")
MODALITIES = ("CT", "MR", "labels")
ORGAN_DEPTH_MM = {"brain": 18.0, "breast": 4.0, "prostate": 40.0, "soft tissue": 6.0}
"""How far below the skin the organ begins that a scan shows as a whole, when nobody outlined it."""


@dataclass(frozen=True)
class Case:
    """One scan of a protocol.

    Attributes:
        name: Unique name.
        patient: Scans of one patient never fall into two splits.
        split: "train", "validation", "test" or "excluded".
        modality: "CT", "MR", or "labels" for an anatomy that is only ever painted: with random contrasts as an MR, or,
            with `label_hu`, as a CT.
        image: Path of the scan (or label map), relative to the data folder.
        organ: Organ of the tumor, or the organ that the whole scan shows.
        tumor: Path of the tumor mask, or "". It may be the label map itself, see `tumor_values`.
        tumor_values: Values of `tumor` that are tumor; empty takes every value above 0.
        labels: Path of an organ label map, or "".
        label_names: Organ name → its values in the label map, those of its tumors among them.
        label_hu: HU → the values of the label map that have it, for an anatomy that is painted as a CT: "28", or
            "-100 to 60" for a tissue of both. Every value is named once.
        organ_files: Organ name → paths of masks that make it up, where every part has a file of its own; "resource:Outlines/…"
            for one that comes with DiffuGTS.
        other_lesion_values: Values of the label map that are neither healthy nor tumor, as a cyst.
        unknown_labels: Label → its values in the label map, of which nothing is known: neither healthy nor tumor as well.
        lung_by_air: Find the lungs of a CT as the air enclosed by the body.
        healthy_only_in: Where the scan shows tumors that nobody outlined, the organs that are known to be healthy.
        framed_on_tumor: The scan was cut around its tumor: it is cut or padded anew before it is scored, since a blob
            in the middle of the picture would score without looking.
        unmarked_near: Organ name → mm around it that may hold a tumor that nobody outlined.
        contrast: What an MR scan is weighted by, or a CT's phase, in the data set's words, or "".
        offset_hu: Added to a CT whose file does not hold HU, as where old scanners left the intercept away (-1024).
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
    tumor_values: list[int] = field(default_factory=list)
    organ_files: dict[str, list[str]] = field(default_factory=dict)
    other_lesion_values: list[int] = field(default_factory=list)
    contrast: str = ""
    offset_hu: float = 0.0
    label_hu: dict[str, list[int]] = field(default_factory=dict)
    unknown_labels: dict[str, list[int]] = field(default_factory=dict)

    @property
    def painted_as(self) -> str:
        """What a window of it looks like: "CT" or "MR"."""
        return "CT" if self.modality == "CT" or self.label_hu else "MR"

    @property
    def organ_fills_scan(self) -> bool:
        """Whether its organ, not outlined, may be taken for all that the scan shows: of a liver nobody says where it is."""
        return self.organ in {*ORGAN_DEPTH_MM, *self.unmarked_near, *self.healthy_only_in}

    @property
    def suspect_values(self) -> list[int]:
        """Values of the label map that are neither healthy nor tumor: other lesions, and what nothing is known of."""
        unknown = (value for values in self.unknown_labels.values() for value in values)
        return sorted({*self.other_lesion_values, *unknown})

    @property
    def tissue_hu(self) -> dict[int, tuple[float, float]]:
        """Value of the label map → least and highest HU of its tissue."""
        return {value: _hu_range(hu) for hu, values in self.label_hu.items() for value in values}

    @property
    def files(self) -> list[str]:
        """Every file of the case as it is named, each once; see `named_file`."""
        parts = [path for paths in self.organ_files.values() for path in paths]
        return list(dict.fromkeys(path for path in (self.image, self.tumor, self.labels, *parts) if path))


def read_protocol(path: Path) -> list[Case]:
    """Read and check a protocol file.

    Raises:
        InputError: Not a protocol; an unknown key, split or modality; a key that is missing or of another type; an
            organ that no key defines; a map of organs that would be tumor as a whole; a name used twice; a patient, or a scan of two patients, in two splits (code "leakage").
    """
    cases = read_cases(path)
    for patient, splits in shared_patients(cases).items():
        words = " and ".join(f"'{split}'" for split in splits)
        raise InputError(
            f"Patient '{patient}' is in splits {words}.",
            hint="keep all scans of a patient in one split, or the figures are worthless.",
            code="leakage",
        )
    for image, (one, other) in _shared_images(cases).items():
        raise InputError(
            f"{image} is in split '{one.split}' as patient '{one.patient}' and in '{other.split}' as '{other.patient}'.",
            hint="one scan is of one patient; keep all scans of a patient in one split, or the figures are worthless.",
            code="leakage",
        )
    return cases


def read_cases(path: Path) -> list[Case]:
    """Read the cases of a protocol file, which may still have a patient in two splits.

    Raises:
        InputError: As `read_protocol`, but for that.
    """
    hint = "see Resources/Protocols/mini.json for the form."
    rows = read_json(path, hint=hint).get("cases")
    if not isinstance(rows, list):
        raise InputError(f"{path} is not a protocol: 'cases' must be a list, got {rows!r:.80}.", hint=hint)
    cases = [_case(row) for row in rows]
    for name in repeated(case.name for case in cases):
        raise InputError(f"Two cases are named '{name}' in {path}.")
    return cases


def read_scan(case: Case, data: Path) -> Volume:
    """Read a case's scan in native units: HU where it is a CT.

    Args:
        case: Names the file.
        data: Folder that its path starts from.

    Raises:
        InputError: As `read_volume`; or as `in_hounsfield`, where the case adds an offset.
    """
    scan = read_volume(data / case.image)
    return in_hounsfield(scan, case.offset_hu) if case.offset_hu else scan


RESOURCE = "resource:"
"""Begins the path of a mask that comes with DiffuGTS, in whatever folder the protocol lies."""


def named_file(data: Path, named: str) -> Path:
    """Return where a file that a case names is: in the data folder, or among DiffuGTS's own resources.

    Raises:
        InputError: If there is no such resource.
    """
    if named.startswith(RESOURCE):
        return resource_path(*named.removeprefix(RESOURCE).split("/"))
    return data / named


def write_protocol(path: Path, cases: Sequence[Case], description: str, **header: Any) -> None:
    """Write a protocol file; of each case what differs from the defaults.

    Args:
        path: Where to.
        cases: In the order to keep.
        description: One sentence for people.
        header: More to tell beside the cases, as JSON: where they come from, what is held out.

    Raises:
        StorageError: If it cannot be written.
    """
    content = {"format": 1, "description": description, **header, "cases": [row_of(case) for case in cases]}
    write_json(path, content, ensure_ascii=False)


def with_known_organs(case: Case) -> Case:
    """Return a case whose organs bear the built-in names: "Liver" and "hepatic" are one organ with "liver".

    Where a map names an organ in two spellings, both count: its values and files are joined, the farther distance holds.
    What nothing is known of keeps its name.
    """
    values: dict[str, list[int]] = {}
    for organ, given in case.label_names.items():
        values[_known(organ)] = list(dict.fromkeys([*values.get(_known(organ), []), *given]))
    files: dict[str, list[str]] = {}
    for organ, paths in case.organ_files.items():
        files[_known(organ)] = list(dict.fromkeys([*files.get(_known(organ), []), *paths]))
    near: dict[str, float] = {}
    for organ, mm in case.unmarked_near.items():
        near[_known(organ)] = max(mm, near.get(_known(organ), mm))
    healthy = list(dict.fromkeys(map(_known, case.healthy_only_in)))
    return replace(
        case,
        organ=_known(case.organ),
        label_names=values,
        organ_files=files,
        unmarked_near=near,
        healthy_only_in=healthy,
    )


@functools.cache
def _known(organ: str) -> str:
    try:
        return find_organ(organ)
    except PromptError:
        return organ


def shared_patients(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Return the patients who are in more than one split: patient → these splits. Excluded scans are in none."""
    splits: dict[str, list[str]] = {}
    for case in (case for case in cases if case.split != "excluded"):
        known = splits.setdefault(case.patient, [])
        if case.split not in known:
            known.append(case.split)
    return {patient: known for patient, known in splits.items() if len(known) > 1}


def _shared_images(cases: Sequence[Case]) -> dict[str, tuple[Case, Case]]:
    """Return the scans that are in more than one split: path → a case of each of two. Excluded scans are in none."""
    first: dict[str, Case] = {}
    shared = {}
    for case in (case for case in cases if case.split != "excluded"):
        other = first.setdefault(posixpath.normpath(case.image.replace("\\", "/")), case)
        if other.split != case.split:
            shared[case.image] = (other, case)
    return shared


def spelling_key(patient: str) -> str:
    """Return what two spellings of a patient's name have in common: "LiTS_007" and "lits-7" are "lits7"."""
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[^a-z0-9]", "", patient.lower()))


def repeated(names: Iterable[str]) -> Iterator[str]:
    """Yield each name that comes again, when it does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


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
    case = with_known_organs(Case(**row))
    for key, value, known in (("split", case.split, SPLITS), ("modality", case.modality, MODALITIES)):
        if value not in known:
            raise InputError(f"Case '{name}': unknown {key} '{value}'; expected one of {', '.join(known)}.")
    _require_sense(case)
    _require_densities(case)
    return case


def _require_sense(case: Case) -> None:
    """Refuse an organ, or another lesion, that a case speaks of without saying where it is; and an offset of no CT."""
    organs = {*case.label_names, *case.organ_files, case.organ, *(["lung"] if case.lung_by_air else [])}
    for organ in (*case.healthy_only_in, *case.unmarked_near):
        if organ not in organs:
            raise InputError(
                f"Case '{case.name}' speaks of the {organ}, but does not say where it is.",
                hint="name it in label_names or organ_files, as the organ, or with lung_by_air.",
            )
    for organ, mm in case.unmarked_near.items():
        if mm < 0:
            raise InputError(
                f"Case '{case.name}': expected at least 0 mm around the {organ} in unmarked_near, got {mm:g}."
            )
    if case.offset_hu and case.modality != "CT":
        raise InputError(
            f"Case '{case.name}': offset_hu is for CT, the modality is '{case.modality}'.", hint="omit it."
        )
    if case.suspect_values and not case.labels:
        key = "other_lesion_values" if case.other_lesion_values else "unknown_labels"
        raise InputError(f"Case '{case.name}' names {key}, but no label map.", hint="name it as 'labels'.")
    if case.tumor and case.tumor == case.labels and not case.tumor_values:
        raise InputError(
            f"Case '{case.name}': {case.tumor} holds organs and tumor, and all of it would count as tumor.",
            hint="name which values are tumor, as tumor_values; of a scan without a tumor omit 'tumor'.",
        )


def _require_densities(case: Case) -> None:
    """Refuse densities that are none, or that a value of the label map has two of."""
    if case.label_hu and case.modality != "labels":
        raise InputError(
            f"Case '{case.name}': label_hu is for label maps that are painted, the modality is '{case.modality}'.",
            hint="omit it, or say modality 'labels'.",
        )
    for hu in case.label_hu:
        _hu_range(hu)
    twice = sorted(set(repeated(str(value) for values in case.label_hu.values() for value in values)))
    if twice:
        raise InputError(
            f"Case '{case.name}': label_hu names {', '.join(twice)} more than once.",
            hint="give each value one density.",
        )


def _hu_range(words: str) -> tuple[float, float]:
    """Read "28" or "-100 to 60"."""
    try:
        ends = [float(word) for word in words.split(" to ")]
        low, high = ends * 2 if len(ends) == 1 else ends
        if not -1100 <= low <= high <= 4000:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"label_hu: '{words}' is no density.", hint='write HU from -1100 to 4000 as "28" or "-100 to 60".'
        ) from error
    return low, high


def row_of(case: Case) -> dict[str, Any]:
    """Return a case as JSON, without what is as by default."""
    row = {}
    for known in fields(Case):
        default = known.default_factory() if known.default_factory is not MISSING else known.default
        value = getattr(case, known.name)
        if value != default:
            row[known.name] = value
    return row


def _fits(value: object, kind: Any) -> bool:
    """Say whether a JSON value is of a field's type; a whole number may stand for a float, NaN and infinity may not."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    return is_finite(value) if kind is float else type(value) is kind
