"""Cases that a segmenter is trained on: real ones with outlined tumors, healthy ones that tumors are painted into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.supervised.networks import BACKGROUND, ORGAN, TUMOR
from DiffuGTSLib.training.data import Crop, TrainingScan, inner_body_mask
from DiffuGTSLib.training.prepared import Prepared, PreparedFolder, digest_of, facts_of, scan_of
from DiffuGTSLib.volumes import CanonicalScan, read_volume, to_canonical
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.volume import require_same_grid

SEGMENTER_GRID = CanonicalConfig(
    spacing_mm=1.0, minimum_side=96, side_multiple=4, ct_knots_hu=(-175.0, 250.0), ct_knots_unit=(0.0, 1.0)
)
"""RAS, 1 mm, -175 to 250 HU as 0 to 1, at least 96 voxels a side: what the published segmenters were trained on."""


@dataclass(frozen=True, eq=False)
class SegmenterScan:
    """One case on the segmenter's grid.

    Attributes:
        name: Of the case.
        scan: Image in [0, 1] and geometry.
        organ: Organ mask (X, Y, Z), its tumors included.
        tumor: Mask of outlined tumors; all false in a healthy case.
        known: Where the labels may be learned. Elsewhere a tumor was outlined that this training must not see, or may
            lie that nobody outlined.
        places: Where tumors may be painted; all false in a real case.
        organ_name: The organ whose file says how its tumors look.
    """

    name: str
    scan: CanonicalScan
    organ: NDArray[np.bool_]
    tumor: NDArray[np.bool_]
    known: NDArray[np.bool_]
    places: NDArray[np.bool_]
    organ_name: str

    @property
    def healthy(self) -> bool:
        """Whether tumors are painted into it: a real case is never changed."""
        return bool(self.places.any())

    def labels(self, crop: Crop | None = None) -> NDArray[np.uint8]:
        """Return the classes (X, Y, Z) of a box, or of the whole scan: 0 background, 1 organ, 2 tumor."""
        organ, tumor = (array if crop is None else crop.cut(array) for array in (self.organ, self.tumor))
        labels = np.where(organ, ORGAN, BACKGROUND).astype(np.uint8)
        labels[tumor] = TUMOR
        return labels


def load_listed(
    name: str,
    image: Path,
    label: Path,
    organ_name: str,
    *,
    healthy: bool | None,
    config: CanonicalConfig = SEGMENTER_GRID,
    prepared: PreparedFolder | None = None,
) -> SegmenterScan:
    """Read a case of DiffTumor's lists: a CT and its label map on the same grid.

    A real case's labels are 0 background, 1 organ, 2 tumor, 3 cyst (KiTS; counts as organ). A healthy case's are 0 and
    anything above, which all is organ.

    Args:
        name: Of the case.
        image: The scan.
        label: Its label map.
        organ_name: The organ that it outlines.
        healthy: Whether it is a healthy case; None: where no voxel is tumor (SyntheticTumors, section 4.1).
        config: Grid to bring it to.
        prepared: Where cases on the grid are kept; None holds them in memory.

    Raises:
        InputError: For labels other than these, or no organ at all.
        GeometryError: If the label map lies on another grid.
        StorageError: If what is kept cannot be written, or is damaged.
    """
    if prepared is None:
        return _listed(name, image, label, organ_name, healthy, config)

    def make() -> Prepared:
        made = _listed(name, image, label, organ_name, healthy, config)
        packed = _packed([made])
        return Prepared({"image": made.scan.image, **packed.arrays}, {"scan": facts_of(made.scan), **packed.facts})

    files = [scan_sha256(image), scan_sha256(label)]
    kept = prepared.take(digest_of(listed=files, healthy=healthy, grid=asdict(config)), make)
    (case,) = _unpacked(kept, [(name, organ_name)], scan_of(kept.arrays["image"], kept.facts["scan"]))
    return case


def _listed(
    name: str, image: Path, label: Path, organ_name: str, healthy: bool | None, config: CanonicalConfig
) -> SegmenterScan:
    volume, labels = read_volume(image), read_volume(label)
    require_same_grid(volume.geometry, labels.geometry, "label map")
    if healthy is None:
        healthy = not (labels.array == TUMOR).any()
    strange = np.setdiff1d(np.unique(labels.array), (0, 1, 2, 3))
    if not healthy and len(strange):
        raise InputError(
            f"{label} holds the label {strange[0]:g}; expected 0 background, 1 organ, 2 tumor, 3 cyst.",
            hint="is it a healthy case? Its label path must contain liver_label, pancreas_label or kidney_label.",
        )
    if not (labels.array > 0).any():
        raise InputError(f"{label} holds no organ: every voxel is 0.", code="empty_mask")
    scan = to_canonical(volume, config, "CT")
    organ = scan.project(labels.with_array((labels.array > 0).astype(np.uint8))) >= 0.5
    everywhere, nowhere = _all(True, organ.shape), _all(False, organ.shape)
    if healthy:
        return SegmenterScan(name, scan, organ, nowhere, everywhere, organ, organ_name)
    tumor = scan.project(labels.with_array((labels.array == TUMOR).astype(np.uint8))) >= 0.5
    return SegmenterScan(name, scan, organ, tumor, everywhere, nowhere, organ_name)


def _all(value: bool, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return a mask that is the same everywhere, and takes one voxel of memory."""
    return np.broadcast_to(value, shape)


