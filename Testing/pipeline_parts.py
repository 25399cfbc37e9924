"""The road on the test networks: how they are called, and what two results, or a scan and its result, must share."""

import dataclasses

import numpy as np
from phantoms import Phantom

from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.masks import dilate_mm
from DiffuGTSLib.pipeline import Cache, Segmentation
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import Volume, to_canonical

LIVER = organ_prompts("liver", "CT")


def tiny(*overrides: str) -> Config:
    """The test networks; the untrained head is everywhere undecided, so that half of a threshold lets all pass."""
    return load_config("tiny", overrides=overrides)


def outside_of(mask: Volume, config: Config) -> np.ndarray:
    """Voxels beyond whatever a candidate can touch: its dilation, and two canonical voxels of interpolation."""
    reach_mm = config.masks.dilation_mm + 3.5 * config.canonical.spacing_mm
    return ~dilate_mm(mask.array > 0, reach_mm, mask.geometry.spacing_mm)


def assert_same(first: Segmentation, second: Segmentation) -> None:
    """Check that two results hold the same maps, voxel by voxel."""
    for name in ("mask", "coarse_mask", "aova", "pseudo_healthy", "residual"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None), name
        assert one is None or np.array_equal(one.array, two.array), name


def seen_as(a_result: Segmentation, phantom: Phantom, inside: float, outside: float, score: float) -> Cache:
    """The cache of a look that saw the lesion with these shares: what a trained head would have left."""
    scan = to_canonical(phantom.scan, tiny().canonical, "CT")
    aova = np.where(scan.project(phantom.lesion) >= 0.5, inside, outside).astype(np.float32)
    return dataclasses.replace(a_result.cache, aova=aova, anomaly_score=score)
