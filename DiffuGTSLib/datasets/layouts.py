"""Folders in the layouts of the field, read as the cases of a protocol: nothing is copied, renamed or opened.

Decathlon (`msd`), KiTS23 (`kits`), BraTS (`brats`), nnU-Net's raw data (`nnunet`), TotalSegmentator's
(`totalsegmentator`), and a table (`csv`). A layout that states its splits keeps them; other cases have split "" until
`DiffuGTSLib.datasets.splits.assign_splits` draws them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from DiffuGTSLib.datasets.decathlon import read_dataset_json, read_object
from DiffuGTSLib.datasets.label_names import Meaning, meaning_of, organ_in
from DiffuGTSLib.datasets.protocol import Case, repeated, with_known_organs
from DiffuGTSLib.datasets.tables import IMAGE_SUFFIX, cases_of_table, rows_of
from DiffuGTSLib.errors import InputError, did_you_mean

UNDECIDED = ""
"""The split of a case whose layout states none."""

KITS_LABELS = (("kidney", [1]), ("tumor", [2]), ("cyst", [3]))
BRATS_CONTRASTS = {
    "t1": "T1", "t1n": "T1", "t1ce": "T1c", "t1c": "T1c", "t1gd": "T1c", "t2": "T2", "t2w": "T2", "flair": "FLAIR",
    "t2f": "FLAIR",
}  # fmt: skip
"""Endings of file names, of BraTS 2017 to 2021 and since 2023."""
BRATS_TUMOR_VALUES = (1, 2, 3, 4)
"""The whole tumor: necrosis, edema, enhancing tumor, which is 4 until 2021 and 3 since; in children 4 is the edema."""
BRATS_GLIOMA = re.compile(r"^BraTS-GLI-", re.IGNORECASE)
"""Names of adult gliomas since 2023. Enhancing tumor is 3 there, and 4, in those treated before (2024), the cavity."""
BRATS_CAVITY = 4
_MR_WORDS = re.compile(r"\bmri?\b|\bt[12]|flair|adc|dwi|gadolin", re.IGNORECASE)
_NO_ORGAN = re.compile(r"cyst|vein|artery|costal")


@dataclass(frozen=True)
class LayoutOptions:
    """What the user says where a layout says nothing, or something else.

    Attributes:
        organ: Where the tumors are.
        modality: "CT" or "MR".
        tumor_values: Values of the label maps that are tumor.
        patient_pattern: A regular expression whose first group, found in a case's name, is its patient.
    """

    organ: str = ""
    modality: str = ""
    tumor_values: Sequence[int] = ()
    patient_pattern: str = ""


def read_layout(
    folder: Path, layout: str, options: LayoutOptions | None = None, root: Path | None = None
) -> list[Case]:
    """Return the cases of a folder, sorted by name.

    Args:
        folder: In the layout; of `csv` the table.
        layout: A key of `LAYOUTS`.
        options: What the layout does not say.
        root: The folder that the protocol's paths start from, at or above `folder`; None takes `folder`, or the
            table's own.

    Raises:
        InputError: Unknown layout; no case in it (code "layout"); a file that its `dataset.json` or table names is
            missing (code "missing"); two cases of one name (code "names"); no word on modality or organ; `folder` is not
            below `root`; a pattern without a group, or that does not fit a name (code "patient").
    """
    if layout not in LAYOUTS:
        raise InputError(f"Unknown layout '{layout}'.", hint=did_you_mean(layout, LAYOUTS))
    options = options or LayoutOptions()
    start = folder if folder.is_dir() else folder.parent
    cases = LAYOUTS[layout].read(folder, options)
    if not cases:
        raise InputError(
            f"{folder} holds no case in the layout '{layout}'.", hint=f"expected {LAYOUTS[layout].form}.", code="layout"
        )
    _require_files(cases, start, folder)
    for name in repeated(case.name for case in cases):
        raise InputError(
            f"Two cases of {folder} are named '{name}'.",
            hint="give each a name of its own: a table of cases, layout csv, has the column 'name' for it.",
            code="names",
        )
    cases = [replace(case, patient=_patient(case, options.patient_pattern)) for case in cases]
    before = _below(start, root or start)
    return sorted((_moved(case, before) for case in cases), key=lambda case: case.name)


def read_msd(folder: Path, options: LayoutOptions) -> list[Case]:
    """Read a task of the Decathlon: `dataset.json`, `imagesTr`, `labelsTr`."""
    found = read_dataset_json(folder / "dataset.json")
    if len(found.modalities) > 1:
        raise InputError(
            f"{folder} holds scans of {len(found.modalities)} channels ({', '.join(found.modalities)}) in one file.",
            hint="save each channel as a 3D scan of its own, in nnU-Net's layout, and read it as that.",
            code="channels",
        )
    labels = [(name, [value]) for value, name in found.labels.items()]
    meaning = meaning_of(labels, f"{found.name} {folder.name}", options.organ, options.tumor_values)
    modality = _modality(found.modalities[0] if found.modalities else "", options, folder)
    return [
        _case(stem(image), _tidy(image), _tidy(label), modality, meaning, _stated(split, found.pairs))
        for split, pairs in found.pairs.items()
        for image, label in pairs
    ]


def read_kits(folder: Path, options: LayoutOptions) -> list[Case]:
    """Read KiTS23: `case_00000/imaging.nii.gz` and `segmentation.nii.gz`, with kidney 1, tumor 2, cyst 3."""
    meaning = meaning_of(KITS_LABELS, "KiTS", options.organ, options.tumor_values)
    scans = _found(folder, "case_*/imaging.nii*")
    return [
        _case(scan.parent.name, _below(scan, folder), _below(label, folder), options.modality or "CT", meaning)
        for scan in scans
        if (label := _first(scan.parent, "segmentation")) is not None
    ]


def read_brats(folder: Path, options: LayoutOptions) -> list[Case]:
    """Read BraTS: a folder for each visit, with a file for each contrast and the labels in `…seg.nii.gz`.

    Since 2023 the last number of a name counts the visits of a patient, who is one patient in all of them.
    """
    cases = []
    # `**` enters no folder that is a link, but the single stars do
    for label in _found(folder, "**/*seg.nii*", "*/*seg.nii*", "*/*/*seg.nii*"):
        visit = label.parent.name
        patient = re.sub(r"^(BraTS-\w+-\d+)-\d+$", r"\1", visit)
        for scan in _found(label.parent, "*.nii*"):
            contrast = BRATS_CONTRASTS.get(re.split(r"[-_]", stem(scan.name))[-1].lower())
            if contrast is not None:
                meaning = Meaning(options.organ or "brain", *_brats_values(visit, options))
                case = _case(f"{visit}_{contrast}", _below(scan, folder), _below(label, folder), "MR", meaning)
                cases.append(with_known_organs(replace(case, patient=patient, contrast=contrast)))
    return cases


def _brats_values(visit: str, options: LayoutOptions) -> tuple[list[int], dict[str, list[int]], list[int]]:
    """Return the values that are tumor, no organ, and the cavity that a surgeon has left, which is neither."""
    cavity = {BRATS_CAVITY} if BRATS_GLIOMA.search(visit) else set()
    tumor = list(options.tumor_values) or [value for value in BRATS_TUMOR_VALUES if value not in cavity]
    return tumor, {}, sorted(cavity - set(tumor))


def read_nnunet(folder: Path, options: LayoutOptions) -> list[Case]:
    """Read nnU-Net's raw data: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`, and a test set."""
    content = read_object(folder / "dataset.json", "channel_names")
    channels = _object(content, "channel_names" if "channel_names" in content else "modality", folder)
    meaning = meaning_of(
        _named_labels(content, folder), f"{content.get('name', '')} {folder.name}", options.organ, options.tumor_values
    )
    cases = []
    for images, truth, split in (("imagesTr", "labelsTr", UNDECIDED), ("imagesTs", "labelsTs", "test")):
        for label in [path for path in _found(folder / truth, "*") if IMAGE_SUFFIX.search(path.name)]:
            name = stem(label.name)
            for scan in _found(folder / images, f"{escape(name)}_[0-9][0-9][0-9][0-9].*"):
                channel = str(channels.get(str(int(stem(scan.name)[-4:])), ""))
                modality = _modality(channel, options, folder)
                named = name if len(channels) == 1 else f"{name}_{channel}"
                case = _case(named, _below(scan, folder), _below(label, folder), modality, meaning, split)
                cases.append(replace(case, patient=name, contrast=channel if len(channels) > 1 else ""))
    return cases


