"""Scans, regions and results between the MRML scene and the files of a job.

A file holds a scan as its node does, in the node's own frame:
parent transforms stay in the scene, and every result hangs under the same transform as its scan. Slicer's own functions
resample what lies on another grid, which only a region of the user's may.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from DiffuGTSLib import __version__, volumes
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.volume import Geometry, require_same_grid
from DiffuGTSSlicer.boxed_mask import BoxedMask, toRasIndices
from DiffuGTSSlicer.display import shownSegments, styleSegmentation
from DiffuGTSSlicer.grids import (
    roiMask,
    scanState,
    segmentMask,
    setSegmentBox,
    volumeGeometry,
    worldFromNode,
)
from DiffuGTSSlicer.steps import Work, inBackground, slabs, stepwise
from DiffuGTSSlicer.terminology import terminologyEntry
from DiffuGTSSlicer.time_point import setTimePoint, timePointOf

SCAN_ROLE = "DiffuGTS.Scan"
"""Reference from a result to the scan that it belongs to."""
TUMOR_COLOR = (0.85, 0.33, 0.31)
CANDIDATE_COLOR = (0.98, 0.78, 0.22)

DIGEST_TAG = "DiffuGTS.Digest"
"""Tag of a segment: what it was when it was imported, so that an edited one is never written over."""
DROPPED_TAG = "DiffuGTS.Dropped"
"""Tag of a segment: the lesions that the user has taken out of it, see `findings`."""

AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
"""How a segment came about, as DICOM calls it: Slicer exports what says nothing of it as drawn by hand."""

_ORGAN_TAG = "DiffuGTS.Organ"
ALGORITHM_TYPE_TAG, _ALGORITHM_NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
_TERMINOLOGY_TAG = slicer.vtkSegment.GetTerminologyEntryTagName()
_STATUS_TAG = slicer.vtkSlicerSegmentationsModuleLogic.GetStatusTagName()
WRITTEN_TAGS = (
    DIGEST_TAG, DROPPED_TAG, _ORGAN_TAG, ALGORITHM_TYPE_TAG, _ALGORITHM_NAME_TAG, _TERMINOLOGY_TAG, _STATUS_TAG,
)  # fmt: skip
"""Tags that `showMask` writes, the last two through Slicer."""
_RESULT = "DiffuGTS.Result"
"""Attribute of what a run has made ("1") or written into ("segment"); unlike the reference to the scan it outlives the scan."""
_TYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"} | {
    "i8": "int64",
    "u8": "uint64",
    "f4": "float",
    "f8": "double",
}
"""numpy's type → its name in NRRD."""


# --- From the scene to files


@stepwise
def exportVolume(volumeNode: Any, path: Path | str) -> Work[Geometry]:
    """Write a scan's voxels, untouched and in their own type, and its grid to a .nrrd file; return the grid.

    Raises:
        InputError, GeometryError: As `volumeGeometry`; also if the scan is changed meanwhile (code "changed").
        StorageError: If the file cannot be written. Nothing is left behind.
    """
    geometry = volumeGeometry(volumeNode)
    before = scanState(volumeNode)

    def voxels() -> NDArray[Any]:
        if scanState(volumeNode) != before:
            raise InputError(
                _("'{name}' was changed while it was read.").format(name=volumeNode.GetName()),
                hint=_("run it again."),
                code="changed",
            )
        array: NDArray[Any] = slicer.util.arrayFromVolume(volumeNode)
        return array

    yield from _writeNrrd(voxels, geometry, Path(path))
    return geometry


@stepwise
def exportCandidate(segmentationNode: Any, segmentId: str, scanNode: Any, path: Path | str) -> Work[None]:
    """Write the candidate region that the user drew or edited, on the scan's grid.

    Args:
        segmentationNode: With the region.
        segmentId: Of the region; "" takes all segments that are shown, together.
        scanNode: The scan.
        path: Of the file.

    Raises:
        InputError: If there is no such segment (code "no_segment"), none is shown (code "hidden_candidate"), or none of
            the region lies in the scan (code "empty_candidate").
        GeometryError: As `volumeGeometry`.
        StorageError: As `exportVolume`.
    """
    wanted = [segmentId] if segmentId else shownSegments(segmentationNode)
    if not wanted:
        raise InputError(
            _("No segment of '{name}' is shown.").format(name=segmentationNode.GetName()),
            hint=_("show those that are to be refined, in the Segmentations module."),
            code="hidden_candidate",
        )
    mask = yield from segmentMask.steps(segmentationNode, wanted[0], scanNode)
    for each in wanted[1:]:
        more = yield from segmentMask.steps(segmentationNode, each, scanNode)
        yield from inBackground(np.bitwise_or, mask, more, out=mask)
    yield from _exportMask(mask, scanNode, path, "empty_candidate")


