"""The SHA-256 by which a scan is known again, under whatever name it lies on the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.dicom import ordered_slices, the_scan
from DiffuGTSLib.volumes.io import read_volume
from DiffuGTSLib.volumes.volume import Volume

_DETACHED = (".nhdr", ".mhd")


def scan_sha256(path: Path, scan: Volume | None = None) -> str:
    """Return the digest of a scan: of its file, as sha256sum prints it.

    Of a DICOM folder: the files of its series one after the other, in slice order. Of a header whose voxels lie in
    another file (.nhdr, .mhd): the header, then the voxels as read, since the header alone may be that of many.

    Args:
        path: A file, or a folder with one DICOM series.
        scan: What was read from it; None reads where the voxels lie in a file of their own.

    Raises:
        InputError: If it cannot be read (code "missing" where it is not there), or a folder is no one series.
    """
    digest = hashlib.sha256()
    try:
        for file in [each.file for each in ordered_slices(the_scan(path))] if path.is_dir() else [path]:
            with Path(file).open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", code="missing") from error
    if path.suffix.lower() in _DETACHED:
        digest.update(np.ascontiguousarray((scan or read_volume(path)).array).data)
    return digest.hexdigest()
