"""`doctor`: what is installed, on what machine, which weights are there, and what to do about what is not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from DiffuGTSLib import __version__
from DiffuGTSLib.cli.failures import as_known
from DiffuGTSLib.cli.options import Overrides, Preset, configured
from DiffuGTSLib.cli.terminal import OUT, print_line
from DiffuGTSLib.errors import DiffuGTSError, StorageError
from DiffuGTSLib.model_store.store import models_folder, size_text, stored_models

_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch", "monai", "diffusers", "transformers", "safetensors", "matplotlib")
_OLDEST_PYTHON = (3, 11)
_NEEDED_GB = 4.0
"""Free memory that the bundled preset wants for the demo."""
_DISK_GB = 1.0

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "bold red")}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was checked.
        found: What was found.
        state: "ok", "note" (something is missing that not everybody needs) or "problem".
        todo: What to do about it.
    """

    name: str
    found: str
    state: str = "ok"
    todo: str = ""


def doctor(preset: Preset = "mini", overrides: Overrides = None) -> None:
    """Say whether this computer can run a preset, and what to do if it cannot."""
    checks = [
        *system_checks(), *package_checks(), *device_checks(), *model_checks(preset, overrides), *store_checks(), *text_checks()
    ]  # fmt: skip
    table = Table("", "", "Found", title=f"DiffuGTS {__version__}")
    for check in checks:
        mark, style = _MARKS[check.state]
        table.add_row(Text(mark, style=style), check.name, Text(check.found))
    OUT.print(table)
    for check in checks:
        if check.todo:
            OUT.print(Text.assemble((f"{check.name}: ", "bold"), check.todo), soft_wrap=True)
    problems = sum(check.state == "problem" for check in checks)
    if problems:
        print_line(f"{problems} problem{'s' if problems > 1 else ''}: preset {preset} cannot run.", "bold red")
        raise typer.Exit(1)
    print_line(f"Preset {preset} can run.", "green")


def system_checks() -> Iterator[Check]:
    """Look at Python, processors, memory and disk."""
    version = platform.python_version()
    old = sys.version_info < _OLDEST_PYTHON
    yield Check("python", f"{version} at {sys.executable}", "problem" if old else "ok", "install 3.11 or later." * old)
    yield Check("processors", f"{os.cpu_count()} cores, {platform.machine()}, bfloat16: {_cpu_bfloat16()}")
    free = free_memory()
    if free is None:
        yield Check("memory", "this system does not say", "note")
    else:
        (held, source), little = free, free[0] < _NEEDED_GB * 1e9
        todo = f"the demo wants {_NEEDED_GB:g} GB: close other programs, or ask for a larger job." if little else ""
        yield Check("memory", f"{held / 1e9:.1f} GB: {source}", "note" if little else "ok", todo)
    disk = shutil.disk_usage(Path.cwd()).free
    full = disk < _DISK_GB * 1e9
    todo = "a result of a large CT takes some hundred MB: make room." if full else ""
    yield Check("disk", f"{disk / 1e9:.1f} GB free in {Path.cwd()}", "note" if full else "ok", todo)


def package_checks() -> Iterator[Check]:
    """Look at the packages that the library needs."""
    for name in _PACKAGES:
        try:
            yield Check(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "not installed", "problem", "install DiffuGTS again: pip install .")


def device_checks() -> Iterator[Check]:
    """Look at what torch can compute on."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of torch's that does not load
        yield Check("torch build", f"cannot be imported: {error}", "problem", "install torch again, see the README.")
        return
    yield Check("torch build", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        yield Check("graphics card", "no CUDA device; computing on the processor")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Check(f"cuda:{number}", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")


def model_checks(preset: str, overrides: list[str] | None = None) -> Iterator[Check]:
    """Load the preset's networks, which checks every digest and shape.

    Raises:
        ConfigError: Unknown preset, key or value.
    """
    config = configured(preset, overrides=overrides)
    try:
        from DiffuGTSLib.components import load_components

        components = load_components(config)
    except ImportError as error:
        yield Check(f"model {preset}", f"cannot be loaded: {error}", "problem", "mend the packages above first.")
    except DiffuGTSError as error:
        yield Check(f"model {preset}", error.message, "problem", error.hint)
    except (MemoryError, RuntimeError) as error:
        known = as_known(error)
        if known is None:
            raise
        yield Check(f"model {preset}", known.message, "problem", known.hint)
    else:
        for file, digest in components.weights.items():
            if file.startswith("text/"):  # looked at below
                continue
            yield Check(f"model {preset}", f"{file}, SHA-256 {digest[:12]}…")


def store_checks() -> Iterator[Check]:
    """Look at which published models were fetched; nobody needs one."""
    try:
        stored, place = stored_models(), models_folder()
    except StorageError as error:
        yield Check("fetched models", error.message, "note", error.hint)
        return
    if not stored:
        yield Check("fetched models", f"none in {place}")
    for model in stored:
        head = "" if model.has_head else "; the published networks only, no head"
        yield Check(
            "fetched models", f"{model.name}, {size_text(model.size_bytes)}{head}", "ok" if not head else "note"
        )


def text_checks() -> Iterator[Check]:
    """Look at the text model, which only prompts of one's own need."""
    try:
        from DiffuGTSLib.text.encoder import load_minilm

        load_minilm()
    except ImportError as error:
        yield Check("text model", f"cannot be loaded: {error}", "problem", "mend the packages above first.")
    except DiffuGTSError as error:
        todo = f"built-in prompts work without it; for sentences of your own: {error.hint}"
        yield Check("text model", error.message, "note", todo)
    else:
        yield Check("text model", "all-MiniLM-L6-v2, SHA-256 as pinned")


def free_memory() -> tuple[float, str] | None:
    """Return how many bytes this program may hold, as its plans count them, and what limits that; None where nobody says."""
    try:
        from DiffuGTSLib.planning.machine import cpu_memory
    except (ImportError, OSError):  # what is not installed, or is damaged, is told below
        return _free_in_this_computer()
    return cpu_memory()


def _free_in_this_computer() -> tuple[float, str] | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024, "free in this computer"
    except OSError:
        return None
    return None


def _cpu_bfloat16() -> str:
    """Say whether the processor has bfloat16 of its own; without it, it is slower than float32."""
    try:
        from DiffuGTSLib.device import native_bfloat16
    except (ImportError, OSError):  # what is not installed, or is damaged, is told below
        return "unknown"
    return native_bfloat16() or "no"
