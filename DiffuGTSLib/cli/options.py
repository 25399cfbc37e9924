"""The options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import ConfigError, InputError

_CONFIGURATION = "Configuration"
_OUTPUT = "Output"
_WHAT = "What to look for"

Preset = Annotated[
    str, typer.Option("--preset", help="A name that diffugts presets lists.", rich_help_panel=_CONFIGURATION)
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A JSON file in the form of a preset; it overrides the preset.", rich_help_panel=_CONFIGURATION
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1.", rich_help_panel=_CONFIGURATION)
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Seed of all random draws. Default: the preset's (0).",
        rich_help_panel=_CONFIGURATION,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", help="Denoising steps for repainting. Default: the preset's.", rich_help_panel=_CONFIGURATION
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of the device that may be used, such as 8GB. Default: what is free.",
        rich_help_panel=_CONFIGURATION,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Any other setting, as in --set masks.threshold=0.6. May be repeated.",
        rich_help_panel=_CONFIGURATION,
    ),
]
AllowUntrained = Annotated[
    bool,
    typer.Option(
        "--allow-untrained", help="Run networks without trained weights: for tests.", rich_help_panel=_CONFIGURATION
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=_OUTPUT)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, nothing else, on stdout.", rich_help_panel=_OUTPUT)
]
Organ = Annotated[
    str | None,
    typer.Option("--organ", help="Built-in sentences of an organ; see diffugts prompts.", rich_help_panel=_WHAT),
]
Normal = Annotated[
    str | None, typer.Option("--normal", help="Your own sentence: the healthy organ.", rich_help_panel=_WHAT)
]
Abnormal = Annotated[
    str | None, typer.Option("--abnormal", help="Your own sentence: the same with a tumor.", rich_help_panel=_WHAT)
]
Modality = Annotated[
    Literal["CT", "MR"] | None,
    typer.Option("--modality", help="If not given, it is guessed and the reason is printed.", case_sensitive=False),
]
OffsetHu = Annotated[
    float | None,
    typer.Option(
        "--offset-hu", metavar="HU", help="Added to a CT whose file is not in HU, such as -1024; 0 states that it is."
    ),
]
Stages = Annotated[str | None, typer.Option("--stages", help="Run only these, comma-separated: aova,repaint,residual.")]
Format = Annotated[
    Literal["nifti", "nrrd"], typer.Option("--format", help="nrrd also writes Slicer's segmentation.seg.nrrd.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run left in the folder.")]


def configured(
    preset: str = "mini",
    file: Path | None = None,
    overrides: list[str] | None = None,
    *,
    device: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    memory: str | None = None,
) -> Config:
    """Resolve the command line into one configuration; the short options are applied last, folders become absolute.

    Raises:
        ConfigError: As `load_config`; or a size that is none.
    """
    memory_gb = None if memory is None else parse_size_gb(memory)
    short = {
        "runtime.device": device,
        "runtime.seed": seed,
        "inpainting.steps": steps,
        "runtime.memory_gb": memory_gb,
    }
    chosen = [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    return _with_whole_paths(load_config(preset, file, [*(overrides or []), *chosen]))


def _with_whole_paths(config: Config) -> Config:
    """Return a configuration whose folders are found from everywhere: a result's record is read in another place."""

    def whole(folder: str) -> str:
        return str(Path(folder).absolute()) if folder else ""

    return dataclasses.replace(
        config,
        backbone=dataclasses.replace(config.backbone, folder=whole(config.backbone.folder)),
        text=dataclasses.replace(config.text, folder=whole(config.text.folder)),
    )


def parse_size_gb(text: str) -> float:
    """Return a size in GB (10^9 bytes): "8GB", "8", "7.5 GiB", "900MB".

    Raises:
        ConfigError: If it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GB|GIB|MB|MIB|G|M)?\s*", text.upper())
    units = {"GB": 1.0, "G": 1.0, "GIB": 2**30 / 1e9, "MB": 1e-3, "M": 1e-3, "MIB": 2**20 / 1e9}
    size = float(found[1]) * units[found[2] or "GB"] if found else 0.0
    if size <= 0:
        raise ConfigError(f"--memory: expected a size, got '{text}'.", hint="write --memory 8GB.")
    return size


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Return the numbers of "0.7,0.1,0.2".

    Raises:
        InputError: If it holds anything else, or what is not finite; naming the option.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise InputError(f"{option}: expected comma-separated numbers, got '{text}'.", code="numbers")
    return values


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the whole numbers of "1,2,3".

    Raises:
        InputError: As `numbers`, or if one is not whole.
    """
    values = numbers(text, option)
    if not all(value.is_integer() for value in values):
        raise InputError(f"{option}: expected comma-separated whole numbers, got '{text}'.", code="numbers")
    return tuple(int(value) for value in values)


def examples(*lines: str) -> str:
    """Return the end of a help page: one example a line, as rich's markup."""
    shown = [f"  [cyan]{line}[/]" if line.startswith("diffugts") else f"[dim]{line}[/]" for line in lines]
    return "\n".join(["[bold]Examples[/]", *shown])
