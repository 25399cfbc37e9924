"""Runs long work on the main thread in small steps, so that the GUI stays responsive; files and arrays go to a thread.

Work is a generator: at each `yield` Slicer may handle other events. Code that touches no node goes through
`inBackground`, whose thread never accesses MRML. `@stepwise` turns a generator function into one that runs all its steps
at once, for scripts; its `steps` returns the generator.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import qt

P = ParamSpec("P")
T = TypeVar("T")
Work = Generator["Future[Any] | None", None, T]
"""Yields None, or what it waits for."""

BUDGET_S = 0.02
"""Time after which Slicer handles other events; the last step may exceed it."""
POLL_MS = 4
"""Interval at which a thread is polled."""
POLL_S = 0.002
"""Duration of each poll: Python threads only run while the main thread waits in Python."""
SLAB_VOXELS = 1 << 21
"""Voxels per step: a few milliseconds."""


def inBackground(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Work[T]:
    """Call a function that touches no node in a thread; return its result or raise its error."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again by future.result()
            future.set_exception(error)

    threading.Thread(target=call, name="DiffuGTS", daemon=True).start()
    yield future
    while not future.done():
        yield future
    return future.result()


def finish(work: Work[T]) -> T:
    """Run all steps and return the result of the work."""
    while True:
        try:
            awaited = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if awaited is not None:
            wait([awaited])


class stepwise(Generic[P, T]):
    """Decorator of generator functions: a call runs all steps at once, `steps` returns the generator."""

    def __init__(self, function: Callable[P, Work[T]]) -> None:
        self.steps = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind a method to its object."""
        return self if instance is None else stepwise(functools.partial(self.steps, instance))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run all steps at once."""
        return finish(self.steps(*args, **kwargs))


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield ranges of slices (k) that cover a grid (k, j, i), each small enough for one step."""
    height = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0]))


@dataclass(frozen=True, eq=False)
class _Task:
    work: Work[Any]
    isWanted: Callable[[], bool]
    onEnd: Callable[[Any], None]
    onError: Callable[[Exception], None]


class StepQueue:
    """Runs work when Slicer is idle, one after the other, in the order in which it was added."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._awaited: Future[Any] | None = None
        self._isStepping = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._turn)

    @property
    def isIdle(self) -> bool:
        """Whether the queue is empty."""
        return not self._tasks

    def add(
        self,
        work: Work[T],
        onEnd: Callable[[T], None] = lambda result: None,
        onError: Callable[[Exception], None] | None = None,
        isWanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Add work to the queue.

        Args:
            work: Generator of its steps.
            onEnd: Called with its result.
            onError: Called with its exception; None raises it in the event loop.
            isWanted: Called between steps; if it returns False, the work is dropped without calling the others.
        """

        def fail(error: Exception) -> None:
            raise error

        self._tasks.append(_Task(work, isWanted, onEnd, onError or fail))
        if not self._timer.isActive():
            self._timer.start(0)

    def clear(self) -> None:
        """Drop all work, after waiting for a running thread, whose files must not be removed meanwhile."""
        self._timer.stop()
        if self._awaited is not None:
            wait([self._awaited])
        self._awaited = None
        while self._tasks:
            self._tasks.popleft().work.close()

    def _turn(self) -> None:
        if self._isStepping:  # a step that processes events itself, for example in a progress dialog
            self._timer.start(POLL_MS)
            return
        end = time.perf_counter() + BUDGET_S
        while self._tasks and time.perf_counter() < end:
            if self._awaited is not None and not wait([self._awaited], POLL_S).done:
                self._timer.start(POLL_MS)
                return
            self._awaited = None
            self._step(self._tasks[0])
        if self._tasks and not self._timer.isActive():
            self._timer.start(0)

    def _step(self, task: _Task) -> None:
        """Run one step; the next task starts after this one, even if a callback raises."""
        if not task.isWanted():
            self._tasks.popleft()
            task.work.close()
            return
        self._isStepping = True
        try:
            self._awaited = next(task.work)
        except StopIteration as end:
            callback = functools.partial(task.onEnd, end.value)
        except Exception as error:  # noqa: BLE001 - passed to onError
            callback = functools.partial(task.onError, error)
        else:
            return
        finally:
            self._isStepping = False
        self._finishTask(task, callback)

    def _finishTask(self, task: _Task, callback: Callable[[], None]) -> None:
        self._tasks.remove(task)
        try:
            callback()
        finally:
            if self._tasks and not self._timer.isActive():
                self._timer.start(0)
