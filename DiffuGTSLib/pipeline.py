"""The road of one scan: read it top to bottom in `segment`.

    from DiffuGTSLib.pipeline import load_components, segment
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from DiffuGTSLib.aova import AovaHead, AovaMaps, attend
from DiffuGTSLib.backbones import build_backbone
from DiffuGTSLib.backbones.interfaces import Denoiser, LatentAutoencoder, NoiseSchedule, TextEncoder
from DiffuGTSLib.backbones.weights import freeze, load_module
from DiffuGTSLib.backbones.windows import decode_scan, encode_scan
from DiffuGTSLib.config import Config
from DiffuGTSLib.errors import ConfigError, InputError, MemoryLimitError, WeightsError, did_you_mean
from DiffuGTSLib.inpainting import Conditions, mask_to_latent, repaint
from DiffuGTSLib.masks import coarse_mask as threshold_map
from DiffuGTSLib.masks import dilate_mm, drop_small, fine_threshold
from DiffuGTSLib.residual import ResidualMaps, residuals
from DiffuGTSLib.text.encoder import build_encoder, embed_pair
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.volume import require_same_grid

Progress = Callable[[str, float], None]
"""Called with (stage, share of it that is done); may raise `Cancelled`."""

STAGES = ("aova", "repaint", "residual")


@dataclass(frozen=True)
class Components:
    """Every trained part of one run, frozen and on its device.

    Attributes:
        autoencoder: Images to latents and features.
        denoiser: The healthy prior.
        schedule: Its noise levels.
        head: Anomaly-aware attention.
        text_encoder: Sentences to vectors.
        weights: Weight file → SHA-256.
        device: Where the networks are.
        trained: False for the seeded test networks; a result of theirs means nothing.
    """

    autoencoder: LatentAutoencoder
    denoiser: Denoiser
    schedule: NoiseSchedule
    head: AovaHead
    text_encoder: TextEncoder
    weights: dict[str, str]
    device: torch.device
    trained: bool


@dataclass(frozen=True, eq=False)
class Cache:
    """What a second look at the same scan re-uses.

    Attributes:
        latent: Of the whole scan, (l, x, y, z).
        aova: Abnormal map on the canonical grid, (X, Y, Z).
        anomaly_score: Of the scan.
    """

    latent: np.ndarray
    aova: np.ndarray
    anomaly_score: float


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A result, every map on exactly the scan's own grid.

    Attributes:
        mask: Refined tumor mask, uint8, 1 = tumor.
        coarse_mask: Candidates before repainting, uint8.
        aova: Abnormal attention, float32, 0 to 1.
        pseudo_healthy: The scan with the candidates repainted, native units; None when nothing was repainted.
        residual: Fused residual, float32, 0 to 1; None when nothing was compared.
        anomaly_score: 0 (normal) to 1.
        modality: "CT" or "MR", and why.
        modality_reason: In words.
        prompts: What was asked.
        config: How it was done.
        timings_s: Seconds a stage.
        outcome: One sentence: what was found, or why nothing was.
        cache: For `segment(..., cache=...)` with an edited mask.
    """

    mask: Volume
    coarse_mask: Volume
    aova: Volume
    pseudo_healthy: Volume | None
    residual: Volume | None
    anomaly_score: float
    modality: str
    modality_reason: str
    prompts: PromptPair
    config: Config
    timings_s: dict[str, float]
    outcome: str
    cache: Cache


@dataclass(frozen=True, eq=False)
class Twins:
    """The repainted region: the scan through the autoencoder, and its pseudo-healthy twin, decoded in the same windows.

    Attributes:
        box: Of the region, in canonical voxels.
        reconstruction: (X, Y, Z) of the box.
        healthy: (X, Y, Z) of the box; equals the reconstruction outside the candidate.
    """

    box: tuple[slice, slice, slice]
    reconstruction: Tensor
    healthy: Tensor


