"""The catch-all of the command line: every error leaves the program as a message, a hint and an exit code."""

from __future__ import annotations

import io
import re
import sys
import traceback
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperGroup

from DiffuGTSLib.cli.interrupts import CURRENT, STOPPED, Interrupt
from DiffuGTSLib.cli.terminal import print_error, print_note
from DiffuGTSLib.errors import Cancelled, DiffuGTSError, MemoryLimitError, StorageError, says_out_of_memory
from DiffuGTSLib.storage import shown

_USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""Typer's own complaints about a command line, which typer shows itself: exit code 2."""
_DEBUG: ContextVar[bool] = ContextVar("debug", default=False)


class CommandGroup(TyperGroup):
    """The program's group of commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty argument, of a shell variable that is not set: as a path it would be the current folder."""
        for before, given in pairwise(["diffugts", *args]):
            if not given or re.fullmatch("--[^=]+=", given):
                raise typer.BadParameter(
                    f"what follows {given or before} is empty. Is a variable of the shell not set?", ctx
                )
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the arguments; --help and --version are printed here, and standard output may take nothing."""
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:
            raise
        except OSError as error:
            sys.stdout = io.StringIO()  # else what waits to be printed fails again at the very end, as code 120
            raise typer.Exit(report_exception(error).exit_code) from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into words on stderr and an exit code."""
        with Interrupt() as interrupt:
            CURRENT.set(interrupt)
            _DEBUG.set(bool(ctx.params.get("debug")))
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort, _USAGE):
                raise
            except BrokenPipeError:  # `diffugts presets | head`
                raise
            except (Exception, KeyboardInterrupt) as error:
                known = report_exception(error, interrupt.pressed)
                raise typer.Exit(interrupt.exit_code or known.exit_code) from error


def as_known(error: BaseException, interrupted: bool = False) -> DiffuGTSError | None:
    """Return an exception as one of our family; None where it is a mistake of the program."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        # A library that is interrupted may raise anything: an ImportError halfway through an import, for one.
        return error if isinstance(error, Cancelled) else Cancelled(STOPPED)
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


def report_exception(error: BaseException, interrupted: bool = False) -> DiffuGTSError:
    """Print an exception on stderr, with its trace if --debug is given, and return it as one of our family."""
    known = as_known(error, interrupted) or _unexpected(error)
    if _DEBUG.get():
        print_note("".join(traceback.format_exception(error)))
    print_error(known)
    return known


def _unexpected(error: BaseException) -> DiffuGTSError:
    said = " ".join(str(error).split())[:300]
    return DiffuGTSError(
        f"Unexpected {type(error).__name__}: {said or 'no message'}",
        hint="a mistake in DiffuGTS: run it again as diffugts --debug … and report what it prints.",
    )
