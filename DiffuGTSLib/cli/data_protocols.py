"""`data protocol`, `data check`, `data split`: a folder of scans becomes protocols that a claim can be tested by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, Quiet, examples, numbers, whole_numbers
from DiffuGTSLib.cli.scan_inputs import protocol_path, require_folder
from DiffuGTSLib.cli.terminal import ERR, OUT, print_json, print_line
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import make_folder, read_json, write_json

if TYPE_CHECKING:
    from DiffuGTSLib.datasets.check import Report
    from DiffuGTSLib.datasets.protocol import Case

PROTOCOL_EXAMPLES = examples(
    "A task of the Decathlon, split by patient:",
    "diffugts data protocol data/Task03_Liver --layout msd -o liver.json",
    "Two data sets whose paths start from one folder, so that their protocols can be joined:",
    "diffugts data protocol data/kits23 --layout kits --root data -o kidney.json",
    "diffugts data protocol data/scans.csv --layout csv --root data --fractions 0.5,0,0.5 -o scans.json",
)
CHECK_EXAMPLES = examples(
    "Before anything is trained; exit code 2 where something must be mended:",
    "diffugts data check liver.json --data data/Task03_Liver -o check.json",
)
SPLIT_EXAMPLES = examples(
    "One protocol for each organ, whose tumors are tested and never trained on:",
    "diffugts data split liver.json kidney.json --kind leave-one-out -o protocols",
    "No outlined tumor in training:",
    "diffugts data split liver.json --kind label-free -o protocols",
)

Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]

_LISTED = 5
"""So many problems of a kind are shown; the report file has all."""

LayoutName = Literal["msd", "kits", "brats", "nnunet", "totalsegmentator", "csv"]
"""The keys of `DiffuGTSLib.datasets.layouts.LAYOUTS`."""
KindName = Literal["leave-one-out", "ct-to-mr", "label-free", "seen"]
"""The keys of `DiffuGTSLib.datasets.splits.KINDS`."""


def protocol(
    folder: Annotated[Path, typer.Argument(help="The data set's folder; for csv, the table.")],
    layout: Annotated[LayoutName, typer.Option("--layout", help="How the folder is laid out.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The protocol, a JSON file.")],
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the protocol's paths start from; default: FOLDER.")
    ] = None,
    organ: Annotated[str, typer.Option("--organ", help="Where the labeled tumors are, if no label says it.")] = "",
    modality: Annotated[
        Literal["CT", "MR"] | None, typer.Option("--modality", help="If the layout does not say it.")
    ] = None,
    tumor_values: Annotated[
        str, typer.Option("--tumor-values", metavar="N,N", help="Values of the label maps that are tumor.")
    ] = "",
    patient: Annotated[
        str, typer.Option("--patient", metavar="REGEX", help="Its first group, found in a case's name, is the patient.")
    ] = "",
    fractions: Annotated[
        str, typer.Option("--fractions", metavar="TRAIN,VAL,TEST", help="Shares of the patients of each organ.")
    ] = "0.7,0.1,0.2",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split.")] = 0,
    force: Force = False,
) -> None:
    """Write the protocol of a data set: every scan, its patient, its split, and what its labels mean."""
    import numpy as np

    from DiffuGTSLib.datasets.check import counts
    from DiffuGTSLib.datasets.label_names import unknown_said
    from DiffuGTSLib.datasets.layouts import LayoutOptions, read_layout
    from DiffuGTSLib.datasets.protocol import write_protocol
    from DiffuGTSLib.datasets.splits import assign_splits

    if not folder.exists():
        raise InputError(f"There is no {folder}.", hint="check the spelling.", code="missing")
    _require_new(output, force)
    shares = _shares(fractions)
    values = list(whole_numbers(tumor_values, "--tumor-values")) if tumor_values else []
    cases = read_layout(folder, layout, LayoutOptions(organ, modality or "", values, patient), root)
    cases = assign_splits(cases, np.random.default_rng(seed), shares)
    origin = {"layout": layout, "seed": seed, "fractions": shares}
    write_protocol(output, cases, f"{folder.name}, layout {layout}, split by patient with seed {seed}.", origin=origin)
    OUT.print(_counted(counts(cases)))
    for line in [*_meanings(cases), *unknown_said(cases)]:
        print_line(line)
    print_line(f"Protocol: {output}")


def check(
    protocol: Annotated[str, typer.Argument(help="A bundled protocol's name, or a JSON file in its form.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the protocol's paths start from.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The report, a JSON file.")] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of a protocol and say what is wrong: grids, labels, NaN, doubles, patients in two splits."""
    path = protocol_path(protocol)
    require_folder(data, "--data")
    _require_new(output, force or _is_report(output), [path])

    from DiffuGTSLib.datasets.check import check_cases
    from DiffuGTSLib.datasets.protocol import read_cases

    cases = read_cases(path)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        report = check_cases(cases, data, lambda case, done: progress("cases", done))
        progress("cases", 1.0)
    if output is not None:
        write_json(output, report.as_json(), ensure_ascii=False)
    if as_json:
        print_json(report.as_json())
    elif not quiet:
        _show(report)
    if report.errors:
        raise InputError(
            f"Errors found in {path.name}: {len(report.errors)}.",
            hint="mend the files, or give the case the split 'excluded'.",
            code="data",
        )


