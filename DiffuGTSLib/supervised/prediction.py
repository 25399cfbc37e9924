"""A trained segmenter over a whole scan: windows, back to the source grid, and what is left out afterwards.

Follows DiffTumor's segmentation step and its `validation.py`. Upstream's organ mask is optional here: where one is
given, tumors are looked for inside it; otherwise the network's own organ may take its place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from DiffuGTSLib.backbones.weights import (
    CHECKSUMS_FILE,
    load_module,
    read_model_json,
    save_module,
    verify_checksums,
    write_checksums,
)
from DiffuGTSLib.backbones.windows import over_windows
from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import ConfigError, WeightsError
from DiffuGTSLib.masks import dilate_mm, drop_small, largest_part
from DiffuGTSLib.storage import write_json
from DiffuGTSLib.supervised.networks import BACKGROUND, ORGAN, TUMOR, Segmenter
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical
from DiffuGTSLib.volumes.volume import require_same_grid

GRID_FILE = "grid.json"


@dataclass(frozen=True, eq=False)
class TrainedSegmenter:
    """A segmenter and the grid that it was trained on.

    Attributes:
        network: In evaluation mode.
        grid: Spacing, window of intensities and padding.
        window_voxels: Side of the windows in which it sees a scan.
        modalities: "CT", "MR" or both, as it was trained on; empty where its folder does not say.
        organs: Whose tumors it was trained to find; likewise.
    """

    network: Segmenter
    grid: CanonicalConfig
    window_voxels: int
    modalities: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()


def save_segmenter(trained: TrainedSegmenter, folder: Path) -> None:
    """Write the network (diffusers layout), `grid.json` and `checksums.json` into a folder.

    Raises:
        StorageError: If it cannot be written.
    """
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)  # of an earlier network, should this be cut off
    save_module(trained.network, folder)
    save_grid(trained, folder)
    write_checksums(folder)


def save_grid(trained: TrainedSegmenter, folder: Path) -> None:
    """Write what a segmenter sees into its folder: grid, window, modalities, organs.

    Raises:
        StorageError: If it cannot be written.
    """
    grid = {
        "canonical": asdict(trained.grid), "window_voxels": trained.window_voxels, "modalities": trained.modalities,
        "organs": trained.organs,
    }  # fmt: skip
    write_json(folder / GRID_FILE, grid)


def find_segmenter(folder: Path) -> Path:
    """Return the model folder that a folder is, or that a run folder holds.

    Raises:
        WeightsError: If there is none.
    """
    for candidate in (folder, folder / "model", folder / "segmenter" / "model"):
        if (candidate / GRID_FILE).is_file():
            return candidate
    raise WeightsError(
        f"There is no segmenter in {folder}: no {GRID_FILE}, model/{GRID_FILE} or segmenter/model/{GRID_FILE}.",
        hint="give the folder that `diffugts train segmenter -o` wrote.",
        code="weights_missing",
    )


def load_segmenter(folder: Path, device: torch.device | None = None) -> TrainedSegmenter:
    """Read what `save_segmenter` wrote, or the one in a run folder; see `find_segmenter`.

    Raises:
        WeightsError: If a file is missing, damaged, of another network, or not the one that `checksums.json` lists.
    """
    folder = find_segmenter(folder)
    verify_checksums(folder)
    network = load_module(Segmenter, folder)
    values = read_model_json(folder / GRID_FILE)
    try:
        canonical: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["canonical"].items()
        }
        grid = CanonicalConfig(**canonical)
        window_voxels = int(values["window_voxels"])
        modalities, organs = (tuple(map(str, values[key])) for key in ("modalities", "organs"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{folder / GRID_FILE} does not describe a grid: {error}.") from error
    return TrainedSegmenter(network.to(device or torch.device("cpu")), grid, window_voxels, modalities, organs)


@dataclass(frozen=True)
class PostProcessing:
    """What becomes of the raw classes.

    Attributes:
        minimum_radius_mm: Tumors (26-connected) whose volume is that of a smaller sphere are dropped; 0 keeps all.
        largest_organ: Keep the largest connected organ only, its tumors counted to it.
        reach_mm: Drop tumors further than this from the network's own organ; None keeps them. SyntheticTumors: 30
            dilations at 1 mm, which we read as 30 mm.
    """

    minimum_radius_mm: float = 3.0
    largest_organ: bool = False
    reach_mm: float | None = None

    def __post_init__(self) -> None:
        if self.minimum_radius_mm < 0 or (self.reach_mm is not None and self.reach_mm < 0):
            raise ConfigError(f"Expected 0 mm or more, got {self.minimum_radius_mm} and {self.reach_mm}.")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a segmenter found, on exactly the scan's grid.

    Attributes:
        labels: 0 background, 1 organ, 2 tumor (uint8).
        tumor_probs: The network's probability of a tumor, 0 to 1 (float32), before any post-processing.
    """

    labels: Volume
    tumor_probs: Volume


