"""`reading build` and `reading score`: the visual Turing test, from scans to exact figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import AsJson, Quiet, examples
from DiffuGTSLib.cli.terminal import ERR, OUT, print_json, print_line, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.progress import TerminalProgress

if TYPE_CHECKING:
    from DiffuGTSLib.reader_study.statistics import Agreement, Reading, Share, Study

EXAMPLES = examples(
    "A session of 64 mm cubes around each tumor, 20 real and 20 synthetic ones:",
    "diffugts reading build --real real --synthetic painted -o session --crop-mm 64 --per-side 20",
    "Readers open session/reading.html in a browser, or the folder in 3D Slicer. Then:",
    "diffugts reading score answers_R1.json answers_R2.json --key session_key.json",
)

app = typer.Typer(
    help="Can readers tell synthetic tumors from real ones? Builds blinded sessions and scores the answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EXAMPLES,
)

_WHAT, _HOW, _WHERE = "Scans", "Session", "Output"

Scans = "A folder (a.nii.gz, its mask a_tumor.nii.gz), or a text file: scan, mask, its label if several."
Real = Annotated[Path, typer.Option("--real", help=f"Real tumors. {Scans}", rich_help_panel=_WHAT)]
Synthetic = Annotated[
    Path, typer.Option("--synthetic", help="The same, or what diffugts synthesize has written.", rich_help_panel=_WHAT)
]
CropMm = Annotated[
    float | None,
    typer.Option(
        "--crop-mm", min=8.0, help="Side of a cube around the tumor; else whole scans.", rich_help_panel=_WHAT
    ),
]
PerSide = Annotated[
    int | None, typer.Option("--per-side", min=1, help="Draw this many of each kind at random.", rich_help_panel=_WHAT)
]
AllowUnbalanced = Annotated[
    bool,
    typer.Option(
        "--allow-unbalanced", help="Accept different numbers of real and synthetic scans.", rich_help_panel=_WHAT
    ),
]
Harmonize = Annotated[
    bool,
    typer.Option(
        "--harmonize",
        help="Where grids, limits or fractions would tell them apart: change all scans alike.",
        rich_help_panel=_WHAT,
    ),
]
Modality = Annotated[str | None, typer.Option("--modality", help="CT or MR; else guessed.", rich_help_panel=_WHAT)]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order and the draw.", rich_help_panel=_HOW)]
Title = Annotated[str, typer.Option("--title", help="What readers see above the scans.", rich_help_panel=_HOW)]
Window = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--window",
        metavar="BLACK WHITE",
        help="Intensities shown as black and as white when a case is opened; if not given, on CT a window by the share of "
        "lung, on MR each scan's own range.",
        rich_help_panel=_HOW,
    ),
]
NoPage = Annotated[bool, typer.Option("--no-page", help="Scans only, for 3D Slicer.", rich_help_panel=_WHERE)]
KeyOut = Annotated[
    Path | None, typer.Option("--key", help="Where the truth goes; else SESSION_key.json.", rich_help_panel=_WHERE)
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the session.", rich_help_panel=_WHERE)]


@app.command("build", epilog=EXAMPLES)
def build(
    real: Real,
    synthetic: Synthetic,
    output: Output,
    seed: Seed = 0,
    crop_mm: CropMm = None,
    per_side: PerSide = None,
    allow_unbalanced: AllowUnbalanced = False,
    harmonize: Harmonize = False,
    modality: Modality = None,
    title: Title = "Real or synthetic?",
    window: Window = None,
    key: KeyOut = None,
    no_page: NoPage = False,
    quiet: Quiet = False,
) -> None:
    """Write a blinded session of real and synthetic scans: a page for the browser, a folder for 3D Slicer, and the key."""
    if modality not in (None, "CT", "MR"):
        raise InputError(f"Unknown modality '{modality}'.", hint="CT or MR.", code="modality")
    if window is not None and window[0] >= window[1]:
        raise InputError(f"Expected black below white, got --window {window[0]:g} {window[1]:g}.", code="window")

    from DiffuGTSLib.reader_study.session import SessionOptions, build_session, key_path_of

    options = SessionOptions(
        seed=seed,
        crop_mm=crop_mm,
        per_side=per_side,
        allow_unbalanced=allow_unbalanced,
        harmonize=harmonize,
        modality=modality,
        window=window,
        title=title,
        with_page=not no_page,
    )
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        built = build_session(real, synthetic, output, options, key_path=key, told=progress)
    for words in built.changed:
        print_note(f"Changed: {words}.")
    if not quiet:
        page = "" if no_page else f", page of {built.page_mb:.1f} MB"
        lines = (
            f"Session: {output}, {len(built.card.files)} scans{page}. For the readers.",
            f"Key:     {key or key_path_of(output)}. Not for the readers.",
        )
        print_line("\n".join(lines))


@app.command("score", epilog=EXAMPLES)
def score(
    answers: Annotated[list[Path], typer.Argument(help="Answer sheets: JSON or CSV from the page or 3D Slicer.")],
    key: Annotated[Path, typer.Option("--key", help="The key of the session.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A JSON file for all figures.", rich_help_panel=_WHERE)
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Accept sheets with missing cases.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score answers: accuracy, sensitivity, specificity with exact intervals, agreement between readers, time."""
    from DiffuGTSLib.reader_study.answers import read_answers
    from DiffuGTSLib.reader_study.key import read_key
    from DiffuGTSLib.reader_study.statistics import score_study, study_record
    from DiffuGTSLib.storage import write_json

    study = score_study([read_answers(path) for path in answers], read_key(key), allow_incomplete=allow_incomplete)
    record = study_record(study)
    if output is not None:
        write_json(output, record, ensure_ascii=False)
    if as_json:
        print_json(record)
    else:
        _show(study)


