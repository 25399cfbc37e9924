"""One repainting of a scan, its residuals mixed in many ways.

`segment` keeps the fused map only; here its own stages are walked, so that both residuals and the attention can be mixed
anew. The whole method's mask comes out bit for bit as `segment` returns it; a test holds that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from DiffuGTSLib.aova import AovaMaps
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.masks import coarse_mask, dilate_mm
from DiffuGTSLib.pipeline import (
    Cache,
    Progress,
    _allowed,
    _compare,
    _look,
    _refined,
    _repaint,
    _stop_reason,
)
from DiffuGTSLib.residual import ResidualMaps
from DiffuGTSLib.text.encoder import embed_pair
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical


@dataclass(frozen=True, eq=False)
class Repainted:
    """A scan, repainted once.

    Attributes:
        scan: On the model's grid.
        box: Of the region, in canonical voxels.
        candidate: The grown candidate, on the whole canonical grid.
        seen: The attention on the scan.
        maps: Residuals of the box, fused as the configuration says.
        config: How it was done.
    """

    scan: CanonicalScan
    box: tuple[slice, slice, slice]
    candidate: np.ndarray
    seen: AovaMaps
    maps: ResidualMaps
    config: Config

    def fused(self, mixture: ResidualConfig) -> ResidualMaps:
        """Return the maps with another fused one: residuals and attention are mixed linearly."""
        inside = torch.from_numpy(self.candidate[self.box]).to(self.maps.pixel)
        weights = (mixture.beta_pixel, mixture.beta_feature, mixture.prior)
        parts = (self.maps.pixel, self.maps.feature, self.seen.abnormal[self.box] * inside)
        mixed = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
        return replace(self.maps, fused=mixed / sum(weights))

    def outlined(self, mixture: ResidualConfig) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask of a mixture, cut by its rule, and its fused map: both on the scan's own grid."""
        maps = self.maps if mixture == self.config.residual else self.fused(mixture)
        config = replace(self.config, residual=mixture)
        mask, soft = _refined(self.scan, self.box, maps, self.candidate, None, config)
        return mask > 0, soft


def repainted(
    volume: Volume, prompts: PromptPair, modality: str, components: Components, config: Config, cache: Cache,
    memory: WindowMemory, on_progress: Progress,
) -> Repainted | None:  # fmt: skip
    """Repaint the candidates of a look; None where `segment` would find nothing to repaint.

    Args:
        volume: The scan, native units.
        prompts: That it was looked at with.
        modality: "CT" or "MR".
        components: The model.
        config: Of the method.
        cache: Of that look.
        memory: Spares looking at the reconstruction again.
        on_progress: As in `segment`.
    """
    half = config.runtime.precision == "bfloat16"
    with torch.autocast(components.device.type, torch.bfloat16, enabled=half):
        scan = to_canonical(volume, config.canonical, modality)
        embeddings = embed_pair(components.text_encoder, prompts, config.text.ensemble, modality)
        seen = _look(scan, embeddings, components, config, cache, memory, lambda done: None)
        allowed = _allowed(scan, None)
        found = coarse_mask(cache.aova, allowed, scan.spacing_mm, config.masks)
        if _stop_reason(seen, found, config):
            return None
        candidate = dilate_mm(found, config.masks.dilation_mm, scan.spacing_mm) & allowed
        generator = torch.Generator().manual_seed(config.runtime.seed)
        twins = _repaint(
            scan, seen, candidate, components, config, generator, memory, lambda done: on_progress("repaint", done)
        )
        maps = _compare(
            twins, seen, candidate, embeddings, components, config, memory,
            lambda done: on_progress("residual", done),
        )  # fmt: skip
        return Repainted(scan, twins.box, candidate, seen, maps, config)
