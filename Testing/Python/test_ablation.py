"""Ablation of tiny real networks: the whole method is the pipeline's, what is known is not measured again."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
from mini_data import mini_config, shared_run, write_protocol
from phantoms import ct_phantom
from terminal import refused, run

from DiffuGTSLib.config import Config
from DiffuGTSLib.datasets.protocol import read_protocol
from DiffuGTSLib.errors import InputError, PromptError
from DiffuGTSLib.evaluation.ablation import Study, best_cuts, run_ablation, tuning_cases
from DiffuGTSLib.evaluation.ablation_variants import COARSE, FULL, RIGHT, AblationOptions
from DiffuGTSLib.evaluation.froc import THRESHOLDS
from DiffuGTSLib.evaluation.metrics import dice
from DiffuGTSLib.evaluation.protocol_cases import read_case
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import read_volume, write_volume

OPTIONS = AblationOptions(steps=(1, 2), seeds=(0, 1))


@pytest.fixture(scope="module")
def a_protocol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory) / "data" / "protocol.json"


@pytest.fixture(scope="module")
def a_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A model of one iteration that calls much of every scan abnormal."""
    config = mini_config()
    return replace(
        config,
        backbone=replace(config.backbone, folder=str(shared_run(tmp_path_factory) / "model")),
        masks=replace(config.masks, gate=0.0),
        runtime=replace(config.runtime, device="cpu"),
    )


