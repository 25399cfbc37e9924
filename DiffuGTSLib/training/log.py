"""The log of a training: a table to plot, TensorBoard's curves, and whoever wants to be told."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.training.distributed import rank

Progress = Callable[[int, int, dict[str, float]], None]
"""Is told how many iterations are done, of how many, and the row of the log."""


def row_teller(
    folder: Path, iterations: int, progress: Progress | None, *, curves: bool
) -> Callable[[dict[str, float]], None]:
    """Return what takes a row of the log: the first process writes and tells it, the others do nothing.

    Args:
        folder: Of the run; `log.csv` is in it.
        iterations: In all.
        progress: Is told each row.
        curves: Write them for TensorBoard, too.

    Raises:
        ConfigError: If curves are asked for and TensorBoard is not installed.
    """
    drawn = Curves(folder) if curves and rank() == 0 else None

    def tell(row: dict[str, float]) -> None:
        if rank() > 0:
            return
        _log(folder / "log.csv", row)
        if drawn is not None:
            drawn.add(row)
        if progress is not None:
            progress(int(row["iteration"]), iterations, row)

    return tell


class Curves:
    """The log as TensorBoard reads it, in the run's own folder.

    Raises:
        ConfigError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "Curves were asked for, but TensorBoard is not installed.", hint="pip install tensorboard."
            ) from error
        self._writer = SummaryWriter(str(folder))

    def add(self, row: dict[str, float]) -> None:
        """Add one row of the log, at once, so that a stopped run has its curves."""
        for name, value in row.items():
            if name != "iteration":
                self._writer.add_scalar(name, value, int(row["iteration"]))
        self._writer.flush()


def _log(path: Path, row: dict[str, float]) -> None:
    """Append one row; a row with columns that the file does not know yet rewrites the header above all rows.

    Rows of a run that was stopped after its last checkpoint are dropped, since they come again.
    """
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [known for known in csv.DictReader(file) if float(known["iteration"]) < row["iteration"]]
    columns = list(dict.fromkeys([*(rows[0] if rows else {}), *row]))
    rows.append({name: f"{value:.6g}" for name, value in row.items()})
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
