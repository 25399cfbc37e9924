"""Measure the variants of one scan: Dice, lesions found, false positives, and how well a map ranks voxels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import torch

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, InpaintingConfig, ResidualConfig
from DiffuGTSLib.evaluation import ablation_variants as names
from DiffuGTSLib.evaluation.ablation_case import Look, Region, Told, candidates, look, mixed, outlined, region, twins
from DiffuGTSLib.evaluation.ablation_variants import Wish, mixtures, prompt_pairs, repaintings
from DiffuGTSLib.evaluation.baselines import ThresholdRule, body_mask, center_ellipsoid, intensity_threshold
from DiffuGTSLib.evaluation.calibration import count_voxels
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.protocol_cases import ReadCase
from DiffuGTSLib.masks import drop_small
from DiffuGTSLib.protocol import Case
from DiffuGTSLib.text.encoder import embed_pair

CUTS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds that are tried for a mixture on tuning cases."""
FIGURES = ("dice", "lesion_sensitivity", "false_positives", "voxel_auroc")

Figures = dict[str, float]
Painted = dict[tuple[InpaintingConfig, int], tuple[torch.Tensor, torch.Tensor]]
"""How it was repainted, and with which seed → the healthy twin and the attention on it."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A scan that is asked.

    Attributes:
        case: Of the protocol.
        read: Its scan and mask.
        components: The model.
        config: Of the method.
        told: Hears of every window and step; may raise `Cancelled`.
    """

    case: Case
    read: ReadCase
    components: Components
    config: Config
    told: Told

    @property
    def truth(self) -> np.ndarray:
        """The reference, boolean."""
        return np.asarray(self.read.mask.array > 0)

    def look(self, *, every_prompt: bool) -> Look:
        """Look once, with the right prompts or with all of the study's."""
        pairs = prompt_pairs(self.case.organ, self.case.modality)
        if not every_prompt:
            pairs = {names.RIGHT: pairs[names.RIGHT]}
        ensemble, encoder = self.config.text.ensemble, self.components.text_encoder
        rows = {name: embed_pair(encoder, pair, ensemble, self.case.modality) for name, pair in pairs.items()}
        return look(self.read.scan, self.case.modality, rows, self.components, self.config, self.told)


def measure(
    subject: Subject, wish: Wish, rule: ThresholdRule, cuts: Mapping[str, float], wanted: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, Figures]]:
    """Yield (study, variant, figures) of a scan, for every variant that is wanted.

    Args:
        subject: The scan.
        wish: What to compare.
        rule: Of the threshold baseline.
        cuts: Mixture → threshold of its residual, where one was chosen; others keep the method's own.
        wanted: (study, variant) that are not known yet.
    """
    studies = {study for study, _ in wanted}
    with _precision(subject):
        seen = subject.look(every_prompt=names.PROMPTS in studies)
        if names.PROMPTS in studies:
            yield from _prompts(subject, seen)
        if studies <= {names.PROMPTS}:
            return
        candidate, coarse = candidates(seen.own, seen, subject.config)
        shared = region(seen, candidate, subject.components, subject.config, subject.told) if candidate.any() else None
        painted: Painted = {}
        if names.PARTS in studies:
            yield from _parts(subject, seen, coarse, shared, rule, cuts, painted)
        for study in (names.STEPS, names.SEEDS):
            for name, config in repaintings(study, wish, subject.config).items():
                if (study, name) in wanted:
                    mask = _refined(subject, seen, shared, config, config.residual, painted)
                    yield study, name, judged(mask, subject)


def tuning_curves(subject: Subject) -> dict[str, list[float]]:
    """Return mixture → Dice of its residual at each of `CUTS`, on a case that thresholds may be chosen on."""
    mixes = mixtures(subject.config.residual)
    with _precision(subject):
        seen = subject.look(every_prompt=False)
        candidate, _ = candidates(seen.own, seen, subject.config)
        if not candidate.any():
            return {name: [0.0] * len(CUTS) for name in mixes}
        shared = region(seen, candidate, subject.components, subject.config, subject.told)
        pair = twins(seen, shared, subject.components, subject.config, subject.told)
        inside = seen.scan.restore(shared.repainted) > 0.5
        curves = {}
        for name, mixture in mixes.items():
            _, soft = outlined(seen, shared, mixed(seen, shared, pair, mixture), subject.config)
            curves[name] = [_dice_at(soft, cut, inside, subject) for cut in CUTS]
        return curves


