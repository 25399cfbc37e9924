"""Textures: the grain of the scan itself, the mottle of a tumor, and SyntheticTumors' recipe; drawn for a box only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from DiffuGTSLib.synthesis.anatomy import read_along, smooth_noise

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Noise:
    """The grain of a scan.

    Attributes:
        deviation: Standard deviation, in the image's units.
        sigma_voxels: White noise blurred by this Gaussian along each axis has the same correlation between neighbors.
    """

    deviation: float
    sigma_voxels: tuple[float, float, float]


def measure_noise(image: NDArray[np.float32], where: NDArray[np.bool_]) -> Noise:
    """Measure the grain within a region from differences of voxels one and two steps apart.

    Anatomy hardly enters: medians are taken, and what changes slowly has small differences. With a Gaussian correlation
    r between neighbors, differences over two steps have 1 + r + r² + r³ times the variance of those over one.

    Args:
        image: Native units (X, Y, Z).
        where: Where to measure, (X, Y, Z).
    """
    deviations, sigmas = [], []
    steps = np.linspace(0.0, 0.98, 99)
    for axis in range(3):
        one, two = (_typical_difference(image, where, axis, step) for step in (1, 2))
        if one <= 0:
            sigmas.append(0.0)
            continue
        neighbor = float(np.interp((two / one) ** 2, 1 + steps + steps**2 + steps**3, steps))
        deviations.append(one / np.sqrt(2 * (1 - neighbor)))
        sigmas.append(0.5 / np.sqrt(-np.log(neighbor)) if neighbor > 1e-3 else 0.0)
    # What is still there of slow changes makes an axis look noisier, never calmer.
    return Noise(float(min(deviations, default=0.0)), (sigmas[0], sigmas[1], sigmas[2]))


def measure_sharpness(image: NDArray[np.float32], spacing_mm: Spacing) -> tuple[float, float, float]:
    """Return the blur of the scan along each axis, as the standard deviation in mm of a Gaussian.

    The steepest step of an edge, as a share of the whole edge, tells its blur: erf(1 / (2 √2 s)) for s voxels. An axis
    that crosses the edge at a slant finds it wider, so that the upper quartile of all strong edges counts. Where a scan
    shows no strong edge, half a voxel is assumed.

    Args:
        image: Native units (X, Y, Z).
        spacing_mm: Voxel size.
    """
    low, high = np.percentile(image[::3, ::3, ::3], (1, 99))
    strong = max(0.3 * float(high - low), 1e-6)
    skip = int(np.ceil(np.sqrt(image.size / 400_000)))
    blurs = []
    for axis, spacing in enumerate(spacing_mm):
        steepest = _steepest_steps(np.moveaxis(image, axis, -1)[::skip, ::skip], strong)
        if steepest.size < 50:
            blurs.append(0.5 * spacing)
            continue
        share = float(np.percentile(steepest, 75))
        blurs.append(spacing * float(np.interp(-share, -special.erf(0.5 / (np.sqrt(2) * _BLURS)), _BLURS)))
    return blurs[0], blurs[1], blurs[2]


_BLURS = np.linspace(0.2, 2.5, 47)


def _steepest_steps(lines: NDArray[np.float32], strong: float) -> NDArray[np.float32]:
    """Return the steepest step of each edge along the last axis that is at least that strong, as a share of it."""
    if lines.shape[-1] < 8:
        return np.zeros(0, dtype=np.float32)
    near = np.lib.stride_tricks.sliding_window_view(lines, 8, axis=-1)
    edge = near.max(axis=-1) - near.min(axis=-1)
    kept = edge > strong
    steps, edge = np.abs(np.diff(near[kept], axis=-1)), edge[kept]
    peak = steps.argmax(axis=-1) == 3  # each edge counts once, where its steepest step is in the middle
    return np.asarray(steps[peak, 3] / edge[peak], dtype=np.float32)


def draw_grain(shape: tuple[int, ...], noise: Noise, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw noise like the scan's, with its standard deviation and correlation; mean 0."""
    grain = rng.standard_normal(shape, dtype=np.float32)
    sigma = np.array(noise.sigma_voxels)
    if sigma.any():
        grain = ndimage.gaussian_filter(grain, sigma, mode="wrap", truncate=3.0)
    return np.asarray(grain * (noise.deviation / max(float(grain.std()), 1e-6)), dtype=np.float32)


