"""Smoothing of a map within the edges of the picture that it belongs to."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, cg

from DiffuGTSLib.volumes.boxes import grown_box
from DiffuGTSLib.volumes.lesions import label_lesions


def smooth_within_edges(
    values: Float[np.ndarray, "X Y Z"],
    picture: Float[np.ndarray, "X Y Z"],
    within: Bool[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    reach_mm: float,
    edge: float,
    above: float = 0.0,
) -> Float[np.ndarray, "X Y Z"]:
    """Let neighbors that look alike in a picture have the same value in a map.

    The result u of a map p over a picture I minimizes, with r the reach and c the edge,
        Σ (u - p)² + r² Σ exp(-(ΔI / c)²) |∇u|² ,
    which is the random walker with prior models (Grady, CVPR 2005): u is the mean of p over walks from a voxel that
    go about r far and hardly ever step over an edge. Paper silent; we chose it for maps that know which tissue is ill better
    than where it ends: the picture says where tissues end.

    Args:
        values: The map p, 0 or more.
        picture: I, the scan on the same grid, canonical intensities.
        within: No walk crosses the border of this mask.
        spacing_mm: Of the grid.
        reach_mm: r; 0 returns the map as it is.
        edge: c, in canonical intensity.
        above: Values up to this stay as they are. For each connected part (26 neighbors) of the others the equation is
            solved in a box with a margin of r, beyond whose faces nothing is seen.
    """
    smoothed = values.copy()
    if reach_mm <= 0:
        return smoothed
    parts, _ = label_lesions(values > above)
    margin = [int(np.ceil(reach_mm / spacing)) for spacing in spacing_mm]
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        near = grown_box(box, margin, values.shape)
        own = parts[near] == number
        holds = _conductances(picture[near], within[near], spacing_mm, reach_mm, edge)
        smoothed[near][own] = _balanced(values[near], holds)[own]
    return smoothed


def _conductances(
    picture: Float[np.ndarray, "X Y Z"],
    within: Bool[np.ndarray, "X Y Z"],
    spacing_mm: tuple[float, float, float],
    reach_mm: float,
    edge: float,
) -> list[np.ndarray]:
    """Return, for each axis, how much each voxel and the next one are held together."""
    return [
        np.float32((reach_mm / spacing) ** 2)
        * np.exp(-((np.diff(picture, axis=axis) / np.float32(edge)) ** 2))
        * ~np.diff(within, axis=axis)
        for axis, spacing in enumerate(spacing_mm)
    ]


def _balanced(values: Float[np.ndarray, "X Y Z"], holds: list[np.ndarray]) -> Float[np.ndarray, "X Y Z"]:
    """Solve (1 + L) u = p, with L the Laplacian of the conductances; p has its highest value above 0."""
    shape, highest = values.shape, np.float32(values.max())

    def spread(flat: np.ndarray) -> np.ndarray:
        u = flat.reshape(shape)
        spread = u.copy()
        for axis, hold in enumerate(holds):
            lower, upper = _sides(axis)
            passed = hold * np.diff(u, axis=axis)
            spread[lower] -= passed
            spread[upper] += passed
        return spread.ravel()

    diagonal = np.ones(shape, dtype=np.float32)
    for axis, hold in enumerate(holds):
        for side in _sides(axis):
            diagonal[side] += hold
    p, size = (values / highest).astype(np.float32).ravel(), (values.size, values.size)
    system = LinearOperator(size, matvec=spread, dtype=np.float32)
    scaled = LinearOperator(size, matvec=lambda flat: flat / diagonal.ravel(), dtype=np.float32)
    solution, _ = cg(system, p, x0=p, rtol=1e-3, M=scaled)
    return highest * np.asarray(solution, dtype=np.float32).reshape(shape).clip(0, 1)


def _sides(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the voxels that have a next one along an axis, and those that are one."""
    before, after = [slice(None)] * 3, [slice(None)] * 3
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)
