"""From per-case rows to a table that can be quoted: every case, and the mean with its confidence interval.

A row is a mapping of column names to values: text tells the case, numbers are measured. NaN means "not applicable";
it is shown as such, counted, and left out of the mean.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from DiffuGTSLib import storage
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.output.findings import NOT_APPLICABLE
from DiffuGTSLib.storage import for_json, whole_file

Row = Mapping[str, str | int | float | np.integer[Any]]

SEED = 0
"""Of every draw: the same figures have the same interval."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean and where it would lie, had other patients been drawn.

    Attributes:
        mean: Over the applicable values; NaN when there are none.
        low: Lower end of the 95 % interval; NaN with fewer than two independent cases.
        high: Upper end.
        median: Over the applicable values.
        cases: Number of applicable values.
        not_applicable: Number of NaN left out.
    """

    mean: float
    low: float
    high: float
    median: float
    cases: int
    not_applicable: int


def bootstrap_mean(values: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """Return the mean of some values with its 95 % percentile bootstrap interval.

    Args:
        values: One a case; NaN is left out and counted.
        groups: The patient of each value: patients are drawn, not scans, since scans of one patient are alike.

    Raises:
        InputError: If the numbers of values and groups differ, or a value is infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if groups is not None and len(groups) != len(array):
        raise InputError(f"Expected one group a value, got {len(array)} values and {len(groups)} groups.")
    if np.isinf(array).any():
        raise InputError("An infinite value has no mean; expected finite values, or NaN where not applicable.")
    kept = ~np.isnan(array)
    dropped = int((~kept).sum())
    if not kept.any():
        return Estimate(nan, nan, nan, nan, 0, dropped)
    names = np.arange(len(array)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    _, members = np.unique(names[kept], return_inverse=True)
    low, high = _interval(np.bincount(members, weights=array[kept]), np.bincount(members))
    return Estimate(float(array[kept].mean()), low, high, float(np.median(array[kept])), int(kept.sum()), dropped)


def summarize(rows: Sequence[Row], group_by: str | None = None) -> dict[str, Estimate]:
    """Return an estimate for every column of numbers, in the order of the columns.

    Args:
        rows: All with the same columns.
        group_by: The column that names the patient; None: every row is a patient of its own.

    Raises:
        InputError: If there are no rows, columns differ between rows, a column mixes text and numbers, or
            `group_by` is none of them.
    """
    columns = _checked_columns(rows)
    if group_by is not None and group_by not in columns:
        raise InputError(f"No column '{group_by}' to group by; there are {', '.join(columns)}.")
    groups = None if group_by is None else [str(row[group_by]) for row in rows]
    return {
        column: bootstrap_mean([float(row[column]) for row in rows], groups)
        for column in columns
        if column != group_by and not isinstance(rows[0][column], str)
    }


def write_report(
    rows: Sequence[Row],
    folder: Path | str,
    *,
    title: str,
    notes: Sequence[str] = (),
    group_by: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Estimate]:
    """Write cases.csv, report.json and report.md into an existing folder and return the estimates.

    Args:
        rows: One a case, all with the same columns.
        folder: Where to; each file is replaced as a whole.
        title: What was measured on what.
        notes: Sentences below the table: tolerances, splits, what the numbers do not show.
        group_by: As in `summarize`.
        more: Further entries of report.json: what no mean over cases tells.

    Raises:
        InputError: As `summarize`.
        StorageError: If a file cannot be written.
    """
    estimates = summarize(rows, group_by)
    drawn = "patients" if group_by is not None else "cases"
    method = f"mean with 95 % percentile bootstrap interval, {_RESAMPLES} draws of {drawn}, seed {SEED}"
    folder = Path(folder)
    write_rows(rows, folder / "cases.csv")
    report = {
        "title": title,
        "interval": method,
        "estimates": {column: asdict(estimate) for column, estimate in estimates.items()},
        "cases": [dict(row) for row in rows],
        "notes": list(notes),
        **(more or {}),
    }
    write_json(folder / "report.json", report)
    with whole_file(folder / "report.md") as path:
        path.write_text(markdown(rows, estimates, title=title, method=method, notes=notes), encoding="utf-8")
    return estimates


def write_rows(rows: Sequence[Row], path: Path | str) -> None:
    """Write rows of the same columns as a CSV file with a header; NaN as `NOT_APPLICABLE`.

    Raises:
        InputError: As `summarize`.
        StorageError: If the file cannot be written.
    """
    _checked_columns(rows)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows([_cell(value, "") for value in row.values()] for row in rows)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as JSON, see `storage.for_json`.

    Raises:
        StorageError: If the file cannot be written.
    """
    storage.write_json(path, for_json(value), indent=2)


def write_study(folder: Path, title: str, lines: Sequence[str], notes: Sequence[str], **content: Any) -> None:
    """Write a study's `report.md` and, last, `report.json`: by its title a folder is known as that study's.

    Args:
        folder: Where its tables are already.
        title: Of the study.
        lines: Markdown below the title.
        notes: What the figures follow; the end of the page, and "notes" of the JSON file.
        content: What else the JSON file holds.

    Raises:
        StorageError: If a file cannot be written.
    """
    with whole_file(folder / "report.md") as path:
        text = [f"# {title}", "", *lines, "", *(f"- {note}" for note in notes)]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
    write_json(folder / "report.json", {"title": title, **content, "notes": notes})


def table_lines(rows: Sequence[Row], form: str = ".3f") -> list[str]:
    """Return rows of the same columns as the lines of a Markdown table, numbers to the right.

    Raises:
        InputError: As `summarize`.
    """
    columns = _checked_columns(rows)
    edges = ["---" if isinstance(rows[0][name], str) else "---:" for name in columns]
    return [
        table_line(columns),
        table_line(edges),
        *(table_line([_cell(row[name], form) for name in columns]) for row in rows),
    ]


def markdown(
    rows: Sequence[Row], estimates: Mapping[str, Estimate], *, title: str, method: str, notes: Sequence[str] = ()
) -> str:
    """Return the report as Markdown: one line a case, then mean, interval, median and how many cases count."""
    columns = list(rows[0])
    lines = [f"# {title}", "", *table_lines(rows)]
    summary = {name: _summary_cells(estimate) for name, estimate in estimates.items()}
    for number, name in enumerate(("**mean**", "95 % CI", "median", "cases (n/a)")):
        cells = [summary[column][number] if column in summary else "" for column in columns]
        lines.append(table_line([cells[0] or name, *cells[1:]]))
    lines += ["", f"{method[0].upper()}{method[1:]}; n/a: not applicable, left out of the mean."]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _summary_cells(estimate: Estimate) -> tuple[str, str, str, str]:
    interval = NOT_APPLICABLE if isnan(estimate.low) else f"{estimate.low:.3f} to {estimate.high:.3f}"
    counted = f"{estimate.cases} ({estimate.not_applicable})"
    return f"**{_cell(estimate.mean, '.3f')}**", interval, _cell(estimate.median, ".3f"), counted


def _interval(sums: Float[np.ndarray, " groups"], counts: Int[np.ndarray, " groups"]) -> tuple[float, float]:
    if len(sums) < 2:
        return nan, nan  # one patient says nothing about others
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _checked_columns(rows: Sequence[Row]) -> list[str]:
    if not rows:
        raise InputError("There are no cases to report.", hint="check that the folder of cases is the right one.")
    columns = list(rows[0])
    for number, row in enumerate(rows, start=1):
        if list(row) != columns:
            raise InputError(f"Case {number} has columns {', '.join(row)}; expected {', '.join(columns)}.")
        for column in columns:
            if isinstance(row[column], str) != isinstance(rows[0][column], str):
                raise InputError(f"Column '{column}' mixes text and numbers: case {number} holds {row[column]!r}.")
    return columns


def as_float(value: float | None) -> float:
    """Return NaN for None, which JSON has in its place."""
    return nan if value is None else float(value)


def table_line(cells: Sequence[str]) -> str:
    """Return cells as a line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _cell(value: str | int | float | np.integer[Any], form: str) -> str:
    if isinstance(value, str | bool | int | np.integer):
        return str(value)
    return NOT_APPLICABLE if isnan(value) else format(float(value), form)