def read_totalsegmentator(folder: Path, options: LayoutOptions) -> list[Case]:
    """Read TotalSegmentator's data: `s0000/ct.nii.gz` (or `mri`), `s0000/segmentations/ORGAN.nii.gz`, `meta.csv`.

    No tumor is outlined in it. Where `meta.csv` tells the pathology, scans with any are excluded; its splits are kept.
    """
    meta = {row.get("image_id", ""): row for row in rows_of(folder / "meta.csv")} if _first(folder, "meta") else {}
    cases = []
    for scan in [*_found(folder, "*/ct.nii*"), *_found(folder, "*/mri.nii*")]:
        organs: dict[str, list[str]] = {}
        for mask in _found(scan.parent / "segmentations", "*.nii*"):
            organ = "" if _NO_ORGAN.search(mask.name) else organ_in(stem(mask.name))
            if organ:
                organs.setdefault(organ, []).append(_below(mask, folder))
        name, about = scan.parent.name, meta.get(scan.parent.name, {})
        healthy = about.get("pathology", "no_pathology") == "no_pathology"
        split = {"train": "train", "val": "validation", "test": "test"}.get(about.get("split", ""), UNDECIDED)
        modality = options.modality or ("CT" if scan.name.startswith("ct") else "MR")
        split = split if healthy else "excluded"
        cases.append(Case(name, name, split, modality, _below(scan, folder), organ_files=organs))
    return cases


