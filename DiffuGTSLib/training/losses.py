"""The losses of the AOVA head, one function a term; weights in `HeadLossWeights`.

Notation: s anomaly score, y image label (1 abnormal), g_n class embeddings, T_n prompt embeddings, p the abnormal
map, m the tumor mask. The paper's weights were not available to us: all 1. The voxel and the organ term are ours.
"""

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from DiffuGTSLib.aova import ABNORMAL, ELSEWHERE, NORMAL, Attention
from DiffuGTSLib.errors import ConfigError

TEMPERATURE = 0.07
"""τ of the similarity terms."""


@dataclass(frozen=True)
class HeadLossWeights:
    """Switches: 0 turns a term off, so that it has no gradient. `dice = voxel = organ = 0` trains from image labels alone."""

    anomaly: float = 1.0
    similarity: float = 1.0
    dice: float = 1.0
    voxel: float = 1.0
    organ: float = 0.5

    def __post_init__(self) -> None:
        weights = astuple(self)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ConfigError(
                f"Expected loss weights of 0 or more, and one above 0, got {', '.join(f'{w:g}' for w in weights)}.",
                hint="anomaly, similarity, dice, voxel, organ: leave one of them on.",
            )


def head_losses(
    attention: Attention,
    prompts: Tensor,
    abnormal: Tensor,
    mask: Tensor,
    weights: HeadLossWeights,
    similarity_by_label: bool = False,
    organ: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms and their weighted sum "total"; a term that is off is in the log all the same.

    Args:
        attention: The head's answer for a batch.
        prompts: (b, 2, d).
        abnormal: y, (b,), 1 where the prompted organ shows a tumor, NaN where it may show one that nobody outlined: such an
            answer counts in the organ term, and in no other that looks at y or m.
        mask: (b, 1, X, Y, Z), 1 in the tumor; empty where y = 0, NaN where y is.
        weights: Of the terms.
        similarity_by_label: Take the similarity term in the form that looks at y.
        organ: (b, 1, X, Y, Z), 1 in the prompted organ and its tumor, NaN in windows where nobody outlined it. Looked at
            only where the head knows of an elsewhere.
    """
    known = ~abnormal.float().isnan()
    log_maps, maps = attention.log_maps.float(), attention.maps.float()
    embeddings, prompts = attention.class_embeddings.float(), prompts.float()
    y, m = abnormal[known], mask[known]
    terms = {
        "anomaly": anomaly_loss(attention.score_logits.float()[known], y),
        "similarity": (
            labeled_similarity_loss(embeddings[known], prompts[known], y)
            if similarity_by_label
            else similarity_loss(embeddings, prompts)
        ),
        "dice": dice_loss(maps[known, ABNORMAL : ABNORMAL + 1], m, y),
        "voxel": voxel_loss(log_maps[known], m),
    }
    if organ is not None and attention.maps.shape[1] > ELSEWHERE:
        terms["organ"] = organ_loss(log_maps, organ)
    total = sum(getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name))
    return {"total": torch.as_tensor(total), **terms}


def anomaly_loss(score_logits: Tensor, abnormal: Tensor) -> Tensor:
    """L_ano = BCE(σ(score), y)."""
    return functional.binary_cross_entropy_with_logits(score_logits, abnormal.float())


def similarity_loss(class_embeddings: Tensor, prompts: Tensor) -> Tensor:
    """L_sim = ½ [CE(S, I) + CE(Sᵀ, I)], S_nm = cos(g_n, T_m) / τ: each map belongs to its own prompt."""
    similarity = torch.einsum(
        "bnd,bmd->bnm", functional.normalize(class_embeddings, dim=-1), functional.normalize(prompts, dim=-1)
    )
    similarity = similarity / TEMPERATURE
    own = torch.arange(similarity.shape[1], device=similarity.device).repeat(len(similarity))
    rows = functional.cross_entropy(similarity.flatten(0, 1), own)
    columns = functional.cross_entropy(similarity.transpose(1, 2).flatten(0, 1), own)
    return 0.5 * (rows + columns)


def labeled_similarity_loss(class_embeddings: Tensor, prompts: Tensor, abnormal: Tensor) -> Tensor:
    """L_sim = CE([cos(ḡ, T_normal) / τ, cos(ḡ, T_abnormal) / τ], y), ḡ = max_n g_n: an image belongs to its label's prompt.

    The other form never looks at y, so that it says nothing on whether a tumor is there. Paper not available to us; we
    chose the maximum over maps, from which the anomaly score is read as well.
    """
    image = functional.normalize(class_embeddings.amax(1), dim=-1)
    similarity = torch.einsum("bd,bnd->bn", image, functional.normalize(prompts, dim=-1)) / TEMPERATURE
    return functional.cross_entropy(similarity, torch.where(abnormal > 0, ABNORMAL, NORMAL))


def dice_loss(probability: Tensor, mask: Tensor, abnormal: Tensor) -> Tensor:
    """L_dice = 1 - (2 Σ p m + 1) / (Σ p + Σ m + 1), over the abnormal images of the batch only; 0 if there is none."""
    chosen = abnormal > 0
    if not bool(chosen.any()):
        return 0 * probability.sum()  # a slope of 0, not none: it may be the only term that is on
    p, m = probability[chosen].flatten(1), mask[chosen].flatten(1)
    dice = (2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)
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
    not_abnormal = [row for row in range(log_maps.shape[1]) if row != ABNORMAL]
    return _weighted_cross_entropy(
        log_maps[:, ABNORMAL : ABNORMAL + 1], log_maps[:, not_abnormal].logsumexp(1, keepdim=True), mask
    ).mean()


def organ_loss(log_maps: Tensor, organ: Tensor) -> Tensor:
    """Cross-entropy of "the prompted organ, healthy or not" against elsewhere, where the organ is outlined; else 0.

    Ours, weighed as `voxel_loss` is. It pulls both maps down where the organ is not, so that nothing is found there.
    """
    known = ~organ.flatten(1).isnan().any(1)
    if not bool(known.any()):
        return 0 * log_maps.sum()
    log_maps = log_maps[known]
    here = log_maps[:, :ELSEWHERE].logsumexp(1, keepdim=True)
    return _weighted_cross_entropy(here, log_maps[:, ELSEWHERE:], organ[known]).mean()


def _weighted_cross_entropy(log_inside: Tensor, log_outside: Tensor, mask: Tensor) -> Tensor:
    """Return -log p of each voxel's side, averaged over each window, (b,); the inside weighs √(outside / inside), 1 to 30."""
    volume = mask.flatten(1).sum(1)
    rest = mask[0].numel() - volume
    weight = (rest / volume.clamp_min(1.0)).sqrt().clamp(1.0, 30.0)
    inside = (log_inside * mask).flatten(1).sum(1) * weight
    outside = (log_outside * (1 - mask)).flatten(1).sum(1)
    return -(inside + outside) / mask[0].numel()
