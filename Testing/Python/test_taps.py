"""The denoiser's features beside the encoder's: which levels they join, and what they depend on."""

import pytest
import torch

from DiffuGTSLib.backbones import Backbone, build_backbone
from DiffuGTSLib.backbones.interfaces import LatentAutoencoder
from DiffuGTSLib.backbones.taps import DenoiserTap, TappedAutoencoder, tapped, tapped_levels
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import InputError

SPACING_MM = (2.0, 2.0, 2.0)
IMAGE = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["tiny", "mini"])
def a_backbone(request: pytest.FixtureRequest) -> Backbone:
    return build_backbone(load_config(request.param).backbone)


def eyes(backbone: Backbone, timestep: float = 50.0, scale: float = 1.0, modality: str = "CT") -> TappedAutoencoder:
    tap = DenoiserTap(timestep, scale)
    return TappedAutoencoder(backbone.autoencoder, backbone.denoiser, tap, SPACING_MM, modality)


def seen(through: LatentAutoencoder) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        return through.encode(IMAGE).features


def test_levels_of_one_stride_join_and_coarser_ones_follow(a_backbone: Backbone) -> None:
    channels, strides = tapped_levels(a_backbone.autoencoder, a_backbone.denoiser)
    encoder, denoiser = a_backbone.autoencoder.feature_channels, a_backbone.denoiser.feature_channels
    assert channels == (*encoder[:-1], encoder[-1] + denoiser[0], *denoiser[1:])
    assert strides == tuple(2**level for level in range(len(channels)))
    through = eyes(a_backbone)
    assert isinstance(through, LatentAutoencoder)
    assert (through.feature_channels, through.feature_strides) == (channels, strides)
    expected = [(1, count, *3 * (32 // stride,)) for count, stride in zip(channels, strides, strict=True)]
    assert [tuple(feature.shape) for feature in seen(through)] == expected


def test_latent_image_and_the_encoders_own_features_stay_as_they_are(a_backbone: Backbone) -> None:
    through = eyes(a_backbone)
    with torch.inference_mode():
        plain, joined = a_backbone.autoencoder.encode(IMAGE), through.encode(IMAGE)
        assert torch.equal(plain.latent, joined.latent)
        assert torch.equal(a_backbone.autoencoder.decode(plain.latent), through.decode(joined.latent))
    for own, both in zip(plain.features, joined.features, strict=False):
        assert torch.equal(own, both[:, : own.shape[1]])


def test_the_same_window_always_looks_the_same_and_leaves_no_hook_behind(a_backbone: Backbone) -> None:
    through = eyes(a_backbone)
    assert all(torch.equal(a, b) for a, b in zip(seen(through), seen(through), strict=True))
    assert isinstance(a_backbone.denoiser, torch.nn.Module)
    assert not any(module._forward_hooks for module in a_backbone.denoiser.modules())


def test_the_denoiser_is_told_level_and_modality(a_backbone: Backbone) -> None:
    coarsest = seen(eyes(a_backbone))[-1]
    assert not torch.allclose(coarsest, seen(eyes(a_backbone, timestep=500.0))[-1])
    assert not torch.allclose(coarsest, seen(eyes(a_backbone, modality="MR"))[-1])
    torch.testing.assert_close(3 * coarsest, seen(eyes(a_backbone, scale=3.0))[-1])
    with pytest.raises(InputError, match="not modality 'PET'"):
        eyes(a_backbone, modality="PET").encode(IMAGE)


def test_without_a_tap_there_is_only_the_autoencoder(a_backbone: Backbone) -> None:
    parts = (a_backbone.autoencoder, a_backbone.denoiser)
    assert tapped(*parts, None, SPACING_MM, "CT") is a_backbone.autoencoder
    assert isinstance(tapped(*parts, DenoiserTap(50.0), SPACING_MM, "CT"), TappedAutoencoder)
