"""A map is smoothed as far as the picture looks alike, and not across what parts its tissues."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from DiffuGTSLib.config import MasksConfig
from DiffuGTSLib.smoothing import smooth_within_edges

SPACING_MM = (2.0, 2.0, 2.0)
EDGE = 0.02


def smoothed(values: np.ndarray, picture: np.ndarray, reach_mm: float, **more: Any) -> np.ndarray:
    more = {"allowed": np.ones(values.shape, dtype=bool), "spacing_mm": SPACING_MM, "above": 0.0} | more
    return smooth_within_edges(values, picture, config=MasksConfig(smooth_mm=reach_mm, smooth_edge=EDGE), **more)


@pytest.fixture
def a_picture() -> np.ndarray:
    """Two tissues, grainy, that meet at x = 12."""
    picture = np.random.default_rng(0).normal(0.0, 0.002, (24, 16, 16)).astype(np.float32)
    picture[12:] += 0.2
    return picture


@pytest.fixture
def a_map() -> np.ndarray:
    """Sure of the middle of the left tissue, and fading over the edge."""
    distance = np.abs(np.arange(24) - 6.0)
    return np.broadcast_to(np.exp(-((distance / 5) ** 2))[:, None, None], (24, 16, 16)).astype(np.float32).copy()


def test_an_edge_of_the_picture_becomes_one_of_the_map(a_picture: np.ndarray, a_map: np.ndarray) -> None:
    after, before = smoothed(a_map, a_picture, 16.0)[:, 8, 8], a_map[:, 8, 8]
    assert after[11] > 1.5 * before[11] and after[12] < before[12], "parted at the edge"
    assert np.ptp(after[:12]) < np.ptp(before[:12]) / 2, "even within the tissue"


def test_in_a_flat_picture_it_is_the_screened_poisson_equation() -> None:
    """For a p of one voxel: with each step away u falls by the same factor q, 1 + r²/h² (2 - q - 1/q) = 0."""
    impulse = np.full((61, 1, 1), 1e-6, dtype=np.float32)  # one connected part
    impulse[30] = 1.0
    u = smoothed(impulse, np.zeros_like(impulse), 4.0).ravel()
    factor = (9 - np.sqrt(17)) / 8  # of r²/h² = 4
    assert u[31:36] / u[30:35] == pytest.approx([factor] * 5, rel=0.01)
    assert u.sum() == pytest.approx(1.0, rel=0.01), "walks end somewhere"


def test_the_reach_is_in_millimeters_whatever_the_voxels() -> None:
    widths_mm = []
    for spacing, side, source in ((2.0, 41, slice(19, 22)), (0.5, 164, slice(76, 88))):
        p = np.full((side, 1, 1), 1e-6, dtype=np.float32)
        p[source] = 1.0
        u = smoothed(p, np.zeros_like(p), 12.0, spacing_mm=(spacing, 1.0, 1.0)).ravel()
        widths_mm.append(spacing * np.count_nonzero(u > u.max() / 2))
    assert widths_mm[0] > 15 and widths_mm[0] == pytest.approx(widths_mm[1], abs=2.0)


def test_it_stays_between_the_lowest_and_the_highest_and_nothing_comes_from_nothing(
    a_picture: np.ndarray, a_map: np.ndarray
) -> None:
    a_map[20:] = 0
    u = smoothed(a_map, a_picture, 16.0)
    assert u.min() >= 0 and u.max() <= a_map.max() and u.dtype == np.float32 and not u[20:].any()
    assert not smoothed(np.zeros_like(a_map), a_picture, 16.0).any()
    tiny = smoothed(1e-30 * a_map, a_picture, 16.0)
    assert tiny == pytest.approx(1e-30 * u, rel=1e-3), "whatever its unit"


def test_faint_values_stay_as_they_are(a_picture: np.ndarray, a_map: np.ndarray) -> None:
    u = smoothed(a_map, a_picture, 16.0, above=0.5)
    assert np.array_equal(u[a_map <= 0.5], a_map[a_map <= 0.5]) and (u != a_map)[a_map > 0.5].all()


def test_no_walk_crosses_the_border_of_a_mask(a_picture: np.ndarray, a_map: np.ndarray) -> None:
    within = np.zeros(a_map.shape, dtype=bool)
    within[:8] = True
    other = a_map.copy()
    other[8:] *= 0.1
    inside = smoothed(a_map, a_picture, 16.0, allowed=within)[:8]
    assert smoothed(other, a_picture, 16.0, allowed=within)[:8] == pytest.approx(inside, abs=1e-3)
    assert not np.allclose(smoothed(other, a_picture, 16.0)[:8], inside, atol=1e-2)


def test_parts_do_not_depend_on_what_lies_far_away(a_picture: np.ndarray) -> None:
    alone = np.zeros_like(a_picture)
    alone[2:5, 2:5, 2:5] = 1.0
    both = alone.copy()
    both[20:23, 11:14, 11:14] = 0.5
    assert np.array_equal(smoothed(both, a_picture, 4.0)[:10], smoothed(alone, a_picture, 4.0)[:10])


def test_no_reach_changes_nothing_and_the_map_that_was_given_is_kept(a_picture: np.ndarray, a_map: np.ndarray) -> None:
    before = a_map.copy()
    assert np.array_equal(smoothed(a_map, a_picture, 0.0), before)
    smoothed(a_map, a_picture, 8.0)
    assert np.array_equal(a_map, before)


def test_over_an_edge_of_twice_the_given_height_hardly_anything_flows() -> None:
    """Two voxels, r²/h² = 4, times exp(-2²): they keep 1 / (1 + 8 e⁻⁴) of their difference."""
    values = np.array([1.0, 1e-6], dtype=np.float32).reshape(2, 1, 1)
    picture = np.array([0.0, 2 * EDGE], dtype=np.float32).reshape(2, 1, 1)
    u = smoothed(values, picture, 4.0).ravel()
    assert u[0] - u[1] == pytest.approx(1 / (1 + 8 * math.exp(-4)), rel=1e-3)


def test_a_part_is_smoothed_with_what_lies_within_the_reach_around_it() -> None:
    """Nearly as on the whole grid: with a margin of one voxel 0.33 would be left of the block's middle instead of 0.20."""
    values = np.zeros((41, 41, 41), dtype=np.float32)
    values[18:23, 18:23, 18:23] = 1.0
    picture = np.zeros_like(values)
    alone, whole = smoothed(values, picture, 8.0, above=0.1), smoothed(values + 1e-6, picture, 8.0)
    assert alone[20, 20, 20] == pytest.approx(whole[20, 20, 20], rel=0.2)
