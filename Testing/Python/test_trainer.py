"""The training loop: its schedule, its average, its log, and that a stopped run goes on as if it had not been."""

from __future__ import annotations

import csv
import json
import math
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from DiffuGTSLib.errors import Cancelled, ConfigError, StorageError, WeightsError
from DiffuGTSLib.training.trainer import AheadRecipe, Outcome, Step, TrainingPlan, _update_average, rehearse, train


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


class ConstantRecipe(LineRecipe):
    """Its loss at the n-th call is n: what a log row must show is known."""

    calls = 0

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the number of this call."""
        self.calls += 1
        return {"total": 0 * super().losses(rng)["total"] + self.calls}


def stop_at(iteration: int) -> Callable[[int, int, dict[str, float]], None]:
    def progress(done: int, total: int, row: dict[str, float]) -> None:
        if done == iteration:
            raise Cancelled("enough")

    return progress


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


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


def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    plan = TrainingPlan(6, warmup=2, average=0.9, every=1, checkpoint_every=3)
    whole, halved = LineRecipe(), LineRecipe()
    train(whole, plan, tmp_path / "whole")
    with pytest.raises(Cancelled):
        train(halved, plan, tmp_path / "halved", stop_at(3))
    resumed = LineRecipe(hidden=4)
    nn.init.zeros_(next(resumed.trainable.parameters()))  # whatever it starts from, the checkpoint decides
    train(resumed, plan, tmp_path / "halved")
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "halved")]
    for key in ("model", "averaged"):
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), (key, name)
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name


class PressedRecipe(LineRecipe):
    """Somebody presses Ctrl-C in one of its iterations, before the weights move."""

    def __init__(self, iteration: int) -> None:
        super().__init__()
        self.left = iteration

    def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the error; be stopped in its midst."""
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return super().losses(rng)


def told(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows_of(folder)]


@pytest.mark.parametrize("iteration", [1, 4, 5])
def test_ctrl_c_between_checkpoints_keeps_the_iteration_that_it_comes_in(tmp_path: Path, iteration: int) -> None:
    """Also where that is the iteration of a row, with its validation (4), or in between (1, 5)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background work ignores Ctrl-C
    plan = TrainingPlan(9, warmup=2, average=0.9, every=2, checkpoint_every=4, watch="error")
    whole, resumed = LineRecipe(), LineRecipe()
    train(whole, plan, tmp_path / "whole")
    try:
        with pytest.raises(KeyboardInterrupt):
            train(PressedRecipe(iteration), plan, tmp_path / "stopped")
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)["iteration"] == iteration
    train(resumed, plan, tmp_path / "stopped")
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name
    assert told(tmp_path / "stopped") == told(tmp_path / "whole")


def test_a_run_that_is_stopped_before_its_first_iteration_keeps_nothing(tmp_path: Path) -> None:
    class Stopped(LineRecipe):
        def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        train(Stopped(), TrainingPlan(3), tmp_path)
    assert not (tmp_path / "state.pt").exists()


def test_a_duel_that_is_stopped_between_its_steps_keeps_the_last_whole_iteration(tmp_path: Path) -> None:
    class Stopped(DuelRecipe):
        def opponent_losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            if self.opponent.weight.item() > 0.15:
                raise Cancelled("enough")
            return super().opponent_losses(rng)

    plan = TrainingPlan(6, learning_rate=0.1, warmup=1, every=1, checkpoint_every=10, save_every=1)
    with pytest.raises(Cancelled):
        train(Stopped(), plan, tmp_path / "halved")
    assert torch.load(tmp_path / "halved" / "state.pt", weights_only=True)["iteration"] == 2
    whole, resumed = DuelRecipe(), DuelRecipe()
    train(whole, plan, tmp_path / "whole")
    train(resumed, plan, tmp_path / "halved")
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name


def test_checkpoints_are_written_between_validations(tmp_path: Path) -> None:
    """What a killed process leaves: the iteration of the last one, without a validation."""
    seen: list[int] = []

    class Watched(LineRecipe):
        def losses(self, rng: np.random.Generator) -> dict[str, Tensor]:
            path = tmp_path / "state.pt"
            seen.append(torch.load(path, weights_only=True)["iteration"] if path.exists() else 0)
            return super().losses(rng)

    train(Watched(), TrainingPlan(7, every=5, checkpoint_every=100, save_every=3), tmp_path)
    assert seen == [0, 0, 0, 3, 3, 3, 6]
    assert [row["validation_error"] != "" for row in rows_of(tmp_path)] == [False, True]


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


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train(LineRecipe(), TrainingPlan(3), tmp_path)
    before = (tmp_path / "log.csv").read_bytes()
    again = LineRecipe()
    train(again, TrainingPlan(3), tmp_path)
    assert (tmp_path / "log.csv").read_bytes() == before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(again.trainable.state_dict()["0.weight"], state["averaged"]["0.weight"])


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


def test_rows_after_the_last_checkpoint_of_a_stopped_run_are_written_once(tmp_path: Path) -> None:
    plan = TrainingPlan(6, every=1, checkpoint_every=3)
    with pytest.raises(Cancelled):
        train(LineRecipe(), plan, tmp_path, stop_at(5))
    assert len(rows_of(tmp_path)) == 5
    train(LineRecipe(), plan, tmp_path)
    assert [float(row["iteration"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


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


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train(LineRecipe(), TrainingPlan(1), tmp_path)
    with pytest.raises(WeightsError, match="does not fit this network") as caught:
        train(LineRecipe(hidden=8), TrainingPlan(1), tmp_path)
    assert "another folder" in caught.value.hint


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(LineRecipe(), TrainingPlan(1), tmp_path)
    path = tmp_path / "state.pt"
    for content in (path.read_bytes()[:300], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is damaged"):
            train(LineRecipe(), TrainingPlan(1), tmp_path)


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


def test_each_step_moves_its_own_weights_alone(tmp_path: Path) -> None:
    """Adam's first step is the learning rate, whatever the gradient: 0 + 0.5."""
    recipe = DuelRecipe()
    before = {name: value.clone() for name, value in recipe.line.state_dict().items()}
    train(recipe, TrainingPlan(1, learning_rate=0.5, warmup=1, weight_decay=0), tmp_path)
    assert recipe.opponent.weight.item() == pytest.approx(0.5, rel=1e-4)
    assert not torch.equal(recipe.line.state_dict()["0.weight"], before["0.weight"])
    assert list(rows_of(tmp_path)[0]) == ["iteration", "total", "opponent", "seconds"]


