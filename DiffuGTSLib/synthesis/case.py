"""The folder of one painted scan: scan, tumor, labels, picture and record, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.output.record import RESEARCH_USE, record_text
from DiffuGTSLib.storage import read_json, require_folder_for, whole_folder
from DiffuGTSLib.synthesis.organs import OrganSpec
from DiffuGTSLib.synthesis.painter import Synthesis, TumorRequest
from DiffuGTSLib.synthesis.preview import write_preview
from DiffuGTSLib.versions import versions
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.io import read_volume, write_volume
from DiffuGTSLib.volumes.volume import Volume

SCAN = "scan.nii.gz"
TUMOR = "tumor.nii.gz"
LABEL = "label.nii.gz"
PREVIEW = "preview.png"
RECORD = "synthesis.json"
NAMES = (SCAN, TUMOR, LABEL, PREVIEW, RECORD)
"""Everything that may lie in the folder, the record last: a folder without it is no case."""

SCHEMA = 1

NOTICE = (
    "Tumors painted here follow the approach of SyntheticTumors (CVPR 2023) and DiffTumor (CVPR 2024), whose authors "
    "state that the content of their papers is covered by patents pending: ask them before commercial use. Their code "
    "is CC BY-NC-ND 4.0 and none of it is in here. Their published weights are marked Apache-2.0, which conflicts with "
    "the license of the code that made them; they are not distributed with DiffuGTS."
)

_PAINTED = "this scan shows painted tumors; it is no patient's"
_NOT_PAINTED = "no tumor found a place; this scan is the input, voxel by voxel"


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a painted case comes from.

    It is made as soon as scan and organ are read, since it takes the SHA-256 of what their files are then.

    Attributes:
        scan: As it was read.
        scan_path: From where.
        organ: Mask of the organ on the scan's grid.
        organ_path: From where.
        spec: The organ's file.
        request: What was asked for.
        modality: "CT" or "MR".
        painter: Name of the painter.
        weights: File → SHA-256 of the painter's weights; empty for the handcrafted one.
        seed: Of the generator that painted it.
        modality_asked: Whether the modality was named, not guessed.
        offset_hu: What was added to the values of the file; None: nothing was asked for.
        organ_labels: Labels of the file that are the organ; empty: the only one that there is.
        scan_digest: The SHA-256 of the scan.
        organ_digest: That of the organ's mask.
    """

    scan: Volume
    scan_path: Path
    organ: Volume
    organ_path: Path
    spec: OrganSpec
    request: TumorRequest
    modality: str
    painter: str
    weights: Mapping[str, str]
    seed: int
    modality_asked: bool = False
    offset_hu: float | None = None
    organ_labels: tuple[int, ...] = ()
    scan_digest: str = field(init=False)
    organ_digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scan_digest", scan_sha256(self.scan_path))
        object.__setattr__(self, "organ_digest", scan_sha256(self.organ_path))


def require_case_folder(folder: Path, force: bool = False) -> None:
    """Refuse, before anything is painted, a folder that a case could not or should not be written to.

    Raises:
        InputError: If it holds files already, and `force` is off (code "exists").
        StorageError: If it is a file, or nothing can be created there.
    """
    require_folder_for(folder, RECORD, force, "--force replaces it.", NAMES)


def is_case(folder: Path) -> bool:
    """Tell whether a folder holds a whole case."""
    return (folder / RECORD).is_file()