def load_components(config: Config, *, allow_untrained: bool = False) -> Components:
    """Load every trained part that a configuration names.

    Raises:
        ConfigError: Unknown backbone, encoder or device.
        WeightsError: Missing, altered or misfitting weights; or untrained networks that were not allowed.
    """
    device = _device(config)
    backbone = build_backbone(config.backbone)
    text_encoder = build_encoder(config.text.encoder)
    if backbone.folder is not None:
        head = load_module(AovaHead, backbone.folder / "aova")
    elif not allow_untrained:
        raise WeightsError(
            f"The networks of preset '{config.preset}' are untrained; their results mean nothing.",
            hint="use --preset mini, or --allow-untrained in a test.",
            code="untrained",
        )
    else:
        head = _untrained_head(backbone.autoencoder, text_encoder)
    if head.config["text_dim"] != text_encoder.dim:
        raise WeightsError(f"The head was trained on sentences of {head.config['text_dim']} numbers; "
                           f"'{config.text.encoder}' gives {text_encoder.dim}.", hint="check text.encoder.")  # fmt: skip
    for part in (backbone.autoencoder, backbone.denoiser, head):
        if isinstance(part, torch.nn.Module):
            part.to(device)
    return Components(
        backbone.autoencoder, backbone.denoiser, backbone.schedule, head, text_encoder,
        backbone.weights, device, backbone.folder is not None,
    )  # fmt: skip


def segment(
    volume: Volume,
    prompts: PromptPair,
    components: Components,
    config: Config,
    *,
    modality: str | None = None,
    region: Volume | None = None,
    coarse_mask: Volume | None = None,
    cache: Cache | None = None,
    stages: Sequence[str] = STAGES,
    on_progress: Progress | None = None,
) -> Segmentation:
    """Find, repaint and outline what looks abnormal.

    Args:
        volume: The scan, native units.
        prompts: The normal and the abnormal sentence.
        components: From `load_components(config)`.
        config: The same configuration.
        modality: "CT" or "MR"; None guesses from the data and says why.
        region: Mask on the scan's grid: the only place where an anomaly may be (organ, region of interest).
        coarse_mask: Candidates that the user drew or edited; skips detection and the judgment "normal".
        cache: Of an earlier result of the same scan and prompts.
        stages: A beginning of `STAGES`: "aova" alone stops at the candidates.
        on_progress: Called as the work goes on.

    Raises:
        InputError: NaN, constant image, unclear modality; an empty coarse mask.
        GeometryError: If a mask is not on the scan's grid.
        MemoryLimitError: If the device has too little memory.
    """
    _check(volume, stages, region, coarse_mask)
    clock = _Clock(on_progress)
    reason = "as asked"
    if modality is None:
        modality, reason = guess_modality(volume)
    generator = torch.Generator().manual_seed(config.runtime.seed)
    try:
        with clock.stage("read"):
            scan = to_canonical(volume, config.canonical, modality)
            allowed = _allowed(scan, region)
            embeddings = embed_pair(components.text_encoder, prompts, config.text.ensemble, modality)
        with clock.stage("aova"):
            seen = _look(scan, embeddings, components, config, cache, clock.report)
        given = coarse_mask is not None
        candidate = scan.project(coarse_mask) >= 0.5 if coarse_mask is not None else _candidate(seen, allowed, scan, config)
        why_not = _stop_reason(seen, candidate, given, config)
        twins, maps = None, None
        repainted = dilate_mm(candidate, config.masks.dilation_mm, scan.spacing_mm) & allowed
        if not why_not and "repaint" in stages:
            with clock.stage("repaint"):
                twins = _repaint(scan, seen, repainted, components, config, generator, clock.report)
            if "residual" in stages:
                with clock.stage("residual"):
                    maps = _compare(twins, seen, repainted, embeddings, components, config, clock.report)
        with clock.stage("write back"):
            return _restore(
                volume, scan, seen, candidate, repainted, twins, maps, coarse_mask, why_not,
                (modality, reason, prompts, config), clock,
            )  # fmt: skip
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MemoryLimitError(
            f"Out of memory in stage '{clock.current}' on {components.device}: {str(error)[:200] or 'no details given'}.",
            hint="try smaller windows (--set backbone.window_voxels=64), a region of interest, or --device cpu.",
        ) from error


def _look(
    scan: CanonicalScan, embeddings: Tensor, components: Components, config: Config, cache: Cache | None, report: Callable[[float], None]
) -> AovaMaps:
    """Detect, or take up what an earlier look at the same scan has left."""
    if cache is not None:
        if cache.aova.shape != scan.image.shape:
            raise InputError(
                f"The cached map has shape {cache.aova.shape}, the canonical scan {scan.image.shape}.",
                hint="the scan or the grid changed: segment it again.",
                code="cache",
            )
        latent = torch.from_numpy(cache.latent)[None].to(components.device)
        return AovaMaps(torch.from_numpy(cache.aova).to(components.device), cache.anomaly_score, latent)
    image = torch.from_numpy(scan.image)[None, None].to(components.device)
    window, overlap = config.backbone.window_voxels, config.backbone.overlap
    return attend(
        image, components.autoencoder, components.head, embeddings, window, overlap, lambda done, total: report(done / total)
    )


