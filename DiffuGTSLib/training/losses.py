"""The losses of the AOVA head, one function a term; weights in `HeadLossWeights`.

Notation: s anomaly score, y image label (1 abnormal), g_n class embeddings, T_n prompt embeddings, p the abnormal
map, m the tumor mask. The paper's weights were not available to us: all 1. The voxel term is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.aova import ABNORMAL, NORMAL, Attention


@dataclass(frozen=True)
class HeadLossWeights:
    """Switches: 0 turns a term off. `dice = voxel = 0` is training from image labels alone."""

    anomaly: float = 1.0
    similarity: float = 1.0
    dice: float = 1.0
    voxel: float = 1.0


def head_losses(
    attention: Attention, prompts: Tensor, abnormal: Tensor, mask: Tensor, weights: HeadLossWeights
) -> dict[str, Tensor]:
    """Return the terms and their weighted sum "total".

    Args:
        attention: The head's answer for a batch.
        prompts: (b, 2, d).
        abnormal: y, (b,), 1 where the prompted organ shows a tumor.
        mask: (b, 1, X, Y, Z), 1 in the tumor; empty where y = 0.
        weights: Of the terms.
    """
    probability = attention.maps[:, ABNORMAL:].float()
    terms = {
        "anomaly": anomaly_loss(attention.score_logits.float(), abnormal),
        "similarity": similarity_loss(attention.class_embeddings.float(), prompts.float()),
        "dice": dice_loss(probability, mask, abnormal),
        "voxel": voxel_loss(attention.log_maps.float(), mask),
    }
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return {"total": torch.as_tensor(total), **terms}


def anomaly_loss(score_logits: Tensor, abnormal: Tensor) -> Tensor:
    """L_ano = BCE(σ(score), y)."""
    return functional.binary_cross_entropy_with_logits(score_logits, abnormal.float())


def similarity_loss(class_embeddings: Tensor, prompts: Tensor, temperature: float = 0.07) -> Tensor:
    """L_sim = ½ [CE(S, I) + CE(Sᵀ, I)], S_nm = cos(g_n, T_m) / τ: each map belongs to its own prompt."""
    similarity = torch.einsum(
        "bnd,bmd->bnm", functional.normalize(class_embeddings, dim=-1), functional.normalize(prompts, dim=-1)
    )
    similarity = similarity / temperature
    own = torch.arange(similarity.shape[1], device=similarity.device).repeat(len(similarity))
    rows = functional.cross_entropy(similarity.flatten(0, 1), own)
    columns = functional.cross_entropy(similarity.transpose(1, 2).flatten(0, 1), own)
    return 0.5 * (rows + columns)


def dice_loss(probability: Tensor, mask: Tensor, abnormal: Tensor, smooth: float = 1.0) -> Tensor:
    """L_dice = 1 - (2 Σ p m + ε) / (Σ p + Σ m + ε), over the abnormal images of the batch only; 0 if there is none."""
    chosen = abnormal > 0
    if not bool(chosen.any()):
        return probability.new_zeros(())
    p, m = probability[chosen].flatten(1), mask[chosen].flatten(1)
    dice = (2 * (p * m).sum(1) + smooth) / (p.sum(1) + m.sum(1) + smooth)
    return 1 - dice.mean()


def voxel_loss(log_maps: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the maps at every voxel; a tumor's voxels weigh √(rest / tumor) times as much, 30 at most.

    Not in the paper as known to us. Dice says nothing on normal images, and nothing on a tumor whose probability is
    as good as 0, where its slope vanishes. With all voxels alike, windows that a tumor fills weigh most: our head had
    learned sarcomas after 2500 steps and called every painted tumor of other organs normal; weighed, it still did after
    1000 steps, and no longer after 9000 (the two were not run equally long). With tumor and rest weighing the same
    whatever their volumes, masks came out 3 to 7 times too large. The square root lies between: a tumor of 1 % of
    the window pulls a third as hard as one of 10 %, not a tenth. Computed from logarithms: a clipped probability would
    have no slope just where it is most wrong.
    """
    tumor = mask.flatten(1).sum(1)
    rest = mask[0].numel() - tumor
    weight = (rest / tumor.clamp_min(1.0)).sqrt().clamp(1.0, 30.0)
    inside = (log_maps[:, ABNORMAL:] * mask).flatten(1).sum(1) * weight
    outside = (log_maps[:, NORMAL : NORMAL + 1] * (1 - mask)).flatten(1).sum(1)
    return -(inside + outside).mean() / mask[0].numel()
