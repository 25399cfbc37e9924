"""What a dry run says about time, memory and what is left to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from DiffuGTSLib.training.job import Job
from DiffuGTSLib.training.trainer import TrainingPlan

Courses = Mapping[str, TrainingPlan]
"""What `Job.run` is given, one after the other: folder below the run's → plan."""


def all_left(job: Job, courses: Courses, frozen: Mapping[str, str]) -> dict[str, int]:
    """Return how many iterations each folder has to go; all of them after one that goes on, since it grows from that.

    Args:
        job: What is to be done.
        courses: Of one part.
        frozen: The networks that it is trained on, see `Job.run`.

    Raises:
        ConfigError: Where training would not go on with what is there.
        WeightsError: If a checkpoint is damaged.
    """
    left: dict[str, int] = {}
    for folder, plan in courses.items():
        left[folder] = plan.iterations if any(left.values()) else job.left(folder, plan, frozen)
    return left


def tell_left(job: Job, part: str, courses: Courses, frozen: Mapping[str, str] | None = None) -> None:
    """Say how many iterations a part has to go.

    Args:
        job: What is to be done.
        part: For the words.
        courses: Of the part.
        frozen: The networks that it is trained on, see `Job.run`.

    Raises:
        ConfigError: Where training would not go on with what is there.
        WeightsError: If a checkpoint is damaged.
    """
    left = all_left(job, courses, frozen or {})
    if not any(left.values()):
        job.report(f"{part}: nothing is left to do")
        return
    for folder, plan in courses.items():
        name = ": ".join(dict.fromkeys((part, Path(folder).name)))
        job.report(f"{name}: {left[folder]} of {plan.iterations} iterations are left")


def duration(seconds: float) -> str:
    """Return a time as people read it: "40 s", "12 min", "3.5 h", "2.1 days"."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def peak_memory_gb(device: torch.device) -> float | None:
    """Return the most memory that this process has held: of the GPU where one is used; None where no one counts it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
