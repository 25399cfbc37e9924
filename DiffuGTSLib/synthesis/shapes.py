"""Tumor shapes in millimeters: an ellipsoid, turned, with a wavy border, softened at its edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from DiffuGTSLib.synthesis.anatomy import smooth_noise


@dataclass(frozen=True)
class TumorShape:
    """An ellipsoid with a wavy border.

    Attributes:
        radii_mm: Three half axes.
        rotation: Direction of the half axes.
        waviness: How far the border strays from the ellipsoid, as a share of the radius.
        edge_mm: Width over which tumor fades into its surroundings; 0 is a sharp edge.
    """

    radii_mm: tuple[float, float, float]
    rotation: Rotation
    waviness: float
    edge_mm: float


def draw_shape(radius_mm: tuple[float, float], rng: np.random.Generator) -> TumorShape:
    """Draw a shape whose mean radius lies in a range (log-uniform: small tumors are as frequent as large ones)."""
    mean = float(np.exp(rng.uniform(*np.log(radius_mm))))
    stretch = np.exp(rng.normal(0, 0.22, 3))
    radii = mean * stretch / np.prod(stretch) ** (1 / 3)
    rotation = Rotation.from_quat(rng.normal(size=4))
    return TumorShape(
        (float(radii[0]), float(radii[1]), float(radii[2])),
        rotation,
        waviness=float(rng.uniform(0.0, 0.35)),
        edge_mm=float(rng.uniform(0.5, 3.0)),
    )


def soft_shape(
    shape: TumorShape,
    grid: tuple[int, int, int],
    center_voxel: NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return how much of each voxel is tumor, 0 to 1, on a grid (X, Y, Z); 0.5 is the border."""
    radius = float(np.prod(shape.radii_mm) ** (1 / 3))
    axes = [(np.arange(n) - c) * s for n, c, s in zip(grid, center_voxel, spacing_mm, strict=True)]
    offset_mm = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    turned = offset_mm @ shape.rotation.as_matrix()
    distance = np.sqrt(((turned / np.array(shape.radii_mm)) ** 2).sum(-1))  # 1 on the ellipsoid
    wave = smooth_noise(grid, rng, sigma_voxels=max(1.0, 0.35 * radius / min(spacing_mm)))
    inside_mm = (1 + 0.5 * shape.waviness * wave - distance) * radius
    return np.asarray(np.clip(0.5 + inside_mm / max(shape.edge_mm, 1e-3), 0, 1), dtype=np.float32)
