"""The VQGAN: the published tensors one for one, sides, pads, the scale of its latents, and the door to depth first."""

import json
from pathlib import Path

import pytest
import torch

from DiffuGTSLib.backbones.weights import load_module, save_module
from DiffuGTSLib.errors import ConfigError, GeometryError
from DiffuGTSLib.synthesis.vqgan import SamePadConv3d, SamePadConvTranspose3d, Vqgan3D, depth_first, depth_last
from DiffuGTSLib.synthesis.vqgan_critics import VqganCritics, published_tensors

PUBLISHED = json.loads((Path(__file__).parent / "published_tensors.json").read_text(encoding="utf-8"))


def a_vqgan(**changes: object) -> Vqgan3D:
    """A small one with a table of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan: Vqgan3D = Vqgan3D(**{"n_hiddens": 4, "embedding_dim": 3, "n_codes": 32, "groups": 4, **changes})
        vqgan.codebook.embeddings.normal_()
        vqgan.codebook.N.fill_(2.0)
    return vqgan.eval()


@pytest.fixture
def a_published_vqgan() -> Vqgan3D:
    """The published sizes, shapes only."""
    with torch.device("meta"):
        vqgan: Vqgan3D = Vqgan3D()
    return vqgan


def test_the_container_has_the_published_tensors_name_for_name_and_shape_for_shape(a_published_vqgan: Vqgan3D) -> None:
    with torch.device("meta"):
        tensors = published_tensors(a_published_vqgan, VqganCritics())
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == PUBLISHED["vqgan"]
    assert len(tensors) == 154
    assert sum(tensor.numel() for tensor in tensors.values()) == 30_203_511


def test_the_parts_have_the_published_numbers_of_parameters(a_published_vqgan: Vqgan3D) -> None:
    parts = ("encoder", "decoder", "pre_vq_conv", "post_vq_conv", "codebook")
    counts = [sum(p.numel() for p in a_published_vqgan.get_submodule(part).parameters()) for part in parts]
    assert counts == [441_568, 948_417, 520, 576, 0]


def test_a_patch_of_96_becomes_a_latent_of_24_and_comes_back(a_published_vqgan: Vqgan3D) -> None:
    latent = a_published_vqgan.encode(torch.empty(1, 1, 96, 96, 96, device="meta"))
    assert latent.shape == (1, 8, 24, 24, 24)
    assert a_published_vqgan.decode(latent).shape == (1, 1, 96, 96, 96)


def test_the_sides_of_a_latent_are_those_of_the_image_divided() -> None:
    vqgan = a_vqgan(downsample=(2, 4, 8))
    image = torch.randn(2, 1, 8, 16, 32)
    latent = vqgan.encode(image)
    assert latent.shape == (2, 3, 4, 4, 4)
    assert vqgan(image).image.shape == vqgan.decode(latent).shape == image.shape


@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_a_same_padded_convolution_keeps_the_side_and_the_edge(kernel: int) -> None:
    layer = SamePadConv3d(1, 1, kernel)
    torch.nn.init.constant_(layer.conv.weight, 1 / kernel**3)
    torch.nn.init.zeros_(layer.conv.bias)
    flat = torch.full((1, 1, 5, 6, 7), 3.0)
    assert torch.allclose(layer(flat), flat), "nothing dark creeps in from outside"


def test_a_same_padded_convolution_sees_as_much_before_as_after() -> None:
    layer = SamePadConv3d(1, 1, 3)
    torch.nn.init.dirac_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    image = torch.randn(1, 1, 4, 5, 6)
    assert torch.equal(layer(image), image)


def test_strides_halve_and_their_transposed_doubles() -> None:
    image = torch.randn(1, 1, 4, 6, 8)
    assert SamePadConv3d(1, 2, 4, (2, 2, 2))(image).shape == (1, 2, 2, 3, 4)
    assert SamePadConvTranspose3d(1, 2, 4, (2, 2, 2))(image).shape == (1, 2, 8, 12, 16)
    assert SamePadConvTranspose3d(1, 2, 4, (1, 2, 2))(image).shape == (1, 2, 4, 12, 16)


def test_the_door_to_depth_first_leads_back() -> None:
    image = torch.randn(2, 3, 4, 5, 6)
    assert depth_first(image).shape == (2, 3, 6, 4, 5)
    assert depth_first(image)[1, 2, 5, 3, 4] == image[1, 2, 3, 4, 5]
    assert torch.equal(depth_last(depth_first(image)), image)


def test_the_scale_of_latents_is_the_codebook() -> None:
    vqgan = a_vqgan()
    low, high = vqgan.codebook.limits
    ends = torch.tensor([low, (low + high) / 2, high]).view(1, 3, 1, 1, 1)
    assert vqgan.normalize(ends).flatten().tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
    latent = torch.randn(1, 3, 2, 3, 4)
    assert torch.allclose(vqgan.denormalize(vqgan.normalize(latent)), latent, atol=1e-6)


def test_an_empty_codebook_is_no_scale() -> None:
    vqgan: Vqgan3D = Vqgan3D(4, embedding_dim=3, n_codes=8, groups=4)
    with pytest.raises(ConfigError, match="codebook is empty") as caught:
        vqgan.normalize(torch.zeros(1, 3, 1, 1, 1))
    assert "train" in caught.value.hint
    with pytest.raises(ConfigError, match="codebook is empty"):
        vqgan.denormalize(torch.zeros(1, 3, 1, 1, 1))


def test_a_latent_is_snapped_to_the_codebook_before_it_is_decoded() -> None:
    vqgan = a_vqgan()
    codes = vqgan.codebook.embeddings[:8].T.reshape(1, 3, 2, 2, 2)
    with torch.no_grad():
        exact, near = vqgan.decode(codes), vqgan.decode(codes + 1e-4)
    assert torch.equal(exact, near)


def test_encoding_snaps_nothing() -> None:
    vqgan = a_vqgan()
    with torch.no_grad():
        latent = vqgan.encode(torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3)))
        assert not torch.allclose(vqgan.codebook(latent).latent, latent, atol=1e-3)


def test_training_reaches_the_encoder_through_the_codes() -> None:
    vqgan = a_vqgan().train()
    result = vqgan(torch.randn(1, 1, 8, 8, 8), torch.Generator().manual_seed(0))
    result.image.square().mean().backward()
    gradient = vqgan.encoder.conv_first.conv.weight.grad
    assert gradient is not None and float(gradient.abs().sum()) > 0
    assert result.indices.shape == (1, 2, 2, 2) and float(result.perplexity) >= 1


def test_sides_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"multiples of \(4, 4, 4\), got \(8, 8, 9\)"):
        a_vqgan().encode(torch.zeros(1, 1, 8, 8, 9))


def test_sizes_that_fit_no_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"downsample: expected powers of two, got \(4, 4, 6\)"):
        Vqgan3D(downsample=(4, 4, 6))
    with pytest.raises(ConfigError, match=r"groups: expected a divisor of 2 · n_hiddens = 20"):
        Vqgan3D(n_hiddens=10)


def test_it_comes_back_from_its_folder_with_sizes_and_codes(tmp_path: Path) -> None:
    vqgan = a_vqgan(downsample=(2, 4, 4))
    save_module(vqgan, tmp_path)
    loaded = load_module(Vqgan3D, tmp_path)
    assert loaded.downsample == (2, 4, 4)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in vqgan.state_dict().items())


@pytest.mark.slow
def test_the_published_sizes_run_for_real() -> None:
    vqgan = a_vqgan(n_hiddens=16, embedding_dim=8, n_codes=16384, groups=32)
    with torch.no_grad():
        latent = vqgan.encode(torch.rand(1, 1, 96, 96, 96) * 2 - 1)
        assert latent.shape == (1, 8, 24, 24, 24)
        assert vqgan.decode(latent).shape == (1, 1, 96, 96, 96)
