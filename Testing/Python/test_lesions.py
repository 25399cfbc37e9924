"""What is one lesion, which way its slices run, and how long it is in them: worked by hand."""

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.volumes.lesions import acquisition_axis, label_lesions, longest_in_plane_diameter_mm


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    mask = np.zeros((6, 6, 6), dtype=np.uint8)
    mask[1, 1, 1] = mask[2, 2, 2] = 1
    mask[5, 5, 5] = 1
    assert label_lesions(mask)[1] == 2


def two_far_apart() -> np.ndarray:
    """Two lesions in an otherwise empty scan, one of them in a corner of the grid."""
    mask = np.zeros((40, 30, 20), dtype=np.uint8)
    mask[31:40, 20:30, 15:20] = np.random.default_rng(0).random((9, 10, 5)) < 0.2
    mask[20:24, 18:21, 12:19] = 3
    return mask


def test_lesions_are_numbered_as_on_the_whole_grid() -> None:
    scattered = np.random.default_rng(1).random((9, 8, 7)) < 0.1
    flat, empty, far = scattered[:, :1], np.zeros((4, 5, 6), dtype=bool), two_far_apart()
    for mask in (scattered, scattered[:, ::-1], np.asfortranarray(scattered), flat, empty, far, -1.0 * far):
        labels, count = label_lesions(mask)
        expected, expected_count = ndimage.label(mask > 0, np.ones((3, 3, 3)))
        assert count == expected_count and np.array_equal(labels, expected)


def test_only_the_box_of_all_lesions_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at, label = [], ndimage.label
    monkeypatch.setattr(
        ndimage, "label", lambda mask, *args, **named: looked_at.append(mask.shape) or label(mask, *args, **named)
    )
    label_lesions(two_far_apart())
    assert looked_at == [(20, 12, 8)], "of a scan of 40 x 30 x 20 voxels"


@pytest.mark.parametrize(
    ("spacing_mm", "axis"),
    [
        ((5.0, 1.0, 1.0), 0),
        ((1.0, 5.0, 1.0), 1),
        ((0.7, 0.7, 2.5), 2),
        ((1.0, 1.0, 1.0), 2),
        ((3.0, 3.0, 1.0), 2),
        ((1.0, 1.001, 1.0), 2),
    ],
)
def test_slices_run_across_the_axis_of_largest_spacing_and_across_k_in_a_tie(
    spacing_mm: tuple[float, float, float], axis: int
) -> None:
    assert acquisition_axis(spacing_mm) == axis


def test_a_row_of_ten_pixels_measures_its_full_length_and_a_pixel_its_longer_side() -> None:
    row = np.zeros((12, 3, 3), dtype=bool)
    row[1:11, 1, 1] = True
    assert longest_in_plane_diameter_mm(row, (0.7, 0.5, 2.5)) == pytest.approx(7.0)
    pixel = np.zeros((3, 3, 3), dtype=bool)
    pixel[1, 1, 1] = True
    assert longest_in_plane_diameter_mm(pixel, (0.7, 0.5, 2.5)) == pytest.approx(0.7)


def test_the_diameter_of_a_ball_is_its_own_within_a_voxel() -> None:
    i, j, k = np.ogrid[:41, :41, :21]
    ball = (i - 20) ** 2 + (j - 20) ** 2 + (2 * (k - 10)) ** 2 <= 15.5**2
    assert longest_in_plane_diameter_mm(ball, (1.0, 1.0, 2.0)) == pytest.approx(31.0, abs=1.0)


def test_the_diameter_is_measured_within_one_slice_not_across_slices() -> None:
    column = np.zeros((3, 3, 30), dtype=bool)
    column[1, 1, :] = True
    assert longest_in_plane_diameter_mm(column, (1.0, 1.0, 3.0)) == pytest.approx(1.0)
    assert longest_in_plane_diameter_mm(column, (3.0, 1.0, 2.5)) == pytest.approx(75.0)


def test_the_diameter_by_hull_equals_the_one_by_every_pair_of_points() -> None:
    blob = np.random.default_rng(3).random((9, 8, 3)) > 0.6
    sides = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    brute = 0.0
    for k in range(3):
        points = ((np.argwhere(blob[:, :, k])[:, None] + sides) * (0.8, 1.3)).reshape(-1, 2)
        brute = max(brute, float(np.linalg.norm(points[:, None] - points, axis=-1).max()))
    assert longest_in_plane_diameter_mm(blob, (0.8, 1.3, 4.0)) == pytest.approx(brute)
