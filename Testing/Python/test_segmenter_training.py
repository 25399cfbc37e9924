"""Training a segmenter: the learning rate by epoch, the loss, the best network, a run that goes on, options."""

from __future__ import annotations

import csv
import functools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import write_mini_data
from test_segmenter_data import FINE, a_case

from DiffuGTSLib.datasets.protocol import read_protocol
from DiffuGTSLib.errors import Cancelled, ConfigError, InputError
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import load_segmenter
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter
from DiffuGTSLib.training import segmenter_run
from DiffuGTSLib.training.job import Job
from DiffuGTSLib.training.run import PARTS, train_part
from DiffuGTSLib.training.segmenter import SegmenterPlan, SegmenterRecipe, segmentation_loss
from DiffuGTSLib.training.segmenter_cases import SEGMENTER_GRID
from DiffuGTSLib.training.segmenter_data import PaintedTumors, SegmenterSampler, painted_windows
from DiffuGTSLib.training.segmenter_run import (
    SegmenterOptions,
    _plan,
    build_segmenter,
    build_source,
    train_segmenter,
)
from DiffuGTSLib.training.trainer import TrainingPlan, train

SIDE = 32


def a_network(seed: int = 0) -> Segmenter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter("unet", channels=(4, 8, 8))


def a_recipe(*, workers: int = 0, seed: int = 0) -> SegmenterRecipe:
    source = PaintedTumors(HandcraftedPainter())
    sampler = SegmenterSampler([a_case(), a_case(healthy=False)], SIDE, source)
    windows = painted_windows([a_case()], SIDE, source, per_scan=2)
    return SegmenterRecipe(a_network(seed), FINE, sampler, windows, side=SIDE, batch=2, workers=workers)


def plan_of(epochs: int, **changes: object) -> SegmenterPlan:
    values = {"iterations": 2 * epochs, "epoch_iterations": 2, "warmup": 2, "every": 2, "checkpoint_every": 2}
    return SegmenterPlan(**{**values, **changes})  # type: ignore[arg-type]


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_learning_rate_rises_for_100_epochs_and_falls_along_a_cosine() -> None:
    plan = SegmenterPlan(iterations=3000 * 7, learning_rate=4e-4, warmup=100 * 7, epoch_iterations=7)
    at = {epoch: plan.learning_rate_at(epoch * 7) for epoch in (0, 49, 99, 100, 1550, 2999, 3000)}
    assert at[0] == pytest.approx(4e-6) and at[49] == pytest.approx(2e-4)
    assert at[99] == at[100] == 4e-4
    assert at[1550] == pytest.approx(2e-4)
    assert 0 < at[2999] < 1e-9 and at[3000] == pytest.approx(0, abs=1e-18)


def test_the_learning_rate_stays_the_same_within_an_epoch() -> None:
    plan = SegmenterPlan(iterations=100, warmup=20, epoch_iterations=10)
    assert len({plan.learning_rate_at(iteration) for iteration in range(10, 20)}) == 1
    assert plan.learning_rate_at(9) < plan.learning_rate_at(10)


def test_other_schedules_begin_at_the_peak() -> None:
    cosine = SegmenterPlan(iterations=100, warmup=50, epoch_iterations=1, schedule="cosine_anneal")
    assert cosine.learning_rate_at(0) == cosine.learning_rate and cosine.learning_rate_at(100) == pytest.approx(0)
    constant = SegmenterPlan(iterations=100, warmup=50, schedule="none")
    assert {constant.learning_rate_at(n) for n in (0, 50, 99)} == {constant.learning_rate}


@pytest.mark.parametrize("wish", [{"schedule": "linear"}, {"epoch_iterations": 0}])
def test_a_plan_that_is_none_is_refused(wish: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        SegmenterPlan(iterations=1, **wish)  # type: ignore[arg-type]


def test_the_loss_is_dice_and_cross_entropy_by_hand() -> None:
    """Two voxels, two classes, probabilities 3/4 and 1/4 for the right class."""
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]]).T.reshape(1, 2, 2, 1, 1)
    labels = torch.tensor([0, 0]).reshape(1, 1, 2, 1, 1)
    cross_entropy = -(math.log(3 / 4) + math.log(1 / 4)) / 2
    dice_first = 2 * (3 / 4 + 1 / 4) / (2 + (9 + 1) / 16)  # squared denominators: 1² + 1² and (3/4)² + (1/4)²
    dice = 1 - (dice_first + 0) / 2  # the second class is absent: no smoothing, so that its Dice is 0
    known = torch.ones_like(labels, dtype=torch.bool)
    assert float(segmentation_loss(logits, labels, known)) == pytest.approx(dice + cross_entropy, rel=1e-4)


