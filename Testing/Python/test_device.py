"""The device that is asked for, or why it is refused; what a processor can do, as torch names it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from DiffuGTSLib.config import RuntimeConfig
from DiffuGTSLib.device import continued_here, find_device, native_bfloat16
from DiffuGTSLib.errors import ConfigError


@pytest.mark.parametrize(
    ("able", "named"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, "amx_bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, "avx512_bf16"),
        ({"bf16": True}, "bf16"),
        ({"avx2": True}, ""),
        ({}, ""),
    ],
)
def test_the_widest_instructions_are_named(able: dict[str, bool], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    assert native_bfloat16() == named


def test_a_torch_that_does_not_say_what_it_knows_or_makes_no_use_of_it_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as with_an_older_torch:
        with_an_older_torch.delattr("torch.cpu.get_capabilities")
        assert native_bfloat16() == ""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"bf16": True})
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    assert native_bfloat16() == ""


def test_this_processor_is_asked() -> None:
    able = torch.cpu.get_capabilities()
    assert "avx512_bf16" in able or able["architecture"] != "x86_64", "torch has renamed it"
    assert bool(native_bfloat16()) == any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


HALF = RuntimeConfig(device="cpu", precision="bfloat16")


def test_half_precision_on_a_cpu_without_instructions_for_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": False, "avx2": True})
    with pytest.raises(
        ConfigError, match=r"Precision 'bfloat16' was asked for on a CPU without instructions"
    ) as caught:
        find_device(HALF)
    assert "float32" in caught.value.hint
    assert find_device(RuntimeConfig(device="cpu")) == torch.device("cpu")


def test_half_precision_on_a_cpu_with_instructions_for_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert find_device(HALF) == torch.device("cpu")


@pytest.fixture
def an_old_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets torch report a card before Ampere, and a newer one beside it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0) if device.index == 1 else (7, 5))


@pytest.mark.usefixtures("an_old_card")
def test_half_precision_on_a_card_without_instructions_for_it_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"on Tesla T4, which has no instructions .* \(expected .* 8\.0 or more, got 7\.5\)"
    ) as caught:
        find_device(replace(HALF, device="cuda"))
    assert "float32" in caught.value.hint
    assert find_device(replace(HALF, device="cuda:1")) == torch.device("cuda:1")
    assert find_device(RuntimeConfig(device="cuda")) == torch.device("cuda")
    of_another = RuntimeConfig(device="cuda", precision="bfloat16", offload=True)
    assert continued_here(of_another, "cuda:0") == replace(of_another, precision="float32")
    assert continued_here(replace(of_another, device="cuda:1"), "cuda") == replace(of_another, device="cuda:1")


@pytest.mark.usefixtures("an_old_card")
def test_float32_on_a_card_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a card: loading the networks, training, painters, segmenters and bench."""
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", True)
    find_device(RuntimeConfig(device="cpu"))
    assert torch.backends.cudnn.allow_tf32
    find_device(RuntimeConfig(device="cuda"))
    assert not torch.backends.cudnn.allow_tf32


def test_what_was_made_on_a_card_goes_on_here_as_a_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    of_a_card = RuntimeConfig(precision="bfloat16", compile=True, offload=True, memory_gb=3.0)
    for able, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda able=able: {"amx_bf16": able})
        assert continued_here(of_a_card, "cuda:0") == RuntimeConfig(precision=precision, compile=False)
    assert continued_here(RuntimeConfig(memory_gb=3.0), "cpu").memory_gb == 3.0, (
        "what was said of this device still holds"
    )
    with pytest.raises(ConfigError, match="'cuda:99' was asked for"):
        continued_here(replace(of_a_card, device="cuda:99"), "cuda")
