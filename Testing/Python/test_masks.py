"""From maps to masks, with numbers worked by hand."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from DiffuGTSLib.config import MasksConfig, ResidualConfig
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.masks import (
    dilate_mm,
    drop_faint,
    drop_small,
    find_candidates,
    fine_mask,
    fine_threshold,
    in_main_parts,
    largest_part,
    otsu,
)

MM = (1.0, 1.0, 1.0)


def a_map(*patches: tuple[float, int]) -> np.ndarray:
    """Lay patches of (share, voxels) along a line with a gap of two voxels between them; elsewhere 0.1."""
    abnormal = np.full((64, 3, 3), 0.1, dtype=np.float32)
    at = 1
    for share, voxels in patches:
        abnormal[at : at + voxels, 1, 1] = share
        at += voxels + 2
    return abnormal


def everywhere(like: np.ndarray) -> np.ndarray:
    return np.ones(like.shape, dtype=bool)


def test_the_coarse_mask_is_what_is_above_the_threshold_and_not_on_it() -> None:
    abnormal = a_map((0.5, 4), (0.51, 5))
    mask = find_candidates(abnormal, everywhere(abnormal), MM, MasksConfig(threshold=0.5, minimum_ml=0.0))
    assert mask.sum() == 5 and (abnormal[mask] > 0.5).all()


@pytest.mark.parametrize("kind", ["u1", "i8", "f4"])
def test_masks_as_files_hold_them_are_taken_as_booleans_are(kind: str) -> None:
    """`Segmentation.mask` and `read_mask` are of 0 and 1, whose inverse is not the other voxels but 255 and 254."""
    abnormal = a_map((0.9, 20), (0.6, 3))
    mask, allowed, config = abnormal > 0.5, abnormal > 0, MasksConfig(minimum_ml=0.01)
    spread = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    for change in (
        lambda mask: dilate_mm(mask, 1.0, MM),
        lambda mask: drop_faint(mask, abnormal, 0.7),
        lambda mask: drop_small(mask, MM, 0.01),
        largest_part,
        lambda mask: fine_mask(spread, mask, ResidualConfig()),
        lambda mask: find_candidates(abnormal, allowed.astype(mask.dtype), MM, config),
    ):
        given = change(mask.astype(kind))
        assert given.dtype == bool and np.array_equal(given, change(mask)) and given.any()
    with pytest.raises(InputError, match="not a mask: expected 0 and 1, got 255"):
        dilate_mm(255 * mask.astype(np.int64), 1.0, MM)


def test_the_coarse_mask_stays_where_an_anomaly_may_be() -> None:
    abnormal = a_map((0.9, 20))
    allowed = everywhere(abnormal)
    allowed[:11] = False
    assert find_candidates(abnormal, allowed, MM, MasksConfig(minimum_ml=0.0)).sum() == 10


def test_the_smallest_volume_holds_after_the_organ_has_cut() -> None:
    abnormal = a_map((0.9, 20))
    allowed = everywhere(abnormal)
    allowed[4:] = False
    assert not find_candidates(abnormal, allowed, MM, MasksConfig(minimum_ml=0.004)).any()


def test_a_candidate_counts_where_its_attention_is_high_somewhere() -> None:
    """Hysteresis: 0.3 draws the outline, 0.8 decides; a faint part is dropped, a bright one keeps its faint border."""
    abnormal = a_map((0.5, 6), (0.4, 5))
    abnormal[3, 1, 1] = 0.85
    masks = MasksConfig(threshold=0.3, peak=0.8, minimum_ml=0.0)
    assert find_candidates(abnormal, everywhere(abnormal), MM, masks).sum() == 6
    nowhere = everywhere(abnormal)
    nowhere[3, 1, 1] = False
    assert not find_candidates(abnormal, nowhere, MM, masks).any(), "a peak outside of the region does not count"
    assert find_candidates(abnormal, everywhere(abnormal), MM, replace(masks, peak=0.0)).sum() == 11


@pytest.mark.parametrize("sure", [0.96, 0.48])
def test_by_the_relative_rule_a_scan_is_judged_by_its_most_suspicious_place(sure: float) -> None:
    """Half as sure everywhere gives the same candidates: parts that reach 80 % of the highest, down to 30 % of it."""
    abnormal = a_map((sure * 0.5, 6), (sure * 0.7, 5), (sure * 0.2, 4))
    abnormal[3, 1, 1] = sure
    masks = MasksConfig(rule="relative", threshold=0.3, peak=0.8, minimum_ml=0.0)
    found = find_candidates(abnormal, everywhere(abnormal), MM, masks)
    assert found.sum() == 6 and found[3, 1, 1]
    elsewhere = everywhere(abnormal)
    elsewhere[3, 1, 1] = False
    assert find_candidates(abnormal, elsewhere, MM, masks).sum() == 5, "the highest is that of the region"


def test_a_map_below_the_floor_has_no_candidate() -> None:
    abnormal = a_map((0.3, 20))
    masks = MasksConfig(rule="relative", threshold=0.5, floor=0.3, minimum_ml=0.0)
    assert find_candidates(abnormal, everywhere(abnormal), MM, masks).sum() == 20
    assert not find_candidates(abnormal, everywhere(abnormal), MM, replace(masks, floor=0.31)).any()


def test_one_looks_in_the_organ_s_main_parts_alone() -> None:
    """Pieces of 20, 6 and 5 voxels, one after the other along x."""
    organ = a_map((1.0, 20), (1.0, 6), (1.0, 5)) > 0.5
    allowed = everywhere(organ)

    def kept(share: float) -> int:
        return int((in_main_parts(allowed, organ, share) & organ).sum())

    assert (kept(1.0), kept(0.31), kept(0.3), kept(0.25)) == (20, 20, 26, 31)
    assert not in_main_parts(allowed, organ, 0.3)[~organ].any()
    allowed[:40] = organ[:40] & (np.arange(40) >= 18)[:, None, None]
    assert kept(1.0) == 6, "the largest is that of where one may look"


@pytest.mark.parametrize(("seen", "share"), [(True, 0.0), (False, 0.3), (None, 0.3)])
def test_one_looks_everywhere_where_the_organ_is_not_seen_or_not_asked_for(seen: bool | None, share: float) -> None:
    allowed = a_map((1.0, 20)) > 0.5
    organ = None if seen is None else np.roll(allowed, 30, axis=0) & seen
    assert np.array_equal(in_main_parts(allowed, organ, share), allowed)


def test_otsus_rule_finds_what_a_fixed_threshold_misses() -> None:
    abnormal = a_map((0.45, 20))
    assert not find_candidates(abnormal, everywhere(abnormal), MM, MasksConfig(minimum_ml=0.0)).any()
    assert find_candidates(abnormal, everywhere(abnormal), MM, MasksConfig(rule="otsu", minimum_ml=0.0)).sum() == 20


def test_otsus_rule_never_falls_below_half_of_the_threshold() -> None:
    """Otsu would part any noise: 0.1 and 0.2 are both normal."""
    abnormal = a_map((0.2, 20))
    assert otsu(abnormal) < 0.2
    assert not find_candidates(abnormal, everywhere(abnormal), MM, MasksConfig(rule="otsu", minimum_ml=0.0)).any()


@pytest.mark.parametrize("rule", ["otsu", "relative", "fixed"])
def test_nowhere_to_look_gives_an_empty_mask(rule: str) -> None:
    abnormal = a_map((0.9, 20))
    assert not find_candidates(abnormal, np.zeros(abnormal.shape, dtype=bool), MM, MasksConfig(rule=rule)).any()


def test_the_fine_mask_is_the_changed_part_of_the_candidate() -> None:
    fused = a_map((0.8, 6))
    candidate = np.zeros(fused.shape, dtype=bool)
    candidate[:10, 1, 1] = True
    fused[30:40] = 0.9  # outside
    assert np.array_equal(fine_mask(fused, candidate, ResidualConfig()), (fused == np.float32(0.8)) & candidate)


def test_the_threshold_of_the_fine_mask_is_otsus_inside_the_candidate_or_the_fixed_one() -> None:
    fused = np.zeros((10, 1, 1), dtype=np.float32)
    candidate = np.zeros(fused.shape, dtype=bool)
    candidate[5:] = True
    fused[8:] = 1.0  # 256 bins from 0 to 1; every inner edge parts 0 and 1 alike: the middle one
    assert fine_threshold(fused, candidate, ResidualConfig()) == pytest.approx(0.5)
    assert fine_threshold(fused, candidate, ResidualConfig(rule="fixed", threshold=0.7)) == 0.7
    highest = float(fused[candidate].max())
    relative = ResidualConfig(rule="relative", threshold=0.5)
    assert fine_threshold(fused, candidate, relative) == pytest.approx(highest / 2)
    assert np.array_equal(fine_mask(fused / 4, candidate, relative), fine_mask(fused, candidate, relative)), (
        "a fainter map is cut at the same place"
    )
    assert fine_mask(fused, candidate, ResidualConfig(rule="fixed", threshold=0.7)).sum() == 2


def test_an_empty_candidate_or_one_in_which_nothing_changed_gives_an_empty_mask() -> None:
    fused = a_map((0.8, 6))
    nothing = np.zeros(fused.shape, dtype=bool)
    assert not fine_mask(fused, nothing, ResidualConfig()).any()
    assert not fine_mask(np.zeros_like(fused), everywhere(fused), ResidualConfig()).any()


def test_growth_is_in_millimeters_whatever_the_voxels() -> None:
    mask = np.zeros((21, 21, 21), dtype=bool)
    mask[10, 10, 10] = True
    grown = dilate_mm(mask, 4.0, (1.0, 2.0, 5.0))
    reached = np.argwhere(grown) - 10
    # 4 mm: 4 voxels of 1 mm, 2 of 2 mm, none of 5 mm.
    assert np.abs(reached).max(axis=0).tolist() == [4, 2, 0]
    # In the plane, x² + (2y)² <= 16: 9 voxels at y = 0, |x| <= 3.46 so 7 at each y = ±1, 1 at each y = ±2.
    assert grown.sum() == 9 + 2 * 7 + 2 * 1
    assert mask.sum() == 1, "the mask that was given is left as it was"


def test_growth_at_the_border_stays_on_the_grid() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[0, 0, 0] = True
    assert dilate_mm(mask, 1.0, MM).sum() == 4


def test_a_radius_of_whole_voxels_reaches_them_despite_rounding() -> None:
    mask = np.zeros((9, 1, 1), dtype=bool)
    mask[4] = True
    assert dilate_mm(mask, 0.3, (0.1, 0.1, 0.1)).sum() == 7, "3 * 0.1 is more than 0.3 to a computer"


@pytest.mark.parametrize("radius_mm", [0.0, 3.0])
def test_nothing_grows_from_nothing_or_by_nothing(radius_mm: float) -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    assert not dilate_mm(mask, radius_mm, MM).any()
    mask[2, 2, 2] = radius_mm == 0
    assert dilate_mm(mask, 0.0, MM).sum() == mask.sum()


def test_voxels_that_touch_at_a_corner_are_one_part() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    for step in range(4):
        mask[step, step, step] = True
    mask[5, 0, 5] = True
    assert drop_small(mask, (10.0, 10.0, 10.0), 2.0).sum() == 4, "4 ml; the lone voxel has 1 ml"


def test_the_smallest_part_that_stays_is_the_one_of_exactly_that_volume() -> None:
    mask = np.zeros((20, 3, 3), dtype=bool)
    mask[1:6, 1, 1] = True  # 5 voxels of 0.5 x 0.4 x 0.7 mm: 0.0007 ml
    mask[8:12, 1, 1] = True  # 4 voxels
    kept = drop_small(mask, (0.5, 0.4, 0.7), 0.0007)
    assert kept.sum() == 5 and kept[1:6, 1, 1].all()


def test_a_scan_that_is_mostly_empty_costs_hardly_more_than_its_mask() -> None:
    mask = np.zeros((100, 100, 100), dtype=bool)
    mask[10:20, 10:20, 10:20] = mask[50:53, 50:53, 50:53] = True
    tracemalloc.start()
    kept = drop_small(mask, MM, 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept.sum() == 1000 and not kept[50:].any()
    assert peak < 2.5 * mask.nbytes, "numbers of the whole scan are 4 bytes a voxel, and counting those 8 more"


def test_dropping_from_nothing_leaves_nothing() -> None:
    assert not drop_small(np.zeros((4, 4, 4), dtype=bool), MM, 0.1).any()


def test_the_largest_part_hangs_together_by_corners_or_by_faces_only() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    for step in range(4):
        mask[step, step, step] = True
    mask[6:9, 8, 8] = True
    assert np.array_equal(np.flatnonzero(largest_part(mask).any(axis=(1, 2))), np.arange(4))
    assert np.array_equal(np.flatnonzero(largest_part(mask, by_faces=True).any(axis=(1, 2))), np.arange(6, 9))
    assert not largest_part(np.zeros((4, 4, 4), dtype=bool)).any()


def test_otsu_parts_two_groups_in_the_middle_of_the_empty_gap() -> None:
    # Every inner edge between 0 and 10 parts 0, 0, 0 and 10, 10 alike, so their middle, 5.
    assert otsu(np.array([0.0, 0.0, 0.0, 10.0, 10.0])) == pytest.approx(5.0)


def test_otsu_of_three_groups_joins_the_two_close_ones() -> None:
    values = np.repeat([0.0, 2.0, 10.0], [50, 50, 50])
    assert 2.0 < otsu(values) < 10.0


def test_otsu_worked_by_hand() -> None:
    # 256 bins of 1/64 over 0 to 4. n0 n1 (m0 - m1)²: cut below 1: 1 * 3 * (0 - 2)² = 12; above: 3 * 1 * (0.67 - 4)² = 33.
    # The edges above are 1 + 1/64 to 4 - 1/64, their middle 2.5.
    assert otsu(np.array([0, 1, 1, 4])) == pytest.approx(2.5)


def test_constant_values_are_their_own_threshold_so_that_nothing_lies_above() -> None:
    values = np.full(100, 0.3, dtype=np.float32)
    assert not (values > otsu(values)).any()


def test_the_threshold_of_no_values_is_zero() -> None:
    assert otsu(np.zeros(0)) == 0.0


def test_nearly_constant_values_are_parted_and_do_not_fail() -> None:
    low = np.float32(0.5)
    values = np.repeat([low, np.nextafter(low, np.float32(1))], 10)
    assert 0.5 < otsu(values) < 0.5 + 6e-8
