"""The windows that a segmenter sees: real cases as they are, and healthy ones into which tumors are painted on the fly.

Follows DiffTumor (Chen et al., CVPR 2024), the segmentation step of the published code. Windows are painted in native units before they are
augmented; upstream varies intensities first, so that its contrasts are no longer HU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.supervised.networks import BACKGROUND, TUMOR
from DiffuGTSLib.synthesis.organs import OrganSpec, organ_spec
from DiffuGTSLib.synthesis.outline import UNCLIPPED, ends_of
from DiffuGTSLib.synthesis.painter import Painter, TumorRequest, synthesize
from DiffuGTSLib.training.data import Crop
from DiffuGTSLib.training.segmenter_cases import SegmenterScan
from DiffuGTSLib.volumes import Geometry, Volume


@dataclass(frozen=True)
class SynthesisChances:
    """How often what is painted into a healthy window; DiffTumor's figures.

    Attributes:
        rate: Share of healthy windows that are painted into.
        stages: "early", "medium" or "large" → its share of those.
        early: "tiny" or "small" → its share of the early ones.
        counts: Size → fewest and most tumors in one window.
    """

    rate: float = 0.5
    stages: Mapping[str, float] = field(default_factory=lambda: {"early": 0.8, "medium": 0.1, "large": 0.1})
    early: Mapping[str, float] = field(default_factory=lambda: {"tiny": 0.5, "small": 0.5})
    counts: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"tiny": (1, 3), "small": (1, 3), "medium": (1, 1), "large": (1, 1)}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"Expected a synthesis rate of 0 to 1, got {self.rate}.")
        for name, shares in (("stages", self.stages), ("early", self.early)):
            if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
                raise ConfigError(f"Expected {name} to share out 1, got {dict(shares)}.")

    def draw(self, rng: np.random.Generator) -> str | None:
        """Draw the size of the tumors of one healthy window, or None: it stays healthy."""
        if rng.random() <= 1 - self.rate:
            return None
        stage = _drawn(self.stages, rng)
        return _drawn(self.early, rng) if stage == "early" else stage

    def draw_count(self, size: str, rng: np.random.Generator) -> int:
        """Draw how many tumors of a size are painted."""
        low, high = self.counts[size]
        return int(rng.integers(low, high + 1))


def _drawn(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


@runtime_checkable
class TumorSource(Protocol):
    """Paints tumors into windows: made once, used for the whole training."""

    def minimum_radius_mm(self, organ_name: str) -> float:
        """Return the radius of the sphere whose volume a healthy window must show of the organ."""
        ...

    def paint(
        self, window: Volume, places: Volume, organ_name: str, size: str, count: int, rng: np.random.Generator,
        clipped_at: tuple[float, float] = UNCLIPPED,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:  # fmt: skip
        """Return the window in native units with its tumors and their mask, or None where there was no room.

        The window is clipped; what is as dark or bright as `clipped_at` says may be anything beyond, such as air or bone.
        """
        ...


class PaintedTumors:
    """The house's painters as a source of tumors.

    The painters may have learned their tumors in another organ than they paint into (DiffTumor's organ_model and
    organ_type): the organ file is that of the scan.

    Args:
        early: Paints tiny and small tumors.
        late: Paints medium and large ones; None: the same painter.
        specs: Organ name → organ file, where it is not the bundled one of that name.
    """

    def __init__(
        self, early: Painter, late: Painter | None = None, specs: Mapping[str, OrganSpec] | None = None
    ) -> None:
        self._painters = {"tiny": early, "small": early, "medium": late or early, "large": late or early}
        self._specs = dict(specs or {})

    def minimum_radius_mm(self, organ_name: str) -> float:
        """Return the organ file's radius (DiffTumor: liver 30, pancreas 15, kidney 25 mm)."""
        return self._spec(organ_name).organ_radius_mm

    def paint(
        self, window: Volume, places: Volume, organ_name: str, size: str, count: int, rng: np.random.Generator,
        clipped_at: tuple[float, float] = UNCLIPPED,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:  # fmt: skip
        """Return the window with its tumors and their mask, or None where none found a place."""
        if not places.array.any() or window.array.min() == window.array.max():
            return None  # a crop beside the organ, or in nothing but air
        spec = self._spec(organ_name)
        request = TumorRequest(size if size in spec.sizes else "mix", count)
        modality = window.modality or "CT"
        result = synthesize(
            window, places, spec, request, self._painters[size], modality=modality, rng=rng, clipped_at=clipped_at
        )
        mask = result.tumor.array > 0
        return (result.image.array, mask) if mask.any() else None

    def _spec(self, organ_name: str) -> OrganSpec:
        if organ_name not in self._specs:
            self._specs[organ_name] = organ_spec(organ_name)
        return self._specs[organ_name]


ATTEMPTS = 30
"""After so many windows with too little of the organ the next one is taken as it is."""


def required_radius_mm(radius_mm: float, attempt: int) -> float:
    """Return the radius whose sphere the organ must fill in the window of one attempt (from 1); 0 accepts anything.

    Relaxed by 5, 10, 15, 20, 25 mm after more than 5, 10, 15, 20, 25 attempts, never below 5 mm (DiffTumor, 1.3).
    """
    if attempt > ATTEMPTS:
        return 0.0
    return max(5.0, radius_mm - 5.0 * min(5, (attempt - 1) // 5))


@dataclass(frozen=True)
class HealthyCrop:
    """A box that shows enough of an organ, and what it took to find it."""

    crop: Crop
    attempts: int
    required_mm: float


def healthy_crop(scan: SegmenterScan, side: int, radius_mm: float, rng: np.random.Generator) -> HealthyCrop:
    """Draw boxes until one shows more of the organ than a sphere has; never more than 31 (DiffTumor, 1.3)."""
    voxel_mm3 = float(np.prod(scan.scan.spacing_mm))
    for attempt in range(1, ATTEMPTS + 2):
        crop = balanced_crop(scan.places, side, rng)
        required = required_radius_mm(radius_mm, attempt)
        if required == 0 or crop.cut(scan.places).sum() * voxel_mm3 > 4 / 3 * np.pi * required**3:
            break
    return HealthyCrop(crop, attempt, required)


def balanced_crop(foreground: NDArray[np.bool_], side: int, rng: np.random.Generator) -> Crop:
    """Draw a cube around a voxel of the foreground or, as often, of the background, inside the scan where it fits."""
    voxel = _random_voxel(foreground, rng.random() < 0.5, rng)
    start = [
        int(np.clip(center - side // 2, min(0, length - side), max(0, length - side)))
        for center, length in zip(voxel, foreground.shape, strict=True)
    ]
    return Crop((start[0], start[1], start[2]), (side, side, side))


def _random_voxel(mask: NDArray[np.bool_], wanted: bool, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw a voxel of a mask or of what it leaves, without listing tens of millions unless they are rare."""
    for _ in range(64):
        voxel = tuple(int(rng.integers(length)) for length in mask.shape)
        if mask[voxel] == wanted:
            return voxel
    flat = np.flatnonzero(mask == wanted)
    if len(flat) == 0:  # a mask that is empty, or fills the scan: any voxel will do
        return voxel
    return tuple(int(i) for i in np.unravel_index(flat[rng.integers(len(flat))], mask.shape))


@dataclass(frozen=True, eq=False)
class SegmenterWindow:
    """One training window.

    Attributes:
        image: (X, Y, Z), in [0, 1] up to the augmentation.
        labels: Classes (X, Y, Z).
        known: Where the labels may be learned (X, Y, Z).
        kind: "real", "healthy" or "synthetic".
        size: Of the painted tumors, "" without any.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    known: NDArray[np.bool_]
    kind: str
    size: str = ""


class SegmenterSampler:
    """Draws training windows; safe to call from several threads, each with a generator of its own.

    Args:
        scans: Real and healthy cases.
        side: Window side in voxels.
        source: Paints tumors; None leaves every healthy window healthy.
        chances: See `SynthesisChances`.
        real_share: Share of windows from real cases; None draws every case as often, as DiffTumor does.
        augment: Flip, turn, scale and shift windows.

    Raises:
        InputError: Without any case, or with a share of real ones where there are only real or only healthy ones.
    """

    def __init__(
        self,
        scans: Sequence[SegmenterScan],
        side: int,
        source: TumorSource | None = None,
        chances: SynthesisChances | None = None,
        real_share: float | None = None,
        augment: bool = True,
    ) -> None:
        self._healthy = [scan for scan in scans if scan.healthy]
        self._real = [scan for scan in scans if not scan.healthy]
        share = len(self._real) / max(1, len(scans)) if real_share is None else real_share
        if not scans or (share > 0 and not self._real) or (share < 1 and not self._healthy):
            raise InputError(
                f"Windows were asked for from {share:.0%} real cases; there are {len(self._real)} real and "
                f"{len(self._healthy)} healthy ones.",
                hint="add cases of the other kind, or choose another share: 0 for synthetic tumors only, 1 for real ones.",
            )
        self._share = share
        self._side = side
        self._source = source
        self._chances = chances or SynthesisChances()
        self._augment = augment

    def draw(self, rng: np.random.Generator) -> SegmenterWindow:
        """Draw one window."""
        real = rng.random() < self._share
        pool = self._real if real else self._healthy
        scan = pool[rng.integers(len(pool))]
        window = self._real_window(scan, rng) if real else self._healthy_window(scan, rng)
        return augmented(window, rng) if self._augment else window

    def _real_window(self, scan: SegmenterScan, rng: np.random.Generator) -> SegmenterWindow:
        crop = balanced_crop(scan.organ, self._side, rng)
        return SegmenterWindow(crop.cut(scan.scan.image), scan.labels(crop), crop.cut(scan.known), "real")

    def _healthy_window(self, scan: SegmenterScan, rng: np.random.Generator) -> SegmenterWindow:
        radius_mm = self._source.minimum_radius_mm(scan.organ_name) if self._source else 0.0
        crop = healthy_crop(scan, self._side, radius_mm, rng).crop
        window = SegmenterWindow(crop.cut(scan.scan.image), scan.labels(crop), crop.cut(scan.known), "healthy")
        size = self._chances.draw(rng)
        if size is None or self._source is None:
            return window
        return paint_window(window, scan, crop, self._source, (size, self._chances.draw_count(size, rng)), rng)


def paint_window(
    window: SegmenterWindow,
    scan: SegmenterScan,
    crop: Crop,
    source: TumorSource,
    wish: tuple[str, int],
    rng: np.random.Generator,
) -> SegmenterWindow:
    """Paint tumors into the healthy places of a window; where none finds room, it comes back healthy.

    Voxels that no tumor touched keep their value to the last bit.

    Args:
        window: Cut from `scan` at `crop`.
        scan: Its case.
        crop: Its box.
        source: Who paints.
        wish: Size and number of the tumors.
        rng: Source of randomness.
    """
    size, count = wish
    geometry = crop_geometry(scan.scan.geometry, crop)
    native = scan.scan.intensity.to_native(window.image)
    volume = Volume(native, geometry, scan.scan.modality)
    places = Volume(crop.cut(scan.places).astype(np.uint8), geometry)
    ends = ends_of(scan.scan.intensity)
    painted = source.paint(volume, places, scan.organ_name, size, count, rng, clipped_at=ends)
    if painted is None or not painted[1].any():
        return window
    image = np.where(painted[0] == native, window.image, scan.scan.intensity.to_unit(painted[0]))
    labels = np.where(painted[1], TUMOR, window.labels).astype(np.uint8)
    return replace(window, image=image.astype(np.float32), labels=labels, kind="synthetic", size=size)


def painted_windows(
    scans: Sequence[SegmenterScan], side: int, source: TumorSource, per_scan: int = 6
) -> list[SegmenterScan]:
    """Return windows of healthy cases with painted tumors that are always the same: to choose a network by.

    Sizes take turns from small to large. A window in which nothing found room is left out.
    """
    rng = np.random.default_rng(11)
    windows = []
    for scan in scans:
        for number in range(per_scan):
            crop = healthy_crop(scan, side, source.minimum_radius_mm(scan.organ_name), rng).crop
            window = SegmenterWindow(crop.cut(scan.scan.image), scan.labels(crop), crop.cut(scan.known), "healthy")
            window = paint_window(window, scan, crop, source, (("small", "medium", "large")[number % 3], 1), rng)
            if window.kind == "synthetic":
                windows.append(_as_scan(window, scan, crop))
    return windows


def _as_scan(window: SegmenterWindow, scan: SegmenterScan, crop: Crop) -> SegmenterScan:
    grid = crop_geometry(scan.scan.geometry, crop)
    x, y, z = ((0, side) for side in crop.side)
    seen = replace(scan.scan, image=window.image, geometry=grid, source=grid, inside=(x, y, z))
    organ, tumor = window.labels > BACKGROUND, window.labels == TUMOR
    return SegmenterScan(scan.name, seen, organ, tumor, window.known, np.zeros_like(tumor), scan.organ_name)


def crop_geometry(geometry: Geometry, crop: Crop) -> Geometry:
    """Return the grid of a box."""
    matrix = geometry.ijk_to_ras.copy()
    matrix[:3, 3] = geometry.to_ras(np.array(crop.start))
    return Geometry(crop.side, matrix)


def augmented(window: SegmenterWindow, rng: np.random.Generator) -> SegmenterWindow:
    """Flip each axis (20 %), turn in the axial plane (20 %), scale and shift intensities by up to 0.1 (15 % each)."""
    for axis in range(3):
        if rng.random() < 0.2:
            window = _moved(window, partial(np.flip, axis=axis))
    if rng.random() < 0.2:
        window = _moved(window, partial(np.rot90, k=int(rng.integers(1, 4)), axes=(0, 1)))
    image = window.image
    if rng.random() < 0.15:
        image = image * np.float32(1 + rng.uniform(-0.1, 0.1))
    if rng.random() < 0.15:
        image = image + np.float32(rng.uniform(-0.1, 0.1))
    return replace(window, image=image.astype(np.float32, copy=False))


def _moved(window: SegmenterWindow, move: Callable[[NDArray[Any]], NDArray[Any]]) -> SegmenterWindow:
    """Return a window whose image, labels and known voxels are moved alike."""
    image, labels, known = (np.ascontiguousarray(move(array)) for array in (window.image, window.labels, window.known))
    return replace(window, image=image, labels=labels, known=known)
