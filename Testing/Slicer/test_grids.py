"""Organs and boxes on a scan's grid, wherever they come from and whatever transforms lie above them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
import vtk
import vtk_messages
from DiffuGTSSlicer import boxed_mask, grids, scene, steps
from DiffuGTSSlicer.boxed_mask import BoxedMask
from phantoms import grid
from scene_parts import (
    LEFT_HANDED,
    OBLIQUE,
    TURNED,
    bending_transform,
    blob,
    linear_transform,
    noise,
    rigid,
    roi_node,
    scan_node,
    set_segment_mask,
    under,
    world_points,
)

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes import Geometry, read_mask


@pytest.fixture
def an_organ_on_another_grid(a_scene) -> tuple[Any, str, Geometry, np.ndarray]:
    """A segmentation of twice finer voxels with other axes, as another program may have made it."""
    geometry = grid((50, 44, 60), (0.8, 0.6, 1.0), np.eye(3)[:, [2, 0, 1]], (5, 0, -10))
    mask = blob(geometry, (26, 20, 30), 13)
    fine = scan_node(geometry, noise(geometry), "Fine")
    segmentation = scene.newSegmentation(fine, "Organs")
    segmentation.GetSegmentation().AddEmptySegment("organ", "Organ")
    set_segment_mask(mask.T, fine, segmentation, "organ")
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
    scene.exportRegion(tmp_path / "organ.nrrd", a_scan, segmentation, segment)
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
    scene.exportRegion(tmp_path / "ball.nrrd", a_scan, segmentation, "ball")
    ml = read_mask(tmp_path / "ball.nrrd", OBLIQUE).array.sum() * OBLIQUE.voxel_volume_ml
    assert ml == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.05)
    assert not segmentation.GetSegmentation().ContainsRepresentation("Binary labelmap")


def test_a_mask_that_slicer_would_not_take_is_not_lost_in_silence(a_scan) -> None:
    mask = blob(OBLIQUE, (10, 12, 8), 3).T
    surfaces = scene.newSegmentation(a_scan, "Surfaces")
    surfaces.SetSourceRepresentationToClosedSurface()
    surfaces.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    with pytest.raises(InputError, match="source representation of 'Surfaces' is closed surface") as refusal:
        set_segment_mask(mask, a_scan, surfaces, "tumor")
    assert refusal.value.code == "segmentation" and "Create new segmentation" in refusal.value.hint
    with pytest.raises(InputError, match="could not write the mask into 'Result'"):
        set_segment_mask(mask, a_scan, scene.newSegmentation(a_scan, "Result"), "no such segment")
    vtk_messages.forget()


def test_nothing_is_written_under_a_transform_that_bends_space_whose_matrix_says_nothing(a_scan) -> None:
    mask = blob(OBLIQUE, (10, 12, 8), 3).T
    segmentation = scene.newSegmentation(a_scan, "Result")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    set_segment_mask(mask, a_scan, segmentation, "tumor")
    under(segmentation, bending_transform())
    for other in (np.roll(mask, 2, axis=0), np.zeros_like(mask)):
        with pytest.raises(GeometryError, match="'Result' is under the nonlinear transform 'Bend'"):
            set_segment_mask(other, a_scan, segmentation, "tumor")
    with pytest.raises(GeometryError, match="nonlinear"):
        grids.worldFromNode(segmentation)
    segmentation.SetAndObserveTransformNodeID(None)
    assert np.array_equal(grids.segmentMask(segmentation, "tumor", a_scan), mask)


def test_a_segment_that_is_not_there_is_refused_by_name(a_scan, an_organ_on_another_grid, tmp_path) -> None:
    segmentation = an_organ_on_another_grid[0]
    with pytest.raises(InputError, match="'Organs' has no segment 'Orgen'") as refusal:
        scene.exportRegion(tmp_path / "organ.nrrd", a_scan, segmentation, "Orgen")
    assert "did you mean 'Organ'" in refusal.value.hint
    assert grids.segmentMask(segmentation, "", a_scan).any()  # the only one needs no name
    empty = scene.newSegmentation(a_scan, "Empty")
    with pytest.raises(InputError, match="no segment") as refusal:
        scene.exportRegion(tmp_path / "organ.nrrd", a_scan, empty, "")
    assert "has no segments" in refusal.value.hint


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
    scene.exportRegion(tmp_path / "box.nrrd", scan, roiNode=box)
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
        with pytest.raises(InputError, match="region has no voxel in 'Scan'") as refusal:
            scene.exportRegion(tmp_path / "box.nrrd", a_scan, roiNode=box)
        assert refusal.value.code == "empty_region"
    box = roi_node((20, 20, 20), rigid((0, 0, 0), tuple(OBLIQUE.to_ras(np.array([10, 12, 8])))))
    under(box, bending_transform())
    with pytest.raises(GeometryError, match="'Box' is under the nonlinear transform 'Bend'"):
        scene.exportRegion(tmp_path / "box.nrrd", a_scan, roiNode=box)
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


# --- In small steps


@pytest.mark.parametrize("moved", [False, True])
def test_slices_that_are_resampled_one_by_one_are_those_of_the_whole(
    a_scan, an_organ_on_another_grid, monkeypatch, moved
) -> None:
    segmentation, segment = an_organ_on_another_grid[:2]
    if moved:
        under(segmentation, linear_transform(TURNED))
    whole = grids.segmentMask(segmentation, segment, a_scan)
    monkeypatch.setattr(steps, "SLAB_VOXELS", 1)
    assert len(list(grids.segmentMask.steps(segmentation, segment, a_scan))) == OBLIQUE.shape[2]
    assert np.array_equal(grids.segmentMask(segmentation, segment, a_scan), whole) and whole.any()


def test_a_segment_on_the_scans_own_grid_is_pasted_as_it_would_be_resampled(a_scan, monkeypatch) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    mask = blob(OBLIQUE, (9, 12, 8), 5).T
    set_segment_mask(mask, a_scan, segmentation, "tumor")
    pasted = grids.segmentMask(segmentation, "tumor", a_scan)
    monkeypatch.setattr(boxed_mask, "LATTICE_TOLERANCE_VOXELS", -1.0)
    assert np.array_equal(pasted, mask) and np.array_equal(grids.segmentMask(segmentation, "tumor", a_scan), mask)


def test_a_segment_tells_its_box_and_its_checksum_only_on_the_scans_own_grid(a_scan, an_organ_on_another_grid) -> None:
    segmentation = scene.newSegmentation(a_scan, "Result")
    for each in ("tumor", "other", "nothing"):
        segmentation.GetSegmentation().AddEmptySegment(each, each)
    mask = blob(OBLIQUE, (9, 12, 8), 3).T
    expected = BoxedMask.of(mask)
    set_segment_mask(mask, a_scan, segmentation, "tumor")
    set_segment_mask(blob(OBLIQUE, (16, 3, 3), 2).T, a_scan, segmentation, "other")
    found = grids.segmentBox(segmentation, "tumor", a_scan)
    assert found.box == expected.box and np.array_equal(found.voxels, expected.voxels)
    assert found.digest == expected.digest != grids.segmentBox(segmentation, "other", a_scan).digest
    nothing = grids.segmentBox(segmentation, "nothing", a_scan)
    assert nothing.digest == BoxedMask.of(np.zeros_like(mask)).digest and not nothing.voxels.size
    moved = np.roll(mask, 1, axis=2)
    assert BoxedMask.of(moved).digest != expected.digest, "the same shape elsewhere"
    assert grids.segmentBox(*an_organ_on_another_grid[:2], a_scan) is None
