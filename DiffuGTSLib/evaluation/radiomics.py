"""What a tumor looks like in numbers: intensities, form, texture, and how sharp its border is.

Textures are measured on a grid of 1 mm, linearly interpolated, so that voxels of different scans can be compared; the
co-occurrence of gray levels is that of Haralick (1973), over the 13 directions and both ways, one step apart.
"""

from dataclasses import dataclass
from itertools import product
from math import log2

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage
from scipy.stats import kurtosis, skew

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.boxes import bounding_box, grown_box
from DiffuGTSLib.volumes.volume import require_same_grid

CT_BIN_HU = 25.0
"""Width of a gray level on CT; on MR, which has no unit, the middle 98 % of the tumor are parted into `MR_LEVELS`."""
MR_LEVELS = 16
LEAST_VOXELS = 27
"""A tumor smaller than a cube of 3 mm has no texture."""

_CLOSE_MM = 8.0
_PROFILE_MM = np.arange(-5.0, 5.01, 0.5)
_STEP_MM = 2.0
_RAYS = 600
_DIRECTIONS = [d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]


@dataclass(frozen=True)
class Border:
    """How a tumor ends.

    Attributes:
        contrast: Median intensity of the outer 3 mm of the tumor less that of the 3 mm around it; native units.
        sharpness_per_mm: Median over rays across the border of the steepest rise or fall (toward the contrast's side)
            over 2 mm, in native units a mm. Each ray looks 5 mm both ways for it, so that an outline that was drawn a
            little off, as hands do, does not blur what it outlines.
        width_mm: Contrast divided by sharpness: how far it takes from inside to outside.
    """

    contrast: float
    sharpness_per_mm: float
    width_mm: float


def measure_tumor(scan: Volume, tumor: Volume, modality: str) -> dict[str, float]:
    """Return the features of one tumor by name, units in the name; "native" being HU in CT and MR units in MR.

    Args:
        scan: Native units.
        tumor: Mask on its grid; of several lesions all are taken together.
        modality: "CT" or "MR".

    Raises:
        GeometryError: If the mask lies on another grid.
        InputError: If fewer than `LEAST_VOXELS` mm³ are tumor.
    """
    require_same_grid(scan.geometry, tumor.geometry, "tumor mask")
    image, mask = crop_at_one_mm(scan, tumor)
    if np.count_nonzero(mask) < LEAST_VOXELS:
        raise InputError(
            f"The tumor has {np.count_nonzero(mask)} mm³; expected at least {LEAST_VOXELS}.",
            hint="leave it out: so small a tumor has no texture.",
            code="small",
        )
    border = measure_border(image, mask)
    return {
        **form(mask),
        **first_order(image[mask]),
        **co_occurrence(image, mask, modality),
        "contrast_native": border.contrast,
        "border_sharpness_native_per_mm": border.sharpness_per_mm,
        "border_width_mm": border.width_mm,
    }


def crop_at_one_mm(scan: Volume, tumor: Volume) -> tuple[Float[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"]]:
    """Return the box around a tumor and some mm more, on voxels of 1 mm along the scan's own axes, edge to edge.

    The scan is interpolated linearly; the mask too, and cut at one half.

    Raises:
        InputError: If the mask is empty, or the box is thinner than 2 mm: a border has a direction in 3D only.
    """
    mask = tumor.array > 0
    if not mask.any():
        raise InputError("The tumor mask is empty.", code="empty_mask")
    spacing = tumor.geometry.spacing_mm
    reach = [int(np.ceil((_CLOSE_MM + 1) / s)) for s in spacing]
    box = grown_box(bounding_box(mask), reach, mask.shape)
    counts = [part.stop - part.start for part in box]
    # From face to face, not from center to center: at a scan's end half a voxel would be lost, and one slice has no length.
    sides = [(np.arange(round(n * s)) + 0.5) / s - 0.5 for n, s in zip(counts, spacing, strict=True)]
    if min(map(len, sides)) < 2:
        raise InputError(
            f"The scan is {min(n * s for n, s in zip(counts, spacing, strict=True)):.2g} mm thick; expected 2 mm or more.",
            hint="leave it out: what is so thin has no border in 3D.",
            code="small",
        )
    points = np.meshgrid(*sides, indexing="ij")
    image = ndimage.map_coordinates(scan.array[box].astype(np.float64), points, order=1, mode="nearest")
    mask = ndimage.map_coordinates((tumor.array[box] > 0).astype(np.float64), points, order=1, mode="nearest")
    return image, mask >= 0.5


def form(mask: Bool[np.ndarray, "x y z"]) -> dict[str, float]:
    """Return size and elongation of a mask on voxels of 1 mm.

    Elongation: longest over shortest standard deviation along the principal axes; 1 for a ball.
    """
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(np.argwhere(mask).T)), 1 / 12))
    volume_ml = float(np.count_nonzero(mask)) / 1000
    return {"radius_mm": ball_radius_mm(volume_ml), "elongation": float(spread[-1] / spread[0])}


