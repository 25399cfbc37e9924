"""What the commands of `study` share: options, the folder of the report, and the table on the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.door import OUT
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import require_folder_for

RULE, WHERE = "What counts", "Where"

Predictions = Annotated[
    Path, typer.Option("--predictions", help="Folder of masks, or of result folders.", rich_help_panel=WHERE)
]
Organs = Annotated[
    Path | None,
    typer.Option(
        "--organs", help="Organ masks of the same names: what lies outside is dropped.", rich_help_panel=WHERE
    ),
]
StudyOutput = Annotated[
    Path, typer.Option("--output", "-o", help="Folder of the report; made if absent.", rich_help_panel=WHERE)
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier report.", rich_help_panel=WHERE)]
Label = Annotated[
    int | None,
    typer.Option(
        "--label", min=1, help="The tumor's label in predictions; default: all above 0.", rich_help_panel=RULE
    ),
]


def require_report_folder(output: Path, force: bool) -> None:
    """Refuse a folder that a report could not or should not be written to.

    Raises:
        InputError: If it holds files already, and `force` is off (code "exists").
        StorageError: If it is a file, or nothing can be created there.
    """
    names = ("report.json", "report.md", "cases.csv")
    require_folder_for(output, "report.json", force, hint="--force replaces it.", names=names)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Return numbers that are parted by commas.

    Raises:
        InputError: Naming the option.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option}: expected numbers parted by commas, got '{text}'.", code="numbers") from None


def show(rows: Sequence[dict[str, Any]], title: str, output: Path | None, quiet: bool, as_json: bool) -> None:
    """Print a table, or the same as JSON; and where the report is, if one was written."""
    if as_json:
        from DiffuGTSLib.evaluation.report import plain

        typer.echo(json.dumps(plain(list(rows)), indent=1))
    elif not quiet:
        table = Table(title=title)
        for name, value in rows[0].items() if rows else ():
            table.add_column(name.replace("_", "\n"), justify="left" if isinstance(value, str) else "right")
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        OUT.print(table)
        if output is not None:
            OUT.print(Text(f"Report: {output}"), soft_wrap=True)


def _cell(value: str | float) -> str:
    if isinstance(value, str | int):
        return str(value)
    return "n/a" if isnan(value) else f"{value:.3f}"
