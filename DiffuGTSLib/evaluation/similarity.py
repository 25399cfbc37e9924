"""Do two kinds of tumors look alike? A classifier tells them apart no better than by chance, or it does.

DiffTumor asks it of early tumors of three organs (91 radiomics features, 33 % is chance): what looks alike can be painted
by one model. The same test asks whether painted tumors can be told from real ones. That one classifier fails proves
nothing about a better one; ours is Fisher's linear discriminant with a shrunken covariance, all kinds taken as equally
frequent, which is what a few dozen tumors can feed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Float, Int

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.intervals import Proportion, wilson

PERMUTATIONS = 200
FOLDS = 5
_SHRINKAGE = 0.2
"""Share of the unit matrix in the covariance of standardized features: few cases, many features that say the same."""


@dataclass(frozen=True)
class ClassFigures:
    """One kind.

    Attributes:
        name: Of the kind.
        precision: Of those called so, how many are.
        recall: Of those that are, how many were called so.
    """

    name: str
    precision: Proportion
    recall: Proportion


@dataclass(frozen=True)
class ChanceTest:
    """Whether kinds can be told apart.

    Attributes:
        accuracy: Share of cases that were told right, each by a classifier that never saw its patient.
        chance: What permuted labels reach on average; more honest than 1 divided by the number of kinds, since kinds
            are rarely equally frequent.
        p_value: How often permuted labels reach at least the accuracy (the real one counted in).
        kinds: Figures of each kind.
    """

    accuracy: Proportion
    chance: float
    p_value: float
    kinds: tuple[ClassFigures, ...]

    @property
    def told_apart(self) -> bool:
        """Whether chance is ruled out at 5 %."""
        return self.p_value < 0.05


def chance_test(
    features: Sequence[Mapping[str, float]],
    kinds: Sequence[str],
    patients: Sequence[str],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> ChanceTest:
    """Try to tell kinds of tumors apart by their features, in cross-validation over patients.

    Args:
        features: One mapping a tumor, all with the same names.
        kinds: What each tumor is.
        patients: Whose each tumor is: a patient's tumors are alike, and lie in one fold.
        rng: Draws folds and permutations.
        permutations: How often the labels are shuffled; kinds of whole patients are, where each patient has one kind.

    Raises:
        InputError: If the numbers differ, fewer than two kinds or patients are there, or features differ or are not finite.
    """
    table = _table(features, kinds, patients)
    names, truth = np.unique(np.asarray(kinds), return_inverse=True)
    owners, members = np.unique(np.asarray(patients), return_inverse=True)
    parts = _folds(members, truth, min(FOLDS, len(owners)), rng)
    told = _cross_validated(table, truth, parts, len(names))
    right = int((told == truth).sum())
    shuffled = []
    for _ in range(permutations):
        labels = _permuted(truth, members, rng)
        shuffled.append(int((_cross_validated(table, labels, parts, len(names)) == labels).sum()))
    return ChanceTest(
        accuracy=wilson(right, len(truth)),
        chance=float(np.mean(shuffled)) / len(truth) if shuffled else nan,
        p_value=(1 + sum(count >= right for count in shuffled)) / (1 + permutations),
        kinds=tuple(_figures(str(name), number, told, truth) for number, name in enumerate(names)),
    )


def _table(
    features: Sequence[Mapping[str, float]], kinds: Sequence[str], patients: Sequence[str]
) -> Float[np.ndarray, "cases features"]:
    if not len(features) == len(kinds) == len(patients):
        raise InputError(
            f"Expected a kind and a patient a tumor, got {len(features)} tumors, {len(kinds)} kinds, {len(patients)} patients."
        )
    if len(set(kinds)) < 2 or len(set(patients)) < 2:
        raise InputError(
            f"Expected at least two kinds and two patients, got {len(set(kinds))} and {len(set(patients))}.",
            hint="name the kind of each tumor in the column 'group'.",
            code="groups",
        )
    names = list(features[0])
    if any(list(row) != names for row in features):
        raise InputError("The tumors do not all have the same features.")
    table = np.array([[float(row[name]) for name in names] for row in features], dtype=np.float64)
    if not np.isfinite(table).all():
        bad = names[int(np.argwhere(~np.isfinite(table))[0, 1])]
        raise InputError(f"The feature '{bad}' is not finite for every tumor.")
    return table


def _folds(
    members: Int[np.ndarray, " cases"], truth: Int[np.ndarray, " cases"], count: int, rng: np.random.Generator
) -> Int[np.ndarray, " cases"]:
    """Return each case's part; patients of each kind are dealt out in turn, so that every part has some of all."""
    owners = rng.permutation(int(members.max()) + 1)
    kind_of = np.array([truth[members == owner][0] for owner in owners])
    part_of = np.empty(len(owners), dtype=np.int64)
    part_of[owners[np.argsort(kind_of, kind="stable")]] = np.arange(len(owners)) % count
    return np.asarray(part_of[members])


