"""What a tumor does around it: pushes outwards within 1.3 radii, wears a bright capsule."""

from __future__ import annotations

import numpy as np
import pytest

from DiffuGTSLib.synthesis.effects import MASS_REACH, capsule, mass_effect
from DiffuGTSLib.synthesis.shapes import TumorShape, distance_to_center

SPACING = (1.0, 1.0, 2.0)
RADIUS_MM = 12.0
WINDOW = ((-24, 25), (-24, 25), (-12, 13))
CENTER = np.array([24.0, 24.0, 12.0])


@pytest.fixture(scope="module")
def a_distance() -> np.ndarray:
    """Of a ball of 12 mm in the middle of its box."""
    return distance_to_center(TumorShape((RADIUS_MM,) * 3), SPACING, np.random.default_rng(0), WINDOW)


def test_tissue_is_displaced_within_1_3_radii_only_and_outwards(a_distance: np.ndarray) -> None:
    """The image shows how far from the center each voxel is: what is seen after the push came from further in."""
    pushed = mass_effect(a_distance, a_distance, CENTER, 0.15)
    outside = a_distance >= MASS_REACH
    assert np.array_equal(pushed[outside], a_distance[outside])
    ring = (a_distance > 1.0) & (a_distance < MASS_REACH - 0.02)
    assert (pushed[ring] <= a_distance[ring] + 1e-3).all() and (pushed[ring] < a_distance[ring] - 0.002).mean() > 0.9


def test_the_border_is_pushed_by_what_was_asked_for(a_distance: np.ndarray) -> None:
    """At the border d = 1 the result shows what was at 1 - push."""
    pushed = mass_effect(a_distance, a_distance, CENTER, 0.15)
    border = np.abs(a_distance - 1) < 0.02
    assert float(pushed[border].mean()) == pytest.approx(0.85, abs=0.03)


def test_nothing_is_torn(a_distance: np.ndarray) -> None:
    """Along a ray the order of tissue stays."""
    along = mass_effect(a_distance, a_distance, CENTER, 0.15)[24:, 24, 12]
    assert (np.diff(along[a_distance[24:, 24, 12] > 0.75]) > 0).all()


def test_without_a_push_the_box_is_returned(a_distance: np.ndarray) -> None:
    assert mass_effect(a_distance, a_distance, CENTER, 0.0) is a_distance


def test_a_capsule_is_brighter_than_what_lies_on_both_sides(a_distance: np.ndarray) -> None:
    ring = capsule(a_distance, RADIUS_MM, 2.0)
    depth_mm = (1 - a_distance) * RADIUS_MM
    within = ring[(depth_mm > 0.5) & (depth_mm < 2.0)].mean()
    assert within > 0.7
    assert ring[depth_mm > 4].max() < 0.01 and ring[depth_mm < -2].max() < 0.01
