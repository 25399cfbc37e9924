"""One scan, asked in many ways: looked at once, repainted once a variant, its residuals mixed anew.

What a variant costs follows from what it changes. Mixtures of residuals share one repainting; prompts share the
encoding of every window, since the frozen features do not depend on the sentence; steps and seeds repaint again from
the same look, with the same reconstruction beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from DiffuGTSLib.aova import ABNORMAL, AovaMaps, attend
from DiffuGTSLib.backbones.windows import aligned_overlap, decode_scan, over_windows
from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, ResidualConfig
from DiffuGTSLib.inpainting import Conditions, mask_to_latent, repaint
from DiffuGTSLib.masks import coarse_mask, dilate_mm
from DiffuGTSLib.pipeline import _allowed, _candidates, _cell_box, _refined, _stop_reason
from DiffuGTSLib.residual import ResidualMaps, residuals
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical

Told = Callable[[int, int], None]
"""Called with (windows or steps done, in all); may raise `Cancelled`."""


@dataclass(frozen=True, eq=False)
class Look:
    """A scan after one look.

    Attributes:
        scan: On the model's grid.
        allowed: Where an anomaly may be.
        seen: Prompt variant → what it saw; the first is the method's own.
        embeddings: Of the first.
    """

    scan: CanonicalScan
    allowed: Bool[np.ndarray, "X Y Z"]
    seen: dict[str, AovaMaps]
    embeddings: Float[Tensor, "2 d"]

    @property
    def own(self) -> AovaMaps:
        """What the method's own prompts saw."""
        return next(iter(self.seen.values()))


@dataclass(frozen=True, eq=False)
class Region:
    """The candidates' box, before it is repainted; shared by every repainting of it.

    Attributes:
        repainted: The grown candidate on the whole canonical grid.
        box: Of the region, in canonical voxels.
        latent: Of the box.
        cells: 1 where the latent is repainted.
        reconstruction: Of the box, through the autoencoder.
        before: Abnormal attention on it.
    """

    repainted: Bool[np.ndarray, "X Y Z"]
    box: tuple[slice, slice, slice]
    latent: Float[Tensor, "1 l x y z"]
    cells: Float[Tensor, "1 1 x y z"]
    reconstruction: Float[Tensor, "a b c"]
    before: Float[Tensor, "a b c"]


def look(
    volume: Volume, modality: str, prompts: Mapping[str, Float[Tensor, "2 d"]], components: Components, config: Config,
    told: Told,
) -> Look:  # fmt: skip
    """Look at a scan with several pairs of sentences at once: every window is encoded once.

    Args:
        volume: Native units.
        modality: "CT" or "MR".
        prompts: Variant → embeddings of the normal and the abnormal sentence; the method's own first.
        components: The model.
        config: Of the method.
        told: See `Told`.
    """
    scan = to_canonical(volume, config.canonical, modality)
    image = torch.from_numpy(scan.image)[None, None].to(components.device)
    seen = ask(image, list(prompts.values()), components, config, told)
    own = next(iter(prompts.values()))
    return Look(scan, _allowed(scan, None), dict(zip(prompts, seen, strict=True)), own)


def ask(
    image: Float[Tensor, "1 1 X Y Z"],
    pairs: Sequence[Float[Tensor, "2 d"]],
    components: Components,
    config: Config,
    told: Told,
) -> list[AovaMaps]:
    """Return what each pair of sentences sees, as `DiffuGTSLib.aova.attend` would one by one."""
    how, encoder, head = config.backbone, components.autoencoder, components.head
    asked = [pair[None].to(image.device) for pair in pairs]
    scores: list[list[float]] = [[] for _ in asked]

    def seen_in(window: Tensor) -> tuple[Tensor, Tensor]:
        encoding = encoder.encode(window)
        mirrored = encoder.encode(window.flip(2)).features if how.mirror else None
        maps = []
        for number, pair in enumerate(asked):
            attention = head(encoding.features, pair)
            abnormal, score = attention.maps[:, ABNORMAL:], attention.score_logits.sigmoid()
            if mirrored is not None:
                other = head(mirrored, pair)
                abnormal = (abnormal + other.maps[:, ABNORMAL:].flip(2)) / 2
                score = (score + other.score_logits.sigmoid()) / 2
            scores[number].append(float(score))
            maps.append(abnormal)
        return torch.cat(maps, dim=1), encoding.latent.float()

    overlap = aligned_overlap(how.window_voxels, how.overlap, encoder.downsampling)
    abnormal, latent = over_windows(image, how.window_voxels, overlap, seen_in, told)
    return [AovaMaps(abnormal[0, n].clamp(0, 1), max(each), latent) for n, each in enumerate(scores)]


