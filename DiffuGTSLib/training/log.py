"""The log of a training: a table to plot, TensorBoard's curves, and whoever wants to be told."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from DiffuGTSLib.errors import ConfigError, StorageError
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
    table = Table(folder / "log.csv")

    def tell(row: dict[str, float]) -> None:
        if rank() > 0:
            return
        table.add(row)
        if drawn is not None:
            drawn.add(row)
        if progress is not None:
            progress(int(row["iteration"]), iterations, row)

    return tell


class Curves:
    """The log as TensorBoard reads it, in the run's own folder; what a run that is gone on with does again is dropped.

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
        self._folder, self._writers = folder, SummaryWriter
        self._writer: SummaryWriter | None = None

    def add(self, row: dict[str, float]) -> None:
        """Add one row of the log, at once, so that a stopped run has its curves; the first one ends those that go on beyond it.

        Raises:
            StorageError: If they cannot be written.
        """
        iteration = int(row["iteration"])
        with _storage_errors(self._folder):
            if self._writer is None:
                self._writer = self._writers(str(self._folder), purge_step=iteration)
            for name, value in row.items():
                if name != "iteration":
                    self._writer.add_scalar(name, value, iteration)
            self._writer.flush()


class Table:
    """A table to plot, to which rows are appended; what a run that is gone on with does again is dropped from it first.

    Args:
        path: Of the file; it may be there from an earlier start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def add(self, row: dict[str, float]) -> None:
        """Append one row; the first one, and one with columns that the file does not know yet, write the file anew.

        Raises:
            StorageError: If it cannot be written.
        """
        told = {name: f"{value:.6g}" for name, value in row.items()}
        if self._columns and told.keys() <= set(self._columns):
            with _storage_errors(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(told)
            return
        rows = _rows_before(self._path, row["iteration"])
        self._columns = list(dict.fromkeys([*(rows[0] if rows else {}), *told]))
        with whole_file(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows([*rows, told])


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Say of an OSError what could not be written."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.", hint="the last checkpoint is kept."
        ) from error


def _rows_before(path: Path, iteration: float) -> list[dict[str, str]]:
    """Return the rows of earlier iterations: later ones of a run that was stopped after its last checkpoint come again."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # a killed process may have left half a line
    return [known for known in csv.DictReader(io.StringIO(whole)) if float(known["iteration"]) < iteration]
