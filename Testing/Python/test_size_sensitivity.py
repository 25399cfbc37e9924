"""Sensitivity by size on phantoms with balls of known radius in every bin (DiffTumor description, row 26)."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.case_files import StudyCase
from DiffuGTSLib.evaluation.detection import Lesion, detect
from DiffuGTSLib.evaluation.intervals import wilson
from DiffuGTSLib.evaluation.size_sensitivity import (
    DIAMETER_BINS,
    RADIUS_BINS,
    SizeBins,
    rule_in_words,
    sensitivity_by_size,
    study_sizes,
)
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

RADII_MM = (3.0, 8.0, 12.0, 18.0, 26.0)
"""One in each radius bin; as diameters one below 20 mm, one of 52 mm, three between."""
GRID = Geometry.from_spacing((60, 60, 140), (1.0, 1.0, 2.0))
CENTERS_MM = ((10.0, 10.0, 14.0), (45.0, 12.0, 30.0), (15.0, 40.0, 60.0), (35.0, 38.0, 110.0), (30.0, 30.0, 230.0))


def balls(which: Sequence[int], radii_mm: Sequence[float] = RADII_MM, moved_mm: float = 0.0) -> np.ndarray:
    points = GRID.to_ras(np.moveaxis(np.indices(GRID.shape), 0, -1))
    mask = np.zeros(GRID.shape, np.uint8)
    for number in which:
        center = np.add(CENTERS_MM[number], (moved_mm, 0, 0))
        mask[np.linalg.norm(points - center, axis=-1) <= radii_mm[number]] = 1
    return mask


def a_lesion(radius_mm: float, diameter_mm: float, matched: bool = True) -> Lesion:
    return Lesion(4 / 3 * np.pi * radius_mm**3 / 1000, diameter_mm, 0.5, 0.5, matched)


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases: five balls of which two are found, and a healthy scan with one false positive."""
    folder = tmp_path_factory.mktemp("sizes")
    for name, truth, found in (("a", range(5), (1, 4)), ("b", (), (0,))):
        for role, which in (("references", truth), ("predictions", found)):
            write_volume(Volume(balls(tuple(which)), GRID), folder / f"{name}_{role}.nii.gz")
    return folder


def cases_of(folder: Path) -> list[StudyCase]:
    return [
        StudyCase(name, {role: folder / f"{name}_{role}.nii.gz" for role in ("references", "predictions")})
        for name in ("a", "b")
    ]


def test_each_ball_falls_into_its_bin_with_its_interval() -> None:
    detection = detect(balls((1, 4)), balls(range(5)), GRID.spacing_mm, minimum_iou=0.0)
    radius = {row.size: row.found for row in sensitivity_by_size(detection.reference, RADIUS_BINS)}
    assert radius == {
        "below 5 mm": wilson(0, 1),
        "5 to 10 mm": wilson(1, 1),
        "10 to 15 mm": wilson(0, 1),
        "15 to 20 mm": wilson(0, 1),
        "20 mm or more": wilson(1, 1),
        "all": wilson(2, 5),
    }
    diameter = {row.size: row.found for row in sensitivity_by_size(detection.reference, DIAMETER_BINS)}
    assert [(size, found.count, found.total) for size, found in diameter.items()] == [
        ("below 20 mm", 1, 2),
        ("20 to 50 mm", 0, 2),
        ("50 mm or more", 1, 1),
        ("all", 2, 5),
    ]


@pytest.mark.parametrize("edge", [5.0, 10.0, 15.0, 20.0])
def test_a_tumor_on_an_edge_is_in_the_larger_bin(edge: float) -> None:
    just_on, just_below = a_lesion(edge * (1 + 1e-12), 1.0), a_lesion(edge * (1 - 1e-9), 1.0)
    rows = [row for row in sensitivity_by_size([just_on, just_below], RADIUS_BINS)[:-1] if row.found.total]
    assert [row.found.total for row in rows] == [1, 1]
    assert rows[1].size.startswith(f"{edge:g} ")
    for diameter in (20.0, 50.0):
        row = next(r for r in sensitivity_by_size([a_lesion(1.0, diameter)], DIAMETER_BINS) if r.found.total)
        assert row.size.startswith(f"{diameter:g} ")


def test_one_voxel_finds_by_default_and_a_rule_may_ask_for_more() -> None:
    touching = balls((2,), moved_mm=23.0)  # two balls of 12 mm radius whose centers are 23 mm apart
    found = [
        detect(touching, balls((2,)), GRID.spacing_mm, *rule).found for rule in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.5))
    ]
    assert found == [1, 0, 0]


def test_a_study_writes_its_tables(a_folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    rows = study_sizes(cases_of(a_folder), tmp_path / "out", on_progress=lambda *done: told.append(done))
    assert told == [("cases", 0.0), ("cases", 0.5)]
    assert {row.found.total for row in rows if row.size == "all"} == {5}
    with (tmp_path / "out" / "lesions.csv").open(newline="") as file:
        lesions = list(csv.DictReader(file))
    radii = sorted(float(lesion["radius_mm"]) for lesion in lesions)
    assert radii == pytest.approx(RADII_MM, rel=0.08)
    assert sum(int(lesion["found"]) for lesion in lesions) == 2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["cases"][1] == {
        "case": "b", "lesions": 0, "found": 0, "sensitivity": None, "predicted": 1, "false_positives": 1,
    }  # fmt: skip
    text = (tmp_path / "out" / "report.md").read_text()
    assert "one voxel of overlap" in text and "| radius | 5 to 10 mm | 1 | 1 | 1.000 | 0.207 | 1.000 |" in text


def test_predictions_outside_the_organ_are_dropped(a_folder: Path, tmp_path: Path) -> None:
    write_volume(Volume(balls((1,)), GRID), tmp_path / "organ.nii.gz")
    cases = [StudyCase(case.name, {**case.files, "organs": tmp_path / "organ.nii.gz"}) for case in cases_of(a_folder)]
    rows = study_sizes(cases, tmp_path / "out")
    assert next(row.found.count for row in rows if row.size == "all") == 1
    assert json.loads((tmp_path / "out" / "report.json").read_text())["cases"][1]["false_positives"] == 0


def test_healthy_scans_alone_make_a_report_without_lesions(a_folder: Path, tmp_path: Path) -> None:
    rows = study_sizes(cases_of(a_folder)[1:], tmp_path)
    assert all(row.found.total == 0 for row in rows)
    assert not (tmp_path / "lesions.csv").exists() and "n/a" in (tmp_path / "sizes.csv").read_text()


def test_a_rule_is_said_in_words() -> None:
    assert rule_in_words(0.0, 0.0) == "A lesion is found with one voxel of overlap."
    assert rule_in_words(0.1, 0.5).endswith("0.1 with one lesion and at least 0.5 of its voxels covered.")


def test_no_cases_and_an_unknown_measure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cases to study"):
        study_sizes([], tmp_path)
    with pytest.raises(InputError, match="measure radius or diameter, got 'volume'"):
        SizeBins("volume", (1.0,))
