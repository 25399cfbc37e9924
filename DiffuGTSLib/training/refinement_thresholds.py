"""Choose how residuals are mixed and where the mixture is cut, on validation samples whose candidates were chosen before.

    RUN/thresholds/twins/           every sample that has a candidate, with its pseudo-healthy twin
    RUN/thresholds/refinement.csv   every mixture and cut with its figures, the best first

Paper silent; we chose the largest gain over the candidates on the kind of tumors, real or painted, that gains less: what
helps the one and harms the other is not wished. A false positive can no longer be made here, only dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.evaluation.report import write_rows
from DiffuGTSLib.residual import ResidualMaps, projection_residuals
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.training.residual import coarse_dice, moved, refined_dice, untrained_maps
from DiffuGTSLib.training.twins import TwinnedWindow, validation_twins

MIXTURES = ((0.0, 0.0, 1.0), (0.0, 0.25, 0.75), (0.25, 0.0, 0.75), (0.0, 0.5, 0.5), (0.25, 0.25, 0.5), (0.5, 0.5, 0.0))
"""What is tried for `residual.beta_pixel`, `beta_feature` and `beta_attention`."""
CUTS = tuple(round(0.05 * step, 2) for step in range(1, 13))
"""What is tried for `residual.threshold`, as it is and as a share of the highest."""
KEYS = ("feature", "beta_pixel", "beta_feature", "beta_attention", "rule", "threshold")


@dataclass(frozen=True)
class RefinedSetting:
    """One way to refine, and what it comes to.

    Attributes:
        residual: Settings that were tried.
        gains: Dice beyond that of the candidates, of "real" and "painted" tumors, as far as there are any: mean over
            groups of the mean over samples with a tumor and a candidate.
        by_group: Dice of each group.
    """

    residual: ResidualConfig
    gains: dict[str, float]
    by_group: dict[str, float]


def refined_settings(
    samples: Sequence[Sample], folder: Path, components: Components, config: Config, report: Callable[[str], None]
) -> list[RefinedSetting]:
    """Return every way to refine, the best first; none where no sample with a tumor has a candidate.

    Args:
        samples: With a tumor.
        folder: Where their twins are kept.
        components: Frozen.
        config: With the thresholds of candidates that were chosen.
        report: Is told one line at a time.
    """
    windows, maps, groups = [], [], []
    for number, sample in enumerate(samples, start=1):
        window = validation_twins(sample, folder, components, config)
        if window is not None:
            windows.append(window)
            maps.append(_maps(window, components))
            groups.append(group_of(sample))
        report(f"thresholds: repainted {number} of {len(samples)}: {sample.organ}, {sample.modality}")
    if not windows:
        return []
    settings = [measured(windows, maps, groups, residual) for residual in tried(config.residual)]
    # Of equals the earlier one stays in front: the preset's way, then the plainer mixture.
    return sorted(settings, key=lambda setting: -min(setting.gains.values()))


def tried(preset: ResidualConfig) -> Iterator[ResidualConfig]:
    """Yield the preset's way, then every mixture, cut by Otsu's rule and at every threshold."""
    yield preset
    for pixel, feature, attention in MIXTURES:
        mixture = replace(preset, beta_pixel=pixel, beta_feature=feature, beta_attention=attention)
        yield replace(mixture, rule="otsu")
        for rule in ("fixed", "relative"):
            for cut in CUTS:
                yield replace(mixture, rule=rule, threshold=cut)


def measured(
    windows: Sequence[TwinnedWindow],
    maps: Sequence[ResidualMaps],
    groups: Sequence[str],
    residual: ResidualConfig,
) -> RefinedSetting:
    """Return what a way to refine comes to, of windows with their residuals and groups."""
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for window, each, group in zip(windows, maps, groups, strict=True):
        before.setdefault(group, []).append(coarse_dice(window))
        after.setdefault(group, []).append(refined_dice(window, each, residual))
    by_group = {group: float(np.mean(values)) for group, values in after.items()}
    coarse = by_kind({group: float(np.mean(values)) for group, values in before.items()})
    gains = {kind: dice - coarse[kind] for kind, dice in by_kind(by_group).items()}
    return RefinedSetting(residual, gains, by_group)


def group_of(sample: Sample) -> str:
    """Return what a sample is averaged with: organ, modality, and whether its tumor is real or painted."""
    return f"{sample.organ}, {sample.modality}, {'real' if sample.real else 'painted'}"


def by_kind(by_group: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over groups of "real" and of "painted" tumors, of those that there are."""
    kinds: dict[str, list[float]] = {}
    for group, value in by_group.items():
        kinds.setdefault(group.rsplit(", ", 1)[1], []).append(value)
    return {kind: float(np.mean(values)) for kind, values in kinds.items()}


def write_refined(path: Path, settings: Sequence[RefinedSetting]) -> None:
    """Write the table."""
    rows = []
    for setting in settings:
        figures = {f"gain_{kind}": gain for kind, gain in setting.gains.items()} | setting.by_group
        shown = {name: f"{figure:.4f}" for name, figure in figures.items()}
        rows.append({key: getattr(setting.residual, key) for key in KEYS} | shown)
    write_rows(rows, path)


def _maps(window: TwinnedWindow, components: Components) -> ResidualMaps:
    if components.residual is not None:
        return projection_residuals(components.residual, moved(window, components.device).evidence).cpu()
    return untrained_maps(window)