def _show(study: Study) -> None:
    OUT.print(_rates(study))
    if study.agreement:
        OUT.print(_agreement(study.agreement))
    for note in study.notes:
        print_line(f"- {note}")


def _rates(study: Study) -> Table:
    table = Table(title=f"{study.real} real and {study.synthetic} synthetic scans")
    table.add_column("Reader")
    table.add_column("Unsure")
    for heading in (
        "Accuracy",
        "Sensitivity\nreal as real",
        "Specificity\nsynthetic as synthetic",
        "p",
        "Time (s)\nmedian",
    ):
        table.add_column(heading, justify="right")
    for reader in (*study.readers, *([study.pooled] if study.pooled is not None else [])):
        for index, (way, reading) in enumerate((("excluded", reader.excluded), ("is wrong", reader.wrong))):
            name = "" if index else reader.name
            unsure = f"{way} ({reader.unsure})"
            time = "" if index else f"{reader.time.median_s:.1f}"
            table.add_row(name, unsure, *_figures(reading), time)
        table.add_section()
    return table


def _figures(reading: Reading) -> tuple[str, str, str, str]:
    p = "–" if reading.p_chance is None else f"{reading.p_chance:.2g}"
    return _shown(reading.accuracy), _shown(reading.sensitivity), _shown(reading.specificity), p


def _shown(share: Share) -> str:
    if share.share is None:
        return "–"
    return f"{100 * share.share:.1f} %\n{share.count}/{share.of}, {100 * share.low:.0f}–{100 * share.high:.0f}"


def _agreement(agreement: tuple[Agreement, ...]) -> Table:
    table = Table(title="Agreement between readers")
    for heading in ("Readers", "Cases", "Agree", "Kappa"):
        table.add_column(heading, justify="left" if heading == "Readers" else "right")
    for row in agreement:
        observed = "–" if row.observed is None else f"{100 * row.observed:.0f} %"
        kappa = "–" if row.kappa is None else f"{row.kappa:.2f}"
        table.add_row(", ".join(row.readers), str(row.cases), observed, kappa)
    return table
