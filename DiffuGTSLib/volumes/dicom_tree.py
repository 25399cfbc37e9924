"""From a tree of `<MRN>/<Acc>/<Series>` DICOM folders to one NIfTI file a study: its largest series that makes a box.

Follows DiffTumor's direct inference, with every failure told and none fatal. Nothing from a DICOM header but modality
and geometry reaches a file or the screen: patients, dates and descriptions stay where they are, and studies are known by
the names of their folders.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import DiffuGTSError, GeometryError, InputError, StorageError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.dicom import Series, list_series, require_whole, share_no_place
from DiffuGTSLib.volumes.dicom_damage import is_dicom_file
from DiffuGTSLib.volumes.io import read_series, read_volume, write_volume
from DiffuGTSLib.volumes.volume import SCAN_MODALITIES, Volume

LOG = "conversion.csv"
MINIMUM_SLICES = 10
"""Localizers and scouts have fewer, and no series of fewer is taken in place of one that failed."""

CONVERTED, KEPT, SKIPPED, FAILED = "converted", "kept", "skipped", "failed"


@dataclass(frozen=True)
class Conversion:
    """What became of one study; a row of the log.

    Attributes:
        mrn: Name of the patient's folder.
        accession: Name of the study's folder.
        status: "converted"; "kept" where an earlier run had done it; "skipped" where nothing is wrong but no series is a scan of
            enough slices; or "failed".
        series: Name of the folder of the series that was taken.
        modality: "CT" or "MR".
        slices: Number of slices.
        file: Of the scan, relative to the output folder; of a study that failed now, what an earlier run has made of it.
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
        """Slices, or frames of one file, which is refused when its turn comes."""
        return max(len(self.series.files), self.series.frames)

    def __str__(self) -> str:
        files = f"{len(self.series.files)} file(s)"
        return f"{self.folder.name}: {self.series.modality or 'no modality (0008,0060)'}, {files}"


