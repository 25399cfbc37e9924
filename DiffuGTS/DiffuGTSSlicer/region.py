"""A region of interest fitted to an organ or to the whole scan, with its sides along the scan's own axes."""

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
    """Add a box that belongs to a scan by its name; its place and size come from `fitRoi`."""
    name = uniqueName(_("{scan} ROI").format(scan=scanNode.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetFillVisibility(False)  # a filled box would lie over the image
    return node


def fitRoi(
    roiNode: Any, scanNode: Any, segmentationNode: Any = None, segmentId: str = "", marginMm: float = 0.0
) -> None:
    """Put a box around an organ's segment, or around the whole scan.

    Its sides run along the scan's axes, so that an oblique scan gets an oblique box; where transforms shear the scan,
    along the world's. Every voxel lies inside with its whole width.

    Args:
        roiNode: A box; its own parent transform is taken into account.
        scanNode: The scan.
        segmentationNode: With the organ; None for the whole scan.
        segmentId: Of the organ; may be left away where there is just one segment.
        marginMm: Added on every side of the organ; the whole scan needs none.

    Raises:
        InputError: If there is no such segment, or none of it lies in the scan (code "empty_region").
        GeometryError: As `volumeGeometry`; also if the box lies under a transform that bends space.
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
                _("The organ's segment holds no voxel of '{scan}'.").format(scan=scanNode.GetName()),
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
    """Return right-handed unit axes (columns) along a grid's, or the frame's own where the grid's are not square."""
    axes = matrix / np.linalg.norm(matrix, axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        return np.eye(3)
    if np.linalg.det(axes) < 0:
        axes[:, 2] = -axes[:, 2]
    square: NDArray[np.float64] = axes
    return square
