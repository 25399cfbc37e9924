from __future__ import annotations

import numpy as np
import pytest
from reading_parts import case

from DiffuGTSLib.reader_study.blinding import (
    Profile,
    cure,
    giveaways,
    profile_of,
    row_fingerprints,
    twins,
)
from DiffuGTSLib.volumes.volume import Geometry, Volume


def profile(truth: str, **changed: object) -> Profile:
    """Make the profile of an unremarkable scan, changed."""
    values: dict[str, object] = {
        "truth": truth, "shape": (32, 32, 20), "spacing_mm": (1.0, 1.0, 2.0), "is_whole": True, "low": -1000.0,
        "high": 1500.0, "steps": 2000.0, "lung": 0.0, "spike": 0.1, "rows": np.array([], np.uint64),
    }  # fmt: skip
    return Profile(**values | changed)  # type: ignore[arg-type]


def found(real: list[Profile], synthetic: list[Profile]) -> dict[str, str]:
    """Return what gives the truth away."""
    return {giveaway.what: giveaway.words for giveaway in giveaways([*real, *synthetic])}


def test_scans_of_one_kind_give_nothing_away() -> None:
    lows = (-1000.0, -990.0, -1010.0, -1005.0)
    real, synthetic = ([profile(t, low=low) for low in lows] for t in ("real", "synthetic"))
    assert found(real, synthetic) == {}


@pytest.mark.parametrize(
    ("what", "changed", "words"),
    [
        ("spacing", {"spacing_mm": (1.0, 1.0, 1.0)}, "from 1 x 1 x 1 to 1 x 1 x 2 mm"),
        ("fractions", {"is_whole": False}, "whole numbers only in 4 of 4 real and 0 of 4 synthetic"),
        ("shape", {"shape": (24, 24, 20)}, "no synthetic scan has the matrix of a real one"),
        ("low", {"low": -175.0}, "smallest voxel is -1000 to -1000 in real and -175 to -175 in synthetic"),
        ("high", {"high": 250.0}, "largest voxel is 1500 to 1500 in real and 250 to 250 in synthetic"),
        ("spike", {"spike": 0.6}, "commonest value is 0.1 to 0.1 in real and 0.6 to 0.6 in synthetic"),
    ],
)
def test_each_giveaway_is_seen_and_said(what: str, changed: dict[str, object], words: str) -> None:
    said = found([profile("real")] * 4, [profile("synthetic", **changed)] * 4)
    assert list(said) == [what] and words in said[what]


def test_spacing_that_differs_by_rounding_is_one_spacing() -> None:
    assert found([profile("real")] * 3, [profile("synthetic", spacing_mm=(1.0004, 0.9998, 2.0))] * 3) == {}


def test_one_odd_scan_is_enough_where_it_can_be_seen() -> None:
    odd = [profile("synthetic"), profile("synthetic", is_whole=False), profile("synthetic")]
    assert set(found([profile("real")] * 3, odd)) == {"fractions"}


def test_a_few_scans_that_happen_to_differ_are_no_giveaway() -> None:
    real = [profile("real", low=low) for low in (-1000.0, -800.0, -600.0)]
    assert found(real, [profile("synthetic", low=low) for low in (-500.0, -400.0, -300.0)]) == {}


def test_many_scans_that_differ_are_one_whatever_the_gap() -> None:
    real = [profile("real", low=-1000.0 + 40 * n) for n in range(8)]
    synthetic = [profile("synthetic", low=-600.0 + 40 * n) for n in range(8)]
    assert set(found(real, synthetic)) == {"low"}


def test_the_cure_is_the_coarsest_grid_and_the_narrowest_limits() -> None:
    real = [profile("real", spacing_mm=(0.7, 0.7, 5.0), low=-1024.0, high=1500.0)] * 3
    synthetic = [profile("synthetic", spacing_mm=(1.0, 1.0, 1.0), low=-175.0, high=250.0)] * 3
    everything = [*real, *synthetic]
    assert cure(everything, giveaways(everything)) == ((1.0, 1.0, 5.0), (-175.0, 250.0))
    assert cure(real, []) == (None, None)


def test_what_cannot_be_cured_says_so() -> None:
    curable = {
        g.what: g.is_curable for g in giveaways([profile("real"), profile("synthetic", spike=0.9, shape=(9, 9, 9))])
    }
    assert curable == {"spike": False, "shape": False}


def test_a_heap_at_a_limit_can_be_cured_with_the_limit() -> None:
    cut = profile("synthetic", low=-175.0, spike=0.3)
    assert {g.what: g.is_curable for g in giveaways([*[profile("real")] * 3, *[cut] * 3])} == {
        "low": True,
        "spike": True,
    }


def test_a_profile_is_what_the_voxels_say() -> None:
    array = np.zeros((4, 4, 4), np.float32)
    array[0] = np.arange(16).reshape(4, 4) - 7
    whole = profile_of(Volume(array, Geometry.from_spacing((4, 4, 4), (1.0, 2.0, 3.0))), "real")
    assert (whole.low, whole.high, whole.is_whole, whole.spike) == (-7, 8, True, 49 / 64)
    assert (whole.shape, whole.spacing_mm) == ((4, 4, 4), (1.0, 2.0, 3.0))
    array[1, 1, 1] = 0.5
    assert not profile_of(Volume(array, Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))), "real").is_whole


def test_equal_rows_have_equal_fingerprints() -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(30, 20, 10)).astype(np.float32)
    assert row_fingerprints(array).size == 200
    assert row_fingerprints(np.concatenate([array, array], axis=1)).size == 200
    assert row_fingerprints(-np.abs(array) * 0).size == 0, "rows of one value are left out, -0 is 0"


def test_a_scan_and_its_painted_copy_are_twins() -> None:
    scan, _ = case(0, painted=False)
    painted, other = scan.array.copy(), case(1, painted=True)[0]
    painted[10:20, 10:20, 10:20] -= 60
    profiles = [profile_of(v, "real") for v in (scan, other, scan.with_array(painted))]
    ((first, second, share),) = twins(profiles)
    assert (first, second) == (0, 2) and 0.8 < share < 1
