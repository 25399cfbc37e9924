"""The 3D VQGAN: CT patches to latents of a quarter of each side and back; the first of DiffTumor's three steps.

Follows DiffTumor (Chen et al., CVPR 2024). Module names follow the published file, so that its tensors fit one for one.
All networks of the latent painter see depth first, (b, c, Z, X, Y): `depth_first` and `depth_last` lead to and from our
(b, c, X, Y, Z). Discriminators and perceptual network, which only training needs, are in `vqgan_critics`.
"""

import itertools
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.errors import ConfigError, GeometryError
from DiffuGTSLib.synthesis.codebook import Codebook

_Sides = tuple[int, int, int]


def depth_first(image: Float[Tensor, "b c X Y Z"]) -> Float[Tensor, "b c Z X Y"]:
    """Return a batch as the networks see it."""
    return image.permute(0, 1, 4, 2, 3)


def depth_last(image: Float[Tensor, "b c Z X Y"]) -> Float[Tensor, "b c X Y Z"]:
    """Return a batch of the networks as the house sees it; undoes `depth_first`."""
    return image.permute(0, 1, 3, 4, 2)


class Reconstruction(NamedTuple):
    """A batch through the VQGAN.

    Attributes:
        image: As the decoder sees it.
        commitment: See `Quantized`.
        perplexity: See `Quantized`.
        indices: See `Quantized`.
    """

    image: Float[Tensor, "b c Z X Y"]
    commitment: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]
    indices: Int[Tensor, "b z x y"]


