"""What a training window shows that its scan does not: painted tumors, decoys, organs in other phases of the contrast agent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from DiffuGTSLib.resources import organ_names
from DiffuGTSLib.synthesis.decoys import paint_tubes
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter
from DiffuGTSLib.synthesis.organs import OrganSpec, organ_spec
from DiffuGTSLib.synthesis.outline import ends_of, outline_tumor
from DiffuGTSLib.synthesis.painter import paint_outline
from DiffuGTSLib.synthesis.placement import NoPlace, place
from DiffuGTSLib.synthesis.shapes import SIZE_NAMES, draw_shape, size_of_radius
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.volumes.canonical import IntensityMap

EXOPHYTIC_CHANCE = 0.3
"""Share of training tumors that may leave their organ, whatever the organ, so that the head follows them out."""


def training_spec(organ: str) -> OrganSpec:
    """Return the organ's file with the chance of leaving the organ raised; unknown organs get the general file."""
    spec = organ_spec(organ if organ in organ_names() else "other")
    chances = {name: max(EXOPHYTIC_CHANCE, spec.exophytic_chance.get(name, 0.0)) for name in SIZE_NAMES}
    return replace(spec, exophytic_chance=chances)


def paint_tumors(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    spec: OrganSpec,
    count: int,
    intensity: IntensityMap | None,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    blur_voxels: float = 0.5,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Paint tumors into a canonical window; those that find no place are left out.

    Args:
        image: (X, Y, Z) in [0, 1].
        organ: Where they may lie.
        spec: The organ; radii are log-uniform in its range, so that small tumors are as frequent as large ones.
        count: How many are tried.
        intensity: The CT's map from HU, through which it is painted; None for MR and painted anatomy.
        spacing_mm: Of the window.
        rng: Source of randomness.
        blur_voxels: Of the scan as it lies on the canonical grid; a tumor's edge is at least that soft.

    Returns:
        (painted image, tumor mask).
    """
    modality = "MR" if intensity is None else "CT"
    blur_mm = (blur_voxels * spacing_mm[0], blur_voxels * spacing_mm[1], blur_voxels * spacing_mm[2])
    native = image if intensity is None else intensity.to_native(image)
    image, mask = image.copy(), np.zeros(image.shape, dtype=bool)
    for _ in range(count):
        size = size_of_radius(float(np.exp(rng.uniform(*np.log(spec.radius_mm)))), spec.sizes)
        shape = draw_shape(size, rng)
        found = place(organ, shape.radius_mm, spacing_mm, rng)
        if isinstance(found, NoPlace):
            continue
        center = found.center_voxel
        outline = outline_tumor(
            native, organ, shape, center, spec, size.name, spacing_mm, modality, rng, sharpness_mm=blur_mm,
            clipped_at=ends_of(intensity),
        )  # fmt: skip
        if isinstance(outline, NoPlace):
            continue
        box, changed = outline.box, outline.share > 0
        painted = paint_outline(native[box], organ[box], outline, _PAINTER, spec, spacing_mm, modality, rng)
        unit = painted[changed] if intensity is None else intensity.to_unit(painted[changed])
        image[box][changed] = np.clip(unit, 0, 1)
        native = native.copy()
        native[box] = painted
        mask[box] |= outline.mask
    return image, mask


_PAINTER = HandcraftedPainter()

AERATED_UNIT = 0.15
"""An organ of a CT whose median is darker than this on the canonical scale (about -500 HU) is lung."""
OTHER_ORGAN_SHIFT_HU = (-30.0, 180.0)
"""Of an organ that is not asked for; kidneys in the arterial phase gain most."""
RIM_CHANCE, RIM_MM = 0.3, (4.0, 10.0)
"""The cortex of a kidney is bright before its medulla is; the walls of bowel and stomach are bright around what they hold."""
DECOY_HU = (-60.0, 220.0)
"""Vessels of the lung, from one that is thinner than a voxel's edge to one full of contrast agent."""


def edge_blur_voxels(scan: TrainingScan, rng: np.random.Generator) -> float:
    """Draw how soft edges are painted: about as soft as the scan's own on the canonical grid, which its voxels decide.

    Paint that is always sharper than its scan would be known by that alone.
    """
    if scan.painted:
        return float(rng.uniform(0.3, 0.8))  # of `paint_labels`
    coarse = max(1.0, float(np.mean(scan.scan.source.spacing_mm)) / float(np.mean(scan.scan.spacing_mm)))
    return float(rng.uniform(0.35, 0.55) * coarse)


def shift_organ(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    intensity: IntensityMap,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    shift_hu: tuple[float, float] = (-30.0, 80.0),
) -> NDArray[np.float32]:
    """Make a solid organ of a CT brighter or darker, now and then its rim more than its inside; lung and an absent organ stay."""
    if not organ.any() or float(np.median(image[organ])) < AERATED_UNIT:
        return image
    share = organ.astype(np.float32)
    if rng.random() < RIM_CHANCE:
        depth = ndimage.distance_transform_edt(organ, sampling=spacing_mm) - rng.uniform(*RIM_MM)
        share[depth > 0] = rng.random()
    share = ndimage.gaussian_filter(share, 0.7)
    shifted = intensity.to_native(image) + np.float32(rng.uniform(*shift_hu)) * share
    return np.clip(intensity.to_unit(shifted), 0, 1)


def paint_decoys(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    intensity: IntensityMap | None,
    blur_voxels: float,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Paint one to five tubes into an organ: in lung as dense as blood, elsewhere brighter or darker than the organ."""
    if not organ.any():
        return image
    count, around = int(rng.integers(1, 6)), float(np.median(image[organ]))
    if intensity is not None and around < AERATED_UNIT:
        level = float(intensity.to_unit(rng.uniform(*DECOY_HU, 1))[0])
    else:
        level = around + float(rng.choice((-1, 1, 1))) * rng.uniform(0.05, 0.5)
    painted = paint_tubes(image, organ, count, float(np.clip(level, 0, 1)), blur_voxels, spacing_mm, rng)
    return np.clip(painted, 0, 1)
