"""The one catch-all door: every error leaves the program as a message, a hint and an exit code."""

from __future__ import annotations

import signal
import threading
import traceback
from contextvars import ContextVar
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from DiffuGTSLib.errors import Cancelled, DiffuGTSError, MemoryLimitError, says_out_of_memory

OUT = Console()
ERR = Console(stderr=True)

_USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""Typer's own complaints about a command line, which typer shows itself: exit code 2."""


class Interrupt:
    """Remembers that Ctrl-C was pressed, should a library swallow the exception that it raises."""

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        main_thread = threading.current_thread() is threading.main_thread()
        if main_thread and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # nohup asks us to ignore it
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        self.pressed = True
        raise KeyboardInterrupt


_STOPPED = "Stopped. No file is left half written; what was finished before is kept."

_INTERRUPT: ContextVar[Interrupt | None] = ContextVar("interrupt", default=None)


def stop_if_asked() -> None:
    """Stop where Ctrl-C was pressed, and somebody swallowed that.

    Raises:
        Cancelled: Then.
    """
    interrupt = _INTERRUPT.get()
    if interrupt is not None and interrupt.pressed:
        raise Cancelled(_STOPPED)


class Door(TyperGroup):
    """The program's group of commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into words on stderr and an exit code."""
        with Interrupt() as interrupt:
            _INTERRUPT.set(interrupt)
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort, _USAGE):
                raise
            except BrokenPipeError:  # `diffugts presets | head`
                raise
            except (Exception, KeyboardInterrupt) as error:
                known = as_known(error, interrupt.pressed)
                if ctx.params.get("debug"):
                    typer.echo("".join(traceback.format_exception(error)), err=True)
                tell(known or _unexpected(error))
                raise typer.Exit(known.exit_code if known else 1) from error


def as_known(error: BaseException, interrupted: bool = False) -> DiffuGTSError | None:
    """Return an exception as one of our family; None where it is a mistake of the program."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        # A library that is interrupted may raise anything: an ImportError halfway through an import, for one.
        return error if isinstance(error, Cancelled) else Cancelled(_STOPPED)
    if isinstance(error, DiffuGTSError):
        return error
    if not says_out_of_memory(error):
        return None
    said = " ".join(str(error).split())[:300]
    return MemoryLimitError(
        f"Not enough memory{': ' + said.rstrip('.') if said else ''}.",
        hint="close other programs; or cut the scan, or choose a coarser grid as in --set canonical.spacing_mm=3.",
    )


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