@pytest.fixture(scope="module")
def a_study(a_protocol: Path, a_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Every study of the test split, measured."""
    study = Study(
        a_protocol, a_protocol.parent, tmp_path_factory.mktemp("ablated") / "report", a_config, options=OPTIONS
    )
    run_ablation(study)
    return study


def rows_of(study: Study) -> list[dict[str, str]]:
    with (study.output / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_method_is_exactly_the_pipelines(a_study: Study) -> None:
    components = load_components(a_study.config)
    rows = {(row["case"], row["study"], row["variant"]): row for row in rows_of(a_study)}
    for case in read_protocol(a_study.protocol_path):
        if case.split == "test":
            read = read_case(case, a_study.data)
            prompts = organ_prompts(case.organ, case.modality)
            result = segment(read.scan, prompts, components, a_study.config, modality=case.modality)
            whole, coarse = (dice(mask.array > 0, read.mask.array > 0) for mask in (result.mask, result.coarse_mask))
            assert float(rows[case.name, "parts", FULL]["dice"]) == whole
            assert float(rows[case.name, "steps", "steps 2"]["dice"]) == whole
            assert float(rows[case.name, "seeds", "seed 0"]["dice"]) == whole
            assert float(rows[case.name, "parts", COARSE]["dice"]) == coarse
            assert float(rows[case.name, "prompts", RIGHT]["dice"]) == coarse


def test_an_ablation_is_reported(a_study: Study) -> None:
    report = json.loads((a_study.output / "report.json").read_text())
    assert list(report["studies"]) == ["parts", "prompts", "steps", "seeds"]
    names = {study: [row["variant"] for row in rows] for study, rows in report["studies"].items()}
    assert names["prompts"] == ["right organ", "wrong organ", "swapped", "nonsense"]
    assert (names["steps"], names["seeds"]) == (["steps 2", "steps 1"], ["seed 0", "seed 1"])
    assert "Thresholds of mixtures were chosen on ct_2, mr_2." in report["notes"]
    assert set(report["about"]["cuts"]) == set(names["parts"][4:]), "each mixture has its own"
    assert all(0 < cut < 1 for cut in report["about"]["cuts"].values())
    assert (a_study.output / "report.html").is_file()


def test_swapped_prompts_rank_voxels_the_other_way(a_study: Study) -> None:
    rows = {(row["case"], row["variant"]): row for row in rows_of(a_study) if row["study"] == "prompts"}
    for case in ("ct_3", "mr_3"):
        right, swapped = (float(rows[case, name]["voxel_auroc"]) for name in (RIGHT, "swapped"))
        assert right + swapped == pytest.approx(1.0, abs=0.02)


def test_what_is_known_is_not_measured_again(a_study: Study, tmp_path: Path) -> None:
    again = replace(a_study, output=Path(shutil.copytree(a_study.output, tmp_path / "copy")))
    files = sorted(again.output.glob("*/*.json"))
    before = [path.stat().st_mtime_ns for path in files]
    seen: list[tuple[str, float]] = []
    run_ablation(again, lambda case, share: seen.append((case, share)))
    assert [path.stat().st_mtime_ns for path in files] == before
    assert seen == [("ct_2", 0.0), ("mr_2", 0.25), ("ct_3", 0.5), ("mr_3", 0.75)]
    assert rows_of(again) == rows_of(a_study)


def test_another_threshold_baseline_is_noticed_and_nothing_else_measured_again(a_study: Study, tmp_path: Path) -> None:
    """It is chosen on the protocol's training scans; without any it is Otsu's."""
    protocol = json.loads(a_study.protocol_path.read_text())
    protocol["cases"] = [case for case in protocol["cases"] if case["split"] != "train"]
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps(protocol))
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    before = json.loads((output / "cases" / "ct_3.json").read_text())["kept"]
    options = replace(OPTIONS, studies=("parts",))
    run_ablation(replace(a_study, protocol_path=path, output=output, names=("ct_3",), options=options))
    after = json.loads((output / "cases" / "ct_3.json").read_text())["kept"]
    assert before.pop("threshold baseline") != after.pop("threshold baseline")
    assert before["parts"].pop("one threshold") != after["parts"].pop("one threshold") and before == after


def test_one_more_variant_is_measured_alone(a_study: Study, tmp_path: Path) -> None:
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    kept = output / "cases" / "ct_3.json"
    before = json.loads(kept.read_text())["kept"]
    options = AblationOptions(studies=("steps",), steps=(1, 3))
    (figures,) = run_ablation(replace(a_study, output=output, names=("ct_3",), options=options))
    assert list(figures.figures) == [("steps", "steps 2"), ("steps", "steps 1"), ("steps", "steps 3")]
    assert "threshold" not in " ".join(json.loads((output / "report.json").read_text())["notes"]).lower(), (
        "none is chosen"
    )
    after = json.loads(kept.read_text())["kept"]
    assert after.pop("steps").items() >= before.pop("steps").items() and after == before


def test_a_damaged_case_is_measured_again(a_study: Study, tmp_path: Path) -> None:
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    (output / "cases" / "mr_3.json").write_text('{"made_of"')
    options = replace(OPTIONS, studies=("prompts",))
    run_ablation(replace(a_study, output=output, names=("mr_3",), options=options))
    rows = [row for row in rows_of(a_study) if row["case"] == "mr_3" and row["study"] == "prompts"]
    assert rows_of(replace(a_study, output=output)) == rows


def test_what_was_cut_elsewhere_is_measured_again(a_study: Study, tmp_path: Path) -> None:
    """Without validation scans every mixture is cut where the whole method is, and not where it once was."""
    protocol = json.loads(a_study.protocol_path.read_text())
    protocol["cases"] = [case for case in protocol["cases"] if case["split"] != "validation"]
    untuned = tmp_path / "protocol.json"
    untuned.write_text(json.dumps(protocol))
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    options = replace(OPTIONS, studies=("parts",))
    (figures,) = run_ablation(replace(a_study, protocol_path=untuned, output=output, names=("ct_3",), options=options))
    cuts = {each["cut"] for (study, _), each in figures.figures.items() if study == "parts" and each["cut"] > 0}
    assert cuts == {a_study.config.residual.threshold}


def test_a_folder_of_another_report_is_left_alone(a_study: Study, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputError, match="holds report.json and no earlier result"):
        run_ablation(replace(a_study, output=tmp_path))


def test_a_report_of_another_protocol_or_split_is_not_replaced(a_study: Study, tmp_path: Path) -> None:
    rows = json.loads(a_study.protocol_path.read_text())["cases"]
    other = write_protocol(tmp_path / "other.json", rows)
    for study in (replace(a_study, protocol_path=other), replace(a_study, split="validation")):
        with pytest.raises(InputError, match="holds the report of 2 cases of protocol.json, split 'test'") as caught:
            run_ablation(study)
        assert caught.value.code == "exists"


def test_a_file_that_is_missing_or_wrong_is_refused_with_its_case(a_study: Study, tmp_path: Path) -> None:
    """One of a scan that thresholds are chosen on, too; one that is missing before anything is measured."""
    rows = json.loads(a_study.protocol_path.read_text())["cases"]
    write_volume(ct_phantom().lesion, tmp_path / "other_grid.nii.gz")
    for name, file, said in (
        ("mr_2", "nothing.nii.gz", "Case 'mr_2': .*nothing.nii.gz does not exist"),
        ("mr_3", "nothing.nii.gz", "Case 'mr_3': .*nothing.nii.gz does not exist"),
        ("ct_2", "other_grid.nii.gz", "Case 'ct_2': The mask and the scan lie on different grids"),
    ):
        changed = [{**row, "tumor": str(tmp_path / file)} if row["name"] == name else row for row in rows]
        path = write_protocol(tmp_path / "p.json", changed)
        with pytest.raises(InputError, match=said):
            run_ablation(replace(a_study, protocol_path=path, output=tmp_path / "report"))
        assert not (tmp_path / "report" / "report.json").exists()


def test_thresholds_are_those_with_the_best_mean() -> None:
    one, two = [0.0] * len(THRESHOLDS), [0.0] * len(THRESHOLDS)
    one[3], one[4], two[4] = 0.9, 0.8, 0.4
    assert best_cuts([{"a": one}, {"a": two}]) == {"a": THRESHOLDS[4]} and best_cuts([]) == {}


def test_a_case_with_nothing_to_find_has_no_say_in_thresholds() -> None:
    one = [0.0] * len(THRESHOLDS)
    one[3] = 0.9
    nothing = [0.0] * 5 + [nan] * (len(THRESHOLDS) - 5)
    assert best_cuts([{"a": one}, {"a": nothing}]) == {"a": THRESHOLDS[3]} and best_cuts([{"a": nothing}]) == {}


def test_a_validation_scan_with_an_empty_mask_tunes_nothing_and_is_read_again(a_study: Study, tmp_path: Path) -> None:
    rows = json.loads(a_study.protocol_path.read_text())["cases"]
    mask = read_volume(a_study.data / "mr_2" / "tumor.nii.gz")
    write_volume(mask.with_array(np.zeros(mask.geometry.shape, np.uint8)), tmp_path / "empty.nii.gz")
    for row in rows:
        row["tumor"] = str(tmp_path / "empty.nii.gz") if row["name"] == "mr_2" else row.get("tumor", "")
    protocol = write_protocol(tmp_path / "protocol.json", rows)
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    options = replace(OPTIONS, studies=("parts",))
    told = []
    for _ in range(2):  # the second time what was kept is read: null for NaN
        run_ablation(replace(a_study, protocol_path=protocol, output=output, names=("ct_3",), options=options))
        report = json.loads((output / "report.json").read_text())
        assert "Thresholds of mixtures were chosen on ct_2." in report["notes"]
        told.append(report["about"]["cuts"])
    curve = json.loads((output / "tuning" / "ct_2.json").read_text())["kept"]
    assert told[0] == told[1] == best_cuts([curve])


def test_otsu_needs_no_tuning_and_validation_scans_say_that_they_were_tuned_on(a_study: Study) -> None:
    cases = read_protocol(a_study.protocol_path)
    assert [case.name for case in tuning_cases(cases, a_study)] == ["ct_2", "mr_2"]
    config = replace(a_study.config, residual=replace(a_study.config.residual, rule="otsu"))
    assert tuning_cases(cases, replace(a_study, config=config)) == []
    assert tuning_cases(cases, replace(a_study, options=AblationOptions(studies=("steps",)))) == []


def test_an_unknown_case_is_refused(a_study: Study) -> None:
    with pytest.raises(InputError, match="Split 'test' has no case 'ct_33'") as caught:
        run_ablation(replace(a_study, names=("ct_33",)))
    assert "ct_3" in caught.value.hint


def test_an_unknown_organ_is_refused_before_anything_is_measured(a_study: Study, tmp_path: Path) -> None:
    """One of a scan that thresholds are chosen on, too."""
    rows = json.loads(a_study.protocol_path.read_text())["cases"]
    for name in ("mr_2", "mr_3"):
        changed = [{**row, "organ": "livver"} if row["name"] == name else row for row in rows]
        path = write_protocol(tmp_path / "p.json", changed)
        with pytest.raises(PromptError, match=f"Case '{name}': unknown organ 'livver'"):
            run_ablation(replace(a_study, protocol_path=path, output=tmp_path / "report"))


def test_what_was_trained_on_is_refused(a_study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="were trained on"):
        run_ablation(replace(a_study, split="train"))
    rows = json.loads(a_study.protocol_path.read_text())["cases"]
    seen = {**next(row for row in rows if row["name"] == "ct_1"), "name": "renamed", "patient": "new", "split": "test"}
    protocol = write_protocol(tmp_path / "p.json", [seen])
    with pytest.raises(InputError, match=r"trained on 1 of 1 cases: renamed"):
        run_ablation(replace(a_study, protocol_path=protocol, output=tmp_path / "report"))


def test_the_command_measures_prints_and_refuses(a_study: Study, a_config: Config, tmp_path: Path) -> None:
    """On what the fixture has kept, so that nothing is measured."""
    output = Path(shutil.copytree(a_study.output, tmp_path / "copy"))
    (tmp_path / "config.json").write_text(json.dumps(a_config.to_dict()))
    asked = ("ablate", "--protocol", a_study.protocol_path, "--data", a_study.data, "-o", output)
    options = ("--config", tmp_path / "config.json", "--steps", "1,2", "--seeds", "0,1", "--case", "ct_3")
    done = run(*asked, *options, "--json", "-q")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told) == ["parts", "prompts", "steps", "seeds"] and told["parts"][0]["variant"] == FULL
    assert f"Report: {output / 'report.html'}" in run(*asked, *options).stdout
    refused(run(*asked, "--studies", "part"), 2, "Unknown study 'part'", "parts")
    refused(run(*asked, "--steps", "1.5"), 2, "--steps: expected comma-separated whole numbers", "")
    refused(run(*asked, "--seeds", "x"), 2, "--seeds: expected comma-separated numbers", "")
