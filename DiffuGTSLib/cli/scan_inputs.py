"""What the command line names: a scan, a mask on its grid, a box, a folder, a protocol; opened, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.cli.terminal import print_note
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.resources import resource_path

if TYPE_CHECKING:
    from DiffuGTSLib.volumes.io import Source
    from DiffuGTSLib.volumes.volume import Geometry, Volume


def open_scan(
    path: Path | Source, modality: str | None, quiet: bool, offset_hu: float | None = None
) -> tuple[Volume, str, str]:  # fmt: skip
    """Read a scan that a method can work on, its modality and why; that is said aloud where it had to be guessed.

    Args:
        path: Of the scan.
        modality: "CT" or "MR"; None: guessed.
        quiet: Say only that a scan was taken for MR: a CT whose offset was lost looks like one.
        offset_hu: See `with_offset`.

    Raises:
        InputError: As `read_volume`, `require_scan`, `with_offset`, `guess_modality` and `require_hu`.
    """
    from DiffuGTSLib.volumes.canonical import guess_modality
    from DiffuGTSLib.volumes.hounsfield import require_hu
    from DiffuGTSLib.volumes.io import read_volume
    from DiffuGTSLib.volumes.volume import AS_ASKED, require_scan

    volume = read_volume(path)
    require_scan(volume)
    volume = with_offset(volume, offset_hu, modality)
    kind, reason = guess_modality(volume) if modality is None else (modality, AS_ASKED)
    if kind == "CT":
        require_hu(volume)
    if modality is None and not quiet:
        print_note(f"Modality: {kind}, since {reason}.")
    elif modality is None and kind == "MR" and volume.modality is None:
        warn_of_mr(path.name, reason)
    return volume, kind, reason


def warn_of_mr(name: str, reason: str) -> None:
    """Say that a scan was taken for MR: a CT whose offset was lost looks like one."""
    said = f"Warning: {name} is taken for MR, since {reason}; say --modality MR, or CT with --offset-hu."
    print_note(said, "yellow")


def with_offset(volume: Volume, offset_hu: float | None, modality: str | None = None) -> Volume:
    """Return a CT with what is asked to be added to every voxel; None leaves the scan as it is, 0 says that it is in HU.

    Raises:
        InputError: If it is to be taken for MR, or as `in_hounsfield`.
    """
    from DiffuGTSLib.volumes.hounsfield import in_hounsfield

    if offset_hu is None:
        return volume
    require_ct(offset_hu, modality)
    return in_hounsfield(volume, offset_hu)


def require_ct(offset_hu: float | None, modality: str | None) -> None:
    """Refuse an offset for what is to be taken for MR.

    Raises:
        InputError: If an offset is given and the modality is MR (code "offset_hu").
    """
    if offset_hu is not None and modality == "MR":
        raise InputError("--offset-hu is for CT, got --modality MR.", hint="omit one.", code="offset_hu")


def open_mask(path: Path, geometry: Geometry) -> Volume:
    """Read a mask on the scan's grid.

    Raises:
        InputError: As `read_mask`; also if nothing is painted in it (code "empty_mask").
    """
    from DiffuGTSLib.volumes.io import read_mask

    return _painted(read_mask(path, geometry), path)


def open_organ(path: Path, geometry: Geometry, labels: Sequence[int] = (), hint: str = "") -> Volume:
    """Read the mask of one organ on the scan's grid; of a label map those labels that are the organ.

    Args:
        path: The mask, or a label map.
        geometry: The scan's.
        labels: Of the organ; empty: the only one that there is.
        hint: How to name them.

    Raises:
        InputError: As `read_part_mask`; also if nothing is painted in it (code "empty_mask").
    """
    from DiffuGTSLib.evaluation.case_files import read_part_mask

    return _painted(read_part_mask(path, geometry, labels, "organ", hint), path)


def _painted(mask: Volume, path: Path) -> Volume:
    if not mask.array.any():
        raise InputError(
            f"The mask {path} is empty: no voxel is above 0.", hint="paint it, or omit it.", code="empty_mask"
        )
    return mask


def require_mask_each(scans: Path, masks: Path, option: str) -> None:
    """Refuse one mask for a folder of scans; a folder of a DICOM series is one scan.

    Raises:
        InputError: Naming the option (code "folder"); or if there is no such mask (code "missing").
    """
    from DiffuGTSLib.volumes.io import is_image

    if not masks.exists():
        raise InputError(f"{option}: there is no {masks}.", hint="check the spelling.", code="missing")
    if scans.is_dir() and not masks.is_dir() and any(is_image(path) for path in scans.iterdir()):
        raise InputError(
            f"{scans} is a folder of scans and {masks} one mask.",
            hint=f"give {option} a folder with a mask of each scan's name, or one scan.",
            code="folder",
        )


def parse_roi(text: str) -> list[float]:
    """Return six bounds in RAS mm: right, anterior and superior, from and to each.

    Raises:
        InputError: If they are not six finite numbers that rise in pairs.
    """
    hint = "write --roi 'r0,r1,a0,a1,s0,s1', R, A and S growing to the patient's right, front and head."
    try:
        bounds = [float(part) for part in text.split(",")]
    except ValueError:
        bounds = []
    if len(bounds) != 6 or not all(abs(bound) < 1e6 for bound in bounds):
        raise InputError(f"--roi: expected six numbers in mm, got '{text}'.", hint=hint, code="roi")
    for axis, (low, high) in zip("RAS", zip(bounds[::2], bounds[1::2], strict=True), strict=True):
        if low >= high:
            raise InputError(f"--roi: {axis} must rise, got {low:g} to {high:g} mm.", hint=hint, code="roi")
    return bounds


def allowed_region(geometry: Geometry, organ_mask: Path | None, box: Sequence[float] | None) -> Volume | None:
    """Return where an anomaly may be: the organ, and of it what lies in the box; None for everywhere.

    Args:
        geometry: The scan's.
        organ_mask: A mask on that grid.
        box: Six bounds in RAS mm; a voxel is inside when its center is.

    Raises:
        InputError: If nothing is left, besides what `read_mask` refuses.
    """
    import numpy as np

    from DiffuGTSLib.volumes.volume import Volume

    if organ_mask is None and box is None:
        return None
    region = None if organ_mask is None else open_mask(organ_mask, geometry)
    if box is None:
        return region
    low, high = np.array(box[::2]), np.array(box[1::2])
    inside = np.empty(geometry.shape, dtype=np.uint8)
    plane = np.moveaxis(np.indices(geometry.shape[:2]), 0, -1)
    for k in range(geometry.shape[2]):  # a slice at a time: coordinates of a whole chest would take a gigabyte
        points = geometry.to_ras(np.concatenate([plane, np.full((*plane.shape[:2], 1), k)], axis=-1))
        inside[:, :, k] = ((points >= low) & (points <= high)).all(axis=-1)
    if region is not None:
        inside &= region.array
    if not inside.any():
        first, last = geometry.to_ras(np.array([[0, 0, 0], [n - 1 for n in geometry.shape]]))
        of_what = "the organ mask" if region is not None else "the scan"
        raise InputError(
            f"--roi: no voxel of {of_what} lies in the box; the scan's opposite corners are "
            f"{np.round(first).tolist()} and {np.round(last).tolist()} mm.",
            hint="R, A and S are world millimeters, not voxels; programs that show LPS have R and A reversed.",
            code="roi",
        )
    return Volume(inside, geometry)


def protocol_path(name: str) -> Path:
    """Return a bundled protocol by name, or the file of that name.

    Raises:
        InputError: If it is neither.
    """
    folder = resource_path("Protocols")
    bundled = {path.stem: path for path in folder.glob("*.json")}
    if name in bundled:
        return bundled[name]
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"Unknown protocol '{name}', and no such file.", hint=did_you_mean(name, bundled), code="missing")


def require_folder(path: Path, option: str) -> None:
    """Refuse a folder that is not there.

    Raises:
        InputError: Naming the option.
    """
    if not path.is_dir():
        raise InputError(f"{option}: there is no folder {path}.", hint="check the spelling.", code="missing")
