"""The VQGAN's recipe on phantoms: it learns, its discriminators begin when they should, and a resumed run is the same run."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import training_scan, write_case
from phantoms import ct_phantom

from DiffuGTSLib.backbones.weights import save_module
from DiffuGTSLib.errors import Cancelled, InputError, WeightsError
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import PerceptualNet, VqganCritics
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.trainer import TrainingPlan, train
from DiffuGTSLib.training.vqgan import VqganLosses, VqganRecipe, load_perceptual, perceived, to_network

PLAN = TrainingPlan(4, learning_rate=1e-3, warmup=1, weight_decay=0.0, every=1, checkpoint_every=2)


@pytest.fixture(scope="module")
def some_scans(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingScan]:
    """Two CT phantoms on voxels of 4 mm."""
    data = tmp_path_factory.mktemp("data")
    return [
        training_scan(data, write_case(data, f"ct_{seed}", ct_phantom(noise_hu=10, seed=seed), "train"))
        for seed in (1, 2)
    ]


def a_recipe(scans: list[TrainingScan], adversarial_from: int, perceptual: PerceptualNet | None = None) -> VqganRecipe:
    """Build a seeded recipe of networks of a few channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqgan = Vqgan3D(n_hiddens=8, downsample=(2, 2, 2), embedding_dim=4, n_codes=64, groups=4)
        critics = VqganCritics(channels=4, perceptual=False)
    losses = VqganLosses(gradient=1.0, adversarial_from=adversarial_from)
    return VqganRecipe(vqgan, critics, perceptual, scans, scans[:1], [(16, 2)], losses)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "state.pt", weights_only=True)["model"])


