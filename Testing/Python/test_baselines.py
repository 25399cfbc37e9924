"""Baselines without a network: where they lie, what they find, and what they refuse."""

import math

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.baselines import (
    ThresholdRule,
    body_mask,
    center_ellipsoid,
    fit_threshold,
    intensity_threshold,
)
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.volumes.volume import Geometry, Volume

SPACING_MM = (2.0, 2.0, 4.0)


def a_trunk() -> tuple[Volume, np.ndarray]:
    """A body (50 HU) with an air hole, a bright tumor (200 HU), a bright speck, and a table beside it."""
    array = np.full((40, 40, 12), -1000.0, dtype=np.float32)
    array[6:34, 6:34] = 50.0
    array[8:12, 8:12] = -900.0
    array[38:39] = 100.0
    array[30, 30, 5] = 300.0
    tumor = np.zeros(array.shape, dtype=np.uint8)
    tumor[18:26, 18:26, 4:8] = 1
    array[tumor > 0] = 200.0
    return Volume(array, Geometry.from_spacing(array.shape, SPACING_MM)), tumor


def test_the_ellipsoid_has_the_volume_of_its_semi_axes_and_is_centered() -> None:
    # Box 160 x 140 x 120 mm, margin 50 mm: semi-axes 30, 20 and 10 mm.
    mask = center_ellipsoid((160, 140, 60), (1.0, 1.0, 2.0))
    assert mask.sum() * 2.0 == pytest.approx(4 / 3 * math.pi * 30 * 20 * 10, rel=0.02)
    assert np.argwhere(mask).mean(axis=0) == pytest.approx([79.5, 69.5, 29.5])
    assert np.ptp(np.argwhere(mask), axis=0) + 1 == pytest.approx([60, 40, 10], abs=1)


def test_a_box_too_small_for_the_margin_still_gets_a_small_ellipsoid() -> None:
    mask = center_ellipsoid((40, 160, 160), (1.0, 1.0, 1.0))
    assert np.ptp(np.argwhere(mask)[:, 0]) + 1 == 10


def test_the_body_holds_its_air_and_leaves_the_table_out() -> None:
    scan, _ = a_trunk()
    body = body_mask(scan, "CT")
    assert body[9, 9].all() and not body[38].any() and body.sum() == 28 * 28 * 12


def test_the_body_of_an_mr_scan_is_what_is_bright() -> None:
    scan, _ = a_trunk()
    mr = scan.with_array(np.maximum(scan.array + 900.0, 0.0))
    assert body_mask(mr, "MR").sum() == 28 * 28 * 12


def test_otsu_in_the_body_finds_the_bright_tumor_and_not_the_speck() -> None:
    scan, tumor = a_trunk()
    within = body_mask(scan, "CT") & (scan.array > -500)
    assert dice(intensity_threshold(scan, "CT", within=within), tumor) == 1.0


def test_a_percentile_is_taken_within_the_region() -> None:
    scan, tumor = a_trunk()
    within = np.zeros(tumor.shape, dtype=bool)
    within[16:28, 18:26, 4:8] = True  # 8 of 12 columns are tumor
    assert dice(intensity_threshold(scan, "CT", ThresholdRule(30.0), within), tumor) == 1.0
    dark = intensity_threshold(scan, "CT", ThresholdRule(50.0, bright=False), within)
    assert dark.sum() == 2 * 8 * 4  # the larger, or first, of the two dark margins


def test_the_rule_fitted_on_cases_is_the_one_that_finds_their_tumors() -> None:
    scan, tumor = a_trunk()
    rule = fit_threshold([(scan, tumor)], "CT")
    assert rule.bright and dice(intensity_threshold(scan, "CT", rule), tumor) == 1.0
    inverted = scan.with_array(np.where(tumor > 0, -50.0, scan.array))
    assert not fit_threshold([(inverted, tumor)], "CT").bright


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(InputError, match=r"without cases"):
        fit_threshold([], "CT")


def test_an_empty_region_is_refused() -> None:
    scan, tumor = a_trunk()
    with pytest.raises(InputError, match=r"Nowhere to search"):
        intensity_threshold(scan, "CT", within=np.zeros_like(tumor))


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(InputError, match=r"'CT' or 'MR', got 'PET'"):
        body_mask(a_trunk()[0], "PET")


def test_a_percentile_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"0 to 100, got 101"):
        ThresholdRule(101.0)
