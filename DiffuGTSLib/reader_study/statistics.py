"""Scores a reading session: how often readers are right, how surely that is not chance, how far they agree, how long they took.

Sensitivity is the share of real scans called real, specificity the share of synthetic scans called synthetic, as in
DiffTumor's tables: a low specificity means convincing tumors. "Unsure" is counted in both ways that are in use: left out
of the denominators, as in SyntheticTumors' study, and counted as wrong.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from typing import Any

import numpy as np
from scipy import stats

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.report import bootstrap_mean
from DiffuGTSLib.reader_study.answers import ANSWERS, REAL, SYNTHETIC, UNSURE, Answer, AnswerSheet
from DiffuGTSLib.reader_study.key import Key

POOLED = "all readers"
_CHANCE = 0.5


@dataclass(frozen=True)
class Share:
    """How many of how many, with the exact 95 % interval of Clopper and Pearson; None of none."""

    count: int
    of: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """The figures of one reader under one way to count "unsure".

    Attributes:
        accuracy: Right answers.
        sensitivity: Real scans called real.
        specificity: Synthetic scans called synthetic.
        p_chance: Exact two-sided binomial test of the accuracy against a coin; None without an answer.
        p_association: Fisher's exact test of answer against truth, over real and synthetic answers: also a reader who
            calls nearly everything real is told from one who sees nothing. None where "unsure" counts as wrong.
    """

    accuracy: Share
    sensitivity: Share
    specificity: Share
    p_chance: float | None
    p_association: float | None


@dataclass(frozen=True)
class ReadingTime:
    """Seconds a case was in view, over the answered cases."""

    median_s: float
    quartiles_s: tuple[float, float]
    total_s: float
    median_real_s: float | None
    median_synthetic_s: float | None


@dataclass(frozen=True)
class ReaderScore:
    """One reader, or all of them together.

    Attributes:
        name: The reader's.
        answered: Number of answers, unsure ones too.
        unsure: Among them.
        counts: Truth → answer → number.
        excluded: Figures without the unsure answers.
        wrong: Figures with the unsure answers counted as wrong.
        time: Of reading.
        clustered: Of several readers together: mean accuracy (unsure is wrong) with the 95 % bootstrap interval over
            cases, since answers of several readers to one case are not independent; None for one reader or one case.
    """

    name: str
    answered: int
    unsure: int
    counts: dict[str, dict[str, int]]
    excluded: Reading
    wrong: Reading
    time: ReadingTime
    clustered: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Agreement:
    """How far readers say the same, "unsure" being an answer like others.

    Attributes:
        readers: Two (Cohen's kappa), or all of three and more (Fleiss' kappa).
        cases: That all of them answered.
        observed: Share of agreeing pairs of answers; None without a case.
        kappa: Beyond chance; None where it is not defined: no case, or everybody always says one thing.
    """

    readers: tuple[str, ...]
    cases: int
    observed: float | None
    kappa: float | None


@dataclass(frozen=True)
class Study:
    """The result of a reading session."""

    session: str
    real: int
    synthetic: int
    readers: tuple[ReaderScore, ...]
    pooled: ReaderScore | None
    agreement: tuple[Agreement, ...]
    notes: tuple[str, ...]


def score_study(sheets: Sequence[AnswerSheet], key: Key, *, allow_incomplete: bool = False) -> Study:
    """Return every figure of a session.

    Args:
        sheets: One a reader.
        key: Of the session.
        allow_incomplete: Whether cases may be missing on a sheet.

    Raises:
        InputError: If there is no sheet, one belongs to another session, answers a case that the key does not hold, lacks
            answers, or a reader is there twice.
    """
    truth = {case.case: case.truth for case in key.cases}
    _require_sheets(sheets, key, truth, allow_incomplete)
    readers = tuple(_score(sheet.reader, sheet.answers, truth) for sheet in sheets)
    pooled = None
    if len(sheets) > 1:
        pooled = _score(POOLED, [answer for sheet in sheets for answer in sheet.answers], truth, is_pooled=True)
    kinds = Counter(truth.values())
    return Study(
        session=key.session,
        real=kinds[REAL],
        synthetic=kinds[SYNTHETIC],
        readers=readers,
        pooled=pooled,
        agreement=_agreements(sheets),
        notes=_notes(readers, len(truth), kinds),
    )


def study_record(study: Study) -> dict[str, Any]:
    """Return a study as JSON values."""
    return {"definitions": dict(_DEFINITIONS), **asdict(study)}


_DEFINITIONS = {
    "sensitivity": "real scans called real, of all real scans",
    "specificity": "synthetic scans called synthetic, of all synthetic scans; low: convincing tumors",
    "excluded": "unsure answers are left out",
    "wrong": "unsure answers are counted as wrong",
    "interval": "95 %, exact (Clopper and Pearson)",
    "p_chance": "two-sided exact binomial test of the accuracy against 0.5",
    "p_association": "Fisher's exact test of real and synthetic answers against the truth",
    "kappa": "Cohen's for two readers, Fleiss' for three and more; unsure is a category",
}


def exact_share(count: int, of: int) -> Share:
    """Return a share with its exact 95 % interval (Clopper and Pearson, 1934)."""
    if of == 0:
        return Share(0, 0, None, 0.0, 1.0)
    interval = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    return Share(count, of, count / of, float(interval.low), float(interval.high))


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return the agreement of two readers beyond chance (Cohen, 1960); None where both always say one thing, or nothing."""
    if not first:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    one, other = Counter(first), Counter(second)
    by_chance = sum(one[word] * other[word] for word in one) / len(first) ** 2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def fleiss_kappa(answers: Sequence[Sequence[str]]) -> tuple[float, float | None]:
    """Return the share of agreeing pairs and the agreement beyond chance (Fleiss, 1971).

    Args:
        answers: Of each case, one word a reader; at least one case and two readers.
    """
    readers = len(answers[0])
    counts = np.array([[list(case).count(word) for word in ANSWERS] for case in answers], dtype=np.float64)
    observed = float(((counts**2).sum(axis=1) - readers).mean() / (readers * (readers - 1)))
    by_chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return observed, None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def _score(name: str, answers: Sequence[Answer], truth: dict[int, str], *, is_pooled: bool = False) -> ReaderScore:
    counts = {kind: dict.fromkeys(ANSWERS, 0) for kind in (REAL, SYNTHETIC)}
    for answer in answers:
        counts[truth[answer.case]][answer.answer] += 1
    clustered = None
    if is_pooled:
        right = [float(answer.answer == truth[answer.case]) for answer in answers]
        estimate = bootstrap_mean(right, [str(answer.case) for answer in answers])
        clustered = None if isnan(estimate.low) else (estimate.mean, estimate.low, estimate.high)
    return ReaderScore(
        name=name,
        answered=len(answers),
        unsure=counts[REAL][UNSURE] + counts[SYNTHETIC][UNSURE],
        counts=counts,
        excluded=_reading(counts, unsure_is_wrong=False, is_pooled=is_pooled),
        wrong=_reading(counts, unsure_is_wrong=True, is_pooled=is_pooled),
        time=_time(answers, truth),
        clustered=clustered,
    )


