"""Figures by who the patients are: sex, decade of age, scanner, or whatever a table of metadata tells."""

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from DiffuGTSLib.datasets.protocol import repeated
from DiffuGTSLib.datasets.tables import rows_of
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.evaluation.report import bootstrap_mean
from DiffuGTSLib.output.findings import NOT_APPLICABLE

UNKNOWN = "unknown"
ALL = "all"
CASE = "case"
"""The column by which tables name their rows."""
PATIENT = "patient"
"""The column of the cases that tells whose they are, where it is there."""
_NAMES = {CASE, PATIENT, "lesion"}
"""Columns that name something, if by numbers, and measure nothing."""


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table that has the column `CASE`.

    Raises:
        InputError: As `rows_of`; or if it names a row twice.
    """
    rows = rows_of(path, [CASE])
    for name in repeated(row[CASE] for row in rows):
        raise InputError(f"{path} names '{name}' twice in column '{CASE}'.")
    return rows


def stratum(value: str, column: str) -> str:
    """Return the group that a value belongs to: decades for ages ("50 to 59"), the value itself for all else.

    Args:
        value: As the table has it.
        column: An age where its name's last word is "age", or "age" and "years": "age_years", DICOM's "PatientAge".
    """
    if not value or value.lower() in (NOT_APPLICABLE, "na", "nan", UNKNOWN):
        return UNKNOWN
    words = [word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", column)]
    if (words[:-1] if words[-1:] == ["years"] else words)[-1:] != ["age"]:
        return value
    age = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([YMWD]?)", value.upper())
    if age is None:
        return UNKNOWN
    decade = int(float(age[1]) / _IN_A_YEAR[age[2]] // 10) * 10
    return f"{decade} to {decade + 9}"


_IN_A_YEAR = {"": 1, "Y": 1, "M": 12, "W": 365.25 / 7, "D": 365.25}
"""By DICOM's letter of an age, as "057Y" or, of an infant, "006M"; a plain number is years."""


def unmatched(cases: Sequence[Mapping[str, str]], metadata: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the cases that the metadata have no row of."""
    known = {row[CASE] for row in metadata}
    return [case[CASE] for case in cases if case[CASE] not in known]


def group_figures(
    cases: Sequence[Mapping[str, str]],
    metadata: Sequence[Mapping[str, str]],
    by: Sequence[str],
    patient: str | None = None,
) -> list[dict[str, str | int | float]]:
    """Return one row a group and column of numbers: how many cases, mean and bootstrap interval; "all" first.

    Args:
        cases: Figures of each case, as CSV gives them.
        metadata: What is known of each; cases without a row are "unknown".
        by: Columns of the metadata.
        patient: A column of the metadata, or else of the cases, that names patients: they are drawn for the interval, not
            scans. Where it is None or says nothing of a case, the cases' own column `PATIENT` counts, if there is one.

    Raises:
        InputError: If a column is not there, there are no cases, no figure in them, or no metadata of any.
    """
    if not cases:
        raise InputError("There are no cases to group.", code="missing")
    if by and not metadata:
        raise InputError("The metadata have no rows.", hint="one row per case, below the heading.", code="missing")
    known = {row[CASE]: row for row in metadata}
    columns = list(metadata[0]) if metadata else []
    for name in [*by, *([patient] if patient and patient not in cases[0] else [])]:
        if name not in columns:
            raise InputError(f"The metadata have no column '{name}'.", hint=did_you_mean(name, columns), code="column")
    if by and len(unmatched(cases, metadata)) == len(cases):
        raise InputError(
            f"The metadata name none of the {len(cases)} cases: expected '{cases[0][CASE]}', got '{metadata[0][CASE]}'.",
            hint=f"write the names in column '{CASE}' alike; capital letters and leading zeros count.",
            code="missing",
        )
    names = {*_NAMES, patient}
    figures = [name for name in cases[0] if name not in names and all(_is_number(case[name]) for case in cases)]
    if not figures:
        raise InputError(
            "The cases hold no column of numbers.", hint="decimals have a point, as in 0.5.", code="column"
        )
    owners = [_owner(case, known.get(case[CASE], {}), patient or PATIENT) for case in cases]
    rows = _rows(ALL, ALL, cases, figures, owners)
    for column in by:
        groups = [stratum(known.get(case[CASE], {}).get(column, ""), column) for case in cases]
        for group in sorted(set(groups), key=lambda name: (name == UNKNOWN, name)):
            chosen = [number for number, name in enumerate(groups) if name == group]
            rows += _rows(column, group, [cases[n] for n in chosen], figures, [owners[n] for n in chosen])
    return rows


def _owner(case: Mapping[str, str], about: Mapping[str, str], patient: str) -> str:
    """Return the patient of a case; one of whom nobody knows it is a patient of its own."""
    return about.get(patient) or case.get(patient) or case.get(PATIENT) or case[CASE]


FIRST_COLUMNS = ("by", "group", "figure")
"""By which a table of groups is known."""


def _rows(
    column: str, group: str, cases: Sequence[Mapping[str, str]], figures: Sequence[str], owners: Sequence[str]
) -> list[dict[str, str | int | float]]:
    rows: list[dict[str, str | int | float]] = []
    for figure in figures:
        estimate = bootstrap_mean([_number(case[figure]) for case in cases], owners)
        rows.append(
            {
                "by": column, "group": group, "figure": figure, "cases": estimate.cases,
                "mean": estimate.mean, "low": estimate.low, "high": estimate.high,
            }
        )  # fmt: skip
    return rows


def _is_number(text: str) -> bool:
    try:
        _number(text)
    except ValueError:
        return False
    return True


def _number(text: str) -> float:
    value = float("nan") if text in ("", NOT_APPLICABLE) else float(text)
    return value if isfinite(value) else float("nan")
