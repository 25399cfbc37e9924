"""From maps to masks: threshold, small parts, growth in millimeters. 1 = anomaly = repaint, everywhere.

Masks may be boolean, or 0 and 1 as files hold them, see `as_mask`; those that are returned are boolean.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

from DiffuGTSLib.config import MasksConfig, ResidualConfig
from DiffuGTSLib.volumes.boxes import bounding_box, grown_box
from DiffuGTSLib.volumes.lesions import label_lesions
from DiffuGTSLib.volumes.mask import as_mask


def find_candidates(
    abnormal: Float[np.ndarray, "X Y Z"],
    allowed: Shaped[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    config: MasksConfig,
) -> Bool[np.ndarray, "X Y Z"]:
    """Return the candidates of an AOVA map.

    Paper not available to us; we chose abnormal share > threshold (0.5 equals the argmax over two prompts), because
    the softmax makes it a probability. "relative" measures threshold and peak by the highest value there is, since a
    head is less sure of organs and contrasts that it saw little of, and still ranks their voxels well. "otsu" lets the
    map choose, never below half of the threshold: Otsu would part any noise.

    Args:
        abnormal: The abnormal prompt's share of attention, 0 to 1.
        allowed: Where an anomaly may be: inside the scan, the organ and the region of interest.
        spacing_mm: Of the grid.
        config: Threshold, rule, floor, least peak and smallest volume.
    """
    allowed = as_mask(allowed)
    threshold, peak = candidate_levels(abnormal, allowed, config)
    candidates = drop_faint((abnormal > threshold) & allowed, abnormal, peak)
    return drop_small(candidates, spacing_mm, config.minimum_ml)


def candidate_levels(
    abnormal: Float[np.ndarray, "X Y Z"], allowed: Shaped[np.ndarray, "X Y Z"], config: MasksConfig
) -> tuple[float, float]:
    """Return the attention above which a voxel is a candidate, and the peak that one has to reach, by the rule."""
    allowed = as_mask(allowed)
    highest = float(abnormal[allowed].max()) if allowed.any() else 0.0
    threshold, peak = config.threshold, config.peak
    if config.rule == "relative":
        threshold, peak = (share * highest if highest >= config.floor else np.inf for share in (threshold, peak))
    elif config.rule == "otsu" and allowed.any():
        threshold = max(otsu(abnormal[allowed]), config.threshold / 2)
    return threshold, peak


def in_main_parts(
    allowed: Shaped[np.ndarray, "X Y Z"], organ: Shaped[np.ndarray, "X Y Z"] | None, share: float
) -> Bool[np.ndarray, "X Y Z"]:
    """Return what of a mask lies in the organ's main parts: connected (26 neighbors), at least a share of the largest.

    Not in the paper. An organ is one piece or a few of like size; what a head takes for it elsewhere is mostly small. All
    of the mask stays where the head does not say where the organ is (None), sees it nowhere, or the share is 0.
    """
    allowed = as_mask(allowed)
    if organ is None or share <= 0:
        return allowed
    parts, count = label_lesions(as_mask(organ) & allowed)
    if not count:
        return allowed
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= share * sizes.max())[parts])


def drop_faint(
    mask: Shaped[np.ndarray, "X Y Z"], values: Float[np.ndarray, "X Y Z"], peak: float
) -> Bool[np.ndarray, "X Y Z"]:
    """Remove connected parts (26 neighbors) in which no value reaches a peak."""
    mask = as_mask(mask)
    if peak <= 0:
        return mask
    labels, _ = label_lesions(mask)
    bright = np.unique(labels[mask & (values >= peak)])
    return np.asarray(np.isin(labels, bright[bright > 0]))


def fine_mask(
    fused: Float[np.ndarray, "X Y Z"], candidate: Shaped[np.ndarray, "X Y Z"], config: ResidualConfig
) -> Bool[np.ndarray, "X Y Z"]:
    """Return the voxels of the candidate whose fused residual is high.

    Otsu is computed inside the candidate only: over a whole, mostly empty volume it parts body from background. An
    empty candidate, or one in which nothing changed, gives an empty mask.
    """
    candidate = as_mask(candidate)
    if not candidate.any():
        return candidate
    refined: Bool[np.ndarray, "X Y Z"] = (fused > fine_threshold(fused, candidate, config)) & candidate
    return refined


def fine_threshold(
    fused: Float[np.ndarray, "X Y Z"], candidate: Shaped[np.ndarray, "X Y Z"], config: ResidualConfig
) -> float:
    """Return the threshold that `fine_mask` cuts at; the candidate is not empty.

    Otsu's rule leaves at least the highest value, where it is above 0: equal values cannot be parted, and all of them stay.
    """
    values = fused[as_mask(candidate)]
    if config.rule == "otsu":
        return min(otsu(values), float(np.nextafter(values.max(), 0, dtype=values.dtype)))
    return config.threshold * (float(values.max()) if config.rule == "relative" else 1.0)


def dilate_mm(
    mask: Shaped[np.ndarray, "X Y Z"], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> Bool[np.ndarray, "X Y Z"]:
    """Grow a mask by a distance in mm, the same in all directions whatever the voxels' shape."""
    mask = as_mask(mask)
    if radius_mm <= 0 or not mask.any():
        return mask
    grown = mask.copy()
    reach = [int(np.ceil(radius_mm / spacing)) + 1 for spacing in spacing_mm]
    box = grown_box(bounding_box(mask), reach, mask.shape)
    distance = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm)
    grown[box] = distance <= radius_mm + 1e-6  # 3 voxels of 0.1 mm are 0.30000000000000004 mm
    return grown


def drop_small(
    mask: Shaped[np.ndarray, "X Y Z"], spacing_mm: tuple[float, float, float], minimum_ml: float
) -> Bool[np.ndarray, "X Y Z"]:
    """Remove connected parts (26 neighbors) smaller than a volume in ml."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    mask = as_mask(mask)
    box, kept = bounding_box(mask), np.zeros(mask.shape, dtype=bool)
    labels, count = label_lesions(mask[box])
    large = np.bincount(labels[labels > 0], minlength=count + 1) * voxel_ml >= minimum_ml * (1 - 1e-9)
    large[0] = False
    kept[box] = large[labels]
    return kept


def largest_part(mask: Shaped[np.ndarray, "X Y Z"], by_faces: bool = False) -> Bool[np.ndarray, "X Y Z"]:
    """Return the largest connected part (26 neighbors; with `by_faces` 6) of a mask; an empty mask stays empty."""
    mask = as_mask(mask)
    parts, count = ndimage.label(mask) if by_faces else label_lesions(mask)
    if count < 2:
        return mask
    return np.asarray(parts == 1 + np.argmax(np.bincount(parts[parts > 0])[1:]))


def otsu(values: Shaped[np.ndarray, " *any"]) -> float:
    """Return the threshold that parts intensities into two classes furthest from each other (Otsu, 1979).

    The edge between two of 256 equal bins; where several part equally well, the middle of them. Constant values
    are their own threshold, so that nothing lies above it.
    """
    if values.size == 0 or values.min() == values.max():
        return float(values.max()) if values.size else 0.0
    values = values.astype(np.float64)  # the bins of nearly equal float32 values would have no width
    counts, edges = np.histogram(values, bins=256)
    centers = (edges[:-1] + edges[1:]) / 2.0
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centers)
    gap = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * gap**2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean())
