"""The commands of `study` that look at tumors themselves: robustness, similarity, realism."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, OffsetHu, Quiet, Seed, examples, whole_numbers
from DiffuGTSLib.cli.scan_inputs import open_organ, open_scan, require_folder
from DiffuGTSLib.cli.study_reports import (
    Force,
    Label,
    Predictions,
    StudyOutput,
    print_warnings,
    require_report_folder,
    show,
)
from DiffuGTSLib.cli.terminal import ERR, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress

if TYPE_CHECKING:
    from DiffuGTSLib.evaluation.robustness import Axis

ROBUSTNESS_EXAMPLES = examples(
    "Paints 31 scans: five properties at ± 1, 2, 3 standard deviations, and one at the means. Run it again to go on:",
    "diffugts study robustness ct.nii.gz --organ liver --organ-mask liver.nii.gz -o stress",
    "Only size and intensity, with distributions of your own (mean, standard deviation), ten tumors each:",
    "diffugts study robustness ct.nii.gz --organ liver --organ-mask liver.nii.gz -o stress --axis size=12,3 "
    "--axis intensity=-60,20 --replicates 10",
    "Segment stress/scans with any method, under the same names, then:",
    "diffugts study robustness-score stress --predictions found -o score",
)
SCORE_EXAMPLES = examples("diffugts study robustness-score stress --predictions found -o score")
SIMILARITY_EXAMPLES = examples(
    "The list has the columns case, group, scan, mask and may have patient, modality, label (of the tumor, where a mask "
    "holds several); paths start from its folder:",
    "diffugts study similarity tumors.csv -o similar",
    "Groups may be organs, scanners, or real and painted. Tumors of one patient are never on both sides of a test.",
)
REALISM_EXAMPLES = examples(
    "The list has the columns case, group, scan, mask and may have patient, modality; the group of real ones is real:",
    "diffugts study realism tumors.csv -o looks",
    "Look at looks/sheet.png before you believe a figure.",
)

TumorList = Annotated[Path, typer.Argument(help="A CSV file that lists tumors.")]


def robustness(
    scan: Annotated[Path, typer.Argument(help="A healthy scan.")],
    organ: Annotated[str, typer.Option("--organ", help="A name with an organ file, or an organ file of your own.")],
    organ_mask: Annotated[Path, typer.Option("--organ-mask", help="The organ on the scan's grid.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the benchmark: scans, references, manifest.")
    ],
    axis: Annotated[
        list[str] | None,
        typer.Option("--axis", metavar="NAME[=MEAN,SD]", help="size, intensity, shape, place, texture; default: all."),
    ] = None,
    levels: Annotated[str, typer.Option("--levels", help="Standard deviations from the mean.")] = "-3,-2,-1,1,2,3",
    replicates: Annotated[
        int, typer.Option("--replicates", min=1, help="Tumors, each of its own shape and place.")
    ] = 1,
    modality: Annotated[Literal["CT", "MR"] | None, typer.Option("--modality", help="Default: guessed.")] = None,
    offset_hu: OffsetHu = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Paint a benchmark: tumors with one property off its mean, all else equal."""
    steps = whole_numbers(levels, "--levels")

    from DiffuGTSLib.evaluation.robustness import build_benchmark, default_axes
    from DiffuGTSLib.synthesis.organs import organ_spec

    spec = organ_spec(organ)
    volume, kind, _ = open_scan(scan, modality, quiet, offset_hu)
    mask = open_organ(organ_mask, volume.geometry, hint="give a mask of the organ alone.")
    axes = chosen_axes(axis, default_axes(spec, kind))
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        manifest = build_benchmark(
            volume, mask, spec, output, modality=kind, axes=axes, levels=steps, replicates=replicates,
            seed=seed or 0, offset_hu=offset_hu, on_progress=progress,
        )  # fmt: skip
        progress("cases", 1.0)
    skipped = [row for row in manifest["scans"] if "skipped" in row]
    for row in () if quiet else skipped:
        print_note(f"{row['name']}: {row['skipped']}", "yellow")
    if as_json:
        print_json(manifest)
    elif not quiet:
        made = len(manifest["scans"]) - len(skipped)
        print_line(f"{made} scans in {output / 'scans'}, {len(skipped)} found no place.")


