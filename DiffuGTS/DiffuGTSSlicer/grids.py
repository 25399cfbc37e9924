"""Converts segments and regions of interest to masks on a scan's grid and back, with parent transforms of both.

With `boxed_mask` and `scene`, the only modules here that use the index order (k, j, i).
"""

from __future__ import annotations

import itertools
from math import nan
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DiffuGTSLib.errors import GeometryError, InputError, did_you_mean
from DiffuGTSLib.volumes.volume import Geometry
from DiffuGTSSlicer.boxed_mask import BoxedMask, reindexed, sourceOf
from DiffuGTSSlicer.steps import Work, inBackground, slabs, stepwise

_LABELMAP = "Binary labelmap"
_SCALARS = "ImageScalars"
"""VTK's name of image scalars. Slicer's DICOM export treats a segment without an array of this name as empty."""


def volumeGeometry(volumeNode: Any) -> Geometry:
    """Return a scan's grid in its own frame, without the parent transform.

    Raises:
        InputError: If there is no scan, or it is a labelmap, has no voxels or more than one component.
        GeometryError: If its parent transform is nonlinear, or its axes are sheared.
    """
    if volumeNode is None:
        raise InputError(_("No scan was selected."), hint=_("choose a volume under Inputs."), code="no_scan")
    name = volumeNode.GetName()
    if volumeNode.GetClassName() != "vtkMRMLScalarVolumeNode":
        raise InputError(
            _("'{name}' is a {kind}; expected a scalar volume.").format(name=name, kind=volumeNode.GetNodeTagName()),
            hint=_("choose the CT or MR image itself; extract one volume of a time series first."),
            code="components",
        )
    image = volumeNode.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise InputError(_("'{name}' has no voxels.").format(name=name), hint=_("load the scan again."), code="empty")
    count = image.GetNumberOfScalarComponents()
    if count != 1:
        raise InputError(
            _("'{name}' has {count} components per voxel; expected one.").format(name=name, count=count),
            hint=_("color images are not scans; extract one channel first."),
            code="components",
        )
    requireLinear(volumeNode)
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    try:
        return Geometry(image.GetDimensions(), slicer.util.arrayFromVTKMatrix(matrix))
    except GeometryError as error:
        raise GeometryError(f"'{name}': {error.message}", hint=error.hint) from error


def isLinear(node: Any) -> bool:
    """Return whether a node has no parent transform, or only linear ones."""
    parent = node.GetParentTransformNode()
    return parent is None or bool(parent.IsTransformToWorldLinear())


def requireLinear(node: Any) -> None:
    """Refuse a node with a nonlinear parent transform, since results on its voxel grid could not follow it.

    Raises:
        GeometryError: Naming the transform.
    """
    if not isLinear(node):
        words = _("'{name}' is under the nonlinear transform '{transform}'; expected a rigid or affine transform.")
        raise GeometryError(
            words.format(name=node.GetName(), transform=node.GetParentTransformNode().GetName()),
            hint=_("harden the transform on a copy (Transforms module), or move the node out of it."),
            code="transform",
        )


def worldFromNode(node: Any) -> NDArray[np.float64]:
    """Return the combined matrix (4, 4) of a node's parent transforms; the identity without one.

    Raises:
        GeometryError: As `requireLinear`: for a nonlinear transform VTK returns a wrong matrix.
    """
    requireLinear(node)
    matrix = vtk.vtkMatrix4x4()
    parent = node.GetParentTransformNode()
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return np.array(slicer.util.arrayFromVTKMatrix(matrix))


def worldScale(node: Any) -> float:
    """Return the factor from volumes in a node's own frame to those in world coordinates: 1 under a rigid transform.

    NaN under a nonlinear transform, where it differs between voxels.
    """
    return float(abs(np.linalg.det(worldFromNode(node)[:3, :3]))) if isLinear(node) else nan


def scanState(scanNode: Any) -> tuple[Any, ...]:
    """Return a key that changes whenever a scan's voxels or position change, within a session."""
    image = scanNode.GetImageData()
    return (scanNode, image.GetMTime() if image is not None else 0, scanNode.GetOrigin(), scanNode.GetSpacing())


