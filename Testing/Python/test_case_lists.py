"""Lists of cases: right roots, healthy marks, folds, and errors that name the line or the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training.case_lists import ListedCase, read_decathlon, read_fold, read_list

REAL = ("Task03_Liver/imagesTr/liver_1.nii.gz", "Task03_Liver/labelsTr/liver_1.nii.gz")
HEALTHY = ("CT/healthy 7.nii.gz", "label/liver_label/healthy 7.nii.gz")


@pytest.fixture
def a_data_folder(tmp_path: Path) -> Path:
    """One real case below `real`, one healthy case below `healthy`; empty files do."""
    for root, names in (("real", REAL), ("healthy", HEALTHY)):
        for name in names:
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).touch()
    return tmp_path


def written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_real_and_healthy_cases_start_from_their_own_roots(a_data_folder: Path) -> None:
    path = written(a_data_folder, "l.txt", "  ".join(REAL), "", "\t".join(HEALTHY))
    real, healthy = read_list(path, a_data_folder / "real", a_data_folder / "healthy")
    assert real.image == a_data_folder / "real" / REAL[0] and real.label == a_data_folder / "real" / REAL[1]
    assert healthy.image == a_data_folder / "healthy" / HEALTHY[0]
    assert (real.healthy, healthy.healthy) == (False, True)
    assert (real.image_name, real.label_name) == REAL


@pytest.mark.parametrize("organ", ["liver", "pancreas", "kidney"])
def test_a_label_path_says_that_a_case_is_healthy(a_data_folder: Path, organ: str) -> None:
    (a_data_folder / f"{organ}_label").mkdir()
    (a_data_folder / f"{organ}_label" / "a.nii").touch()
    (a_data_folder / "a.nii").touch()
    path = written(a_data_folder, "l.txt", f"a.nii {organ}_label/a.nii")
    assert read_list(path, a_data_folder)[0].healthy


def test_a_case_is_named_after_its_scan_or_the_folder_of_ct_nii_gz() -> None:
    def named(image: str) -> str:
        return ListedCase(Path(image), Path("l"), False, image, "l").name

    assert named("imagesTr/liver_1.nii.gz") == "liver_1"
    assert named("BDMAP_00000001/ct.nii.gz") == "BDMAP_00000001"
    assert named("a/scan.v2.nrrd") == "scan.v2"


def test_a_fold_has_its_own_two_lists(a_data_folder: Path) -> None:
    written(a_data_folder, "real_tumor_train_3.txt", " ".join(REAL))
    written(a_data_folder, "real_tumor_val_3.txt", " ".join(REAL), " ".join(REAL))
    found = read_fold(a_data_folder, 3, a_data_folder / "real")
    assert {split: len(cases) for split, cases in found.items()} == {"train": 1, "validation": 2}


def test_a_missing_fold_is_refused_with_those_that_are_there(a_data_folder: Path) -> None:
    written(a_data_folder, "real_tumor_train_0.txt", " ".join(REAL))
    with pytest.raises(InputError, match=r"no fold 7.*real_tumor_train_7\.txt is missing") as caught:
        read_fold(a_data_folder, 7, a_data_folder)
    assert caught.value.hint == "folds that are there: 0."


def test_the_decathlon_s_form_is_read(a_data_folder: Path) -> None:
    content = {
        "training": [{"image": f"./real/{REAL[0]}", "label": f"./real/{REAL[1]}"}],
        "validation": [{"image": f"healthy/{HEALTHY[0]}", "label": f"healthy/{HEALTHY[1]}"}],
        "test": ["./imagesTs/liver_2.nii.gz"],
    }
    path = written(a_data_folder, "dataset.json", json.dumps(content))
    found = read_decathlon(path, a_data_folder)
    assert found["train"][0].image == a_data_folder / "real" / REAL[0]
    assert found["validation"][0].healthy and not found["train"][0].healthy


def test_a_missing_file_is_named_and_the_others_counted(a_data_folder: Path) -> None:
    path = written(a_data_folder, "l.txt", " ".join(REAL), "x.nii.gz y.nii.gz")
    with pytest.raises(InputError, match=r"real/x\.nii\.gz, which is not there, and 1 more of 4 files") as caught:
        read_list(path, a_data_folder / "real")
    assert caught.value.code == "missing"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("only_one.nii.gz", "line 1: expected two columns, scan and label map, got 1"),
        ("a b c", "line 1: expected two columns, scan and label map, got 3"),
        ("", "names no case"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_list(written(tmp_path, "l.txt", line), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object, got list"),
        ('{"training": ["a"]}', "'training': expected an object with image and label, got 'a'"),
        ('{"training": [{"image": "a"}]}', "names no case with a label map"),
    ],
)
def test_another_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_decathlon(written(tmp_path, "d.json", content), tmp_path)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt cannot be read"):
        read_list(tmp_path / "none.txt", tmp_path)
