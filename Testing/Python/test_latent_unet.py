"""The denoiser: the published tensors one for one, and each of its parts against a formula or a reference."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.t5.modeling_t5 import T5Attention

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.synthesis.latent_unet import (
    HEAD_DIM,
    HEADS,
    AlongDepth,
    Block,
    ChannelNorm,
    LatentUNet3D,
    ResnetBlock,
    Rotary,
    SelfAttention,
    Sinusoid,
    SliceLinearAttention,
    bucket,
)

PUBLISHED = json.loads((Path(__file__).parent / "published_tensors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def a_unet() -> LatentUNet3D:
    """A small one: latents of two channels, two levels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet: LatentUNet3D = LatentUNet3D(dim=8, channels=5, out_channels=2, dim_mults=(1, 2))
    return unet.eval()


def a_batch(size: int = 2, depth: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(5)
    latent, known = (torch.randn(size, channels, depth, 4, 6, generator=drawn) for channels in (2, 3))
    return latent, torch.arange(size), known


def test_it_has_the_published_tensors_name_for_name_and_shape_for_shape() -> None:
    with torch.device("meta"):
        unet: LatentUNet3D = LatentUNet3D()
    assert {name: list(tensor.shape) for name, tensor in unet.state_dict().items()} == PUBLISHED["denoiser"]
    assert len(unet.state_dict()) == 300
    assert sum(parameter.numel() for parameter in unet.parameters()) == 6_018_576


def test_the_published_one_predicts_noise_of_the_latent_s_shape() -> None:
    with torch.device("meta"):
        unet: LatentUNet3D = LatentUNet3D()
        latent, known = torch.empty(2, 8, 24, 24, 24), torch.empty(2, 9, 24, 24, 24)
        assert unet(latent, torch.zeros(2, dtype=torch.long), known).shape == latent.shape


def test_the_depth_is_never_divided(a_unet: LatentUNet3D) -> None:
    for depth in (1, 3, 7):
        latent, t, known = a_batch(depth=depth)
        assert a_unet(latent, t, known).shape == latent.shape


def test_a_batch_is_its_samples_one_by_one(a_unet: LatentUNet3D) -> None:
    latent, t, known = a_batch()
    together = a_unet(latent, t, known)
    alone = torch.cat([a_unet(latent[n : n + 1], t[n : n + 1], known[n : n + 1]) for n in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_time_and_condition_matter(a_unet: LatentUNet3D) -> None:
    latent, t, known = a_batch()
    before = a_unet(latent, t, known)
    assert not torch.allclose(a_unet(latent, t + 1, known), before, atol=1e-4)
    assert not torch.allclose(a_unet(latent, t, known + 1), before, atol=1e-4)


def test_slices_know_of_each_other_and_of_their_order(a_unet: LatentUNet3D) -> None:
    latent, t, known = a_batch(1)
    before = a_unet(latent, t, known)
    changed = latent.clone()
    changed[:, :, 2] += 1
    assert not torch.allclose(a_unet(changed, t, known)[:, :, 0], before[:, :, 0], atol=1e-5)
    turned = a_unet(latent.flip(2), t, known.flip(2)).flip(2)
    assert not torch.allclose(turned, before, atol=1e-5)


def test_text_changes_nothing_until_it_is_trained_and_said(a_unet: LatentUNet3D) -> None:
    told: LatentUNet3D = LatentUNet3D(dim=8, channels=5, out_channels=2, dim_mults=(1, 2), text_dim=6)
    added = told.load_state_dict(a_unet.state_dict(), strict=False).missing_keys
    assert set(added) == {"text_mlp.weight", "text_mlp.bias"}
    latent, t, known = a_batch()
    text = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    before = a_unet(latent, t, known)
    assert torch.equal(told(latent, t, known), before)
    assert torch.equal(told(latent, t, known, text), before), "its weights begin with 0"
    nn.init.normal_(told.text_mlp.weight, generator=torch.Generator().manual_seed(2))  # type: ignore[union-attr]
    assert torch.equal(told(latent, t, known), before), "nothing is said"
    assert not torch.allclose(told(latent, t, known, text), before, atol=1e-4)


def test_text_for_a_network_without_it_is_refused(a_unet: LatentUNet3D) -> None:
    with pytest.raises(InputError, match="built without text"):
        a_unet(*a_batch(), torch.zeros(2, 6))


def test_channels_that_do_not_fit_are_refused(a_unet: LatentUNet3D) -> None:
    latent, t, known = a_batch()
    with pytest.raises(InputError, match="Expected 5 channels of latent and condition together, got 2 and 2"):
        a_unet(latent, t, known[:, :2])


def test_slices_that_cannot_be_halved_are_refused(a_unet: LatentUNet3D) -> None:
    latent, t, known = a_batch()
    with pytest.raises(GeometryError, match=r"multiples of 2, got \(4, 5\)"):
        a_unet(latent[..., :5], t, known[..., :5])


def test_time_becomes_sines_then_cosines_of_falling_frequency() -> None:
    waves = Sinusoid(24)(torch.tensor([3]))[0]
    frequencies = [math.exp(-math.log(10000) * i / 11) for i in range(12)]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    assert waves.tolist() == pytest.approx(expected, abs=1e-6)


def test_buckets_are_t5_s() -> None:
    offset = torch.arange(-60, 61)[None]
    theirs = T5Attention._relative_position_bucket(offset, bidirectional=True, num_buckets=32, max_distance=32)
    assert torch.equal(bucket(offset), theirs)
    assert bucket(torch.tensor([[-60, -1, 0, 1, 60]])).tolist() == [[15, 1, 0, 17, 31]]


def test_positions_turn_neighboring_pairs() -> None:
    vectors = torch.zeros(1, 3, 4)
    vectors[..., 0] = vectors[..., 2] = 1
    turned = Rotary(4)(vectors)[0, 2]
    assert turned.tolist() == pytest.approx([math.cos(2), math.sin(2), math.cos(0.02), math.sin(0.02)])


def test_turned_products_depend_on_the_way_between_positions_only() -> None:
    rotary = Rotary(HEAD_DIM)
    q, k = torch.randn(2, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    products = rotary(q.expand(6, -1)) @ rotary(k.expand(6, -1)).T
    assert torch.allclose(products[:-1, :-1], products[1:, 1:], atol=1e-4)
    assert products[0, 0] == pytest.approx(float(q @ k), abs=1e-4)


def test_attention_is_the_softmax_of_scaled_products_and_bias() -> None:
    attention = SelfAttention(6, rotary=False)
    tokens, bias = torch.randn(2, 5, 6), torch.randn(HEADS, 5, 5)
    q, k, v = attention.to_qkv(tokens).view(2, 5, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / math.sqrt(HEAD_DIM) + bias).softmax(dim=-1)
    expected = attention.to_out((weights @ v).transpose(1, 2).reshape(2, 5, -1))
    assert torch.allclose(attention(tokens, bias), expected, atol=1e-5)


def test_attention_along_the_depth_stays_in_its_column() -> None:
    along = AlongDepth(SelfAttention(6, rotary=True)).requires_grad_(False)
    hidden, bias = torch.randn(1, 6, 4, 3, 2), torch.zeros(HEADS, 4, 4)
    changed = hidden.clone()
    changed[..., 1, 1] += 1
    moved = (along(changed, bias) - along(hidden, bias)).abs().amax(dim=(0, 1))
    assert (moved[:, 1, 1] > 1e-4).all()
    moved[:, 1, 1] = 0
    assert float(moved.max()) < 1e-6


def test_linear_attention_sums_values_by_keys_within_each_slice() -> None:
    attention = SliceLinearAttention(6)
    hidden = torch.randn(1, 6, 2, 3, 4)
    one = hidden[:, :, 1]
    q, k, v = attention.to_qkv(one).view(3, HEADS, HEAD_DIM, 12)
    q, k = q.softmax(dim=1) / math.sqrt(HEAD_DIM), k.softmax(dim=2)
    told = k @ v.transpose(1, 2)
    expected = attention.to_out((told.transpose(1, 2) @ q).view(1, HEADS * HEAD_DIM, 3, 4))
    assert torch.allclose(attention(hidden)[:, :, 1], expected, atol=1e-5)


def test_the_norm_is_over_the_channels_of_each_voxel() -> None:
    hidden = torch.randn(2, 6, 3, 4, 5) * 3 + 1
    expected = functional.layer_norm(hidden.movedim(1, -1), (6,), eps=1e-5).movedim(-1, 1)
    assert torch.allclose(ChannelNorm(6)(hidden), expected, atol=1e-5)


def test_time_scales_and_shifts_the_first_block_only() -> None:
    block = Block(8, 8)
    hidden = torch.randn(1, 8, 2, 4, 4)
    scale, shift = torch.full((1, 8, 1, 1, 1), 0.5), torch.full((1, 8, 1, 1, 1), -0.25)
    normed = block.norm(block.proj(hidden))
    assert torch.allclose(block(hidden, (scale, shift)), functional.silu(normed * 1.5 - 0.25), atol=1e-6)
    whole = ResnetBlock(8, 8, time_dim=4)
    assert whole.mlp is not None and isinstance(whole.res_conv, nn.Identity)
    nn.init.zeros_(whole.mlp[1].weight)
    nn.init.zeros_(whole.mlp[1].bias)
    plain = whole.block2(whole.block1(hidden)) + hidden
    assert torch.allclose(whole(hidden, torch.randn(1, 4)), plain, atol=1e-6)