def test_unknown_voxels_carry_no_loss_and_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, 4, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (1, 1, 4, 4, 4), generator=generator)
    known = torch.ones_like(labels, dtype=torch.bool)
    known[..., 2:] = False
    other = torch.where(known, labels, (labels + 1) % 3)
    first, second = segmentation_loss(logits, labels, known), segmentation_loss(logits, other, known)
    assert float(first.detach()) == float(second.detach())
    first.backward()
    assert logits.grad is not None and not logits.grad[..., 2:].any() and logits.grad[..., :2].abs().min() > 0
    assert float(segmentation_loss(logits.detach(), labels, torch.zeros_like(known))) < 2 / 3 + 1e-3


def test_two_epochs_train_and_a_stopped_run_goes_on_with_its_schedule_and_optimizer(tmp_path: Path) -> None:
    train(a_recipe(), plan_of(3), tmp_path / "whole")
    train(a_recipe(), plan_of(1), tmp_path / "stopped")
    assert torch.load(tmp_path / "stopped" / "state.pt", weights_only=True)["iteration"] == 2
    train(a_recipe(seed=9), plan_of(3), tmp_path / "stopped")
    whole, stopped = log(tmp_path / "whole"), log(tmp_path / "stopped")
    assert [row["iteration"] for row in stopped] == ["2", "4", "6"]
    for one, other in zip(whole, stopped, strict=True):
        assert one.keys() == other.keys()
        assert float(one["total"]) == pytest.approx(float(other["total"]), rel=1e-5)


def test_the_same_iteration_draws_the_same_windows_however_many_threads_draw() -> None:
    alone, together = (a_recipe(workers=n) for n in (0, 2))
    losses = [float(recipe.losses(np.random.default_rng(4))["total"].detach()) for recipe in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_validation_says_how_well_organ_and_tumors_are_found() -> None:
    figures = a_recipe().validate()
    assert set(figures) == {"tumor_dice", "organ_dice"}
    assert all(0 <= figure <= 1 for figure in figures.values())


def test_a_recipe_without_a_tumor_to_choose_by_is_refused() -> None:
    sampler = SegmenterSampler([a_case()], SIDE)
    with pytest.raises(InputError, match="None of 1 validation scans holds a tumor"):
        SegmenterRecipe(a_network(), FINE, sampler, [a_case()], side=SIDE)


OPTIONS = SegmenterOptions(channels="4,8,8", window=32, spacing_mm=4.0, batch=2, warmup_epochs=1, validate_every=1)


def a_job(output: Path, lines: list[str] | None = None) -> Job:
    from DiffuGTSLib.config import load_config

    said = [] if lines is None else lines
    return Job({}, load_config("mini"), TrainingPlan(2), output, torch.device("cpu"), said.append, OPTIONS)


def test_a_run_leaves_the_best_network_and_its_grid(tmp_path: Path) -> None:
    lines: list[str] = []
    train_segmenter([a_case()], [a_case()], OPTIONS, TrainingPlan(2), a_job(tmp_path, lines))
    trained = load_segmenter(tmp_path)
    assert trained.window_voxels == 32 and trained.grid == OPTIONS.grid() and trained.modalities == ("CT",)
    assert trained.organs == OPTIONS.organ_names
    assert (tmp_path / "segmenter" / "model" / "checksums.json").is_file()
    assert {path.name for path in (tmp_path / "segmenter").iterdir()} >= {"state.pt", "log.csv", "model"}
    assert re.fullmatch(
        r"segmenter: 0 real and 1 healthy cases; the best is chosen on [3-6] scans or windows", lines[0]
    )
    best = max(float(row["validation_tumor_dice"]) for row in log(tmp_path / "segmenter"))
    told = re.fullmatch(r"segmenter: kept are the weights after [12], tumor_dice (0\.\d{3})", lines[-1])
    assert told and float(told[1]) == pytest.approx(best, abs=1e-3)


def test_a_run_that_is_stopped_before_its_first_validation_goes_on_from_where_it_was(tmp_path: Path) -> None:
    """After epoch 3, with the default of 200 epochs between validations."""
    lines: list[str] = []
    options, plan = replace(OPTIONS, validate_every=200), TrainingPlan(40)
    job = replace(a_job(tmp_path), options=options, report=stop_after("segmenter 3/40", lines))
    with pytest.raises(Cancelled):
        train_segmenter([a_case()], [a_case()], options, plan, job)
    assert torch.load(tmp_path / "segmenter" / "state.pt", weights_only=True)["iteration"] == 3
    with pytest.raises(Cancelled):
        train_segmenter([a_case()], [a_case()], options, plan, replace(job, report=stop_after("segmenter 4/40", lines)))
    assert [line.split(":")[0] for line in lines if "/40" in line] == [f"segmenter {n}/40" for n in (1, 2, 3, 4)]
    assert "validation_tumor_dice" in lines[-1], "ten times a run, where 200 epochs would be never"


def stop_after(word: str, lines: list[str]) -> Callable[[str], None]:
    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith(word):
            raise Cancelled("enough")

    return stop


@pytest.mark.parametrize(("cases", "validated_every"), [(20, 2000), (100, 2000), (3000, 3000)])
def test_the_default_intervals_are_a_tenth_of_a_run_or_200_epochs(cases: int, validated_every: int) -> None:
    plan = _plan(TrainingPlan(20000), SegmenterOptions(), cases)
    assert plan.checkpoint_every == validated_every and plan.save_every == 250
    assert _plan(TrainingPlan(3000 * cases), SegmenterOptions(), cases).checkpoint_every == 200 * cases


def test_the_network_that_is_best_by_its_tumors_is_kept_and_a_run_that_goes_on_knows_it(tmp_path: Path) -> None:
    train_segmenter([a_case()], [a_case()], OPTIONS, TrainingPlan(2), a_job(tmp_path))
    path = tmp_path / "segmenter" / "state.pt"
    state = torch.load(path, weights_only=True)
    judged = [float(row["validation_tumor_dice"]) for row in log(path.parent)]
    assert state["best"]["value"] == pytest.approx(max(judged), rel=1e-5)
    state["best"] |= {"value": 2.0, "weights": a_network(2).state_dict()}  # none of the next epochs is better
    torch.save(state, path)
    train_segmenter([a_case()], [a_case()], OPTIONS, TrainingPlan(3), a_job(tmp_path))
    kept = load_segmenter(tmp_path).network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in a_network(2).state_dict().items())


