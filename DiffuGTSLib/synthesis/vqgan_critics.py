"""What judges a VQGAN while it trains: two patch discriminators and a perceptual distance. Nothing else needs them.

Follows DiffTumor (Chen et al., CVPR 2024), its first step; the published container holds them beside the VQGAN, and
`published_tensors` joins the two to its 154 tensors.
"""

import itertools
from collections.abc import Mapping

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from DiffuGTSLib.backbones.weights import load_strictly
from DiffuGTSLib.synthesis.vqgan import Vqgan3D

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

_VGG_CHANNELS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256), (256, 512, 512, 512), (512, 512, 512, 512))
"""Channels along the five slices of VGG16."""

CRITIC_PREFIXES = ("image_discriminator.", "video_discriminator.", "perceptual_model.")
"""What the published container calls the parts that are not the VQGAN."""


class PatchDiscriminator(nn.Module):
    """Scores patches of a slice or of a volume: positive is real, negative is reconstructed.

    Five convolutions of kernel 4 with LeakyReLU between them, the middle three with batch norm. Strides and padding
    of upstream are not known to us; we chose pix2pix's: the first three halve the side, zeros are padded by 2.

    Args:
        dimensions: 2 for slices, 3 for volumes.
        channels: Of the first layer; doubled by each of the next.
    """

    def __init__(self, dimensions: int, channels: int = 64) -> None:
        super().__init__()
        convolution, norm = _CONVOLUTIONS[dimensions], _NORMS[dimensions]
        widths = [1, channels, 2 * channels, 4 * channels, 8 * channels, 1]
        for number, (width, out) in enumerate(itertools.pairwise(widths)):
            layers: list[nn.Module] = [convolution(width, out, 4, stride=2 if number < 3 else 1, padding=2)]
            if 1 <= number <= 3:
                layers.append(norm(out))
            if number < 4:
                layers.append(nn.LeakyReLU(0.2))
            self.add_module(f"model{number}", nn.Sequential(*layers))

    def forward(self, image: Float[Tensor, "b 1 *sides"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the scores of the patches, and the features of the four layers before."""
        hidden, features = image, []
        for layers in self.children():
            hidden = layers(hidden)
            features.append(hidden)
        return hidden, tuple(features[:-1])


class PerceptualNet(nn.Module):
    """LPIPS: how unlike two pictures look to VGG16. Frozen, and random until weights are loaded.

    At five depths the features are scaled to unit length a position, their squared differences weighted a channel, and
    averaged over the picture; the distance is the sum (Zhang et al., CVPR 2018).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _Vgg16()
        for number, channels in enumerate(_VGG_CHANNELS):
            self.add_module(f"lin{number}", _Weighting(channels[-1]))
        self.requires_grad_(False)

    def forward(self, image: Float[Tensor, "b c x y"], other: Float[Tensor, "b c x y"]) -> Float[Tensor, "b 1 1 1"]:
        """Return one distance a picture; pictures of one channel in [-1, 1] are taken as gray."""
        total: Tensor = torch.zeros((), device=image.device)
        ours, theirs = (self.net(self.scaling_layer(picture)) for picture in (image, other))
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            weighted = self.get_submodule(f"lin{number}")((_unit_length(a) - _unit_length(b)).square())
            total = total + weighted.mean(dim=(2, 3), keepdim=True)
        return total


class VqganCritics(ModelMixin, ConfigMixin):
    """Everything in the published container that is not the VQGAN itself.

    Args:
        channels: First channels of the discriminators.
        perceptual: Whether there is the perceptual network too (14.7 M numbers).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, channels: int = 64, perceptual: bool = True) -> None:
        super().__init__()
        self.image_discriminator = PatchDiscriminator(2, channels)
        self.video_discriminator = PatchDiscriminator(3, channels)
        self.perceptual_model = PerceptualNet() if perceptual else None


def published_tensors(vqgan: Vqgan3D, critics: VqganCritics) -> dict[str, Tensor]:
    """Return the tensors of the published container, by its names."""
    return {**vqgan.state_dict(), **critics.state_dict()}


def load_published_vqgan(
    vqgan: Vqgan3D, critics: VqganCritics | None, tensors: Mapping[str, Tensor], origin: str
) -> None:
    """Fill a VQGAN, and its critics where there are any, with the tensors of a published container, strictly.

    Args:
        vqgan: Of the container's sizes.
        critics: None leaves the container's critics where they are.
        tensors: By the container's names.
        origin: For the error.

    Raises:
        WeightsError: Naming the tensors that are missing, unexpected or of another shape.
    """
    belongs = {name: name.startswith(CRITIC_PREFIXES) for name in tensors}
    load_strictly(vqgan, {name: tensors[name] for name, is_critic in belongs.items() if not is_critic}, origin)
    if critics is not None:
        load_strictly(critics, {name: tensors[name] for name, is_critic in belongs.items() if is_critic}, origin)


class _Scaling(nn.Module):
    """ImageNet's mean and deviation, for pictures in [-1, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, picture: Float[Tensor, "b c x y"]) -> Float[Tensor, "b 3 x y"]:
        return (picture - self.shift) / self.scale


class _Vgg16(nn.Module):
    """VGG16's convolutions in five slices, numbered through as in its published layers."""

    def __init__(self) -> None:
        super().__init__()
        number = 0
        for index, channels in enumerate(_VGG_CHANNELS, start=1):
            layers = nn.Sequential()
            if index > 1:
                layers.add_module(str(number), nn.MaxPool2d(2))
                number += 1
            for width, out in itertools.pairwise(channels):
                layers.add_module(str(number), nn.Conv2d(width, out, 3, padding=1))
                layers.add_module(str(number + 1), nn.ReLU())
                number += 2
            self.add_module(f"slice{index}", layers)

    def forward(self, picture: Float[Tensor, "b 3 x y"]) -> list[Tensor]:
        hidden, features = picture, []
        for layers in self.children():
            hidden = layers(hidden)
            features.append(hidden)
        return features


class _Weighting(nn.Module):
    """One weight a channel. The drop-out before it belongs to the published names; it is never active here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, difference: Float[Tensor, "b c x y"]) -> Float[Tensor, "b 1 x y"]:
        weighted: Tensor = self.model(difference)
        return weighted


def _unit_length(features: Float[Tensor, "b c x y"]) -> Float[Tensor, "b c x y"]:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
