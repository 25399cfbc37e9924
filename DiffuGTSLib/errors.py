"""The one family of errors: what is wrong, what to do next, and how a program should exit.

Refuse at the door, before weights load. A message names what is wrong, what was expected and what
was given, with units; the hint is the next step. Exit codes: 2 the user's data or wish, 3 weights,
4 memory, 5 worker, 6 the file system, 130 canceled.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DiffuGTSError(Exception):
    """Carries a message, a hint, a stable word for programs and the exit code of the process."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} Hint: {self.hint}" if self.hint else self.message


class InputError(DiffuGTSError, ValueError):
    """The user's data or wish cannot be used as given."""

    code = "input"
    exit_code = 2


class GeometryError(InputError):
    """A grid is not what is needed: shape, spacing, origin, direction, shear, or two grids that differ."""

    code = "geometry"


class PromptError(InputError):
    """A prompt is empty, negated, or names nothing that we know."""

    code = "prompt"


class ConfigError(InputError):
    """A preset, a key or a value of the configuration is wrong."""

    code = "config"


class WeightsError(DiffuGTSError):
    """Weights are missing, corrupted, of another shape, or their license was not accepted."""

    code = "weights"
    exit_code = 3


class MemoryLimitError(DiffuGTSError):
    """The work does not fit into memory; the hint names what to try instead."""

    code = "oom"
    exit_code = 4


class WorkerError(DiffuGTSError):
    """The worker process died or speaks another protocol."""

    code = "worker"
    exit_code = 5


class StorageError(DiffuGTSError, OSError):
    """A result cannot be written: folder not writable, or disk full."""

    code = "storage"
    exit_code = 6


class Cancelled(DiffuGTSError):
    """The user stopped the work. Not a failure."""

    code = "cancelled"
    exit_code = 130


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def says_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a library says that memory ran out: not every allocator has an exception of its own."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known name, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}."
