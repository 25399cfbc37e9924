"""Small pieces of a scene that several tests need: scans on any grid, transforms, and files as the worker writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from DiffuGTSSlicer import grids, provenance, scene
from DiffuGTSSlicer.boxed_mask import BoxedMask
from numpy.typing import NDArray
from phantoms import grid, rotation

from DiffuGTSLib.volumes import Geometry, Volume, write_volume

OBLIQUE = grid((20, 24, 16), (1.1, 0.7, 2.5), degrees=(11, -7, 23))
LEFT_HANDED = grid((20, 24, 16), (1.1, 0.7, 2.5), np.diag([1.0, 1.0, -1.0]), (11, -7, 23))


def scan_node(geometry: Geometry, array: NDArray[Any], name: str = "Scan") -> Any:
    """Add a scalar volume of voxels (i, j, k)."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(geometry.ijk_to_ras))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array.T))
    node.CreateDefaultDisplayNodes()
    return node


def noise(geometry: Geometry, seed: int = 0) -> NDArray[np.int16]:
    """Return CT numbers, each voxel its own."""
    return np.random.default_rng(seed).integers(-1000, 3000, geometry.shape).astype(np.int16)


def blob(geometry: Geometry, center: tuple[float, float, float], radius: float) -> NDArray[np.uint8]:
    """Return a ball in voxels (i, j, k)."""
    distance = np.linalg.norm(np.moveaxis(np.indices(geometry.shape), 0, -1) - center, axis=-1)
    return (distance <= radius).astype(np.uint8)


def on_disk(geometry: Geometry, array: NDArray[Any], path: Path) -> Path:
    """Write voxels (i, j, k) as the worker does."""
    write_volume(Volume(array, geometry), path)
    return path


def set_segment_mask(mask: NDArray[Any], scan: Any, segmentation: Any, segment_id: str) -> None:
    """Replace a segment by a mask (k, j, i) on the scan's grid."""
    grids.setSegmentBox(BoxedMask.of(mask), scan, segmentation, segment_id)


def import_mask(path: Path, scan: Any, segmentation: Any, name: str, organ: str = "", **about: Any) -> str:
    """Show a mask that the worker wrote as a segment, as a run does, and return the segment's ID."""
    return scene.showMask(scene.readMask(path, scan), scan, segmentation, name, organ, **about)


def record_of(segmentation: Any) -> dict[str, Any]:
    """Return the record of the run that made a segmentation, as it is kept in the scene."""
    record: dict[str, Any] = json.loads(segmentation.GetNodeReference(provenance.ROLE).GetText())
    return record


def world_points(node: Any) -> NDArray[np.float64]:
    """Return where each voxel (i, j, k) of a volume lies in the world."""
    geometry = grids.volumeGeometry(node)
    placed = Geometry(geometry.shape, grids.worldFromNode(node) @ geometry.ijk_to_ras)
    return placed.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))


def matrix_of(node: Any) -> NDArray[np.float64]:
    """Return a volume's own matrix from voxels to RAS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array(slicer.util.arrayFromVTKMatrix(matrix))


def rigid(degrees: tuple[float, float, float], offset_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return a matrix that turns about x, y, z and then moves."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(degrees), offset_mm
    return matrix


TURNED = rigid((4, -3, 6), (2.0, -1.5, 1.0))


def linear_transform(matrix: NDArray[np.float64], parent: Any = None, name: str = "Transform") -> Any:
    """Add a linear transform, under another one or not."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def bending_transform() -> Any:
    """Add a thin-plate spline that moves one point of five."""
    points, targets = vtk.vtkPoints(), vtk.vtkPoints()
    for index, point in enumerate(((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (40, 40, 40))):
        points.InsertNextPoint(point)
        targets.InsertNextPoint([value + 5 * (index == 4) for value in point])
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(points)
    spline.SetTargetLandmarks(targets)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Bend")
    node.SetAndObserveTransformToParent(spline)
    return node


def under(node: Any, transform: Any) -> None:
    """Put a node under a transform."""
    node.SetAndObserveTransformNodeID(transform.GetID())


def roi_node(size_mm: tuple[float, float, float], matrix: NDArray[np.float64]) -> Any:
    """Add a box, turned and moved by a matrix."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    node.SetSize(*size_mm)
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node
