"""The SHA-256 by which a scan or a mask is known again, under whatever name it lies on the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.io import read_volume, source_files

_DETACHED = (".nhdr", ".mhd")


def scan_sha256(path: Path) -> str:
    """Return the digest of a scan or mask: of its file, as sha256sum prints it.

    Of a DICOM folder: the files of its series one after the other, in slice order. Of a header whose voxels lie in
    another file (.nhdr, .mhd): the header, then the voxels as `read_volume` reads them, since headers may be alike.

    Raises:
        InputError: If it is not there (code "missing"), cannot be read, or is a folder without just one series.
    """
    digest = hashlib.sha256()
    for file in source_files(path):
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}.", code="unreadable") from error
    if path.suffix.lower() in _DETACHED:
        digest.update(np.ascontiguousarray(read_volume(path).array).data)
    return digest.hexdigest()
