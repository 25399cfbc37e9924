"""The lesions of a segment, measured in world coordinates; each can be removed from the segment and restored.

A segment is measured on its own grid, as in Segment Statistics; that of an edited segment may be finer than the scan's.
Attention and change are read at the scan's voxels nearest to the segment's.
Removed lesions are stored in a tag of the segment, so they can be restored after the scene is saved and loaded.
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
from slicer.i18n import tr as _

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.lesions import label_lesions, longest_in_plane_diameter_mm
from DiffuGTSLib.volumes.volume import Geometry, require_same_grid
from DiffuGTSSlicer import slice_views
from DiffuGTSSlicer.boxed_mask import EMPTY_BOX, BoxedMask, hull, toRasIndices
from DiffuGTSSlicer.grids import (
    isLinear,
    ownMask,
    requireWritable,
    segmentBox,
    segmentMask,
    setSegmentBox,
    volumeGeometry,
    worldFromNode,
)
from DiffuGTSSlicer.scene import DROPPED_TAG
from DiffuGTSSlicer.steps import Work, inBackground, slabs, stepwise
from DiffuGTSSlicer.time_point import isOfShownTimePoint

_NOTHING = BoxedMask(EMPTY_BOX, np.zeros((0, 0, 0), dtype=np.uint8))


@dataclass(frozen=True)
class Finding:
    """One lesion.

    Attributes:
        number: 1 for the largest; a removed finding keeps its number.
        volumeMl: Volume in world coordinates.
        diameterMm: Longest diameter within one slice of the segment's grid, including the width of the pixels.
        centroidRas: Mean of the voxel centers in world coordinates, mm. May be outside of a crescent-shaped lesion.
        meanAova: Mean abnormal attention, 0 to 1; NaN without a map, or if the lesion is outside of the scan.
        maxAova: Highest abnormal attention; NaN without a map.
        meanChange: Scan minus pseudo-healthy image, HU or MR units; NaN if nothing was repainted, or if the scan shows
            another time point than that of the result.
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
    """The findings of one segment. `rows` is updated by `update`, which every change calls."""

    def __init__(
        self,
        segmentationNode: Any,
        segmentId: str,
        scanNode: Any,
        aovaNode: Any = None,
        healthyNode: Any = None,
        isMeasured: bool = True,
    ) -> None:
        """Measure all lesions.

        Args:
            segmentationNode: Segmentation with the segment.
            segmentId: Segment of the tumors.
            scanNode: The scan.
            aovaNode: Its AOVA map; None if the user drew the candidates without one.
            healthyNode: Its pseudo-healthy image; None if nothing was repainted.
            isMeasured: False leaves measuring to `update`, whose `steps` keep the GUI responsive.

        Raises:
            InputError: If there is no such segment.
            GeometryError: If a map is on another grid than the scan, or under another transform.
        """
        self._segmentationNode, self._segmentId, self._scanNode = segmentationNode, segmentId, scanNode
        self._aovaNode, self._healthyNode = aovaNode, healthyNode
        self.rows: tuple[Finding, ...] = ()
        self._lesions: list[_Lesion] = []
        if isMeasured:
            self.update()

    @stepwise
    def update(self) -> Work[tuple[Finding, ...]]:
        """Measure again, after the segment was edited or moved, and return the rows, the largest first."""
        geometry = volumeGeometry(self._scanNode)
        for node, name in ((self._aovaNode, "AOVA map"), (self._healthyNode, "pseudo-healthy image")):
            if node is not None:
                _requireTogether(self._scanNode, geometry, node, name)
        scanToWorld = worldFromNode(self._scanNode) @ geometry.ijk_to_ras
        present, toWorld = yield from self._present()
        dropped = self._dropped()
        if toWorld is None:
            lesions = yield from inBackground(_lesions, present, dropped, scanToWorld)
        else:
            lesions = yield from inBackground(
                _lesions, present, _NOTHING, toWorld, np.linalg.inv(scanToWorld) @ toWorld
            )
            lesions += yield from inBackground(_lesions, _NOTHING, dropped, scanToWorld)
            lesions.sort(key=_Lesion.rank)
        rows = []
        for number, lesion in enumerate(lesions, start=1):
            rows.append((yield from self._measured(number, lesion)))
        self._lesions, self.rows = lesions, tuple(rows)
        return self.rows

    def keep(self, number: int, kept: bool) -> None:
        """Remove a lesion from the segment, or restore it.

        Raises:
            InputError: If there is no finding of that number; code "other_grid" if the segment is on another grid than the
                scan's, since rewriting it would lose its finer edges.
            GeometryError: Under a nonlinear transform.
        """
        lesion = self._lesion(number)
        stored = segmentBox(self._segmentationNode, self._segmentId, self._scanNode)
        if stored is None or lesion.toScan is not None:
            requireWritable(self._segmentationNode)
            raise InputError(
                _(
                    "'{name}' is on another grid than the scan's: removing the finding here would coarsen the whole segment."
                ).format(name=self._segment().GetName()),
                hint=_("erase the finding in the Segment Editor."),
                code="other_grid",
            )
        before = stored, self._dropped()
        box = hull(lesion.box, *(mask.box for mask in before))
        present, dropped = (mask.within(box) for mask in before)
        gains, loses = (present, dropped) if kept else (dropped, present)
        here = _moved(lesion.box, tuple(-start for start in _corner(box)))
        gains[here] |= lesion.voxels & loses[here]
        loses[here] &= ~lesion.voxels
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        status = logic.GetSegmentStatus(self._segment())  # Slicer sets the status of an emptied segment to not started
        setSegmentBox(BoxedMask.of(present, _corner(box)), self._scanNode, self._segmentationNode, self._segmentId)
        logic.SetSegmentStatus(self._segment(), status)
        self._setDropped(BoxedMask.of(dropped, _corner(box)))
        self.update()

    def jump(self, number: int) -> None:
        """Show a lesion in every slice view, at its voxel closest to the centroid.

        Raises:
            InputError: If there is no finding of that number.
        """
        lesion = self._lesion(number)
        points = lesion.indices() @ lesion.toWorld[:3, :3].T + lesion.toWorld[:3, 3]
        distances = np.linalg.norm(points - self.rows[number - 1].centroidRas, axis=1)
        slice_views.jumpTo(points[distances.argmin()])

    def _lesion(self, number: int) -> _Lesion:
        if not 1 <= number <= len(self._lesions):
            words = _("There is no finding {number}; expected 1 to {count}.")
            raise InputError(words.format(number=number, count=len(self._lesions)), code="no_finding")
        return self._lesions[number - 1]

    def _measured(self, number: int, lesion: _Lesion) -> Work[Finding]:
        kept = bool(lesion.present.any())
        voxels, matrix = lesion.present if kept else lesion.voxels, lesion.toWorld
        meanAova, maxAova = yield from _meanAndMax(lesion, voxels, self._aovaNode)
        meanScan, _most = yield from _meanAndMax(lesion, voxels, self._scanNode)
        isComparable = self._healthyNode is not None and isOfShownTimePoint(self._healthyNode, self._scanNode)
        healthy = self._healthyNode if isComparable else None
        meanHealthy, _most = yield from _meanAndMax(lesion, voxels, healthy)
        spacingMm = tuple(np.linalg.norm(matrix[:3, :3], axis=0))
        diameterMm = yield from inBackground(longest_in_plane_diameter_mm, voxels.T, spacingMm)
        r, a, s = matrix[:3, :3] @ (_meanIndex(voxels) + _corner(lesion.box)[::-1]) + matrix[:3, 3]
        return Finding(
            number=number,
            volumeMl=_volumeMl(voxels, matrix),
            diameterMm=diameterMm,
            centroidRas=(float(r), float(a), float(s)),
            meanAova=meanAova,
            maxAova=maxAova,
            meanChange=meanScan - meanHealthy,
            kept=kept,
        )

    def _segment(self) -> Any:
        return self._segmentationNode.GetSegmentation().GetSegment(self._segmentId)

    def _present(self) -> Work[tuple[BoxedMask, NDArray[np.float64] | None]]:
        """Return the segment, and the matrix from its grid's (i, j, k) to the world if that is not the scan's grid.

        Under a nonlinear transform there is no such matrix, and the segment is resampled to the scan's grid.
        """
        where = (self._segmentationNode, self._segmentId, self._scanNode)
        stored = yield from segmentBox.steps(*where)
        if stored is not None:
            return stored, None
        if isLinear(self._segmentationNode):
            return (yield from ownMask.steps(*where[:2]))
        mask = yield from segmentMask.steps(*where)
        return (yield from inBackground(BoxedMask.of, mask)), None

    def _dropped(self) -> BoxedMask:
        text = vtk.reference("")
        geometry = volumeGeometry(self._scanNode)
        kept = _unpacked(str(text) if self._segment().GetTag(DROPPED_TAG, text) else "", _rasShape(geometry))
        return kept.reindexed(np.linalg.inv(toRasIndices(geometry)))

    def _setDropped(self, dropped: BoxedMask) -> None:
        geometry = volumeGeometry(self._scanNode)
        kept = dropped.reindexed(toRasIndices(geometry))
        self._segment().SetTag(DROPPED_TAG, _packed(kept, _rasShape(geometry)))


