"""Exports scans and regions to the files of a job, and imports results into the scene.

A file has the scan in the node's own frame: parent transforms stay in the scene, and every result gets the same parent
transform as its scan. Only regions of the user may be on another grid; Slicer's functions resample them.
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
"""Node reference from a result to its scan."""
TUMOR_COLOR = (0.85, 0.33, 0.31)
CANDIDATE_COLOR = (0.98, 0.78, 0.22)

DIGEST_TAG = "DiffuGTS.Digest"
"""Tag of a segment: checksum of its voxels at import, so that an edited segment is never overwritten."""
DROPPED_TAG = "DiffuGTS.Dropped"
"""Tag of a segment: the lesions that the user has removed from it, see `findings`."""

AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
"""DICOM segment algorithm types; without one Slicer exports a segment as drawn by hand."""

_ORGAN_TAG = "DiffuGTS.Organ"
ALGORITHM_TYPE_TAG, _ALGORITHM_NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
_TERMINOLOGY_TAG = slicer.vtkSegment.GetTerminologyEntryTagName()
_STATUS_TAG = slicer.vtkSlicerSegmentationsModuleLogic.GetStatusTagName()
WRITTEN_TAGS = (
    DIGEST_TAG, DROPPED_TAG, _ORGAN_TAG, ALGORITHM_TYPE_TAG, _ALGORITHM_NAME_TAG, _TERMINOLOGY_TAG, _STATUS_TAG,
)  # fmt: skip
"""Tags that `showMask` writes, the last two through Slicer."""
_RESULT = "DiffuGTS.Result"
"""Attribute of nodes that a run has created ("1") or written into ("segment"); it is kept when the scan is deleted."""
_TYPES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32"} | {
    "i8": "int64",
    "u8": "uint64",
    "f4": "float",
    "f8": "double",
}
"""numpy type → NRRD type."""


# --- From the scene to files


@stepwise
def exportVolume(volumeNode: Any, path: Path | str) -> Work[Geometry]:
    """Write a scan's unchanged voxels and its grid to a .nrrd file; return the grid.

    Raises:
        InputError, GeometryError: As `volumeGeometry`; also if the scan is changed meanwhile (code "changed").
        StorageError: If the file cannot be written; no partial file is left.
    """
    geometry = volumeGeometry(volumeNode)
    before = scanState(volumeNode)

    def voxels() -> NDArray[Any]:
        if scanState(volumeNode) != before:
            raise InputError(
                _("'{name}' was changed while it was exported.").format(name=volumeNode.GetName()),
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
        segmentationNode: Segmentation with the region.
        segmentId: Its segment; "" takes all visible segments together.
        scanNode: The scan.
        path: File to write.

    Raises:
        InputError: If there is no such segment (code "no_segment"), none is visible (code "hidden_candidate"), or the region
            is empty within the scan (code "empty_candidate").
        GeometryError: As `volumeGeometry`.
        StorageError: As `exportVolume`.
    """
    wanted = [segmentId] if segmentId else shownSegments(segmentationNode)
    if not wanted:
        raise InputError(
            _("No segment of '{name}' is visible.").format(name=segmentationNode.GetName()),
            hint=_("show the segments to refine in the Segmentations module."),
            code="hidden_candidate",
        )
    mask = yield from segmentMask.steps(segmentationNode, wanted[0], scanNode)
    for each in wanted[1:]:
        more = yield from segmentMask.steps(segmentationNode, each, scanNode)
        yield from inBackground(np.bitwise_or, mask, more, out=mask)
    yield from _exportMask(mask, scanNode, path, "empty_candidate")


@stepwise
def exportOrgan(segmentationNode: Any, segmentId: str, scanNode: Any, path: Path | str) -> Work[None]:
    """Write the organ to paint into; errors as of `exportCandidate`, with the code "empty_organ"."""
    mask = yield from segmentMask.steps(segmentationNode, segmentId, scanNode)
    yield from _exportMask(mask, scanNode, path, "empty_organ")


