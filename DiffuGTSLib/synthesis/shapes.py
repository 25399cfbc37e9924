"""Tumor shapes in millimeters: an ellipsoid, turned, bent by a spline, with a wavy border and sometimes spicules.

Size classes and elastic deformation follow DiffTumor, whose lengths are voxels of 1 mm; ours are mm on any grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DiffuGTSLib.synthesis.anatomy import smooth_noise
from DiffuGTSLib.volumes.boxes import bounding_box

SIZE_NAMES = ("tiny", "small", "medium", "large")
"""The size classes; "mix" asks for any of them and is no class."""

Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and last + 1 voxel along each axis, counted from the voxel in which the tumor's center lies."""

_PLANES = ((0, 1), (1, 2), (0, 2))
"""The elastic deformation bends these planes, each with displacements of its own."""


@dataclass(frozen=True)
class SizeClass:
    """How large, how bent and how many the tumors of one class are.

    Attributes:
        name: One of `SIZE_NAMES`.
        radius_mm: Nominal radius.
        semi_axis_mm: Range of each half axis.
        elastic_mm: Range of the standard deviation of the nine control points' displacements.
        count: Fewest and most tumors in a scan.
        waviness: Range of the border's fine waves, as a share of the radius.
        spicules: Fewest and most thin strands that run into the surroundings; half of the tumors have none.
    """

    name: str
    radius_mm: float
    semi_axis_mm: tuple[float, float]
    elastic_mm: tuple[float, float]
    count: tuple[int, int] = (1, 1)
    waviness: tuple[float, float] = (0.0, 0.3)
    spicules: tuple[int, int] = (0, 0)


DIFFTUMOR_SIZES = {
    "tiny": SizeClass("tiny", 4.0, (3.0, 5.0), (0.5, 1.0), (1, 3)),
    "small": SizeClass("small", 8.0, (6.0, 10.0), (1.0, 2.0), (1, 3)),
    "medium": SizeClass("medium", 16.0, (12.0, 20.0), (3.0, 6.0), (1, 1)),
    "large": SizeClass("large", 32.0, (24.0, 64.0), (5.0, 10.0), (1, 1)),
}
"""DiffTumor, mask generator. An organ file may change any of it."""


def size_of_radius(radius_mm: float, sizes: Mapping[str, SizeClass] = DIFFTUMOR_SIZES) -> SizeClass:
    """Return a class of one radius: half axes of 0.75 to 1.25 of it, the rest as in the class nearest to it.

    Args:
        radius_mm: Nominal radius.
        sizes: Classes to choose from.
    """
    nearest = min(sizes.values(), key=lambda size: abs(np.log(radius_mm / size.radius_mm)))
    scale = radius_mm / nearest.radius_mm
    return replace(
        nearest,
        radius_mm=radius_mm,
        semi_axis_mm=(0.75 * radius_mm, 1.25 * radius_mm),
        elastic_mm=(scale * nearest.elastic_mm[0], scale * nearest.elastic_mm[1]),
    )


@dataclass(frozen=True, eq=False)
class TumorShape:
    """One tumor's shape, without a place.

    Attributes:
        semi_axes_mm: Three half axes.
        rotation: Direction of the half axes.
        control_mm: Displacements of the control points: plane, axis within the plane, 3 x 3; (3, 2, 3, 3).
        waviness: How far fine waves stray from the border, as a share of the radius.
        spicules: A row a strand: unit vector (3), length as a share of the local radius, sharpness; (n, 5).
    """

    semi_axes_mm: tuple[float, float, float]
    rotation: Rotation = field(default_factory=Rotation.identity)
    control_mm: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 2, 3, 3)))
    waviness: float = 0.0
    spicules: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 5)))

    @property
    def radius_mm(self) -> float:
        """Radius of the ball as large as the ellipsoid."""
        return float(np.prod(self.semi_axes_mm) ** (1 / 3))

    @property
    def half_extent_mm(self) -> NDArray[np.float64]:
        """Half the box around the ellipsoid along x, y, z, before it is bent."""
        return np.asarray(np.sqrt(((self.rotation.as_matrix() * np.array(self.semi_axes_mm)) ** 2).sum(axis=1)))

    @property
    def reach_mm(self) -> NDArray[np.float64]:
        """How far from the center the bent, wavy shape may reach along x, y, z."""
        longest = float(self.spicules[:, 3].max(initial=0.0))
        bent = self.half_extent_mm * (1 + 0.9 * self.waviness + longest) + 1.5 * np.abs(self.control_mm).max(
            initial=0.0
        )
        return np.asarray(np.minimum(bent, 2.0 * max(self.semi_axes_mm) + 4.0))


