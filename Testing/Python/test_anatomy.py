"""Painted anatomy: random contrasts for label maps, varied contrast for scans, thick slices, smooth noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from DiffuGTSLib.synthesis.anatomy import (
    paint_anatomy,
    paint_ct_anatomy,
    remap_contrast,
    sharpen,
    smooth_noise,
    strip_skull,
    thicken_slices,
    vary_intensity,
)


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


def test_a_label_map_is_painted_in_hu_each_tissue_at_about_its_own() -> None:
    labels = np.zeros((24, 24, 24), np.float32)
    labels[:, 8:16], labels[:, 16:] = 1, 2
    tissue_hu = np.array([[-1000, -1000], [30, 40], [-100, 60]], np.float32)
    spread, medians = [], []
    for seed in range(6):
        image = paint_ct_anatomy(labels, tissue_hu, np.random.default_rng(seed))
        assert image.dtype == np.float32 and image.shape == labels.shape
        slabs = [image[:, start + 2 : start + 6] for start in (0, 8, 16)]
        medians.append([float(np.median(slab)) for slab in slabs])
        spread.append([float(slab.std()) for slab in slabs])
    medians, spread = np.array(medians), np.array(spread)
    assert np.abs(medians[:, 0] + 1000).max() < 10, "air is air"
    assert np.abs(medians[:, 1] - 35).max() < 15 and np.ptp(medians[:, 1]) > 2, "and no painting is like another"
    assert (spread[:, 2] > 1.5 * spread[:, 1]).all(), "a tissue of fat and muscle shows both"


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


def test_another_contrast_keeps_air_dark_and_mostly_the_order_of_tissues() -> None:
    window = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    rising = 0
    for seed in range(40):
        remapped = remap_contrast(window, np.random.default_rng(seed))
        assert remapped.dtype == np.float32 and remapped.min() >= 0 and remapped.max() <= 1
        assert remapped.ravel()[0] == 0
        rising += bool((np.diff(remapped.ravel()) >= 0).all())
    assert 18 <= rising < 40


def test_a_stripped_brain_has_nothing_around_it_and_its_own_brightest() -> None:
    window = np.full((20, 20, 20), 0.9, np.float32)  # fat, as bright as the brain is not
    brain = np.zeros(window.shape, bool)
    brain[6:14, 6:14, 6:14] = True
    window[brain] = np.linspace(0.2, 0.5, brain.sum())
    window[ndimage.binary_dilation(brain, iterations=3) & ~brain] = 0.3
    for seed in range(6):
        stripped, kept = strip_skull(window, brain, np.random.default_rng(seed))
        around = ndimage.binary_dilation(brain, iterations=2)
        assert not stripped[~kept].any() and (brain <= kept).all() and (kept <= around).all()
        assert stripped.dtype == np.float32
        assert stripped.max() == 1 and stripped[brain].mean() == pytest.approx(0.7, abs=0.1)
    assert not any(part.any() for part in strip_skull(window, np.zeros_like(brain), np.random.default_rng(0)))


def test_sharpening_steepens_an_edge_and_leaves_flat_tissue() -> None:
    window = np.full((20, 20, 20), 0.3, np.float32)
    window[10:] = 0.6
    sharpened = sharpen(window, np.random.default_rng(0))
    assert sharpened[10].mean() > 0.61 and sharpened[9].mean() < 0.29
    assert sharpened[:5] == pytest.approx(0.3, abs=1e-3) and sharpened[15:] == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 16.0])
def test_smooth_noise_has_mean_zero_and_deviation_one(sigma: float) -> None:
    noise = smooth_noise((30, 33, 36), np.random.default_rng(0), sigma)
    assert noise.shape == (30, 33, 36)
    assert float(noise.mean()) == pytest.approx(0, abs=1e-3) and float(noise.std()) == pytest.approx(1, abs=1e-3)


def test_thick_slices_blur_along_one_axis_and_keep_the_mean() -> None:
    image = np.random.default_rng(0).random((24, 24, 24)).astype(np.float32)
    axes = []
    for seed in range(20):
        thick = thicken_slices(image, 2.0, np.random.default_rng(seed))
        assert thick.shape == image.shape and thick.mean() == pytest.approx(image.mean(), abs=0.02)
        changes = [
            np.abs(np.diff(thick, axis=axis)).mean() / np.abs(np.diff(image, axis=axis)).mean() for axis in range(3)
        ]
        axes.append(int(np.argmin(changes)))
        assert min(changes) < 0.75 * sorted(changes)[1]
    assert axes.count(2) > 10, "mostly along the patient"


def test_thick_slices_leave_a_ramp_where_it_was() -> None:
    """Whatever their distance and phase, slices move nothing along the patient."""
    ramp = np.linspace(0, 1, 48, dtype=np.float32)
    for axis in range(3):
        image = np.moveaxis(np.broadcast_to(ramp, (48, 48, 48)), 2, axis)
        inner = (slice(6, -6),) * 3
        for seed in range(10):
            thick = thicken_slices(image, 2.0, np.random.default_rng(seed))
            assert np.allclose(thick[inner], image[inner], atol=1e-5)


def test_slices_are_thick_in_millimeters() -> None:
    """On a grid of half the spacing the same slices span twice as many voxels, which are all the calmer."""
    image = np.random.default_rng(0).random((32, 32, 32)).astype(np.float32)
    coarse, fine = (
        np.mean([thicken_slices(image, mm, np.random.default_rng(seed)).std() for seed in range(8)])
        for mm in (2.0, 1.0)
    )
    assert fine < 0.8 * coarse


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


def test_noise_may_be_wider_along_one_axis() -> None:
    noise = smooth_noise((40, 40, 40), np.random.default_rng(0), np.array([1.0, 1.0, 6.0]))
    steps = [np.abs(np.diff(noise, axis=axis)).mean() for axis in range(3)]
    assert noise.shape == (40, 40, 40) and steps[2] < 0.4 * min(steps[:2])
