"""Measure the variants of one scan: Dice, lesions found, false positives, and how well a map ranks voxels.

What a variant costs follows from what it changes. Mixtures of residuals share one repainting; prompts share the frozen
features of every window, which do not depend on the sentence; steps and seeds repaint again from the same look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan

import numpy as np

from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.cache import Cache
from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.evaluation import ablation_variants as names
from DiffuGTSLib.evaluation.ablation_variants import AblationOptions, mixtures, prompt_pairs, repaintings
from DiffuGTSLib.evaluation.baselines import ThresholdRule, body_mask, center_ellipsoid, intensity_threshold
from DiffuGTSLib.evaluation.calibration import count_voxels
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.froc import THRESHOLDS
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.protocol_cases import ReadCase
from DiffuGTSLib.pipeline import STAGES, Progress, Segmentation, segment
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes.boxes import bounding_box

Figures = dict[str, float]


@dataclass(eq=False)
class Subject:
    """A scan that is asked, and what is remembered of it in between.

    Attributes:
        case: Of the protocol.
        read: Its scan and mask.
        components: The model.
        config: Of the method.
        on_progress: Called as in `segment`.
        memory: What the networks said of its windows.
    """

    case: Case
    read: ReadCase
    components: Components
    config: Config
    on_progress: Progress
    memory: WindowMemory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = WindowMemory(self.config.runtime.remember_mb)

    @property
    def truth(self) -> np.ndarray:
        """The reference, boolean."""
        return np.asarray(self.read.mask.array > 0)

    @property
    def prompts(self) -> dict[str, PromptPair]:
        """Every pair of sentences of the study, the right one first."""
        return prompt_pairs(self.case.organ, self.case.modality)

    def segment(
        self, pair: PromptPair, config: Config, cache: Cache | None = None, stages: Sequence[str] = STAGES
    ) -> Segmentation:
        """Go the pipeline's road, as far as `stages`."""
        return segment(
            self.read.scan, pair, self.components, config, modality=self.case.modality, cache=cache,
            memory=self.memory, stages=stages, on_progress=self.on_progress,
        )  # fmt: skip

    def look(self) -> Segmentation:
        """Look once, with the right prompts."""
        return self.segment(self.prompts[names.RIGHT], self.config, stages=STAGES[:1])

    def repaint(self, cache: Cache) -> Segmentation:
        """Repaint the candidates of that look, as the method is configured."""
        return self.segment(self.prompts[names.RIGHT], self.config, cache)

    def judged(self, mask: np.ndarray, **more: float) -> Figures:
        """Return the figures of a mask; overlap and sensitivity are NaN on a healthy scan."""
        truth, sick = self.truth, bool(self.truth.any())
        box = bounding_box(mask | truth)
        found = detect(mask[box], truth[box], self.read.scan.geometry.spacing_mm)
        return {
            "dice": dice(mask[box], truth[box]) if sick else nan,
            "lesion_sensitivity": found.sensitivity,
            "false_positives": float(found.false_positives),
            "voxel_auroc": nan,
            "cut": nan,
            **more,
        }


def measure(
    subject: Subject,
    options: AblationOptions,
    rule: ThresholdRule,
    cuts: Mapping[str, float],
    wanted: Sequence[tuple[str, str]],
) -> Iterator[tuple[str, str, Figures]]:
    """Yield (study, variant, figures) of a scan, for every variant that is wanted, and others that cost nothing more.

    Args:
        subject: The scan.
        options: What to compare.
        rule: Of the threshold baseline.
        cuts: Mixture → threshold of its residual, where one was chosen; others keep the method's own.
        wanted: (study, variant) that are not known yet.
    """
    studies, config = {study for study, _ in wanted}, subject.config
    look = subject.look()
    if names.PROMPTS in studies:
        yield from _prompts(subject, look)
    refined: dict[object, Figures] = {}
    if names.PARTS in studies:
        for name, figures in _parts(subject, look, rule, cuts):
            yield names.PARTS, name, figures
            if name == names.FULL:
                refined[config.inpainting, config.runtime.seed] = figures
    for study in (names.STEPS, names.SEEDS):
        for name, other in repaintings(study, options, config).items():
            if (study, name) in wanted:
                key = other.inpainting, other.runtime.seed
                if key not in refined:
                    mask = subject.segment(subject.prompts[names.RIGHT], other, look.cache).mask
                    refined[key] = subject.judged(mask.array > 0)
                yield study, name, refined[key]


def tuning_curves(subject: Subject) -> dict[str, list[float]]:
    """Return mixture → Dice of its residual at each of `THRESHOLDS`, on a case that thresholds may be chosen on.

    NaN where the case's mask is empty: at no threshold is there anything to find.
    """
    mixes = mixtures(subject.config.residual)
    if not subject.truth.any():
        return {name: [nan] * len(THRESHOLDS) for name in mixes}
    refinement = subject.repaint(subject.look().cache).refinement
    if refinement is None:
        return {name: [0.0] * len(THRESHOLDS) for name in mixes}
    curves = {}
    for name, mixture in mixes.items():
        _, soft = refinement.outlined(mixture)
        levels = [refinement.threshold(replace(mixture, threshold=cut)) for cut in THRESHOLDS]
        curves[name] = [dice(refinement.cut(soft, level), subject.truth) for level in levels]
    return curves


def _prompts(subject: Subject, look: Segmentation) -> Iterator[tuple[str, str, Figures]]:
    """Judge the candidates and the map of each pair of sentences."""
    truth = subject.truth
    body = body_mask(subject.read.scan, subject.case.modality) | truth
    for name, pair in subject.prompts.items():
        seen = look if name == names.RIGHT else subject.segment(pair, subject.config, stages=STAGES[:1])
        auroc = count_voxels(seen.aova.array, truth, body).auroc
        yield names.PROMPTS, name, subject.judged(seen.coarse_mask.array > 0, voxel_auroc=auroc)


def _parts(
    subject: Subject, look: Segmentation, rule: ThresholdRule, cuts: Mapping[str, float]
) -> Iterator[tuple[str, Figures]]:
    """Judge both baselines, the candidates, the whole method and every mixture of its residuals."""
    scan, own = subject.read.scan, subject.config.residual
    body = body_mask(scan, subject.case.modality) | subject.truth
    yield names.ELLIPSOID, subject.judged(center_ellipsoid(scan.geometry.shape, scan.geometry.spacing_mm))
    yield names.THRESHOLD, subject.judged(intensity_threshold(scan, subject.case.modality, rule, body))
    yield names.COARSE, subject.judged(look.coarse_mask.array > 0)
    whole = subject.repaint(look.cache)
    for name, mixture in {names.FULL: own, **mixtures(own)}.items():
        cut = replace(mixture, threshold=cuts.get(name, mixture.threshold))
        mask = whole.mask.array if whole.refinement is None else whole.refinement.outlined(cut)[0]
        yield name, subject.judged(mask > 0, cut=cut.threshold)
