"""What is taken away, swapped or turned in an ablation: the variants of each study, by name.

Each study compares its variants with the whole method on the same scans. A variant changes one thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.text.prompts import PromptPair, find_organ, organ_prompts

PARTS, PROMPTS, STEPS, SEEDS = "parts", "prompts", "steps", "seeds"
STUDIES = (PARTS, PROMPTS, STEPS, SEEDS)
MOST_STEPS = 1000

FULL = "whole method"
ELLIPSOID, THRESHOLD, COARSE = "center ellipsoid", "one threshold", "attention alone"
RIGHT, WRONG, SWAPPED, NONSENSE = "right organ", "wrong organ", "swapped", "nonsense"

_NONSENSE = PromptPair("", "The train to the coast leaves at noon.", "Seven violins rest under a wooden bridge.")
_FAR = ("brain", "prostate")
"""Organs that are never in one scan: whichever is not asked for is the wrong one."""


@dataclass(frozen=True)
class AblationOptions:
    """What to compare.

    Attributes:
        studies: Some of `STUDIES`.
        steps: Denoising steps to repaint with.
        seeds: Seeds to repaint with.

    Raises:
        InputError: Unknown study, none, or a number that is out of range.
    """

    studies: tuple[str, ...] = STUDIES
    steps: tuple[int, ...] = (1, 2, 5, 10, 30)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for study in self.studies:
            if study not in STUDIES:
                raise InputError(f"Unknown study '{study}'.", hint=did_you_mean(study, STUDIES), code="choice")
        if not self.studies:
            raise InputError(f"Expected at least one study of {', '.join(STUDIES)}.", code="choice")
        for name, values, low, high in (("steps", self.steps, 1, MOST_STEPS), ("seeds", self.seeds, 0, 2**31)):
            if not all(low <= value <= high for value in values):
                raise InputError(f"Expected {name} of {low} to {high}, got {values}.", code="numbers")


def prompt_pairs(organ: str, modality: str) -> dict[str, PromptPair]:
    """Return the pairs of the study of prompts, the right one first.

    The wrong organ is one that no scan of the right one shows: brain, or prostate where the brain is asked for.
    "Swapped" calls the healthy sentence abnormal. "Nonsense" are two sentences about neither organ nor illness; they
    are in no bank, so that the text model itself has to be installed.

    Raises:
        PromptError: As `organ_prompts`.
    """
    right = organ_prompts(organ, modality)
    wrong = next(each for each in _FAR if each != find_organ(organ))
    swapped = PromptPair("", right.abnormal, right.normal)
    return {RIGHT: right, WRONG: organ_prompts(wrong, modality), SWAPPED: swapped, NONSENSE: _NONSENSE}


def mixtures(config: ResidualConfig) -> dict[str, ResidualConfig]:
    """Return the residual's mixtures: with one term left out, and of each term alone.

    A mixture that comes to the same as the whole, or as an earlier one, is left out: a preset may have no weight for a
    term.
    """
    pixel, feature, attention = config.beta_pixel, config.beta_feature, config.beta_attention
    wanted = {
        "without pixel residual": (0.0, feature, attention),
        "without feature residual": (pixel, 0.0, attention),
        "without attention": (pixel, feature, 0.0),
        "pixel residual alone": (1.0, 0.0, 0.0),
        "feature residual alone": (0.0, 1.0, 0.0),
        "attention inside the grown candidate": (0.0, 0.0, 1.0),
    }
    kept, known = {}, {_shares((pixel, feature, attention))}
    for name, weights in wanted.items():
        if sum(weights) > 0 and _shares(weights) not in known:
            known.add(_shares(weights))
            kept[name] = replace(config, beta_pixel=weights[0], beta_feature=weights[1], beta_attention=weights[2])
    return kept


def variants(study: str, options: AblationOptions, config: Config) -> list[str]:
    """Return the names of a study's variants, the one that all others are compared with first."""
    if study == PARTS:
        return [FULL, ELLIPSOID, THRESHOLD, COARSE, *mixtures(config.residual)]
    if study == PROMPTS:
        return [RIGHT, WRONG, SWAPPED, NONSENSE]
    if study == STEPS:
        return _numbered("steps", config.inpainting.steps, options.steps)
    return _numbered("seed", config.runtime.seed, options.seeds)


def repaintings(study: str, options: AblationOptions, config: Config) -> dict[str, Config]:
    """Return the configuration of each variant that repaints again; the method's own is among them."""
    if study == STEPS:
        numbers = dict.fromkeys((config.inpainting.steps, *options.steps))
        return {
            f"steps {n}": replace(config, inpainting=replace(config.inpainting, steps=n)) for n in numbers
        }  # fmt: skip
    numbers = dict.fromkeys((config.runtime.seed, *options.seeds))
    return {f"seed {n}": replace(config, runtime=replace(config.runtime, seed=n)) for n in numbers}


def _numbered(word: str, own: int, wished: Sequence[int]) -> list[str]:
    return [f"{word} {number}" for number in dict.fromkeys((own, *wished))]


def _shares(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(weight / sum(weights), 6) for weight in weights)
