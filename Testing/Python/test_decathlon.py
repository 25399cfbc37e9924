"""`dataset.json` of the Decathlon: what is read, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import write_msd

from DiffuGTSLib.datasets.decathlon import read_dataset_json
from DiffuGTSLib.errors import InputError


def test_scans_labels_and_modality_are_read_and_unlabeled_test_scans_left_out(tmp_path: Path) -> None:
    found = read_dataset_json(write_msd(tmp_path, 2) / "dataset.json")
    assert (found.name, found.modalities) == ("Liver", ("CT",))
    assert found.labels == {0: "background", 1: "liver", 2: "cancer"}
    assert found.pairs["train"][1] == ("./imagesTr/liver_1.nii.gz", "./labelsTr/liver_1.nii.gz")
    assert found.pairs["validation"] == [] and len(found.pairs["train"]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "dataset.json: expected an object, got list"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"training": 5}', "'training': expected a list of images and labels, got 5"),
        ('{"training": [3]}', "expected an object with image and label, got 3"),
        ('{"training": [{"image": "a"}]}', "names no case with a label map under 'training'"),
        ('{"training": [{"image": "a", "label": "b"}], "labels": ["liver"]}', "'labels': expected"),
        ('{"training": [{"image": "a", "label": "b"}], "modality": {"CT": 0}}', "'modality': expected"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_dataset_json(tmp_path / "dataset.json")
    assert message in caught.value.message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        read_dataset_json(tmp_path / "dataset.json")
    assert caught.value.code == "missing"


def test_a_validation_set_of_its_own_is_kept_apart(tmp_path: Path) -> None:
    pair = {"image": "a", "label": "b"}
    (tmp_path / "d.json").write_text(json.dumps({"training": [pair], "validation": [pair, pair]}))
    assert len(read_dataset_json(tmp_path / "d.json").pairs["validation"]) == 2