def split(
    protocols: Annotated[list[str], typer.Argument(metavar="PROTOCOL…", help="One or several, taken together.")],
    kind: Annotated[KindName, typer.Option("--kind", help="What the new protocols are to test.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new protocols.")],
    force: Force = False,
) -> None:
    """Make protocols that test a claim: each says which patients are for training and which for testing."""
    paths = [protocol_path(name) for name in protocols]

    from DiffuGTSLib.datasets.check import counts
    from DiffuGTSLib.datasets.protocol import read_protocol, write_protocol
    from DiffuGTSLib.datasets.splits import derive, joined

    derived = derive(joined([read_protocol(path) for path in paths]), kind)
    make_folder(output)
    files = [output / f"{made.name}.json" for made in derived]
    for path in files:
        _require_new(path, force, paths)
    for made, path in zip(derived, files, strict=True):
        write_protocol(path, made.cases, made.description, kind=kind, made_from=[each.stem for each in paths])
        OUT.print(_counted(counts(made.cases), title=made.name))
        print_line(f"Protocol: {path}")


def _require_new(path: Path | None, force: bool, read: Sequence[Path] = ()) -> None:
    """Refuse to replace a file, before anything is read.

    Args:
        path: To be written; None writes nothing.
        force: Whether it may be replaced.
        read: Files that are read, and never replaced by what is made of them.

    Raises:
        InputError: In that case (code "exists").
    """
    if path is None or not path.exists():
        return
    if any(path.samefile(each) for each in read):
        raise InputError(f"-o {path} is the protocol itself.", hint="name another file.", code="exists")
    if not force:
        raise InputError(f"{path} is there already.", hint="name another file, or --force.", code="exists")


def _is_report(path: Path | None) -> bool:
    """Say whether a file is what an earlier check has written, which the next one may replace."""
    try:
        return path is not None and "problems" in read_json(path)
    except InputError:
        return False


def _shares(text: str) -> dict[str, float]:
    """Return the share of each split.

    Raises:
        InputError: If they are not three numbers.
    """
    names, shares = ("train", "validation", "test"), numbers(text, "--fractions")
    if len(shares) != len(names):
        raise InputError(f"--fractions: expected 3 comma-separated numbers, got '{text}'.", code="numbers")
    return dict(zip(names, shares, strict=True))


def _meanings(cases: Sequence[Case]) -> list[str]:
    """Say once for all cases alike which values of their label maps count as tumor, and which as another lesion."""
    kinds = Counter((tuple(case.tumor_values), tuple(case.other_lesion_values)) for case in cases if case.tumor)
    said = []
    for (tumor, others), count in kinds.most_common(_LISTED):
        values = ", ".join(map(str, tumor)) or "every value above 0"
        more = f"; neither tumor nor healthy: {', '.join(map(str, others))}" if others else ""
        said.append(f"Tumor in {count} scans: {values}{more}.")
    return said


def _counted(rows: Sequence[dict[str, str | int]], title: str = "") -> Table:
    table = Table(title=title or None)
    for heading in ("Split", "Modality", "Organ"):
        table.add_column(heading)
    for heading in ("Scans", "Patients", "With tumor mask"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table


def _show(report: Report) -> None:
    from DiffuGTSLib.datasets.check import summary

    OUT.print(_counted(report.counts))
    print_line(summary(report))
    if not report.problems:
        print_line("Nothing is wrong.")
        return
    table = Table(title=f"Errors: {len(report.errors)}. Warnings: {len(report.warnings)}.")
    for heading in ("", "What", "Case", "In words"):
        table.add_column(heading, overflow="fold")
    shown: dict[tuple[str, str], int] = {}
    for problem in report.problems:
        key = (problem.level, problem.code)
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= _LISTED:
            table.add_row(problem.level, problem.code, problem.case, problem.message)
    for (level, code), count in shown.items():
        if count > _LISTED:
            table.add_row(level, code, f"{count - _LISTED} more", "in the report file (-o), or --json")
    OUT.print(table)
