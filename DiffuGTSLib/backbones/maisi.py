"""MONAI's MAISI networks behind our protocols: the only place that knows latent scale and spacing × 100.

MONAI's traps that are handled here (each with a test): its group norm computes in float16 and splits into
Python loops, so `torch.nn.GroupNorm` with the same keys replaces it; `save_mem` empties the CUDA cache after
every operation; `num_splits` can silently change shapes; `encode` returns (mean, sigma) and sampling makes
features random, so the mean is used; flash attention refuses to be built on a CPU.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D, MaisiResBlock
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

from DiffuGTSLib.backbones.interfaces import Encoding, NoiseSchedule, Prediction
from DiffuGTSLib.errors import ConfigError, GeometryError, InputError, did_you_mean


class MaisiAutoencoder(ModelMixin, ConfigMixin):
    """MAISI's variational autoencoder: images in [0, 1] to latents and back, with its feature pyramid.

    The defaults are the published network (20.9 M parameters). Features are tapped after the last residual
    block of each scale: encoder blocks 2, 5 and 8 of the published network, at strides 1, 2 and 4. (The
    unofficial repository taps 3, 6 and 8, of which two share one scale; the paper's choice is not known to us.)

    Args:
        num_channels: Channels at strides 1, 2, 4.
        num_res_blocks: Residual blocks at each scale.
        latent_channels: Channels of the latent.
        norm_num_groups: Groups of the group norm; divides every entry of `num_channels`.
        norm_eps: Variance added before the group norm divides. The published 1e-6 normalizes every window to its own
            mean and contrast; a large value leaves both in place, see `docs/method.md`.
        scaling_factor: Latents are multiplied by it, so that the denoiser sees unit variance.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        num_channels: tuple[int, ...] = (64, 128, 256),
        num_res_blocks: tuple[int, ...] = (2, 2, 2),
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = AutoencoderKlMaisi(
            spatial_dims=3, in_channels=1, out_channels=1, latent_channels=latent_channels,
            num_channels=list(num_channels), num_res_blocks=list(num_res_blocks),
            norm_num_groups=norm_num_groups, norm_eps=norm_eps, attention_levels=[False] * len(num_channels),
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, use_checkpointing=False,
            use_convtranspose=False, norm_float16=False, num_splits=1, dim_split=1, save_mem=False, print_info=False,
        )  # fmt: skip
        _use_native_group_norm(self.net)
        self.downsampling = 2 ** (len(num_channels) - 1)
        self.latent_channels = latent_channels
        self.feature_channels = tuple(num_channels)
        self.feature_strides = tuple(2**level for level in range(len(num_channels)))
        self._taps = _last_block_of_each_scale(self.net.encoder.blocks)

    def posterior(self, image: Float[Tensor, "b 1 X Y Z"]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return (mean, log variance, features) of the unscaled latent; training samples from it.

        Raises:
            GeometryError: If a side is not a multiple of the downsampling (MONAI would silently truncate it).
        """
        if any(side % self.downsampling for side in image.shape[2:]):
            raise GeometryError(
                f"Expected sides that are multiples of {self.downsampling}, got {tuple(image.shape[2:])}.",
                hint="pad the image: canonical.side_multiple does it.",
            )
        features = []
        hidden = image
        for index, block in enumerate(self.net.encoder.blocks):
            hidden = block(hidden)
            if index in self._taps:
                features.append(hidden)
        return self.net.quant_conv_mu(hidden), self.net.quant_conv_log_sigma(hidden), tuple(features)

    def encode(self, image: Float[Tensor, "b 1 X Y Z"]) -> Encoding:
        """Return the scaled mean and the feature pyramid, fine to coarse.

        Raises:
            GeometryError: As `posterior`.
        """
        mean, _, features = self.posterior(image)
        return Encoding(mean * self.config["scaling_factor"], features)

    def decode(self, latent: Float[Tensor, "b l x y z"]) -> Float[Tensor, "b 1 X Y Z"]:
        """Return the image of a scaled latent."""
        image: Tensor = self.net.decode(latent / self.config["scaling_factor"])
        return image


class MaisiUNet(ModelMixin, ConfigMixin):
    """MAISI's diffusion UNet as a network, before any convention about noise is applied.

    The defaults are the published rectified-flow network (180.5 M parameters). The published DDPM network has
    `num_class_embeds=None, region_index=True, resblock_updown=False, include_fc=False`.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        num_channels: tuple[int, ...] = (64, 128, 256, 512),
        attention_levels: tuple[bool, ...] = (False, False, True, True),
        num_head_channels: tuple[int, ...] = (0, 0, 32, 32),
        num_res_blocks: int = 2,
        norm_num_groups: int = 32,
        num_class_embeds: int | None = 128,
        region_index: bool = False,
        resblock_updown: bool = True,
        include_fc: bool = True,
    ) -> None:
        super().__init__()
        self.net = DiffusionModelUNetMaisi(
            spatial_dims=3, in_channels=latent_channels, out_channels=latent_channels, num_channels=list(num_channels),
            attention_levels=list(attention_levels), num_head_channels=list(num_head_channels),
            num_res_blocks=num_res_blocks, norm_num_groups=norm_num_groups, use_flash_attention=False,
            include_top_region_index_input=region_index, include_bottom_region_index_input=region_index,
            include_spacing_input=True, num_class_embeds=num_class_embeds, resblock_updown=resblock_updown,
            include_fc=include_fc,
        )  # fmt: skip
        for module in self.net.modules():
            if hasattr(module, "use_flash_attention"):
                module.use_flash_attention = True  # torch's fused attention; exact on a CPU too
        self.side_multiple = 2 ** (len(num_channels) - 1)
        self.feature_channels = tuple(num_channels)
        self.feature_strides = tuple(2**level for level in range(len(num_channels)))

    def features(
        self, noisy: Tensor, timesteps: Tensor, spacing_mm: Tensor, class_labels: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the last block's output of each level of the rising half, fine to coarse; arguments as `forward`."""
        seen: list[Tensor] = []
        hooks = [
            _last_block(level).register_forward_hook(lambda _block, _input, output: seen.append(output))
            for level in self.net.up_blocks
        ]
        try:
            self(noisy, timesteps, spacing_mm, class_labels)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(reversed(seen))

    def forward(self, noisy: Tensor, timesteps: Tensor, spacing_mm: Tensor, class_labels: Tensor) -> Tensor:
        """Return the raw prediction for a batch.

        Args:
            noisy: (b, l, x, y, z).
            timesteps: (b,), 0 to 1000.
            spacing_mm: (b, 3), of the image voxels that the latent stands for.
            class_labels: (b,), MAISI's modality codes; unused by networks without class embedding.
        """
        conditions = {"spacing_tensor": (spacing_mm * 100).to(noisy.dtype)}
        if self.config["num_class_embeds"] is not None:
            conditions["class_labels"] = class_labels
        if self.config["region_index"]:
            # Head to pelvis, all at once: a window does not know where it was cut. Differs from NVIDIA's one-hot
            # top and bottom region, which need the scan's place in the body.
            whole = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1.0]], device=noisy.device, dtype=noisy.dtype) * 100
            conditions["top_region_index_tensor"] = whole[0].expand(len(noisy), 4)
            conditions["bottom_region_index_tensor"] = whole[1].expand(len(noisy), 4)
        raw: Tensor = self.net(x=noisy, timesteps=timesteps, **conditions)
        return raw


