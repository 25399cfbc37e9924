"""Scans and maps through the real MRML scene: no voxel moves, whatever lies above it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DiffuGTSSlicer import scene, steps
from DiffuGTSSlicer.steps import finish
from heartbeat import least
from phantoms import grid
from scene_parts import (
    LEFT_HANDED,
    OBLIQUE,
    TURNED,
    bending_transform,
    blob,
    import_mask,
    linear_transform,
    matrix_of,
    noise,
    on_disk,
    rigid,
    scan_node,
    under,
    world_points,
)

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes import Geometry, read_volume

# --- A scan on its way out, and a map on its way in


@pytest.mark.parametrize("geometry", [OBLIQUE, LEFT_HANDED, grid((7, 1, 5), (0.3, 9.0, 1.7))])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_a_scan_is_written_voxel_by_voxel_in_its_own_type_with_every_digit_of_its_grid(
    a_scene, tmp_path, geometry, kind
) -> None:
    array = np.random.default_rng(1).integers(0, 127, geometry.shape).astype(kind)
    scene.exportVolume(scan_node(geometry, array), tmp_path / "input.nrrd")
    image = sitk.ReadImage(str(tmp_path / "input.nrrd"))
    back = sitk.GetArrayFromImage(image).T
    assert back.dtype == array.dtype and np.array_equal(back, array)
    assert np.allclose(
        read_volume(tmp_path / "input.nrrd").geometry.ijk_to_ras, geometry.ijk_to_ras, rtol=0, atol=1e-13
    )
    again = slicer.util.loadVolume(str(tmp_path / "input.nrrd"))
    if np.linalg.det(geometry.ijk_to_ras) > 0:  # Slicer turns the slices of a left-handed file over
        assert np.allclose(matrix_of(again), geometry.ijk_to_ras, rtol=0, atol=1e-13)


@pytest.mark.parametrize("geometry", [OBLIQUE, LEFT_HANDED])
def test_a_map_comes_back_bit_by_bit_on_exactly_the_grid_of_its_scan(a_scene, tmp_path, geometry) -> None:
    scan = scan_node(geometry, noise(geometry))
    seen = scene.exportVolume(scan, tmp_path / "input.nrrd")
    values = np.random.default_rng(2).random(geometry.shape).astype(np.float32)
    written = read_volume(tmp_path / "input.nrrd").geometry  # the grid that a worker knows
    node = scene.importVolume(on_disk(written, values, tmp_path / "aova.nrrd"), scan, "AOVA")
    assert np.array_equal(slicer.util.arrayFromVolume(node), values.T)
    assert np.array_equal(matrix_of(node), matrix_of(scan)) and np.array_equal(matrix_of(node), seen.ijk_to_ras)
    assert node.GetSpacing() == scan.GetSpacing() and node.GetOrigin() == scan.GetOrigin()
    assert node.GetNodeReference(scene.SCAN_ROLE) is scan
    assert node.GetDisplayNode() is not None


def test_a_second_run_writes_into_the_same_node_and_keeps_the_name_that_the_user_gave(a_scan, tmp_path) -> None:
    first = scene.importVolume(on_disk(OBLIQUE, noise(OBLIQUE, 1), tmp_path / "a.nrrd"), a_scan, "AOVA")
    first.SetName("mine")
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    again = scene.importVolume(on_disk(OBLIQUE, noise(OBLIQUE, 2), tmp_path / "b.nrrd"), a_scan, "AOVA", node=first)
    assert again is first and again.GetName() == "mine"
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert np.array_equal(slicer.util.arrayFromVolume(again), noise(OBLIQUE, 2).T)


def test_a_node_that_serves_another_scan_takes_its_name_and_grid(a_scan, tmp_path) -> None:
    node = scene.importVolume(on_disk(OBLIQUE, noise(OBLIQUE), tmp_path / "a.nrrd"), a_scan, "first")
    other = scan_node(LEFT_HANDED, noise(LEFT_HANDED))
    scene.importVolume(on_disk(LEFT_HANDED, noise(LEFT_HANDED), tmp_path / "b.nrrd"), other, "second", node=node)
    assert node.GetName() == "second" and np.array_equal(matrix_of(node), matrix_of(other))
    assert node.GetNodeReference(scene.SCAN_ROLE) is other


def test_a_node_that_the_user_has_deleted_is_made_anew(a_scan, tmp_path) -> None:
    path = on_disk(OBLIQUE, noise(OBLIQUE), tmp_path / "a.nrrd")
    gone = scene.importVolume(path, a_scan, "AOVA")
    slicer.mrmlScene.RemoveNode(gone)
    assert scene.importVolume(path, a_scan, "AOVA", node=gone).GetScene() is slicer.mrmlScene


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (grid((20, 24, 15), (1.1, 0.7, 2.5), degrees=(11, -7, 23)), "shape"),
        (grid((20, 24, 16), (1.1, 0.7, 2.51), degrees=(11, -7, 23)), "spacing"),
        (grid((20, 24, 16), (1.1, 0.7, 2.5), degrees=(11, -7, 24)), "direction"),
        (Geometry(OBLIQUE.shape, rigid((0, 0, 0), (0.1, 0, 0)) @ OBLIQUE.ijk_to_ras), "origin"),
    ],
)
def test_a_map_on_another_grid_is_refused_and_says_why(a_scan, tmp_path, other, reason) -> None:
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    path = on_disk(other, np.zeros(other.shape, np.uint8), tmp_path / "a.nrrd")
    for read in (lambda: scene.importVolume(path, a_scan, "AOVA"), lambda: scene.readMask(path, a_scan)):
        with pytest.raises(GeometryError, match=f"'Scan' was changed during the run.*{reason}") as refusal:
            read()
        assert refusal.value.code == "changed" and refusal.value.hint == "run it again."
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_nothing_reaches_a_node_in_a_type_that_slicer_cannot_draw(a_scan) -> None:
    truth = np.array([[[True, False]]])
    assert scene.forNode(truth).dtype == np.uint8 and scene.forNode(truth).sum() == 1
    assert scene.forNode(np.ones((1, 1, 1), np.float16)).dtype == np.float32
    for kind in (np.int64, np.uint64):
        assert scene.forNode(np.ones((1, 1, 1), kind)).dtype == np.int32
    assert scene.forNode(np.ones((1, 1, 1), np.int16)).dtype == np.int16
    with pytest.raises(InputError, match="32 bits"):
        scene.forNode(np.full((1, 1, 1), 2**31))
    for kind in (np.bool_, np.float16, np.int64):
        slicer.util.updateVolumeFromArray(a_scan, scene.forNode(np.ones(OBLIQUE.shape[::-1], kind)))


# --- Transforms


def test_results_hang_under_the_transforms_of_their_scan_and_the_file_knows_nothing_of_them(a_scan, tmp_path) -> None:
    inner = linear_transform(TURNED, linear_transform(rigid((0, 20, 0), (50, 0, -20)), name="Outer"), name="Inner")
    scene.exportVolume(a_scan, tmp_path / "before.nrrd")
    under(a_scan, inner)
    scene.exportVolume(a_scan, tmp_path / "after.nrrd")
    assert (tmp_path / "before.nrrd").read_bytes() == (tmp_path / "after.nrrd").read_bytes()
    node = scene.importVolume(tmp_path / "after.nrrd", a_scan, "AOVA")
    segmentation = scene.newSegmentation(a_scan, "Tumor")
    for result in (node, segmentation):
        assert result.GetParentTransformNode() is inner
    assert np.array_equal(world_points(node), world_points(a_scan))
    mask = blob(OBLIQUE, (12, 8, 9), 4)
    segment = import_mask(on_disk(OBLIQUE, mask, tmp_path / "m.nrrd"), a_scan, segmentation, "Tumor")
    center = np.zeros(3)
    segmentation.GetSegmentCenterRAS(segment, center)
    middle = slicer.vtkOrientedImageData()
    segmentation.GetBinaryLabelmapRepresentation(segment, middle)
    expected = world_points(a_scan)[mask > 0].mean(axis=0)
    assert np.linalg.norm(center - expected) < 2.0  # half of the thickest voxel, and the box's rounding
    a_scan.SetAndObserveTransformNodeID(None)
    scene.importVolume(tmp_path / "after.nrrd", a_scan, "AOVA", node=node)
    assert node.GetParentTransformNode() is None


def test_a_transform_that_bends_space_is_refused_by_name_with_a_way_out(a_scan, tmp_path) -> None:
    under(a_scan, bending_transform())
    with pytest.raises(GeometryError, match="the nonlinear transform 'Bend'") as refusal:
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")
    assert "harden" in refusal.value.hint and refusal.value.code == "transform"
    with pytest.raises(GeometryError, match="nonlinear"):
        scene.newSegmentation(a_scan, "Tumor")
    assert list(tmp_path.iterdir()) == []


def test_a_linear_transform_under_one_that_bends_is_refused_too(a_scan, tmp_path) -> None:
    under(a_scan, linear_transform(TURNED, bending_transform()))
    with pytest.raises(GeometryError, match="nonlinear"):
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")


# --- Refusals at the door


def test_what_is_no_scan_is_refused(a_scene, tmp_path) -> None:
    target = tmp_path / "input.nrrd"
    with pytest.raises(InputError, match="No scan"):
        scene.exportVolume(None, target)
    with pytest.raises(InputError, match="has no voxels"):
        scene.exportVolume(a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing"), target)
    labels = a_scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    with pytest.raises(InputError, match="'Labels' is a LabelMapVolume"):
        scene.exportVolume(labels, target)
    color = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="VectorVolume"):
        scene.exportVolume(color, target)
    two = scan_node(OBLIQUE, noise(OBLIQUE))
    two.GetImageData().AllocateScalars(vtk.VTK_SHORT, 2)
    with pytest.raises(InputError, match="2 components per voxel"):
        scene.exportVolume(two, target)
    assert list(tmp_path.iterdir()) == []


def test_sheared_axes_are_refused_with_the_name_of_the_scan(a_scan, tmp_path) -> None:
    sheared = OBLIQUE.ijk_to_ras.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    a_scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(sheared))
    with pytest.raises(GeometryError, match="'Scan': The voxel axes are sheared") as refusal:
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")
    assert "resample" in refusal.value.hint


# --- Subject hierarchy


def hierarchy() -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def test_results_lie_in_the_study_of_their_scan(a_scan, tmp_path) -> None:
    tree = hierarchy()
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "Patient"), "Study")
    tree.SetItemParent(tree.GetItemByDataNode(a_scan), study)
    node = scene.importVolume(on_disk(OBLIQUE, noise(OBLIQUE), tmp_path / "a.nrrd"), a_scan, "AOVA")
    for result in (node, scene.newSegmentation(a_scan, "Tumor")):
        assert tree.GetItemParent(tree.GetItemByDataNode(result)) == study
        assert tree.GetItemAncestorAtLevel(tree.GetItemByDataNode(result), "Study") == study


def test_without_a_study_results_lie_beside_their_scan(a_scan, tmp_path) -> None:
    tree = hierarchy()
    node = scene.newSegmentation(a_scan, "Tumor")
    assert tree.GetItemParent(tree.GetItemByDataNode(node)) == tree.GetSceneItemID()


def test_items_that_nobody_has_made_are_made(a_scan) -> None:
    tree = hierarchy()
    tree.RemoveItem(tree.GetItemByDataNode(a_scan), False, False)
    assert a_scan.GetScene() is slicer.mrmlScene and not tree.GetItemByDataNode(a_scan)
    node = scene.newSegmentation(a_scan, "Tumor")
    assert tree.GetItemByDataNode(a_scan) and tree.GetItemByDataNode(node)


# --- Speed: the interface waits for the way out


def test_a_large_scan_is_written_without_delay(a_scene, tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((512, 512, 60), (0.7, 0.7, 2.5))
    node = scan_node(geometry, np.zeros(geometry.shape, np.int16))

    def seconds() -> float:
        begin = time.process_time()
        scene.exportVolume(node, tmp_path / "input.nrrd")
        return time.process_time() - begin

    assert least(seconds, enough=0.5) < 0.5  # of a processor, however busy others keep it
    assert (tmp_path / "input.nrrd").stat().st_size == pytest.approx(512 * 512 * 60 * 2, rel=1e-3)


def test_a_scan_that_is_changed_while_it_is_read_is_refused_and_leaves_no_file(
    a_scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SLAB_VOXELS", 1)
    work = scene.exportVolume.steps(a_scan, tmp_path / "input.nrrd")
    next(work)
    slicer.util.arrayFromVolumeModified(a_scan)
    with pytest.raises(InputError, match="'Scan' was changed") as refusal:
        finish(work)
    assert refusal.value.code == "changed" and list(tmp_path.iterdir()) == []
