"""The command `diffugts`: its commands, and the way in.

    segment, refine, batch     segmenting, batching; segment_run, scan_inputs and scan_folders are what they share
    what is there and works    presets_prompts, planning, doctor, weights, checkpoints
    data, training, painting   data with data_protocols, dicom_to_nifti, training, difftumor, synthesizing
    scores and studies         evaluating, validating, ablating, studying with studying_robustness and study_reports, reading
    bench                      benchmarking, and benchmarking_full and benchmarking_stages, which it starts
    for all commands           options, terminal (printing), interrupts (Ctrl-C), failures (exit codes)

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from DiffuGTSLib import __version__
from DiffuGTSLib.cli import (
    ablating,
    batching,
    benchmarking,
    benchmarking_stages,
    checkpoints,
    data,
    dicom_to_nifti,
    difftumor,
    doctor,
    evaluating,
    planning,
    presets_prompts,
    reading,
    segmenting,
    studying,
    synthesizing,
    training,
    validating,
    weights,
)
from DiffuGTSLib.cli.failures import CommandGroup
from DiffuGTSLib.cli.interrupts import ignore_signals_after_stop
from DiffuGTSLib.cli.options import examples

_EPILOG = examples(
    "diffugts segment chest.nii.gz -o result --organ lung",
    "Look at result/overview.png. Not what you see? Edit result/coarse_mask.nii.gz, then:",
    "diffugts refine result",
    "If something does not work:",
    "diffugts doctor",
    "",
    "Exit codes: 0 done, 1 a mistake in DiffuGTS (doctor: a problem), 2 your data or request, 3 weights, 4 memory, 5 worker, "
    "6 disk, 129 terminal closed, 130 Ctrl-C, 143 SIGTERM.",
    "Research use only. Not for diagnosis.",
)

_SETUP, _MAKE = "Information and setup", "Training, evaluation and synthesis"

app = typer.Typer(
    cls=CommandGroup,
    name="diffugts",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"diffugts {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """Find tumors in CT and MR scans from two sentences: what is healthy, and what is not."""


app.command("segment", epilog=segmenting.SEGMENT_EXAMPLES)(segmenting.segment)
app.command("refine", epilog=segmenting.REFINE_EXAMPLES)(segmenting.refine)
app.command("batch", epilog=batching.EXAMPLES)(batching.batch)
app.command("plan", rich_help_panel=_SETUP, epilog=planning.EXAMPLES)(planning.plan)
app.command("doctor", rich_help_panel=_SETUP)(doctor.doctor)
app.command("presets", rich_help_panel=_SETUP)(presets_prompts.presets)
app.command("prompts", rich_help_panel=_SETUP, epilog=presets_prompts.PROMPTS_EXAMPLES)(presets_prompts.prompts)
app.command("synthesize", rich_help_panel=_MAKE, epilog=synthesizing.EXAMPLES)(synthesizing.synthesize)
app.command("evaluate", rich_help_panel=_MAKE, epilog=evaluating.EXAMPLES)(evaluating.evaluate)
app.command("ablate", rich_help_panel=_MAKE, epilog=ablating.EXAMPLES)(ablating.ablate)
app.command("train", rich_help_panel=_MAKE, epilog=training.EXAMPLES)(training.train)
app.command("validate", rich_help_panel=_MAKE, epilog=validating.EXAMPLES)(validating.validate)
app.add_typer(difftumor.app, name="difftumor", rich_help_panel=_MAKE)
app.command("bench", rich_help_panel=_MAKE, epilog=benchmarking.EXAMPLES)(benchmarking.bench)
app.add_typer(data.app, name="data", rich_help_panel=_MAKE)
app.add_typer(reading.app, name="reading", rich_help_panel=_MAKE)
app.add_typer(checkpoints.app, name="checkpoint", rich_help_panel=_SETUP)
app.add_typer(weights.app, name="weights", rich_help_panel=_SETUP)
app.add_typer(studying.app, name="study", rich_help_panel=_MAKE)
app.command("dicom-to-nifti", rich_help_panel=_MAKE, epilog=dicom_to_nifti.EXAMPLES)(dicom_to_nifti.dicom_to_nifti)
app.command("bench-case", hidden=True)(benchmarking.bench_case)
app.command("bench-stages", hidden=True)(benchmarking_stages.bench_stages)


def main() -> None:
    """Run the program on the process's arguments and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="backslashreplace")  # a name or a sign that the terminal has no letters for
    ignore_signals_after_stop()
    app(prog_name="diffugts")
