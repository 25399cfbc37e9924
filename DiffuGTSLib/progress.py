"""Progress for people: a bar with percentage and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

STAGE_NAMES = {
    "load": "Loading the networks",
    "read": "To the model's grid",
    "aova": "Anomaly attention",
    "repaint": "Repainting",
    "residual": "Residual and mask",
    "write back": "To the scan's grid",
    "write": "Writing the files",
    "cases": "Cases",
    "synthesize": "Painting",
}
"""What a stage is called on the screen; others are shown by their own name."""

_SECONDS_BETWEEN_LINES = 2.0


class TerminalProgress:
    """A progress callback, `(stage, fraction 0..1 of that stage)`, that shows what it is told.

    Attributes:
        console: Where to; a terminal gets a live bar, anything else a few lines a stage.
        quiet: Show nothing, and only run the check.
        check: Called each time; may raise `Cancelled`.
    """

    def __init__(self, console: Console, *, quiet: bool = False, check: Callable[[], None] | None = None) -> None:
        self.console = console
        self.quiet = quiet
        self.check = check
        self._stage = ""
        self._started_s = 0.0
        self._printed_s = 0.0
        self._quarter = -1
        self._task: TaskID | None = None
        self._live: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description:<22}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._live = Progress(*columns, console=console)

    def __enter__(self) -> TerminalProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stage: str, fraction: float) -> None:
        """Show how far a stage is.

        Raises:
            Cancelled: If the check says so.
        """
        if self.check is not None:
            self.check()
        if self.quiet:
            return
        fraction = min(max(fraction, 0.0), 1.0)
        if stage != self._stage:
            self._stage, self._started_s, self._quarter, self._task = stage, time.monotonic(), -1, None
        if self._live is None:
            self._print_line(fraction)
            return
        if self._task is None:
            self._task = self._live.add_task(STAGE_NAMES.get(stage, stage), total=1.0)
        self._live.update(self._task, completed=fraction)

    def _print_line(self, fraction: float) -> None:
        """Print when a stage starts and ends, and in between when another quarter is done and it takes its time."""
        now_s = time.monotonic()
        passed_s = now_s - self._started_s
        quarter = int(fraction * 4)
        if quarter <= self._quarter or (0 < fraction < 1 and now_s - self._printed_s < _SECONDS_BETWEEN_LINES):
            return
        self._quarter, self._printed_s = quarter, now_s
        if fraction == 0:
            words = "…"
        elif fraction < 1:
            words = f"{100 * fraction:.0f} %, {passed_s * (1 - fraction) / fraction:.0f} s left"
        else:
            words = f"done in {passed_s:.1f} s"
        name = STAGE_NAMES.get(self._stage, self._stage)
        self.console.print(f"{name}: {words}", markup=False, highlight=False)
