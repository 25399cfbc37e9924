"""What scores without any network: an ellipsoid that never looks at the image, and one intensity threshold.

Public tumor scans are often cut at a fixed distance around the tumor. Then the box gives the tumor away, and a method
must be seen beside `center_ellipsoid`, and on scans cut and padded at random.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.masks import largest_part, otsu
from DiffuGTSLib.volumes.lesions import acquisition_axis
from DiffuGTSLib.volumes.volume import Volume

CT_BODY_HU = -300.0
"""Above it is body, below it air or lung; the middle of fat (-100) and lung tissue (-500 and less), roughly."""

MARGIN_MM = 50.0
"""At which public data sets are usually cut around the tumor."""
MINIMUM_SEMI_AXIS_MM = 5.0
"""Of the ellipsoid along sides that are too short for the margin."""

PERCENTILES = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0)
"""What `fit_threshold` tries, above and below."""


@dataclass(frozen=True)
class ThresholdRule:
    """How the one threshold is set.

    Attributes:
        percentile: Percentile of the intensities searched; None for Otsu's threshold.
        bright: Whether the tumor is above it, or below.
    """

    percentile: float | None = None
    bright: bool = True

    def __str__(self) -> str:
        """Say it in words."""
        level = "Otsu's threshold" if self.percentile is None else f"the {self.percentile:g}th percentile"
        return f"{'above' if self.bright else 'below'} {level}"

    def __post_init__(self) -> None:
        if self.percentile is not None and not 0 <= self.percentile <= 100:
            raise InputError(f"Expected a percentile of 0 to 100, got {self.percentile}.")


def center_ellipsoid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Bool[np.ndarray, "i j k"]:
    """Return the ellipsoid that keeps `MARGIN_MM` to all six sides of the image box, without looking at the image.

    Args:
        shape: Voxels along (i, j, k).
        spacing_mm: Voxel size along (i, j, k).
    """
    distance = np.zeros(shape)
    for axis, (count, size) in enumerate(zip(shape, spacing_mm, strict=True)):
        semi_axis = max(count * size / 2.0 - MARGIN_MM, MINIMUM_SEMI_AXIS_MM)
        along = (np.arange(count) - (count - 1) / 2.0) * size / semi_axis
        distance += np.expand_dims(along**2, tuple(a for a in range(3) if a != axis))
    return distance <= 1.0


def intensity_threshold(
    scan: Volume,
    modality: str,
    rule: ThresholdRule = ThresholdRule(),
    within: Shaped[np.ndarray, "i j k"] | None = None,
) -> Bool[np.ndarray, "i j k"]:
    """Return the largest connected part beyond one threshold: a tumor segmentation by intensity alone.

    Args:
        scan: Native units.
        modality: "CT" or "MR"; decides what the body is.
        rule: How the threshold is set.
        within: Where to search and to take the intensities from, for example an organ mask; None: the body.

    Raises:
        InputError: If there is nowhere to search.
    """
    region = body_mask(scan, modality) if within is None else within.astype(bool)
    if not region.any():
        raise InputError("Nowhere to search: the region holds no voxel.", hint="check the organ mask or the modality.")
    values = scan.array[region]
    threshold = otsu(values) if rule.percentile is None else float(np.percentile(values, rule.percentile))
    beyond = scan.array > threshold if rule.bright else scan.array < threshold
    return largest_part(beyond & region)


def fit_threshold(cases: Iterable[tuple[Volume, Shaped[np.ndarray, "i j k"]]], modality: str) -> ThresholdRule:
    """Return the bright or dark percentile with the highest mean Dice on these cases: choose on training cases only.

    Args:
        cases: Scans with their reference masks.
        modality: "CT" or "MR".

    Raises:
        InputError: If there is no case.
    """
    rules = [ThresholdRule(percentile, bright) for bright in (True, False) for percentile in PERCENTILES]
    scores: list[list[float]] = []
    for scan, reference in cases:
        body = body_mask(scan, modality)
        scores.append([dice(intensity_threshold(scan, modality, rule, body), reference) for rule in rules])
    if not scores:
        raise InputError("Cannot choose a threshold without cases.")
    return rules[int(np.nanmean(np.array(scores), axis=0).argmax())]


def body_mask(scan: Volume, modality: str) -> Bool[np.ndarray, "i j k"]:
    """Return the patient without the air around: the largest bright part, its holes filled slice by slice.

    Raises:
        InputError: If the modality is neither "CT" nor "MR".
    """
    if modality not in ("CT", "MR"):
        raise InputError(f"Expected modality 'CT' or 'MR', got {modality!r}.")
    body = largest_part(scan.array > (CT_BODY_HU if modality == "CT" else otsu(scan.array)))
    # Slice by slice: lungs and bowel are open to the air only at the ends of a scan.
    axis = acquisition_axis(scan.geometry.spacing_mm)
    slices = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(body, axis, 0)]
    return np.moveaxis(np.stack(slices), 0, axis)
