"""Cuts, view and window: the same picture from any voxel order, millimeters, windows by surroundings."""

import itertools
import math

import numpy as np
import pytest

from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.output.planes import (
    LUNG_WINDOW_HU,
    PLANES,
    SOFT_TISSUE_WINDOW_HU,
    Cuts,
    arrange,
    tilt_degrees,
)
from DiffuGTSLib.volumes.volume import Geometry, Volume

SHAPE, SPACING_MM = (20, 24, 16), (2.0, 1.5, 4.0)
LESION = (slice(12, 15), slice(4, 8), slice(9, 12))


def a_scan(modality: str | None = "MR", fill: float = 0.0) -> tuple[Volume, Volume]:
    """A RAS scan with noise and a lesion on the right, at the back, above the middle."""
    array = np.random.default_rng(0).normal(100.0, 5.0, SHAPE).astype(np.float32) + np.float32(fill)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[LESION] = 1
    geometry = Geometry.from_spacing(SHAPE, SPACING_MM)
    return Volume(array, geometry, modality), Volume(mask, geometry)


def reordered(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels at the same places in the world, stored in another order."""
    matrix = volume.geometry.ijk_to_ras.copy()
    matrix[:3, :3] = matrix[:3, list(axes)]
    array = np.transpose(volume.array, axes)
    for axis, flip in enumerate(flips):
        if flip:
            matrix[:3, 3] += matrix[:3, axis] * (array.shape[axis] - 1)
            matrix[:3, axis] *= -1
            array = np.flip(array, axis)
    return Volume(array, Geometry(array.shape, matrix), volume.modality)


def arranged(scan: Volume, mask: Volume, field_mm: float = 160.0) -> Cuts:
    findings = find_lesions(mask, None, scan, None)
    return arrange({"scan": scan, "mask": mask}, findings, scan.modality, field_mm)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_every_voxel_order_gives_the_same_cuts(axes: tuple[int, ...]) -> None:
    scan, mask = a_scan()
    expected = arranged(scan, mask, field_mm=20.0)
    for flips in itertools.product((False, True), repeat=3):
        cuts = arranged(reordered(scan, axes, flips), reordered(mask, axes, flips), field_mm=20.0)
        for plane in PLANES:
            np.testing.assert_array_equal(cuts.cut("scan", plane), expected.cut("scan", plane))
        assert (cuts.center, cuts.spacing_mm, cuts.window) == (expected.center, expected.spacing_mm, expected.window)
        assert cuts.low_mm == pytest.approx(expected.low_mm)
        assert cuts.center_ras == pytest.approx(expected.center_ras)


def test_cuts_go_through_the_centroid_of_the_largest_finding() -> None:
    cuts = arranged(*a_scan())
    assert cuts.center_ras == pytest.approx((13 * 2.0, 5.5 * 1.5, 10 * 4.0))
    assert cuts.center == (13, 6, 10)


def test_cuts_go_through_the_middle_without_a_finding_and_show_all() -> None:
    scan, mask = a_scan()
    cuts = arranged(scan, mask.with_array(np.zeros(SHAPE, dtype=np.uint8)), field_mm=20.0)
    assert cuts.center == (10, 12, 8)
    assert cuts.side_mm == 64.0  # 16 slices of 4 mm
    assert cuts.low_mm == (-12.0, -14.0, 0.0)  # 40 and 36 mm wide: centered in 64 mm


def test_the_axial_cut_has_rows_from_back_to_front_and_columns_from_left_to_right_of_the_patient() -> None:
    scan, mask = a_scan()
    axial, coronal, sagittal = (arranged(scan, mask).cut("scan", plane) for plane in PLANES)
    np.testing.assert_array_equal(axial, scan.array[:, :, 10].T)
    np.testing.assert_array_equal(coronal, scan.array[:, 6, :].T)
    np.testing.assert_array_equal(sagittal, scan.array[13].T)


def test_the_view_is_moved_into_the_scan_where_the_finding_is_at_its_edge() -> None:
    cuts = arranged(*a_scan(), field_mm=20.0)
    assert cuts.side_mm == 20.0
    # Center voxel 13, 6, 10: its middle at 27, 9.75 and 42 mm; 9.75 - 10 would begin outside.
    assert cuts.low_mm == pytest.approx((17.0, 0.0, 32.0))


def test_the_view_shows_all_when_that_is_hardly_more_and_grows_with_the_finding() -> None:
    scan, mask = a_scan()
    assert arranged(scan, mask, field_mm=55.0).side_mm == 64.0
    mask.array[2:18, 4:8, 9:12] = 1  # 32 mm by 6 mm in plane
    assert arranged(scan, mask, field_mm=20.0).side_mm == 64.0
    mask.array[2:18] = 0
    mask.array[4:15, 4:8, 9:12] = 1  # 22 mm by 6 mm
    diameter_mm = math.hypot(20.0, 6.0)
    assert arranged(scan, mask, field_mm=20.0).side_mm == pytest.approx(max(2 * diameter_mm, 2 * 22.0), abs=1.0)


def test_a_ct_lesion_in_lung_is_shown_in_a_lung_window_and_another_is_not() -> None:
    scan, mask = a_scan("CT")
    assert arranged(scan, mask).window == SOFT_TISSUE_WINDOW_HU
    lung = scan.with_array(np.where(mask.array > 0, 30.0, -800.0).astype(np.float32))
    assert arranged(lung, mask).window == LUNG_WINDOW_HU
    skin = scan.with_array(np.where(mask.array > 0, 30.0, -1000.0).astype(np.float32))
    assert arranged(skin, mask).window == SOFT_TISSUE_WINDOW_HU, "air outside the body is not lung"


def test_mr_is_shown_between_percentiles_of_what_is_not_background() -> None:
    scan, mask = a_scan("MR")
    array = np.zeros(SHAPE, dtype=np.float32)
    array[:10] = np.linspace(1.0, 101.0, array[:10].size).reshape(array[:10].shape)
    cuts = arranged(scan.with_array(array), mask)
    assert cuts.window == pytest.approx((2.0, 100.5), abs=0.01)
    assert cuts.window_name == "MR units"


def test_a_scan_of_two_values_still_has_a_window() -> None:
    scan, mask = a_scan(None)
    low, high = arranged(scan.with_array(mask.array * 5), mask).window
    assert (low, high) == (0.0, 5.0)


def test_a_grid_turned_by_30_degrees_is_tilted_by_30_degrees_from_its_nearest_axes() -> None:
    turn = math.radians(30)
    matrix = np.eye(4)
    matrix[:2, :2] = [[-math.sin(turn), math.cos(turn)], [math.cos(turn), math.sin(turn)]]
    assert tilt_degrees(Geometry((4, 4, 4), matrix)) == pytest.approx(30.0)
