"""Lesions as instances: F1 and panoptic quality, with each lesion matched to one other at most.

`DiffuGTSLib.evaluation.detection` asks what a radiologist asks (was it found, what was false), with a lenient rule and
several references to one prediction. Here is the strict rule of the instance literature beside it: panoptica's default,
an IoU of at least 0.5, one to one, the best pairs first.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Float, Shaped

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.detection import Detection, paired_lesions
from DiffuGTSLib.evaluation.metrics import BOTH_EMPTY

PANOPTIC_IOU = 0.5


@dataclass(frozen=True)
class Instances:
    """The lesions of one scan, matched one to one.

    Attributes:
        matched_iou: IoU of each matched pair, highest first.
        missed: Reference lesions without a partner.
        false_positives: Predicted lesions without a partner.
    """

    matched_iou: tuple[float, ...]
    missed: int
    false_positives: int

    @property
    def recognition_quality(self) -> float:
        """Lesion-wise F1: TP / (TP + FP / 2 + FN / 2)."""
        return f1(len(self.matched_iou), self.missed, self.false_positives)

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the matched pairs; NaN without any."""
        return float(np.mean(self.matched_iou)) if self.matched_iou else nan

    @property
    def panoptic_quality(self) -> float:
        """Recognition times segmentation quality; 0 where nothing matches. Kirillov et al., CVPR 2019."""
        return self.recognition_quality * self.segmentation_quality if self.matched_iou else self.recognition_quality


def match_instances(
    pred: Shaped[np.ndarray, "_ _ _"],
    ref: Shaped[np.ndarray, "_ _ _"],
    minimum_iou: float = PANOPTIC_IOU,
) -> Instances:
    """Pair the lesions of two masks one to one, those of the highest IoU first.

    From an IoU above 0.5 on there is only one way to pair them; below, the order decides.

    Args:
        pred: Mask, boolean or 0 and 1; its lesions are 26-connected components.
        ref: Mask on the same grid.
        minimum_iou: From which a pair counts, equality included; above 0.

    Raises:
        InputError: If the shapes differ, a value is neither 0 nor 1, or the IoU is not above 0 and at most 1.
    """
    if not 0 < minimum_iou <= 1:
        raise InputError(f"Expected a minimum IoU above 0 and at most 1, got {minimum_iou}.")
    iou = _iou_table(pred, ref)
    free_refs, free_preds, matched = set(range(iou.shape[0])), set(range(iou.shape[1])), []
    for place in np.argsort(-iou, axis=None, kind="stable"):
        row, column = divmod(int(place), iou.shape[1])
        if iou[row, column] < minimum_iou:
            break
        if row in free_refs and column in free_preds:
            free_refs.remove(row)
            free_preds.remove(column)
            matched.append(float(iou[row, column]))
    return Instances(tuple(matched), len(free_refs), len(free_preds))


def lesion_f1(detection: Detection) -> float:
    """Return the harmonic mean of sensitivity and precision of lesions matched by the rule of `detect`."""
    if not detection.reference or not detection.predicted:
        return 0.0 if detection.reference or detection.predicted else BOTH_EMPTY
    both = detection.sensitivity + detection.precision
    return 2 * detection.sensitivity * detection.precision / both if both else 0.0


def f1(matched: int, missed: int, false_positives: int) -> float:
    """Return 2 TP / (2 TP + FP + FN), 0 to 1; `BOTH_EMPTY` where there is nothing to count."""
    if not (matched or missed or false_positives):
        return BOTH_EMPTY
    return 2 * matched / (2 * matched + missed + false_positives)


def _iou_table(pred: Shaped[np.ndarray, "_ _ _"], ref: Shaped[np.ndarray, "_ _ _"]) -> Float[np.ndarray, "refs preds"]:
    """Return the IoU of every reference lesion with every predicted one."""
    _, _, pairs = paired_lesions(pred, ref)
    shared = pairs[1:, 1:]
    either = pairs[1:].sum(axis=1)[:, None] + pairs[:, 1:].sum(axis=0)[None] - shared
    iou: Float[np.ndarray, "refs preds"] = shared / np.maximum(either, 1)
    return iou
