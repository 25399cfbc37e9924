"""Robustness: how a segmenter bears tumors that are larger, fainter, more bent, elsewhere or coarser than usual.

SyntheticTumors measures a model on painted tumors of which one property lies at μ ± 1, 2, 3 σ while the others stay at μ.
Papers silent on μ and σ; ours are in `default_axes` and can be chosen. A variant's other properties are not only equal in
the mean: it is painted from the same draws at the same place.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage
from scipy.stats import norm

from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSLib.evaluation.report import write_json
from DiffuGTSLib.storage import for_json, make_folder, read_json, require_folder_for
from DiffuGTSLib.synthesis.case import as_the_scan_is_kept
from DiffuGTSLib.synthesis.handcrafted import mr_unit, reference_tissue
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.painter import Site, Synthesis, TumorRequest, synthesize
from DiffuGTSLib.synthesis.shapes import SizeClass
from DiffuGTSLib.synthesis.texture import draw_grain, measure_noise, mottle
from DiffuGTSLib.volumes import Volume, write_volume
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.volume import require_same_grid

AXES = ("size", "intensity", "shape", "place", "texture")
LEVELS = (-3, -2, -1, 1, 2, 3)
BASE = "base"
MANIFEST = "manifest.json"
SCANS, REFERENCES = "scans", "references"
SCHEMA = 1

_MOTTLE_WIDTH_MM = 4.0


@dataclass(frozen=True)
class Axis:
    """One property and its distribution.

    Attributes:
        mean: Of the property, in `unit`.
        sd: Its standard deviation.
        unit: What it is measured in.
    """

    mean: float
    sd: float
    unit: str

    def value(self, level: int) -> float:
        """Return the property that many standard deviations from the mean."""
        return self.mean + level * self.sd


@dataclass(frozen=True)
class Variant:
    """One scan of the benchmark.

    Attributes:
        axis: The property that is off its mean; "base" where none is.
        level: By how many standard deviations.
        replicate: Which of the tumors that are varied.
    """

    axis: str
    level: int
    replicate: int

    @property
    def name(self) -> str:
        """Return the name of its files: "size_p2_0" is replicate 0 at size + 2 σ."""
        if self.axis == BASE:
            return f"{BASE}_{self.replicate}"
        return f"{self.axis}_{'m' if self.level < 0 else 'p'}{abs(self.level)}_{self.replicate}"


@dataclass
class GradedPainter:
    """Paints a plain tumor of a given contrast and mottle, with the scan's own grain.

    Attributes:
        shift: Difference to the organ around it; HU, on MR standard deviations of the organ.
        absolute: Whether `shift` is the tumor's own intensity instead.
        mottle_sd: Standard deviation of its patches, in the same unit.
    """

    shift: float
    absolute: bool
    mottle_sd: float
    name = "graded"
    context_mm = 0.0
    whole_box = False

    def paint(self, site: Site, rng: np.random.Generator) -> Float32[np.ndarray, "X Y Z"]:
        """Return the box as if tumor filled it."""
        tissue = reference_tissue(site)
        unit = 1.0 if site.modality == "CT" else mr_unit(site.image, tissue)
        base = 0.0 if self.absolute else float(np.median(site.image[tissue]))
        patches = mottle(site.image.shape, site.spacing_mm, _MOTTLE_WIDTH_MM, rng)
        grain = draw_grain(site.image.shape, measure_noise(site.image, tissue), rng)
        return np.asarray(base + unit * (self.shift + self.mottle_sd * patches) + grain, dtype=np.float32)


def default_axes(spec: OrganSpec, modality: str) -> dict[str, Axis]:
    """Return the distributions that are varied when nothing else is asked for.

    Size: radius 10 ± 2.5 mm, the border between early and late. Shape: what bends the ball, 1.5 ± 0.5 mm (DiffTumor: 1 to
    2 mm at 8 mm radius); at - 3 σ it is a ball. Place: 0 ± 1, a quantile of the organ along the patient. Intensity: mean
    and standard deviation of the first range of the organ file. Texture: patches of 15 ± 5 HU.

    Args:
        spec: The organ.
        modality: "CT" or "MR".
    """
    if modality == "CT":
        (low, high), unit = (spec.ct.shift_hu or spec.ct.absolute_hu)[0], "HU"
        texture = Axis(15.0, 5.0, "HU")
    else:
        (low, high), unit = spec.mr.shift_sd[0], "organ sd"
        texture = Axis(0.6, 0.2, "organ sd")
    return {
        "size": Axis(10.0, 2.5, "mm radius"),
        "intensity": Axis((low + high) / 2, (high - low) / sqrt(12), unit),
        "shape": Axis(1.5, 0.5, "mm"),
        "place": Axis(0.0, 1.0, "quantile of a normal"),
        "texture": texture,
    }


def variants(axes: Sequence[str], levels: Sequence[int], replicates: int) -> list[Variant]:
    """Return every scan of a benchmark, those without deviation first; level 0 is theirs, once for all axes.

    Raises:
        InputError: If an axis is unknown, or there is nothing to do.
    """
    for axis in axes:
        if axis not in AXES:
            raise InputError(f"Unknown axis '{axis}'.", hint=did_you_mean(axis, AXES))
    if replicates < 1 or not axes:
        raise InputError(f"Expected at least one axis and one replicate, got {len(axes)} and {replicates}.")
    made = [Variant(BASE, 0, number) for number in range(replicates)]
    return made + [
        Variant(axis, level, number) for axis in axes for level in levels if level for number in range(replicates)
    ]


def build_benchmark(
    scan: Volume,
    organ: Volume,
    spec: OrganSpec,
    output: Path,
    *,
    modality: str,
    axes: Mapping[str, Axis] | None = None,
    levels: Sequence[int] = LEVELS,
    replicates: int = 1,
    seed: int = 0,
    offset_hu: float | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Paint the scans of a benchmark into `output/scans`, their masks into `output/references`, and return the manifest.

    The manifest is written after each scan, so that the same call goes on where it stopped.

    Args:
        scan: Healthy, native units.
        organ: Mask on its grid.
        spec: The organ.
        output: Folder, made if absent.
        modality: "CT" or "MR".
        axes: Property → its distribution; None: `default_axes`. Those that are not named stay at their default.
        levels: Standard deviations from the mean; 0 is always made.
        replicates: Tumors, each of its own shape and place.
        seed: Of everything.
        offset_hu: What was added to the values of the scan's file; noted in the manifest.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: As `variants` and `synthesize`; an axis that falls to 0 or below; a folder with another benchmark, or
            with scans that are not ours.
        GeometryError: If the mask lies on another grid.
    """
    require_same_grid(scan.geometry, organ.geometry, "organ mask")
    chosen = {**default_axes(spec, modality), **(axes or {})}
    wanted = variants(tuple(axes or AXES), levels, replicates)
    _require_positive(chosen, levels)
    scene = _Scene(scan, organ, spec, modality, chosen, seed)
    settings = {**scene.settings(wanted), "offset_hu": offset_hu}
    require_folder_for(output, MANIFEST, True, "choose another folder.", (MANIFEST, SCANS, REFERENCES))
    rows = _earlier_rows(output, settings)
    places = _Places(organ, chosen["size"].value(max([0, *levels])))
    for folder in (output / SCANS, output / REFERENCES):
        make_folder(folder)
    _write_manifest(output, settings, rows)  # before the first scan: by it the folder is known as ours
    for number, variant in enumerate(wanted):
        if on_progress is not None:
            on_progress("cases", number / len(wanted))
        if variant.name in rows:
            continue
        rows[variant.name] = scene.paint(variant, places, output)
        _write_manifest(output, settings, rows)
    return read_manifest(output)


