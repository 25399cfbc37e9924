"""Training scans on the canonical grid, what in them is healthy, and random windows cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.datasets.protocol import ORGAN_DEPTH_MM, Case, named_file, read_scan, row_of
from DiffuGTSLib.errors import InputError, naming_case
from DiffuGTSLib.masks import largest_part
from DiffuGTSLib.synthesis.anatomy import paint_anatomy, paint_ct_anatomy
from DiffuGTSLib.training.prepared import Prepared, PreparedFolder, digest_of, facts_of, scan_of
from DiffuGTSLib.volumes import CanonicalScan, Geometry, Volume, read_mask, read_volume, to_canonical
from DiffuGTSLib.volumes.digest import scan_sha256


@dataclass(frozen=True, eq=False)
class TrainingScan:
    """A case on the canonical grid.

    Attributes:
        case: Where it comes from.
        scan: Image in [0, 1] and geometry.
        tumor: Tumor mask (X, Y, Z), all false where none is outlined.
        organs: Organ name → mask (X, Y, Z).
        healthy: Where tissue may be learned as healthy: far from outlined tumors and from places that may hold
            one that nobody outlined.
        outlined: Of `organs`, those whose mask is their outline, so that outside of it is another organ; a mask that only says where one
            may paint, as the depth below the skin does, is not.
        tissue_hu: Of a label map that is painted as a CT: (labels, 2), see `paint_ct_anatomy`.
        made_of: Its name in a folder of prepared scans; "" where it is held in memory alone.
    """

    case: Case
    scan: CanonicalScan
    tumor: NDArray[np.bool_]
    organs: dict[str, NDArray[np.bool_]]
    healthy: NDArray[np.bool_]
    outlined: frozenset[str] = frozenset()
    tissue_hu: NDArray[np.float32] | None = None
    made_of: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "outlined", self.outlined.intersection(self.organs))

    @property
    def painted(self) -> bool:
        """Whether it is a label map, of which every window is painted: see `paint_labels`."""
        return self.case.modality == "labels"

    @property
    def nbytes(self) -> int:
        """How much main memory its arrays take."""
        arrays = (self.scan.image, self.tumor, self.healthy, *self.organs.values())
        return sum(array.nbytes for array in arrays)

    def paint_labels(self, labels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Paint a window of a label map as an MR of random contrast, or as the CT that it stands for; in [0, 1]."""
        if self.tissue_hu is None:
            return paint_anatomy(labels, rng)
        return np.clip(self.scan.intensity.to_unit(paint_ct_anatomy(labels, self.tissue_hu, rng)), 0, 1)


def without_sick_organ(scan: TrainingScan) -> TrainingScan:
    """Return a scan without the organ of its outlined tumor, for windows whose only tumors are to be fresh paint."""
    if not scan.tumor.any():
        return scan
    return replace(scan, organs={name: mask for name, mask in scan.organs.items() if name != scan.case.organ})


HEALTHY_MARGIN_MM = 10.0
"""Tissue this close to an outlined tumor (edema, infiltration) does not count as healthy."""


def load_case(case: Case, root: Path, config: CanonicalConfig, prepared: PreparedFolder | None = None) -> TrainingScan:
    """Read one case and bring it to the canonical grid, or take it from where it was kept when that was done before.

    Args:
        case: To read.
        root: Folder that its paths start from.
        config: The grid.
        prepared: Where scans on the grid are kept; None holds them in memory.

    Raises:
        InputError: As the case's files are read; the message names the case.
        StorageError: If what is kept cannot be written, or is damaged.
    """
    with naming_case(case.name):
        if prepared is None:
            return _prepare(case, root, config)
        told = {key: value for key, value in row_of(case).items() if key not in ("name", "patient", "split")}
        files = [scan_sha256(named_file(root, file)) for file in case.files]
        made_of = digest_of(case=told, files=files, grid=asdict(config))
        return _unpacked(case, made_of, prepared.take(made_of, lambda: _packed(_prepare(case, root, config))))


_TUMOR, _HEALTHY, _ORGAN = "tumor", "healthy", "organ "
"""Names of a scan's masks among its prepared arrays; an organ's own follows."""


def _packed(scan: TrainingScan) -> Prepared:
    organs = {f"{_ORGAN}{name}": mask for name, mask in scan.organs.items()}
    tissue_hu = None if scan.tissue_hu is None else scan.tissue_hu.tolist()
    return Prepared(
        {"image": scan.scan.image, _TUMOR: scan.tumor, _HEALTHY: scan.healthy, **organs},
        {
            "scan": facts_of(scan.scan),
            "organs": [*scan.organs],
            "outlined": sorted(scan.outlined),
            "tissue_hu": tissue_hu,
        },
    )


def _unpacked(case: Case, made_of: str, prepared: Prepared) -> TrainingScan:
    arrays, facts = prepared.arrays, prepared.facts
    tissue_hu = None if facts["tissue_hu"] is None else np.array(facts["tissue_hu"], dtype=np.float32)
    organs = {name: arrays[f"{_ORGAN}{name}"] for name in facts["organs"]}
    scan = scan_of(arrays["image"], facts["scan"])
    return TrainingScan(
        case, scan, arrays[_TUMOR], organs, arrays[_HEALTHY], frozenset(facts["outlined"]), tissue_hu, made_of
    )


