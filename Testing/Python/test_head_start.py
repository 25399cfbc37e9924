"""A head that training begins from can be made wider without forgetting anything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.training.head_start import can_widen, widened

CHANNELS, TEXT_DIM = (4, 8), 16


def a_head(widths: tuple[int, ...] = (4, 8, 16), adapter: str = "context") -> AovaHead:
    """A head whose weights say something, as after training."""
    torch.manual_seed(1)
    head = AovaHead(CHANNELS, TEXT_DIM, adapter=adapter, alpha=0.5, context_widths=widths, fuse="logit", elsewhere=True)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return head


def a_question() -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(2)
    return [torch.randn(1, 4, 16, 16, 16), torch.randn(1, 8, 8, 8, 8)], torch.randn(1, 2, TEXT_DIM)


@pytest.mark.parametrize("widths", [(4, 16, 16), (12, 24, 48), (4, 8, 64)])
def test_a_wider_head_answers_as_the_narrow_one_did(widths: tuple[int, ...]) -> None:
    narrow, (features, prompts) = a_head(), a_question()
    wide = widened(narrow, widths)
    assert tuple(wide.config["context_widths"]) == widths and wide.config["alpha"] == 0.5
    assert sum(w.numel() for w in wide.parameters()) > sum(w.numel() for w in narrow.parameters())
    with torch.no_grad():
        before, after = narrow(features, prompts), wide(features, prompts)
    assert before.maps.std() > 0.05, "it says something"
    torch.testing.assert_close(after.maps, before.maps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.score_logits, before.score_logits, atol=1e-5, rtol=1e-4)


def test_the_copies_do_not_learn_the_same() -> None:
    wide, (features, prompts) = widened(a_head(), (4, 16, 16)), a_question()
    weight = wide.get_submodule("adapters.enter.0.body.2").get_parameter("weight")
    wide(features, prompts).maps[:, 1].mean().backward()
    assert weight.grad is not None
    first, second = weight.grad[0::2], weight.grad[1::2]
    assert not torch.allclose(first, second, rtol=0.05)


def test_the_shares_follow_from_the_seed() -> None:
    narrow = a_head()
    one, same, other = (widened(narrow, (4, 16, 16), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("widths", "can"),
    [
        ((4, 8, 32), True),
        ((12, 8, 16), True),
        ((4, 8, 16), False),  # as it is
        ((4, 8), False),
        ((4, 12, 16), False),  # no whole multiple
        ((4, 4, 16), False),  # narrower
        ((8, 8, 16), False),  # one norm group would become eight
    ],
)
def test_only_whole_multiples_with_the_same_norm_groups_are_wider(widths: tuple[int, ...], can: bool) -> None:
    assert can_widen(a_head(), widths) is can


def test_an_adapter_without_a_pyramid_cannot_be_widened() -> None:
    assert not can_widen(a_head(adapter="mlp"), (8, 16, 32))
