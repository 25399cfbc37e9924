"""CT in Hounsfield units: known by where air and water are, refused elsewhere, shifted where somebody knows by how much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.volume import Volume

LOST_OFFSET_HU = -1024.0
"""What most scanners add to the stored values, and what a file lacks whose rescale was lost."""

_AIR_HU = (-1024.0, -200.0)
"""Air, lung, and their edges, without the ends: -1024 and less may also be padding, whatever the rest is."""
_LEAST_AIR = 1e-3
"""A smaller share is as good as none. A crop inside the body has none either."""
_DENSE_HU = 100.0
"""More is bone or contrast, of which a scan without air may hold anything, or tissue whose offset was lost."""
_WATER_STORED = (860.0, 1180.0)
"""Fat, water and soft tissue where the offset (-1000 or -1024) was lost: a narrow hill. Bone is spread over all values."""
_LEAST_OF_DENSE, _LEAST_OF_ALL = 0.3, 0.1
"""Shares of the voxels in that hill. Of 23 CTs whose offset was taken away 0.38 and 0.24 at the least; in none of
30 000 crops of 24 voxels or more of the same CTs in HU as much of both."""


def in_hounsfield(volume: Volume, offset_hu: float) -> Volume:
    """Return a CT with an offset added to every voxel; its values count as HU from then on, also with an offset of 0.

    The volume keeps the sum of what was added, which `write_results` puts on record and `read_results` adds again.

    Raises:
        InputError: If the file says that it is no CT, or the offset is no finite number (code "offset_hu").
    """
    if not np.isfinite(offset_hu):
        raise InputError(f"--offset-hu: expected a number of HU, got {offset_hu}.", code="offset_hu")
    if volume.modality not in (None, "CT"):
        raise InputError(
            f"--offset-hu is for CT; the scan's file says that it is {volume.modality}.",
            hint="omit it.",
            code="offset_hu",
        )
    array = volume.array.astype(np.float32) + np.float32(offset_hu) if offset_hu else volume.array
    return replace(volume, array=array, modality="CT", offset_hu=(volume.offset_hu or 0.0) + float(offset_hu))


def require_hu(volume: Volume) -> None:
    """Refuse a CT whose values are surely not HU: no air, and much of it near 1000, where water is without its offset.

    A crop within the body, which has no air either, passes. So does what somebody said to be in HU, see `in_hounsfield`.

    Raises:
        InputError: If the values are surely not HU (code "not_hu").
    """
    values = volume.array
    low, high = _AIR_HU
    air = np.count_nonzero((values > low) & (values < high))
    if volume.offset_hu is not None or air > _LEAST_AIR * values.size:
        return
    low, high = _WATER_STORED
    water = np.count_nonzero((values > low) & (values < high))
    if water < max(_LEAST_OF_DENSE * np.count_nonzero(values > _DENSE_HU), _LEAST_OF_ALL * values.size):
        return
    raise InputError(
        f"The CT is not in Hounsfield units: expected air near -1000 and water near 0 HU, got no voxel of air and "
        f"{water / values.size:.0%} of the voxels between {low:.0f} and {high:.0f} (least {values.min():.0f}).",
        hint=f"add what the file lost: --offset-hu {LOST_OFFSET_HU:.0f} (in a protocol offset_hu); or insist that these "
        "are HU: --offset-hu 0.",
        code="not_hu",
    )
