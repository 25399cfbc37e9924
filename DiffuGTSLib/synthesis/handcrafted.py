"""Painters that need no weights: SyntheticTumors' recipe, and a varied one for any organ on CT and MR.

Follow the approach of SyntheticTumors (Hu et al., CVPR 2023), written from our own description.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.synthesis.painter import Site
from DiffuGTSLib.synthesis.texture import Noise, draw_grain, measure_noise, mottle, recipe_texture
from DiffuGTSLib.volumes.boxes import Box, bounding_box

CT_RANGE_HU = (-1024.0, 3071.0)
"""What a CT can hold in 12 bits; painted intensities stay within."""


AERATED_HU = -500.0
"""Tissue darker than this is lung."""
GROUND_GLASS_HU = -200.0
"""A tumor of the lung darker than this is a haze through which vessels are seen."""


class RecipePainter:
    """SyntheticTumors as released: the scan minus a texture times a drop in HU.

    On MR, where its HU mean nothing, the drop is one of the organ's `shift_sd` instead, and may brighten.
    """

    name = "recipe"
    context_mm = 0.0
    whole_box = False

    def paint(self, site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the box with tumor as far as its share reaches."""
        if site.modality == "CT":
            drop = rng.uniform(*site.spec.ct.drop_hu)
        else:
            low, high = site.spec.mr.shift_sd[int(rng.integers(len(site.spec.mr.shift_sd)))]
            drop = -rng.uniform(low, high) * mr_unit(site.image, reference_tissue(site))
        painted, box = site.image.copy(), _support(site)
        painted[box] -= recipe_texture(painted[box].shape, site.spacing_mm, rng) * np.float32(drop)
        return painted


