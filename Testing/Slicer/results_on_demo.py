"""Results on the demo scan as a good model would give them, made from the readers' mask: no model runs for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from DiffuGTSSlicer import display, provenance, scene
from scene_parts import import_mask, on_disk
from scipy import ndimage

from DiffuGTSLib.volumes import read_mask, read_volume

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"


@dataclass(frozen=True)
class Results:
    """Nodes as after a run."""

    scan: Any
    aova: Any
    healthy: Any
    residual: Any
    segmentation: Any
    segment_id: str
    mask: np.ndarray
    maps: dict[str, np.ndarray]


def results_on(scan: Any, folder: Path) -> Results:
    """Bring maps, mask and record into the scene by way of files, as a run does."""
    source = read_volume(SAMPLES / "chest_ct.nii.gz")
    geometry = source.geometry
    mask = read_mask(SAMPLES / "chest_ct_tumor.nii.gz", geometry).array
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 5 / np.array(geometry.spacing_mm))
    maps = {
        "aova": soft / soft.max(),
        "pseudo_healthy": np.where(mask > 0, np.float32(-850), source.array),
        "residual": (mask * soft / soft.max()).astype(np.float32),
    }
    nodes = {
        kind: scene.importVolume(on_disk(geometry, array, folder / f"{kind}.nrrd"), scan, f"Chest CT {kind}")
        for kind, array in maps.items()
    }
    scan.GetDisplayNode().AutoWindowLevelOff()
    scan.GetDisplayNode().SetWindowLevel(1500, -600)
    display.showAova(nodes["aova"], 0.5)
    display.showResidual(nodes["residual"])
    display.styleSynthetic(nodes["pseudo_healthy"], scan)
    segmentation = scene.newSegmentation(scan, "Chest CT tumor")
    path = on_disk(geometry, mask, folder / "segmentation.nrrd")
    segment_id = import_mask(path, scan, segmentation, "Lung nodule", "lung")
    record = {"outcome": "1 finding", "seed": 7, "prompts": {"organ": "lung", "normal": "lung", "abnormal": "nodule"}}
    provenance.writeProvenance(segmentation, record)
    return Results(
        scan, nodes["aova"], nodes["pseudo_healthy"], nodes["residual"], segmentation, segment_id, mask, maps
    )