def _candidate(seen: AovaMaps, allowed: np.ndarray, scan: CanonicalScan, config: Config) -> np.ndarray:
    return threshold_map(seen.abnormal.cpu().numpy(), allowed, scan.spacing_mm, config.masks)


def _stop_reason(seen: AovaMaps, candidate: np.ndarray, given: bool, config: Config) -> str:
    """Say why there is nothing to repaint, or return an empty string."""
    if given and not candidate.any():
        raise InputError(
            "The coarse mask is empty, or too small for one voxel of the model's grid.",
            hint="paint the candidate, or leave the mask away to have it detected.",
            code="empty_candidate",
        )
    if given:
        return ""
    if seen.anomaly_score < config.masks.gate:
        return f"judged normal: anomaly score {seen.anomaly_score:.2f} is below the gate {config.masks.gate:.2f}"
    if not candidate.any():
        return f"nothing above the threshold: the highest abnormal attention is {float(seen.abnormal.max()):.2f}"
    return ""


def _repaint(
    scan: CanonicalScan, seen: AovaMaps, repainted: np.ndarray, components: Components, config: Config,
    generator: torch.Generator, report: Callable[[float], None],
) -> Twins:  # fmt: skip
    """Repaint the candidates' box with healthy context around, then decode the scan's latent and its twin alike."""
    factor = components.autoencoder.downsampling
    cells = _cell_box(repainted, factor, components.denoiser.side_multiple, config.inpainting.margin_mm, scan.spacing_mm)
    box = tuple(slice(part.start * factor, part.stop * factor) for part in cells)
    latent = seen.latent[(..., *cells)]
    mask = torch.from_numpy(repainted[box].astype(np.float32))[None, None].to(latent)
    healthy_latent = repaint(
        latent, mask_to_latent(mask, factor), components.denoiser, components.schedule,
        Conditions(scan.spacing_mm, scan.modality), config.inpainting, generator,
        lambda done, total: report(0.6 * done / total),
    )  # fmt: skip
    window, overlap = config.backbone.window_voxels, config.backbone.overlap
    decoded = [
        decode_scan(
            each, components.autoencoder, window, overlap,
            lambda done, total, part=part: report(0.6 + 0.2 * part + 0.2 * done / total),
        )[0, 0]  # fmt: skip
        for part, each in enumerate((latent, healthy_latent))
    ]
    reconstruction, healthy = decoded
    # The decoder's receptive field carries the change a little beyond the mask: cut it there.
    return Twins(box, reconstruction, torch.where(mask[0, 0] > 0, healthy, reconstruction))  # type: ignore[arg-type]


def _compare(
    twins: Twins, seen: AovaMaps, repainted: np.ndarray, embeddings: Tensor, components: Components, config: Config,
    report: Callable[[float], None],
) -> ResidualMaps:  # fmt: skip
    """Look at both twins with the same eyes and measure what changed."""
    window, overlap = config.backbone.window_voxels, config.backbone.overlap
    looks = [
        attend(
            image[None, None], components.autoencoder, components.head, embeddings, window, overlap,
            lambda done, total, part=part: report(0.5 * part + 0.5 * done / total),
        ).abnormal  # fmt: skip
        for part, image in enumerate((twins.reconstruction, twins.healthy))
    ]
    candidate = torch.from_numpy(repainted[twins.box].astype(np.float32)).to(twins.healthy)
    return residuals(
        twins.reconstruction, twins.healthy, looks[0], looks[1], seen.abnormal[twins.box], candidate, config.residual
    )


