"""FROC: how many lesions are found at how many false alarms a scan, over the thresholds of a map.

At each threshold the connected parts of the map above it are the candidates. The score is as LUNA16's, the mean
sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan (CAMELYON16 leaves out 1/8), but read at a few
thresholds without interpolation, so that it is at most what every threshold of the same map would give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.detection import MINIMUM_IOU
from DiffuGTSLib.evaluation.report import SEED
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.lesions import label_lesions
from DiffuGTSLib.volumes.mask import as_mask

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a scan at which sensitivity is read."""
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""0.05 to 0.95: where a map is cut."""

_RESAMPLES = 2000


@dataclass(frozen=True)
class CaseCandidates:
    """One scan at every threshold of `THRESHOLDS`.

    Attributes:
        lesions: Reference lesions; 0 in a healthy scan.
        found: Of those, found at each threshold.
        false_positives: Candidates that match none, at each threshold.
    """

    lesions: int
    found: tuple[int, ...]
    false_positives: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads."""
        return {"lesions": self.lesions, "found": list(self.found), "false_positives": list(self.false_positives)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CaseCandidates":
        """Rebuild what `as_json` returned."""
        return cls(int(values["lesions"]), tuple(values["found"]), tuple(values["false_positives"]))


@dataclass(frozen=True)
class Froc:
    """All scans together.

    Attributes:
        thresholds: `THRESHOLDS`.
        sensitivity: Share of all lesions that are found at each threshold; NaN without any lesion.
        false_positives_per_scan: At each threshold, over all scans.
        at_rates: The best sensitivity of a threshold with at most so many false positives a scan, for each of `RATES`;
            0 where there is no such threshold. Nothing is interpolated: each is a point that the method reaches.
        score: Mean of those.
        low: Lower end of the score's 95 % bootstrap interval over patients; NaN with fewer than two.
        high: Upper end.
    """

    thresholds: tuple[float, ...]
    sensitivity: tuple[float, ...]
    false_positives_per_scan: tuple[float, ...]
    at_rates: tuple[float, ...]
    score: float
    low: float
    high: float


def candidates(
    probabilities: Shaped[np.ndarray, "_ _ _"],
    truth: Shaped[np.ndarray, "_ _ _"],
    spacing_mm: tuple[float, float, float],
    *,
    minimum_ml: float = 0.0,
) -> CaseCandidates:
    """Count what is found and what is false in one scan at each threshold.

    Args:
        probabilities: 0 to 1, on the scan's grid.
        truth: The reference mask, boolean or 0 and 1; empty for a healthy scan.
        spacing_mm: Voxel size.
        minimum_ml: Smaller candidates are dropped, as the method itself drops them.

    Raises:
        InputError: If a probability lies outside 0 to 1 or is NaN, the shapes differ, or the reference is no mask.
    """
    truth = as_mask(truth, "reference")
    if probabilities.shape != truth.shape:
        raise InputError(f"Map and reference differ in shape: {probabilities.shape} and {truth.shape}.")
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):  # NaN fails both
        raise InputError(
            f"Expected probabilities of 0 to 1, got {probabilities.min()} to {probabilities.max()}.",
            code="not_a_probability",
        )
    box = bounding_box((probabilities > min(THRESHOLDS)) | truth)
    near, (reference, lesions) = probabilities[box], label_lesions(truth[box])
    minimum_voxels = minimum_ml * 1000.0 / float(np.prod(spacing_mm)) * (1 - 1e-9)
    counted = [_at_threshold(near > cut, reference, lesions, minimum_voxels) for cut in THRESHOLDS]
    return CaseCandidates(lesions, tuple(found for found, _ in counted), tuple(false for _, false in counted))


def froc(cases: Sequence[CaseCandidates], patients: Sequence[str] | None = None) -> Froc:
    """Pool many scans into one curve.

    Args:
        cases: Of any number of scans.
        patients: The patient of each: patients are drawn for the interval, not scans.

    Raises:
        InputError: If there are no cases, or numbers of thresholds or patients do not fit.
    """
    if not cases or any(len(case.found) != len(THRESHOLDS) for case in cases):
        raise InputError(f"Expected cases with {len(THRESHOLDS)} thresholds each, got {len(cases)} cases.")
    if patients is not None and len(patients) != len(cases):
        raise InputError(f"Expected one patient a case, got {len(cases)} cases and {len(patients)} patients.")
    table = np.array([[case.lesions, 1, *case.found, *case.false_positives] for case in cases], dtype=np.float64)
    sensitivity, rates = _curve(table.sum(axis=0)[None])
    at_rates = _at_rates(sensitivity, rates)
    score = float(at_rates.mean())
    low, high = _interval(table, list(patients or map(str, range(len(cases)))))
    return Froc(THRESHOLDS, _floats(sensitivity[0]), _floats(rates[0]), _floats(at_rates[0]), score, low, high)


def _at_threshold(
    seen: Bool[np.ndarray, "i j k"],
    reference: Int[np.ndarray, "i j k"],
    lesions: int,
    minimum_voxels: float,
) -> tuple[int, int]:
    """Return how many lesions are found and how many candidates are false."""
    labels, count = label_lesions(seen)
    sizes = np.bincount(labels[seen], minlength=count + 1)[1:]
    kept = sizes >= minimum_voxels
    if not lesions or not count:
        return 0, int(kept.sum())
    inside = reference > 0
    place = (reference[inside].astype(np.int64) - 1) * (count + 1) + labels[inside]
    shared = np.bincount(place, minlength=lesions * (count + 1)).reshape(lesions, count + 1)
    own, shared = shared.sum(axis=1), shared[:, 1:]
    iou = shared / (own[:, None] + sizes[None] - shared)
    matched = (shared > 0) & (iou >= MINIMUM_IOU) & kept[None]
    return int(matched.any(axis=1).sum()), int((kept & ~matched.any(axis=0)).sum())


def _curve(totals: Float[np.ndarray, "draws columns"]) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and false positives a scan, (draws, thresholds), from sums of rows of the cases' table."""
    lesions, scans, counts = totals[:, :1], totals[:, 1:2], totals[:, 2:]
    found, false = np.split(counts, 2, axis=1)
    sensitivity = np.divide(found, lesions, out=np.full(found.shape, nan), where=lesions > 0)
    return sensitivity, false / scans


def _at_rates(sensitivity: np.ndarray, rates: np.ndarray) -> Float[np.ndarray, "draws rates"]:
    reached = [np.where(rates <= rate, sensitivity, 0.0).max(axis=1) for rate in RATES]
    none = np.isnan(sensitivity).any(axis=1)
    return np.where(none[:, None], nan, np.stack(reached, axis=1))


def _interval(table: Float[np.ndarray, "cases columns"], patients: list[str]) -> tuple[float, float]:
    members = np.unique(patients, return_inverse=True)[1]
    groups = int(members.max()) + 1
    if groups < 2:
        return nan, nan  # one patient says nothing about others
    sums = np.zeros((groups, table.shape[1]))
    np.add.at(sums, members, table)
    drawn = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES)
    scores = _at_rates(*_curve(drawn @ sums)).mean(axis=1)
    scores = scores[~np.isnan(scores)]  # draws of healthy scans only have none
    if not len(scores):
        return nan, nan
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
