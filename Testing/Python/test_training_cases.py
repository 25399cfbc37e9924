"""Which cases are trained on, with and without a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import write_msd, write_nnunet

from DiffuGTSLib.datasets.protocol import Case, read_protocol, write_protocol
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.training.cases import training_cases


def cases_of(protocol: Path | None, data: Path, output: Path, write: bool = True) -> tuple[list[Case], list[str]]:
    lines: list[str] = []
    return training_cases(protocol, data, output, write=write, report=lines.append), lines


def test_a_protocol_is_taken_at_its_word(tmp_path: Path) -> None:
    write_protocol(tmp_path / "p.json", [Case("a", "a", "train", "CT", "a.nii.gz")], "One case.")
    cases, lines = cases_of(tmp_path / "p.json", tmp_path, tmp_path / "run")
    assert [case.name for case in cases] == ["a"] and lines == [] and not (tmp_path / "run").exists()


def test_a_folder_in_a_known_layout_is_split_by_patient_and_written_down(tmp_path: Path) -> None:
    data = write_msd(tmp_path / "Task03_Liver", 10)
    cases, (line,) = cases_of(None, data, tmp_path / "run")
    assert (
        line == f"protocol: Task03_Liver in the layout msd, split 70/10/20 by patient, {tmp_path / 'run'}/protocol.json"
    )
    assert sorted(case.split for case in cases) == ["test"] * 2 + ["train"] * 7 + ["validation"]
    assert all(case.organ == "liver" and case.tumor_values == [2] for case in cases)
    assert read_protocol(tmp_path / "run" / "protocol.json") == cases


def test_a_label_of_which_nothing_is_known_is_told_before_the_training(tmp_path: Path) -> None:
    data = write_nnunet(tmp_path / "data", ["CT"], {"background": 0, "liver": 1, "Klatskin": 2})
    _, (told, _) = cases_of(None, data, tmp_path / "run")
    assert told.startswith("Nothing is known of the labels Klatskin (2): they count as neither healthy nor tumor.")
    assert "--tumor-values" in told and "unknown_labels" in told


def test_the_run_s_own_protocol_is_gone_on_with(tmp_path: Path) -> None:
    data = write_msd(tmp_path / "Task03_Liver", 4)
    first, _ = cases_of(None, data, tmp_path / "run")
    write_msd(data, 8)  # more scans came in
    again, (line,) = cases_of(None, data, tmp_path / "run")
    assert again == first and line == f"protocol: {tmp_path / 'run' / 'protocol.json'}"


def test_a_dry_run_writes_no_protocol(tmp_path: Path) -> None:
    cases, _ = cases_of(None, write_msd(tmp_path / "data", 4), tmp_path / "run", write=False)
    assert len(cases) == 4 and not (tmp_path / "run").exists()


def test_the_scans_of_the_bundled_protocol_are_known(tmp_path: Path) -> None:
    rows = json.loads(resource_path("Protocols", "mini.json").read_text(encoding="utf-8"))["cases"]
    scan = tmp_path / rows[0]["image"]
    scan.parent.mkdir(parents=True)
    scan.touch()
    cases, lines = cases_of(None, tmp_path, tmp_path / "run")
    assert len(cases) == len(rows) and lines == ["protocol: mini"]


def test_any_other_folder_needs_a_protocol(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is in none of the layouts msd, kits, brats") as caught:
        cases_of(None, tmp_path, tmp_path / "run")
    assert caught.value.code == "protocol" and "diffugts data protocol" in caught.value.hint
