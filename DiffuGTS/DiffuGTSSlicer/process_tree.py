"""Finds and kills process trees without psutil, which Slicer does not include."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path


def processTree(processId: int) -> list[int]:
    """Return a process and all its descendants, the youngest first; on Windows only the process, see `killOne`."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found, waiting = [processId], [processId]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.extend(below)
        waiting.extend(below)
    return found[::-1]


def killOne(processId: int) -> None:
    """Kill a process; on Windows also its descendants."""
    if sys.platform == "win32":
        command = ["taskkill", "/PID", str(processId), "/T", "/F"]
        subprocess.Popen(command, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(processId, signal.SIGKILL)


def _parents() -> list[tuple[int, int]]:
    """Return (process, parent) of all processes; none on Windows."""
    if sys.platform == "win32":
        return []
    if Path("/proc/self/stat").exists():
        pairs = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                    pairs.append((int(entry.name), int(fields[1])))
        return pairs
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, timeout=1, check=False)  # noqa: S607
    return [(int(a), int(b)) for a, b in (line.split() for line in listing.stdout.splitlines())]
