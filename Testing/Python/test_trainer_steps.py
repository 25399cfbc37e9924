"""One iteration: whose weights a step moves, by which gradient, from which draw, and what an infinite one does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from trainer_parts import DuelRecipe, LineRecipe, rows_of, stop_at

from DiffuGTSLib.errors import Cancelled, WeightsError
from DiffuGTSLib.training.trainer import AheadRecipe, TrainingPlan, rehearse, train


def test_each_step_moves_its_own_weights_alone(tmp_path: Path) -> None:
    """Adam's first step is the learning rate, whatever the gradient: 0 + 0.5."""
    recipe = DuelRecipe()
    before = {name: value.clone() for name, value in recipe.line.state_dict().items()}
    train(recipe, TrainingPlan(1, learning_rate=0.5, warmup=1, weight_decay=0), tmp_path)
    assert recipe.opponent.weight.item() == pytest.approx(0.5, rel=1e-4)
    assert not torch.equal(recipe.line.state_dict()["0.weight"], before["0.weight"])
    assert list(rows_of(tmp_path)[0]) == ["iteration", "total", "opponent", "seconds"]


def test_weights_decay_as_the_plan_says(tmp_path: Path) -> None:
    """AdamW: with a rate of 0.1 and a decay of 0.5, what a step starts from is 5 % smaller."""
    recipes = {decay: LineRecipe() for decay in (0.0, 0.5)}
    (start,) = (value.clone() for name, value in recipes[0.0].trainable.state_dict().items() if name == "0.weight")
    for decay, recipe in recipes.items():
        recipe.trainable.state_dict()["0.weight"].copy_(start)
        train(recipe, TrainingPlan(1, learning_rate=0.1, warmup=1, weight_decay=decay), tmp_path / str(decay))
    ends = [recipe.trainable.state_dict()["0.weight"] for recipe in recipes.values()]
    assert torch.allclose(ends[0] - ends[1], 0.05 * start, atol=1e-5)


def test_gradients_of_several_batches_are_averaged(tmp_path: Path) -> None:
    """The same batch twice gives the gradient of one; Adam would take the same step along one of twice that."""

    class Same(LineRecipe):
        calls = 0

        def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            self.calls += 1
            return super().losses(np.random.default_rng(0))

    once, twice = Same(), Same()
    train(once, TrainingPlan(2, clip_norm=1e9), tmp_path / "once")
    train(twice, TrainingPlan(2, clip_norm=1e9, accumulate=2), tmp_path / "twice")
    assert twice.calls == 2 * once.calls == 4
    assert torch.allclose(*(r.trainable.state_dict()["0.weight"] for r in (once, twice)), atol=1e-7)
    gradients = [[parameter.grad for parameter in r.trainable.parameters()] for r in (once, twice)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    rows = [rows_of(tmp_path / name)[0] for name in ("once", "twice")]
    assert float(rows[0]["total"]) == pytest.approx(float(rows[1]["total"]), rel=1e-5)


def test_a_gradient_longer_than_the_plan_allows_is_clipped(tmp_path: Path) -> None:
    class Steep(LineRecipe):
        def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            return {name: 1e6 * value for name, value in super().losses(rng).items()}

    recipe = Steep()
    train(recipe, TrainingPlan(1, clip_norm=1.0), tmp_path)
    gradient = torch.cat([parameter.grad.flatten() for parameter in recipe.trainable.parameters()])
    assert float(gradient.norm()) == pytest.approx(1.0, abs=1e-4)


class LookingRecipe(LineRecipe):
    """Remembers what it was told of the draws to come, and what came."""

    def look_ahead(self, seeds: Iterable[list[int]]) -> None:
        """Remember the seeds."""
        self.told = [np.random.default_rng(seed).random() for seed in seeds]
        self.given: list[float] = []

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Remember the first number of the generator."""
        self.given.append(rng.random())
        return super().losses(rng)


def test_a_recipe_may_know_the_draws_to_come_from_a_checkpoint_on(tmp_path: Path) -> None:
    recipe = LookingRecipe()
    assert isinstance(recipe, AheadRecipe) and not isinstance(LineRecipe(), AheadRecipe)
    train(recipe, TrainingPlan(4), tmp_path)
    assert recipe.told == recipe.given and len(recipe.told) == 4
    train(recipe, TrainingPlan(6), tmp_path)
    assert recipe.told == recipe.given and len(recipe.told) == 2


def test_a_rehearsal_takes_the_first_iterations_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = LookingRecipe()
    recipe.given = []
    seconds = rehearse(recipe, TrainingPlan(100, checkpoint_every=1, every=1))
    assert len(seconds) == len(recipe.given) == 2 and min(seconds) > 0
    assert recipe.given == [np.random.default_rng([0, iteration]).random() for iteration in range(2)]
    assert list(tmp_path.iterdir()) == []


class OverflowingRecipe(LineRecipe):
    """Some of its losses are infinite, by number of the call from 1."""

    def __init__(self, *calls: int) -> None:
        super().__init__()
        self.calls, self.count = calls, 0

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the error, or an infinite one."""
        self.count += 1
        factor = math.inf if self.count in self.calls else 1.0
        return {name: factor * value for name, value in super().losses(rng).items()}


def test_one_overflow_moves_no_weights_and_is_told(tmp_path: Path) -> None:
    """An optimizer that takes such a step turns every weight, their average and the next checkpoint into NaN."""
    recipe = OverflowingRecipe(3)
    train(recipe, TrainingPlan(6, warmup=1, average=0.5, every=2, checkpoint_every=2), tmp_path)
    assert all(bool(value.isfinite().all()) for value in recipe.trainable.state_dict().values())
    rows = rows_of(tmp_path)
    assert [row["skipped"] for row in rows] == ["", "1", ""]
    assert all(math.isfinite(float(row["total"])) for row in rows)


def test_a_training_that_comes_apart_ends_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    plan = TrainingPlan(60, warmup=1, every=10, checkpoint_every=100)
    with pytest.raises(Cancelled):
        train(LineRecipe(), plan, tmp_path, stop_at(10))
    before = (tmp_path / "state.pt").read_bytes()
    recipe = OverflowingRecipe(*range(5, 61))
    with pytest.raises(WeightsError, match="the gradients of 20 iterations in a row are infinite") as caught:
        train(recipe, plan, tmp_path)
    assert caught.value.code == "diverged" and "learning rate" in caught.value.hint
    assert recipe.count == 24 and (tmp_path / "state.pt").read_bytes() == before


def test_a_short_training_without_a_single_step_is_none(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the gradients of 3 iterations in a row"):
        train(OverflowingRecipe(1, 2, 3), TrainingPlan(3), tmp_path)
    assert not (tmp_path / "state.pt").exists()
