"""Bodies with known answers: where the lesion lies in RAS mm and how many ml it has, on any grid.

A phantom is described in world millimeters and sampled at voxel centers, so the same body can be laid on
grids of any orientation, spacing and obliquity.
"""

from __future__ import annotations

import dataclasses
import itertools
import locale
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from DiffuGTSLib.volumes.volume import Geometry, Volume

CENTER_RAS = (10.0, -20.0, 30.0)
"""Middle of the body; away from 0, so that a lost origin shows."""
LESION_OFFSET_MM = (16.0, 9.0, -12.0)
"""From the body's middle: to the patient's right (RAS x grows to the right), forward and down."""


@dataclass(frozen=True)
class Ellipsoid:
    """An axis-aligned ellipsoid in RAS mm that paints one intensity."""

    offset_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    intensity: float

    @property
    def center_ras(self) -> NDArray[np.float64]:
        """Middle in RAS mm."""
        return np.add(CENTER_RAS, self.offset_mm)

    @property
    def volume_ml(self) -> float:
        """4/3 π abc, in ml."""
        return 4 / 3 * np.pi * float(np.prod(self.radii_mm)) / 1000

    def covers(self, points_ras: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say for each point (…, 3) whether it lies inside."""
        inside: NDArray[np.bool_] = (((points_ras - self.center_ras) / self.radii_mm) ** 2).sum(axis=-1) <= 1
        return inside


@dataclass(frozen=True)
class Phantom:
    """A scan and the truth about it."""

    scan: Volume
    organ: Volume
    lesion: Volume
    lesion_ml: float
    lesion_center_ras: NDArray[np.float64]


def ct_phantom(
    geometry: Geometry | None = None, lesion_mm: float = 11.0, noise_hu: float = 0.0, seed: int = 0
) -> Phantom:
    """Make a trunk in air (HU) with an organ, a spine behind it and a darker lesion in the organ.

    Args:
        geometry: Any grid; by default RAS, 2 mm, 56 x 52 x 60 voxels around the body.
        lesion_mm: Mean lesion radius; its axes are 1.2, 1.0 and 0.8 times that.
        noise_hu: Standard deviation of Gaussian noise.
        seed: Of the noise.
    """
    body = Ellipsoid((0, 0, 0), (44, 38, 52), 40)
    organ = Ellipsoid((12, 4, -6), (27, 24, 30), 110)
    spine = Ellipsoid((0, -26, 0), (8, 7, 46), 700)
    lesion = Ellipsoid(LESION_OFFSET_MM, (1.2 * lesion_mm, lesion_mm, 0.8 * lesion_mm), 20)
    return _sampled(geometry, -1000.0, [body, organ, spine, lesion], noise_hu, seed, "CT")


def mr_phantom(geometry: Geometry | None = None, lesion_mm: float = 11.0, noise: float = 0.0, seed: int = 0) -> Phantom:
    """Make a head as in MR FLAIR (arbitrary units, no negative voxel) with a bright lesion.

    Args as `ct_phantom`; the noise is the modulus of Gaussian noise, as in magnitude images.
    """
    head = Ellipsoid((0, 0, 0), (44, 38, 52), 300)
    brain = Ellipsoid((2, 1, 2), (38, 33, 44), 420)
    ventricle = Ellipsoid((-8, -6, 8), (6, 12, 14), 60)
    lesion = Ellipsoid(LESION_OFFSET_MM, (1.2 * lesion_mm, lesion_mm, 0.8 * lesion_mm), 800)
    phantom = _sampled(geometry, 0.0, [head, brain, ventricle, lesion], noise, seed, "MR")
    return dataclasses.replace(phantom, scan=phantom.scan.with_array(np.abs(phantom.scan.array)))


def grid(
    shape: tuple[int, int, int] = (56, 52, 60),
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0),
    orientation: NDArray[np.float64] | None = None,
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:
    """Lay a grid around the body's middle: voxel axes as the columns of `orientation`, then turned about x, y, z."""
    direction = rotation(degrees) @ (np.eye(3) if orientation is None else orientation)
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing_mm
    matrix[:3, 3] = CENTER_RAS - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, matrix)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the matrix that turns about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        result = turn @ result
    return result


