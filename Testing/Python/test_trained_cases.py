"""What a model was trained on: recorded in its folder, and found again by patient and by file."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from phantoms import ct_phantom, grid, orientations, reoriented

from DiffuGTSLib.datasets.protocol import Case, read_protocol
from DiffuGTSLib.datasets.trained_cases import (
    TRAINING_CASES,
    TUNED,
    TrainedCase,
    check_unseen,
    read_training_cases,
    record_training,
    seen_in_training,
    tuned_on,
)
from DiffuGTSLib.errors import ConfigError, InputError, WeightsError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes import write_volume


def a_case(data: Path, name: str, split: str, patient: str = "") -> Case:
    (data / name).write_text(f"voxels of {name}")
    return Case(name, patient or f"patient of {name}", split, "CT", name)


def test_training_cases_are_recorded_and_those_of_other_parts_kept(tmp_path: Path) -> None:
    a, b, c = (a_case(tmp_path, n, s) for n, s in (("a", "train"), ("b", "validation"), ("c", "train")))
    record_training([a, b], tmp_path, tmp_path / "model")
    record_training([a, c], tmp_path, tmp_path / "model")
    digest = hashlib.sha256(b"voxels of a").hexdigest()
    recorded = read_training_cases(tmp_path / "model")
    assert recorded is not None and recorded[0] == TrainedCase("a", "patient of a", digest, "trained")
    assert [(case.name, case.use) for case in recorded] == [("a", "trained"), ("b", "tuned"), ("c", "trained")]


def test_a_model_that_does_not_tell_is_not_taken_for_one_without_training(tmp_path: Path) -> None:
    assert read_training_cases(tmp_path) is None


def test_what_the_start_was_trained_on_this_model_was_too(tmp_path: Path) -> None:
    a, b = a_case(tmp_path, "a", "train", "one"), a_case(tmp_path, "b", "train", "two")
    record_training([a], tmp_path, tmp_path / "first")
    record_training([a], tmp_path, tmp_path / "run" / "segmenter" / "model")
    for number, start in enumerate((tmp_path / "first", tmp_path / "first" / "aova", tmp_path / "run")):
        model = tmp_path / f"second_{number}"
        record_training([b], tmp_path, model, earlier=[start])
        assert {case.patient for case in read_training_cases(model) or ()} == {"one", "two"}
        with pytest.raises(InputError, match="trained on 1 of 1 cases"):
            check_unseen([Case("a", "one", "test", "CT", "a")], tmp_path, model, allow_seen=False)


def test_what_its_painter_and_its_networks_were_trained_on_this_model_was_too(tmp_path: Path) -> None:
    a, b, c = (a_case(tmp_path, n, "train", p) for n, p in (("a", "one"), ("b", "two"), ("c", "three")))
    record_training([a], tmp_path, tmp_path / "other" / "painter")
    record_training([b], tmp_path, tmp_path / "networks")
    record_training([c], tmp_path, tmp_path / "model", earlier=[tmp_path / "other" / "painter", tmp_path / "networks"])
    assert {case.patient for case in read_training_cases(tmp_path / "model") or ()} == {"one", "two", "three"}
    record_training([c], tmp_path, tmp_path / "silent", earlier=[tmp_path / "networks", tmp_path / "published"])
    new = a_case(tmp_path, "new", "test")
    assert "cases may have been seen" in check_unseen([new], tmp_path, tmp_path / "silent", allow_seen=False).note


def test_of_a_start_that_does_not_tell_the_report_says_so_even_when_training_goes_on_again(tmp_path: Path) -> None:
    a, new = a_case(tmp_path, "a", "train", "one"), a_case(tmp_path, "new", "test")
    record_training([a], tmp_path, tmp_path / "second", earlier=[tmp_path / "silent"])
    record_training([a], tmp_path, tmp_path / "second")
    record_training([a], tmp_path, tmp_path / "third", earlier=[tmp_path / "second"])
    for model in ("second", "third"):
        note = check_unseen([new], tmp_path, tmp_path / model, allow_seen=False).note
        assert note.startswith("The model was made from weights that do not tell")


def test_a_patient_and_a_renamed_scan_are_found(tmp_path: Path) -> None:
    record_training([a_case(tmp_path, "a", "train", "one")], tmp_path, tmp_path / "model")
    trained = read_training_cases(tmp_path / "model") or []
    shutil.copy(tmp_path / "a", tmp_path / "copy")
    tested = [
        a_case(tmp_path, "b", "test", "one"),
        Case("copy", "two", "test", "CT", "copy"),
        a_case(tmp_path, "c", "test", "three"),
    ]
    assert seen_in_training(tested, tmp_path, trained) == {"b": "patient one of a", "copy": "the same file as a"}
    model = tmp_path / "model"
    with pytest.raises(InputError, match=r"trained on 2 of 3 cases: b \(patient one of a\); copy \(the same") as caught:
        check_unseen(tested, tmp_path, model, allow_seen=False)
    assert caught.value.code == "leakage" and "--allow-seen" in caught.value.hint
    allowed = check_unseen(tested, tmp_path, model, allow_seen=True)
    assert list(allowed.why) == ["b", "copy"] and allowed.note.startswith("SEEN IN TRAINING")
    unseen = check_unseen(tested[2:], tmp_path, model, allow_seen=False)
    assert unseen.why == {} and unseen.note.startswith("No case is among the 1 scans")


def test_a_scan_in_another_form_is_found_by_its_voxels(tmp_path: Path) -> None:
    """Converted and turned: not one byte of the file is as it was."""
    scan = ct_phantom(grid((8, 9, 10), (6.0, 6.0, 6.0)), noise_hu=5).scan
    write_volume(scan, tmp_path / "a.nii.gz")
    record_training([Case("a", "one", "train", "CT", "a.nii.gz")], tmp_path, tmp_path / "model")
    write_volume(reoriented(scan, list(orientations())[7]), tmp_path / "b.nrrd")
    write_volume(scan.with_array(scan.array + 1), tmp_path / "c.nii.gz")
    copy, other = (Case(name, name, "test", "CT", file) for name, file in (("b", "b.nrrd"), ("c", "c.nii.gz")))
    with pytest.raises(InputError, match=r"trained on 1 of 2 cases: b \(the same voxels as a\)"):
        check_unseen([copy, other], tmp_path, tmp_path / "model", allow_seen=False)
    note = check_unseen([other], tmp_path, tmp_path / "model", allow_seen=False).note
    assert note.endswith("by patient, by file and by voxels.")


def test_a_record_without_voxels_gets_them_when_the_scan_is_trained_on_again(tmp_path: Path) -> None:
    write_volume(ct_phantom(grid((8, 9, 10), (6.0, 6.0, 6.0))).scan, tmp_path / "a.nii.gz")
    case, path = Case("a", "one", "train", "CT", "a.nii.gz"), tmp_path / "model" / TRAINING_CASES
    record_training([case], tmp_path, tmp_path / "model")
    record = json.loads(path.read_text())
    digest = record["cases"][0].pop("voxels_sha256")
    path.write_text(json.dumps(record))
    record_training([case], tmp_path, tmp_path / "model")
    (known,) = read_training_cases(tmp_path / "model") or ()
    assert len(digest) == 64 and known.voxels_sha256 == digest


def test_another_spelling_of_a_patient_is_a_warning(tmp_path: Path) -> None:
    a, b = a_case(tmp_path, "a", "train", "LiTS_007"), a_case(tmp_path, "b", "validation", "p2")
    record_training([a, b], tmp_path, tmp_path / "model")
    tested = [
        a_case(tmp_path, "c", "test", "lits-7"),
        a_case(tmp_path, "d", "test", "P 02"),
        a_case(tmp_path, "e", "test"),
    ]
    seen = check_unseen(tested, tmp_path, tmp_path / "model", allow_seen=False)
    said = "WARNING: one patient under several names? 'lits-7' of c, trained on as 'LiTS_007'; 'P 02' of d, tuned on as 'p2'."
    assert seen.why == {} and seen.note.endswith(said)
    tuned = [Case("b", "P2", "validation", "CT", "b")]
    assert "WARNING" not in check_unseen(tuned, tmp_path, tmp_path / "model", allow_seen=False).note


def test_what_was_tuned_on_is_no_test_case_and_may_be_scored_as_validation(tmp_path: Path) -> None:
    a, b = (a_case(tmp_path, name, split) for name, split in (("a", "train"), ("b", "validation")))
    model = tmp_path / "model"
    record_training([a, b], tmp_path, model)
    renamed = Case("t", "new", "test", "CT", "b")
    with pytest.raises(InputError, match=r"was tuned on 1 of 1 cases: t \(the same file as b, tuned on\)"):
        check_unseen([renamed], tmp_path, model, allow_seen=False)
    with pytest.raises(InputError, match="trained or tuned on 2 of 2"):
        check_unseen([renamed, Case("u", "new", "test", "CT", "a")], tmp_path, model, allow_seen=False)
    assert "may have been tuned: b" in check_unseen([b], tmp_path, model, allow_seen=False).note


@pytest.mark.parametrize("recorded", [True, False])
def test_whom_thresholds_were_chosen_on_is_no_test_case_whatever_the_model_tells(
    tmp_path: Path, recorded: bool
) -> None:
    config, model = tmp_path / "chosen.json", tmp_path / "model"
    if recorded:
        record_training([a_case(tmp_path, "a", "train", "one")], tmp_path, model)
    config.write_text(json.dumps({"masks": {}, "tuned_on": [asdict(TrainedCase("b", "two", "0", TUNED))]}))
    tuned = tuned_on(config)
    again, new = a_case(tmp_path, "again", "test", "two"), a_case(tmp_path, "new", "test", "three")
    with pytest.raises(InputError, match=r"tuned on 1 of 2 cases: again \(patient two of b, tuned on\)") as caught:
        check_unseen([again, new], tmp_path, model, allow_seen=False, tuned_on=tuned)
    assert caught.value.code == "leakage"
    assert check_unseen([again], tmp_path, model, allow_seen=True, tuned_on=tuned).note.startswith("SEEN IN TRAINING")
    assert ("does not tell" in check_unseen([new], tmp_path, model, allow_seen=False, tuned_on=tuned).note) != recorded


def test_a_configuration_that_names_no_cases_tells_of_none_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"masks": {}}')
    assert tuned_on(tmp_path / "mine.json") == tuned_on(None) == []
    (tmp_path / "mine.json").write_text('{"tuned_on": ["a"]}')
    with pytest.raises(ConfigError, match="'tuned_on' is no list of cases"):
        tuned_on(tmp_path / "mine.json")


def test_who_was_trained_on_stays_so_though_thresholds_are_tuned_on_it_later(tmp_path: Path) -> None:
    record_training([a_case(tmp_path, "a", "train", "one")], tmp_path, tmp_path / "model")
    later = [a_case(tmp_path, "a", "validation", "one"), a_case(tmp_path, "b", "train", "two")]
    record_training(later, tmp_path, tmp_path / "model", learned=False)
    recorded = read_training_cases(tmp_path / "model") or []
    assert [(case.name, case.use) for case in recorded] == [("a", "trained"), ("a", "tuned"), ("b", "tuned")]
    assert seen_in_training([later[0]], tmp_path, recorded) == {"a": "patient one of a"}
    tuned = [a_case(tmp_path, "b", "validation", "two")]
    assert seen_in_training(tuned, tmp_path, recorded) == {}, "no weight was made of it"


def test_of_a_model_that_does_not_tell_the_report_says_so(tmp_path: Path) -> None:
    case = a_case(tmp_path, "a", "test")
    for folder in (None, tmp_path):
        assert "may have been seen" in check_unseen([case], tmp_path, folder, allow_seen=False).note


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not valid JSON"),
        ("[]", "expected an object"),
        ('{"cases": [{"name": "a"}]}', "is no record of training cases"),
        ('{"cases": 3}', "is no record of training cases"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / TRAINING_CASES).write_text(text)
    with pytest.raises(WeightsError, match=why):
        read_training_cases(tmp_path)


def test_the_bundled_model_tells_what_it_was_trained_on() -> None:
    """By the protocol that it was trained by: as many digests as files, since a label map may be painted in two ways."""
    trained = read_training_cases(resource_path("Models", "mini"))
    cases = read_protocol(resource_path("Protocols", "mini.json"))
    assert trained is not None
    for use, split in (("trained", "train"), ("tuned", "validation")):
        told = {(case.name, case.patient) for case in trained if case.use == use}
        wanted = {(case.name, case.patient) for case in cases if case.split == split}
        assert told == wanted
    image_of = {case.name: case.image for case in cases}
    assert len({case.sha256 for case in trained}) == len({image_of[case.name] for case in trained})
    assert json.loads(resource_path("Models", "mini", TRAINING_CASES).read_text())["format"] == 1
