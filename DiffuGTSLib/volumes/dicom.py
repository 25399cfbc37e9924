"""Chooses the one CT or MR series of a DICOM folder and refuses slices that do not make a box.

GDCM groups and decodes; every check on positions is ours, since ITK turns gaps, tilts and repeated slices
into a box of some average spacing. Positions are compared along the slice normal, so no frame is named here.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.storage import require_name
from DiffuGTSLib.volumes.dicom_damage import damaged_slices, holds_other_objects
from DiffuGTSLib.volumes.volume import SCAN_MODALITIES

NO_SCANS = ("no_scan", "single_slice")
"""Codes of what an archive holds beside scans: segmentations, reports and scouts."""
GAP_TOLERANCE = 0.05
"""How far a slice may lie from its even place, as a share of the slice distance."""
DRIFT_TOLERANCE_MM = 0.1
"""How far slice corners may stray sideways from the normal: beyond it the gantry was tilted."""
DIRECTION_TOLERANCE = 1e-4
"""Largest difference between direction cosines of slices of one orientation."""

_DARK_IS_MORE = "MONOCHROME1"
_PHOTOMETRIC = re.compile(rb"((?:\x28\0\x04\0(?:CS\x0c\0|\x0c\0{3})|\0\x28\0\x04CS\0\x0c)MONOCHROME)1")
"""The element 0028,0004 as it stands in a file that says MONOCHROME1: explicit, implicit, big-endian."""

_NOT_A_BOX = "load it in 3D Slicer, which can straighten acquisitions, and save the volume as .nrrd."


@dataclass(frozen=True, eq=False)
class Slice:
    """One file of a series as far as geometry goes; mm, in the patient frame of DICOM.

    Attributes:
        is_inverted: Whether it is to be shown with its largest value black (MONOCHROME1), see `stored_files`.
    """

    file: str
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    grid: tuple[int, int, float, float]
    is_inverted: bool = False

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file).name


@dataclass(frozen=True)
class Series:
    """One series of a folder.

    Attributes:
        uid: Its SeriesInstanceUID.
        modality: "CT", "MR", "SEG"…
        files: Of its images, in no order.
        frames: Of the first file; more than one is a multi-frame file, which is not read.
    """

    uid: str
    modality: str
    files: tuple[str, ...]
    frames: int = 1

    def __str__(self) -> str:
        # For messages, which end in logs and tables: the description may hold a name, a file leads there as well.
        return f"{self.modality} of {len(self.files)} file(s), first {Path(min(self.files)).name}, uid {self.uid}"


def list_series(folder: Path) -> list[Series]:
    """Return every DICOM series whose files lie directly in a folder; what is no DICOM image is passed over."""
    require_name(folder)
    found = []
    with without_warnings():
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
            files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
            header = _header(files[0])
            found.append(Series(uid, _tag(header, "0008|0060"), tuple(files), _frames(header)))
    return found


@dataclass
class _Quiet:
    """Who keeps ITK's warnings off, and how they were before."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: int = 0
    before: bool = True


