"""Painted anatomy and painted tumors: sizes in mm, places in organs, and the same draw for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DiffuGTSLib.config import load_config
from DiffuGTSLib.synthesis.anatomy import paint_anatomy, smooth_noise, thicken_slices, vary_intensity
from DiffuGTSLib.synthesis.handcrafted import CT_APPEARANCE, Appearance, _box, paint_tumor, place_tumor
from DiffuGTSLib.synthesis.shapes import TumorShape, draw_shape, soft_shape
from DiffuGTSLib.volumes.canonical import IntensityMap

SPACING = (1.5, 1.5, 4.0)
"""Anisotropic on purpose."""
SHAPE = (72, 72, 30)


@pytest.fixture(scope="module")
def an_intensity_map() -> IntensityMap:
    canonical = load_config("mini").canonical
    return IntensityMap(canonical.ct_knots_hu, canonical.ct_knots_unit, clip=True)


@pytest.fixture(scope="module")
def an_organ() -> np.ndarray:
    """A ball of 36 mm radius in the middle."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray(x**2 + y**2 + z**2 <= 36**2)


@pytest.fixture(scope="module")
def a_window(an_organ: np.ndarray, an_intensity_map: IntensityMap) -> np.ndarray:
    """An organ of 110 HU in fat, with a little noise."""
    hu = np.where(an_organ, 110.0, -80.0) + np.random.default_rng(0).normal(0, 5, SHAPE)
    return an_intensity_map.to_unit(hu)


# Anatomy


def test_a_painted_label_map_stays_between_zero_and_one() -> None:
    labels = np.random.default_rng(0).integers(0, 6, (20, 24, 28)).astype(np.float32)
    for seed in range(10):
        image = paint_anatomy(labels, np.random.default_rng(seed))
        assert image.shape == labels.shape and image.dtype == np.float32
        assert image.min() >= 0 and image.max() <= 1


def test_each_label_gets_a_contrast_of_its_own_and_another_one_each_time() -> None:
    labels = np.zeros((24, 24, 24), np.float32)
    labels[:, 8:16], labels[:, 16:] = 1, 2
    means = []
    for seed in range(6):
        image = paint_anatomy(labels, np.random.default_rng(seed))
        means.append([float(np.median(image[:, start + 2 : start + 6])) for start in (0, 8, 16)])
    assert np.ptp(means, axis=0)[1:].min() > 0.2, "no label has a fixed contrast"
    assert np.mean(np.array(means)[:, 0] < 0.1) > 0.5, "background is dark most of the time"


