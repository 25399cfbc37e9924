"""Slicer opens before torch is installed: loading every file of its side loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDE = ROOT / "DiffuGTS"
HEAVY = ("torch", "diffusers", "transformers", "monai", "accelerate", "huggingface_hub")
SLOW = ("scipy", "SimpleITK")
"""Slicer has them, but they take a second to load."""

PROGRAM = """
import importlib, sys
sys.path.insert(0, {tests!r})
import conftest
for name in {modules!r}:
    importlib.import_module(name)
print("loaded", sorted(set(sys.modules) & set({unwanted!r})))
"""


def modules() -> list[str]:
    """Return the dotted names of every file of the Slicer side."""
    files = sorted(SIDE.rglob("*.py"))
    return [".".join(path.relative_to(SIDE).with_suffix("").parts).removesuffix(".__init__") for path in files]


def loaded(names: list[str], unwanted: tuple[str, ...] = HEAVY) -> subprocess.CompletedProcess[str]:
    """Load modules in a Python of its own, on our stand-ins, and return which unwanted ones it printed."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), modules=names, unwanted=unwanted)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


def test_every_file_of_the_slicer_side_loads_without_torch() -> None:
    names = modules()
    assert "DiffuGTS" in names
    done = loaded(names)
    assert done.stdout.splitlines()[-1:] == ["loaded []"], done.stderr


def test_the_file_that_slicer_loads_at_each_start_loads_nothing_slow() -> None:
    done = loaded(["DiffuGTS"], HEAVY + SLOW)
    assert done.stdout.splitlines()[-1:] == ["loaded []"], done.stdout + done.stderr


def test_something_heavy_would_be_seen() -> None:
    assert loaded(["DiffuGTSLib.text.encoder"]).stdout.splitlines()[-1:] != ["loaded []"]
