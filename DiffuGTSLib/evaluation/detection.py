"""Lesions found and missed: what a radiologist counts, beside what overlaps.

Rule: a reference lesion is found when one predicted lesion overlaps it with an IoU of at least `minimum_iou`. A
predicted lesion that finds no reference lesion is a false positive, fragments of a tumor included. One predicted
lesion may find several references that it covers, so that merging neighbors is not punished twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np
from jaxtyping import Shaped
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.metrics import as_masks
from DiffuGTSLib.findings import acquisition_axis, label_lesions, longest_in_plane_diameter_mm

SIZE_EDGES_MM = (10.0, 20.0, 50.0)
"""Longest in-plane diameters that part the size classes in which sensitivity is reported."""


@dataclass(frozen=True)
class Lesion:
    """One connected lesion, of the reference or of the prediction.

    Attributes:
        volume_ml: Its volume.
        longest_in_plane_diameter_mm: Its diameter, measured as in `DiffuGTSLib.findings`.
        best_iou: Highest IoU with any lesion of the other mask; 0 when none touches it.
        matched: Whether that IoU reaches the rule: found (reference), or a true positive (prediction).
    """

    volume_ml: float
    longest_in_plane_diameter_mm: float
    best_iou: float
    matched: bool


@dataclass(frozen=True)
class Detection:
    """The lesions of one scan, judged.

    Attributes:
        reference: Lesions that are there, in the order of the grid.
        predicted: Lesions that were seen, in the order of the grid.
        minimum_iou: The rule they were matched with.
    """

    reference: tuple[Lesion, ...]
    predicted: tuple[Lesion, ...]
    minimum_iou: float

    @property
    def found(self) -> int:
        """Number of reference lesions that were found."""
        return sum(lesion.matched for lesion in self.reference)

    @property
    def false_positives(self) -> int:
        """Number of predicted lesions that find nothing."""
        return sum(not lesion.matched for lesion in self.predicted)

    @property
    def sensitivity(self) -> float:
        """Share of the reference lesions that were found; NaN on a scan without any."""
        return _share(self.found, len(self.reference))

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are true; NaN when nothing was predicted."""
        return _share(len(self.predicted) - self.false_positives, len(self.predicted))


@dataclass(frozen=True)
class DetectionSummary:
    """Many scans together. Lesions are pooled: a scan with ten lesions weighs ten times one with one.

    Attributes:
        scans: Number of scans.
        lesions: Number of reference lesions in all of them.
        sensitivity: Share of those that were found; NaN when there are none.
        false_positives_per_scan: Over all scans, with and without lesions.
        healthy_scans: Number of scans without a reference lesion.
        healthy_specificity: Share of those in which nothing was predicted; NaN when there are none.
        sensitivity_by_size: "10 to 20 mm" → (found, lesions), by longest in-plane diameter.
    """

    scans: int
    lesions: int
    sensitivity: float
    false_positives_per_scan: float
    healthy_scans: int
    healthy_specificity: float
    sensitivity_by_size: Mapping[str, tuple[int, int]]


def detect(
    pred: Shaped[np.ndarray, "_ _ _"],
    ref: Shaped[np.ndarray, "_ _ _"],
    spacing_mm: tuple[float, float, float],
    minimum_iou: float = 0.1,
) -> Detection:
    """Match the lesions of a prediction to those of a reference.

    Args:
        pred: Mask, boolean or 0 and 1; its lesions are 26-connected components.
        ref: Mask on the same grid.
        spacing_mm: Voxel size along (i, j, k).
        minimum_iou: Overlap from which a lesion counts as found; above 0, at most 1. Equality counts.

    Raises:
        InputError: If the shapes differ, a value is neither 0 nor 1, or the rule is out of range.
    """
    if not 0 < minimum_iou <= 1:
        raise InputError(f"Expected a minimum IoU above 0 and at most 1, got {minimum_iou}.")
    pred, ref = as_masks(pred, ref)
    predicted, predicted_count = label_lesions(pred)
    reference, reference_count = label_lesions(ref)
    # Pairs counted over the union only: most of a scan is in neither mask.
    union = pred | ref
    pairs = np.zeros((reference_count + 1, predicted_count + 1), dtype=np.int64)
    np.add.at(pairs, (reference[union], predicted[union]), 1)
    shared = pairs[1:, 1:]
    either = pairs.sum(axis=1)[1:, None] + pairs.sum(axis=0)[None, 1:] - shared
    iou = shared / np.maximum(either, 1)
    return Detection(
        reference=_lesions(reference, iou.max(axis=1, initial=0.0), spacing_mm, minimum_iou),
        predicted=_lesions(predicted, iou.max(axis=0, initial=0.0), spacing_mm, minimum_iou),
        minimum_iou=minimum_iou,
    )


def summarize_detections(
    detections: Sequence[Detection], size_edges_mm: Sequence[float] = SIZE_EDGES_MM
) -> DetectionSummary:
    """Pool the lesions of many scans into one summary; a lesion exactly on an edge belongs to the larger class."""
    lesions = [lesion for detection in detections for lesion in detection.reference]
    healthy = [detection for detection in detections if not detection.reference]
    by_size = {}
    for low, high in zip((0.0, *size_edges_mm), (*size_edges_mm, inf), strict=True):
        within = [lesion.matched for lesion in lesions if low <= lesion.longest_in_plane_diameter_mm < high]
        by_size[_size_name(low, high)] = (sum(within), len(within))
    return DetectionSummary(
        scans=len(detections),
        lesions=len(lesions),
        sensitivity=_share(sum(lesion.matched for lesion in lesions), len(lesions)),
        false_positives_per_scan=_share(sum(d.false_positives for d in detections), len(detections)),
        healthy_scans=len(healthy),
        healthy_specificity=_share(sum(not d.predicted for d in healthy), len(healthy)),
        sensitivity_by_size=by_size,
    )


def _lesions(
    labels: Shaped[np.ndarray, "i j k"],
    best_iou: Shaped[np.ndarray, " lesions"],
    spacing_mm: tuple[float, float, float],
    minimum_iou: float,
) -> tuple[Lesion, ...]:
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    axis = acquisition_axis(spacing_mm)
    lesions = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        voxels = labels[box] == number
        iou = float(best_iou[number - 1])
        diameter_mm = longest_in_plane_diameter_mm(voxels, spacing_mm, axis)
        lesions.append(Lesion(int(voxels.sum()) * voxel_ml, diameter_mm, iou, iou >= minimum_iou))
    return tuple(lesions)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else nan


def _size_name(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:g} mm"
    return f"{low:g} mm or more" if high == inf else f"{low:g} to {high:g} mm"
