"""A mask on a scan's grid, stored as its bounding box, and its conversion to other axis orders; without MRML nodes.

With `grids` and `scene`, the only modules here that use the index order (k, j, i).
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.volumes.volume import Geometry, closest_ras

LATTICE_TOLERANCE_VOXELS = 1e-3
"""A labelmap whose voxels are closer to the scan's than this is copied; any other one is resampled."""
EMPTY_BOX = (slice(0, 0), slice(0, 0), slice(0, 0))


@dataclass(frozen=True, eq=False)
class BoxedMask:
    """A mask, cropped to its bounding box.

    Attributes:
        box: Bounding box (k, j, i) in the scan's grid; empty for an empty mask.
        voxels: Voxels of the box, 0 and 1.
    """

    box: tuple[slice, slice, slice]
    voxels: NDArray[np.uint8]

    @classmethod
    def of(cls, mask: NDArray[Any], corner: tuple[int, ...] = (0, 0, 0)) -> BoxedMask:
        """Crop a mask (k, j, i) whose first voxel is at index `corner` of the scan's grid."""
        lines = [mask.any(axis=others) for others in ((1, 2), (0, 2), (0, 1))]
        spans = [_span(line) for line in lines]
        voxels = np.ascontiguousarray(mask[tuple(spans)] > 0).view(np.uint8)
        if not voxels.size:
            return cls(EMPTY_BOX, voxels)
        k, j, i = (slice(side.start + low, side.stop + low) for side, low in zip(spans, corner, strict=True))
        return cls((k, j, i), voxels)

    @property
    def corner(self) -> tuple[int, int, int]:
        """Index (k, j, i) of the first voxel of the box."""
        return self.box[0].start, self.box[1].start, self.box[2].start

    def within(self, box: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
        """Return the mask cropped or padded to another box."""
        cut = np.zeros([side.stop - side.start for side in box], dtype=np.bool_)
        low = [max(mine.start, side.start) for mine, side in zip(self.box, box, strict=True)]
        high = [min(mine.stop, side.stop) for mine, side in zip(self.box, box, strict=True)]
        if all(start < stop for start, stop in zip(low, high, strict=True)):
            there = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, box, strict=True))
            here = tuple(slice(a - s.start, b - s.start) for a, b, s in zip(low, high, self.box, strict=True))
            cut[there] = self.voxels[here] > 0
        return cut

    def reindexed(self, matrix: NDArray[np.float64]) -> BoxedMask:
        """Return the mask with another axis order or direction: see `toRasIndices`."""
        placed = reindexed(self.voxels, self.corner, matrix) if self.voxels.size else None
        return self if placed is None else BoxedMask.of(*placed)

    @property
    def digest(self) -> str:
        """Checksum of the mask's voxels and their position."""
        place = repr([(side.start, side.stop) for side in self.box]).encode("ascii")
        return f"{zlib.crc32(np.packbits(self.voxels).tobytes(), zlib.crc32(place)):08x}"


def hull(*boxes: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
    """Return the bounding box of several boxes, ignoring empty ones."""
    full = [box for box in boxes if box != EMPTY_BOX] or [EMPTY_BOX]
    k, j, i = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*full, strict=True))
    return k, j, i


def toRasIndices(geometry: Geometry) -> NDArray[np.float64]:
    """Return the matrix (4, 4) from a grid's indices (i, j, k) to indices along R, A and S.

    Masks stored in the scene use those: Slicer reverses an axis of a left-handed scan when it reads it.
    """
    axes, signs = closest_ras(geometry)
    matrix = np.diag([0.0, 0.0, 0.0, 1.0])
    for row, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[row, axis] = sign
        matrix[row, 3] = 0 if sign > 0 else geometry.shape[axis] - 1
    return matrix


def reindexed(
    voxels: NDArray[Any], corner: tuple[int, ...], matrix: NDArray[np.float64]
) -> tuple[NDArray[Any], tuple[int, ...]] | None:
    """Reorder voxels (k, j, i) to the axes of another grid.

    Args:
        voxels: Voxels of a box.
        corner: Index (k, j, i) of its first voxel.
        matrix: Matrix from indices (i, j, k) of the one grid to those of the other.

    Returns:
        Voxels and corner there; None if the grids do not have the same voxel centers.
    """
    turn, shift = np.rint(matrix[:3, :3]).astype(int), np.rint(matrix[:3, 3]).astype(int)
    axes = np.abs(turn).argmax(axis=1)
    if np.abs(turn).sum() != 3 or sorted(axes) != [0, 1, 2]:
        return None
    first = np.array(corner[::-1])
    ends = np.array(list(itertools.product(*zip(first, first + voxels.shape[::-1] - 1, strict=True))))
    moved = ends @ turn.T + shift
    if np.abs(ends @ matrix[:3, :3].T + matrix[:3, 3] - moved).max() >= LATTICE_TOLERANCE_VOXELS:
        return None
    ways = tuple(slice(None, None, int(turn[row, axis])) for row, axis in enumerate(axes))
    return voxels.T.transpose(axes)[ways].T, tuple(int(start) for start in moved.min(axis=0)[::-1])


def sourceOf(mask: BoxedMask, toOther: NDArray[np.float64]) -> BoxedMask | None:
    """Return the mask on another grid from which a mask was made by nearest neighbor resampling; None if there is none.

    Args:
        mask: Mask on its own grid.
        toOther: Matrix (4, 4) from indices (i, j, k) of that grid to those of the other.
    """
    if not mask.voxels.size:
        return mask
    ends = list(itertools.product(*((side.start, side.stop - 1) for side in reversed(mask.box))))
    there = np.array(ends) @ toOther[:3, :3].T + toOther[:3, 3]
    low, high = np.floor(there.min(axis=0)).astype(int), np.ceil(there.max(axis=0)).astype(int)
    k, j, i = (slice(int(start), int(stop) + 1) for start, stop in zip(low[::-1], high[::-1], strict=True))
    back = np.linalg.inv(toOther)
    source = BoxedMask.of(_sampled(mask, (k, j, i), back), (k.start, j.start, i.start))
    margins = np.ceil(np.abs(back[:3, :3]).sum(axis=1)).astype(int)[::-1]  # of one voxel of the other grid
    k, j, i = (slice(side.start - int(m), side.stop + int(m)) for side, m in zip(mask.box, margins, strict=True))
    isImage = np.array_equal(_sampled(source, (k, j, i), toOther), mask.within((k, j, i)))
    return source if isImage else None


def _sampled(mask: BoxedMask, box: tuple[slice, slice, slice], toMask: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask in a box (k, j, i) of another grid, each voxel that of the nearest one of the mask's grid."""
    result = np.zeros([side.stop - side.start for side in box], dtype=np.bool_)
    if not mask.voxels.size:
        return result
    j, i = (axis.ravel() for axis in np.mgrid[box[1], box[2]])
    for number, k in enumerate(range(box[0].start, box[0].stop)):  # slice by slice: indices take more room than voxels
        at = np.rint(np.stack([i, j, np.full_like(i, k)], axis=1) @ toMask[:3, :3].T + toMask[:3, 3])
        at = at.astype(np.intp)[:, ::-1] - mask.corner
        inside = ((at >= 0) & (at < mask.voxels.shape)).all(axis=1)
        result[number].reshape(-1)[inside] = mask.voxels[tuple(at[inside].T)] > 0
    return result


def _span(line: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(line)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)