def draw_shape(size: SizeClass, rng: np.random.Generator) -> TumorShape:
    """Draw a shape of a size class.

    Differs from DiffTumor: half axes are not whole numbers, the ellipsoid is turned, and its border has fine waves,
    because three bends of a 3 x 3 grid leave every tumor as smooth as a pebble.
    """
    semi_axes = rng.uniform(*size.semi_axis_mm, 3)
    rotation = Rotation.from_quat(rng.normal(size=4))
    control = rng.normal(0.0, rng.uniform(*size.elastic_mm), (3, 2, 3, 3))
    # What all of the tumor moves would only take it away from where it is placed.
    inside = _spline_weights(np.linspace(0.5, 1.5, 21)).mean(axis=0)
    control -= np.einsum("paij,i,j->pa", control, inside, inside)[..., None, None]
    waviness = float(rng.uniform(*size.waviness))
    spicules = _draw_spicules(size, rng) if size.spicules[1] and rng.random() < 0.5 else np.zeros((0, 5))
    return TumorShape(
        (float(semi_axes[0]), float(semi_axes[1]), float(semi_axes[2])), rotation, control, waviness, spicules
    )


def share_of(
    distance: NDArray[np.float32], radius_mm: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Return 1 inside, 0 outside and a ramp as wide as a voxel between, from the distance of `distance_to_center`."""
    ramp_mm = float(np.prod(spacing_mm)) ** (1 / 3)
    return np.asarray(np.clip(0.5 + (1 - distance) * (radius_mm / ramp_mm), 0, 1), dtype=np.float32)


def full_window(shape: TumorShape, spacing_mm: tuple[float, float, float]) -> Window:
    """Return the window that holds the whole shape and a voxel more, found on a coarse grid."""
    step_mm = shape.radius_mm / 8
    ramp = 0.5 * float(np.prod(spacing_mm)) ** (1 / 3) / shape.radius_mm
    cells = np.ceil(shape.reach_mm / step_mm + 8 * ramp).astype(int)
    coarse = _smooth_distance(shape, [np.arange(-n, n + 1) * step_mm for n in cells])
    # Waves stay within 3 standard deviations of noise, strands within their length.
    furthest = (1 + 1.5 * shape.waviness) * (1 + float(shape.spicules[:, 3].max(initial=0.0))) + ramp
    inside = coarse < furthest
    box = bounding_box(inside) if inside.any() else [slice(0, side) for side in inside.shape]
    sides = []
    for part, n, spacing in zip(box, cells, spacing_mm, strict=True):
        first, last = part.start - n, part.stop - 1 - n
        sides.append((int(np.floor((first - 1) * step_mm / spacing)), int(np.ceil((last + 1) * step_mm / spacing)) + 1))
    x, y, z = sides
    return x, y, z


def distance_to_center(
    shape: TumorShape,
    spacing_mm: tuple[float, float, float],
    rng: np.random.Generator,
    window: Window | None = None,
) -> NDArray[np.float32]:
    """Return the distance to the tumor's center in local radii, (X, Y, Z): 0 there, 1 on the border."""
    window = window or full_window(shape, spacing_mm)
    axes_mm = [np.arange(a, b) * s for (a, b), s in zip(window, spacing_mm, strict=True)]
    distance = _smooth_distance(shape, axes_mm)
    if len(shape.spicules):
        distance = _with_spicules(distance, shape.spicules, _columns(axes_mm))
    if shape.waviness:
        for width, height in ((0.3, 0.45), (0.12, 0.2)):  # lobes, and what roughens them
            sigma = np.maximum(0.6, width * shape.radius_mm / np.array(spacing_mm))
            distance -= np.float32(height * shape.waviness) * smooth_noise(distance.shape, rng, sigma)
    return distance


def _smooth_distance(shape: TumorShape, axes_mm: list[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the distance to the center of the bent ellipsoid, in local radii, on the grid that three axes span.

    The three bends are added up instead of done one after the other as in DiffTumor, so that one pass over the grid
    serves all; they differ in the second order only (see the tests).
    """
    half = np.maximum(shape.half_extent_mm, 1e-6)
    weights = [_spline_weights(1 + axis / (2 * h)) for axis, h in zip(axes_mm, half, strict=True)]
    bent: list[Any] = _columns(axes_mm)
    for plane, control in zip(_PLANES, shape.control_mm, strict=True):
        for axis, displacements in zip(plane, control, strict=True):
            field_mm = weights[plane[0]] @ displacements @ weights[plane[1]].T
            bent[axis] = bent[axis] + np.expand_dims(field_mm, 3 - sum(plane)).astype(np.float32)
    turn = shape.rotation.as_matrix() / np.array(shape.semi_axes_mm)
    squared = np.zeros([len(axis) for axis in axes_mm], dtype=np.float32)
    for row in turn.T.astype(np.float32):  # along each half axis, in half axes
        squared += (row[0] * bent[0] + row[1] * bent[1] + row[2] * bent[2]) ** 2
    return np.sqrt(squared)


def _columns(axes_mm: list[NDArray[Any]]) -> list[NDArray[np.float32]]:
    return [a.reshape([-1 if i == j else 1 for j in range(3)]).astype(np.float32) for i, a in enumerate(axes_mm)]


def _spline_weights(position: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much each of three control points (at 0, 1, 2) weighs at each position, (n, 3)."""
    position = np.atleast_1d(np.asarray(position, dtype=np.float64))
    columns = [ndimage.map_coordinates(unit, [position], order=3, mode="mirror") for unit in np.eye(3)]
    return np.stack(columns, axis=1)


def _draw_spicules(size: SizeClass, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw strands of 1 to 2 mm width and 2 to 8 mm length in random directions."""
    count = int(rng.integers(size.spicules[0], size.spicules[1] + 1))
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    length = np.minimum(rng.uniform(2.0, 8.0, count) / size.radius_mm, 0.9)
    sharpness = 1.4 * (size.radius_mm / rng.uniform(0.5, 1.0, count)) ** 2  # half as long half that width from the axis
    return np.column_stack([directions, length, sharpness])


def _with_spicules(
    distance: NDArray[np.float32], spicules: NDArray[np.float64], points: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Bring what lies in the direction of a strand nearer to the center, so that the border bulges out there."""
    shell = (distance > 0.8) & (distance < 2.0)  # the rest is in or out whatever the strands do
    unit = np.stack([np.broadcast_to(p, distance.shape)[shell] for p in points])
    unit /= np.maximum(np.sqrt((unit**2).sum(axis=0)), 1e-3)
    longer = np.zeros(unit.shape[1], dtype=np.float32)
    for x, y, z, share, sharpness in spicules.astype(np.float32):
        cosine = x * unit[0] + y * unit[1] + z * unit[2]
        near = cosine > 1 - 4 / sharpness
        longer[near] = np.maximum(longer[near], share * np.exp(sharpness * (cosine[near] - 1)))
    result = distance.copy()
    result[shell] /= 1 + longer
    return result