def robustness_score(
    benchmark: Annotated[Path, typer.Argument(help="Folder that diffugts study robustness made.")],
    predictions: Predictions,
    output: StudyOutput,
    label: Label = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score masks of a benchmark: Dice and tumors found, by property and deviation."""
    require_folder(benchmark, "BENCHMARK")

    from DiffuGTSLib.evaluation.robustness_score import FILES, TITLE, as_row, score_benchmark

    require_report_folder(output, force, TITLE, FILES)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        scores = score_benchmark(benchmark, predictions, output, label=label, on_progress=progress)
        progress("cases", 1.0)
    print_warnings(output, quiet)
    show([as_row(score) for score in scores], "Robustness", output, quiet, as_json)


def similarity(
    tumors: TumorList,
    output: StudyOutput,
    permutations: Annotated[
        int, typer.Option("--permutations", min=1, help="Number of permutations; more give a finer p.")
    ] = 200,
    seed: Seed = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Test whether groups of tumors can be told apart by 17 features, or only as well as by chance."""
    from DiffuGTSLib.evaluation.tumor_list import FILES, TITLE, read_tumor_list, study_similarity

    require_report_folder(output, force, TITLE, FILES, [tumors])
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        test = study_similarity(
            read_tumor_list(tumors), output, seed=seed or 0, permutations=permutations, on_progress=progress
        )
        progress("cases", 1.0)
    if as_json:
        found = {"accuracy": vars(test.accuracy), "chance": test.chance, "p_value": test.p_value}
        print_json(found)
    elif not quiet:
        print_line((output / "report.md").read_text(encoding="utf-8").strip())


def realism(
    tumors: TumorList,
    output: StudyOutput,
    rows: Annotated[int, typer.Option("--rows", min=1, max=20, help="Rows of the sheet of pictures.")] = 6,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare painted tumors with real ones: histograms, borders, textures, and a sheet of pictures."""
    from DiffuGTSLib.evaluation.realism import (
        FILES,
        TITLE,
        compare,
        histogram_distances,
        realism_sheet,
        write_realism,
    )
    from DiffuGTSLib.evaluation.tumor_list import measure_list, read_tumor_list, sheet_rows
    from DiffuGTSLib.storage import whole_folder

    require_report_folder(output, force, TITLE, FILES, [tumors])
    listed = read_tumor_list(tumors)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        measured, _, remarks = measure_list(listed, progress)
        progress("cases", 1.0)
        kept = {tumor.name for tumor in measured}
        with whole_folder(output, FILES) as folder:
            write_realism(measured, folder, remarks)
            realism_sheet(sheet_rows([each for each in listed if each.case in kept], rows), folder / "sheet.png")
    if as_json:
        found = {
            "histograms": [vars(row) for row in histogram_distances(measured)],
            "features": [vars(row) for row in compare(measured)],
        }
        print_json(found)
    elif not quiet:
        print_line((output / "report.md").read_text(encoding="utf-8").strip())
        print_line(f"Pictures: {output / 'sheet.png'}")


def chosen_axes(asked: list[str] | None, known: dict[str, Axis]) -> dict[str, Axis] | None:
    """Return the axes of the command line with their distributions; None for all.

    Raises:
        InputError: If one cannot be read; unknown names are refused where they are used.
    """
    from dataclasses import replace

    if not asked:
        return None
    axes: dict[str, Axis] = {}
    for text in asked:
        name, given, figures = text.partition("=")
        usual = known.get(name, next(iter(known.values())))
        try:
            mean, sd = (float(part) for part in figures.split(",")) if given else (usual.mean, usual.sd)
        except ValueError:
            raise InputError(
                f"--axis: expected NAME or NAME=MEAN,SD, got '{text}'.", hint="as in --axis size=10,2.5.", code="axis"
            ) from None
        if not 0 < sd < float("inf"):
            raise InputError(f"--axis {name}: expected a standard deviation above 0, got {sd:g}.", code="axis")
        axes[name] = replace(usual, mean=mean, sd=sd)
    return axes
