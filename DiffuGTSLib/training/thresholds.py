"""Choose the thresholds of the attention, and of the residuals after it: on validation samples, never on a test scan.

    RUN/thresholds/attention/   attention of every validation sample: made once, the long part
    RUN/thresholds/table.csv    every setting with its figures, the best first
    RUN/thresholds/refinement.csv, twins/   the same of mixtures of residuals, see `refinement_thresholds`
    RUN/thresholds/chosen.json  the chosen ones, in the form of a preset: diffugts segment --config …/chosen.json
                                and the cases that they were chosen on, which evaluate refuses to test

A validation sample is a whole validation scan with a tumor, or a window of an organ, mostly with a painted tumor.
Nothing is learned. Paper silent; we chose the smallest number of false positives among the settings whose Dice is as
good as the best one's, because Dice alone forgives what is small. Real tumors and painted ones count half each: the real
ones may be of one organ, and of the painted ones there are as many organs as were asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from DiffuGTSLib.components import Components, ScanContext, load_components
from DiffuGTSLib.config import Config, MasksConfig, ResidualConfig
from DiffuGTSLib.datasets.trained_cases import TRAINED, TUNED_ON, read_training_cases
from DiffuGTSLib.errors import ConfigError, InputError, did_you_mean
from DiffuGTSLib.evaluation.detection import false_positive_count
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.report import write_rows
from DiffuGTSLib.masks import find_candidates, in_main_parts
from DiffuGTSLib.smoothing import smooth_within_edges
from DiffuGTSLib.storage import make_folder, whole_file, write_json
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.training.anomalies import (
    MINIMUM_ORGAN_VOXELS,
    MINIMUM_VOXELS,
    AnomalySampler,
    Mixture,
    Sample,
)
from DiffuGTSLib.training.data import TrainingScan, without_sick_organ
from DiffuGTSLib.training.job import Job, Part
from DiffuGTSLib.training.refinement_thresholds import KEYS as REFINEMENT_KEYS
from DiffuGTSLib.training.refinement_thresholds import by_kind, group_of, refined_settings, write_refined

SHARES = (0.2, 0.3, 0.4, 0.5)
PEAKS = (0.6, 0.7, 0.8, 0.9)
FLOORS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
SMOOTHINGS_MM = (0.0, 6.0)
"""What is tried for `masks.threshold`, `masks.peak`, with the relative rule `masks.floor`, and `masks.smooth_mm`."""

_AS_HARD_AS_TRAINING = Mixture(real=0.0, anywhere=0.0, turned=0.3, decoys=0.3)
_PATIENCE = 20

MASK_KEYS = ("smooth_mm", "rule", "threshold", "peak", "floor")


@dataclass(frozen=True)
class ThresholdOptions:
    """What a user may choose, by `--set`.

    Attributes:
        painted: Windows with freshly painted tumors, for each organ.
        healthy: Windows of an organ without a tumor, for each organ.
        absent: Windows that do not show the organ that is asked for, for each organ: most of a whole scan is such.
        organs: To paint into, separated by commas; empty takes all that the protocol shows.
        side: Of these windows, in voxels.
        tolerance: A Dice this close to the best is as good.
        refine: Whether the mixture of residuals is chosen as well, on the samples with a tumor: most of the time.
    """

    painted: int = 4
    healthy: int = 1
    absent: int = 1
    organs: str = ""
    side: int = 96
    tolerance: float = 0.01
    refine: bool = True

    def __post_init__(self) -> None:
        counts = (self.painted, self.healthy, self.absent)
        if min(counts) < 0 or self.side < 16 or self.side % 16 or not 0 <= self.tolerance < 1:
            raise ConfigError(
                "painted, healthy and absent: expected 0 or more; side: a multiple of 16; tolerance: 0 to 1; "
                f"got {', '.join(map(str, counts))}, {self.side}, {self.tolerance}."
            )


@dataclass(frozen=True, eq=False)
class ValidationMap:
    """The attention of one validation sample.

    Attributes:
        group: What it is averaged with: organ, modality, and whether its tumor is real or painted.
        abnormal: Attention, (X, Y, Z).
        picture: Canonical intensities.
        truth: Tumor of the organ that was asked for.
        spacing_mm: Of the voxels.
        allowed: Where candidates are looked for, by the preset's `organ_share`.
    """

    group: str
    abnormal: NDArray[np.float32]
    picture: NDArray[np.float32]
    truth: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    allowed: NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """One way to cut, and what it comes to.

    Attributes:
        masks: Settings that were tried.
        dice: Mean over real and painted of the mean over groups of the mean over windows with a tumor.
        by_group: Of each group.
        false_positives: Findings that are matched with no tumor, a window: their IoU with each is below 0.1.
        false_positives_healthy: False positives a window without a tumor; NaN without any.
    """

    masks: MasksConfig
    dice: float
    by_group: dict[str, float]
    false_positives: float
    false_positives_healthy: float


def choose_thresholds(job: Job) -> None:
    """Compute the attention of every sample once, try every setting, and write the table and the choice."""
    options: ThresholdOptions = job.options
    folder = job.output / "thresholds"
    make_folder(folder)
    config, components, samples = _set_up(job)
    maps = [
        cached_map(sample, folder / "attention", components, config) for sample in _with_progress(samples, job.report)
    ]
    settings = ranked(list(measured(maps, config.masks)), options.tolerance)
    _write(folder, settings)
    job.report(f"thresholds: {len(maps)} validation samples, {len(settings)} settings: {folder / 'table.csv'}")
    for setting in settings[:3]:
        job.report(f"thresholds: {_in_words(setting)}")
    chosen = {"masks": _chosen(settings[0].masks, MASK_KEYS)}
    _write_chosen(folder, chosen)
    if options.refine:
        found = [sample for sample in samples if sample.mask.any()]
        chosen |= _refined(found, components, replace(config, masks=settings[0].masks), folder, job)
        _write_chosen(folder, chosen)
    job.report(f"thresholds: chosen: {folder / 'chosen.json'}")


def _set_up(job: Job) -> tuple[Config, Components, list[Sample]]:
    """Return the configuration, the networks and the validation samples.

    Raises:
        WeightsError: If the model cannot be read.
        InputError, ConfigError: As `validation_samples` and `require_repaintable`.
    """
    config = job.inference_config(job.head_base)
    config = replace(config, runtime=replace(config.runtime, offload=False))  # all parts are used all the time
    components = load_components(config)
    _tell_of_trained(job.head_base, job)
    samples = validation_samples(job.scans, job.options, job.plan.seed)
    require_repaintable(samples, components, config, job.options)
    return config, components, samples


def _refined(
    samples: Sequence[Sample], components: Components, config: Config, folder: Path, job: Job
) -> dict[str, dict[str, Any]]:
    """Choose the mixture of residuals, and return what of a preset it changes: nothing where nothing was repainted."""
    settings = refined_settings(samples, folder / "twins", components, config, job.report)
    if not settings:
        job.report(
            "thresholds: no validation sample with a tumor has a candidate: the preset's mixture of residuals stays"
        )
        return {}
    write_refined(folder / "refinement.csv", settings)
    best = settings[0]
    job.report(f"thresholds: {len(settings)} ways to refine: {folder / 'refinement.csv'}")
    gains = ", ".join(f"{gain:+.3f} on {kind} tumors" for kind, gain in best.gains.items())
    job.report(f"thresholds: the best changes Dice by {gains}: {_chosen(best.residual, REFINEMENT_KEYS)}")
    return {"residual": _chosen(best.residual, REFINEMENT_KEYS)}


def require_repaintable(
    samples: Sequence[Sample], components: Components, config: Config, options: ThresholdOptions
) -> None:
    """Refuse, before the long part, what the denoiser could not repaint after it.

    Raises:
        ConfigError: Windows that it cannot halve.
        InputError: A modality that it does not know (code "modality").
    """
    if not options.refine:
        return
    multiple = components.autoencoder.downsampling * components.denoiser.side_multiple
    if options.side % multiple:
        raise ConfigError(
            f"side: the denoiser needs a multiple of {multiple} voxels, got {options.side}.",
            hint="choose another side, or refine=no.",
        )
    config.backbone.require_known(
        (sample.modality for sample in samples),
        "leave these out of the protocol, choose another preset, or refine=no: they could not be repainted.",
    )


def _write_chosen(folder: Path, chosen: dict[str, dict[str, Any]]) -> None:
    content = {**chosen, TUNED_ON: [asdict(case) for case in read_training_cases(folder) or ()]}
    write_json(folder / "chosen.json", content, ensure_ascii=False)


def _chosen(config: MasksConfig | ResidualConfig, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(config, key) for key in keys}


def validation_samples(scans: dict[str, list[TrainingScan]], options: ThresholdOptions, seed: int) -> list[Sample]:
    """Return the validation scans with a tumor, whole, and windows of every organ.

    Windows may be cut from scans that were trained on, since of most organs there is no second patient; the paint is
    fresh.

    Raises:
        InputError: If an organ is asked for that no scan shows, or no sample shows a tumor (code "validation").
    """
    found = [_whole(scan) for scan in scans["validation"] if scan.tumor.any()]
    every = [scan for split in ("train", "validation") for scan in scans[split]]
    shown = sorted(
        {
            organ
            for scan in every
            for organ, mask in scan.organs.items()
            if np.count_nonzero(mask & scan.healthy) >= MINIMUM_ORGAN_VOXELS
        }
    )
    for organ in _named(options.organs, shown):
        found += _windows(every, organ, options, seed)
    if not any(sample.mask.sum() >= MINIMUM_VOXELS for sample in found):
        raise InputError(
            "Thresholds cannot be chosen: no validation scan has an outlined tumor, and none was painted.",
            hint="set painted to 1 or more, or name validation scans with a tumor in the protocol.",
            code="validation",
        )
    return found


def _whole(scan: TrainingScan) -> Sample:
    seen = scan.scan
    x, y, z = (slice(start, stop) for start, stop in seen.inside)
    return Sample(seen.image, scan.tumor, scan.case.organ, seen.modality, seen.spacing_mm, (x, y, z))


def _named(organs: str, shown: Sequence[str]) -> list[str]:
    wanted = [organ.strip() for organ in organs.split(",") if organ.strip()]
    for organ in wanted:
        if organ not in shown:
            raise InputError(f"organs: no scan shows the organ '{organ}'.", hint=did_you_mean(organ, shown))
    return wanted or list(shown)


def _windows(scans: Sequence[TrainingScan], organ: str, options: ThresholdOptions, seed: int) -> Iterator[Sample]:
    healthy = [without_sick_organ(scan) for scan in scans]
    only = [replace(scan, organs={organ: scan.organs[organ]}) for scan in healthy if organ in scan.organs]
    if not only:
        return
    hard = _AS_HARD_AS_TRAINING
    kinds = (
        (options.painted, replace(hard, healthy=0.0), _shows_a_tumor),
        (options.healthy, replace(hard, healthy=1.0), _shows_no_tumor),
        (options.absent, replace(hard, anywhere=1.0), _shows_no_organ),
    )
    for kind, (count, mixture, wanted) in enumerate(kinds):
        sampler = AnomalySampler(only, options.side, mixture)
        for number in range(count):
            rng = np.random.default_rng([seed, number, kind, *organ.encode()])
            drawn = (sampler.draw(rng) for _ in range(_PATIENCE))
            # Too small an organ has none with a tumor, a sick one none without, one that fills its scans none beside it.
            found = next(filter(wanted, drawn), None)
            if found is not None:
                yield replace(found, real=False)


def _shows_a_tumor(sample: Sample) -> bool:
    return sample.abnormal


def _shows_no_tumor(sample: Sample) -> bool:
    return not sample.mask.any()


def _shows_no_organ(sample: Sample) -> bool:
    return sample.shown is not None and not sample.shown.any() and bool(sample.image.any())


def cached_map(sample: Sample, folder: Path, components: Components, config: Config) -> ValidationMap:
    """Return a sample's attention, read or computed now; padding is cut off, since it is no place for a finding."""
    path = folder / f"{fingerprint(sample, components, config)}.safetensors"
    maps = _read_maps(path)
    if maps is None:
        maps = _attention(sample, components, config)
        make_folder(folder)
        with whole_file(path) as temporary:
            save_file(maps, temporary)
    inside, abnormal, organ = sample.inside, maps["abnormal"], maps.get("organ")
    truth = sample.mask[inside]
    allowed = in_main_parts(
        np.ones(truth.shape, dtype=bool), None if organ is None else organ[inside], config.masks.organ_share
    )
    return ValidationMap(group_of(sample), abnormal[inside], sample.image[inside], truth, sample.spacing_mm, allowed)


