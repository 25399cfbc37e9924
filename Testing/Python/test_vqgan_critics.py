"""The critics of the VQGAN: their sizes, what they give back, and the published container that they share."""

import pytest
import torch
from torch import nn

from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.synthesis.vqgan import Vqgan3D
from DiffuGTSLib.synthesis.vqgan_critics import (
    PatchDiscriminator,
    PerceptualNet,
    VqganCritics,
    load_published_vqgan,
    published_tensors,
)


def a_vqgan() -> Vqgan3D:
    vqgan: Vqgan3D = Vqgan3D(4, embedding_dim=3, n_codes=8, groups=4)
    return vqgan


@pytest.fixture(scope="module")
def a_perceptual_net() -> PerceptualNet:
    """Full size, random weights, positive weights of channels as the published ones are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PerceptualNet()
    for name, parameter in net.named_parameters():
        if name.startswith("lin"):
            parameter.abs_()
    return net


@pytest.mark.parametrize(("dimensions", "parameters"), [(2, 2_764_481), (3, 11_049_665)])
def test_a_discriminator_has_the_published_number_of_parameters(dimensions: int, parameters: int) -> None:
    with torch.device("meta"):
        discriminator = PatchDiscriminator(dimensions)
    assert sum(p.numel() for p in discriminator.parameters()) == parameters


@pytest.mark.parametrize("sides", [(32, 32), (16, 16, 16)])
def test_a_discriminator_scores_patches_and_shows_four_layers_before(sides: tuple[int, ...]) -> None:
    discriminator = PatchDiscriminator(len(sides), channels=4)
    scores, features = discriminator(torch.randn(2, 1, *sides))
    assert scores.shape[:2] == (2, 1) and len(scores.shape) == 2 + len(sides)
    assert [feature.shape[1] for feature in features] == [4, 8, 16, 32]
    scores.mean().backward()
    first = next(iter(discriminator.parameters()))
    assert first.grad is not None and float(first.grad.abs().sum()) > 0


def test_the_perceptual_net_has_the_published_number_of_parameters_and_none_to_train() -> None:
    with torch.device("meta"):
        net = PerceptualNet()
    assert sum(p.numel() for p in net.parameters()) == 14_716_160
    assert not any(p.requires_grad for p in net.parameters())


def test_a_picture_is_at_no_distance_from_itself_and_at_some_from_another(a_perceptual_net: PerceptualNet) -> None:
    drawn = torch.Generator().manual_seed(1)
    one, other = (torch.rand(2, 1, 32, 32, generator=drawn) * 2 - 1 for _ in range(2))
    assert torch.equal(a_perceptual_net(one, one), torch.zeros(2, 1, 1, 1))
    there, back = a_perceptual_net(one, other), a_perceptual_net(other, one)
    assert (there > 0).all() and torch.allclose(there, back)


def test_gray_pictures_are_seen_as_colored_ones_of_three_equal_channels(a_perceptual_net: PerceptualNet) -> None:
    gray, other = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    colored = [picture.expand(-1, 3, -1, -1) for picture in (gray, other)]
    assert torch.allclose(a_perceptual_net(gray, other), a_perceptual_net(*colored))


def test_vgg_gives_five_depths(a_perceptual_net: PerceptualNet) -> None:
    features = a_perceptual_net.net(torch.rand(1, 3, 32, 32))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2),
    ]  # fmt: skip


def test_the_container_fills_both_and_the_vqgan_alone() -> None:
    vqgan, critics = a_vqgan(), VqganCritics(4, perceptual=False)
    tensors = {name: torch.full_like(tensor, 3) for name, tensor in published_tensors(vqgan, critics).items()}
    load_published_vqgan(vqgan, critics, tensors, "here")
    assert all((tensor == 3).all() for tensor in published_tensors(vqgan, critics).values())
    alone = a_vqgan()
    load_published_vqgan(alone, None, tensors, "here")
    assert all((tensor == 3).all() for tensor in alone.state_dict().values())


def test_a_container_that_lacks_a_tensor_is_refused() -> None:
    vqgan, critics = a_vqgan(), VqganCritics(4, perceptual=False)
    tensors = published_tensors(vqgan, critics)
    del tensors["image_discriminator.model0.0.bias"]
    with pytest.raises(WeightsError, match=r"1 tensors missing \(image_discriminator.model0.0.bias\)"):
        load_published_vqgan(vqgan, critics, tensors, "here")


def test_critics_train_in_training_mode_only() -> None:
    critics = VqganCritics(4, perceptual=False).eval()
    assert not any(module.training for module in critics.modules() if isinstance(module, nn.BatchNorm3d))
