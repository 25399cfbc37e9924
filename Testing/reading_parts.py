"""Scans for reading sessions: real ones are phantoms with a lesion, synthetic ones have it painted in afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from phantoms import CENTER_RAS, ct_phantom

from DiffuGTSLib.volumes.io import write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

SPACING_MM = (2.5, 2.5, 3.0)
SHAPE = (40, 38, 36)
NOISE_HU = 12.0
_OFFSETS_MM = ((16.0, 9.0, -12.0), (2.0, 8.0, 4.0), (20.0, -4.0, -2.0), (10.0, 14.0, -18.0))


def grid(spacing_mm: tuple[float, float, float] = SPACING_MM) -> Geometry:
    """Lay a grid around the phantom's middle."""
    shape = np.round(np.multiply(SHAPE, SPACING_MM) / spacing_mm).astype(int)
    matrix = np.diag([*spacing_mm, 1.0])
    matrix[:3, 3] = CENTER_RAS - np.array(spacing_mm) * (shape - 1) / 2
    return Geometry(tuple(int(n) for n in shape), matrix)


def case(seed: int, *, painted: bool, geometry: Geometry | None = None) -> tuple[Volume, Volume]:
    """Make a scan of whole HU and the mask of its lesion; each seed is another patient."""
    geometry = geometry or grid()
    body = ct_phantom(geometry, lesion_mm=5.0 + seed % 4, noise_hu=NOISE_HU, seed=seed)
    if not painted:
        return body.scan.with_array(np.round(body.scan.array)), body.lesion
    center = np.array(CENTER_RAS) + _OFFSETS_MM[seed % 4]
    points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))
    distance = np.linalg.norm(points - center, axis=-1) / (5.0 + seed % 5)
    share = np.clip((1.3 - distance) / 0.5, 0, 1)
    healthy = np.where(body.lesion.array > 0, body.scan.array + 90, body.scan.array)
    scan = np.round(healthy - 80 * share)
    return body.scan.with_array(scan.astype(np.float32)), Volume((share > 0.5).astype(np.uint8), geometry)


def write_cases(folder: Path, seeds: range, *, painted: bool, geometry: Geometry | None = None) -> Path:
    """Write scans with masks beside them, under names that tell the truth, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scan, mask = case(seed, painted=painted, geometry=geometry)
        name = f"{'painted' if painted else 'patient'}_{seed:02d}"
        write_volume(scan, folder / f"{name}.nii.gz")
        write_volume(mask, folder / f"{name}_tumor.nii.gz")
    return folder