def mottle(
    shape: tuple[int, ...], spacing_mm: Spacing, width_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw patches of about `width_mm`, mean 0 and standard deviation 1."""
    return smooth_noise(shape, rng, width_mm / np.array(spacing_mm))


HALF_RANGE_SD = 6.2
"""From the mean of a SyntheticTumors' texture's smooth noise to its ends, in standard deviations.

Measured on 2 to 30 volumes of 420 x 300 x 320 voxels: 5.8 where the blur is 15 voxels, 6.1 for 12 and 9, 6.2 for 6, 6.8
for 3. The ends lie at the faces, where a blur that mirrors averages fewer voxels.
"""


def recipe_texture(shape: tuple[int, ...], spacing_mm: Spacing, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a piece of a texture of SyntheticTumors, 0 to 1 (released code, step 1), for a box of any size and spacing.

    Smooth noise, stretched to its range, says how likely each point of a 1 mm grid is salt; the salt is blurred and
    scaled until its bright part (above 0.12) has a mean of 0.5 to 0.55, then clipped. Range and bright part are those
    of a whole texture of upstream's (420 x 300 x 320 voxels), as expected; a tumor gets a small and calmer piece of it.

    Args:
        shape: Voxels.
        spacing_mm: Of the box; the recipe's lengths are voxels of 1 mm.
        rng: Source of randomness.
    """
    fine = tuple(max(2, int(np.ceil(n * s)) + 1) for n, s in zip(shape, spacing_mm, strict=True))
    coarse_sigma, grain_sigma = rng.choice([3.0, 6.0, 9.0, 12.0, 15.0]), rng.choice([4.0, 7.0])
    scale, base, bright = rng.uniform(0.19, 0.21), rng.uniform(0.04, 0.06), rng.uniform(0.5, 0.55)
    reach = round(3 * grain_sigma)
    wide = tuple(n + 2 * reach for n in fine)
    mean, deviation = base + scale / 2, scale / (2 * HALF_RANGE_SD)
    chance = mean + deviation * _wide_noise(wide, int(coarse_sigma), rng)
    salt = (rng.random(wide, dtype=np.float32) < chance).astype(np.float32)
    salt = ndimage.gaussian_filter(salt, grain_sigma, truncate=3.0)[tuple(slice(reach, -reach) for _ in fine)]
    # What the blur leaves of the smooth noise, and of the salt's own.
    smooth = deviation**2 * (1 + (grain_sigma / coarse_sigma) ** 2) ** -1.5
    grain = mean * (1 - mean) * (2 * np.sqrt(np.pi) * grain_sigma) ** -3
    scaled = salt * np.float32(bright / bright_mean(mean, float(np.sqrt(smooth + grain))))
    for axis, (n, s) in enumerate(zip(shape, spacing_mm, strict=True)):
        scaled = read_along(scaled, np.arange(n, dtype=np.float64) * s, axis)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def bright_mean(mean: float, deviation: float) -> float:
    """Return the mean of the values above 0.12 of a normal distribution."""
    cut = (0.12 - mean) / deviation
    return float(mean + deviation * np.exp(-(cut**2) / 2) / np.sqrt(2 * np.pi) / special.ndtr(-cut))


def _wide_noise(shape: tuple[int, ...], sigma_voxels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a piece of endless Gaussian noise of mean 0 and deviation 1, blurred by a multiple of 3 voxels.

    It is drawn on voxels of a third of the blur and enlarged. Unlike `smooth_noise` a piece keeps its own mean and spread.
    """
    step, reach = sigma_voxels // 3, 9
    noise = rng.standard_normal([-(-side // step) + 1 + 2 * reach for side in shape], dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, 3.0, truncate=3.0)[tuple(slice(reach, -reach) for _ in shape)]
    for axis, side in enumerate(shape):
        noise = read_along(noise, np.arange(side) / step, axis)
    return np.asarray(noise * (2 * np.sqrt(np.pi) * 3.0) ** 1.5, dtype=np.float32)


def _typical_difference(image: NDArray[np.float32], where: NDArray[np.bool_], axis: int, step: int) -> float:
    """Return the robust standard deviation of differences over some voxels along an axis, 0 where there are too few."""
    if image.shape[axis] <= step:
        return 0.0
    ahead = tuple(slice(step, None) if a == axis else slice(None) for a in range(3))
    behind = tuple(slice(None, -step) if a == axis else slice(None) for a in range(3))
    both = where[ahead] & where[behind]
    differences = (image[ahead] - image[behind])[both]
    if differences.size < 20:
        return 0.0
    return 1.4826 * float(np.median(np.abs(differences[:: max(1, differences.size // 4000)])))
