"""The pipes: requests in whatever pieces, cancels that reach a run at once, and the end of stdin."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from DiffuGTSLib.errors import Cancelled, WorkerError
from DiffuGTSLib.worker import channel
from DiffuGTSLib.worker.channel import Inbox, JobRun
from DiffuGTSLib.worker.protocol import request_line


class Wire:
    """A pipe in memory: what is put into it is read at the other end, in the same pieces; b"" ends it."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.left = threading.Event()

    def exit_now(self) -> None:
        """Note that the process would have been ended."""
        self.left.set()

    def send(self, do: str, **values: str) -> None:
        """Write a request."""
        self.pieces.put(request_line(do, **values).encode())


@pytest.fixture
def a_wire() -> Iterator[Wire]:
    """Ends with the test, so that no thread stays."""
    wire = Wire()
    yield wire
    wire.pieces.put(b"")


@pytest.fixture
def an_inbox(a_wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """At the other end of that wire, impatient."""
    monkeypatch.setattr(channel, "GRACE_S", 0.2)
    inbox = Inbox(a_wire.pieces.get, a_wire.exit_now)
    inbox.start()
    return inbox


def next_run(inbox: Inbox) -> JobRun:
    run = inbox.next()
    assert isinstance(run, JobRun)
    return run


def is_stopped(run: JobRun, within_s: float = 2.0) -> bool:
    """Say whether a run is asked to stop; the thread that hears the request needs a moment."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            run.check()
        except Cancelled:
            return True
        time.sleep(0.005)
    return False


def test_requests_wait_for_their_turn(a_wire: Wire, an_inbox: Inbox) -> None:
    a_wire.pieces.put(b'{"do": "run", "job": "/a"}\n{"do": "rel')
    a_wire.pieces.put(b'ease"}\n{"do": "run", "job": "/b"}\n')
    assert next_run(an_inbox).job == "/a"
    assert an_inbox.next() == "release"
    assert next_run(an_inbox).job == "/b"


def test_a_cancel_reaches_the_run_that_is_on_and_those_that_wait(a_wire: Wire, an_inbox: Inbox) -> None:
    a_wire.send("run", job="/a")
    a_wire.send("run", job="/b")
    first = next_run(an_inbox)
    first.check()
    a_wire.send("cancel")
    assert is_stopped(first) and is_stopped(next_run(an_inbox))


def test_a_cancel_that_comes_too_late_does_not_meet_the_next_run(a_wire: Wire, an_inbox: Inbox) -> None:
    a_wire.send("run", job="/a")
    an_inbox.ended(next_run(an_inbox))
    a_wire.send("cancel")
    a_wire.send("run", job="/b")
    assert not is_stopped(next_run(an_inbox), within_s=0.05)


def test_what_is_no_request_is_handed_on_as_an_error(a_wire: Wire, an_inbox: Inbox) -> None:
    a_wire.pieces.put(b"hello\n")
    error = an_inbox.next()
    assert isinstance(error, WorkerError) and error.code == "protocol"


@pytest.mark.parametrize("how", ["end", "stop"])
def test_at_the_end_the_run_is_stopped_and_the_process_does_not_wait_for_ever(
    a_wire: Wire, an_inbox: Inbox, how: str
) -> None:
    a_wire.send("run", job="/a")
    run = next_run(an_inbox)
    if how == "end":
        a_wire.pieces.put(b"")
    else:
        a_wire.send("stop")
    assert is_stopped(run)
    assert an_inbox.next() is None
    assert not a_wire.left.is_set(), "it has its grace"
    assert a_wire.left.wait(2), "but no more than that"