def test_the_same_seed_paints_the_same_anatomy() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (12, 12, 12)).astype(np.float32)
    first, second, other = (paint_anatomy(labels, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_varied_intensity_is_a_power_that_keeps_the_ends_of_the_range() -> None:
    window = np.array([0.0, 0.25, 1.0], np.float32).reshape(3, 1, 1)
    noisy = 0
    for seed in range(30):
        varied = vary_intensity(window, np.random.default_rng(seed))
        assert varied.dtype == np.float32 and varied.min() >= 0 and varied.max() <= 1
        gamma = np.exp(np.random.default_rng(seed).normal(0, 0.1))
        if varied.ravel() == pytest.approx([0.0, 0.25**gamma, 1.0], abs=1e-6):
            assert 0.7 < gamma < 1.4
        else:
            noisy += 1
            assert varied.ravel() == pytest.approx([0.0, 0.25**gamma, 1.0], abs=0.07)
    assert 3 <= noisy <= 15  # three in ten


@pytest.mark.parametrize("sigma", [0.7, 3.0, 16.0])
def test_smooth_noise_has_mean_zero_and_deviation_one(sigma: float) -> None:
    noise = smooth_noise((30, 33, 36), np.random.default_rng(0), sigma)
    assert noise.shape == (30, 33, 36)
    assert float(noise.mean()) == pytest.approx(0, abs=1e-3) and float(noise.std()) == pytest.approx(1, abs=1e-3)


def test_thick_slices_blur_along_one_axis_and_keep_the_mean() -> None:
    image = np.random.default_rng(0).random((24, 24, 24)).astype(np.float32)
    axes = []
    for seed in range(20):
        thick = thicken_slices(image, np.random.default_rng(seed))
        assert thick.mean() == pytest.approx(image.mean(), abs=0.01)
        changes = [
            np.abs(np.diff(thick, axis=axis)).mean() / np.abs(np.diff(image, axis=axis)).mean() for axis in range(3)
        ]
        axes.append(int(np.argmin(changes)))
        assert min(changes) < 0.75 * sorted(changes)[1]
    assert axes.count(2) > 10, "mostly along the patient"


def test_contrast_on_mr_varies_more_where_it_is_asked_to() -> None:
    window = np.full((4, 4, 4), 0.5, np.float32)
    spread = [
        np.std([vary_intensity(window, np.random.default_rng(seed), gamma).mean() for seed in range(100)])
        for gamma in (0.1, 0.25)
    ]
    assert spread[1] > 2 * spread[0]


def test_wider_noise_is_smoother() -> None:
    rough, fine = (
        np.abs(np.diff(smooth_noise((40, 40, 40), np.random.default_rng(0), s), axis=0)).mean() for s in (1.0, 8.0)
    )
    assert fine < rough / 3


# Shapes


def test_a_shape_has_its_radii_in_mm_on_anisotropic_voxels() -> None:
    """An ellipsoid of 10 × 14 × 20 mm along x, y, z: extents twice that within a voxel, 4/3 π abc within 5 %."""
    shape = TumorShape((10.0, 14.0, 20.0), Rotation.identity(), waviness=0.0, edge_mm=0.5)
    share = soft_shape(shape, SHAPE, (np.array(SHAPE) - 1) / 2, SPACING, np.random.default_rng(0))
    inside = share > 0.5
    assert inside.sum() * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * 10 * 14 * 20, rel=0.05)
    for axis, radius in enumerate((10, 14, 20)):
        along = inside.any(axis=tuple(other for other in range(3) if other != axis))
        assert along.sum() * SPACING[axis] == pytest.approx(2 * radius, abs=SPACING[axis])


def test_a_turned_shape_keeps_its_volume() -> None:
    volumes = []
    for degrees in (0, 30, 75):
        shape = TumorShape((8.0, 12.0, 20.0), Rotation.from_euler("zyx", [degrees] * 3, degrees=True), 0.0, 0.5)
        share = soft_shape(shape, SHAPE, (np.array(SHAPE) - 1) / 2, SPACING, np.random.default_rng(0))
        volumes.append(float((share > 0.5).sum()))
    assert np.ptp(volumes) / np.mean(volumes) < 0.05


def test_a_soft_edge_is_as_wide_as_it_says() -> None:
    """Along a radius the share falls from 1 to 0 over `edge_mm`, half of it on each side of the border."""
    shape = TumorShape((20.0, 20.0, 20.0), Rotation.identity(), waviness=0.0, edge_mm=4.0)
    grid = (81, 3, 3)
    share = soft_shape(shape, grid, np.array([0.0, 1.0, 1.0]), (0.5, 0.5, 0.5), np.random.default_rng(0))[:, 1, 1]
    assert share[36] == pytest.approx(1.0)  # 18 mm
    assert share[38] == pytest.approx(0.75)  # 19 mm
    assert share[40] == pytest.approx(0.5)  # 20 mm
    assert share[44] == pytest.approx(0.0)  # 22 mm


def test_drawn_radii_lie_in_their_range_and_small_ones_are_as_frequent() -> None:
    rng = np.random.default_rng(0)
    means = np.array([np.prod(draw_shape((4.0, 36.0), rng).radii_mm) ** (1 / 3) for _ in range(400)])
    assert means.min() >= 4.0 - 1e-9 and means.max() <= 36.0 + 1e-9
    assert np.median(means) == pytest.approx(12.0, rel=0.15)  # √(4 · 36)


# Tumors


def test_a_tumor_s_center_lies_in_its_organ_and_not_at_the_rim(an_organ: np.ndarray) -> None:
    depth = ndimage.distance_transform_edt(an_organ, sampling=SPACING)
    rng = np.random.default_rng(0)
    depths = []
    for _ in range(40):
        center = place_tumor(an_organ, 20.0, SPACING, rng)
        assert center is not None
        depths.append(depth[tuple(center.astype(int))])
    assert min(depths) > 0
    voxels = np.argwhere(an_organ)
    anywhere = np.mean([depth[tuple(voxel)] for voxel in voxels[rng.integers(len(voxels), size=400)]])
    assert np.mean(depths) > 1.1 * anywhere


def test_an_empty_organ_has_no_place_for_a_tumor(a_window: np.ndarray, an_intensity_map: IntensityMap) -> None:
    nowhere, rng = np.zeros(SHAPE, bool), np.random.default_rng(0)
    assert place_tumor(nowhere, 10.0, SPACING, rng) is None
    assert paint_tumor(a_window, nowhere, "liver", an_intensity_map, SPACING, rng) is None


def test_a_tumor_smaller_than_six_voxels_is_not_painted(an_organ: np.ndarray, a_window: np.ndarray) -> None:
    assert paint_tumor(a_window, an_organ, "lung", None, (90.0, 90.0, 90.0), np.random.default_rng(0)) is None


def test_a_painted_tumor_has_the_drawn_size_and_changes_nothing_outside_its_box(
    an_organ: np.ndarray, a_window: np.ndarray, an_intensity_map: IntensityMap
) -> None:
    """The same seed tells which shape was drawn and where it was placed."""
    shares = []
    for seed in range(16):
        painted = paint_tumor(a_window, an_organ, "liver", an_intensity_map, SPACING, np.random.default_rng(seed))
        assert painted is not None
        image, mask = painted
        rng = np.random.default_rng(seed)
        shape = draw_shape(CT_APPEARANCE["liver"].radius_mm, rng)
        center = place_tumor(an_organ, float(np.mean(shape.radii_mm)), SPACING, rng)
        assert center is not None
        reach = np.ceil((1.6 * max(shape.radii_mm) + 8) / np.array(SPACING)).astype(int)
        outside = np.ones(SHAPE, bool)
        outside[_box(center.astype(int), reach, SHAPE)] = False
        assert np.array_equal(image[outside], a_window[outside]) and not mask[outside].any()
        assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
        shares.append(mask.sum() * np.prod(SPACING) / (4 / 3 * np.pi * np.prod(shape.radii_mm)))
    # The organ's border and the window's edge take from it, waves add and take.
    assert max(shares) < 1.5 and float(np.median(shares)) > 0.6


def test_most_tumors_keep_to_their_organ(
    an_organ: np.ndarray, a_window: np.ndarray, an_intensity_map: IntensityMap
) -> None:
    near = ndimage.binary_dilation(an_organ, iterations=4)
    strays = []
    for seed in range(24):
        painted = paint_tumor(a_window, an_organ, "liver", an_intensity_map, SPACING, np.random.default_rng(seed))
        assert painted is not None
        assert painted[1][an_organ].sum() > 0.3 * painted[1].sum()
        strays.append((painted[1] & ~near).any())
    assert np.mean(strays) < 0.5


def test_the_original_window_is_left_as_it_was(an_organ: np.ndarray, a_window: np.ndarray) -> None:
    before = a_window.copy()
    paint_tumor(a_window, an_organ, "liver", None, SPACING, np.random.default_rng(0))
    assert np.array_equal(a_window, before)


def test_the_same_seed_paints_the_same_tumor(an_organ: np.ndarray, a_window: np.ndarray) -> None:
    first, second, other = (
        paint_tumor(a_window, an_organ, "liver", None, SPACING, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert first is not None and second is not None and other is not None
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[1], other[1])


def test_a_tumor_of_the_lung_has_the_hu_that_its_row_says(an_intensity_map: IntensityMap) -> None:
    lung = np.ones(SHAPE, bool)
    window = an_intensity_map.to_unit(np.full(SHAPE, -850.0))
    solid = 0
    for seed in range(12):
        painted = paint_tumor(window, lung, "lung", an_intensity_map, SPACING, np.random.default_rng(seed))
        assert painted is not None
        deep = ndimage.distance_transform_edt(painted[1], sampling=SPACING) > 3.0
        if deep.sum() < 20:
            continue
        hu = float(np.median(an_intensity_map.to_native(painted[0][deep])))
        assert -700 < hu < 250, (seed, hu)  # -500 to 100 besides core, rim and mottling
        solid += hu > -150
    assert solid >= 4


def test_a_tumor_differs_from_its_surroundings(
    an_organ: np.ndarray, a_window: np.ndarray, an_intensity_map: IntensityMap
) -> None:
    differences = []
    for intensity in (an_intensity_map, None):
        for seed in range(8):
            painted = paint_tumor(a_window, an_organ, "spleen", intensity, SPACING, np.random.default_rng(seed))
            assert painted is not None
            inside = painted[1] & an_organ
            differences.append(abs(float(np.median(painted[0][inside]) - np.median(a_window[inside]))))
    assert float(np.median(differences)) > 0.05


def test_depth_in_a_tumor_is_measured_in_mm(an_organ: np.ndarray) -> None:
    """The same tumor on voxels of half the height has the same size in mm and twice the voxels."""
    fine_shape, fine = (SHAPE[0], SHAPE[1], 2 * SHAPE[2]), (SPACING[0], SPACING[1], SPACING[2] / 2)
    shape = TumorShape((12.0, 12.0, 12.0), Rotation.identity(), 0.0, 0.5)
    counts = [
        float((soft_shape(shape, g, (np.array(g) - 1) / 2, s, np.random.default_rng(0)) > 0.5).sum())
        for g, s in ((SHAPE, SPACING), (fine_shape, fine))
    ]
    assert counts[1] == pytest.approx(2 * counts[0], rel=0.05)


def test_organs_without_a_row_of_their_own_get_the_general_look(an_organ: np.ndarray, a_window: np.ndarray) -> None:
    assert "thyroid" not in CT_APPEARANCE and Appearance().radius_mm == (6, 30)
    assert paint_tumor(a_window, an_organ, "thyroid", None, SPACING, np.random.default_rng(1)) is not None