def test_real_tumors_choose_the_best_unless_none_is_trained_on(tmp_path: Path) -> None:
    real = a_case(healthy=False)
    for name, share, expected in (("mixed", -1.0, "[1] scans"), ("synthetic", 0.0, "[3-6] scans")):
        lines: list[str] = []
        options = replace(OPTIONS, real_share=share)
        train_segmenter([a_case(), real], [a_case(), real], options, TrainingPlan(1), a_job(tmp_path / name, lines))
        assert re.search(f"chosen on {expected}", lines[0])


def test_the_part_trains_from_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "segmenter", segmenter_run.PART)
    protocol = write_mini_data(tmp_path / "data")
    wishes = {"channels": "4,8,8", "window": "32", "spacing_mm": "4", "organs": "liver", "validate_every": "1"}
    for share in ("-1", "0"):
        lines: list[str] = []
        train_part(
            "segmenter", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / share, iterations=2,
            options={**wishes, "real_share": share}, device="cpu", report=lines.append,
        )  # fmt: skip
        assert load_segmenter(tmp_path / share).grid.ct_knots_hu == (-175.0, 250.0)
        kind = "1 real and 0 healthy" if share == "-1" else "0 real and 1 healthy"
        assert any(kind in line for line in lines)
    assert len(read_protocol(protocol)) == 7


def test_a_protocol_without_the_organ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTS, "segmenter", segmenter_run.PART)
    protocol = write_mini_data(tmp_path / "data")
    with pytest.raises(InputError, match="No training case of the protocol shows pancreas"):
        train_part(
            "segmenter", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / "run", iterations=1,
            options={"organs": "pancreas", "spacing_mm": "4", "window": "32"}, device="cpu", report=lambda line: None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, ""),
        ({"window": "50"}, "window: expected a multiple of 4 for unet, got 50"),
        ({"painter": "nosuchpainter"}, "Unknown painter 'nosuchpainter'"),
        ({"organs": "spleeen"}, "no organ file for 'spleeen'"),
        ({"organs": "pancreas"}, "No training case of the protocol shows pancreas"),
    ],
)
def test_a_dry_run_refuses_what_the_training_would_refuse(tmp_path: Path, wish: dict[str, str], message: str) -> None:
    protocol, lines = write_mini_data(tmp_path / "data"), list[str]()
    wishes = {"channels": "4,8,8", "window": "32", "spacing_mm": "4", **wish}

    def rehearsed() -> None:
        train_part(
            "segmenter", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / "run", options=wishes,
            device="cpu", dry_run=True, report=lines.append,
        )  # fmt: skip

    if message:
        with pytest.raises((ConfigError, InputError), match=message):
            rehearsed()
    else:
        rehearsed()
        assert lines[-2:] == [
            "segmenter: a network of 0.0 million weights, to be trained on 1 cases",
            "segmenter: 20000 of 20000 iterations are left",
        ]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_another_seed_and_says_what_is_left(tmp_path: Path) -> None:
    protocol, lines = write_mini_data(tmp_path / "data"), list[str]()
    wishes = {"channels": "4,8,8", "window": "32", "spacing_mm": "4"}
    segmenter = functools.partial(
        train_part, "segmenter", protocol_path=protocol, data=tmp_path / "data", output=tmp_path / "run", options=wishes,
        device="cpu", report=lines.append,
    )  # fmt: skip
    segmenter(iterations=2)
    with pytest.raises(ConfigError, match="was begun with another seed"):
        segmenter(iterations=2, dry_run=True, seed=5)
    segmenter(iterations=2, dry_run=True)
    assert lines[-1] == "segmenter: nothing is left to do"
    segmenter(iterations=3, dry_run=True)
    assert lines[-1] == "segmenter: 1 of 3 iterations are left"


