"""What the repainting changed: numbers worked by hand, and what must be nothing."""

import pytest
import torch
from torch import Tensor

from DiffuGTSLib.config import ResidualConfig
from DiffuGTSLib.residual import Evidence, ResidualProjection, attention_residuals, projection_residuals

SHAPE = (10, 5, 4)


def flat(value: float = 0.0) -> Tensor:
    return torch.full(SHAPE, value)


def test_identical_twins_leave_no_residual() -> None:
    image, attention = torch.rand(SHAPE), torch.rand(SHAPE)
    maps = attention_residuals(image, image.clone(), attention, attention.clone(), flat(), flat(1.0))
    assert not maps.pixel.any() and not maps.feature.any() and not maps.fused(ResidualConfig()).any()


def test_the_fused_residual_worked_by_hand() -> None:
    """Half of the candidate changes by 0.4, the other by 0.1; attention drops by 0.2 in all of it.

    The 99th percentiles are 0.4 and 0.2: P = 1 and 0.25, F = 1. Fused 0.75 P + 0.25 F = 1 and 0.4375.
    """
    changed = flat(0.1)
    changed[5:] = 0.4
    config = ResidualConfig(beta_pixel=0.6, beta_feature=0.2)
    maps = attention_residuals(flat(0.5), flat(0.5) + changed, flat(0.7), flat(0.5), flat(), flat(1.0))
    assert maps.pixel[0, 0, 0] == pytest.approx(0.25) and maps.pixel[9, 0, 0] == pytest.approx(1.0)
    assert maps.feature.min() == pytest.approx(1.0)
    assert maps.fused(config)[0, 0, 0] == pytest.approx(0.4375) and maps.fused(config)[9, 0, 0] == pytest.approx(1.0)


def test_a_change_to_brighter_counts_like_one_to_darker() -> None:
    change = flat(0.3)
    change[5:] = -0.3
    maps = attention_residuals(flat(0.5), flat(0.5) + change, flat(), flat(), flat(), flat(1.0))
    assert torch.allclose(maps.pixel, flat(1.0))


def test_attention_that_rises_is_no_residual() -> None:
    maps = attention_residuals(flat(0.5), flat(0.5), flat(0.2), flat(0.9), flat(), flat(1.0))
    assert not maps.feature.any() and not maps.fused(ResidualConfig()).any()


def test_the_prior_is_taken_as_it_is_and_weighed_with_the_others() -> None:
    """Weights 0.5, 0.5 and 1: identical twins, attention 0.6 gives 0.6 * 1 / 2 = 0.3."""
    image = torch.rand(SHAPE)
    config = ResidualConfig(beta_attention=1.0)
    maps = attention_residuals(image, image, flat(0.6), flat(0.6), flat(0.6), flat(1.0))
    assert torch.allclose(maps.fused(config), flat(0.3))
    without = attention_residuals(image, image, flat(0.6), flat(0.6), flat(0.6), flat(1.0))
    assert not without.fused(ResidualConfig()).any()


def test_everything_is_zero_outside_the_candidate() -> None:
    candidate = flat()
    candidate[:3] = 1.0
    config = ResidualConfig(beta_attention=0.5)
    maps = attention_residuals(flat(0.1), flat(0.9), flat(0.9), flat(0.1), flat(0.9), candidate)
    for values in (maps.pixel, maps.feature, maps.fused(config)):
        assert not values[3:].any() and values[:3].min() > 0


def test_an_empty_candidate_gives_nothing() -> None:
    maps = attention_residuals(flat(0.1), flat(0.9), flat(0.9), flat(0.1), flat(0.9), flat())
    assert not maps.fused(ResidualConfig(beta_attention=1.0)).any()


def test_the_scale_is_the_99th_percentile_so_that_one_edge_voxel_presses_nothing_down() -> None:
    """Of 200 voxels the 198th in order is the scale: one outlier of 10 is cut to 1, the rest of 0.2 is 1 as well."""
    change = flat(0.2)
    change[0, 0, 0] = 10.0
    maps = attention_residuals(flat(), change, flat(), flat(), flat(), flat(1.0))
    assert torch.allclose(maps.pixel, flat(1.0))
    change[0, 0, :3] = 10.0  # three of 200 are more than a hundredth
    maps = attention_residuals(flat(), change, flat(), flat(), flat(), flat(1.0))
    assert maps.pixel[5, 0, 0] == pytest.approx(0.02)


