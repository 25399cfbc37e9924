"""The model's view of a scan, and the exact way back.

Canonical means: axes permuted and flipped to the closest RAS order, isotropic voxels, intensities in
[0, 1], sides padded to what the networks need. An oblique scan stays oblique: axes are only permuted and
flipped, never rotated, so that one separable resampling leads there and one leads back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.volumes.boxes import Box, bounding_box
from DiffuGTSLib.volumes.hounsfield import require_hu
from DiffuGTSLib.volumes.volume import Geometry, Volume, closest_ras, require_same_grid, require_scan

_PLANES = 32
"""Of a slab that is carried back at a time."""

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Of each axis the first voxel, and the one after the last."""


@dataclass(frozen=True)
class IntensityMap:
    """A rising, piecewise linear map between native units and [0, 1].

    Two knots are a plain window. More knots give soft tissue a larger share of the range than air and bone.

    Attributes:
        native: Knots in HU or MR units, rising.
        unit: The values they become, rising from 0 to 1.
        clip: Whether values beyond the end knots are clipped (CT) or follow the last segment's slope.
    """

    native: tuple[float, ...]
    unit: tuple[float, ...]
    clip: bool

    def to_unit(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Map native intensities to [0, 1] (beyond it where `clip` is off)."""
        return _interpolate(values, self.native, self.unit, self.clip)

    def to_native(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Map canonical intensities back to native units; the inverse of `to_unit` inside the window."""
        return _interpolate(values, self.unit, self.native, self.clip)


@dataclass(frozen=True, eq=False)
class CanonicalScan:
    """A scan on the model's grid that remembers where it came from.

    Attributes:
        image: Intensities in [0, 1], (X, Y, Z), float32; X runs right, Y anterior, Z superior.
        geometry: The canonical grid.
        source: The grid of the scan as it was read.
        intensity: Native units to [0, 1] and back.
        modality: "CT" or "MR".
        inside: Bounds of the scan within the padded image, ((x0, x1), (y0, y1), (z0, z1)).
    """

    image: NDArray[np.float32]
    geometry: Geometry
    source: Geometry
    intensity: IntensityMap
    modality: str
    inside: Bounds

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Canonical voxel size in mm."""
        return self.geometry.spacing_mm

    def restore(self, array: NDArray[Any], piece: Box | None = None) -> NDArray[np.float32]:
        """Carry a canonical map (X, Y, Z) back to exactly the source grid (i, j, k), linearly; or to a box of it.

        Masks are carried as soft maps and thresholded after this, so that their edge is not a staircase of
        canonical voxels.
        """
        # Without the padding: the centers of a finer scan's outermost voxels lie beyond those of the outermost
        # canonical ones, and would be mixed with it.
        x, y, z = (slice(a, b) for a, b in self.inside)
        scanned = Volume(np.asarray(array, dtype=np.float32), self.geometry).cut((x, y, z))
        return _resample(scanned.array, scanned.geometry, self.source if piece is None else self.source.cut(piece))

    def restore_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Carry a canonical mask (X, Y, Z) back to the source grid (i, j, k): what it covers by more than half."""
        soft, covered = mask.astype(np.float32), np.zeros(self.source.shape, dtype=bool)
        for piece in self.pieces(bounding_box(mask)):
            covered[piece] = self.restore(soft, piece) > 0.5
        return covered

    def pieces(self, box: Box) -> Iterator[Box]:
        """Cut what a canonical box has a say in, on the source grid, into slabs of a few planes.

        A map that is 0 outside of the box is 0 outside of them, and what is restored and used slab by slab is never held
        for the whole of a large scan.
        """
        i, j, k = self._reached(box)
        if j.start < j.stop and k.start < k.stop:
            for start in range(i.start, i.stop, _PLANES):
                yield slice(start, min(start + _PLANES, i.stop)), j, k

    def _reached(self, box: Box) -> Box:
        """Return the source voxels that lie between the centers of a canonical box's outer neighbors.

        Where the box ends with the scan its values continue, and all that lies beyond is reached.
        """
        axes, step, first = _along_axes(self.geometry, self.source)
        sides = []
        for axis, mm, offset, count in zip(axes, step, first, self.source.shape, strict=True):
            part, (begin, end) = box[axis], self.inside[axis]
            low, high = (part.start - 1 if part.start > begin else -np.inf), (part.stop if part.stop < end else np.inf)
            start, stop = sorted(((low - offset) / mm, (high - offset) / mm))
            sides.append(slice(int(np.floor(np.clip(start, 0, count))), int(np.ceil(np.clip(stop + 1, 0, count)))))
        i, j, k = sides
        return i, j, k

    def project(self, mask: Volume) -> NDArray[np.float32]:
        """Carry a mask on the source grid to the canonical grid as the covered fraction of each voxel; padding is 0.

        Raises:
            GeometryError: If the mask is not on the scan's own grid.
        """
        require_same_grid(self.source, mask.geometry, "mask")
        covered = _smooth_and_resample(mask.array.astype(np.float32), self.source, self.geometry)
        return np.clip(_outside_to_zero(covered, self.inside), 0.0, 1.0)


def to_canonical(volume: Volume, config: CanonicalConfig, modality: str) -> CanonicalScan:
    """Bring a scan to the model's grid and intensities.

    Args:
        volume: Any orientation and spacing, native units.
        config: Target spacing, padding and intensity window.
        modality: "CT" or "MR"; see `guess_modality`.

    Raises:
        InputError: If voxels are NaN or infinite, the image is constant, the modality is another word, or a CT is not in HU.
    """
    require_scan(volume)
    intensity = _intensity_map(volume, config, modality)
    grid, inside = canonical_grid(volume.geometry, config)
    # Intensities first: the window removes metal and air outliers before they smear into their neighbors.
    unit = intensity.to_unit(volume.array)
    image = _smooth_and_resample(unit, volume.geometry, grid)
    image = _outside_to_zero(image, inside)
    return CanonicalScan(image, grid, volume.geometry, intensity, modality, inside)


def guess_modality(volume: Volume) -> tuple[str, str]:
    """Return ("CT" or "MR", the reason in words).

    Raises:
        InputError: If the intensities could be either, so that the user must say; or the scan is said to be another.
    """
    if volume.offset_hu is not None:
        return "CT", "its values were said to be Hounsfield units"
    if volume.modality in ("CT", "MR"):
        return volume.modality, "the file says so"
    if volume.modality is not None:
        raise InputError(
            f"Expected a scan of the modality CT or MR, got '{volume.modality}'.",
            hint=did_you_mean(volume.modality, ("CT", "MR")),
            code="modality",
        )
    low, high = (float(v) for v in np.percentile(volume.array, (0.5, 99.5)))
    if low <= -500 and high < 4096:
        return "CT", f"the darkest voxels are air in Hounsfield units ({low:.0f})"
    if float(volume.array.min()) >= 0:
        return "MR", f"no voxel is negative, as in MR magnitude images (0.5th percentile {low:.0f})"
    raise InputError(
        f"Cannot tell CT from MR: intensities run from {low:.0f} to {high:.0f} (0.5th to 99.5th percentile).",
        hint="say it: --modality CT or --modality MR.",
        code="modality",
    )


def _intensity_map(volume: Volume, config: CanonicalConfig, modality: str) -> IntensityMap:
    if modality == "CT":
        require_hu(volume)
        return IntensityMap(config.ct_knots_hu, config.ct_knots_unit, clip=True)
    if modality != "MR":
        raise InputError(
            f"Expected the modality CT or MR, got '{modality}'.",
            hint=did_you_mean(modality, ("CT", "MR")),
            code="modality",
        )
    low, high = (float(v) for v in np.percentile(volume.array, config.mr_percentiles))
    if high <= low:  # nearly all voxels are background: use the whole range
        low, high = float(volume.array.min()), float(volume.array.max())
    return IntensityMap((low, high), (0.0, 1.0), clip=config.mr_clip)


def canonical_grid(source: Geometry, config: CanonicalConfig) -> tuple[Geometry, Bounds]:
    """Lay the canonical grid over the source's field of view, corner to corner, then pad evenly on both sides.

    Returns:
        The grid, and the bounds of the scan within it: of each axis the first voxel and the one after the last.
    """
    permutation, flips = closest_ras(source)
    extent = np.array(source.extent_mm)[permutation]
    direction = source.direction[:, permutation] * flips
    if config.fit_multiple:  # MAISI: whole field of view on a grid of multiples, spacing follows
        m = config.fit_multiple
        least = np.array([config.fit_minimum_xy, config.fit_minimum_xy, m])
        count = np.maximum(np.round(extent / config.spacing_mm / m).astype(int) * m, np.maximum(least, m))
        spacing = extent / count
        padded = count
    else:
        spacing = np.full(3, float(config.spacing_mm))
        count = np.maximum(1, np.ceil(extent / spacing - 1e-6)).astype(int)
        padded = np.maximum(config.minimum_side, -(-count // config.side_multiple) * config.side_multiple)
    before = (padded - count) // 2
    # The corner (edge, not center) of the field of view where all three canonical axes begin.
    first = np.where(flips > 0, 0, np.array(source.shape)[permutation] - 1)
    index = np.empty(3)
    index[permutation] = first - 0.5 * flips
    corner = source.to_ras(index)
    # Center the counted voxels on the field of view: ceil() made them at most one voxel longer.
    slack = (count * spacing - extent) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = corner + direction @ ((0.5 - before) * spacing - slack)
    x, y, z = ((int(b), int(b + n)) for b, n in zip(before, count, strict=True))
    return Geometry((int(padded[0]), int(padded[1]), int(padded[2])), matrix), (x, y, z)


def _smooth_and_resample(array: NDArray[np.float32], source: Geometry, target: Geometry) -> NDArray[np.float32]:
    """Resample after a Gaussian as wide as the lost resolution, so that coarse voxels average what they cover."""
    matrix = np.linalg.inv(source.ijk_to_ras) @ target.ijk_to_ras
    factors = np.abs(matrix[:3, :3]).max(axis=1)  # source voxels a target voxel, along each source axis
    sigma = np.maximum(0.0, (factors - 1.0) / 2.0)
    if sigma.any():
        array = ndimage.gaussian_filter(array, sigma, mode="nearest", truncate=3.0)
    return _resample(array, source, target)


def _resample(array: NDArray[np.float32], source: Geometry, target: Geometry) -> NDArray[np.float32]:
    """Read `array` (on `source`) at the voxel centers of `target`, linearly; edge values continue outside."""
    axes, step, first = _along_axes(source, target)
    # The axes are parallel by construction: three 1D interpolations, exact where positions are whole numbers.
    resampled: NDArray[np.float32] = ndimage.affine_transform(
        np.transpose(array, axes),
        matrix=step,
        offset=first,
        output_shape=target.shape,
        order=1,
        mode="nearest",
        output=np.float32,
    )
    return resampled


def _along_axes(
    source: Geometry, target: Geometry
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Return, of each target axis, the source axis it runs along, its step in source voxels, and where it begins."""
    matrix = np.linalg.inv(source.ijk_to_ras) @ target.ijk_to_ras
    axes = np.abs(matrix[:3, :3]).argmax(axis=0)
    return axes, _snap(matrix[axes, np.arange(3)], 1e-9), _snap(matrix[axes, 3], 1e-6)


def _snap(values: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Remove the rounding of a matrix product, so that whole and half voxels are met exactly."""
    rounded = np.round(values * 2) / 2
    return np.where(np.abs(values - rounded) < tolerance, rounded, values)


def _outside_to_zero(image: NDArray[np.float32], inside: Bounds) -> NDArray[np.float32]:
    padded = np.zeros_like(image)
    box = tuple(slice(a, b) for a, b in inside)
    padded[box] = image[box]
    return padded


def _interpolate(values: NDArray[Any], x: tuple[float, ...], y: tuple[float, ...], clip: bool) -> NDArray[np.float32]:
    values = np.asarray(values)
    if values.ndim > 2:  # plane by plane: numpy's answer is float64, which of a whole scan is a gigabyte
        planes = np.empty(values.shape, dtype=np.float32)
        for plane, made in zip(values, planes, strict=True):
            made[...] = _interpolate(plane, x, y, clip)
        return planes
    result: NDArray[np.float32] = np.interp(values, x, y).astype(np.float32)
    if clip:
        return result
    low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    below, above = np.minimum(values - x[0], 0), np.maximum(values - x[-1], 0)
    result += (low * below + high * above).astype(np.float32)
    return result
