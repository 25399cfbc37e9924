"""The denoiser of the latent painter: a UNet that halves the slices and never the depth, with attention along both.

Follows DiffTumor (Chen et al., CVPR 2024), its second step, the diffusion model. Module names follow the published
files, so that their 300 tensors fit one for one. Latents are depth first, (b, c, z, x, y); see `vqgan.depth_first`.
"""

import itertools
import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.errors import GeometryError, InputError

HEADS, HEAD_DIM = 8, 32
"""Of every attention."""
_GROUPS = 8
_BUCKETS = 32
_FARTHEST = 32


class LatentUNet3D(ModelMixin, ConfigMixin):
    """Predicts the noise in a latent, given the latent around the tumor and where the tumor is.

    The defaults are the published network (300 tensors).

    Args:
        dim: Channels at full resolution; a multiple of 8.
        channels: Of noisy latent and condition together.
        out_channels: Of the noise.
        dim_mults: What multiplies `dim` at each level.
        text_dim: Numbers of a sentence's embedding that is added to the time's, so that words may steer the paint (the
            idea of TextoMorph); it begins with weights of 0. 0, as published: there are no such weights. No painter of
            ours is trained with it.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        dim: int = 24,
        channels: int = 17,
        out_channels: int = 8,
        dim_mults: tuple[int, ...] = (1, 2, 4, 8),
        text_dim: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = channels
        self.side_multiple = 2 ** (len(dim_mults) - 1)
        widths = [dim, *(dim * factor for factor in dim_mults)]
        levels = list(itertools.pairwise(widths))
        time_dim, middle, last = 4 * dim, widths[-1], len(levels) - 1
        self.time_rel_pos_bias = RelativePositionBias()
        self.init_conv = nn.Conv3d(channels, dim, (1, 7, 7), padding=(0, 3, 3))
        self.init_temporal_attn = _depth_attention(dim)
        self.time_mlp = nn.Sequential(Sinusoid(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.text_mlp = _silent(text_dim, time_dim) if text_dim else None
        self.downs = nn.ModuleList(
            Level(width, out, time_dim, _halving(out) if number < last else nn.Identity())
            for number, (width, out) in enumerate(levels)
        )
        self.mid_block1 = ResnetBlock(middle, middle, time_dim)
        self.mid_spatial_attn = Residual(PreNorm(middle, AcrossSlice(SelfAttention(middle, rotary=False))))
        self.mid_temporal_attn = _depth_attention(middle)
        self.mid_block2 = ResnetBlock(middle, middle, time_dim)
        self.ups = nn.ModuleList(
            Level(2 * out, width, time_dim, _doubling(width) if number < last else nn.Identity())
            for number, (width, out) in enumerate(reversed(levels))
        )
        self.final_conv = nn.Sequential(ResnetBlock(2 * dim, dim), nn.Conv3d(dim, out_channels, 1))

    def forward(
        self,
        x: Float[Tensor, "b c z x y"],
        t: Int[Tensor, " b"],
        cond: Float[Tensor, "b d z x y"],
        text: Float[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b e z x y"]:
        """Return the noise in a latent.

        Args:
            x: The noisy latent.
            t: Timestep of each sample.
            cond: The latent of the image whose tumor is blanked, and the tumor's mask as -1 and 1.
            text: A sentence's embedding; None: nothing is said.

        Raises:
            InputError: If latent and condition do not have the network's channels together, or the network knows no text.
            GeometryError: If a slice's side is not a multiple of what the levels divide it by.
        """
        self._require_fitting(x, cond, text)
        hidden = self.init_conv(torch.cat((x, cond), dim=1))
        bias = self.time_rel_pos_bias(x.shape[2], x.device)
        hidden = self.init_temporal_attn(hidden, bias)
        first, time = hidden, self.time_mlp(t)
        if self.text_mlp is not None and text is not None:
            time = time + self.text_mlp(text)
        skips = []
        for level in self.downs:
            skip, hidden = level(hidden, time, bias)
            skips.append(skip)
        hidden = self.mid_spatial_attn(self.mid_block1(hidden, time))
        hidden = self.mid_block2(self.mid_temporal_attn(hidden, bias), time)
        for level in self.ups:
            _, hidden = level(torch.cat((hidden, skips.pop()), dim=1), time, bias)
        noise: Tensor = self.final_conv(torch.cat((hidden, first), dim=1))
        return noise

    def _require_fitting(self, x: Tensor, cond: Tensor, text: Tensor | None) -> None:
        if text is not None and self.text_mlp is None:
            raise InputError("This denoiser was built without text.", hint="build it with text_dim, or say nothing.")
        if x.shape[1] + cond.shape[1] != self.in_channels:
            raise InputError(
                f"Expected {self.in_channels} channels of latent and condition together, "
                f"got {x.shape[1]} and {cond.shape[1]}."
            )
        if any(side % self.side_multiple for side in x.shape[3:]):
            raise GeometryError(
                f"Expected slices of the latent whose sides are multiples of {self.side_multiple}, "
                f"got {tuple(x.shape[3:])}.",
                hint="pad the image.",
            )


def _silent(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer that adds nothing until it is trained."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Sinusoid(nn.Module):
    """A timestep as sines and cosines of falling frequency."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.waves = dim // 2

    def forward(self, t: Int[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Return sin and cos of t · exp(-ln(10000) · i / (half - 1)), one after the other."""
        steps = torch.arange(self.waves, device=t.device)
        angles = t[:, None] * torch.exp(-math.log(10000) / (self.waves - 1) * steps)[None]
        return torch.cat((angles.sin(), angles.cos()), dim=1)


class RelativePositionBias(nn.Module):
    """What attention along the depth adds for the way between two slices, one number a head; shared by all levels.

    T5's buckets: half for each direction; single steps up to 8, then ever wider, all beyond 32 in the last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(_BUCKETS, HEADS)

    def forward(self, count: int, device: torch.device) -> Float[Tensor, "h i j"]:
        """Return the bias of `count` queries to `count` keys."""
        position = torch.arange(count, device=device)
        bias: Tensor = self.relative_attention_bias(bucket(position[None] - position[:, None]))
        return bias.permute(2, 0, 1)


def bucket(offset: Int[Tensor, "i j"]) -> Int[Tensor, "i j"]:
    """Return T5's bucket of key position minus query position, 0 to 31."""
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    distance = offset.abs()
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(_FARTHEST / exact)
    wide = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return (offset > 0).long() * half + torch.where(distance < exact, distance, wide)


class Rotary(nn.Module):
    """Turns pairs of neighboring numbers by an angle that grows with the position."""

    freqs: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 10000.0 ** (-torch.arange(0, dim, 2).float() / dim))

    def forward(self, vectors: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n d"]:
        """Return (a, b) as (a cos - b sin, b cos + a sin), pair by pair, the position's angle times each frequency."""
        angle = torch.arange(vectors.shape[-2], device=vectors.device)[:, None] * self.freqs[None]
        a, b = vectors[..., ::2], vectors[..., 1::2]
        turned = torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1)
        return turned.flatten(-2)


class SelfAttention(nn.Module):
    """Attention among the tokens of a sequence, with or without turned positions."""

    def __init__(self, dim: int, rotary: bool) -> None:
        super().__init__()
        self.rotary_emb = Rotary(HEAD_DIM) if rotary else None
        self.to_qkv = nn.Linear(dim, 3 * HEADS * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(HEADS * HEAD_DIM, dim, bias=False)

    def forward(self, tokens: Float[Tensor, "b n c"], bias: Float[Tensor, "h n n"] | None = None) -> Tensor:
        """Return what the tokens tell each other; the bias is added before the softmax."""
        q, k, v = (rearrange(part, "b n (h d) -> b h n d", h=HEADS) for part in self.to_qkv(tokens).chunk(3, dim=-1))
        if self.rotary_emb is not None:
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        heard = functional.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None])
        out: Tensor = self.to_out(rearrange(heard, "b h n d -> b n (h d)"))
        return out


