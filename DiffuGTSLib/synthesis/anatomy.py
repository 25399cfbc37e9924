"""Domain-randomized anatomy: label maps painted with random contrasts, and scans whose contrast is varied.

Follows the idea of SynthSeg (Billot et al., 2023): a network that saw every contrast is surprised by none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def paint_anatomy(labels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Paint a label map: one random mean and texture a label, then blur, bias field and noise.

    Args:
        labels: Small whole numbers (X, Y, Z); 0 is background and stays dark most of the time.
        rng: Source of randomness.

    Returns:
        Image in [0, 1], same shape.
    """
    count = int(labels.max()) + 1
    means = rng.uniform(0.05, 1.0, count).astype(np.float32)
    if rng.random() < 0.85:
        means[0] = rng.uniform(0.0, 0.05)
    spread = rng.uniform(0.0, 0.06, count).astype(np.float32)
    index = labels.astype(np.intp)
    texture = smooth_noise(labels.shape, rng, sigma_voxels=rng.uniform(0.6, 2.0))
    image = means[index] + spread[index] * texture
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.8))
    image = image * (1 + 0.25 * rng.uniform() * smooth_noise(labels.shape, rng, sigma_voxels=16.0))
    image = image + rng.normal(0, rng.uniform(0.002, 0.02), labels.shape)
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def paint_ct_anatomy(
    labels: NDArray[np.float32], tissue_hu: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Paint a label map as a CT: every tissue at about its own density, then blur, shading and noise.

    Args:
        labels: Small whole numbers (X, Y, Z), rows of `tissue_hu`.
        tissue_hu: (labels, 2): least and highest HU. Means vary by 2 HU and a twentieth from painting to painting.
        rng: Source of randomness.

    Returns:
        Image in HU, same shape.
    """
    means, halves = tissue_hu.mean(axis=1), np.ptp(tissue_hu, axis=1) / 2
    means = means + rng.normal(0, 1, len(means)) * (2.0 + 0.05 * np.abs(means))
    means[tissue_hu[:, 1] <= _AIR_HU] = _AIR_HU
    index = labels.astype(np.intp)
    texture = smooth_noise(labels.shape, rng, sigma_voxels=rng.uniform(0.6, 2.0))
    image = means[index] + halves[index] * np.clip(texture, -1, 1)
    image = ndimage.gaussian_filter(image.astype(np.float32), rng.uniform(0.3, 0.8))
    image = image + rng.uniform(0, 5) * smooth_noise(labels.shape, rng, sigma_voxels=16.0)
    image = image + rng.normal(0, rng.uniform(1, 10), labels.shape)
    return np.asarray(image, dtype=np.float32)


_AIR_HU = -1000.0


def strip_skull(
    window: NDArray[np.float32], brain: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Show a brain alone, as most public collections do: nothing around it, brightness by what is left.

    Args:
        window: (X, Y, Z) in [0, 1].
        brain: Where it is; up to two voxels around it stay, as the usual tools leave them.
        rng: Source of randomness.

    Returns:
        (what is left, where that is).
    """
    keep = ndimage.binary_dilation(brain, iterations=int(rng.integers(1, 3)))
    if not keep.any():
        return np.zeros_like(window), keep
    top = float(np.percentile(window[keep], rng.uniform(97.0, 99.9)))
    return np.asarray(np.clip(window * keep / max(top, 1e-6), 0, 1), dtype=np.float32), keep


def vary_intensity(
    window: NDArray[np.float32], rng: np.random.Generator, gamma_spread: float = 0.1
) -> NDArray[np.float32]:
    """Vary contrast and noise a little, as another scanner or kernel would; ends of the range stay fixed."""
    gamma = float(np.exp(rng.normal(0, gamma_spread)))
    image = np.power(np.clip(window, 0, 1), gamma)
    if rng.random() < 0.3:
        image = image + rng.normal(0, rng.uniform(0.0, 0.015), window.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def remap_contrast(window: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Give an MR another contrast: a random curve over its intensities, mostly rising, sometimes up and down.

    Air stays dark. Real texture in contrasts that no training scan has, between `vary_intensity` and `paint_anatomy`.

    Args:
        window: (X, Y, Z) in [0, 1].
        rng: Source of randomness.
    """
    knots = np.array([0.0, 0.05, 0.25, 0.5, 0.75, 1.0])
    values = rng.uniform(0.05, 1.0, len(knots) - 1)
    if rng.random() < 0.6:
        values = np.sort(values)
    curve = np.concatenate([[0.0], values])
    keep = rng.uniform(0.0, 0.6)  # part of the scan's own contrast
    return np.asarray(np.interp(window, knots, keep * knots + (1 - keep) * curve), dtype=np.float32)


def sharpen(window: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Sharpen edges as a hard kernel or a finer scan would, by an unsharp mask of random strength and width."""
    strength, sigma_voxels = rng.uniform(0.3, 1.2), rng.uniform(0.6, 1.4)
    details = window - ndimage.gaussian_filter(window, sigma_voxels)
    return np.asarray(np.clip(window + strength * details, 0, 1), dtype=np.float32)


SLICE_MM = (2.5, 7.0)
"""Distance of thick slices, from a body CT to a brain MR of the clinic."""


def thicken_slices(window: NDArray[np.float32], spacing_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Show a window as thick slices would after resampling, mostly along the long axis of the patient.

    Each slice is the mean over its thickness, from which the grid is filled linearly, as `canonical` does.

    Args:
        window: (X, Y, Z), isotropic.
        spacing_mm: Of the window.
        rng: Source of randomness.
    """
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    distance = max(1.0, rng.uniform(*SLICE_MM) / spacing_mm)
    thickness = distance * rng.uniform(0.7, 1.0)  # the rest is a gap
    last = window.shape[axis] - 1.0
    centers = np.arange(-rng.uniform(0, distance), last + distance, distance)
    offsets = np.linspace(-0.5, 0.5, 5) * (thickness - 1)  # a voxel is one voxel thick already
    slices = np.mean([read_along(window, np.clip(centers + o, 0, last), axis) for o in offsets], axis=0)
    places = (np.arange(window.shape[axis]) - centers[0]) / distance
    return np.asarray(read_along(slices.astype(np.float32), places, axis), dtype=np.float32)


def smooth_noise(
    shape: tuple[int, ...], rng: np.random.Generator, sigma_voxels: float | NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return Gaussian noise of mean 0 and standard deviation 1, correlated over `sigma_voxels` (one, or one an axis)."""
    sigma = np.broadcast_to(np.asarray(sigma_voxels, dtype=np.float64), len(shape))
    step = np.maximum(1, (sigma / 2).astype(int))  # wide noise is drawn coarse and enlarged: the same, far cheaper
    coarse = tuple(-(-side // int(s)) + 1 for side, s in zip(shape, step, strict=True))
    noise = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma / step, mode="wrap")
    for axis, side in enumerate(shape):
        noise = read_along(noise, np.arange(side) / step[axis], axis)
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-6), dtype=np.float32)


def read_along(array: NDArray[np.float32], positions: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Read an array at fractional positions along one axis, linearly; positions lie within it."""
    below = np.minimum(positions.astype(np.intp), max(array.shape[axis] - 2, 0))
    share = (positions - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    first = np.take(array, below, axis)
    if not share.any():
        return first
    return np.asarray(first + share * (np.take(array, below + 1, axis) - first))
