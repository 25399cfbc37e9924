"""The bank of ready vectors: back from its file bit for bit, or refused."""

import math
from pathlib import Path

import pytest
import safetensors.torch
import torch

from DiffuGTSLib.errors import StorageError, WeightsError
from DiffuGTSLib.text import bank as bank_module
from DiffuGTSLib.text.bank import PromptBank

TINY_SHA256 = "0" * 64
"""What `a_small_bank` names as its model."""
OTHER_SHA256 = "1" * 64


def test_the_bank_hands_out_copies(a_small_bank: PromptBank) -> None:
    vector = a_small_bank.find("lung")
    assert vector is not None
    vector.zero_()
    again = a_small_bank.find("Lung ")
    assert again is not None
    assert again.tolist() == [1.0, 0.0]
    assert a_small_bank.find("liver") is None


def test_a_bank_comes_back_from_its_file_and_the_file_is_the_same_each_time(
    a_small_bank: PromptBank, tmp_path: Path
) -> None:
    a_small_bank.save(tmp_path / "one.safetensors")
    a_small_bank.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    back = PromptBank.load(tmp_path / "one.safetensors", model_sha256=TINY_SHA256, dim=2)
    assert back.sentences == a_small_bank.sentences
    assert torch.allclose(back.vectors, a_small_bank.vectors, atol=1e-3)
    assert torch.allclose(back.vectors.norm(dim=1), torch.ones(2), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "two.safetensors"]


def test_a_missing_or_cut_bank_is_refused(a_small_bank: PromptBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    with pytest.raises(WeightsError, match="cannot be read"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)
    a_small_bank.save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)
    assert "python -m DiffuGTSLib.text.encoder" in caught.value.hint


def test_one_changed_byte_of_a_vector_is_noticed(a_small_bank: PromptBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    a_small_bank.save(path)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # the lowest bit of the last number: still almost a unit vector
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="checksum of the vectors"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)


def test_a_bank_without_its_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    safetensors.torch.save_file({"embeddings": torch.eye(2)}, path)
    with pytest.raises(WeightsError, match="cannot be read: KeyError"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)


def test_a_bank_of_another_model_or_width_is_refused(a_small_bank: PromptBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    a_small_bank.save(path)
    with pytest.raises(WeightsError, match=f"text model should be {OTHER_SHA256}"):
        PromptBank.load(path, model_sha256=OTHER_SHA256, dim=2)
    with pytest.raises(WeightsError, match=r"shape should be \[2, 384\], got \[2, 2\]"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=384)


def test_a_bank_of_another_format_is_refused(
    a_small_bank: PromptBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.safetensors"
    monkeypatch.setattr(bank_module, "_BANK_FORMAT", 2)
    a_small_bank.save(path)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="format should be 1, got 2"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)


@pytest.mark.parametrize("value", [2.0, math.nan])
def test_vectors_that_are_no_unit_vectors_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    PromptBank(("lung",), torch.tensor([[value, 0.0]]), TINY_SHA256, "mean").save(path)
    with pytest.raises(WeightsError, match="not unit vectors"):
        PromptBank.load(path, model_sha256=TINY_SHA256, dim=2)


def test_a_bank_that_cannot_be_written_leaves_nothing_behind(a_small_bank: PromptBank, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(StorageError, match="Cannot write") as caught:
        a_small_bank.save(tmp_path / "taken")
    assert "MB free" in caught.value.hint
    with pytest.raises(StorageError, match="Cannot write"):
        a_small_bank.save(tmp_path / "nowhere" / "bank.safetensors")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]
