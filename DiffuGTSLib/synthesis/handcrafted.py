"""Handcrafted tumors: a shape placed inside an organ and painted with a texture and a shift in intensity.

Follows the idea of SyntheticTumors (Hu et al., CVPR 2023), written from our own description. It works on canonical
images, CT and MR; CT contrasts are given in HU and pass through the scan's own intensity map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.synthesis.anatomy import smooth_noise
from DiffuGTSLib.synthesis.shapes import draw_shape, soft_shape
from DiffuGTSLib.volumes.canonical import IntensityMap


@dataclass(frozen=True)
class Appearance:
    """How tumors of one organ look on CT.

    Attributes:
        shift_hu: Ranges of the difference to the organ's own intensity; one range is drawn.
        absolute_hu: Ranges of the tumor's own intensity instead; used when there are any.
        radius_mm: Range of the mean radius.
    """

    shift_hu: tuple[tuple[float, float], ...] = ((-90, -20), (20, 70))
    absolute_hu: tuple[tuple[float, float], ...] = ()
    radius_mm: tuple[float, float] = (6, 30)


CT_APPEARANCE = {
    "liver": Appearance(((-100, -25), (-100, -25), (25, 80)), radius_mm=(7, 45)),
    "pancreas": Appearance(((-80, -20), (20, 60)), radius_mm=(4, 25)),
    "lung": Appearance((), ((-80, 100), (-80, 100), (-80, 100), (-500, -100)), radius_mm=(6, 28)),
    "kidney": Appearance(((-160, -30), (-110, -25), (25, 80)), radius_mm=(4, 40)),
    "spleen": Appearance(((-90, -25), (25, 60)), radius_mm=(4, 30)),
    "bone": Appearance((), ((0, 120), (450, 900)), radius_mm=(4, 30)),
    "soft tissue": Appearance(((-60, -15), (20, 50)), ((-10, 90), (-10, 90)), radius_mm=(8, 60)),
    "bladder": Appearance((), ((30, 110),), radius_mm=(4, 25)),
}
"""Contrast and size by organ, from textbook HU ranges and not fitted to any scan; others use `Appearance()`."""


_TRIES = 8
"""Places that are looked at before the best of them is taken: the search is bounded."""


def place_tumor(
    organ: NDArray[np.bool_], radius_mm: float, spacing_mm: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Return a voxel of the organ where a tumor of this radius sits mostly inside it, or None for an empty organ.

    A cube of half the radius should lie in the organ to 70 %, so that tumors may bulge out as real ones do.
    """
    voxels = np.argwhere(organ)
    if len(voxels) == 0:
        return None
    reach = np.maximum(1, np.round(0.5 * radius_mm / np.array(spacing_mm))).astype(int)
    best, best_share = voxels[0], -1.0
    for voxel in voxels[rng.integers(len(voxels), size=_TRIES)]:
        share = float(organ[_box(voxel, reach, organ.shape)].mean())
        if share > best_share:
            best, best_share = voxel, share
        if share >= 0.7:
            break
    return np.asarray(best, dtype=np.float64)


def paint_tumor(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    organ_name: str,
    intensity: IntensityMap | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Paint one tumor into an organ.

    Args:
        image: Canonical window (X, Y, Z), in [0, 1].
        organ: Where its center may lie.
        organ_name: Chooses size and contrast.
        intensity: The CT's map from HU; None for MR and painted anatomy, where contrast is drawn at random.
        spacing_mm: Of the window.
        rng: Source of randomness.

    Returns:
        (painted image, tumor mask), or None when the organ has no room for it.
    """
    look = CT_APPEARANCE.get(organ_name, Appearance())
    shape = draw_shape(look.radius_mm, rng)
    center = place_tumor(organ, float(np.mean(shape.radii_mm)), spacing_mm, rng)
    if center is None:
        return None
    reach = np.ceil((1.6 * max(shape.radii_mm) + 8) / np.array(spacing_mm)).astype(int)
    box = _box(center.astype(int), reach, image.shape)
    near, near_organ = image[box], organ[box]
    share = soft_shape(shape, near.shape, center - [part.start for part in box], spacing_mm, rng)
    if rng.random() < 0.7:  # most tumors respect their organ's border, softly
        within = ndimage.gaussian_filter(ndimage.binary_dilation(near_organ, iterations=2).astype(np.float32), 1.0)
        share = share * np.clip(2 * within, 0, 1)
    near_mask = share > 0.5
    if near_mask.sum() < 6:
        return None
    texture = _tumor_texture(near, near_organ, near_mask, look, intensity, spacing_mm, rng)
    painted, mask = image.copy(), np.zeros(image.shape, dtype=bool)
    painted[box] = np.clip(near * (1 - share) + texture * share, 0, 1)
    mask[box] = near_mask
    return painted, mask


def _box(center: NDArray[np.intp], reach: NDArray[np.intp], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(0, c - r), min(n, c + r + 1)) for c, r, n in zip(center, reach, shape, strict=True))


def _tumor_texture(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    look: Appearance,
    intensity: IntensityMap | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the intensities of a tumor that would fill the window: base, grain, mottle, sometimes core or rim."""
    around = ndimage.binary_dilation(mask, iterations=3) & ~mask
    reference = image[around & organ] if (around & organ).any() else image[around | mask]
    base, mottle = _base_and_mottle(float(np.median(reference)), look, intensity, rng)
    grain = 0.7 * float(np.median(np.abs(reference - np.median(reference)))) * rng.uniform(0.5, 1.3)
    texture = base + grain * smooth_noise(image.shape, rng, sigma_voxels=0.7)
    texture = texture + mottle * smooth_noise(image.shape, rng, sigma_voxels=rng.uniform(1.5, 5.0))
    half_side_mm = float(np.cbrt(mask.sum() * np.prod(spacing_mm))) / 2
    depth = ndimage.distance_transform_edt(mask, sampling=spacing_mm) / max(1.0, half_side_mm)
    # Contrast agents make a far larger difference between rim and core on MR than on CT.
    relief = max(mottle, 0.02) if intensity is not None else rng.uniform(0.02, 0.12)
    kind = rng.random()
    if kind < 0.25:  # necrotic core
        texture = texture + np.clip((depth - 0.35) * 4, 0, 1) * rng.uniform(-3, 1) * relief
    elif kind < 0.4:  # enhancing rim
        texture = texture + np.exp(-((depth / 0.2) ** 2)) * rng.uniform(0, 4) * relief
    return np.asarray(texture, dtype=np.float32)


def _base_and_mottle(
    around: float, look: Appearance, intensity: IntensityMap | None, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the tumor's mean intensity and the depth of its mottling, both in canonical units."""
    if intensity is None:
        shift = rng.uniform(0.08, 0.45) * (1 if rng.random() < 0.6 else -1)
        if not 0.02 <= around + shift <= 0.98:
            shift = -shift
        return float(np.clip(around + shift, 0, 1)), float(rng.uniform(0.0, 0.08))
    around_hu = float(intensity.to_native(np.array([around]))[0])
    if look.absolute_hu and (not look.shift_hu or rng.random() < 0.5):
        hu = rng.uniform(*look.absolute_hu[rng.integers(len(look.absolute_hu))])
    else:
        hu = around_hu + rng.uniform(*look.shift_hu[rng.integers(len(look.shift_hu))])
    low, middle, high = intensity.to_unit(np.array([hu - 10, hu, hu + 10]))
    return float(middle), float(rng.uniform(0.0, 1.2) * (high - low))