def predict(
    trained: TrainedSegmenter,
    volume: Volume,
    modality: str,
    *,
    organ: Volume | None = None,
    overlap: float = 0.5,
    post: PostProcessing | None = None,
) -> Prediction:
    """Segment one scan.

    Args:
        trained: See `load_segmenter`.
        volume: Any orientation and spacing, native units.
        modality: "CT" or "MR".
        organ: Organ mask on the scan's grid; replaces the network's own organ and holds every tumor.
        overlap: Share that neighboring windows have in common; DiffTumor trains with 0.5 and validates with 0.75.
        post: See `PostProcessing`.

    Raises:
        ConfigError: For an overlap outside 0 to 0.9.
        GeometryError: If the organ mask lies on another grid.
        InputError: As `to_canonical`.
    """
    if not 0 <= overlap < 0.9:
        raise ConfigError(f"Expected an overlap of 0 to 0.9, got {overlap}.")
    if organ is not None:
        require_same_grid(volume.geometry, organ.geometry, "organ mask")
    scan = to_canonical(volume, trained.grid, modality)
    probs = class_probs(trained, scan, overlap)
    native = np.stack([scan.restore(channel) for channel in probs])
    labels = native.argmax(axis=0).astype(np.uint8)
    mask = None if organ is None else organ.array > 0
    labels = post_process(labels, volume.geometry.spacing_mm, post or PostProcessing(), mask)
    return Prediction(volume.with_array(labels), volume.with_array(native[TUMOR]))


def class_probs(trained: TrainedSegmenter, scan: CanonicalScan, overlap: float = 0.5) -> NDArray[np.float32]:
    """Return each class's probability (classes, X, Y, Z) on the segmenter's grid, windows blended with a Gaussian.

    MONAI blends what the windows give, so that it is the probabilities which are averaged, not the logits.
    """
    device = next(trained.network.parameters()).device
    image = torch.from_numpy(scan.image)[None, None].to(device)
    network = trained.network
    (probs,) = over_windows(
        image, trained.window_voxels, overlap, lambda window: (network(window).float().softmax(dim=1),),
        lambda done, total: None,
    )  # fmt: skip
    return np.asarray(probs[0].cpu().numpy(), dtype=np.float32)


def post_process(
    labels: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    post: PostProcessing,
    organ: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return classes (i, j, k) after the organ, the reach and the smallest tumor were applied, in this order.

    A tumor that is dropped inside its organ becomes organ.

    Args:
        labels: 0, 1, 2.
        spacing_mm: Of the grid.
        post: What to apply. `largest_organ` and `reach_mm` speak of the network's organ: with a mask they are idle.
        organ: Organ mask that replaces the network's own.
    """
    tumor = labels == TUMOR
    if organ is not None:
        inside, tumor = organ, tumor & organ
    else:
        inside = labels > 0  # a tumor is part of its organ
        if post.largest_organ:
            inside = largest_part(inside)
        if post.reach_mm is not None:
            tumor = tumor & dilate_mm(inside & (labels == ORGAN), post.reach_mm, spacing_mm)
    tumor = drop_small(tumor, spacing_mm, 4 / 3 * np.pi * post.minimum_radius_mm**3 / 1000)
    result = np.where(inside, ORGAN, BACKGROUND).astype(np.uint8)
    result[tumor] = TUMOR
    return result
