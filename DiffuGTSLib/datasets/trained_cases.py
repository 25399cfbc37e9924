"""The cases that a model was trained and tuned on, kept in its folder, so that nobody tests it on them unawares.

A patient is known by name, a scan by the SHA-256 of its file and of its voxels: the one finds another scan of the
patient, the others the scan under another name or in another form. A name that differs in spelling only is a warning:
"1" and "01" may be two patients of two hospitals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from DiffuGTSLib.datasets.protocol import Case, spelling_key
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError
from DiffuGTSLib.storage import read_json, write_json
from DiffuGTSLib.volumes import read_volume
from DiffuGTSLib.volumes.digest import scan_sha256, voxels_sha256

TRAINING_CASES = "training_cases.json"
"""File of a model folder."""
TRAINED, TUNED = "trained", "tuned"
"""What a case was used for: its voxels made the weights, or its figures chose weights, steps or thresholds."""
TUNED_ON = "tuned_on"
"""Key of a configuration file: the cases that its thresholds were chosen on, for a model that has no record of its own."""
WARNING = "WARNING"
"""Begins what `SeenCases.note` says of patients that may have been trained on."""
_AGAIN = "copy the whole model folder again."
_USES = {"train": TRAINED, "validation": TUNED}


@dataclass(frozen=True)
class TrainedCase:
    """One scan that a part of the model was trained or tuned on.

    Attributes:
        name: As in the protocol.
        patient: As in the protocol.
        sha256: Of the scan's file.
        use: `TRAINED` or `TUNED`.
        voxels_sha256: See `DiffuGTSLib.volumes.digest`; "" where the record does not tell.
    """

    name: str
    patient: str
    sha256: str
    use: str
    voxels_sha256: str = ""


def record_training(
    cases: Sequence[Case], data: Path, model_folder: Path, *, learned: bool = True, earlier: Sequence[Path] = ()
) -> None:
    """Add the training and validation cases of a protocol to those that the model folder names, from its other parts.

    A validation case counts as tuned on: the best weights, the end of training and the thresholds are chosen there.

    Args:
        cases: Of the protocol.
        data: Folder that their paths start from.
        model_folder: Where the record is.
        learned: Whether weights were made of the training cases; otherwise those are tuned on, too.
        earlier: Folders of models, or of parts of them, that this one was made from: whose weights it went on with, whose frozen
            networks it looks through, which painted its tumors. What they were trained on, this one was, too; where one does not
            tell, the record says so.

    Raises:
        WeightsError: If a record is damaged.
        StorageError: If it cannot be written.
    """
    folders = [_folder_of(folder) for folder in earlier]
    incomplete = any(read_training_cases(folder) is None for folder in folders) or any(
        _is_incomplete(folder) for folder in (model_folder, *folders)
    )
    known = [case for folder in (model_folder, *folders) for case in read_training_cases(folder) or ()]
    voxels = {case.sha256: case.voxels_sha256 for case in known if case.voxels_sha256}  # so that each is read once
    used = []
    for case in cases:
        if case.split in _USES:
            file, use = scan_sha256(data / case.image), _USES[case.split] if learned else TUNED
            if file not in voxels:
                voxels[file] = _voxels_sha256(data / case.image)
            used.append(TrainedCase(case.name, case.patient, file, use))
    told = dict.fromkeys(replace(case, voxels_sha256=voxels.get(case.sha256, "")) for case in (*known, *used))
    content: dict[str, object] = {"format": 1, "cases": [asdict(case) for case in told]}
    if incomplete:
        content["incomplete"] = True
    model_folder.mkdir(parents=True, exist_ok=True)
    write_json(model_folder / TRAINING_CASES, content, ensure_ascii=False)


def _voxels_sha256(scan: Path) -> str:
    """Return the digest of a scan's voxels; "" where it cannot be read, of which whoever needs it will tell."""
    try:
        return voxels_sha256(read_volume(scan))
    except InputError:
        return ""


def _folder_of(earlier: Path) -> Path:
    """Return the model folder of an earlier model, which may be named by its part's folder or its run's."""
    places = (earlier, earlier.parent, earlier / "model", earlier / "segmenter" / "model")
    return next((place for place in places if (place / TRAINING_CASES).is_file()), earlier)


def _is_incomplete(model_folder: Path) -> bool:
    """Say whether a record is known not to name all cases; the record has been read before."""
    path = model_folder / TRAINING_CASES
    return path.is_file() and bool(read_json(path, WeightsError).get("incomplete", False))


def read_training_cases(model_folder: Path) -> list[TrainedCase] | None:
    """Return the cases that a model was trained and tuned on; None where its folder does not tell.

    Raises:
        WeightsError: If the record is damaged.
    """
    path = model_folder / TRAINING_CASES
    if not path.is_file():
        return None
    record = read_json(path, WeightsError, hint=_AGAIN)
    try:
        return _cases(record["cases"])
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no record of training cases: {error!r}.", hint=_AGAIN) from error


def tuned_on(config_file: Path | None) -> list[TrainedCase]:
    """Return the cases that a configuration file's thresholds were chosen on; none where it does not tell.

    Raises:
        ConfigError: If it cannot be read, or names none of them as a record would.
    """
    if config_file is None:
        return []
    record = read_json(config_file, ConfigError)
    try:
        return _cases(record.get(TUNED_ON, []))
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{config_file}: '{TUNED_ON}' is no list of cases: {error!r}.", hint="take it as train thresholds wrote it."
        ) from error