class SamePadConv3d(nn.Module):
    """A convolution that keeps the side, or divides it by its stride; edge values continue outside."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: _Sides = (1, 1, 1)) -> None:
        super().__init__()
        self.pad = _same_pad(kernel, stride)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride)

    def forward(self, hidden: Float[Tensor, "b c Z X Y"]) -> Tensor:
        """Return the convolved batch."""
        out: Tensor = self.conv(functional.pad(hidden, self.pad, mode="replicate"))
        return out


class SamePadConvTranspose3d(nn.Module):
    """A transposed convolution that multiplies the side by its stride; edge values continue outside."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: _Sides) -> None:
        super().__init__()
        self.pad = _same_pad(kernel, stride)
        self.convt = nn.ConvTranspose3d(in_channels, out_channels, kernel, stride, padding=kernel - 1)

    def forward(self, hidden: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return the enlarged batch."""
        out: Tensor = self.convt(functional.pad(hidden, self.pad, mode="replicate"))
        return out


class ResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, beside an identity."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels, groups)
        self.conv1 = SamePadConv3d(channels, channels, 3)
        self.norm2 = _norm(channels, groups)
        self.conv2 = SamePadConv3d(channels, channels, 3)

    def forward(self, hidden: Float[Tensor, "b c Z X Y"]) -> Tensor:
        """Return the batch with what the block adds."""
        added = self.conv1(functional.silu(self.norm1(hidden)))
        out: Tensor = hidden + self.conv2(functional.silu(self.norm2(added)))
        return out


class DownBlock(nn.Module):
    """Halves the sides, then one residual block."""

    def __init__(self, channels: int, out: int, stride: _Sides, groups: int) -> None:
        super().__init__()
        self.down = SamePadConv3d(channels, out, 4, stride)
        self.res = ResBlock(out, groups)

    def forward(self, hidden: Float[Tensor, "b c Z X Y"]) -> Tensor:
        """Return the smaller batch."""
        out: Tensor = self.res(self.down(hidden))
        return out


class UpBlock(nn.Module):
    """Doubles the sides, then two residual blocks."""

    def __init__(self, channels: int, out: int, stride: _Sides, groups: int) -> None:
        super().__init__()
        self.up = SamePadConvTranspose3d(channels, out, 4, stride)
        self.res1 = ResBlock(out, groups)
        self.res2 = ResBlock(out, groups)

    def forward(self, hidden: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return the larger batch."""
        out: Tensor = self.res2(self.res1(self.up(hidden)))
        return out


class Encoder(nn.Module):
    """Channels double from level to level."""

    def __init__(self, n_hiddens: int, strides: list[_Sides], groups: int) -> None:
        super().__init__()
        self.conv_first = SamePadConv3d(1, n_hiddens, 3)
        self.conv_blocks = nn.Sequential(
            *(DownBlock(n_hiddens * 2**n, n_hiddens * 2 ** (n + 1), stride, groups) for n, stride in enumerate(strides))
        )
        self.out_channels = n_hiddens * 2 ** len(strides)
        self.final_block = nn.Sequential(_norm(self.out_channels, groups), nn.SiLU())

    def forward(self, image: Float[Tensor, "b 1 Z X Y"]) -> Tensor:
        """Return features at the latent's grid."""
        features: Tensor = self.final_block(self.conv_blocks(self.conv_first(image)))
        return features


class Decoder(nn.Module):
    """The encoder's channels backwards, except that its first level keeps them."""

    def __init__(self, n_hiddens: int, strides: list[_Sides], groups: int) -> None:
        super().__init__()
        outs = [n_hiddens * 2**level for level in range(len(strides), 0, -1)]
        widths = outs[:1] + outs
        self.final_block = nn.Sequential(_norm(widths[0], groups), nn.SiLU())  # comes first, whatever its name says
        self.conv_blocks = nn.Sequential(
            *(UpBlock(*pair, stride, groups) for pair, stride in zip(itertools.pairwise(widths), strides, strict=True))
        )
        self.conv_last = SamePadConv3d(widths[-1], 1, 3)

    def forward(self, features: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return the image; nothing keeps it within -1 to 1."""
        image: Tensor = self.conv_last(self.conv_blocks(self.final_block(features)))
        return image


class Vqgan3D(ModelMixin, ConfigMixin):
    """Images in [-1, 1] to latents and, through the nearest codes, back. The defaults are the published network.

    Args:
        n_hiddens: Channels at full resolution; each level doubles them.
        downsample: What divides the sides, (Z, X, Y); powers of two.
        embedding_dim: Channels of the latent.
        n_codes: Codes in the table.
        groups: Of the group norms; divides 2 · n_hiddens.

    Raises:
        ConfigError: If a divisor is not a power of two, or the groups do not divide the channels.
    """

    config_name = "config.json"
    _keep_in_fp32_modules = ["codebook.N", "codebook.z_avg"]  # noqa: RUF012 - sums that half precision may not hold

    @register_to_config
    def __init__(
        self,
        n_hiddens: int = 16,
        downsample: _Sides = (4, 4, 4),
        embedding_dim: int = 8,
        n_codes: int = 16384,
        groups: int = 32,
    ) -> None:
        super().__init__()
        if (2 * n_hiddens) % groups:
            raise ConfigError(f"groups: expected a divisor of 2 · n_hiddens = {2 * n_hiddens}, got {groups}.")
        strides = _strides(tuple(downsample))
        self.downsample = tuple(downsample)
        self.encoder = Encoder(n_hiddens, strides, groups)
        self.decoder = Decoder(n_hiddens, strides[::-1], groups)
        self.pre_vq_conv = SamePadConv3d(self.encoder.out_channels, embedding_dim, 1)
        self.post_vq_conv = SamePadConv3d(embedding_dim, self.encoder.out_channels, 1)
        self.codebook = Codebook(n_codes, embedding_dim)

    def forward(self, image: Float[Tensor, "b 1 Z X Y"], generator: torch.Generator | None = None) -> Reconstruction:
        """Encode, quantize, decode. In training mode the codebook learns, and draws from the generator."""
        quantized = self.codebook(self.encode(image), generator)
        decoded = self.decoder(self.post_vq_conv(quantized.latent))
        return Reconstruction(decoded, quantized.commitment, quantized.perplexity, quantized.indices)

    def encode(self, image: Float[Tensor, "b 1 Z X Y"]) -> Float[Tensor, "b e z x y"]:
        """Return the latent of an image in [-1, 1], not quantized and not normalized.

        Raises:
            GeometryError: If a side is not a multiple of what divides it.
        """
        if any(side % divisor for side, divisor in zip(image.shape[2:], self.downsample, strict=True)):
            raise GeometryError(
                f"Expected sides (Z, X, Y) that are multiples of {self.downsample}, got {tuple(image.shape[2:])}.",
                hint="pad the image.",
            )
        latent: Tensor = self.pre_vq_conv(self.encoder(image))
        return latent

    def decode(self, latent: Float[Tensor, "b e z x y"]) -> Float[Tensor, "b 1 Z X Y"]:
        """Return the image of a latent that is not normalized; it is snapped to the codebook first."""
        vectors = latent.movedim(1, -1).reshape(-1, latent.shape[1])
        indices = self.codebook.nearest(vectors).view(latent.shape[0], *latent.shape[2:])
        image: Tensor = self.decoder(self.post_vq_conv(self.codebook.lookup(indices)))
        return image

    def normalize(self, latent: Float[Tensor, "b e z x y"]) -> Float[Tensor, "b e z x y"]:
        """Return the latent on the scale of the diffusion model: the codebook's least number becomes -1, its greatest 1."""
        low, high = self._limits()
        return 2 * (latent - low) / (high - low) - 1

    def denormalize(self, latent: Float[Tensor, "b e z x y"]) -> Float[Tensor, "b e z x y"]:
        """Return the latent on the codebook's scale; undoes `normalize`."""
        low, high = self._limits()
        return (latent + 1) / 2 * (high - low) + low

    def _limits(self) -> tuple[float, float]:
        low, high = self.codebook.limits
        if low == high:
            raise ConfigError(
                "The codebook is empty, so that there is no scale to put latents on.",
                hint="train the VQGAN first: diffugts train vqgan.",
            )
        return low, high


def _strides(downsample: tuple[int, ...]) -> list[_Sides]:
    """Return the strides of each level; an axis that is divided less often stops being divided sooner."""
    halvings = [divisor.bit_length() - 1 for divisor in downsample]
    if any(divisor < 1 or 2**times != divisor for divisor, times in zip(downsample, halvings, strict=True)):
        raise ConfigError(f"downsample: expected powers of two, got {downsample}.")
    z, x, y = halvings
    return [(1 + (level < z), 1 + (level < x), 1 + (level < y)) for level in range(max(halvings))]


def _same_pad(kernel: int, stride: _Sides) -> tuple[int, ...]:
    """Return what is added before and after each axis, last axis first: kernel - stride, the odd one before."""
    totals = [kernel - step for step in reversed(stride)]
    return tuple(side for total in totals for side in (total // 2 + total % 2, total // 2))


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)
