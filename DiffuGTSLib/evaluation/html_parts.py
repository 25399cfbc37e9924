"""What every page of a report is made of: the document around it, tables, and how numbers are written.

A page is one HTML file that needs no network and nothing beside it. Every word that comes from data is escaped.
"""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from DiffuGTSLib.evaluation.report import as_float
from DiffuGTSLib.output.findings import NOT_APPLICABLE
from DiffuGTSLib.output.record import RESEARCH_USE
from DiffuGTSLib.resources import resource_path

UNTRAINED = "Untrained networks: for tests only, these figures mean nothing."
_FEW_PATIENTS = 10


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


def few_patients(patients: int) -> str:
    """Warn where there are too few patients for a bootstrap, whose intervals are then too narrow."""
    return f" Only {patients} patients: every interval here is too narrow." if patients < _FEW_PATIENTS else ""


def bullets(notes: Sequence[str]) -> str:
    """Return notes as a list."""
    return f"<ul>{''.join(f'<li>{escaped(note)}</li>' for note in notes)}</ul>"


def made_of(about: Mapping[str, Any], cases: Mapping[str, str]) -> str:
    """Return what a report was made of and with, as a list; `cases` is what is said of protocol and split."""
    facts = {
        "Data": about["description"] or "The protocol does not describe them.",
        **cases,
        "Preset, seed, device": f"{about['preset']}, {about['seed']}, {about['device']}",
        **{f"Weights {name}": f"SHA-256 {digest}" for name, digest in about["weights"].items()},
        "Versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    }
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>' for name, value in facts.items())}</dl>"


def repeated(command: str, about: Mapping[str, Any]) -> str:
    """Return how a report is made again by a command, with the folders left to be named."""
    protocol = shlex.quote(str(about["protocol"]))
    words = shlex.join(["--split", str(about["split"]), "--preset", str(about["preset"]), "--config", "config.json"])
    line = f"diffugts {command} --protocol {protocol} --data SCANS -o REPORT {words}"
    return f"<h3>To repeat it</h3><pre>{escaped(line)}</pre>"


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


def escaped(value: Any) -> str:
    """Return anything as text of a page: what comes from data is escaped."""
    return html.escape(str(value))
