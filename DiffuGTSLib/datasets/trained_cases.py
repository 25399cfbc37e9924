"""The cases that a model was trained on, kept in its folder, so that nobody tests it on them unawares.

A patient is known by name, a scan by the SHA-256 of its file: the one finds another scan of the patient, the other the
scan under another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from DiffuGTSLib.errors import InputError, WeightsError
from DiffuGTSLib.protocol import Case
from DiffuGTSLib.storage import whole_file

TRAINING_CASES = "training_cases.json"
"""File of a model folder."""


@dataclass(frozen=True)
class TrainedCase:
    """One scan that a part of the model was trained on.

    Attributes:
        name: As in the protocol.
        patient: As in the protocol.
        sha256: Of the scan's file.
    """

    name: str
    patient: str
    sha256: str


def record_training(cases: Sequence[Case], data: Path, model_folder: Path) -> None:
    """Add the training cases of a protocol to those that the model folder names already, from its other parts.

    Raises:
        WeightsError: If the folder's record is damaged.
        StorageError: If it cannot be written.
    """
    known = dict.fromkeys(read_training_cases(model_folder) or ())
    trained = [TrainedCase(c.name, c.patient, file_sha256(data / c.image)) for c in cases if c.split == "train"]
    content = {"format": 1, "cases": [asdict(case) for case in known | dict.fromkeys(trained)]}
    model_folder.mkdir(parents=True, exist_ok=True)
    with whole_file(model_folder / TRAINING_CASES) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_training_cases(model_folder: Path) -> list[TrainedCase] | None:
    """Return the cases that a model was trained on; None where its folder does not tell.

    Raises:
        WeightsError: If the record is damaged.
    """
    path = model_folder / TRAINING_CASES
    if not path.is_file():
        return None
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["cases"]
        return [TrainedCase(str(row["name"]), str(row["patient"]), str(row["sha256"])) for row in rows]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} is no record of training cases: {error!r}.", hint="copy the whole model folder again."
        ) from error


def seen_in_training(cases: Sequence[Case], data: Path, trained: Sequence[TrainedCase]) -> dict[str, str]:
    """Return the cases whose patient or scan was trained on: name → why."""
    patients = {case.patient: case.name for case in trained}
    scans = {case.sha256: case.name for case in trained}
    seen = {}
    for case in cases:
        if case.patient in patients:
            seen[case.name] = f"patient {case.patient} of {patients[case.patient]}"
        elif (digest := file_sha256(data / case.image)) in scans:
            seen[case.name] = f"the same file as {scans[digest]}"
    return seen


@dataclass(frozen=True)
class SeenCases:
    """What a report must say about its cases and the model's training.

    Attributes:
        why: Case → why it counts as seen.
        note: The same in one sentence.
    """

    why: dict[str, str]
    note: str


def check_unseen(cases: Sequence[Case], data: Path, model_folder: Path | None, *, allow_seen: bool) -> SeenCases:
    """Refuse cases that a model was trained on, or say what is known about it.

    Args:
        cases: To be scored.
        data: Folder that their paths start from.
        model_folder: With the record of its training; None for networks without a folder.
        allow_seen: Only say it.

    Raises:
        InputError: With the list of cases (code "leakage"), unless they are allowed.
        WeightsError: If the folder's record is damaged.
    """
    trained = None if model_folder is None else read_training_cases(model_folder)
    if trained is None:
        return SeenCases({}, "The model does not tell what it was trained on: cases may have been seen.")
    why = seen_in_training(cases, data, trained)
    listed = "; ".join(f"{name} ({reason})" for name, reason in why.items())
    if why and not allow_seen:
        raise InputError(
            f"The model was trained on {len(why)} of {len(cases)} cases: {listed}.",
            hint="leave them out of the split. --allow-seen scores them all the same, and the report says so.",
            code="leakage",
        )
    if why:
        return SeenCases(why, f"SEEN IN TRAINING, so that their figures say nothing: {listed}.")
    return SeenCases({}, f"No case is among the {len(trained)} scans trained on, by patient and by file.")


def file_sha256(path: Path) -> str:
    """Return the digest of a scan: of its file, or of a DICOM folder's files one after the other, by name.

    Raises:
        InputError: If it cannot be read (code "missing").
    """
    digest = hashlib.sha256()
    try:
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", code="missing") from error
    return digest.hexdigest()
