"""Lesions as instances: F1 and panoptic quality, with each lesion matched to one other at most.

`DiffuGTSLib.evaluation.detection` asks what a radiologist asks (was it found, what was false), with a lenient rule and
several references to one prediction. Here is the strict rule of the instance literature beside it: panoptica's default,
an IoU of at least 0.5, one to one.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Shaped

from DiffuGTSLib.evaluation.detection import Detection, iou_table, paired_lesions
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


def match_instances(pred: Shaped[np.ndarray, "_ _ _"], ref: Shaped[np.ndarray, "_ _ _"]) -> Instances:
    """Pair the lesions of two masks one to one, from an IoU of `PANOPTIC_IOU` on.

    None has two partners: each would hold half of it and nothing else, and halves of one lesion touch.

    Args:
        pred: Mask, boolean or 0 and 1; its lesions are 26-connected components.
        ref: Mask on the same grid.

    Raises:
        InputError: If the shapes differ, or a value is neither 0 nor 1.
    """
    iou = iou_table(paired_lesions(pred, ref)[2])
    matched = np.sort(iou[iou >= PANOPTIC_IOU])[::-1].tolist()
    return Instances(tuple(matched), iou.shape[0] - len(matched), iou.shape[1] - len(matched))


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
