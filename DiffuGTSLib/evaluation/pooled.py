"""All cases together: what no mean over cases tells. FROC, calibration, sensitivity by size, AUROC of the scan score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import nan
from typing import Any

import numpy as np

from DiffuGTSLib.evaluation.calibration import Reliability
from DiffuGTSLib.evaluation.case_scores import HEALTHY, CaseScore
from DiffuGTSLib.evaluation.comparison import compare
from DiffuGTSLib.evaluation.froc import RATES, Froc, froc
from DiffuGTSLib.evaluation.metrics import auroc
from DiffuGTSLib.evaluation.report import SEED, Estimate, Row, bootstrap_mean
from DiffuGTSLib.evaluation.size_sensitivity import DIAMETER_BINS, RADIUS_BINS, SizeRow, as_row, sensitivity_by_size

_RESAMPLES = 2000
GROUPED = ("dice_refined", "lesion_sensitivity", "false_positives")
"""Figures that are told by modality and organ."""
STEPS = ("dice_ellipsoid", "dice_threshold", "dice_coarse")
"""What the refined mask has to beat."""


@dataclass(frozen=True)
class ScanAuroc:
    """How well the anomaly score parts healthy scans from abnormal ones.

    Attributes:
        value: 0.5 is chance; NaN without both kinds.
        low: Lower end of the 95 % bootstrap interval over patients; NaN with fewer than two patients of either kind.
        high: Upper end.
        healthy: Number of healthy scans.
        abnormal: Number of the others.
    """

    value: float
    low: float
    high: float
    healthy: int
    abnormal: int


@dataclass(frozen=True, eq=False)
class Pooled:
    """See the module.

    Attributes:
        froc: Of the AOVA map.
        reliability: Of its voxels inside the body.
        sizes: Sensitivity of the refined mask by size.
        scan_auroc: Of the anomaly score.
        groups: One row a modality or organ.
        steps: One row each of `STEPS`: the refined mask's Dice less its own, paired over patients.
    """

    froc: Froc
    reliability: Reliability
    sizes: tuple[SizeRow, ...]
    scan_auroc: ScanAuroc
    groups: tuple[Row, ...]
    steps: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what a report tells: values for tables and curves."""
        voxels = self.reliability
        return {
            "froc": {**asdict(self.froc), "rates": list(RATES)},
            "calibration": {
                "voxels": voxels.voxels, "ece": voxels.ece, "brier": voxels.brier, "auroc": voxels.auroc,
                "prevalence": voxels.prevalence, "counts": voxels.counts.tolist(),
                "predicted": voxels.predicted.tolist(), "observed": voxels.observed.tolist(),
            },
            "sizes": [as_row(row) for row in self.sizes],
            "scan_auroc": asdict(self.scan_auroc),
            "groups": [dict(row) for row in self.groups],
            "steps": [dict(row) for row in self.steps],
        }  # fmt: skip


def pool(scores: Sequence[CaseScore]) -> Pooled:
    """Pool the cases of a report; at least one."""
    patients = [str(score.row["patient"]) for score in scores]
    reliability = scores[0].reliability
    for score in scores[1:]:
        reliability = reliability + score.reliability
    lesions = [lesion for score in scores for lesion in score.lesions]
    return Pooled(
        froc([score.candidates for score in scores], patients),
        reliability,
        tuple(row for bins in (RADIUS_BINS, DIAMETER_BINS) for row in sensitivity_by_size(lesions, bins)),
        scan_auroc(
            [float(score.row["anomaly_score"]) for score in scores],
            [score.row["kind"] != HEALTHY for score in scores],
            patients,
        ),
        tuple(_group_rows(scores)),
        tuple(_step_row(step, scores, patients) for step in STEPS),
    )


def scan_auroc(anomaly_scores: Sequence[float], abnormal: Sequence[bool], patients: Sequence[str]) -> ScanAuroc:
    """Return the AUROC of one score a scan, with an interval over patients; draws of one kind of scan are passed over.

    Args:
        anomaly_scores: Of each scan.
        abnormal: Whether it holds a tumor.
        patients: Whose it is.
    """
    values, truth = np.asarray(anomaly_scores, dtype=np.float64), np.asarray(abnormal, dtype=bool)
    healthy = int((~truth).sum())
    value = auroc(values.tolist(), truth.tolist())
    members = np.unique(np.asarray(patients), return_inverse=True)[1]
    own = [np.flatnonzero(members == number) for number in range(int(members.max()) + 1)]
    if min(len(set(members[truth])), len(set(members[~truth]))) < 2:  # one patient says nothing about others
        return ScanAuroc(value, nan, nan, healthy, len(truth) - healthy)
    rng, drawn = np.random.default_rng(SEED), []
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([own[number] for number in rng.integers(len(own), size=len(own))])
        drawn.append(auroc(values[chosen].tolist(), truth[chosen].tolist()))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return ScanAuroc(value, float(low), float(high), healthy, len(truth) - healthy)


def _step_row(step: str, scores: Sequence[CaseScore], patients: Sequence[str]) -> Row:
    before, after = ([float(score.row[name]) for score in scores] for name in (step, "dice_refined"))
    paired = compare(before, after, patients)
    return {
        "than": step, "cases": paired.difference.cases, "patients": paired.patients, "difference": paired.difference.mean,
        "low": paired.difference.low, "high": paired.difference.high, "p": paired.permutation_p,
        "p_wilcoxon": paired.wilcoxon_p,
    }  # fmt: skip


def _group_rows(scores: Sequence[CaseScore]) -> list[Row]:
    rows: list[Row] = []
    for column in ("modality", "organ"):
        for group in sorted({str(score.row[column]) for score in scores}):
            own = [score.row for score in scores if score.row[column] == group]
            patients = [str(row["patient"]) for row in own]
            figures: dict[str, str | float] = {"by": column, "group": group, "cases": len(own)}
            figures["patients"] = len(set(patients))
            for name in GROUPED:
                estimate: Estimate = bootstrap_mean([float(row[name]) for row in own], patients)
                figures |= {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            rows.append(figures)
    return rows
