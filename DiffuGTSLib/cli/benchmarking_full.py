"""`bench --full`: MAISI at its published size, our way against the straightforward one, and the table of it.

Every run has a process of its own, and the two ways take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from DiffuGTSLib.cli.benchmarking_stages import OURS, PLAIN, parse_shape
from DiffuGTSLib.cli.terminal import print_note
from DiffuGTSLib.errors import ConfigError, DiffuGTSError
from DiffuGTSLib.storage import whole_file, write_json
from DiffuGTSLib.versions import versions

CPU_SIZES = ("64", "128")
CUDA_SIZES = ("256x256x128", "256", "512x512x256")
STEPS = 30
"""Denoising steps of a whole run, as published; one is timed."""
DECODED = 2
"""Images of a whole run: the scan's reconstruction and its healthy twin; one is timed."""
_PLAIN_SMALLEST = 64
"""Voxels of the second side: MONAI cuts it into four parts that overlap, and of fewer one is empty."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 6e-2}
"""How far the two ways may lie apart, root mean square against root mean square, by the precision of ours."""


def bench_full(
    *,
    model: str,
    device: str | None,
    precision: str,
    sizes: str,
    against: str,
    rounds: int,
    output: Path | None,
    quiet: bool,
) -> str:
    """Time every stage of both ways at every size, write the figures and their table, and return the table.

    Args:
        model: Whose size.
        device: "cpu" or "cuda"; None and "auto" take CUDA where there is one.
        precision: Of our way, "float32" or "bfloat16"; "" takes bfloat16 on CUDA, float32 on a CPU. MONAI's way has the
            published one: float16 on CUDA, float32 on a CPU.
        sizes: As in "64,128,256x256x128"; empty takes those that are always measured on that device.
        against: "monai", or "none" for our way alone.
        rounds: How often the two ways take turns; the fastest counts.
        output: JSON file; the table lies beside it as Markdown.
        quiet: Whether nothing is told on the way.

    Raises:
        ConfigError: A size, device, precision or rival that there is none of.
        DiffuGTSError: If a run fails; its exit code is passed on.
    """
    if against not in (PLAIN, "none"):
        raise ConfigError(f"Unknown way '{against}' to compare with.", hint=f"use --against {PLAIN}, or none.")
    if rounds < 1:
        raise ConfigError(f"Expected at least one round, got {rounds}.")
    kind = _likely_device() if device in (None, "auto") else device
    precision = precision or ("bfloat16" if kind.startswith("cuda") else "float32")
    if precision not in TOLERANCE:
        raise ConfigError(f"Unknown precision '{precision}'.", hint=f"known: {', '.join(TOLERANCE)}.")
    wanted = [part for part in sizes.split(",") if part.strip()]
    if not wanted:
        wanted = [*CPU_SIZES, *(CUDA_SIZES if kind.startswith("cuda") else ())]
    for size in wanted:
        second = parse_shape(size)[1]
        if against == PLAIN and second < _PLAIN_SMALLEST:
            raise ConfigError(
                f"MONAI's way cannot split a second side of {second} voxels: expected {_PLAIN_SMALLEST} or more in '{size}'.",
                hint="take larger sides, or time ours alone with --against none.",
            )
    ways = (OURS, PLAIN) if against == PLAIN else (OURS,)
    cases = [_case(size, ways, model, kind, precision, rounds, quiet) for size in wanted]
    figures = {
        "model": model, "precision": precision, "machine": machine(), "versions": versions(), "rounds": rounds,
        "cases": cases,
    }  # fmt: skip
    table = markdown(figures)
    if output is not None:
        write_json(output, figures)
        with whole_file(output.with_suffix(".md")) as temporary:
            temporary.write_text(table, encoding="utf-8")
    return table


def _likely_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _case(
    size: str, ways: Sequence[str], model: str, device: str, precision: str, rounds: int, quiet: bool
) -> dict[str, Any]:
    """Measure one size: the ways in turns, then what they put out against each other."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as made:
        for turn in range(rounds):
            for way in ways:
                if not quiet:
                    print_note(f"{size}, {way}, round {turn + 1} of {rounds} …")
                folder = Path(made) / way
                folder.mkdir(exist_ok=True)
                runs[way].append(_in_its_own_process(way, size, folder, model, device, precision))
        best = {way: _fastest(each) for way, each in runs.items()}
        apart = _apart(Path(made), best) if len(ways) > 1 else {}
    return {
        "shape": list(parse_shape(size)),
        "ways": best,
        "apart": apart,
        "tolerance": TOLERANCE[precision],
    }


def _in_its_own_process(way: str, size: str, folder: Path, model: str, device: str, precision: str) -> dict[str, Any]:
    command = ["bench-stages", way, size, str(folder)]
    repeats = 3 if device.startswith("cuda") else 1
    command += ["--model", model, "--device", device, "--repeats", str(repeats)]
    command += ["--precision", precision] if way == OURS else []
    hint = "the reason stands above; where there is none, memory ran out: omit the size with --sizes."
    return timed_alone(command, f"{way} at {size}", hint)


