"""Smoothing of an attention map within the edges of its scan."""

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg

from DiffuGTSLib.config import MasksConfig
from DiffuGTSLib.volumes.boxes import grown_box
from DiffuGTSLib.volumes.lesions import label_lesions
from DiffuGTSLib.volumes.mask import as_mask

FAINT = 0.1
"""Attention up to this is no part of a finding and is not smoothed: most of a scan."""


def smooth_within_edges(
    values: Float[np.ndarray, "X Y Z"],
    image: Float[np.ndarray, "X Y Z"],
    allowed: Shaped[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    config: MasksConfig,
    above: float = FAINT,
) -> Float[np.ndarray, "X Y Z"]:
    """Give neighbors of equal intensity in an image the same value in a map.

    The result u of a map p over an image I minimizes, with r = `smooth_mm` and c = `smooth_edge`,
        Σ (u - p)² + r² Σ exp(-(ΔI / c)²) |∇u|² ,
    which is the random walker with prior models (Grady, CVPR 2005): u is the mean of p over walks from a voxel that
    go about r far and hardly ever step over an edge. Paper silent; we chose it for maps that know which tissue is ill better
    than where it ends: the image shows where tissues end.

    Args:
        values: The map p, 0 or more.
        image: I, the scan on the same grid, canonical intensities.
        allowed: Where an anomaly may be; no walk crosses the border of this mask.
        spacing_mm: Of the grid.
        config: r in mm, of which 0 returns the map as it is, and c in canonical intensity.
        above: Values up to this stay as they are. For each connected part (26 neighbors) of the others the equation is
            solved in a box with a margin of r, beyond whose faces nothing is seen.
    """
    smoothed = values.copy()
    if config.smooth_mm <= 0:
        return smoothed
    allowed = as_mask(allowed)
    parts, _ = label_lesions(values > above)
    margin = [int(np.ceil(config.smooth_mm / spacing)) for spacing in spacing_mm]
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        near = grown_box(box, margin, values.shape)
        own = parts[near] == number
        conductances = _conductances(image[near], allowed[near], spacing_mm, config)
        smoothed[near][own] = _solve(values[near], conductances)[own]
    return smoothed


def _conductances(
    image: Float[np.ndarray, "X Y Z"],
    allowed: Bool[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    config: MasksConfig,
) -> list[np.ndarray]:
    """Return, for each axis, the weight of the edge between each voxel and the next one."""
    return [
        np.float32((config.smooth_mm / spacing) ** 2)
        * np.exp(-((np.diff(image, axis=axis) / np.float32(config.smooth_edge)) ** 2))
        * ~np.diff(allowed, axis=axis)
        for axis, spacing in enumerate(spacing_mm)
    ]


def _solve(values: Float[np.ndarray, "X Y Z"], conductances: list[np.ndarray]) -> Float[np.ndarray, "X Y Z"]:
    """Solve (1 + L) u = p, with L the Laplacian of the conductances; p has its highest value above 0."""
    shape, highest = values.shape, np.float32(values.max())

    def spread(flat: np.ndarray) -> np.ndarray:
        u = flat.reshape(shape)
        spread = u.copy()
        for axis, conductance in enumerate(conductances):
            lower, upper = _neighbor_slices(axis)
            flow = conductance * np.diff(u, axis=axis)
            spread[lower] -= flow
            spread[upper] += flow
        return spread.ravel()

    diagonal = np.ones(shape, dtype=np.float32)
    for axis, conductance in enumerate(conductances):
        for side in _neighbor_slices(axis):
            diagonal[side] += conductance
    p, size = (values / highest).astype(np.float32).ravel(), (values.size, values.size)
    system = LinearOperator(size, matvec=spread, dtype=np.float32)
    scaled = LinearOperator(size, matvec=lambda flat: flat / diagonal.ravel(), dtype=np.float32)
    solution, _ = cg(system, p, x0=p, rtol=1e-3, M=scaled)
    return highest * np.asarray(solution, dtype=np.float32).reshape(shape).clip(0, 1)


def _neighbor_slices(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the voxels that have a next one along an axis, and those that are one."""
    before, after = [slice(None)] * 3, [slice(None)] * 3
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)
