"""A scan and its place in the world: voxels in (i, j, k), millimeters in RAS, one matrix between them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.boxes import Box

GRID_TOLERANCE_MM = 1e-3
"""Two grids are one when no corner moves by more than this. NIfTI stores float32, so 0 would be too strict."""

ORTHOGONALITY_TOLERANCE = 1e-3
"""The cosine between two axes that still counts as none."""

SCAN_MODALITIES = ("CT", "MR")
AS_ASKED = "as asked"
"""The reason for a modality that was said and not guessed."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid: how many voxels, and where each lies.

    Attributes:
        shape: Number of voxels along (i, j, k).
        ijk_to_ras: Affine (4, 4), float64, read-only: voxel index to RAS world in mm (center of the voxel).

    Raises:
        GeometryError: If the grid is not 3D, or the matrix is not finite, singular or sheared.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"Expected a 3D grid with at least one voxel a side, got shape {shape}.")
        matrix = np.array(self.ijk_to_ras, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(
                f"Expected a finite 4x4 ijk_to_ras matrix, got shape {matrix.shape}: {matrix.tolist()}."
            )
        if not np.array_equal(matrix[3], (0.0, 0.0, 0.0, 1.0)):
            raise GeometryError(f"The last row of ijk_to_ras must be 0 0 0 1, got {matrix[3].tolist()}.")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        if spacing.min() < 1e-6 or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-6:
            raise GeometryError(
                f"The ijk_to_ras matrix is singular (spacing {_mm(spacing)}): voxels would have no volume.",
                hint="re-export the scan; its spacing or orientation was lost.",
            )
        cosines = (matrix[:3, :3] / spacing).T @ (matrix[:3, :3] / spacing)
        shear = np.abs(cosines - np.eye(3)).max()
        if shear > ORTHOGONALITY_TOLERANCE:
            raise GeometryError(
                f"The voxel axes are sheared: expected perpendicular axes, got a cosine of {shear:.4f} between two of them.",
                hint="a gantry tilt or a non-rigid transform: resample the scan to an orthogonal grid first.",
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)

    def __reduce__(self) -> tuple[type[Geometry], tuple[Any, ...]]:
        """Make a copy, or what is sent to another process, by the same checks: its matrix is read-only, too."""
        return Geometry, (self.shape, self.ijk_to_ras)

    @classmethod
    def from_spacing(cls, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Geometry:
        """Make an axis-aligned RAS grid that starts at the world's origin."""
        return cls(shape, np.diag([*spacing_mm, 1.0]))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (i, j, k) in mm."""
        x, y, z = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def origin_ras(self) -> NDArray[np.float64]:
        """Center of voxel (0, 0, 0), RAS mm."""
        return self.ijk_to_ras[:3, 3]

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vectors of the voxel axes as columns (3, 3), RAS."""
        direction: NDArray[np.float64] = self.ijk_to_ras[:3, :3] / self.spacing_mm
        return direction

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Field of view along (i, j, k) in mm, edge to edge."""
        i, j, k = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return i, j, k

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def to_ras(self, ijk: NDArray[Any]) -> NDArray[np.float64]:
        """Map voxel indices (…, 3) to RAS mm (…, 3)."""
        return np.asarray(ijk, dtype=np.float64) @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def to_ijk(self, ras: NDArray[Any]) -> NDArray[np.float64]:
        """Map RAS mm (…, 3) to continuous voxel indices (…, 3)."""
        return (np.asarray(ras, dtype=np.float64) - self.ijk_to_ras[:3, 3]) @ np.linalg.inv(self.ijk_to_ras[:3, :3]).T

    def cut(self, box: Box) -> Geometry:
        """Return the grid of a box of it, inside and without step, each voxel where it was in the world."""
        ijk_to_ras = self.ijk_to_ras.copy()
        ijk_to_ras[:3, 3] = self.to_ras(np.array([part.start for part in box]))
        i, j, k = (part.stop - part.start for part in box)
        return Geometry((i, j, k), ijk_to_ras)

    def difference(self, other: Geometry) -> str:
        """Say in words how another grid differs from this one; an empty string when they are the same.

        The one comparison of grids in the project: same shape, and no outer corner further than `GRID_TOLERANCE_MM`.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} and {other.shape}"
        corners = _outer_corners(self.shape)
        apart = self.to_ras(corners) - other.to_ras(corners)
        if np.abs(apart).max() <= GRID_TOLERANCE_MM:
            return ""
        far = f"corners up to {np.linalg.norm(apart, axis=1).max():.4g} mm apart"  # numbers that look equal are not
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=0, atol=GRID_TOLERANCE_MM / max(self.shape)):
            return f"spacing {_mm(self.spacing_mm)} and {_mm(other.spacing_mm)}, {far}"
        if not np.allclose(self.direction, other.direction, rtol=0, atol=1e-6):
            directions = (np.round(each.direction, 4).tolist() for each in (self, other))
            return f"direction {' and '.join(map(str, directions))}, {far}"
        return f"origin {_mm(self.origin_ras)} and {_mm(other.origin_ras)}, {far}"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid, in native units (HU or MR units).

    Attributes:
        array: Voxels (i, j, k).
        geometry: The grid; `array.shape == geometry.shape`.
        modality: "CT", "MR" or None when the file does not say.
        offset_hu: What somebody added to the values of the file to make them HU, 0 included; then nobody doubts that they
            are, see `volumes.hounsfield`. None where nobody said so.

    Raises:
        GeometryError: If the array does not have the grid's shape.
    """

    array: NDArray[Any]
    geometry: Geometry
    modality: str | None = None
    offset_hu: float | None = None

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(
                f"Voxels of shape {self.array.shape} do not fill a grid of shape {self.geometry.shape}."
            )

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Return other voxels on the same grid."""
        return replace(self, array=array)

    def cut(self, box: Box) -> Volume:
        """Return the voxels of a box, each where it was in the world.

        Args:
            box: Start and stop along (i, j, k), inside the grid, without step.
        """
        return replace(self, array=self.array[box], geometry=self.geometry.cut(box))


