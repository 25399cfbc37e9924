"""Work in small steps: in order, with files and sums in a thread, and never left half closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import gui
import pytest
from DiffuGTSSlicer import steps
from DiffuGTSSlicer.steps import StepQueue, Work, finish, inBackground, slabs, stepwise
from heartbeat import beating


@pytest.fixture
def a_queue(a_qt_application: Any) -> Iterator[StepQueue]:
    queue = StepQueue()
    yield queue
    queue.clear()


def counting(log: list[Any], name: str, count: int) -> Work[str]:
    """Work that writes down each of its steps."""
    for number in range(count):
        log.append((name, number))
        yield None
    return name


def test_work_is_done_in_the_order_in_which_it_was_added(a_queue: StepQueue) -> None:
    log: list[Any] = []
    a_queue.add(counting(log, "first", 2), onEnd=log.append)
    a_queue.add(counting(log, "second", 1), onEnd=log.append)
    assert log == [], "nothing is done before the event loop comes round"
    assert gui.spin(lambda: a_queue.isIdle)
    assert log == [("first", 0), ("first", 1), "first", ("second", 0), "second"]


def test_slicer_gets_its_turn_between_steps(a_queue: StepQueue) -> None:
    def busy() -> Work[None]:
        for _each in range(30):
            time.sleep(0.01)
            yield None

    with beating() as heart:
        a_queue.add(busy())
        assert gui.spin(lambda: a_queue.isIdle)
    assert heart.beats >= 8, "every 20 ms or so, of 300"


def test_a_thread_does_what_touches_no_node_and_its_error_comes_back(a_queue: StepQueue) -> None:
    def work() -> Work[bool]:
        other = yield from inBackground(threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            yield from inBackground(divmod, 1, 0)
        return other != threading.get_ident()

    told: list[bool] = []
    a_queue.add(work(), onEnd=told.append)
    assert gui.spin(lambda: told) and told == [True]
    assert finish(work())


def test_a_function_of_steps_can_also_be_called_for_its_result() -> None:
    @stepwise
    def double(value: int) -> Work[int]:
        """Return twice as much."""
        yield None
        return 2 * (yield from inBackground(int, value))

    assert double(4) == 8 and double.__doc__ == "Return twice as much."
    assert next(double.steps(4)) is None


def test_an_error_is_told_and_the_next_work_goes_on(a_queue: StepQueue) -> None:
    def wrong() -> Work[None]:
        yield None
        raise ValueError("wrong")

    log: list[Any] = []
    a_queue.add(wrong(), onError=lambda error: log.append(str(error)))
    a_queue.add(counting(log, "next", 1), onEnd=log.append)
    assert gui.spin(lambda: a_queue.isIdle) and log == ["wrong", ("next", 0), "next"]


def test_an_error_that_nobody_asked_for_is_not_swallowed_and_does_not_stop_the_queue(
    a_scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> Work[None]:
        yield None
        raise ValueError("wrong")

    raised: list[Any] = []
    monkeypatch.setattr("sys.excepthook", lambda kind, *_: raised.append(kind))
    queue, log = StepQueue(), []
    queue.add(wrong())
    queue.add(counting(log, "next", 1))
    assert gui.spin(lambda: queue.isIdle) and raised == [ValueError] and log == [("next", 0)]


def test_work_that_is_not_wanted_any_more_is_closed_when_its_thread_is_done(a_queue: StepQueue) -> None:
    log: list[str] = []

    def work() -> Work[None]:
        try:
            yield from inBackground(time.sleep, 0.1)
            log.append("went on")
        finally:
            log.append("closed")

    wanted = True
    a_queue.add(work(), onEnd=lambda _: log.append("ended"), isWanted=lambda: wanted)
    gui.spin(lambda: False, 0.03)
    wanted = False
    assert gui.spin(lambda: a_queue.isIdle) and log == ["closed"]


def test_clearing_waits_for_the_thread_and_closes_all(a_queue: StepQueue) -> None:
    log: list[str] = []

    def work() -> Work[None]:
        try:
            yield from inBackground(lambda: (time.sleep(0.1), log.append("thread")))
        finally:
            log.append("closed")

    a_queue.add(work())
    a_queue.add(counting(log, "never", 1))
    gui.spin(lambda: False, 0.03)
    a_queue.clear()
    assert log == ["thread", "closed"] and a_queue.isIdle


def test_a_step_in_which_slicer_handles_events_is_not_entered_twice(a_queue: StepQueue) -> None:
    log: list[Any] = []

    def work() -> Work[None]:
        yield None
        gui.spin(lambda: False, 0.05)
        log.append("after events")

    a_queue.add(work())
    a_queue.add(counting(log, "next", 1))
    assert gui.spin(lambda: a_queue.isIdle) and log == ["after events", ("next", 0)]


def test_slabs_are_all_of_a_grid_and_none_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "SLAB_VOXELS", 50)
    assert list(slabs((7, 5, 5))) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    assert list(slabs((2, 100, 100))) == [slice(0, 1), slice(1, 2)]