def _restore(
    volume: Volume, scan: CanonicalScan, seen: AovaMaps, candidate: np.ndarray, repainted: np.ndarray,
    twins: Twins | None, maps: ResidualMaps | None, given: Volume | None, why_not: str,
    asked: tuple[str, str, PromptPair, Config], clock: "_Clock",
) -> Segmentation:  # fmt: skip
    """Carry every map back to the source grid; soft maps are thresholded there, so that edges are not staircases."""
    modality, reason, prompts, config = asked
    minimum_ml, spacing_mm = config.masks.minimum_ml, volume.geometry.spacing_mm
    aova = seen.abnormal.cpu().numpy()
    if given is not None:
        coarse = given.array > 0
    else:
        coarse = drop_small(scan.restore(candidate) > 0.5, spacing_mm, minimum_ml)
    mask, residual, pseudo_healthy = coarse, None, None
    if maps is not None and twins is not None:
        fused = np.zeros(scan.image.shape, dtype=np.float32)
        fused[twins.box] = maps.fused.cpu().numpy()
        residual = scan.restore(fused)
        inside = scan.restore(repainted) > 0.5
        threshold = fine_threshold(fused, repainted, config.residual)
        mask = drop_small((residual > threshold) & inside, spacing_mm, minimum_ml)
    if twins is not None:
        pseudo_healthy = _composite(volume, scan, repainted, twins)
    if why_not:
        mask = np.zeros_like(coarse)
        coarse = mask if seen.anomaly_score < config.masks.gate else coarse
    return Segmentation(
        volume.with_array(mask.astype(np.uint8)),
        volume.with_array(coarse.astype(np.uint8)),
        volume.with_array(np.clip(scan.restore(aova), 0, 1)),
        pseudo_healthy,
        None if residual is None else volume.with_array(residual),
        seen.anomaly_score, modality, reason, prompts, config, clock.seconds,
        why_not or _found(mask, maps is not None),
        Cache(seen.latent[0].cpu().numpy(), aova, seen.anomaly_score),
    )  # fmt: skip


def _composite(volume: Volume, scan: CanonicalScan, repainted: np.ndarray, twins: Twins) -> Volume:
    """Put the healthy twin into the scan, in native units; every voxel outside the repainted region is the scan's."""
    healthy = scan.image.copy()
    healthy[twins.box] = twins.healthy.cpu().numpy()
    soft = scan.restore(repainted)
    painted = scan.intensity.to_native(scan.restore(healthy))
    native = volume.array.astype(np.float32)
    return volume.with_array(np.where(soft > 0, soft * painted + (1 - soft) * native, native).astype(np.float32))


def _found(mask: np.ndarray, refined: bool) -> str:
    from scipy import ndimage

    count = int(ndimage.label(mask, structure=np.ones((3, 3, 3)))[1])
    if count == 0:
        return "nothing left after refinement: repainting changed no candidate enough"
    parts = "1 finding" if count == 1 else f"{count} findings"
    return f"{parts}, {'refined by residuals' if refined else 'not refined'}"


def _allowed(scan: CanonicalScan, region: Volume | None) -> np.ndarray:
    """Return where an anomaly may be: inside the scan, and in the region where there is one."""
    inside = np.zeros(scan.image.shape, dtype=bool)
    inside[tuple(slice(a, b) for a, b in scan.inside)] = True
    return inside if region is None else inside & (scan.project(region) >= 0.5)


def _cell_box(
    mask: np.ndarray, factor: int, multiple: int, margin_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """Return the box of latent cells around a mask with its margin, each side a multiple that fits the scan."""
    parts = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        length = mask.shape[axis] // factor
        margin = int(np.ceil(margin_mm / spacing_mm[axis] / factor))
        low, high = along[0] // factor - margin, along[-1] // factor + 1 + margin
        side = min(-(-(high - low) // multiple) * multiple, length - length % multiple)
        start = int(np.clip((low + high - side) // 2, 0, length - side))
        parts.append(slice(start, start + side))
    return parts[0], parts[1], parts[2]


def _check(volume: Volume, stages: Sequence[str], region: Volume | None, coarse_mask: Volume | None) -> None:
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(f"Unknown stage '{stage}'.", hint=did_you_mean(stage, STAGES))
    if tuple(stages) != STAGES[: len(stages)] or not stages:
        raise ConfigError(f"Stages build on each other: expected a beginning of {', '.join(STAGES)}, got {', '.join(stages) or 'none'}.")
    for mask, name in ((region, "region"), (coarse_mask, "coarse mask")):
        if mask is not None:
            require_same_grid(volume.geometry, mask.geometry, name)
            if not mask.array.any():
                raise InputError(f"The {name} is empty.", hint="paint it, or leave it away.", code="empty_candidate")


def _device(config: Config) -> torch.device:
    wish = config.runtime.device
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise ConfigError(f"Unknown device '{wish}'.", hint="use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Device 'cuda' was asked for, but torch sees no CUDA GPU.", hint="use --device cpu, or see `diffugts doctor`.")
    return device


def _untrained_head(autoencoder: LatentAutoencoder, text_encoder: TextEncoder) -> AovaHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return freeze(AovaHead(autoencoder.feature_channels, text_encoder.dim))


@dataclass
class _Clock:
    """Seconds a stage, and progress within it."""

    on_progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)
    current: str = "start"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.current = name
        self.report(0.0)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - begin
        self.report(1.0)

    def report(self, share: float) -> None:
        if self.on_progress is not None:
            self.on_progress(self.current, share)
