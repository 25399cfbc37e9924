"""Figures of known answer sheets, worked by hand or taken from tables of exact intervals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from math import comb

import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study.answers import Answer, AnswerSheet
from DiffuGTSLib.reader_study.key import Key, KeyCase
from DiffuGTSLib.reader_study.statistics import (
    cohen_kappa,
    exact_share,
    fleiss_kappa,
    score_study,
    study_record,
)

SESSION = "0123456789abcdef"
WORDS = {"r": "real", "s": "synthetic", "u": "unsure"}


def key(truth: str) -> Key:
    """Make a key from a text such as "rrss"."""
    return Key(SESSION, 0, tuple(KeyCase(n, WORDS[t], "", "") for n, t in enumerate(truth, start=1)), {})


def sheet(said: str, reader: str = "R1", times_s: Sequence[float] | None = None) -> AnswerSheet:
    """Make a sheet from a text such as "rsus"; a dot leaves a case out."""
    times = times_s or [1.0] * len(said)
    answers = [Answer(n, WORDS[word], times[n - 1]) for n, word in enumerate(said, start=1) if word != "."]
    return AnswerSheet(SESSION, reader, tuple(answers))


def test_unsure_is_left_out_and_is_wrong() -> None:
    # Real: 3 real, 1 synthetic, 1 unsure. Synthetic: 2 synthetic, 1 real, 2 unsure.
    reader = score_study([sheet("rrrsussruu")], key("rrrrrsssss")).readers[0]
    assert reader.counts["real"] == {"real": 3, "synthetic": 1, "unsure": 1}
    assert reader.counts["synthetic"] == {"real": 1, "synthetic": 2, "unsure": 2}
    assert (reader.answered, reader.unsure) == (10, 3)
    excluded, wrong = reader.excluded, reader.wrong
    assert [(s.count, s.of) for s in (excluded.accuracy, excluded.sensitivity, excluded.specificity)] == [
        (5, 7), (3, 4), (2, 3),
    ]  # fmt: skip
    assert [(s.count, s.of) for s in (wrong.accuracy, wrong.sensitivity, wrong.specificity)] == [
        (5, 10), (3, 5), (2, 5),
    ]  # fmt: skip
    assert wrong.accuracy.share == 0.5 and wrong.p_chance == 1.0
    # Two-sided, 5 or more of 7, or 2 and fewer: 2 (21 + 7 + 1) / 128.
    assert excluded.p_chance == pytest.approx(58 / 128)
    # Fisher: tables with margins 4, 3 and 4, 3 as unlikely as this one or less: all but the likelier one of 18 / 35.
    weights = [comb(4, k) * comb(3, 4 - k) for k in range(1, 5)]
    assert excluded.p_association == pytest.approx(sum(w for w in weights if w <= comb(4, 3) * 3) / comb(7, 4))
    assert wrong.p_association is None


def test_the_published_study_of_synthetic_tumors_comes_out() -> None:
    """SyntheticTumors, visual Turing test: 50 scans, junior 26.5/27.6/25.0 with 1 unsure, senior 71.0/63.2/83.3 with 19."""
    truth = key("r" * 30 + "s" * 20)
    junior = "r" * 8 + "s" * 21 + "u" + "s" * 5 + "r" * 15
    senior = "r" * 12 + "s" * 7 + "u" * 11 + "s" * 10 + "r" * 2 + "u" * 8
    readers = score_study([sheet(junior, "junior"), sheet(senior, "senior")], truth).readers
    figures = [
        [
            round(100 * (share.share or 0), 1)
            for share in (r.excluded.accuracy, r.excluded.sensitivity, r.excluded.specificity)
        ]
        for r in readers
    ]
    assert figures == [[26.5, 27.6, 25.0], [71.0, 63.2, 83.3]]
    assert [r.unsure for r in readers] == [1, 19]


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 10, 0.0, 0.3085), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (7, 10, 0.3475, 0.9333)],
)
def test_intervals_are_those_of_clopper_and_pearson(count: int, of: int, low: float, high: float) -> None:
    share = exact_share(count, of)
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_upper_end_of_none_is_the_rule_in_closed_form() -> None:
    assert exact_share(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-9)


def test_of_nothing_nothing_is_known() -> None:
    assert exact_share(0, 0) == exact_share(0, 0)
    assert (exact_share(0, 0).share, exact_share(0, 0).low, exact_share(0, 0).high) == (None, 0.0, 1.0)


def test_a_reader_who_is_always_right_differs_from_chance_with_six_cases() -> None:
    excluded = score_study([sheet("rrrsss")], key("rrrsss")).readers[0].excluded
    assert excluded.p_chance == pytest.approx(2 / 64) and excluded.accuracy.share == 1


def test_a_reader_who_is_always_unsure_has_no_figures_but_one() -> None:
    reader = score_study([sheet("uuuuuu")], key("rrrsss")).readers[0]
    assert reader.excluded.accuracy.share is None and reader.excluded.p_chance is None
    assert reader.wrong.accuracy.share == 0


def test_kappa_of_cohen_by_hand() -> None:
    # 10 cases, 7 agree; first 6 r 4 s, second 5 r 5 s: chance (6·5 + 4·5)/100 = 0.5, kappa 0.4.
    assert cohen_kappa("rrrrrrssss", "rrrrssrsss") == pytest.approx(0.4)
    assert cohen_kappa("rsu", "rsu") == 1
    assert cohen_kappa("rrr", "rrr") is None and cohen_kappa("", "") is None


def test_kappa_of_fleiss_by_hand() -> None:
    cases = [["real"] * 3, ["synthetic"] * 3, ["real", "real", "synthetic"], ["unsure", "real", "synthetic"]]
    # Agreeing pairs: 1, 1, 1/3, 0. Shares of words: 6/12, 5/12, 1/12.
    observed, kappa = fleiss_kappa(cases)
    chance = (36 + 25 + 1) / 144
    assert observed == pytest.approx(7 / 12)
    assert kappa == pytest.approx((7 / 12 - chance) / (1 - chance))
    assert fleiss_kappa([["real", "real"]] * 3) == (1.0, None)


def test_readers_are_compared_in_pairs_and_all_together() -> None:
    study = score_study([sheet("rrrsss", "R1"), sheet("rrrsss", "R2"), sheet("rrssuu", "R3")], key("rrrsss"))
    assert [row.readers for row in study.agreement] == [("R1", "R2"), ("R1", "R3"), ("R2", "R3"), ("R1", "R2", "R3")]
    assert study.agreement[0].kappa == 1 and study.agreement[0].cases == 6
    assert study.agreement[1].observed == pytest.approx(3 / 6)


def test_of_readers_who_share_no_case_no_agreement_is_known() -> None:
    sheets = [sheet("rrr...", "R1"), sheet("...sss", "R2")]
    row = score_study(sheets, key("rrrsss"), allow_incomplete=True).agreement[0]
    assert (row.cases, row.observed, row.kappa) == (0, None, None)


def test_pooled_readings_are_counted_together_and_drawn_by_case() -> None:
    study = score_study([sheet("rrrsss", "R1"), sheet("sssrrr", "R2")], key("rrrsss"))
    assert study.pooled is not None
    assert (study.pooled.excluded.accuracy.count, study.pooled.excluded.accuracy.of) == (6, 12)
    assert study.pooled.clustered == (0.5, 0.5, 0.5), "one reader right, one wrong in every case"
    assert any("not independent" in note for note in study.notes)
    for reading in (study.pooled.excluded, study.pooled.wrong):
        assert reading.p_chance is None and reading.p_association is None, "they take each answer for a case of its own"
    assert score_study([sheet("rrrsss")], key("rrrsss")).pooled is None


def test_time_is_told_by_truth() -> None:
    times = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0]
    time = score_study([sheet("rrrsss", times_s=times)], key("rrrsss")).readers[0].time
    assert (time.median_s, time.total_s) == (6.5, 66.0)
    assert (time.median_real_s, time.median_synthetic_s) == (2.0, 20.0)
    assert time.quartiles_s == (2.25, 17.5)


def test_an_unfinished_sheet_counts_where_that_is_asked_for() -> None:
    with pytest.raises(InputError, match="answered 2 of 6 cases; the first without an answer is 3"):
        score_study([sheet("rr....")], key("rrrsss"))
    study = score_study([sheet("rr....")], key("rrrsss"), allow_incomplete=True)
    assert study.readers[0].excluded.specificity.share is None
    assert study.readers[0].time.median_synthetic_s is None
    assert "R1 answered 2 of 6 cases." in study.notes


def test_an_unbalanced_session_says_so() -> None:
    assert any("Unbalanced" in note for note in score_study([sheet("rrrr")], key("rrrs")).notes)


def test_everything_can_be_written_as_json() -> None:
    sheets = [sheet("r.....", "R1"), sheet("s.....", "R2"), sheet(".u....", "R3")]
    record = study_record(score_study(sheets, key("rrrsss"), allow_incomplete=True))
    assert json.loads(json.dumps(record, allow_nan=False))["definitions"]["sensitivity"].startswith("real scans")


def test_figures_do_not_depend_on_the_order_of_the_cases() -> None:
    words = list(zip("rrrsss", "rsursu", strict=True))
    figures = set()
    for order in itertools.islice(itertools.permutations(words), 0, 720, 120):
        truth, said = ("".join(part) for part in zip(*order, strict=True))
        excluded = score_study([sheet(said)], key(truth)).readers[0].excluded
        figures.add((excluded.accuracy, excluded.sensitivity, excluded.specificity))
    assert len(figures) == 1


@pytest.mark.parametrize(
    ("sheets", "words", "code"),
    [
        ([], "no answer sheet", "missing"),
        ([AnswerSheet("ffffffffffffffff", "R1", ())], "belong to session ffffffffffffffff", "other_session"),
        (
            [AnswerSheet(SESSION, "R1", (Answer(7, "real", 1.0),))],
            "answered case 7; the key holds cases 1 to 6",
            "other_session",
        ),
        ([AnswerSheet(SESSION, "R1", ())], "answered 0 of 6", "incomplete"),
        ([sheet("rrrsss"), sheet("rrrsss")], "two answer sheets of R1", "duplicate"),
    ],
)
def test_answers_that_do_not_belong_to_the_key_are_refused(sheets: list[AnswerSheet], words: str, code: str) -> None:
    with pytest.raises(InputError) as caught:
        score_study(sheets, key("rrrsss"), allow_incomplete=True)
    assert words in caught.value.message and caught.value.code == code
