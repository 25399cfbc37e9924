"""MAISI as its own examples run it, from MONAI's parts alone: what our way is measured against, in time and in numbers.

The networks are MONAI's with the published switches (`num_splits` 4, `MaisiGroupNorm3D`, `save_mem`), the windows are
MONAI's inferer with the published sizes, and everything is decoded. Differs from the examples in two points: the latent
is the mean and no sample, so that two runs can be compared; and where there is no CUDA, normalization stays in float32
and attention is not fused, since MONAI refuses or breaks on both. Nothing of the pipeline uses this file.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.inferers.inferer import SlidingWindowInferer
from torch import Tensor, nn

from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, MaisiUNet

Network = TypeVar("Network", bound=nn.Module)

NUM_SPLITS = 4
"""Of every convolution of the autoencoder, as the rectified-flow configuration has it."""
ENCODE_WINDOW = (320, 320, 160)
DECODE_WINDOW = (80, 80, 80)
"""In latent cells."""
OVERLAP = 0.4


class PlainMaisi:
    """The published networks with another's weights, in MONAI's own windows.

    Args:
        autoencoder: Whose weights and widths are taken.
        unet: The same of the denoiser.
        device: Where it runs; on CUDA in float16, as the examples do.
    """

    def __init__(self, autoencoder: MaisiAutoencoder, unet: MaisiUNet, device: torch.device) -> None:
        self.device = device
        self.half = device.type == "cuda"
        self.scaling_factor = float(autoencoder.config["scaling_factor"])
        self.autoencoder = _same_weights(_plain_autoencoder(autoencoder, self.half), autoencoder.net, device)
        self.unet = _same_weights(_plain_unet(unet, self.half), unet.net, device)
        self._has_classes = unet.config["num_class_embeds"] is not None

    def encode(self, image: Float[Tensor, "1 1 X Y Z"]) -> Float[Tensor, "1 l x y z"]:
        """Return the scaled mean of a whole scan."""
        return self._in_windows(lambda window: self.autoencoder.encode(window)[0], image, ENCODE_WINDOW) * (
            self.scaling_factor
        )

    def decode(self, latent: Float[Tensor, "1 l x y z"]) -> Float[Tensor, "1 1 X Y Z"]:
        """Return the image of a whole latent."""
        return self._in_windows(self.autoencoder.decode, latent / self.scaling_factor, DECODE_WINDOW)

    def velocity(
        self, noisy: Float[Tensor, "1 l x y z"], timestep: float, spacing_mm: tuple[float, float, float], label: int
    ) -> Float[Tensor, "1 l x y z"]:
        """Return what the denoiser predicts of a whole noisy latent: clean - noise, for a rectified flow."""
        conditions = {"spacing_tensor": torch.tensor([spacing_mm], device=self.device) * 100}
        if self._has_classes:
            conditions["class_labels"] = torch.tensor([label], device=self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=self.half):
            raw: Tensor = self.unet(x=noisy, timesteps=torch.tensor([timestep], device=self.device), **conditions)
        return raw

    def _in_windows(self, network: Callable[[Tensor], Tensor], volume: Tensor, window: tuple[int, ...]) -> Tensor:
        """Apply a network as MAISI's `dynamic_infer` does: at once where the volume is no larger than a window."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16, enabled=self.half):
            if volume[0, 0].numel() <= math.prod(window):
                return network(volume)
            sides = tuple(min(side, length) for side, length in zip(window, volume.shape[2:], strict=True))
            inferer = SlidingWindowInferer(sides, sw_batch_size=1, overlap=OVERLAP, mode="gaussian")
            inferred: Tensor = inferer(inputs=volume, network=network)
            return inferred


def _plain_autoencoder(ours: MaisiAutoencoder, half: bool) -> AutoencoderKlMaisi:
    widths = ours.config
    return AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, latent_channels=widths["latent_channels"],
        num_channels=list(widths["num_channels"]), num_res_blocks=list(widths["num_res_blocks"]),
        norm_num_groups=widths["norm_num_groups"], norm_eps=widths["norm_eps"],
        attention_levels=[False] * len(widths["num_channels"]), with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False, use_checkpointing=False, use_convtranspose=False, norm_float16=half,
        num_splits=NUM_SPLITS, dim_split=1, save_mem=True, print_info=False,
    )  # fmt: skip


def _plain_unet(ours: MaisiUNet, half: bool) -> DiffusionModelUNetMaisi:
    widths = ours.config
    return DiffusionModelUNetMaisi(
        spatial_dims=3, in_channels=widths["latent_channels"], out_channels=widths["latent_channels"],
        num_channels=list(widths["num_channels"]), attention_levels=list(widths["attention_levels"]),
        num_head_channels=list(widths["num_head_channels"]), num_res_blocks=widths["num_res_blocks"],
        norm_num_groups=widths["norm_num_groups"], use_flash_attention=half, include_spacing_input=True,
        num_class_embeds=widths["num_class_embeds"], resblock_updown=widths["resblock_updown"],
        include_fc=widths["include_fc"],
    )  # fmt: skip


def _same_weights(plain: Network, ours: nn.Module, device: torch.device) -> Network:
    """Give a network another's weights, every key, and make it ready."""
    plain.load_state_dict(ours.state_dict(), strict=True)
    plain.to(device).eval().requires_grad_(False)
    return plain