@stepwise
def exportRegion(
    path: Path | str, volumeNode: Any, segmentationNode: Any = None, segmentId: str = "", roiNode: Any = None
) -> Work[bool]:
    """Write the region to search: the organ's segment, the region of interest, or the intersection of both.

    Args:
        path: File to write, if the region is restricted.
        volumeNode: The scan.
        segmentationNode: Segmentation with the organ; None for the whole scan.
        segmentId: Its segment; may be omitted if there is only one.
        roiNode: Region of interest; None for the whole scan.

    Returns:
        Whether the region is restricted.

    Raises:
        InputError: If there is no such segment (code "no_segment"), or the region is empty within the scan (code "empty_region").
        GeometryError: As `volumeGeometry`; also if the region of interest has a nonlinear parent transform.
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
            _("The organ's segment and the region of interest '{name}' have no voxel of the scan in common.").format(
                name=roiNode.GetName()
            ),
            hint=_("move the region onto the organ, or use only one of the two."),
            code="empty_region",
        )
    yield from _exportMask(allowed, volumeNode, path, "empty_region")
    return True


def pointInScan(pointsNode: Any, scanNode: Any) -> tuple[float, float, float]:
    """Return the first point of a markups node in the scan's own frame, RAS in mm, as in the exported file.

    Raises:
        InputError: Code "no_place": it has no placed point.
    """
    placed = [
        index
        for index in range(pointsNode.GetNumberOfControlPoints())
        if pointsNode.GetNthControlPointPositionStatus(index) == pointsNode.PositionDefined
    ]
    if not placed:
        raise InputError(
            _("'{name}' has no placed point.").format(name=pointsNode.GetName()),
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
    """Import a map of a job as a volume on the scan's grid, with its transform and subject hierarchy folder.

    Args:
        path: File on the scan's grid.
        scanNode: The scan.
        name: Name of a new node. Its window and level are set by `display`: computing them here would take a while.
        node: Node of an earlier run, whose voxels are replaced; None, or a deleted node, creates a new one.

    Raises:
        GeometryError: If the file is on another grid than the scan (code "changed").
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
    yield None  # releasing the earlier voxels takes a moment
    _attachToScan(node, scanNode)
    return node


