"""The one family of errors: what is wrong, what to do next, and how a program should exit.

Refuse at the door, before weights load. A message names what is wrong, what was expected and what
was given, with units; the hint is the next step. Exit codes: 2 the user's data or request, 3 weights,
4 memory, 5 worker, 6 the file system, 130 canceled (143 by SIGTERM, 129 by a terminal that closed).
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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
    """The user's data or request cannot be used as given."""

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


@contextmanager
def naming_case(name: str) -> Iterator[None]:
    """Put a case's name before what is refused inside: of hundreds of cases the user has to know which."""
    try:
        yield
    except DiffuGTSError as error:
        if not isinstance(error, Cancelled):
            error.message = f"Case '{name}': {error.message}"
        raise


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
    "DEVICE_ALLOCATION_FAILED",
    "Seems to be OOM",  # MONAI's inferer
)
_NO_CONVOLUTION = ("unable to find an engine", "valid cuDNN algorithm")
"""What torch says where no way to convolve works: for want of room for any of them, or of one that can."""
_FULL = 0.1
"""A card with a smaller share of its memory free has none for a convolution."""


def says_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a library, or one that it came from, says that memory ran out.

    Not every allocator has an exception of its own. An error of our own family means what its code says.
    """
    for each in causes(error):
        if isinstance(each, DiffuGTSError):
            return each.code == MemoryLimitError.code
        if _says_it(each):
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it came from; not what `from None` hides."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _says_it(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))):
        return True
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return any(words in said for words in _OUT_OF_MEMORY) or (
        any(words.lower() in said.lower() for words in _NO_CONVOLUTION) and _a_card_is_full()
    )


def _a_card_is_full() -> bool:
    """Tell whether a card that we hold memory of has hardly any left; what torch keeps for later is not free either."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return False
    ours = [number for number in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(number)]
    try:
        return any(free < _FULL * total for free, total in map(torch.cuda.mem_get_info, ours))
    except RuntimeError:  # a card that lost its context answers nothing more
        return False


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest known name, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}."