class SliceLinearAttention(nn.Module):
    """Attention within each slice whose cost grows with the voxels, not their square: keys are summed up first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(dim, 3 * HEADS * HEAD_DIM, 1, bias=False)
        self.to_out = nn.Conv2d(HEADS * HEAD_DIM, dim, 1)

    def forward(self, hidden: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return what the voxels of a slice tell each other."""
        slices = rearrange(hidden, "b c z x y -> (b z) c x y")
        parts = self.to_qkv(slices).chunk(3, dim=1)
        q, k, v = (rearrange(part, "b (h d) x y -> b h d (x y)", h=HEADS) for part in parts)
        q, k = q.softmax(dim=-2) * HEAD_DIM**-0.5, k.softmax(dim=-1)
        told = torch.einsum("bhdn,bhen->bhde", k, v)
        heard = torch.einsum("bhde,bhdn->bhen", told, q)
        heard = rearrange(heard, "b h e (x y) -> b (h e) x y", x=slices.shape[2])
        out: Tensor = rearrange(self.to_out(heard), "(b z) c x y -> b c z x y", b=hidden.shape[0])
        return out


class AlongDepth(nn.Module):
    """Gives a module each column of voxels as a sequence."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, hidden: Float[Tensor, "b c z x y"], bias: Float[Tensor, "h z z"]) -> Tensor:
        """Return the module's answer, folded back."""
        b, _, _, x, _ = hidden.shape
        tokens = self.fn(rearrange(hidden, "b c z x y -> (b x y) z c"), bias)
        out: Tensor = rearrange(tokens, "(b x y) z c -> b c z x y", b=b, x=x)
        return out


