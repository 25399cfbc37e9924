"""Folders of scans: which files are scans, what a scan is called, and which mask belongs to it."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.dicom_damage import is_dicom_file
from DiffuGTSLib.volumes.io import READ_SUFFIXES, is_image, scan_name

_LONGEST_NAME_BYTES = 240
"""Of 255 that file systems allow; a mask of a scan's name has a suffix besides."""


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

    Image files below a folder are not searched for: masks lie among them. A scan is called by its path below the folder that
    was named, whatever else lies there, so that a scan that is added renames no other; a file or series that was named itself
    by its own name. Where two are called alike all the same, as many folders above as tell them apart come before. A name
    that is too long for a file system is cut and ends with a digest of itself.

    Args:
        paths: What was named.
        leave_out: A folder that is not looked into: of the results, which may lie among the scans.

    Raises:
        InputError: If a path is not there, holds no scan (code "missing"), or image files as well as folders of DICOM series
            (code "folder"), a folder cannot be looked into (code "unreadable"), or two scans are called alike (code "names").
    """
    folders_above: dict[Path, int] = {}
    for path in paths:
        try:
            if not path.exists():
                raise InputError(f"There is no {path}.", hint="check the spelling.", code="missing")
            for scan in _below(path, leave_out) if path.is_dir() else [path]:
                folders_above.setdefault(scan.absolute(), max(0, len(scan.relative_to(path).parts) - 1))
        except OSError as error:
            raise InputError(
                f"{error.filename or path} cannot be looked into: {error.strerror or error}.",
                hint="check that you may read it; or name the folders of the scans, without it.",
                code="unreadable",
            ) from error
    return _named(folders_above)


def require_names_apart(scans: Iterable[Path]) -> None:
    """Refuse files of one folder that would be called alike: the result of one would replace the other's.

    Raises:
        InputError: Naming two (code "names").
    """
    called: dict[str, Path] = {}
    for scan in scans:
        first = called.setdefault(_as_disks_compare(_called(scan)), scan)
        if first != scan:
            raise _alike(first, scan)


def _alike(first: Path, second: Path) -> InputError:
    return InputError(
        f"{first} and {second} would both be called {_called(first)}.",
        hint="rename one, or give each a folder of its own; to many disks capital and small letters are the same.",
        code="names",
    )


def _below(folder: Path, leave_out: Path) -> list[Path]:
    """Return a folder's image files; where there are none, the folders below it that hold a DICOM file.

    Raises:
        InputError: If there are none of either (code "missing"), or some of both (code "folder").
        OSError: If a folder cannot be looked into.
    """
    images = sorted(path for path in folder.iterdir() if is_image(path))
    series, deeper = [], ""
    for place, files in _folders(folder, leave_out, closed_are_refused=not images):
        found = [place / name for name in sorted(files) if not name.startswith(".") and name != "DICOMDIR"]
        if any(is_dicom_file(path) for path in found):
            series.append(place)
        deeper = deeper or next((str(path) for path in found if is_image(path)), "")
        if images and series:
            raise InputError(
                f"{folder} holds image files, as {images[0].name}, and DICOM files, as in {series[0]}.",
                hint=f"name the files that are scans, as {folder}/*.nii.gz, or put those that are none elsewhere.",
                code="folder",
            )
    if not images and not series:
        raise InputError(
            f"{folder} holds neither image files nor folders of DICOM files.",
            hint=f"image files lie deeper, as {deeper}: name those that are scans, as in scans/*/ct.nii.gz."
            if deeper
            else f"image files end in {', '.join(READ_SUFFIXES)}.",
            code="missing",
        )
    return images or sorted(series)


def _folders(folder: Path, leave_out: Path, closed_are_refused: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, names of its files) of each folder below one, but not of `leave_out`; each once, and links last.

    So what lies behind a symbolic link is found, called by its own place where it has one here, and no circle is endless.

    Args:
        folder: Where to begin.
        leave_out: A folder that is not looked into.
        closed_are_refused: Off passes over what cannot be looked into.

    Raises:
        OSError: If one cannot be looked into.
    """

    def stop(error: OSError) -> None:
        if closed_are_refused:
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


def _named(scans: Mapping[Path, int]) -> dict[str, Path]:
    """Call each scan by its path from so many folders above, and those that are called alike from one more, until they differ.

    Those of which all folders are called alike, as a/b_c and a_b/c, get a number.

    Raises:
        InputError: If two of one folder are called alike (code "names").
    """
    folders_above = dict(scans)
    while True:
        alike: dict[str, list[Path]] = defaultdict(list)
        names: dict[Path, str] = {}
        for path, above in folders_above.items():
            folders = path.relative_to(path.anchor).parts[:-1]  # the root, joined to -o, would lead out of it
            names[path] = _cut("_".join([*folders[max(0, len(folders) - above) :], _called(path)]))
            alike[_as_disks_compare(names[path])].append(path)
        groups = [group for group in alike.values() if len(group) > 1]
        for first, second, *_ in groups:
            if first.parent == second.parent:
                raise _alike(first, second)
        if not any(folders_above[path] < len(path.parents) - 1 for group in groups for path in group):
            return _numbered({path: names[path] for group in alike.values() for path in group})
        for path in (path for group in groups for path in group):
            folders_above[path] += 1


def _cut(name: str) -> str:
    """Return a name that a file system takes: a long one is cut, and a digest tells it from others that begin alike."""
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) <= _LONGEST_NAME_BYTES:
        return name
    digest = f"_{sha256(encoded).hexdigest()[:8]}"
    return encoded[: _LONGEST_NAME_BYTES - len(digest)].decode(errors="ignore") + digest


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
