"""Progress: bars for terminals, lines for logs, and a way to stop."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from DiffuGTSLib import progress as module
from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.progress import TerminalProgress


def _console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_one_line_at_the_start_and_one_at_the_end_of_a_short_stage() -> None:
    console = _console(terminal=False)
    with TerminalProgress(console) as report:
        for done in range(101):
            report("repaint", done / 100)
        report("residual", 0.0)
    assert [line.split(" in ")[0] for line in _shown(console).splitlines()] == [
        "Repainting: …",
        "Repainting: done",
        "Residual and mask: …",
    ]


def test_a_log_gets_a_line_a_quarter_with_the_time_left_of_a_long_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    console = _console(terminal=False)
    with TerminalProgress(console) as report:
        for done in range(101):
            report("another stage", done / 100)
    lines = _shown(console).splitlines()
    assert [line.partition(",")[0] for line in lines[:4]] == [
        "another stage: …",
        "another stage: 25 %",
        "another stage: 50 %",
        "another stage: 75 %",
    ]
    assert lines[1].endswith(" s left")
    assert len(lines) == 5


def test_a_terminal_gets_a_bar_with_percentage_and_time() -> None:
    console = _console(terminal=True)
    with TerminalProgress(console) as report:
        report("aova", 0.0)
        report("aova", 1.7)
    shown = _shown(console)
    assert "Anomaly attention" in shown
    assert "100%" in shown
    assert "0:00:00" in shown


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing_and_still_stops(terminal: bool) -> None:
    def stop() -> None:
        raise Cancelled("Stopped.")

    console = _console(terminal)
    with TerminalProgress(console, quiet=True, check=stop) as report, pytest.raises(Cancelled):
        report("aova", 0.5)
    assert _shown(console) == ""
