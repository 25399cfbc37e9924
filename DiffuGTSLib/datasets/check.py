"""A data set against its protocol: what would stop a training or spoil its figures, found before either begins.

Errors: a file that is missing, damaged or on another grid; NaN; a constant scan; labels that are no whole numbers; an
organ that nothing is known of; a patient, or the same voxels, in two splits. Everything else is a warning: it may be as intended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.datasets.protocol import Case, named_file, read_scan, shared_patients, spelling_key
from DiffuGTSLib.errors import DiffuGTSError, PromptError
from DiffuGTSLib.text.prompts import find_organ
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.digest import voxels_sha256
from DiffuGTSLib.volumes.io import read_labels
from DiffuGTSLib.volumes.volume import closest_ras, require_scan

ERROR, WARNING = "error", "warning"

SPACING_MM = (0.1, 10.0)
"""Voxels outside of these are rare enough to be looked at: a header in meters or micrometers, or a localizer."""
FEWEST_VOXELS = 8
"""Along any axis."""
OBLIQUE_DEG = 1.0


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or may be.

    Attributes:
        level: "error" or "warning".
        code: A stable word.
        case: Name of the case, or of the patient.
        message: In words, with values and units.
    """

    level: str
    code: str
    case: str
    message: str


@dataclass(frozen=True)
class CheckedCase:
    """What one case's files hold.

    Attributes:
        name: The case's name in the protocol.
        patient: Its patient in the protocol.
        split: Its split in the protocol.
        modality: Its modality in the protocol.
        organ: Its organ in the protocol.
        shape: Voxels along (i, j, k).
        spacing_mm: Of the scan.
        orientation: Where i, j and k run to: "RAS", "LPS".
        oblique_deg: Largest angle between a voxel axis and the patient's.
        intensities: Least and greatest value.
        tumor_ml: Volume of the tumor mask; None without one.
        sha256: Of the scan's voxels, see `voxels_sha256`: two files of one scan have the same.
    """

    name: str
    patient: str
    split: str
    modality: str
    organ: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str
    oblique_deg: float
    intensities: tuple[float, float]
    tumor_ml: float | None
    sha256: str


