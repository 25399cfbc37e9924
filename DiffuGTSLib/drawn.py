"""Candidates that a person drew instead of having them detected: within the region, and on the model's grid."""

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import CanonicalScan, Volume
from DiffuGTSLib.volumes.boxes import Box, bounding_box
from DiffuGTSLib.volumes.lesions import label_lesions

TOUCHED = 0.02
"""Coverage of a voxel below this counts as none: smoothing spreads every edge a little."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a person drew.

    Attributes:
        given: In the region, uint8, on the scan's own grid.
        candidate: The same on the canonical grid, boolean.
        cut_off: What of it lay outside the region, in words; "" for nothing.
    """

    given: Volume
    candidate: np.ndarray
    cut_off: str


def within(region: Volume | None, box: Box | EllipsisType = ...) -> np.ndarray:
    """Return where a region is, boolean, in a box of its grid; without one, a single True that spreads over any grid."""
    return np.array(True) if region is None else np.asarray(region.array[box] > 0)


def inside_region(coarse_mask: Volume, region: Volume | None, *, drop_outside: bool = False) -> tuple[Volume, str]:
    """Return the user's candidates as far as they lie in the region, and what was cut off, in words.

    What merely touches the region would smear into it.

    Args:
        coarse_mask: The candidates.
        region: The only place where an anomaly may be; None for everywhere.
        drop_outside: Whether candidates wholly outside are cut off too, as a threshold of the attention map draws them.
            By default they are refused, since a person would not draw them in vain.

    Raises:
        InputError: If a candidate (26 neighbors) lies wholly outside (code "outside_region"), or all do (code
            "empty_candidate").
    """
    drawn = coarse_mask.array > 0
    inside = drawn & within(region)
    if drawn.any() and not inside.any():
        raise InputError(
            "The coarse mask lies outside the region.",
            hint="paint a candidate in it, or leave the mask away to have it detected.",
            code="empty_candidate",
        )
    box, voxel_ml = bounding_box(drawn), coarse_mask.geometry.voxel_volume_ml
    parts, count = label_lesions(drawn[box])
    voxels, kept = (np.bincount(parts[mask[box]], minlength=count + 1) for mask in (drawn, inside))
    outside = np.flatnonzero((voxels > 0) & (kept == 0))
    if outside.size and not drop_outside:
        largest = outside[voxels[outside].argmax()]
        middle = np.argwhere(parts == largest).mean(axis=0) + [side.start for side in box]
        place = ", ".join(f"{mm:.0f}" for mm in coarse_mask.geometry.to_ras(middle))
        raise InputError(
            f"{outside.size} of {count} drawn candidates {'lie' if outside.size > 1 else 'lies'} outside the region, "
            f"{voxels[outside].sum() * voxel_ml:.2f} ml, the largest around RAS {place} mm.",
            hint="erase what lies outside, or segment again with another --organ-mask or --roi, or with neither.",
            code="outside_region",
        )
    lost, all_ml = voxels.sum() - kept.sum(), voxels.sum() * voxel_ml
    cut_off = f"{lost * voxel_ml:.2f} of {all_ml:.2f} ml that were drawn lie outside the region and were cut off"
    return coarse_mask.with_array(inside.astype(np.uint8)), cut_off if lost else ""


def drawn_candidates(coarse_mask: Volume, region: Volume | None, allowed: np.ndarray, scan: CanonicalScan) -> Drawn:
    """Return the user's candidates in the region, on the scan's grid and on the canonical one: voxels covered by half.

    One that is too thin to cover any by half keeps those that it covers best, so that none is lost.

    Raises:
        InputError: As `inside_region`, or if nothing is left on the canonical grid (code "empty_candidate").
    """
    given, cut_off = inside_region(coarse_mask, region)
    covered = scan.project(given) * allowed
    candidate: np.ndarray = covered >= 0.5
    parts, count = label_lesions(covered > TOUCHED)
    best = np.asarray(ndimage.maximum(covered, parts, np.arange(count + 1)))
    candidate |= (parts > 0) & (covered >= best[parts] / 2) & (best[parts] < 0.5)
    if not candidate.any():
        raise InputError(
            "The coarse mask is too small for one voxel of the model's grid.",
            hint="paint a larger candidate, or leave the mask away to have it detected.",
            code="empty_candidate",
        )
    return Drawn(given, candidate, cut_off)
