"""The method for one scan: read `segment` from top to bottom.

components = load_components(config); segment(read_volume(path), organ_prompts("liver", "CT"), components, config)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from DiffuGTSLib.aova import AovaMaps
from DiffuGTSLib.backbones.interfaces import require_whole_cells
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.cache import Cache, key_of
from DiffuGTSLib.clock import Clock, OnShare, out_of_memory_as_error, span
from DiffuGTSLib.components import Components, ScanContext, load_components
from DiffuGTSLib.config import Config
from DiffuGTSLib.drawn import TOUCHED, Drawn, drawn_candidates, within
from DiffuGTSLib.errors import ConfigError, InputError, did_you_mean
from DiffuGTSLib.masks import dilate_mm, drop_small, find_candidates, in_main_parts
from DiffuGTSLib.outcome import found_in_words, nothing_to_repaint
from DiffuGTSLib.refinement import Refinement
from DiffuGTSLib.residual import Evidence, ResidualMaps, attention_residuals, residual_maps, tumor_probability
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.twins import Twins, attend_again, pasted, repaint_findings
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.volume import AS_ASKED, require_same_grid, require_scan

__all__ = ["STAGES", "Cache", "Components", "OnArtifact", "Progress", "Segmentation", "load_components", "segment"]

Progress = Callable[[str, float], None]
"""Called with (stage, share of it that is done); may raise `Cancelled`."""

OnArtifact = Callable[[str, Volume], None]
"""Called with (field of `Segmentation`, what it holds) as soon as that exists; may raise `Cancelled`."""

STAGES = ("aova", "repaint", "residual")

_ANOTHER_MODALITY = "choose another preset, see diffugts presets; or say --modality, if it was guessed wrong."
"""What to do with a scan that the denoiser does not know."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A result, every map on exactly the scan's own grid.

    Attributes:
        mask: Refined tumor mask, uint8, 1 = tumor.
        coarse_mask: Candidates before repainting, uint8.
        aova: Abnormal attention, float32, 0 to 1; smoothed as `masks.smooth_mm` says.
        pseudo_healthy: The scan with the candidates repainted, native units; None when nothing was repainted.
        residual: Fused residual, float32, 0 to 1; None when nothing was compared.
        anomaly_score: 0 (normal) to 1.
        modality: "CT" or "MR".
        modality_reason: Why that one: asked for, said by the file, or guessed and from what.
        prompts: What was asked.
        config: How it was done.
        timings_s: Seconds of each stage.
        outcome: One sentence: what was found, or why nothing was.
        cache: For `segment(..., cache=...)` with an edited mask.
        refinement: What the mask was refined from, for another mixture of the same residuals; None when nothing was
            compared.
        plan: What was planned, where it was; JSON values, see `planning.plan.Plan`.
        stepped_down: Where memory ran out in spite of the plan, and what was done then; one sentence each.
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
    refinement: Refinement | None = None
    plan: dict[str, Any] | None = None
    stepped_down: tuple[str, ...] = ()


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
    memory: WindowMemory | None = None,
    stages: Sequence[str] = STAGES,
    on_progress: Progress | None = None,
    on_artifact: OnArtifact | None = None,
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
        cache: Of an earlier result of the same scan and prompts, by the same weights; the region may be another.
        memory: Hand it from one call to the next, and nothing is computed twice: the same scan answers
            other prompts and other candidates without being encoded again, with the same numbers bit for bit. What other
            networks computed is forgotten, and what these computed before their weights were changed.
        stages: A beginning of `STAGES`: "aova" alone stops at the candidates.
        on_progress: Called as the work proceeds.
        on_artifact: Called with aova and coarse_mask before anything is repainted, then with pseudo_healthy, if any.

    Raises:
        InputError: NaN, constant image, a modality that is unclear or unknown to the denoiser; an empty coarse mask or
            region; a part of the coarse mask that lies outside the region; a cache that is not of this scan, these prompts
            and these weights.
        GeometryError: If a mask is not on the scan's grid.
        ConfigError: Unknown stage, padding to sides that the denoiser cannot take, or components that were loaded with
            another configuration.
        MemoryLimitError: If the device has too little memory.
    """
    clock = Clock(on_progress)
    publish = on_artifact or (lambda field, volume: None)
    with out_of_memory_as_error(clock, components.device):
        _check(volume, stages, region, coarse_mask, components, config)
        modality, modality_reason = guess_modality(volume) if modality is None else (modality, AS_ASKED)
        config.backbone.require_known([modality], _ANOTHER_MODALITY)
    generator = torch.Generator().manual_seed(config.runtime.seed)
    with out_of_memory_as_error(clock, components.device), components.autocast(config):
        with clock.stage("read"):
            scan = to_canonical(volume, config.canonical, modality)
            require_whole_cells(scan.image.shape, components.autoencoder, components.denoiser)
            allowed = _allowed(scan, region)
            drawn = None if coarse_mask is None else drawn_candidates(coarse_mask, region, allowed, scan)
            context = ScanContext.of(prompts, scan.spacing_mm, modality, components, config, memory)
            cache_key = key_of(volume, prompts, modality, components, config)
        with clock.stage("aova"):
            components.hold(config.runtime.offload, "autoencoder", "head")
            raw = _aova_maps(scan, context, cache, cache_key, clock.report)
            maps = raw.smoothed(scan.image, allowed, scan.spacing_mm, config.masks)
            aova = volume.with_array(np.clip(scan.restore(maps.abnormal.cpu().numpy()), 0, 1))
        publish("aova", aova)
        candidate, why_none = _detected(maps, allowed, scan, region, config) if drawn is None else (drawn.candidate, "")
        coarse = volume.with_array(_candidates_on_source(scan, candidate, drawn, region, config, why_none))
        publish("coarse_mask", coarse)
        mask, pseudo_healthy, residual, refinement = coarse, None, None, None
        if "repaint" in stages and not why_none:
            with clock.stage("repaint"):
                repainted = dilate_mm(candidate, config.masks.dilation_mm, scan.spacing_mm) & allowed
                twins = repaint_findings(maps.latent, repainted, context, generator, clock.report)
                pseudo_healthy = volume.with_array(_composite(volume, scan, repainted, region, twins))
            publish("pseudo_healthy", pseudo_healthy)
            if "residual" in stages:
                with clock.stage("residual"):
                    changes = _compare(twins, maps, repainted, context, clock.report)
                    refinement = _refinement(scan, changes, repainted, region, config, drawn)
        with clock.stage("write back"):
            if refinement is not None:
                mask, residual = map(volume.with_array, refinement.outlined(config.residual))
            return Segmentation(
                mask=mask, coarse_mask=coarse, aova=aova, pseudo_healthy=pseudo_healthy, residual=residual,
                anomaly_score=maps.anomaly_score, modality=modality, modality_reason=modality_reason, prompts=prompts,
                config=config, timings_s=clock.seconds, refinement=refinement,
                outcome=why_none or found_in_words(mask.array, refinement, config, drawn),
                cache=_kept(raw, cache_key),
            )  # fmt: skip


def _aova_maps(
    scan: CanonicalScan, context: ScanContext, cache: Cache | None, cache_key: Mapping[str, str], report: OnShare
) -> AovaMaps:
    """Return the attention maps as the head gives them, or as an earlier run on the same scan left them."""
    device = context.components.device
    if cache is None:
        image = torch.from_numpy(scan.image)[None, None].to(device)
        return context.attend(image, span(report, 0.0, 1.0))
    cache.require_key(cache_key)
    if cache.aova.shape != scan.image.shape:
        raise InputError(
            f"The cached map has shape {cache.aova.shape}, the canonical scan {scan.image.shape}.",
            hint="the scan or the grid changed: segment it again.",
            code="cache",
        )
    latent = torch.from_numpy(cache.latent)[None].to(device)
    organ = None if cache.organ is None else torch.from_numpy(cache.organ).to(device)
    return AovaMaps(torch.from_numpy(cache.aova).to(device), cache.anomaly_score, latent, organ)


def _kept(raw: AovaMaps, cache_key: Mapping[str, str]) -> Cache:
    organ = None if raw.organ is None else raw.organ.cpu().numpy()
    return Cache(raw.latent[0].cpu().numpy(), raw.abnormal.cpu().numpy(), raw.anomaly_score, cache_key, organ)


def _detected(
    maps: AovaMaps, allowed: np.ndarray, scan: CanonicalScan, region: Volume | None, config: Config
) -> tuple[np.ndarray, str]:
    """Return the candidates of the attention map, and why there are none to repaint ("" where there are)."""
    key = "floor" if region is None else "region_floor"
    masks = replace(config.masks, floor=getattr(config.masks, key))
    abnormal, searched = maps.abnormal.cpu().numpy(), allowed
    if region is None and maps.organ is not None:
        searched = in_main_parts(allowed, maps.organ.cpu().numpy(), masks.organ_share)
    candidate = find_candidates(abnormal, searched, scan.spacing_mm, masks)
    return candidate, nothing_to_repaint(abnormal, maps.anomaly_score, candidate, allowed, searched, masks, key)


_FILLED, _EDGE_VOXELS = 0.9, 3
"""More of a voxel is inside of something thick, whose edge ends within so many voxels, also between slices of 5 mm."""


def _compare(
    twins: Sequence[Twins], maps: AovaMaps, repainted: np.ndarray, context: ScanContext, report: OnShare
) -> ResidualMaps:
    """Attend to both twins of every finding alike, and measure in the box of all candidates what changed.

    All findings are measured by one scale.
    """
    box = bounding_box(repainted)

    def in_box(values: Sequence[Tensor]) -> Tensor:
        return pasted(twins, values, torch.zeros_like(maps.abnormal))[box]

    reconstruction = in_box([each.reconstruction for each in twins])
    healthy = in_box([each.healthy for each in twins])
    attention, candidate = maps.abnormal[box], torch.from_numpy(repainted[box]).to(maps.abnormal)
    projection = context.components.residual
    if projection is not None:
        feature = in_box([tumor_probability(projection, _evidence(each, maps, context.embeddings)) for each in twins])
        return residual_maps(reconstruction, healthy, feature, attention, candidate)
    before, after = zip(*attend_again(twins, context, report), strict=True)
    return attention_residuals(reconstruction, healthy, in_box(before), in_box(after), attention, candidate)


def _evidence(twins: Twins, maps: AovaMaps, embeddings: Tensor) -> Evidence:
    own = torch.from_numpy(twins.place.own).to(maps.abnormal)
    return Evidence(
        twins.reconstruction[None, None], twins.healthy[None, None], maps.abnormal[twins.place.view][None, None],
        own[None, None], twins.latent, twins.healthy_latent, embeddings[None].to(own),
    )  # fmt: skip


def _candidates_on_source(
    scan: CanonicalScan, candidate: np.ndarray, drawn: Drawn | None, region: Volume | None, config: Config, why_none: str
) -> np.ndarray:  # fmt: skip
    """Return the candidates on the source grid: what was drawn, or what was found there; none where there is a reason."""
    if why_none:
        coarse = np.zeros(scan.source.shape, dtype=bool)
    elif drawn is not None:
        coarse = drawn.given.array > 0
    else:
        coarse = scan.restore_mask(candidate) & within(region)
        coarse = drop_small(coarse, scan.source.spacing_mm, config.masks.minimum_ml)
    return coarse.astype(np.uint8)


def _refinement(
    scan: CanonicalScan, maps: ResidualMaps, repainted: np.ndarray, region: Volume | None, config: Config,
    drawn: Drawn | None,
) -> Refinement:  # fmt: skip
    inside = scan.restore_mask(repainted) & within(region)
    by_hand = None if drawn is None else drawn.given.array > 0
    return Refinement(scan, bounding_box(repainted), repainted, inside, maps.cpu(), config.masks.minimum_ml, by_hand)


def _composite(
    volume: Volume, scan: CanonicalScan, repainted: np.ndarray, region: Volume | None, twins: Sequence[Twins]
) -> np.ndarray:
    """Put the healthy twins into the scan, in native units; every voxel outside what was repainted is the scan's.

    So is every voxel outside the region, over whose border the soft edges of the coarser grid reach.
    """
    healthy = pasted(twins, [each.healthy for each in twins], torch.from_numpy(scan.image)).numpy()
    mask, native = repainted.astype(np.float32), volume.array.astype(np.float32)
    for piece in scan.pieces(bounding_box(repainted)):
        soft, own = scan.restore(mask, piece) * within(region, piece), native[piece]
        painted = scan.intensity.to_native(scan.restore(healthy, piece))
        native[piece] = np.where(soft > 0, soft * painted + (1 - soft) * own, own)
    return native


def _allowed(scan: CanonicalScan, region: Volume | None) -> np.ndarray:
    """Return where an anomaly may be: inside the scan, and in the region where there is one."""
    inside = np.zeros(scan.image.shape, dtype=bool)
    inside[tuple(slice(a, b) for a, b in scan.inside)] = True
    if region is not None:
        # What it covers by half; and all that it touches where it is as thin as the model's voxels, as a vessel is. Near
        # its thick parts nothing is added: the highest attention there would be the neighboring organ's.
        covered = scan.project(region.with_array(within(region)))  # of a label, too, whose number is not 1
        near_thick = ndimage.binary_dilation(covered >= _FILLED, np.ones((3, 3, 3)), iterations=_EDGE_VOXELS)
        inside &= (covered >= 0.5) | ((covered > TOUCHED) & ~near_thick)
        if not inside.any():
            raise InputError(
                "The region is too small for one voxel of the model's grid.",
                hint="paint a larger region, or omit it.",
                code="empty_region",
            )
    return inside


def _check(
    volume: Volume, stages: Sequence[str], region: Volume | None, coarse_mask: Volume | None, components: Components,
    config: Config,
) -> None:  # fmt: skip
    require_scan(volume)
    components.require_loaded_for(config)
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(f"Unknown stage '{stage}'.", hint=did_you_mean(stage, STAGES))
    if tuple(stages) != STAGES[: len(stages)] or not stages:
        raise ConfigError(
            f"Stages build on each other: expected a beginning of {', '.join(STAGES)}, got {', '.join(stages) or 'none'}."
        )
    for mask, name, code in (
        (region, "region", "empty_region"),
        (coarse_mask, "coarse mask", "empty_candidate"),
    ):
        if mask is not None:
            require_same_grid(volume.geometry, mask.geometry, name)
            if not (mask.array > 0).any():
                raise InputError(f"The {name} is empty.", hint="paint it, or omit it.", code=code)