class MaisiDenoiser(nn.Module):
    """A MAISI UNet that speaks our `Denoiser` protocol.

    Args:
        unet: The network.
        schedule: The noise schedule it was trained with.
        prediction: "flow" (the UNet predicts clean - noise, as MAISI's rectified flow) or "epsilon".
        class_label: Modality name to MAISI's code.

    Raises:
        ConfigError: If the network has no such code.
    """

    def __init__(self, unet: MaisiUNet, schedule: NoiseSchedule, prediction: str, class_label: dict[str, int]) -> None:
        super().__init__()
        codes = unet.config["num_class_embeds"]
        if codes is not None and not all(0 <= code < codes for code in class_label.values()):
            raise ConfigError(
                f"backbone.class_label: expected codes of this denoiser, 0 to {codes - 1}, got {class_label}.",
                hint="the presets' codes are 1 for CT and 8 for MR.",
            )
        self.unet = unet
        self.schedule = schedule
        self.prediction = prediction
        self.class_label = class_label
        self.side_multiple = unet.side_multiple
        self.feature_channels, self.feature_strides = unet.feature_channels, unet.feature_strides

    def forward(
        self, noisy: Float[Tensor, "b l x y z"], timestep: float, spacing_mm: tuple[float, float, float], modality: str
    ) -> Prediction:
        """Return the clean latent and the noise.

        Raises:
            GeometryError: If a latent side is not a multiple of `side_multiple`.
            InputError: If the network knows no code for this modality.
        """
        raw = self.unet(noisy, *self._conditions(noisy, timestep, spacing_mm, modality))
        signal, sigma = self.schedule.levels(timestep)
        if self.prediction == "flow":  # noisy = (1 - s) clean + s noise, raw = clean - noise
            return Prediction(noisy + sigma * raw, noisy - signal * raw)
        return Prediction((noisy - sigma * raw) / signal, raw)

    def features(
        self, latent: Float[Tensor, "b l x y z"], timestep: float, spacing_mm: tuple[float, float, float], modality: str
    ) -> tuple[Tensor, ...]:
        """Return what the network makes of signal · latent, the expectation of a noisy one; fine to coarse.

        Raises:
            GeometryError: As `forward`.
            InputError: As `forward`.
        """
        signal, _ = self.schedule.levels(timestep)
        return self.unet.features(signal * latent, *self._conditions(latent, timestep, spacing_mm, modality))

    def _conditions(
        self, noisy: Tensor, timestep: float, spacing_mm: tuple[float, float, float], modality: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return timesteps, spacings and class codes of a batch that the network can take."""
        if any(side % self.side_multiple for side in noisy.shape[2:]):
            raise GeometryError(
                f"The denoiser needs latent sides that are multiples of {self.side_multiple}, got {tuple(noisy.shape[2:])}.",
                hint="cut or pad the region: inpainting does it.",
            )
        if modality not in self.class_label:
            raise InputError(
                f"The denoiser knows {sorted(self.class_label)}, not modality '{modality}'.", code="modality"
            )
        batch = len(noisy)
        return (
            torch.full((batch,), float(timestep), device=noisy.device),
            torch.tensor([spacing_mm] * batch, device=noisy.device),
            torch.full((batch,), self.class_label[modality], device=noisy.device, dtype=torch.long),
        )


PUBLISHED_UNETS: dict[str, dict[str, Any]] = {
    "maisi-ct": {},
    "maisi-ct-ddpm": {"num_class_embeds": None, "region_index": True, "resblock_updown": False, "include_fc": False},
    "maisi-mr-brain": {},
    "maisi-mr": {},
}
"""What differs from `MaisiUNet`'s defaults in each published checkpoint."""


def published_networks(name: str) -> tuple[MaisiAutoencoder, MaisiUNet]:
    """Build the networks of a published MAISI checkpoint at full size, untrained: what its weights will fill.

    Use `torch.device("meta")` around it to look at shapes without memory.

    Raises:
        ConfigError: Unknown name.
    """
    if name not in PUBLISHED_UNETS:
        raise ConfigError(f"Unknown published model '{name}'.", hint=did_you_mean(name, PUBLISHED_UNETS))
    return MaisiAutoencoder(), MaisiUNet(**PUBLISHED_UNETS[name])


def _use_native_group_norm(root: nn.Module) -> None:
    """Replace MONAI's group norm by torch's: same keys, same numbers to 1e-5, any precision, a quarter less memory."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, MaisiGroupNorm3D):
                setattr(parent, name, nn.GroupNorm(child.num_groups, child.num_channels, child.eps, affine=True))


def _last_block(level: nn.Module) -> nn.Module:
    """Return what comes last in a level of the UNet before it is sampled up."""
    blocks = level.get_submodule("attentions" if hasattr(level, "attentions") else "resnets")
    return list(blocks.children())[-1]


def _last_block_of_each_scale(blocks: nn.ModuleList) -> tuple[int, ...]:
    is_block = [isinstance(block, MaisiResBlock) for block in blocks]
    return tuple(i for i, now in enumerate(is_block) if now and not (i + 1 < len(is_block) and is_block[i + 1]))
