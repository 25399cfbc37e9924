"""What a training keeps an eye on: the best weights so far, and iterations that came to no number."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from DiffuGTSLib.errors import WeightsError

SKIPPED = "skipped"
"""In the log: iterations since the last row whose gradients were no numbers; no such column where there was none."""
MOST_SKIPS = 20
"""In a row: one overflow is chance, so many are none."""


class Best:
    """The averaged weights that were best by the watched figure, and how long ago that was.

    Args:
        patience: So many validations without a better figure end a training; 0 goes on.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.value = -math.inf
        self.iteration = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, value: float, iteration: int, weights: dict[str, Tensor]) -> None:
        """Keep the weights if they are better; equal ones are not, so that a figure that stands still ends a run."""
        self.waited += 1
        if value > self.value:
            self.value, self.iteration, self.waited = value, iteration, 0
            self.weights = {name: tensor.clone() for name, tensor in weights.items()}

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self._patience <= self.waited

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("value", "iteration", "waited", "weights")}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


class Skips:
    """Iterations that moved no weights, since an infinite or undefined gradient would turn all of them into NaN.

    Args:
        iterations: Of the training; one of fewer than `MOST_SKIPS` ends where all of them are skipped.
    """

    def __init__(self, iterations: int) -> None:
        self._most = min(MOST_SKIPS, iterations)
        self._in_a_row = 0
        self._skipped = False

    def step(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Take a step if the norm of its gradients is a number; they are averaged, so that all processes decide alike."""
        if norm.isfinite():
            optimizer.step()
        else:
            self._skipped = True

    def counted(self, losses: dict[str, float]) -> dict[str, float]:
        """Return what the log is told of an iteration: its losses, or where a step was skipped those that are numbers.

        Raises:
            WeightsError: If too many are skipped in a row (code "diverged").
        """
        skipped, self._skipped = self._skipped, False
        if not skipped:
            self._in_a_row = 0
            return losses
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise WeightsError(
                f"The training came apart: the gradients of {self._in_a_row} iterations in a row are infinite or no numbers.",
                hint="lower the learning rate, or train in float32. A checkpoint from before is kept.",
                code="diverged",
            )
        return {name: value for name, value in losses.items() if math.isfinite(value)} | {SKIPPED: 1.0}
