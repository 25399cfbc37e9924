"""Scans, regions and results through the real MRML scene: no voxel moves, whatever lies above it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from DiffuGTSSlicer import grids, scene
from phantoms import grid, orientations
from scene_parts import (
    bending_transform,
    blob,
    linear_transform,
    matrix_of,
    noise,
    on_disk,
    rigid,
    roi_node,
    scan_node,
    under,
)

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes import Geometry, read_mask, read_volume

OBLIQUE = grid((20, 24, 16), (1.1, 0.7, 2.5), degrees=(11, -7, 23))
LEFT_HANDED = grid((20, 24, 16), (1.1, 0.7, 2.5), np.diag([1.0, 1.0, -1.0]), (11, -7, 23))
TURNED = rigid((4, -3, 6), (2.0, -1.5, 1.0))


@pytest.fixture
def a_scan(a_scene) -> Any:
    """A small CT on an oblique grid with three different voxel sides."""
    return scan_node(OBLIQUE, noise(OBLIQUE))


def world_points(node: Any) -> np.ndarray:
    """Return where each voxel (i, j, k) lies in the world."""
    geometry = grids.volumeGeometry(node)
    return Geometry(geometry.shape, grids.worldFromNode(node) @ geometry.ijk_to_ras).to_ras(
        np.moveaxis(np.indices(geometry.shape), 0, -1)
    )


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
    with pytest.raises(GeometryError, match=reason):
        scene.importVolume(path, a_scan, "AOVA")
    with pytest.raises(GeometryError, match=reason):
        scene.importMask(path, a_scan, None, "Tumor")
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
    segment = scene.importMask(on_disk(OBLIQUE, mask, tmp_path / "m.nrrd"), a_scan, segmentation, "Tumor")
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
    with pytest.raises(GeometryError, match="'Bend', which is not linear") as refusal:
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")
    assert "harden" in refusal.value.hint and refusal.value.code == "transform"
    with pytest.raises(GeometryError, match="not linear"):
        scene.newSegmentation(a_scan, "Tumor")
    assert list(tmp_path.iterdir()) == []


def test_a_linear_transform_under_one_that_bends_is_refused_too(a_scan, tmp_path) -> None:
    under(a_scan, linear_transform(TURNED, bending_transform()))
    with pytest.raises(GeometryError, match="not linear"):
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")


# --- Refusals at the door


def test_what_is_no_scan_is_refused(a_scene, tmp_path) -> None:
    target = tmp_path / "input.nrrd"
    with pytest.raises(InputError, match="No scan"):
        scene.exportVolume(None, target)
    with pytest.raises(InputError, match="holds no voxels"):
        scene.exportVolume(a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing"), target)
    labels = a_scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
    with pytest.raises(InputError, match="'Labels' is a LabelMapVolume"):
        scene.exportVolume(labels, target)
    color = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="VectorVolume"):
        scene.exportVolume(color, target)
    two = scan_node(OBLIQUE, noise(OBLIQUE))
    two.GetImageData().AllocateScalars(vtk.VTK_SHORT, 2)
    with pytest.raises(InputError, match="2 values a voxel"):
        scene.exportVolume(two, target)
    assert list(tmp_path.iterdir()) == []


def test_sheared_axes_are_refused_with_the_name_of_the_scan(a_scan, tmp_path) -> None:
    sheared = OBLIQUE.ijk_to_ras.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    a_scan.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(sheared))
    with pytest.raises(GeometryError, match="'Scan': The voxel axes are sheared") as refusal:
        scene.exportVolume(a_scan, tmp_path / "input.nrrd")
    assert "resample" in refusal.value.hint


# --- Masks as segments


@pytest.mark.parametrize("tilt", [(0, 0, 0), (11, -7, 23)])
def test_a_mask_survives_the_way_in_and_out_for_all_48_orientations(a_scene, tmp_path, tilt) -> None:
    for index, orientation in enumerate(orientations()):
        geometry = grid((7, 6, 5), (0.9, 1.3, 3.1), orientation, tilt)
        scan = scan_node(geometry, noise(geometry), f"Scan {index}")
        mask = (np.random.default_rng(index).random(geometry.shape) > 0.8).astype(np.uint8)
        segmentation = scene.newSegmentation(scan, f"Tumor {index}")
        segment = scene.importMask(on_disk(geometry, mask, tmp_path / "in.nrrd"), scan, segmentation, "Tumor")
        scene.exportCandidate(segmentation, segment, scan, tmp_path / "out.nrrd")
        assert np.array_equal(read_mask(tmp_path / "out.nrrd", geometry).array, mask), orientation
    assert index == 47


def test_a_tumor_is_named_colored_coded_and_marked_as_a_draft(a_scan, tmp_path) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    path = on_disk(OBLIQUE, blob(OBLIQUE, (12, 8, 9), 4), tmp_path / "m.nrrd")
    segment = segmentation.GetSegmentation().GetSegment(
        scene.importMask(path, a_scan, segmentation, "Left kidney tumor", "kidney")
    )
    assert segment.GetName() == "Left kidney tumor" and not segment.GetNameAutoGenerated()
    assert segment.GetColor() == scene.TUMOR_COLOR and not segment.GetColorAutoGenerated()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(segment) == logic.InProgress
    entry = slicer.vtkSlicerTerminologyEntry()
    assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(segment.GetTerminology(), entry)
    assert entry.GetCategoryObject().GetCodeMeaning() == "Morphologically Altered Structure"
    assert (entry.GetTypeObject().GetCodeValue(), entry.GetTypeObject().GetCodeMeaning()) == ("108369006", "Neoplasm")
    assert (entry.GetRegionObject().GetCodeValue(), entry.GetRegionObject().GetCodeMeaning()) == ("64033007", "Kidney")
    assert entry.GetRegionModifierObject().GetCodeMeaning() == "Left"
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReference(role) is a_scan
    stored = segmentation.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    assert stored.count(";") >= 16


def test_overlapping_segments_keep_their_own_voxels(a_scan, tmp_path) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    tumor, candidate = blob(OBLIQUE, (9, 12, 8), 4), blob(OBLIQUE, (11, 12, 8), 6)
    first = scene.importMask(on_disk(OBLIQUE, tumor, tmp_path / "a.nrrd"), a_scan, segmentation, "Tumor")
    second = scene.importMask(
        on_disk(OBLIQUE, candidate, tmp_path / "b.nrrd"), a_scan, segmentation, "Candidate", color=scene.CANDIDATE_COLOR
    )
    assert (tumor & candidate).any()
    assert np.array_equal(grids.segmentMask(segmentation, first, a_scan), tumor.T)
    assert np.array_equal(grids.segmentMask(segmentation, second, a_scan), candidate.T)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, a_scan), tumor.T)


def test_a_later_mask_replaces_the_voxels_and_leaves_the_users_name_color_and_code(a_scan, tmp_path) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    path = on_disk(OBLIQUE, blob(OBLIQUE, (9, 12, 8), 4), tmp_path / "a.nrrd")
    segment_id = scene.importMask(path, a_scan, segmentation, "Lung tumor", "lung")
    segment = segmentation.GetSegmentation().GetSegment(segment_id)
    segment.SetName("mine")
    segment.SetColor(0, 0, 1)
    smaller = blob(OBLIQUE, (14, 16, 10), 2)
    on_disk(OBLIQUE, smaller, tmp_path / "b.nrrd")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.Completed)
    assert segment_id == scene.importMask(
        tmp_path / "b.nrrd", a_scan, segmentation, "Lung tumor", "lung", segmentId=segment_id
    )
    assert (segment.GetName(), segment.GetColor()) == ("mine", (0, 0, 1))
    assert logic.GetSegmentStatus(segment) == logic.InProgress
    assert np.array_equal(grids.segmentMask(segmentation, segment_id, a_scan), smaller.T)
    scene.importMask(tmp_path / "b.nrrd", a_scan, segmentation, "Liver tumor", "liver", segmentId=segment_id)
    assert segment.GetName() == "Liver tumor" and "10200004^Liver" in segment.GetTerminology()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_an_empty_mask_makes_an_empty_segment_and_empties_an_old_one(a_scan, tmp_path) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    nothing = on_disk(OBLIQUE, np.zeros(OBLIQUE.shape, np.uint8), tmp_path / "none.nrrd")
    segment = scene.importMask(nothing, a_scan, segmentation, "Tumor")
    assert not grids.segmentMask(segmentation, segment, a_scan).any()
    scene.importMask(
        on_disk(OBLIQUE, blob(OBLIQUE, (9, 9, 9), 3), tmp_path / "a.nrrd"),
        a_scan,
        segmentation,
        "Tumor",
        segmentId=segment,
    )
    assert grids.segmentMask(segmentation, segment, a_scan).any()
    scene.importMask(nothing, a_scan, segmentation, "Tumor", segmentId=segment)
    assert not grids.segmentMask(segmentation, segment, a_scan).any()
    with pytest.raises(InputError, match="candidate region holds no voxel") as refusal:
        scene.exportCandidate(segmentation, segment, a_scan, tmp_path / "out.nrrd")
    assert refusal.value.code == "empty_candidate"


def test_a_probability_map_is_no_mask_and_a_made_up_status_is_none(a_scan, tmp_path) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    soft = on_disk(OBLIQUE, np.full(OBLIQUE.shape, 0.5, np.float32), tmp_path / "soft.nrrd")
    with pytest.raises(InputError, match="not a mask"):
        scene.importMask(soft, a_scan, segmentation, "Tumor")
    with pytest.raises(InputError, match="Unknown status") as refusal:
        scene.importMask(soft, a_scan, segmentation, "Tumor", status="Complete")
    assert "Completed" in refusal.value.hint
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_segmentation_under_another_transform_still_gets_every_voxel(a_scan) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    under(segmentation, linear_transform(rigid((0, 0, 90), (5, 6, 7))))
    mask = blob(OBLIQUE, (10, 10, 8), 4).T
    grids.setSegmentMask(mask, a_scan, segmentation, "tumor")
    assert np.array_equal(grids.segmentMask(segmentation, "tumor", a_scan), mask)
    shear = np.eye(4)
    shear[0, 1] = 0.5
    under(segmentation, linear_transform(shear))
    with pytest.raises(GeometryError, match="sheared against each other") as refusal:
        grids.setSegmentMask(mask, a_scan, segmentation, "tumor")
    assert "same transform" in refusal.value.hint


# --- Regions


@pytest.fixture
def an_organ_on_another_grid(a_scene) -> tuple[Any, str, Geometry, np.ndarray]:
    """A segmentation of twice finer voxels with other axes, as another program may have made it."""
    geometry = grid((50, 44, 60), (0.8, 0.6, 1.0), np.eye(3)[:, [2, 0, 1]], (5, 0, -10))
    mask = blob(geometry, (26, 20, 30), 13)
    fine = scan_node(geometry, noise(geometry), "Fine")
    segmentation = scene.newSegmentation(fine, "Organs")
    segmentation.GetSegmentation().AddEmptySegment("organ", "Organ")
    grids.setSegmentMask(mask.T, fine, segmentation, "organ")
    return segmentation, "organ", geometry, mask


@pytest.mark.parametrize("moved", ["nothing", "scan", "organ", "both"])
def test_an_organ_on_another_grid_is_resampled_to_the_nearest_voxel_of_the_scan(
    a_scan, an_organ_on_another_grid, tmp_path, moved
) -> None:
    segmentation, segment, geometry, mask = an_organ_on_another_grid
    segmentation_matrix = np.eye(4)
    if moved in ("scan", "both"):
        under(a_scan, linear_transform(TURNED, linear_transform(rigid((0, 5, 0), (1, 0, 0)))))
    if moved in ("organ", "both"):
        segmentation_matrix = rigid((0, 0, 15), (-2, 1, 0))
        under(segmentation, linear_transform(segmentation_matrix))
    organ_grid = Geometry(geometry.shape, segmentation_matrix @ geometry.ijk_to_ras)
    exact = organ_grid.to_ijk(world_points(a_scan))
    nearest = np.rint(exact).astype(int)
    inside = ((nearest >= 0) & (nearest < geometry.shape)).all(axis=-1)
    expected = np.zeros(OBLIQUE.shape, np.uint8)
    expected[inside] = mask[tuple(nearest[inside].T)]
    scene.exportSegmentMask(segmentation, segment, a_scan, tmp_path / "organ.nrrd")
    got = read_mask(tmp_path / "organ.nrrd", OBLIQUE).array
    # A point midway between two voxels may go either way.
    unsure = (np.abs(exact - np.floor(exact) - 0.5) < 1e-6).any(axis=-1)
    assert expected.sum() > 300
    assert np.array_equal(got[~unsure], expected[~unsure])


def test_an_organ_under_a_transform_that_bends_space_is_bent_by_slicer(a_scan, an_organ_on_another_grid) -> None:
    segmentation, segment, geometry, mask = an_organ_on_another_grid
    straight = grids.segmentMask(segmentation, segment, a_scan)
    under(segmentation, bending_transform())
    bent = grids.segmentMask(segmentation, segment, a_scan)
    back = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, segmentation.GetParentTransformNode(), back)
    points = world_points(a_scan).reshape(-1, 3)
    nearest = np.rint(geometry.to_ijk(np.array([back.TransformPoint(point) for point in points]))).astype(int)
    inside = ((nearest >= 0) & (nearest < geometry.shape)).all(axis=-1)
    expected = np.zeros(len(points), np.uint8)
    expected[inside] = mask[tuple(nearest[inside].T)]
    assert not np.array_equal(bent, straight)
    # A spline is inverted by iteration, to within a thousandth of a millimeter.
    assert np.count_nonzero(bent.T.ravel() != expected) <= 0.002 * expected.sum()


def test_an_organ_that_is_only_a_surface_is_filled_and_left_as_it_was(a_scan, tmp_path) -> None:
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*(OBLIQUE.to_ras(np.array([10, 12, 8]))))
    sphere.SetRadius(7.0)
    sphere.SetThetaResolution(60)
    sphere.SetPhiResolution(60)
    sphere.Update()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surface")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(a_scan)
    segmentation.SetSourceRepresentationToClosedSurface()
    segmentation.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "Ball", (1, 0, 0), "ball")
    scene.exportSegmentMask(segmentation, "ball", a_scan, tmp_path / "ball.nrrd")
    ml = read_mask(tmp_path / "ball.nrrd", OBLIQUE).array.sum() * OBLIQUE.voxel_volume_ml
    assert ml == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.05)
    assert not segmentation.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_a_segment_that_is_not_there_is_refused_by_name(a_scan, an_organ_on_another_grid, tmp_path) -> None:
    segmentation = an_organ_on_another_grid[0]
    with pytest.raises(InputError, match="'Organs' has no segment 'Orgen'") as refusal:
        scene.exportSegmentMask(segmentation, "Orgen", a_scan, tmp_path / "organ.nrrd")
    assert "did you mean 'Organ'" in refusal.value.hint
    assert grids.segmentMask(segmentation, "", a_scan).any()  # the only one needs no name
    empty = scene.newSegmentation(a_scan, "Empty")
    with pytest.raises(InputError, match="no segment") as refusal:
        scene.exportSegmentMask(empty, "", a_scan, tmp_path / "organ.nrrd")
    assert "no segment at all" in refusal.value.hint


@pytest.mark.parametrize("geometry", [OBLIQUE, LEFT_HANDED])
def test_a_turned_box_under_transforms_holds_the_voxels_that_slicer_says_it_holds(a_scene, tmp_path, geometry) -> None:
    scan = scan_node(geometry, noise(geometry))
    outer = linear_transform(rigid((3, 0, 8), (2, 1, -3)))
    under(scan, linear_transform(TURNED, outer))
    box = roi_node((12, 9, 14), rigid((20, 30, 40), tuple(geometry.to_ras(np.array([12, 10, 8])))))
    under(box, outer)
    points = world_points(scan)
    expected = np.zeros(geometry.shape, np.uint8)
    for index in np.ndindex(*geometry.shape):
        expected[index] = box.IsPointInROIWorld(points[index])
    scene.exportRoiMask(box, scan, tmp_path / "box.nrrd")
    assert 100 < expected.sum() < expected.size / 2
    assert np.array_equal(read_mask(tmp_path / "box.nrrd", geometry).array, expected)


def test_a_box_may_reach_beyond_the_scan_and_may_be_inside_out(a_scan) -> None:
    whole = roi_node((500, 500, 500), rigid((10, 20, 30), (0, 0, 0)))
    assert grids.roiMask(whole, a_scan).all()
    corner = roi_node((10, 10, 10), rigid((0, 0, 0), tuple(OBLIQUE.origin_ras)))
    inside = grids.roiMask(corner, a_scan)
    assert inside[0, 0, 0] == 1 and 0 < inside.sum() < inside.size
    corner.SetInsideOut(True)
    assert np.array_equal(grids.roiMask(corner, a_scan), 1 - inside)


def test_a_box_that_holds_no_voxel_or_lies_under_a_bend_is_refused(a_scan, tmp_path) -> None:
    for box in (roi_node((5, 5, 5), rigid((0, 0, 0), (900, 0, 0))), roi_node((0, 5, 5), np.eye(4))):
        with pytest.raises(InputError, match="region holds no voxel of 'Scan'") as refusal:
            scene.exportRoiMask(box, a_scan, tmp_path / "box.nrrd")
        assert refusal.value.code == "empty_region"
    box = roi_node((20, 20, 20), rigid((0, 0, 0), tuple(OBLIQUE.to_ras(np.array([10, 12, 8])))))
    under(box, bending_transform())
    with pytest.raises(GeometryError, match="'Box' lies under 'Bend'"):
        scene.exportRoiMask(box, a_scan, tmp_path / "box.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_organ_and_box_together_allow_what_lies_in_both(a_scan, an_organ_on_another_grid, tmp_path) -> None:
    segmentation, segment, _, _ = an_organ_on_another_grid
    path = tmp_path / "region.nrrd"
    assert not scene.exportRegion(path, a_scan) and not path.exists()
    organ = grids.segmentMask(segmentation, segment, a_scan)
    middle = OBLIQUE.to_ras(np.argwhere(organ.T).mean(axis=0))
    box = roi_node((8, 30, 30), rigid((0, 0, 12), tuple(middle)))
    assert scene.exportRegion(path, a_scan, segmentation, segment, box)
    both = read_mask(path, OBLIQUE).array
    assert np.array_equal(both.T, organ & grids.roiMask(box, a_scan)) and 0 < both.sum() < organ.sum()
    assert scene.exportRegion(path, a_scan, segmentationNode=segmentation, segmentId=segment)
    assert np.array_equal(read_mask(path, OBLIQUE).array.T, organ)
    assert scene.exportRegion(path, a_scan, roiNode=box)
    assert np.array_equal(read_mask(path, OBLIQUE).array.T, grids.roiMask(box, a_scan))
    before = path.read_bytes()
    corner = next(c for c in ((0, 0, 0), (19, 23, 15), (19, 0, 0), (0, 23, 0)) if not organ.T[c])
    elsewhere = roi_node((4, 4, 4), rigid((0, 0, 0), tuple(OBLIQUE.to_ras(np.array(corner)))))
    with pytest.raises(InputError, match="no voxel of the scan in common") as refusal:
        scene.exportRegion(path, a_scan, segmentation, segment, elsewhere)
    assert refusal.value.code == "empty_region" and path.read_bytes() == before


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
    import time

    geometry = Geometry.from_spacing((512, 512, 60), (0.7, 0.7, 2.5))
    node = scan_node(geometry, np.zeros(geometry.shape, np.int16))
    begin = time.process_time()
    scene.exportVolume(node, tmp_path / "input.nrrd")
    assert time.process_time() - begin < 0.5  # of a processor, however busy others keep it
    assert (tmp_path / "input.nrrd").stat().st_size == pytest.approx(512 * 512 * 60 * 2, rel=1e-3)