def forNode(array: NDArray[Any]) -> NDArray[Any]:
    """Return voxels in a type that Slicer supports: no 64-bit integers, half precision or booleans.

    Raises:
        InputError: If integers do not fit into 32 bits.
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
    """Create an empty segmentation on the scan's grid, with its transform and subject hierarchy folder.

    Raises:
        InputError, GeometryError: As `volumeGeometry`.
    """
    volumeGeometry(scanNode)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", uniqueName(name))
    styleSegmentation(node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(scanNode)
    _attachToScan(node, scanNode)
    return node


@stepwise
def readMask(path: Path | str, scanNode: Any) -> Work[BoxedMask]:
    """Read a mask of a job.

    Raises:
        GeometryError: If the mask is on another grid than the scan (code "changed").
        InputError: If the file is not a mask.
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
    """Write a mask into a segment and return the segment's ID.

    Args:
        mask: On the scan's grid; may be empty.
        scanNode: The scan.
        segmentationNode: From `newSegmentation`, or any selected by the user.
        segmentName: Gets a number if another segment has it. Also determines the terminology, such as nodule, cyst or
            metastasis, left or right: see `terminologyEntry`.
        organ: Organ of the lesion; "" if it is not known.
        segmentId: Segment to replace, created if absent; "" creates one. Name, color and terminology of an existing
            segment are kept, unless the organ has changed.
        color: Color of a new segment.
        algorithmType: `AUTOMATIC`, or `SEMIAUTOMATIC` if the user has drawn a part of it.

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
    previous = vtk.reference("")
    if not segment.GetTag(_ORGAN_TAG, previous) or str(previous) != organ:
        segment.SetName(freeSegmentName(segmentation, segmentName, segmentId))
        segment.SetTerminology(terminologyEntry(organ, segmentName))
        segment.SetTag(_ORGAN_TAG, organ)
    segment.RemoveTag(DROPPED_TAG)
    segment.SetTag(DIGEST_TAG, mask.reindexed(toRasIndices(volumeGeometry(scanNode))).digest)
    segment.SetTag(ALGORITHM_TYPE_TAG, algorithmType)
    segment.SetTag(_ALGORITHM_NAME_TAG, f"DiffuGTS {__version__}")
    setSegmentBox(mask, scanNode, segmentationNode, segmentId)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.InProgress)  # made by a model and not reviewed yet
    return segmentId


def uniqueName(name: str) -> str:
    """Return a node name that is not in the scene yet: the scene allows duplicates, which users cannot tell apart."""
    scene = slicer.mrmlScene
    return name if scene.GetFirstNodeByName(name) is None else str(scene.GenerateUniqueName(name))


def freeSegmentName(segmentation: Any, name: str, segmentId: str) -> str:
    """Return a segment name that no other segment has, with a number appended if needed, for example after an undo."""
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
    """Mark a node as a result of a scan, or as holding one, with its time point in a sequence.

    Args:
        node: The node.
        scanNode: The scan.
        isMade: False for a segmentation of the user, in which only one segment is the result: see `isUserOwned`.
    """
    node.SetNodeReferenceID(SCAN_ROLE, scanNode.GetID())
    setTimePoint(node, timePointOf(scanNode))
    if isMade or node.GetAttribute(_RESULT) is None:
        node.SetAttribute(_RESULT, "1" if isMade else "segment")


def isUserOwned(node: Any) -> bool:
    """Return whether a result was written into a segmentation of the user."""
    return node.GetAttribute(_RESULT) == "segment"


def isResult(node: Any) -> bool:
    """Return whether a run has created a node or written into it, even if its scan was deleted."""
    return node.GetAttribute(_RESULT) is not None or bool(node.GetNodeReferenceID(SCAN_ROLE))


def _changed(scanNode: Any, error: GeometryError) -> GeometryError:
    """Return the error for a result on another grid than the scan: the scan was changed after its export."""
    words = _("'{scan}' was changed during the run. {error}").format(scan=scanNode.GetName(), error=error.message)
    return GeometryError(words, hint=_("run it again."), code="changed")


def _attachToScan(node: Any, scanNode: Any) -> None:
    node.SetAndObserveTransformNodeID(scanNode.GetTransformNodeID())
    markResult(node, scanNode)
    placeBeside(node, scanNode)


def _hierarchyItem(hierarchy: Any, node: Any) -> int:
    """Return a node's subject hierarchy item; outside of the application it has to be created."""
    return hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def _exportMask(mask: NDArray[np.uint8], volumeNode: Any, path: Path | str, code: str) -> Work[None]:
    if not (yield from inBackground(mask.any)):
        words = {
            "empty_candidate": _("The candidate region has no voxel in '{scan}'."),
            "empty_organ": _("The organ's segment has no voxel in '{scan}'."),
        }.get(code, _("The region has no voxel in '{scan}'."))
        raise InputError(
            words.format(scan=volumeNode.GetName()),
            hint=_("paint it, or move it into the scan; check its transform in the Transforms module."),
            code=code,
        )
    yield from _writeNrrd(lambda: mask, volumeGeometry(volumeNode), Path(path))


def _writeNrrd(voxels: Callable[[], NDArray[Any]], geometry: Geometry, path: Path) -> Work[None]:
    """Write voxels (k, j, i) uncompressed, since that is faster, and the grid with all digits."""
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
            # A copy, since the thread must not access memory of a node.
            yield from inBackground(file.write, voxels()[slab].tobytes())
