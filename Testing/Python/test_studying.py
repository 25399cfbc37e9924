"""The counting commands of `study`, as users meet them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from terminal import plain, refused, run

from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

GRID = Geometry.from_spacing((40, 30, 20), (1.0, 1.0, 2.0))


def a_map(*cubes: tuple[int, float]) -> Volume:
    """Cubes of 6 x 6 x 6 mm (3.7 mm radius), each from a corner along i and with a value."""
    array = np.zeros(GRID.shape, np.float32)
    for corner, value in cubes:
        array[corner : corner + 6, 10:16, 5:8] = value
    return Volume(array, GRID)


def write_all(folder: Path, **maps: Volume) -> Path:
    folder.mkdir(parents=True)
    for name, volume in maps.items():
        write_volume(volume, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def some_masks(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases with three tumors, of which two are found, one by its corner only."""
    truth = write_all(tmp_path / "truth", a=a_map((2, 1), (20, 1)), b=a_map((10, 1)))
    found = write_all(tmp_path / "found", a=a_map((2, 1)), b=a_map((15, 1)))
    return found, truth


def test_sizes_are_reported_in_a_table_and_in_files(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    done = run("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "Sensitivity by size" in done.stdout and f"Report: {tmp_path / 'out'}" in done.stdout
    assert "below 5 mm" in done.stdout and "Cases: done in" in done.stderr
    names = {"lesions.csv", "cases.csv", "sizes.csv", "report.json", "report.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_the_rule_the_bins_and_json_are_options(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    command = ("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "--json", "-q")
    every = {row["size"]: row for row in json.loads(run(*command).stdout) if row["measure"] == "radius"}
    assert every["all"]["found"] == 2 and every["15 to 20 mm"]["sensitivity"] is None
    done = run(*command, "--force", "--coverage", "0.5", "--radius-edges", "3,4", "--label", "1")
    rows = [row for row in json.loads(done.stdout) if row["measure"] == "radius"]
    assert [(row["size"], row["found"], row["lesions"]) for row in rows] == [
        ("below 3 mm", 0, 0), ("3 to 4 mm", 1, 3), ("4 mm or more", 0, 0), ("all", 1, 3),
    ]  # fmt: skip


def test_false_positives_are_counted_over_thresholds(tmp_path: Path) -> None:
    maps = write_all(tmp_path / "maps", a=a_map((2, 0.4), (20, 0.9)), b=a_map())
    organs = write_all(tmp_path / "organs", a=a_map((20, 1)), b=a_map((20, 1)))
    command = ("study", "false-positives", "--predictions", maps, "-o", tmp_path / "out", "--thresholds", "0.3,0.95")
    rows = json.loads(run(*command, "--json").stdout)
    assert [(row["threshold"], row["false_positives"], row["specificity"]) for row in rows] == [
        (0.3, 2, 0.5),
        (0.95, 0, 1),
    ]
    done = run(*command, "--organs", organs, "--force")
    assert done.exit_code == 0 and "False positives on healthy scans" in done.stdout
    assert (tmp_path / "out" / "curve.png").is_file()
    with (tmp_path / "out" / "thresholds.csv").open(newline="") as file:
        assert [row["false_positives"] for row in csv.DictReader(file)] == ["1", "0"]
    rows = json.loads(run(*command, "--json", "--force", "--minimum-radius", "4").stdout)
    assert rows[0]["false_positives"] == 0


def test_detections_are_a_table_with_upstreams_columns(tmp_path: Path) -> None:
    whole = Volume(np.ones(GRID.shape, np.uint8), GRID)
    write_all(tmp_path / "tree" / "M" / "A" / "S", liver=whole, liver_tumor=a_map((2, 1), (8, 1)))
    done = run("study", "detection", tmp_path / "tree", "-o", tmp_path / "t.csv")
    assert done.exit_code == 0, done.stderr
    assert (
        (tmp_path / "t.csv")
        .read_text()
        .startswith("Anon_MRN,Anon_Acc_#,Series,liver tumor,pancreas tumor,kidney tumor")
    )
    assert "1 series. Tumors detected: liver 1, pancreas 0, kidney 0." in plain(done.stdout)
    assert "M/A/S: kidney: no mask of the tumor" in done.stderr
    rows = json.loads(run("study", "detection", tmp_path / "tree", "-o", tmp_path / "t.csv", "--json", "-q",
                          "--organ", "liver", "--threshold", "500").stdout)  # fmt: skip
    assert rows == [{"place": ["M", "A", "S"], "detected": {"liver": 0}, "problems": []}]


def test_figures_are_grouped_by_metadata(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    run("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "-q")
    (tmp_path / "who.csv").write_text("case,sex,age\na,F,47\nb,M,52\n")
    command = ("study", "groups", tmp_path / "out" / "cases.csv", "--metadata", tmp_path / "who.csv")
    done = run(*command, "--by", "sex", "--by", "age", "-o", tmp_path / "groups.csv", "--json")
    rows = {(row["by"], row["group"], row["figure"]): row["mean"] for row in json.loads(done.stdout)}
    assert rows["sex", "F", "sensitivity"] == 0.5 and rows["age", "50 to 59", "sensitivity"] == 1.0
    assert (tmp_path / "groups.csv").read_text().startswith("by,group,figure,cases,mean,low,high")


def test_a_label_that_no_file_holds_is_warned_of(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    """It may be a slip, or nothing was found: predictions hold the organ, too."""
    found, truth = some_masks
    done = run("study", "sizes", "--predictions", found, "--references", truth, "--label", "7", "-o", tmp_path / "s")
    said = "WARNING: label 7 is in none of the predictions; they hold 1."
    assert done.exit_code == 0 and said in done.stderr
    assert json.loads((tmp_path / "s" / "report.json").read_text())["notes"][0] == said
    done = run("study", "false-positives", "--predictions", found, "--label", "7", "-o", tmp_path / "f")
    assert done.exit_code == 0 and said in done.stderr


def test_a_case_on_another_grid_is_named(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    other = Volume(np.zeros((4, 4, 4), np.uint8), Geometry.from_spacing((4, 4, 4), (1.0, 1.0, 1.0)))
    write_volume(other, found / "b.nii.gz")
    done = run("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "-q")
    refused(done, 2, "Case 'b': The label map and the scan lie on different grids", "same volume")


def test_cases_of_which_the_metadata_know_nothing_are_told(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("case,dice\na,0.5\nb,0.7\n")
    (tmp_path / "who.csv").write_text("case,sex\na,F\nB,M\n")
    command = ("study", "groups", tmp_path / "cases.csv", "--metadata", tmp_path / "who.csv", "--by", "sex")
    done = run(*command, "-o", tmp_path / "groups.csv")
    assert done.exit_code == 0 and "has no row of 1 of 2 cases, which are 'unknown': b" in done.stderr


def test_an_earlier_report_is_not_replaced_by_accident(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    command = ("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "-q")
    assert run(*command).exit_code == 0
    refused(run(*command), 2, "already holds an earlier result", "--force replaces it")


def test_a_report_without_tumors_leaves_none_of_an_earlier_one(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    command = ("study", "sizes", "--predictions", found, "-o", tmp_path / "out", "-q", "--references")
    assert run(*command, truth).exit_code == 0 and (tmp_path / "out" / "lesions.csv").is_file()
    healthy = write_all(tmp_path / "healthy", a=a_map(), b=a_map())
    assert run(*command, healthy, "--force").exit_code == 0
    names = {"cases.csv", "sizes.csv", "report.json", "report.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize(("study", "name"), [("sizes", "lesions.csv"), ("false-positives", "scans.csv")])
def test_a_list_of_one_s_own_is_not_replaced_even_when_forced(
    some_masks: tuple[Path, Path], tmp_path: Path, study: str, name: str
) -> None:
    found, truth = some_masks
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    references = ("--references", truth) if study == "sizes" else ()
    done = run("study", study, "--predictions", found, *references, "-o", tmp_path / "mine", "--force")
    refused(done, 2, f"holds {name} and no earlier result", "choose another folder")
    assert (tmp_path / "mine" / name).read_text() == "mine"


def test_tables_are_not_written_over_other_files(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    run("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "-q")
    cases, who = tmp_path / "out" / "cases.csv", tmp_path / "who.csv"
    who.write_text("case,sex\na,F\nb,M\n")
    command = ("study", "groups", cases, "--metadata", who, "--by", "sex", "-o")
    for path in (cases, who):
        before = path.read_text()
        refused(run(*command, path), 2, "is read here, and would be replaced", "another --output")
        assert path.read_text() == before
    refused(run(*command, tmp_path / "out" / "sizes.csv"), 2, "is no earlier table", "another name")
    assert run(*command, tmp_path / "groups.csv").exit_code == run(*command, tmp_path / "groups.csv").exit_code == 0
    done = run("study", "detection", truth, "-o", who)
    refused(done, 2, "is no earlier table", "another name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sizes", "--radius-edges", "5,x"), "--radius-edges: expected comma-separated numbers, got '5,x'"),
        (("sizes", "--radius-edges", "9,5"), "Expected size edges that rise"),
        (("false-positives", "--thresholds", "1.5"), "Expected thresholds of at least 0 and below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    some_masks: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    found, truth = some_masks
    name, *options = arguments
    references = ("--references", truth) if name == "sizes" else ()
    maps = found if name == "sizes" else write_all(tmp_path / "maps", a=a_map((2, 0.4)))
    done = run("study", name, "--predictions", maps, *references, "-o", tmp_path / "out", *options)
    assert done.exit_code == 2 and message in done.stderr
    assert not (tmp_path / "out" / "report.json").exists()


def test_a_case_without_a_prediction_is_refused(some_masks: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = some_masks
    (found / "b.nii.gz").unlink()
    done = run("study", "sizes", "--predictions", found, "--references", truth, "-o", tmp_path / "out", "-q")
    refused(done, 2, "1 of 2 cases have nothing in predictions: b", "same name")


@pytest.mark.parametrize(
    "command",
    ["sizes", "false-positives", "detection", "groups", "robustness", "robustness-score", "similarity", "realism"],
)
def test_every_command_teaches_by_example(command: str) -> None:
    done = run("study", command, "--help")
    assert done.exit_code == 0 and f"diffugts study {command}" in done.stdout and "Examples" in done.stdout
