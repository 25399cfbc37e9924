"""The head's losses, each against a number worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from DiffuGTSLib.aova import Attention
from DiffuGTSLib.errors import ConfigError
from DiffuGTSLib.training.losses import (
    HeadLossWeights,
    anomaly_loss,
    dice_loss,
    head_losses,
    labeled_similarity_loss,
    organ_loss,
    similarity_loss,
    voxel_loss,
)

LN2 = math.log(2)


def test_the_anomaly_loss_is_cross_entropy_of_the_score() -> None:
    """σ(0) = 1/2 with y = 1 costs ln 2; σ(ln 3) = 3/4 with y = 0 costs ln 4: the mean is 1.5 ln 2."""
    loss = anomaly_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([True, False]))
    assert float(loss) == pytest.approx(1.5 * LN2)


def test_the_similarity_loss_of_each_map_with_its_own_prompt() -> None:
    """Orthogonal prompts: S = I / τ, each row and column costs ln(1 + e^(-1/τ))."""
    prompts = torch.eye(2)[None]
    assert float(similarity_loss(prompts, prompts)) == pytest.approx(math.log1p(math.exp(-1 / 0.07)), abs=1e-7)


def test_the_similarity_loss_of_swapped_maps_costs_one_over_tau_more() -> None:
    """S has its ones off the diagonal: ln(1 + e^(1/0.07)) = 14.28571."""
    prompts = torch.eye(2)[None]
    assert float(similarity_loss(prompts.flip(1), prompts)) == pytest.approx(14.28571, abs=1e-5)


def test_the_similarity_loss_sees_directions_only() -> None:
    prompts = torch.eye(2)[None]
    assert float(similarity_loss(7 * prompts.flip(1), prompts)) == pytest.approx(14.28571, abs=1e-5)


def test_the_similarity_loss_averages_over_the_batch() -> None:
    prompts = torch.eye(2).expand(2, 2, 2)
    maps = torch.stack([torch.eye(2), torch.eye(2).flip(0)])
    assert float(similarity_loss(maps, prompts)) == pytest.approx(14.28571 / 2, abs=1e-5)


def test_the_labeled_similarity_loss_draws_an_image_to_its_label_s_prompt() -> None:
    """ḡ = max((0, 1), (0, 0.5)) lies on the abnormal prompt: ln(1 + e^(-1/τ)) where that is the label, and 1/τ more else."""
    prompts, maps = torch.eye(2)[None], torch.tensor([[[0.0, 1.0], [0.0, 0.5]]])
    abnormal, normal = (float(labeled_similarity_loss(maps, prompts, torch.tensor([label]))) for label in (True, False))
    assert abnormal == pytest.approx(0, abs=1e-6) and normal == pytest.approx(14.28571, abs=1e-5)
    between = labeled_similarity_loss(torch.eye(2)[None], prompts, torch.tensor([True]))
    assert float(between) == pytest.approx(LN2), "as near to the one as to the other"


def test_the_dice_loss_of_four_voxels() -> None:
    """One half everywhere, one tumor voxel: 1 - (2 · 0.5 + 1) / (2 + 1 + 1) = 1/2."""
    p = torch.full((1, 1, 2, 2, 1), 0.5)
    m = torch.zeros_like(p)
    m[0, 0, 0, 0, 0] = 1
    assert float(dice_loss(p, m, torch.tensor([True]))) == pytest.approx(0.5)


def test_the_dice_loss_looks_at_abnormal_images_only() -> None:
    p = torch.full((2, 1, 2, 2, 1), 0.5)
    m = torch.zeros_like(p)
    m[0, 0, 0, 0, 0] = 1
    assert float(dice_loss(p, m, torch.tensor([True, False]))) == pytest.approx(0.5)
    assert float(dice_loss(p, m, torch.tensor([False, False]))) == 0.0


def log_maps(p: list[float]) -> torch.Tensor:
    """Return the logarithms of a normal and an abnormal map over a row of voxels, (1, 2, n, 1, 1)."""
    abnormal = torch.tensor(p)
    return torch.stack([1 - abnormal, abnormal]).log()[None, :, :, None, None]


def row(m: list[float]) -> torch.Tensor:
    """Return a mask over a row of voxels, (1, 1, n, 1, 1)."""
    return torch.tensor(m)[None, None, :, None, None]


def test_the_voxel_loss_is_cross_entropy_with_the_tumor_weighed_up() -> None:
    """With p = 0.9 in one tumor voxel, 0.2 in three others: (-√3 ln 0.9 - 3 ln 0.8) / 4 = 0.21298."""
    assert float(voxel_loss(log_maps([0.9, 0.2, 0.2, 0.2]), row([1, 0, 0, 0.0]))) == pytest.approx(0.212980, abs=1e-5)


def test_the_voxel_loss_is_least_where_the_odds_are_the_root_of_the_true_odds() -> None:
    """A map that cannot tell voxels apart should answer √(3/7) / (1 + √(3/7)) = 0.396 where 3 of 10 are tumor."""
    mask = row([1.0] * 3 + [0.0] * 7)
    loss = {p: float(voxel_loss(log_maps([p] * 10), mask)) for p in (0.3, 0.35, 0.396, 0.45, 0.5)}
    assert min(loss, key=lambda p: loss[p]) == 0.396


def test_the_tiniest_tumor_weighs_thirty_times_and_a_large_one_never_less_than_its_surroundings() -> None:
    tiny = row([1.0] + [0.0] * 1999)
    assert float(voxel_loss(log_maps([0.5] * 2000), tiny)) == pytest.approx(math.log(2) * (30 + 1999) / 2000, rel=1e-5)
    large = row([1.0] * 9 + [0.0])
    assert float(voxel_loss(log_maps([0.5] * 10), large)) == pytest.approx(math.log(2), rel=1e-5)


def test_the_voxel_loss_has_a_slope_where_the_map_is_sure_and_wrong() -> None:
    """Logits 40 and -40 in a tumor voxel cost 80; each rise of the abnormal logit by 1 costs 1 less."""
    logits = torch.tensor([40.0, -40.0])[None, :, None, None, None].requires_grad_()
    loss = voxel_loss(logits.log_softmax(1), row([1.0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(80.0)
    assert logits.grad is not None and logits.grad.ravel().tolist() == pytest.approx([1.0, -1.0])


def three_maps(normal: list[float], abnormal: list[float]) -> torch.Tensor:
    """Return the logarithms of three maps over a row of voxels, (1, 3, n, 1, 1); the third is the rest."""
    rows = torch.tensor([normal, abnormal])
    return torch.cat([rows, 1 - rows.sum(0, keepdim=True)]).log()[None, :, :, None, None]


def test_to_the_voxel_loss_elsewhere_is_as_good_as_normal() -> None:
    """Only p = 0.9 in the tumor and 0.2 beside it count, however the rest is shared: 0.21298 as with two maps."""
    maps = three_maps([0.05, 0.7, 0.1, 0.4], [0.9, 0.2, 0.2, 0.2])
    assert float(voxel_loss(maps, row([1, 0, 0, 0.0]))) == pytest.approx(0.212980, abs=1e-5)


def test_the_organ_loss_asks_whether_either_prompt_s_map_is_where_the_organ_is() -> None:
    """Inside, normal and abnormal together are 0.9; outside 0.2, three times: the number worked above."""
    organ = row([1, 0, 0, 0.0])
    for shared in ([0.9, 0.1, 0.05, 0.2], [0.3, 0.1, 0.05, 0.1]):
        here = [0.9, 0.2, 0.2, 0.2]
        maps = three_maps(shared, [h - s + 1e-7 for h, s in zip(here, shared, strict=True)])
        assert float(organ_loss(maps, organ)) == pytest.approx(0.212980, abs=1e-5)


def test_an_organ_that_nobody_outlined_teaches_nothing_and_spoils_no_other_window() -> None:
    known, unknown = row([1, 0, 0, 0.0]), row([float("nan")] * 4)
    maps = three_maps([0.5] * 4, [0.2] * 4)
    both = torch.cat([maps, maps])
    alone = float(organ_loss(maps, known))
    assert float(organ_loss(both, torch.cat([known, unknown]))) == pytest.approx(alone) and alone > 0
    silent = maps.clone().requires_grad_()
    loss = organ_loss(silent, unknown)
    loss.backward()
    assert float(loss.detach()) == 0.0 and silent.grad is not None and not silent.grad.any()


def test_where_tumors_may_be_unmarked_the_organ_term_alone_looks() -> None:
    """Beside a window that is known, one of which the organ's place alone is: it changes that term and no other."""
    maps, rest = three_maps([0.5, 0.1, 0.2, 0.3], [0.3, 0.2, 0.1, 0.4]), float("nan")
    here, tumor, prompts = row([1, 0, 0, 0.0]), row([1, 0, 0, 0.0]), torch.eye(2)[None]
    one = Attention(maps.exp(), maps, torch.eye(2)[None], torch.zeros(1))
    two = Attention(
        maps.exp().repeat(2, 1, 1, 1, 1),
        maps.repeat(2, 1, 1, 1, 1),
        one.class_embeddings.repeat(2, 1, 1),
        torch.ones(2),
    )
    two.score_logits[0] = 0.0
    alone = head_losses(one, prompts, torch.tensor([1.0]), tumor, HeadLossWeights(), organ=here)
    both = head_losses(
        two, prompts.repeat(2, 1, 1), torch.tensor([1.0, rest]), torch.cat([tumor, rest * tumor]), HeadLossWeights(),
        organ=torch.cat([here, 1 - here]),
    )  # fmt: skip
    for name in ("anomaly", "similarity", "dice", "voxel"):
        assert float(both[name]) == pytest.approx(float(alone[name]))
    assert float(both["organ"]) > float(alone["organ"]) and both["total"].isfinite()


