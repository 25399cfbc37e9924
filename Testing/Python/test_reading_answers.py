from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.errors import InputError, StorageError
from DiffuGTSLib.reader_study.answers import (
    Answer,
    AnswerSheet,
    SessionCard,
    checked_reader,
    read_answers,
    read_session,
    session_record,
    write_answers,
)

CARD = SessionCard("0123456789abcdef", "Liver", "CT", (-160.0, 240.0), "HU", ("case_1.nii", "case_2.nii"))
SHEET = AnswerSheet(CARD.session, "Dr. Müller; Köln", (Answer(1, "real", 12.5), Answer(2, "unsure", 0.0)))


@pytest.fixture
def a_session(tmp_path: Path) -> Path:
    """A folder with the card of two scans."""
    for name in CARD.files:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "session.json").write_text(json.dumps(session_record(CARD)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def a_sheet(tmp_path: Path) -> Path:
    """An answer sheet on the disk."""
    write_answers(SHEET, tmp_path / "answers.json")
    return tmp_path / "answers.json"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_a_card_comes_back_as_it_was_written(a_session: Path) -> None:
    assert read_session(a_session) == CARD


def test_a_session_of_mr_has_no_window_of_its_own(a_session: Path) -> None:
    change(a_session / "session.json", window=None, modality="MR")
    assert read_session(a_session).window is None


def test_a_sheet_comes_back_as_it_was_written(a_sheet: Path) -> None:
    assert read_answers(a_sheet) == SHEET


def test_answers_are_sorted_by_case(tmp_path: Path) -> None:
    write_answers(
        AnswerSheet(CARD.session, "R1", (Answer(2, "real", 1.0), Answer(1, "real", 1.0))), tmp_path / "a.json"
    )
    assert [answer.case for answer in read_answers(tmp_path / "a.json").answers] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        'session,reader,case,answer,seconds\r\n0a1b2c3d,"R, 1",1,real,12.5\r\n0a1b2c3d,"R, 1",2,Synthetic,3\r\n',
        "\ufeffsession;reader;case;answer;seconds\n0a1b2c3d;R, 1;1;real;12,5\n0a1b2c3d;R, 1;2;synthetic;3\n",
    ],
    ids=["as the page writes it", "as a German spreadsheet writes it"],
)
def test_a_table_is_a_sheet_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    sheet = AnswerSheet("0a1b2c3d", "R, 1", (Answer(1, "real", 12.5), Answer(2, "synthetic", 3.0)))
    assert read_answers(tmp_path / "a.csv") == sheet


def test_a_reader_has_a_name() -> None:
    assert checked_reader("  Dr.  Who ") == "Dr. Who"
    for name in ("", "  ", "x" * 61, "a\x00b"):
        with pytest.raises(InputError, match="reader's name"):
            checked_reader(name)


def test_a_folder_without_a_card_is_no_session(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no reading session") as caught:
        read_session(tmp_path)
    assert caught.value.code == "no_session"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"session": "../../etc"}, "is no session"),
        ({"window": [1]}, "IndexError"),
        ({"cases": None}, "TypeError"),
        ({"cases": []}, "got none"),
        ({"cases": ["../key.json"]}, "got ../key.json"),
        ({"cases": ["case_1.nii", "case_9.nii"]}, "case_9.nii is missing"),
        ({"format": "other"}, "expected the format"),
        ({"version": 2}, "expected version 1, got 2"),
    ],
)
def test_a_damaged_card_is_refused(a_session: Path, changed: dict[str, Any], words: str) -> None:
    change(a_session / "session.json", **changed)
    with pytest.raises(InputError) as caught:
        read_session(a_session)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not valid JSON"), ("[" * 100_000, "not valid JSON"), ("[]", "expected an object")]
)
def test_what_is_no_object_is_refused(a_sheet: Path, text: str, words: str) -> None:
    a_sheet.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_answers(a_sheet)
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (None, "no list of answers"),
        ([{"case": 1, "answer": "synthetical", "seconds": 1}], "did you mean 'synthetic'"),
        ([{"case": 0, "answer": "real", "seconds": 1}], "case from 1"),
        ([{"case": 1, "answer": "real", "seconds": -1}], "time from 0 s"),
        ([{"case": 1, "answer": "real", "seconds": "nan"}], "time from 0 s"),
        ([{"case": math.inf, "answer": "real", "seconds": 1}], "expected case, answer and seconds"),
        ([{"case": 1, "answer": "real"}], "expected case, answer and seconds"),
        ([{"case": 1, "answer": "real", "seconds": 1}] * 2, "answered twice"),
    ],
)
def test_a_sheet_that_says_nonsense_is_refused(a_sheet: Path, answers: Any, words: str) -> None:
    change(a_sheet, answers=answers)
    with pytest.raises(InputError) as caught:
        read_answers(a_sheet)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"case,answer\n1,real\n", "has no column 'session'"),
        (b"session,reader,case,answer,seconds\na1,R1,1,real,1\na1,R2,1,real,1\n", "one session and one reader, got 2"),
        (b"session,reader,case,answer,seconds\n", "one session and one reader, got 0"),
        (b"\xff\xfe\x00", "is not in UTF-8"),
        (b'session,reader,case,answer,seconds\na1,"R1,1,real,1\n' + b"a1,R1,2,real,1\n" * 9999, "field larger than"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_answers(tmp_path / "a.csv")


def test_a_missing_sheet_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no answer sheet .*answers.json"):
        read_answers(tmp_path / "answers.json")


def test_a_sheet_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_answers(SHEET, tmp_path / "nowhere" / "answers.json")
    assert list(tmp_path.iterdir()) == []
