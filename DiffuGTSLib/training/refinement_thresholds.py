"""Choose how residuals are mixed and where the mixture is cut, on judges whose candidates were chosen before.

    RUN/thresholds/twins/           every judge that has a candidate, with its pseudo-healthy twin
    RUN/thresholds/refinement.csv   every mixture and cut with its figures, the best first

Paper silent; we chose the highest mean Dice. A false positive can no longer be made here, only dropped.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.residual import ResidualMaps, projected_residuals
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.training.anomalies import Sample
from DiffuGTSLib.training.residual import moved, refined_dice, untrained_maps
from DiffuGTSLib.training.twins import TwinnedWindow, judged_twins

MIXTURES = ((0.0, 0.0, 1.0), (0.0, 0.25, 0.75), (0.25, 0.0, 0.75), (0.0, 0.5, 0.5), (0.25, 0.25, 0.5), (0.5, 0.5, 0.0))
"""What is tried for `residual.beta_pixel`, `beta_feature` and `prior`."""
CUTS = tuple(round(0.05 * step, 2) for step in range(1, 13))
"""What is tried for `residual.threshold`, as it is and as a share of the highest."""
KEYS = ("feature", "beta_pixel", "beta_feature", "prior", "rule", "threshold")


@dataclass(frozen=True)
class RefinedSetting:
    """One way to refine, and what it comes to.

    Attributes:
        residual: The way.
        dice: Mean over groups of the mean over judges with a tumor and a candidate.
        by_group: Of each group.
    """

    residual: ResidualConfig
    dice: float
    by_group: dict[str, float]


def refined_settings(
    samples: Sequence[Sample], folder: Path, components: Components, config: Config, report: Callable[[str], None]
) -> list[RefinedSetting]:
    """Return every way to refine, the best first; none where no judge with a tumor has a candidate.

    Args:
        samples: With a tumor.
        folder: Where their twins are kept.
        components: Frozen.
        config: With the thresholds of candidates that were chosen.
        report: Is told one line at a time.
    """
    windows, maps = [], []
    for number, sample in enumerate(samples, start=1):
        window = judged_twins(sample, folder, components, config)
        if window is not None:
            windows.append(window)
            maps.append(_maps(window, components))
        report(f"thresholds: repainted {number} of {len(samples)}: {sample.organ}, {sample.modality}")
    if not windows:
        return []
    settings = [measured(windows, maps, residual) for residual in tried(config.residual)]
    return sorted(settings, key=lambda setting: -setting.dice)  # of equals the preset's, then the earlier


def tried(preset: ResidualConfig) -> Iterator[ResidualConfig]:
    """Yield the preset's way, then every mixture, cut by Otsu's rule and at every threshold."""
    yield preset
    for pixel, feature, prior in MIXTURES:
        mixture = replace(preset, beta_pixel=pixel, beta_feature=feature, prior=prior)
        yield replace(mixture, rule="otsu")
        for rule in ("fixed", "relative"):
            for cut in CUTS:
                yield replace(mixture, rule=rule, threshold=cut)


def measured(
    windows: Sequence[TwinnedWindow], maps: Sequence[ResidualMaps], residual: ResidualConfig
) -> RefinedSetting:
    """Return what a way to refine comes to."""
    overlaps: dict[str, list[float]] = {}
    for window, each in zip(windows, maps, strict=True):
        overlaps.setdefault(f"{window.organ}, {window.modality}", []).append(refined_dice(window, each, residual))
    by_group = {group: float(np.mean(values)) for group, values in overlaps.items()}
    return RefinedSetting(residual, float(np.mean(list(by_group.values()))), by_group)


def write_refined(path: Path, settings: Sequence[RefinedSetting]) -> None:
    """Write the table."""
    groups = list(settings[0].by_group)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow([*KEYS, "dice", *groups])
        for setting in settings:
            figures = (setting.dice, *(setting.by_group[group] for group in groups))
            table.writerow([*(getattr(setting.residual, key) for key in KEYS), *(f"{each:.4f}" for each in figures)])


def _maps(window: TwinnedWindow, components: Components) -> ResidualMaps:
    if components.residual is not None:
        return projected_residuals(components.residual, moved(window, components.device).evidence).cpu()
    return untrained_maps(window)
