"""`ablate`: does each part of the method earn its place?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import (
    AsJson,
    ConfigFile,
    Device,
    Overrides,
    Preset,
    Quiet,
    Seed,
    configured,
    examples,
    whole_numbers,
)
from DiffuGTSLib.cli.scan_inputs import protocol_path, require_folder
from DiffuGTSLib.cli.study_reports import print_warnings
from DiffuGTSLib.cli.terminal import ERR, print_json, print_line
from DiffuGTSLib.progress import TerminalProgress
from DiffuGTSLib.storage import read_json

EXAMPLES = examples(
    "Every study on the scans that the bundled model was not trained on:",
    "diffugts ablate --protocol mini --data scans -o ablation",
    "Open ablation/report.html. Only what parts and words do, on two scans, to begin with:",
    "diffugts ablate --protocol mini --data scans -o ablation --studies parts,prompts --case STS_016_CT --case brain1",
    "More steps and seeds later; what is measured already is not measured again:",
    "diffugts ablate --protocol mini --data scans -o ablation --studies steps,seeds --steps 1,5,10,50 --seeds 0,1,2,3",
    "",
    "parts    a threshold, an ellipsoid that sees no image, the attention alone, residuals left out and alone",
    "prompts  the right organ, a wrong one, normal and abnormal swapped, nonsense",
    "steps    repainted in fewer and more denoising steps",
    "seeds    repainted with other noise",
)

_WHAT, _COMPARED = "On what", "What is compared"


def ablate(
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol", help="A bundled protocol's name, or a JSON file in its form.", rich_help_panel=_WHAT
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", help="Folder that the protocol's paths start from.", rich_help_panel=_WHAT)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the report; what it holds already is used.", show_default=False),
    ],
    split: Annotated[
        str, typer.Option("--split", help="Which cases: validation, test.", rich_help_panel=_WHAT)
    ] = "test",
    cases: Annotated[
        list[str] | None,
        typer.Option("--case", "--cases", help="Only this one; may be repeated.", rich_help_panel=_WHAT),
    ] = None,
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen",
            help="Also use scans that the model was trained on; the report is marked.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    studies: Annotated[
        str, typer.Option("--studies", help="Some of parts, prompts, steps, seeds.", rich_help_panel=_COMPARED)
    ] = "parts,prompts,steps,seeds",
    steps: Annotated[
        str, typer.Option("--steps", help="Denoising steps to try.", rich_help_panel=_COMPARED)
    ] = "1,2,5,10,30",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds to try.", rich_help_panel=_COMPARED)] = "0,1,2",
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    seed: Seed = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score variants of DiffuGTS against the whole method on unseen scans, paired over patients.

    Each scan is encoded once and repainted once. Parts are mixtures of the same residuals, and prompts use the same
    features; only steps and seeds repaint again. Thresholds of mixtures are chosen on the validation scans.
    """
    require_folder(data, "--data")
    config = configured(preset, config_file, overrides, device=device, seed=seed)

    from DiffuGTSLib.datasets.trained_cases import tuned_on
    from DiffuGTSLib.evaluation.ablation import Study, run_ablation
    from DiffuGTSLib.evaluation.ablation_variants import AblationOptions

    chosen = tuple(word.strip() for word in studies.split(",") if word.strip())
    options = AblationOptions(chosen, whole_numbers(steps, "--steps"), whole_numbers(seeds, "--seeds"))
    names, tuned = tuple(cases or ()), tuple(tuned_on(config_file))
    study = Study(protocol_path(protocol), data, output, config, split, names, options, allow_seen, tuned)
    with TerminalProgress(ERR, quiet=quiet, check=stop_if_asked) as progress:
        run_ablation(study, progress)
    _show(output, quiet, as_json)


def _show(output: Path, quiet: bool, as_json: bool) -> None:
    print_warnings(output, quiet)
    if as_json:
        print_json(read_json(output / "report.json")["studies"])
    elif not quiet:
        print_line(f"Report: {output / 'report.html'}")
