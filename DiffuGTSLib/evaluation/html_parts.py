"""What every page of a report is made of: the document around it, tables, and how numbers are written.

A page is one HTML file that needs no network and nothing beside it. Every word that comes from data is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from math import isnan, nan
from typing import Any

from DiffuGTSLib.findings import NOT_APPLICABLE
from DiffuGTSLib.record import RESEARCH_USE
from DiffuGTSLib.resources import resource_path


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole page: its heading, then its parts; sheet and script inlined.

    Args:
        title: Not yet escaped.
        parts: HTML, in order.
    """
    style, script = (resource_path("Report", name).read_text("utf-8") for name in ("report.css", "report.js"))
    footer = f"<footer>{escaped(RESEARCH_USE)} This page is one file; it asks no network for anything.</footer>"
    body = "\n".join((f"<h1>{escaped(title)}</h1>", *parts, footer))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escaped(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table; a heading that begins with < stands left."""
    cells = "".join(
        f'<th class="text" scope="col">{escaped(head[1:])}</th>'
        if head.startswith("<")
        else f'<th scope="col">{head}</th>'
        for head in heads
    )
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def range_text(low: float, high: float, places: int = 3, signed: bool = False) -> str:
    """Return two ends as text; "n/a" where one is NaN."""
    if isnan(low) or isnan(high):
        return NOT_APPLICABLE
    ends = (signed_text(low), signed_text(high)) if signed else (number_text(low, places), number_text(high, places))
    return " to ".join(ends)


def number_text(value: float | None, places: int = 3) -> str:
    """Return a number with so many places; "n/a" for NaN and None."""
    number = as_float(value)
    return NOT_APPLICABLE if isnan(number) else f"{number:.{places}f}"


def signed_text(value: float | None) -> str:
    """Return a difference with its sign."""
    number = as_float(value)
    return NOT_APPLICABLE if isnan(number) else f"{number:+.3f}".replace("-", "−")


def p_text(value: float | None) -> str:
    """Return a p-value."""
    number = as_float(value)
    return NOT_APPLICABLE if isnan(number) else "< 0.001" if number < 0.001 else f"{number:.3f}"


def as_float(value: float | None) -> float:
    """Return NaN for None, which JSON has in its place."""
    return nan if value is None else float(value)


def escaped(value: Any) -> str:
    """Return anything as text of a page: what comes from data is escaped."""
    return html.escape(str(value))
