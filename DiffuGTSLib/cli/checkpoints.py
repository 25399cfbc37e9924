"""`checkpoint`: what is in a published checkpoint, and its conversion to a folder that is safe to load."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.options import AsJson, examples
from DiffuGTSLib.cli.terminal import OUT, print_json, print_line

if TYPE_CHECKING:
    from DiffuGTSLib.synthesis.checkpoints import CheckpointReport

INSPECT_EXAMPLES = examples(
    "diffugts checkpoint inspect liver_early.pt",
    "Nothing in the file is run: names in it that are not tensors are answered by nothing, and listed.",
)
CONVERT_EXAMPLES = examples(
    "A painter, for synthesize --painter and the training of segmenters:",
    "diffugts checkpoint convert liver_early.pt -o painters/liver_early",
    "diffugts synthesize ct.nii.gz --organ liver --organ-mask liver.nii.gz -o painted --painter painters/liver_early",
    "An autoencoder to train on, and a segmenter:",
    "diffugts checkpoint convert AutoencoderModel.ckpt -o autoencoder",
    "diffugts checkpoint convert unet_synt_liver_tumors.pt -o segmenter",
    "",
    "The published weights are marked Apache-2.0, which conflicts with the license of the code that made them, and "
    "their authors state patents pending: ask them before commercial use.",
)

app = typer.Typer(
    no_args_is_help=True, help="Inspect and convert DiffTumor checkpoints safely, without running what is in them."
)

File = Annotated[Path, typer.Argument(help="A .ckpt or .pt file of torch 1.6 or later.", show_default=False)]
Seconds = Annotated[int, typer.Option("--seconds", min=1, help="Time limit of the reading process, in seconds.")]
Memory = Annotated[
    int,
    typer.Option(
        "--memory", metavar="MB", min=64, help="Main memory, in MB, that the process which reads the file may use."
    ),
]


@app.command("inspect", epilog=INSPECT_EXAMPLES)
def inspect(file: File, seconds: Seconds = 300, memory: Memory = 2048, as_json: AsJson = False) -> None:
    """Say what a checkpoint is, and which tensors are missing or unexpected."""
    from DiffuGTSLib.synthesis.checkpoints import ReadingLimits, inspect_checkpoint

    _show(inspect_checkpoint(file, ReadingLimits(seconds, memory)), as_json)


@app.command("convert", epilog=CONVERT_EXAMPLES)
def convert(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder.")],
    seconds: Seconds = 300,
    memory: Memory = 2048,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint to a folder of safetensors, with its source and checksums beside them."""
    from DiffuGTSLib.synthesis.case import NOTICE
    from DiffuGTSLib.synthesis.checkpoints import ReadingLimits, convert_checkpoint

    report = convert_checkpoint(file, output, ReadingLimits(seconds, memory))
    _show(report, as_json)
    if not as_json:
        print_line(f"Written to {output}.")
        print_line(NOTICE)


def _show(report: CheckpointReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    table = Table(title=report.name, show_header=False)
    rows = {
        "Kind": report.kind,
        "Sizes": ", ".join(f"{name} {value}" for name, value in report.sizes.items()),
        "Timesteps": str(report.timesteps or ""),
        "Tensors": f"{report.tensors} with {report.elements:,} numbers, under '{report.group}'",
        "Values": ", ".join(f"{name} {value}" for name, value in report.values.items()),
        "SHA-256": report.sha256,
        "Answered by nothing": ", ".join(report.replaced),
    }
    rows |= {
        f"{word} ({len(names)})": "\n".join(names)
        for word, names in (
            ("Missing", report.missing), ("Unexpected", report.unexpected), ("Another shape", report.misshapen)
        )
        if names
    }  # fmt: skip
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    OUT.print(table)
