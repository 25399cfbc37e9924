"""Everything that is measured on one case, and where it is kept so that it is measured once.

A case keeps its row of figures, counts for what is pooled over all cases, and one small picture: a few kilobytes. Its
maps are gone before the next case is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from DiffuGTSLib import __version__
from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.evaluation.baselines import ThresholdRule, body_mask, center_ellipsoid, intensity_threshold
from DiffuGTSLib.evaluation.calibration import Reliability, count_voxels
from DiffuGTSLib.evaluation.detection import Detection, Lesion, detect
from DiffuGTSLib.evaluation.froc import CaseCandidates, candidates
from DiffuGTSLib.evaluation.lesion_metrics import lesion_f1, match_instances
from DiffuGTSLib.evaluation.metrics import BRAIN_NSD_TOLERANCE_MM, NSD_TOLERANCE_MM, dice, surface_dice
from DiffuGTSLib.pipeline import Segmentation
from DiffuGTSLib.storage import for_json, json_sha256, read_json, whole_file
from DiffuGTSLib.text.prompts import find_organ
from DiffuGTSLib.volumes import Volume

SCHEMA = 1
"""Raised whenever a figure changes its meaning: what was kept before is then measured again."""
TUMOR, HEALTHY = "tumor", "healthy"


@dataclass(frozen=True, eq=False)
class CaseScore:
    """One case, measured.

    Attributes:
        row: Its figures: text tells the case, NaN is "not applicable".
        lesions: Its reference lesions, each found or not.
        candidates: What is found and false at each threshold of the AOVA map.
        reliability: The voxels of the AOVA map inside the body.
    """

    row: dict[str, str | float]
    lesions: tuple[Lesion, ...]
    candidates: CaseCandidates
    reliability: Reliability

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads."""
        return {
            "row": for_json(self.row),
            "lesions": [asdict(lesion) for lesion in self.lesions],
            "candidates": self.candidates.as_json(),
            "reliability": self.reliability.as_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseScore:
        """Rebuild what `as_json` returned."""
        return cls(
            {name: nan if value is None else value for name, value in values["row"].items()},
            tuple(Lesion(**lesion) for lesion in values["lesions"]),
            CaseCandidates.from_json(values["candidates"]),
            Reliability.from_json(values["reliability"]),
        )


def score_case(case: Case, scan: Volume, mask: Volume, result: Segmentation, rule: ThresholdRule) -> CaseScore:
    """Measure one result.

    Overlap is asked of scans with a tumor only: on a healthy scan every Dice is NaN, whether something was seen or
    not, and what was seen counts as false positives. A tumor that was missed altogether scores 0.

    Args:
        case: Of the protocol.
        scan: As it was segmented.
        mask: The reference on its grid; empty for a healthy scan.
        result: What `segment` returned.
        rule: Of the threshold baseline.
    """
    truth, spacing_mm = mask.array > 0, scan.geometry.spacing_mm
    refined, probabilities = result.mask.array > 0, result.aova.array
    # A lesion at the rim, or in what the body mask takes for air, counts all the same.
    body = body_mask(scan, case.modality) | truth
    found = detect(refined, truth, spacing_mm)
    reliability = count_voxels(probabilities, truth, body)
    row: dict[str, str | float] = {
        "case": case.name,
        "patient": case.patient,
        "organ": case.organ,
        "modality": case.modality,
        "kind": TUMOR if truth.any() else HEALTHY,
        **_overlap(case, scan, truth, body, result, rule),
        **_lesions(refined, truth, found),
        "anomaly_score": result.anomaly_score,
        "voxel_auroc": reliability.auroc,
        "ece": reliability.ece,
        "brier": reliability.brier,
        "volume_ml": float(refined.sum()) * scan.geometry.voxel_volume_ml,
        "reference_ml": float(truth.sum()) * scan.geometry.voxel_volume_ml,
        "seconds": sum(result.timings_s.values()),
    }
    cut = candidates(probabilities, truth, spacing_mm, minimum_ml=result.config.masks.minimum_ml)
    return CaseScore(row, found.reference, cut, reliability)


def fingerprint(case: Case, digests: Mapping[str, str], config: Config, weights: Mapping[str, str]) -> str:
    """Return the SHA-256 of all that a case's figures follow from.

    Args:
        case: Of the protocol.
        digests: Of its files.
        config: Of the model.
        weights: Weight file → SHA-256.
    """
    made_of = {
        "schema": SCHEMA, "diffugts": __version__, "case": asdict(case), "files": dict(digests), "config": config.to_dict(),
        "weights": dict(weights),
    }  # fmt: skip
    return json_sha256(made_of)


def kept_score(folder: Path, name: str, made_of: str) -> CaseScore | None:
    """Return what was kept of a case, or None where it was made of something else, is damaged or is not there."""
    try:
        kept = read_json(case_file(folder, name, ".json"))
        return CaseScore.from_json(kept) if kept["made_of"] == made_of else None
    except (ValueError, KeyError, TypeError):
        return None


def keep_score(folder: Path, name: str, made_of: str, score: CaseScore) -> None:
    """Write what is kept of a case.

    Raises:
        StorageError: If the file cannot be written.
    """
    with whole_file(case_file(folder, name, ".json")) as path:
        path.write_text(json.dumps({"made_of": made_of, **score.as_json()}, allow_nan=False), encoding="utf-8")


def case_file(folder: Path, name: str, suffix: str) -> Path:
    """Return a case's file; whatever its name holds, it lies in that folder."""
    return folder / f"{quote(name, safe=' ')}{suffix}"


def _overlap(
    case: Case, scan: Volume, truth: np.ndarray, body: np.ndarray, result: Segmentation, rule: ThresholdRule
) -> dict[str, float]:
    names = ("dice_ellipsoid", "dice_threshold", "dice_coarse", "dice_refined", "nsd_2mm_refined", "nsd_1mm_refined")
    if not truth.any():
        return dict.fromkeys(names, nan)
    spacing_mm, refined = scan.geometry.spacing_mm, result.mask.array > 0
    masks = (
        center_ellipsoid(truth.shape, spacing_mm),
        intensity_threshold(scan, case.modality, rule, body),
        result.coarse_mask.array > 0,
        refined,
    )
    in_brain = find_organ(case.organ) == "brain"
    surfaces = (
        surface_dice(refined, truth, spacing_mm, NSD_TOLERANCE_MM),
        surface_dice(refined, truth, spacing_mm, BRAIN_NSD_TOLERANCE_MM) if in_brain else nan,
    )
    return dict(zip(names, (*(dice(mask, truth) for mask in masks), *surfaces), strict=True))


def _lesions(refined: np.ndarray, truth: np.ndarray, found: Detection) -> dict[str, float]:
    instances = match_instances(refined, truth)
    sick = bool(found.reference)
    return {
        "lesions": len(found.reference),
        "lesion_sensitivity": found.sensitivity,
        "false_positives": found.false_positives,
        "false_positives_healthy": nan if sick else found.false_positives,
        "lesion_f1": lesion_f1(found) if sick else nan,
        "recognition_quality": instances.recognition_quality if sick else nan,
        "segmentation_quality": instances.segmentation_quality,
        "panoptic_quality": instances.panoptic_quality if sick else nan,
    }
