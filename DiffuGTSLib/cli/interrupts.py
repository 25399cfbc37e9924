"""How a command is stopped: Ctrl-C, and the signals of schedulers and closed terminals."""

from __future__ import annotations

import signal
import threading
import time
from contextvars import ContextVar
from typing import Any

from DiffuGTSLib.cli.terminal import print_line
from DiffuGTSLib.errors import Cancelled

_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; what schedulers and `kill` send; a terminal that is closed. Windows has no last one."""

_AGAIN_AFTER_S = 5.0
"""A second signal that comes sooner is ignored, so that it does not interrupt the tidying up."""


class Interrupt:
    """Turns each signal to stop into the exception of Ctrl-C, and remembers it, should a library swallow that.

    Attributes:
        pressed: Whether a signal came.
        exit_code: What shells give for the first such signal: 130 for Ctrl-C, 143 for SIGTERM; 0 without one.
    """

    def __init__(self) -> None:
        self.pressed = False
        self.exit_code = 0
        self._heard_s = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _STOPS if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup asks us to ignore one
                    self._before[number] = signal.signal(number, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.pressed and _ENDS_WITH_COMMAND.get() else before)

    def _press(self, number: int, *_: object) -> None:
        now_s = time.monotonic()
        if self.pressed and now_s - self._heard_s < _AGAIN_AFTER_S:
            return
        self.exit_code = self.exit_code or 128 + number
        self.pressed, self._heard_s = True, now_s
        raise KeyboardInterrupt


STOPPED = "Stopped. No file is left half written; what was finished before is kept."

CURRENT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)
_ENDS_WITH_COMMAND: ContextVar[bool] = ContextVar("ends_with_command", default=False)


def ignore_signals_after_stop() -> None:
    """Ignore further signals once a command was stopped, until the process is gone: it ends with the command."""
    _ENDS_WITH_COMMAND.set(True)


def stop_if_asked() -> None:
    """Stop if a signal came and a library swallowed its exception.

    Raises:
        Cancelled: If a signal to stop came.
    """
    interrupt = CURRENT.get()
    if interrupt is not None and interrupt.pressed:
        raise Cancelled(STOPPED)


def print_progress(line: str) -> None:
    """Print on stdout a line about work in progress, unless that is to be stopped.

    Raises:
        Cancelled: If a signal to stop came.
    """
    stop_if_asked()
    print_line(line)
