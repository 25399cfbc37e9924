"""Recipes that train in microseconds, with a real network and a real optimizer; how to stop one, and read its log."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.training.trainer import Step


class LineRecipe:
    """Fits a line to noisy points: a real network with a real optimizer, in microseconds."""

    def __init__(self, hidden: int = 4) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trainable = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the error, and twice that."""
        x = torch.from_numpy(rng.uniform(-1, 1, (16, 1)).astype(np.float32))
        error = (self.trainable(x) - (2 * x + 1)).square().mean()
        return {"total": error, "double": 2 * error}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the error on fixed points."""
        x = torch.linspace(-1, 1, 8)[:, None]
        return {"error": float((self.trainable(x) - (2 * x + 1)).square().mean())}


def stop_at(iteration: int) -> Callable[[int, int, dict[str, float]], None]:
    """Return a listener that stops the training after that iteration."""

    def progress(done: int, total: int, row: dict[str, float]) -> None:
        if done == iteration:
            raise Cancelled("enough")

    return progress


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's log."""
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class DuelRecipe(LineRecipe):
    """A line and an opponent of one number that is pulled to 3: two steps an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.line = self.trainable
        self.opponent = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.opponent.weight)
        self.trainable = nn.ModuleDict({"line": self.line, "opponent": self.opponent})

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the line's error."""
        return {"total": (self.line(torch.from_numpy(rng.normal(size=(4, 1)).astype(np.float32))) - 1).square().mean()}

    def opponent_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return how far the opponent is from 3."""
        error = (self.opponent.weight - 3).square().sum()
        return {"total": error, "opponent": error}

    def steps(self) -> tuple[Step, ...]:
        """Return the line's step, then the opponent's."""
        return Step(self.line, self.losses), Step(self.opponent, self.opponent_losses, betas=(0.5, 0.9))

    def validate(self) -> dict[str, float]:
        """Return nothing."""
        return {}
