"""Tumor shapes: the classes of DiffTumor in mm on any grid, and a deformation that follows its own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DiffuGTSLib.synthesis.shapes import (
    DIFFTUMOR_SIZES,
    SIZE_NAMES,
    SizeClass,
    TumorShape,
    Window,
    distance_to_center,
    draw_shape,
    full_window,
    share_of,
    size_of_radius,
)

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (0.8, 1.2, 3.0)


def rasterize(
    shape: TumorShape, spacing_mm: tuple[float, float, float], rng: np.random.Generator, window: Window | None = None
) -> NDArray[np.float32]:
    """Return how much of each voxel is tumor, 0 to 1, as a painter draws it; 0.5 is the border."""
    return share_of(distance_to_center(shape, spacing_mm, rng, window), shape.radius_mm, spacing_mm)


def volume_mm3(shape: TumorShape, spacing_mm: tuple[float, float, float], seed: int = 0) -> float:
    return float((rasterize(shape, spacing_mm, np.random.default_rng(seed)) > 0.5).sum() * np.prod(spacing_mm))


def reference_ellipsoid(radii: tuple[int, int, int]) -> np.ndarray:
    """The reference's grid: 4 r a side, the center at index 2 r, strictly inside (whole numbers: no rounding)."""
    index = np.meshgrid(*(np.arange(4 * r) for r in radii), indexing="ij")
    all_mm = int(np.prod(radii))
    scaled = sum(((i - 2 * r) * (all_mm // r)) ** 2 for i, r in zip(index, radii, strict=True))
    return np.asarray(scaled < all_mm**2)


# Size classes


def test_the_classes_are_those_of_difftumor() -> None:
    assert tuple(DIFFTUMOR_SIZES) == SIZE_NAMES
    rows = {n: (s.radius_mm, s.semi_axis_mm, s.elastic_mm, s.count) for n, s in DIFFTUMOR_SIZES.items()}
    assert rows == {
        "tiny": (4, (3, 5), (0.5, 1), (1, 3)),
        "small": (8, (6, 10), (1, 2), (1, 3)),
        "medium": (16, (12, 20), (3, 6), (1, 1)),
        "large": (32, (24, 64), (5, 10), (1, 1)),
    }


@pytest.mark.parametrize("name", SIZE_NAMES)
def test_half_axes_lie_in_their_range_and_fill_it(name: str) -> None:
    size, rng = DIFFTUMOR_SIZES[name], np.random.default_rng(0)
    axes = np.array([draw_shape(size, rng).semi_axes_mm for _ in range(500)])
    low, high = size.semi_axis_mm
    assert axes.min() >= low and axes.max() <= high
    assert np.percentile(axes, 5) < low + 0.1 * (high - low) and np.percentile(axes, 95) > high - 0.1 * (high - low)


@pytest.mark.parametrize(
    ("name", "radius_mm", "step"), [("tiny", 3.7, 0.7), ("small", 7.7, 1.2), ("medium", 15.1, 2.2)]
)
def test_the_median_radius_is_difftumor_s_within_15_percent(name: str, radius_mm: float, step: float) -> None:
    """Measured on the reference: 3.7, 7.7, 15.1 (and 41.9, below) mm after deformation."""
    rng, spacing = np.random.default_rng(1), (step, step, step)
    volumes = [volume_mm3(draw_shape(DIFFTUMOR_SIZES[name], rng), spacing, seed) for seed in range(60)]
    assert np.median(np.cbrt(3 * np.array(volumes) / (4 * np.pi))) == pytest.approx(radius_mm, rel=0.15)


def test_the_median_radius_of_large_tumors_is_too() -> None:
    rng = np.random.default_rng(2)
    volumes = [volume_mm3(draw_shape(DIFFTUMOR_SIZES["large"], rng), (4.0, 4.0, 4.0), seed) for seed in range(60)]
    assert np.median(np.cbrt(3 * np.array(volumes) / (4 * np.pi))) == pytest.approx(41.9, rel=0.15)


def test_control_points_are_as_far_apart_as_the_class_says() -> None:
    """Uniform in 3 to 6 mm: √21 mm in the mean square; two points differ by √2 times that."""
    rng = np.random.default_rng(0)
    controls = np.array([draw_shape(DIFFTUMOR_SIZES["medium"], rng).control_mm for _ in range(500)])
    apart = controls[..., 0, 0] - controls[..., 2, 2]
    assert np.sqrt((apart**2).mean()) == pytest.approx(np.sqrt(2 * 21), rel=0.05)


def test_bending_hardly_moves_the_tumor_as_a_whole() -> None:
    rng, away = np.random.default_rng(8), []
    for _ in range(40):
        shape = draw_shape(DIFFTUMOR_SIZES["small"], rng)
        window = full_window(shape, ISOTROPIC)
        voxels = np.argwhere(rasterize(shape, ISOTROPIC, rng, window) > 0.5) + [low for low, _ in window]
        away.append(float(np.linalg.norm(voxels.mean(axis=0))))
    assert np.median(away) < 1.5 and max(away) < 4


def test_a_radius_of_one_s_own_makes_a_class_of_it() -> None:
    size = size_of_radius(12.0)
    assert size.radius_mm == 12 and size.semi_axis_mm == (9, 15) and size.name == "medium"
    assert size.elastic_mm == pytest.approx((2.25, 4.5))
    assert size_of_radius(5.0).name == "tiny" and size_of_radius(200.0).name == "large"


# On a grid


@pytest.mark.parametrize(
    ("radii", "count"),
    [
        ((3, 3, 3), 93),
        ((4, 4, 4), 251),
        ((5, 5, 5), 485),
        ((3, 4, 5), 223),
        ((6, 8, 10), 1983),
        ((8, 8, 8), 2103),
        ((16, 16, 16), 17071),
        ((32, 32, 32), 137059),
    ],
)
def test_a_plain_ellipsoid_has_the_voxels_that_the_reference_has(radii: tuple[int, int, int], count: int) -> None:
    assert reference_ellipsoid(radii).sum() == count
    shape = TumorShape(tuple(float(r) for r in radii))
    distance = distance_to_center(shape, ISOTROPIC, np.random.default_rng(0))
    assert np.count_nonzero(distance < 1 - 1e-6) == count


@pytest.mark.parametrize("spacing_mm", [ISOTROPIC, ANISOTROPIC, (1.5, 1.5, 5.0)])
def test_a_shape_has_its_volume_and_extent_in_mm_on_any_grid(spacing_mm: tuple[float, float, float]) -> None:
    shape = TumorShape((10.0, 14.0, 20.0))
    assert volume_mm3(shape, spacing_mm) == pytest.approx(4 / 3 * np.pi * 10 * 14 * 20, rel=0.04)
    inside = rasterize(shape, spacing_mm, np.random.default_rng(0)) > 0.5
    for axis, radius_mm in enumerate((10, 14, 20)):
        along = inside.any(axis=tuple(other for other in range(3) if other != axis))
        assert along.sum() * spacing_mm[axis] == pytest.approx(2 * radius_mm, abs=1.01 * spacing_mm[axis])


def test_the_same_bent_shape_is_the_same_on_fine_and_coarse_grids() -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        drawn = draw_shape(DIFFTUMOR_SIZES["medium"], rng)
        smooth = TumorShape(drawn.semi_axes_mm, drawn.rotation, drawn.control_mm)
        assert volume_mm3(smooth, (1.0, 1.0, 4.0)) == pytest.approx(volume_mm3(smooth, ISOTROPIC), rel=0.04)


def test_a_turned_shape_keeps_its_volume() -> None:
    volumes = [
        volume_mm3(TumorShape((8.0, 12.0, 20.0), Rotation.from_euler("zyx", [a] * 3, degrees=True)), ISOTROPIC)
        for a in (0, 30, 75)
    ]
    assert np.ptp(volumes) / np.mean(volumes) < 0.03


def test_the_share_falls_from_1_to_0_over_a_voxel() -> None:
    """A ball of 10 mm at voxels of 2 mm: at 9 mm all but full, on the border one half, at 11 mm none."""
    share = share_of(np.array([0.9, 1.0, 1.1], np.float32), 10.0, (2.0, 2.0, 2.0))
    assert share == pytest.approx([1.0, 0.5, 0.0], abs=1e-5)


def test_the_window_holds_the_whole_shape() -> None:
    rng = np.random.default_rng(4)
    lung = SizeClass("small", 8.0, (6.0, 10.0), (1.0, 2.0), waviness=(0.1, 0.5), spicules=(6, 40))
    for size in (*(DIFFTUMOR_SIZES[name] for name in SIZE_NAMES[:3]), lung):
        for _ in range(6):
            shape = draw_shape(size, rng)
            share = rasterize(shape, ANISOTROPIC, rng)
            rim = np.ones(share.shape, bool)
            rim[1:-1, 1:-1, 1:-1] = False
            assert share[rim].max() == 0, size.name


def test_a_part_of_the_window_shows_the_part_of_the_shape() -> None:
    shape = TumorShape((6.0, 8.0, 10.0), control_mm=np.random.default_rng(0).normal(0, 1, (3, 2, 3, 3)))
    window = full_window(shape, ANISOTROPIC)
    part = tuple((low + 2, high - 3) for low, high in window)
    whole, cut = (rasterize(shape, ANISOTROPIC, np.random.default_rng(0), w) for w in (window, part))
    assert np.array_equal(whole[2:-3, 2:-3, 2:-3], cut)


def test_the_same_seed_draws_the_same_shape() -> None:
    first, second, other = (
        rasterize(draw_shape(DIFFTUMOR_SIZES["small"], rng), ISOTROPIC, rng)
        for rng in (np.random.default_rng(seed) for seed in (7, 7, 8))
    )
    assert np.array_equal(first, second) and (first.shape != other.shape or not np.array_equal(first, other))


def test_waves_roughen_the_border_and_keep_the_volume() -> None:
    plain, wavy = TumorShape((12.0, 12.0, 12.0)), TumorShape((12.0, 12.0, 12.0), waviness=0.3)
    volumes = [volume_mm3(wavy, ISOTROPIC, seed) for seed in range(12)]
    assert np.mean(volumes) == pytest.approx(volume_mm3(plain, ISOTROPIC), rel=0.1)
    inside = rasterize(wavy, ISOTROPIC, np.random.default_rng(0)) > 0.5
    depth = ndimage.distance_transform_edt(inside)
    middle = np.argwhere(depth > 0).mean(axis=0)
    rim = np.linalg.norm(np.argwhere((depth > 0) & (depth <= 1)) - middle, axis=1)
    assert rim.std() > 0.7


def test_spicules_are_thin_strands_that_reach_beyond_the_border() -> None:
    strand = np.array([[1.0, 0.0, 0.0, 0.5, 150.0]])
    share = rasterize(TumorShape((10.0, 10.0, 10.0), spicules=strand), ISOTROPIC, np.random.default_rng(0))
    without = rasterize(TumorShape((10.0, 10.0, 10.0)), ISOTROPIC, np.random.default_rng(0))
    assert (share > 0.5).any(axis=(1, 2)).sum() > (without > 0.5).any(axis=(1, 2)).sum() + 2, "5 mm longer to the right"
    assert 0 < (share > 0.5).sum() - (without > 0.5).sum() < 0.05 * (without > 0.5).sum()


def test_half_of_the_tumors_of_a_spiculated_class_have_spicules() -> None:
    rng, size = np.random.default_rng(0), SizeClass("small", 8.0, (6.0, 10.0), (1.0, 2.0), spicules=(6, 40))
    counts = np.array([len(draw_shape(size, rng).spicules) for _ in range(300)])
    assert np.mean(counts > 0) == pytest.approx(0.5, abs=0.08)
    assert counts[counts > 0].min() >= 6 and counts.max() <= 40


# Elastic deformation


def reference_bend(mask: np.ndarray, displacements: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """Spline through the 3 x 3 points at linspace(0, 2, n), mirrored; added to the index; nearest voxel, 0 outside."""
    sides = [mask.shape[axis] for axis in plane]
    at = np.meshgrid(*(np.linspace(0, 2, n) for n in sides), indexing="ij")
    index = np.meshgrid(*(np.arange(n) for n in sides), indexing="ij")
    field = [ndimage.map_coordinates(d, at, order=3, mode="mirror") for d in displacements]
    source = [i + f for i, f in zip(index, field, strict=True)]
    slices = np.moveaxis(mask, 3 - sum(plane), 0).astype(np.uint8)
    return (
        np.moveaxis(np.stack([ndimage.map_coordinates(one, source, order=0) for one in slices]), 0, 3 - sum(plane)) > 0
    )


def test_the_deformation_in_mm_follows_the_reference() -> None:
    """The three bends one after the other (reference) and added up (ours) give all but the same tumor at 1 mm."""
    rng, dice = np.random.default_rng(6), []
    for radii, sigma in (((4, 4, 5), 0.8), ((7, 8, 9), 1.5), ((16, 14, 18), 3.0)):
        for _ in range(4):
            control = rng.normal(0, sigma, (3, 2, 3, 3))
            expected = reference_ellipsoid(radii)
            for plane, displacements in zip(((0, 1), (1, 2), (0, 2)), control, strict=True):
                expected = reference_bend(expected, displacements, plane)
            shape = TumorShape(tuple(float(r) for r in radii), control_mm=control)
            window = tuple((-2 * r, 2 * r) for r in radii)
            ours = distance_to_center(shape, ISOTROPIC, rng, window) < 1
            dice.append(2 * (ours & expected).sum() / (ours.sum() + expected.sum()))
    assert np.median(dice) > 0.9 and min(dice) > 0.75, dice
