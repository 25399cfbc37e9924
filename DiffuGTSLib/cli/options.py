"""The options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.config import Config, load_config

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
    int | None, typer.Option("--seed", help="Every random draw follows from it.", rich_help_panel=_CONFIGURATION)
]
Steps = Annotated[
    int | None, typer.Option("--steps", help="Denoising steps of the repaint.", rich_help_panel=_CONFIGURATION)
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
) -> Config:
    """Resolve the command line into one configuration; the short options are applied last.

    Raises:
        ConfigError: As `load_config`.
    """
    short = {"runtime.device": device, "runtime.seed": seed, "inpainting.steps": steps}
    chosen = [f"{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    return load_config(preset, file, [*(overrides or []), *chosen])


def examples(*lines: str) -> str:
    """Return the end of a help page: one example a line, as rich's markup."""
    shown = [f"  [cyan]{line}[/]" if line.startswith("diffugts") else f"[dim]{line}[/]" for line in lines]
    return "\n".join(["[bold]Examples[/]", *shown])
