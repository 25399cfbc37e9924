"""A figure that is watched: the best weights are the result, and patience ends a training that does not get better."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainer_parts import LineRecipe, rows_of, stop_at

from DiffuGTSLib.errors import Cancelled, ConfigError
from DiffuGTSLib.training.trainer import Outcome, TrainingPlan, train


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