def candidates(
    seen: AovaMaps, own: Look, config: Config
) -> tuple[Bool[np.ndarray, "X Y Z"], Bool[np.ndarray, "i j k"]]:
    """Return the candidates of a map, on the canonical grid and on the scan's own; none where the pipeline would stop."""
    found = coarse_mask(seen.abnormal.cpu().numpy(), own.allowed, own.scan.spacing_mm, config.masks)
    why_not = _stop_reason(seen, found, config)
    return found & (not why_not), _candidates(own.scan, found, None, None, config, why_not) > 0


def region(
    own: Look, candidate: Bool[np.ndarray, "X Y Z"], components: Components, config: Config, told: Told
) -> Region:
    """Return what every repainting of a candidate shares. The candidate is not empty."""
    scan, how = own.scan, config.backbone
    repainted = dilate_mm(candidate, config.masks.dilation_mm, scan.spacing_mm) & own.allowed
    factor = components.autoencoder.downsampling
    cells = _cell_box(
        repainted, factor, components.denoiser.side_multiple, config.inpainting.margin_mm, scan.spacing_mm
    )
    x, y, z = (slice(part.start * factor, part.stop * factor) for part in cells)
    latent = own.own.latent[(..., *cells)]
    mask = torch.from_numpy(repainted[x, y, z].astype(np.float32))[None, None].to(latent)
    reconstruction = decode_scan(latent, components.autoencoder, how.window_voxels, how.overlap, told)[0, 0]
    before = _attended(reconstruction, own, mask[0, 0] > 0, components, config, told)
    return Region(repainted, (x, y, z), latent, mask_to_latent(mask, factor), reconstruction, before)


def twins(
    own: Look, shared: Region, components: Components, config: Config, told: Told
) -> tuple[Float[Tensor, "a b c"], Float[Tensor, "a b c"]]:
    """Repaint a region by `config.inpainting` and `config.runtime.seed`; return the healthy twin, and its attention."""
    how, scan = config.backbone, own.scan
    generator = torch.Generator().manual_seed(config.runtime.seed)
    painted = repaint(
        shared.latent, shared.cells, components.denoiser, components.schedule,
        Conditions(scan.spacing_mm, scan.modality), config.inpainting, generator, told,
    )  # fmt: skip
    decoded = decode_scan(
        painted, components.autoencoder, how.window_voxels, how.overlap, told, shared.cells[0, 0] > 0
    )[0, 0]  # fmt: skip
    inside = torch.from_numpy(shared.repainted[shared.box]).to(decoded.device)
    healthy = torch.where(inside, decoded, shared.reconstruction)
    return healthy, _attended(healthy, own, inside, components, config, told)


def mixed(
    own: Look, shared: Region, pair: tuple[Tensor, Tensor], config: ResidualConfig
) -> ResidualMaps:  # fmt: skip
    """Return the residual maps of a repainting, mixed as `config` says."""
    healthy, after = pair
    inside = torch.from_numpy(shared.repainted[shared.box]).to(healthy)
    return residuals(shared.reconstruction, healthy, shared.before, after, own.own.abnormal[shared.box], inside, config)


def outlined(
    own: Look, shared: Region, maps: ResidualMaps, config: Config
) -> tuple[Bool[np.ndarray, "i j k"], Float[np.ndarray, "i j k"]]:
    """Return the refined mask and the fused residual on the scan's own grid."""
    mask, soft = _refined(own.scan, shared.box, maps, shared.repainted, None, config)
    return mask > 0, soft


def _attended(
    image: Tensor, own: Look, where: Tensor, components: Components, config: Config, told: Told
) -> Tensor:  # fmt: skip
    how = config.backbone
    return attend(
        image[None, None], components.autoencoder, components.head, own.embeddings, how.window_voxels, how.overlap,
        told, how.mirror, where,
    ).abnormal  # fmt: skip