def _permuted(
    truth: Int[np.ndarray, " cases"], members: Int[np.ndarray, " cases"], rng: np.random.Generator
) -> Int[np.ndarray, " cases"]:
    """Shuffle labels under the null: patients of one kind exchange it among themselves, the others shuffle their own tumors.

    Patients with several kinds (real and painted in one scan) keep how many of each they have.
    """
    labels, of_one_kind = truth.copy(), []
    for owner in range(int(members.max()) + 1):
        within = np.flatnonzero(members == owner)
        if len(set(truth[within].tolist())) == 1:
            of_one_kind.append(within)
        else:
            labels[within] = rng.permutation(truth[within])
    kinds = rng.permutation([truth[within[0]] for within in of_one_kind])
    for within, kind in zip(of_one_kind, kinds, strict=True):
        labels[within] = kind
    return labels


def _cross_validated(
    table: Float[np.ndarray, "cases features"],
    labels: Int[np.ndarray, " cases"],
    parts: Int[np.ndarray, " cases"],
    kinds: int,
) -> Int[np.ndarray, " cases"]:
    told = np.empty(len(labels), dtype=np.int64)
    for part in np.unique(parts):
        held_out = parts == part
        seen = table[~held_out]
        mean, deviation = seen.mean(axis=0), seen.std(axis=0)
        scale = np.where(deviation > 1e-12, deviation, 1.0)
        told[held_out] = _nearest_kind(
            (seen - mean) / scale, labels[~held_out], (table[held_out] - mean) / scale, kinds
        )
    return told


def _nearest_kind(
    seen: Float[np.ndarray, "seen features"],
    labels: Int[np.ndarray, " seen"],
    new: Float[np.ndarray, "new features"],
    kinds: int,
) -> Int[np.ndarray, " new"]:
    """Return the kind whose mean is nearest to each new case, in Mahalanobis distance of the shrunken covariance."""
    counts = np.bincount(labels, minlength=kinds)
    sums = np.zeros((kinds, seen.shape[1]))
    np.add.at(sums, labels, seen)
    means = sums / np.maximum(counts, 1)[:, None]
    within = seen - means[labels]
    covariance = (1 - _SHRINKAGE) * within.T @ within / len(seen) + _SHRINKAGE * np.eye(seen.shape[1])
    directions = np.linalg.solve(covariance, means.T)
    scores = new @ directions - 0.5 * (means * directions.T).sum(axis=1)
    scores[:, counts == 0] = -np.inf  # a kind that no case of the other folds has cannot be told
    return np.asarray(scores.argmax(axis=1))


def _figures(name: str, number: int, told: Int[np.ndarray, " cases"], truth: Int[np.ndarray, " cases"]) -> ClassFigures:
    both = int(((told == number) & (truth == number)).sum())
    return ClassFigures(name, wilson(both, int((told == number).sum())), wilson(both, int((truth == number).sum())))
