"""Folders of scans: which files are scans, what a scan is called, and which mask belongs to it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.dicom_damage import is_dicom
from DiffuGTSLib.volumes.io import READ_SUFFIXES, is_image, scan_name


def scans_in(folder: Path) -> list[Path]:
    """Return a folder's image files.

    Raises:
        InputError: If there is none (code "missing").
    """
    found = sorted(path for path in folder.iterdir() if is_image(path))
    if not found:
        raise InputError(
            f"There is no scan in {folder}.", hint=f"scans end in {', '.join(READ_SUFFIXES)}.", code="missing"
        )
    return found


def mask_named(name: str, folder: Path) -> Path:
    """Return the file of a scan's name in a folder of masks.

    Raises:
        InputError: If there is none, or more than one (code "missing").
    """
    alike = [path for path in sorted(folder.iterdir()) if is_image(path) and scan_name(path) == name]
    if len(alike) != 1:
        raise InputError(
            f"{name}: expected one mask of its name in {folder}, found {len(alike)}.",
            hint="give scan and mask the same name, as in scans/case1.nii.gz and masks/case1.nii.gz.",
            code="missing",
        )
    return alike[0]


def scans_below(paths: Sequence[Path], leave_out: Path) -> dict[str, Path]:
    """Return name → scan of what was named: files, folders of image files, folders of DICOM series at any depth.

    Image files below a folder are not searched for: masks lie among them. A scan is called by its file or by its series'
    folder; where two are called alike, by as many of the folders above as tell them apart.

    Args:
        paths: What was named.
        leave_out: A folder that is not looked into: of the results, which may lie among the scans.

    Raises:
        InputError: If a path is not there, holds no scan (code "missing"), a folder cannot be looked into (code
            "unreadable"), or two scans are called alike (code "names").
    """
    scans: list[Path] = []
    for path in paths:
        try:
            if not path.exists():
                raise InputError(f"There is no {path}.", hint="check the spelling.", code="missing")
            scans += _below(path, leave_out) if path.is_dir() else [path]
        except OSError as error:
            raise InputError(
                f"{error.filename or path} cannot be looked into: {error.strerror or error}.",
                hint="check that you may read it; or name the folders of the scans, without it.",
                code="unreadable",
            ) from error
    return _named([path.absolute() for path in dict.fromkeys(scans)])


def _below(folder: Path, leave_out: Path) -> list[Path]:
    """Return a folder's image files; where there are none, the folders below it that hold a DICOM file.

    Raises:
        InputError: If there are none of either (code "missing").
        OSError: If a folder cannot be looked into.
    """
    images = sorted(path for path in folder.iterdir() if is_image(path))
    if images:
        return images
    series, deeper = [], ""
    for place, files in _folders(folder, leave_out):
        found = [place / name for name in sorted(files) if not name.startswith(".") and name != "DICOMDIR"]
        if any(_is_dicom(path) for path in found):
            series.append(place)
        deeper = deeper or next((str(path) for path in found if is_image(path)), "")
    if not series:
        raise InputError(
            f"{folder} holds neither image files nor folders of DICOM files.",
            hint=f"image files lie deeper, as {deeper}: name those that are scans, as in scans/*/ct.nii.gz."
            if deeper
            else f"image files end in {', '.join(READ_SUFFIXES)}.",
            code="missing",
        )
    return sorted(series)


def _folders(folder: Path, leave_out: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, names of its files) of each folder below one, but not of `leave_out`; each once, and links last.

    So what lies behind a symbolic link is found, called by its own place where it has one here, and no circle is endless.

    Raises:
        OSError: If one cannot be looked into.
    """

    def stop(error: OSError) -> None:
        raise error

    seen, waiting = {leave_out.resolve()} - {folder.resolve()}, [folder]
    while waiting:
        for top, inner, files in os.walk(waiting.pop(0), onerror=stop):
            place = Path(top)
            if place.resolve() in seen:
                inner.clear()
                continue
            seen.add(place.resolve())
            inner.sort()
            waiting += [place / name for name in inner if (place / name).is_symlink()]
            yield place, files


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def _named(scans: Sequence[Path]) -> dict[str, Path]:
    """Call each scan by its name, and those that are called alike by one folder more, until they differ.

    Those of which all folders are called alike, as a/b_c and a_b/c, get a number.
    """
    folders_above = dict.fromkeys(scans, 0)
    while True:
        alike: dict[str, list[Path]] = defaultdict(list)
        names: dict[Path, str] = {}
        for path, above in folders_above.items():
            folders = path.relative_to(path.anchor).parts[:-1]  # the root, joined to -o, would lead out of it
            names[path] = "_".join([*folders[max(0, len(folders) - above) :], _called(path)])
            alike[_as_disks_compare(names[path])].append(path)
        groups = [group for group in alike.values() if len(group) > 1]
        for first, second, *_ in groups:
            if first.parent == second.parent:
                raise InputError(
                    f"{first} and {second} would both be called {_called(first)}.",
                    hint="rename one, or give each a folder of its own; to many disks capital and small letters are the same.",
                    code="names",
                )
        if not any(folders_above[path] < len(path.parents) - 1 for group in groups for path in group):
            return _numbered({path: names[path] for group in alike.values() for path in group})
        for path in (path for group in groups for path in group):
            folders_above[path] += 1


def _numbered(names: Mapping[Path, str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    taken: set[str] = set()
    wanted = {_as_disks_compare(name) for name in names.values()}
    for path, name in names.items():
        free = (f"{name}_{number}" for number in count(2))
        used = _as_disks_compare(name) in taken
        called = next(one for one in free if _as_disks_compare(one) not in wanted | taken) if used else name
        taken.add(_as_disks_compare(called))
        named[called] = path
    return named


def _as_disks_compare(name: str) -> str:
    """Return what two names have in common that lead to one folder on disks of macOS, Windows and their shares."""
    return unicodedata.normalize("NFC", name).casefold()


def _called(path: Path) -> str:
    return path.name if path.is_dir() else scan_name(path)