def _prepare(case: Case, root: Path, config: CanonicalConfig) -> TrainingScan:
    volume, tissue_hu = read_scan(case, root), None
    if case.modality == "labels":
        scan = _label_scan(volume, config, case.painted_as)
        tissue_hu = _tissue_hu(case, volume) if case.label_hu else None
    else:
        scan = to_canonical(volume, config, case.modality)
    tumor = np.zeros(scan.image.shape, dtype=bool)
    if case.tumor:
        tumor = scan.project(read_mask(named_file(root, case.tumor), volume.geometry, case.tumor_values)) >= 0.5
    organs = _outlined_organs(case, root, scan, volume.geometry)
    if case.lung_by_air:
        organs["lung"] = lung_by_air(scan)
    outlined = frozenset(name for name, mask in organs.items() if mask.any())
    if case.organ not in organs and case.organ_fills_scan:
        organs[case.organ] = inner_body_mask(scan, depth_mm=ORGAN_DEPTH_MM.get(case.organ, 4.0))
    healthy = _healthy_mask(case, scan, tumor, organs)
    if case.suspect_values:
        lesions = read_mask(named_file(root, case.labels), volume.geometry, case.suspect_values)
        healthy &= ~_near(scan.project(lesions) >= 0.5, scan, HEALTHY_MARGIN_MM)
    return TrainingScan(case, scan, tumor, organs, healthy, outlined, tissue_hu)


def _tissue_hu(case: Case, volume: Volume) -> NDArray[np.float32]:
    """Return the densities of a map's values, in their order.

    Raises:
        InputError: If the protocol does not name each of them.
    """
    known, values = case.tissue_hu, [int(value) for value in np.unique(volume.array)]
    unknown = [value for value in values if value not in known]
    if unknown:
        raise InputError(
            f"Case '{case.name}': label_hu does not say how dense {', '.join(map(str, unknown))} are.",
            hint="name every value of the label map, the background's too.",
        )
    return np.array([known[value] for value in values], dtype=np.float32)


def _outlined_organs(case: Case, root: Path, scan: CanonicalScan, grid: Geometry) -> dict[str, NDArray[np.bool_]]:
    organs = {}
    if case.labels:
        labels = read_volume(named_file(root, case.labels))
        for name, values in case.label_names.items():
            organs[name] = scan.project(labels.with_array(np.isin(labels.array, values).astype(np.uint8))) >= 0.5
    for name, paths in case.organ_files.items():
        whole = np.zeros(grid.shape, dtype=bool)
        for path in paths:
            whole |= read_mask(named_file(root, path), grid).array > 0
        organs[name] = scan.project(Volume(whole.astype(np.uint8), grid)) >= 0.5
    return organs


def split_cases(cases: Sequence[Case], split: str) -> list[Case]:
    """Return the cases of one split, in the protocol's order.

    Raises:
        InputError: If there is none.
    """
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        raise InputError(f"The protocol has no case in split '{split}'.")
    return chosen


def load_cases(
    cases: Sequence[Case],
    root: Path,
    config: CanonicalConfig,
    report: Callable[[str], None],
    prepared: PreparedFolder | None = None,
) -> Iterator[TrainingScan]:
    """Load one case after the other; say which before each."""
    for number, case in enumerate(cases, start=1):
        report(f"reading {case.split} {number} of {len(cases)}: {case.name}")
        yield load_case(case, root, config, prepared)


def inner_body_mask(scan: CanonicalScan, depth_mm: float) -> NDArray[np.bool_]:
    """Return the largest connected part that is brighter than air, filled, and everything in it that deep."""
    threshold = 0.15 if scan.modality == "CT" else 0.08
    smooth = ndimage.gaussian_filter(scan.image, 1.0)
    body = largest_part(ndimage.binary_opening(smooth > threshold, iterations=2), by_faces=True)
    for axis in range(3):  # fill slice by slice: airways and cut ends open to the outside
        for index in range(body.shape[axis]):
            plane = np.take(body, index, axis)
            body[(slice(None),) * axis + (index,)] = ndimage.binary_fill_holes(plane)
    inside = np.zeros_like(body)
    box = tuple(slice(a, b) for a, b in scan.inside)
    inside[box] = body[box]
    if depth_mm <= 0:
        return np.asarray(inside)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"), sampling=scan.spacing_mm)[1:-1, 1:-1, 1:-1]
    return np.asarray(depth > depth_mm)


def lung_by_air(scan: CanonicalScan) -> NDArray[np.bool_]:
    """Return the lungs of a CT: enclosed air at least 40 ml large, its vessels closed over, bowel gas left out."""
    air = scan.intensity.to_native(scan.image) < -500
    enclosed = air & inner_body_mask(scan, depth_mm=4.0)
    parts, _ = ndimage.label(ndimage.binary_opening(enclosed, iterations=1))
    lungs = np.zeros_like(enclosed)
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        typical_hu = float(np.median(scan.intensity.to_native(scan.image[box][part])))
        if part.sum() * voxel_ml >= 40 and typical_hu > -950:  # pure gas (-1000 HU) is bowel or trachea
            lungs[box] |= part
    return np.asarray(ndimage.binary_closing(lungs, iterations=3))


