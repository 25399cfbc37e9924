"""`study`: how well tumors are found, by size, on healthy scans, under stress, and how real painted ones look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from DiffuGTSLib.cli import studying_robustness
from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, Quiet, examples, numbers
from DiffuGTSLib.cli.scan_inputs import require_folder
from DiffuGTSLib.cli.study_reports import (
    RULE,
    WHERE,
    Force,
    Label,
    Organs,
    Predictions,
    StudyOutput,
    print_warnings,
    require_not_read,
    require_report_folder,
    require_table,
    show,
)
from DiffuGTSLib.cli.terminal import ERR, print_json, print_line, print_note, print_warning
from DiffuGTSLib.progress import TerminalProgress

if TYPE_CHECKING:
    from DiffuGTSLib.evaluation.size_sensitivity import SizeBins

EXAMPLES = examples(
    "Masks under the same names in two folders; or result folders of diffugts segment:",
    "diffugts study sizes --predictions found --references truth -o sizes",
    "Probability maps of healthy scans, counted inside the organ only:",
    "diffugts study false-positives --predictions maps --organs livers -o healthy",
)
SIZES_EXAMPLES = examples(
    "diffugts study sizes --predictions found --references truth -o sizes",
    "A tumor counts as found when half of it is covered; 2 is the tumor's label:",
    "diffugts study sizes --predictions found --references truth -o sizes --coverage 0.5 --label 2",
)
FALSE_POSITIVES_EXAMPLES = examples(
    "diffugts study false-positives --predictions maps -o healthy",
    "diffugts study false-positives --predictions maps --organs livers -o healthy --thresholds 0.3,0.5,0.7",
)
DETECTION_EXAMPLES = examples(
    "Folders are MRN/accession/series, with liver.nii.gz and liver_tumor.nii.gz in each or in its predictions folder:",
    "diffugts study detection outputs -o tumor_detection_results.csv",
    "diffugts study detection outputs -o found.csv --organ liver --threshold 30",
)
GROUPS_EXAMPLES = examples(
    "diffugts study groups sizes/cases.csv --metadata patients.csv --by sex --by age -o groups.csv",
    "Ages fall into decades. Both tables name their rows in the column 'case'.",
)

app = typer.Typer(
    help="Detailed studies of any method: tumor size, false positives, robustness, realism.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXAMPLES,
)


def sizes(
    predictions: Predictions,
    references: Annotated[Path, typer.Option("--references", help="Folder of true masks.", rich_help_panel=WHERE)],
    output: StudyOutput,
    organs: Organs = None,
    iou: Annotated[
        float,
        typer.Option("--iou", min=0, max=1, help="Least IoU with one lesion; 0: any overlap.", rich_help_panel=RULE),
    ] = 0.0,
    coverage: Annotated[
        float,
        typer.Option("--coverage", min=0, max=1, help="Least share of a lesion that is covered.", rich_help_panel=RULE),
    ] = 0.0,
    radius_edges: Annotated[
        str, typer.Option("--radius-edges", help="Borders between the groups by radius, in mm.", rich_help_panel=RULE)
    ] = "5,10,15,20",
    diameter_edges: Annotated[
        str,
        typer.Option(
            "--diameter-edges", help="Borders between the groups by longest diameter, in mm.", rich_help_panel=RULE
        ),
    ] = "20,50",
    label: Label = None,
    reference_label: Annotated[
        int | None, typer.Option("--reference-label", min=1, help="The same in references.", rich_help_panel=RULE)
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Report which share of tumors is found, by size, with Wilson intervals."""
    edges = [(name, numbers(text, option)) for name, text, option in (
        ("radius", radius_edges, "--radius-edges"), ("diameter", diameter_edges, "--diameter-edges"),
    )]  # fmt: skip

    from DiffuGTSLib.evaluation.case_files import pair_cases
    from DiffuGTSLib.evaluation.size_sensitivity import FILES, TITLE, SizeBins, as_row, study_sizes

    require_report_folder(output, force, TITLE, FILES)
    folders = {"references": references, "predictions": predictions, "organs": organs}
    bins: list[SizeBins] = [SizeBins(name, values) for name, values in edges]
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        rows = study_sizes(
            pair_cases("references", folders), output, minimum_iou=iou, minimum_coverage=coverage, bins=bins,
            label=label, reference_label=reference_label, on_progress=progress,
        )  # fmt: skip
        progress("cases", 1.0)
    print_warnings(output, quiet)
    show([as_row(row) for row in rows], "Sensitivity by size", output, quiet, as_json)


