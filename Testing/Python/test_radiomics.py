"""Features of tumors whose answer is known: flat balls, steps, ramps, checkerboards."""

import numpy as np
import pytest
from phantoms import grid, orientations

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.radiomics import co_occurrence, first_order, form, measure_border, measure_tumor
from DiffuGTSLib.volumes import Geometry, Volume

POINTS = np.moveaxis(np.indices((41, 41, 41)), 0, -1) - 20.0
DISTANCE = np.linalg.norm(POINTS, axis=-1)


def a_ball(radius_mm: float = 10.0) -> np.ndarray:
    return np.asarray(radius_mm >= DISTANCE)


def a_ramp(width_mm: float, height: float = 100.0, radius_mm: float = 10.0) -> np.ndarray:
    """`height` inside, 0 outside, and a straight ramp of a width between."""
    return height * np.clip(0.5 + (radius_mm - DISTANCE) / width_mm, 0, 1)


def test_the_form_of_a_ball_and_of_a_rod() -> None:
    ball = form(a_ball())
    assert ball["radius_mm"] == pytest.approx(10.0, rel=0.01) and ball["elongation"] == pytest.approx(1.0, abs=0.01)
    rod = np.zeros((30, 5, 5), bool)
    rod[5:25, 1:3, 1:3] = True
    assert form(rod)["elongation"] == pytest.approx((np.arange(20).std(ddof=0) / 0.5), rel=0.05)


def test_the_histogram_of_known_values() -> None:
    figures = first_order(np.arange(101))
    assert (figures["mean_native"], figures["p10_native"], figures["p90_native"]) == (50, 10, 90)
    assert figures["sd_native"] == pytest.approx(np.sqrt((101**2 - 1) / 12)) and abs(figures["skewness"]) < 1e-9
    assert first_order(np.full(9, 7.0))["kurtosis"] == 0.0


def test_the_co_occurrence_of_a_checkerboard_is_worked_by_hand() -> None:
    """Two voxels side by side: one pair of levels 0 and 2, both ways, so P(0, 2) = P(2, 0) = 1/2."""
    image = np.array([0.0, 50.0]).reshape(2, 1, 1)
    figures = co_occurrence(image, np.ones((2, 1, 1), bool), "CT")
    assert figures == {
        "glcm_contrast": pytest.approx(4.0),
        "glcm_homogeneity": pytest.approx(1 / 3),
        "glcm_energy": pytest.approx(0.5),
        "glcm_correlation": pytest.approx(-1.0),
        "glcm_entropy": pytest.approx(1.0),
    }
    flat = co_occurrence(np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool), "CT")
    assert (flat["glcm_contrast"], flat["glcm_energy"], flat["glcm_entropy"]) == (0.0, 1.0, 0.0)


def test_every_direction_counts_and_nothing_outside_the_mask() -> None:
    image = np.random.default_rng(0).integers(0, 4, (5, 6, 7)) * 25.0
    mask = np.random.default_rng(1).random((5, 6, 7)) < 0.7
    pairs: dict[tuple[int, int], int] = {}
    for first in np.argwhere(mask):
        for second in np.argwhere(mask):
            if np.abs(first - second).max() == 1:
                key = (int(image[tuple(first)]), int(image[tuple(second)]))
                pairs[key] = pairs.get(key, 0) + 1
    total = sum(pairs.values())
    energy = sum((count / total) ** 2 for count in pairs.values())
    image[~mask] = 9999.0
    assert co_occurrence(image, mask, "CT")["glcm_energy"] == pytest.approx(energy)


def test_mr_has_levels_whatever_its_unit() -> None:
    image = np.random.default_rng(0).normal(size=(8, 8, 8))
    mask = np.ones(image.shape, bool)
    one, thousand = co_occurrence(image, mask, "MR"), co_occurrence(1000 * image, mask, "MR")
    assert one == {name: pytest.approx(value) for name, value in thousand.items()}


@pytest.mark.parametrize(("width_mm", "sharpness"), [(4.0, 25.0), (8.0, 12.5)])
def test_the_sharpness_of_a_ramp_is_its_slope(width_mm: float, sharpness: float) -> None:
    border = measure_border(a_ramp(width_mm), a_ball())
    assert border.sharpness_per_mm == pytest.approx(sharpness, rel=0.08)
    assert measure_border(-a_ramp(width_mm), a_ball()).sharpness_per_mm == pytest.approx(sharpness, rel=0.08)
    assert np.sign(border.contrast) == 1


