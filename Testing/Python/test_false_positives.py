"""False positives on healthy phantoms into which a known number was injected (DiffTumor description, row 27)."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.case_files import StudyCase
from DiffuGTSLib.evaluation.false_positives import false_lesions, study_false_positives, summarize_healthy, sweep
from DiffuGTSLib.evaluation.intervals import wilson
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

GRID = Geometry.from_spacing((40, 30, 20), (1.0, 1.0, 2.0))


def a_map(*cubes: tuple[int, float]) -> np.ndarray:
    """Cubes of 6 x 6 x 6 mm (216 mm³, 3.7 mm radius), each from a corner along i and with a probability."""
    probabilities = np.zeros(GRID.shape, np.float32)
    for corner, probability in cubes:
        probabilities[corner : corner + 6, 10:16, 5:8] = probability
    return probabilities


def write_cases(folder: Path, maps: dict[str, np.ndarray], organ: np.ndarray | None = None) -> list[StudyCase]:
    cases = []
    for name, array in maps.items():
        write_volume(Volume(array, GRID), folder / f"{name}.nii.gz")
        files = {"predictions": folder / f"{name}.nii.gz"}
        if organ is not None:
            write_volume(Volume(organ, GRID), folder / "organ.nrrd")
            files["organs"] = folder / "organ.nrrd"
        cases.append(StudyCase(name, files))
    return cases


PROBABILITIES = {"clean": a_map(), "two": a_map((2, 0.9), (20, 0.4)), "one": a_map((10, 0.7))}
"""Three healthy scans; above 0.5 remain 0, 1 and 1 components, above 0.3 remain 0, 2 and 1."""


def test_the_injected_components_are_counted_at_every_threshold(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, PROBABILITIES)
    operations = study_false_positives(cases, tmp_path / "out", thresholds=(0.3, 0.5, 0.8, 0.95))
    counted = {o.threshold: (o.false_positives, o.per_scan.mean, o.specificity) for o in operations}
    assert counted == {
        0.3: (3, 1.0, wilson(1, 3)),
        0.5: (2, 2 / 3, wilson(1, 3)),
        0.8: (1, 1 / 3, wilson(2, 3)),
        0.95: (0, 0.0, wilson(3, 3)),
    }
    assert 0 <= operations[0].per_scan.low < 1 < operations[0].per_scan.high <= 2
    with (tmp_path / "out" / "scans.csv").open(newline="") as file:
        rows = {(row["case"], row["threshold"]): row for row in csv.DictReader(file)}
    assert len(rows) == 12
    assert float(rows["two", "0.3"]["volume_ml"]) == pytest.approx(2 * 0.216)
    assert float(rows["two", "0.5"]["largest_radius_mm"]) == pytest.approx(ball_radius_mm(0.216))
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| 0.300 | 3 | 3 | 1.000 |" in (tmp_path / "out" / "report.md").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["thresholds"][3]["specificity"] == 1.0


def test_the_threshold_itself_does_not_count() -> None:
    scans = sweep("a", np.asarray(a_map((2, 0.5)), np.float64), GRID.spacing_mm, (0.5, 0.49))
    assert [len(scan.lesions) for scan in scans] == [0, 1]


def test_nothing_outside_the_organ_counts(tmp_path: Path) -> None:
    organ = np.zeros(GRID.shape, np.uint8)
    organ[:18] = 1
    cases = write_cases(tmp_path, PROBABILITIES, organ)
    (operation,) = study_false_positives(cases, tmp_path / "out", thresholds=(0.3,))
    assert operation.false_positives == 2  # of the two, the one from 20 mm on is gone
    assert "outside the organ are dropped" in (tmp_path / "out" / "report.md").read_text()


def test_small_components_are_dropped_by_radius() -> None:
    ball = 4 / 3 * np.pi * 3.0**3
    seen = np.zeros((40, 10, 10), bool)
    seen[2:30, 4, 4] = True  # 28 voxels
    just = (ball / 28) ** (1 / 3)
    assert len(false_lesions(seen, (just, just, just))) == 1
    smaller = 0.999 * just
    assert false_lesions(seen, (smaller, smaller, smaller)) == ()
    assert len(false_lesions(seen, (smaller, smaller, smaller), minimum_radius_mm=0.0)) == 1


def test_masks_and_labels_have_one_threshold(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, {"a": a_map((2, 1.0)), "b": a_map()})
    (operation,) = study_false_positives(cases, tmp_path / "out")
    assert (operation.threshold, operation.false_positives) == (0.5, 1)
    labeled = write_cases(tmp_path, {"a": a_map((2, 1.0), (20, 2.0)), "b": a_map((2, 1.0))})
    (operation,) = study_false_positives(labeled, tmp_path / "out", label=2)
    assert (operation.false_positives, operation.specificity) == (1, wilson(1, 2))


def test_masks_and_probability_maps_are_not_mixed(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, {"a": a_map((2, 1.0)), "b": a_map((2, 0.5))})
    with pytest.raises(InputError, match="'a' is a mask, 'b' a probability map"):
        study_false_positives(cases, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_scans_have_no_summary(tmp_path: Path) -> None:
    assert summarize_healthy([]) == []
    with pytest.raises(InputError, match="no cases to study"):
        study_false_positives([], tmp_path)


@pytest.mark.parametrize("bad", [2.0, -0.1, np.nan])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="Expected probabilities of 0 to 1") as caught:
        sweep("a", a_map((2, bad)), GRID.spacing_mm, (0.5,))
    assert "label" in caught.value.hint


@pytest.mark.parametrize("thresholds", [(), (1.0,), (-0.1, 0.5)])
def test_thresholds_out_of_range_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="Expected thresholds of at least 0 and below 1"):
        sweep("a", a_map(), GRID.spacing_mm, thresholds)
