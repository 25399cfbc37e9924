"""Paints tumors into a scan: places and outlines them, lets a painter fill the box, and blends by the tumor's share.

Everything outside the blend stays bit-identical; a mass effect moves tissue up to 1.3 radii from the center too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.synthesis.effects import capsule, mass_effect
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.outline import UNCLIPPED, Outline, outline_tumor
from DiffuGTSLib.synthesis.placement import NoPlace, Voxel, place, vessel_mask
from DiffuGTSLib.synthesis.shapes import SIZE_NAMES, SizeClass, draw_shape, size_of_radius
from DiffuGTSLib.synthesis.texture import measure_sharpness
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.volume import Geometry, Volume, closest_ras, require_same_grid, require_scan

_MOST_TUMORS = 1_000_000
"""In one scan; long before so many no place is left."""


@dataclass(frozen=True, eq=False)
class Site:
    """The box around one tumor. Axes run to the patient's right, front and head as closely as the scan's do.

    Attributes:
        image: (X, Y, Z), native units (HU for CT).
        share: How much of each voxel is tumor, 0 to 1.
        organ: Organ mask.
        spacing_mm: Voxel size.
        modality: "CT" or "MR".
        spec: The organ.
        size: Size class of the tumor.
    """

    image: NDArray[np.float32]
    share: NDArray[np.float32]
    organ: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    modality: str
    spec: OrganSpec
    size: str

    @property
    def radius_mm(self) -> float:
        """Radius of the ball as large as the tumor."""
        return ball_radius_mm(float(self.share.sum(dtype=np.float64) * np.prod(self.spacing_mm)) / 1000)


@runtime_checkable
class Painter(Protocol):
    """Fills the box around a tumor.

    Attributes:
        name: As records call it.
        context_mm: Least side of the box that it wants to see; 0 is content with the tumor and a margin.
        whole_box: Whether it repaints the scan around the tumor as well, so that "replace" blending can take it.
    """

    name: str
    context_mm: float
    whole_box: bool

    def paint(self, site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return the box, native units, with tumor wherever `site.share` is above 0; the caller blends by it."""
        ...


@dataclass(frozen=True)
class TumorRequest:
    """What to paint.

    Attributes:
        size: A size class of the organ, or "mix".
        count: How many; None: as many as the class has.
        center_ras_mm: Where, RAS in mm; None: somewhere in the organ.
        radius_mm: Nominal radius instead of the class's.
        avoid_vessels: Whether the organ's `vessel_sizes` keep clear of vessels.
        mass_effect: Whether tumors push the tissue around them outwards.
        capsule: Whether tumors wear a bright capsule.
    """

    size: str = "mix"
    count: int | None = None
    center_ras_mm: tuple[float, float, float] | None = None
    radius_mm: float | None = None
    avoid_vessels: bool = True
    mass_effect: bool = False
    capsule: bool = False


@dataclass(frozen=True)
class PaintedTumor:
    """One tumor that was painted.

    Attributes:
        size: Size class; for a radius of the request the nearest one.
        center_ras_mm: Center of mass, RAS in mm.
        radius_mm: Radius of the ball of the same volume.
        volume_ml: Of the mask.
        mean_shift: Mean change of intensity in the mask, native units.
    """

    size: str
    center_ras_mm: tuple[float, float, float]
    radius_mm: float
    volume_ml: float
    mean_shift: float


@dataclass(frozen=True, eq=False)
class Synthesis:
    """A scan with painted tumors, on the grid of the scan.

    Attributes:
        image: The scan; identical outside the blend.
        tumor: uint8, 1 = tumor.
        tumors: One record a tumor.
        skipped: One reason, in words, for each tumor that found no place.
    """

    image: Volume
    tumor: Volume
    tumors: tuple[PaintedTumor, ...]
    skipped: tuple[str, ...]


