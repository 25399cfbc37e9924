"""Loading the trained parts: what fits together, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from phantoms import ct_phantom, grid

from DiffuGTSLib import components, pipeline
from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import FLOW_SCHEDULER
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet
from DiffuGTSLib.backbones.weights import save_module, write_checksums
from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.residual import ResidualProjection
from DiffuGTSLib.text.encoder import MINILM_SHA256
from DiffuGTSLib.text.prompts import organ_prompts


def tiny(*overrides: str) -> Config:
    return load_config("tiny", overrides=overrides)


def test_the_pipeline_hands_on_what_is_loaded_here() -> None:
    assert pipeline.load_components is components.load_components
    assert pipeline.Components is components.Components


def test_two_loads_of_the_test_networks_are_one() -> None:
    heads = [load_components(tiny(), allow_untrained=True).head.state_dict() for _ in range(2)]
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())


@pytest.mark.parametrize(
    ("loaded", "wish", "said"),
    [
        ("attention", "residual.feature=projection", "expected residual.feature=projection, got attention"),
        ("projection", "residual.feature=attention", "expected residual.feature=attention, got projection"),
        ("attention", "runtime.device=cuda:1", "expected runtime.device=cuda, got cpu"),
    ],
)
def test_components_of_another_configuration_are_refused(loaded: str, wish: str, said: str) -> None:
    """Else the record would name a residual that nothing was refined by."""
    parts = load_components(tiny(f"residual.feature={loaded}", "runtime.device=cpu"), allow_untrained=True)
    parts.require_loaded_for(tiny(f"residual.feature={loaded}", "runtime.device=auto", "runtime.seed=3"))
    scan = ct_phantom(grid((16, 16, 16), (8.0, 8.0, 8.0))).scan
    with pytest.raises(ConfigError, match=said) as caught:
        pipeline.segment(scan, organ_prompts("liver", "CT"), parts, tiny(wish), modality="CT")
    assert caught.value.code == "components" and "load_components(config)" in caught.value.hint


@pytest.mark.parametrize("preset", ["mini", "tiny"])
def test_loading_leaves_the_draws_of_the_program_around_it_as_they_were(preset: str) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    load_components(load_config(preset, overrides=["runtime.device=cpu"]), allow_untrained=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_untrained_networks_are_refused_unless_asked_for() -> None:
    with pytest.raises(WeightsError, match=r"preset 'tiny' are untrained; their results mean nothing") as caught:
        load_components(tiny())
    assert caught.value.code == "untrained" and "--allow-untrained" in caught.value.hint


@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu7", "Unknown device 'gpu7'"), ("meta", "'meta' is not supported"), ("cuda:99", "'cuda:99' was asked for")],
)
def test_a_device_that_is_not_there_is_refused(device: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_components(tiny(f"runtime.device={device}"), allow_untrained=True)


def test_in_half_precision_on_a_cpu_weights_are_laid_out_by_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    for precision, by_channels in (("bfloat16", True), ("float32", False)):
        parts = load_components(tiny("runtime.device=cpu", f"runtime.precision={precision}"), allow_untrained=True)
        weights = [w for w in parts.autoencoder.parameters() if w.dim() == 5 and min(w.shape) > 1]
        assert weights and all(w.is_contiguous(memory_format=torch.channels_last_3d) is by_channels for w in weights)


def test_the_text_model_is_on_record_beside_the_networks(tmp_path: Path) -> None:
    parts = load_components(tiny(), allow_untrained=True)
    assert parts.weights == {"text/model.safetensors": MINILM_SHA256} and not parts.trained


def test_the_compiler_is_for_cuda() -> None:
    with pytest.raises(ConfigError, match=r"runtime.compile was asked for on a CPU"):
        load_components(tiny("runtime.device=cpu", "runtime.compile=true"), allow_untrained=True)


@pytest.mark.gpu
def test_a_compiled_denoiser_says_the_same() -> None:
    said = []
    for wish in ("false", "true"):
        denoiser = load_components(
            tiny("runtime.device=cuda", f"runtime.compile={wish}"), allow_untrained=True
        ).denoiser
        assert (getattr(denoiser, "_compiled_call_impl", None) is not None) == (wish == "true")
        noisy = torch.randn((1, 4, 8, 8, 8), generator=torch.Generator().manual_seed(0)).cuda()
        with torch.inference_mode():
            said.append(denoiser(noisy, 500.0, (2.0, 2.0, 2.0), "CT").clean)
    assert torch.allclose(*said, atol=1e-3)


def a_model_folder(folder: Path, text_dim: int, channels: tuple[int, ...], *, levels: int = 2, **head: float) -> Path:
    finer = levels - 1
    unet = MaisiUNet(
        num_channels=(8,) * finer + (16,), attention_levels=(False,) * finer + (True,),
        num_head_channels=(0,) * finer + (8,), num_res_blocks=1, norm_num_groups=4, num_class_embeds=16, resblock_updown=False,
    )  # fmt: skip
    save_module(MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4), folder / "autoencoder")
    save_module(unet, folder / "denoiser")
    save_module(AovaHead(channels, text_dim, **head), folder / "aova")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(FLOW_SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps({"prediction": "flow"}))
    write_checksums(folder)
    return folder


def test_a_model_folder_of_ones_own_is_loaded_as_trained(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "mine", 384, (8, 8, 8))
    components = load_components(tiny(f"backbone.folder={folder}"))
    assert components.trained and len(components.weights) == 4
    assert not any(parameter.requires_grad for parameter in components.head.parameters())


@pytest.mark.parametrize(
    ("text_dim", "channels", "said"),
    [(768, (8, 8, 8), "sentences of 768 numbers; 'minilm' gives 384"), (384, (8, 16, 8), r"features of \(8, 16, 8\)")],
)
def test_a_head_that_does_not_fit_is_refused(
    tmp_path: Path, text_dim: int, channels: tuple[int, ...], said: str
) -> None:
    folder = a_model_folder(tmp_path / "mixed", text_dim, channels)
    with pytest.raises(WeightsError, match=said):
        load_components(tiny(f"backbone.folder={folder}"))


def test_a_head_that_looks_through_the_denoiser_brings_it_along(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "tapped", 384, (8, 8, 16, 16), denoiser_timestep=50.0, denoiser_scale=0.5)
    components = load_components(tiny(f"backbone.folder={folder}"))
    image = torch.rand(1, 1, 32, 32, 32)
    assert components.feature_encoder((2.0, 2.0, 2.0), "CT").feature_channels == (8, 8, 16, 16)
    with torch.inference_mode():
        features = components.feature_encoder((2.0, 2.0, 2.0), "CT").encode(image).features
        assert components.head(features, torch.rand(1, 2, 384)).maps.shape == (1, 2, 32, 32, 32)
    meta = replace(components, device=torch.device("meta"))
    meta.hold(True, "head")
    assert all(next(part.parameters()).is_meta for part in (meta.head, meta.denoiser)), "where the head is, it is"
    assert not next(meta.autoencoder.parameters()).is_meta


def test_windows_that_the_denoiser_cannot_halve_are_refused_where_it_is_looked_through(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "tapped", 384, (8, 8, 16, 8, 8, 16), levels=4, denoiser_timestep=50.0)
    load_components(tiny(f"backbone.folder={folder}", "backbone.window_voxels=64"))
    with pytest.raises(ConfigError, match="windows of a multiple of 32 voxels, got 48") as caught:
        load_components(tiny(f"backbone.folder={folder}", "backbone.window_voxels=48"))
    assert caught.value.hint.endswith("window_voxels=32.")


def test_a_head_that_looks_through_another_denoiser_is_refused(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "mixed", 384, (8, 8, 8), denoiser_timestep=50.0)
    with pytest.raises(WeightsError, match=r"the autoencoder and the denoiser give \(8, 8, 16, 16\)"):
        load_components(tiny(f"backbone.folder={folder}"))


def test_a_trained_residual_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "mine", 384, (8, 8, 8))
    save_module(ResidualProjection(4, 384), folder / "residual")
    write_checksums(folder)
    asked = load_components(tiny(f"backbone.folder={folder}", "residual.feature=projection"))
    assert isinstance(asked.residual, ResidualProjection) and len(asked.weights) == 5
    assert not any(parameter.requires_grad for parameter in asked.residual.parameters())
    assert load_components(tiny(f"backbone.folder={folder}")).residual is None


def test_a_residual_that_was_not_trained_is_missed_by_name(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "mine", 384, (8, 8, 8))
    with pytest.raises(WeightsError, match="holds no trained projection") as caught:
        load_components(tiny(f"backbone.folder={folder}", "residual.feature=projection"))
    assert caught.value.code == "residual_missing" and "train residual" in caught.value.hint


def test_a_residual_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = a_model_folder(tmp_path / "mine", 384, (8, 8, 8))
    save_module(ResidualProjection(8, 384), folder / "residual")
    write_checksums(folder)
    with pytest.raises(WeightsError, match="latents of 8 channels and sentences of 384"):
        load_components(tiny(f"backbone.folder={folder}", "residual.feature=projection"))


def test_untrained_networks_come_with_an_untrained_residual_for_tests() -> None:
    asked = load_components(tiny("residual.feature=projection"), allow_untrained=True)
    assert isinstance(asked.residual, ResidualProjection) and not asked.trained
