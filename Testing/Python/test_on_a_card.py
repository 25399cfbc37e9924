"""Nothing is calculated half in main memory and half on a card: the engine's roads on a card that is pretended."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mini_data import shared_run, train_mini
from phantoms import Phantom, ct_phantom, grid
from pretended_card import CARD, OnCard, pretended_card
from safetensors.torch import load_file

from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.config import CanonicalConfig, Config, load_config
from DiffuGTSLib.pipeline import Segmentation, load_components, segment
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import TrainedSegmenter, class_probs
from DiffuGTSLib.synthesis.latent_painter import LatentPainter, PainterView
from DiffuGTSLib.synthesis.latent_unet import LatentUNet3D
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.painter import Site
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import to_canonical

LIVER = organ_prompts("liver", "CT")
MAPS = ("aova", "pseudo_healthy", "residual")


def a_run(*overrides: str) -> Config:
    return load_config("tiny", overrides=["backbone.mirror=true", *overrides])


def all_stages(phantom: Phantom, config: Config, memory: WindowMemory | None = None) -> Segmentation:
    components = load_components(config, allow_untrained=True)
    return segment(phantom.scan, LIVER, components, config, coarse_mask=phantom.lesion, memory=memory)


def apart(first: Segmentation, second: Segmentation) -> float:
    """Return the largest difference of any map, as a share of its range."""
    pairs = [(getattr(first, name).array, getattr(second, name).array) for name in MAPS]
    return max(float(np.abs(one - two).max() / np.ptp(one)) for one, two in pairs)


@pytest.fixture(scope="module")
def a_phantom() -> Phantom:
    return ct_phantom()


@pytest.fixture(scope="module")
def on_the_cpu(a_phantom: Phantom) -> Segmentation:
    return all_stages(a_phantom, a_run("runtime.device=cpu"))


def test_the_card_forgives_as_little_as_a_real_one() -> None:
    with pretended_card(), torch.inference_mode():
        there = torch.ones(3, device="cuda")
        assert there.device == CARD and isinstance(there + 1, OnCard) and float(there.sum()) == 3.0
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, generator=torch.Generator(), device="cuda")
        assert not isinstance(there.cpu(), OnCard)
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("offload", ["false", "true"])
def test_a_scan_is_segmented_there_as_here(a_phantom: Phantom, on_the_cpu: Segmentation, offload: str) -> None:
    with pretended_card():
        there = all_stages(a_phantom, a_run("runtime.device=cuda", f"runtime.offload={offload}"))
    assert apart(on_the_cpu, there) == 0.0 and np.array_equal(on_the_cpu.mask.array, there.mask.array)


def test_in_bfloat16_it_comes_out_nearly_so(a_phantom: Phantom, on_the_cpu: Segmentation) -> None:
    with pretended_card():
        there = all_stages(a_phantom, a_run("runtime.device=cuda", "runtime.precision=bfloat16"))
    assert 0.0 < apart(on_the_cpu, there) < 0.2


def test_what_is_remembered_and_cached_goes_on_there(a_phantom: Phantom, on_the_cpu: Segmentation) -> None:
    config, memory = a_run("runtime.device=cuda"), WindowMemory(1000)
    with pretended_card():
        first = all_stages(a_phantom, config, memory)
        again = all_stages(a_phantom, config, memory)
        refined = segment(
            a_phantom.scan, LIVER, load_components(config, allow_untrained=True), config,
            coarse_mask=first.coarse_mask, cache=first.cache,
        )  # fmt: skip
    assert apart(on_the_cpu, again) == apart(on_the_cpu, refined) == 0.0


def test_a_segmenter_looks_there_as_here() -> None:
    network = Segmenter("unet", channels=(4, 8, 8)).eval()
    scan = to_canonical(
        ct_phantom(grid((44, 40, 36), (4.0, 4.0, 4.0))).scan, CanonicalConfig(spacing_mm=4.0, minimum_side=32), "CT"
    )
    here = class_probs(TrainedSegmenter(network, scan_grid(), 32), scan)
    with pretended_card():
        there = class_probs(TrainedSegmenter(copy.deepcopy(network).to("cuda"), scan_grid(), 32), scan)
    assert np.array_equal(here, there)


def scan_grid() -> CanonicalConfig:
    return CanonicalConfig(spacing_mm=4.0, minimum_side=32)


def test_a_trained_painter_paints_there_as_here() -> None:
    vqgan: Vqgan3D = Vqgan3D(4, embedding_dim=2, n_codes=64, groups=4)
    unet: LatentUNet3D = LatentUNet3D(8, channels=5, out_channels=2, dim_mults=(1, 2))
    vqgan.codebook.embeddings.normal_()
    vqgan.eval().requires_grad_(False), unet.eval().requires_grad_(False)
    view = PainterView(side=32, timesteps=20, ddim_steps=4)
    here = LatentPainter(vqgan, unet, view).paint(a_site(), np.random.default_rng(0))
    with pretended_card():
        painter = LatentPainter(copy.deepcopy(vqgan).to("cuda"), copy.deepcopy(unet).to("cuda"), view)
        there = painter.paint(a_site(), np.random.default_rng(0))
    assert np.array_equal(here, there)


def a_site() -> Site:
    image = np.random.default_rng(0).normal(60, 5, (34, 34, 34)).astype(np.float32)
    share = np.zeros_like(image)
    share[14:20, 14:20, 14:20] = 1
    return Site(
        image=image, share=share, organ=np.ones(image.shape, dtype=bool), spacing_mm=(1.0, 1.0, 1.0), modality="CT",
        spec=OrganSpec("liver"), size="small",
    )  # fmt: skip


@pytest.mark.parametrize("part", ["autoencoder", "denoiser", "aova"])
def test_what_is_trained_there_is_what_is_trained_here(trained: tuple[Path, Path], part: str) -> None:
    here, there = (load_file(model / part / "diffusion_pytorch_model.safetensors") for model in trained)
    assert here.keys() == there.keys()
    assert all(torch.allclose(here[name], there[name], atol=1e-5) for name in here)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two models: trained here, and on the card."""
    run = shared_run(tmp_path_factory)
    with pretended_card():
        there = train_mini(run / "data" / "protocol.json", tmp_path_factory.mktemp("on_a_card"), device="cuda")
    return run / "model", there