def synthesize(
    scan: Volume,
    organ: Volume,
    spec: OrganSpec,
    request: TumorRequest,
    painter: Painter,
    *,
    modality: str,
    rng: np.random.Generator,
    clipped_at: tuple[float, float] = UNCLIPPED,
    on_progress: Callable[[str, float], None] | None = None,
) -> Synthesis:
    """Paint tumors into an organ of a scan.

    Args:
        scan: Native units (HU for CT), any orientation and spacing.
        organ: Organ mask on the scan's grid; above 0 is organ.
        spec: The organ.
        request: How large, how many, where.
        painter: Fills the boxes.
        modality: "CT" or "MR".
        rng: The same generator state paints the same tumors.
        clipped_at: Of a scan that was clipped: see `DiffuGTSLib.synthesis.outline.ends_of`.
        on_progress: Called with ("synthesize", share done) before each tumor and at the end; may raise `Cancelled`.

    Raises:
        InputError: Empty organ mask, NaN or constant scan, another modality, a request that cannot be read.
        GeometryError: The mask lies on another grid.
    """
    _require_readable(scan, organ, spec, request, modality)
    canvas = _Canvas(scan, organ, spec, request, painter, modality, clipped_at)
    sizes = wanted_sizes(spec, request, rng)
    tumors: list[PaintedTumor] = []
    skipped: list[str] = []
    for number, size in enumerate(sizes):
        if on_progress is not None:
            on_progress("synthesize", number / len(sizes))
        outline = canvas.outline(size, rng)
        if isinstance(outline, NoPlace):
            skipped.append(f"{size.name} tumor: {outline.reason}")
        else:
            tumors.append(canvas.paint(outline, rng))
    if on_progress is not None:
        on_progress("synthesize", 1.0)
    return Synthesis(scan.with_array(canvas.result), Volume(canvas.tumor, scan.geometry), tuple(tumors), tuple(skipped))


def wanted_sizes(spec: OrganSpec, request: TumorRequest, rng: np.random.Generator) -> list[SizeClass]:
    """Return one size class a tumor. Without a count all are of one class, as many as it has (DiffTumor)."""
    if request.radius_mm is not None:
        return [size_of_radius(request.radius_mm, spec.sizes)] * (request.count or 1)
    if request.center_ras_mm is not None and request.count is None:
        return [_drawn_size(spec, request, rng)]
    first = _drawn_size(spec, request, rng)
    if request.count is None:
        return [first] * int(rng.integers(first.count[0], first.count[1] + 1))
    return [first, *(_drawn_size(spec, request, rng) for _ in range(request.count - 1))]


def blend(image: NDArray[np.float32], painted: NDArray[np.float32], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1 - share) · image + share · painted; to the bit the image where the share is 0, the paint where it is 1."""
    mixed = image + share * (painted - image)
    return np.asarray(np.where(share >= 1, painted, np.where(share > 0, mixed, image)), dtype=np.float32)


def paint_outline(
    image: NDArray[np.float32],
    organ: NDArray[np.bool_],
    outline: Outline,
    painter: Painter,
    spec: OrganSpec,
    spacing_mm: tuple[float, float, float],
    modality: str,
    rng: np.random.Generator,
    *,
    push: float = 0.0,
    capsule_height: float = 0.0,
    earlier: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Return the box of one tumor, painted and blended.

    Args:
        image: The box, native units (X, Y, Z).
        organ: Organ mask of the box.
        outline: The tumor.
        painter: Fills the box.
        spec: The organ.
        spacing_mm: Voxel size.
        modality: "CT" or "MR".
        rng: Source of randomness.
        push: Mass effect, in local radii.
        capsule_height: How much brighter than the organ the capsule is, native units; at least half that above the tumor.
        earlier: Tumors that are there already; they are not pushed, since their outlines are not.
    """
    image = mass_effect(image, outline.distance, outline.mask, outline.center_voxel, push, spacing_mm, earlier)
    painted = painter.paint(Site(image, outline.share, organ, spacing_mm, modality, spec, outline.size), rng)
    if capsule_height:
        thickness_mm = float(np.clip(0.15 * outline.radius_mm, 1.0, 2.5))
        ring = capsule(outline.distance, outline.radius_mm, thickness_mm)
        tissue = organ & (outline.share <= 0)
        level = float(np.median(image[tissue])) + capsule_height if tissue.any() else -np.inf
        painted = painted + ring * np.maximum(level - painted, 0.5 * capsule_height)
    replaced = spec.blending == "replace" and painter.whole_box
    return blend(image, painted, np.ones_like(outline.share) if replaced else outline.share)


