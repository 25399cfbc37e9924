"""Folders of scans: which files are scans, what a scan is called, and which mask belongs to it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.io import READ_SUFFIXES, scan_name


def is_scan(path: Path) -> bool:
    """Tell whether a file's name is an image's; macOS leaves `._name` beside what it packs."""
    return path.name.lower().endswith(READ_SUFFIXES) and not path.name.startswith(".")


def scans_in(folder: Path) -> list[Path]:
    """Return a folder's image files.

    Raises:
        InputError: If there is none (code "missing").
    """
    found = sorted(path for path in folder.iterdir() if is_scan(path))
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
    alike = [path for path in sorted(folder.iterdir()) if path.is_file() and scan_name(path) == name]
    if len(alike) != 1:
        raise InputError(
            f"{name}: expected one mask of its name in {folder}, found {len(alike)}.",
            hint="give scan and mask the same name, as in scans/case1.nii.gz and masks/case1.nii.gz.",
            code="missing",
        )
    return alike[0]


def scans_below(paths: Sequence[Path], leave_out: Path) -> dict[str, Path]:
    """Return name → scan of what was named: files, folders of image files, folders of DICOM series at any depth.

    A scan is called by its file or by its series' folder; where two are called alike, by the folder above as well.

    Args:
        paths: What was named.
        leave_out: A folder that is not looked into: of the results, which may lie among the scans.

    Raises:
        InputError: If a path is not there, holds no scan, or two scans are still called alike.
    """
    scans: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"There is no {path}.", hint="check the spelling.", code="missing")
        found = list(_below(path, leave_out)) if path.is_dir() else [path]
        if not found:
            raise InputError(
                f"{path} holds neither image files nor folders of DICOM files.",
                hint=f"image files end in {', '.join(READ_SUFFIXES)}.",
                code="missing",
            )
        scans += found
    scans = list(dict.fromkeys(scans))
    alike = Counter(_called(path) for path in scans)
    named: dict[str, Path] = {}
    for path in scans:
        name = _called(path) if alike[_called(path)] == 1 else f"{path.absolute().parent.name}_{_called(path)}"
        if name in named:
            raise InputError(
                f"{named[name]} and {path} would both be called {name}.",
                hint="rename one, or give each a folder of its own.",
                code="names",
            )
        named[name] = path
    return named


def _called(path: Path) -> str:
    return path.absolute().name if path.is_dir() else scan_name(path)


def _below(folder: Path, leave_out: Path) -> Iterator[Path]:
    """Go through a folder's image files; where there are none, through the folders below it that hold other files."""
    images = sorted(path for path in folder.iterdir() if is_scan(path))
    if images:
        yield from images
        return
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if (Path(place) / name).resolve() != leave_out.resolve())
        if any(not name.startswith(".") and name.upper() != "DICOMDIR" for name in files):
            yield Path(place)
