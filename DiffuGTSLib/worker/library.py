"""Loading torch and what stands on it, which takes seconds, beside the worker's other work; and what it found."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from DiffuGTSLib.errors import WorkerError
from DiffuGTSLib.versions import versions
from DiffuGTSLib.worker.failures import import_failure

MODULES = ("DiffuGTSLib.worker.job", "DiffuGTSLib.backbones.maisi")
"""What a run needs; the networks are else loaded by their builder."""

_logger = logging.getLogger(__name__)


class Library:
    """The heavy packages, loaded by a thread of their own.

    Meanwhile nothing else may import any of them: two threads in one circle of imports can meet half a module.
    """

    def __init__(self, tell: Callable[..., None], modules: tuple[str, ...] = MODULES) -> None:
        self._tell = tell
        self._modules = modules
        self._finished = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Begin to load; a `ready` event is told at the end, or a `warning` where a package does not load."""
        threading.Thread(target=self._load, name="imports", daemon=True).start()

    def wait(self, check: Callable[[], None]) -> None:
        """Return when all is loaded.

        Args:
            check: Asked every moment; may raise `Cancelled`, which leaves the loading as it goes.

        Raises:
            WorkerError: Code "import_failed".
        """
        while not self._finished.wait(0.05):
            check()
        check()
        if self._failure is not None:
            failure = import_failure(self._failure)
            raise WorkerError(failure.message, hint=failure.hint, code=failure.code) from self._failure

    def _load(self) -> None:
        try:
            for name in self._modules:
                importlib.import_module(name)
        except Exception as error:
            self._failure = error
            _logger.warning("A package cannot be loaded.", exc_info=error)
        self._finished.set()
        if self._failure is None:
            self._tell("ready", versions=versions(), devices=graphics_cards())
        else:
            self._tell("warning", message=import_failure(self._failure).message)


def graphics_cards() -> list[dict[str, Any]]:
    """Return what torch can compute on besides the processor: the name to ask for it by, its own name, its memory."""
    import torch

    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        cards = [(f"cuda:{n}", torch.cuda.get_device_properties(n)) for n in range(count)]
    except RuntimeError as error:  # a driver that does not fit
        _logger.warning("The graphics card cannot be asked: %s", error)
        return []
    return [{"id": name, "name": card.name, "total_bytes": int(card.total_memory)} for name, card in cards]