def kept_record(
    folder: Path,
    spec: OrganSpec,
    request: TumorRequest,
    painter: str,
    weights: Mapping[str, str],
    seed: int,
    *,
    scan: Path,
    organ: Path,
    patch_mm: float | None,
    modality: str | None = None,
    offset_hu: float | None = None,
    organ_labels: Sequence[int] = (),
) -> dict[str, Any]:
    """Return the record of an earlier case, if it was painted from the same files and asked for in the same words.

    Args:
        folder: Of the case.
        spec: The organ's file.
        request: What is asked for.
        painter: Name of the painter.
        weights: Of the painter.
        seed: Of the generator.
        scan: To paint into.
        organ: Its mask.
        patch_mm: Side of the cube around the tumors that is asked for; None: the whole scan.
        modality: "CT" or "MR"; None where it is guessed from the scan.
        offset_hu: Added to its values.
        organ_labels: Of the mask.

    Raises:
        InputError: If it was painted otherwise (code "exists"), or its record cannot be read.
    """
    record = read_json(folder / RECORD, hint="--force paints the case again.", code="exists")
    now = {**_choices(spec, request, painter, weights), "seed": seed}
    other = [name for name, value in now.items() if record.get(name) != value]
    for name, key, path in (("scan", "input", scan), ("organ mask", "organ_mask", organ)):
        if record.get(key, {}).get("sha256") != scan_sha256(path):
            other.append(name)
    is_patch = record.get("patch_ijk") is not None
    if is_patch != (patch_mm is not None) or (is_patch and record.get("patch_mm", patch_mm) != patch_mm):
        other.append("patch")
    labels = record.get("organ_mask", {}).get("labels", [])
    more = {"offset": (record.get("offset_hu"), offset_hu), "organ label": (labels, list(organ_labels))}
    other += [name for name, (then, asked) in more.items() if then != asked]
    if modality is None and offset_hu is not None:
        modality = "CT"
    if modality is None:  # the guess is the same, unless none was made then
        modality = guess_modality(read_volume(scan))[0] if record.get("modality_asked") else record.get("modality")
    if record.get("modality") != modality:
        other.append("modality")
    if other:
        raise InputError(
            f"{folder} holds a case that was painted with another {', another '.join(other)}.",
            hint="choose another folder, or --force to replace it.",
            code="exists",
        )
    return dict(record)


def _choices(spec: OrganSpec, request: TumorRequest, painter: str, weights: Mapping[str, str]) -> dict[str, Any]:
    choices = {
        "organ": dataclasses.asdict(spec), "request": dataclasses.asdict(request), "painter": painter,
        "weights": dict(weights),
    }  # fmt: skip
    return dict(json.loads(json.dumps(choices)))  # as they come back from a file: tuples are lists


