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


def recipe_texture(shape: tuple[int, ...], spacing_mm: Spacing, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the texture of SyntheticTumors, 0 to 1 (released code, step 1), for a box of any size and spacing.

    Smooth noise says how likely each point of a 1 mm grid is salt; the salt is blurred and scaled until its bright part
    (above 0.12) has a mean of 0.5 to 0.55, then clipped.

    Args:
        shape: Voxels.
        spacing_mm: Of the box; the recipe's lengths are voxels of 1 mm.
        rng: Source of randomness.
    """
    fine = tuple(max(2, int(np.ceil(n * s)) + 1) for n, s in zip(shape, spacing_mm, strict=True))
    coarse_sigma, grain_sigma = rng.choice([3.0, 6.0, 9.0, 12.0, 15.0]), rng.choice([4.0, 7.0])
    chance = ndimage.gaussian_filter(rng.random(fine, dtype=np.float32), coarse_sigma, mode="wrap")
    low, high = float(chance.min()), float(chance.max())
    chance = (chance - low) / max(high - low, 1e-9) * rng.uniform(0.19, 0.21) + rng.uniform(0.04, 0.06)
    salt = (rng.random(fine, dtype=np.float32) < chance).astype(np.float32)
    salt = ndimage.gaussian_filter(salt, grain_sigma, mode="wrap")
    scaled = scale_bright_part(salt, rng.uniform(0.5, 0.55))
    steps = [np.arange(n, dtype=np.float64) * s for n, s in zip(shape, spacing_mm, strict=True)]
    for axis, positions in enumerate(steps):
        scaled = read_along(scaled, positions, axis)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def scale_bright_part(texture: NDArray[np.float32], mean: float) -> NDArray[np.float32]:
    """Scale a texture so that its values above 0.12 (all of them, where none is) have this mean."""
    bright = texture[texture > 0.12]
    current = float(bright.mean()) if bright.size else float(texture.mean())
    return np.asarray(texture * (mean / max(current, 1e-6)), dtype=np.float32)


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
