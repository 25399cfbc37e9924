"""Painted beside real: figures whose answer is known, and a sheet that is a picture."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from phantoms import ct_phantom, grid, orientations

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.realism import (
    Exhibit,
    Tumor,
    compare,
    describe,
    histogram_distances,
    realism_sheet,
    write_realism,
)
from DiffuGTSLib.volumes import Volume


def a_tumor(group: str, feature: float, *intensities: float) -> Tumor:
    return Tumor(f"{group} {feature}", group, {"mean_native": feature}, np.array(intensities or (feature,), float))


def test_the_distance_of_histograms_is_the_shift_between_them() -> None:
    tumors = [a_tumor("real", 0, 0, 10), a_tumor("hand", 0, 30, 40), a_tumor("twin", 0, 0, 10)]
    hand, twin = histogram_distances(tumors)
    assert (hand.group, hand.distance_native, hand.shape_native) == ("hand", 30.0, 0.0)
    assert (twin.distance_native, twin.shape_native) == (0.0, 0.0)
    assert np.isnan(hand.real_spread_native)


def test_texture_alone_is_told_from_brightness() -> None:
    (row,) = histogram_distances([a_tumor("real", 0, -10, 0, 10), a_tumor("hand", 0, 80, 100, 120)])
    assert row.distance_native == pytest.approx(100.0)
    assert row.shape_native == pytest.approx(20 / 3)


def test_every_tumor_weighs_the_same_and_real_ones_have_a_spread() -> None:
    tumors = [a_tumor("real", 0, 0), a_tumor("real", 0, *[10] * 9), a_tumor("hand", 0, 5)]
    (row,) = histogram_distances(tumors)
    assert row.distance_native == pytest.approx(5.0)
    assert row.real_spread_native == pytest.approx(10.0)


def test_a_feature_is_compared_in_standard_deviations() -> None:
    tumors = [*(a_tumor("real", x) for x in (0, 2)), *(a_tumor("hand", x) for x in (5, 7))]
    (row,) = compare(tumors)
    assert (row.real_mean, row.mean) == (1.0, 6.0)
    assert row.difference_sd == pytest.approx(5 / np.sqrt(2))
    assert (row.real_sd, row.sd, row.real_rank) == (pytest.approx(np.sqrt(2)), pytest.approx(np.sqrt(2)), 0.0)


def test_a_single_real_tumor_is_ranked_among_the_painted_ones() -> None:
    (row,) = compare([a_tumor("real", 3), *(a_tumor("hand", x) for x in (1, 2, 4, 5))])
    assert row.real_rank == 0.5 and np.isnan(row.real_sd) and row.difference_sd == 0.0
    (row,) = compare([a_tumor("real", 3), a_tumor("hand", 3)])
    assert np.isnan(row.difference_sd)


def test_a_report_holds_all_of_it(tmp_path: Path) -> None:
    real, painted = ct_phantom(noise_hu=10), ct_phantom(noise_hu=30, seed=1, lesion_mm=9)
    tumors = [
        describe("a", "real", real.scan, real.lesion, "CT"),
        describe("b", "hand", painted.scan, painted.lesion, "CT"),
        describe("c", "hand", painted.scan, painted.lesion, "CT"),
    ]
    assert tumors[0].features["radius_mm"] == pytest.approx(11 * 0.96 ** (1 / 3), rel=0.05)
    write_realism(tumors, tmp_path / "out", ["One phantom."])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["notes"] == ["1 real, 2 hand", "One phantom."]
    features = {row["feature"]: row for row in report["features"]}
    assert features["sd_native"]["mean"] > features["sd_native"]["real_mean"]
    with (tmp_path / "out" / "tumors.csv").open(newline="") as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["real", "hand", "hand"]
    assert "| hand | " in (tmp_path / "out" / "report.md").read_text()


def test_a_sheet_shows_real_and_painted_side_by_side(tmp_path: Path) -> None:
    one = ct_phantom()
    two = ct_phantom(grid((60, 40, 50), (1.5, 2.5, 2.0), list(orientations())[17], (10, 5, -8)))
    row = [Exhibit("real", one.scan, one.lesion, "CT"), Exhibit("painted $5", two.scan, two.lesion, "CT")]
    realism_sheet([row, row[:1]], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "sheet.png").stat().st_size > 20_000


def test_what_cannot_be_compared_or_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got 0 real and 1 painted") as caught:
        compare([a_tumor("hand", 1)])
    assert caught.value.code == "groups"
    with pytest.raises(InputError, match="got 1 real and 0 painted"):
        histogram_distances([a_tumor("real", 1)])
    with pytest.raises(InputError, match="nothing to show"):
        realism_sheet([], tmp_path / "a.png")
    phantom = ct_phantom()
    empty = phantom.lesion.with_array(phantom.lesion.array * 0)
    with pytest.raises(InputError, match="'x' has an empty mask"):
        realism_sheet([[Exhibit("x", phantom.scan, empty, "CT")]], tmp_path / "a.png")
    other = Volume(phantom.lesion.array, grid(spacing_mm=(2, 2, 3)))
    with pytest.raises(GeometryError):
        realism_sheet([[Exhibit("x", phantom.scan, other, "CT")]], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
