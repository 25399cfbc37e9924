"""Fits a region of interest to an organ or to the whole scan, aligned with the scan's axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
from numpy.typing import NDArray
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer.grids import requireLinear, segmentMask, volumeGeometry, worldFromNode
from DiffuGTSSlicer.scene import uniqueName


def newRoi(scanNode: Any) -> Any:
    """Add a region of interest named after a scan; `fitRoi` sets its position and size."""
    name = uniqueName(_("{scan} ROI").format(scan=scanNode.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetFillVisibility(False)  # a filled box would hide the image
    return node


def fitRoi(
    roiNode: Any, scanNode: Any, segmentationNode: Any = None, segmentId: str = "", marginMm: float = 0.0
) -> None:
    """Fit a region of interest to an organ's segment, or to the whole scan.

    It is aligned with the scan's axes, so it is oblique for an oblique scan; if a transform shears the scan, it is aligned
    with the world axes. It contains all voxels entirely.

    Args:
        roiNode: Region of interest; its parent transform is taken into account.
        scanNode: The scan.
        segmentationNode: Segmentation with the organ; None for the whole scan.
        segmentId: Its segment; may be omitted if there is only one.
        marginMm: Margin on every side of the organ; not used for the whole scan.

    Raises:
        InputError: If there is no such segment, or it is empty within the scan (code "empty_region").
        GeometryError: As `volumeGeometry`; also if the region of interest has a nonlinear parent transform.
    """
    geometry = volumeGeometry(scanNode)
    requireLinear(roiNode)
    low, high = np.zeros(3), np.array(geometry.shape, dtype=np.float64) - 1
    if segmentationNode is None:
        marginMm = 0.0
    else:
        inside = np.argwhere(segmentMask(segmentationNode, segmentId, scanNode))[:, ::-1]
        if not len(inside):
            raise InputError(
                _("The organ's segment has no voxel in '{scan}'.").format(scan=scanNode.GetName()),
                hint=_("paint it, or choose another segment."),
                code="empty_region",
            )
        low, high = inside.min(axis=0).astype(np.float64), inside.max(axis=0).astype(np.float64)
    toBox = np.linalg.inv(worldFromNode(roiNode)) @ worldFromNode(scanNode) @ geometry.ijk_to_ras
    sides = np.array([low - 0.5, high + 0.5])
    corners = np.array([[sides[i, 0], sides[j, 1], sides[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    axes = _axes(toBox[:3, :3])
    along = (corners @ toBox[:3, :3].T + toBox[:3, 3]) @ axes
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = axes @ (along.min(axis=0) + along.max(axis=0)) / 2
    roiNode.SetInsideOut(False)
    roiNode.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    roiNode.SetSize(*(np.ptp(along, axis=0) + 2 * marginMm))


def _axes(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return right-handed unit axes (columns) along a grid's, or the frame's own if the grid's are not orthogonal."""
    axes = matrix / np.linalg.norm(matrix, axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        return np.eye(3)
    if np.linalg.det(axes) < 0:
        axes[:, 2] = -axes[:, 2]
    square: NDArray[np.float64] = axes
    return square
