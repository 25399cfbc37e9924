"""Lesions found and missed: what a radiologist counts, beside what overlaps.

Rule: a lesion is matched when it touches the other mask, with an IoU of at least `minimum_iou` with one of its lesions
and at least `minimum_coverage` of its own voxels in that mask. A reference lesion that is matched was found; a predicted
one that is not is a false positive, fragments of a tumor included. One predicted lesion may find several references that
it covers, so that merging neighbors is not punished twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, nan

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import ndimage

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.metrics import as_solid_masks
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.lesions import label_lesions, longest_in_plane_diameter_mm

MINIMUM_IOU = 0.1
"""Overlap with one lesion from which a lesion counts as matched, unless a study asks for another."""


@dataclass(frozen=True)
class Lesion:
    """One connected lesion, of the reference or of the prediction.

    Attributes:
        volume_ml: Its volume.
        longest_in_plane_diameter_mm: Its diameter, measured as in `DiffuGTSLib.volumes.lesions`.
        best_iou: Highest IoU with any lesion of the other mask; 0 when none touches it.
        coverage: Share of its voxels that lie in the other mask.
        matched: Whether both reach the rule: found (reference), or a true positive (prediction).
    """

    volume_ml: float
    longest_in_plane_diameter_mm: float
    best_iou: float
    coverage: float
    matched: bool

    @property
    def radius_mm(self) -> float:
        """Radius of the ball of the same volume: (3 V / 4 π)^⅓."""
        return ball_radius_mm(self.volume_ml)


@dataclass(frozen=True)
class Detection:
    """The lesions of one scan, judged.

    Attributes:
        reference: Lesions that are there, in the order of the grid.
        predicted: Lesions that were seen, in the order of the grid.
    """

    reference: tuple[Lesion, ...]
    predicted: tuple[Lesion, ...]

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


def detect(
    pred: Shaped[np.ndarray, "_ _ _"],
    ref: Shaped[np.ndarray, "_ _ _"],
    spacing_mm: tuple[float, float, float],
    minimum_iou: float = MINIMUM_IOU,
    minimum_coverage: float = 0.0,
) -> Detection:
    """Match the lesions of a prediction to those of a reference.

    Args:
        pred: Mask, boolean or 0 and 1; its lesions are 26-connected components.
        ref: Mask on the same grid.
        spacing_mm: Voxel size along (i, j, k).
        minimum_iou: Overlap with one lesion from which a lesion counts as matched; at 0 a single voxel is enough.
            Equality counts.
        minimum_coverage: Share of a lesion's own voxels that must lie in the other mask; at 0 a single voxel is enough.

    Raises:
        InputError: If the shapes differ, a value is neither 0 nor 1, or the rule is out of range.
    """
    rule = (minimum_iou, minimum_coverage)
    for name, value in zip(("IoU", "coverage"), rule, strict=True):
        if not 0 <= value <= 1:
            raise InputError(f"Expected a minimum {name} of 0 to 1, got {value}.")
    predicted, reference, pairs = paired_lesions(pred, ref)
    return Detection(
        reference=_lesions(reference, pairs, spacing_mm, rule),
        predicted=_lesions(predicted, pairs.T, spacing_mm, rule),
    )


def false_positive_count(pred: Shaped[np.ndarray, "_ _ _"], ref: Shaped[np.ndarray, "_ _ _"]) -> int:
    """Return `detect(…).false_positives` without measuring lesions, which takes longest where hundreds of masks are judged."""
    _, _, pairs = paired_lesions(pred, ref)
    return sum(not _matched(*figures, (MINIMUM_IOU, 0.0)) for figures in _overlaps(pairs.T))


def by_size(
    lesions: Sequence[Lesion], edges_mm: Sequence[float], size_mm: Callable[[Lesion], float]
) -> Iterator[tuple[str, list[Lesion]]]:
    """Yield the lesions of each size class with its name, smallest first; one exactly on an edge is in the larger.

    Args:
        lesions: In any order.
        edges_mm: What parts the classes, rising, without 0 and infinity.
        size_mm: What of a lesion is compared with them.

    Raises:
        InputError: If the edges do not rise from above 0.
    """
    edges = (0.0, *edges_mm, inf)
    if any(low >= high for low, high in pairwise(edges)):
        raise InputError(f"Expected size edges that rise from above 0 mm, got {tuple(edges_mm)}.")
    for low, high in pairwise(edges):
        yield _size_name(low, high), [lesion for lesion in lesions if low <= size_mm(lesion) < high]


def paired_lesions(
    pred: Shaped[np.ndarray, "_ _ _"], ref: Shaped[np.ndarray, "_ _ _"]
) -> tuple[Int[np.ndarray, "i j k"], Int[np.ndarray, "i j k"], Int[np.ndarray, "reference predicted"]]:
    """Return the numbered lesions of both masks, and how many voxels each pair has in common, number 0 being outside.

    The numbers are those of the box that holds both masks: most of a scan is in neither.

    Raises:
        InputError: As `as_solid_masks`.
    """
    pred, ref = as_solid_masks(pred, ref)
    union = pred | ref
    box = bounding_box(union)
    union = union[box]
    predicted, predicted_count = label_lesions(pred[box])
    reference, reference_count = label_lesions(ref[box])
    pairs = np.zeros((reference_count + 1, predicted_count + 1), dtype=np.int64)
    np.add.at(pairs, (reference[union], predicted[union]), 1)
    return predicted, reference, pairs


def iou_table(pairs: Int[np.ndarray, "own other"]) -> Float[np.ndarray, "lesions others"]:
    """Return the IoU of every lesion of one mask with every one of the other, from what `paired_lesions` counted."""
    shared = pairs[1:, 1:]
    either = pairs[1:].sum(axis=1)[:, None] + pairs[:, 1:].sum(axis=0)[None] - shared
    iou: Float[np.ndarray, "lesions others"] = shared / np.maximum(either, 1)
    return iou


def _overlaps(pairs: Int[np.ndarray, "own other"]) -> list[tuple[float, float]]:
    """Return of each of one mask's lesions its best IoU and its coverage."""
    iou = iou_table(pairs).max(axis=1, initial=0.0)
    coverage = pairs[1:, 1:].sum(axis=1) / np.maximum(pairs[1:].sum(axis=1), 1)
    return [(float(one), float(other)) for one, other in zip(iou, coverage, strict=True)]


