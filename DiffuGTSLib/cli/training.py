"""`train`: one part of a model of your own. A run that was stopped goes on where its last checkpoint lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from DiffuGTSLib.cli.door import OUT, stop_if_asked
from DiffuGTSLib.cli.evaluating import protocol_path, require_folder
from DiffuGTSLib.cli.options import examples
from DiffuGTSLib.errors import Cancelled

EXAMPLES = examples(
    "In this order, into one run folder; each needs the part before it:",
    "diffugts train autoencoder --data scans -o run",
    "diffugts train denoiser --data scans -o run",
    "diffugts train aova --data scans -o run",
    "See what would be trained, on how many scans and how long, without doing it:",
    "diffugts train denoiser --data scans -o run --dry-run",
)


def train(
    part: Annotated[Literal["autoencoder", "denoiser", "aova"], typer.Argument(help="What to train.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the protocol's paths start from.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder: checkpoints, log and weights.")],
    protocol: Annotated[
        str, typer.Option("--protocol", help="A bundled protocol's name, or a JSON file in its form.")
    ] = "mini",
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="Default: the recipe's own.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--precision", help="bfloat16 on CUDA, or a CPU that has it.")
    ] = "float32",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Every random draw follows from it.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
) -> None:
    """Train one part of a model; running it again goes on from the last checkpoint."""
    path = protocol_path(protocol)
    require_folder(data, "--data")

    from DiffuGTSLib.training.run import train_part

    def report(line: str) -> None:
        stop_if_asked()
        OUT.print(Text(line), soft_wrap=True)

    try:
        train_part(
            part, protocol_path=path, data=data, output=output, iterations=iterations, precision=precision, seed=seed,
            device=device, dry_run=dry_run, report=report,
        )  # fmt: skip
    except (KeyboardInterrupt, Cancelled):
        raise Cancelled("Stopped. The last checkpoint is kept.", hint="the same command goes on from there.") from None