@stepwise
def exportOrgan(segmentationNode: Any, segmentId: str, scanNode: Any, path: Path | str) -> Work[None]:
    """Write the organ that is painted into; errors as of `exportCandidate`, with the code "empty_organ"."""
    mask = yield from segmentMask.steps(segmentationNode, segmentId, scanNode)
    yield from _exportMask(mask, scanNode, path, "empty_organ")


@stepwise
def exportRegion(
    path: Path | str, volumeNode: Any, segmentationNode: Any = None, segmentId: str = "", roiNode: Any = None
) -> Work[bool]:
    """Write where an anomaly may be: in the organ's segment, in the box, or in both where both are given.

    Args:
        path: Written only where there is a restriction.
        volumeNode: The scan.
        segmentationNode: With the organ; None for the whole scan.
        segmentId: Of the organ; may be left away where there is just one segment.
        roiNode: A box; None for the whole scan.

    Returns:
        Whether there is a restriction.

    Raises:
        InputError: If there is no such segment (code "no_segment"), or nothing of the scan is left (code "empty_region").
        GeometryError: As `volumeGeometry`; also if the box lies under a transform that bends space.
        StorageError: As `exportVolume`.
    """
    masks = []
    if segmentationNode is not None:
        masks.append((yield from segmentMask.steps(segmentationNode, segmentId, volumeNode)))
    if roiNode is not None:
        masks.append((yield from roiMask.steps(roiNode, volumeNode)))
    if not masks:
        return False
    allowed = yield from inBackground(np.bitwise_and.reduce, masks)
    if len(masks) == 2 and all(mask.any() for mask in masks) and not allowed.any():
        raise InputError(
            _("The organ's segment and the box '{name}' have no voxel of the scan in common.").format(
                name=roiNode.GetName()
            ),
            hint=_("move the box onto the organ, or use only one of the two."),
            code="empty_region",
        )
    yield from _exportMask(allowed, volumeNode, path, "empty_region")
    return True


def pointInScan(pointsNode: Any, scanNode: Any) -> tuple[float, float, float]:
    """Return the first point of a markups node in the scan's own frame, RAS in mm, as the scan's file has it.

    Raises:
        InputError: Code "no_place": it has no point, or none that was placed yet.
    """
    placed = [
        index
        for index in range(pointsNode.GetNumberOfControlPoints())
        if pointsNode.GetNthControlPointPositionStatus(index) == pointsNode.PositionDefined
    ]
    if not placed:
        raise InputError(
            _("'{name}' holds no point that was placed.").format(name=pointsNode.GetName()),
            hint=_("place one."),
            code="no_place",
        )
    world = [0.0] * 3
    pointsNode.GetNthControlPointPositionWorld(placed[0], world)
    r, a, s, _one = (float(value) for value in np.linalg.inv(worldFromNode(scanNode)) @ [*world, 1.0])
    return r, a, s


# --- From files to the scene


@stepwise
def importVolume(path: Path | str, scanNode: Any, name: str, node: Any = None) -> Work[Any]:
    """Show a map of a job as a volume on exactly the scan's grid, under its transform and beside it in the hierarchy.

    Args:
        path: Of a file on the scan's grid.
        scanNode: The scan.
        name: Of a new node, whose window and level are left to `display`: finding some takes a while.
        node: Of an earlier run, whose voxels are replaced; None, or one that was deleted, makes a new one.

    Raises:
        GeometryError: If the file lies on another grid than the scan (code "changed").
        InputError: If the file cannot be read.
    """
    volume = yield from inBackground(volumes.read_volume, path)
    try:
        require_same_grid(volumeGeometry(scanNode), volume.geometry, "map")
    except GeometryError as error:
        raise _changed(scanNode, error) from error
    voxels = yield from inBackground(forNode, volume.array.T)
    image = vtk.vtkImageData()
    image.SetDimensions(volume.geometry.shape)
    image.AllocateScalars(get_vtk_array_type(voxels.dtype), 1)
    yield from inBackground(np.copyto, vtk_to_numpy(image.GetPointData().GetScalars()).reshape(voxels.shape), voxels)
    del volume, voxels
    yield None
    isNew = node is None or node.GetScene() is None
    if isNew:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", uniqueName(name))
    elif node.GetNodeReferenceID(SCAN_ROLE) != scanNode.GetID() and node.GetName() != name:
        node.SetName(uniqueName(name))
    node.CopyOrientation(scanNode)
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().AutoWindowLevelOff()
    node.SetAndObserveImageData(image)
    yield None  # the earlier voxels are gone, which takes a moment
    _belongTo(node, scanNode)
    return node


