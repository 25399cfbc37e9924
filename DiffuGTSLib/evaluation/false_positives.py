"""False positives on healthy scans: how often a method cries wolf, over the thresholds that it could use.

Follows DiffTumor's definition of specificity: the share of healthy scans without a single tumor component, after
predictions outside the organ and components that are too small were dropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from DiffuGTSLib.errors import InputError, naming_case
from DiffuGTSLib.evaluation.case_files import StudyCase, TumorLabel, read_label
from DiffuGTSLib.evaluation.detection import Lesion, detect
from DiffuGTSLib.evaluation.froc import THRESHOLDS
from DiffuGTSLib.evaluation.intervals import Proportion, wilson
from DiffuGTSLib.evaluation.report import Estimate, Row, bootstrap_mean, table_lines, write_rows, write_study
from DiffuGTSLib.storage import whole_file, whole_folder
from DiffuGTSLib.volumes import read_volume
from DiffuGTSLib.volumes.boxes import bounding_box

MINIMUM_RADIUS_MM = 3.0
"""Components smaller than the ball of this radius are dropped (DiffTumor, post-processing)."""


@dataclass(frozen=True)
class HealthyScan:
    """What was seen in one healthy scan at one threshold; all of it is false.

    Attributes:
        case: Its name.
        threshold: Voxels above it count; 0.5 for a mask.
        lesions: Components that remain.
    """

    case: str
    threshold: float
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class Operation:
    """All healthy scans at one threshold.

    Attributes:
        threshold: See `HealthyScan`.
        false_positives: Components in all scans.
        per_scan: Their mean a scan with its bootstrap interval over scans: components come in flocks, so that a
            Poisson interval would be too narrow.
        specificity: Scans without any component, with Wilson's interval.
    """

    threshold: float
    false_positives: int
    per_scan: Estimate
    specificity: Proportion


def false_lesions(
    seen: Bool[np.ndarray, "i j k"],
    spacing_mm: tuple[float, float, float],
    minimum_radius_mm: float = MINIMUM_RADIUS_MM,
) -> tuple[Lesion, ...]:
    """Return the components of a prediction on a healthy scan that are not too small.

    Args:
        seen: The prediction, organ restriction applied.
        spacing_mm: Voxel size.
        minimum_radius_mm: Of the ball of the same volume; equality is kept, 0 keeps all.
    """
    lesions = detect(seen, np.zeros_like(seen), spacing_mm).predicted
    return tuple(lesion for lesion in lesions if lesion.radius_mm >= minimum_radius_mm * (1 - 1e-9))


def sweep(
    case: str,
    probabilities: Shaped[np.ndarray, "i j k"],
    spacing_mm: tuple[float, float, float],
    thresholds: Sequence[float],
    *,
    organ: Bool[np.ndarray, "i j k"] | None = None,
    minimum_radius_mm: float = MINIMUM_RADIUS_MM,
) -> list[HealthyScan]:
    """Return what remains of one map at each threshold.

    Args:
        case: Name of the scan.
        probabilities: 0 to 1.
        spacing_mm: Voxel size.
        thresholds: Rising or not.
        organ: Where something may be seen; None: everywhere.
        minimum_radius_mm: As in `false_lesions`.

    Raises:
        InputError: If a value or a threshold lies outside 0 to 1.
    """
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):  # NaN fails both
        raise InputError(
            f"Expected probabilities of 0 to 1, got {probabilities.min()} to {probabilities.max()}.",
            hint="for a label map name the tumor's label.",
            code="not_a_probability",
        )
    if not thresholds or not all(0 <= threshold < 1 for threshold in thresholds):
        raise InputError(f"Expected thresholds of at least 0 and below 1, got {', '.join(map(str, thresholds))}.")
    allowed = probabilities if organ is None else np.where(organ, probabilities, 0)
    box = bounding_box(allowed > min(thresholds))
    return [
        HealthyScan(case, threshold, false_lesions(allowed[box] > threshold, spacing_mm, minimum_radius_mm))
        for threshold in thresholds
    ]


def summarize_healthy(scans: Sequence[HealthyScan]) -> list[Operation]:
    """Return one row a threshold, rising, over all scans."""
    operations = []
    for threshold in sorted({scan.threshold for scan in scans}):
        counts = [len(scan.lesions) for scan in scans if scan.threshold == threshold]
        clean = sum(count == 0 for count in counts)
        operations.append(Operation(threshold, sum(counts), bootstrap_mean(counts), wilson(clean, len(counts))))
    return operations


def study_false_positives(
    cases: Sequence[StudyCase],
    output: Path,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    minimum_radius_mm: float = MINIMUM_RADIUS_MM,
    label: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[Operation]:
    """Count what is seen in healthy scans; write `scans.csv`, `thresholds.csv`, `report.json`, `report.md`, `curve.png`.

    Maps that hold 0 and 1 only, or of which a label is chosen, are masks: they have one threshold, 0.5. Studies of
    masks and of probability maps are not to be mixed, since the figures would be.

    Args:
        cases: With the role "predictions", all of healthy scans; with "organs", what lies outside is dropped.
        output: Folder, made if absent.
        thresholds: For probability maps.
        minimum_radius_mm: As in `false_lesions`.
        label: The tumor's value in label maps.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If there are no cases, masks and probability maps are mixed, or as `sweep`.
        GeometryError: If an organ mask lies on another grid.
    """
    if not cases:
        raise InputError("There are no cases to study.", code="missing")
    cuts: dict[str, list[HealthyScan]] = {}
    kinds: dict[str, str] = {}
    tumor = TumorLabel(label, "predictions")
    for number, case in enumerate(cases):
        if on_progress is not None:
            on_progress("cases", number / len(cases))
        with naming_case(case.name):
            seen = (
                tumor.read(case.files["predictions"]) if label is not None else read_volume(case.files["predictions"])
            )
        kind = _kind(seen.array)
        kinds.setdefault(kind, case.name)
        if "mask" in kinds and "map" in kinds:
            raise InputError(
                f"'{kinds['mask']}' is a mask, '{kinds['map']}' a probability map.",
                hint="study masks and probability maps each on their own.",
                code="mixed",
            )
        chosen, grid = (0.5,) if kind == "mask" else thresholds, seen.geometry
        with naming_case(case.name):
            organ = read_label(case.files["organs"], grid).array > 0 if "organs" in case.files else None
            cuts[case.name] = sweep(
                case.name, seen.array, grid.spacing_mm, chosen, organ=organ, minimum_radius_mm=minimum_radius_mm
            )
    if "map" not in kinds:  # empty predictions were cut as maps
        cuts = {name: [HealthyScan(name, 0.5, scans[0].lesions)] for name, scans in cuts.items()}
    scans = [scan for each in cuts.values() for scan in each]
    operations = summarize_healthy(scans)
    _write(scans, operations, output, minimum_radius_mm, tumor.notes(), restricted="organs" in cases[0].files)
    return operations


def as_row(operation: Operation) -> dict[str, str | int | float]:
    """Return a threshold's figures as a row of a table."""
    return {
        "threshold": operation.threshold,
        "scans": operation.specificity.total,
        "false_positives": operation.false_positives,
        "per_scan": operation.per_scan.mean,
        "per_scan_low": operation.per_scan.low,
        "per_scan_high": operation.per_scan.high,
        "specificity": operation.specificity.share,
        "specificity_low": operation.specificity.low,
        "specificity_high": operation.specificity.high,
    }


