"""What the processor says of itself, as torch names it."""

from __future__ import annotations

import pytest
import torch

from DiffuGTSLib.processor import native_bfloat16


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
