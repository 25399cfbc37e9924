"""The one catch-all door: every error leaves the program as a message, a hint and an exit code."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from DiffuGTSLib.errors import Cancelled, DiffuGTSError, MemoryLimitError, StorageError, says_out_of_memory
from DiffuGTSLib.storage import for_json, shown

OUT = Console(markup=False, emoji=False)
ERR = Console(stderr=True, markup=False, emoji=False)
"""Names from data are printed as they are: "ct [arterial]" is no style and "ct:heart:" no picture."""

_USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""Typer's own complaints about a command line, which typer shows itself: exit code 2."""


_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; what schedulers and `kill` send; a terminal that is closed. Windows has no last one."""


_AGAIN_AFTER_S = 5.0
"""A stop that is wished again before is the same wish, which what is being tidied up must not be disturbed by."""


class Interrupt:
    """Turns a wish to stop into the exception of Ctrl-C, and remembers it, should a library swallow that.

    Attributes:
        pressed: Whether somebody wished it.
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
            signal.signal(number, signal.SIG_IGN if self.pressed and _LEAVES.get() else before)

    def _press(self, number: int, *_: object) -> None:
        now_s = time.monotonic()
        if self.pressed and now_s - self._heard_s < _AGAIN_AFTER_S:
            return
        self.exit_code = self.exit_code or 128 + number
        self.pressed, self._heard_s = True, now_s
        raise KeyboardInterrupt


_STOPPED = "Stopped. No file is left half written; what was finished before is kept."

_INTERRUPT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)
_DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
_LEAVES: ContextVar[bool] = ContextVar("leaves", default=False)


def leave_after() -> None:
    """Say that this process ends with the command: whoever stops it is then heard no more, until it has left."""
    _LEAVES.set(True)


@contextmanager
def printing(kept: str) -> Iterator[None]:
    """Say, where a result cannot be printed, that it is there nevertheless.

    Args:
        kept: What is whole, and where.

    Raises:
        StorageError: If standard output takes nothing, as a file on a full disk.
    """
    try:
        yield
    except BrokenPipeError:  # who reads it has enough
        raise
    except OSError as error:
        sys.stdout = io.StringIO()  # else what waits to be printed fails again at the very end, as code 120
        raise StorageError(
            f"{kept}, but printing failed: {error.strerror or error}.", hint="print to another place."
        ) from error


def stop_if_asked() -> None:
    """Stop where Ctrl-C was pressed or SIGTERM came, and somebody swallowed that.

    Raises:
        Cancelled: Then.
    """
    interrupt = _INTERRUPT.get()
    if interrupt is not None and interrupt.pressed:
        raise Cancelled(_STOPPED)


def say(line: str, style: str = "") -> None:
    """Print a line on stdout as it is, however long, in one of rich's styles."""
    OUT.print(Text(line, style=style), soft_wrap=True)


def aside(line: str, style: str = "") -> None:
    """Print a line on stderr as it is, however long."""
    ERR.print(Text(line, style=style), soft_wrap=True)


def warn(line: str) -> None:
    """Print a warning on stderr."""
    ERR.print(Text.assemble(("Warning: ", "yellow"), line), soft_wrap=True)


def report(line: str) -> None:
    """Print on stdout a line of work that goes on, or stop it.

    Raises:
        Cancelled: If somebody wished that it stops.
    """
    stop_if_asked()
    say(line)


def print_json(value: Any) -> None:
    """Print a value on stdout as JSON, in ASCII, since a pipe on Windows may take no more; NaN becomes null."""
    typer.echo(json.dumps(for_json(value), indent=1))


class Door(TyperGroup):
    """The program's group of commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into words on stderr and an exit code."""
        with Interrupt() as interrupt:
            _INTERRUPT.set(interrupt)
            _DEBUG.set(bool(ctx.params.get("debug")))
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort, _USAGE):
                raise
            except BrokenPipeError:  # `diffugts presets | head`
                raise
            except (Exception, KeyboardInterrupt) as error:
                known = tell_any(error, interrupt.pressed)
                raise typer.Exit(interrupt.exit_code or known.exit_code) from error


def as_known(error: BaseException, interrupted: bool = False) -> DiffuGTSError | None:
    """Return an exception as one of our family; None where it is a mistake of the program."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        # A library that is interrupted may raise anything: an ImportError halfway through an import, for one.
        return error if isinstance(error, Cancelled) else Cancelled(_STOPPED)
    if isinstance(error, DiffuGTSError):
        return error
    said = " ".join(str(error).split())[:300].rstrip(".")
    if says_out_of_memory(error):
        return MemoryLimitError(
            f"Not enough memory{': ' + said if said else ''}.",
            hint="close other programs, or cut the scan: `diffugts plan` says what it needs.",
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return StorageError(
            f"{shown(error.filename)} cannot be used: {error.strerror}."
            if error.filename and error.strerror
            else f"Reading or writing failed: {said or type(error).__name__}.",
            hint="check that it is there, that you may read and write it, and its disk.",
        )
    return None


def tell_any(error: BaseException, interrupted: bool = False) -> DiffuGTSError:
    """Say an exception on stderr, with its trace where --debug asks for that, and return it as one of our family."""
    known = as_known(error, interrupted) or _unexpected(error)
    if _DEBUG.get():
        typer.echo("".join(traceback.format_exception(error)), err=True)
    tell(known)
    return known


def tell(error: DiffuGTSError) -> None:
    """Print an error's message and hint on stderr, each on a line of its own, however long."""
    title, style = ("", "yellow") if isinstance(error, Cancelled) else ("Error: ", "bold red")
    ERR.print(Text.assemble((title, style), error.message), soft_wrap=True)
    if error.hint:
        ERR.print(Text.assemble(("Hint: ", "bold"), error.hint), soft_wrap=True)


def _unexpected(error: BaseException) -> DiffuGTSError:
    said = " ".join(str(error).split())[:300]
    return DiffuGTSError(
        f"Unexpected {type(error).__name__}: {said or 'no message'}",
        hint="a mistake in DiffuGTS: run it again as diffugts --debug … and report what it prints.",
    )
