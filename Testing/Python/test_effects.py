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


def pushed(distance: np.ndarray, kept: np.ndarray | bool = True, still: np.ndarray | None = None) -> np.ndarray:
    """Return how far, in mm along each axis, the tissue that each voxel shows came from it: (3, X, Y, Z)."""
    places = [place.astype(np.float32) for place in np.indices(distance.shape)]
    mask = (distance < 1) & kept
    seen = [mass_effect(place, distance, mask, CENTER, 0.15, SPACING, still) for place in places]
    return np.stack([(place - source) * s for place, source, s in zip(places, seen, SPACING, strict=True)])


def steps(field_mm: np.ndarray, shown: np.ndarray) -> float:
    """Return the largest change of a field between two neighbors that are both shown, per mm."""
    largest = []
    for axis, spacing in enumerate(SPACING):
        both = np.take(shown, range(1, shown.shape[axis]), axis) & np.take(shown, range(shown.shape[axis] - 1), axis)
        largest.append(np.linalg.norm(np.diff(field_mm, axis=axis + 1), axis=0)[both].max() / spacing)
    return float(max(largest))


def test_tissue_is_displaced_outwards_by_the_formula_and_within_1_3_radii_only(a_distance: np.ndarray) -> None:
    """At 1 local radius by the push, 15 % of 12 mm; at 1.15 by a quarter of it; from 1.3 on not at all."""
    shift_mm = np.linalg.norm(pushed(a_distance), axis=0)
    ring = (a_distance >= 1) & (a_distance < MASS_REACH)
    assert not shift_mm[a_distance >= MASS_REACH].any()
    expected_mm = 0.15 * ((MASS_REACH - a_distance[ring]) / 0.3) ** 2 * RADIUS_MM
    assert shift_mm[ring] == pytest.approx(expected_mm, abs=1e-3)
    outwards = np.indices(a_distance.shape) - CENTER[:, None, None, None]
    assert ((pushed(a_distance) * outwards).sum(axis=0) >= -1e-3).all()


def test_what_was_cut_off_the_tumor_pushes_nothing(a_distance: np.ndarray) -> None:
    """An organ ends 4 mm beside the center: beyond its border the tissue moves as around a tumor that ends there.

    It moves by 15 % of 4 mm there, and no step of the displacement is larger than around the whole tumor.
    """
    kept = np.indices(a_distance.shape)[0] <= CENTER[0] + 4
    field_mm = pushed(a_distance, kept)
    shown = ~((a_distance < 1) & kept)
    assert steps(field_mm, shown) < 1.1 * steps(pushed(a_distance), a_distance >= 1)
    along_mm = field_mm[0][24:, 24, 12]
    assert along_mm[5] == pytest.approx(0.15 * 4, abs=0.15) and not along_mm[8:].any()


def test_a_tumor_of_which_the_center_was_cut_off_tears_nothing(a_distance: np.ndarray) -> None:
    kept = np.indices(a_distance.shape)[0] > CENTER[0] + 4
    field_mm = pushed(a_distance, kept)
    assert field_mm.any() and steps(field_mm, ~((a_distance < 1) & kept)) < 1.1


def test_the_push_is_gone_where_a_box_ends_and_beside_what_is_still(a_distance: np.ndarray) -> None:
    """Tissue d mm from an earlier tumor, or from the end of the box, moves d / 2 at most."""
    small = a_distance[11:38, 11:38, 6:19]  # ends at 13 mm, where the formula alone says 0.95 mm
    places = np.indices(small.shape)[0].astype(np.float32)
    seen = mass_effect(places, small, small < 1, CENTER - [11, 11, 6], 0.15, SPACING)
    assert np.abs(places - seen)[[0, -1]].max() <= 0.5
    still = (a_distance > 1) & (np.indices(a_distance.shape)[0] > CENTER[0] + 12)
    field_mm = pushed(a_distance, still=still)
    assert not field_mm[:, still].any() and steps(field_mm, a_distance > 1) < 1.1


def test_nothing_is_torn_under_the_paint_either(a_distance: np.ndarray) -> None:
    """Along a ray the order of tissue stays, from the center on."""
    along = np.arange(25) - pushed(a_distance)[0][24:, 24, 12]
    assert (np.diff(along) > 0).all() and along[0] == 0


def test_without_a_push_the_box_is_returned(a_distance: np.ndarray) -> None:
    assert mass_effect(a_distance, a_distance, a_distance < 1, CENTER, 0.0, SPACING) is a_distance


def test_a_capsule_is_brighter_than_what_lies_on_both_sides(a_distance: np.ndarray) -> None:
    ring = capsule(a_distance, RADIUS_MM, 2.0)
    depth_mm = (1 - a_distance) * RADIUS_MM
    within = ring[(depth_mm > 0.5) & (depth_mm < 2.0)].mean()
    assert within > 0.7
    assert ring[depth_mm > 4].max() < 0.01 and ring[depth_mm < -2].max() < 0.01
