"""How long the interface thread does not come back to its event loop: what a person feels as freezing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import qt

INTERVAL_MS = 5


class Heartbeat:
    """Beats as long as Qt works, and remembers the longest time without a beat.

    Attributes:
        longestS: By the clock: what a person waits, and what other programs on the computer add to it.
        longestCpuS: The same in seconds of the interface thread's own computing: not sensitive to other programs.
        beats: How many there were.
    """

    def __init__(self) -> None:
        self.longestS = self.longestCpuS = 0.0
        self.beats = 0
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._beat)
        self._last = (0.0, 0.0)

    def start(self) -> None:
        """Begin to beat."""
        self._last = (time.perf_counter(), time.thread_time())
        self._timer.start()

    def stop(self) -> None:
        """Take the last time and beat no more."""
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        self.longestS = max(self.longestS, now[0] - self._last[0])
        self.longestCpuS = max(self.longestCpuS, now[1] - self._last[1])
        self._last = now
        self.beats += 1

    def __str__(self) -> str:
        return (
            f"longest gap of the interface thread: {self.longestS * 1000:.0f} ms by the clock, "
            f"{self.longestCpuS * 1000:.0f} ms of computing, in {self.beats} beats"
        )


def least(measured: Callable[[], float], enough: float, tries: int = 3) -> float:
    """Measure until it is little enough, at most so often, and return the least.

    What the code needs it needs each time; what a shared computer adds, for a page of memory or another's turn, falls on
    one time and not on the next, and is counted as the thread's own computing on some.
    """
    took = measured()
    for _ in range(tries - 1):
        if took < enough:
            break
        took = min(took, measured())
    return took


@contextmanager
def beating() -> Iterator[Heartbeat]:
    """Measure while something goes on.

    What is there already is kept from Python's garbage collector meanwhile: one full collection of what several
    hundred tests have left takes 0.3 s of the interface thread, which no scan and no panel is to blame for. What is
    made while the heart beats is collected, and counts.
    """
    gc.collect()
    gc.freeze()
    heart = Heartbeat()
    heart.start()
    try:
        yield heart
    finally:
        heart.stop()
        gc.unfreeze()
