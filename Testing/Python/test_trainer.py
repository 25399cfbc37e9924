"""The training loop: its schedule, its average, its log, its curves, and plans and folders that it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainer_parts import LineRecipe, rows_of

from DiffuGTSLib.errors import ConfigError, StorageError
from DiffuGTSLib.training.trainer import TrainingPlan, _update_average, train


class ConstantRecipe(LineRecipe):
    """Its loss at the n-th call is n: what a log row must show is known."""

    calls = 0

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the number of this call."""
        self.calls += 1
        return {"total": 0 * super().losses(rng)["total"] + self.calls}


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    plan = TrainingPlan(150, learning_rate=2.0, warmup=50)
    assert plan.learning_rate_at(0) == pytest.approx(2 / 50)
    assert plan.learning_rate_at(24) == pytest.approx(1.0)
    assert plan.learning_rate_at(49) == pytest.approx(2.0)
    assert plan.learning_rate_at(50) == pytest.approx(2.0)
    assert plan.learning_rate_at(100) == pytest.approx(2 * (0.01 + 0.99 / 2))  # half way down
    assert plan.learning_rate_at(150) == pytest.approx(0.02)  # 1 %


class Weights(LineRecipe):
    """Shows the weights after each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the error; remember the weights before."""
        self.seen.append(self.trainable.state_dict()["0.weight"].clone())
        return super().losses(rng)


def test_the_average_follows_fast_when_young(tmp_path: Path) -> None:
    """Decay 1/10, then 2/11, whatever the plan's."""
    recipe = Weights()
    train(recipe, TrainingPlan(2, average=0.99), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    start, first, second = recipe.seen[0], recipe.seen[1], state["model"]["0.weight"]
    young = 0.1 * start + 0.9 * first
    assert torch.allclose(state["averaged"]["0.weight"], 2 / 11 * young + 9 / 11 * second, atol=1e-7)


def test_an_average_is_a_share_of_the_old_and_the_rest_of_the_new() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    averaged = {"weight": torch.zeros(1, 1)}
    _update_average(averaged, model, 0.75)
    assert averaged["weight"].item() == pytest.approx(0.25)


def test_counters_are_copied_not_averaged() -> None:
    model = nn.BatchNorm1d(1)
    model(torch.zeros(4, 1))
    averaged = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    _update_average(averaged, model, 0.9)
    assert int(averaged["num_batches_tracked"]) == 1


def test_training_learns(tmp_path: Path) -> None:
    recipe = LineRecipe()
    before = recipe.validate()["error"]
    train(recipe, TrainingPlan(150, learning_rate=0.05, warmup=5, every=50, checkpoint_every=150), tmp_path)
    assert recipe.validate()["error"] < 0.1 * before


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    first, second = LineRecipe(), LineRecipe()
    train(first, TrainingPlan(3, seed=0), tmp_path / "a")
    train(second, TrainingPlan(3, seed=1), tmp_path / "b")
    assert not torch.equal(*(recipe.trainable.state_dict()["0.weight"] for recipe in (first, second)))


def test_the_result_is_the_average(tmp_path: Path) -> None:
    recipe = LineRecipe()
    train(recipe, TrainingPlan(4, average=0.9), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    weight = recipe.trainable.state_dict()["0.weight"]
    assert torch.equal(weight, state["averaged"]["0.weight"])
    assert not torch.equal(weight, state["model"]["0.weight"])


def test_without_an_average_the_result_is_the_last_step(tmp_path: Path) -> None:
    recipe = LineRecipe()
    train(recipe, TrainingPlan(4, average=0.0), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(recipe.trainable.state_dict()["0.weight"], state["model"]["0.weight"])


def test_the_log_is_readable_and_gains_columns_when_validation_comes(tmp_path: Path) -> None:
    train(LineRecipe(), TrainingPlan(4, every=1, checkpoint_every=2), tmp_path)
    rows = rows_of(tmp_path)
    assert [float(row["iteration"]) for row in rows] == [1, 2, 3, 4]
    assert list(rows[0]) == ["iteration", "total", "double", "seconds", "validation_error"]
    assert [row["validation_error"] == "" for row in rows] == [True, False, True, False]
    assert float(rows[2]["double"]) == pytest.approx(2 * float(rows[2]["total"]), rel=1e-4)
    assert json.loads((tmp_path / "plan.json").read_text())["iterations"] == 4


def test_a_log_row_is_the_mean_since_the_last_row_a_short_last_one_too(tmp_path: Path) -> None:
    train(ConstantRecipe(), TrainingPlan(5, every=2, checkpoint_every=10), tmp_path)
    assert [float(row["total"]) for row in rows_of(tmp_path)] == [1.5, 3.5, 5.0]


def test_validation_sees_the_average_and_leaves_training_alone(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watched(LineRecipe):
        def validate(self) -> dict[str, float]:
            assert not self.trainable.training
            seen.append(self.trainable.state_dict()["0.weight"].clone())
            return super().validate()

    train(Watched(), TrainingPlan(4, average=0.9, every=1, checkpoint_every=4), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(seen[-1], state["averaged"]["0.weight"])


def test_half_precision_is_used_where_it_is_asked_for(tmp_path: Path) -> None:
    kinds: list[torch.dtype] = []

    class Watched(LineRecipe):
        def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            kinds.append(self.trainable(torch.ones(1, 1)).dtype)
            return super().losses(rng)

    train(Watched(), TrainingPlan(1), tmp_path / "a")
    train(Watched(), TrainingPlan(1, precision="bfloat16"), tmp_path / "b")
    assert kinds == [torch.float32, torch.bfloat16]


def test_a_plan_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one training iteration, got 0"):
        TrainingPlan(0)
    with pytest.raises(ConfigError, match="'float32' or 'bfloat16', got 'float16'"):
        TrainingPlan(1, precision="float16")


def test_a_file_in_place_of_the_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageError, match="Cannot make the folder"):
        train(LineRecipe(), TrainingPlan(1), tmp_path / "run")


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(StorageError, match="Cannot write"):
        train(LineRecipe(), TrainingPlan(1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]


def test_the_average_may_be_a_copy_at_first_and_move_in_strides(tmp_path: Path) -> None:
    """Every second iteration, counted from 0: a copy at 2, then 0.2 of it and 0.8 of the weights after 4."""
    recipe = Weights()
    train(recipe, TrainingPlan(6, average=0.2, average_every=2, average_after=4), tmp_path)
    expected = 0.2 * recipe.seen[3] + 0.8 * recipe.seen[5]
    assert torch.allclose(recipe.trainable.state_dict()["0.weight"], expected, atol=1e-7)


def test_curves_are_written_where_they_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(LineRecipe(), TrainingPlan(3, every=1, tensorboard=True), tmp_path)
    curves = EventAccumulator(str(tmp_path))
    curves.Reload()
    assert [event.step for event in curves.Scalars("total")] == [1, 2, 3]
    assert "validation_error" in curves.Tags()["scalars"]


def test_curves_without_tensorboard_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="TensorBoard is not installed") as caught:
        train(LineRecipe(), TrainingPlan(1, tensorboard=True), tmp_path)
    assert caught.value.hint == "pip install tensorboard."