def forNode(array: NDArray[Any]) -> NDArray[Any]:
    """Return voxels in a type that Slicer draws: it takes no 64-bit whole numbers, half precision or truth values.

    Raises:
        InputError: If whole numbers do not fit into 32 bits.
    """
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise InputError(
                _("Voxels from {low} to {high} do not fit into 32 bits.").format(low=array.min(), high=array.max()),
                hint=_("write them as floating point."),
            )
        return array.astype(np.int32)
    return array


def newSegmentation(scanNode: Any, name: str) -> Any:
    """Make an empty segmentation on the scan's grid, under its transform and beside it in the hierarchy.

    Raises:
        InputError, GeometryError: As `volumeGeometry`.
    """
    volumeGeometry(scanNode)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", uniqueName(name))
    styleSegmentation(node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(scanNode)
    _belongTo(node, scanNode)
    return node


@stepwise
def readMask(path: Path | str, scanNode: Any) -> Work[BoxedMask]:
    """Read a mask of a job.

    Raises:
        GeometryError: If the mask lies on another grid than the scan (code "changed").
        InputError: If the file is no mask.
    """
    geometry = volumeGeometry(scanNode)
    try:
        return (yield from inBackground(lambda: BoxedMask.of(volumes.read_mask(path, geometry).array.T)))
    except GeometryError as error:
        raise _changed(scanNode, error) from error


def showMask(
    mask: BoxedMask,
    scanNode: Any,
    segmentationNode: Any,
    segmentName: str,
    organ: str = "",
    segmentId: str = "",
    color: tuple[float, float, float] = TUMOR_COLOR,
    algorithmType: str = AUTOMATIC,
) -> str:
    """Show a mask as a segment and return the segment's ID.

    Args:
        mask: On the scan's grid; may be empty.
        scanNode: The scan.
        segmentationNode: From `newSegmentation`, or any that the user chose.
        segmentName: Gets a number where another segment has it. Also tells a nodule, a cyst or a metastasis, left or
            right: see `terminologyEntry`.
        organ: Where the lesion lies; "" leaves it open.
        segmentId: Of the segment to replace, made if absent; "" makes one. Name, color and terminology of an existing
            segment are the user's, unless the organ has changed since.
        color: Of a new segment.
        algorithmType: `AUTOMATIC`, or `SEMIAUTOMATIC` where the user has drawn a part of it.

    Raises:
        GeometryError: As `setSegmentBox`.
        InputError: As `setSegmentBox`.
    """
    segmentation = segmentationNode.GetSegmentation()
    segmentId = segmentId or segmentation.GenerateUniqueSegmentID(segmentName)
    segment = segmentation.GetSegment(segmentId)
    if segment is None:
        segmentation.AddEmptySegment(segmentId, segmentName, color)
        segment = segmentation.GetSegment(segmentId)
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
    told = vtk.reference("")
    if not segment.GetTag(_ORGAN_TAG, told) or str(told) != organ:
        segment.SetName(freeSegmentName(segmentation, segmentName, segmentId))
        segment.SetTerminology(terminologyEntry(organ, segmentName))
        segment.SetTag(_ORGAN_TAG, organ)
    segment.RemoveTag(DROPPED_TAG)
    segment.SetTag(DIGEST_TAG, mask.reindexed(toRasIndices(volumeGeometry(scanNode))).digest)
    segment.SetTag(ALGORITHM_TYPE_TAG, algorithmType)
    segment.SetTag(_ALGORITHM_NAME_TAG, f"DiffuGTS {__version__}")
    setSegmentBox(mask, scanNode, segmentationNode, segmentId)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.InProgress)  # a model drew it, and nobody has looked at it
    return segmentId


