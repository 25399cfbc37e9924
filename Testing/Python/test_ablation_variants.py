"""Variants of an ablation: each changes one thing, and none comes twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from DiffuGTSLib.config import ResidualConfig, load_config
from DiffuGTSLib.errors import InputError, PromptError
from DiffuGTSLib.evaluation.ablation_variants import (
    FULL,
    NONSENSE,
    RIGHT,
    SWAPPED,
    WRONG,
    AblationOptions,
    mixtures,
    prompt_pairs,
    repaintings,
    variants,
)

MINI = load_config("mini")


def test_the_wrong_organ_is_one_that_the_scan_does_not_show() -> None:
    assert prompt_pairs("lung", "CT")[WRONG].organ == "brain"
    assert prompt_pairs("brain", "MR")[WRONG].organ == "prostate"


def test_swapped_prompts_call_the_healthy_sentence_abnormal() -> None:
    pairs = prompt_pairs("liver", "CT")
    right, swapped = pairs[RIGHT], pairs[SWAPPED]
    assert (swapped.normal, swapped.abnormal) == (right.abnormal, right.normal)
    assert list(pairs) == [RIGHT, WRONG, SWAPPED, NONSENSE], "the right one first"
    with pytest.raises(PromptError, match="Unknown organ"):
        prompt_pairs("soul", "CT")


def test_a_mixture_leaves_one_term_out_or_alone() -> None:
    mixed = mixtures(ResidualConfig(beta_pixel=0.25, beta_feature=0.25, beta_attention=0.5))
    assert {name: (m.beta_pixel, m.beta_feature, m.beta_attention) for name, m in mixed.items()} == {
        "without pixel residual": (0.0, 0.25, 0.5),
        "without feature residual": (0.25, 0.0, 0.5),
        "without attention": (0.25, 0.25, 0.0),
        "pixel residual alone": (1.0, 0.0, 0.0),
        "feature residual alone": (0.0, 1.0, 0.0),
        "attention inside the grown candidate": (0.0, 0.0, 1.0),
    }


def test_a_mixture_that_comes_to_the_same_is_not_measured_twice() -> None:
    mixed = mixtures(ResidualConfig(beta_pixel=0.5, beta_feature=0.5, beta_attention=0.0))
    assert list(mixed) == [
        "without pixel residual",
        "without feature residual",
        "attention inside the grown candidate",
    ], "without attention it is the whole, and what is left of two is one alone"


def test_the_methods_own_steps_and_seed_come_first_and_once() -> None:
    options = AblationOptions(steps=(1, 10, 5), seeds=(2, 0))
    assert variants("steps", options, MINI) == ["steps 5", "steps 1", "steps 10"]
    assert variants("seeds", options, MINI) == ["seed 0", "seed 2"]
    assert variants("parts", options, MINI)[0] == FULL and variants("prompts", options, MINI)[0] == RIGHT
    steps, seeds = repaintings("steps", options, MINI), repaintings("seeds", options, MINI)
    assert list(steps) == variants("steps", options, MINI) and steps["steps 10"].inpainting.steps == 10
    assert seeds["seed 2"] == replace(MINI, runtime=replace(MINI.runtime, seed=2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"studies": ("part",)}, "Unknown study 'part'"),
        ({"studies": ()}, "at least one study"),
        ({"steps": (0,)}, "Expected steps of 1 to 1000"),
        ({"seeds": (-1,)}, "Expected seeds of 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        AblationOptions(**options)  # type: ignore[arg-type]