@dataclass(frozen=True)
class Report:
    """What a data set holds, and what was found in it.

    Attributes:
        cases: Every case whose scan could be read.
        problems: Errors first.
        total_bytes: Of all files of the protocol that are there.
        counts: See `counts`.
    """

    cases: list[CheckedCase]
    problems: list[Problem]
    total_bytes: int = 0
    counts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """The problems that must be mended."""
        return [problem for problem in self.problems if problem.level == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that should be looked at."""
        return [problem for problem in self.problems if problem.level == WARNING]

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        return {"format": 1, "errors": len(self.errors), "warnings": len(self.warnings), **asdict(self)}


def check_cases(cases: Sequence[Case], data: Path, on_progress: Callable[[str, float], None] | None = None) -> Report:
    """Read every file of a protocol and report what is wrong with it. Excluded cases are counted, and not read.

    Args:
        cases: Of a protocol; a patient may be in two splits here.
        data: Folder that their paths start from.
        on_progress: Called with (case name, share of the cases done).
    """
    checked, problems = [], [*_patients(cases)]
    used = [case for case in cases if case.split != "excluded"]
    for number, case in enumerate(used):
        if on_progress is not None:
            on_progress(case.name, number / len(used))
        found, seen = check_case(case, data)
        problems += found
        if seen is not None:
            checked.append(seen)
    problems += _duplicates(checked)
    problems.sort(key=lambda problem: problem.level != ERROR)
    files = {file for case in used for file in case.files}
    return Report(checked, problems, sum(_bytes(data, file) for file in files), counts(cases))


def check_case(case: Case, data: Path) -> tuple[list[Problem], CheckedCase | None]:
    """Read the files of one case; return what was found, and what it holds, None if its scan cannot be read."""
    problems = [*_unknown_organ(case), *_unplaced_organ(case)]

    def found(level: str, code: str, message: str) -> None:
        problems.append(Problem(level, code, case.name, message))

    try:
        scan = read_scan(case, data)
    except DiffuGTSError as error:
        found(ERROR, error.code, str(error))
        return problems, None
    try:
        require_scan(scan)
    except DiffuGTSError as error:
        found(ERROR, error.code, f"{case.image}: {error.message}")
    for code, message in (*_strange_grid(scan.geometry, case), *_strange_intensities(scan, case)):
        found(WARNING, code, f"{case.image}: {message}")
    tumor_ml = None
    for file in case.files[1:]:
        try:
            labels = read_labels(named_file(data, file), scan.geometry).array
        except DiffuGTSError as error:
            found(ERROR, error.code, f"{file}: {error.message}")
            continue
        if file == case.tumor:
            tumor = np.isin(labels, case.tumor_values) if case.tumor_values else labels > 0
            tumor_ml = float(np.count_nonzero(tumor)) * scan.geometry.voxel_volume_ml
        for level, code, message in _strange_labels(labels, file, case, tumor_ml):
            found(level, code, f"{file}: {message}")
    return problems, _described(case, scan, tumor_ml)


def _unknown_organ(case: Case) -> Iterator[Problem]:
    """Find an organ that no sentence can be made of: evaluation would stop at it."""
    if not case.organ:
        return
    try:
        find_organ(case.organ)
    except PromptError as error:
        yield Problem(ERROR, error.code, case.name, error.message)


def _unplaced_organ(case: Case) -> Iterator[Problem]:
    """Find a healthy scan to be trained on of whose organ nothing says where it is."""
    trained = case.split in ("train", "validation") and not case.tumor
    placed = {*case.label_names, *case.organ_files, *(["lung"] if case.lung_by_air else [])}
    if trained and case.organ and case.organ not in placed and not case.organ_fills_scan:
        message = f"the {case.organ} is named, and nothing says where it is: no tumor is painted into it."
        yield Problem(WARNING, "no_outline", case.name, message)


def counts(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return, for each split, modality and organ, the numbers of scans, of patients, and of scans with a tumor mask."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault((case.split, case.modality, case.organ), []).append(case)
    return [
        {
            "split": split,
            "modality": modality,
            "organ": organ,
            "scans": len(group),
            "patients": len({case.patient for case in group}),
            "with_tumor": sum(bool(case.tumor) for case in group),
        }
        for (split, modality, organ), group in sorted(groups.items())
    ]


def orientation(geometry: Geometry) -> str:
    """Return where the voxel axes run to, as three letters: "RAS", "LPS"."""
    axes, signs = closest_ras(geometry)
    letters = ["", "", ""]
    for axis, sign, ends in zip(axes, signs, ("RL", "AP", "SI"), strict=True):
        letters[int(axis)] = ends[0] if sign > 0 else ends[1]
    return "".join(letters)


def likely_modality(voxels: NDArray[Any]) -> str:
    """Return "CT" for values that reach below -500, "MR" for values from 0 on, "" where they do not say."""
    lowest = float(np.nanmin(voxels))
    if lowest <= -500:
        return "CT"
    return "MR" if lowest >= 0 else ""


def _strange_grid(geometry: Geometry, case: Case) -> Iterator[tuple[str, str]]:
    low, high = SPACING_MM
    spacing = " x ".join(f"{value:.4g}" for value in geometry.spacing_mm)
    if min(geometry.spacing_mm) < low or max(geometry.spacing_mm) > high:
        yield "spacing", f"voxels of {spacing} mm; expected {low:g} to {high:g} mm."
    if min(geometry.shape) < FEWEST_VOXELS:
        yield "shape", f"{' x '.join(map(str, geometry.shape))} voxels; expected {FEWEST_VOXELS} a side at least."
    if case.modality == "CT" and np.allclose(np.abs(geometry.ijk_to_ras), np.eye(4)):
        yield "no_geometry", "voxels of exactly 1 mm at the world's origin: the header may have lost its geometry."


def _strange_intensities(scan: Volume, case: Case) -> Iterator[tuple[str, str]]:
    if case.modality not in ("CT", "MR") or not np.isfinite(scan.array).any():
        return
    likely = likely_modality(scan.array)
    if likely and likely != case.modality:
        low, high = float(np.nanmin(scan.array)), float(np.nanmax(scan.array))
        more = ", or of a CT whose rescale intercept was lost" if case.modality == "CT" else ""
        yield (
            "modality",
            f"values from {low:g} to {high:g} are those of {likely}{more}; the protocol says {case.modality}.",
        )


def _strange_labels(
    labels: NDArray[Any], file: str, case: Case, tumor_ml: float | None
) -> Iterator[tuple[str, str, str]]:
    """Yield (level, code, message) for one label map; `tumor_ml` is told for the one that holds the tumor."""
    present = {int(value) for value in np.unique(labels)} - {0}
    named = set(case.tumor_values) if file == case.tumor else set()
    if file == case.labels:
        named |= {value for values in case.label_names.values() for value in values} | set(case.suspect_values)
        unknown = [name for name, values in case.unknown_labels.items() if present.intersection(values)]
        if unknown:
            words = f"nothing is known of {', '.join(unknown)}: taken for neither healthy nor tumor."
            yield WARNING, "unknown_labels", words
        if not present & named:
            yield WARNING, "empty_organs", f"none of the organs {', '.join(case.label_names)} is in it."
    if named and present - named:
        yield WARNING, "unnamed_labels", f"the labels {_listed(present - named)} are not named in the protocol."
    if file != case.tumor:
        return
    if not tumor_ml and case.framed_on_tumor:
        yield ERROR, "empty_tumor", "no tumor, of a scan that was cut around its tumor."
    elif not tumor_ml:
        yield WARNING, "empty_tumor", "no voxel is tumor. Right for a healthy case only."
    if not case.tumor_values and len(present) > 1:
        yield WARNING, "merged", f"the labels {_listed(present)} all count as tumor, since tumor_values names none."
    if file != case.labels and np.count_nonzero(labels) > labels.size / 2:
        yield WARNING, "large_tumor", "more than half of all voxels are tumor: are mask and background exchanged?"


def _described(case: Case, scan: Volume, tumor_ml: float | None) -> CheckedCase:
    finite = scan.array[np.isfinite(scan.array)]
    cosine = float(np.abs(scan.geometry.direction).max(axis=0).min())
    return CheckedCase(
        case.name, case.patient, case.split, case.modality, case.organ, scan.geometry.shape,
        tuple(round(value, 4) for value in scan.geometry.spacing_mm), orientation(scan.geometry),
        round(float(np.degrees(np.arccos(min(1.0, cosine)))), 1),
        (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0), tumor_ml, voxels_sha256(scan),
    )  # fmt: skip


def _patients(cases: Sequence[Case]) -> Iterator[Problem]:
    """Find patients in two splits, and names that differ in spelling only."""
    for patient, splits in shared_patients(cases).items():
        yield Problem(ERROR, "leakage", patient, f"the patient is in the splits {' and '.join(splits)}.")
    spellings: dict[str, dict[str, list[str]]] = {}
    for case in cases:
        spellings.setdefault(spelling_key(case.patient), {}).setdefault(case.patient, []).append(case.split)
    for names in spellings.values():
        if len(names) > 1 and len({split for splits in names.values() for split in splits}) > 1:
            listed = ", ".join(f"'{name}' ({splits[0]})" for name, splits in names.items())
            yield Problem(WARNING, "similar_patients", next(iter(names)), f"one patient under several names? {listed}.")


def _duplicates(checked: Sequence[CheckedCase]) -> Iterator[Problem]:
    """Find scans with the same voxels: a mistake across splits, to be looked at within one."""
    first: dict[str, CheckedCase] = {}
    for case in checked:
        other = first.setdefault(case.sha256, case)
        if other is case:
            continue
        if other.split != case.split:
            message = f"the same voxels as {other.name}, which is in split {other.split}, this in {case.split}."
            yield Problem(ERROR, "duplicate", case.name, message)
        elif other.patient != case.patient:
            yield Problem(WARNING, "duplicate", case.name, f"the same voxels as {other.name} of another patient.")


def summary(report: Report) -> str:
    """Return one line on grids and size: orientations, spacing, oblique scans, gigabytes."""
    turned = Counter(case.orientation for case in report.cases)
    spacing = [value for case in report.cases for value in case.spacing_mm] or [0.0]
    oblique = sum(case.oblique_deg > OBLIQUE_DEG for case in report.cases)
    axes = ", ".join(f"{count} {letters}" for letters, count in turned.most_common())
    return (
        f"Axes run to {axes or 'nowhere'}; {oblique} oblique. Voxels of {min(spacing):.3g} to {max(spacing):.3g} mm. "
        f"{report.total_bytes / 1e9:.2f} GB."
    )


def _bytes(data: Path, file: str) -> int:
    try:
        path = named_file(data, file)
    except DiffuGTSError:  # has been told as its case's error
        return 0
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))
