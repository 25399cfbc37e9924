"""`evaluate --compare`: the paired table of two reports, on the screen, as JSON and in a folder; and a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mini_data import GRID, write_case, write_protocol
from phantoms import ct_phantom
from terminal import refused, run

from DiffuGTSLib.evaluation.report import write_report


@pytest.fixture
def two_reports(tmp_path: Path) -> tuple[Path, Path]:
    """A report, and another one with two tenths more Dice on each of seven patients, and one case more."""
    folders = (tmp_path / "first", tmp_path / "second")
    for number, folder in enumerate(folders):
        folder.mkdir()
        rows = [
            {"case": name, "patient": name, "dice_refined": 0.1 * place + 0.2 * number, "false_positives": 1}
            for place, name in enumerate("abcdefgh"[: 7 + number])
        ]
        write_report(rows, folder, title="A report", group_by="patient")
    return folders


def test_two_reports_are_compared_on_the_screen(two_reports: tuple[Path, Path]) -> None:
    done = run("evaluate", "--compare", *two_reports, "--figure", "dice_refined")
    assert done.exit_code == 0, done.stderr
    assert "0.200" in done.stdout and "0.016" in done.stdout  # 2 of 128 patterns of signs
    assert "left out: h" in done.stderr and "Report" not in done.stdout


def test_a_comparison_is_json_and_lies_in_a_folder(two_reports: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "comparison"
    done = run("evaluate", "--compare", *two_reports, "--json", "-o", output)
    rows = json.loads(done.stdout)
    assert [row["figure"] for row in rows] == ["dice_refined", "false_positives"]
    assert rows[0]["difference"] == pytest.approx(0.2) and rows[1]["p"] == 1.0
    assert json.loads((output / "comparison.json").read_text())["figures"] == rows
    assert run("evaluate", "--compare", *two_reports, "-q").output == ""


def test_a_folder_without_a_report_is_refused(two_reports: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("evaluate", "--compare", two_reports[0], tmp_path)
    refused(done, 2, "report.json does not exist", "diffugts evaluate wrote")


def test_comparing_and_judging_at_once_is_refused(two_reports: tuple[Path, Path]) -> None:
    done = run("evaluate", "--compare", *two_reports, "--protocol", "mini")
    refused(done, 2, "Expected one case or one protocol, or two reports", "--compare DIR DIR")


@pytest.mark.parametrize("command", ["evaluate", "ablate"])
def test_the_patients_whom_thresholds_were_chosen_on_are_not_tested_with_them(command: str, tmp_path: Path) -> None:
    protocol = write_protocol(tmp_path / "p.json", [write_case(tmp_path, "ct", ct_phantom(GRID), "test")])
    tuned = {"name": "judge", "patient": "patient of ct", "sha256": "0", "use": "tuned"}
    (tmp_path / "chosen.json").write_text(json.dumps({"masks": {"threshold": 0.5}, "tuned_on": [tuned]}))
    where = ("--protocol", protocol, "--data", tmp_path, "-o", tmp_path / "report", "--device", "cpu")
    done = run(command, *where, "--config", tmp_path / "chosen.json")
    refused(done, 2, "tuned on 1 of 1 cases: ct (patient patient of ct of judge, tuned on)", "--allow-seen")
