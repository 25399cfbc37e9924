"""Masks of the scene on a scan's grid: segments and boxes, under whatever transforms they and the scan lie.

With `scene` the only place on Slicer's side that knows (k, j, i).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from DiffuGTSLib.errors import GeometryError, InputError, did_you_mean
from DiffuGTSLib.volumes.volume import Geometry

_LABELMAP = "Binary labelmap"


def volumeGeometry(volumeNode: Any) -> Geometry:
    """Return a scan's grid in its own frame, as it is without the parent transform.

    Raises:
        InputError: If there is no scan, or it is a label map, has no voxels or more than one value a voxel.
        GeometryError: If its parent transform bends space, or its axes are sheared.
    """
    if volumeNode is None:
        raise InputError("No scan was chosen.", hint="choose a volume under Inputs.", code="missing")
    name = volumeNode.GetName()
    if volumeNode.GetClassName() != "vtkMRMLScalarVolumeNode":
        raise InputError(
            f"'{name}' is a {volumeNode.GetNodeTagName()}; expected a scalar volume.",
            hint="choose the CT or MR image itself; of a series over time extract one volume first.",
            code="components",
        )
    image = volumeNode.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise InputError(f"'{name}' holds no voxels.", hint="load the scan again.", code="empty")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"'{name}' has {image.GetNumberOfScalarComponents()} values a voxel; expected one.",
            hint="color images are not scans; extract one channel first.",
            code="components",
        )
    requireLinear(volumeNode)
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    try:
        return Geometry(image.GetDimensions(), slicer.util.arrayFromVTKMatrix(matrix))
    except GeometryError as error:
        raise GeometryError(f"'{name}': {error.message}", hint=error.hint) from error


def requireLinear(node: Any) -> None:
    """Refuse a node under a transform that bends space: results could not follow it voxel by voxel.

    Raises:
        GeometryError: Naming the transform.
    """
    parent = node.GetParentTransformNode()
    if parent is not None and not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f"'{node.GetName()}' lies under '{parent.GetName()}', which is not linear; expected a rigid or affine transform.",
            hint="harden the transform on a copy (Transforms module), or move the node out of it.",
            code="transform",
        )


def worldFromNode(node: Any) -> NDArray[np.float64]:
    """Return the matrix (4, 4) of a node's parent transforms, all of them together; the identity without one."""
    matrix = vtk.vtkMatrix4x4()
    parent = node.GetParentTransformNode()
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
    return np.array(slicer.util.arrayFromVTKMatrix(matrix))


def segmentMask(segmentationNode: Any, segmentId: str, volumeNode: Any) -> NDArray[np.uint8]:
    """Return a segment's voxels (k, j, i) on the scan's grid, 0 and 1, transforms of both taken into account.

    Raises:
        InputError: If there is no such segment.
        GeometryError: As `volumeGeometry`.
    """
    geometry = volumeGeometry(volumeNode)
    segmentation = segmentationNode.GetSegmentation()
    known = list(segmentation.GetSegmentIDs())
    if not segmentId and len(known) == 1:
        segmentId = known[0]
    if segmentId not in known:
        names = [segmentation.GetSegment(each).GetName() for each in known]
        raise InputError(
            f"'{segmentationNode.GetName()}' has no segment '{segmentId}'.",
            hint=f"choose one of its segments; {did_you_mean(segmentId, names)}"
            if names
            else "it has no segment at all.",
            code="missing",
        )
    made = not segmentation.ContainsRepresentation(_LABELMAP) and segmentation.CreateRepresentation(_LABELMAP)
    try:
        labelmap = slicer.vtkOrientedImageData()
        segmentationNode.GetBinaryLabelmapRepresentation(segmentId, labelmap)
    finally:
        if made:
            segmentation.RemoveRepresentation(_LABELMAP)
    return _pasted(_onScan(labelmap, segmentationNode, volumeNode, geometry), geometry)


