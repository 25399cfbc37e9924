"""What a segment holds, lesion by lesion, measured in the world; each can be dropped and taken back.

A lesion is a set of voxels that touch by a face, an edge or a corner. What was dropped stays with the segment as a tag,
so that it comes back after the scene was saved and read, too.
"""

from __future__ import annotations

import base64
import zlib
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
from DiffuGTSSlicer.grids import segmentMask, setSegmentMask, volumeGeometry, worldFromNode
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
        present = segmentMask(self._segmentationNode, self._segmentId, self._scanNode) > 0
        matrix = worldFromNode(self._scanNode) @ geometry.ijk_to_ras
        # The sort is stable, and dropping changes no size: one segment always has one numbering.
        self._lesions = sorted(_lesions(present | self._dropped(present.shape)), key=lambda each: -each.voxels.sum())
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
        present = segmentMask(self._segmentationNode, self._segmentId, self._scanNode) > 0
        dropped = self._dropped(present.shape)
        gains, loses = (present, dropped) if kept else (dropped, present)
        gains[lesion.box] |= lesion.voxels & loses[lesion.box]
        loses[lesion.box] &= ~lesion.voxels
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        status = logic.GetSegmentStatus(self._segment())  # Slicer takes an emptied segment for one not yet started
        setSegmentMask(present, self._scanNode, self._segmentationNode, self._segmentId)
        logic.SetSegmentStatus(self._segment(), status)
        self._segment().SetTag(DROPPED_TAG, _packed(dropped))
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

    def _measured(
        self, number: int, lesion: _Lesion, present: NDArray[np.bool_], matrix: NDArray[np.float64]
    ) -> Finding:
        remaining = lesion.voxels & present[lesion.box]
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

    def _dropped(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        text = vtk.reference("")
        return _unpacked(str(text) if self._segment().GetTag(DROPPED_TAG, text) else "", shape)


@dataclass(frozen=True, eq=False)
class _Lesion:
    """Voxels of one lesion within their box (k, j, i), dropped or not."""

    box: tuple[slice, ...]
    voxels: NDArray[np.bool_]

    def indices(self, voxels: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the indices (n, 3) of some of its voxels in the scan, as (i, j, k)."""
        return (np.argwhere(voxels) + [side.start for side in self.box])[:, ::-1]


def _lesions(mask: NDArray[np.bool_]) -> list[_Lesion]:
    labels, _count = ndimage.label(mask, structure=_TOUCHING)
    return [_Lesion(box, labels[box] == label) for label, box in enumerate(ndimage.find_objects(labels), start=1)]


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


def _packed(mask: NDArray[np.bool_]) -> str:
    if not mask.any():
        return ""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    numbers = [*mask.shape, *(edge for side in box for edge in (side.start, side.stop))]
    bits = base64.b64encode(zlib.compress(np.packbits(mask[box]).tobytes(), 9)).decode("ascii")
    return ",".join([*map(str, numbers), bits])


def _unpacked(text: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask; nothing is dropped where the text is empty, damaged, or of another grid."""
    mask = np.zeros(shape, dtype=bool)
    try:
        *numbers, bits = text.split(",")
        values = [int(number) for number in numbers]
        if tuple(values[:3]) != shape:
            return mask
        box = tuple(slice(values[3 + 2 * axis], values[4 + 2 * axis]) for axis in range(3))
        packed = np.frombuffer(zlib.decompress(base64.b64decode(bits, validate=True)), dtype=np.uint8)
        mask[box] = np.unpackbits(packed, count=mask[box].size).reshape(mask[box].shape)
    except (ValueError, IndexError, zlib.error):
        mask[:] = False
    return mask
