"""What commands print: lines, warnings, errors and JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from DiffuGTSLib.errors import Cancelled, DiffuGTSError, StorageError
from DiffuGTSLib.storage import for_json


class _NotesConsole(Console):
    """A console on stderr that falls silent when stderr takes nothing more: a log on a full disk must not end the work."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, as far as stderr takes it."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on without stderr; what still waits in it would fail again at the very end, as code 120."""
        sys.stderr = io.StringIO()


OUT = Console(markup=False, emoji=False)
ERR = _NotesConsole(stderr=True, markup=False, emoji=False)
"""Names from data are printed as they are: "ct [arterial]" is no style and "ct:heart:" no picture."""


def print_line(line: str, style: str = "") -> None:
    """Print a line on stdout as it is, however long, in one of rich's styles."""
    OUT.print(Text(line, style=style), soft_wrap=True)


def print_note(line: str, style: str = "") -> None:
    """Print a line on stderr as it is, however long."""
    ERR.print(Text(line, style=style), soft_wrap=True)


def print_warning(line: str) -> None:
    """Print a warning on stderr."""
    ERR.print(Text.assemble(("Warning: ", "yellow"), line), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value on stdout as JSON, in ASCII, since a pipe on Windows may take no more; NaN becomes null."""
    typer.echo(json.dumps(for_json(value), indent=1))


def print_error(error: DiffuGTSError) -> None:
    """Print an error's message and hint on stderr, each on a line of its own, however long."""
    title, style = ("", "yellow") if isinstance(error, Cancelled) else ("Error: ", "bold red")
    ERR.print(Text.assemble((title, style), error.message), soft_wrap=True)
    if error.hint:
        ERR.print(Text.assemble(("Hint: ", "bold"), error.hint), soft_wrap=True)


@contextmanager
def guarded_printing(kept: str) -> Iterator[None]:
    """Turn a failure to print a result into an error that says that the result itself is whole.

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