@dataclass
class _Found:
    """What lies in the folders of a study.

    Attributes:
        scans: CT and MR series, whole, of any size.
        others: Every other series.
        notes: What was passed over.
        troubles: What keeps a scan from being found or taken.
    """

    scans: list[_Candidate] = field(default_factory=list)
    others: list[_Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


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
        force: Convert again what an earlier run has converted. Otherwise it is kept where the series that would be taken now
            is the same and has as many slices.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If the tree holds no study, or `minimum_slices` is below 2.
        StorageError: If the output cannot be written. A study that cannot be read only fails in the log.
    """
    if minimum_slices < 2:
        raise InputError(f"Expected at least 2 slices, got {minimum_slices}.")
    studies = find_studies(tree, leave_out=output)
    _make(output)
    earlier = read_log(output / LOG)
    log: dict[tuple[str, str], Conversion] = dict(earlier)
    done = []
    for number, study in enumerate(studies):
        if on_progress is not None:
            on_progress("cases", number / len(studies))
        key = (study.parent.name, study.name)
        row = convert_study(study, output, minimum_slices=minimum_slices, before=earlier.get(key), force=force)
        if row.status != KEPT:
            log[key] = row
            _write_log(log, output / LOG)
        done.append(row)
    return done


def find_studies(tree: Path, leave_out: Path | None = None) -> list[Path]:
    """Return every `<MRN>/<Acc>` folder, by name.

    Args:
        tree: The folder above the patients.
        leave_out: A folder below it that is not looked into: of the results.

    Raises:
        InputError: If there is none.
    """
    results = None if leave_out is None or leave_out.resolve() == tree.resolve() else leave_out.resolve()
    found = sorted(
        path
        for path in tree.glob("*/*")
        if path.is_dir()
        and not _hidden(path.relative_to(tree))
        and (results is None or not path.resolve().is_relative_to(results))
    )
    if not found:
        raise InputError(
            f"{tree} holds no <MRN>/<Acc> folders.", hint="name the folder above the patients.", code="missing"
        )
    return found


def convert_study(
    study: Path,
    output: Path,
    *,
    minimum_slices: int = MINIMUM_SLICES,
    before: Conversion | None = None,
    force: bool = False,
) -> Conversion:
    """Write the largest series of a study that makes a box; what else happened is told in the row.

    Args:
        study: A `<MRN>/<Acc>` folder.
        output: Where its own `<MRN>/<Acc>/<Series>` is made.
        minimum_slices: Series with fewer are no scans.
        before: What an earlier run has made of it; that is kept where it is what would be made now, else it gives way.
        force: Make it again in any case.

    Raises:
        StorageError: If the file cannot be written.
    """
    mrn, accession = study.parent.name, study.name
    made = before.file if before is not None and _is_made(before, output) else ""
    try:
        found = _look_through(study)
    except OSError as error:
        return Conversion(mrn, accession, FAILED, file=made, remarks=f"cannot be read: {error.strerror}")
    large = [each for each in found.scans if each.size >= minimum_slices or each.series.frames > 1]
    remarks = found.notes + found.troubles
    for candidate in sorted(large, key=lambda each: (-each.size, each.folder.name)):
        folder, modality = candidate.folder.name, candidate.series.modality
        file = Path(mrn, accession, folder, f"{modality.lower()}.nii.gz").as_posix()
        if before is not None and made == file and before.slices == candidate.size and not force:
            return replace(before, status=KEPT, remarks=" | ".join(remarks))
        try:
            scan = read_series(candidate.series)
            _make((output / file).parent)
            write_checked(scan, output / file)
        except StorageError:
            raise
        except (DiffuGTSError, RuntimeError) as error:  # what GDCM says about one study must not stop the others
            remarks.append(_said(candidate.folder, error))
            continue
        if made and made != file:
            _remove(output / made)
        slices = scan.geometry.shape[2]
        return Conversion(mrn, accession, CONVERTED, folder, modality, slices, file, " | ".join(remarks))
    if not large and not found.troubles:
        remarks += [str(each) for each in found.scans + found.others]
        remarks.append(f"no CT or MR series of at least {minimum_slices} slices")
    if made:
        remarks.append(f"{made} is of an earlier run")
    status = FAILED if large or found.troubles else SKIPPED
    return Conversion(mrn, accession, status, file=made, remarks=" | ".join(remarks))


def _is_made(row: Conversion, output: Path) -> bool:
    """Tell whether a row's file is there, and where a conversion of its study would have put it."""
    names = {f"{modality.lower()}.nii.gz" for modality in SCAN_MODALITIES}
    parts = Path(row.file).parts
    is_ours = len(parts) == 4 and parts[:2] == (row.mrn, row.accession) and parts[3] in names and ".." not in parts
    return is_ours and (output / row.file).is_file()


def _remove(file: Path) -> None:
    """Delete what an earlier run had made of another series, so that a study has one scan.

    Raises:
        StorageError: If it cannot be deleted.
    """
    try:
        file.unlink(missing_ok=True)
        if not any(file.parent.iterdir()):
            file.parent.rmdir()
    except OSError as error:
        raise StorageError(f"Cannot delete {file}: {error.strerror}.", hint="delete it by hand.") from error


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


def _look_through(study: Path) -> _Found:
    """Return what lies in the folders of a study.

    Raises:
        OSError: If the study's own folder cannot be looked into.
    """
    found = _Found()
    inside = sorted(path for path in study.iterdir() if not path.name.startswith("."))
    if any(is_dicom_file(path) and path.name != "DICOMDIR" for path in inside):
        found.troubles.append("DICOM files lie in the study's own folder; expected a folder of each series")
    for folder in (path for path in inside if path.is_dir()):
        try:
            _look_into(folder, found)
        except OSError as error:  # a folder that may not be opened
            found.troubles.append(f"{folder.name}: cannot be read: {error.strerror}")
        except RuntimeError:  # ITK, on a header that it finds broken
            found.troubles.append(f"{folder.name}: cannot be read as DICOM")
    if not inside:
        found.troubles.append("the folder is empty")
    _leave_out_parts(found)
    return found


def _look_into(folder: Path, found: _Found) -> None:
    """Add the series of one folder to what was found, and what is wrong with it."""
    series, is_damaged = list_series(folder), False
    known = {Path(file).name for each in series for file in each.files}
    for each in series:
        candidate = _Candidate(folder, each)
        if each.modality not in SCAN_MODALITIES:
            found.others.append(candidate)
            found.troubles += [] if each.modality else [str(candidate)]
            continue
        try:
            require_whole(folder, series, each)
        except InputError as error:
            found.troubles.append(_said(folder, error))
            is_damaged = True
        else:
            found.scans.append(candidate)
    strange = sorted(path.name for path in folder.iterdir() if _is_stray(path, known))
    if strange and not is_damaged:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        told = found.notes if series else found.troubles
        told.append(f"{folder.name}: no DICOM image, or damaged: {', '.join(strange[:3])}{more}")
    if not series:
        below = (
            Path(top) for top, _, files in os.walk(folder) if any(is_dicom_file(Path(top, name)) for name in files)
        )
        deeper = next((place for place in below if place != folder), None)
        if deeper is not None:
            place = deeper.relative_to(folder.parent)
            found.troubles.append(f"{place}: DICOM files lie deeper than in a series' own folder")


def _leave_out_parts(found: _Found) -> None:
    """Take series out of the scans of which each of several folders holds a part: half a scan is none.

    Copies, echoes and time points under one UID are several scans, each whole: their slices lie at the same places.
    """
    by_uid: dict[str, list[_Candidate]] = defaultdict(list)
    for each in found.scans:
        by_uid[each.series.uid].append(each)
    for parts in by_uid.values():
        if len(parts) > 1 and _are_parts(parts):
            listed = ", ".join(f"{each.folder.name} ({len(each.series.files)} files)" for each in parts)
            found.troubles.append(f"one series lies in several folders: {listed}; expected it in one")
            found.scans = [each for each in found.scans if each not in parts]


def _are_parts(candidates: Sequence[_Candidate]) -> bool:
    try:
        return any(share_no_place(one.series, other.series) for one, other in combinations(candidates, 2))
    except (DiffuGTSError, RuntimeError):  # which is told when their turn comes
        return False


def _said(folder: Path, error: Exception) -> str:
    """Return a remark on a folder: what a refusal says, without the path; of GDCM the last line."""
    said = error.message if isinstance(error, DiffuGTSError) else str(error).splitlines()[-1]
    return f"{folder.name}: {said.replace(f'{folder}: ', '').replace(f'{folder}{os.sep}', '')}"


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