def _cases(rows: Sequence[Mapping[str, object]]) -> list[TrainedCase]:
    return [
        TrainedCase(
            str(row["name"]),
            str(row["patient"]),
            str(row["sha256"]),
            str(row["use"]),
            str(row.get("voxels_sha256", "")),
        )
        for row in rows
    ]


def seen_in_training(cases: Sequence[Case], data: Path, trained: Sequence[TrainedCase]) -> dict[str, str]:
    """Return the cases whose patient or scan was used to make the model: name → why.

    A case of the split "validation" may be scored although it was tuned on: that is what it is for.
    """
    trained = sorted(trained, key=lambda case: case.use == TRAINED)  # of two uses the last one counts: the weightier
    patients, scans, voxels = (
        {getattr(case, key): case for case in trained if getattr(case, key)}
        for key in ("patient", "sha256", "voxels_sha256")
    )
    seen = {}
    for case in cases:
        known, why = patients.get(case.patient), f"patient {case.patient} of {{name}}"
        if known is None:
            known, why = scans.get(scan_sha256(data / case.image)), "the same file as {name}"
        if known is None and voxels:
            known, why = voxels.get(_voxels_sha256(data / case.image)), "the same voxels as {name}"
        if known is not None and not (known.use == TUNED and case.split == "validation"):
            seen[case.name] = why.format(name=known.name) + (", tuned on" if known.use == TUNED else "")
    return seen


def _alike(cases: Sequence[Case], trained: Sequence[TrainedCase]) -> str:
    """Return a warning of patients whose names differ from one of the training in spelling only; "" without any."""
    exact = {case.patient for case in trained}
    spellings = {spelling_key(case.patient): case for case in sorted(trained, key=lambda case: case.use == TRAINED)}
    alike = {}
    for case in cases:
        known = spellings.get(spelling_key(case.patient))
        if known is not None and case.patient not in exact and not (known.use == TUNED and case.split == "validation"):
            alike[case.patient] = f"'{case.patient}' of {case.name}, {known.use} on as '{known.patient}'"
    return f" {WARNING}: one patient under several names? {'; '.join(alike.values())}." if alike else ""


@dataclass(frozen=True)
class SeenCases:
    """What a report must say about its cases and the model's training.

    Attributes:
        why: Case → why it counts as seen.
        note: The same in a sentence, and a warning where names of patients differ in spelling only.
    """

    why: dict[str, str]
    note: str


def check_unseen(
    cases: Sequence[Case],
    data: Path,
    model_folder: Path | None,
    *,
    allow_seen: bool,
    tuned_on: Sequence[TrainedCase] = (),
) -> SeenCases:
    """Refuse cases that a model was trained or tuned on, or say what is known about it.

    Args:
        cases: To be scored.
        data: Folder that their paths start from.
        model_folder: With the record of its training; None for networks without a folder.
        allow_seen: Only say it.
        tuned_on: Cases that the thresholds were chosen on, see the function of that name.

    Raises:
        InputError: With the list of cases (code "leakage"), unless they are allowed.
        WeightsError: If the folder's record is damaged.
    """
    recorded = None if model_folder is None else read_training_cases(model_folder)
    trained = [*(recorded or ()), *tuned_on]
    why = seen_in_training(cases, data, trained)
    if recorded is None and not why:
        return SeenCases({}, "The model does not tell what it was trained on: cases may have been seen.")
    listed = "; ".join(f"{name} ({reason})" for name, reason in why.items())
    if why and not allow_seen:
        raise InputError(
            f"The model was {_used(why)} {len(why)} of {len(cases)} cases: {listed}.",
            hint="leave them out of the test. --allow-seen scores them all the same, and the report says so.",
            code="leakage",
        )
    unseen = [case for case in cases if case.name not in why]
    return SeenCases(why, _said(why, cases, trained, model_folder) + _alike(unseen, trained))


def _said(
    why: Mapping[str, str], cases: Sequence[Case], trained: Sequence[TrainedCase], model_folder: Path | None
) -> str:
    """Say in a sentence what is known of the cases."""
    if why:
        listed = "; ".join(f"{name} ({reason})" for name, reason in why.items())
        return f"SEEN IN TRAINING, so that their figures say nothing: {listed}."
    if model_folder is not None and _is_incomplete(model_folder):
        return "The model was made from weights that do not tell what they were trained on: cases may have been seen."
    tuned = [case.name for case in cases if case.split == "validation"]
    if tuned:
        return f"Validation scans, on which training and thresholds may have been tuned: {', '.join(tuned)}."
    known_by = ", by file and by voxels" if any(case.voxels_sha256 for case in trained) else " and by file"
    return f"No case is among the {len(trained)} scans trained or tuned on, by patient{known_by}."


def _used(why: Mapping[str, str]) -> str:
    """Say what was done with the cases that were seen."""
    tuned = sum(reason.endswith("tuned on") for reason in why.values())
    return "trained on" if not tuned else "tuned on" if tuned == len(why) else "trained or tuned on"
