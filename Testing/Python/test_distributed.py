"""Training by several processes: what two of them do together is what one would do with both of their draws."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from DiffuGTSLib.training.distributed import (
    average_gradients,
    by_first,
    prepare_together,
    process_group,
    rank,
    told_by_first,
    world_size,
)

ROOT = Path(__file__).parents[2]

LINE = """
import os, sys, json, pathlib
import numpy as np
import torch
from torch import nn
from DiffuGTSLib.training.distributed import average_gradients, prepare_together, process_group, rank, world_size
from DiffuGTSLib.training.trainer import TrainingPlan, train

class Line:
    def __init__(self):
        torch.manual_seed(0)
        self.trainable = nn.Linear(1, 1)
    def losses(self, rng):
        x = torch.from_numpy(rng.uniform(-1, 1, (4, 1)).astype(np.float32))
        return {"total": (self.trainable(x) - (2 * x + 1)).square().mean()}
    def validate(self):
        return {"weight": float(self.trainable.weight), "falling": -float(self.trainable.weight)}

with process_group(torch.device("cpu")) as device:
    line = Line()
    plan = TrainingPlan(3, learning_rate=0.1, warmup=0, every=1, checkpoint_every=1, clip_norm=1e6)
    train(line, plan, pathlib.Path(sys.argv[1]))
    patient = TrainingPlan(9, learning_rate=0.1, warmup=0, every=1, checkpoint_every=1, watch="falling", patience=2)
    early, outcome = Line(), None
    if len(sys.argv) > 2:
        outcome = train(early, patient, pathlib.Path(sys.argv[2]))
        print(json.dumps([outcome.iterations, outcome.best_iteration, outcome.best, early.trainable.weight.item()]))
    print(json.dumps([rank(), world_size(), str(device), line.trainable.weight.item(), line.trainable.bias.item()]))
    joined = torch.distributed.distributed_c10d._get_default_group()._get_backend(device)
    waits = joined.options._timeout.total_seconds() / 3600
    for number, parameter in enumerate(line.trainable.parameters(), start=1):
        parameter.grad = torch.full_like(parameter, number * (1 + 2 * rank()))
    average_gradients(line.trainable)
    means = [parameter.grad.item() for parameter in line.trainable.parameters()]
    own = []
    prepare_together(range(5), own.append)
print("left", rank(), world_size(), flush=True)
print("waits for", waits, "hours", flush=True)
print("means", *means, flush=True)
print("prepared", *own, flush=True)
os._exit(0)  # torch's threads may abort a process while Python is torn down around them, once in some 25 runs
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def together(*folders: Path, count: int = 2) -> list[str]:
    """Run the script in as many processes as torchrun would start, and return what each printed."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", LINE, *map(str, folders)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(count)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * count, outputs
    return [output for output, _ in outputs]


def test_two_processes_take_the_step_of_one_that_saw_both_draws(tmp_path: Path) -> None:
    printed = together(tmp_path / "run")
    first, second = (json.loads(text.splitlines()[0]) for text in printed)
    assert first[:3] == [0, 2, "cpu"] and second[:3] == [1, 2, "cpu"]
    assert first[3:] == second[3:], "both hold the same network, bit for bit"
    assert all(text.splitlines()[1] == "left 0 1" for text in printed)
    assert all(text.splitlines()[2] == "waits for 12.0 hours" for text in printed), "a validation may take that long"
    assert all(text.splitlines()[3] == "means 2.0 4.0" for text in printed), "of gradients of 1 and 3, and of 2 and 6"
    assert [text.splitlines()[4] for text in printed] == ["prepared 0 2 4", "prepared 1 3"], "each its share"
    torch.manual_seed(0)
    line = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(line.parameters(), lr=0.1, weight_decay=1e-5)
    for iteration in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * iteration / 3)))
        draws = [np.random.default_rng([0, iteration, number]).uniform(-1, 1, (4, 1)) for number in range(2)]
        x = torch.from_numpy(np.concatenate(draws).astype(np.float32))
        optimizer.zero_grad()
        (line(x) - (2 * x + 1)).square().mean().backward()
        optimizer.step()
    assert first[3:] == pytest.approx([line.weight.item(), line.bias.item()], abs=1e-5)


def test_the_first_process_alone_writes_and_what_it_finds_ends_both(tmp_path: Path) -> None:
    """The weight rises from the first step on, so that the first one is the best of what should fall."""
    printed = together(tmp_path / "run", tmp_path / "early")
    first, second = (json.loads(text.splitlines()[0]) for text in printed)
    assert first == second and first[:2] == [3, 1], "both end after the same step with the same weights"
    assert first[2] == pytest.approx(-first[3])
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 3, "a header and a row an iteration, not two"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.csv", "plan.json", "state.pt"]


def test_one_process_alone_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    line = nn.Linear(1, 1)
    line(torch.ones(1, 1)).backward()
    with process_group(torch.device("cpu")) as device:
        assert (rank(), world_size(), device) == (0, 1, torch.device("cpu"))
        assert told_by_first(0.1, device) == 0.1
        average_gradients(line)
        prepare_together([1], pytest.fail)
    assert line.weight.grad == torch.ones(1, 1)


def test_of_several_cards_each_process_binds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a card here: what torch would be told."""
    told: list[object] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout, device_id: told.append((backend, device_id))
    )
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: None)
    own = torch.device("cuda", 1)
    with process_group(torch.device("cuda")) as device:
        assert device == own
    assert told == [own, ("nccl", own)], "bound before the processes meet"


@pytest.mark.parametrize(("number", "said"), [(0, ["a line"]), (1, [])])
def test_of_several_processes_the_first_one_speaks(
    monkeypatch: pytest.MonkeyPatch, number: int, said: list[str]
) -> None:
    monkeypatch.setattr("DiffuGTSLib.training.distributed.rank", lambda: number)
    lines: list[str] = []
    by_first(lines.append)("a line")
    assert lines == said