class _Canvas:
    """A scan that is being painted, seen with its axes to the right, front and head (views, nothing is resampled)."""

    def __init__(
        self, scan: Volume, organ: Volume, spec: OrganSpec, request: TumorRequest, painter: Painter, modality: str,
        clipped_at: tuple[float, float],
    ) -> None:  # fmt: skip
        self.result = np.array(scan.array, dtype=np.float32)
        self.tumor = np.zeros(scan.array.shape, dtype=np.uint8)
        self._geometry, self._spec, self._request = scan.geometry, spec, request
        self._painter, self._modality, self._clipped_at = painter, modality, clipped_at
        self._permutation, self._signs = closest_ras(scan.geometry)
        x, y, z = (scan.geometry.spacing_mm[axis] for axis in self._permutation)
        self._spacing_mm = (x, y, z)
        self._image, self._mask = self._seen(self.result), self._seen(self.tumor)
        self._organ = self._seen(organ.array > 0)
        self._near = bounding_box(self._organ)
        self._vessels = self._found_vessels()
        self._sharpness_mm = measure_sharpness(self._image[self._near], self._spacing_mm)

    def outline(self, size: SizeClass, rng: np.random.Generator) -> Outline | NoPlace:
        """Draw a tumor's shape and find its place."""
        shape = draw_shape(size, rng)
        if self._request.center_ras_mm is not None:
            center = self._voxel(self._request.center_ras_mm)
        else:
            kept_clear = self._mask[self._near] > 0
            if self._vessels is not None and size.name in self._spec.vessel_sizes:
                kept_clear = kept_clear | self._vessels
            found = place(
                self._organ[self._near],
                shape.radius_mm,
                self._spacing_mm,
                rng,
                forbidden=kept_clear,
                erosion_mm=self._spec.erosion_mm,
                centered=size.name in self._spec.centered,
                may_outgrow=self._spec.exophytic_chance.get(size.name, 0.0) > 0,
            )
            if isinstance(found, NoPlace):
                return found
            x, y, z = (int(v) + part.start for v, part in zip(found.center_voxel, self._near, strict=True))
            center = (x, y, z)
        return outline_tumor(
            self._image,
            self._organ,
            shape,
            center,
            self._spec,
            size.name,
            self._spacing_mm,
            self._modality,
            rng,
            sharpness_mm=self._sharpness_mm,
            context_mm=self._painter.context_mm,
            blocked=self._mask > 0 if self._mask.any() else None,
            clipped_at=self._clipped_at,
        )

    def paint(self, outline: Outline, rng: np.random.Generator) -> PaintedTumor:
        """Paint an outlined tumor and return what it is."""
        box, mask = outline.box, outline.mask
        before = self._image[box].copy()
        organ = self._organ[box]
        after = paint_outline(
            before,
            organ,
            outline,
            self._painter,
            self._spec,
            self._spacing_mm,
            self._modality,
            rng,
            push=float(rng.uniform(0.05, 0.15)) if self._request.mass_effect else 0.0,
            capsule_height=self._capsule_height(before, organ, rng) if self._request.capsule else 0.0,
            earlier=self._mask[box] > 0,
        )
        self._image[box] = after
        self._mask[box][mask] = 1
        middle = np.argwhere(mask).mean(axis=0) + [part.start for part in box]
        x, y, z = (float(v) for v in self._geometry.to_ras(self._ijk(middle)))
        volume_ml = float(np.count_nonzero(mask)) * self._geometry.voxel_volume_ml
        shift = float((after[mask] - before[mask]).mean(dtype=np.float64))
        return PaintedTumor(outline.size, (x, y, z), ball_radius_mm(volume_ml), volume_ml, shift)

    def _seen(self, array: NDArray[Any]) -> NDArray[Any]:
        flipped = tuple(int(axis) for axis in np.flatnonzero(self._signs < 0))
        return np.flip(np.transpose(array, self._permutation), flipped)

    def _ijk(self, voxel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scan's voxel (i, j, k) of a voxel of the view."""
        ijk = np.empty(3)
        ijk[self._permutation] = np.where(self._signs > 0, voxel, np.array(self._image.shape) - 1 - voxel)
        return ijk

    def _voxel(self, center_ras_mm: tuple[float, float, float]) -> Voxel:
        ijk = np.round(self._geometry.to_ijk(np.array(center_ras_mm)))[self._permutation]
        x, y, z = np.where(self._signs > 0, ijk, np.array(self._image.shape) - 1 - ijk).astype(int)
        return int(x), int(y), int(z)

    def _found_vessels(self) -> NDArray[np.bool_] | None:
        above = self._spec.vessel_above(self._modality)
        if above is None or not self._request.avoid_vessels:
            return None
        image, organ = self._image[self._near], self._organ[self._near]
        if self._modality == "MR":
            above *= float(image[organ].std())
        return vessel_mask(image, organ, above, self._spacing_mm)

    def _capsule_height(self, image: NDArray[np.float32], organ: NDArray[np.bool_], rng: np.random.Generator) -> float:
        if self._modality == "CT":
            return float(rng.uniform(30, 60))
        values = image[organ] if organ.any() else image
        return float(rng.uniform(1.5, 3.0) * max(values.std(), 1e-6))


def _require_readable(scan: Volume, organ: Volume, spec: OrganSpec, request: TumorRequest, modality: str) -> None:
    require_same_grid(scan.geometry, organ.geometry, "organ mask")
    require_scan(scan)
    if modality not in ("CT", "MR"):
        raise InputError(
            f"Expected the modality CT or MR, got '{modality}'.",
            hint=did_you_mean(modality, ("CT", "MR")),
            code="modality",
        )
    if not (organ.array > 0).any():
        raise InputError(
            "The organ mask is empty: there is nothing to paint into.",
            hint=f"choose the mask that shows the {spec.name}.",
            code="empty_mask",
        )
    if request.radius_mm is None and request.size != "mix" and request.size not in spec.sizes:
        raise InputError(
            f"The organ '{spec.name}' has no size '{request.size}'.",
            hint=did_you_mean(request.size, [*spec.sizes, "mix"]),
        )
    if request.count is not None and not 1 <= request.count <= _MOST_TUMORS:
        raise InputError(f"Expected 1 to {_MOST_TUMORS} tumors, got {request.count!s:.20}.")
    if request.radius_mm is not None and not 0 < request.radius_mm <= 200:
        raise InputError(f"Expected a radius of more than 0 and at most 200 mm, got {request.radius_mm:g}.")
    if request.center_ras_mm is not None:
        _require_center(scan.geometry, request)


def _require_center(geometry: Geometry, request: TumorRequest) -> None:
    ijk = np.round(geometry.to_ijk(np.array(request.center_ras_mm)))
    if not ((ijk >= 0) & (ijk < geometry.shape)).all():
        raise InputError(
            f"The center {request.center_ras_mm} mm (RAS) lies outside the scan.",
            hint="give right, anterior, superior in mm; left and posterior are negative.",
        )
    if request.count not in (None, 1):
        raise InputError(
            f"A center was given for {request.count} tumors; expected one tumor.", hint="leave the count out."
        )


def _drawn_size(spec: OrganSpec, request: TumorRequest, rng: np.random.Generator) -> SizeClass:
    if request.size != "mix":
        return spec.sizes[request.size]
    names = [name for name in SIZE_NAMES if name in spec.sizes]
    chances = np.array([spec.size_chances.get(name, 0.0) for name in names])
    return spec.sizes[names[int(rng.choice(len(names), p=chances / chances.sum()))]]
