"""Yes or no, organ by organ: the table of tumor detections over a tree of `<MRN>/<Acc>/<Series>` folders.

DiffTumor's direct inference, binary labels: tumor voxels inside the organ, on a grid of 1 mm by nearest neighbor, eroded
by 3 x 3 x 3; yes when more than 70 mm³ remain. The columns are upstream's, so that its tables and ours can be joined.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from DiffuGTSLib.errors import DiffuGTSError, InputError
from DiffuGTSLib.evaluation.case_files import read_label
from DiffuGTSLib.evaluation.report import write_rows
from DiffuGTSLib.output.findings import NOT_APPLICABLE
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.boxes import bounding_box
from DiffuGTSLib.volumes.volume import require_same_grid

PLACE_COLUMNS = ("Anon_MRN", "Anon_Acc_#", "Series")
"""Upstream's names of the three folder levels."""
ORGANS = ("liver", "pancreas", "kidney")
THRESHOLD_MM3 = 70.0
MASK_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class DetectionRow:
    """One series.

    Attributes:
        place: MRN, accession number and series, as its folders are named.
        detected: Organ → 1 or 0; None where it has no pair of masks.
        problems: What could not be read, in words.
    """

    place: tuple[str, str, str]
    detected: dict[str, int | None]
    problems: tuple[str, ...] = ()


def remaining_mm3(tumor: Volume, organ: Volume) -> float:
    """Return how much of a tumor is left inside its organ after resampling to 1 mm and erosion.

    Args:
        tumor: Mask of 0 and 1.
        organ: Mask on the same grid.

    Raises:
        GeometryError: If they lie on different grids.
    """
    require_same_grid(tumor.geometry, organ.geometry, "organ mask")
    inside = _at_one_mm((tumor.array > 0) & (organ.array > 0), tumor.geometry.spacing_mm)
    if not inside.any():
        return 0.0
    box = bounding_box(inside)  # beyond it is background, as beyond the scan
    eroded = ndimage.binary_erosion(inside[box], structure=np.ones((3, 3, 3)), border_value=0)
    return float(np.count_nonzero(eroded))


def has_tumor(tumor: Volume, organ: Volume, threshold_mm3: float = THRESHOLD_MM3) -> bool:
    """Say whether more than a threshold is left of a tumor; see `remaining_mm3`.

    Raises:
        GeometryError: If the masks lie on different grids.
    """
    return remaining_mm3(tumor, organ) > threshold_mm3


def find_series(tree: Path) -> list[tuple[str, str, str]]:
    """Return every `<MRN>/<Acc>/<Series>` below a folder, by name.

    Raises:
        InputError: If there is none.
    """
    folders = sorted(path for path in tree.glob("*/*/*") if path.is_dir() and not _hidden(path.relative_to(tree)))
    if not folders:
        raise InputError(
            f"{tree} holds no <MRN>/<Acc>/<Series> folders.", hint="name the folder above the patients.", code="missing"
        )
    return [(path.parts[-3], path.parts[-2], path.parts[-1]) for path in folders]


def detect_series(
    tree: Path, place: tuple[str, str, str], organs: Sequence[str] = ORGANS, threshold_mm3: float = THRESHOLD_MM3
) -> DetectionRow:
    """Judge one series; what is missing or broken is told in `problems` and never stops a table.

    Args:
        tree: The folder above the patients.
        place: MRN, accession number, series.
        organs: Each needs `<organ>.nii.gz` and `<organ>_tumor.nii.gz` in the series or its `predictions` folder.
            A kidney may also come as `kidney_left` and `kidney_right`.
        threshold_mm3: More than this is a detection.
    """
    folder = tree.joinpath(*place)
    detected: dict[str, int | None] = {}
    problems = []
    for organ in organs:
        detected[organ] = None
        try:
            tumors, parts = _masks(folder, f"{organ}_tumor"), _masks(folder, organ)
            if not tumors or not parts:
                problems.append(f"{organ}: no mask of the {'organ' if tumors else 'tumor'}")
                continue
            detected[organ] = int(has_tumor(_union(tumors), _union(parts), threshold_mm3))
        except DiffuGTSError as error:
            problems.append(f"{organ}: {error.message}")
    return DetectionRow(place, detected, tuple(problems))


def write_detection_table(
    tree: Path,
    path: Path,
    *,
    organs: Sequence[str] = ORGANS,
    threshold_mm3: float = THRESHOLD_MM3,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[DetectionRow]:
    """Judge every series of a tree and write one CSV row each, with upstream's columns.

    Args:
        tree: The folder above the patients.
        path: The CSV file.
        organs: One column "<organ> tumor" each: 1, 0, or n/a where masks are missing or broken.
        threshold_mm3: As in `detect_series`.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If the tree holds no series, or the threshold is negative.
        StorageError: If the file cannot be written.
    """
    if not threshold_mm3 >= 0:
        raise InputError(f"Expected a threshold of 0 mm³ or more, got {threshold_mm3}.")
    rows = []
    places = find_series(tree)
    for number, place in enumerate(places):
        if on_progress is not None:
            on_progress("cases", number / len(places))
        rows.append(detect_series(tree, place, organs, threshold_mm3))
    write_rows([_csv_row(row) for row in rows], path)
    return rows


def _csv_row(row: DetectionRow) -> dict[str, str]:
    cells = {f"{organ} tumor": NOT_APPLICABLE if value is None else str(value) for organ, value in row.detected.items()}
    return {**dict(zip(PLACE_COLUMNS, row.place, strict=True)), **cells}


def _at_one_mm(mask: Bool[np.ndarray, "i j k"], spacing_mm: tuple[float, float, float]) -> Bool[np.ndarray, "x y z"]:
    """Return the mask on voxels of 1 mm along the same axes; each takes the voxel that its center lies in."""
    index = []
    for count, spacing in zip(mask.shape, spacing_mm, strict=True):
        centers_mm = np.arange(max(1, round(count * spacing))) + 0.5
        index.append(np.minimum((centers_mm / spacing).astype(int), count - 1))
    return mask[np.ix_(*index)]


def _masks(folder: Path, name: str) -> list[Path]:
    """Return the file of a mask, or those of its left and right halves."""
    for names in ((name,), (f"{name}_left", f"{name}_right")):
        found = [path for each in names if (path := _image(folder, each))]
        if len(found) == len(names):
            return found
    return []


def _image(folder: Path, name: str) -> Path | None:
    places = (folder / sub / f"{name}{suffix}" for sub in ("predictions", ".") for suffix in MASK_SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def _union(paths: Sequence[Path]) -> Volume:
    whole = read_label(paths[0])
    for path in paths[1:]:
        whole = whole.with_array(whole.array | read_label(path, whole.geometry).array)
    return whole


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
