"""What every backbone must do. A new one is added to `NAMES` and passes."""

from pathlib import Path

import pytest
import torch

from DiffuGTSLib.backbones import Backbone, build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder, NoiseSchedule
from DiffuGTSLib.config import BackboneConfig, load_config
from DiffuGTSLib.errors import ConfigError, GeometryError, InputError, WeightsError

NAMES = ["tiny", "mini"]

SPACING_MM = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module", params=NAMES)
def a_backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each backbone that needs no download."""
    return build_backbone(load_config(request.param).backbone)


def an_image(side: int = 32) -> torch.Tensor:
    return torch.rand(1, 1, side, side, side, generator=torch.Generator().manual_seed(0))


def a_noisy_latent(backbone: Backbone, cells: int = 8) -> torch.Tensor:
    shape = (1, backbone.autoencoder.latent_channels, cells, cells, cells)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_it_speaks_the_protocols(a_backbone: Backbone) -> None:
    assert isinstance(a_backbone.autoencoder, LatentAutoencoder)
    assert isinstance(a_backbone.denoiser, Denoiser)
    assert isinstance(a_backbone.schedule, NoiseSchedule)


@pytest.mark.parametrize("shape", [(32, 32, 32), (48, 32, 64)])
def test_an_image_comes_back_in_its_own_size(a_backbone: Backbone, shape: tuple[int, int, int]) -> None:
    autoencoder = a_backbone.autoencoder
    image = torch.rand(1, 1, *shape)
    with torch.inference_mode():
        latent = autoencoder.encode(image).latent
        assert latent.shape == (1, autoencoder.latent_channels, *(n // autoencoder.downsampling for n in shape))
        assert autoencoder.decode(latent).shape == image.shape


def test_features_have_the_strides_and_channels_that_are_announced(a_backbone: Backbone) -> None:
    autoencoder = a_backbone.autoencoder
    with torch.inference_mode():
        features = autoencoder.encode(an_image()).features
    expected = [
        (1, channels, *(3 * (32 // stride,)))
        for channels, stride in zip(autoencoder.feature_channels, autoencoder.feature_strides, strict=True)
    ]
    assert [tuple(feature.shape) for feature in features] == expected
    assert list(autoencoder.feature_strides) == sorted(autoencoder.feature_strides), "fine to coarse"


def test_the_denoisers_features_have_the_strides_and_channels_that_are_announced(a_backbone: Backbone) -> None:
    denoiser = a_backbone.denoiser
    with torch.inference_mode():
        features = denoiser.features(a_noisy_latent(a_backbone), 50.0, SPACING_MM, "CT")
    levels = zip(denoiser.feature_channels, denoiser.feature_strides, strict=True)
    assert [tuple(each.shape) for each in features] == [(1, count, *3 * (8 // stride,)) for count, stride in levels]


def test_nothing_of_it_can_be_trained_or_is_in_training_mode(a_backbone: Backbone) -> None:
    for part in (a_backbone.autoencoder, a_backbone.denoiser):
        assert isinstance(part, torch.nn.Module)
        assert not [name for name, parameter in part.named_parameters() if parameter.requires_grad]
        assert not [
            name for name, module in part.named_modules() if module.training and list(module.parameters(recurse=False))
        ]


def test_no_gradient_leaves_it(a_backbone: Backbone) -> None:
    encoding = a_backbone.autoencoder.encode(an_image())
    assert not encoding.latent.requires_grad
    assert not any(feature.requires_grad for feature in encoding.features)
    assert not a_backbone.denoiser(a_noisy_latent(a_backbone), 500.0, SPACING_MM, "CT").clean.requires_grad


def test_the_same_input_gives_the_same_bits(a_backbone: Backbone) -> None:
    with torch.inference_mode():
        first, second = (a_backbone.autoencoder.encode(an_image()) for _ in range(2))
        assert torch.equal(first.latent, second.latent)
        assert all(torch.equal(a, b) for a, b in zip(first.features, second.features, strict=True))
        noisy = a_noisy_latent(a_backbone)
        once, twice = (a_backbone.denoiser(noisy, 500.0, SPACING_MM, "CT") for _ in range(2))
        assert torch.equal(once.clean, twice.clean)


def test_different_images_have_different_latents_and_features(a_backbone: Backbone) -> None:
    with torch.inference_mode():
        first, second = (a_backbone.autoencoder.encode(image) for image in (an_image(), 1 - an_image()))
    assert not torch.allclose(first.latent, second.latent)
    assert all(not torch.allclose(a, b) for a, b in zip(first.features, second.features, strict=True))


def test_a_side_that_does_not_halve_is_refused(a_backbone: Backbone) -> None:
    with pytest.raises(GeometryError, match=r"multiples of \d+, got \(33, 32, 32\)"):
        a_backbone.autoencoder.encode(torch.zeros(1, 1, 33, 32, 32))


def test_a_latent_side_that_does_not_halve_is_refused(a_backbone: Backbone) -> None:
    side = a_backbone.denoiser.side_multiple + 1
    shape = (1, a_backbone.autoencoder.latent_channels, side, 8, 8)
    with pytest.raises(GeometryError, match=rf"latent sides that are multiples of \d+, got \({side}, 8, 8\)"):
        a_backbone.denoiser(torch.zeros(shape), 500.0, SPACING_MM, "CT")


def test_the_smallest_latent_is_denoised(a_backbone: Backbone) -> None:
    noisy = a_noisy_latent(a_backbone, a_backbone.denoiser.side_multiple)
    with torch.inference_mode():
        prediction = a_backbone.denoiser(noisy, 500.0, SPACING_MM, "CT")
    assert prediction.clean.shape == prediction.noise.shape == noisy.shape


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_clean_part_and_noise_make_up_the_noisy_latent_again(a_backbone: Backbone, share: float) -> None:
    noisy = a_noisy_latent(a_backbone)
    time = a_backbone.schedule.timesteps(4, noisy[0, 0].numel(), share)[0]
    with torch.inference_mode():
        prediction = a_backbone.denoiser(noisy, time, SPACING_MM, "MR")
    signal, sigma = a_backbone.schedule.levels(time)
    torch.testing.assert_close(signal * prediction.clean + sigma * prediction.noise, noisy, rtol=0, atol=1e-4)


def test_an_unknown_modality_is_refused(a_backbone: Backbone) -> None:
    with pytest.raises(InputError, match=r"knows \['CT', 'MR'\], not modality 'PET'"):
        a_backbone.denoiser(a_noisy_latent(a_backbone), 500.0, SPACING_MM, "PET")


@pytest.mark.parametrize("change", ["spacing", "modality", "timestep"])
def test_every_condition_reaches_the_network(a_backbone: Backbone, change: str) -> None:
    noisy = a_noisy_latent(a_backbone)
    spacing_mm = (2.0, 2.0, 5.0) if change == "spacing" else SPACING_MM
    modality = "MR" if change == "modality" else "CT"
    time = 700.0 if change == "timestep" else 500.0
    with torch.inference_mode():
        before = a_backbone.denoiser(noisy, 500.0, SPACING_MM, "CT").noise
        after = a_backbone.denoiser(noisy, time, spacing_mm, modality).noise
    assert not torch.equal(before, after)


def test_steps_lead_from_noise_to_the_clean_end(a_backbone: Backbone) -> None:
    times = a_backbone.schedule.timesteps(6, 16**3)
    sigmas = [a_backbone.schedule.levels(time)[1] for time in times]
    assert len(times) == 7 and sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] > 0.99 and a_backbone.schedule.levels(times[-1]) == (1.0, 0.0)


def test_the_record_names_every_weight_file(a_backbone: Backbone) -> None:
    if a_backbone.folder is None:
        assert a_backbone.weights == {}
        return
    files = {path.relative_to(a_backbone.folder).as_posix() for path in a_backbone.folder.rglob("*.safetensors")}
    assert set(a_backbone.weights) == files and len(files) == 3


def test_two_builds_of_the_test_networks_are_one_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (build_backbone(BackboneConfig(name="tiny")) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    with torch.inference_mode():
        assert torch.equal(first.autoencoder.encode(an_image()).latent, second.autoencoder.encode(an_image()).latent)


def test_an_unknown_backbone_is_answered_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"Unknown backbone 'minni'") as caught:
        build_backbone(BackboneConfig(name="minni"))
    assert "'mini'" in caught.value.hint


@pytest.mark.parametrize("name", ["maisi-ct", "maisi-ct-ddpm", "maisi-mr-brain", "maisi-mr"])
def test_a_published_backbone_says_where_its_weights_must_come_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"weights of '{name}' are not here") as caught:
        build_backbone(BackboneConfig(name=name))
    assert caught.value.code == "weights_missing"
    assert f"diffugts weights fetch {name};" in caught.value.hint and "backbone.folder" in caught.value.hint
