"""Long work on the interface thread in small steps, so that Slicer stays alive; files and sums go to a thread meanwhile.

Work is a generator: each `yield` is a place where Slicer may do something else. What touches no node goes through
`inBackground`, whose thread never sees MRML. `@stepwise` makes a generator function a function that does all its steps at
once, for scripts; its `steps` gives the generator.
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
"""Slicer gets its turn when steps took as long; the longest single step adds to it."""
POLL_MS = 4
"""How often a thread's end is looked for."""
POLL_S = 0.002
"""How long each look lasts: threads of Python only go on while the interface thread is in Python and waits."""
SLAB_VOXELS = 1 << 21
"""Voxels of one step: a few milliseconds."""


def inBackground(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Work[T]:
    """Call what touches no node in a thread, and return or raise what it does."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=call, name="DiffuGTS", daemon=True).start()
    yield future
    while not future.done():
        yield future
    return future.result()


def finish(work: Work[T]) -> T:
    """Do all steps at once and return what the work returns."""
    while True:
        try:
            awaited = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if awaited is not None:
            wait([awaited])


class stepwise(Generic[P, T]):
    """Decorates a generator function: a call does all its steps at once, `steps` returns them as a generator."""

    def __init__(self, function: Callable[P, Work[T]]) -> None:
        self.steps = function
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return a method's function with its object."""
        return self if instance is None else stepwise(functools.partial(self.steps, instance))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do all steps at once."""
        return finish(self.steps(*args, **kwargs))


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield ranges of slices (k) that together are all of a grid (k, j, i), each small enough for one step."""
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
    """Does work one after the other, in the order in which it was added, whenever Slicer is idle."""

    def __init__(self) -> None:
        self._tasks: deque[_Task] = deque()
        self._awaited: Future[Any] | None = None
        self._isStepping = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._turn)

    @property
    def isIdle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._tasks

    def add(
        self,
        work: Work[T],
        onEnd: Callable[[T], None] = lambda result: None,
        onError: Callable[[Exception], None] | None = None,
        isWanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take up work.

        Args:
            work: Its steps.
            onEnd: Told what it returns.
            onError: Told what it raises; None raises it in the event loop.
            isWanted: Asked between steps; where it says no, the work is closed and nobody is told.
        """

        def fail(error: Exception) -> None:
            raise error

        self._tasks.append(_Task(work, isWanted, onEnd, onError or fail))
        if not self._timer.isActive():
            self._timer.start(0)

    def clear(self) -> None:
        """Close all work, after what a thread still does: no file is taken away under it."""
        self._timer.stop()
        if self._awaited is not None:
            wait([self._awaited])
        self._awaited = None
        while self._tasks:
            self._tasks.popleft().work.close()

    def _turn(self) -> None:
        if self._isStepping:  # a step that lets Slicer handle events, a progress dialog of somebody's
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
        """Do one step; the next task begins where this one ends, also if whoever is told of it raises."""
        if not task.isWanted():
            self._tasks.popleft()
            task.work.close()
            return
        self._isStepping = True
        try:
            self._awaited = next(task.work)
        except StopIteration as end:
            tell = functools.partial(task.onEnd, end.value)
        except Exception as error:  # noqa: BLE001 - handed on
            tell = functools.partial(task.onError, error)
        else:
            return
        finally:
            self._isStepping = False
        self._leave(task, tell)

    def _leave(self, task: _Task, tell: Callable[[], None]) -> None:
        self._tasks.remove(task)
        try:
            tell()
        finally:
            if self._tasks and not self._timer.isActive():
                self._timer.start(0)
