"""What a person drew: within the region, or refused by name; and on the model's grid."""

import numpy as np
import pytest
from phantoms import Phantom, grid

from DiffuGTSLib.config import load_config
from DiffuGTSLib.drawn import drawn_candidates, inside_region, within
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import Volume, to_canonical

GRID = grid((20, 20, 20), (2.0, 2.0, 2.5))
"""A voxel is 0.01 ml."""


def cube(*corners: tuple[int, int, int], side: int = 4) -> Volume:
    """A mask of cubes by their first corners."""
    array = np.zeros(GRID.shape, dtype=np.uint8)
    for i, j, k in corners:
        array[i : i + side, j : j + side, k : k + side] = 1
    return Volume(array, GRID)


def left_half() -> Volume:
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[:10] = 1
    return Volume(array, GRID)


def test_a_candidate_beside_the_region_is_refused_with_its_size_and_place() -> None:
    with pytest.raises(InputError) as caught:
        inside_region(cube((2, 2, 2), (12, 12, 12)), left_half())
    middle = GRID.to_ras(np.array([13.5, 13.5, 13.5]))
    place = ", ".join(f"{mm:.0f}" for mm in middle)
    assert caught.value.message == (
        f"1 of 2 drawn candidates lies outside the region, 0.64 ml, the largest around RAS {place} mm."
    )
    assert caught.value.code == "outside_region" and "--organ-mask" in caught.value.hint


def test_of_several_the_largest_is_named() -> None:
    drawn = cube((2, 2, 2), (12, 12, 12))
    drawn.array[17, 2, 2] = 1
    with pytest.raises(InputError, match=r"2 of 3 drawn candidates lie outside the region, 0\.65 ml") as caught:
        inside_region(drawn, left_half())
    assert f"around RAS {GRID.to_ras(np.array([13.5] * 3))[0]:.0f}," in caught.value.message


def test_a_candidate_over_the_border_is_cut_and_that_is_said() -> None:
    kept, cut_off = inside_region(cube((8, 2, 2)), left_half())
    assert np.array_equal(kept.array, cube((8, 2, 2)).array * left_half().array)
    assert cut_off == "0.32 of 0.64 ml that were drawn lie outside the region and were cut off"


def test_what_a_threshold_drew_beside_the_region_is_cut_off_as_well_where_that_is_asked_for() -> None:
    kept, cut_off = inside_region(cube((2, 2, 2), (12, 12, 12)), left_half(), drop_outside=True)
    assert np.array_equal(kept.array, cube((2, 2, 2)).array)
    assert cut_off == "0.64 of 1.28 ml that were drawn lie outside the region and were cut off"
    with pytest.raises(InputError, match="lies outside the region"):
        inside_region(cube((12, 2, 2)), left_half(), drop_outside=True)


def test_parts_that_touch_at_a_corner_are_one_candidate() -> None:
    drawn = cube((6, 2, 2), (10, 6, 6))
    assert inside_region(drawn, left_half())[1].startswith("0.64 of 1.28 ml")


def test_all_of_it_is_kept_where_nothing_lies_outside_or_there_is_no_region() -> None:
    for region in (left_half(), None):
        kept, cut_off = inside_region(cube((2, 2, 2)), region)
        assert np.array_equal(kept.array, cube((2, 2, 2)).array) and cut_off == ""
    assert within(None).all()


def test_nothing_in_the_region_is_refused_and_so_is_too_little(a_ct_phantom: Phantom) -> None:
    with pytest.raises(InputError, match="lies outside the region") as caught:
        inside_region(cube((12, 2, 2)), left_half())
    assert caught.value.code == "empty_candidate"
    scan = to_canonical(a_ct_phantom.scan, load_config("tiny").canonical, "CT")
    nowhere = np.zeros(scan.image.shape, dtype=bool)
    with pytest.raises(InputError, match="too small for one voxel"):
        drawn_candidates(a_ct_phantom.lesion, None, nowhere, scan)
    drawn = drawn_candidates(a_ct_phantom.lesion, None, ~nowhere, scan)
    assert drawn.candidate.any() and np.array_equal(drawn.given.array, a_ct_phantom.lesion.array)


def test_a_candidate_that_covers_voxels_by_half_takes_no_others(a_ct_phantom: Phantom) -> None:
    """A cube of 12 mm, half a voxel of 4 mm beside the model's grid: what it covers by less is a rim all around."""
    scan = to_canonical(a_ct_phantom.scan, load_config("tiny").canonical, "CT")
    array = np.zeros(a_ct_phantom.scan.array.shape, dtype=np.uint8)
    array[21:27, 21:27, 21:27] = 1
    given = a_ct_phantom.scan.with_array(array)
    drawn = drawn_candidates(given, None, np.ones(scan.image.shape, dtype=bool), scan)
    assert drawn.candidate.sum() == 2**3
    assert np.array_equal(drawn.candidate, scan.project(given) >= 0.5)
