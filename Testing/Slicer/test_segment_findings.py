"""The table of findings: right numbers in the world, and lesions that can be dropped and come back."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from DiffuGTSSlicer import findings, scene
from DiffuGTSSlicer.boxed_mask import BoxedMask
from DiffuGTSSlicer.findings import Findings
from DiffuGTSSlicer.grids import segmentMask, worldFromNode
from DiffuGTSSlicer.ownership import isEdited, markEdited, userOwnedReason
from heartbeat import least
from phantoms import grid
from scene_parts import (
    bending_transform,
    blob,
    import_mask,
    linear_transform,
    noise,
    on_disk,
    rigid,
    scan_node,
    set_segment_mask,
    under,
)
from scipy import ndimage

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.volumes import Geometry, Volume

GRID = grid((30, 28, 20), (1.1, 0.7, 2.5), degrees=(11, -7, 23))
LARGE, MIDDLE, SMALL = blob(GRID, (8, 8, 8), 4), blob(GRID, (20, 19, 12), 3), blob(GRID, (26, 4, 16), 1)
MASK = LARGE | MIDDLE | SMALL
GRID_SHIFT = GRID.ijk_to_ras @ rigid((0, 0, 0), (3, 2, 1)) @ np.linalg.inv(GRID.ijk_to_ras)
"""Moves by whole voxels."""


@pytest.fixture
def a_result(a_scene) -> tuple[Any, str, Any, Any, Any]:
    """A segmentation of three balls, its segment, the scan, the AOVA map and the pseudo-healthy image."""
    scan = scan_node(GRID, noise(GRID))
    aova = scan_node(GRID, np.random.default_rng(5).random(GRID.shape).astype(np.float32), "AOVA")
    healthy = scan_node(GRID, noise(GRID, 6).astype(np.float32), "Healthy")
    segmentation = scene.newSegmentation(scan, "Result")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    set_segment_mask(MASK.T, scan, segmentation, "tumor")
    return segmentation, "tumor", scan, aova, healthy


def voxels(result: tuple[Any, str, Any, Any, Any]) -> np.ndarray:
    """Return what the segment holds, (i, j, k)."""
    return segmentMask(*result[:3]).T


def test_the_table_is_that_of_the_command_line(a_result) -> None:
    _, _, scan, aova, healthy = a_result
    expected = find_lesions(
        *(
            Volume(array, GRID)
            for array in (
                MASK,
                slicer.util.arrayFromVolume(aova).T,
                slicer.util.arrayFromVolume(scan).T,
                slicer.util.arrayFromVolume(healthy).T,
            )
        )
    )
    rows = Findings(*a_result).rows
    assert [row.number for row in rows] == [1, 2, 3] and all(row.kept for row in rows)
    for row, wanted in zip(rows, expected, strict=True):
        assert row.volumeMl == pytest.approx(wanted.volume_ml)
        assert row.diameterMm == pytest.approx(wanted.longest_in_plane_diameter_mm)
        assert row.centroidRas == pytest.approx(wanted.centroid_ras_mm)
        assert (row.meanAova, row.maxAova) == pytest.approx((wanted.mean_aova, wanted.max_aova))
        assert row.meanChange == pytest.approx(wanted.mean_intensity_change)


def test_what_was_not_computed_is_no_number(a_result) -> None:
    row = Findings(*a_result[:3]).rows[0]
    assert np.isnan([row.meanAova, row.maxAova, row.meanChange]).all()
    assert row.volumeMl == pytest.approx(LARGE.sum() * 1.1 * 0.7 * 2.5 / 1000)


def test_places_are_of_the_world_and_sizes_too(a_result) -> None:
    segmentation, _, scan, *_ = a_result
    before = Findings(*a_result).rows
    matrix = rigid((0, 0, 30), (100, 0, 0)) @ np.diag([2.0, 2.0, 2.0, 1.0])
    for node in (segmentation, *a_result[2:]):
        under(node, linear_transform(matrix))
    for row, wanted in zip(Findings(*a_result).rows, before, strict=True):
        assert row.volumeMl == pytest.approx(8 * wanted.volumeMl)
        assert row.diameterMm == pytest.approx(2 * wanted.diameterMm)
        assert row.centroidRas == pytest.approx(tuple((matrix @ [*wanted.centroidRas, 1])[:3]))
        assert row.meanChange == pytest.approx(wanted.meanChange)
    assert np.allclose(worldFromNode(scan), matrix)


def test_a_dropped_lesion_leaves_the_segment_and_comes_back_voxel_by_voxel(a_result) -> None:
    logic, tumor = slicer.vtkSlicerSegmentationsModuleLogic, a_result[0].GetSegmentation().GetSegment("tumor")
    logic.SetSegmentStatus(tumor, logic.InProgress)
    table = Findings(*a_result)
    first = table.rows
    table.keep(2, False)
    assert np.array_equal(voxels(a_result), LARGE | SMALL)
    assert [row.kept for row in table.rows] == [True, False, True]
    assert [row.volumeMl for row in table.rows] == [row.volumeMl for row in first]  # numbers and sizes stay
    table.keep(1, False)
    table.keep(3, False)
    assert not voxels(a_result).any() and len(table.rows) == 3
    assert logic.GetSegmentStatus(tumor) == logic.InProgress
    for number in (1, 2, 3):
        table.keep(number, True)
    assert np.array_equal(voxels(a_result), MASK) and table.rows == first


def test_dropping_twice_or_keeping_what_is_kept_changes_nothing(a_result) -> None:
    table = Findings(*a_result)
    table.keep(1, True)
    table.keep(2, False)
    table.keep(2, False)
    assert np.array_equal(voxels(a_result), LARGE | SMALL)
    table.keep(2, True)
    assert np.array_equal(voxels(a_result), MASK)


def test_under_a_transform_that_bends_space_findings_are_measured_and_none_is_dropped(a_result) -> None:
    under(a_result[0], bending_transform())
    table = Findings(*a_result)
    before = table.rows
    with pytest.raises(GeometryError, match="nonlinear"):
        table.keep(1, False)
    assert table.rows == before and all(row.kept for row in before)
    a_result[0].SetAndObserveTransformNodeID(None)
    assert np.array_equal(voxels(a_result), MASK)


def test_another_table_of_the_same_segment_knows_what_was_dropped(a_result) -> None:
    Findings(*a_result).keep(1, False)
    again = Findings(*a_result)
    assert [row.kept for row in again.rows] == [False, True, True]
    again.keep(1, True)
    assert np.array_equal(voxels(a_result), MASK)


def test_what_the_user_edits_meanwhile_is_not_lost(a_result) -> None:
    segmentation, segment, scan, *_ = a_result
    table = Findings(*a_result)
    drawn = blob(GRID, (20, 4, 4), 2)
    set_segment_mask(MASK.T | drawn.T, scan, segmentation, segment)
    table.keep(2, False)  # by the table from before the edit
    assert np.array_equal(voxels(a_result), LARGE | SMALL | drawn)
    assert [row.kept for row in table.rows] == [True, False, True, True]
    table.keep(2, True)
    assert np.array_equal(voxels(a_result), MASK | drawn)
    set_segment_mask(SMALL.T, scan, segmentation, segment)
    assert len(table.update()) == 1 and table.rows[0].number == 1


def test_a_new_run_forgets_what_was_dropped_from_the_old_one(a_result, tmp_path) -> None:
    segmentation, segment, scan, *_ = a_result
    Findings(*a_result).keep(2, False)
    path = on_disk(GRID, LARGE, tmp_path / "m.nrrd")
    import_mask(path, scan, segmentation, "Tumor", segmentId=segment)
    assert len(Findings(*a_result).rows) == 1


def test_voxels_that_touch_by_a_corner_are_one_lesion(a_result) -> None:
    segmentation, segment, scan, *_ = a_result
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3, 3, 3] = mask[4, 4, 4] = mask[9, 9, 9] = 1
    set_segment_mask(mask.T, scan, segmentation, segment)
    rows = Findings(*a_result).rows
    assert [round(row.volumeMl / GRID.voxel_volume_ml) for row in rows] == [2, 1]
    # One voxel measures its longer side within the slice, which lies across the 2.5 mm.
    assert rows[1].diameterMm == pytest.approx(1.1)


def test_an_empty_segment_has_no_findings(a_result) -> None:
    segmentation, segment, scan, *_ = a_result
    set_segment_mask(np.zeros(GRID.shape[::-1]), scan, segmentation, segment)
    table = Findings(*a_result)
    assert table.rows == ()
    with pytest.raises(InputError, match="no finding 1; expected 1 to 0"):
        table.keep(1, False)
    with pytest.raises(InputError, match="no finding 0"):
        table.jump(0)


def test_a_map_of_another_scan_is_refused(a_result) -> None:
    other = grid((30, 28, 20), (1.1, 0.7, 2.6))
    with pytest.raises(GeometryError, match="AOVA map and the scan lie on different grids"):
        Findings(*a_result[:3], scan_node(other, np.zeros(other.shape, np.float32)))


def test_a_jump_goes_to_a_voxel_of_the_lesion_even_in_a_crescent(a_result) -> None:
    segmentation, segment, scan, *_ = a_result
    ring = blob(GRID, (14, 14, 10), 8) & ~blob(GRID, (14, 14, 10), 6)
    set_segment_mask(ring.T, scan, segmentation, segment)
    Findings(*a_result).jump(1)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    i, j, k = np.rint(GRID.to_ijk(np.array(crosshair.GetCrosshairRAS()))).astype(int)
    assert ring[i, j, k] == 1


def test_a_tag_that_is_damaged_or_of_another_grid_drops_nothing(a_result) -> None:
    segmentation, segment, *_ = a_result
    tumor = segmentation.GetSegmentation().GetSegment(segment)
    Findings(*a_result).keep(2, False)
    good = vtk.reference("")
    tumor.GetTag(scene.DROPPED_TAG, good)
    for text in ("", "nonsense", "1,2", str(good)[:-9], str(good) + "!", str(good).replace("20,28,30", "20,28,31", 1)):
        tumor.SetTag(scene.DROPPED_TAG, text)
        assert len(Findings(*a_result).rows) == 2, text
    tumor.SetTag(scene.DROPPED_TAG, str(good))
    assert len(Findings(*a_result).rows) == 3
    assert len(str(good)) < 300  # short enough for the header of a file


def test_the_text_of_dropped_voxels_is_exact_for_any_mask() -> None:
    for seed in range(5):
        mask = np.random.default_rng(seed).random((5, 7, 9)) > 0.7
        boxed = BoxedMask.of(mask)
        back = findings._unpacked(findings._packed(boxed, mask.shape), mask.shape)
        assert back.box == boxed.box and np.array_equal(back.voxels, boxed.voxels)
    assert findings._packed(BoxedMask.of(np.zeros((2, 3, 4), bool)), (2, 3, 4)) == ""


def test_lesions_are_those_of_the_whole_grid_however_they_lie_to_each_other() -> None:
    for seed in range(6):
        mask = np.random.default_rng(seed).random((9, 11, 13)) > 0.93
        labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
        lesions = findings._lesions(BoxedMask.of(mask), BoxedMask.of(np.zeros((0, 0, 0))), np.eye(4))
        assert len(lesions) == count > 3
        for lesion in lesions:
            at = labels[lesion.box][lesion.voxels]
            assert len(set(at)) == 1 and (labels == at[0]).sum() == lesion.voxels.sum()


def test_findings_far_apart_in_a_large_scan_take_no_time(a_scene) -> None:
    scan = slicer.util.addVolumeFromArray(np.zeros((133, 512, 512), np.int16))
    mask = np.zeros((133, 512, 512), np.uint8)
    mask[3:9, 5:12, 5:12] = mask[120:128, 480:500, 490:500] = mask[60:70, 250:270, 250:270] = 1
    segmentation = scene.newSegmentation(scan, "Result")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    set_segment_mask(mask, scan, segmentation, "tumor")

    def seconds() -> float:
        begin = time.process_time()
        assert len(Findings(segmentation, "tumor", scan, scan).rows) == 3
        return time.process_time() - begin

    took = least(seconds, enough=0.3)
    print(f"{took * 1000:.0f} ms")
    assert took < 0.3


@pytest.mark.parametrize("turned", [np.diag([1, 1, -1]), np.eye(3)[:, [2, 0, 1]], np.diag([-1, -1, 1])])
def test_what_was_dropped_comes_back_in_its_place_however_the_scan_is_counted(a_scene, turned: np.ndarray) -> None:
    """Slicer turns an axis of a left-handed scan around when it reads it, and the segments keep theirs."""
    own = grid((30, 28, 20), (1.1, 0.7, 2.5), turned, (11, -7, 23))
    # (i, j, k) of the one is (19 - k, j, i) of the other
    back = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 19], [0, 0, 0, 1]])
    other = Geometry((20, 28, 30), own.ijk_to_ras @ back)
    scan, again = scan_node(own, noise(own)), scan_node(other, noise(other), "Again")
    segmentation = scene.newSegmentation(scan, "Result")
    segment = scene.showMask(BoxedMask.of(MASK.T), scan, segmentation, "Tumor")
    assert not isEdited(segmentation, segment, scan) and not isEdited(segmentation, segment, again)
    table = Findings(segmentation, segment, scan)
    table.keep(2, False)
    later = Findings(segmentation, segment, again)
    assert [row.kept for row in later.rows] == [True, False, True]
    assert isEdited(segmentation, segment, again)
    for row, expected in zip(later.rows, table.rows, strict=True):
        assert row.centroidRas == pytest.approx(expected.centroidRas)
    later.keep(2, True)
    assert np.array_equal(segmentMask(segmentation, segment, scan).T, MASK)
    assert not isEdited(segmentation, segment, scan) and not isEdited(segmentation, segment, again)


def test_a_scan_that_was_moved_alone_is_said_and_not_measured(a_result) -> None:
    scan, before = a_result[2], Findings(*a_result).rows
    under(scan, linear_transform(np.eye(4)))
    assert Findings(*a_result).rows == before, "the identity moves nothing"
    moved = linear_transform(rigid((0, 0, 0), (4, 0, 1.2)))
    under(scan, moved)
    with pytest.raises(GeometryError, match="'Scan' and its AOVA map have different parent transforms") as caught:
        Findings(*a_result)
    assert "under the scan's transform" in caught.value.hint
    for node in (a_result[0], *a_result[3:]):
        under(node, moved)
    for row, expected in zip(Findings(*a_result).rows, before, strict=True):
        assert row.volumeMl == expected.volumeMl and row.meanAova == expected.meanAova


@pytest.mark.parametrize("place", [np.eye(4), rigid((0, 0, 0), (4, 0, 1.2)), GRID_SHIFT])
def test_a_segment_is_not_edited_where_only_its_scan_was_moved(a_scene, place: np.ndarray) -> None:
    scan = scan_node(GRID, noise(GRID))
    segmentation = scene.newSegmentation(scan, "Result")
    segment = scene.showMask(BoxedMask.of(MASK.T), scan, segmentation, "Tumor")
    under(scan, linear_transform(place))
    assert not isEdited(segmentation, segment, scan)
    assert userOwnedReason(segmentation, segment, scan) == ("" if np.array_equal(place, np.eye(4)) else "moved")
    markEdited(segmentation, scan)
    told = vtk.reference("")
    segmentation.GetSegmentation().GetSegment(segment).GetTag(scene.ALGORITHM_TYPE_TAG, told)
    assert str(told) == scene.AUTOMATIC
    segment = scene.showMask(BoxedMask.of(MASK.T), scan, segmentation, "Tumor", segmentId=segment)
    assert userOwnedReason(segmentation, segment, scan) == "", "a later run writes it where the scan is now"
    set_segment_mask(LARGE.T, scan, segmentation, segment)
    assert isEdited(segmentation, segment, scan) and userOwnedReason(segmentation, segment, scan) == "edited"


@pytest.mark.parametrize("times", [2, 3])
def test_a_segment_is_not_edited_where_slicer_has_put_it_on_a_finer_grid(a_scene, times: int) -> None:
    """Of a segmentation that it saves it puts all segments on one grid."""
    scan = scan_node(GRID, noise(GRID))
    fine = finer_by(times, GRID)
    finer = scan_node(fine, np.zeros(fine.shape, np.int16), "Finer")
    segmentation = scene.newSegmentation(scan, "Own")
    segment = scene.showMask(BoxedMask.of(MASK.T), scan, segmentation, "Tumor")
    mask = np.kron(MASK, np.ones((times,) * 3, np.uint8))
    set_segment_mask(mask.T, finer, segmentation, segment)
    assert not isEdited(segmentation, segment, scan) and userOwnedReason(segmentation, segment, scan) == ""
    for voxel in (np.argwhere(mask)[0], np.argwhere(mask)[0] - 1):
        edited = mask.copy()
        edited[tuple(voxel)] ^= 1
        set_segment_mask(edited.T, finer, segmentation, segment)
        assert isEdited(segmentation, segment, scan), "one voxel of the finer grid"


def test_a_lesion_that_reaches_past_the_scan_is_measured_where_the_scan_is(a_result) -> None:
    segmentation, segment, scan, aova, healthy = a_result
    longer = Geometry((30, 28, 36), GRID.ijk_to_ras @ rigid((0, 0, 0), (0, 0, -8)))
    series = scan_node(longer, noise(longer), "Longer")
    mask = np.zeros(longer.shape, np.uint8)
    mask[2:8, 3:9, 4:12] = 1  # half below the scan's first slice
    mask[20:24, 20:24, 1:4] = 1  # all of it below
    mask[20:24, 3:6, 26:32] = 1  # a third above the last
    set_segment_mask(mask.T, series, segmentation, segment)
    rows = Findings(*a_result).rows
    voxel_ml = 1.1 * 0.7 * 2.5 / 1000
    assert [row.volumeMl for row in rows] == pytest.approx([6 * 6 * 8 * voxel_ml, 4 * 3 * 6 * voxel_ml, 48 * voxel_ml])
    for row, box in ((rows[0], np.s_[2:8, 3:9, 0:4]), (rows[1], np.s_[20:24, 3:6, 18:20])):
        attention, before, after = (slicer.util.arrayFromVolume(node).T[box] for node in (aova, scan, healthy))
        assert (row.meanAova, row.maxAova) == pytest.approx((attention.mean(), attention.max()))
        assert row.meanChange == pytest.approx((before - after).mean(), rel=1e-4)
    assert np.isnan([rows[2].meanAova, rows[2].maxAova, rows[2].meanChange]).all()
    table = Findings(*a_result)
    table.keep(3, False)
    assert [row.kept for row in table.rows] == [True, True, False]
    table.keep(3, True)
    assert np.array_equal(segmentMask(segmentation, segment, series).T, mask)


def finer_by(times: int, geometry: Geometry) -> Geometry:
    """Return the grid of Segment Editor's oversampling: each voxel is cut into as many along each axis."""
    corner = rigid((0, 0, 0), (0.5 / times - 0.5,) * 3)
    return Geometry(
        tuple(times * side for side in geometry.shape),
        geometry.ijk_to_ras @ corner @ np.diag([1 / times, 1 / times, 1 / times, 1.0]),
    )


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("place", [np.eye(4), rigid((0, 0, 30), (100, 0, 0)) @ np.diag([2.0, 2.0, 2.0, 1.0])])
def test_a_segment_on_a_finer_grid_has_the_numbers_of_its_own_voxels(a_result, times: int, place: np.ndarray) -> None:
    segmentation, segment, scan, aova, healthy = a_result
    fine = finer_by(times, GRID)
    distance = lambda ras: np.linalg.norm(fine.to_ras(np.moveaxis(np.indices(fine.shape), 0, -1)) - ras, axis=-1)  # noqa: E731
    center = GRID.to_ras(np.array([15.2, 12.4, 9.5]))
    ball = (distance(center) <= 3).astype(np.uint8)
    speck = np.zeros_like(ball)
    speck[3, 3, 3] = 1  # smaller than a voxel of the scan
    set_segment_mask((ball | speck).T, scan_node(fine, ball, "Finer"), segmentation, segment)
    for node in (segmentation, scan, aova, healthy):
        under(node, linear_transform(place))
    first, second = Findings(*a_result).rows
    scale = round(np.linalg.det(place[:3, :3]) ** (1 / 3))
    voxel_ml = 1.1 * 0.7 * 2.5 / 1000 / times**3 * scale**3
    assert (first.volumeMl, second.volumeMl) == pytest.approx((ball.sum() * voxel_ml, voxel_ml))
    assert first.volumeMl == pytest.approx(4 / 3 * np.pi * 3**3 / 1000 * scale**3, rel=0.1)
    assert first.diameterMm == pytest.approx(6 * scale, rel=0.1)
    assert first.centroidRas == pytest.approx(tuple((place @ [*center, 1])[:3]), abs=0.2 * scale)
    coarse = np.argwhere(ball) // times
    attention, before, after = (slicer.util.arrayFromVolume(node).T[tuple(coarse.T)] for node in (aova, scan, healthy))
    assert (first.meanAova, first.maxAova) == pytest.approx((attention.mean(), attention.max()))
    assert first.meanChange == pytest.approx((before - after).mean(), rel=1e-4)
    one = tuple(np.array([3, 3, 3]) // times)
    assert second.meanAova == pytest.approx(slicer.util.arrayFromVolume(aova).T[one])
    Findings(*a_result).jump(1)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").GetCrosshairRAS()
    assert np.linalg.norm(np.subtract(crosshair, first.centroidRas)) < 2.5 * scale


def test_what_was_dropped_before_a_segment_got_a_finer_grid_stays_in_the_table(a_result) -> None:
    segmentation, segment, *_ = a_result
    table = Findings(*a_result)
    before = table.rows
    table.keep(2, False)
    fine = finer_by(2, GRID)
    mask = np.kron(LARGE | SMALL, np.ones((2, 2, 2), np.uint8))
    set_segment_mask(mask.T, scan_node(fine, mask, "Finer"), segmentation, segment)
    rows = table.update()
    assert [row.kept for row in rows] == [True, False, True]
    assert [row.volumeMl for row in rows] == pytest.approx([row.volumeMl for row in before])
    assert [row.meanAova for row in rows] == pytest.approx([row.meanAova for row in before])
    with pytest.raises(InputError, match="is on another grid"):
        table.keep(2, True)


def test_dropping_a_finding_leaves_finer_edits_alone(a_result) -> None:
    segmentation, segment, *_ = a_result
    fine = Geometry((60, 56, 40), GRID.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0]))
    finer = scan_node(fine, noise(fine), "Finer")
    mask = np.kron(MASK, np.ones((2, 2, 2), np.uint8))
    mask[2:50, 2, 2] = 1  # thinner than a voxel of the scan
    set_segment_mask(mask.T, finer, segmentation, segment)
    table = Findings(*a_result)
    before = table.rows
    with pytest.raises(InputError, match="is on another grid than the scan's") as caught:
        table.keep(2, False)
    assert caught.value.code == "other_grid" and "Segment Editor" in caught.value.hint
    assert table.rows == before and np.array_equal(segmentMask(segmentation, segment, finer).T, mask)
