"""`bench`: seconds and peak memory of each stage, every scan in a process of its own so that peaks do not mix."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib.cli.benchmarking_full import bench_full, timed_alone
from DiffuGTSLib.cli.benchmarking_stages import peak_memory_mb
from DiffuGTSLib.cli.interrupts import stop_if_asked
from DiffuGTSLib.cli.options import (
    Abnormal,
    AllowUntrained,
    ConfigFile,
    Device,
    Normal,
    Organ,
    Overrides,
    Preset,
    Quiet,
    Seed,
    configured,
    examples,
)
from DiffuGTSLib.cli.segment_run import SegmentRequest
from DiffuGTSLib.cli.terminal import OUT, print_note
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import write_json
from DiffuGTSLib.text.prompts import find_organ
from DiffuGTSLib.versions import versions

EXAMPLES = examples(
    "diffugts bench",
    "diffugts bench --scan chest.nii.gz --organ lung -o bench.json",
    "The published networks at full size with random weights, against MONAI's own inferers: minutes, and 5 GB",
    "diffugts bench --full --sizes 64,128 -o bench_full.json",
)


def bench(
    scan: Annotated[
        list[Path] | None, typer.Option("--scan", help="A scan to time after the bundled sample; may be repeated.")
    ] = None,
    sample: Annotated[bool, typer.Option(help="Whether the bundled sample is timed.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the figures as JSON.")] = None,
    organ: Annotated[str, typer.Option("--organ", help="Whose built-in prompts are used.")] = "lung",
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    seed: Seed = None,
    overrides: Overrides = None,
    allow_untrained: AllowUntrained = False,
    quiet: Quiet = False,
    full: Annotated[
        bool, typer.Option("--full", help="Time the published networks, with random weights, instead.")
    ] = False,
    model: Annotated[str, typer.Option(help="Whose size --full times: maisi-ct, or tiny in tests.")] = "maisi-ct",
    precision: Annotated[
        str, typer.Option(help="With --full, of our way: float32 or bfloat16; default bfloat16 on CUDA, else float32.")
    ] = "",
    sizes: Annotated[str, typer.Option(help="With --full: voxels, as in 64,128,256x256x128.")] = "",
    against: Annotated[str, typer.Option(help="With --full: monai, or none for our way alone.")] = "monai",
    rounds: Annotated[int, typer.Option(help="With --full: how often both ways take turns.")] = 1,
) -> None:
    """Measure time and peak memory of every stage, on the bundled sample and on your own scans."""
    if full:
        table = bench_full(
            model=model, device=device, precision=precision, sizes=sizes, against=against, rounds=rounds, output=output,
            quiet=quiet,
        )  # fmt: skip
        if not quiet:
            typer.echo(table)
        return
    configured(preset, config_file, overrides, device=device, seed=seed)
    find_organ(organ)
    scans = _scans_to_time(sample, scan or [])
    arguments = ["--organ", organ, "--preset", preset, *(["--allow-untrained"] if allow_untrained else [])]
    for option, value in (("--config", config_file), ("--device", device), ("--seed", seed)):
        arguments += [option, str(value)] if value is not None else []
    arguments += [part for override in overrides or [] for part in ("--set", override)]
    cases = []
    for path in scans:
        if not quiet:
            print_note(f"Timing {path} …")
        cases.append(timed_alone(["bench-case", str(path), *arguments], str(path), "the reason stands above."))
    if output is not None:
        machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        figures = {"preset": preset, "machine": machine, "versions": versions(), "cases": cases}
        write_json(output, figures)
    if not quiet:
        for case in cases:
            OUT.print(_table(case))


def bench_case(
    scan: Annotated[Path, typer.Argument()],
    organ: Organ = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    preset: Preset = "mini",
    config_file: ConfigFile = None,
    device: Device = None,
    seed: Seed = None,
    overrides: Overrides = None,
    allow_untrained: AllowUntrained = False,
) -> None:
    """Time one scan in this process and print JSON: what bench starts for each of its scans."""
    started_s = time.perf_counter()
    config = configured(preset, config_file, overrides, device=device, seed=seed)
    request = SegmentRequest(config, organ, normal, abnormal)

    from DiffuGTSLib.components import load_components
    from DiffuGTSLib.output.results import write_results
    from DiffuGTSLib.pipeline import STAGES, segment
    from DiffuGTSLib.volumes.canonical import guess_modality
    from DiffuGTSLib.volumes.io import read_volume

    meter = _Meter(started_s)
    meter.end("import")
    volume = read_volume(scan)
    prompts = request.prompts(guess_modality(volume)[0])
    meter.end("open")
    components = load_components(config, allow_untrained=allow_untrained)
    meter.end("load")
    peaks: dict[str, float | None] = {}

    def notice(stage: str, _fraction: float) -> None:
        stop_if_asked()
        peaks[stage] = peak_memory_mb()

    result = segment(volume, prompts, components, config, on_progress=notice)
    for stage, seconds in result.timings_s.items():
        meter.add(stage, seconds, peaks.get(stage))
    meter.restart()
    with tempfile.TemporaryDirectory() as folder:
        write_results(folder, volume, scan, result, components, stages=STAGES)
    meter.end("write")
    case = {
        "scan": scan.name,
        "shape": list(volume.geometry.shape),
        "spacing_mm": [round(side, 4) for side in volume.geometry.spacing_mm],
        "outcome": result.outcome,
        "stages": meter.stages,
        "seconds": round(time.perf_counter() - started_s, 3),
        "peak_mb": peak_memory_mb(),
    }
    typer.echo(json.dumps(case))


def _scans_to_time(sample: bool, own: list[Path]) -> list[Path]:
    scans = [*([resource_path("SampleData", "chest_ct.nii.gz")] if sample else []), *own]
    if not scans:
        raise InputError("Nothing to time.", hint="name a --scan, or leave out --no-sample.")
    for path in scans:
        if not path.exists():
            raise InputError(f"{path} does not exist.", hint="check the spelling.", code="missing")
    return scans


class _Meter:
    """Seconds and peak memory from one `end` to the next."""

    def __init__(self, started_s: float) -> None:
        self.stages: list[dict[str, Any]] = []
        self._since_s = started_s

    def add(self, stage: str, seconds: float, peak_mb: float | None) -> None:
        self.stages.append({"stage": stage, "seconds": round(seconds, 3), "peak_mb": peak_mb})

    def end(self, stage: str) -> None:
        self.add(stage, time.perf_counter() - self._since_s, peak_memory_mb())
        self.restart()

    def restart(self) -> None:
        self._since_s = time.perf_counter()


def _table(case: dict[str, Any]) -> Table:
    shape = " x ".join(str(side) for side in case["shape"])
    table = Table(title=Text(f"{case['scan']}, {shape} voxels"), caption=Text(case["outcome"]))
    table.add_column("Stage")
    table.add_column("Seconds", justify="right")
    table.add_column("Peak memory so far\nMB", justify="right")
    for row in [*case["stages"], {"stage": "whole program", **case}]:
        peak = "n/a" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        table.add_row(row["stage"], f"{row['seconds']:.1f}", peak)
    return table
