"""Which cases are trained on: those of a protocol, or of a data folder in a layout of the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from DiffuGTSLib.datasets.label_names import unknown_said
from DiffuGTSLib.datasets.layouts import LAYOUTS, read_layout
from DiffuGTSLib.datasets.protocol import Case, read_protocol, write_protocol
from DiffuGTSLib.datasets.recognize import recognize
from DiffuGTSLib.datasets.splits import FRACTIONS, assign_splits
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import make_folder

PROTOCOL_FILE = "protocol.json"
BUNDLED = "mini"
SEED = 0
"""Of the split by patient; the same as `diffugts data protocol` draws with."""


def training_cases(
    protocol: Path | None, data: Path, output: Path, *, write: bool, report: Callable[[str], None]
) -> list[Case]:
    """Return the cases of a protocol, or, without one, those of the data folder.

    Without a protocol, in this order: the run's own `protocol.json`, from when it was begun; a folder in a known layout,
    split by patient as `diffugts data protocol` would; the scans of the bundled protocol `mini`.

    Args:
        protocol: A protocol file, or None.
        data: Folder that the protocol's paths start from.
        output: Run folder.
        write: Whether what was made of the folder is written to the run folder, to be read, mended and tested by.
        report: Receives one line at a time.

    Raises:
        InputError: As `read_protocol`, `read_layout` and `assign_splits`; or without a protocol, for a folder that is in no
            layout that is known (code "protocol").
        StorageError: If the protocol cannot be written.
    """
    if protocol is not None:
        return read_protocol(protocol)
    own = output / PROTOCOL_FILE
    if own.is_file():
        report(f"protocol: {own}")
        return read_protocol(own)
    layout = recognize(data)
    if layout:
        return _drawn(data, layout, own, write, report)
    bundled = read_protocol(resource_path("Protocols", f"{BUNDLED}.json"))
    if any((data / case.image).is_file() for case in bundled):
        report(f"protocol: {BUNDLED}")
        return bundled
    raise InputError(
        f"{data} is in none of the layouts {', '.join(name for name in LAYOUTS if name != 'csv')}, and holds no scan of "
        f"the protocol '{BUNDLED}'.",
        hint="say what the scans are in a table: diffugts data protocol table.csv --layout csv -o my.json, then "
        "--protocol my.json.",
        code="protocol",
    )


def _drawn(data: Path, layout: str, own: Path, write: bool, report: Callable[[str], None]) -> list[Case]:
    """Split the cases of a folder, write what was drawn, and say so."""
    cases = assign_splits(read_layout(data, layout), np.random.default_rng(SEED), FRACTIONS)
    if write:
        make_folder(own.parent)
        origin = {"layout": layout, "seed": SEED, "fractions": FRACTIONS}
        write_protocol(own, cases, f"{data.name}, layout {layout}, split by patient with seed {SEED}.", origin=origin)
    shares = "/".join(f"{100 * share:.0f}" for share in FRACTIONS.values())
    for line in unknown_said(cases):
        report(line)
    report(f"protocol: {data.name} in the layout {layout}, split {shares} by patient, {own}")
    return cases
