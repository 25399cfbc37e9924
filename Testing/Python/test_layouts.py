"""Folders in the layouts of the field: which cases they hold, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest
from layouts import write_brats, write_kits, write_msd, write_nnunet, write_table, write_totalsegmentator
from mini_data import GRID, canonical
from phantoms import ct_phantom

from DiffuGTSLib.cli.data_protocols import LayoutName
from DiffuGTSLib.datasets.layouts import LAYOUTS, LayoutOptions, read_layout, stem
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.recognize import recognize
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training.data import load_case
from DiffuGTSLib.volumes import read_mask

LIVER = {"background": 0, "liver": 1, "tumor": 2}


def test_the_command_line_offers_every_layout() -> None:
    assert set(get_args(LayoutName)) == set(LAYOUTS)


def linked(folder: Path, kind: str) -> Path:
    """Return a copy of a folder whose files, or whose folders, are links to what lies elsewhere under other names."""
    copy, store = folder.with_name(f"linked_{kind}"), folder.with_name(f"store_{kind}")
    if kind == "files":
        for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
            there = store / f"MD5E-{number}.nii.gz"
            there.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, there)
            here = copy / path.relative_to(folder)
            here.parent.mkdir(parents=True, exist_ok=True)
            here.symlink_to(there)
    else:
        shutil.copytree(folder, store)
        copy.mkdir()
        for number, path in enumerate(sorted(store.iterdir())):
            moved = path.rename(store / f"moved_{number}")
            (copy / path.name).symlink_to(moved, target_is_directory=moved.is_dir())
    return copy


@pytest.mark.parametrize("kind", ["files", "folders"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "csv"])
def test_what_is_linked_from_elsewhere_is_read_as_if_it_were_here(tmp_path: Path, layout: str, kind: str) -> None:
    folder = tmp_path / "data"
    {
        "msd": lambda: write_msd(folder, 2),
        "kits": lambda: write_kits(folder, 2),
        "brats": lambda: write_brats(folder, ["BraTS2021_00000", "BraTS2021_00002"], ["t1", "flair"]),
        "nnunet": lambda: write_nnunet(folder, ["CT"], LIVER, test=True),
        "totalsegmentator": lambda: write_totalsegmentator(folder),
    }[layout]()
    copy = linked(folder, kind)
    assert recognize(copy) == layout
    assert read_layout(copy, layout) == read_layout(folder, layout)
    above = read_layout(copy, layout, root=tmp_path)
    assert all(file.startswith(f"linked_{kind}/") for case in above for file in case.files)


def test_a_folder_may_be_named_through_a_link_to_the_root(tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "here" / "Task03_Liver", 1)
    (tmp_path / "link").symlink_to(tmp_path / "here", target_is_directory=True)
    cases = read_layout(folder, "msd", root=tmp_path / "link")
    assert cases[0].image == "Task03_Liver/imagesTr/liver_0.nii.gz"


# The Decathlon


def test_a_task_of_the_decathlon_has_tumors_and_organs_in_one_file(tmp_path: Path) -> None:
    cases = read_layout(write_msd(tmp_path / "Task03_Liver"), "msd")
    assert [case.name for case in cases] == ["liver_0", "liver_1", "liver_2", "liver_3"]
    label = "labelsTr/liver_0.nii.gz"
    assert cases[0] == Case(
        "liver_0", "liver_0", "", "CT", "imagesTr/liver_0.nii.gz", "liver", label, label, {"liver": [1, 2]},
        tumor_values=[2],
    )  # fmt: skip


def test_what_is_read_can_be_trained_on(tmp_path: Path) -> None:
    case = read_layout(write_msd(tmp_path, 1), "msd")[0]
    scan = load_case(case, tmp_path, canonical())
    assert scan.tumor.any() and not (scan.tumor & ~scan.organs["liver"]).any()


def test_paths_may_start_from_a_folder_above(tmp_path: Path) -> None:
    cases = read_layout(write_msd(tmp_path / "Task03_Liver", 1), "msd", root=tmp_path)
    assert cases[0].files == ["Task03_Liver/imagesTr/liver_0.nii.gz", "Task03_Liver/labelsTr/liver_0.nii.gz"]
    with pytest.raises(InputError, match="is not below"):
        read_layout(tmp_path / "Task03_Liver", "msd", root=tmp_path / "other")


def test_a_lung_without_outline_is_found_by_its_air_and_a_colon_nowhere(tmp_path: Path) -> None:
    lung = read_layout(write_msd(tmp_path / "a", 1, name="Lung", labels={"1": "cancer"}), "msd")[0]
    assert (lung.organ, lung.lung_by_air, lung.labels, lung.tumor_values) == ("lung", True, "", [1])
    colon = read_layout(write_msd(tmp_path / "b", 1, name="Colon", labels={"2": "colon cancer primaries"}), "msd")[0]
    assert load_case(colon, tmp_path / "b", canonical()).organs == {}


def test_a_validation_set_of_the_decathlon_is_kept(tmp_path: Path) -> None:
    pair = {"image": "imagesTr/liver_1.nii.gz", "label": "labelsTr/liver_1.nii.gz"}
    first = {"image": "imagesTr/liver_0.nii.gz", "label": "labelsTr/liver_0.nii.gz"}
    cases = read_layout(write_msd(tmp_path, 2, training=[first], validation=[pair]), "msd")
    assert [case.split for case in cases] == ["train", "validation"]


def test_scans_of_several_channels_in_one_file_are_refused(tmp_path: Path) -> None:
    folder = write_msd(tmp_path, 1, modality={"0": "T2", "1": "ADC"})
    with pytest.raises(InputError, match=r"scans of 2 channels \(T2, ADC\) in one file") as caught:
        read_layout(folder, "msd")
    assert caught.value.code == "channels" and "nnU-Net" in caught.value.hint


# KiTS and BraTS


def test_a_cyst_of_kits_is_neither_tumor_nor_healthy(tmp_path: Path) -> None:
    cases = read_layout(write_kits(tmp_path), "kits")
    assert [case.name for case in cases] == ["case_00000", "case_00001", "case_00002"]
    label = "case_00000/segmentation.nii.gz"
    assert cases[0] == Case(
        "case_00000", "case_00000", "", "CT", "case_00000/imaging.nii.gz", "kidney", label, label,
        {"kidney": [1, 2, 3]}, tumor_values=[2], other_lesion_values=[3],
    )  # fmt: skip
    scan = load_case(cases[0], tmp_path, canonical())
    cyst = scan.scan.project(read_mask(tmp_path / label, ct_phantom(GRID).scan.geometry, [3])) >= 0.5
    assert cyst.sum() == 8 and not scan.tumor[cyst].any() and not scan.healthy[cyst].any()


@pytest.mark.parametrize(
    ("visits", "contrasts", "parting"),
    [
        (["BraTS2021_00000", "BraTS2021_00002"], ["t1", "t1ce", "t2", "flair"], "_"),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00002-000"], ["t1n", "t1c", "t2w", "t2f"], "-"),
    ],
)
def test_every_contrast_of_brats_is_a_scan_of_the_same_patient(
    tmp_path: Path, visits: list[str], contrasts: list[str], parting: str
) -> None:
    cases = read_layout(write_brats(tmp_path, visits, contrasts, parting), "brats")
    assert len(cases) == 8 and len({case.patient for case in cases}) == 2
    assert sorted(case.contrast for case in cases if case.patient in visits[0]) == ["FLAIR", "T1", "T1c", "T2"]
    first = next(case for case in cases if case.name == f"{visits[0]}_T1c")
    assert first.image == f"{visits[0]}/{visits[0]}{parting}{contrasts[1]}.nii.gz"
    assert (first.modality, first.organ, first.tumor_values[:3]) == ("MR", "brain", [1, 2, 3])
    assert load_case(first, tmp_path, canonical()).organs["brain"].any()


def test_the_visits_of_a_patient_of_brats_are_of_one_patient(tmp_path: Path) -> None:
    visits = ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"]
    cases = read_layout(
        write_brats(tmp_path / "TrainingData", visits, ["t1c"], "-"), "brats", LayoutOptions(tumor_values=[1, 3])
    )
    assert [case.patient for case in cases] == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00006"]
    assert cases[0].tumor_values == [1, 3]
    assert {case.organ for case in read_layout(tmp_path / "TrainingData", "brats", LayoutOptions("Cerebral"))} == {
        "brain"
    }


@pytest.mark.parametrize(
    ("visit", "tumor", "others"),
    [("BraTS-GLI-02062-100", [1, 2, 3], [4]), ("BraTS-PED-00002-000", [1, 2, 3, 4], []),
     ("BraTS2021_00002", [1, 2, 3, 4], []), ("Brats18_2013_11_1", [1, 2, 3, 4], [])],
)  # fmt: skip
def test_the_cavity_of_a_treated_glioma_is_no_tumor(
    tmp_path: Path, visit: str, tumor: list[int], others: list[int]
) -> None:
    (case,) = read_layout(write_brats(tmp_path, [visit], ["t1c"], "-"), "brats")
    assert (case.tumor_values, case.other_lesion_values) == (tumor, others)
    assert bool(case.labels) == bool(others), "a protocol that names other lesions says where"
    (chosen,) = read_layout(tmp_path, "brats", LayoutOptions(tumor_values=[1, 3, 4]))
    assert (chosen.tumor_values, chosen.other_lesion_values) == ([1, 3, 4], [])
    assert load_case(case, tmp_path, canonical()).organs["brain"].any()


# nnU-Net


def test_raw_data_of_nnunet_keep_a_test_set_with_labels(tmp_path: Path) -> None:
    cases = read_layout(write_nnunet(tmp_path / "Dataset003_Liver", ["CT"], LIVER, test=True), "nnunet")
    assert [(case.name, case.split) for case in cases] == [
        ("case_0", ""), ("case_1", ""), ("case_2", ""), ("case_9", "test"),
    ]  # fmt: skip
    assert (cases[3].image, cases[3].tumor) == ("imagesTs/case_9_0000.nii.gz", "labelsTs/case_9.nii.gz")
    assert (cases[0].modality, cases[0].label_names, cases[0].tumor_values) == ("CT", {"liver": [1, 2]}, [2])


def test_a_label_of_which_nothing_is_known_is_not_healthy_in_training(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Dataset100", ["CT"], {"background": 0, "liver": 1, "Klatskin": 2})
    case = read_layout(folder, "nnunet")[0]
    assert (case.tumor, case.label_names, case.unknown_labels) == ("", {"liver": [1]}, {"Klatskin": [2]})
    scan = load_case(case, folder, canonical())
    unknown = scan.scan.project(read_mask(folder / case.labels, ct_phantom(GRID).scan.geometry, [2])) >= 0.5
    assert unknown.any() and not scan.healthy[unknown].any() and not scan.organs["liver"][unknown].any()
    assert (scan.healthy & scan.organs["liver"]).any()


def test_every_channel_of_nnunet_is_a_scan_and_regions_are_understood(tmp_path: Path) -> None:
    labels = {"background": 0, "whole tumor": [1, 2], "tumor core": [2]}
    folder = write_nnunet(tmp_path / "Dataset001_BrainTumour", ["T1", "FLAIR"], labels)
    cases = read_layout(folder, "nnunet")
    assert len(cases) == 6 and len({case.patient for case in cases}) == 3
    assert (cases[0].name, cases[0].contrast, cases[0].modality) == ("case_0_FLAIR", "FLAIR", "MR")
    assert cases[0].image == "imagesTr/case_0_0001.nii.gz" and cases[0].tumor_values == [1, 2]


def test_the_first_version_of_nnunet_names_labels_by_value(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "liver", "2": "tumor"}
    cases = read_layout(write_nnunet(tmp_path / "Task003_Liver", ["CT"], labels), "nnunet")
    assert (cases[0].organ, cases[0].label_names, cases[0].tumor_values) == ("liver", {"liver": [1, 2]}, [2])


def test_a_channel_of_unknown_modality_needs_a_word(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Liver", ["zscore"], LIVER)
    with pytest.raises(InputError, match="does not say whether 'zscore' is CT or MR") as caught:
        read_layout(folder, "nnunet")
    assert "--modality" in caught.value.hint
    assert read_layout(folder, "nnunet", LayoutOptions(modality="MR"))[0].modality == "MR"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {}}', "expected the object 'modality', got None"),
        ('{"channel_names": {"0": "CT"}, "labels": ["liver"]}', "expected the object 'labels'"),
        ('{"channel_names": {"0": "CT"}, "labels": {"liver": "one"}}', "expected whole numbers for labels, got 'one'"),
    ],
)
def test_another_dataset_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_layout(tmp_path, "nnunet")
    assert message in caught.value.message


# TotalSegmentator and tables


def test_organs_of_totalsegmentator_are_made_of_their_files(tmp_path: Path) -> None:
    cases = read_layout(write_totalsegmentator(tmp_path), "totalsegmentator")
    assert [case.split for case in cases] == ["train", "test", "excluded"], "a scan with a tumor is not healthy"
    folder = "s0000/segmentations"
    assert cases[0].organ_files == {
        "liver": [f"{folder}/liver.nii.gz"],
        "kidney": [f"{folder}/kidney_left.nii.gz", f"{folder}/kidney_right.nii.gz"],
        "bone": [f"{folder}/vertebrae_L1.nii.gz"],
    }
    assert set(load_case(cases[0], tmp_path, canonical()).organs) == {"liver", "kidney", "bone"}


def test_a_table_names_scans_of_any_folder(tmp_path: Path) -> None:
    text = "image,label,patient,split,organ,modality\na.nii.gz,a_tumor.nii.gz,p1,train,liver,CT\nb.nii.gz,,p2,,,CT\n"
    cases = read_layout(write_table(tmp_path, text, ["a", "b"]), "csv", root=tmp_path.parent)
    above = tmp_path.name
    assert cases[0] == Case("a", "p1", "train", "CT", f"{above}/a.nii.gz", "liver", f"{above}/a_tumor.nii.gz")
    assert cases[1] == Case("b", "p2", "", "CT", f"{above}/b.nii.gz")
    assert [case.name for case in read_layout(tmp_path, "csv")] == ["a", "b"], "a folder stands for its table"


def test_two_cases_of_one_name_are_refused_before_a_protocol_is_written(tmp_path: Path) -> None:
    text = "image,patient,modality\na.nii.gz,p1,CT\na.nii.gz,p2,CT\n"
    with pytest.raises(InputError, match="Two cases of .* are named 'a'") as caught:
        read_layout(write_table(tmp_path, text, ["a"]), "csv")
    assert caught.value.code == "names" and "column 'name'" in caught.value.hint
    named = text.replace("image,", "name,image,").replace("\na", "\nfirst,a", 1).replace("\na", "\nsecond,a", 1)
    assert [case.name for case in read_layout(write_table(tmp_path, named, ["a"]), "csv")] == ["first", "second"]


def test_of_two_tables_one_must_be_named(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,patient\n")
    with pytest.raises(InputError, match="Expected one table in .*, got 2"):
        read_layout(tmp_path, "csv")


# What all have in common


def test_a_pattern_finds_the_patient_in_a_name(tmp_path: Path) -> None:
    cases = read_layout(write_msd(tmp_path, 2), "msd", LayoutOptions(patient_pattern=r"(\w+)_\d"))
    assert {case.patient for case in cases} == {"liver"}
    for pattern, message in (("(", "is no regular expression"), ("x(.)", "finds no patient"), ("liver", "no patient")):
        with pytest.raises(InputError, match=message) as caught:
            read_layout(tmp_path, "msd", LayoutOptions(patient_pattern=pattern))
        assert caught.value.code == "patient"


def test_a_missing_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (write_msd(tmp_path, 2) / "labelsTr" / "liver_1.nii.gz").unlink()
    with pytest.raises(InputError, match=r"labelsTr/liver_1.nii.gz, which is not there") as caught:
        read_layout(tmp_path, "msd")
    assert caught.value.code == "missing"


def test_hidden_files_of_a_mac_are_no_scans(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Liver", ["CT"], LIVER)
    for name in ("imagesTr/._case_0_0000.nii.gz", "labelsTr/._case_0.nii.gz"):
        (folder / name).write_bytes(b"Mac OS X")
    assert len(read_layout(folder, "nnunet")) == 3


@pytest.mark.parametrize("layout", ["kits", "brats", "totalsegmentator"])
def test_a_folder_in_another_layout_is_refused_with_the_form_that_was_expected(tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match=f"no case in the layout '{layout}'") as caught:
        read_layout(tmp_path, layout)
    assert caught.value.code == "layout" and "expected" in caught.value.hint


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown layout 'bids'"):
        read_layout(tmp_path, "bids")


def test_a_stem_keeps_the_dots_of_a_name() -> None:
    assert [stem(name) for name in ("a.nii.gz", "b/1.2.3.nii", "c.nrrd")] == ["a", "1.2.3", "c"]