def require_scan(volume: Volume) -> None:
    """Refuse a scan that no method can read: NaN or infinite voxels, one value everywhere, or a mask in its place.

    Raises:
        InputError: With the number of bad voxels, the value of a constant image, or the two values of a mask.
    """
    bad = int(volume.array.size - np.isfinite(volume.array).sum())
    if bad:
        raise not_finite(bad, volume.array.size)
    low, high = volume.array.min(), volume.array.max()
    if low == high:
        raise InputError(
            f"The scan is constant: every voxel is {float(low):g}.",
            hint="check that the right file or series was chosen.",
            code="constant",
        )
    # Masks are 0 and 1, or 255; of a scan the first slice that shows something ends the search.
    if low == 0 and high <= 255 and all(((part == low) | (part == high)).all() for part in volume.array):
        raise InputError(
            f"The scan holds nothing but 0 and {float(high):g}: it is a mask.",
            hint="give the scan that it was drawn on.",
            code="mask",
        )


def not_finite(bad: int, voxels: int) -> InputError:
    """Return the error for a scan with NaN or infinite voxels."""
    return InputError(
        f"The scan holds {bad} NaN or infinite voxels of {voxels}; expected finite intensities.",
        hint="replace them by the value of air (CT -1000, MR 0) in the program that made the file.",
        code="not_finite",
    )


def require_same_grid(scan: Geometry, other: Geometry, name: str) -> None:
    """Refuse a mask or map that does not lie on exactly the scan's grid.

    Raises:
        GeometryError: Saying which of shape, spacing, direction and origin differs, scan first.
    """
    difference = scan.difference(other)
    if difference:
        raise GeometryError(
            f"The {name} and the scan lie on different grids: {difference} (scan first).",
            hint=f"export the {name} from the same volume, or resample it onto the scan.",
        )


def closest_ras(geometry: Geometry) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which voxel axis runs along R, A and S, each once even at 45°, and whether with it (1) or against (-1).

    Of the six ways the one whose axes lie closest, all in all; of equal ones that which changes least.
    """
    rows = np.arange(3)
    ways = (np.array(way, np.intp) for way in itertools.permutations(range(3)))
    axes = max(ways, key=lambda way: float(np.abs(geometry.direction[rows, way]).sum()))
    return axes, np.sign(geometry.direction[rows, axes]).astype(np.intp)


def _outer_corners(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the 8 corners of the field of view; voxel centers would not show the thickness of a lone slice."""
    return np.array([[i, j, k] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])]) - 0.5


def _mm(values: Any) -> str:
    return " x ".join(f"{v:.4g}" for v in values) + " mm"
