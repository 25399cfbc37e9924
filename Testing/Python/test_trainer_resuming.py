"""A training that was stopped, wherever, goes on as if it had not been; one that ended is not begun again."""

from __future__ import annotations

import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainer_parts import DuelRecipe, LineRecipe, rows_of, stop_at

from DiffuGTSLib.errors import Cancelled, WeightsError
from DiffuGTSLib.training.trainer import TrainingPlan, train


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


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    train(LineRecipe(), TrainingPlan(3), tmp_path)
    before = (tmp_path / "log.csv").read_bytes()
    again = LineRecipe()
    train(again, TrainingPlan(3), tmp_path)
    assert (tmp_path / "log.csv").read_bytes() == before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(again.trainable.state_dict()["0.weight"], state["averaged"]["0.weight"])


def test_rows_after_the_last_checkpoint_of_a_stopped_run_are_written_once(tmp_path: Path) -> None:
    plan = TrainingPlan(6, every=1, checkpoint_every=3)
    with pytest.raises(Cancelled):
        train(LineRecipe(), plan, tmp_path, stop_at(5))
    assert len(rows_of(tmp_path)) == 5
    train(LineRecipe(), plan, tmp_path)
    assert [float(row["iteration"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


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


@pytest.mark.parametrize("content", [{}, [], {"iteration": None}, {"iteration": -1}])
def test_a_checkpoint_that_names_no_iteration_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="names no iteration"):
        train(LineRecipe(), TrainingPlan(1), tmp_path)


def test_a_damaged_pickle_is_refused_whatever_reading_it_raises(tmp_path: Path) -> None:
    torch.save({"iteration": 3}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "state.pt", "w") as damaged:
        for name in whole.namelist():
            content = whole.read(name)
            damaged.writestr(name, content.replace(b"iteration", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff"))
    with pytest.raises(WeightsError, match="is damaged"):
        train(LineRecipe(), TrainingPlan(1), tmp_path)


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