def test_what_lies_outside_the_candidate_does_not_set_the_scale() -> None:
    candidate, change = flat(), flat(50.0)
    candidate[:3] = 1.0
    change[:3] = 0.2
    maps = attention_residuals(flat(), change, flat(), flat(), flat(), candidate)
    assert maps.pixel[:3].min() == pytest.approx(1.0)


def test_residuals_are_shares_from_0_to_1() -> None:
    draw = torch.Generator().manual_seed(0)
    reconstruction, healthy, before, after, attention = (torch.rand(SHAPE, generator=draw) for _ in range(5))
    maps = attention_residuals(reconstruction, healthy, before, after, attention, flat(1.0))
    for values in (maps.pixel, maps.feature, maps.fused(ResidualConfig(beta_attention=2.0))):
        assert values.min() >= 0 and values.max() <= 1


def evidence(residual: Tensor, prompts: Tensor) -> Evidence:
    """Twins whose latents differ by `residual`, (1, l, x, y, z); all else is 0 and everything is a candidate."""
    size = (1, 1, *(4 * side for side in residual.shape[2:]))
    nothing = torch.zeros(size)
    return Evidence(nothing, nothing, nothing, torch.ones(size), residual, torch.zeros_like(residual), prompts)


@pytest.fixture
def a_projection() -> ResidualProjection:
    """W picks the first of two latent channels for the first of three text axes; no bias, slope 5 and offset 0."""
    projection = ResidualProjection(2, 3)
    with torch.no_grad():
        projection.project.weight.zero_()
        projection.project.bias.zero_()
        projection.project.weight[0, 0] = 1.0
        projection.project.weight[1, 1] = 1.0
    return projection


PROMPTS = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]])
"""The step from normal to abnormal runs along the first axis."""


def test_the_projected_residual_worked_by_hand(a_projection: ResidualProjection) -> None:
    """W f = (3, 4, 0), Norm (0.6, 0.8, 0), step (1, 0, 0): cosine 0.6, times the slope 5."""
    residual = torch.tensor([3.0, 4.0])[None, :, None, None, None].expand(1, 2, 2, 2, 2).clone()
    logits = a_projection(evidence(residual, PROMPTS))
    assert logits.shape == (1, 1, 8, 8, 8)
    assert torch.allclose(logits, torch.tensor(3.0), atol=1e-5)


def test_the_projection_follows_the_prompts(a_projection: ResidualProjection) -> None:
    residual = torch.tensor([3.0, 4.0])[None, :, None, None, None].expand(1, 2, 2, 2, 2).clone()
    swapped = a_projection(evidence(residual, PROMPTS.flip(1)))
    assert torch.allclose(swapped, torch.tensor(-3.0), atol=1e-5)
    same = a_projection(evidence(residual, PROMPTS[:, :1].expand(1, 2, 3).clone()))
    assert not same.any(), "equal prompts ask for nothing"


def test_a_learned_residual_is_a_probability_inside_the_candidate_and_is_fused(
    a_projection: ResidualProjection,
) -> None:
    """Logit 3 is 0.9526; with weights 0, 0.5 and 0.5 and an attention of 0 half of it is left."""
    residual = torch.tensor([3.0, 4.0])[None, :, None, None, None].expand(1, 2, 2, 2, 2).clone()
    shown = evidence(residual, PROMPTS)
    shown.candidate[..., :4] = 0.0
    maps = projection_residuals(a_projection, shown)
    assert not maps.feature[..., :4].any() and not maps.pixel.any()
    assert maps.feature[0, 0, 7] == pytest.approx(0.9526, abs=1e-4)
    assert maps.fused(ResidualConfig(beta_pixel=0.0, beta_attention=0.5))[0, 0, 7] == pytest.approx(0.4763, abs=1e-4)
