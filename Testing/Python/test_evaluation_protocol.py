"""Scoring a protocol: the report, what is not computed twice, healthy scans, and the refusals."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mini_data import GRID, mini_config, shared_run, write_case, write_protocol
from phantoms import ct_phantom, grid, mr_phantom

from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import GeometryError, InputError, PromptError
from DiffuGTSLib.evaluation.run import evaluate_protocol
from DiffuGTSLib.volumes import write_volume


@pytest.fixture(scope="module")
def a_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory) / "data" / "protocol.json"


@pytest.fixture(scope="module")
def a_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A model that `train_part` made in one iteration, and that calls every scan abnormal."""
    model = shared_run(tmp_path_factory) / "model"
    config = mini_config()
    return replace(
        config,
        backbone=replace(config.backbone, folder=str(model)),
        masks=replace(config.masks, gate=0.0),
        runtime=replace(config.runtime, device="cpu"),
    )


# The report


@pytest.fixture(scope="module")
def a_report(a_protocol: Path, a_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the test split; read it, or run it again on a copy."""
    folder = tmp_path_factory.mktemp("evaluated") / "below" / "report"
    evaluate_protocol(a_protocol, a_protocol.parent, folder, a_config)
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_protocol_is_scored_and_reported(a_report: Path) -> None:
    files = ["cases", "cases.csv", "config.json", "report.html", "report.json", "report.md", "tables.md"]
    assert sorted(path.name for path in a_report.iterdir()) == files
    rows = rows_of(a_report)
    assert [row["case"] for row in rows] == ["ct_3", "mr_3"]
    for row in rows:
        for column in ("dice_ellipsoid", "dice_threshold", "dice_coarse", "dice_refined", "anomaly_score", "ece"):
            assert 0 <= float(row[column]) <= 1, column
        assert float(row["false_positives"]) == int(float(row["false_positives"]))
    report = json.loads((a_report / "report.json").read_text())
    assert report["title"] == "mini on protocol, split test"
    assert sum("SHA-256" in note for note in report["notes"]) == 4, "three networks and the text model"
    assert "patients" in report["interval"]


def test_the_report_tells_all_that_is_pooled_and_how_to_repeat_it(
    a_report: Path, a_protocol: Path, a_config: Config
) -> None:
    report = json.loads((a_report / "report.json").read_text())
    assert set(report["pooled"]) == {"froc", "calibration", "sizes", "scan_auroc", "groups", "steps"}
    assert sorted(report["scans"]["ct_3"]) == ["ct_3/scan.nii.gz", "ct_3/tumor.nii.gz"]
    assert report["read_as"]["ct_3"]["organ"] == "liver" and report["read_as"]["ct_3"]["tumor_values"] == []
    assert report["about"]["protocol_sha256"] == hashlib.sha256(a_protocol.read_bytes()).hexdigest()
    assert load_config(a_config.preset, a_report / "config.json") == a_config, "--config config.json is this very model"


def test_scoring_twice_gives_the_same_figures(
    a_report: Path, a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    evaluate_protocol(a_protocol, a_protocol.parent, tmp_path, a_config)
    once, twice = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(folder)] for folder in (a_report, tmp_path)
    )
    assert once == twice and len(once) == 2


def test_a_bright_lesion_is_found_by_the_threshold_baseline(a_report: Path) -> None:
    """The MR lesion is the brightest thing in the head: the baseline must not be a straw man."""
    rows = {row["case"]: row for row in rows_of(a_report)}
    assert float(rows["mr_3"]["dice_threshold"]) > 0.7


# Resumed


def written(folder: Path) -> dict[str, tuple[int, float]]:
    """When each case was written, and how long it took."""
    return {
        path.stem: (path.stat().st_mtime_ns, json.loads(path.read_text())["row"]["seconds"])
        for path in (folder / "cases").glob("*.json")
    }


def test_a_case_that_is_done_is_not_computed_again(
    a_report: Path, a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(a_report, tmp_path / "copy"))
    before, seen = written(folder), []
    (folder / "cases" / "mr_3.json").write_text('{"made_of"')  # as if the machine had stopped there
    evaluate_protocol(a_protocol, a_protocol.parent, folder, a_config, on_progress=lambda *done: seen.append(done))
    after = written(folder)
    assert after["ct_3"] == before["ct_3"], "seconds included: it is the very same measurement"
    assert after["mr_3"][0] > before["mr_3"][0]
    assert rows_of(folder)[0] == rows_of(a_report)[0]
    assert seen == [("ct_3", 0.0), ("mr_3", 0.5)]


def test_another_configuration_computes_all_again(
    a_report: Path, a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(a_report, tmp_path / "copy"))
    other = replace(a_config, masks=replace(a_config.masks, threshold=0.9))
    evaluate_protocol(a_protocol, a_protocol.parent, folder, other)
    assert all(after[0] > written(a_report)[name][0] for name, after in written(folder).items())


def test_a_report_is_not_replaced_by_that_of_another_protocol_split_or_fewer_cases(
    a_report: Path, a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(a_report, tmp_path / "copy"))
    rows = json.loads(a_protocol.read_text())["cases"]
    other = write_protocol(tmp_path / "other.json", rows)
    fewer = write_protocol(tmp_path / "protocol.json", [row for row in rows if row["name"] != "mr_3"])
    earlier = "copy holds the report of 2 cases of protocol.json, split 'test'; it would be replaced by that of "
    for path, split, said in (
        (other, "test", "other.json, split 'test'."),
        (a_protocol, "validation", "protocol.json, split 'validation'."),
        (fewer, "test", "protocol.json, split 'test', without mr_3."),
    ):
        with pytest.raises(InputError, match=re.escape(earlier + said)) as caught:
            evaluate_protocol(path, a_protocol.parent, folder, a_config, split)
        assert caught.value.code == "exists" and "another folder" in caught.value.hint
    assert (folder / "report.json").read_bytes() == (a_report / "report.json").read_bytes()


def test_a_protocol_that_has_grown_goes_on_in_its_folder(
    a_report: Path, a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(a_report, tmp_path / "copy"))
    rows = json.loads(a_protocol.read_text())["cases"]
    more = {**rows[-1], "name": "mr_4"}
    evaluate_protocol(write_protocol(tmp_path / "protocol.json", [*rows, more]), a_protocol.parent, folder, a_config)
    assert [row["case"] for row in rows_of(folder)] == ["ct_3", "mr_3", "mr_4"]
    assert written(folder)["mr_3"] == written(a_report)["mr_3"]


# Healthy scans


def test_a_scan_without_a_tumor_is_scored_as_healthy(a_config: Config, tmp_path: Path) -> None:
    rows = [
        write_case(tmp_path, "ill", ct_phantom(GRID), "test"),
        write_case(tmp_path, "well", ct_phantom(GRID), "test", tumor=""),
        write_case(tmp_path, "unsure", ct_phantom(GRID), "test", tumor="", healthy_only_in=["liver"]),
    ]
    evaluate_protocol(write_protocol(tmp_path / "p.json", rows), tmp_path, tmp_path / "report", a_config)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    cases = {row["case"]: row for row in report["cases"]}
    assert list(cases) == ["ill", "well"]
    assert (cases["well"]["kind"], cases["well"]["dice_refined"]) == ("healthy", None)
    assert cases["well"]["false_positives_healthy"] == cases["well"]["false_positives"]
    assert report["estimates"]["dice_refined"]["cases"] == 1
    assert report["pooled"]["scan_auroc"]["healthy"] == 1


def test_a_mask_without_tumor_makes_a_healthy_scan_and_that_is_said(a_config: Config, tmp_path: Path) -> None:
    rows = [
        write_case(tmp_path, "ill", ct_phantom(GRID), "test"),
        write_case(tmp_path, "slip", ct_phantom(GRID), "test", tumor_values=[2, 3]),
    ]
    evaluate_protocol(write_protocol(tmp_path / "p.json", rows), tmp_path, tmp_path / "report", a_config)
    said = "WARNING: counted as healthy, since no voxel of the mask is tumor: slip (values 2, 3)."
    assert said in json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["notes"]
    assert said in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_cases_that_were_trained_on_are_not_scored(a_protocol: Path, a_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="were trained on") as caught:
        evaluate_protocol(a_protocol, a_protocol.parent, tmp_path / "report", a_config, split="train")
    assert caught.value.code == "leakage" and not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["config.json", "report.json", "cases.csv"])
def test_a_folder_with_files_of_other_origin_is_left_alone(
    a_protocol: Path, a_config: Config, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name} and no earlier result") as caught:
        evaluate_protocol(a_protocol, a_protocol.parent, tmp_path, a_config)
    assert caught.value.code == "exists" and (tmp_path / name).read_text() == "mine"


def test_a_patient_of_the_training_split_cannot_be_tested(a_config: Config, tmp_path: Path) -> None:
    rows = [
        write_case(tmp_path, "a", ct_phantom(GRID), "train", patient="one"),
        write_case(tmp_path, "b", mr_phantom(GRID), "test", patient="one"),
    ]
    with pytest.raises(InputError, match="Patient 'one' is in splits") as caught:
        evaluate_protocol(write_protocol(tmp_path / "p.json", rows), tmp_path, tmp_path / "report", a_config)
    assert caught.value.code == "leakage"


def test_a_split_without_masks_is_refused(a_config: Config, tmp_path: Path) -> None:
    path = write_protocol(tmp_path / "p.json", [write_case(tmp_path, "a", ct_phantom(GRID), "test", tumor="")])
    with pytest.raises(InputError, match="no case with a mask in split 'test'"):
        evaluate_protocol(path, tmp_path, tmp_path / "report", a_config)


def test_an_unknown_organ_is_refused_before_anything_is_computed(a_config: Config, tmp_path: Path) -> None:
    rows = [write_case(tmp_path, name, ct_phantom(GRID), "test") for name in ("a", "b")]
    for organ, hint in (("livver", "liver"), ("", "")):
        rows[1]["organ"] = organ
        path = write_protocol(tmp_path / "p.json", rows)
        with pytest.raises(PromptError, match=f"Case 'b': unknown organ '{organ}'") as caught:
            evaluate_protocol(path, tmp_path, tmp_path / "report", a_config)
        assert hint in caught.value.hint and caught.value.code == "organ" and not (tmp_path / "report").exists()


@pytest.mark.parametrize("file", ["image", "tumor"])
def test_a_missing_file_is_refused_before_anything_is_computed(a_config: Config, tmp_path: Path, file: str) -> None:
    rows = [write_case(tmp_path, name, ct_phantom(GRID), "test") for name in ("a", "b")]
    rows[1][file] = "b/nothing.nii.gz"
    path = write_protocol(tmp_path / "p.json", rows)
    with pytest.raises(InputError, match=r"^Case 'b': .*b/nothing.nii.gz does not exist") as caught:
        evaluate_protocol(path, tmp_path, tmp_path / "report", a_config)
    assert caught.value.code == "missing" and not (tmp_path / "report").exists()


def test_a_case_that_cannot_be_scored_is_named(a_config: Config, tmp_path: Path) -> None:
    rows = [write_case(tmp_path, "a", ct_phantom(GRID), "test")]
    write_volume(ct_phantom(grid((28, 26, 29), (4.0, 4.0, 4.0))).lesion, tmp_path / "a" / "tumor.nii.gz")
    with pytest.raises(GeometryError, match="^Case 'a': The mask and the scan lie on different grids"):
        evaluate_protocol(write_protocol(tmp_path / "p.json", rows), tmp_path, tmp_path / "report", a_config)


def test_a_patient_that_the_model_was_trained_on_is_refused_whatever_the_protocol_says(
    a_protocol: Path, a_config: Config, tmp_path: Path
) -> None:
    rows = json.loads(a_protocol.read_text())["cases"]
    seen = {**next(row for row in rows if row["name"] == "ct_1"), "name": "renamed", "patient": "new", "split": "test"}
    path = write_protocol(tmp_path / "p.json", [seen])
    with pytest.raises(InputError, match=r"trained on 1 of 1 cases: renamed \(the same file as ct_1\)") as caught:
        evaluate_protocol(path, a_protocol.parent, tmp_path / "report", a_config)
    assert caught.value.code == "leakage" and not (tmp_path / "report").exists()
    evaluate_protocol(path, a_protocol.parent, tmp_path / "report", a_config, allow_seen=True)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["title"].endswith("(SEEN IN TRAINING)") and "renamed" in report["notes"][0]
    assert report["about"]["seen_in_training"] == {"renamed": "the same file as ct_1"}
