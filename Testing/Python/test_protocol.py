"""Protocols: what is read, and everything that is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_data import write_protocol

from DiffuGTSLib.datasets import protocol
from DiffuGTSLib.datasets.protocol import Case, read_protocol, read_scan
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes import Geometry, Volume, read_volume, write_volume

ROW: dict[str, Any] = {"name": "a", "patient": "p", "split": "train", "modality": "CT", "image": "a/ct.nii.gz"}


def test_a_case_is_read_with_its_defaults(tmp_path: Path) -> None:
    path = write_protocol(
        tmp_path / "p.json", [{**ROW, "label_names": {"liver": [1, 2]}, "unmarked_near": {"liver": 8}}]
    )
    (case,) = read_protocol(path)
    assert case == Case(
        "a", "p", "train", "CT", "a/ct.nii.gz", label_names={"liver": [1, 2]}, unmarked_near={"liver": 8}
    )
    assert case.tumor == "" and case.healthy_only_in == [] and not case.framed_on_tumor


def test_the_bundled_protocol_keeps_every_patient_in_one_split() -> None:
    cases = read_protocol(resource_path("Protocols", "mini.json"))
    split_of = {(case.patient, case.split) for case in cases}
    assert len(split_of) == len({case.patient for case in cases})
    assert {"train", "validation", "test"} <= {case.split for case in cases}
    healthy = {case.name: case.organ for case in cases if case.split == "test" and not case.tumor}
    assert healthy == {"head_ct": "brain"}, "the only healthy test scan, and it names its organ"


def test_a_ct_that_does_not_hold_hu_is_read_as_hu(tmp_path: Path) -> None:
    stored = np.full((4, 5, 6), 1064, np.int16)
    write_volume(Volume(stored, Geometry.from_spacing(stored.shape, (1.0, 1.0, 1.0))), tmp_path / "ct.nii.gz")
    case = Case("a", "p", "test", "CT", "ct.nii.gz", organ="brain", offset_hu=-1024)
    scan = read_scan(case, tmp_path)
    assert (scan.array == 40).all() and (scan.offset_hu, scan.modality) == (-1024, "CT")
    assert (read_scan(replace(case, offset_hu=0.0), tmp_path).array == 1064).all()
    path = write_protocol(tmp_path / "p.json", [{**ROW, "modality": "MR", "offset_hu": -1024}])
    with pytest.raises(InputError, match="offset_hu is for CT, the modality is 'MR'"):
        read_protocol(path)


def test_a_label_map_with_densities_is_painted_as_a_ct() -> None:
    anatomy = Case("a", "p", "train", "labels", "a.nii.gz", label_hu={"28": [2, 41], "-100 to 60": [507]})
    assert anatomy.painted_as == "CT"
    assert anatomy.tissue_hu == {2: (28, 28), 41: (28, 28), 507: (-100, 60)}
    assert replace(anatomy, label_hu={}).painted_as == "MR"
    assert Case("a", "p", "train", "CT", "a.nii.gz").painted_as == "CT"


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    path = write_protocol(tmp_path / "p.json", [ROW, {**ROW, "name": "b", "split": "test"}])
    with pytest.raises(InputError, match=r"Patient 'p' is in splits 'train' and 'test'") as caught:
        read_protocol(path)
    assert caught.value.code == "leakage" and "one split" in caught.value.hint


def test_one_scan_of_two_patients_in_two_splits_is_refused(tmp_path: Path) -> None:
    other = {**ROW, "name": "b", "patient": "q", "split": "test", "image": f"./{ROW['image']}"}
    with pytest.raises(InputError, match=r"in split 'train' as patient 'p' and in 'test' as 'q'") as caught:
        read_protocol(write_protocol(tmp_path / "p.json", [ROW, other]))
    assert caught.value.code == "leakage"
    for more in ({"split": ROW["split"]}, {"split": "excluded"}, {"image": "another.nii.gz"}):
        assert len(read_protocol(write_protocol(tmp_path / "p.json", [ROW, {**other, **more}]))) == 2


def test_a_protocol_that_a_windows_editor_saved_is_read(tmp_path: Path) -> None:
    path = write_protocol(tmp_path / "p.json", [ROW])
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert len(read_protocol(path)) == 1


def test_two_scans_of_a_patient_may_share_a_split(tmp_path: Path) -> None:
    assert len(read_protocol(write_protocol(tmp_path / "p.json", [ROW, {**ROW, "name": "b"}]))) == 2


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"split": "tset"}, "unknown split 'tset'; expected one of train, validation, test, excluded", ""),
        ({"modality": "PET"}, "unknown modality 'PET'; expected one of CT, MR, labels", ""),
        ({"tumour": "x"}, "Unknown key 'tumour' in case 'a'", "did you mean 'tumor'?"),
        ({"patient": 3}, "expected patient to be str, got 3", ""),
        ({"lung_by_air": "yes"}, "expected lung_by_air to be bool, got 'yes'", ""),
        ({"label_names": {"liver": 1}}, "expected label_names to be dict[str, list[int]]", ""),
        (
            {"label_hu": {"28": [2]}},
            "label_hu is for label maps that are painted, the modality is 'CT'",
            "omit it",
        ),
        ({"modality": "labels", "label_hu": {"soft": [2]}}, "label_hu: 'soft' is no density", '"-100 to 60"'),
        (
            {"modality": "labels", "label_hu": {"5": [4], "30": [2, 4]}},
            "label_hu names 4 more than once",
            "one density",
        ),
        ({"modality": "labels", "label_hu": {"60 to -100": [2]}}, "'60 to -100' is no density", "-1100 to 4000"),
        ({"healthy_only_in": "lung"}, "expected healthy_only_in to be list[str], got 'lung'", ""),
        ({"unmarked_near": {"liver": "near"}}, "expected unmarked_near to be dict[str, float]", ""),
        (
            {"unmarked_near": {"liver": math.nan}},
            "expected unmarked_near to be dict[str, float], got {'liver': nan}",
            "",
        ),
        (
            {"organ": "liver", "unmarked_near": {"liver": -5}},
            "at least 0 mm around the liver in unmarked_near, got -5",
            "",
        ),
        ({"offset_hu": math.inf}, "expected offset_hu to be float, got inf", ""),
        ({"offset_hu": 10**400}, "expected offset_hu to be float, got 1000", ""),
        ({"healthy_only_in": ["lung"]}, "speaks of the lung, but does not say where it is", "lung_by_air"),
        (
            {"organ": "liver", "tumor": "l.nii", "labels": "l.nii", "label_names": {"liver": [1, 2]}},
            "l.nii holds organs and tumor, and all of it would count as tumor",
            "name which values are tumor",
        ),
        ({"unmarked_near": {"liver": 9.0}}, "speaks of the liver, but does not say where it is", "label_names"),
    ],
)
def test_a_wrong_key_or_value_is_refused_in_words(
    tmp_path: Path, change: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_protocol(write_protocol(tmp_path / "p.json", [{**ROW, **change}]))
    assert message in caught.value.message and hint in caught.value.hint


def test_an_organ_in_another_spelling_is_the_same_organ(tmp_path: Path) -> None:
    spelled = {
        "organ": "Hepatic", "tumor": "t.nii", "labels": "l.nii", "label_names": {"Liver": [1], "liver": [1, 2], "Aorta": [7]},
        "organ_files": {"Kidneys": ["left.nii"], "kidney": ["right.nii"]}, "unmarked_near": {"LIVER": 5.0, "liver": 8.0},
        "healthy_only_in": ["Kidneys", "kidney"],
    }  # fmt: skip
    (case,) = read_protocol(write_protocol(tmp_path / "p.json", [{**ROW, **spelled}]))
    assert case.organ == "liver" and case.label_names == {"liver": [1, 2], "Aorta": [7]}
    assert case.organ_files == {"kidney": ["left.nii", "right.nii"]}
    assert case.unmarked_near == {"liver": 8.0} and case.healthy_only_in == ["kidney"]


def test_an_organ_may_be_defined_by_air_or_by_the_case(tmp_path: Path) -> None:
    rows = [
        {**ROW, "lung_by_air": True, "healthy_only_in": ["lung"]},
        {**ROW, "name": "b", "organ": "brain", "unmarked_near": {"brain": 5.0}},
    ]
    assert len(read_protocol(write_protocol(tmp_path / "p.json", rows))) == 2


def test_missing_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Case 'a' lacks modality, image"):
        read_protocol(write_protocol(tmp_path / "p.json", [{"name": "a", "patient": "p", "split": "train"}]))


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Two cases are named 'a'"):
        read_protocol(write_protocol(tmp_path / "p.json", [ROW, ROW]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "is not a protocol: 'cases' must be a list, got None"),
        ('{"cases": {}}', "is not a protocol"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError, match=why) as caught:
        read_protocol(path)
    assert "mini.json" in caught.value.hint


def test_cases_that_are_no_list_are_not_told_at_length(tmp_path: Path) -> None:
    path = write_protocol(tmp_path / "p.json", [ROW])
    path.write_text(json.dumps({"cases": {f"case {number}": ROW for number in range(500)}}))
    with pytest.raises(InputError, match="'cases' must be a list, got {'case 0'") as caught:
        read_protocol(path)
    assert len(caught.value.message) < len(str(path)) + 200


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.json does not exist"):
        read_protocol(tmp_path / "none.json")


def test_a_case_that_is_no_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('{"cases": ["a"]}')
    with pytest.raises(InputError, match="Expected an object for each case, got 'a'"):
        read_protocol(path)


@pytest.mark.parametrize("keys", [{"other_lesion_values": [3]}, {"unknown_labels": {"HCC": [3]}}])
def test_a_lesion_without_a_label_map_is_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"names {next(iter(keys))}, but no label map") as caught:
        read_protocol(write_protocol(tmp_path / "p.json", [{**ROW, **keys}]))
    assert "labels" in caught.value.hint


def test_a_protocol_comes_back_as_it_was_written(tmp_path: Path) -> None:
    case = Case(
        "a", "p", "train", "CT", "a/ct.nii.gz", "kidney", "a/seg.nii.gz", "a/seg.nii.gz", {"kidney": [1, 2, 3]},
        tumor_values=[2], other_lesion_values=[3], organ_files={"liver": ["a/liver.nii.gz"]}, contrast="portal",
    )  # fmt: skip
    protocol.write_protocol(tmp_path / "p.json", [case], "One kidney.", seed=3)
    assert read_protocol(tmp_path / "p.json") == [case]
    content = json.loads((tmp_path / "p.json").read_text())
    assert (content["format"], content["description"], content["seed"]) == (1, "One kidney.", 3)
    assert "lung_by_air" not in content["cases"][0], "what is as by default goes without saying"
    assert case.files == ["a/ct.nii.gz", "a/seg.nii.gz", "a/liver.nii.gz"]


def test_a_mask_that_comes_with_the_project_is_found_wherever_the_data_are(tmp_path: Path) -> None:
    assert protocol.named_file(tmp_path, "a/liver.nii.gz") == tmp_path / "a" / "liver.nii.gz"
    named = "resource:Outlines/CRLM-1004/liver.nii.gz"
    assert protocol.named_file(tmp_path, named) == resource_path("Outlines", "CRLM-1004", "liver.nii.gz")
    with pytest.raises(InputError, match=r"Resource 'Outlines/nobody/liver\.nii\.gz' not found"):
        protocol.named_file(tmp_path, "resource:Outlines/nobody/liver.nii.gz")


def test_every_bundled_outline_is_named_by_the_bundled_protocol_and_every_one_it_names_is_there(tmp_path: Path) -> None:
    cases = read_protocol(resource_path("Protocols", "mini.json"))
    named = {
        protocol.named_file(tmp_path, file) for case in cases for file in case.files if file.startswith("resource:")
    }
    assert named == set(resource_path("Outlines").glob("*/*.nii.gz"))
    assert {case.split for case in cases if any(path.parent.name == case.name for path in named)} == {"train"}
    for path in named:
        assert set(np.unique(read_volume(path).array)) == {0, 1}


def test_a_patient_in_two_splits_can_be_read_in_order_to_be_reported(tmp_path: Path) -> None:
    path = write_protocol(tmp_path / "p.json", [ROW, {**ROW, "name": "b", "split": "test"}])
    assert protocol.shared_patients(protocol.read_cases(path)) == {"p": ["train", "test"]}