def false_positives(
    predictions: Predictions,
    output: StudyOutput,
    organs: Organs = None,
    thresholds: Annotated[
        str | None,
        typer.Option("--thresholds", help="For probability maps; default: 0.05 to 0.95.", rich_help_panel=RULE),
    ] = None,
    minimum_radius: Annotated[
        float,
        typer.Option("--minimum-radius", min=0, metavar="MM", help="Drop smaller components.", rich_help_panel=RULE),
    ] = 3.0,
    label: Label = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Count findings in healthy scans: false positives per scan and specificity, over thresholds."""
    cuts = None if thresholds is None else numbers(thresholds, "--thresholds")

    from DiffuGTSLib.evaluation.case_files import pair_cases
    from DiffuGTSLib.evaluation.false_positives import FILES, TITLE, as_row, study_false_positives
    from DiffuGTSLib.evaluation.froc import THRESHOLDS

    require_report_folder(output, force, TITLE, FILES)
    cases = pair_cases("predictions", {"predictions": predictions, "organs": organs})
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        operations = study_false_positives(
            cases, output, thresholds=cuts or THRESHOLDS, minimum_radius_mm=minimum_radius, label=label,
            on_progress=progress,
        )  # fmt: skip
        progress("cases", 1.0)
    print_warnings(output, quiet)
    show([as_row(each) for each in operations], "False positives on healthy scans", output, quiet, as_json)


def detection(
    tree: Annotated[Path, typer.Argument(help="Folder above the patients: MRN/accession/series below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV file.")],
    organ: Annotated[
        list[str] | None, typer.Option("--organ", help="Default: liver, pancreas, kidney. May be repeated.")
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0,
            metavar="MM3",
            help="An organ counts as positive above so much tumor, mm³, left after erosion on a grid of 1 mm.",
        ),
    ] = 70.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write yes or no for every organ of every series, as a table with DiffTumor's columns."""
    require_folder(tree, "TREE")

    from DiffuGTSLib.evaluation.detection_table import ORGANS, PLACE_COLUMNS, write_detection_table

    require_table(output, PLACE_COLUMNS)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        rows = write_detection_table(
            tree, output, organs=organ or ORGANS, threshold_mm3=threshold, on_progress=progress
        )
        progress("cases", 1.0)
    for row in rows:
        for problem in () if quiet else row.problems:
            print_note(f"{'/'.join(row.place)}: {problem}", "yellow")
    if as_json:
        print_json([{"place": row.place, "detected": row.detected, "problems": row.problems} for row in rows])
    elif not quiet:
        counts = {name: sum(row.detected[name] == 1 for row in rows) for name in rows[0].detected}
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        print_line(f"{len(rows)} series. Tumors detected: {told}. Table: {output}")


def groups(
    cases: Annotated[Path, typer.Argument(help="A CSV file with a column 'case' and figures, as evaluate writes it.")],
    metadata: Annotated[Path, typer.Option("--metadata", help="A CSV file with a column 'case' and the metadata.")],
    by: Annotated[list[str], typer.Option("--by", help="A column of the metadata; may be repeated.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV file of the groups.")],
    patient: Annotated[
        str | None,
        typer.Option("--patient", help="The column that names patients, who are drawn, not scans; default: patient."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Group figures by sex, decade of age, or any other column of metadata."""
    from DiffuGTSLib.evaluation.report import write_rows
    from DiffuGTSLib.evaluation.strata import FIRST_COLUMNS, group_figures, read_table, unmatched

    require_not_read([output], [cases, metadata])
    require_table(output, FIRST_COLUMNS)
    figures, known = read_table(cases), read_table(metadata)
    rows = group_figures(figures, known, by, patient=patient)
    write_rows(rows, output)
    if missing := unmatched(figures, known):
        listed = ", ".join(missing[:5]) + ("…" if len(missing) > 5 else "")
        print_warning(f"{metadata} has no row of {len(missing)} of {len(figures)} cases, which are 'unknown': {listed}")
    show(rows, "Figures by group", output, quiet, as_json)


app.command("sizes", epilog=SIZES_EXAMPLES)(sizes)
app.command("false-positives", epilog=FALSE_POSITIVES_EXAMPLES)(false_positives)
app.command("detection", epilog=DETECTION_EXAMPLES)(detection)
app.command("groups", epilog=GROUPS_EXAMPLES)(groups)
app.command("robustness", epilog=studying_robustness.ROBUSTNESS_EXAMPLES)(studying_robustness.robustness)
app.command("robustness-score", epilog=studying_robustness.SCORE_EXAMPLES)(studying_robustness.robustness_score)
app.command("similarity", epilog=studying_robustness.SIMILARITY_EXAMPLES)(studying_robustness.similarity)
app.command("realism", epilog=studying_robustness.REALISM_EXAMPLES)(studying_robustness.realism)
