"""`bench --full`: two ways against each other, in processes of their own, and the table of it."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from terminal import refused, run

from DiffuGTSLib.cli.benchmarking_full import machine, markdown, whole
from DiffuGTSLib.device import native_bfloat16


def a_stage(name: str, seconds: float, tflop: float = 1.0) -> dict[str, Any]:
    return {
        "stage": name, "seconds": seconds, "cpu_seconds": 2 * seconds, "windows": 1, "tflop": tflop, "base_mb": 100.0,
        "peak_mb": None,
    }  # fmt: skip


def a_way(speed: float) -> dict[str, Any]:
    stages = [a_stage("encode", 8 / speed), a_stage("denoise step", 1 / speed), a_stage("decode", 6 / speed)]
    stages += [a_stage("decode box", 1 / speed)]
    rates = {"wall": 1.0, "cpu": 0.5}
    return {"device": "CPU", "threads": 2, "matmul_tflops": rates, "stages": stages, "whole": whole(stages)}


def some_figures() -> dict[str, Any]:
    case = {
        "shape": [64, 64, 128],
        "ways": {"ours": a_way(2.0), "monai": a_way(1.0)},
        "apart": {"encode": 2e-6, "decode": None},
        "tolerance": 1e-4,
    }
    installed = {"torch": "2", "monai": "1", "python": "3"}
    about = {"model": "maisi-ct", "precision": "float32", "machine": {"processor": "Z80"}, "versions": installed}
    return {**about, "cases": [case]}


def test_a_whole_run_worked_by_hand() -> None:
    # 8 s of encoding, 30 steps of 1 s, two images of 6 s: 50 s, and attention is left out.
    stages = [a_stage("encode", 8), a_stage("attend", 99), a_stage("denoise step", 1), a_stage("decode", 6)]
    assert whole(stages) == {"seconds": 50.0, "cpu_seconds": 100.0}
    assert whole([*stages, a_stage("decode box", 1)], "decode box") == {"seconds": 40.0, "cpu_seconds": 80.0}


def test_a_side_that_monai_cannot_split_is_refused_before_anything_runs() -> None:
    done = run("bench", "--full", "--sizes", "128,64x32x64", "--model", "tiny")
    refused(done, 2, "cannot split a second side of 32 voxels", "time ours alone with --against")


def test_the_table_says_rates_floor_and_how_much_faster() -> None:
    table = markdown(some_figures())
    assert "maisi-ct with random weights on Z80, 2 threads, ours in float32; torch 2, MONAI 1, Python 3." in table
    # 1 TFLOP in 2 · 8 / 2 = 8 CPU seconds is 0.125 a second, a quarter of the 0.5 that products reach.
    assert "| 64 × 64 × 128 | encode | ours | 4.00 | 8.00 | 1.000 | 0.125 | 25 % | 100 | n/a |" in table
    same, boxed = table.splitlines()[-2].split(". With the lesion's surroundings of 48 mm alone decoded: ")
    assert same == (
        "64 × 64 × 128: the same work takes 2.00 times fewer CPU seconds and 2.00 times less time; "
        "results apart by 2.0e-06 at most, 1e-04 allowed"
    )
    # (8 + 30 + 2) / 2 = 20 s against 50.
    assert boxed == "2.50 times fewer CPU seconds and 2.50 times less time."
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {11}


def test_other_windows_are_not_compared() -> None:
    figures = some_figures()
    figures["cases"][0]["apart"] = {"encode": None}
    assert "2.00 times less time; other windows" in markdown(figures)
    del figures["cases"][0]["ways"]["monai"]
    assert "64 × 64 × 128: not compared." in markdown(figures)


def test_the_machine_has_a_name_and_cores() -> None:
    assert machine()["processor"] and machine()["cores"] >= 1


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--against", "pytorch"], "Unknown way 'pytorch' to compare with.", "--against monai"),
        (["--precision", "float8"], "Unknown precision 'float8'.", "known: float32, bfloat16"),
        (["--rounds", "0"], "Expected at least one round, got 0.", ""),
        (["--sizes", "64,50"], "Cannot take the size '50'", ""),
    ],
)
def test_what_cannot_be_timed_is_refused(options: list[str], message: str, hint: str) -> None:
    refused(run("bench", "--full", *options, "--device", "cpu"), 2, message, hint)


def test_a_run_that_fails_ends_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    done = run("bench", "--full", "--sizes", "64", "--device", "cpu", "--quiet")
    refused(done, 1, "Timing ours at 64 failed with exit code 1.", "omit the size with --sizes")


def test_our_way_alone_writes_figures_and_table(tmp_path: Path) -> None:
    options = (
        "--model",
        "tiny",
        "--sizes",
        "64",
        "--against",
        "none",
        "--device",
        "auto",
        "-o",
        tmp_path / "full.json",
    )
    done = run("bench", "--full", *options)
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "full.json").read_text())
    assert figures["cases"][0]["shape"] == [64, 64, 64] and figures["versions"]["torch"]
    assert (tmp_path / "full.md").read_text(encoding="utf-8") == markdown(figures)
    assert "| 64 × 64 × 64 | attend | ours |" in done.stdout
    assert "64, ours, round 1 of 1" in done.stderr


@pytest.mark.skipif(not native_bfloat16(), reason="this processor has no instructions for bfloat16")
def test_half_precision_on_a_processor_lies_within_its_own_tolerance(tmp_path: Path) -> None:
    options = ("--model", "tiny", "--sizes", "64", "--device", "cpu", "--precision", "bfloat16", "--quiet")
    done = run("bench", "--full", *options, "-o", tmp_path / "full.json")
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "full.json").read_text())
    case = figures["cases"][0]
    assert figures["precision"] == "bfloat16" and case["tolerance"] == 6e-2
    assert all(1e-4 < apart < case["tolerance"] for apart in case["apart"].values()), "rounded, and no more"


@pytest.mark.slow
def test_both_ways_at_the_true_size_give_the_same(tmp_path: Path) -> None:
    done = run("bench", "--full", "--sizes", "64", "--device", "cpu", "-o", tmp_path / "full.json", "--quiet")
    assert done.exit_code == 0, done.stderr
    case = json.loads((tmp_path / "full.json").read_text())["cases"][0]
    assert max(case["apart"].values()) < case["tolerance"]
    assert case["ways"]["ours"]["whole"]["cpu_seconds"] < case["ways"]["monai"]["whole"]["cpu_seconds"]
