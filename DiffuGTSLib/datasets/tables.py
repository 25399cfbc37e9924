"""A table of cases (.csv): one row a scan, for data in no known layout.

Columns, of which `image` and `patient` are needed: name, image, label, patient, split, organ, modality, tumor_values
("2" or "1 2"), organ_values ("1"), contrast. Paths start from the table's folder.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from DiffuGTSLib.datasets.protocol import MODALITIES, SPLITS, Case, repeated, with_known_organs
from DiffuGTSLib.errors import InputError, did_you_mean

COLUMNS = (
    "name", "image", "label", "patient", "split", "organ", "modality", "tumor_values", "organ_values", "contrast",
)  # fmt: skip


IMAGE_SUFFIX = re.compile(r"\.(nii\.gz|nii|nrrd|nhdr|mha|mhd)$")
"""What an image's name ends in and its case's does not; a DICOM folder is often named by a UID, whose dots stay."""


def rows_of(path: Path, needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a table with a heading, parted by commas, semicolons or tabs; white space around words is dropped.

    Args:
        path: Of the table, in UTF-8.
        needed: Columns that it must have.

    Raises:
        InputError: If it cannot be read, has no heading, lacks a column or has one twice, a row has more cells than the
            heading, or a quotation mark is not closed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The table {path} cannot be read: {error.strerror or error}.", code="missing") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"The table {path} is not in UTF-8: {error}.", hint="save it in UTF-8.", code="table"
        ) from error
    heading = (text.splitlines() or [""])[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count), restval="", strict=True
    )
    rows = []
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        _require_columns(columns, needed, path)
        for row in reader:
            if None in row:
                raise InputError(
                    f"{path}, line {reader.line_num}: more cells than the heading has.",
                    hint=f"{_QUOTES}.",
                    code="table",
                )
            rows.append({key.strip(): value.strip() for key, value in row.items()})
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.reader.line_num}: {error}.", hint=f"{_QUOTES}.", code="table"
        ) from error
    return rows


_QUOTES = 'a cell that holds a comma stands in quotation marks, "Doe, John", with nothing beside them'


def _require_columns(columns: Sequence[str], needed: Sequence[str], path: Path) -> None:
    if not columns:
        raise InputError(f"The table {path} is empty.", hint="its first line names the columns.", code="column")
    for name in needed:
        if name not in columns:
            raise InputError(
                f"{path} has no column '{name}'; it has {', '.join(columns)}.",
                hint=f"needed are {', '.join(needed)}.",
                code="column",
            )
    twice = [name for name in repeated(columns) if name]
    if twice:
        raise InputError(f"{path} has two columns '{twice[0]}'.", hint="name each column once.", code="column")


def cases_of_table(path: Path, organ: str = "", modality: str = "", tumor_values: Sequence[int] = ()) -> list[Case]:
    """Return the cases of a table; what it leaves open is taken from the arguments.

    `organ` is where labels show a tumor. A row without a label gets none by it: with an organ and no tumor it would count
    as a healthy scan of that organ, which only the table itself can say. So does a row whose label map has `organ_values` and no
    `tumor_values`.

    Raises:
        InputError: As `rows_of`; also for an unknown column, a row without image, patient or modality, a label without
            organ, an unknown split, or values that are no whole numbers.
    """
    rows = rows_of(path)
    for column in rows[0] if rows else ():
        if column not in COLUMNS:
            raise InputError(f"{path}: unknown column '{column}'.", hint=did_you_mean(column, COLUMNS))
    return [_case(row, f"{path}, case {number}", organ, modality, tumor_values) for number, row in enumerate(rows, 1)]


def _case(row: Mapping[str, str], place: str, organ: str, modality: str, tumor_values: Sequence[int]) -> Case:
    asked = {"organ": organ if row.get("label") else "", "modality": modality}
    filled = asked | {key: value for key, value in row.items() if value}
    needed = ["image", "patient", "modality", *(["organ"] if filled.get("label") else [])]
    missing = [key for key in needed if not filled.get(key)]
    if missing:
        raise InputError(f"{place}: no {', '.join(missing)}.", hint="fill the column, or say it as an option.")
    for key, known in (("split", SPLITS), ("modality", MODALITIES)):
        if filled.get(key) and filled[key] not in known:
            raise InputError(f"{place}: unknown {key} '{filled[key]}'.", hint=did_you_mean(filled[key], known))
    label, tumors = filled.get("label", ""), _numbers(filled.get("tumor_values", ""), place) or list(tumor_values)
    organs = _numbers(filled.get("organ_values", ""), place)
    tumor = label if tumors or not organs else ""  # a map of which no value is tumor shows the organ of a healthy scan
    case = Case(
        filled.get("name") or IMAGE_SUFFIX.sub("", filled["image"]),
        filled["patient"],
        filled.get("split", ""),
        filled["modality"],
        filled["image"],
        filled.get("organ", ""),
        tumor,
        label if organs else "",
        {filled["organ"]: sorted({*organs, *tumors})} if organs else {},
        tumor_values=tumors,
        contrast=filled.get("contrast", ""),
    )
    return with_known_organs(case)


def _numbers(text: str, place: str) -> list[int]:
    try:
        return [int(word) for word in re.split(r"[ ,;|]+", text) if word]
    except ValueError:
        raise InputError(f"{place}: expected whole numbers, got '{text}'.") from None