def test_an_outline_drawn_two_mm_off_hardly_changes_it() -> None:
    exact, wide, narrow = (measure_border(a_ramp(4.0), a_ball(radius)).sharpness_per_mm for radius in (10.0, 12.0, 8.0))
    assert wide == pytest.approx(exact, rel=0.1) and narrow == pytest.approx(exact, rel=0.1)


def test_a_tumor_without_contrast_has_no_border() -> None:
    border = measure_border(np.zeros(DISTANCE.shape), a_ball())
    assert (border.contrast, border.sharpness_per_mm, border.width_mm) == (0.0, 0.0, 0.0)


def test_the_same_tumor_on_another_grid_has_the_same_features() -> None:
    features = []
    for spacing, orientation, shape in (((1, 1, 1), 0, (48, 48, 48)), ((0.8, 0.8, 2.0), 29, (60, 60, 24))):
        geometry = grid(shape, spacing, list(orientations())[orientation])
        points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1)) - (10, -20, 30)
        distance = np.linalg.norm(points, axis=-1)
        image = 60 * np.clip(0.5 + (10 - distance) / 5, 0, 1) + 20 * np.sin(points.sum(axis=-1) / 6)
        mask = Volume((distance <= 10).astype(np.uint8), geometry)
        features.append(measure_tumor(Volume(image, geometry), mask, "CT"))
    for name in ("radius_mm", "mean_native", "sd_native", "border_sharpness_native_per_mm", "glcm_homogeneity"):
        assert features[0][name] == pytest.approx(features[1][name], rel=0.1), name


def test_a_tumor_on_the_first_slice_is_as_large_as_within_the_scan() -> None:
    geometry = Geometry.from_spacing((44, 44, 10), (1, 1, 5))
    array = np.random.default_rng(0).normal(40, 10, geometry.shape)
    for slices in (slice(4, 7), slice(0, 3), slice(7, 10)):
        mask = np.zeros(geometry.shape, np.uint8)
        mask[12:32, 12:32, slices] = 1
        radius_mm = measure_tumor(Volume(array + 60 * mask, geometry), Volume(mask, geometry), "CT")["radius_mm"]
        # 20 x 20 x 15 mm; between two slices a voxel counts that lies halfway.
        assert radius_mm == pytest.approx((3 * 6000 / (4 * np.pi)) ** (1 / 3), rel=0.02), slices


def test_a_scan_of_one_thick_slice_is_measured_and_one_of_a_millimeter_refused() -> None:
    mask = np.zeros((40, 40, 1), np.uint8)
    mask[14:26, 14:26] = 1
    array = np.random.default_rng(0).normal(40, 10, mask.shape) + 60 * mask
    thick, thin = (Geometry.from_spacing((40, 40, 1), (1, 1, s)) for s in (5, 1))
    features = measure_tumor(Volume(array, thick), Volume(mask, thick), "CT")
    assert 4 / 3 * np.pi * features["radius_mm"] ** 3 == pytest.approx(12 * 12 * 5, rel=0.01)
    assert features["contrast_native"] == pytest.approx(60, abs=5)
    with pytest.raises(InputError, match="is 1 mm thick; expected 2 mm") as caught:
        measure_tumor(Volume(array, thin), Volume(mask, thin), "CT")
    assert caught.value.code == "small"


def test_what_cannot_be_measured_is_refused() -> None:
    geometry = Geometry.from_spacing((20, 20, 20), (1, 1, 1))
    scan, mask = Volume(np.zeros(geometry.shape), geometry), np.zeros(geometry.shape, np.uint8)
    with pytest.raises(InputError, match="tumor mask is empty"):
        measure_tumor(scan, scan.with_array(mask), "CT")
    mask[5:7, 5:7, 5:7] = 1
    with pytest.raises(InputError, match="has 8 mm³; expected at least 27") as caught:
        measure_tumor(scan, scan.with_array(mask), "CT")
    assert caught.value.code == "small"
    with pytest.raises(GeometryError, match="tumor mask"):
        measure_tumor(scan, Volume(mask, Geometry.from_spacing((20, 20, 20), (1, 1, 2))), "CT")
