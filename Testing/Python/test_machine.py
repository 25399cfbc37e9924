"""What a machine has: a card's speed by its name, a processor's by measuring, and the memory of either."""

import pytest
import torch
from planning_parts import machine

from DiffuGTSLib.config import RuntimeConfig, load_config
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.planning import machine as this_machine
from DiffuGTSLib.planning.costs import Sketch
from DiffuGTSLib.planning.machine import BASE_BYTES, cpu_memory, find_machine, with_speed

pytest_plugins = ["planning_fixtures"]


def test_a_card_in_the_table_is_taken_at_a_share_of_its_peak(a_tiny_sketch: Sketch) -> None:
    card = with_speed(machine(24, "cuda", "NVIDIA GeForce RTX 4090", None), a_tiny_sketch, load_config("tiny"), None)
    assert card.tflops == pytest.approx(33) and "20% of the data sheet's 165" in card.tflops_source
    assert card.speed("float32") == pytest.approx(33e12 / 4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA A10", 125), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 NVL", 835), ("NVIDIA GH200 480GB", 989),
        ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA RTX A1000", None), ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)  # fmt: skip
def test_a_card_is_known_by_whole_words_and_a_part_of_one_is_none(
    a_tiny_sketch: Sketch, name: str, peak: float | None
) -> None:
    config, card = load_config("tiny"), machine(24, "cuda", name, None)
    if peak is None:
        with pytest.raises(ConfigError, match="is not known to us"):
            with_speed(card, a_tiny_sketch, config, None)
    else:
        assert with_speed(card, a_tiny_sketch, config, None).tflops == pytest.approx(peak / 5)


def test_an_unknown_card_has_to_be_told_of(a_tiny_sketch: Sketch) -> None:
    config = load_config("tiny")
    with pytest.raises(ConfigError, match="How fast 'Voodoo' is") as caught:
        with_speed(machine(8, "cuda", "Voodoo", None), a_tiny_sketch, config, None)
    assert "--tflops" in caught.value.hint
    assert with_speed(machine(8, "cuda", "Voodoo", None), a_tiny_sketch, config, 12.0).tflops == 12.0
    with pytest.raises(ConfigError, match="--tflops: expected a number above 0"):
        with_speed(machine(8), a_tiny_sketch, config, -1.0)


def test_a_processor_is_measured(a_tiny_sketch: Sketch) -> None:
    measured = with_speed(machine(8, tflops=None), a_tiny_sketch, load_config("tiny"), None)
    assert measured.tflops is not None and 1e-6 < measured.tflops < 100
    assert "measured" in measured.tflops_source


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_here_needs_its_memory_said() -> None:
    with pytest.raises(ConfigError, match="no CUDA GPU here") as caught:
        find_machine(load_config("tiny", overrides=["runtime.device=cuda"]).runtime)
    assert "--memory" in caught.value.hint
    asked = find_machine(load_config("tiny", overrides=["runtime.device=cuda", "runtime.memory_gb=8"]).runtime)
    assert (asked.device, asked.memory_bytes, asked.memory_source) == ("cuda", 8e9, "as asked")


def test_a_processor_has_what_is_free() -> None:
    bytes_, source = cpu_memory()
    assert bytes_ > 1e8 and source
    assert find_machine(load_config("tiny", overrides=["runtime.device=cpu"]).runtime).device == "cpu"


def test_a_processor_s_plan_sees_the_job_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "job_limits", lambda held: [(5e7, "the job's memory (SLURM)")])
    assert cpu_memory() == (5e7, "the job's memory (SLURM)")


def test_a_card_that_is_here_is_planned_with_the_computer_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(this_machine, "cpu_memory", lambda: (3e9, "of the job"))
    for size, card in (("0", 8e9 + BASE_BYTES["cuda"]), ("6", 6e9)):
        found = find_machine(load_config("tiny", overrides=[f"runtime.memory_gb={size}"]).runtime)
        assert not found.bfloat16
        assert (found.memory_bytes, found.main_memory_bytes, found.main_memory_source) == (card, 3e9, "of the job")


def test_a_card_that_is_not_here_may_have_any_number_but_no_other_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    assert find_machine(RuntimeConfig(device="cuda:7", memory_gb=8.0)).device == "cuda"
    for name in ("cudaa", "cuda0", "cuda:x"):
        with pytest.raises(ConfigError, match=f"Unknown device '{name}'") as caught:
            find_machine(RuntimeConfig(device=name, memory_gb=8.0))
        assert "cuda:N" in caught.value.hint
