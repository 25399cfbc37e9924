"""What would give the truth away without looking at a tumor: grids, fractions, limits, spikes, one scan shown twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Num, UInt64

from DiffuGTSLib.volumes.volume import Volume

SPACING_TOLERANCE = 5e-3
"""Relative: scans whose voxels differ by less are on one grid."""
WRITTEN_LIMITS = (-32768.0, 32767.0)
TWIN_SHARE = 0.1
"""Two cases that share more of their rows, voxel by voxel, show one scan."""

_LUNG_HU = (-950.0, -500.0)
_SURE = 1e-3
_ALLOWED_SPIKE = 0.02
_RANGE_SHARE = 0.02
_FAR = 5.0
_SPACING, _FRACTIONS, _LOW, _HIGH, _SPIKE = "spacing", "fractions", "low", "high", "spike"


@dataclass(frozen=True, eq=False)
class Profile:
    """What can be told of a case without understanding it.

    Attributes:
        truth: "real" or "synthetic".
        shape: Voxels along R, A, S.
        spacing_mm: Along R, A, S.
        is_whole: Whether every voxel is a whole number.
        low: Smallest voxel.
        high: Largest voxel.
        steps: Whole numbers between the 1st and the 99th percentile.
        spike: Share of the commonest value, rounded to a whole number.
        lung: Share of aerated lung in what is no air, were it CT.
        rows: Fingerprints of its rows along R, sorted; rows of one value only are left out.
    """

    truth: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    is_whole: bool
    low: float
    high: float
    steps: float
    spike: float
    lung: float
    rows: UInt64[np.ndarray, " rows"]


@dataclass(frozen=True)
class Giveaway:
    """Something by which real and synthetic scans can be told apart.

    Attributes:
        what: A stable word.
        words: For people.
        is_curable: Whether harmonizing takes it away.
    """

    what: str
    words: str
    is_curable: bool


def profile_of(volume: Volume, truth: str) -> Profile:
    """Return what can be told of a case in RAS order."""
    array = volume.array.astype(np.float32, copy=False)
    whole = np.round(array)
    low, high = float(array.min()), float(array.max())
    dark, bright = (float(value) for value in np.percentile(array, (1, 99)))
    within = np.clip(whole, *WRITTEN_LIMITS).astype(np.int32)
    body = array > _LUNG_HU[0]
    counts = np.bincount((within - within.min()).ravel())
    return Profile(
        truth=truth,
        shape=volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        is_whole=bool(np.array_equal(whole, array)),
        low=low,
        high=high,
        steps=bright - dark,
        spike=float(counts.max() / array.size),
        lung=np.count_nonzero(array[body] < _LUNG_HU[1]) / max(1, int(np.count_nonzero(body))),
        rows=row_fingerprints(array),
    )


def row_fingerprints(array: Num[np.ndarray, "x y z"]) -> UInt64[np.ndarray, " rows"]:
    """Return one number a row along the first axis, equal for equal rows; sorted, each once."""
    multipliers = np.cumprod(np.full(array.shape[0], 0x9E3779B97F4A7C15, dtype=np.uint64))  # odd, modulo 2^64
    found = []
    for k in range(array.shape[2]):  # a slab at a time: the bits of a whole scan would take twice its memory
        slab = np.ascontiguousarray(array[:, :, k], dtype=np.float32) + np.float32(0)  # -0 becomes 0
        bits = slab.view(np.uint32).astype(np.uint64)
        varied = slab.min(axis=0) < slab.max(axis=0)
        found.append((bits * multipliers[:, None]).sum(axis=0, dtype=np.uint64)[varied])
    return np.unique(np.concatenate(found))


def twins(profiles: Sequence[Profile]) -> list[tuple[int, int, float]]:
    """Return which pairs of cases show one scan, and the share of rows that they have in common.

    A scan, and the same scan with a tumor painted in, are such a pair: a reader who sees both knows which is which.
    """
    found = []
    for first, one in enumerate(profiles):
        for second in range(first + 1, len(profiles)):
            other = profiles[second]
            smaller = min(one.rows.size, other.rows.size)
            shared = np.intersect1d(one.rows, other.rows, assume_unique=True).size
            if smaller and shared > TWIN_SHARE * smaller:
                found.append((first, second, shared / smaller))
    return found


def giveaways(profiles: Sequence[Profile]) -> list[Giveaway]:
    """Return everything by which the two groups could be told apart at a glance; best: nothing."""
    real = [p for p in profiles if p.truth == "real"]
    synthetic = [p for p in profiles if p.truth != "real"]
    spacing = _spacing(profiles)
    # The matrix is compared on one grid only: resampling changes it.
    found = [spacing, _fractions(real, synthetic), _shapes(real, synthetic) if spacing is None else None]
    span = _RANGE_SHARE * (max(p.high for p in profiles) - min(p.low for p in profiles))
    low = _separated(_LOW, "smallest voxel", lambda p: p.low, real, synthetic, span, True)
    high = _separated(_HIGH, "largest voxel", lambda p: p.high, real, synthetic, span, True)
    # Cutting off heaps voxels up at the limit: where that was done to one group, cutting the other off heaps them up too.
    was_cut = low is not None or high is not None
    words = "share of the commonest value"
    spike = _separated(_SPIKE, words, lambda p: p.spike, real, synthetic, _ALLOWED_SPIKE, was_cut)
    found += [low, high, spike]
    return [giveaway for giveaway in found if giveaway is not None]


def cure(
    profiles: Sequence[Profile], found: Sequence[Giveaway]
) -> tuple[tuple[float, float, float] | None, tuple[float, float] | None]:
    """Return the spacing and the limits that take the curable differences away, each None where nothing has to be done.

    The coarsest voxel along each axis, since a finer grid would be invented; the narrower limits, since what was cut off
    cannot come back.
    """
    named = {giveaway.what for giveaway in found}
    spacing = None
    if _SPACING in named:
        x, y, z = (round(max(p.spacing_mm[axis] for p in profiles), 4) for axis in range(3))
        spacing = (x, y, z)
    limits = None
    if named & {_LOW, _HIGH}:
        groups = [[p for p in profiles if (p.truth == "real") is wanted] for wanted in (True, False)]
        low = max(min(p.low for p in group) for group in groups)
        high = min(max(p.high for p in group) for group in groups)
        limits = (low, high)
    return spacing, limits


def _spacing(profiles: Sequence[Profile]) -> Giveaway | None:
    spacings = np.array([p.spacing_mm for p in profiles])
    if (spacings.max(axis=0) <= spacings.min(axis=0) * (1 + SPACING_TOLERANCE)).all():
        return None
    low, high = (" x ".join(f"{v:.4g}" for v in ends) for ends in (spacings.min(axis=0), spacings.max(axis=0)))
    return Giveaway(_SPACING, f"their voxels differ in size, from {low} to {high} mm", True)


def _fractions(real: Sequence[Profile], synthetic: Sequence[Profile]) -> Giveaway | None:
    shares = [sum(p.is_whole for p in group) / len(group) for group in (real, synthetic)]
    if shares[0] == shares[1]:
        return None
    counted = [f"{sum(p.is_whole for p in group)} of {len(group)}" for group in (real, synthetic)]
    words = f"whole numbers only in {counted[0]} real and {counted[1]} synthetic scans, fractions in the others"
    return Giveaway(_FRACTIONS, words, True)


def _shapes(real: Sequence[Profile], synthetic: Sequence[Profile]) -> Giveaway | None:
    planes = [sorted({p.shape[:2] for p in group}) for group in (real, synthetic)]
    if set(planes[0]) & set(planes[1]):
        return None
    return Giveaway(
        "shape", f"no synthetic scan has the matrix of a real one ({planes[0][0]} and {planes[1][0]})", False
    )


def _separated(
    what: str,
    words: str,
    measure: Callable[[Profile], float],
    real: Sequence[Profile],
    synthetic: Sequence[Profile],
    least_gap: float,
    is_curable: bool,
) -> Giveaway | None:
    """Say when all of one group lie on one side of the other: far off, by more than they vary, or in too many for chance."""
    a, b = sorted(([measure(p) for p in group] for group in (real, synthetic)), key=min)
    gap = min(b) - max(a)
    by_chance = 2 / comb(len(a) + len(b), len(a))
    spread = max(max(a) - min(a), max(b) - min(b))
    if gap <= least_gap or (gap <= min(spread, _FAR * least_gap) and by_chance > _SURE):
        return None
    ranges = [
        f"{min(measure(p) for p in group):.4g} to {max(measure(p) for p in group):.4g}" for group in (real, synthetic)
    ]
    return Giveaway(what, f"the {words} is {ranges[0]} in real and {ranges[1]} in synthetic scans", is_curable)
