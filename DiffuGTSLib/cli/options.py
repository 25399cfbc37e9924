"""The options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import ConfigError

_CONFIGURATION = "Configuration"
_OUTPUT = "Output"

Preset = Annotated[
    str, typer.Option("--preset", help="A name that diffugts presets lists.", rich_help_panel=_CONFIGURATION)
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A JSON file in a preset's form, read after it.", rich_help_panel=_CONFIGURATION),
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1.", rich_help_panel=_CONFIGURATION)
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        help="Every random draw follows from it; the preset's if not given (0).",
        rich_help_panel=_CONFIGURATION,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", help="Denoising steps of the repaint; the preset's if not given.", rich_help_panel=_CONFIGURATION
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Memory of the device that may be used, as in 8GB; else what it has free.",
        rich_help_panel=_CONFIGURATION,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.KEY=VALUE",
        help="Any other choice, as in --set masks.threshold=0.6. May be repeated.",
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
    backbone, text = (
        dataclasses.replace(part, folder=str(Path(part.folder).absolute())) if part.folder else part
        for part in (config.backbone, config.text)
    )
    return dataclasses.replace(config, backbone=backbone, text=text)


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


def examples(*lines: str) -> str:
    """Return the end of a help page: one example a line, as rich's markup."""
    shown = [f"  [cyan]{line}[/]" if line.startswith("diffugts") else f"[dim]{line}[/]" for line in lines]
    return "\n".join(["[bold]Examples[/]", *shown])
