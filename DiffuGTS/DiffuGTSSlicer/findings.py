"""What a segment holds, lesion by lesion, measured in the world; each can be dropped and taken back.

A lesion is a set of voxels that touch by a face, an edge or a corner. What was dropped stays with the segment as a tag,
so that it comes back after the scene was saved and read, too.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.volume import require_same_grid
from DiffuGTSSlicer import display
from DiffuGTSSlicer.grids import (
    EMPTY_BOX,
    BoxedMask,
    hull,
    segmentBox,
    segmentMask,
    setSegmentBox,
    volumeGeometry,
    worldFromNode,
)
from DiffuGTSSlicer.scene import DROPPED_TAG

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Finding:
    """One lesion.

    Attributes:
        number: 1 for the largest; keeps its number when it is dropped.
        volumeMl: Voxels times their size in the world.
        diameterMm: The longest within one acquired slice, pixels with their width.
        centroidRas: Mean of the voxel centers in the world, mm. May lie outside a crescent.
        meanAova: Mean abnormal attention, 0 to 1; NaN without a map.
        maxAova: Highest abnormal attention; NaN without a map.
        meanChange: Scan less pseudo-healthy image, HU or MR units; NaN where nothing was repainted.
        kept: Whether it is part of the segment.
    """

    number: int
    volumeMl: float
    diameterMm: float
    centroidRas: tuple[float, float, float]
    meanAova: float
    maxAova: float
    meanChange: float
    kept: bool


class Findings:
    """The table of one segment. `rows` is as of the last `update`, which every change through here calls."""

    def __init__(
        self, segmentationNode: Any, segmentId: str, scanNode: Any, aovaNode: Any = None, healthyNode: Any = None
    ) -> None:
        """Measure every lesion.

        Args:
            segmentationNode: With the segment.
            segmentId: Of the tumors.
            scanNode: The scan.
            aovaNode: Its map of abnormal attention; None after the user drew the candidates without one.
            healthyNode: Its pseudo-healthy image; None where nothing was repainted.

        Raises:
            InputError: If there is no such segment.
            GeometryError: If a map lies on another grid than the scan.
        """
        self._segmentationNode, self._segmentId, self._scanNode = segmentationNode, segmentId, scanNode
        self._aovaNode, self._healthyNode = aovaNode, healthyNode
        self.rows: tuple[Finding, ...] = ()
        self.update()

    def update(self) -> tuple[Finding, ...]:
        """Measure again, after the segment was edited or moved, and return the rows, the largest first."""
        geometry = volumeGeometry(self._scanNode)
        for node, name in ((self._aovaNode, "AOVA map"), (self._healthyNode, "pseudo-healthy image")):
            if node is not None:
                require_same_grid(geometry, volumeGeometry(node), name)
        present, dropped = self._present(), self._dropped()
        matrix = worldFromNode(self._scanNode) @ geometry.ijk_to_ras
        whole = present
        if dropped.voxels.size:
            box = hull(present.box, dropped.box)
            whole = BoxedMask.of(present.within(box) | dropped.within(box), _corner(box))
        # The sort is stable, and dropping changes no size: one segment always has one numbering.
        self._lesions = sorted(_lesions(whole), key=lambda each: -each.voxels.sum())
        self.rows = tuple(
            self._measured(number, lesion, present, matrix) for number, lesion in enumerate(self._lesions, start=1)
        )
        return self.rows

    def keep(self, number: int, kept: bool) -> None:
        """Take a lesion out of the segment, or put it back.

        Raises:
            InputError: If there is no finding of that number.
        """
        lesion = self._lesion(number)
        before = self._present(), self._dropped()
        box = hull(lesion.box, *(mask.box for mask in before))
        present, dropped = (mask.within(box) for mask in before)
        gains, loses = (present, dropped) if kept else (dropped, present)
        here = _moved(lesion.box, tuple(-start for start in _corner(box)))
        gains[here] |= lesion.voxels & loses[here]
        loses[here] &= ~lesion.voxels
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        status = logic.GetSegmentStatus(self._segment())  # Slicer takes an emptied segment for one not yet started
        setSegmentBox(BoxedMask.of(present, _corner(box)), self._scanNode, self._segmentationNode, self._segmentId)
        logic.SetSegmentStatus(self._segment(), status)
        self._segment().SetTag(DROPPED_TAG, _packed(BoxedMask.of(dropped, _corner(box)), self._shape()))
        self.update()

    def jump(self, number: int) -> None:
        """Show a lesion in every slice view, at its voxel closest to the centroid.

        Raises:
            InputError: If there is no finding of that number.
        """
        matrix = worldFromNode(self._scanNode) @ volumeGeometry(self._scanNode).ijk_to_ras
        lesion = self._lesion(number)
        points = _inWorld(lesion.indices(lesion.voxels), matrix)
        distances = np.linalg.norm(points - self.rows[number - 1].centroidRas, axis=1)
        display.jumpTo(points[distances.argmin()])

    def _lesion(self, number: int) -> _Lesion:
        if not 1 <= number <= len(self._lesions):
            raise InputError(f"There is no finding {number}; expected 1 to {len(self._lesions)}.", code="missing")
        return self._lesions[number - 1]

    def _measured(self, number: int, lesion: _Lesion, present: BoxedMask, matrix: NDArray[np.float64]) -> Finding:
        remaining = lesion.voxels & present.within(lesion.box)
        kept = bool(remaining.any())
        voxels = remaining if kept else lesion.voxels
        attention, change = np.array([nan]), np.array([nan])
        if self._aovaNode is not None:
            attention = _values(self._aovaNode, lesion.box, voxels)
        if self._healthyNode is not None:
            change = _values(self._scanNode, lesion.box, voxels) - _values(self._healthyNode, lesion.box, voxels)
        indices = lesion.indices(voxels)
        r, a, s = _inWorld(indices, matrix).mean(axis=0)
        return Finding(
            number=number,
            volumeMl=float(len(indices) * abs(np.linalg.det(matrix[:3, :3])) / 1000),
            diameterMm=_longestInPlaneMm(indices, np.linalg.norm(matrix[:3, :3], axis=0)),
            centroidRas=(float(r), float(a), float(s)),
            meanAova=float(attention.mean()),
            maxAova=float(attention.max()),
            meanChange=float(change.mean()),
            kept=kept,
        )

    def _segment(self) -> Any:
        return self._segmentationNode.GetSegmentation().GetSegment(self._segmentId)

    def _shape(self) -> tuple[int, ...]:
        return volumeGeometry(self._scanNode).shape[::-1]

    def _present(self) -> BoxedMask:
        """Return the segment as it is now; one on another grid is resampled, which takes longer."""
        where = (self._segmentationNode, self._segmentId, self._scanNode)
        stored = segmentBox(*where)
        return BoxedMask.of(segmentMask(*where)) if stored is None else stored

    def _dropped(self) -> BoxedMask:
        text = vtk.reference("")
        return _unpacked(str(text) if self._segment().GetTag(DROPPED_TAG, text) else "", self._shape())


@dataclass(frozen=True, eq=False)
class _Lesion:
    """Voxels of one lesion within their box (k, j, i), dropped or not."""

    box: tuple[slice, slice, slice]
    voxels: NDArray[np.bool_]

    def indices(self, voxels: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the indices (n, 3) of some of its voxels in the scan, as (i, j, k)."""
        return (np.argwhere(voxels) + [side.start for side in self.box])[:, ::-1]