@pytest.fixture
def an_attention() -> Attention:
    """Half and half everywhere, orthogonal class embeddings, an undecided score."""
    maps = torch.full((1, 2, 2, 2, 1), 0.5)
    return Attention(maps, maps.log(), torch.eye(2)[None], torch.zeros(1))


def test_the_total_is_the_weighted_sum(an_attention: Attention) -> None:
    mask = torch.zeros(1, 1, 2, 2, 1)
    mask[0, 0, 0, 0, 0] = 1
    weights = HeadLossWeights(anomaly=2, similarity=0, dice=3, voxel=5)
    terms = head_losses(an_attention, torch.eye(2)[None], torch.tensor([True]), mask, weights)
    voxel = LN2 * (3 + math.sqrt(3)) / 4  # one tumor voxel of four
    assert float(terms["total"]) == pytest.approx(2 * LN2 + 3 * 0.5 + 5 * voxel)
    assert set(terms) == {"total", "anomaly", "similarity", "dice", "voxel"}


def test_the_organ_term_belongs_to_heads_that_know_of_an_elsewhere(an_attention: Attention) -> None:
    mask, organ, weights = torch.zeros(1, 1, 4, 1, 1), row([1, 0, 0, 0.0]), HeadLossWeights(0, 0, 0, 0, organ=2)
    maps = three_maps([0.5] * 4, [0.2] * 4)
    three = Attention(maps.exp(), maps, torch.eye(2)[None], torch.zeros(1))
    terms = head_losses(three, torch.eye(2)[None], torch.tensor([True]), mask, weights, organ=organ)
    assert float(terms["total"]) == pytest.approx(2 * float(organ_loss(maps, organ)))
    weights = HeadLossWeights(organ=2)
    here = torch.ones(1, 1, 2, 2, 1)
    two = head_losses(an_attention, torch.eye(2)[None], torch.tensor([True]), 0 * here, weights, organ=here)
    assert "organ" not in two