def write_case(
    folder: Path, origin: Origin, painted: Synthesis, *, patch_mm: float | None = None, preview: bool = False,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder of one painted scan and return its record.

    `scan.nii.gz` has the source's grid and, outside the paint, its very voxels; `tumor.nii.gz` is 1 in the tumors;
    `label.nii.gz` is 1 in the organ and 2 in the tumors, as DiffTumor's labels are.

    Args:
        folder: Made if absent. Files of other names in it are left alone.
        origin: What it was painted from, and how.
        painted: What `synthesize` returned.
        patch_mm: Side of a cube around the tumors that is written instead of the whole scan; None: all of it.
        preview: Write `preview.png` too: before, after, and where.
        force: Replace an earlier case.

    Raises:
        InputError: If the folder is in use, or the tumors do not fit into the patch (code "patch").
        StorageError: If a file cannot be written.
    """
    require_case_folder(folder, force)
    label = origin.organ.with_array(np.where(painted.tumor.array > 0, 2, origin.organ.array > 0).astype(np.uint8))
    box = None if patch_mm is None else patch_box(painted.tumor, patch_mm)
    record = make_case_record(origin, painted, box, patch_mm)
    image = painted.image.with_array(as_the_scan_is_kept(origin.scan, painted.image))
    with whole_folder(folder, NAMES) as staging:
        for volume, name in ((image, SCAN), (painted.tumor, TUMOR), (label, LABEL)):
            write_volume(volume if box is None else volume.cut(box), staging / name)
        if preview:
            title = f"{origin.spec.name.capitalize()} tumors, painted by the {origin.painter} painter"
            write_preview(staging / PREVIEW, origin.scan, painted.image, painted.tumor, origin.modality, title)
        (staging / RECORD).write_text(record_text(record), encoding="utf-8")
    return record


def make_case_record(
    origin: Origin, painted: Synthesis, box: tuple[slice, slice, slice] | None, patch_mm: float | None = None
) -> dict[str, Any]:
    """Return what was painted where, from what, by which painter, and with which seed and versions."""
    geometry = origin.scan.geometry
    return {
        "schema": SCHEMA,
        "notice": RESEARCH_USE,
        "synthetic": _PAINTED if painted.tumors else _NOT_PAINTED,
        "rights": NOTICE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            "name": origin.scan_path.name,
            "path": str(origin.scan_path.absolute()),
            "sha256": origin.scan_digest,
            "shape": list(geometry.shape),
            "spacing_mm": list(geometry.spacing_mm),
            "ijk_to_ras": geometry.ijk_to_ras.tolist(),
        },
        "organ_mask": {
            "path": str(origin.organ_path.absolute()),
            "sha256": origin.organ_digest,
            "labels": list(origin.organ_labels),
        },
        "modality": origin.modality,
        "modality_asked": origin.modality_asked,
        "offset_hu": origin.offset_hu,
        **_choices(origin.spec, origin.request, origin.painter, origin.weights),
        "seed": origin.seed,
        "patch_mm": patch_mm,
        "patch_ijk": None if box is None else [[part.start, part.stop] for part in box],
        "tumors": [dataclasses.asdict(tumor) for tumor in painted.tumors],
        "skipped": list(painted.skipped),
        "versions": versions(),
    }


def as_the_scan_is_kept(scan: Volume, painted: Volume) -> NDArray[Any]:
    """Return the painted voxels as int16 where the scan is whole numbers of that range, as CT is; else as float32."""
    limits = np.iinfo(np.int16)
    low, high = scan.array.min(), scan.array.max()
    if low < limits.min or high > limits.max or not np.array_equal(scan.array, np.rint(scan.array)):
        return np.asarray(painted.array, dtype=np.float32)
    return np.asarray(np.clip(np.rint(painted.array), limits.min, limits.max), dtype=np.int16)


def require_patch(side_mm: float) -> None:
    """Refuse a side of a patch that is no length.

    Raises:
        InputError: If it is not positive and finite (code "patch").
    """
    if not 0 < side_mm < math.inf:
        raise InputError(
            f"The patch: expected a side above 0 mm, got {side_mm:g}.", hint="for instance --patch 96.", code="patch"
        )


def patch_box(tumor: Volume, side_mm: float) -> tuple[slice, slice, slice]:
    """Return the voxels of a cube around all tumors, moved inside the scan where it would leave it.

    Args:
        tumor: Mask; without a tumor the patch lies in the middle of the scan.
        side_mm: Side of the cube; a scan that is shorter along an axis is kept whole there.

    Raises:
        InputError: If the tumors reach further than the cube, or its side is no length (code "patch").
    """
    require_patch(side_mm)
    shape = np.array(tumor.array.shape)
    sides = np.minimum(np.maximum(np.round(side_mm / np.array(tumor.geometry.spacing_mm)), 1).astype(int), shape)
    if tumor.array.any():
        low, high = np.array([(side.start, side.stop - 1) for side in bounding_box(tumor.array > 0)]).T
    else:
        low = high = shape // 2
    if (high - low + 1 > sides).any():
        needed = float(((high - low + 1) * np.array(tumor.geometry.spacing_mm)).max())
        raise InputError(
            f"The tumors reach over {needed:.0f} mm, the patch over {side_mm:g} mm.",
            hint=f"ask for --patch {np.ceil(needed):.0f} or more, or for one tumor.",
            code="patch",
        )
    start = np.clip((low + high + 1 - sides) // 2, 0, shape - sides)
    i, j, k = (slice(int(begin), int(begin + side)) for begin, side in zip(start, sides, strict=True))
    return i, j, k