def draw_curve(operations: Sequence[Operation], path: Path) -> None:
    """Draw false positives a scan and specificity over the threshold, with their intervals, as a PNG file.

    Raises:
        StorageError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = [as_row(operation) for operation in operations]
    x = [row["threshold"] for row in rows]
    figure = Figure(figsize=(8, 3.6), dpi=120, layout="constrained")
    panels = (("per_scan", "False positives a scan", "#c0392b"), ("specificity", "Specificity", "#1f6f8b"))
    for axes, (name, title, color) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(x, [row[name] for row in rows], "o-", color=color, markersize=3)
        axes.fill_between(
            x, *([row[f"{name}_{end}"] for row in rows] for end in ("low", "high")), color=color, alpha=0.2
        )
        axes.set(title=f"{title}, 95 % interval", xlabel="Threshold", xlim=(0, 1))
        axes.set_ylim(0, 1.02 if name == "specificity" else None)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _kind(array: Shaped[np.ndarray, "i j k"]) -> str:
    """Return "mask", "map", or "empty", which is either."""
    if not array.any():
        return "empty"
    return "mask" if np.isin(array, (0, 1)).all() else "map"


TITLE = "False positives"
FILES = ("scans.csv", "thresholds.csv", "curve.png", "report.md", "report.json")
"""Of its report."""


def _write(
    scans: Sequence[HealthyScan],
    operations: Sequence[Operation],
    output: Path,
    minimum_radius_mm: float,
    first: Sequence[str],
    restricted: bool,
) -> None:
    rows: list[Row] = [
        {
            "case": scan.case,
            "threshold": scan.threshold,
            "false_positives": len(scan.lesions),
            "volume_ml": sum(lesion.volume_ml for lesion in scan.lesions),
            "largest_radius_mm": max((lesion.radius_mm for lesion in scan.lesions), default=0.0),
        }
        for scan in scans
    ]
    table: list[Row] = [as_row(operation) for operation in operations]
    notes = [
        *first,
        "Every scan is taken as healthy: each 26-connected component that remains is a false positive.",
        f"Components smaller than the ball of {minimum_radius_mm:g} mm radius are dropped.",
        "Predictions outside the organ are dropped." if restricted else "Predictions count wherever they lie.",
        "Specificity: share of scans without any, Wilson's interval. False positives a scan: bootstrap over scans.",
    ]
    with whole_folder(output, FILES) as folder:
        write_rows(rows, folder / "scans.csv")
        write_rows(table, folder / "thresholds.csv")
        draw_curve(operations, folder / "curve.png")
        lines = ["On healthy scans.", "", *table_lines(table)]
        write_study(folder, TITLE, lines, notes, thresholds=table, scans=rows)