class AcrossSlice(nn.Module):
    """Gives a module each slice as a sequence of voxels."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, hidden: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return the module's answer, folded back."""
        b, _, _, x, _ = hidden.shape
        tokens = self.fn(rearrange(hidden, "b c z x y -> (b z) (x y) c"))
        out: Tensor = rearrange(tokens, "(b z) (x y) c -> b c z x y", b=b, x=x)
        return out


class ChannelNorm(nn.Module):
    """Scales the channels of each voxel to mean 0 and variance 1, and each channel by a factor."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, dim, 1, 1, 1))

    def forward(self, hidden: Float[Tensor, "b c z x y"]) -> Tensor:
        """Return the scaled batch."""
        variance, mean = torch.var_mean(hidden, dim=1, correction=0, keepdim=True)
        return (hidden - mean) / (variance + 1e-5).sqrt() * self.gamma


class PreNorm(nn.Module):
    """Norms what a module gets."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = ChannelNorm(dim)

    def forward(self, hidden: Float[Tensor, "b c z x y"], *more: Tensor) -> Tensor:
        """Return the module's answer."""
        out: Tensor = self.fn(self.norm(hidden), *more)
        return out


class Residual(nn.Module):
    """Adds a module's answer to what it got."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, hidden: Float[Tensor, "b c z x y"], *more: Tensor) -> Tensor:
        """Return the sum."""
        out: Tensor = hidden + self.fn(hidden, *more)
        return out


class Block(nn.Module):
    """Convolution within the slice, norm, scale and shift by the time, SiLU."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(dim, out, (1, 3, 3), padding=(0, 1, 1))
        self.norm = nn.GroupNorm(_GROUPS, out)

    def forward(self, hidden: Float[Tensor, "b c z x y"], scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the batch."""
        hidden = self.norm(self.proj(hidden))
        if scale_shift is not None:
            scale, shift = scale_shift
            hidden = hidden * (scale + 1) + shift
        return functional.silu(hidden)


class ResnetBlock(nn.Module):
    """Two blocks beside a shortcut; the time, where there is one, speaks to the first."""

    def __init__(self, dim: int, out: int, time_dim: int | None = None) -> None:
        super().__init__()
        self.mlp = None if time_dim is None else nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * out))
        self.block1 = Block(dim, out)
        self.block2 = Block(out, out)
        self.res_conv = nn.Conv3d(dim, out, 1) if dim != out else nn.Identity()

    def forward(self, hidden: Float[Tensor, "b c z x y"], time: Float[Tensor, "b t"] | None = None) -> Tensor:
        """Return the batch."""
        scale_shift = None
        if self.mlp is not None and time is not None:
            scale, shift = rearrange(self.mlp(time), "b c -> b c 1 1 1").chunk(2, dim=1)
            scale_shift = (scale, shift)
        added = self.block2(self.block1(hidden, scale_shift))
        out: Tensor = added + self.res_conv(hidden)
        return out


class Level(nn.ModuleList):
    """Two blocks, attention within the slice, attention along the depth, and the way to the next level."""

    def __init__(self, dim: int, out: int, time_dim: int, resample: nn.Module) -> None:
        slice_attention = Residual(PreNorm(out, SliceLinearAttention(out)))
        blocks = (ResnetBlock(dim, out, time_dim), ResnetBlock(out, out, time_dim))
        super().__init__([*blocks, slice_attention, _depth_attention(out), resample])

    def forward(
        self, hidden: Float[Tensor, "b c z x y"], time: Float[Tensor, "b t"], bias: Float[Tensor, "h z z"]
    ) -> tuple[Tensor, Tensor]:
        """Return the level's answer, and what the next level gets of it."""
        block1, block2, slice_attention, depth_attention, resample = self
        hidden = block2(block1(hidden, time), time)
        hidden = depth_attention(slice_attention(hidden), bias)
        return hidden, resample(hidden)


def _depth_attention(dim: int) -> Residual:
    return Residual(PreNorm(dim, AlongDepth(SelfAttention(dim, rotary=True))))


def _halving(dim: int) -> nn.Conv3d:
    return nn.Conv3d(dim, dim, (1, 4, 4), (1, 2, 2), (0, 1, 1))


def _doubling(dim: int) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(dim, dim, (1, 4, 4), (1, 2, 2), (0, 1, 1))
