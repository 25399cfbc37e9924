"""`data`: data sets, their protocols, case lists and label maps, made ready for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from DiffuGTSLib.cli import data_protocols
from DiffuGTSLib.cli.interrupts import print_progress
from DiffuGTSLib.cli.options import examples
from DiffuGTSLib.cli.scan_inputs import require_folder
from DiffuGTSLib.errors import InputError

EXAMPLES = examples(
    "Label maps with the tumors of at most 10 mm in radius only, and the list of the cases that have any:",
    "diffugts data filter-tumors --list real_tumor_train_0.txt --data Task03_Liver --stage early -o liver_early_fold",
)

app = typer.Typer(
    help="Make protocols of data sets, check and split them; prepare case lists and label maps for training.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=data_protocols.CHECK_EXAMPLES,
)


@app.callback()
def _data() -> None:
    """Make protocols of data sets, check and split them; prepare case lists and label maps for training."""


app.command("protocol", epilog=data_protocols.PROTOCOL_EXAMPLES)(data_protocols.protocol)
app.command("check", epilog=data_protocols.CHECK_EXAMPLES)(data_protocols.check)
app.command("split", epilog=data_protocols.SPLIT_EXAMPLES)(data_protocols.split)


@app.command("filter-tumors", epilog=EXAMPLES)
def filter_tumors(
    case_list: Annotated[
        Path, typer.Option("--list", help="Two columns of text, scan and label map, or a Decathlon JSON.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder that the list's paths start from.")],
    stage: Annotated[
        Literal["early", "late"], typer.Option("--stage", help="early: radius of at most 10 mm; late: the others.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the new label maps and the new list, both as named before; the list has their whole paths.",
        ),
    ],
) -> None:
    """Keep the tumors of one stage; the others become organ. Parts of fewer than 8 voxels are no tumors."""
    require_folder(data, "--data")
    if (output / case_list.name).resolve() == case_list.resolve():
        raise InputError(
            f"The new list would replace the one it is made from: {case_list}.",
            hint="choose another output folder.",
            code="exists",
        )

    from DiffuGTSLib.training.case_lists import read_decathlon, read_list
    from DiffuGTSLib.training.tumor_sizes import filter_cases

    if case_list.suffix == ".json":
        found = read_decathlon(case_list, data)
        lists = {f"{split}.txt": cases for split, cases in found.items() if cases}
    else:
        lists = {case_list.name: read_list(case_list, data)}

    for name, cases in lists.items():
        filtered = filter_cases(cases, stage, output, name, print_progress)
        kept = sum(bool(staged.kept_mm) for staged in filtered)
        print_progress(f"{output / name}: {kept} of {len(cases)} cases, {sum(len(s.kept_mm) for s in filtered)} tumors")