def read_csv(path: Path, options: LayoutOptions) -> list[Case]:
    """Read a table of cases, see `DiffuGTSLib.datasets.tables`; a folder stands for the one table in it."""
    tables = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if len(tables) != 1:
        raise InputError(f"Expected one table in {path}, got {len(tables)}.", hint="name the file.", code="layout")
    return cases_of_table(tables[0], options.organ, options.modality, options.tumor_values)


@dataclass(frozen=True)
class Layout:
    """One layout: how it is read, and what it looks like in words."""

    read: Callable[[Path, LayoutOptions], list[Case]]
    form: str


LAYOUTS = {
    "msd": Layout(read_msd, "dataset.json, imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz"),
    "kits": Layout(read_kits, "case_00000/imaging.nii.gz and case_00000/segmentation.nii.gz"),
    "brats": Layout(read_brats, "NAME/NAME_t1ce.nii.gz (or NAME-t1c.nii.gz) beside NAME/NAME_seg.nii.gz"),
    "nnunet": Layout(read_nnunet, "dataset.json, imagesTr/NAME_0000.nii.gz and labelsTr/NAME.nii.gz"),
    "totalsegmentator": Layout(read_totalsegmentator, "s0000/ct.nii.gz and s0000/segmentations/liver.nii.gz"),
    "csv": Layout(read_csv, "a table with the columns image, label, patient, split, organ, modality"),
}


def stem(name: str) -> str:
    """Return a file's name without its folder and suffix, which of .nii.gz is both."""
    return IMAGE_SUFFIX.sub("", Path(name).name)


def _case(name: str, image: str, label: str, modality: str, meaning: Meaning, split: str = UNDECIDED) -> Case:
    tumor = label if meaning.tumor_values else ""
    labels = label if meaning.label_names or meaning.other_lesion_values or meaning.unknown_labels else ""
    lung = modality == "CT" and meaning.organ == "lung" and "lung" not in meaning.label_names
    return Case(
        name, name, split, modality, image, meaning.organ if tumor else "", tumor, labels, meaning.label_names,
        lung_by_air=lung, tumor_values=meaning.tumor_values, other_lesion_values=meaning.other_lesion_values,
        unknown_labels=meaning.unknown_labels,
    )  # fmt: skip


