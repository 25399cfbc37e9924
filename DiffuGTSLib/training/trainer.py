"""One training loop for every part: cosine schedule, checkpoints that resume to the step, a log to plot.

Most recipes take one step an iteration: all weights, one loss. One with opponents, such as a decoder and its critics,
names its steps itself; they are taken in turn, each with an optimizer of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from DiffuGTSLib.errors import Cancelled, ConfigError, WeightsError, did_you_mean
from DiffuGTSLib.storage import make_folder, whole_file, write_json
from DiffuGTSLib.training.distributed import average_gradients, rank, told_by_first, wait_for_all, world_size
from DiffuGTSLib.training.log import Progress, row_teller
from DiffuGTSLib.training.stopping import stops_held
from DiffuGTSLib.training.watch import SKIPPED, Best, Skips

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
        average_every: Iterations between two updates of that average.
        average_after: Before this iteration an update copies the weights. With 0 a young average follows faster instead.
        accumulate: Batches whose gradients are averaged before a step.
        every: Iterations between a log line, with validation and checkpoint each `checkpoint_every`.
        checkpoint_every: Iterations between validations, each with a checkpoint.
        save_every: Iterations between further checkpoints without a validation; 0 writes none.
        precision: "float32" or "bfloat16" (autocast; fast on CUDA and on CPUs with AVX-512 BF16).
        seed: Iteration n draws from the generator (seed, n, process), so that a resumed run is the same run.
        tensorboard: Write the log as TensorBoard's curves too.
        watch: Figure of the validation, the higher the better, by which the best weights are chosen and kept as the
            result; empty keeps the last.
        patience: So many validations without a better figure end the training; 0 goes on to the last iteration.
    """

    iterations: int
    learning_rate: float = 5e-4
    warmup: int = 50
    weight_decay: float = 1e-5
    clip_norm: float = 1.0
    average: float = 0.0
    average_every: int = 1
    average_after: int = 0
    accumulate: int = 1
    every: int = 25
    checkpoint_every: int = 250
    save_every: int = 0
    precision: str = "float32"
    seed: int = 0
    tensorboard: bool = False
    watch: str = ""
    patience: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"Expected at least one training iteration, got {self.iterations}.")
        if self.patience < 0 or (self.patience and not self.watch):
            raise ConfigError(
                f"patience: expected 0 or more validations of a figure to watch, got {self.patience} of '{self.watch}'."
            )
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


@dataclass(frozen=True)
class Step:
    """One update of one optimizer, within an iteration.

    Attributes:
        module: Whose trainable weights it moves; a part of the recipe's `trainable`.
        losses: As `Recipe.losses`; an empty dictionary leaves the weights alone this time. What another step of the same
            iteration also needs may be kept between them.
        betas: AdamW's.
    """

    module: nn.Module
    losses: Callable[[np.random.Generator], dict[str, Tensor]]
    betas: tuple[float, float] = (0.9, 0.999)


@runtime_checkable
class SteppedRecipe(Recipe, Protocol):
    """A recipe that takes several steps an iteration, in order; `losses` is then the first one's."""

    def steps(self) -> tuple[Step, ...]:
        """Return the steps; their losses go under names of their own into one row of the log."""
        ...


