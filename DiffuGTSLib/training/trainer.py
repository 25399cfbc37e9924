"""One training loop for every part: cosine schedule, checkpoints that resume to the step, a log to plot."""

from __future__ import annotations

import csv
import json
import logging
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from DiffuGTSLib.errors import ConfigError, StorageError, WeightsError
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.training.distributed import average_gradients, rank, world_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast.

    Attributes:
        iterations: Optimizer steps in all.
        learning_rate: Peak, reached after `warmup`, then falling to 1 % along a cosine.
        warmup: Iterations of linear rise.
        weight_decay: AdamW's.
        clip_norm: Largest gradient norm.
        average: Decay of the running average of the weights that is kept as the result; 0 keeps the last.
        every: Iterations between a log line, with validation and checkpoint each `checkpoint_every`.
        checkpoint_every: Iterations between checkpoints.
        precision: "float32" or "bfloat16" (autocast; fast on CUDA and on CPUs with AVX-512 BF16).
        seed: Iteration n draws from the generator (seed, n, process), so that a resumed run is the same run.
    """

    iterations: int
    learning_rate: float = 5e-4
    warmup: int = 50
    weight_decay: float = 1e-5
    clip_norm: float = 1.0
    average: float = 0.0
    every: int = 25
    checkpoint_every: int = 250
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"Expected at least one training iteration, got {self.iterations}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision: expected 'float32' or 'bfloat16', got '{self.precision}'.")

    def learning_rate_at(self, iteration: int) -> float:
        """Return the learning rate of one iteration (from 0)."""
        if iteration < self.warmup:
            return self.learning_rate * (iteration + 1) / self.warmup
        share = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


@runtime_checkable
class Recipe(Protocol):
    """What a trained part must say: its weights, its loss on one drawn batch, and how good it is."""

    @property
    def trainable(self) -> nn.Module:
        """The weights; read-only, so that a recipe may promise a network of its own kind."""
        ...

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return named losses of one freshly drawn batch; "total" is minimized."""
        ...

    def validate(self) -> dict[str, float]:
        """Return named figures on scans that are not trained on."""
        ...


def train(
    recipe: Recipe,
    plan: TrainingPlan,
    folder: Path,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> None:
    """Run a recipe to the plan's end, going on from the folder's checkpoint when there is one.

    Writes `plan.json`, `log.csv` (one row each `plan.every` iterations), and `state.pt` (weights, their average,
    optimizer, iteration; read back with `weights_only=True`). On return `recipe.trainable` holds the result.

    Raises:
        WeightsError: If the checkpoint is damaged or belongs to another network.
        StorageError: If the folder cannot be made or written to; the last checkpoint stays as it was.
    """
    _make_folder(folder)
    model = recipe.trainable
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    averaged = {name: value.detach().clone() for name, value in model.state_dict().items()}
    begin = _resume(folder, plan, model, optimizer, averaged)
    device = next(model.parameters()).device.type
    seen: dict[str, list[float]] = {}
    clock = time.perf_counter()
    for iteration in range(begin, plan.iterations):
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(iteration)
        model.train()
        with torch.autocast(device, torch.bfloat16, enabled=plan.precision == "bfloat16"):
            losses = recipe.losses(np.random.default_rng(_draw(plan.seed, iteration)))
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.clip_norm)
        optimizer.step()
        _update_average(averaged, model, plan.average, iteration)
        for name, value in losses.items():
            seen.setdefault(name, []).append(float(value.detach()))
        done = iteration + 1
        if rank() == 0 and (done % plan.every == 0 or done == plan.iterations):
            means = {name: sum(values) / len(values) for name, values in seen.items()}
            row = {"iteration": float(done), **means, "seconds": time.perf_counter() - clock}
            if done % plan.checkpoint_every == 0 or done == plan.iterations:
                row |= _validated(recipe, model, averaged)
                _save(folder, plan, model, optimizer, averaged, done)
            _log(folder / "log.csv", row)
            if progress is not None:
                progress(done, plan.iterations, row)
            seen, clock = {}, time.perf_counter()
    model.load_state_dict(averaged)
    model.eval()


def _draw(seed: int, iteration: int) -> list[int]:
    """Return the seed of one iteration's draw in this process; alone it needs no number."""
    return [seed, iteration] if world_size() == 1 else [seed, iteration, rank()]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot make the folder {folder}: {error.strerror}.", hint="choose another --output."
        ) from error


def _update_average(averaged: dict[str, Tensor], model: nn.Module, decay: float, iteration: int) -> None:
    decay = min(decay, (1 + iteration) / (10 + iteration))  # young averages follow faster
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averaged[name].lerp_(value, 1 - decay)
            else:
                averaged[name].copy_(value)


def _validated(recipe: Recipe, model: nn.Module, averaged: dict[str, Tensor]) -> dict[str, float]:
    """Validate the averaged weights, then go on with the current ones."""
    current = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(averaged)
    model.eval()
    with torch.no_grad():
        figures = recipe.validate()
    model.load_state_dict(current)
    return {f"validation_{name}": value for name, value in figures.items()}


def _save(
    folder: Path,
    plan: TrainingPlan,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, Tensor],
    done: int,
) -> None:
    with whole_file(folder / "plan.json") as temporary:
        temporary.write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")
    state = {"iteration": done, "model": model.state_dict(), "averaged": averaged, "optimizer": optimizer.state_dict()}
    with whole_file(folder / "state.pt") as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def _resume(
    folder: Path, plan: TrainingPlan, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: dict[str, Tensor]
) -> int:
    path = folder / "state.pt"
    if not path.exists():
        return 0
    device = next(model.parameters()).device
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"The checkpoint {path} is damaged: {str(error)[:300]}.", hint="remove it to begin anew."
        ) from error
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(
            f"The checkpoint {path} does not fit this network: {str(error)[:300]}.",
            hint="train into another folder, or remove the old one.",
        ) from error
    for name, value in state["averaged"].items():
        averaged[name].copy_(value)
    logger.info("going on from iteration %d of %d", state["iteration"], plan.iterations)
    return int(state["iteration"])


def _log(path: Path, row: dict[str, float]) -> None:
    """Append one row; a row with columns that the file does not know yet rewrites the header above all rows.

    Rows of a run that was stopped after its last checkpoint are dropped, since they come again.
    """
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [known for known in csv.DictReader(file) if float(known["iteration"]) < row["iteration"]]
    columns = list(dict.fromkeys([*(rows[0] if rows else {}), *row]))
    rows.append({name: f"{value:.6g}" for name, value in row.items()})
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
