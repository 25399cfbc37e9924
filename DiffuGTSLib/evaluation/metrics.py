"""How well a mask agrees with a reference: overlap, surfaces in mm, and the order of anomaly scores.

Distances are in mm: the caller gives the voxel size. What an empty mask means is said at `BOTH_EMPTY`.
"""

import warnings
from collections.abc import Sequence
from math import nan

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from monai.metrics.surface_dice import compute_surface_dice
from scipy.stats import rankdata

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.mask import as_mask

BOTH_EMPTY = nan
"""What a figure of overlap is where there was nothing to find and nothing was found; 0 where one mask is empty.

Shown as "n/a" and left out of every mean: a 1 would let healthy scans hide what happens on tumors. Judge healthy scans
by false positives instead.
"""

NSD_TOLERANCE_MM = 2.0
"""Surface deviation that counts as agreement: about what two readers differ by in the trunk."""
BRAIN_NSD_TOLERANCE_MM = 1.0
"""The same in the brain, where scans are finer."""


def dice(pred: Shaped[np.ndarray, "..."], ref: Shaped[np.ndarray, "..."], both_empty: float = BOTH_EMPTY) -> float:
    """Return 2 |pred ∩ ref| / (|pred| + |ref|), 0 to 1.

    Args:
        pred: Mask, boolean or 0 and 1.
        ref: Mask on the same grid.
        both_empty: The value when both are empty.

    Raises:
        InputError: If the shapes differ, or a value is neither 0 nor 1.
    """
    pred, ref = as_masks(pred, ref)
    voxels = np.count_nonzero(pred) + np.count_nonzero(ref)
    return float(2.0 * np.count_nonzero(pred & ref) / voxels) if voxels else both_empty


def surface_dice(
    pred: Shaped[np.ndarray, "_ _ _"],
    ref: Shaped[np.ndarray, "_ _ _"],
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float,
    both_empty: float = BOTH_EMPTY,
) -> float:
    """Return the share of both surfaces that lies within a tolerance of the other one (NSD), 0 to 1.

    MONAI's subvoxel form: the surface runs between voxels and each of its elements counts with its area in mm²,
    so that thick slices do not weigh as thin ones. Nikolov et al., 2018 (arXiv:1809.04430).

    Args:
        pred: Mask, boolean or 0 and 1.
        ref: Mask on the same grid.
        spacing_mm: Voxel size along (i, j, k).
        tolerance_mm: Accepted deviation; a distance of exactly this is accepted.
        both_empty: The value when both are empty.

    Raises:
        InputError: As `as_solid_masks`; or a spacing that is not positive, or a negative tolerance.
    """
    pred, ref = as_solid_masks(pred, ref)
    if len(spacing_mm) != 3 or not all(0 < s < np.inf for s in spacing_mm):
        raise InputError(f"Expected three voxel sizes above 0 mm, got {tuple(spacing_mm)}.")
    if not 0 <= tolerance_mm < np.inf:
        raise InputError(f"Expected a tolerance of 0 mm or more, got {tolerance_mm} mm.")
    if not (pred.any() and ref.any()):
        return 0.0 if pred.any() or ref.any() else both_empty
    box = bounding_box(pred | ref)  # the surfaces lie inside it; a whole chest would cost memory for nothing
    found, truth = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (pred, ref))
    with warnings.catch_warnings():  # MONAI 1.6 calls itself with an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        share = compute_surface_dice(
            found,
            truth,
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=list(spacing_mm),
            use_subvoxels=True,
        )
    return float(share)


def auroc(scores: Sequence[float], anomalous: Sequence[bool]) -> float:
    """Return the chance that an anomalous scan scores above a normal one, ties counting half; NaN without both kinds.

    Args:
        scores: One anomaly score a scan.
        anomalous: Whether that scan truly holds an anomaly.

    Raises:
        InputError: If the lengths differ, or a score is not finite.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(anomalous, dtype=bool)
    if values.shape != truth.shape or values.ndim != 1:
        raise InputError(f"Expected one label a score, got {values.size} scores and {truth.size} labels.")
    if not np.isfinite(values).all():
        raise InputError(f"Expected finite scores, got {int((~np.isfinite(values)).sum())} NaN or infinite ones.")
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return nan
    # Mann-Whitney: the rank sum of the positives, less what they have among themselves.
    wins = rankdata(values)[truth].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def as_masks(
    pred: Shaped[np.ndarray, "..."], ref: Shaped[np.ndarray, "..."]
) -> tuple[Bool[np.ndarray, " *grid"], Bool[np.ndarray, " *grid"]]:
    """Return two arrays as booleans.

    Raises:
        InputError: If the shapes differ, or as `as_mask`.
    """
    if pred.shape != ref.shape:
        raise InputError(
            f"Prediction and reference differ in shape: {pred.shape} and {ref.shape}.",
            hint="bring both to the grid of the scan first.",
        )
    return as_mask(pred, "prediction"), as_mask(ref, "reference")


def as_solid_masks(
    pred: Shaped[np.ndarray, "..."], ref: Shaped[np.ndarray, "..."]
) -> tuple[Bool[np.ndarray, "i j k"], Bool[np.ndarray, "i j k"]]:
    """Return two 3D arrays as booleans: lesions and their surfaces are those of a volume.

    Raises:
        InputError: As `as_masks`; or if they are not 3D.
    """
    pred, ref = as_masks(pred, ref)
    if pred.ndim != 3:
        raise InputError(
            f"Expected masks of three dimensions, got the shape {pred.shape}.",
            hint="a slice is one as mask[:, :, None].",
        )
    return pred, ref
