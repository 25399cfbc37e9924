"""`evaluate`: one result against a reference mask, a whole protocol of cases, or one report against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, ConfigFile, Device, Overrides, Preset, Quiet, Seed, configured, examples
from DiffuGTSLib.cli.scan_inputs import protocol_path, require_folder
from DiffuGTSLib.cli.study_reports import cell, print_warnings, show
from DiffuGTSLib.cli.terminal import ERR, OUT, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import read_json

if TYPE_CHECKING:
    from DiffuGTSLib.config import Config

EXAMPLES = examples(
    "One result against a mask drawn by hand on the same scan:",
    "diffugts evaluate --result result --reference tumor.nii.gz",
    "All held-out cases of the bundled model's protocol:",
    "diffugts evaluate --protocol mini --data scans -o report --split test",
    "Open report/report.html; report/tables.md is for a model card. Is another variant better on the same cases?",
    "diffugts evaluate --compare report other --figure dice_refined",
)

_ONE, _MANY, _TWO = "One case", "A protocol", "Two reports"

Protocol = Annotated[
    str | None,
    typer.Option("--protocol", help="A bundled protocol's name, or a JSON file in its form.", rich_help_panel=_MANY),
]
ReferenceLabel = Annotated[
    list[int] | None,
    typer.Option(
        "--reference-label", min=1, help="The tumor's label in it, if it holds several. May be repeated.",
        rich_help_panel=_ONE,
    ),
]  # fmt: skip


def evaluate(
    result: Annotated[Path | None, typer.Option("--result", help="A result folder.", rich_help_panel=_ONE)] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The true mask, on the scan's grid.", rich_help_panel=_ONE)
    ] = None,
    reference_label: ReferenceLabel = None,
    protocol: Protocol = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder that the protocol's paths start from.", rich_help_panel=_MANY)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report.", rich_help_panel=_MANY)
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Which cases: train, validation, test.", rich_help_panel=_MANY)
    ] = "test",
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen",
            help="Also score scans that the model was trained on; the report is marked.",
            rich_help_panel=_MANY,
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Two report folders, the baseline first.", rich_help_panel=_TWO),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option("--figure", help="What to compare; default: all. May be repeated.", rich_help_panel=_TWO),
    ] = None,
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    seed: Seed = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score DiffuGTS: one result against a mask, every held-out case of a protocol, or one report against another."""
    one, many = (result, reference, reference_label or None), (protocol, data, output)
    none = (None, None, None)
    if compare is not None and one == none and (protocol, data) == (None, None):
        _compare(compare, figure or (), output, quiet, as_json)
    elif result is not None and reference is not None and compare is None and many == none:
        rows = judged(result, reference, reference_label or ())
        if as_json:
            print_json(rows)
        else:
            OUT.print(_table(rows))
    elif protocol is not None and data is not None and output is not None and compare is None and one == none:
        config = configured(preset, config_file, overrides, device=device, seed=seed)
        _judge_protocol(protocol, data, output, config, split, quiet, as_json, allow_seen, config_file)
    else:
        raise InputError(
            "Expected one case or one protocol, or two reports to compare.",
            hint="write --result DIR --reference MASK, --protocol NAME --data FOLDER -o DIR, or --compare DIR DIR.",
            code="choice",
        )


def _judge_protocol(
    protocol: str, data: Path, output: Path, config: Config, split: str, quiet: bool, as_json: bool, allow_seen: bool,
    config_file: Path | None,
) -> None:  # fmt: skip
    path = protocol_path(protocol)
    require_folder(data, "--data")

    from DiffuGTSLib.datasets.trained_cases import tuned_on
    from DiffuGTSLib.evaluation.card_tables import TABLES
    from DiffuGTSLib.evaluation.html_report import PAGE
    from DiffuGTSLib.evaluation.run import evaluate_protocol

    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        evaluate_protocol(
            path,
            data,
            output,
            config,
            split,
            lambda case, done: progress("cases", done),
            allow_seen,
            tuned_on(config_file),
        )
        progress("cases", 1.0)
    print_warnings(output, quiet)
    if as_json:
        print_json(read_json(output / "report.json"))
    elif not quiet:
        tables = (output / TABLES).read_text(encoding="utf-8")
        print_line(tables)
        print_line(f"Report: {output / PAGE}")


