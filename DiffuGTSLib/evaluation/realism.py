"""Painted tumors beside real ones: figures for what the eye sees, and a sheet of pictures for the eye itself.

No figure here says "real enough". Read them against how far real tumors lie from each other, and look at the sheet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy.stats import wasserstein_distance

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.radiomics import crop_at_one_mm, measure_tumor
from DiffuGTSLib.evaluation.report import Row, table_lines, write_rows, write_study
from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.output.planes import PLANES, arrange
from DiffuGTSLib.storage import make_folder, whole_file
from DiffuGTSLib.volumes import Volume

if TYPE_CHECKING:
    import matplotlib.axes

REAL = "real"

_BACKGROUND, _TEXT, _MUTED, _ACCENT = "#0e1116", "#f2f4f7", "#8f9aa8", "#35e0d2"
_FIELD_MM = 80.0
_QUANTILES = 512


@dataclass(frozen=True, eq=False)
class Tumor:
    """One tumor to be compared.

    Attributes:
        name: Of the case.
        group: "real", or who painted it.
        features: Of `measure_tumor`.
        intensities: Quantiles of its voxels at 1 mm, evenly spaced, native units: its histogram in few numbers.
    """

    name: str
    group: str
    features: Mapping[str, float]
    intensities: Float[np.ndarray, " quantiles"]


@dataclass(frozen=True)
class Comparison:
    """One feature, real and painted.

    Attributes:
        group: Who painted.
        feature: Its name.
        real_mean: Over the real tumors.
        real_sd: Their standard deviation; NaN for a single one.
        mean: Over the painted ones.
        sd: Their standard deviation.
        difference_sd: Painted less real mean, in pooled standard deviations (Cohen's d); with a single real tumor in
            those of the painted ones.
        real_rank: Share of painted tumors below the mean of the real ones; near 0 or 1, the real ones lie at the edge.
    """

    group: str
    feature: str
    real_mean: float
    real_sd: float
    mean: float
    sd: float
    difference_sd: float
    real_rank: float


@dataclass(frozen=True)
class HistogramDistance:
    """How far the intensities of two groups lie apart.

    Attributes:
        group: Who painted.
        distance_native: Wasserstein distance between the pooled voxels, HU or MR units: by how much each voxel has to
            change on average until the histograms are one. Every tumor weighs the same, whatever its size.
        shape_native: The same after each tumor's own median was taken off: texture alone.
        real_spread_native: Mean distance of one real tumor to the others together; NaN for a single one.
    """

    group: str
    distance_native: float
    shape_native: float
    real_spread_native: float


def describe(name: str, group: str, scan: Volume, mask: Volume, modality: str) -> Tumor:
    """Measure one tumor.

    Raises:
        InputError: As `measure_tumor`.
        GeometryError: As `measure_tumor`.
    """
    features = measure_tumor(scan, mask, modality)
    image, inside = crop_at_one_mm(scan, mask)
    return Tumor(name, group, features, np.quantile(image[inside], (np.arange(_QUANTILES) + 0.5) / _QUANTILES))


def compare(tumors: Sequence[Tumor]) -> list[Comparison]:
    """Compare every painted group with the real tumors, feature by feature.

    Raises:
        InputError: If there is no real or no painted tumor.
    """
    real, painted = _parted(tumors)
    rows = []
    for group, members in painted.items():
        for feature in real[0].features:
            theirs = np.array([tumor.features[feature] for tumor in real], dtype=np.float64)
            ours = np.array([tumor.features[feature] for tumor in members], dtype=np.float64)
            rows.append(
                Comparison(
                    group, feature, float(theirs.mean()), _sd(theirs), float(ours.mean()), _sd(ours),
                    _difference_sd(theirs, ours), float((ours < theirs.mean()).mean()),
                )
            )  # fmt: skip
    return rows


def histogram_distances(tumors: Sequence[Tumor]) -> list[HistogramDistance]:
    """Compare the intensities of every painted group with those of the real tumors.

    Raises:
        InputError: As `compare`.
    """
    real, painted = _parted(tumors)
    spread = [_distance([tumor], [other for other in real if other is not tumor]) for tumor in real if len(real) > 1]
    return [
        HistogramDistance(
            group, _distance(members, real), _distance(members, real, centered=True),
            float(np.mean(spread)) if spread else nan,
        )
        for group, members in painted.items()
    ]  # fmt: skip


TITLE = "Painted beside real"
FILES = ("tumors.csv", "features.csv", "histograms.csv", "sheet.png", "report.md", "report.json")
"""Of its report, with the sheet of pictures (`realism_sheet`)."""


def write_realism(tumors: Sequence[Tumor], output: Path, notes: Sequence[str] = ()) -> None:
    """Write `tumors.csv`, `features.csv`, `histograms.csv`, `report.json` and `report.md`.

    Args:
        tumors: Real and painted.
        output: Folder, made if absent.
        notes: Sentences below the tables.

    Raises:
        InputError: As `compare`.
        StorageError: If a file cannot be written.
    """
    features: list[Row] = [vars(row) for row in compare(tumors)]
    histograms: list[Row] = [vars(row) for row in histogram_distances(tumors)]
    make_folder(output)
    rows: list[Row] = [{"case": tumor.name, "group": tumor.group, **tumor.features} for tumor in tumors]
    counts = {group: sum(tumor.group == group for tumor in tumors) for group in dict.fromkeys(t.group for t in tumors)}
    said = [", ".join(f"{count} {group}" for group, count in counts.items()), *notes]
    write_rows(rows, output / "tumors.csv")
    write_rows(features, output / "features.csv")
    write_rows(histograms, output / "histograms.csv")
    lines = [*table_lines(histograms, ".1f"), "", *table_lines(features, ".2f")]
    write_study(output, TITLE, lines, said, histograms=histograms, features=features)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One tumor to be shown.

    Attributes:
        title: Above its picture.
        scan: Native units.
        mask: On its grid.
        modality: "CT" or "MR".
    """

    title: str
    scan: Volume
    mask: Volume
    modality: str


def realism_sheet(pairs: Sequence[Sequence[Exhibit]], path: Path) -> None:
    """Draw a sheet of pictures: a row a pair (or more) of tumors, each bare and then outlined, in the axial plane.

    Drawn as radiologists read, with millimeters true; each row has the window and the field of its first picture.

    Args:
        pairs: Real first, then painted.
        path: Of a PNG file.

    Raises:
        InputError: If there is nothing to show, or a mask is empty.
        GeometryError: If a mask lies on another grid than its scan.
        StorageError: If the file cannot be written.
    """
    columns = 2 * max((len(row) for row in pairs), default=0)
    if not columns:
        raise InputError("There is nothing to show.", code="missing")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * columns + 0.2, 2.6 * len(pairs) + 0.5), dpi=110, facecolor=_BACKGROUND)
    panels = figure.subplots(len(pairs), columns, squeeze=False)
    top = 1 - 0.55 / (2.6 * len(pairs) + 0.5)
    figure.subplots_adjust(
        left=0.01, right=0.99, top=top - 0.25 / (2.6 * len(pairs)), bottom=0.01, wspace=0.03, hspace=0.13
    )
    figure.text(0.012, top, TITLE, color=_TEXT, fontsize=13, weight="bold", parse_math=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for row, exhibits in zip(panels, pairs, strict=True):
        _draw_row(row, exhibits)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_row(row: "Sequence[matplotlib.axes.Axes]", exhibits: Sequence[Exhibit]) -> None:
    plane = PLANES[0]
    window: tuple[float, float] | None = None
    for number, exhibit in enumerate(exhibits):
        findings = find_lesions(exhibit.mask, None, exhibit.scan, None)
        if not findings:
            raise InputError(f"'{exhibit.title}' has an empty mask.", code="empty_mask")
        cuts = arrange({"scan": exhibit.scan, "mask": exhibit.mask}, findings, exhibit.modality, _FIELD_MM)
        window = window or cuts.window
        for outlined in (False, True):
            axes = row[2 * number + outlined]
            cuts.show(axes, "scan", plane, vmin=window[0], vmax=window[1])
            if outlined:
                cuts.outline(axes, "mask", plane, _ACCENT, linewidths=1.1)
            cuts.look_at(axes, plane)
        row[2 * number].set_title(exhibit.title, color=_MUTED, fontsize=8.5, loc="left", parse_math=False)


def _parted(tumors: Sequence[Tumor]) -> tuple[list[Tumor], dict[str, list[Tumor]]]:
    real = [tumor for tumor in tumors if tumor.group == REAL]
    painted: dict[str, list[Tumor]] = {}
    for tumor in tumors:
        if tumor.group != REAL:
            painted.setdefault(tumor.group, []).append(tumor)
    if not real or not painted:
        raise InputError(
            f"Expected real and painted tumors, got {len(real)} real and {len(tumors) - len(real)} painted.",
            hint=f"the group of real ones is called '{REAL}'.",
            code="groups",
        )
    return real, painted


def _sd(values: Float[np.ndarray, " n"]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else nan


def _difference_sd(real: Float[np.ndarray, " n"], painted: Float[np.ndarray, " m"]) -> float:
    freedom = len(real) + len(painted) - 2
    if freedom < 1:
        return nan
    pooled = sqrt((((real - real.mean()) ** 2).sum() + ((painted - painted.mean()) ** 2).sum()) / freedom)
    return float(painted.mean() - real.mean()) / pooled if pooled > 0 else nan


def _distance(these: Sequence[Tumor], those: Sequence[Tumor], centered: bool = False) -> float:
    values, weights = [], []
    for group in (these, those):
        parts = [t.intensities - np.median(t.intensities) if centered else t.intensities for t in group]
        values.append(np.concatenate(parts))
        weights.append(np.concatenate([np.full(len(part), 1 / len(part)) for part in parts]))
    return float(wasserstein_distance(*values, *weights))
