"""Where a result is looked at, and drawn: which cuts, how near, in which window, on axes in closest RAS order.

Radiological cuts: the horizontal axis always runs against RAS, so that the patient's right (or front) lies on the left
of the picture. Voxels are only permuted and flipped: an oblique scan is cut along its own axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from DiffuGTSLib.output.findings import Finding
from DiffuGTSLib.volumes.volume import Geometry, Volume, closest_ras

if TYPE_CHECKING:
    import matplotlib.axes

LUNG_WINDOW_HU = (-1350.0, 150.0)
SOFT_TISSUE_WINDOW_HU = (-160.0, 240.0)
MR_WINDOW_PERCENTILES = (1.0, 99.5)

_LUNG_TISSUE_HU = (-950.0, -500.0)
"""Aerated lung: above the air outside the body, below fat."""
_LUNG_SHARE = 0.25
_SURROUNDINGS_MM = 15.0
_NEARLY_ALL = 1.25

Array = Shaped[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Plane:
    """A cut.

    Attributes:
        name: Axial, coronal or sagittal.
        across: The RAS axis that stands on it.
        horizontal: The RAS axis from the right to the left of the picture.
        vertical: The RAS axis from the bottom to the top.
        letters: Where the patient lies at the left, right, top and bottom.
        position: What a positive and a negative position along `across` is called.
    """

    name: str
    across: int
    horizontal: int
    vertical: int
    letters: str
    position: str


PLANES = (
    Plane("Axial", 2, 0, 1, "RLAP", "SI"),
    Plane("Coronal", 1, 0, 2, "RLSI", "AP"),
    Plane("Sagittal", 0, 1, 2, "APSI", "RL"),
)


@dataclass(frozen=True, eq=False)
class Cuts:
    """A result, arranged to be looked at.

    Attributes:
        maps: Name → voxels (x, y, z); at least "scan" and "mask".
        spacing_mm: Voxel size along (x, y, z).
        center: Voxel that all three planes go through.
        center_ras: The point in the world that it was chosen for, mm.
        low_mm: Where the view begins on each axis, from the edge of the grid; below 0 where the scan is narrower.
        side_mm: Side of the square view.
        window: Intensities shown as black and as white.
        window_name: That window in words, with its unit.
    """

    maps: Mapping[str, Array]
    spacing_mm: tuple[float, float, float]
    center: tuple[int, int, int]
    center_ras: tuple[float, float, float]
    low_mm: tuple[float, float, float]
    side_mm: float
    window: tuple[float, float]
    window_name: str

    def cut(self, name: str, plane: Plane) -> Shaped[np.ndarray, "v h"]:
        """Return one map in one plane: rows along the vertical axis, columns along the horizontal one, both rising."""
        index: list[Any] = [slice(None)] * 3
        index[plane.across] = self.center[plane.across]  # np.take would copy a flipped array as a whole
        cut: Shaped[np.ndarray, "h v"] = self.maps[name][tuple(index)]
        return cut.T

    def extent_mm(self, axis: int) -> float:
        """Return the field of view along one axis, edge to edge."""
        return float(self.maps["scan"].shape[axis] * self.spacing_mm[axis])

    def show(
        self, axes: "matplotlib.axes.Axes", name: str, plane: Plane, interpolation: str = "bicubic", **style: Any
    ) -> Any:
        """Draw one map in one plane, millimeters true; gray, in the window, where no other colors are given."""
        extent = (0.0, self.extent_mm(plane.horizontal), 0.0, self.extent_mm(plane.vertical))
        style = {"cmap": "gray", "vmin": self.window[0], "vmax": self.window[1], **style}
        values = np.asarray(self.cut(name, plane), dtype=np.float32)
        return axes.imshow(values, origin="lower", extent=extent, interpolation=interpolation, aspect="equal", **style)

    def outline(self, axes: "matplotlib.axes.Axes", name: str, plane: Plane, color: str, **style: Any) -> Any:
        """Draw the border of a mask in one plane; None where the plane does not meet it."""
        mask = self.cut(name, plane)
        if not mask.any():
            return None
        closed = np.pad(mask.astype(np.float32), 1)  # closed where the lesion meets the edge of the scan
        sides = zip(mask.T.shape, (plane.horizontal, plane.vertical), strict=True)
        h, v = ((np.arange(-1, n + 1) + 0.5) * self.spacing_mm[axis] for n, axis in sides)
        return axes.contour(h, v, closed, levels=[0.5], colors=[color], **style)

    def look_at(self, axes: "matplotlib.axes.Axes", plane: Plane) -> None:
        """Set the view of a plane: against RAS, so that the patient's right, or front, is on the left."""
        left, bottom = self.low_mm[plane.horizontal], self.low_mm[plane.vertical]
        axes.set_xlim(left + self.side_mm, left)
        axes.set_ylim(bottom, bottom + self.side_mm)