class HandcraftedPainter:
    """Base intensity by organ, the scan's own grain, mottle, and sometimes a necrotic core, a rim or a haze around."""

    name = "handcrafted"
    context_mm = 0.0
    whole_box = False

    def paint(self, site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the box with tumor as far as its share reaches."""
        tissue = reference_tissue(site)
        around = float(np.median(site.image[tissue]))
        base, unit = _base_ct(site, around, rng) if site.modality == "CT" else _base_mr(site, tissue, around, rng)
        noise = measure_noise(site.image, _grain_tissue(site, tissue))
        painted, box = site.image.copy(), _support(site)
        near = replace(site, image=site.image[box], share=site.share[box], organ=site.organ[box])
        painted[box] = _filled(near, base, around, unit, noise, rng)
        return painted


def reference_tissue(site: Site) -> NDArray[np.bool_]:
    """Return the organ around the tumor, which contrast is measured against; the best there is where none is left."""
    outside = site.share <= 0
    for where in (site.organ & outside, site.organ, outside):
        if np.count_nonzero(where) >= 20:
            return np.asarray(where)
    return np.ones(site.share.shape, dtype=bool)


def mr_unit(image: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float:
    """Return the standard deviation of an organ on MR, robust, and at least 4 % of the box's range.

    A painted or denoised organ may be as flat as paper; its tumors would not show.
    """
    values = image[tissue]
    low, high = np.percentile(image[::2, ::2, ::2], (0.5, 99.5))
    return max(1.4826 * float(np.median(np.abs(values - np.median(values)))), 0.04 * float(high - low), 1e-6)


def _filled(
    site: Site, base: float, around: float, unit: float, noise: Noise, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return tumor in a whole box: base intensity, mottle, core or rim, and grain or what is seen through a haze."""
    width_mm = float(np.clip(rng.uniform(0.2, 0.6) * site.radius_mm, 2.0, 12.0))
    texture = rng.uniform(0.0, 1.2) * unit * mottle(site.image.shape, site.spacing_mm, width_mm, rng)
    texture = texture + _relief(site, unit, rng)
    aerated = site.modality == "CT" and around < AERATED_HU
    if aerated and base < GROUND_GLASS_HU:
        texture = texture + _ground_glass(site.image, base, around)  # keeps the scan's own grain
    else:
        texture = texture + base + _grain(site, noise, rng)
        if aerated and rng.random() < site.spec.ct.part_solid_chance:
            texture = _with_haze(site, texture, rng)
    low, high = CT_RANGE_HU if site.modality == "CT" else (float(site.image.min()), np.inf)
    return np.asarray(np.clip(texture, low, high), dtype=np.float32)


def _support(site: Site) -> Box:
    """Return the part of the box that the tumor reaches: textures for its margin would be drawn for nothing."""
    reached = site.share > 0
    return bounding_box(reached) if reached.any() else (slice(0, 0),) * 3


def _base_ct(site: Site, around_hu: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return the tumor's mean intensity and the unit of its mottling, in HU."""
    look = site.spec.ct
    if look.absolute_hu and (not look.shift_hu or rng.random() < 0.5):
        return float(rng.uniform(*look.absolute_hu[int(rng.integers(len(look.absolute_hu)))])), 10.0
    shifts = look.shift_hu
    return around_hu + float(rng.uniform(*shifts[int(rng.integers(len(shifts)))])), 10.0


def _base_mr(site: Site, tissue: NDArray[np.bool_], around: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return the tumor's mean intensity and the unit of its mottling; a shift that leaves the range turns around."""
    unit = mr_unit(site.image, tissue)
    shifts = site.spec.mr.shift_sd
    shift = unit * float(rng.uniform(*shifts[int(rng.integers(len(shifts)))]))
    low, high = _mr_range(site.image)
    if not low <= around + shift <= high:
        shift = -shift
    return float(np.clip(around + shift, low, high)), 0.5 * unit


def _mr_range(image: NDArray[np.float32]) -> tuple[float, float]:
    """Return what a tumor's intensity may be: a quarter of the box's range above its brightest tissue at most."""
    low, high = np.percentile(image[::2, ::2, ::2], (0.5, 99.5))
    return float(low), float(high + 0.25 * (high - low))


def _relief(site: Site, unit: float, rng: np.random.Generator) -> NDArray[np.float32] | float:
    """Return what is added from border to core: a necrotic core, an enhancing rim, or nothing."""
    # Contrast agents make a far larger difference between rim and core on MR than on CT.
    height = max(unit, 20.0) if site.modality == "CT" else rng.uniform(0.5, 3.0) * unit
    kind = rng.random()
    if kind < 0.25 and site.radius_mm > 6:
        return np.asarray(np.clip((_depth(site) - 0.35) * 4, 0, 1) * rng.uniform(-3, 1) * height)
    if kind < 0.4:
        return np.asarray(np.exp(-((_depth(site) / 0.2) ** 2)) * rng.uniform(0, 3) * height)
    return 0.0


def _ground_glass(image: NDArray[np.float32], base: float, around: float) -> NDArray[np.float32]:
    """Return the scan with part of its air replaced by tissue: lung at `around` becomes `base`, vessels stay."""
    tissue_hu = 40.0
    share = (base - around) / (tissue_hu - around)
    return np.asarray(image + share * np.maximum(tissue_hu - image, 0), dtype=np.float32)


def _with_haze(site: Site, texture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a part-solid tumor: its outer part is a haze through which vessels are seen."""
    solid = rng.uniform(0.15, 0.4) + np.clip((_depth(site) - rng.uniform(0.3, 0.6)) * 3, 0, 1)
    return np.asarray(site.image + np.minimum(solid, 1.0) * (texture - site.image), dtype=np.float32)


def _depth(site: Site) -> NDArray[np.float32]:
    """Return how deep a voxel lies below the tumor's border, in radii."""
    depth = np.zeros(site.share.shape, dtype=np.float32)
    inside = site.share > 0.5
    if inside.any():
        box = bounding_box(inside)  # the margin of the box costs more than the tumor
        near = np.pad(inside[box], 1)
        depth_mm = ndimage.distance_transform_edt(near, sampling=site.spacing_mm)[1:-1, 1:-1, 1:-1]
        depth[box] = depth_mm / max(site.radius_mm, 1.0)
    return depth


def _grain(site: Site, noise: Noise, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the scan's grain, stronger where scan and paint are mixed, so that the mixture is as grainy as the scan.

    Two independent grains mixed by shares s and 1 - s are calmer than either; with the paint's grain times
    √((2 - s) / s) the mixture has the scan's own variance.
    """
    share = np.maximum(site.share, 0.2)
    return np.asarray(draw_grain(site.image.shape, noise, rng) * np.sqrt((2 - share) / share), dtype=np.float32)


def _grain_tissue(site: Site, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where the grain is measured: in lung what varies is anatomy, so that solid tissue near it is taken."""
    if site.modality == "CT" and float(np.median(site.image[tissue])) < AERATED_HU:
        solid = ndimage.binary_erosion((site.image > -50) & (site.image < 150))
        if np.count_nonzero(solid) >= 200:
            return np.asarray(solid)
    return tissue