def uniqueName(name: str) -> str:
    """Return a name that no node has: the scene gives the same one twice, and a name is all that tells nodes apart."""
    scene = slicer.mrmlScene
    return name if scene.GetFirstNodeByName(name) is None else str(scene.GenerateUniqueName(name))


def freeSegmentName(segmentation: Any, name: str, segmentId: str) -> str:
    """Return a name that no segment but this one has, with a number behind it where one has: as after an undo."""
    others = {segmentation.GetSegment(each).GetName() for each in segmentation.GetSegmentIDs() if each != segmentId}
    numbered = (f"{name} {number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in others)


def placeBeside(node: Any, scanNode: Any) -> None:
    """Put a node under the parent of the scan in the subject hierarchy: its study, its folder, or the scene."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    parent = hierarchy.GetItemParent(_hierarchyItem(hierarchy, scanNode))
    hierarchy.SetItemParent(_hierarchyItem(hierarchy, node), parent or hierarchy.GetSceneItemID())


def markResult(node: Any, scanNode: Any, isMade: bool = True) -> None:
    """Note that a node is, or holds, a result of a scan, and of which time point where the scan is one of a sequence.

    Args:
        node: The node.
        scanNode: The scan.
        isMade: False for a segmentation of the user's, of which a segment only is the result: see `isUserOwned`.
    """
    node.SetNodeReferenceID(SCAN_ROLE, scanNode.GetID())
    setTimePoint(node, timePointOf(scanNode))
    if isMade or node.GetAttribute(_RESULT) is None:
        node.SetAttribute(_RESULT, "1" if isMade else "segment")


def isUserOwned(node: Any) -> bool:
    """Say whether a result was written into a segmentation of the user's own."""
    return node.GetAttribute(_RESULT) == "segment"


def isResult(node: Any) -> bool:
    """Say whether a run has made a node or written into it, also where its scan is gone."""
    return node.GetAttribute(_RESULT) is not None or bool(node.GetNodeReferenceID(SCAN_ROLE))


def _changed(scanNode: Any, error: GeometryError) -> GeometryError:
    """Return what a result on another grid than the scan's means: the worker had the scan as it was before."""
    words = _("'{scan}' was changed during the run. {error}").format(scan=scanNode.GetName(), error=error.message)
    return GeometryError(words, hint=_("run it again."), code="changed")


def _belongTo(node: Any, scanNode: Any) -> None:
    node.SetAndObserveTransformNodeID(scanNode.GetTransformNodeID())
    markResult(node, scanNode)
    placeBeside(node, scanNode)


def _hierarchyItem(hierarchy: Any, node: Any) -> int:
    """Return a node's item; the application makes items by itself, the bare scene does not."""
    return hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def _exportMask(mask: NDArray[np.uint8], volumeNode: Any, path: Path | str, code: str) -> Work[None]:
    if not (yield from inBackground(mask.any)):
        words = {
            "empty_candidate": _("The candidate region holds no voxel of '{scan}'."),
            "empty_organ": _("The organ's segment holds no voxel of '{scan}'."),
        }.get(code, _("The region holds no voxel of '{scan}'."))
        raise InputError(
            words.format(scan=volumeNode.GetName()),
            hint=_("paint it, or move it into the scan; the Transforms module shows whether something moved it away."),
            code=code,
        )
    yield from _writeNrrd(lambda: mask, volumeGeometry(volumeNode), Path(path))


def _writeNrrd(voxels: Callable[[], NDArray[Any]], geometry: Geometry, path: Path) -> Work[None]:
    """Write voxels (k, j, i) without compression, since a person waits, and every digit of the grid."""
    toLps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.ijk_to_ras + 0.0
    vectors = ["(" + ",".join(repr(float(value)) for value in toLps[:3, axis]) + ")" for axis in range(4)]
    header = (
        "NRRD0004",
        f"type: {_TYPES[voxels().dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, geometry.shape))}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        f"endian: {sys.byteorder}",
        "encoding: raw",
        f"space origin: {vectors[3]}",
    )
    with whole_file(path) as temporary, temporary.open("wb", buffering=0) as file:
        file.write(("\n".join(header) + "\n\n").encode("ascii"))
        for slab in slabs(geometry.shape[::-1]):
            # A copy, since the thread must not look into what belongs to a node.
            yield from inBackground(file.write, voxels()[slab].tobytes())
