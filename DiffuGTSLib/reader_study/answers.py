"""What a reading session consists of, and what a reader says: the files that page, Slicer panel and statistics share.

A session is a folder of scans under numbers, in the order in which they are read, with `session.json` beside them. Which
scan is real stands in the key, which is no part of it. An answer sheet is one reader's answers as JSON or CSV.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from DiffuGTSLib.datasets.tables import rows_of
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.storage import read_json, write_json

REAL, SYNTHETIC, UNSURE = "real", "synthetic", "unsure"
ANSWERS = (REAL, SYNTHETIC, UNSURE)

SESSION_FORMAT, ANSWERS_FORMAT = "diffugts-reading-session", "diffugts-reading-answers"
VERSION = 1
SESSION_FILE = "session.json"
PAGE_FILE = "reading.html"
CSV_COLUMNS = ("session", "reader", "case", "answer", "seconds")

_CASE_FILE = re.compile(r"case_\d+\.nii")
_LONGEST_READER = 60
_AGAIN = "copy it again, or build the session again."


@dataclass(frozen=True)
class SessionCard:
    """What a reader may know about a session.

    Attributes:
        session: A random word that ties answers and key to it.
        title: Shown above the scans.
        modality: "CT" or "MR".
        window: Intensities shown as black and as white at first; None: by each scan's own percentiles.
        unit: What one step of intensity is called.
        files: Names of the scans, first case first.
    """

    session: str
    title: str
    modality: str
    window: tuple[float, float] | None
    unit: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a reader said of one case, and how long it was in view, in seconds."""

    case: int
    answer: str
    time_s: float


@dataclass(frozen=True)
class AnswerSheet:
    """One reader's answers to one session, by case number; a case that was not answered is not in it."""

    session: str
    reader: str
    answers: tuple[Answer, ...]


def session_record(card: SessionCard) -> dict[str, Any]:
    """Return what `session.json` holds."""
    return {
        "format": SESSION_FORMAT,
        "version": VERSION,
        "session": card.session,
        "title": card.title,
        "modality": card.modality,
        "window": None if card.window is None else list(card.window),
        "unit": card.unit,
        "cases": list(card.files),
    }


def read_session(folder: Path | str) -> SessionCard:
    """Read the card of a session folder and see that its scans are there.

    Raises:
        InputError: If there is no session, it is of another version or damaged, or a scan is missing.
    """
    folder = Path(folder)
    path = folder / SESSION_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} holds no reading session: there is no {SESSION_FILE}.",
            hint="choose the folder that `diffugts reading build` has written.",
            code="no_session",
        )
    record = read_json(path, hint=_AGAIN, code="damaged")
    _require_format(record, SESSION_FORMAT, path)
    try:
        window = record["window"]
        card = SessionCard(
            session=_word(record["session"]),
            title=str(record["title"]),
            modality=str(record["modality"]),
            window=None if window is None else (float(window[0]), float(window[1])),
            unit=str(record["unit"]),
            files=tuple(str(name) for name in record["cases"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    # The names come from a file that anybody may have written: nothing outside the folder is opened for it.
    odd = [name for name in card.files if not _CASE_FILE.fullmatch(name)]
    if odd or not card.files:
        raise _damaged(path, f"expected scans case_NN.nii beside it, got {(odd or ['none'])[0]}")
    missing = [name for name in card.files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder / missing[0]} is missing; {SESSION_FILE} names {len(card.files)} scans.",
            hint="copy the session's folder again, or build the session again.",
            code="damaged",
        )
    return card


def checked_reader(name: str) -> str:
    """Return a reader's name without blanks around it.

    Raises:
        InputError: If nothing is left, or it is longer than a name.
    """
    name = " ".join(name.split())
    if not name or len(name) > _LONGEST_READER or not name.isprintable():
        raise InputError(
            f"Expected a reader's name of 1 to {_LONGEST_READER} characters, got '{name[:_LONGEST_READER]}'.",
            hint="a pseudonym such as R1 will do.",
            code="reader",
        )
    return name


def write_answers(sheet: AnswerSheet, path: Path | str) -> None:
    """Write an answer sheet as JSON, whole or not at all.

    Raises:
        StorageError: If the folder is missing or not writable, or the disk is full.
    """
    record = {
        "format": ANSWERS_FORMAT,
        "version": VERSION,
        "session": sheet.session,
        "reader": sheet.reader,
        "answers": [{"case": a.case, "answer": a.answer, "seconds": round(a.time_s, 1)} for a in sheet.answers],
    }
    write_json(path, record, ensure_ascii=False)


def read_answers(path: Path | str) -> AnswerSheet:
    """Read an answer sheet: JSON from the page or the panel, or CSV with the columns of `CSV_COLUMNS`.

    Raises:
        InputError: If the file is missing or no answer sheet, an answer is none of `ANSWERS`, a time is not a number of
            seconds, or a case is answered twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no answer sheet {path}.", hint="check the spelling.", code="missing")
    session, reader, rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    answers = tuple(sorted((_answer(row, path) for row in rows), key=lambda answer: answer.case))
    for first, second in itertools.pairwise(answers):
        if first.case == second.case:
            raise _bad_sheet(path, f"case {first.case} is answered twice")
    return AnswerSheet(session, checked_reader(reader), answers)


def _json_rows(path: Path) -> tuple[str, str, list[Any]]:
    record = read_json(path, hint=_AGAIN, code="damaged")
    _require_format(record, ANSWERS_FORMAT, path)
    rows = record.get("answers")
    if not isinstance(rows, list):
        raise _bad_sheet(path, "it has no list of answers")
    return str(record.get("session", "")), str(record.get("reader", "")), rows


def _csv_rows(path: Path) -> tuple[str, str, list[Any]]:
    rows = rows_of(path, CSV_COLUMNS)
    owners = {(row["session"], row["reader"]) for row in rows}
    if len(owners) != 1:
        raise _bad_sheet(path, f"expected one session and one reader, got {len(owners)}")
    session, name = owners.pop()
    return session, name, rows


def _answer(row: Any, path: Path) -> Answer:
    try:
        case, said = int(row["case"]), str(row["answer"]).strip().lower()
        time_s = float(str(row["seconds"]).replace(",", "."))
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise _bad_sheet(path, f"expected case, answer and seconds, got {row}") from error
    if said not in ANSWERS:
        raise _bad_sheet(path, f"case {case} is answered by '{said}': {did_you_mean(said, ANSWERS)}")
    if case < 1 or not isfinite(time_s) or time_s < 0:
        raise _bad_sheet(path, f"expected a case from 1 and a time from 0 s, got case {case} and {time_s} s")
    return Answer(case, said, time_s)


def _require_format(record: Mapping[str, Any], expected: str, path: Path) -> None:
    if record.get("format") != expected:
        raise InputError(
            f"{path}: expected the format '{expected}', got '{record.get('format')}'.",
            hint="was another file of the session given: its key, its card, an answer sheet?",
            code="format",
        )
    if record.get("version") != VERSION:
        raise InputError(
            f"{path}: expected version {VERSION}, got {record.get('version')}.",
            hint="use the version of DiffuGTS that made it.",
            code="format",
        )


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{8,64}", value):
        raise ValueError(f"{value!r} is no session")
    return value


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged: {what}.", hint=_AGAIN, code="damaged")


def _bad_sheet(path: Path, what: str) -> InputError:
    return InputError(f"{path} is no answer sheet that can be scored: {what}.", code="answers")
