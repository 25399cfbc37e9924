"""What the repainting changed: in the picture, and in how abnormal the features look.

Notation: I' = D(E(I)) reconstruction, H pseudo-healthy image.
    P_r  = |I' - H|                                pixel residual
    F_r  = relu(A_abn(I') - A_abn(H))              feature residual: the drop in abnormal attention
    R    = β1 · norm(P_r) + β2 · norm(F_r) + β3 · A_abn(I)
The reconstruction stands in for the scan, so that the autoencoder's own error cancels. The unofficial repository
projects the latent difference with random weights; paper not available to us, we chose the parameter-free drop.
β3 is ours and 0 by default.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from DiffuGTSLib.config import ResidualConfig


@dataclass(frozen=True)
class ResidualMaps:
    """Residuals, each 0 to 1 and 0 outside the candidate.

    Attributes:
        pixel: Normalized intensity change.
        feature: Normalized drop in abnormal attention.
        fused: Their weighted mean.
    """

    pixel: Float[Tensor, "X Y Z"]
    feature: Float[Tensor, "X Y Z"]
    fused: Float[Tensor, "X Y Z"]


def residuals(
    reconstruction: Float[Tensor, "X Y Z"],
    healthy: Float[Tensor, "X Y Z"],
    abnormal_before: Float[Tensor, "X Y Z"],
    abnormal_after: Float[Tensor, "X Y Z"],
    prior: Float[Tensor, "X Y Z"],
    candidate: Float[Tensor, "X Y Z"],
    config: ResidualConfig,
) -> ResidualMaps:
    """Return the residual maps of a pair of twins, restricted to the candidate (1 = candidate).

    Args:
        reconstruction: The scan, through the autoencoder.
        healthy: Its pseudo-healthy twin, decoded in the same windows.
        abnormal_before: Abnormal attention on the reconstruction.
        abnormal_after: Abnormal attention on the twin.
        prior: The AOVA map of the scan itself.
        candidate: Where anything may be reported.
        config: The weights β.
    """
    pixel = _normalized((reconstruction - healthy).abs(), candidate)
    feature = _normalized((abnormal_before - abnormal_after).relu(), candidate)
    weight = config.beta_pixel + config.beta_feature + config.prior
    fused = (config.beta_pixel * pixel + config.beta_feature * feature + config.prior * prior * candidate) / weight
    return ResidualMaps(pixel, feature, fused)


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
