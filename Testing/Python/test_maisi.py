"""MAISI's networks behind our protocols, and MONAI's traps that do not reach through."""

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

from DiffuGTSLib.backbones import PUBLISHED, build_backbone
from DiffuGTSLib.backbones.maisi import PUBLISHED_UNETS, MaisiAutoencoder, MaisiDenoiser, MaisiUNet, published_networks
from DiffuGTSLib.config import BackboneConfig, load_config
from DiffuGTSLib.errors import ConfigError, GeometryError
from DiffuGTSLib.planning.costs import sketch

SMALL_UNET = {
    "num_channels": (8, 16), "attention_levels": (False, True), "num_head_channels": (0, 8), "num_res_blocks": 1,
    "norm_num_groups": 4,
}  # fmt: skip


@pytest.fixture
def an_autoencoder() -> MaisiAutoencoder:
    """Real, small, seeded; its normalization learned something, so that scale and shift count."""
    torch.manual_seed(0)
    autoencoder: MaisiAutoencoder = MaisiAutoencoder(
        (8, 16, 16), (1, 2, 1), norm_num_groups=4, scaling_factor=2.0
    ).eval()
    for name, parameter in autoencoder.named_parameters():
        if ".norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.5)
    return autoencoder


def monais_own(channels: list[int], blocks: list[int], num_splits: int = 1) -> AutoencoderKlMaisi:
    return AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, num_channels=channels,
        num_res_blocks=blocks, norm_num_groups=4, norm_eps=1e-6, attention_levels=[False] * 3,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, use_checkpointing=False,
        use_convtranspose=False, norm_float16=False, num_splits=num_splits, dim_split=1, save_mem=False,
        print_info=False,
    ).eval()  # fmt: skip


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_torchs_group_norm_stands_for_monais_with_the_same_keys_and_numbers(an_autoencoder: MaisiAutoencoder) -> None:
    theirs = monais_own([8, 16, 16], [1, 2, 1])
    assert any(isinstance(module, MaisiGroupNorm3D) for module in theirs.modules())
    assert not any(isinstance(module, MaisiGroupNorm3D) for module in an_autoencoder.modules())
    assert list(theirs.state_dict()) == list(an_autoencoder.net.state_dict())
    theirs.load_state_dict(an_autoencoder.net.state_dict())
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        mean, _ = theirs.encode(image)
        torch.testing.assert_close(an_autoencoder.encode(image).latent, 2 * mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(an_autoencoder.decode(2 * mean), theirs.decode(mean), rtol=0, atol=1e-5)


def test_the_latent_is_the_mean_and_never_a_sample(an_autoencoder: MaisiAutoencoder) -> None:
    image = torch.rand(1, 1, 32, 32, 32)
    with torch.inference_mode():
        mean, _, _ = an_autoencoder.posterior(image)
        assert torch.equal(an_autoencoder.encode(image).latent, mean * 2.0), "scaled by its own factor"


def test_decoding_undoes_the_scale(an_autoencoder: MaisiAutoencoder) -> None:
    latent = torch.randn(1, 4, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(an_autoencoder.decode(latent), an_autoencoder.net.decode(latent / 2.0))


def test_splits_change_the_size_of_monais_output_and_ours_has_none() -> None:
    """36 planes in 2 splits come back as 32, without a word; the trap is why `num_splits` is fixed at 1."""
    image = torch.rand(1, 1, 36, 36, 36)
    with torch.inference_mode():
        assert monais_own([8, 8, 8], [1, 1, 1], num_splits=2).encode(image)[0].shape[2:] == (9, 8, 9)
        assert MaisiAutoencoder((8, 8, 8), (1, 1, 1), norm_num_groups=4).encode(image).latent.shape[2:] == (9, 9, 9)


def test_a_side_that_monai_would_cut_off_in_silence_is_refused(an_autoencoder: MaisiAutoencoder) -> None:
    with torch.inference_mode():
        assert monais_own([8, 8, 8], [1, 1, 1]).encode(torch.rand(1, 1, 33, 32, 32))[0].shape[2] == 8
    with pytest.raises(GeometryError, match=r"multiples of 4, got \(33, 32, 32\)") as caught:
        an_autoencoder.encode(torch.rand(1, 1, 33, 32, 32))
    assert "canonical.side_multiple" in caught.value.hint


def test_features_are_tapped_after_the_last_residual_block_of_each_scale() -> None:
    with torch.device("meta"):
        autoencoder, _ = published_networks("maisi-ct")
    assert autoencoder._taps == (2, 5, 8)
    assert autoencoder.feature_channels == (64, 128, 256)
    assert autoencoder.feature_strides == (1, 2, 4)


def test_the_taps_are_what_the_blocks_put_out(an_autoencoder: MaisiAutoencoder) -> None:
    seen: dict[int, torch.Tensor] = {}
    for index, block in enumerate(an_autoencoder.net.encoder.blocks):
        block.register_forward_hook(lambda module, given, put_out, index=index: seen.update({index: put_out}))
    with torch.inference_mode():
        features = an_autoencoder.encode(torch.rand(1, 1, 32, 32, 32)).features
    assert all(torch.equal(feature, seen[tap]) for feature, tap in zip(features, an_autoencoder._taps, strict=True))


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("maisi-ct", 180_500_868, 435), ("maisi-mr-brain", 180_500_868, 435), ("maisi-ct-ddpm", 169_370_884, 372)],
)
def test_the_published_networks_have_the_published_size(name: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        autoencoder, unet = published_networks(name)
    assert count(autoencoder) == 20_944_897
    assert len(autoencoder.state_dict()) == 130
    assert count(unet) == parameters
    assert len(unet.state_dict()) == tensors
    assert (unet.side_multiple, autoencoder.downsampling) == (8, 4), "so images need multiples of 32"


def test_every_published_name_has_its_networks() -> None:
    assert set(PUBLISHED) == set(PUBLISHED_UNETS)
    with pytest.raises(ConfigError, match=r"Unknown published model 'maisi-pt'") as caught:
        published_networks("maisi-pt")
    assert "maisi-" in caught.value.hint


def test_the_fused_attention_that_monai_refuses_to_build_on_a_cpu_gives_the_same_numbers() -> None:
    with pytest.raises(ValueError, match="Flash attention"):
        DiffusionModelUNetMaisi(
            spatial_dims=3, in_channels=4, out_channels=4, num_channels=[8, 16], attention_levels=[False, True],
            num_head_channels=[0, 8], num_res_blocks=1, norm_num_groups=4, use_flash_attention=True,
        )  # fmt: skip
    torch.manual_seed(0)
    unet = MaisiUNet(**SMALL_UNET).eval()
    torch.nn.init.normal_(unet.net.out[-1].conv.weight, std=0.1)
    blocks = [module for module in unet.net.modules() if hasattr(module, "use_flash_attention")]
    given = torch.randn(1, 4, 8, 8, 8), torch.tensor([500.0]), torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([1])
    with torch.inference_mode():
        fused = unet(*given)
        assert blocks and all(block.use_flash_attention for block in blocks)
        for block in blocks:
            block.use_flash_attention = False
        torch.testing.assert_close(unet(*given), fused, rtol=0, atol=1e-5)


@pytest.mark.parametrize("region_index", [False, True])
def test_spacing_reaches_monais_network_times_a_hundred_and_regions_where_it_wants_them(region_index: bool) -> None:
    unet = MaisiUNet(**SMALL_UNET, region_index=region_index, num_class_embeds=None if region_index else 16)
    told: dict[str, torch.Tensor] = {}
    unet.net.register_forward_pre_hook(lambda module, args, kwargs: told.update(kwargs), with_kwargs=True)
    with torch.inference_mode():
        unet(torch.zeros(2, 4, 8, 8, 8), torch.zeros(2), torch.tensor([[1.5, 2.0, 3.0]] * 2), torch.tensor([1, 8]))
    assert told["spacing_tensor"].tolist() == [[150.0, 200.0, 300.0]] * 2
    if region_index:
        assert "class_labels" not in told
        assert told["top_region_index_tensor"].tolist() == [[100.0, 0, 0, 0]] * 2
        assert told["bottom_region_index_tensor"].tolist() == [[0, 0, 0, 100.0]] * 2
    else:
        assert told["class_labels"].tolist() == [1, 8]


class Says(MaisiUNet):
    """A network that always predicts the same number, so that conventions can be worked by hand."""

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, spacing_mm: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """Return 0.5 everywhere."""
        return torch.full_like(noisy, 0.5)


def test_a_flow_prediction_worked_by_hand() -> None:
    # s = 0.25, noisy 1, clean - noise = 0.5: clean = 1 + 0.25 * 0.5 = 1.125, noise = 1 - 0.75 * 0.5 = 0.625.
    schedule = build_backbone(BackboneConfig(name="tiny")).schedule
    denoiser = MaisiDenoiser(Says(**SMALL_UNET), schedule, "flow", {"CT": 1})
    prediction = denoiser(torch.ones(1, 4, 2, 2, 2), 250.0, (2.0, 2.0, 2.0), "CT")
    assert float(prediction.clean.mean()) == pytest.approx(1.125)
    assert float(prediction.noise.mean()) == pytest.approx(0.625)


def test_a_noise_prediction_worked_by_hand() -> None:
    # signal 0.75, sigma 0.25, noisy 1, noise 0.5: clean = (1 - 0.125) / 0.75 = 1.16667.
    schedule = build_backbone(BackboneConfig(name="tiny")).schedule
    denoiser = MaisiDenoiser(Says(**SMALL_UNET), schedule, "epsilon", {"CT": 1})
    prediction = denoiser(torch.ones(1, 4, 2, 2, 2), 250.0, (2.0, 2.0, 2.0), "CT")
    assert float(prediction.clean.mean()) == pytest.approx(1.1666667)
    assert float(prediction.noise.mean()) == pytest.approx(0.5)


def test_the_tiny_denoiser_predicts_something() -> None:
    """MONAI starts the last convolution at zero: an untrained network would predict exactly nothing."""
    backbone = build_backbone(BackboneConfig(name="tiny"))
    noisy = torch.randn(1, 4, 4, 4, 4)
    prediction = backbone.denoiser(noisy, 500.0, (2.0, 2.0, 2.0), "CT")
    assert float((prediction.clean - prediction.noise).abs().max()) > 0


def test_a_denoiser_is_looked_into_at_what_a_noisy_latent_is_on_average() -> None:
    """At 250 of 1000 it is three quarters of the clean one: noise adds nothing on average."""
    denoiser = build_backbone(BackboneConfig(name="tiny")).denoiser
    latent = torch.randn(1, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    told = torch.tensor([250.0]), torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([denoiser.class_label["CT"]])
    with torch.inference_mode():
        seen, expected = (
            denoiser.features(latent, 250.0, (2.0, 2.0, 2.0), "CT"),
            denoiser.unet.features(0.75 * latent, *told),
        )
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("code", [-1, 16, 999999])
def test_a_modality_code_that_the_denoiser_does_not_have_is_refused_before_anything_runs(code: int) -> None:
    with pytest.raises(ConfigError, match=rf"expected codes of this denoiser, 0 to 15, got .*{code}") as caught:
        build_backbone(BackboneConfig(name="tiny", class_label={"CT": code}))
    assert "1 for CT and 8 for MR" in caught.value.hint
    with pytest.raises(ConfigError, match=r"backbone\.class_label"):
        sketch(load_config("tiny", overrides=[f'backbone.class_label={{"CT": {code}}}']))


def test_a_denoiser_without_modality_codes_takes_any() -> None:
    unet = MaisiUNet(**SMALL_UNET, num_class_embeds=None)
    schedule = build_backbone(BackboneConfig(name="tiny")).schedule
    assert MaisiDenoiser(unet, schedule, "flow", {"CT": 999}).class_label == {"CT": 999}
