"""What the repainting changed: in the picture, and in the features.

Notation: I scan, I' = D(z) reconstruction, H = D(z_0) pseudo-healthy image, z and z_0 their latents, T step from the
normal to the abnormal prompt, A_abn abnormal attention.
    P_r  = |I' - H|                                   pixel residual
    F_r  = one of                                     feature residual, `residual.feature`
           norm(relu(A_abn(I') - A_abn(H)))           "attention": nothing to train
           ⟨Norm(W (z - z_0)), Norm(T)⟩               "projection": W is a trained 1×1×1 convolution
    R    = (β1 · norm(P_r) + β2 · F_r + β3 · A_abn(I)) / (β1 + β2 + β3)
norm divides by the candidate's 99th percentile and cuts at 1. The reconstruction stands in for the scan, so that the
autoencoder's own error cancels. Paper not available to us: in the unofficial repository W is random; ours is trained,
and "attention" is our parameter-free choice. β3 is ours and 0 by default.
"""

from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from DiffuGTSLib.aova import ABNORMAL, with_difference
from DiffuGTSLib.config import ResidualConfig


@dataclass(frozen=True, eq=False)
class Evidence:
    """What there is to see of one repainted region, or of a batch of them.

    Attributes:
        reconstruction: The scan, through the autoencoder.
        healthy: Its pseudo-healthy twin, decoded in the same windows.
        attention: The AOVA map of the scan itself, smoothed as `masks.smooth_mm` says.
        candidate: 1 where anything may be reported.
        latent: Of the scan.
        healthy_latent: Of the twin.
        prompts: Embeddings of the normal and the abnormal sentence.
    """

    reconstruction: Float[Tensor, "b 1 X Y Z"]
    healthy: Float[Tensor, "b 1 X Y Z"]
    attention: Float[Tensor, "b 1 X Y Z"]
    candidate: Float[Tensor, "b 1 X Y Z"]
    latent: Float[Tensor, "b l x y z"]
    healthy_latent: Float[Tensor, "b l x y z"]
    prompts: Float[Tensor, "b 2 d"]


@dataclass(frozen=True)
class ResidualMaps:
    """What a mask is refined from, each 0 to 1 and 0 outside the candidate.

    Attributes:
        pixel: Normalized intensity change.
        feature: Feature residual.
        attention: The AOVA map of the scan itself.
    """

    pixel: Float[Tensor, "X Y Z"]
    feature: Float[Tensor, "X Y Z"]
    attention: Float[Tensor, "X Y Z"]

    def fused(self, config: ResidualConfig) -> Float[Tensor, "X Y Z"]:
        """Return their mean, weighted by the configuration's β."""
        weight = config.beta_pixel + config.beta_feature + config.beta_attention
        mixed: Tensor = config.beta_pixel * self.pixel + config.beta_feature * self.feature
        mixed = mixed + config.beta_attention * self.attention
        return mixed / weight

    def cpu(self) -> "ResidualMaps":
        """Return the maps in main memory."""
        return ResidualMaps(self.pixel.cpu(), self.feature.cpu(), self.attention.cpu())


def attention_residuals(
    reconstruction: Float[Tensor, "X Y Z"],
    healthy: Float[Tensor, "X Y Z"],
    abnormal_before: Float[Tensor, "X Y Z"],
    abnormal_after: Float[Tensor, "X Y Z"],
    attention: Float[Tensor, "X Y Z"],
    candidate: Float[Tensor, "X Y Z"],
) -> ResidualMaps:
    """Return the residual maps of a pair of twins, restricted to the candidate (1 = candidate); nothing is trained.

    Args:
        reconstruction: The scan, through the autoencoder.
        healthy: Its pseudo-healthy twin, decoded in the same windows.
        abnormal_before: Abnormal attention on the reconstruction.
        abnormal_after: Abnormal attention on the twin.
        attention: The AOVA map of the scan itself.
        candidate: Where anything may be reported.
    """
    drop = _normalized((abnormal_before - abnormal_after).relu(), candidate)
    return residual_maps(reconstruction, healthy, drop, attention, candidate)


class ResidualProjection(ModelMixin, ConfigMixin):
    """The latent residual, projected into the text's space by W and compared with what the prompts ask for.

    The cosine alone knows no size of change: Norm divides it away. W has a bias, so that "hardly changed" is a direction
    of its own, and the cosine's slope and offset are learned with it. At initialization W is random, as in the
    unofficial repository; untrained it is never used.

    Args:
        latent_channels: Of the autoencoder.
        text_dim: Of the sentence embeddings.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, latent_channels: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv3d(latent_channels, text_dim, 1)
        self.slope = nn.Parameter(torch.tensor(5.0))
        self.offset = nn.Parameter(torch.tensor(0.0))

    def forward(self, evidence: Evidence) -> Float[Tensor, "b 1 X Y Z"]:
        """Return the logit of tumor at every voxel, interpolated between latent cells."""
        projected = functional.normalize(self.project(evidence.latent - evidence.healthy_latent), dim=1)
        asked = functional.normalize(with_difference(evidence.prompts)[:, ABNORMAL, self.config["text_dim"] :], dim=-1)
        cosine = torch.einsum("bcxyz,bc->bxyz", projected, asked)[:, None]
        logits: Tensor = functional.interpolate(
            self.slope * cosine + self.offset, size=evidence.candidate.shape[2:], mode="trilinear"
        )
        return logits


RESIDUAL_FOLDER = "residual"
"""The projection's subfolder of a model folder."""


def projection_residuals(projection: ResidualProjection, evidence: Evidence) -> ResidualMaps:
    """Return the residual maps of one region, the feature residual being what the projection calls tumor.

    Its probability is taken as it is: scaled to the candidate's highest, a candidate of healthy tissue would have a
    tumor, too.
    """
    maps = (evidence.reconstruction, evidence.healthy, evidence.attention, evidence.candidate)
    reconstruction, healthy, attention, candidate = (each[0, 0] for each in maps)
    return residual_maps(reconstruction, healthy, tumor_probability(projection, evidence), attention, candidate)


def tumor_probability(projection: ResidualProjection, evidence: Evidence) -> Float[Tensor, "X Y Z"]:
    """Return the probability of tumor that the projection sees in a region."""
    with torch.inference_mode():
        probability: Tensor = projection(evidence)[0, 0].float().sigmoid()
    return probability


def residual_maps(
    reconstruction: Float[Tensor, "X Y Z"],
    healthy: Float[Tensor, "X Y Z"],
    feature: Float[Tensor, "X Y Z"],
    attention: Float[Tensor, "X Y Z"],
    candidate: Float[Tensor, "X Y Z"],
) -> ResidualMaps:
    """Return the residual maps with a feature residual that is there already."""
    pixel = _normalized((reconstruction - healthy).abs(), candidate)
    return ResidualMaps(pixel, feature * candidate, attention * candidate)


def _normalized(values: Float[Tensor, "X Y Z"], candidate: Float[Tensor, "X Y Z"]) -> Float[Tensor, "X Y Z"]:
    """Scale so that the candidate's 99th percentile becomes 1; identical twins stay 0.

    A percentile, not the maximum: one voxel at a bone's edge would press everything else down.
    """
    inside = values[candidate > 0]
    if inside.numel() == 0:
        return torch.zeros_like(values)
    rank = max(1, round(0.99 * inside.numel()))
    top = inside.flatten().kthvalue(rank).values
    return (values * candidate / top.clamp_min(1e-6)).clamp(0, 1)
