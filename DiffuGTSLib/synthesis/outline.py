"""Where in a scan one tumor lies: a shape laid into an organ, kept inside it or not, softened for the blend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.masks import largest_part
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.placement import NoPlace, Voxel
from DiffuGTSLib.synthesis.shapes import TumorShape, Window, distance_to_center, full_window, share_of
from DiffuGTSLib.volumes.boxes import Box
from DiffuGTSLib.volumes.canonical import IntensityMap

LEAST_VOXELS = 6
"""A tumor with fewer voxels is not painted: nobody could outline it."""
AIR_SHARE = 0.05
"""On MR, air is what stays below this share of the brightest tissue (the 99.5th percentile around the tumor); our choice."""
LEAST_KEPT = 0.1
"""A tumor of which the organ leaves less than this share is not painted."""
UNCLIPPED = (-np.inf, np.inf)


def ends_of(intensity: IntensityMap | None) -> tuple[float, float]:
    """Return the native values that in an image from this map stand for everything beyond them, too."""
    return UNCLIPPED if intensity is None or not intensity.clip else (intensity.native[0], intensity.native[-1])


@dataclass(frozen=True, eq=False)
class Outline:
    """Where one tumor lies on a grid, before it is painted.

    Attributes:
        box: Of the array that it lies in.
        share: How much of each voxel of the box is tumor, 0 to 1, softened.
        mask: The tumor, binary.
        distance: To its center in local radii; see `shapes.distance_to_center`.
        center_voxel: In the box.
        radius_mm: Of the shape.
        size: Name of its class.
    """

    box: Box
    share: NDArray[np.float32]
    mask: NDArray[np.bool_]
    distance: NDArray[np.float32]
    center_voxel: NDArray[np.float64]
    radius_mm: float
    size: str


def outline_tumor(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    shape: TumorShape,
    center: Voxel,
    spec: OrganSpec,
    size: str,
    spacing_mm: tuple[float, float, float],
    modality: str,
    rng: np.random.Generator,
    *,
    sharpness_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    context_mm: float = 0.0,
    blocked: NDArray[np.bool_] | None = None,
    clipped_at: tuple[float, float] = UNCLIPPED,
) -> Outline | NoPlace:
    """Lay a shape into an organ: what of each voxel it takes, softened, kept inside the organ unless it is exophytic.

    Args:
        image: (X, Y, Z), native units.
        organ: Organ mask.
        shape: The tumor's shape.
        center: Voxel of its center.
        spec: The organ.
        size: Name of the tumor's class.
        spacing_mm: Voxel size.
        modality: "CT" or "MR".
        rng: Draws waves, blur, and whether it is exophytic.
        sharpness_mm: Blur of the scan along each axis; a tumor's edge is at least that soft.
        context_mm: Least side of the box.
        blocked: Earlier tumors; stay as they are, and a voxel around them stays free, so that each can be counted.
        clipped_at: See `ends_of`.
    """
    if 4 / 3 * np.pi * shape.radius_mm**3 < 0.1 * LEAST_VOXELS * np.prod(spacing_mm):  # its window would be endless
        return NoPlace(f"a radius of {shape.radius_mm:.2g} mm is less than a voxel")
    window = _context_window(full_window(shape, spacing_mm), context_mm, spacing_mm)
    box, window = _cut(window, center, organ.shape)
    distance = distance_to_center(shape, spacing_mm, rng, window)
    sharp = share_of(distance, shape.radius_mm, spacing_mm)
    whole = float(np.count_nonzero(sharp > 0.5))
    soft_mm = min(float(rng.uniform(*spec.blend_sigma_mm)), 0.3 * shape.radius_mm)
    exophytic = rng.random() < spec.exophytic_chance.get(size, 0.0)
    room = _room(image[box], organ[box], spec, spacing_mm, modality, exophytic, clipped_at)
    if blocked is not None:
        room = room & ~ndimage.maximum_filter(blocked[box].view(np.uint8), 3).astype(bool)
    mask = largest_part((sharp > 0.5) & room, by_faces=True)
    voxels = np.count_nonzero(mask)
    if voxels < LEAST_VOXELS:
        return NoPlace(f"fewer than {LEAST_VOXELS} voxels of it fit into the organ")
    if voxels < LEAST_KEPT * whole:
        return NoPlace(f"the organ leaves {100 * voxels / whole:.0f} % of it")
    sigma_mm = np.hypot(soft_mm, sharpness_mm)
    share = soften(sharp, mask, room, sigma_mm, spacing_mm)
    center_in_box = np.array([-low for low, _ in window], dtype=np.float64)
    return Outline(box, share, mask, distance, center_in_box, shape.radius_mm, size)


def soften(
    sharp: NDArray[np.float32],
    mask: NDArray[np.bool_],
    room: NDArray[np.bool_],
    sigma_mm: float | NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Return the weights of the blend: the tumor's share, blurred, and 0 outside its room.

    Args:
        sharp: Share of each voxel before it is blurred.
        mask: The tumor that is kept of it.
        room: Where it may be.
        sigma_mm: Of the Gaussian, one or one an axis; 0 leaves the share as it is.
        spacing_mm: Voxel size.
    """
    near = ndimage.maximum_filter(mask.view(np.uint8), 3).astype(bool)  # the ramp beside the mask, no lost crumbs
    share = np.where(near & room, sharp, 0).astype(np.float32)
    if np.any(np.asarray(sigma_mm) > 0):
        share = ndimage.gaussian_filter(share, sigma_mm / np.array(spacing_mm), mode="nearest", truncate=3.0)
    return np.asarray(np.where(room & (share > 1e-3), share, 0), dtype=np.float32)


