"""The log of a training: rows are appended, and those that come again after a stop are there once."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.training import log
from DiffuGTSLib.training.log import Curves, Table


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_long_log_is_written_anew_for_a_new_column_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an epoch is one iteration, a log that is written anew each time costs more than the training."""
    written: list[Path] = []

    @contextmanager
    def counted(path: Path) -> Iterator[Path]:
        written.append(path)
        with whole_file(path) as temporary:
            yield temporary

    monkeypatch.setattr(log, "whole_file", counted)
    table = Table(tmp_path / "log.csv")
    for number in range(1, 2001):
        table.add({"iteration": float(number), "total": 0.5} | ({"dice": 0.25} if number % 500 == 0 else {}))
    assert len(written) == 2, "the first row, and the first one with a Dice"
    rows = rows_of(tmp_path / "log.csv")
    assert [int(row["iteration"]) for row in rows] == list(range(1, 2001))
    assert [row["dice"] for row in rows[498:501]] == ["", "0.25", ""]


def test_rows_that_come_again_and_half_a_line_of_a_killed_process_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    first = Table(path)
    for number in (1.0, 2.0, 3.0):
        first.add({"iteration": number, "total": number})
    with path.open("a", encoding="utf-8") as file:
        file.write("1")  # of "12,0.5"
    again = Table(path)
    for number in (3.0, 4.0):
        again.add({"iteration": number, "total": -number})
    assert [(row["iteration"], row["total"]) for row in rows_of(path)] == [
        ("1", "1"), ("2", "2"), ("3", "-3"), ("4", "-4"),
    ]  # fmt: skip


def test_a_log_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = Table(path)
    table.add({"iteration": 1.0})
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="Cannot write .*log.csv"):
        table.add({"iteration": 2.0})


def test_curves_that_come_again_after_a_stop_are_there_once(tmp_path: Path) -> None:
    """A process that was killed at 48, with its last checkpoint at 27, draws 30 to 48 twice."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, value in ((27, 1.0), (30, 2.0)):
        curves = Curves(tmp_path)
        for number in range(first, 49, 3):
            curves.add({"iteration": float(number), "total": value})
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [event.step for event in read.Scalars("total")] == list(range(27, 49, 3))
    assert [event.value for event in read.Scalars("total")] == [1.0] + 7 * [2.0]


def test_curves_that_cannot_be_written_are_a_storage_error(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match="Cannot write .*run: .*exists"):
        Curves(tmp_path / "run").add({"iteration": 1.0, "total": 0.5})