def _write_manifest(output: Path, settings: Mapping[str, Any], rows: Mapping[str, dict[str, Any]]) -> None:
    manifest = {"schema": SCHEMA, "settings": settings, "scans": list(rows.values())}
    write_json(output / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a benchmark.

    Raises:
        InputError: If there is none, or it is not one of ours.
    """
    hint = "build one first."
    manifest = read_json(folder / MANIFEST, hint=hint)
    if manifest.get("schema") != SCHEMA or not manifest.keys() >= {"settings", "scans"}:
        raise InputError(
            f"{folder} holds no benchmark: {MANIFEST}: expected schema {SCHEMA}, settings and scans, got schema "
            f"{manifest.get('schema')} and {', '.join(sorted(manifest.keys() - {'schema'})) or 'nothing else'}.",
            hint=hint,
            code="missing",
        )
    return manifest


def properties(variant: Variant, axes: Mapping[str, Axis]) -> dict[str, float]:
    """Return every property of a variant: the mean, but for the one that is varied."""
    return {name: axis.value(variant.level if name == variant.axis else 0) for name, axis in axes.items()}


class _Places:
    """The voxels of an organ that are deep enough for the largest tumor, in the order of the patient's feet to head."""

    def __init__(self, organ: Volume, radius_mm: float) -> None:
        mask = organ.array > 0
        if not mask.any():
            raise InputError("The organ mask is empty: there is nothing to paint into.", code="empty_mask")
        box = bounding_box(mask)
        near = np.pad(mask[box], 1)
        depth_mm = ndimage.distance_transform_edt(near, sampling=organ.geometry.spacing_mm)[1:-1, 1:-1, 1:-1]
        needed = min(1.2 * radius_mm, float(np.quantile(depth_mm[mask[box]], 0.9)))  # else the deepest tenth
        voxels = np.argwhere(depth_mm >= needed) + [side.start for side in box]
        ras = organ.geometry.to_ras(voxels)
        self._ras: Float[np.ndarray, "voxels 3"] = ras[np.argsort(ras[:, 2], kind="stable")]

    def at(self, quantile: float, rng: np.random.Generator) -> tuple[float, float, float]:
        """Return a point at a quantile of the organ's height, RAS mm, anywhere in that layer."""
        middle = round(quantile * (len(self._ras) - 1))
        layer = np.flatnonzero(np.abs(self._ras[:, 2] - self._ras[middle, 2]) <= 1.0)
        r, a, s = self._ras[layer[rng.integers(len(layer))]]
        return float(r), float(a), float(s)


@dataclass(frozen=True, eq=False)
class _Scene:
    """What every scan of a benchmark is painted from, see `build_benchmark`."""

    scan: Volume
    organ: Volume
    spec: OrganSpec
    modality: str
    axes: Mapping[str, Axis]
    seed: int

    def settings(self, wanted: Sequence[Variant]) -> dict[str, Any]:
        """Return all that a benchmark depends on, as JSON reads it back."""
        settings = {
            "scan_sha256": sha256(np.ascontiguousarray(self.scan.array).data).hexdigest(),
            "organ_sha256": sha256(np.ascontiguousarray(self.organ.array > 0).data).hexdigest(),
            "ijk_to_ras": self.scan.geometry.ijk_to_ras.tolist(),
            "modality": self.modality,
            "organ": asdict(self.spec),
            "axes": {name: asdict(axis) for name, axis in self.axes.items()},
            "variants": [variant.name for variant in wanted],
            "seed": self.seed,
        }
        back: dict[str, Any] = json.loads(json.dumps(for_json(settings)))
        return back

    def paint(self, variant: Variant, places: _Places, output: Path) -> dict[str, Any]:
        """Paint one scan, write its two files and return its row of the manifest."""
        wanted, spec = properties(variant, self.axes), self.spec
        center = places.at(float(norm.cdf(wanted["place"])), np.random.default_rng([self.seed, variant.replicate, 0]))
        radius_mm, elastic_mm = wanted["size"], wanted["shape"]
        blur_mm = sum(spec.blend_sigma_mm) / 2
        absolute = self.modality == "CT" and not spec.ct.shift_hu
        painter = GradedPainter(wanted["intensity"], absolute, wanted["texture"])

        def paint(nominal_mm: float) -> Synthesis:
            size = SizeClass(
                "small", nominal_mm, (nominal_mm, nominal_mm), (elastic_mm, elastic_mm), waviness=(0.0, 0.0)
            )
            graded = replace(
                spec, sizes={"small": size}, exophytic_chance={}, centered=(), blend_sigma_mm=(blur_mm, blur_mm)
            )
            return synthesize(
                self.scan, self.organ, graded, TumorRequest("small", 1, center), painter, modality=self.modality,
                rng=np.random.default_rng([self.seed, variant.replicate, 1]),
            )  # fmt: skip

        painted = paint(radius_mm)
        if painted.tumors:
            # Bending a small ball changes its volume: the same draw again, so that the size is the one asked for.
            painted = paint(radius_mm * radius_mm / painted.tumors[0].radius_mm)
        row = {"name": variant.name, **asdict(variant), "requested": wanted, "center_ras_mm": center}
        if painted.skipped:
            return {**row, "skipped": painted.skipped[0]}
        image = painted.image.with_array(as_the_scan_is_kept(self.scan, painted.image))
        write_volume(image, output / SCANS / f"{variant.name}.nii.gz")
        write_volume(painted.tumor, output / REFERENCES / f"{variant.name}.nii.gz")
        return {**row, "painted": asdict(painted.tumors[0])}


def _earlier_rows(output: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if not (output / MANIFEST).is_file():
        return {}
    manifest = read_manifest(output)
    different = [key for key, value in settings.items() if manifest["settings"].get(key) != value]
    if different:
        raise InputError(
            f"{output} holds a benchmark of other {', '.join(different)}.",
            hint="choose another folder, or the settings of that one.",
            code="exists",
        )
    return {
        row["name"]: row
        for row in manifest["scans"]
        if "skipped" in row
        or all((output / folder / f"{row['name']}.nii.gz").is_file() for folder in (SCANS, REFERENCES))
    }


def _require_positive(axes: Mapping[str, Axis], levels: Sequence[int]) -> None:
    for name in ("size", "shape", "texture"):
        least = min(axes[name].value(level) for level in (0, *levels))
        if least < (1.0 if name == "size" else -1e-9):
            raise InputError(
                f"The {name} falls to {least:g} {axes[name].unit}; expected {'at least 1' if name == 'size' else '0 or more'}.",
                hint=f"choose a smaller standard deviation than {axes[name].sd:g}, or fewer levels.",
            )