@dataclass(frozen=True, eq=False)
class _Lesion:
    """One lesion, cropped to its bounding box.

    Attributes:
        box: Bounding box (k, j, i) in its grid.
        voxels: All its voxels, removed or not.
        present: Its voxels that are in the segment.
        toWorld: Matrix (4, 4) from its grid's (i, j, k) to the world.
        toScan: Matrix to the scan's grid; None if it is on that grid.
    """

    box: tuple[slice, slice, slice]
    voxels: NDArray[np.bool_]
    present: NDArray[np.bool_]
    toWorld: NDArray[np.float64]
    toScan: NDArray[np.float64] | None

    def indices(self) -> NDArray[np.intp]:
        """Return the indices (n, 3) of its voxels in its grid, as (i, j, k)."""
        return (np.argwhere(self.voxels) + _corner(self.box))[:, ::-1]

    def rank(self) -> tuple[float, tuple[int, ...]]:
        """Return a sort key: the largest first, lesions of equal size in grid order."""
        return -_volumeMl(self.voxels, self.toWorld), _corner(self.box)


def _lesions(
    present: BoxedMask,
    dropped: BoxedMask,
    toWorld: NDArray[np.float64],
    toScan: NDArray[np.float64] | None = None,
) -> list[_Lesion]:
    """Return all lesions, removed or not, the largest first; those of equal size in grid order.

    Removing a lesion changes no size, so the numbering of a segment is stable.
    """
    whole = present
    if dropped.voxels.size:
        box = hull(present.box, dropped.box)
        whole = BoxedMask.of(present.within(box) | dropped.within(box), _corner(box))
    found = []
    for part in _parts(whole):  # distant parts separately: the space between them need not be searched
        labels, _count = label_lesions(part.voxels)
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            where, voxels = _moved(box, part.corner), labels[box] == label
            found.append(_Lesion(where, voxels, voxels & present.within(where), toWorld, toScan))
    return sorted(found, key=_Lesion.rank)


