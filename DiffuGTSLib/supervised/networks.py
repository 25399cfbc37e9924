"""The three segmentation networks of DiffTumor, from MONAI, with exactly the tensors of the published files.

Follows DiffTumor (Chen et al., CVPR 2024), the segmentation step of the published code. `Segmenter.net` is MONAI's own
network, so that a published file whose prefixes are stripped fits it key for key; see `historical_keys` for the one
network whose names changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from monai.networks.nets import DynUNet, SwinUNETR, UNet
from monai.networks.nets.swin_unetr import PatchMerging, PatchMergingV2
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.backbones.weights import load_strictly
from DiffuGTSLib.errors import ConfigError, GeometryError, did_you_mean

BACKGROUND, ORGAN, TUMOR = range(3)
"""The classes of every segmenter, and the values of the label maps that it is trained on."""

SWIN_FEATURES = {"tiny": 12, "small": 24, "base": 48}
"""Size of a Swin UNETR → its feature size."""

_CHANNELS = {"unet": (16, 32, 64, 128, 256), "nnunet": (32, 64, 128, 256, 320)}
_SWIN_SIDE_MULTIPLE = 32
_IDLE = ("skip_layers.", "swinViT.norm.")


class HistoricalMerging(PatchMergingV2):
    """Patch merging as the published Swin weights know it: two corners twice, two never (old MONAI's mistake).

    Neither "merging" nor "mergingv2" of today's MONAI concatenates the eight corners in this order.
    """

    _CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
    """Offsets along (x, y, z) of the eight parts, in the order of the channels."""

    def forward(self, hidden: Float[Tensor, "b x y z c"]) -> Tensor:
        """Return half the sides and twice the channels; odd sides are padded with zeros first."""
        x, y, z = hidden.shape[1:4]
        hidden = functional.pad(hidden, (0, 0, 0, z % 2, 0, y % 2, 0, x % 2))
        corners = [hidden[:, i::2, j::2, k::2] for i, j, k in self._CORNERS]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


MERGINGS: dict[str, type[nn.Module]] = {
    "merging": PatchMerging,
    "mergingv2": PatchMergingV2,
    "historical": HistoricalMerging,
}
"""Order of the corners in Swin UNETR's patch merging. Published weights need "historical"."""


def _unet(classes: int, channels: tuple[int, ...], **_: Any) -> nn.Module:
    network: nn.Module = UNet(
        spatial_dims=3, in_channels=1, out_channels=classes, channels=channels, strides=(2,) * (len(channels) - 1),
        num_res_units=2,
    )  # fmt: skip
    return network


def _nnunet(classes: int, channels: tuple[int, ...], **_: Any) -> nn.Module:
    strides = (1, *(2,) * (len(channels) - 1))
    network: nn.Module = DynUNet(
        spatial_dims=3, in_channels=1, out_channels=classes, kernel_size=(3,) * len(channels), strides=strides,
        upsample_kernel_size=strides[1:], filters=channels, norm_name="instance", deep_supervision=False,
        res_block=False,
    )  # fmt: skip
    # MONAI registers every layer a second time, as skip_layers. Safetensors stores no tensor under two names: the
    # second registration becomes a plain attribute.
    layers = network.skip_layers
    del network.skip_layers
    object.__setattr__(network, "skip_layers", layers)
    return network


def _swin_unetr(classes: int, feature_size: int, merging: str, **_: Any) -> nn.Module:
    network: nn.Module = SwinUNETR(
        in_channels=1, out_channels=classes, feature_size=feature_size, depths=(2, 2, 2, 2),
        num_heads=(3, 6, 12, 24), window_size=7, patch_size=2, downsample=MERGINGS[merging],
    )  # fmt: skip
    return network


SEGMENTERS: dict[str, Callable[..., nn.Module]] = {"unet": _unet, "nnunet": _nnunet, "swin_unetr": _swin_unetr}
"""Name → builder."""


class Segmenter(ModelMixin, ConfigMixin):
    """A network that gives every voxel one of three classes: background, organ, tumor.

    Args:
        model: "unet", "nnunet" (MONAI's DynUNet) or "swin_unetr".
        classes: Channels of the output.
        channels: Of the levels of "unet" and "nnunet", fine to coarse; empty takes the published ones.
        swin_type: "tiny", "small" or "base": the feature size of "swin_unetr".
        merging: A name in `MERGINGS`, for "swin_unetr". Published weights need "historical".

    Raises:
        ConfigError: For an unknown model, size or merging, or fewer than three levels.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        model: str = "unet",
        classes: int = 3,
        channels: tuple[int, ...] = (),
        swin_type: str = "base",
        merging: str = "merging",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("model", model, SEGMENTERS), ("swin_type", swin_type, SWIN_FEATURES), ("merging", merging, MERGINGS),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"Unknown {name} '{value}' of a segmenter.", hint=did_you_mean(value, known))
        channels = tuple(channels) or _CHANNELS.get(model, ())
        if model != "swin_unetr" and len(channels) < 3:
            raise ConfigError(f"Expected channels of at least three levels, got {channels}.")
        self.net = SEGMENTERS[model](
            classes=classes, channels=channels, feature_size=SWIN_FEATURES[swin_type], merging=merging
        )
        self.side_multiple = _SWIN_SIDE_MULTIPLE if model == "swin_unetr" else 2 ** (len(channels) - 1)

    def forward(self, image: Float[Tensor, "b 1 X Y Z"]) -> Float[Tensor, "b classes X Y Z"]:
        """Return logits of a batch with intensities in [0, 1].

        Raises:
            GeometryError: If a side is not a multiple of what the network halves it by.
        """
        if any(side % self.side_multiple for side in image.shape[2:]):
            raise GeometryError(
                f"Expected sides that are multiples of {self.side_multiple}, got {tuple(image.shape[2:])}.",
                hint=f"choose a window that is a multiple of {self.side_multiple}.",
            )
        logits: Tensor = self.net(image)
        return logits


def load_published(segmenter: Segmenter, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Fill a segmenter with the tensors of a published file, strictly.

    Args:
        segmenter: Of the file's model and size; a Swin UNETR with `merging="historical"`.
        tensors: Name → tensor, read by whoever reads safely; prefixes may still be there.
        origin: The file's name, for the error.

    Raises:
        WeightsError: Naming the tensors that are missing, unexpected or of another shape.
    """
    load_strictly(segmenter.net, historical_keys(tensors), origin)


def historical_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of `Segmenter.net`.

    Wrappers' prefixes go, as do the second names of DynUNet's layers and a norm that Swin never used; its MLP layers
    get today's names.
    """
    renamed = {}
    for name, tensor in tensors.items():
        bare = name.removeprefix("module.").removeprefix("backbone.")
        if bare.startswith(_IDLE):
            continue
        renamed[bare.replace(".mlp.fc1.", ".mlp.linear1.").replace(".mlp.fc2.", ".mlp.linear2.")] = tensor
    return renamed