_QUIET = _Quiet()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep ITK's warnings off the console: what matters in them is refused by our own checks.

    The switch is the whole process's: of several threads the first turns it, and the last turns it back.
    """
    with _QUIET.lock:
        if not _QUIET.threads:
            _QUIET.before = sitk.ProcessObject.GetGlobalWarningDisplay()
            sitk.ProcessObject.SetGlobalWarningDisplay(False)
        _QUIET.threads += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.threads -= 1
            if not _QUIET.threads:
                sitk.ProcessObject.SetGlobalWarningDisplay(_QUIET.before)


def the_scan(folder: Path) -> Series:
    """Return the folder's one CT or MR series.

    Segmentations, dose, structures and other objects beside the scan are passed over.

    Raises:
        InputError: If there is no CT or MR series, or more than one; each is listed (code "no_scan" where there are other
            objects, else "dicom_series"). If a slice of it is so damaged that it is passed over (code "dicom_damaged").
    """
    found = list_series(folder)
    scans = [series for series in found if series.modality in SCAN_MODALITIES]
    if len(scans) != 1:
        listed = "; ".join(str(series) for series in (scans or found))
        of_other_kinds = not scans and (bool(found) or holds_other_objects(folder))
        got = "DICOM objects of other kinds" if of_other_kinds else "no DICOM images"
        raise InputError(
            f"{folder}: expected one CT or MR series, got {f'{len(scans)}: {listed}' if listed else got}.",
            hint="pass a folder that holds the files of one series only.",
            code="no_scan" if of_other_kinds else "dicom_series",
        )
    require_whole(folder, found, scans[0])
    return scans[0]


def require_whole(folder: Path, found: Sequence[Series], scan: Series) -> None:
    """Refuse a series of which GDCM passed damaged slices over.

    Args:
        folder: Of the series.
        found: Every series of the folder.
        scan: One of them.

    Raises:
        InputError: Naming them (code "dicom_damaged").
    """
    damaged = damaged_slices(folder, [file for series in found for file in series.files], scan.files)
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise InputError(
            f"{folder}: {len(damaged)} file(s) of the series are empty or end early: {', '.join(damaged[:3])}{more}; "
            f"{len(scan.files)} are whole.",
            hint="copy or export the series again; if they are no slices of it, put them elsewhere.",
            code="dicom_damaged",
        )


def share_no_place(first: Series, second: Series) -> bool:
    """Tell whether no slice of one series lies where one of another does: two parts, and no copies or time points.

    Raises:
        InputError: As `ordered_slices`.
        GeometryError: If a slice does not say where it lies.
    """
    with without_warnings():
        places = [{tuple(np.round(_slice(file).position, 3)) for file in each.files} for each in (first, second)]
    return places[0].isdisjoint(places[1])


def ordered_slices(series: Series) -> list[Slice]:
    """Return the slices of a series in order along their normal.

    Raises:
        InputError: If a file holds several frames, or colors.
        GeometryError: If slices are missing, uneven, repeated, tilted, of several orientations or grids, or if there is only
            one (code "single_slice"), as of a scout.
    """
    slices = [_slice(file) for file in series.files]
    try:
        return _in_order(slices)
    except GeometryError as error:
        raise GeometryError(
            f"{Path(series.files[0]).parent}: {error.message}", hint=error.hint, code=error.code
        ) from None


@contextmanager
def stored_files(slices: Sequence[Slice]) -> Iterator[list[str]]:
    """Yield the files of slices such that GDCM reads the values that are stored in them.

    Where a file says MONOCHROME1, GDCM mirrors what is stored, before the rescale and by a range that depends on the codec. That
    is how to show an image, not what it measures: HU would come out mirrored. Such a file is read from a copy that says
    MONOCHROME2.

    Raises:
        InputError: If the word is not found in a file, as in a deflated one (code "dicom_inverted").
    """
    if not any(each.is_inverted for each in slices):
        yield [each.file for each in slices]
        return
    with tempfile.TemporaryDirectory(prefix="diffugts-dicom-") as folder:
        yield [
            _upright(each.file, Path(folder, f"{number}.dcm")) if each.is_inverted else each.file
            for number, each in enumerate(slices)
        ]


def _upright(file: str, copy: Path) -> str:
    copy.write_bytes(_PHOTOMETRIC.sub(rb"\g<1>2", Path(file).read_bytes()))
    if _is_inverted(_header(str(copy))):
        raise InputError(
            f"{file} is MONOCHROME1 and deflated or written oddly; its values would be read mirrored.",
            hint="write it with an explicit VR and little-endian first, for example with dcmconv --write-xfer-little.",
            code="dicom_inverted",
        )
    return str(copy)


def _is_inverted(header: sitk.ImageFileReader) -> bool:
    return _tag(header, "0028|0004") == _DARK_IS_MORE


def _header(file: str) -> sitk.ImageFileReader:
    require_name(Path(file))
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _tag(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip(" \0") if header.HasMetaDataKey(tag) else ""


def _frames(header: sitk.ImageFileReader) -> int:
    size = header.GetSize()
    return int(size[2]) if len(size) > 2 else 1


def _slice(file: str) -> Slice:
    header = _header(file)
    size = header.GetSize()
    if _frames(header) > 1:
        raise InputError(
            f"{file} is a multi-frame DICOM file ({_frames(header)} frames); expected one file a slice.",
            hint="load it in 3D Slicer and save the volume as .nrrd.",
            code="dicom_multiframe",
        )
    if header.GetNumberOfComponents() != 1:
        raise InputError(
            f"{file} is a color image; expected one value a voxel.", hint="pass the original CT or MR series."
        )
    position = _numbers(header, "0020|0032", 3, file, "ImagePositionPatient")
    cosines = _numbers(header, "0020|0037", 6, file, "ImageOrientationPatient")
    vertical, horizontal = _numbers(header, "0028|0030", 2, file, "PixelSpacing").tolist()
    grid = (size[0], size[1], horizontal, vertical)
    return Slice(file, position, cosines[:3], cosines[3:], grid, _is_inverted(header))


def _numbers(header: sitk.ImageFileReader, tag: str, count: int, file: str, name: str) -> NDArray[np.float64]:
    parts = _tag(header, tag).split("\\")
    try:
        values = np.array([float(part) for part in parts])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise GeometryError(
            f"{file}: expected {count} numbers in {name} ({tag.replace('|', ',')}), got '{_tag(header, tag)}'.",
            hint="export the series again; without it nobody knows where the slice lies.",
        )
    return values


def _in_order(slices: list[Slice]) -> list[Slice]:
    """Sort slices along their normal after checking that they stack to a box with perpendicular sides."""
    first = slices[0]
    if len(slices) < 2:
        raise GeometryError(
            f"{first.name} is a single slice; expected a series of at least 2.",
            hint="pass the whole series.",
            code="single_slice",
        )
    for other in slices[1:]:
        if other.grid != first.grid:
            raise GeometryError(
                f"Slices of one series differ in size: {first.name} has columns, rows and mm {first.grid}, "
                f"{other.name} has {other.grid}.",
                hint="sort the images of each size into a folder of their own.",
            )
        turn = max(np.abs(other.row - first.row).max(), np.abs(other.column - first.column).max())
        if turn > DIRECTION_TOLERANCE:
            raise GeometryError(
                f"Slices of one series have several orientations: {first.name} and {other.name} differ by {turn:.4g} in a "
                f"direction cosine (allowed {DIRECTION_TOLERANCE:g}).",
                hint="a localizer or reformat: sort the images of each orientation into a folder of their own.",
            )
    normal = np.cross(first.row, first.column)
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    offsets = np.array([s.position - ordered[0].position for s in ordered])
    _check_gaps(ordered, offsets @ normal)
    _check_tilt(offsets, normal)
    return ordered


def _check_gaps(ordered: list[Slice], heights_mm: NDArray[np.float64]) -> None:
    gaps = np.diff(heights_mm)
    usual = float(np.median(gaps))
    worst = int(np.argmin(gaps)) if gaps.min() <= 1e-3 else int(np.argmax(np.abs(gaps - usual)))
    between = f"between {ordered[worst].name} and {ordered[worst + 1].name}, {heights_mm[worst]:.4g} mm into the series"
    if gaps[worst] <= 1e-3:
        raise GeometryError(
            f"Several slices lie at one position: {between}.",
            hint="time points, echoes or b-values: sort them into a folder each.",
        )
    even = np.linspace(0.0, heights_mm[-1], len(ordered))
    if np.abs(heights_mm - even).max() <= GAP_TOLERANCE * usual:
        return
    missing = round(float(gaps[worst]) / usual) - 1
    if missing >= 1:
        raise GeometryError(
            f"The series lacks {missing} slice(s): a gap of {gaps[worst]:.4g} mm where {usual:.4g} mm is usual, {between}.",
            hint="export the whole series again.",
        )
    raise GeometryError(
        f"Slices are unevenly spaced: {gaps.min():.4g} to {gaps.max():.4g} mm (allowed {GAP_TOLERANCE:.0%} of {usual:.4g} mm), "
        f"worst {between}.",
        hint=_NOT_A_BOX,
    )


def _check_tilt(offsets: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    heights = offsets @ normal
    drift = np.linalg.norm(offsets - np.outer(heights, normal), axis=1)
    if drift.max() > DRIFT_TOLERANCE_MM:
        worst = int(drift.argmax())
        angle = np.degrees(np.arctan2(drift[worst], heights[worst]))
        raise GeometryError(
            f"The series is sheared (gantry tilt of about {angle:.1f} degrees): slices stray up to {drift.max():.4g} mm sideways, "
            f"allowed {DRIFT_TOLERANCE_MM:g} mm.",
            hint=_NOT_A_BOX,
        )