def _parts(mask: BoxedMask) -> Iterator[BoxedMask]:
    """Yield the parts of a mask that are separated by an empty plane of voxels, each in its own box."""
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


def _requireTogether(scanNode: Any, geometry: Geometry, node: Any, name: str) -> None:
    """Refuse a map that is not aligned with its scan.

    Raises:
        GeometryError: Code "geometry" if the scan was cropped or hardened after the run, or "transform".
    """
    try:
        require_same_grid(geometry, volumeGeometry(node), name)
    except GeometryError as error:
        raise GeometryError(
            _("'{scan}' was changed after its result was made. {error}").format(
                scan=scanNode.GetName(), error=error.message
            ),
            hint=_(
                "segment again; or, if a transform was hardened on the scan, harden the same one on the segmentation and "
                "the maps of the result (Transforms module)."
            ),
        ) from error
    if not np.allclose(worldFromNode(node), worldFromNode(scanNode), rtol=0, atol=1e-6):
        raise GeometryError(
            _("'{scan}' and its {part} have different parent transforms.").format(scan=scanNode.GetName(), part=name),
            hint=_("put the segmentation and the maps of the result under the scan's transform (Transforms module)."),
            code="transform",
        )


def _volumeMl(voxels: NDArray[np.bool_], toWorld: NDArray[np.float64]) -> float:
    return float(np.count_nonzero(voxels) * abs(np.linalg.det(toWorld[:3, :3])) / 1000)


