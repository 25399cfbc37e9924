"""A wish to stop waits until what is under way is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from DiffuGTSLib.training.stopping import stops_held


@pytest.fixture(autouse=True)
def a_listening_process() -> Iterator[None]:
    """Ctrl-C raises here, though a shell's background work ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was put back"
    signal.signal(signal.SIGINT, before)


def test_a_first_signal_waits_for_the_end_of_the_block() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with stops_held():
            signal.raise_signal(signal.SIGINT)
            reached.append("end")
        reached.append("after")
    assert reached == ["end"]


def test_a_second_signal_does_not_wait() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), stops_held():
        signal.raise_signal(signal.SIGINT)
        reached.append("first")
        signal.raise_signal(signal.SIGINT)
        reached.append("second")
    assert reached == ["first"]


def test_what_breaks_after_a_signal_ends_as_the_signal_does() -> None:
    with pytest.raises(KeyboardInterrupt), stops_held():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("a worker process was interrupted, too")


def test_without_a_signal_nothing_happens_and_errors_stay_what_they_are() -> None:
    with stops_held():
        pass
    with pytest.raises(RuntimeError, match="a mistake"), stops_held():
        raise RuntimeError("a mistake")


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stops_held():
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_another_thread_works_without_signals() -> None:
    done = []

    def work() -> None:
        with stops_held():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