def test_without_dice_and_voxel_terms_the_mask_changes_nothing(an_attention: Attention) -> None:
    weights = HeadLossWeights(dice=0, voxel=0)
    empty = torch.zeros(1, 1, 2, 2, 1)
    totals = [
        float(head_losses(an_attention, torch.eye(2)[None], torch.tensor([True]), mask, weights)["total"])
        for mask in (empty, empty + 1)
    ]
    assert totals[0] == totals[1]


PARTS = {"anomaly": "score_logits", "similarity": "class_embeddings", "dice": "maps", "voxel": "log_maps"}


@pytest.mark.parametrize("off", PARTS)
@pytest.mark.parametrize("abnormal", [True, False])
def test_a_loss_that_is_off_has_no_gradient_and_the_others_have(off: str, abnormal: bool) -> None:
    maps = torch.full((1, 2, 2, 2, 1), 0.5)
    leaves = {
        "maps": maps.clone(), "log_maps": maps.log(), "class_embeddings": torch.rand(1, 2, 2) + 0.1,
        "score_logits": torch.zeros(1),
    }  # fmt: skip
    for leaf in leaves.values():
        leaf.requires_grad_()
    mask = torch.zeros(1, 1, 2, 2, 1)
    mask[0, 0, 0, 0, 0] = abnormal
    weights = HeadLossWeights(**{off: 0.0})
    terms = head_losses(Attention(**leaves), torch.eye(2)[None], torch.tensor([abnormal]), mask, weights)
    terms["total"].backward()
    assert terms[off].isfinite(), "it is in the log all the same"
    for name, part in PARTS.items():
        assert (leaves[part].grad is None) == (name == off), name


