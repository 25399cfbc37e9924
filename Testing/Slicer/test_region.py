"""The fitted box: every voxel of the organ lies inside, nothing beyond the margin does, under whatever transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import scene
from DiffuGTSSlicer.grids import roiMask, segmentMask
from DiffuGTSSlicer.region import fitRoi, newRoi
from phantoms import grid
from scene_parts import bending_transform, linear_transform, noise, rigid, scan_node, set_segment_mask, under

from DiffuGTSLib.errors import GeometryError, InputError

SPACING_MM = (1.0, 0.5, 2.0)
GRID = grid((20, 24, 16), SPACING_MM, degrees=(11, -7, 23))


@pytest.fixture
def an_organ(a_scene: Any) -> tuple[Any, Any, str]:
    """An oblique scan, and a segment of 5 x 6 x 4 voxels in it."""
    scan = scan_node(GRID, noise(GRID))
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:13, 10:16, 5:9] = 1
    node = scene.newSegmentation(scan, "Organs")
    segment_id = node.GetSegmentation().AddEmptySegment("", "liver")
    set_segment_mask(mask.T, scan, node, segment_id)
    return scan, node, segment_id


def test_without_margin_the_box_holds_exactly_the_organs_voxels(an_organ: tuple[Any, Any, str]) -> None:
    scan, node, segment_id = an_organ
    roi = newRoi(scan)
    fitRoi(roi, scan, node, segment_id)
    assert np.array_equal(roiMask(roi, scan), segmentMask(node, segment_id, scan))
    assert roi.GetSize() == pytest.approx((5 * 1.0, 6 * 0.5, 4 * 2.0))


def test_the_margin_is_in_millimeters_on_every_side(an_organ: tuple[Any, Any, str]) -> None:
    scan, node, segment_id = an_organ
    roi = newRoi(scan)
    fitRoi(roi, scan, node, segment_id, marginMm=2.0)
    assert roi.GetSize() == pytest.approx((5 + 4, 3 + 4, 8 + 4))
    expected = np.zeros(GRID.shape, np.uint8)
    expected[6:15, 6:20, 4:10] = 1
    assert np.array_equal(roiMask(roi, scan), expected.T)


def test_without_an_organ_the_box_is_the_scans(an_organ: tuple[Any, Any, str]) -> None:
    roi = newRoi(an_organ[0])
    roi.SetInsideOut(True)
    fitRoi(roi, an_organ[0], marginMm=50)
    assert roiMask(roi, an_organ[0]).all()
    assert roi.GetSize() == pytest.approx((20 * 1.0, 24 * 0.5, 16 * 2.0))


def test_transforms_of_scan_and_box_are_taken_into_account(an_organ: tuple[Any, Any, str]) -> None:
    scan, node, segment_id = an_organ
    moved = linear_transform(rigid((5, 40, -20), (30, -10, 5)))
    for each in (scan, node):
        under(each, moved)
    roi = newRoi(scan)
    under(roi, linear_transform(rigid((-15, 8, 3), (1, 2, 3))))
    fitRoi(roi, scan, node, segment_id)
    assert np.array_equal(roiMask(roi, scan), segmentMask(node, segment_id, scan))


def test_under_a_shear_the_box_is_larger_and_still_holds_the_organ(an_organ: tuple[Any, Any, str]) -> None:
    scan, node, segment_id = an_organ
    shear = np.eye(4)
    shear[0, 1] = 0.4
    for each in (scan, node):
        under(each, linear_transform(shear))
    roi = newRoi(scan)
    fitRoi(roi, scan, node, segment_id)
    assert (roiMask(roi, scan) >= segmentMask(node, segment_id, scan)).all()


def test_an_empty_organ_and_a_bent_box_are_refused(an_organ: tuple[Any, Any, str]) -> None:
    scan, node, _segment_id = an_organ
    empty = node.GetSegmentation().AddEmptySegment("", "spleen")
    roi = newRoi(scan)
    with pytest.raises(InputError, match="has no voxel in 'Scan'") as caught:
        fitRoi(roi, scan, node, empty)
    assert caught.value.code == "empty_region"
    bend = bending_transform()
    under(roi, bend)
    with pytest.raises(GeometryError, match="nonlinear"):
        fitRoi(roi, scan)
    slicer.mrmlScene.RemoveNode(bend)
