"""Whether a map of probabilities means what it says: of the voxels at 0.7, are 70 % tumor?

Voxels are counted into bins, never kept: the counts of many scans add up, and what is kept of a scan is a few thousand
numbers whatever its size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes.mask import as_mask

FINE_BINS = 1000
"""For the order of scores (AUROC): two voxels in one bin count as a tie."""
BINS = 10
"""For the reliability diagram and ECE: bins of equal width (Guo et al., ICML 2017, use 15)."""

_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Reliability:
    """Voxels counted by what was predicted and what is true.

    Attributes:
        negatives: Healthy voxels in each of `FINE_BINS` bins of probability.
        positives: Tumor voxels in each of them.
        summed: Sum of the probabilities in each of `BINS` bins.
        squared_error: Sum over all voxels of (probability - truth)².
    """

    negatives: Int[np.ndarray, " fine"]
    positives: Int[np.ndarray, " fine"]
    summed: Float[np.ndarray, " bins"]
    squared_error: float

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            self.negatives + other.negatives, self.positives + other.positives, self.summed + other.summed,
            self.squared_error + other.squared_error,
        )  # fmt: skip

    @property
    def voxels(self) -> int:
        """All that were counted."""
        return int(self.negatives.sum() + self.positives.sum())

    @property
    def counts(self) -> Int[np.ndarray, " bins"]:
        """Voxels in each of `BINS` bins."""
        return _coarse(self.negatives + self.positives)

    @property
    def predicted(self) -> Float[np.ndarray, " bins"]:
        """Mean probability in each bin; NaN in empty ones."""
        return _shares(self.summed, self.counts)

    @property
    def observed(self) -> Float[np.ndarray, " bins"]:
        """Share of tumor voxels in each bin; NaN in empty ones."""
        return _shares(_coarse(self.positives).astype(np.float64), self.counts)

    @property
    def ece(self) -> float:
        """Expected calibration error: |predicted - observed|, averaged over the voxels; NaN without any."""
        if not self.voxels:
            return nan
        gaps = np.abs(self.summed - _coarse(self.positives))  # each is its bin's gap times its voxels
        return float(gaps.sum() / self.voxels)

    @property
    def brier(self) -> float:
        """Mean of (probability - truth)²; NaN without any voxel."""
        return self.squared_error / self.voxels if self.voxels else nan

    @property
    def prevalence(self) -> float:
        """Share of tumor voxels: a map of this constant has ECE 0 and Brier p (1 - p), which is what to compare with."""
        return float(self.positives.sum() / self.voxels) if self.voxels else nan

    @property
    def auroc(self) -> float:
        """Chance that a tumor voxel scores above a healthy one, a bin being a tie; NaN without both kinds."""
        positives, negatives = int(self.positives.sum()), int(self.negatives.sum())
        if not positives or not negatives:
            return nan
        below = np.cumsum(self.negatives) - self.negatives
        wins = float((self.positives * (below + self.negatives / 2)).sum())
        return wins / (float(positives) * float(negatives))

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads."""
        return {
            "negatives": self.negatives.tolist(), "positives": self.positives.tolist(),
            "summed": self.summed.tolist(), "squared_error": self.squared_error,
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reliability":
        """Rebuild what `as_json` returned."""
        return cls(
            np.array(values["negatives"], dtype=np.int64), np.array(values["positives"], dtype=np.int64),
            np.array(values["summed"], dtype=np.float64), float(values["squared_error"]),
        )  # fmt: skip


def count_voxels(
    probabilities: Shaped[np.ndarray, " *grid"],
    truth: Shaped[np.ndarray, " *grid"],
    within: Shaped[np.ndarray, " *grid"],
) -> Reliability:
    """Count the voxels of one map.

    Args:
        probabilities: 0 to 1.
        truth: The reference mask, boolean or 0 and 1.
        within: The same form. Which voxels count. Air around the body is right at no cost, and would flatter every figure.

    Raises:
        InputError: If a probability that counts lies outside 0 to 1, or is NaN, or a mask is none.
    """
    truth, within = as_mask(truth, "reference"), as_mask(within, "region")
    values, tumor = probabilities[within], truth[within]
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise InputError(
            f"Expected probabilities of 0 to 1, got {values.min()} to {values.max()}.", code="not_a_probability"
        )
    fine = np.zeros((2, FINE_BINS), dtype=np.int64)
    summed, squared = np.zeros(BINS), 0.0
    for start in range(0, values.size, _CHUNK):
        part, true = values[start : start + _CHUNK].astype(np.float64), tumor[start : start + _CHUNK]
        place = np.minimum((part * FINE_BINS).astype(np.int64), FINE_BINS - 1)
        for kind in (0, 1):
            fine[kind] += np.bincount(place[true == bool(kind)], minlength=FINE_BINS)
        summed += np.bincount(place // (FINE_BINS // BINS), weights=part, minlength=BINS)
        squared += float(((part - true) ** 2).sum())
    return Reliability(fine[0], fine[1], summed, squared)


def _coarse(fine: Int[np.ndarray, " fine"]) -> Int[np.ndarray, " bins"]:
    counts: Int[np.ndarray, " bins"] = fine.reshape(BINS, -1).sum(axis=1)
    return counts


def _shares(parts: Float[np.ndarray, " bins"], counts: Int[np.ndarray, " bins"]) -> Float[np.ndarray, " bins"]:
    shares = np.full(len(parts), nan)
    np.divide(parts, counts, out=shares, where=counts > 0)
    return shares