def test_a_stopped_duel_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    plan = TrainingPlan(6, learning_rate=0.1, warmup=1, every=1, checkpoint_every=3)
    whole, resumed = DuelRecipe(), DuelRecipe()
    train(whole, plan, tmp_path / "whole")
    with pytest.raises(Cancelled):
        train(DuelRecipe(), plan, tmp_path / "halved", stop_at(3))
    train(resumed, plan, tmp_path / "halved")
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name


def test_a_duel_does_not_go_on_from_a_checkpoint_without_an_opponent(tmp_path: Path) -> None:
    train(DuelRecipe(), TrainingPlan(1), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "further_optimizers": []}, tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="does not fit this network"):
        train(DuelRecipe(), TrainingPlan(2), tmp_path)


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


class JudgedRecipe(LineRecipe):
    """Its figure follows a list, one a validation, so that it is known which weights were best."""

    def __init__(self, figures: list[float]) -> None:
        super().__init__()
        self.figures = iter(figures)
        self.seen: list[Tensor] = []

    def validate(self) -> dict[str, float]:
        """Return the next figure; remember the weights that it is said of."""
        self.seen.append(self.trainable.state_dict()["0.weight"].clone())
        return {"good": next(self.figures)}


WATCHED = TrainingPlan(20, warmup=1, average=0.5, every=1, checkpoint_every=2, watch="good", patience=2)


def test_patience_ends_a_training_and_the_best_weights_are_its_result(tmp_path: Path) -> None:
    """Validated after 2, 4, 6, 8, 10: better at 4, then equal, then worse. Equal is not better."""
    recipe = JudgedRecipe([0.1, 0.5, 0.5, 0.2])
    assert train(recipe, WATCHED, tmp_path) == Outcome(8, 4, 0.5, early=True)
    assert torch.equal(recipe.trainable.state_dict()["0.weight"], recipe.seen[1])
    assert len(rows_of(tmp_path)) == 8


