"""The SHA-256 by which a scan or a mask is known again, under whatever name it lies on the disk, or in whatever form."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.io import Source, find_source, read_volume
from DiffuGTSLib.volumes.volume import Volume, closest_ras

_DETACHED = (".nhdr", ".mhd")


def scan_sha256(path: Path | Source) -> str:
    """Return the digest of a scan or mask: of its file, as sha256sum prints it.

    Of a DICOM folder: the files of its series one after the other, in slice order. Of a header whose voxels lie in
    another file (.nhdr, .mhd): the header, then the voxels as `read_volume` reads them, since headers may be alike.

    Raises:
        InputError: If it is not there (code "missing"), cannot be read, or is a folder without just one series.
    """
    digest = hashlib.sha256()
    source = find_source(path)
    for file in source.files:
        try:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}.", code="unreadable") from error
    if source.path.suffix.lower() in _DETACHED:
        digest.update(np.ascontiguousarray(read_volume(source).array).data)
    return digest.hexdigest()


def voxels_sha256(scan: Volume) -> str:
    """Return the digest of a scan's voxels with their axes in closest RAS order.

    It stays the same when a file is packed, converted or turned by quarters, which changes every byte of it; not when
    it is resampled, cut, or its intensities are changed.
    """
    axes, signs = closest_ras(scan.geometry)
    voxels = np.transpose(scan.array, axes)[tuple(slice(None, None, int(sign)) for sign in signs)]
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for part in voxels:  # one after the other: a scan that lies otherwise in memory is not copied as a whole
        digest.update(np.ascontiguousarray(part, dtype=np.float32).data)
    return digest.hexdigest()