def _lesions(mask: BoxedMask) -> list[_Lesion]:
    """Return the lesions of a mask, far ones apart: what lies between them need not be looked at voxel by voxel."""
    found = []
    for part in _parts(mask):
        labels, _count = ndimage.label(part.voxels, structure=_TOUCHING)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            found.append(_Lesion(_moved(box, part.corner), labels[box] == label))
    return sorted(found, key=lambda each: _corner(each.box))


def _parts(mask: BoxedMask) -> Iterator[BoxedMask]:
    """Yield the parts of a mask between which a whole plane of voxels is empty, each in its own box."""
    for axis in range(3):
        filled = mask.voxels.any(axis=tuple(other for other in range(3) if other != axis))
        edges = np.flatnonzero(np.diff(filled.astype(np.int8), prepend=0, append=0))
        if len(edges) > 2:
            for start, stop in edges.reshape(-1, 2):
                corner = list(mask.corner)
                corner[axis] += int(start)
                cut = [slice(None)] * 3
                cut[axis] = slice(int(start), int(stop))
                yield from _parts(BoxedMask.of(mask.voxels[tuple(cut)], tuple(corner)))
            return
    if mask.voxels.size:
        yield mask


def _corner(box: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(side.start for side in box)


def _moved(box: tuple[slice, ...], by: tuple[int, ...]) -> tuple[slice, slice, slice]:
    k, j, i = (slice(side.start + start, side.stop + start) for side, start in zip(box, by, strict=True))
    return k, j, i


def _values(node: Any, box: tuple[slice, ...], voxels: NDArray[np.bool_]) -> NDArray[np.float64]:
    return slicer.util.arrayFromVolume(node)[box][voxels].astype(np.float64)


def _inWorld(indices: NDArray[np.intp], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    points: NDArray[np.float64] = indices @ matrix[:3, :3].T + matrix[:3, 3]
    return points


def _longestInPlaneMm(indices: NDArray[np.intp], spacingMm: NDArray[np.float64]) -> float:
    """Return the largest distance between the sides of two pixels in one acquired slice, as findings.csv has it.

    Slices run across the axis of largest spacing, k where two are alike.
    """
    alike = np.flatnonzero(spacingMm >= 0.99 * spacingMm.max())
    across = int(alike[0]) if len(alike) == 1 else 2
    within = [axis for axis in range(3) if axis != across]
    size = spacingMm[within]
    sides = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    longest = 0.0
    for place in np.unique(indices[:, across]):
        pixels = indices[indices[:, across] == place][:, within]
        if np.linalg.norm((np.ptp(pixels, axis=0) + 1) * size) <= longest:
            continue  # even the diagonal of its box is shorter than what another slice holds
        points = ((pixels[:, None] + sides) * size).reshape(-1, 2)
        longest = max(longest, float(pdist(points[ConvexHull(points).vertices]).max()))
    return longest


# --- What was dropped, as a text: shape of the grid, box, and its voxels, eight in a byte


def _packed(mask: BoxedMask, shape: tuple[int, ...]) -> str:
    if not mask.voxels.size:
        return ""
    numbers = [*shape, *(edge for side in mask.box for edge in (side.start, side.stop))]
    bits = base64.b64encode(zlib.compress(np.packbits(mask.voxels).tobytes(), 9)).decode("ascii")
    return ",".join([*map(str, numbers), bits])


def _unpacked(text: str, shape: tuple[int, ...]) -> BoxedMask:
    """Return the mask; nothing is dropped where the text is empty, damaged, or of another grid."""
    nothing = BoxedMask(EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.uint8))
    try:
        *numbers, bits = text.split(",")
        values = [int(number) for number in numbers]
        if tuple(values[:3]) != shape:
            return nothing
        k, j, i = (slice(values[3 + 2 * axis], values[4 + 2 * axis]) for axis in range(3))
        sides = [side.stop - side.start for side in (k, j, i)]
        packed = np.frombuffer(zlib.decompress(base64.b64decode(bits, validate=True)), dtype=np.uint8)
        return BoxedMask((k, j, i), np.unpackbits(packed, count=int(np.prod(sides))).reshape(sides))
    except (ValueError, IndexError, zlib.error):
        return nothing
