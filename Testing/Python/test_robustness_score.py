"""Scores of a benchmark from predictions whose Dice is known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.intervals import wilson
from DiffuGTSLib.evaluation.robustness_score import score_benchmark
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

GRID = Geometry.from_spacing((20, 12, 12), (1.0, 1.0, 2.0))


def a_bar(length: int, label: int = 1) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[2 : 2 + length, 4:8, 4:8] = label
    return Volume(array, GRID)


@pytest.fixture
def a_benchmark(tmp_path: Path) -> Path:
    """Size at ± 1 with two replicates, and one scan that could not be painted."""
    rows = []
    for name, axis, level in (("base", "base", 0), ("size_m1", "size", -1), ("size_p1", "size", 1)):
        for replicate in range(2):
            full = f"{name}_{replicate}"
            rows.append({"name": full, "axis": axis, "level": level, "replicate": replicate})
            (tmp_path / "bench" / "references").mkdir(parents=True, exist_ok=True)
            write_volume(a_bar(8), tmp_path / "bench" / "references" / f"{full}.nii.gz")
    rows.append({"name": "size_p2_0", "axis": "size", "level": 2, "replicate": 0, "skipped": "no place"})
    settings = {"axes": {"size": {"mean": 10.0, "sd": 2.0, "unit": "mm radius"}}}
    text = json.dumps({"schema": 1, "settings": settings, "scans": rows})
    (tmp_path / "bench" / "manifest.json").write_text(text)
    return tmp_path / "bench"


def predict(folder: Path, label: int = 1) -> Path:
    """All of the bar at the mean, half of it above, nothing and a quarter below."""
    folder.mkdir()
    for name, length in (("base", (8, 8)), ("size_p1", (4, 4)), ("size_m1", (0, 2))):
        for replicate, voxels in enumerate(length):
            write_volume(a_bar(voxels, label), folder / f"{name}_{replicate}.nii.gz")
    return folder


def test_each_level_has_its_dice_and_its_tumors_found(a_benchmark: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    scores = score_benchmark(
        a_benchmark, predict(tmp_path / "p"), tmp_path / "out", on_progress=lambda *done: told.append(done)
    )
    assert [(score.level, score.value, score.unit) for score in scores] == [
        (-1, 8.0, "mm radius"),
        (0, 10.0, "mm radius"),
        (1, 12.0, "mm radius"),
    ]
    assert [score.dice.mean for score in scores] == pytest.approx([0.2, 1.0, 2 / 3])
    assert [score.found for score in scores] == [wilson(1, 2), wilson(2, 2), wilson(2, 2)]
    assert len(told) == 6 and told[0] == ("cases", 0.0)
    with (tmp_path / "out" / "levels.csv").open(newline="") as file:
        assert [row["level"] for row in csv.DictReader(file)] == ["-1", "0", "1"]
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 scans could not be painted" in text and "| size | 1 | 12.000 | mm radius | 2 | 0.667 |" in text


def test_a_label_may_be_chosen(a_benchmark: Path, tmp_path: Path) -> None:
    predictions = predict(tmp_path / "p", label=2)
    scores = score_benchmark(a_benchmark, predictions, tmp_path / "out", label=1)
    assert {score.dice.mean for score in scores} == {0.0}
    scores = score_benchmark(a_benchmark, predictions, tmp_path / "out", label=2)
    assert max(score.dice.mean for score in scores) == 1.0


def test_a_missing_prediction_and_an_empty_benchmark_are_refused(a_benchmark: Path, tmp_path: Path) -> None:
    predictions = predict(tmp_path / "p")
    (predictions / "size_m1_1.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 6 cases have nothing in predictions: size_m1_1"):
        score_benchmark(a_benchmark, predictions, tmp_path / "out")
    (a_benchmark / "manifest.json").write_text(
        '{"schema": 1, "settings": {}, "scans": [{"name": "a", "skipped": "x"}]}'
    )
    with pytest.raises(InputError, match="holds no painted scan"):
        score_benchmark(a_benchmark, predictions, tmp_path / "out")