def test_a_training_that_was_ended_by_patience_is_not_gone_on_with(tmp_path: Path) -> None:
    first, again, patient = JudgedRecipe([0.1, 0.5, 0.5, 0.2]), JudgedRecipe([]), JudgedRecipe([0.6] * 9)
    train(first, WATCHED, tmp_path)
    assert train(again, WATCHED, tmp_path) == Outcome(8, 4, 0.5, early=True)
    assert torch.equal(again.trainable.state_dict()["0.weight"], first.seen[1])
    longer = TrainingPlan(20, warmup=1, average=0.5, every=1, checkpoint_every=2, watch="good", patience=9)
    assert train(patient, longer, tmp_path) == Outcome(20, 10, 0.6, early=False), "more patience goes on"


class ErrorRecipe(LineRecipe):
    """The better, the smaller its error, which does not fall in every step."""

    def validate(self) -> dict[str, float]:
        """Return the error below 0."""
        return {"good": -super().validate()["error"]}


def test_a_stopped_run_with_patience_goes_on_to_the_same_end(tmp_path: Path) -> None:
    plan = TrainingPlan(
        40, learning_rate=0.5, warmup=1, average=0.3, every=1, checkpoint_every=1, watch="good", patience=3
    )
    whole, resumed = ErrorRecipe(), ErrorRecipe()
    outcome = train(whole, plan, tmp_path / "whole")
    assert outcome.early and 3 < outcome.iterations < 40, "or this shows nothing"
    for stop in (2, outcome.iterations - 2):  # before the best, and while its patience runs
        with pytest.raises(Cancelled):
            train(ErrorRecipe(), plan, tmp_path / "halved", stop_at(stop))
    assert train(resumed, plan, tmp_path / "halved") == outcome
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name


class InterruptedRecipe(ErrorRecipe):
    """Is stopped in one of its validations."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def validate(self) -> dict[str, float]:
        """Return the error below 0, or be stopped."""
        self.left -= 1
        if self.left == 0:
            raise Cancelled("enough")
        return super().validate()


@pytest.mark.parametrize("number", [1, 3])
def test_a_run_that_is_stopped_while_it_validates_goes_on_with_that_validation(tmp_path: Path, number: int) -> None:
    """Its checkpoint is written before: a validation may take longer than the training so far."""
    plan = TrainingPlan(
        12, learning_rate=0.5, warmup=1, average=0.3, every=2, checkpoint_every=2, watch="good", patience=3
    )
    whole, resumed = ErrorRecipe(), ErrorRecipe()
    outcome = train(whole, plan, tmp_path / "whole")
    with pytest.raises(Cancelled):
        train(InterruptedRecipe(number), plan, tmp_path / "stopped")
    assert torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)["iteration"] == 2 * number
    assert train(resumed, plan, tmp_path / "stopped") == outcome
    for name, value in whole.trainable.state_dict().items():
        assert torch.equal(value, resumed.trainable.state_dict()[name]), name
    logs = [[(row["iteration"], row["validation_good"]) for row in rows_of(tmp_path / n)] for n in ("whole", "stopped")]
    assert logs[0] == logs[1] and train(ErrorRecipe(), plan, tmp_path / "stopped") == outcome


def test_without_patience_the_best_is_kept_and_the_training_goes_to_its_end(tmp_path: Path) -> None:
    plan = TrainingPlan(4, every=1, checkpoint_every=1, watch="good")
    recipe = JudgedRecipe([0.1, 0.9, 0.3, 0.2])
    assert train(recipe, plan, tmp_path) == Outcome(4, 2, 0.9, early=False)
    assert torch.equal(recipe.trainable.state_dict()["0.weight"], recipe.seen[1])


def test_a_run_that_is_not_watched_says_where_its_weights_are_from(tmp_path: Path) -> None:
    outcome = train(LineRecipe(), TrainingPlan(3), tmp_path)
    assert (outcome.iterations, outcome.best_iteration, outcome.early) == (3, 3, False) and math.isnan(outcome.best)


def test_a_figure_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no figure 'eror'") as caught:
        train(LineRecipe(), TrainingPlan(1, watch="eror"), tmp_path)
    assert caught.value.hint == "did you mean 'error'?"
    for values in ({"patience": -1, "watch": "error"}, {"patience": 2}):
        with pytest.raises(ConfigError, match="patience: expected 0 or more"):
            TrainingPlan(1, **values)  # type: ignore[arg-type]


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
