"""`plan`: how a scan would be segmented, and what that takes of time and memory, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.options import AsJson, ConfigFile, Device, Memory, Overrides, Preset, Steps, configured, examples
from DiffuGTSLib.cli.terminal import OUT, print_json, print_line

if TYPE_CHECKING:
    from DiffuGTSLib.planning.plan import Plan

EXAMPLES = examples(
    "diffugts plan chest.nii.gz",
    "For a card of 8 GB that need not be here:",
    "diffugts plan chest.nii.gz --preset maisi-ct --device cuda --memory 8GB --tflops 30",
)


def plan(
    scan: Annotated[
        Path, typer.Argument(help="A scan's file, or a folder of one DICOM series; only headers are read.")
    ],
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    memory: Memory = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", help="TFLOP/s that it reaches: a GPU in bfloat16, a CPU as asked; else measured or assumed."
        ),
    ] = None,
    steps: Steps = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say how a scan would be segmented: grid, windows, precision, time and memory of each stage. Nothing runs."""
    config = configured(preset, config_file, overrides, device=device, steps=steps, memory=memory)

    from DiffuGTSLib.volumes.io import read_geometry

    geometry = read_geometry(scan)

    from DiffuGTSLib.planning.costs import sketch
    from DiffuGTSLib.planning.machine import find_machine, with_speed
    from DiffuGTSLib.planning.plan import make_plan

    machine = find_machine(config.runtime)
    networks = sketch(config)
    machine = with_speed(machine, networks, config, tflops)
    made = make_plan(geometry, config, machine, networks=networks)
    if as_json:
        shown = {"scan": str(scan.absolute()), "preset": preset, **made.to_dict()}
        print_json(shown)
        return
    show_plan(made)


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    from DiffuGTSLib.planning.plan import CANDIDATE_MM

    config, machine = plan.config, plan.machine
    given_up = ", ".join(plan.ladder[1 : plan.rung + 1])
    half = " in bfloat16" if machine.device == "cuda" or config.runtime.precision == "bfloat16" else ""
    spacing = " × ".join(f"{side:.2f}" for side in plan.spacing_mm)
    lines = {
        "Device": f"{machine.name}; {machine.memory_bytes / 1e9:.1f} GB ({machine.memory_source})",
        "Speed": f"{machine.tflops or 0:.3g} TFLOP/s{half} ({machine.tflops_source})",
        "Rung": f"{plan.rung} of {len(plan.ladder) - 1}: {given_up or plan.ladder[0]}",
        "Grid": f"{' × '.join(map(str, plan.shape))} voxels of {spacing} mm",
        "Windows": f"{config.backbone.window_voxels} voxels, overlapping by {config.backbone.overlap:.0%} or more",
        "Precision": config.runtime.precision + (", networks wait in main memory" if config.runtime.offload else ""),
        "Steps": f"{config.inpainting.steps}"
        + (f", resampled {config.inpainting.resample} times" if config.inpainting.resample > 1 else "")
        + (f", {config.inpainting.seeds} seeds" if config.inpainting.seeds > 1 else ""),
        "Skipped": "; ".join(plan.skipped),
        "Beware": "; ".join(plan.notes),
    }
    for name, line in lines.items():
        if line:
            OUT.print(Text.assemble((f"{name + ':':<11}", "bold"), line), soft_wrap=True)
    table = Table("stage", "what", "TFLOP", "seconds", "peak, GB")
    for stage in plan.stages:
        seconds = "" if stage.seconds is None else f"{stage.seconds:.1f}"
        table.add_row(stage.stage, stage.what, f"{stage.tflop:.3g}", seconds, f"{stage.peak_bytes / 1e9:.2f}")
    total = "" if plan.seconds is None else f"{plan.seconds:.1f}"
    table.add_row("all", "", f"{sum(stage.tflop for stage in plan.stages):.3g}", total, f"{plan.peak_bytes / 1e9:.2f}")
    OUT.print(table)
    beside = f" Beside it {plan.host_bytes / 1e9:.1f} GB of main memory" if plan.host_bytes else ""
    if beside and machine.main_memory_bytes is not None:
        beside += f", of {machine.main_memory_bytes / 1e9:.1f} ({machine.main_memory_source})"
    print_line(
        f"Predicted: time for a candidate of {CANDIDATE_MM:.0f} mm (each further one takes repaint and residual "
        f"again, or less), memory for one that fills the scan.{beside}{'.' if beside else ''}",
        "dim",
    )
