"""`checkpoint inspect` and `checkpoint convert`: what they say, what they write, and what they refuse."""

import json
from pathlib import Path

import pytest
import torch
from terminal import refused, run

from DiffuGTSLib.synthesis.latent_diffusion import CosineDiffusion
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.vqgan import Vqgan3D


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    """A small diffusion model under the published names."""
    vqgan, unet = Vqgan3D(4, embedding_dim=2, n_codes=8, groups=8), LatentUNet3D(8, 5, 2, (1, 2))
    tensors = dict(CosineDiffusion(4).tables)
    tensors |= {f"denoise_fn.{name}": tensor for name, tensor in unet.state_dict().items()}
    tensors |= {f"vqgan.{name}": tensor for name, tensor in vqgan.state_dict().items()}
    torch.save({"step": 7, "ema": tensors}, tmp_path / "liver_early.pt")
    return tmp_path / "liver_early.pt"


def test_inspect_says_what_a_file_is(a_file: Path) -> None:
    said = run("checkpoint", "inspect", a_file).output
    for words in ("diffusion", "Timesteps", "under 'ema'", "step 7", "dim 8, channels 5"):
        assert words in said
    assert "Missing" not in said


def test_inspect_lists_every_missing_and_unexpected_tensor(a_file: Path) -> None:
    tensors = torch.load(a_file)["ema"]
    del tensors["denoise_fn.init_conv.bias"]
    torch.save({"ema": {**tensors, "extra.weight": torch.zeros(1)}}, a_file)
    said = run("checkpoint", "inspect", a_file).output
    assert "Missing (1)" in said and "denoise_fn.init_conv.bias" in said
    assert "Unexpected (1)" in said and "extra.weight" in said


def test_inspect_speaks_json(a_file: Path) -> None:
    report = json.loads(run("checkpoint", "inspect", a_file, "--json").output)
    assert (report["kind"], report["timesteps"], report["missing"]) == ("diffusion", 4, [])


def test_convert_writes_a_painter_and_the_notice(a_file: Path, tmp_path: Path) -> None:
    said = " ".join(run("checkpoint", "convert", a_file, "-o", tmp_path / "painter").output.split())
    assert f"Written to {tmp_path / 'painter'}" in said and "patents pending" in said
    assert (tmp_path / "painter" / "painter.json").is_file() and (tmp_path / "painter" / "source.json").is_file()
    assert json.loads(run("checkpoint", "convert", a_file, "-o", tmp_path / "painter", "--json").output)["kind"]


def test_a_file_that_was_cut_off_exits_with_the_code_of_weights(a_file: Path) -> None:
    a_file.write_bytes(a_file.read_bytes()[:1000])
    refused(run("checkpoint", "inspect", a_file), 3, "is not whole", "download it again")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(run("checkpoint", "inspect", tmp_path / "none.pt"), 2, "There is no file", "check the spelling")


def test_the_help_tells_of_licenses() -> None:
    assert "patents pending" in " ".join(run("checkpoint", "convert", "--help").output.split())