def _stated(split: str, pairs: Mapping[str, Sequence[object]]) -> str:
    """Return a Decathlon's split where it states a validation set of its own; most state none."""
    return split if pairs["validation"] else UNDECIDED


def _modality(said: str, options: LayoutOptions, folder: Path) -> str:
    if options.modality:
        return options.modality
    if re.search(r"\bct", said, re.IGNORECASE):
        return "CT"
    if _MR_WORDS.search(said):
        return "MR"
    raise InputError(
        f"{folder} does not say whether '{said}' is CT or MR.", hint="say it: --modality CT.", code="modality"
    )


def _patient(case: Case, pattern: str) -> str:
    if not pattern:
        return case.patient
    try:
        found = re.search(pattern, case.name)
    except re.error as error:
        raise InputError(f"The pattern '{pattern}' is no regular expression: {error}.", code="patient") from error
    if found is None or not found.groups() or not found.group(1):
        raise InputError(
            f"The pattern '{pattern}' finds no patient in '{case.name}'.",
            hint="its first group is the patient, as in '(.+)_visit'.",
            code="patient",
        )
    return str(found.group(1))


def _require_files(cases: Sequence[Case], start: Path, folder: Path) -> None:
    missing = [file for case in cases for file in case.files if not (start / file).exists()]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{folder} names {missing[0]}, which is not there{more}.",
            hint="check that the archive was unpacked as a whole.",
            code="missing",
        )


def _moved(case: Case, before: str) -> Case:
    """Return a case whose paths start from a folder above."""

    def moved(path: str) -> str:
        return (Path(before) / path).as_posix() if path else ""

    organs = {name: [moved(path) for path in paths] for name, paths in case.organ_files.items()}
    return replace(
        case, image=moved(case.image), tumor=moved(case.tumor), labels=moved(case.labels), organ_files=organs
    )


def _below(path: Path, root: Path) -> str:
    """Return a path as it starts from a folder, through links as they are named: what they lead to may lie elsewhere."""
    as_named = tuple(Path(os.path.abspath(each)) for each in (path, root))  # noqa: PTH100 - `resolve` follows links
    for named, start in (as_named, (path.resolve(), root.resolve())):
        if named.is_relative_to(start):
            return named.relative_to(start).as_posix()
    raise InputError(f"{path} is not below {root}.", hint="name a folder that holds both as --root.")


def _tidy(path: str) -> str:
    """Return "./imagesTr/a.nii.gz" without its dot."""
    return Path(path).as_posix()


def _found(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of some patterns, sorted, without the hidden `._NAME` that archives made on a Mac hold."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if not path.name.startswith("."))


def _first(folder: Path, start: str) -> Path | None:
    return next(iter(_found(folder, f"{start}.*")), None)


def _object(content: Mapping[str, Any], key: str, folder: Path) -> Mapping[str, Any]:
    found = content.get(key)
    if not isinstance(found, Mapping):
        raise InputError(f"{folder / 'dataset.json'}: expected the object '{key}', got {found!r}.", code="layout")
    return found


def _named_labels(content: Mapping[str, Any], folder: Path) -> list[tuple[str, list[int]]]:
    """Return (name, values) of each label: by name, as nnU-Net v2 has them, or by value, as v1 and the Decathlon have."""
    labels = _object(content, "labels", folder)
    if labels and all(str(key).isdigit() for key in labels):
        return [(str(name), _values(value, folder)) for value, name in labels.items()]
    return [(str(name), _values(given, folder)) for name, given in labels.items()]


def _values(given: object, folder: Path) -> list[int]:
    """Return a label's value, or the several of a region."""
    values: list[Any] = given if isinstance(given, list) else [given]
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError):
        raise InputError(f"{folder / 'dataset.json'}: expected whole numbers for labels, got {given!r}.") from None