def _reading(counts: dict[str, dict[str, int]], *, unsure_is_wrong: bool, is_pooled: bool) -> Reading:
    right = {kind: counts[kind][kind] for kind in counts}
    of = {kind: sum(n for word, n in counts[kind].items() if unsure_is_wrong or word != UNSURE) for kind in counts}
    total = sum(of.values())
    # Both tests take every answer for an independent one; several readers' answers to one case are not.
    is_tested = bool(total) and not is_pooled
    p_chance = float(stats.binomtest(sum(right.values()), total, _CHANCE).pvalue) if is_tested else None
    p_association = None
    if not (unsure_is_wrong or is_pooled):
        table = [[counts[kind][word] for word in (REAL, SYNTHETIC)] for kind in (REAL, SYNTHETIC)]
        p_association = float(stats.fisher_exact(table).pvalue)
    return Reading(
        accuracy=exact_share(sum(right.values()), total),
        sensitivity=exact_share(right[REAL], of[REAL]),
        specificity=exact_share(right[SYNTHETIC], of[SYNTHETIC]),
        p_chance=p_chance,
        p_association=p_association,
    )


def _time(answers: Sequence[Answer], truth: dict[int, str]) -> ReadingTime:
    times = np.array([answer.time_s for answer in answers])
    low, median, high = (float(v) for v in np.percentile(times, (25, 50, 75)))
    kinds = [[answer.time_s for answer in answers if truth[answer.case] == kind] for kind in (REAL, SYNTHETIC)]
    real, synthetic = (float(np.median(part)) if part else None for part in kinds)
    return ReadingTime(median, (low, high), float(times.sum()), real, synthetic)