def column(folder: Path, name: str) -> list[float]:
    with (folder / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_the_error_falls_by_half_within_200_steps(some_scans: list[TrainingScan], tmp_path: Path) -> None:
    plan = TrainingPlan(60, learning_rate=3e-3, warmup=5, weight_decay=0.0, every=5, checkpoint_every=60)
    train(a_recipe(some_scans, 10**6), plan, tmp_path)
    errors = column(tmp_path, "l1")
    assert errors[-1] < 0.5 * errors[0]
    assert column(tmp_path, "validation_psnr_db")[-1] > 15
    assert -1 <= column(tmp_path, "validation_ssim")[-1] <= 1


def test_discriminators_add_exactly_nothing_before_they_begin_and_something_after(
    some_scans: list[TrainingScan], tmp_path: Path
) -> None:
    train(a_recipe(some_scans, 2), PLAN, tmp_path)
    for name in ("adversarial", "features"):
        values = column(tmp_path, name)
        assert values[:2] == [0.0, 0.0] and all(value != 0 for value in values[2:]), name
    assert all(value > 0 for value in column(tmp_path, "features")[2:])
    assert len(column(tmp_path, "discriminators")) == 2


def test_discriminators_learn_only_after_they_begin(some_scans: list[TrainingScan], tmp_path: Path) -> None:
    fresh = a_recipe(some_scans, 2).trainable.state_dict()
    train(a_recipe(some_scans, 4), PLAN, tmp_path / "never")
    train(a_recipe(some_scans, 2), PLAN, tmp_path / "later")
    name = "discriminators.1.model0.0.weight"
    assert torch.equal(state_of(tmp_path / "never")[name], fresh[name])
    assert not torch.equal(state_of(tmp_path / "later")[name], fresh[name])


def test_the_total_is_the_weighted_sum(some_scans: list[TrainingScan]) -> None:
    """4 L1 + gradient + commitment + adversarial + 4 features; perplexity is told, not minimized."""
    recipe = a_recipe(some_scans, 0)
    terms = recipe.losses(np.random.default_rng(0))
    expected = 4 * terms["l1"] + terms["gradient"] + terms["commitment"] + terms["adversarial"] + 4 * terms["features"]
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_hinge_loss_of_silent_discriminators_is_two(some_scans: list[TrainingScan]) -> None:
    """Scores of 0: ½ (relu(1 - 0) + relu(1 + 0)) = 1 for each of the two."""
    recipe = a_recipe(some_scans, 0)
    for parameter in recipe.trainable.get_submodule("discriminators").parameters():
        torch.nn.init.zeros_(parameter)
    rng = np.random.default_rng(0)
    recipe.losses(rng)
    assert recipe.discriminator_losses(rng)["discriminators"].item() == pytest.approx(2.0)


def test_a_resumed_run_has_the_same_next_loss_and_weights(some_scans: list[TrainingScan], tmp_path: Path) -> None:
    def stop(done: int, total: int, row: dict[str, float]) -> None:
        if done == 2:
            raise Cancelled("enough")

    train(a_recipe(some_scans, 1), PLAN, tmp_path / "whole")
    with pytest.raises(Cancelled):
        train(a_recipe(some_scans, 1), PLAN, tmp_path / "halved", stop)
    train(a_recipe(some_scans, 1), PLAN, tmp_path / "halved")
    assert column(tmp_path / "halved", "total") == column(tmp_path / "whole", "total")
    whole, halved = state_of(tmp_path / "whole"), state_of(tmp_path / "halved")
    for name, value in whole.items():
        assert torch.equal(value, halved[name]), name
    assert int(whole["batches"]) == 4


def test_the_perceptual_term_looks_at_a_slice_along_each_axis() -> None:
    """LPIPS with random weights, which may be negative: only what it is shown, and that it sees no difference in none."""
    shapes: list[tuple[int, ...]] = []
    perceptual = PerceptualNet()
    perceptual.register_forward_pre_hook(lambda module, pictures: shapes.append(tuple(pictures[0].shape)))
    image = torch.rand(1, 1, 16, 18, 20, generator=torch.Generator().manual_seed(0))
    assert perceived(perceptual, image, image, np.random.default_rng(0)).item() == 0.0
    assert shapes == [(1, 1, 18, 20), (1, 1, 16, 20), (1, 1, 16, 18)]
    assert perceived(perceptual, 1 - image, image, np.random.default_rng(0)).item() != 0.0


def test_the_perceptual_term_is_part_of_the_total(some_scans: list[TrainingScan]) -> None:
    recipe = a_recipe(some_scans, 10**6, perceptual=PerceptualNet())
    terms = recipe.losses(np.random.default_rng(0))
    assert terms["perceptual"].item() != 0.0
    expected = 4 * terms["l1"] + terms["gradient"] + terms["commitment"] + 4 * terms["perceptual"]
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_windows_are_shown_depth_first_in_minus_one_to_one() -> None:
    window = np.zeros((1, 2, 3, 4), dtype=np.float32)
    window[0, 1, 2, 3] = 1.0
    seen = to_network(window, torch.device("cpu"))
    assert seen.shape == (1, 1, 4, 2, 3) and seen[0, 0, 3, 1, 2] == 1.0 and float(seen.min()) == -1.0


def test_perceptual_weights_come_from_a_folder_of_critics(tmp_path: Path) -> None:
    save_module(VqganCritics(channels=4, perceptual=False), tmp_path / "critics")
    with pytest.raises(InputError, match="holds no perceptual network"):
        load_perceptual(tmp_path / "critics")
    with pytest.raises(WeightsError, match=r"config\.json does not exist"):
        load_perceptual(tmp_path / "none")
    critics = VqganCritics(channels=4, perceptual=True)
    save_module(critics, tmp_path / "whole")
    assert critics.perceptual_model is not None
    name, value = next(iter(critics.perceptual_model.named_parameters()))
    loaded = load_perceptual(tmp_path / "whole").get_parameter(name)
    assert torch.equal(loaded, value) and not loaded.requires_grad


def test_scans_are_needed_to_train_and_to_validate(some_scans: list[TrainingScan]) -> None:
    vqgan, critics = Vqgan3D(8, (2, 2, 2), 4, 64, 4), VqganCritics(4, perceptual=False)
    with pytest.raises(InputError, match="got 2 and 0"):
        VqganRecipe(vqgan, critics, None, some_scans, [], [(16, 1)], VqganLosses())


TOGETHER = """
import os, sys, json, pathlib
import numpy as np
import torch
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import VqganCritics
from DiffuGTSLib.training.distributed import process_group
from DiffuGTSLib.training.trainer import TrainingPlan, train
from DiffuGTSLib.training.vqgan import VqganLosses, VqganRecipe

class Noise(VqganRecipe):
    def __init__(self, vqgan, critics):
        super().__init__(vqgan, critics, None, [Scan()], [Scan()], [(8, 1)], VqganLosses(adversarial_from=1))
    def _batch(self, rng):
        return torch.from_numpy(rng.uniform(-1, 1, (1, 1, 8, 8, 8)).astype(np.float32))
    def validate(self):
        return {}

class Scan:
    class scan:
        image = np.zeros((8, 8, 8))

with process_group(torch.device("cpu")):
    torch.manual_seed(0)
    recipe = Noise(Vqgan3D(4, (2, 2, 2), 2, 8, 4), VqganCritics(4, perceptual=False))
    train(recipe, TrainingPlan(3, warmup=0, every=3), pathlib.Path(sys.argv[1]))
    state = recipe.trainable.state_dict()
    names = ["vqgan.codebook.embeddings", "vqgan.codebook.N", "vqgan.encoder.conv_first.conv.weight",
             "discriminators.1.model0.0.weight"]
    print(json.dumps([float(state[name].double().sum()) for name in names]), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_hold_the_same_network_codebook_and_discriminators(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
            text=True, env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)},
        )
        for number in range(2)
    ]  # fmt: skip
    first, second = (json.loads(process.communicate(timeout=300)[0]) for process in started)
    assert first == second
