"""Sensitivity by tumor size: how many of the small ones are found, which is where lives are saved.

The bins are those of the literature: DiffTumor counts tumors of at most 10 mm radius as early, SyntheticTumors bins
radii by 5 mm, TextoMorph diameters at 20 and 50 mm. A tumor exactly on an edge belongs to the larger bin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.errors import InputError, naming_case
from DiffuGTSLib.evaluation.case_files import StudyCase, TumorLabel, read_label
from DiffuGTSLib.evaluation.detection import Detection, Lesion, by_size, detect
from DiffuGTSLib.evaluation.intervals import Proportion, wilson
from DiffuGTSLib.evaluation.report import Row, table_lines, write_rows, write_study
from DiffuGTSLib.storage import whole_folder


@dataclass(frozen=True)
class SizeBins:
    """How lesions are parted by size.

    Attributes:
        measure: "radius" of the ball of the same volume, or "diameter", the longest one within a slice. DiffTumor and
            SyntheticTumors measure radii; TextoMorph does not say which diameter, and we chose the one that
            radiologists draw.
        edges_mm: Rising, without 0 and infinity.
    """

    measure: str
    edges_mm: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.measure not in ("radius", "diameter"):
            raise InputError(f"Expected the measure radius or diameter, got '{self.measure}'.")

    def size_mm(self, lesion: Lesion) -> float:
        """Return what is compared with the edges."""
        return lesion.radius_mm if self.measure == "radius" else lesion.longest_in_plane_diameter_mm


RADIUS_BINS = SizeBins("radius", (5.0, 10.0, 15.0, 20.0))
DIAMETER_BINS = SizeBins("diameter", (20.0, 50.0))


@dataclass(frozen=True)
class SizeRow:
    """One bin.

    Attributes:
        measure: "radius" or "diameter".
        size: "5 to 10 mm", or "all".
        found: Lesions that were found, of those that are there, with Wilson's interval.
    """

    measure: str
    size: str
    found: Proportion


def sensitivity_by_size(lesions: Sequence[Lesion], bins: SizeBins) -> list[SizeRow]:
    """Return one row a bin, empty bins included, and one for all.

    Args:
        lesions: Of the references of all scans.
        bins: How they are parted.

    Raises:
        InputError: If the edges do not rise from above 0.
    """
    parted = [*by_size(lesions, bins.edges_mm, bins.size_mm), ("all", list(lesions))]
    return [SizeRow(bins.measure, name, wilson(sum(x.matched for x in within), len(within))) for name, within in parted]


def study_sizes(
    cases: Sequence[StudyCase],
    output: Path,
    *,
    minimum_iou: float = 0.0,
    minimum_coverage: float = 0.0,
    bins: Sequence[SizeBins] = (RADIUS_BINS, DIAMETER_BINS),
    label: int | None = None,
    reference_label: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[SizeRow]:
    """Match predictions and references; write `lesions.csv`, `cases.csv`, `sizes.csv`, `report.json` and `report.md`.

    Args:
        cases: With the roles "predictions" and "references"; with "organs", predictions outside the organ are dropped.
        output: Folder, made if absent.
        minimum_iou: As in `detect`; by default one voxel of overlap finds a lesion, as in the literature.
        minimum_coverage: As in `detect`.
        bins: All that are wanted.
        label: The tumor's value in predictions; None: the only one.
        reference_label: The same in references.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If there are no cases, or a file or the rule is not as it should be.
        GeometryError: If the masks of a case lie on different grids.
    """
    if not cases:
        raise InputError("There are no cases to study.", code="missing")
    found: list[tuple[str, Detection]] = []
    seen, true = TumorLabel(label, "predictions"), TumorLabel(reference_label, "references")
    for number, case in enumerate(cases):
        if on_progress is not None:
            on_progress("cases", number / len(cases))
        with naming_case(case.name):
            found.append((case.name, _detect(case, minimum_iou, minimum_coverage, seen, true)))
    lesions = [lesion for _, detection in found for lesion in detection.reference]
    rows = [row for each in bins for row in sensitivity_by_size(lesions, each)]
    _write(found, rows, output, [*seen.notes(), *true.notes(), rule_in_words(minimum_iou, minimum_coverage)])
    return rows


def rule_in_words(minimum_iou: float, minimum_coverage: float) -> str:
    """Say when a lesion counts as found."""
    parts = [f"an IoU of at least {minimum_iou:g} with one lesion"] if minimum_iou else []
    parts += [f"at least {minimum_coverage:g} of its voxels covered"] if minimum_coverage else []
    return f"A lesion is found with {' and '.join(parts) or 'one voxel of overlap'}."


def as_row(row: SizeRow) -> dict[str, str | int | float]:
    """Return a bin as a row of a table."""
    return {
        "measure": row.measure,
        "size": row.size,
        "lesions": row.found.total,
        "found": row.found.count,
        "sensitivity": row.found.share,
        "low": row.found.low,
        "high": row.found.high,
    }


def _detect(
    case: StudyCase, minimum_iou: float, minimum_coverage: float, seen: TumorLabel, true: TumorLabel
) -> Detection:
    truth = true.read(case.files["references"])
    grid = truth.geometry
    predicted = seen.read(case.files["predictions"], grid).array
    if "organs" in case.files:
        predicted = predicted & read_label(case.files["organs"], grid).array
    return detect(predicted, truth.array, grid.spacing_mm, minimum_iou, minimum_coverage)


TITLE = "Sensitivity by size"
FILES = ("lesions.csv", "cases.csv", "sizes.csv", "report.md", "report.json")
"""Of its report; there is no list of lesions where there are none."""


def _write(found: Sequence[tuple[str, Detection]], rows: Sequence[SizeRow], output: Path, first: Sequence[str]) -> None:
    lesions: list[Row] = [
        {
            "case": name,
            "lesion": number,
            "volume_ml": lesion.volume_ml,
            "radius_mm": lesion.radius_mm,
            "longest_in_plane_diameter_mm": lesion.longest_in_plane_diameter_mm,
            "best_iou": lesion.best_iou,
            "coverage": lesion.coverage,
            "found": int(lesion.matched),
        }
        for name, detection in found
        for number, lesion in enumerate(detection.reference, start=1)
    ]
    cases: list[Row] = [
        {
            "case": name,
            "lesions": len(detection.reference),
            "found": detection.found,
            "sensitivity": detection.sensitivity,
            "predicted": len(detection.predicted),
            "false_positives": detection.false_positives,
        }
        for name, detection in found
    ]
    sizes: list[Row] = [as_row(row) for row in rows]
    notes = [
        *first,
        "Lesions are 26-connected. Radius: of the ball of the same volume; diameter: the longest within a slice.",
        "Intervals: Wilson, 95 %, each lesion counted as independent.",
        f"{len(found)} cases, {len(lesions)} lesions, {sum(d.false_positives for _, d in found)} false positives.",
    ]
    with whole_folder(output, FILES) as folder:
        if lesions:
            write_rows(lesions, folder / "lesions.csv")
        write_rows(cases, folder / "cases.csv")
        write_rows(sizes, folder / "sizes.csv")
        write_study(folder, TITLE, table_lines(sizes), notes, sizes=sizes, cases=cases)
