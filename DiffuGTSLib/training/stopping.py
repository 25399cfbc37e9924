"""Hold back a wish to stop until what is under way is whole, so that it can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from DiffuGTSLib.training.distributed import world_size

_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; what schedulers and `kill` send; a terminal that is closed. Windows has no last one."""


def stop_signals() -> list[int]:
    """Return the numbers of the signals by which a process is asked to stop, on this system."""
    return [getattr(signal, name) for name in _STOPS if hasattr(signal, name)]


@contextmanager
def stops_held() -> Iterator[None]:
    """Let the first signal to stop wait until the block is left, and then do what it would have done.

    A second signal is not held. Nor is any among several processes, which wait for one another, nor outside the main
    thread, which signals do not reach.
    """
    held: list[tuple[int, Any]] = []
    before: dict[int, Callable[[int, Any], Any]] = {}

    def hold(number: int, frame: Any) -> None:
        held.append((number, frame))
        if len(held) > 1:
            before[number](number, frame)

    if threading.current_thread() is threading.main_thread() and world_size() == 1:
        for number in stop_signals():
            handler = signal.getsignal(number)
            if callable(handler):  # not what is ignored, nor what ends the process without a word to us
                before[number] = handler
                signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:  # in place of an error, too: what is interrupted may raise anything
            before[held[0][0]](*held[0])