def _matched(iou: float, coverage: float, rule: tuple[float, float]) -> bool:
    return coverage > 0 and iou >= rule[0] and coverage >= rule[1]


def _lesions(
    labels: Shaped[np.ndarray, "i j k"],
    pairs: Int[np.ndarray, "own other"],
    spacing_mm: tuple[float, float, float],
    rule: tuple[float, float],
) -> tuple[Lesion, ...]:
    """Measure and judge one mask's lesions.

    Args:
        labels: Their numbers on the grid.
        pairs: Voxels by own number and the other mask's number, 0 being outside.
        spacing_mm: Voxel size.
        rule: Smallest IoU and coverage.
    """
    own = pairs[1:].sum(axis=1)
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    lesions = []
    for number, (box, figures) in enumerate(zip(ndimage.find_objects(labels), _overlaps(pairs), strict=True)):
        diameter_mm = longest_in_plane_diameter_mm(labels[box] == number + 1, spacing_mm)
        lesions.append(Lesion(int(own[number]) * voxel_ml, diameter_mm, *figures, _matched(*figures, rule)))
    return tuple(lesions)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else nan


def _size_name(low: float, high: float) -> str:
    if low == 0:
        return f"below {high:g} mm"
    return f"{low:g} mm or more" if high == inf else f"{low:g} to {high:g} mm"
