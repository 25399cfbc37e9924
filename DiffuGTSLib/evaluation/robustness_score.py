"""Scores of a robustness benchmark: Dice and tumors found, axis by axis and level by level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.errors import InputError, naming_case
from DiffuGTSLib.evaluation.case_files import StudyCase, TumorLabel, pair_cases, read_label
from DiffuGTSLib.evaluation.detection import detect
from DiffuGTSLib.evaluation.intervals import Proportion, wilson
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.report import Estimate, Row, bootstrap_mean, table_lines, write_rows, write_study
from DiffuGTSLib.evaluation.robustness import BASE, REFERENCES, read_manifest
from DiffuGTSLib.storage import whole_file, whole_folder


@dataclass(frozen=True)
class LevelScore:
    """One level of one axis.

    Attributes:
        axis: The property that was varied.
        level: Standard deviations from its mean; 0 is the same scans for every axis.
        value: The property.
        unit: Its unit.
        dice: Mean over replicates with bootstrap interval.
        found: Tumors with any overlap, Wilson's interval.
    """

    axis: str
    level: int
    value: float
    unit: str
    dice: Estimate
    found: Proportion


def score_benchmark(
    benchmark: Path,
    predictions: Path,
    output: Path,
    *,
    label: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[LevelScore]:
    """Score predictions on a benchmark; write `levels.csv`, `scans.csv`, `report.json`, `report.md` and `curves.png`.

    Args:
        benchmark: Folder that `build_benchmark` made.
        predictions: Folder with a mask for each of its scans, by the same name.
        output: Folder, made if absent.
        label: The tumor's value in predictions; None: the only one.
        on_progress: Called with ("cases", share done).

    Raises:
        InputError: If there is no benchmark, nothing in it, or a prediction is missing.
        GeometryError: If a prediction lies on another grid.
    """
    manifest = read_manifest(benchmark)
    made = {row["name"]: row for row in manifest["scans"] if "skipped" not in row}
    if not made:
        raise InputError(f"{benchmark} holds no painted scan.", hint="see the reasons in its manifest.", code="missing")
    pairs = pair_cases("references", {"references": benchmark / REFERENCES, "predictions": predictions})
    pairs = [pair for pair in pairs if pair.name in made]
    scans: list[Row] = []
    seen = TumorLabel(label, "predictions")
    for number, pair in enumerate(pairs):
        if on_progress is not None:
            on_progress("cases", number / len(pairs))
        row = made[pair.name]
        with naming_case(pair.name):
            figures = _score(pair, seen)
        scans.append({"case": pair.name, **{key: row[key] for key in ("axis", "level", "replicate")}, **figures})
    scores = summarize_levels(scans, manifest["settings"]["axes"])
    _write(scans, scores, output, seen.notes(), skipped=len(manifest["scans"]) - len(made))
    return scores


def summarize_levels(scans: Sequence[Row], axes: dict[str, dict[str, float]]) -> list[LevelScore]:
    """Return one score an axis and level, level 0 from the scans in which nothing was varied."""
    scores = []
    for axis in dict.fromkeys(str(scan["axis"]) for scan in scans if scan["axis"] != BASE):
        for level in sorted({0, *(int(scan["level"]) for scan in scans if scan["axis"] == axis)}):
            within = [s for s in scans if s["axis"] == (axis if level else BASE) and s["level"] == level]
            if within:
                value = axes[axis]["mean"] + level * axes[axis]["sd"]
                found = wilson(sum(int(s["found"]) for s in within), len(within))
                mean = bootstrap_mean([float(s["dice"]) for s in within])
                scores.append(LevelScore(axis, level, value, str(axes[axis]["unit"]), mean, found))
    return scores


def as_row(score: LevelScore) -> dict[str, str | int | float]:
    """Return a level's score as a row of a table."""
    return {
        "axis": score.axis,
        "level": score.level,
        "value": score.value,
        "unit": score.unit,
        "scans": score.found.total,
        "dice": score.dice.mean,
        "dice_low": score.dice.low,
        "dice_high": score.dice.high,
        "found": score.found.count,
        "sensitivity": score.found.share,
        "sensitivity_low": score.found.low,
        "sensitivity_high": score.found.high,
    }


def draw_curves(scores: Sequence[LevelScore], path: Path) -> None:
    """Draw Dice over the deviation, one panel an axis, as a PNG file.

    Raises:
        StorageError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(score.axis for score in scores))
    figure = Figure(figsize=(2.6 * len(axes_names) + 0.6, 2.9), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(axes_names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, axes_names, strict=True):
        rows = [as_row(score) for score in scores if score.axis == name]
        levels = [row["level"] for row in rows]
        axes.plot(levels, [row["dice"] for row in rows], "o-", color="#1f6f8b", label="Dice")
        axes.plot(levels, [row["sensitivity"] for row in rows], "s--", color="#c0392b", markersize=4, label="Found")
        axes.set(title=name.capitalize(), xlabel="Standard deviations", ylim=(-0.03, 1.03), xticks=levels)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _score(pair: StudyCase, seen: TumorLabel) -> dict[str, float | int]:
    truth = read_label(pair.files["references"])
    predicted = seen.read(pair.files["predictions"], truth.geometry)
    found = detect(predicted.array, truth.array, truth.geometry.spacing_mm, minimum_iou=0.0)
    return {
        "dice": dice(predicted.array, truth.array),
        "found": int(found.found > 0),
        "false_positives": found.false_positives,
    }


TITLE = "Robustness"
FILES = ("scans.csv", "levels.csv", "curves.png", "report.md", "report.json")
"""Of its report; there are no levels where nothing could be painted."""


def _write(
    scans: Sequence[Row], scores: Sequence[LevelScore], output: Path, first: Sequence[str], skipped: int
) -> None:
    levels: list[Row] = [as_row(score) for score in scores]
    notes = [
        *first,
        "One property of the painted tumor is varied, the others stay at their means; 0 is the same scans for every axis.",
        "Dice: mean over replicates, bootstrap interval. Found: any overlap, Wilson's interval.",
        f"{skipped} scans could not be painted and are left out.",
    ]
    with whole_folder(output, FILES) as folder:
        write_rows(scans, folder / "scans.csv")
        if levels:
            write_rows(levels, folder / "levels.csv")
            draw_curves(scores, folder / "curves.png")
        lines = table_lines(levels) if levels else ["Nothing could be painted."]
        write_study(folder, TITLE, lines, notes, levels=levels, scans=list(scans))