_MASKS = ("organ", "tumor", "known", "places")


def _packed(cases: Sequence[SegmenterScan]) -> Prepared:
    """Return the masks of cases of one scan; those that are the same everywhere as that value."""
    masks = [{name: getattr(case, name) for name in _MASKS} for case in cases]
    kept = [{name: mask for name, mask in of_case.items() if any(mask.strides)} for of_case in masks]
    same = [{name: bool(mask.flat[0]) for name, mask in of_case.items() if not any(mask.strides)} for of_case in masks]
    arrays = {f"{number} {name}": mask for number, of_case in enumerate(kept) for name, mask in of_case.items()}
    return Prepared(arrays, {"same": same, "organs": [case.organ_name for case in cases]})


def _unpacked(prepared: Prepared, names: Sequence[tuple[str, str]], scan: CanonicalScan) -> list[SegmenterScan]:
    """Return the cases of a scan whose masks are kept, under the names that they and their organs bear."""
    cases = []
    for number, (same, (name, organ_name)) in enumerate(zip(prepared.facts["same"], names, strict=True)):
        own = {mask: prepared.arrays[f"{number} {mask}"] for mask in _MASKS if mask not in same}
        masks = own | {mask: _all(value, scan.image.shape) for mask, value in same.items()}
        cases.append(SegmenterScan(name, scan, organ_name=organ_name, **masks))
    return cases


def from_protocol(
    case: TrainingScan, organs: Sequence[str], *, real: bool, prepared: PreparedFolder | None = None
) -> list[SegmenterScan]:
    """Return what a protocol's case shows of some organs.

    With one organ that is outlined, that is what class 1 means. Otherwise class 1 is the body, since a protocol's case
    names only some of its organs.

    Args:
        case: A CT or MR scan; label maps give nothing.
        organs: The organs to find tumors in.
        real: As a real case, with its outlined tumors, or as healthy cases: one for each organ that shows 1 ml of
            healthy tissue, in which the surroundings of the outlined tumors are unknown.
        prepared: Where the case is kept, and what is made of it here is kept beside; None holds it in memory.

    Raises:
        StorageError: If what is kept cannot be written, or is damaged.
    """
    if case.painted:
        return []
    if prepared is None:
        return _shown(case, organs, real)
    made_of = digest_of(shown_of=case.made_of, organs=list(organs), real=real)
    kept = prepared.take(made_of, lambda: _packed(_shown(case, organs, real)))
    names = [(case.case.name if real else f"{case.case.name} {organ}", organ) for organ in kept.facts["organs"]]
    return _unpacked(kept, names, case.scan)


def _shown(case: TrainingScan, organs: Sequence[str], real: bool) -> list[SegmenterScan]:
    shown = {name: mask for name, mask in case.organs.items() if name in organs and mask.any()}
    if not shown and not (real and case.tumor.any()):
        return []
    one = len(organs) == 1 and shown.keys() & case.outlined
    organ = next(iter(shown.values())) if one else inner_body_mask(case.scan, depth_mm=6.0)
    nowhere = _all(False, case.tumor.shape)
    if real:
        if not (case.tumor.any() and case.case.organ in organs):
            return []
        unmarked = bool(case.case.unmarked_near or case.case.healthy_only_in)
        known = case.healthy | case.tumor if unmarked else _all(True, case.tumor.shape)
        return [SegmenterScan(case.case.name, case.scan, organ, case.tumor, known, nowhere, case.case.organ)]
    voxel_ml = float(np.prod(case.scan.spacing_mm)) / 1000
    return [
        SegmenterScan(f"{case.case.name} {name}", case.scan, organ, nowhere, case.healthy, mask & case.healthy, name)
        for name, mask in shown.items()
        if (mask & case.healthy).sum() * voxel_ml >= 1.0
    ]
