"""Is the difference between two variants more than the luck of these patients? Paired, case by case.

Every test works on one mean difference a patient, since scans of one patient are alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isclose, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import wilcoxon

from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.evaluation.report import SEED, Estimate, Row, as_float, bootstrap_mean
from DiffuGTSLib.storage import read_json

PERMUTATIONS = 10_000
_EXACT_UP_TO = 13
"""Patients; 2¹³ sign patterns are fewer than the random ones."""
NOT_COMPARED = ("seconds", "lesions", "reference_ml", "dice_ellipsoid", "dice_threshold", "volume_ml")
"""What a machine does, what the data are, what looks at no network, and a size of which neither more nor less is better.

Each would be one more test that the others are corrected for. Asked for by name they are compared all the same.
"""


_OF_THE_CASE = ("organ", "modality", "kind", "lesions", "reference_ml")
"""Columns that follow from a case alone, and must be alike in two reports of it."""


@dataclass(frozen=True)
class Paired:
    """One figure of two variants, on the cases where both have it.

    Attributes:
        a: Mean of the first.
        b: Mean of the second.
        difference: b less a, every case counting alike, with its bootstrap interval over patients.
        by_patient: The same, every patient counting alike, which is what both p are about.
        patients: Number of patients.
        permutation_p: Two-sided, of swapping the variants within patients; NaN without a pair.
        wilcoxon_p: Two-sided, of Wilcoxon's signed ranks; NaN without a pair, 1 where nothing differs.
    """

    a: float
    b: float
    difference: Estimate
    by_patient: Estimate
    patients: int
    permutation_p: float
    wilcoxon_p: float


def compare(a: Sequence[float], b: Sequence[float], patients: Sequence[str]) -> Paired:
    """Compare two variants on the same cases.

    Args:
        a: One figure a case; NaN where it does not apply.
        b: The same of the other variant.
        patients: The patient of each case.

    Raises:
        InputError: If the lengths differ.
    """
    if not len(a) == len(b) == len(patients):
        raise InputError(f"Expected pairs with a patient each, got {len(a)}, {len(b)} and {len(patients)} values.")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = ~(np.isnan(first) | np.isnan(second))
    gaps = np.where(both, second - first, nan)
    kept = [name for name, use in zip(patients, both, strict=True) if use]
    means = patient_means(gaps[both], kept)
    return Paired(
        float(first[both].mean()) if both.any() else nan,
        float(second[both].mean()) if both.any() else nan,
        bootstrap_mean(gaps.tolist(), list(patients)),
        bootstrap_mean(means.tolist()),
        len(means),
        permutation_test(means, np.random.default_rng(SEED)),
        _signed_ranks(means),
    )


def patient_means(values: Float[np.ndarray, " cases"], patients: Sequence[str]) -> Float[np.ndarray, " patients"]:
    """Return one mean a patient, patients in the order of their names."""
    members = np.unique(np.asarray(patients), return_inverse=True)[1]
    return np.bincount(members, weights=values) / np.bincount(members) if len(values) else np.zeros(0)


def permutation_test(differences: Float[np.ndarray, " pairs"], rng: np.random.Generator) -> float:
    """Return how often a mean difference at least as large comes up when each pair's sign is a coin's.

    Up to 13 pairs every pattern of signs is tried; for more, `PERMUTATIONS` random ones, the given one counted too.

    Args:
        differences: One a patient.
        rng: Draws the signs.
    """
    if not len(differences):
        return nan
    # The same sum in another order must count as equal, also where it is 0 but for the rounding of its parts.
    seen = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if len(differences) <= _EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=len(differences))))
        return float(np.mean(np.abs(signs @ differences) >= seen))
    signs = rng.choice((1.0, -1.0), size=(PERMUTATIONS, len(differences)))
    return float((1 + np.count_nonzero(np.abs(signs @ differences) >= seen)) / (PERMUTATIONS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, 1979); NaN stays NaN and is not counted."""
    order = sorted((n for n, p in enumerate(p_values) if not isnan(p)), key=lambda n: p_values[n])
    adjusted, highest = [nan] * len(p_values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def compare_reports(folder_a: Path, folder_b: Path, columns: Sequence[str] = ()) -> list[Row]:
    """Return one row a figure of two reports: both means, difference by case and by patient, and p-values.

    Args:
        folder_a: Of a report that `evaluate` wrote; the baseline.
        folder_b: The other.
        columns: Figures to compare; empty: all that both have, but for `NOT_COMPARED`. Each is one more chance of a false alarm, so that
            the adjusted p grows with their number: name the one that the question is about.

    Raises:
        InputError: If a report cannot be read, the two have no case in common, or a case whose scan, reference or organ differs
            between them (code "other_scan"), or a column is not in both.
    """
    a, b = read_report(folder_a), read_report(folder_b)
    pairs = _pairs(a, b)
    known = [name for name, value in pairs[0][0].items() if name in pairs[0][1] and not isinstance(value, str)]
    for name in columns:
        if name not in known:
            raise InputError(f"No figure '{name}' in both reports.", hint=did_you_mean(name, known), code="column")
    patients = [str(row.get("patient", row["case"])) for row, _ in pairs]
    chosen = list(columns) or [name for name in known if name not in NOT_COMPARED]
    results = [
        compare([as_float(x[name]) for x, _ in pairs], [as_float(y[name]) for _, y in pairs], patients)
        for name in chosen
    ]
    adjusted = holm([result.permutation_p for result in results])
    return [_row(name, result, p) for name, result, p in zip(chosen, results, adjusted, strict=True)]


def number_of_tests(rows: Sequence[Row]) -> int:
    """Return how many tests the adjusted p of a comparison were corrected for."""
    return sum(not isnan(as_float(row["p"])) for row in rows)  # type: ignore[arg-type]


def read_report(folder: Path) -> dict[str, Any]:
    """Return a report's content.

    Raises:
        InputError: If the folder holds no report with cases (code "report").
    """
    path, hint = folder / "report.json", "name a folder that diffugts evaluate wrote."
    report = read_json(path, hint=hint, code="report")
    try:
        names = [row["case"] for row in report["cases"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder} holds no report with cases: {error!r}.", hint=hint, code="report") from error
    if not names or len(set(names)) < len(names):
        raise InputError(f"{path}: expected cases with names of their own, got {len(names)}.", code="report")
    return report


def left_out(folder_a: Path, folder_b: Path) -> list[str]:
    """Return the cases that only one of two reports has.

    Raises:
        InputError: As `read_report`.
    """
    a, b = ({row["case"] for row in read_report(folder)["cases"]} for folder in (folder_a, folder_b))
    return sorted(a ^ b)


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    other = {row["case"]: row for row in b["cases"]}
    pairs = [(row, other[row["case"]]) for row in a["cases"] if row["case"] in other]
    if not pairs:
        raise InputError("The two reports have no case in common.", hint="compare two runs of one protocol and split.")
    scans = [report.get("scans", {}) for report in (a, b)]
    for row, partner in pairs:
        digests = [each.get(row["case"]) for each in scans]
        if None not in digests and digests[0] != digests[1]:
            raise InputError(
                f"Case '{row['case']}' is another scan or mask in the second report.",
                hint="run both variants on the same data.",
                code="other_scan",
            )
        known = [report.get("read_as", {}).get(row["case"], {}) for report in (a, b)]
        for one, two in (known, (row, partner)):
            _require_same_case(one, two, row["case"])
    return pairs


def _require_same_case(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> None:
    """Refuse a case that was read, or asked about, in another way in the second report.

    Args:
        one: What is known of it in the first: its row, or `protocol_cases.read_as`.
        other: The same of the second.
        name: The case's.

    Raises:
        InputError: Naming what differs (code "other_scan").
    """
    for key in (*_OF_THE_CASE, "tumor_values", "framed_on_tumor", "offset_hu"):
        if key not in one or key not in other:  # a segmenter's report tells less
            continue
        first, second = one[key], other[key]
        numbers = isinstance(first, int | float) and isinstance(second, int | float)
        if not (isclose(first, second, rel_tol=1e-6) if numbers else first == second):
            raise InputError(
                f"Case '{name}' has another {key} in the second report: {second}, in the first {first}.",
                hint="run both variants on one protocol: figures against two references are no pair.",
                code="other_scan",
            )


def _row(name: str, result: Paired, adjusted: float) -> Row:
    gap, patients = result.difference, result.by_patient
    return {
        "figure": name, "cases": gap.cases, "patients": result.patients, "a": result.a, "b": result.b,
        "difference": gap.mean, "low": gap.low, "high": gap.high, "patient_difference": patients.mean,
        "patient_low": patients.low, "patient_high": patients.high,
        "p": result.permutation_p, "p_holm": adjusted, "p_wilcoxon": result.wilcoxon_p,
    }  # fmt: skip


def _signed_ranks(differences: Float[np.ndarray, " pairs"]) -> float:
    if not len(differences):
        return nan
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences).pvalue)