def timed_alone(arguments: Sequence[str], what: str, hint: str) -> dict[str, Any]:
    """Run a command of ours in a process of its own, so that peaks do not mix, and return the JSON that it prints.

    Args:
        arguments: Its name and what follows.
        what: Is timed, for the message.
        hint: What to do where it fails.

    Raises:
        DiffuGTSError: If it fails; its exit code is passed on.
    """
    command = [sys.executable, "-m", "DiffuGTSLib", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        error = DiffuGTSError(f"Timing {what} failed with exit code {done.returncode}.", hint=hint)
        error.exit_code = done.returncode if done.returncode > 0 else 1
        raise error
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _fastest(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one run's figures with each stage's least times, and the highest of the products' rates."""
    stages = []
    for rounds in zip(*(run["stages"] for run in runs), strict=True):
        least = {key: min(stage[key] for stage in rounds) for key in ("seconds", "cpu_seconds")}
        stages.append({**rounds[0], **least})
    rates = {key: max(run["matmul_tflops"][key] for run in runs) for key in ("wall", "cpu")}
    return {**runs[0], "stages": stages, "matmul_tflops": rates, "whole": whole(stages)}


def whole(stages: Sequence[dict[str, Any]], decode: str = "decode") -> dict[str, float]:
    """Return the seconds of a whole run without attention, which one of the ways lacks: encode, steps, two images.

    Args:
        stages: With their seconds.
        decode: The stage that makes an image: "decode" of the whole scan, "decode box" of the lesion's surroundings.
    """
    times = {"encode": 1, "denoise step": STEPS, decode: DECODED}
    return {
        key: round(sum(times.get(stage["stage"], 0) * stage[key] for stage in stages), 3)
        for key in ("seconds", "cpu_seconds")
    }


def _apart(made: Path, best: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    """Return how far the outputs of both ways lie apart, a stage; None where they saw other windows."""
    import numpy as np

    counts = {way: {stage["stage"]: stage["windows"] for stage in each["stages"]} for way, each in best.items()}
    apart: dict[str, float | None] = {}
    for stage, windows in counts[PLAIN].items():
        ours, theirs = (np.load(made / way / f"{stage}.npy").astype(np.float64) for way in (OURS, PLAIN))
        same_windows = windows == counts[OURS][stage] == 1
        apart[stage] = float(np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())) if same_windows else None
    return apart


def machine() -> dict[str, Any]:
    """Return the processor's own name, its cores, and how many threads were asked for."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # not Linux
        pass
    return {"processor": name, "cores": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "")}


# The table

COLUMNS = (
    "Voxels", "Stage", "Way", "Seconds", "CPU seconds", "TFLOP", "TFLOP/s", "Of the floor", "Memory before, MB",
    "Peak, MB",
)  # fmt: skip
"""TFLOP/s is by CPU seconds on a CPU, and by the clock on a GPU; the floor is the rate of large matrix products there."""


def markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a table of Markdown, a line a stage and way."""
    installed, about = figures["versions"], figures["machine"]
    first = next(iter(figures["cases"][0]["ways"].values()))
    device = about["processor"] if first["device"] == "CPU" else first["device"]
    run_by = f"{first['threads']} threads, ours in {figures['precision']}"
    made_with = f"torch {installed['torch']}, MONAI {installed['monai']}, Python {installed['python']}"
    lines = [
        f"{figures['model']} with random weights on {device}, {run_by}; {made_with}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"| --- | --- | --- |{' --: |' * (len(COLUMNS) - 3)}",
    ]
    for case in figures["cases"]:
        lines += _rows(case)
    lines += ["", *(_verdict(case) for case in figures["cases"])]
    return "\n".join(lines) + "\n"


def _rows(case: dict[str, Any]) -> Iterator[str]:
    size = " × ".join(map(str, case["shape"]))
    for way, run in case["ways"].items():
        clock = "cpu_seconds" if run["device"] == "CPU" else "seconds"
        rate = run["matmul_tflops"]["cpu" if run["device"] == "CPU" else "wall"]
        for stage in run["stages"]:
            speed = stage["tflop"] / stage[clock] if stage[clock] else 0.0
            cells = [
                size, stage["stage"], way, f"{stage['seconds']:.2f}", f"{stage['cpu_seconds']:.2f}",
                f"{stage['tflop']:.3f}", f"{speed:.3f}", f"{100 * speed / rate:.0f} %", _mb(stage["base_mb"]),
                _mb(stage["peak_mb"]),
            ]  # fmt: skip
            yield f"| {' | '.join(cells)} |"
        seconds, cpu_seconds = (f"{run['whole'][key]:.1f}" for key in ("seconds", "cpu_seconds"))
        cells = [size, f"encode, {STEPS} steps, {DECODED} images", way, seconds, cpu_seconds]
        yield f"| {' | '.join([*cells, *[''] * (len(COLUMNS) - len(cells))])} |"


def _mb(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0f}"


def _verdict(case: dict[str, Any]) -> str:
    """Say in a sentence how much faster ours is, and how far the results lie apart."""
    size = " × ".join(map(str, case["shape"]))
    if PLAIN not in case["ways"]:
        return f"{size}: not compared.\n"
    ours, theirs = (case["ways"][way]["whole"] for way in (OURS, PLAIN))
    apart = [value for value in case["apart"].values() if value is not None]
    said = f"results apart by {max(apart):.1e} at most, {case['tolerance']:.0e} allowed" if apart else "other windows"
    same = f"{size}: the same work takes {_times(theirs, ours)}; {said}."
    boxed = whole(case["ways"][OURS]["stages"], "decode box")
    return f"{same} With the lesion's surroundings of 48 mm alone decoded: {_times(theirs, boxed)}.\n"


def _times(theirs: dict[str, float], ours: dict[str, float]) -> str:
    """Say how much less ours takes."""
    less = {key: theirs[key] / max(ours[key], 1e-9) for key in ours}
    return f"{less['cpu_seconds']:.2f} times fewer CPU seconds and {less['seconds']:.2f} times less time"