def arrange(volumes: Mapping[str, Volume], findings: Sequence[Finding], modality: str | None, field_mm: float) -> Cuts:
    """Turn a result to closest RAS order and choose the cuts, the view and the window.

    Args:
        volumes: Name → volume, all on one grid; at least "scan" and "mask".
        findings: Largest first; the cuts go through the first one's centroid, or the middle of the scan.
        modality: "CT", "MR" or None.
        field_mm: Side of the view; twice the finding when that is more, and all when that is hardly more.
    """
    geometry = volumes["scan"].geometry
    permutation, signs = closest_ras(geometry)
    turn = tuple(slice(None, None, sign) for sign in signs)
    maps = {name: np.transpose(volume.array, permutation)[turn] for name, volume in volumes.items()}
    spacing, shape = np.array(geometry.spacing_mm)[permutation], np.array(geometry.shape)[permutation]
    ras = geometry.to_ras((np.array(geometry.shape) - 1) / 2.0)
    if findings:
        ras = np.array(findings[0].centroid_ras_mm)
    index = geometry.to_ijk(ras)[permutation]
    center = np.clip(np.round(np.where(signs > 0, index, shape - 1 - index)), 0, shape - 1).astype(int)
    extent = shape * spacing
    side = float(extent.max())
    box: tuple[slice, ...] = (slice(None),) * 3
    if findings:
        wanted = max(field_mm, 2.0 * findings[0].longest_in_plane_diameter_mm)
        side = wanted if side > _NEARLY_ALL * wanted else side
        reach = np.ceil((findings[0].longest_in_plane_diameter_mm / 2 + _SURROUNDINGS_MM) / spacing).astype(int)
        box = tuple(slice(max(0, int(c - r)), int(c + r) + 1) for c, r in zip(center, reach, strict=True))
    low = np.where(extent > side, np.clip((center + 0.5) * spacing - side / 2, 0, extent - side), (extent - side) / 2)
    window, name = _window(maps["scan"], maps["mask"], box, modality)
    i, j, k = (int(c) for c in center)
    return Cuts(maps, _floats(spacing), (i, j, k), _floats(ras), _floats(low), side, window, name)


def tilt_degrees(geometry: Geometry) -> float:
    """Return by how much the voxel axes are turned away from R, A and S, at worst."""
    permutation, signs = closest_ras(geometry)
    cosines = geometry.direction[np.arange(3), permutation] * signs
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1.0, 1.0))))


def _window(scan: Array, mask: Array, box: tuple[slice, ...], modality: str | None) -> tuple[tuple[float, float], str]:
    """Choose what is black and what is white: by what surrounds the finding in CT, by percentiles otherwise."""
    if modality == "CT":
        around = scan[box][mask[box] == 0]
        body = np.count_nonzero(around > _LUNG_TISSUE_HU[0])
        lung = body - np.count_nonzero(around >= _LUNG_TISSUE_HU[1])
        if lung > _LUNG_SHARE * body:
            return LUNG_WINDOW_HU, "HU, lung window"
        return SOFT_TISSUE_WINDOW_HU, "HU, soft tissue window"
    seen = scan[scan > scan.min()]  # the background of MR is one value, and often most of the scan
    low, high = np.percentile(seen if seen.size else scan, MR_WINDOW_PERCENTILES)
    if low == high:  # two values in all: the lower one is black
        low = min(low - 1.0, scan.min())
    return (float(low), float(high)), "MR units" if modality == "MR" else "units of the file"


def _floats(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