def _read_maps(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.is_file():
        return None
    try:
        return dict(load_file(path))
    except SafetensorError:
        return None  # cut off: made again


def _attention(sample: Sample, components: Components, config: Config) -> dict[str, NDArray[Any]]:
    """Attend as `DiffuGTSLib.pipeline.segment` does."""
    pair = organ_prompts(sample.organ, sample.modality)
    image = torch.from_numpy(np.ascontiguousarray(sample.image, dtype=np.float32))[None, None].to(components.device)
    with torch.inference_mode(), components.autocast(config):
        maps = ScanContext.of(pair, sample.spacing_mm, sample.modality, components, config).attend(image)
    found = {"abnormal": maps.abnormal.float().cpu().numpy()}
    return found if maps.organ is None else found | {"organ": maps.organ.cpu().numpy()}


def measured(maps: Sequence[ValidationMap], preset: MasksConfig) -> Iterator[Setting]:
    """Yield what every setting comes to, smoothed and not."""
    for smooth_mm in SMOOTHINGS_MM:
        masks = replace(preset, smooth_mm=smooth_mm)
        smoothed = [_smoothed(each, masks) for each in maps]
        yield from (measure(smoothed, each) for each in tried(masks))


def _smoothed(of_sample: ValidationMap, masks: MasksConfig) -> ValidationMap:
    everywhere = np.ones(of_sample.truth.shape, dtype=bool)
    smoothed = smooth_within_edges(of_sample.abnormal, of_sample.picture, everywhere, of_sample.spacing_mm, masks)
    return replace(of_sample, abnormal=smoothed)


def tried(masks: MasksConfig) -> Iterator[MasksConfig]:
    """Yield every way to cut: thresholds and peaks as they are, and as shares of the highest attention."""
    for threshold in SHARES:
        for peak in PEAKS:
            yield replace(masks, rule="fixed", threshold=threshold, peak=peak, floor=0.0)
            for floor in FLOORS:
                yield replace(masks, rule="relative", threshold=threshold, peak=peak, floor=floor)


def measure(maps: Sequence[ValidationMap], masks: MasksConfig) -> Setting:
    """Return what a setting comes to, on maps that are smoothed already."""
    overlaps: dict[str, list[float]] = {}
    wrong, wrong_healthy = [], []
    for each in maps:
        found = find_candidates(each.abnormal, each.allowed, each.spacing_mm, masks)
        wrong.append(false_positive_count(found, each.truth))
        if each.truth.any():
            overlaps.setdefault(each.group, []).append(dice(found, each.truth))
        else:
            wrong_healthy.append(wrong[-1])
    by_group = {group: float(np.mean(values)) for group, values in overlaps.items()}
    healthy = float(np.mean(wrong_healthy)) if wrong_healthy else float("nan")
    dice_of_both = float(np.mean(list(by_kind(by_group).values())))
    return Setting(masks, dice_of_both, by_group, float(np.mean(wrong)), healthy)


def ranked(settings: Sequence[Setting], tolerance: float) -> list[Setting]:
    """Return settings, the best first: fewest false positives among those as good as the best, then by Dice."""
    best = max(setting.dice for setting in settings)
    good = [setting for setting in settings if setting.dice >= best - tolerance]
    rest = [setting for setting in settings if setting.dice < best - tolerance]
    return sorted(good, key=lambda s: (s.false_positives, -s.dice)) + sorted(rest, key=lambda s: -s.dice)


def _tell_of_trained(model: Path, job: Job) -> None:
    """Warn of validation scans that the head was trained on: their tumors are no news to it."""
    trained = {case.patient for case in read_training_cases(model) or () if case.use == TRAINED}
    seen = sorted({scan.case.patient for scan in job.scans["validation"] if scan.tumor.any()} & trained)
    if seen:
        job.report(f"thresholds: SEEN IN TRAINING, so that figures on them are too good: {', '.join(seen)}")


def _with_progress(samples: Sequence[Sample], report: Callable[[str], None]) -> Iterator[Sample]:
    for number, sample in enumerate(samples, start=1):
        yield sample
        report(f"thresholds: attention {number} of {len(samples)}: {sample.organ}, {sample.modality}")


def fingerprint(sample: Sample, components: Components, config: Config) -> str:
    """Return a digest of all that a sample's attention follows from: picture, prompt, weights and settings."""
    backbone = asdict(config.backbone) | {"folder": ""}
    asked = [sample.organ, sample.modality, sample.spacing_mm, asdict(config.text), config.runtime.precision]
    made_of = ["abnormal, organ", components.weights, backbone, asked, sample.image.shape]
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(sample.image, dtype=np.float32).data)
    return digest.hexdigest()[:32]


