"""Where in an organ a tumor sits: a search that is bounded, keeps clear of vessels, and answers with a type.

Follows DiffTumor's location step, in mm: a slice in the middle of the organ's extent first, then wider; a voxel of that
slice away from the organ's rim. Upstream may search without end; here every answer comes after at most `TRIES` tries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.volumes.boxes import bounding_box

Voxel = tuple[int, int, int]

SEARCH_STEPS = ((10, 0.3, 0.7), (10, 0.2, 0.8), (10, 0.1, 0.9), (10, 0.0, 1.0))
"""Tries, and the part of the organ's extent along the patient that they look at (DiffTumor)."""
TRIES = sum(tries for tries, _, _ in SEARCH_STEPS)

LEAST_SHARE = 0.25
"""An organ smaller than this share of the tumor has no room for it."""


@dataclass(frozen=True)
class Placement:
    """A place that was found.

    Attributes:
        center_voxel: Where the tumor's center lies; a voxel of the organ.
    """

    center_voxel: Voxel


@dataclass(frozen=True)
class NoPlace:
    """No place was found.

    Attributes:
        reason: Why not, in words.
    """

    reason: str


def place(
    organ_mask: NDArray[np.bool_],
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    forbidden: NDArray[np.bool_] | None = None,
    erosion_mm: float = 0.0,
    centered: bool = False,
    may_outgrow: bool = False,
) -> Placement | NoPlace:
    """Find the voxel of an organ where a tumor's center lies.

    A place counts when half of the tumor's inner ball (of half its radius) lies in the organ; the best place that was
    seen is taken when none does.

    Args:
        organ_mask: (X, Y, Z), Z along the patient.
        radius_mm: The tumor's.
        spacing_mm: Voxel size.
        rng: Source of randomness.
        forbidden: Vessels and earlier tumors, (X, Y, Z): none of it comes within the radius.
        erosion_mm: How far inside the organ the center lies, within the slice; given up where nothing is left.
        centered: Take the middle of the organ's box (DiffTumor: large tumors of the pancreas).
        may_outgrow: Whether the tumor may be larger than the organ, as one that grows out of it.
    """
    if not organ_mask.any():
        return NoPlace("the organ mask is empty")
    voxel_mm3 = float(np.prod(spacing_mm))
    organ_mm3 = float(np.count_nonzero(organ_mask)) * voxel_mm3
    tumor_mm3 = 4 / 3 * np.pi * radius_mm**3
    if not may_outgrow and organ_mm3 < LEAST_SHARE * tumor_mm3:
        return NoPlace(
            f"the organ ({_ml(organ_mm3)}) is too small for a tumor of {radius_mm:.1f} mm radius ({_ml(tumor_mm3)})"
        )
    if centered:
        return Placement(_nearest_to_middle(organ_mask))
    return _search(organ_mask, radius_mm, spacing_mm, rng, forbidden, erosion_mm)


def vessel_mask(
    image: NDArray[np.float32], organ: NDArray[np.bool_], above: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Return where the smoothed scan rises `above` the organ's mean, within the organ (SyntheticTumors, paper).

    Args:
        image: Native units (X, Y, Z).
        organ: (X, Y, Z).
        above: In the image's units.
        spacing_mm: Voxel size.
    """
    vessels = np.zeros(organ.shape, dtype=bool)
    if not organ.any():
        return vessels
    box = bounding_box(organ)
    inside = organ[box]
    # Averaged over the organ only, so that neither fat around it nor a rib beside it shifts what counts as bright.
    sigma = 1.0 / np.array(spacing_mm)
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, truncate=2.5)
    smooth = ndimage.gaussian_filter(np.where(inside, image[box], 0).astype(np.float32), sigma, truncate=2.5)
    mean = float(image[box][inside].mean())
    vessels[box] = inside & (smooth > (mean + above) * np.maximum(weight, 1e-3))
    return vessels


def _search(
    organ: NDArray[np.bool_],
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    forbidden: NDArray[np.bool_] | None,
    erosion_mm: float,
) -> Placement | NoPlace:
    (x0, x1), (y0, y1), (z0, z1) = ((side.start, side.stop) for side in bounding_box(organ))
    inner, outer = (_ball(share * radius_mm, spacing_mm) for share in (0.5, 1.0))
    best: tuple[float, Voxel] | None = None
    blocked = 0
    for count, low, high in SEARCH_STEPS:
        for _ in range(count):
            z = z0 + min(int((low + (high - low) * rng.random()) * (z1 - z0)), z1 - z0 - 1)
            section = organ[x0:x1, y0:y1, z]
            candidates = np.argwhere(_eroded(section, erosion_mm, spacing_mm))
            if not len(candidates):
                continue
            x, y = candidates[rng.integers(len(candidates))]
            voxel = (int(x) + x0, int(y) + y0, z)
            if forbidden is not None and _covered(forbidden, voxel, outer) > 0:
                blocked += 1
                continue
            share = _covered(organ, voxel, inner)
            if best is None or share > best[0]:
                best = (share, voxel)
            if share >= 0.5:
                return Placement(voxel)
    if best is not None:
        return Placement(best[1])
    if blocked:
        return NoPlace(f"no place in {TRIES} tries keeps {radius_mm:.1f} mm clear of vessels and other tumors")
    return NoPlace(f"no slice in {TRIES} tries shows the organ")


def _ml(volume_mm3: float) -> str:
    """Say a volume in two digits, without powers of ten."""
    volume_ml = volume_mm3 / 1000
    return f"{volume_ml:.0f} ml" if volume_ml >= 10 else f"{volume_ml:.2g} ml"


def _nearest_to_middle(organ: NDArray[np.bool_]) -> Voxel:
    """Return the voxel of the organ nearest to the middle of its box, which itself may lie outside a bent organ."""
    middle = np.array([(side.start + side.stop - 1) / 2 for side in bounding_box(organ)])
    voxels = np.argwhere(organ)
    x, y, z = voxels[np.argmin(((voxels - middle) ** 2).sum(axis=1))]
    return int(x), int(y), int(z)


def _eroded(section: NDArray[np.bool_], erosion_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Shrink one slice by a square (DiffTumor: 5 x 5 at 1 mm); the slice itself where nothing is left."""
    size = tuple(2 * round(erosion_mm / spacing_mm[axis]) + 1 for axis in (0, 1))
    if size == (1, 1) or not section.any():
        return section
    smaller = ndimage.minimum_filter(section.view(np.uint8), size, mode="constant", cval=0).astype(bool)
    return smaller if smaller.any() else section


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    reach = [int(radius_mm / s) for s in spacing_mm]
    squares = [(np.arange(-r, r + 1) * s) ** 2 for r, s in zip(reach, spacing_mm, strict=True)]
    return np.asarray(squares[0][:, None, None] + squares[1][:, None] + squares[2] <= radius_mm**2)


def _covered(mask: NDArray[np.bool_], center: Voxel, ball: NDArray[np.bool_]) -> float:
    """Return the share of a ball around a voxel that a mask covers; outside the array it covers nothing."""
    inside, cut = [], []
    for c, length, side in zip(center, mask.shape, ball.shape, strict=True):
        start = c - side // 2
        low, high = max(0, start), min(length, start + side)
        inside.append(slice(low, high))
        cut.append(slice(low - start, high - start))
    return float(np.count_nonzero(mask[tuple(inside)] & ball[tuple(cut)]) / np.count_nonzero(ball))