@stepwise
def segmentMask(segmentationNode: Any, segmentId: str, volumeNode: Any) -> Work[NDArray[np.uint8]]:
    """Return a segment as a mask (k, j, i) of 0 and 1 on the scan's grid, with the parent transforms of both.

    Raises:
        InputError: If there is no such segment.
        GeometryError: As `volumeGeometry`.
    """
    geometry = volumeGeometry(volumeNode)
    segmentId = _knownSegment(segmentationNode, segmentId)
    labelmap = _labelmap(segmentationNode, segmentId)
    mask = np.zeros(geometry.shape[::-1], dtype=np.uint8)
    if labelmap.IsEmpty():
        return mask
    placed = _placed(labelmap, _between(segmentationNode, volumeNode), geometry)
    toScan = None if placed is not None else _toScan(segmentationNode, volumeNode)
    for slab in slabs(mask.shape):
        yield None
        if placed is not None:
            _paste(*placed, mask, slab)
        else:
            resampled = _resampled(labelmap, geometry, slab, toScan)
            if not resampled.IsEmpty() and resampled.GetPointData().GetScalars() is not None:
                _paste(_voxels(resampled), _corner(resampled), mask, slab)
    return mask


@stepwise
def roiMask(roiNode: Any, volumeNode: Any) -> Work[NDArray[np.uint8]]:
    """Return a region of interest as a mask (k, j, i): 1 where the center of a scan's voxel is inside.

    Raises:
        GeometryError: As `volumeGeometry`; also if the region of interest has a nonlinear parent transform.
    """
    geometry = volumeGeometry(volumeNode)
    requireLinear(roiNode)
    half = np.array(roiNode.GetSize()) / 2
    mask = np.zeros(geometry.shape[::-1], dtype=np.uint8)
    if half.min() <= 0:
        return mask
    toWorld = worldFromNode(roiNode) @ slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToNodeMatrix())
    toBox = np.linalg.inv(toWorld) @ worldFromNode(volumeNode) @ geometry.ijk_to_ras
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * half
    corners = corners @ np.linalg.inv(toBox)[:3, :3].T + np.linalg.inv(toBox)[:3, 3]
    low = np.clip(np.floor(corners.min(axis=0)), 0, geometry.shape).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, geometry.shape).astype(int)
    i, j = np.arange(low[0], high[0]), np.arange(low[1], high[1])[:, None]
    for k in range(low[2], high[2]):  # slice by slice: a whole scan of float64 would be gigabytes
        yield None
        inside = np.ones((len(j), len(i)), dtype=bool)
        for (a, b, c, d), side in zip(toBox[:3], half, strict=True):
            inside &= np.abs(a * i + b * j + (c * k + d)) <= side + 1e-9
        mask[k, low[1] : high[1], low[0] : high[0]] = inside
    if roiNode.GetInsideOut():
        for slab in slabs(mask.shape):
            yield None
            np.subtract(1, mask[slab], out=mask[slab])
    return mask


@stepwise
def segmentBox(segmentationNode: Any, segmentId: str, scanNode: Any, isInWorld: bool = True) -> Work[BoxedMask | None]:
    """Return a segment as it is stored, or None if it is not on the scan's grid.

    Args:
        segmentationNode: Segmentation with the segment.
        segmentId: The segment; may be omitted if there is only one.
        scanNode: The scan.
        isInWorld: Whether to apply the parent transforms of both; otherwise they are ignored.

    Raises:
        InputError, GeometryError: As `segmentMask`.
    """
    geometry = volumeGeometry(scanNode)
    labelmap = _labelmap(segmentationNode, _knownSegment(segmentationNode, segmentId))
    if labelmap.IsEmpty():
        return BoxedMask.of(np.zeros((1, 1, 1), dtype=np.uint8))
    between = _between(segmentationNode, scanNode) if isInWorld else np.eye(4)
    placed = _placed(labelmap, between, geometry)
    return None if placed is None else (yield from inBackground(BoxedMask.of, *placed))