def _agreements(sheets: Sequence[AnswerSheet]) -> tuple[Agreement, ...]:
    said = {sheet.reader: {answer.case: answer.answer for answer in sheet.answers} for sheet in sheets}
    found = []
    for one, other in itertools.combinations(said, 2):
        cases = sorted(said[one].keys() & said[other].keys())
        first, second = ([said[name][case] for case in cases] for name in (one, other))
        same = sum(a == b for a, b in zip(first, second, strict=True))
        observed = same / len(cases) if cases else None
        found.append(Agreement((one, other), len(cases), observed, cohen_kappa(first, second)))
    if len(said) > 2:
        cases = sorted(set.intersection(*(set(answers) for answers in said.values())))
        if cases:
            observed, kappa = fleiss_kappa([[answers[case] for answers in said.values()] for case in cases])
            found.append(Agreement(tuple(said), len(cases), observed, kappa))
    return tuple(found)


def _notes(readers: Sequence[ReaderScore], cases: int, kinds: Counter[str]) -> tuple[str, ...]:
    notes = [
        "Intervals: 95 %, exact (Clopper–Pearson). p: exact binomial test of the accuracy against a coin, two-sided.",
        "Sensitivity: real scans called real. Specificity: synthetic scans called synthetic; low means convincing tumors.",
    ]
    if len(readers) > 1:
        notes.append(
            "All readers together: answers to one case are not independent, so that the exact interval is too narrow, and "
            "there is no p; the JSON file holds an interval that is bootstrapped over cases."
        )
    notes += [f"{r.name} answered {r.answered} of {cases} cases." for r in readers if r.answered < cases]
    if kinds[REAL] != kinds[SYNTHETIC]:
        notes.append("Unbalanced: accuracy depends on the mix; compare sensitivity and specificity.")
    return tuple(notes)


def _require_sheets(sheets: Sequence[AnswerSheet], key: Key, truth: dict[int, str], allow_incomplete: bool) -> None:
    if not sheets:
        raise InputError("There is no answer sheet to score.", hint="name at least one.", code="missing")
    for sheet in sheets:
        if sheet.session != key.session:
            raise InputError(
                f"The answers of {sheet.reader} belong to session {sheet.session}, the key to session {key.session}.",
                hint="take the key that was written with that session.",
                code="other_session",
            )
        unknown = sorted({answer.case for answer in sheet.answers} - set(truth))
        if unknown:
            raise InputError(
                f"{sheet.reader} answered case {unknown[0]}; the key holds cases 1 to {len(truth)}.",
                code="other_session",
            )
        missing = sorted(set(truth) - {answer.case for answer in sheet.answers})
        if not sheet.answers or (missing and not allow_incomplete):
            raise InputError(
                f"{sheet.reader} answered {len(sheet.answers)} of {len(truth)} cases; the first without an answer is "
                f"{missing[0]}.",
                hint="have the session finished, or say --allow-incomplete." if sheet.answers else "",
                code="incomplete",
            )
    twice = [name for name, count in Counter(sheet.reader for sheet in sheets).items() if count > 1]
    if twice:
        raise InputError(f"There are two answer sheets of {twice[0]}.", hint="name one a reader.", code="duplicate")