def _corner(box: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(side.start for side in box)


def _moved(box: tuple[slice, ...], by: tuple[int, ...]) -> tuple[slice, slice, slice]:
    k, j, i = (slice(side.start + start, side.stop + start) for side, start in zip(box, by, strict=True))
    return k, j, i


def _meanAndMax(lesion: _Lesion, voxels: NDArray[np.bool_], node: Any) -> Work[tuple[float, float]]:
    """Return mean and maximum of a volume on the scan's grid within voxels of a lesion's box; NaN without a volume.

    Voxels outside of the scan are ignored: the user may have drawn the lesion in a longer series.
    """
    if node is None:
        return nan, nan
    box, count, total, highest = lesion.box, 0, 0.0, -np.inf
    if lesion.toScan is None:
        box, voxels = _within(slicer.util.arrayFromVolume(node).shape, box, voxels)
    for slab in slabs(voxels.shape):  # in slabs
        yield None
        array = slicer.util.arrayFromVolume(node)
        if lesion.toScan is None:
            values = array[box][slab][voxels[slab]]
        else:
            start = np.add(_corner(box), (slab.start, 0, 0))
            values = _nearest(array, (np.argwhere(voxels[slab]) + start)[:, ::-1], lesion.toScan)
        if len(values):
            count += len(values)
            total += float(values.sum(dtype=np.float64))
            highest = max(highest, float(values.max()))
    return (total / count, highest) if count else (nan, nan)


def _nearest(array: NDArray[Any], indices: NDArray[np.intp], toScan: NDArray[np.float64]) -> NDArray[Any]:
    """Return the values of an array (k, j, i) at the voxels nearest to indices (n, 3) of another grid, (i, j, k)."""
    at = np.rint(indices @ toScan[:3, :3].T + toScan[:3, 3]).astype(np.intp)[:, ::-1]
    values: NDArray[Any] = array[tuple(at[((at >= 0) & (at < array.shape)).all(axis=1)].T)]
    return values


def _within(
    shape: tuple[int, ...], box: tuple[slice, ...], voxels: NDArray[np.bool_]
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Return the part of a lesion's box and voxels that is inside a grid."""
    low = [min(max(side.start, 0), length) for side, length in zip(box, shape, strict=True)]
    high = [max(start, min(side.stop, length)) for side, length, start in zip(box, shape, low, strict=True)]
    inside = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    return inside, voxels[_moved(inside, tuple(-side.start for side in box))]


def _meanIndex(voxels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean index (i, j, k) of a lesion's voxels in its box."""
    along = [np.count_nonzero(voxels, axis=others) for others in ((0, 1), (0, 2), (1, 2))]
    return np.array([np.average(np.arange(len(counts)), weights=counts) for counts in along])


# --- Removed lesions as text: shape of the grid, box and packed voxels, all in RAS axis order


def _rasShape(geometry: Geometry) -> tuple[int, ...]:
    return tuple(int(side) for side in (np.abs(toRasIndices(geometry)[:3, :3]) @ geometry.shape)[::-1])


def _packed(mask: BoxedMask, shape: tuple[int, ...]) -> str:
    if not mask.voxels.size:
        return ""
    numbers = [*shape, *(edge for side in mask.box for edge in (side.start, side.stop))]
    bits = base64.b64encode(zlib.compress(np.packbits(mask.voxels).tobytes(), 9)).decode("ascii")
    return ",".join([*map(str, numbers), bits])


def _unpacked(text: str, shape: tuple[int, ...]) -> BoxedMask:
    """Return the mask; an empty one if the text is empty, damaged, or of another grid."""
    try:
        *numbers, bits = text.split(",")
        values = [int(number) for number in numbers]
        if tuple(values[:3]) != shape:
            return _NOTHING
        k, j, i = (slice(values[3 + 2 * axis], values[4 + 2 * axis]) for axis in range(3))
        sides = [side.stop - side.start for side in (k, j, i)]
        packed = np.frombuffer(zlib.decompress(base64.b64decode(bits, validate=True)), dtype=np.uint8)
        return BoxedMask((k, j, i), np.unpackbits(packed, count=int(np.prod(sides))).reshape(sides))
    except (ValueError, IndexError, zlib.error):
        return _NOTHING
