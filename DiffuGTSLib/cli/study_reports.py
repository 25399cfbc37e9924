"""What the commands of `study` share: options, the folder of the report, and the table on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.terminal import OUT, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.storage import read_json, require_folder_for

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
        "--label", min=1, help="The tumor's label in predictions; default: the only one.", rich_help_panel=RULE
    ),
]


_MARK = "report.json"
"""Every study's report has it, with the study's title."""


def require_report_folder(
    output: Path, force: bool, title: str, names: Sequence[str], inputs: Sequence[Path] = ()
) -> None:
    """Refuse a folder that a report could not or should not be written to.

    Args:
        output: Need not exist.
        force: Replace an earlier report of the same study.
        title: Of the report.
        names: Its files.
        inputs: Files that the study reads.

    Raises:
        InputError: If it holds files already, and `force` is off; or files of these names that are no earlier report of
            this study, or that it reads (code "exists").
        StorageError: If it is a file, or nothing can be created there.
    """
    require_not_read([output / name for name in names], inputs)
    require_folder_for(output, _MARK, force, hint="--force replaces it.", names=names)
    if not (output / _MARK).exists():
        return
    try:
        earlier = read_json(output / _MARK)["title"]
    except (InputError, KeyError):
        earlier = None
    if earlier != title:
        raise InputError(
            f"{output} holds {_MARK} of something else{f', {earlier}' if earlier else ''}.",
            hint="choose another folder.",
            code="exists",
        )


def require_not_read(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        InputError: Naming the file (code "exists").
    """
    written = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in written:
            raise InputError(
                f"{path} is read here, and would be replaced.", hint="choose another --output.", code="exists"
            )


def require_table(output: Path, columns: Sequence[str]) -> None:
    """Refuse to replace a file that is no earlier table of these first columns.

    Raises:
        InputError: If the file does not begin with these columns (code "exists").
    """
    first = ",".join(columns)
    try:
        with output.open(encoding="utf-8") as file:
            ours = file.read(len(first)) == first
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise InputError(
            f"{output} is no earlier table of this study, and would be replaced.",
            hint="choose another name.",
            code="exists",
        )


def show(rows: Sequence[dict[str, Any]], title: str, output: Path | None, quiet: bool, as_json: bool) -> None:
    """Print a table, or the same as JSON; and where the report is, if one was written."""
    if as_json:
        print_json(list(rows))
    elif not quiet:
        table = Table(title=title)
        for name, value in rows[0].items() if rows else ():
            table.add_column(name.replace("_", "\n"), justify="left" if isinstance(value, str) else "right")
        for row in rows:
            table.add_row(*(Text(cell(value)) for value in row.values()))
        OUT.print(table)
        if output is not None:
            print_line(f"Report: {output}")


def print_warnings(output: Path, quiet: bool) -> None:
    """Say on the console what a report warns of: patients that may have been trained on, labels and tumors that are nowhere."""
    from DiffuGTSLib.datasets.trained_cases import WARNING

    for note in read_json(output / "report.json")["notes"]:
        if WARNING in note and not quiet:
            print_note(note[note.index(WARNING) :], "yellow")


def cell(value: str | float) -> str:
    """Return a figure as tables show it: n/a where there is none."""
    if isinstance(value, str | int):
        return str(value)
    return "n/a" if isnan(value) else f"{value:.3f}"
