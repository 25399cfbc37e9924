"""The twins of every finding: the scan through the autoencoder, and the same with the finding painted as healthy.

    found ⊂ view ⊂ box ⊂ canonical grid
        box     what the denoiser sees: the finding with `inpainting.margin_mm` around it
        view    what is decoded and scored: one window, or as many as the finding needs

Cost follows the findings, not what lies between them; neighbors that one view holds share it. Of a view only its own
findings' voxels are taken: others that reach into it are repainted too, and are taken from theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from DiffuGTSLib.backbones.windows import OnWindow, aligned_overlap, decode_scan, window_count
from DiffuGTSLib.clock import OnShare, spans
from DiffuGTSLib.components import Components, ScanContext
from DiffuGTSLib.config import Config
from DiffuGTSLib.inpainting import cell_box, mask_to_latent, repaint
from DiffuGTSLib.volumes.boxes import Box
from DiffuGTSLib.volumes.lesions import label_lesions


@dataclass(frozen=True, eq=False)
class Place:
    """Where findings are repainted, and where what came of it is scored.

    Attributes:
        cells: The box that is repainted, in latent cells.
        view: What is decoded and scored, in canonical voxels.
        view_cells: The same in latent cells.
        own: Voxels of the view that belong to its own findings, (X, Y, Z); only these are copied out.
    """

    cells: Box
    view: Box
    view_cells: Box
    own: Bool[np.ndarray, "X Y Z"]


@dataclass(frozen=True, eq=False)
class Twins:
    """One view of the scan, twice, decoded in the same windows.

    Attributes:
        place: Where it lies.
        reconstruction: The scan through the autoencoder.
        healthy: Its pseudo-healthy twin; equals the reconstruction outside of what is repainted.
        latent: Of the scan.
        healthy_latent: Of the twin; equals the latent outside of the repainted cells.
    """

    place: Place
    reconstruction: Float[Tensor, "X Y Z"]
    healthy: Float[Tensor, "X Y Z"]
    latent: Float[Tensor, "1 l x y z"]
    healthy_latent: Float[Tensor, "1 l x y z"]


def repaint_findings(
    latent: Float[Tensor, "1 l x y z"],
    repainted: Bool[np.ndarray, "X Y Z"],
    context: ScanContext,
    generator: torch.Generator,
    report: OnShare,
) -> list[Twins]:
    """Repaint every finding in its box, then decode the scan's latent and its twin alike.

    Args:
        latent: Of the whole scan.
        repainted: The grown candidates, on the canonical grid.
        context: The scan's; its networks are brought to the device as they are needed, its memory keeps reconstructions.
        generator: Every random draw, finding after finding.
        report: See `OnShare`.
    """
    components, config, conditions = context.components, context.config, context.conditions
    places = find_places(repainted, conditions.spacing_mm, components, config)
    mask = torch.from_numpy(repainted.astype(np.float32))[None, None].to(latent)
    cells = mask_to_latent(mask, components.autoencoder.downsampling)
    components.hold(config.runtime.offload, "denoiser")
    boxes: list[Box] = []
    for place in places:
        if place.cells not in boxes:  # with a margin as wide as the scan all are the same
            boxes.append(place.cells)
    healthy = [
        repaint(
            latent[(..., *box)], cells[(..., *box)], components.denoiser, components.schedule,
            conditions, config.inpainting, generator, on_step,
        )
        for box, on_step in zip(boxes, spans(report, 0.0, 0.6, len(boxes)), strict=True)
    ]  # fmt: skip
    components.hold(config.runtime.offload, "autoencoder", "head", "residual")
    on_windows = spans(report, 0.6, 1.0, 2 * len(places))
    return [
        _decoded(place, latent, healthy[boxes.index(place.cells)], mask, context, *pair)
        for place, *pair in zip(places, on_windows[::2], on_windows[1::2], strict=True)
    ]


def _decoded(
    place: Place, latent: Tensor, healthy_box: Tensor, mask: Tensor, context: ScanContext, on_first: OnWindow,
    on_second: OnWindow,
) -> Twins:  # fmt: skip
    """Decode a view of the latent, and of the same with the box repainted, in the same windows."""
    healthy_latent = latent.clone()
    healthy_latent[(..., *place.cells)] = healthy_box
    before, after = latent[(..., *place.view_cells)], healthy_latent[(..., *place.view_cells)].clone()
    mask = mask[(..., *place.view)]
    autoencoder, backbone = context.components.autoencoder, context.config.backbone
    side, overlap = backbone.window_voxels, backbone.overlap

    def reconstruct() -> tuple[Tensor]:
        return (decode_scan(before, autoencoder, side, overlap, on_first)[0, 0],)

    (reconstruction,) = context.memory.remembered(("reconstruction", side, overlap), before, reconstruct)
    wanted = mask_to_latent(mask, autoencoder.downsampling)[0, 0] > 0
    decoded = decode_scan(after, autoencoder, side, overlap, on_second, wanted)[0, 0]
    # The decoder's receptive field carries the change a little beyond the mask: cut it there.
    healthy = torch.where(mask[0, 0] > 0, decoded, reconstruction)
    return Twins(place, reconstruction, healthy, before, after)


def attend_again(
    twins: Sequence[Twins], context: ScanContext, report: OnShare
) -> list[tuple[Float[Tensor, "X Y Z"], Float[Tensor, "X Y Z"]]]:
    """Return the abnormal attention on every view's reconstruction and on its twin, where its own findings are.

    Only the attention on a reconstruction is remembered: another seed or candidate makes another twin.
    """
    on_windows = iter(spans(report, 0.0, 1.0, 2 * len(twins)))
    pairs = []
    for each in twins:
        own = torch.from_numpy(each.place.own).to(each.healthy.device)
        before = context.attend(each.reconstruction[None, None], next(on_windows), own)
        after = context.attend(each.healthy[None, None], next(on_windows), own, remember=False)
        pairs.append((before.abnormal, after.abnormal))
    return pairs


def pasted(twins: Sequence[Twins], values: Sequence[Tensor], onto: Float[Tensor, "X Y Z"]) -> Float[Tensor, "X Y Z"]:
    """Return a map of the canonical grid into which every view has put its own findings' values.

    Args:
        twins: One for each value.
        values: (X, Y, Z) of its view.
        onto: The map; it is not written into.
    """
    made = onto.clone()
    for each, value in zip(twins, values, strict=True):
        own = torch.from_numpy(each.place.own).to(made.device)
        made[each.place.view] = torch.where(own, value.to(made), made[each.place.view])
    return made


def repainted_latent(twins: Sequence[Twins], latent: Float[Tensor, "1 l x y z"]) -> Float[Tensor, "1 l x y z"]:
    """Return the latent of the whole scan into which every view has put the cells of its own findings."""
    made = latent.clone()
    for each in twins:
        cells, own = each.place.view_cells, torch.from_numpy(each.place.own)[None, None].to(latent)
        own_cells = mask_to_latent(own, own.shape[-1] // each.latent.shape[-1])
        made[(..., *cells)] = torch.where(own_cells > 0, each.healthy_latent, made[(..., *cells)])
    return made


def find_places(
    repainted: Bool[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    components: Components,
    config: Config,
) -> list[Place]:
    """Return where the findings (26 neighbors) are repainted; those that cost no more together share a place."""
    labels, _ = label_lesions(repainted)
    factor = components.autoencoder.downsampling
    around = partial(
        box_and_view, shape=repainted.shape, spacing_mm=spacing_mm, config=config, factor=factor,
        multiple=components.denoiser.side_multiple,
    )  # fmt: skip

    def cost(found: Box) -> int:
        return _looked_voxels(around(found)[1], config, factor)

    groups: list[tuple[Box, list[int]]] = []
    for label, found in enumerate(ndimage.find_objects(labels), start=1):
        hull, members = found, [label]
        while (other := next((g for g in groups if _pays(hull, g[0], cost)), None)) is not None:
            groups.remove(other)
            hull, members = _hull(hull, other[0]), members + other[1]
        groups.append((hull, members))
    places = [(*around(hull), members) for hull, members in groups]
    return [Place(cells, view, _over(view, factor), np.isin(labels[view], members)) for cells, view, members in places]


def box_and_view(
    found: Box,
    shape: Sequence[int],
    spacing_mm: tuple[float, float, float],
    config: Config,
    factor: int,
    multiple: int,
) -> tuple[Box, Box]:
    """Return the box in which a finding is repainted, in latent cells, and the view of it, in canonical voxels.

    The view keeps a finding as far from its border as the scan's own windows do, half of their overlap.

    Args:
        found: The finding, in canonical voxels.
        shape: Of the canonical grid.
        spacing_mm: Voxel size of the canonical grid.
        config: Margin and windows.
        factor: Voxels a latent cell.
        multiple: Cells that the denoiser wants the box's sides to be a multiple of.
    """
    cells = cell_box(found, shape, factor, multiple, config.inpainting.margin_mm, spacing_mm)
    window = config.backbone.window_voxels
    near = max(factor, int(window * config.backbone.overlap / 2))
    view = []
    for inside, part in zip(found, cells, strict=True):
        low, high = part.start * factor, part.stop * factor
        first, last = (inside.start - near) // factor * factor, -(-(inside.stop + near) // factor) * factor
        side = min(high - low, max(window, last - first))
        start = (first + last - side) // 2 // factor * factor
        start = min(max(start, low), high - side)
        view.append(slice(start, start + side))
    return cells, (view[0], view[1], view[2])


def _looked_voxels(view: Box, config: Config, factor: int) -> int:
    """Return how many voxels the windows of a view have, those that several see counted as often."""
    sides: list[int] = [part.stop - part.start for part in view]
    window = [min(side, config.backbone.window_voxels) for side in sides]
    overlap = aligned_overlap(config.backbone.window_voxels, config.backbone.overlap, factor)
    return prod(window) * window_count(sides, window, overlap)


def _pays(first: Box, second: Box, cost: Callable[[Box], int]) -> bool:
    return cost(_hull(first, second)) <= cost(first) + cost(second)


def _hull(first: Box, second: Box) -> Box:
    x, y, z = (
        slice(min(one.start, other.start), max(one.stop, other.stop)) for one, other in zip(first, second, strict=True)
    )
    return x, y, z


def _over(box: Box, factor: int) -> Box:
    """Return a box of whole cells in latent cells."""
    x, y, z = (slice(part.start // factor, part.stop // factor) for part in box)
    return x, y, z