def judged(mask: np.ndarray, subject: Subject, voxel_auroc: float = nan) -> Figures:
    """Return the figures of a mask; overlap and sensitivity are NaN on a healthy scan."""
    truth, spacing_mm = subject.truth, subject.read.scan.geometry.spacing_mm
    box = _box(mask | truth)
    found = detect(mask[box], truth[box], spacing_mm)
    sick = bool(truth.any())
    return {
        "dice": dice(mask[box], truth[box]) if sick else nan,
        "lesion_sensitivity": found.sensitivity,
        "false_positives": float(found.false_positives),
        "voxel_auroc": voxel_auroc,
    }


def _prompts(subject: Subject, seen: Look) -> Iterator[tuple[str, str, Figures]]:
    """Judge the candidates of each pair of sentences."""
    scan, truth = subject.read.scan, subject.truth
    body = body_mask(scan, subject.case.modality) | truth
    for name, maps in seen.seen.items():
        _, coarse = candidates(maps, seen, subject.config)
        soft = np.clip(seen.scan.restore(maps.abnormal.cpu().numpy()), 0, 1)
        yield names.PROMPTS, name, judged(coarse, subject, count_voxels(soft, truth, body).auroc)


def _parts(
    subject: Subject, seen: Look, coarse: np.ndarray, shared: Region | None, rule: ThresholdRule,
    cuts: Mapping[str, float], painted: Painted,
) -> Iterator[tuple[str, str, Figures]]:  # fmt: skip
    """Judge both baselines, the candidates, every mixture of residuals and the whole method."""
    scan, config = subject.read.scan, subject.config
    body = body_mask(scan, subject.case.modality) | subject.truth
    plain = {
        names.ELLIPSOID: center_ellipsoid(scan.geometry.shape, scan.geometry.spacing_mm),
        names.THRESHOLD: intensity_threshold(scan, subject.case.modality, rule, body),
        names.COARSE: coarse,
    }
    for name, mask in plain.items():
        yield names.PARTS, name, judged(mask, subject)
    for name, mixture in {names.FULL: config.residual, **mixtures(config.residual)}.items():
        cut = replace(mixture, threshold=cuts.get(name, mixture.threshold))
        figures = judged(_refined(subject, seen, shared, config, cut, painted), subject)
        yield names.PARTS, name, {**figures, "cut": cut.threshold}


def _refined(
    subject: Subject, seen: Look, shared: Region | None, config: Config, mixture: ResidualConfig,
    painted: Painted,
) -> np.ndarray:  # fmt: skip
    """Return a refined mask; a repainting of the same configuration is made once."""
    if shared is None:
        return np.zeros(subject.read.scan.geometry.shape, dtype=bool)
    key = (config.inpainting, config.runtime.seed)
    if key not in painted:
        painted[key] = twins(seen, shared, subject.components, config, subject.told)
    maps = mixed(seen, shared, painted[key], mixture)
    return outlined(seen, shared, maps, replace(config, residual=mixture))[0]


def _dice_at(soft: np.ndarray, cut: float, inside: np.ndarray, subject: Subject) -> float:
    minimum_ml, spacing_mm = subject.config.masks.minimum_ml, subject.read.scan.geometry.spacing_mm
    return dice(drop_small((soft > cut) & inside, spacing_mm, minimum_ml), subject.truth)


def _precision(subject: Subject) -> torch.autocast:
    """Compute as `segment` does."""
    half = subject.config.runtime.precision == "bfloat16"
    return torch.autocast(subject.components.device.type, torch.bfloat16, enabled=half)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the box around a mask's voxels, one voxel where there are none: most of a scan is never labeled."""
    sides = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return tuple(sides)
