"""Telling a run's events: throttled, stopped by the check, and timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.worker.teller import Teller


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def __call__(self, event: str, **values: Any) -> None:
        """Hear it."""
        self.heard.append({"event": event, **values})

    @property
    def shares(self) -> list[tuple[str, float]]:
        """Stage events."""
        return [(each["stage"], each["share"]) for each in self.heard if each["event"] == "stage"]


def never() -> None:
    """Go on."""


@pytest.fixture
def a_listener() -> Listener:
    """Nothing heard yet."""
    return Listener()


def test_a_thousand_steps_are_a_few_events_but_never_without_the_ends(a_listener: Listener) -> None:
    teller = Teller(a_listener, never, interval_s=60)
    for stage in ("repaint", "residual"):
        for step in range(1001):
            teller.progress(stage, step / 1000)
    assert a_listener.shares == [("repaint", 0.0), ("repaint", 1.0), ("residual", 0.0), ("residual", 1.0)]


def test_without_a_pause_to_keep_every_step_is_told_once(a_listener: Listener) -> None:
    teller = Teller(a_listener, never, interval_s=0)
    for share in (0.0, 0.0, 0.25, 0.25, 1.0, 1.0, 1.7, -1.0):
        teller.progress("aova", share)
    assert a_listener.shares == [("aova", 0.0), ("aova", 0.25), ("aova", 1.0), ("aova", 0.0)]


def test_a_stage_that_was_begun_elsewhere_is_told_once_and_timed_from_there(a_listener: Listener) -> None:
    teller = Teller(a_listener, never)
    teller.progress("load", 0.0)
    with teller.stage("load"):
        pass
    assert a_listener.shares == [("load", 0.0), ("load", 1.0)]
    assert teller.seconds["load"] >= 0


def test_nothing_is_told_once_the_run_shall_stop(a_listener: Listener) -> None:
    def stop() -> None:
        raise Cancelled("Stopped.")

    teller = Teller(a_listener, stop)
    with pytest.raises(Cancelled):
        teller.progress("aova", 0.0)
    with pytest.raises(Cancelled):
        teller.artifact("aova", Path("aova.nrrd"))
    assert a_listener.heard == []


def test_a_file_is_told_with_its_kind_and_path(a_listener: Listener, tmp_path: Path) -> None:
    Teller(a_listener, never).artifact("aova", tmp_path / "aova.nrrd")
    assert a_listener.heard == [{"event": "artifact", "kind": "aova", "path": str(tmp_path / "aova.nrrd")}]