def _compare(
    folders: tuple[Path, Path], figures: Sequence[str], output: Path | None, quiet: bool, as_json: bool
) -> None:
    """Show the paired table of two reports; write it where a folder is named."""
    from DiffuGTSLib.evaluation.comparison import compare_reports, left_out, number_of_tests
    from DiffuGTSLib.evaluation.comparison_page import write_comparison

    rows, unpaired = compare_reports(*folders, columns=figures), left_out(*folders)
    if output is not None:
        write_comparison(rows, output, (str(folders[0]), str(folders[1])), unpaired)
    shown = [dict(row) if as_json else _difference(row) for row in rows]
    show(shown, f"b: {folders[1]}\na: {folders[0]}\nHolm: {number_of_tests(rows)} tests", output, quiet, as_json)
    if unpaired and not quiet:
        print_note(f"In one report only, left out: {', '.join(unpaired)}", "yellow")


def _difference(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a comparison as 80 columns have room for it: the difference that p is about, by patient."""
    low, high = (cell(float(row[end])) for end in ("patient_low", "patient_high"))
    return {
        "figure": str(row["figure"]), "a": row["a"], "b": row["b"], "b - a,_by_patient": row["patient_difference"],
        "95 %": f"{low} to {high}", "p": row["p"], "p, Holm": row["p_holm"],
    }  # fmt: skip


def judged(result: Path, reference: Path, labels: Sequence[int] = ()) -> list[dict[str, float | str]]:
    """Return one row of figures for the refined mask and one for the coarse mask of a result.

    Args:
        result: Its folder.
        reference: The true mask, on the scan's grid.
        labels: Its values that are tumor; empty: the only one that there is.

    Raises:
        InputError: If a mask is missing or unreadable, or the reference lies on another grid, or holds several labels of
            which none is named (code "several_labels").
    """
    from DiffuGTSLib.evaluation.case_files import read_tumor_mask
    from DiffuGTSLib.evaluation.detection import detect
    from DiffuGTSLib.evaluation.metrics import NSD_TOLERANCE_MM, dice, surface_dice
    from DiffuGTSLib.output import results
    from DiffuGTSLib.volumes.io import read_geometry, read_mask

    results.read_record(result)
    grid = read_geometry(result / results.SEGMENTATION)
    truth = read_tumor_mask(reference, grid, labels, "name the tumor's: --reference-label 2.").array
    rows: list[dict[str, float | str]] = []
    for name, file in (("refined", results.SEGMENTATION), ("coarse", results.COARSE_MASK)):
        mask = read_mask(result / file, grid).array
        detection = detect(mask, truth, grid.spacing_mm)
        rows.append(
            {
                "mask": name,
                "dice": dice(mask, truth),
                "nsd_2mm": surface_dice(mask, truth, grid.spacing_mm, NSD_TOLERANCE_MM),
                "lesions": len(detection.reference),
                "lesion_sensitivity": detection.sensitivity,
                "false_positives": detection.false_positives,
                "volume_ml": float(mask.sum()) * grid.voxel_volume_ml,
                "reference_ml": float(truth.sum()) * grid.voxel_volume_ml,
            }
        )
    return rows


def _table(rows: list[dict[str, float | str]]) -> Table:
    from DiffuGTSLib.evaluation.metrics import NSD_TOLERANCE_MM

    table = Table(title="Agreement with the reference")
    table.add_column("Mask")
    for heading in ("Dice", f"NSD\n{NSD_TOLERANCE_MM:g} mm", "Lesions\nfound", "False\npositives", "Volume\nml"):
        table.add_column(heading, justify="right")
    for row in rows:
        lesions, sensitivity = int(row["lesions"]), float(row["lesion_sensitivity"])
        found = "n/a" if isnan(sensitivity) else f"{round(sensitivity * lesions)} of {lesions}"
        volume = f"{row['volume_ml']:.2f} of {row['reference_ml']:.2f}"
        figures = (cell(float(row["dice"])), cell(float(row["nsd_2mm"])))
        table.add_row(str(row["mask"]), *figures, found, str(row["false_positives"]), volume)
    return table