@stepwise
def ownMask(segmentationNode: Any, segmentId: str) -> Work[tuple[BoxedMask, NDArray[np.float64]]]:
    """Return a segment as it is stored, and the matrix (4, 4) from its own grid's (i, j, k) to the world.

    Raises:
        InputError: If there is no such segment.
        GeometryError: As `requireLinear`.
    """
    labelmap = _labelmap(segmentationNode, _knownSegment(segmentationNode, segmentId))
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    toWorld = worldFromNode(segmentationNode) @ slicer.util.arrayFromVTKMatrix(matrix)
    if labelmap.IsEmpty():
        return BoxedMask.of(np.zeros((1, 1, 1), dtype=np.uint8)), toWorld
    return (yield from inBackground(BoxedMask.of, _voxels(labelmap), _corner(labelmap))), toWorld


@stepwise
def writtenBox(segmentationNode: Any, segmentId: str, scanNode: Any) -> Work[BoxedMask | None]:
    """Return a segment as `segmentBox`; if it was resampled to another grid, the original mask on the scan's grid.

    Slicer resamples all segments of a segmentation to one grid when it saves them. None if the segment was edited there
    on a finer grid, so that no mask on the scan's grid corresponds to it.
    """
    stored = yield from segmentBox.steps(segmentationNode, segmentId, scanNode)
    if stored is not None or not isLinear(segmentationNode):
        return stored
    own, toWorld = yield from ownMask.steps(segmentationNode, segmentId)
    scanToWorld = worldFromNode(scanNode) @ volumeGeometry(scanNode).ijk_to_ras
    return (yield from inBackground(sourceOf, own, np.linalg.inv(scanToWorld) @ toWorld))


def setSegmentBox(mask: BoxedMask, scanNode: Any, segmentationNode: Any, segmentId: str) -> None:
    """Replace a segment by a mask on the scan's grid; other segments are not changed, even if they overlap.

    Raises:
        GeometryError: If the segmentation has a nonlinear parent transform, or one that shears it against the scan.
        InputError: As `requireWritable`; also if Slicer cannot write the mask for another reason.
    """
    requireWritable(segmentationNode)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not mask.voxels.size:
        logic.ClearSegment(segmentationNode, segmentId)
        return
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetExtent([edge for side in reversed(mask.box) for edge in (side.start, side.stop - 1)])
    geometry = volumeGeometry(scanNode)
    toSegmentation = geometry.ijk_to_ras
    if segmentationNode.GetParentTransformNode() is not scanNode.GetParentTransformNode():
        toSegmentation = np.linalg.inv(worldFromNode(segmentationNode)) @ worldFromNode(scanNode) @ toSegmentation
    try:
        Geometry(geometry.shape, toSegmentation)
    except GeometryError as error:
        words = _("'{one}' and '{other}' are under transforms that are sheared against each other.")
        names = {"one": segmentationNode.GetName(), "other": scanNode.GetName()}
        raise GeometryError(words.format(**names), hint=_("apply the same transform to both.")) from error
    labelmap.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(toSegmentation))
    scalars = numpy_to_vtk(mask.voxels.ravel(), deep=True)
    scalars.SetName(_SCALARS)
    labelmap.GetPointData().SetScalars(scalars)
    if not logic.SetBinaryLabelmapToSegment(labelmap, segmentationNode, segmentId, logic.MODE_REPLACE):
        raise InputError(
            _("Slicer could not write the mask into '{name}'.").format(name=segmentationNode.GetName()),
            hint=_("choose Create new segmentation under Run."),
            code="segmentation",
        )


def requireWritable(segmentationNode: Any) -> None:
    """Refuse a segmentation that no mask can be written into: one of closed surfaces, or under a nonlinear transform.

    Raises:
        GeometryError: As `requireLinear`.
        InputError: Code "segmentation": its source representation is not a binary labelmap.
    """
    requireLinear(segmentationNode)
    source = segmentationNode.GetSegmentation().GetSourceRepresentationName()
    if source != _LABELMAP:
        words = _("The source representation of '{name}' is {given}; expected {expected}.")
        raise InputError(
            words.format(name=segmentationNode.GetName(), given=source.lower(), expected=_LABELMAP.lower()),
            hint=_("choose Create new segmentation under Run."),
            code="segmentation",
        )