def first_order(values: Shaped[np.ndarray, " voxels"]) -> dict[str, float]:
    """Return what the histogram of a tumor's intensities says; a flat one has neither skew nor tails."""
    values = values.astype(np.float64)
    flat = np.ptp(values) < 1e-6
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {
        "mean_native": float(values.mean()),
        "median_native": float(middle),
        "sd_native": float(values.std()),
        "p10_native": float(low),
        "p90_native": float(high),
        "skewness": 0.0 if flat else float(skew(values)),
        "kurtosis": 0.0 if flat else float(kurtosis(values)),
    }


def co_occurrence(
    image: Float[np.ndarray, "x y z"], mask: Bool[np.ndarray, "x y z"], modality: str
) -> dict[str, float]:
    """Return five features of the gray-level co-occurrence matrix within a mask.

    Args:
        image: Native units, voxels of 1 mm.
        mask: At least one pair of neighbors.
        modality: "CT" or "MR": chooses the levels.
    """
    values = image[mask]
    levels = np.zeros(image.shape, dtype=np.int64)
    if modality == "CT":
        levels[mask] = ((values - values.min()) / CT_BIN_HU).astype(np.int64)
    else:  # a few voxels of fat at the rim must not stretch the levels
        low, high = np.percentile(values, (1, 99))
        levels[mask] = np.clip((values - low) / max(high - low, 1e-6) * MR_LEVELS, 0, MR_LEVELS - 1).astype(np.int64)
    count = int(levels[mask].max()) + 1
    pairs = np.zeros((count, count))
    for direction in _DIRECTIONS:
        here, there = _shifted(direction, 1), _shifted(direction, -1)
        both = mask[here] & mask[there]
        np.add.at(pairs, (levels[here][both], levels[there][both]), 1)
    pairs = pairs + pairs.T
    return _haralick(pairs / max(pairs.sum(), 1.0))


def measure_border(image: Float[np.ndarray, "x y z"], mask: Bool[np.ndarray, "x y z"]) -> Border:
    """Measure contrast and sharpness across a tumor's border; see `Border`.

    Args:
        image: Native units, voxels of 1 mm.
        mask: The tumor.
    """
    padded = np.pad(mask, 1)
    signed_mm = (ndimage.distance_transform_edt(~padded) - ndimage.distance_transform_edt(padded))[1:-1, 1:-1, 1:-1]
    inside, outside = (signed_mm <= 0) & (signed_mm > -3.5), (signed_mm > 0) & (signed_mm < 3.5)
    contrast = float(np.median(image[inside]) - np.median(image[outside])) if outside.any() else 0.0
    smooth = ndimage.gaussian_filter(signed_mm, 1.0, mode="nearest")
    points = np.argwhere(mask & (signed_mm > -1.5))
    points = points[:: max(1, len(points) // _RAYS)]
    normals = np.stack([part[tuple(points.T)] for part in np.gradient(smooth)], axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    along = points[:, :, None] + normals[:, :, None] * _PROFILE_MM
    profiles = ndimage.map_coordinates(image, along.transpose(1, 0, 2), order=1, mode="nearest")
    steps = round(_STEP_MM / (_PROFILE_MM[1] - _PROFILE_MM[0]))
    slopes = (profiles[:, :-steps] - profiles[:, steps:]) / _STEP_MM  # falls outwards where the tumor is brighter
    sharpness = max(float(np.median((np.sign(contrast) * slopes).max(axis=1))), 0.0) if contrast else 0.0
    return Border(contrast, sharpness, abs(contrast) / sharpness if sharpness else 0.0)


def _shifted(direction: tuple[int, ...], sign: int) -> tuple[slice, ...]:
    """Return the part of a grid that has a neighbor in a direction (sign 1), or that is one (sign -1)."""
    return tuple(slice(None) if not d else slice(None, -1) if d * sign > 0 else slice(1, None) for d in direction)


def _haralick(joint: Float[np.ndarray, "levels levels"]) -> dict[str, float]:
    i, j = np.indices(joint.shape)
    mean = float((i * joint).sum())
    variance = float(((i - mean) ** 2 * joint).sum())
    covariance = float(((i - mean) * (j - mean) * joint).sum())
    positive = joint[joint > 0]
    return {
        "glcm_contrast": float(((i - j) ** 2 * joint).sum()),
        "glcm_homogeneity": float((joint / (1 + np.abs(i - j))).sum()),
        "glcm_energy": float((joint**2).sum()),
        "glcm_correlation": covariance / variance if variance > 1e-12 else 1.0,
        "glcm_entropy": float(-sum(p * log2(p) for p in positive)),
    }
