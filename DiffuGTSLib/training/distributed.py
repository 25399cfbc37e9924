"""Several processes that train one network: each draws windows of its own, and their gradients are averaged.

Started by torch's own launcher: `torchrun --nproc-per-node 2 -m DiffuGTSLib train aova ...`. On a CPU one process a core
makes more of the cores than one process with as many threads: measured on the head at 48³ in bfloat16, one thread took
215 ms a window, two threads 135 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

LONGEST_WAIT = timedelta(hours=12)
"""The first process validates, converts and writes alone while the others wait; torch gives up after 10 minutes of NCCL."""


def rank() -> int:
    """Return this process's number, from 0; 0 where there is only one. Number 0 writes the files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def by_first(report: Callable[[str], None]) -> Callable[[str], None]:
    """Return what tells a line in the first process, and nothing in the others."""
    return report if rank() == 0 else lambda line: None


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, and leave them at the end; one process alone joins nothing.

    Yields:
        The device of this process: of several CUDA cards each process takes its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no card is to be on this process's own, never on everybody's first
        distributed.init_process_group("nccl", timeout=LONGEST_WAIT, device_id=device)
    else:
        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield device
        distributed.barrier()  # whoever left first would take the meeting point away from under the others
    finally:
        distributed.destroy_process_group()


def told_by_first(value: float, device: torch.device) -> float:
    """Return the first process's value in all of them, so that they decide alike."""
    if world_size() == 1:
        return value
    message = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.broadcast(message, src=0)
    return float(message)


def wait_for_all() -> None:
    """Go on when every process has come so far."""
    if world_size() > 1:
        distributed.barrier()


def prepare_together(cases: Sequence[Any], load: Callable[[Any], object]) -> None:
    """Let each process load its share of some cases, so that all find what is kept of every one.

    One process alone has nobody to share with, and does nothing here.
    """
    if world_size() > 1:
        for case in cases[rank() :: world_size()]:
            load(case)
        wait_for_all()


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    message = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(message)
    message /= world_size()
    offset = 0
    for gradient in gradients:
        gradient.copy_(message[offset : offset + gradient.numel()].view(gradient.shape))
        offset += gradient.numel()
