"""The scans of a reading session: found in a folder or a list, brought to one orientation, cut, put on one grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.case_files import label_values, read_tumor_mask
from DiffuGTSLib.masks import largest_part
from DiffuGTSLib.synthesis.case import SCAN, TUMOR
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.io import READ_SUFFIXES, is_image, read_volume, scan_name
from DiffuGTSLib.volumes.volume import Geometry, Volume, closest_ras, require_scan

MASK_ENDINGS = ("_tumor", "_lesion", "_mask", "_label", "_seg")
"""Before the suffix: `a_tumor.nii.gz` is the mask of `a.nii.gz`, never a scan."""

_AROUND_MM = 12.0
"""Kept around a crop while it is resampled, so that its edge is interpolated like its middle."""
_ANTIALIAS = 0.5
"""Standard deviation of the blur before a coarser grid, per axis: this times √(ratio² − 1) source voxels."""


@dataclass(frozen=True)
class CaseFile:
    """A scan on the disk, the mask of its tumor where there is one, and the truth about it.

    Attributes:
        scan: File or DICOM folder.
        mask: On its grid.
        truth: "real" or "synthetic".
        label: Values of the mask that are the tumor; none where it holds one only.
    """

    scan: Path
    mask: Path | None
    truth: str
    label: tuple[int, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """What is done to every scan alike.

    Attributes:
        crop_mm: Side of the cube around the tumor; None: the whole scan.
        spacing_mm: The grid to resample to, along R, A and S; None: each scan's own.
        limits: Intensities are cut off below and above; None: as they are.
    """

    crop_mm: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    limits: tuple[float, float] | None = None


def list_cases(source: Path | str, truth: str) -> list[CaseFile]:
    """Return the scans of a folder, or of a list.

    Args:
        source: A folder of scans, each with its mask beside it (`a.nii.gz`, `a_tumor.nii.gz`) or without; a folder of
            painted cases, as `diffugts synthesize` writes them; or a text file with one scan a line, optionally followed by its mask after a comma or a tab, and that by the tumor's
            label where the mask holds several (2, or 1 2). Relative paths start from the list's folder; lines that begin with # are passed over.
        truth: "real" or "synthetic".

    Raises:
        InputError: If the source or one of its files is missing, or it holds no scan.
    """
    source = Path(source)
    if source.is_dir():
        cases = _of_folder(source, truth)
    elif source.is_file() and not source.name.lower().endswith(READ_SUFFIXES):
        cases = _of_list(source, truth)
    else:
        raise InputError(
            f"The {truth} scans: expected a folder or a list, got {source}.",
            hint="a list is a text file with one scan a line.",
            code="missing",
        )
    if not cases:
        raise InputError(
            f"{source} holds no {truth} scan.", hint=f"known are {', '.join(READ_SUFFIXES)}.", code="empty"
        )
    return sorted(cases, key=lambda case: case.scan.as_posix())


def read_case(case: CaseFile) -> Volume:
    """Read one scan as it is.

    Raises:
        InputError: If it cannot be read, or shows nothing.
    """
    volume = read_volume(case.scan)
    require_scan(volume)
    return volume


def prepared(volume: Volume, case: CaseFile, preparation: Preparation) -> Volume:
    """Return a scan with its voxel axes along R, A, S; resampled, cut and limited as asked.

    Args:
        volume: From `read_case`.
        case: Where it comes from.
        preparation: What is done to every scan of the session.

    Raises:
        InputError: If a crop is asked for and there is no mask, the mask is empty or holds several labels of
            which none is named, or the scan is smaller than the crop.
        GeometryError: If the mask lies on another grid.
    """
    center = None if preparation.crop_mm is None else tumor_center_ras(case, volume.geometry)
    volume = in_ras_order(volume)
    if preparation.spacing_mm is not None:
        if center is not None and preparation.crop_mm is not None:
            volume = _cut(volume, center, preparation.crop_mm + 2 * _AROUND_MM, None)
        volume = resampled(volume, preparation.spacing_mm)
    if center is not None and preparation.crop_mm is not None:
        volume = _cut(volume, center, preparation.crop_mm, case.scan)
    if preparation.limits is not None:
        volume = volume.with_array(np.clip(volume.array, *preparation.limits))
    return volume


def tumor_center_ras(case: CaseFile, geometry: Geometry) -> Float[np.ndarray, "3"]:
    """Return the middle of the box around the largest tumor, RAS mm.

    The middle of the box, not of mass: an outline drawn by hand and one that was painted have it by the same rule.

    Raises:
        InputError: If there is no mask, or it is empty, or holds several labels of which none is named.
        GeometryError: If it lies on another grid than the scan.
    """
    if case.mask is None:
        stem = scan_name(case.scan)
        raise InputError(
            f"{case.scan}: a crop needs to know where the tumor is, and there is no mask.",
            hint=f"put {stem}{MASK_ENDINGS[0]}.nii.gz beside it, name it in the list, or read whole scans.",
            code="no_mask",
        )
    hint = "give a list instead of a folder, with the tumor's label after the mask: ct.nii.gz, labels.nii.gz, 2"
    mask = read_tumor_mask(case.mask, geometry, case.label, hint).array > 0
    if not mask.any():
        raise InputError(f"{case.mask} is empty: there is no tumor to cut around.", code="empty_mask")
    box = bounding_box(largest_part(mask))
    return geometry.to_ras(np.array([(side.start + side.stop - 1) / 2 for side in box]))


def in_ras_order(volume: Volume) -> Volume:
    """Return the same voxels with the axes in closest RAS order; nothing is interpolated."""
    permutation, signs = closest_ras(volume.geometry)
    array = np.transpose(volume.array, permutation)[tuple(slice(None, None, sign) for sign in signs)]
    turn = np.zeros((4, 4))
    turn[permutation, range(3)] = signs
    turn[permutation, 3] = np.where(signs < 0, np.array(array.shape) - 1, 0)
    turn[3, 3] = 1
    return replace(volume, array=array, geometry=Geometry(array.shape, volume.geometry.ijk_to_ras @ turn))


def resampled(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    """Return a volume on a grid of other spacing along the same axes.

    No voxel center of the new grid lies on one of the old grid where both have the same spacing: a scan that needs no
    change is interpolated like all others, and is not the only one that kept its sharpness.
    """
    before = np.array(volume.geometry.spacing_mm)
    ratio = np.array(spacing_mm) / before
    # The first voxel lies half a new voxel, plus a quarter of an old one, from the edge of the field of view.
    first = ratio / 2 - 0.5 + 0.25
    shape = np.maximum(np.floor((np.array(volume.geometry.shape) - 0.25) / ratio + 1e-6), 1).astype(int)
    blur = _ANTIALIAS * np.sqrt(np.maximum(ratio**2 - 1, 0))
    smooth = ndimage.gaussian_filter(volume.array.astype(np.float32), blur, mode="nearest")
    array = ndimage.affine_transform(smooth, ratio, first, tuple(shape), order=3, mode="nearest")
    matrix = volume.geometry.ijk_to_ras.copy()
    matrix[:3, 3] = volume.geometry.to_ras(first)
    matrix[:3, :3] = matrix[:3, :3] * ratio
    a, b, c = (int(side) for side in shape)
    return replace(volume, array=array.astype(np.float32), geometry=Geometry((a, b, c), matrix))


def _cut(volume: Volume, center_ras: Float[np.ndarray, "3"], side_mm: float, required_by: Path | None) -> Volume:
    """Cut a cube out; where the tumor lies at the edge it moves inwards, since padding would show.

    Args:
        volume: In RAS order.
        center_ras: Middle of the cube, where there is room.
        side_mm: Side of the cube.
        required_by: The scan, which must be large enough; None: a smaller piece will do.

    Raises:
        InputError: If the scan is smaller than the cube.
    """
    shape = np.array(volume.geometry.shape)
    wanted = np.maximum(np.round(side_mm / np.array(volume.geometry.spacing_mm)), 1).astype(int)
    if required_by is not None and (wanted > shape).any():
        extent = " x ".join(f"{side:.0f}" for side in volume.geometry.extent_mm)
        raise InputError(
            f"{required_by} is smaller than the crop: expected at least {side_mm:g} mm along each axis, got {extent} mm.",
            hint="choose a smaller --crop-mm; padding would tell such a scan from others.",
            code="crop",
        )
    side = np.minimum(wanted, shape)
    start = np.clip(np.round(volume.geometry.to_ijk(center_ras) - (side - 1) / 2), 0, shape - side).astype(int)
    i, j, k = (slice(int(a), int(a + n)) for a, n in zip(start, side, strict=True))
    piece = volume.cut((i, j, k))
    return piece.with_array(np.ascontiguousarray(piece.array))


def _of_folder(folder: Path, truth: str) -> list[CaseFile]:
    # What `diffugts synthesize` writes: a case, a folder of cases, or with --repeat two floors of folders.
    places = (folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/")))
    painted = sorted(place for place in places if (place / SCAN).is_file())
    if painted:
        return [
            CaseFile(place / SCAN, place / TUMOR if (place / TUMOR).is_file() else None, truth) for place in painted
        ]
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_image(path)]
    scans = [path for path in files if not scan_name(path).endswith(MASK_ENDINGS)]
    masks = {scan_name(path): path for path in files if path not in scans}
    return [CaseFile(scan, _mask_of(scan, masks), truth) for scan in scans]


def _mask_of(scan: Path, masks: dict[str, Path]) -> Path | None:
    found: Sequence[Path] = [masks[name] for e in MASK_ENDINGS if (name := f"{scan_name(scan)}{e}") in masks]
    return found[0] if found else None


def _of_list(path: Path, truth: str) -> list[CaseFile]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no list: it is not text in UTF-8.", code="unreadable") from error
    cases = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in line.replace("\t", ",").split(",") if part.strip()]
        paths = [path.parent / part for part in parts[:2]]
        missing = [p for p in paths if not p.exists()]
        if missing or len(parts) > 3:
            said = f"expected a scan, its mask and the tumor's label, got {len(parts)} words"
            what = f"there is no {missing[0]}" if missing else said
            raise InputError(
                f"{path}, line {number}: {what}.", hint="paths start from the list's folder.", code="missing"
            )
        label = label_values(parts[2], f"{path}, line {number}") if len(parts) == 3 else ()
        cases.append(CaseFile(paths[0], paths[1] if len(paths) == 2 else None, truth, label))
    return cases