def _write(folder: Path, settings: Sequence[Setting]) -> None:
    rows = []
    for setting in settings:
        figures = {name: getattr(setting, name) for name in ("dice", "false_positives", "false_positives_healthy")}
        shown = {name: f"{figure:.4f}" for name, figure in (figures | setting.by_group).items()}
        rows.append({key: getattr(setting.masks, key) for key in MASK_KEYS} | shown)
    write_rows(rows, folder / "table.csv")


def _in_words(setting: Setting) -> str:
    masks = setting.masks
    floor = f", floor {masks.floor:g}" if masks.rule == "relative" else ""
    smooth = f"smoothed by {masks.smooth_mm:g} mm, " if masks.smooth_mm else ""
    return (
        f"{smooth}{masks.rule}, threshold {masks.threshold:g}, peak {masks.peak:g}{floor}: Dice {setting.dice:.3f}, "
        f"{setting.false_positives:.2f} false positives a window, {setting.false_positives_healthy:.2f} without a tumor"
    )


def rehearse_thresholds(job: Job) -> None:
    """Say how many validation samples there are, and how many settings would be tried."""
    _, _, samples = _set_up(job)
    with_tumor = sum(bool(sample.mask.any()) for sample in samples)
    count = len(SMOOTHINGS_MM) * len(list(tried(job.config.masks)))
    job.report(f"thresholds: {with_tumor} validation samples with a tumor, {len(samples) - with_tumor} without")
    job.report(f"thresholds: {count} settings would be tried")


PART = Part(
    train=choose_thresholds,
    rehearse=rehearse_thresholds,
    iterations=1,
    options=ThresholdOptions(),
    learns_weights=False,
    requires=("aova", "model/aova"),
    any_preset=True,
)
"""What `diffugts train thresholds` chooses."""
