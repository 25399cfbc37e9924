"""Finds the slices of a DICOM folder that GDCM passed over because they are damaged.

GDCM leaves a file that ends early out of its series without a word. In the middle of a series that is a gap, which is
refused; at either end the scan would merely be shorter, and with it what is seen of the body.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from pathlib import Path

_PREAMBLE_BYTES = 128
_HEAD_BYTES = 4096
"""More than the file meta information takes, which stands at the beginning."""
_LONG_LENGTHS = {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
_STORAGE_CLASS = (0x0002, 0x0002)
_STORAGE = "1.2.840.10008.5.1.4.1.1"
_SLICES = (f"{_STORAGE}.2", f"{_STORAGE}.4")
"""CT and MR images."""
_LATER_SLICES = tuple(f"{kind}." for kind in _SLICES)
"""How the UIDs of their enhanced and converted forms begin."""


def damaged_slices(folder: Path, listed: Collection[str], scan: Collection[str]) -> list[str]:
    """Return the names of files that are no image to GDCM and yet were slices of the scan.

    That is a DICOM file of the scan's own kind (or so short that it does not say its kind), and an empty one, or one of
    zeros, that is called like the scan's. Segmentations, structures, reports, DICOMDIR, hidden files and text may lie beside.

    Args:
        folder: Of the scan.
        listed: Every file that GDCM lists, of whatever series.
        scan: Those of the scan.
    """
    known = {Path(file).name for file in listed}
    beside = [path for path in sorted(folder.iterdir()) if path.name not in known and _may_be_slice(path)]
    heads = {path.name: _head(path) for path in beside}
    if not heads:
        return []
    kinds = {storage_class(_head(Path(file))) for file in scan} | {""}
    called = _patterns(scan)
    return [
        name
        for name, head in heads.items()
        if (storage_class(head) in kinds if is_dicom(head) else _is_blank(head) and _patterns([name]) & called)
    ]


def holds_other_objects(folder: Path) -> bool:
    """Tell whether every DICOM file of a folder says that it is no CT or MR image: structures, plans, reports."""
    kinds = {storage_class(_head(path)) for path in folder.iterdir() if is_dicom_file(path)}
    return bool(kinds) and not any(kind in ("", *_SLICES) or kind.startswith(_LATER_SLICES) for kind in kinds)


def is_dicom(head: bytes) -> bool:
    """Tell whether a file begins as DICOM's do: its letters after 128 bytes, or, of old ones, its first group."""
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] == b"DICM" or head[:4] in (b"\x08\0\0\0", b"\x08\0\x05\0")


def is_dicom_file(path: Path) -> bool:
    """Tell whether a path is a file that begins as DICOM's do; one that cannot be read is none."""
    try:
        return path.is_file() and is_dicom(_head(path))
    except OSError:
        return False


def storage_class(head: bytes) -> str:
    """Return what kind of object a file says that it holds, a UID; "" where it does not say."""
    if head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] != b"DICM":
        return ""
    place = _PREAMBLE_BYTES + 4
    while place + 12 <= len(head):
        group, element = struct.unpack_from("<2H", head, place)
        if group != _STORAGE_CLASS[0]:
            return ""
        if head[place + 4 : place + 6] in _LONG_LENGTHS:
            length, start = struct.unpack_from("<I", head, place + 8)[0], place + 12
        else:
            length, start = struct.unpack_from("<H", head, place + 6)[0], place + 8
        value = head[start : start + length]
        if (group, element) == _STORAGE_CLASS:
            return value.rstrip(b"\0 ").decode("ascii", errors="replace") if len(value) == length else ""
        place = start + length
    return ""


def _may_be_slice(path: Path) -> bool:
    return not path.name.startswith(".") and path.name != "DICOMDIR" and path.is_file()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _is_blank(head: bytes) -> bool:
    """Tell whether nothing is there: an empty file, or the zeros that a broken copy leaves in place of its content."""
    return not head[:_PREAMBLE_BYTES].strip(b"\0")


def _patterns(files: Iterable[str]) -> set[str]:
    """Return what names have in common, whatever numbers they hold, and their suffixes where these are words."""
    names = [Path(file).name for file in files]
    suffixes = {suffix for name in names if re.search("[a-z]", suffix := Path(name).suffix.lower())}
    return suffixes | {re.sub(r"\d+", "0", name) for name in names}
