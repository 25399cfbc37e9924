"""The command line as tests use it: run in this process, or started in one of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from phantoms import Phantom, ct_phantom, grid
from typer.testing import CliRunner, Result

from DiffuGTSLib.cli import app
from DiffuGTSLib.volumes.io import write_volume

ROOT = Path(__file__).parents[1]
TINY = ("--preset", "tiny", "--allow-untrained")


def run(*arguments: str | Path) -> Result:
    """Run the program in this process, as wide as its longest line."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(part) for part in arguments])


def start(before: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start the program in a process of its own, after some lines of Python."""
    program = f"{before}\nfrom DiffuGTSLib.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, *(str(part) for part in arguments)]
    plain_words = {**os.environ, "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=plain_words, stdout=pipe, stderr=pipe, text=True, encoding="utf-8")


def plain(text: str) -> str:
    """Return what a person reads: without colors, and without the line breaks of a narrow window."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def refused(done: Result, exit_code: int, message: str, hint: str) -> None:
    """Check an error as a whole: the code, one line of message, and the hint where one is expected, on stderr alone."""
    assert done.exit_code == exit_code, (done.exit_code, done.output)
    assert done.stdout == ""
    said = done.stderr[done.stderr.index("Error: ") :]
    first, _, second = said.partition("\n")
    assert message in first
    assert second.startswith("Hint: ") or not hint
    assert hint in second
    assert second.count("\n") <= 1
    assert "Traceback" not in done.stderr


def coarse_body() -> Phantom:
    """Make a phantom on a grid of 43200 voxels."""
    return ct_phantom(grid((36, 40, 30), (3.0, 2.5, 3.5)))


def write_case(folder: Path, body: Phantom) -> Path:
    """Write scan.nii.gz, organ.nii.gz and lesion.nii.gz of a phantom and return the folder."""
    for name, volume in (("scan", body.scan), ("organ", body.organ), ("lesion", body.lesion)):
        write_volume(volume, folder / f"{name}.nii.gz")
    return folder
