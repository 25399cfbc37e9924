"""Phantoms with masks and maps of known quality, measured: what evaluation makes of them, without any network."""

from __future__ import annotations

import numpy as np
from mini_data import GRID, mini_config
from phantoms import Phantom, ct_phantom, mr_phantom

from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.evaluation.baselines import ThresholdRule
from DiffuGTSLib.evaluation.case_scores import CaseScore, score_case
from DiffuGTSLib.pipeline import Cache, Segmentation
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import Volume


def a_case(name: str = "a", modality: str = "CT", tumor: str = "tumor.nii.gz") -> Case:
    """Return a case of a protocol, of a patient of its own."""
    organ = "liver" if modality == "CT" else "brain"
    return Case(name, f"patient {name}", "test", modality, "scan.nii.gz", organ=organ, tumor=tumor)


def a_phantom(modality: str = "CT", lesion_mm: float = 11.0) -> Phantom:
    """Return a small phantom."""
    return (ct_phantom if modality == "CT" else mr_phantom)(GRID, lesion_mm=lesion_mm)


def no_lesion(phantom: Phantom) -> Volume:
    """Return an empty mask on a phantom's grid."""
    return phantom.scan.with_array(np.zeros(GRID.shape, dtype=np.uint8))


def a_result(phantom: Phantom, shift: int = 0, sure: float = 0.9) -> Segmentation:
    """Return a result whose mask is the phantom's lesion moved by some voxels, and whose map is as sure as that.

    Args:
        phantom: What was segmented.
        shift: Voxels along the first axis; the coarse mask is moved by one more.
        sure: Of the map inside its mask; a tenth outside.
    """
    lesion = phantom.lesion.array.astype(np.uint8)
    mask, coarse = (np.roll(lesion, shift + more, 0) for more in (0, 1))
    aova = np.where(mask > 0, sure, 0.1).astype(np.float32)
    scan, modality = phantom.scan, phantom.scan.modality or "CT"
    return Segmentation(
        scan.with_array(mask), scan.with_array(coarse), scan.with_array(aova), None, None, sure, modality, "as asked",
        organ_prompts("liver" if modality == "CT" else "brain", modality), mini_config(), {"aova": 1.0, "repaint": 2.0},
        "1 finding, refined by residuals", Cache(np.zeros((1, 1)), np.zeros(1), sure, {}),
    )  # fmt: skip


def scored(name: str = "a", shift: int = 0, modality: str = "CT", healthy: bool = False) -> CaseScore:
    """Return a measured case; of a healthy one everything that was seen is false."""
    phantom = a_phantom(modality)
    mask = no_lesion(phantom) if healthy else phantom.lesion
    case = a_case(name, modality, "" if healthy else "tumor.nii.gz")
    return score_case(case, phantom.scan, mask, a_result(phantom, shift, 0.3 if healthy else 0.9), ThresholdRule())