def test_the_defaults_are_those_of_the_published_training() -> None:
    options = SegmenterOptions()
    assert options.grid() == SEGMENTER_GRID
    assert options.chances.stages == {"early": 0.8, "medium": 0.1, "large": 0.1}
    assert options.chances.early == {"tiny": 0.5, "small": 0.5} and options.chances.rate == 0.5
    assert sum(parameter.numel() for parameter in build_segmenter(options).net.parameters()) == 4_807_482


def test_only_late_tumors_may_be_asked_for() -> None:
    assert replace(OPTIONS, tiny=0.0, small=0.0, medium=0.5, large=0.5).chances.stages["early"] == 0


def test_the_working_grid_is_that_of_the_bundled_model() -> None:
    from DiffuGTSLib.config import load_config

    mini = load_config("mini").canonical
    assert replace(OPTIONS, working_grid=True, window=64).grid(mini) == mini
    assert replace(OPTIONS, working_grid=True, window=96).grid(mini).minimum_side == 96


def test_painters_are_made_by_name_and_may_be_left_out() -> None:
    cpu = torch.device("cpu")
    assert build_source(replace(OPTIONS, painter="none"), cpu) is None
    source = build_source(replace(OPTIONS, painter="recipe", late_painter="handcrafted"), cpu)
    assert source is not None and source.minimum_radius_mm("liver") == 30.0
    with pytest.raises(InputError, match="Unknown painter 'airbrush'"):
        build_source(replace(OPTIONS, painter="airbrush"), cpu)
    with pytest.raises(ConfigError, match="no organ file for 'lever'"):
        build_source(replace(OPTIONS, organs="lever"), cpu)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"organs": " , "}, "organs: expected the name of an organ"),
        ({"real_share": 1.5}, "real_share: expected 0 to 1, or -1, got 1.5"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"validate_every": 0}, "validate_every: expected at least 1, got 0"),
        ({"learning_rate": 1e20}, "learning_rate: expected above 0, at most 1, got 1e"),
        ({"learning_rate": 0.0}, "learning_rate: expected above 0"),
        ({"schedule": "foo"}, "schedule: expected one of warmup_cosine, cosine_anneal, none, got 'foo'"),
        ({"tiny": 0.9}, "Expected stages to share out 1"),
        ({"synthesis_rate": 2.0}, "Expected a synthesis rate of 0 to 1, got 2"),
    ],
)
def test_options_that_make_no_sense_are_refused(wish: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **wish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"channels": "4,x"}, "channels: expected whole numbers as in 16,32,64, got '4,x'"),
        ({"window": 30}, "window: expected a multiple of 4 for unet, got 30"),
        ({"model": "vnet"}, "Unknown model 'vnet'"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(wish: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_segmenter(replace(OPTIONS, **wish))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "window"), [("nnunet", 32), ("swin_unetr", 64)])
def test_the_larger_networks_train_two_epochs_too(tmp_path: Path, model: str, window: int) -> None:
    options = replace(
        OPTIONS, model=model, channels="", swin_type="tiny", window=window, batch=1, painter="handcrafted"
    )
    case = a_case()
    train_segmenter([case], [case], options, TrainingPlan(2), a_job(tmp_path))
    rows = log(tmp_path / "segmenter")
    assert [row["iteration"] for row in rows] == ["1", "2"]
    assert load_segmenter(tmp_path).network.config["model"] == model