def orientations() -> Iterator[NDArray[np.float64]]:
    """Yield all 48 ways in which three voxel axes can run along R, A, S or against them, as columns."""
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield np.eye(3)[:, permutation] * signs


def reoriented(volume: Volume, orientation: NDArray[np.float64]) -> Volume:
    """Store the same voxels at the same places with other voxel axes: axis a of the result runs along column a.

    No voxel moves in the world; only the order in memory and the matrix change.
    """
    axes = np.abs(orientation).argmax(axis=0)
    signs = orientation[axes, range(3)]
    flipped = tuple(int(a) for a in np.flatnonzero(signs < 0))
    array = np.flip(np.transpose(volume.array, axes), flipped)
    back = np.eye(4)
    back[:3, :3] = orientation
    back[axes, 3] = np.where(signs < 0, np.array(volume.array.shape)[axes] - 1, 0)
    return Volume(array, Geometry(array.shape, volume.geometry.ijk_to_ras @ back), volume.modality)


def write_dicom(
    volume: Volume,
    folder: Path,
    tags: Mapping[str, str] | None = None,
    slice_tags: Mapping[int, Mapping[str, str]] | None = None,
    series: int = 1,
    codec: str = "",
) -> list[Path]:
    """Write a scan as one DICOM file a slice (along k) and return the files in order of k.

    Args:
        volume: Its third axis must be the right-handed normal of the first two, as in DICOM.
        folder: Made if absent.
        tags: More tags or other values, "group|element" in hex → text, for every slice.
        slice_tags: The same for some slices: k → tags. With rescale tags (0028|1052, 0028|1053) give native values as floats.
        series: Number in the series UID and the file names.
        codec: "JPEG2000" or "JPEG" (both lossless); none for plain voxels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    cosines = (to_lps @ volume.geometry.direction)[:, :2].T.ravel()
    files = []
    for k in range(volume.array.shape[2]):
        position = to_lps @ volume.geometry.to_ras(np.array([0, 0, k]))
        values = {
            "0008|0060": volume.modality or "OT",
            "0008|103e": f"Series {series}",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.99.{series}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.99",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{v:.10g}" for v in position),
            "0020|0037": "\\".join(f"{v:.10g}" for v in cosines),
            "0028|0100": "16",
            "0028|0101": "16",
            "0028|0102": "15",
            "0028|0103": "1",
            **(tags or {}),
            **(slice_tags or {}).get(k, {}),
        }
        array = volume.array[:, :, k].T
        image = sitk.GetImageFromArray(np.ascontiguousarray(array if "0028|1053" in values else array.astype(np.int16)))
        image.SetSpacing(volume.geometry.spacing_mm[:2])
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        # Names run against k, so that a reader that trusts names would turn the scan over.
        path = folder / f"s{series}_{volume.array.shape[2] - k:03d}.dcm"
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(bool(codec))
        writer.SetCompressor(codec)
        writer.SetFileName(str(path))
        before = locale.setlocale(locale.LC_ALL)
        writer.Execute(image)
        locale.setlocale(locale.LC_ALL, before)  # GDCM leaves "C" behind, in which Python reads text as ASCII
        files.append(path)
    return files


def _sampled(
    geometry: Geometry | None, background: float, parts: list[Ellipsoid], noise: float, seed: int, modality: str
) -> Phantom:
    geometry = geometry or grid()
    points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))
    image = np.full(geometry.shape, background, dtype=np.float32)
    for part in parts:
        image[part.covers(points)] = part.intensity
    if noise:
        image += np.random.default_rng(seed).normal(0, noise, geometry.shape).astype(np.float32)
    organ, lesion = (Volume(part.covers(points).astype(np.uint8), geometry) for part in (parts[1], parts[-1]))
    return Phantom(Volume(image, geometry, modality), organ, lesion, parts[-1].volume_ml, parts[-1].center_ras)