_MARGIN_MM = 8.0
"""Tissue around the shape that a painter sees and the blur may reach."""


def _context_window(window: Window, context_mm: float, spacing_mm: tuple[float, float, float]) -> Window:
    sides = []
    for (low, high), spacing in zip(window, spacing_mm, strict=True):
        margin, half = int(np.ceil(_MARGIN_MM / spacing)), int(np.ceil(context_mm / 2 / spacing))
        sides.append((min(low - margin, -half), max(high + margin, half)))
    x, y, z = sides
    return x, y, z


def _cut(window: Window, center: Voxel, shape: tuple[int, ...]) -> tuple[Box, Window]:
    """Return the box of a window around a voxel, and the part of the window that lies in the array."""
    kept = [(max(low, -c), min(high, n - c)) for (low, high), c, n in zip(window, center, shape, strict=True)]
    x, y, z = kept
    a, b, c = (slice(low + c, high + c) for (low, high), c in zip(kept, center, strict=True))
    return (a, b, c), (x, y, z)


def _room(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    spec: OrganSpec,
    spacing_mm: tuple[float, float, float],
    modality: str,
    exophytic: bool,
    clipped_at: tuple[float, float],
) -> NDArray[np.bool_]:
    """Return where a tumor may be: the organ with narrow holes closed; its border or, exophytic, all soft tissue.

    An exophytic tumor does not grow into air. On CT nothing grows into bone or contrast-filled vessels beside the organ;
    MR has no number for these, but where cortical bone gives no signal it is as dark as air. In a clipped image what is as
    dark or bright as it gets is none of what the tumor may grow into.
    """
    closed = _closed(organ, spec.closing_mm, spacing_mm)
    if exophytic:
        if modality == "CT":
            low, high = max(-250, clipped_at[0]), min(300, clipped_at[1])
            return np.asarray(closed | ((image > low) & (image < high)))
        return np.asarray(closed | (image > AIR_SHARE * np.percentile(image, 99.5)))
    if not spec.border_mm:
        return closed
    # A tenth of a Gaussian reaches 1.28 sigma beyond a plane; boxes would leave flat sides.
    sigma = spec.border_mm / 1.28 / np.array(spacing_mm)
    border = closed | (ndimage.gaussian_filter(closed.astype(np.float32), sigma, mode="nearest", truncate=2.0) > 0.1)
    return np.asarray(closed | (border & (image < 120)) if modality == "CT" else border)


def _closed(organ: NDArray[np.bool_], closing_mm: float, spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    size = tuple(2 * round(closing_mm / 2 / s) + 1 for s in spacing_mm)
    if size == (1, 1, 1):
        return organ
    grown = ndimage.maximum_filter(organ.view(np.uint8), size, mode="nearest")
    return np.asarray(organ | ndimage.minimum_filter(grown, size, mode="nearest").astype(bool))
