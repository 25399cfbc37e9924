"""A map is smoothed as far as the picture looks alike, and not across what parts its tissues."""

from __future__ import annotations

import numpy as np
import pytest

from DiffuGTSLib.edges import smooth_within_edges

SPACING_MM = (2.0, 2.0, 2.0)
EDGE = 0.02


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
    smoothed = smooth_within_edges(a_map, a_picture, SPACING_MM, 16.0, EDGE)
    profile, before = smoothed[:, 8, 8], a_map[:, 8, 8]
    assert profile[11] > 1.5 * before[11] and profile[12] < before[12], "parted at the edge"
    assert np.ptp(profile[:12]) < np.ptp(before[:12]) / 2, "even within the tissue"


def test_in_a_flat_picture_it_is_the_screened_poisson_equation(a_map: np.ndarray) -> None:
    """U - r² u'' = p, for a p of one voxel: with each step away u falls by the same factor."""
    impulse = np.zeros((61, 1, 1), dtype=np.float32)
    impulse[:] = 1e-6  # one connected part
    impulse[30] = 1.0
    smoothed = smooth_within_edges(impulse, np.zeros_like(impulse), SPACING_MM, 4.0, EDGE).ravel()
    # 1 + r²/h² (2 - q - 1/q) = 0 with r²/h² = 4
    ratio = (9 - np.sqrt(17)) / 8
    assert smoothed[31:36] / smoothed[30:35] == pytest.approx([ratio] * 5, rel=0.01)
    assert smoothed.sum() == pytest.approx(1.0, rel=0.01), "walks end somewhere"


def test_the_reach_is_in_millimeters_whatever_the_voxels(a_picture: np.ndarray) -> None:
    coarse, fine = np.full((41, 1, 1), 1e-6, dtype=np.float32), np.full((161, 1, 1), 1e-6, dtype=np.float32)
    coarse[19:22], fine[78 : 90 - 7] = 1.0, 1.0
    two = [
        smooth_within_edges(each, np.zeros_like(each), (spacing, 1.0, 1.0), 12.0, EDGE).ravel()
        for each, spacing in ((coarse, 2.0), (fine, 0.5))
    ]
    widths = [spacing * (each > each.max() / 2).sum() for each, spacing in zip(two, (2.0, 0.5), strict=True)]
    assert widths[0] == pytest.approx(widths[1], abs=4.0)


def test_it_stays_between_the_lowest_and_the_highest_and_nothing_comes_from_nothing(
    a_picture: np.ndarray, a_map: np.ndarray
) -> None:
    a_map[20:] = 0
    smoothed = smooth_within_edges(a_map, a_picture, SPACING_MM, 16.0, EDGE)
    assert smoothed.min() >= 0 and smoothed.max() <= a_map.max() and smoothed.dtype == np.float32
    assert not smoothed[20:].any()
    assert not smooth_within_edges(np.zeros_like(a_map), a_picture, SPACING_MM, 16.0, EDGE).any()


def test_parts_do_not_depend_on_what_lies_far_away(a_picture: np.ndarray) -> None:
    alone = np.zeros_like(a_picture)
    alone[2:5, 2:5, 2:5] = 1.0
    both = alone.copy()
    both[20:23, 11:14, 11:14] = 0.5
    here = np.s_[:10]
    with_other = smooth_within_edges(both, a_picture, SPACING_MM, 4.0, EDGE)
    assert np.array_equal(with_other[here], smooth_within_edges(alone, a_picture, SPACING_MM, 4.0, EDGE)[here])


def test_no_reach_changes_nothing_and_the_map_that_was_given_is_kept(a_picture: np.ndarray, a_map: np.ndarray) -> None:
    before = a_map.copy()
    assert np.array_equal(smooth_within_edges(a_map, a_picture, SPACING_MM, 0.0, EDGE), before)
    smooth_within_edges(a_map, a_picture, SPACING_MM, 8.0, EDGE)
    assert np.array_equal(a_map, before)