def _knownSegment(segmentationNode: Any, segmentId: str) -> str:
    """Return a segment's ID; "" stands for the only segment.

    Raises:
        InputError: If there is no such segment.
    """
    segmentation = segmentationNode.GetSegmentation()
    known = list(segmentation.GetSegmentIDs())
    if not segmentId and len(known) == 1:
        return str(known[0])
    if segmentId not in known:
        names = [segmentation.GetSegment(each).GetName() for each in known]
        raise InputError(
            _("'{name}' has no segment '{id}'.").format(name=segmentationNode.GetName(), id=segmentId),
            hint=_("choose one of its segments; {which}").format(which=did_you_mean(segmentId, names))
            if names
            else _("it has no segments."),
            code="no_segment",
        )
    return segmentId


def _labelmap(segmentationNode: Any, segmentId: str) -> Any:
    """Return a copy of a segment's binary labelmap, converted from its surface if necessary."""
    segmentation = segmentationNode.GetSegmentation()
    made = not segmentation.ContainsRepresentation(_LABELMAP) and segmentation.CreateRepresentation(_LABELMAP)
    labelmap = slicer.vtkOrientedImageData()
    try:
        segmentationNode.GetBinaryLabelmapRepresentation(segmentId, labelmap)
    finally:
        if made:
            segmentation.RemoveRepresentation(_LABELMAP)
    return labelmap


def _placed(
    labelmap: Any, between: NDArray[np.float64] | None, geometry: Geometry
) -> tuple[NDArray[Any], tuple[int, ...]] | None:
    """Return a labelmap's voxels in the scan's order and the index of the first, or None if it is on another grid."""
    if between is None:
        return None
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    toScan = np.linalg.inv(geometry.ijk_to_ras) @ between @ slicer.util.arrayFromVTKMatrix(matrix)
    return reindexed(_voxels(labelmap), _corner(labelmap), toScan)


def _between(segmentationNode: Any, volumeNode: Any) -> NDArray[np.float64] | None:
    """Return the matrix (4, 4) from a segmentation's frame to the scan's, None under a nonlinear transform."""
    parents = [node.GetParentTransformNode() for node in (segmentationNode, volumeNode)]
    if parents[0] is parents[1]:
        return np.eye(4)
    if not isLinear(segmentationNode):
        return None
    return np.linalg.inv(worldFromNode(volumeNode)) @ worldFromNode(segmentationNode)


def _toScan(segmentationNode: Any, volumeNode: Any) -> Any:
    """Return the transform from a segmentation's frame to the scan's."""
    matrix = _between(segmentationNode, volumeNode)
    if matrix is not None:
        toScan = vtk.vtkTransform()
        toScan.SetMatrix(slicer.util.vtkMatrixFromArray(matrix))
    else:
        toScan = vtk.vtkGeneralTransform()
        parents = [node.GetParentTransformNode() for node in (segmentationNode, volumeNode)]
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, toScan)
    return toScan


def _resampled(labelmap: Any, geometry: Geometry, slab: slice, toScan: Any) -> Any:
    """Return a labelmap resampled to some slices of the scan's grid, with nearest neighbor interpolation."""
    like, result = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    like.SetExtent(0, geometry.shape[0] - 1, 0, geometry.shape[1] - 1, slab.start, slab.stop - 1)
    like.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    like.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        labelmap, like, result, False, False, toScan
    )
    return result


def _voxels(labelmap: Any) -> NDArray[Any]:
    """Return a labelmap's voxels (k, j, i), as they lie in its extent."""
    extent = labelmap.GetExtent()
    shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
    voxels: NDArray[Any] = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(shape)
    return voxels


def _corner(labelmap: Any) -> tuple[int, ...]:
    """Return the index (k, j, i) of a labelmap's first voxel."""
    return tuple(int(start) for start in labelmap.GetExtent()[4::-2])


def _paste(voxels: NDArray[Any], corner: tuple[int, ...], mask: NDArray[np.uint8], slab: slice) -> None:
    """Copy the voxels of a box, whose first voxel is at `corner`, into a slab of a mask (k, j, i)."""
    low = np.maximum(corner, (slab.start, 0, 0))
    high = np.minimum(np.add(corner, voxels.shape), (slab.stop, *mask.shape[1:]))
    if (low >= high).any():
        return
    target = tuple(slice(int(start), int(stop)) for start, stop in zip(low, high, strict=True))
    source = tuple(slice(side.start - start, side.stop - start) for side, start in zip(target, corner, strict=True))
    np.greater(voxels[source], 0, out=mask[target].view(np.bool_))