@runtime_checkable
class AheadRecipe(Recipe, Protocol):
    """A recipe that may draw its batches before they are wanted."""

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Be told the seeds of the generators that `losses` will be given, one an iteration, in order."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        iterations: Done in all.
        best_iteration: After which the weights stood that are the result.
        best: Their watched figure; NaN where none was watched.
        early: Whether patience ended it.
    """

    iterations: int
    best_iteration: int
    best: float
    early: bool

    def in_words(self, plan: TrainingPlan) -> str:
        """Return which weights are the result of a plan; "" where they are the last average."""
        if math.isnan(self.best):
            return ""
        early = f"stopped after {self.iterations} of {plan.iterations}; " if self.early else ""
        return f"{early}kept are the weights after {self.best_iteration}, {plan.watch} {self.best:.3f}"


def train(recipe: Recipe, plan: TrainingPlan, folder: Path, progress: Progress | None = None) -> Outcome:
    """Run a recipe to the plan's end, going on from the folder's checkpoint when there is one.

    Writes `plan.json`, `log.csv` (one row each `plan.every` iterations), and `state.pt` (weights, their average, the
    best of them, optimizers, iteration; read back with `weights_only=True`), also when it is stopped. On return
    `recipe.trainable` holds the result.

    Raises:
        WeightsError: If the checkpoint is damaged or belongs to another network; or the training came apart, see `Skips`.
        StorageError: If the folder cannot be made or written to; the last checkpoint stays as it was.
        ConfigError: If curves are asked for and TensorBoard is not installed, or the validation has no figure of the
            watched name.
    """
    make_folder(folder)
    run = _Run(recipe, plan, folder)
    run.resume()
    tell = row_teller(folder, plan.iterations, progress, curves=plan.tensorboard)
    if isinstance(recipe, AheadRecipe):
        recipe.look_ahead(_draw(plan.seed, iteration) for iteration in range(run.done, plan.iterations))
    try:
        while True:
            if run.row_due:
                tell(run.row())
            if plan.save_every and run.done % plan.save_every == 0:
                run.save()
            if run.done >= plan.iterations or run.best.exhausted:
                break
            with stops_held():
                run.iterate()
    except (KeyboardInterrupt, Cancelled):
        if run.between_iterations:
            run.save()
        raise
    return run.finish()


def rehearse(recipe: Recipe, plan: TrainingPlan) -> list[float]:
    """Take the first two iterations without writing anything, and return the seconds of each; the weights are used up."""
    run, seconds = _Run(recipe, plan, Path()), []
    for _ in range(2):
        clock = time.perf_counter()
        run.iterate()  # ends with reading the losses, so that a GPU is waited for
        seconds.append(time.perf_counter() - clock)
    return seconds


class _Run:
    """What a run changes: weights, their average, one optimizer a step, and what its log has not told yet.

    Attributes:
        done: Whole iterations.
        averaged: The running average of the weights.
        best: See `Best`.
        validation_due: Whether the validation after `done` iterations is due.
        between_iterations: Whether the weights are those after `done` iterations, in every part.
    """

    def __init__(self, recipe: Recipe, plan: TrainingPlan, folder: Path) -> None:
        self._recipe, self._plan, self._folder = recipe, plan, folder
        self._model, self._device = recipe.trainable, next(recipe.trainable.parameters()).device
        self._steps = recipe.steps() if isinstance(recipe, SteppedRecipe) else (Step(self._model, recipe.losses),)
        self._optimizers = [
            torch.optim.AdamW(
                _trained_weights(step), lr=plan.learning_rate, betas=step.betas, weight_decay=plan.weight_decay
            )
            for step in self._steps
        ]
        self.averaged = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self.best = Best(plan.patience)
        self._skips = Skips(plan.iterations)
        self.done = self._saved = 0
        self.validation_due, self.between_iterations = False, True
        self._seen: dict[str, list[float]] = {}
        self._clock = time.perf_counter()

    def iterate(self) -> None:
        """Take every step once; the "total" of the losses is the first step's."""
        self.between_iterations = False
        for name, value in self._train_iteration(self.done).items():
            self._seen.setdefault(name, []).append(value)
        self.done += 1
        self.validation_due = self._at(self._plan.every) and self._at(self._plan.checkpoint_every)
        self.between_iterations = True

    def _train_iteration(self, iteration: int) -> dict[str, float]:
        """Take every step once, follow with the running average, and return the losses by name."""
        rng = np.random.default_rng(_draw(self._plan.seed, iteration))
        self._model.train()
        losses: dict[str, float] = {}
        for number, (step, optimizer) in enumerate(zip(self._steps, self._optimizers, strict=True)):
            of_step = self._update(step, optimizer, self._plan.learning_rate_at(iteration), rng)
            if number > 0:
                of_step.pop("total", None)  # the log's total is the first step's
            losses |= of_step
        if iteration % self._plan.average_every == 0:
            _update_average(self.averaged, self._model, self._decay_at(iteration))
        return self._skips.counted(losses)

    def _update(
        self, step: Step, optimizer: torch.optim.Optimizer, learning_rate: float, rng: np.random.Generator
    ) -> dict[str, float]:
        """Move one step's weights, and return its losses, averaged over the accumulated batches."""
        plan = self._plan
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        means: dict[str, float] = {}
        for _ in range(plan.accumulate):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                losses = step.losses(rng)
            if losses:
                (losses["total"] / plan.accumulate).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) / plan.accumulate
        if losses:
            average_gradients(step.module)
            norm = torch.nn.utils.clip_grad_norm_(_trained_weights(step), plan.clip_norm)
            self._skips.step(optimizer, norm)
        return means

    def _decay_at(self, iteration: int) -> float:
        """Return how much of the running average an update keeps: a young one follows faster."""
        plan = self._plan
        if plan.average_after == 0:
            return min(plan.average, (1 + iteration) / (10 + iteration))
        return plan.average if iteration >= plan.average_after else 0.0

    def _at(self, every: int) -> bool:
        return self.done % every == 0 or self.done == self._plan.iterations

    @property
    def row_due(self) -> bool:
        """Whether the log is to be told a row; after a stop it may be that of the iteration that it came in."""
        return self.validation_due or (bool(self._seen) and self._at(self._plan.every))

    def row(self) -> dict[str, float]:
        """Return the means since the last row, with the validation where it is due."""
        row = {
            "iteration": float(self.done),
            **{name: sum(values) / (1 if name == SKIPPED else len(values)) for name, values in self._seen.items()},
        }
        if self._seen:
            row["seconds"] = time.perf_counter() - self._clock
        if self.validation_due:
            row |= self._validate_and_keep()
        self._seen, self._clock = {}, time.perf_counter()
        return row

    def _validate_and_keep(self) -> dict[str, float]:
        """Write a checkpoint, validate the averaged weights, keep them if they are the best, and write that down, too.

        The first process validates and writes; what is watched, all of them are told. A validation may take hours: a run
        that is stopped in it goes on with it.
        """
        self.save()
        figures = _validated(self._recipe, self._model, self.averaged) if rank() == 0 else {}
        if self._plan.watch:
            self.best.offer(told_by_first(self._watched_figure(figures), self._device), self.done, self.averaged)
        self.validation_due, self._seen = False, {}
        if rank() == 0:
            self._write()
        return figures

    def finish(self) -> Outcome:
        """Put the result into the network: the best weights, or the last average where nothing is watched."""
        best = self.best
        self._model.load_state_dict(best.weights or self.averaged)
        self._model.eval()
        kept = (best.iteration, best.value) if best.weights else (self.done, math.nan)
        return Outcome(self.done, *kept, best.exhausted)

    def _watched_figure(self, figures: dict[str, float]) -> float:
        if rank() > 0:
            return math.nan
        name = f"validation_{self._plan.watch}"
        if name not in figures:
            known = [figure.removeprefix("validation_") for figure in figures]
            raise ConfigError(
                f"watch: there is no figure '{self._plan.watch}'.", hint=did_you_mean(self._plan.watch, known)
            )
        return figures[name]

    def save(self) -> None:
        """Let the first process write a checkpoint, where there is none of this iteration yet."""
        if rank() == 0 and self._saved != self.done:
            self._write()

    def _write(self) -> None:
        """Write the plan, and the state that `resume` reads."""
        write_json(self._folder / "plan.json", asdict(self._plan))
        state = {
            "iteration": self.done,
            "unchecked": self.validation_due,
            "seen": self._seen,
            "model": self._model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self._optimizers[0].state_dict(),
            "further_optimizers": [optimizer.state_dict() for optimizer in self._optimizers[1:]],
        }
        if self._plan.watch:
            state["best"] = self.best.state()
        with whole_file(self._folder / "state.pt") as temporary, temporary.open("wb") as file:
            torch.save(state, file)
        self._saved = self.done

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one; its state is then ours in every process."""
        path = self._folder / "state.pt"
        if not path.exists():
            return
        state = read_state(path, self._device)
        try:
            self._model.load_state_dict(state["model"])
            stored = [state["optimizer"], *state.get("further_optimizers", [])]
            for optimizer, values in zip(self._optimizers, stored, strict=True):
                optimizer.load_state_dict(values)
        except (RuntimeError, ValueError, KeyError) as error:
            raise WeightsError(
                f"The checkpoint {path} does not fit this network: {str(error)[:300]}.",
                hint="train into another folder, or remove the old one.",
            ) from error
        for name, value in state["averaged"].items():
            self.averaged[name].copy_(value)
        if self._plan.watch:
            self.best.load(state.get("best", {}))
        self.validation_due, self._seen = bool(state.get("unchecked", False)), dict(state.get("seen", {}))
        self.done = self._saved = int(state["iteration"])
        wait_for_all()  # the first process may be about to replace what the others still read
        logger.info("going on from iteration %d of %d", self.done, self._plan.iterations)


def _trained_weights(step: Step) -> list[nn.Parameter]:
    return [parameter for parameter in step.module.parameters() if parameter.requires_grad]


def _draw(seed: int, iteration: int) -> list[int]:
    """Return the seed of one iteration's draw in this process; alone it needs no number."""
    return [seed, iteration] if world_size() == 1 else [seed, iteration, rank()]


def _update_average(averaged: dict[str, Tensor], model: nn.Module, decay: float) -> None:
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


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Return a run's checkpoint: iteration, model, averaged, optimizers.

    Raises:
        WeightsError: If it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise WeightsError(
            f"The checkpoint {path} is damaged: {str(error)[:300]}.", hint="remove it to begin anew."
        ) from error
    iteration = state.get("iteration") if isinstance(state, dict) else None
    if not isinstance(iteration, int) or iteration < 0:
        raise WeightsError(f"The checkpoint {path} names no iteration.", hint="remove it to begin anew.")
    return state
