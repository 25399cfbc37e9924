"""Telling the events of a run: often enough for a progress bar, seldom enough for a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Teller:
    """Tells the events of one run, and asks before each whether the run shall go on.

    Attributes:
        tell: Takes an event and what it carries.
        seconds: Stage → how long it took, of those that `stage` was used for.
    """

    def __init__(self, tell: Callable[..., None], check: Callable[[], None], interval_s: float = 0.1) -> None:
        """Take where to tell, what may raise `Cancelled`, and how often progress within a stage is told at most."""
        self.tell = tell
        self.seconds: dict[str, float] = {}
        self._check = check
        self._interval_s = interval_s
        self._told = ("", 0.0)
        self._told_s = 0.0
        self._begun_s = 0.0

    def progress(self, stage: str, share: float) -> None:
        """Tell how far a stage is: always where it begins and ends, else now and then.

        Raises:
            Cancelled: If the check says so.
        """
        self._check()
        share = round(min(max(share, 0.0), 1.0), 4)
        now_s = time.monotonic()
        if stage != self._told[0]:
            self._begun_s = now_s
        elif share == self._told[1] or (share < 1 and now_s - self._told_s < self._interval_s):
            return
        self._told, self._told_s = (stage, share), now_s
        self.tell("stage", stage=stage, share=share)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell a stage's beginning, if that was not told before, and its end; note how long it took."""
        self.progress(name, 0.0)
        begun_s = self._begun_s
        yield
        self.seconds[name] = time.monotonic() - begun_s
        self.progress(name, 1.0)

    def artifact(self, kind: str, path: Path) -> None:
        """Tell that a file is whole.

        Raises:
            Cancelled: As `progress`.
        """
        self._check()
        self.tell("artifact", kind=kind, path=str(path))