@pytest.mark.parametrize("on", PARTS)
def test_a_loss_may_be_the_only_one_on_a_normal_image_too(on: str) -> None:
    maps = torch.full((1, 2, 2, 2, 1), 0.5, requires_grad=True)
    attention = Attention(maps, maps.log(), maps.flatten(2)[..., :2], maps.sum((1, 2, 3, 4)))
    weights = HeadLossWeights(**{name: float(name == on) for name in PARTS})
    terms = head_losses(attention, torch.eye(2)[None], torch.tensor([False]), torch.zeros(1, 1, 2, 2, 1), weights)
    terms["total"].backward()
    assert maps.grad is not None


def test_without_any_loss_there_is_nothing_to_learn() -> None:
    for values in ((0, 0, 0, 0, 0), (1, -1, 1, 1, 1), (1, float("nan"), 1, 1, 1)):
        with pytest.raises(ConfigError, match="loss weights of 0 or more, and one above 0"):
            HeadLossWeights(*map(float, values))


def test_the_similarity_term_may_look_at_the_label(an_attention: Attention) -> None:
    mask, weights = torch.zeros(1, 1, 2, 2, 1), HeadLossWeights()
    terms = [
        head_losses(an_attention, torch.eye(2)[None], torch.tensor([False]), mask, weights, by_label)["similarity"]
        for by_label in (False, True)
    ]
    assert float(terms[0]) == pytest.approx(math.log1p(math.exp(-1 / 0.07)), abs=1e-7)
    assert float(terms[1]) == pytest.approx(LN2)


def test_the_abnormal_map_is_the_one_that_is_judged() -> None:
    maps = torch.stack([torch.zeros(2, 2, 1), torch.ones(2, 2, 1)])[None]
    attention = Attention(maps, maps.clamp_min(1e-8).log(), torch.eye(2)[None], torch.zeros(1))
    terms = head_losses(
        attention, torch.eye(2)[None], torch.tensor([True]), torch.ones(1, 1, 2, 2, 1), HeadLossWeights()
    )
    assert float(terms["dice"]) == pytest.approx(0.0)
    assert float(terms["voxel"]) == pytest.approx(0.0, abs=1e-5)


def test_the_similarity_loss_compares_along_the_prompts_and_along_the_maps() -> None:
    """Both maps lie on the normal prompt: along the prompts 0 and 1/τ, along the maps twice ln 2."""
    maps = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert float(similarity_loss(maps, torch.eye(2)[None])) == pytest.approx((0.5 / 0.07 + LN2) / 2, abs=1e-5)


def test_the_dice_loss_is_a_mean_over_windows_and_not_over_their_voxels() -> None:
    """One tumor voxel of four costs 1/2, four of four 1 - 5/7."""
    p, m = torch.full((2, 1, 2, 2, 1), 0.5), torch.ones(2, 1, 2, 2, 1)
    m[0] = 0
    m[0, 0, 0, 0, 0] = 1
    assert float(dice_loss(p, m, torch.tensor([True, True]))) == pytest.approx((1 / 2 + 2 / 7) / 2)


def test_each_window_is_weighed_by_its_own_tumor() -> None:
    maps, small, none = log_maps([0.9, 0.2, 0.2, 0.2]), row([1.0, 0, 0, 0]), row([0.0] * 4)
    alone = [float(voxel_loss(maps, mask)) for mask in (small, none)]
    both = voxel_loss(torch.cat([maps, maps]), torch.cat([small, none]))
    assert float(both) == pytest.approx(sum(alone) / 2)
