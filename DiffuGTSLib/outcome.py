"""What came of a segmentation, in one sentence: what was found, or which rule left nothing."""

from dataclasses import replace

import numpy as np

from DiffuGTSLib.config import Config, MasksConfig
from DiffuGTSLib.drawn import Drawn
from DiffuGTSLib.masks import candidate_levels
from DiffuGTSLib.refinement import Refinement
from DiffuGTSLib.volumes.lesions import label_lesions


def nothing_to_repaint(
    abnormal: np.ndarray, anomaly_score: float, candidate: np.ndarray, allowed: np.ndarray, searched: np.ndarray,
    config: MasksConfig, floor_key: str = "floor",
) -> str:  # fmt: skip
    """Say why detection leaves nothing to repaint; "" where it leaves a candidate.

    Of what is allowed the organ's main parts alone may have been searched. The floor may be that of a region: `floor_key`
    names it.
    """
    if anomaly_score < config.gate:
        return f"judged normal: anomaly score {anomaly_score:.2f} is below the gate {config.gate:.2f}"
    if candidate.any():
        return ""
    highest, anywhere = abnormal[searched].max(), abnormal[allowed].max()
    threshold, peak = candidate_levels(abnormal, searched, config)
    if config.rule == "relative" and highest < config.floor:
        why = f"nothing reaches masks.{floor_key} ({config.floor:.2f})"
    elif highest <= threshold:
        why = "nothing above the threshold"
    elif highest < peak:
        why = f"no candidate reaches masks.peak ({peak:.2f})"
    else:
        why = "every candidate is smaller than masks.minimum_ml"
    said = f"{why}: the highest abnormal attention is {highest:.2f}"
    if anywhere > highest:
        said += f" in what was taken for the organ (masks.organ_share), {anywhere:.2f} elsewhere"
    return said


def found_in_words(mask: np.ndarray, refinement: Refinement | None, config: Config, drawn: Drawn | None) -> str:
    """Say how many lesions a mask holds, or why it is empty, and what of a drawn mask was cut off."""
    _, count = label_lesions(mask)
    if count:
        refined = "not refined" if refinement is None else "refined by residuals"
        outcome = f"{count} finding{'s' if count > 1 else ''}, {refined}"
    elif refinement is None:
        outcome = "nothing left: on the scan's own grid every candidate is smaller than masks.minimum_ml"
    elif replace(refinement, minimum_ml=0.0).outlined(config.residual)[0].any():
        outcome = "nothing left after refinement: what remains of every candidate is smaller than masks.minimum_ml"
    else:
        outcome = "nothing left after refinement: repainting changed no candidate enough"
    return f"{outcome}; {drawn.cut_off}" if drawn is not None and drawn.cut_off else outcome