def roiMask(roiNode: Any, volumeNode: Any) -> NDArray[np.uint8]:
    """Return which voxels (k, j, i) of the scan have their center in a box, 0 and 1.

    Raises:
        GeometryError: As `exportRoiMask`.
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
        inside = np.ones((len(j), len(i)), dtype=bool)
        for (a, b, c, d), side in zip(toBox[:3], half, strict=True):
            inside &= np.abs(a * i + b * j + (c * k + d)) <= side + 1e-9
        mask[k, low[1] : high[1], low[0] : high[0]] = inside
    return 1 - mask if roiNode.GetInsideOut() else mask


def setSegmentMask(mask: NDArray[Any], scanNode: Any, segmentationNode: Any, segmentId: str) -> None:
    """Replace a segment by a mask (k, j, i) on the scan's grid; other segments keep theirs, also where they overlap.

    Raises:
        GeometryError: If a transform shears the segmentation against the scan.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not mask.any():
        logic.ClearSegment(segmentationNode, segmentId)
        return
    box = tuple(_span(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    labelmap = slicer.vtkOrientedImageData()
    labelmap.SetExtent([edge for side in reversed(box) for edge in (side.start, side.stop - 1)])
    toWorld = worldFromNode(scanNode) @ volumeGeometry(scanNode).ijk_to_ras
    toSegmentation = np.linalg.inv(worldFromNode(segmentationNode)) @ toWorld
    if segmentationNode.GetParentTransformNode() is scanNode.GetParentTransformNode():
        toSegmentation = volumeGeometry(scanNode).ijk_to_ras
    try:
        Geometry(mask.shape[::-1], toSegmentation)
    except GeometryError as error:
        raise GeometryError(
            f"'{segmentationNode.GetName()}' and '{scanNode.GetName()}' lie under transforms that are sheared against each other.",
            hint="put both under the same transform.",
        ) from error
    labelmap.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(toSegmentation))
    voxels = numpy_to_vtk(np.ascontiguousarray(mask[box] > 0).view(np.uint8).ravel(), deep=True)
    labelmap.GetPointData().SetScalars(voxels)
    logic.SetBinaryLabelmapToSegment(labelmap, segmentationNode, segmentId, logic.MODE_REPLACE)


def _span(line: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(line)
    return slice(int(where[0]), int(where[-1]) + 1)


def _onScan(labelmap: Any, segmentationNode: Any, volumeNode: Any, geometry: Geometry) -> Any:
    """Return a labelmap on the scan's grid, each voxel that of the nearest one of the segment."""
    if labelmap.IsEmpty():
        return labelmap
    parents = [node.GetParentTransformNode() for node in (segmentationNode, volumeNode)]
    if parents[0] is None or parents[0].IsTransformToWorldLinear():
        toScan = vtk.vtkTransform()
        matrix = np.linalg.inv(worldFromNode(volumeNode)) @ worldFromNode(segmentationNode)
        toScan.SetMatrix(slicer.util.vtkMatrixFromArray(np.eye(4) if parents[0] is parents[1] else matrix))
    else:
        toScan = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*parents, toScan)
    like, result = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    like.SetExtent([edge for side in geometry.shape for edge in (0, side - 1)])
    like.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    like.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        labelmap, like, result, False, False, toScan
    )
    return result


def _pasted(labelmap: Any, geometry: Geometry) -> NDArray[np.uint8]:
    """Return the labelmap's voxels in the whole grid (k, j, i), 0 and 1; it may cover only a box of it."""
    mask = np.zeros(geometry.shape[::-1], dtype=np.uint8)
    extent, scalars = labelmap.GetExtent(), labelmap.GetPointData().GetScalars()
    if scalars is None or labelmap.IsEmpty():
        return mask
    low = np.maximum(extent[::2], 0)
    high = np.minimum(extent[1::2], np.array(geometry.shape) - 1)
    shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
    voxels = vtk_to_numpy(scalars).reshape(shape)
    target = tuple(slice(int(low[axis]), int(high[axis]) + 1) for axis in (2, 1, 0))
    source = tuple(
        slice(side.start - extent[2 * axis], side.stop - extent[2 * axis])
        for side, axis in zip(target, (2, 1, 0), strict=True)
    )
    mask[target] = voxels[source] > 0
    return mask