def _healthy_mask(
    case: Case, scan: CanonicalScan, tumor: NDArray[np.bool_], organs: dict[str, NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    healthy = np.ones(scan.image.shape, dtype=bool)
    suspects = [(tumor, HEALTHY_MARGIN_MM)] + [(organs[name], mm) for name, mm in case.unmarked_near.items()]
    for suspect, margin_mm in suspects:
        healthy &= ~_near(suspect, scan, margin_mm)
    if case.healthy_only_in:
        healthy &= np.logical_or.reduce([organs[name] for name in case.healthy_only_in])
    return healthy


def _near(mask: NDArray[np.bool_], scan: CanonicalScan, margin_mm: float) -> NDArray[np.bool_]:
    """Return a mask and what lies within a distance of it; nothing around an empty one."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=scan.spacing_mm) <= margin_mm)


@dataclass(frozen=True)
class Crop:
    """A box of fixed size that may hang over the edge of a scan; what hangs over is padding."""

    start: tuple[int, int, int]
    side: tuple[int, int, int]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the box from an array (X, Y, Z), zero outside of it."""
        result = np.zeros(self.side, dtype=array.dtype)
        source, target = [], []
        for start, side, length in zip(self.start, self.side, array.shape, strict=True):
            low, high = max(0, start), min(length, start + side)
            if high <= low:
                return result
            source.append(slice(low, high))
            target.append(slice(low - start, high - start))
        result[tuple(target)] = array[tuple(source)]
        return result


@dataclass(frozen=True, eq=False)
class View:
    """A crop seen turned and scaled around its middle, as a patient who lies askew or is smaller would show it.

    Attributes:
        crop: The box, before it is turned.
        turn: Step between voxels of the window → step between voxels of the scan, (3, 3).
    """

    crop: Crop
    turn: NDArray[np.float64]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the window from an array (X, Y, Z), zero outside of it.

        Floating point values are interpolated; masks and whole numbers take the nearest voxel.
        """
        middle = (np.array(self.crop.side) - 1) / 2
        offset = np.array(self.crop.start) + middle - self.turn @ middle
        smooth = np.issubdtype(array.dtype, np.floating)
        source = array if smooth else array.astype(np.uint8, copy=False)
        window = ndimage.affine_transform(
            source, self.turn, offset, output_shape=self.crop.side, order=1 if smooth else 0, mode="constant"
        )
        return np.asarray(window.astype(array.dtype, copy=False))


def random_view(crop: Crop, rng: np.random.Generator) -> View:
    """Turn a crop by about 12° around a random axis, and scale it by about 15 %, each axis a little differently."""
    turn = Rotation.from_rotvec(rng.normal(size=3) * np.deg2rad(12) / np.sqrt(3)).as_matrix()
    scale = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, 3))
    return View(crop, turn * scale)


def random_crop(
    shape: Sequence[int],
    side: int,
    rng: np.random.Generator,
    around: NDArray[np.intp] | None = None,
    overhang: float = 0.15,
) -> Crop:
    """Draw a cube: anywhere, or so that it holds the voxel `around` at a random place.

    Args:
        shape: Of the scan.
        side: Of the cube, in voxels.
        rng: Source of randomness.
        around: A voxel (3,) that the cube must hold.
        overhang: Largest share of the side that may lie outside the scan, so that nothing learns that tumors sit
            in the middle of the picture.
    """
    start = []
    for axis, length in enumerate(shape):
        slack = int(side * overhang)
        low, high = min(-slack, (length - side) // 2), max(length - side + slack, (length - side) // 2)
        if around is not None:
            low, high = max(low, int(around[axis]) - side + side // 8), min(high, int(around[axis]) - side // 8)
            low, high = min(low, high), max(low, high)
        start.append(int(rng.integers(low, high + 1)))
    return Crop((start[0], start[1], start[2]), (side, side, side))


def _label_scan(volume: Volume, config: CanonicalConfig, painted_as: str) -> CanonicalScan:
    """Bring a label map to the canonical grid, by nearest neighbor, as small whole numbers in the labels' order."""
    _, index = np.unique(volume.array, return_inverse=True)
    reference = to_canonical(
        volume.with_array(index.reshape(volume.array.shape).astype(np.float32)), config, painted_as
    )
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in reference.image.shape), indexing="ij"), axis=-1)
    source = np.round(volume.geometry.to_ijk(reference.geometry.to_ras(grid))).astype(np.intp)
    inside = ((source >= 0) & (source < volume.geometry.shape)).all(axis=-1)
    nearest = np.zeros(reference.image.shape, dtype=np.float32)
    nearest[inside] = index.reshape(volume.array.shape)[tuple(source[inside].T)]
    return replace(reference, image=nearest, modality="labels")
