"""`train`: one part of a model of your own. A run that was stopped goes on where its last checkpoint lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from DiffuGTSLib.cli.interrupts import print_progress
from DiffuGTSLib.cli.options import examples
from DiffuGTSLib.cli.scan_inputs import protocol_path, require_folder
from DiffuGTSLib.errors import Cancelled, ConfigError

EXAMPLES = examples(
    "In this order, into one run folder; each needs the part before it:",
    "diffugts train autoencoder --data scans -o run",
    "diffugts train denoiser --data scans -o run",
    "diffugts train aova --data scans -o run",
    "diffugts train residual --data scans -o run",
    "Then choose where its attention is cut, on validation scans and newly painted tumors; use the choice by --config:",
    "diffugts train thresholds --data scans -o run",
    "The painter of tumors, into a run folder; it needs the VQGAN before it:",
    "diffugts train vqgan --data scans -o run",
    "diffugts train tumor-painter --data scans -o run --set stage=early --set timesteps=4",
    "A segmenter, with tumors painted on the fly:",
    "diffugts train segmenter --data scans -o run --set model=unet --set organs=liver",
    "A head on published networks, from a task of the Decathlon, without a look at its outlined tumors:",
    "diffugts train aova --preset maisi-ct --data Task03_Liver -o run --set mode=label-free "
    "--set text.encoder=minilm --set workers=8",
    "See what would be trained, on how many scans, how long and in how much memory, without doing it:",
    "diffugts train aova --data scans -o run --dry-run",
)


PartName = Literal["autoencoder", "denoiser", "aova", "residual", "thresholds", "vqgan", "tumor-painter", "segmenter"]
"""The keys of `DiffuGTSLib.training.run.PARTS`, known before torch is loaded."""

Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Of aova, residual and thresholds: the networks, grid and windows of a preset. Default: the run's own "
        "networks, and of residual and thresholds the preset of the run's head.",
    ),
]

Prepared = Annotated[
    Path | None,
    typer.Option(
        "--prepared",
        help="Keep the resampled scans in files of this folder: the next start takes them from there, the processes of a "
        "training share them, and they need not fit into main memory. A dry run fills it, too.",
    ),
]


def train(
    part: Annotated[PartName, typer.Argument(help="What to train.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the scans; the protocol's paths start from it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder: checkpoints, log and weights.")],
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="A bundled protocol's name, or a JSON file in its form. Default: a folder in the layout of the Decathlon, "
            "KiTS, BraTS, nnU-Net or TotalSegmentator is split by patient; any other is read as the scans of mini.",
        ),
    ] = None,
    preset: Preset = None,
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="Default: as the recipe says.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--precision", help="bfloat16 on CUDA, or a CPU that has it.")
    ] = "float32",
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Every random draw follows from it: the same seed, the same weights.")
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the part; --dry-run lists them. With a dot, one of the preset. May be repeated.",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's curves beside log.csv.")
    ] = False,
    prepared: Prepared = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what would be done and what is left.")
    ] = False,
) -> None:
    """Train one part of a model. Running it again continues from the last checkpoint."""
    path = None if protocol is None else protocol_path(protocol)
    options = key_values(overrides)
    require_folder(data, "--data")

    from DiffuGTSLib.training.run import train_part

    try:
        train_part(
            part, protocol_path=path, data=data, output=output, preset=preset, iterations=iterations,
            precision=precision, seed=seed, device=device, options=options, tensorboard=tensorboard, prepared=prepared,
            dry_run=dry_run, report=print_progress,
        )  # fmt: skip
    except (KeyboardInterrupt, Cancelled):
        raise stopped(output / part) from None


def stopped(folder: Path) -> Cancelled:
    """Return what a training that was stopped says of its folder: whether there is something to go on from."""
    if any(folder.rglob("state.pt")):
        return Cancelled("Stopped. The last checkpoint is kept.", hint="the same command goes on from there.")
    return Cancelled("Stopped. Nothing is kept yet.", hint="the same command begins anew.")


def key_values(overrides: list[str] | None) -> dict[str, str]:
    """Return what `--set KEY=VALUE` says, by key.

    Raises:
        ConfigError: For a word without a key or without an equals sign.
    """
    values = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not key or not equals:
            raise ConfigError(f"--set: expected KEY=VALUE, got '{override}'.", hint="for instance --set timesteps=4.")
        values[key] = value
    return values
