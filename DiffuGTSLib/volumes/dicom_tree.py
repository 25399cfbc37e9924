"""From a tree of `<MRN>/<Acc>/<Series>` DICOM folders to one NIfTI file a study: its largest series that makes a box.

Follows DiffTumor's direct inference, with every failure told and none fatal. Nothing from a DICOM header but modality
and geometry reaches a file or the screen: patients, dates and descriptions stay where they are, and studies are known by
the names of their folders.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import DiffuGTSError, GeometryError, InputError, StorageError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.dicom import Series, list_series
from DiffuGTSLib.volumes.io import read_series, read_volume, write_volume
from DiffuGTSLib.volumes.volume import SCAN_MODALITIES, Volume

LOG = "conversion.csv"
MINIMUM_SLICES = 10
"""Localizers and scouts have fewer, and no series of fewer is taken in place of one that failed."""

CONVERTED, KEPT, FAILED = "converted", "kept", "failed"


@dataclass(frozen=True)
class Conversion:
    """What became of one study; a row of the log.

    Attributes:
        mrn: Name of the patient's folder.
        accession: Name of the study's folder.
        status: "converted", "kept" where an earlier run had done it, or "failed".
        series: Name of the folder of the series that was taken.
        modality: "CT" or "MR".
        slices: Number of slices.
        file: Of the scan, relative to the output folder.
        remarks: What was passed over and why, one after the other.
    """

    mrn: str
    accession: str
    status: str
    series: str = ""
    modality: str = ""
    slices: int = 0
    file: str = ""
    remarks: str = ""


@dataclass(frozen=True)
class _Candidate:
    folder: Path
    series: Series

    @property
    def size(self) -> int:
        return len(self.series.files)


def convert_tree(
    tree: Path,
    output: Path,
    *,
    minimum_slices: int = MINIMUM_SLICES,
    force: bool = False,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[Conversion]:
    """Convert every study of a tree to `<MRN>/<Acc>/<Series>/ct.nii.gz` (or `mr.nii.gz`) and write `conversion.csv`.

    The log is written after each study, so that a run that was stopped goes on where it was.

    Args:
        tree: The folder above the patients.
        output: Folder, made if absent.
        minimum_slices: Series with fewer are no scans.
        force: Convert again what an earlier run has converted.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If the tree holds no study, or `minimum_slices` is below 2.
        StorageError: If the output cannot be written. A study that cannot be read only fails in the log.
    """
    if minimum_slices < 2:
        raise InputError(f"Expected at least 2 slices, got {minimum_slices}.")
    studies = find_studies(tree)
    _make(output)
    earlier = read_log(output / LOG)
    log: dict[tuple[str, str], Conversion] = dict(earlier)
    done = []
    for number, study in enumerate(studies):
        if on_progress is not None:
            on_progress("cases", number / len(studies))
        key = (study.parent.name, study.name)
        before = earlier.get(key)
        if before is not None and not force and before.file and (output / before.file).is_file():
            row = Conversion(**{**asdict(before), "status": KEPT})
        else:
            row = convert_study(study, output, minimum_slices=minimum_slices)
            log[key] = row
            _write_log(log, output / LOG)
        done.append(row)
    return done


def find_studies(tree: Path) -> list[Path]:
    """Return every `<MRN>/<Acc>` folder, by name.

    Raises:
        InputError: If there is none.
    """
    found = sorted(path for path in tree.glob("*/*") if path.is_dir() and not _hidden(path.relative_to(tree)))
    if not found:
        raise InputError(
            f"{tree} holds no <MRN>/<Acc> folders.", hint="name the folder above the patients.", code="missing"
        )
    return found


def convert_study(study: Path, output: Path, *, minimum_slices: int = MINIMUM_SLICES) -> Conversion:
    """Write the largest series of a study that makes a box; what else happened is told in the row.

    Args:
        study: A `<MRN>/<Acc>` folder.
        output: Where its own `<MRN>/<Acc>/<Series>` is made.
        minimum_slices: Series with fewer are no scans.

    Raises:
        StorageError: If the file cannot be written.
    """
    mrn, accession = study.parent.name, study.name
    try:
        candidates, remarks = _candidates(study, minimum_slices)
    except OSError as error:
        return Conversion(mrn, accession, FAILED, remarks=f"cannot be read: {error.strerror}")
    for candidate in candidates:
        relative = Path(mrn, accession, candidate.folder.name, f"{candidate.series.modality.lower()}.nii.gz")
        try:
            scan = read_series(candidate.series)
            _make((output / relative).parent)
            write_checked(scan, output / relative)
        except StorageError:
            raise
        except (DiffuGTSError, RuntimeError) as error:  # what GDCM says about one study must not stop the others
            said = error.message if isinstance(error, DiffuGTSError) else str(error).splitlines()[-1]
            remarks.append(f"{candidate.folder.name}: {said.replace(f'{candidate.folder}: ', '')}")
            continue
        return Conversion(
            mrn, accession, CONVERTED, candidate.folder.name, candidate.series.modality, scan.geometry.shape[2],
            relative.as_posix(), " | ".join(remarks),
        )  # fmt: skip
    if not candidates:
        remarks.append(f"no CT or MR series of at least {minimum_slices} slices")
    return Conversion(mrn, accession, FAILED, remarks=" | ".join(remarks))


def write_checked(scan: Volume, path: Path) -> None:
    """Write a scan as NIfTI, whole numbers as 16 bit, and read it back: voxels and affine have to be the same.

    Raises:
        GeometryError: If the file's grid is another one than the scan's.
        InputError: If a voxel came back changed.
        StorageError: If the file cannot be written. On any failure no file is left.
    """
    whole = scan.array.astype(np.int16) if np.abs(scan.array).max() < 2**15 else scan.array
    with whole_file(path) as temporary:
        write_volume(scan.with_array(whole if np.array_equal(whole, scan.array) else scan.array), temporary)
        require_same(scan, read_volume(temporary))


def require_same(scan: Volume, copy: Volume) -> None:
    """Refuse a copy that is not the scan, voxel by voxel and millimeter by millimeter.

    Raises:
        GeometryError: If their grids differ.
        InputError: If a voxel does.
    """
    difference = scan.geometry.difference(copy.geometry)
    if difference:
        raise GeometryError(f"The affine changed when the scan was written: {difference}.")
    changed = int(np.count_nonzero(scan.array != copy.array))
    if changed:
        raise InputError(f"{changed} voxels changed when the scan was written.", code="not_written")


def read_log(path: Path) -> dict[tuple[str, str], Conversion]:
    """Return the rows of an earlier run by MRN and accession number; empty where there is no log.

    Raises:
        InputError: If the file is no log of ours.
    """
    if not path.is_file():
        return {}
    names = [field.name for field in fields(Conversion)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or []) != names:
            raise InputError(f"{path} is not a log of conversions.", hint="choose another output folder.")
        rows = [Conversion(**{**row, "slices": int(row["slices"])}) for row in reader]  # type: ignore[arg-type]
    return {(row.mrn, row.accession): row for row in rows}


def _candidates(study: Path, minimum_slices: int) -> tuple[list[_Candidate], list[str]]:
    """Return the scans of a study, largest first, and remarks on what is none."""
    remarks, found = [], []
    for folder in sorted(path for path in study.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            series = list_series(folder)
            known = {Path(file).name for each in series for file in each.files}
            strange = sorted(path.name for path in folder.iterdir() if _is_stray(path, known))
        except (
            RuntimeError,
            OSError,
        ) as error:  # ITK, on a header that it finds broken; a folder that may not be opened
            why = f": {error.strerror}" if isinstance(error, OSError) else " as DICOM"
            remarks.append(f"{folder.name}: cannot be read{why}")
            continue
        if strange:
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            remarks.append(f"{folder.name}: no DICOM image, or damaged: {', '.join(strange[:3])}{more}")
        found += [_Candidate(folder, each) for each in series if each.modality in SCAN_MODALITIES]
    large = [candidate for candidate in found if candidate.size >= minimum_slices]
    return sorted(large, key=lambda candidate: (-candidate.size, candidate.folder.name)), remarks


def _is_stray(path: Path, known: set[str]) -> bool:
    return path.is_file() and path.name not in known and not path.name.startswith(".") and path.name != "DICOMDIR"


def _write_log(log: Mapping[tuple[str, str], Conversion], path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Conversion)])
        writer.writeheader()
        writer.writerows(asdict(log[key]) for key in sorted(log))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot make {folder}: {error.strerror}.", hint="choose another output folder.") from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
