"""Networks that stay from one run to the next."""

import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from DiffuGTSLib.backbones.weights import write_checksums
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.planning.machine import Machine
from DiffuGTSLib.planning.plan import Plan, make_plan
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes import Geometry
from DiffuGTSLib.worker.model import WarmModel, model_key, require_kernels


def test_the_same_networks_serve_until_others_are_asked_for_or_they_are_released() -> None:
    model, config = WarmModel(), load_config("tiny")
    first = model.components(config, True)
    assert model.components(load_config("tiny", overrides=["masks.threshold=0.3", "runtime.seed=4"]), True) is first
    gone = weakref.ref(first.denoiser)
    other = model.components(load_config("tiny", overrides=["backbone.overlap=0.3"]), True)
    assert other is not first
    del first
    model.release()
    del other
    model.release()
    assert gone() is None, "their memory is given back"
    assert model.components(config, True) is not None


def test_memory_is_of_the_same_networks_from_run_to_run_wherever_they_are_moved() -> None:
    """Offloading takes parts to main memory and back; it changes no weight."""
    model, config = WarmModel(), load_config("tiny")
    first = model.components(config, True)
    before = first.identity
    first.hold(True, "denoiser")
    first.head.to(torch.float64).to(torch.float32)
    assert model.components(load_config("tiny", overrides=["runtime.seed=4"]), True).identity == before
    model.release()
    assert model.components(config, True).identity != before


def test_networks_kept_from_a_test_do_not_serve_whoever_did_not_allow_them() -> None:
    model, config = WarmModel(), load_config("tiny")
    model.components(config, True)
    with pytest.raises(WeightsError, match="untrained"):
        model.components(config, False)


@pytest.mark.parametrize(
    "override",
    [
        "backbone.name=mini",
        "backbone.folder=x",
        "text.encoder=clinicalbert",
        "runtime.device=cuda",
        "residual.feature=projection",
    ],
)
def test_whatever_decides_which_networks_are_loaded_is_in_the_key(override: str) -> None:
    assert model_key(load_config("tiny", overrides=[override]), True) != model_key(load_config("tiny"), True)


def test_weights_that_changed_on_the_disk_are_loaded_anew(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(resource_path("Models", "mini"), tmp_path / "mini"))
    model, config = WarmModel(), load_config("mini", overrides=[f"backbone.folder={folder}", "runtime.device=cpu"])
    before = model.components(config, False)
    assert model.components(config, False) is before
    tensors = load_file(folder / "aova" / "diffusion_pytorch_model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: 2 * tensors[name]}, folder / "aova" / "diffusion_pytorch_model.safetensors")
    write_checksums(folder)
    after = model.components(config, False)
    assert after.weights != before.weights
    assert torch.equal(after.head.state_dict()[name], 2 * before.head.state_dict()[name])


def test_a_processor_has_every_kernel() -> None:
    require_kernels(torch.device("cpu"))


@pytest.mark.gpu
def test_a_graphics_card_that_torch_was_built_for_is_taken() -> None:
    require_kernels(torch.device("cuda"))


def plan(*overrides: str, memory_bytes: float = 64e9) -> Plan:
    config = load_config("tiny", overrides=overrides)
    grid = Geometry.from_spacing((32, 32, 32), (2.0, 2.0, 2.0))
    return make_plan(grid, config, Machine("cpu", "one of ours", memory_bytes, "as asked"), trust=True)


def test_what_was_said_of_a_scan_goes_with_the_networks_and_stays_within_the_budget() -> None:
    model = WarmModel()
    memory = model.memory(plan("runtime.remember_mb=1"))
    memory.begin("model")
    memory.remembered("look", torch.zeros(3), lambda: (torch.zeros(2**17),))
    assert model.memory(plan()) is memory and memory.used_mb == 0.5
    assert memory.budget_bytes == load_config("tiny").runtime.remember_mb * 2**20
    model.release()
    assert memory.used_mb == 0


def test_no_more_is_remembered_than_the_plan_of_the_scan_leaves() -> None:
    model, needed = WarmModel(), plan().peak_bytes
    assert model.memory(plan(memory_bytes=needed + 5 * 2**20)).budget_bytes == 5 * 2**20
    assert model.memory(plan(memory_bytes=needed)).budget_bytes == 0
