"""What a container or a cluster's scheduler allows this process of memory, where the whole computer has more.

Linux limits memory by control groups, each within another: /proc/self/cgroup says in which one this process is, and any
group on the way to the root may hold the least limit. A SLURM job is told its share also where no group enforces it.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

UNLIMITED = 1 << 60
_MIB = 1 << 20


def job_limits(
    held_bytes: float, root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[float, str]]:
    """Yield every limit as what this process may hold in all, with its source in words.

    Args:
        held_bytes: What it holds now: others in its groups hold the rest of what is used there.
        root: Of the file system.
        environment: Of the process.
    """
    for limit, used in _groups(root):
        if _number(limit) < UNLIMITED:
            yield _number(limit) - max(0.0, _used(used) - held_bytes), "the limit of its container or job (cgroup)"
    share = _slurm_mib(environment)
    if share:
        yield share * _MIB, "the job's memory (SLURM)"


def _groups(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield (limit, what is used of it) of every group that this process is in, of both versions of cgroups.

    A container's own groups may be named as the computer outside knows them; then only those above are found.
    """
    top = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    paths = {parts[1]: parts[2] for line in lines if len(parts := line.split(":", 2)) == 3}
    old = next((path for kinds, path in paths.items() if "memory" in kinds.split(",")), "/")
    for folder in _upwards(top, paths.get("", "/")):
        yield folder / "memory.max", folder / "memory.current"
    for folder in _upwards(top / "memory", old):
        yield folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"


def _upwards(top: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:depth])


def _slurm_mib(environment: Mapping[str, str]) -> float:
    """Return the job's share of this node, MiB; 0 where there is no job, or it has all."""

    def given(name: str) -> float:
        return float(environment[name]) if environment.get(name, "").isdigit() else 0.0

    return given("SLURM_MEM_PER_NODE") or given("SLURM_MEM_PER_CPU") * given("SLURM_CPUS_ON_NODE")


def _used(path: Path) -> float:
    """Return what a group uses, without the copies of files that it gives back when asked; 0 where nobody says."""
    used = _number(path)
    if not used < UNLIMITED:
        return 0.0
    try:
        told = dict(line.split() for line in (path.parent / "memory.stat").read_text(encoding="ascii").splitlines())
        return used - float(told.get("total_inactive_file", told.get("inactive_file", 0)))
    except (OSError, ValueError):
        return used


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return math.inf
