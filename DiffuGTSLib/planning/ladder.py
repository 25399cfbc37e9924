"""The ways to segment a scan, from the one that was asked for down to the smallest: each needs less memory than the one above.

What costs nothing in the result comes first: networks that are not in use leave the card. Then precision, where CUDA is
good at half of it. Then smaller windows: every window is normalized by itself, so that results differ a little, see
docs/memory.md. Last, and only where the preset stretches the whole field of view onto a grid, a coarser grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from DiffuGTSLib.config import Config
from DiffuGTSLib.volumes.canonical import canonical_grid
from DiffuGTSLib.volumes.volume import Geometry

WINDOWS = (320, 256, 192, 160, 128, 96, 64)
"""Sides that a window may shrink to. Not below 64: MAISI's autoencoder and the bundled head were trained on no less, and the
bundled model's masks at 48 have a Dice of only 0.70 with those at 64 (bundled chest CT)."""


@dataclass(frozen=True)
class Rung:
    """One way.

    Attributes:
        name: What it gives up beside the rung above it, in words.
        config: How it is run.
    """

    name: str
    config: Config


def ladder(
    geometry: Geometry, config: Config, device: str, *, grid_fixed: bool = False, bfloat16: bool = True
) -> list[Rung]:  # fmt: skip
    """Return the ways for a scan, the first as asked.

    Args:
        geometry: The scan's.
        config: What was asked for.
        device: "cpu" or "cuda".
        grid_fixed: Leave the grid alone, since an earlier look at the scan lies on it.
        bfloat16: Whether a card computes in half precision itself.
    """
    rungs = [Rung("as asked", config)]
    if device == "cuda" and not config.runtime.offload:
        config = replace(config, runtime=replace(config.runtime, offload=True))
        rungs.append(Rung("networks that are not in use wait in main memory", config))
    if device == "cuda" and bfloat16 and config.runtime.precision == "float32":
        config = replace(config, runtime=replace(config.runtime, precision="bfloat16"))
        rungs.append(Rung("half precision (bfloat16)", config))
    for side in _smaller_windows(geometry, config):
        config = replace(config, backbone=replace(config.backbone, window_voxels=side))
        rungs.append(Rung(f"windows of {side} voxels", config))
    if not grid_fixed:
        rungs.extend(_coarser_grids(geometry, config))
    return rungs


def _smaller_windows(geometry: Geometry, config: Config) -> Iterator[int]:
    grid, _ = canonical_grid(geometry, config.canonical)
    seen = min(config.backbone.window_voxels, max(grid.shape))
    yield from (side for side in WINDOWS if side < seen)


def _coarser_grids(geometry: Geometry, config: Config) -> Iterator[Rung]:
    """Yield grids of the whole field of view, each with fewer multiples along the axes that have the most voxels a mm."""
    multiple = config.canonical.fit_multiple
    if not multiple:
        return
    shape = canonical_grid(geometry, config.canonical)[0].shape
    while True:
        coarser = _next_spacing_mm(geometry, config)
        if coarser is None:
            return
        config = replace(config, canonical=replace(config.canonical, spacing_mm=coarser))
        grid = canonical_grid(geometry, config.canonical)[0]
        if grid.shape != shape:
            shape = grid.shape
            spacing = " × ".join(f"{side:.2f}" for side in grid.spacing_mm)
            yield Rung(f"a grid of {' × '.join(map(str, shape))} voxels ({spacing} mm)", config)


def _next_spacing_mm(geometry: Geometry, config: Config) -> float | None:
    """Return the next aim of a voxel's size at which an axis rounds to fewer multiples; None where none does."""
    multiple = config.canonical.fit_multiple
    grid, _ = canonical_grid(geometry, config.canonical)
    extent = np.array(grid.shape) * np.array(grid.spacing_mm)
    aims = extent / (multiple * (np.round(extent / config.canonical.spacing_mm / multiple) - 0.5))
    coarser = [aim for aim, side in zip(aims, grid.shape, strict=True) if aim > 0 and side > multiple]
    return None if not coarser or min(coarser) * (1 + 1e-6) > 20 else float(min(coarser)) * (1 + 1e-6)
