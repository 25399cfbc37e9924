"""Tables of cases: what is read, and everything that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.datasets.tables import cases_of_table, rows_of
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.protocol_cases import is_healthy


def a_table(folder: Path, text: str) -> Path:
    path = folder / "cases.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("parting", [",", ";", "\t"])
def test_cells_are_parted_by_comma_semicolon_or_tab(tmp_path: Path, parting: str) -> None:
    path = a_table(tmp_path, f"\ufeffimage {parting} patient\n\na.nii{parting} p 1 \n")
    assert rows_of(path) == [{"image": "a.nii", "patient": "p 1"}]


def test_one_label_map_may_hold_organ_and_tumor(tmp_path: Path) -> None:
    path = a_table(
        tmp_path,
        "name,image,label,patient,organ,modality,tumor_values,organ_values,contrast\n"
        "x,a.nii.gz,l.nii.gz,p,kidney,CT,2 3,1,portal\n",
    )
    assert cases_of_table(path) == [
        Case(
            "x", "p", "", "CT", "a.nii.gz", "kidney", "l.nii.gz", "l.nii.gz", {"kidney": [1, 2, 3]},
            tumor_values=[2, 3], contrast="portal",
        )
    ]  # fmt: skip


def test_what_the_table_leaves_open_is_said_once_for_all(tmp_path: Path) -> None:
    path = a_table(tmp_path, "image,label,patient,modality\na/ct.nii.gz,l.nii.gz,p,\nb.nrrd,m.nrrd,q,MR\n")
    first, second = cases_of_table(path, "liver", "CT", [2])
    assert (first.name, first.organ, first.modality, first.tumor_values) == ("a/ct", "liver", "CT", [2])
    assert (second.name, second.modality) == ("b", "MR")


def test_a_case_is_named_after_its_image_without_suffix_and_a_dicom_folder_keeps_its_uid(tmp_path: Path) -> None:
    """1.2.840.1 and 1.2.840.2 are two series; a UID's last number is no suffix."""
    images = {
        "dicom/1.2.840.1": "dicom/1.2.840.1",
        "dicom/1.2.840.2": "dicom/1.2.840.2",
        "b.v2.nii.gz": "b.v2",
        "c.nrrd": "c",
    }
    path = a_table(tmp_path, "image,patient,modality\n" + "".join(f"{image},p,CT\n" for image in images))
    assert {case.image: case.name for case in cases_of_table(path)} == images


def test_a_row_without_a_label_is_a_healthy_scan_only_if_the_table_says_so(tmp_path: Path) -> None:
    path = a_table(tmp_path, "image,label,patient,organ\na.nii,l.nii,p,\nb.nii,,q,\nc.nii,,r,liver\n")
    cases = cases_of_table(path, "liver", "CT", [2])
    assert [(case.organ, is_healthy(case)) for case in cases] == [("liver", False), ("", False), ("liver", True)]


def test_an_outlined_organ_without_a_value_for_tumor_is_healthy(tmp_path: Path) -> None:
    path = a_table(
        tmp_path,
        "image,label,patient,organ,modality,organ_values,tumor_values\n"
        "a.nii,a_l.nii,p,Liver,CT,1,2\nb.nii,b_l.nii,q,liver,CT,1,\n",
    )
    sick, healthy = cases_of_table(path)
    assert (sick.organ, sick.tumor, sick.label_names) == ("liver", "a_l.nii", {"liver": [1, 2]})
    assert (healthy.tumor, healthy.labels, healthy.label_names) == ("", "b_l.nii", {"liver": [1]})
    assert is_healthy(healthy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("image,patient\na,b,c\n", "line 2: more cells than the heading has"),
        ("image,patient,organs\na,b,c\n", "unknown column 'organs'"),
        ("image,patient\na,b\n", "case 1: no modality"),
        ("image,label,modality\na,l,CT\n", "case 1: no patient, organ"),
        ("image,patient,modality\na,b,PET\n", "unknown modality 'PET'"),
        ("image,patient,modality,split\na,b,CT,testing\n", "unknown split 'testing'"),
        ("image,patient,modality,tumor_values\na,b,CT,two\n", "expected whole numbers, got 'two'"),
    ],
)
def test_a_wrong_table_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        cases_of_table(a_table(tmp_path, text))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,patient,sex\na,Doe, John,F\n", "line 2: more cells than the heading has"),
        ('case,sex\na,F\nb,"M\nc,F\nd,M\n', "unexpected end of data"),
        ('case,note\na,"wide" and flat\n', "line 2: ',' expected after '\"'"),
        ("case,note\na," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ("case,dice,dice \na,1,0\n", "has two columns 'dice'"),
        ("name,dice\na,1\n", "has no column 'case'; it has name, dice"),
    ],
)
def test_cells_that_would_shift_or_swallow_others_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Else a comma in a patient's name made a group of that name, and a quotation mark hid the rows after it."""
    with pytest.raises(InputError) as caught:
        rows_of(a_table(tmp_path, text), ["case"])
    assert message in caught.value.message and caught.value.hint


def test_quoted_cells_hold_commas_and_lines_and_short_rows_are_filled(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'case,patient,note\r\na,"Doe, John","two\r\nlines"\r\nb,Roe\r\n')
    assert rows_of(path) == [
        {"case": "a", "patient": "Doe, John", "note": "two\r\nlines"},
        {"case": "b", "patient": "Roe", "note": ""},
    ]
    path.write_bytes(b"case;dice\ra;0,5\r")  # as an old spreadsheet ends lines
    assert rows_of(path) == [{"case": "a", "dice": "0,5"}]


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv cannot be read: No such file or directory\.") as caught:
        rows_of(tmp_path / "none.csv")
    assert caught.value.code == "missing" and caught.value.hint == ""


def test_a_table_in_another_encoding_is_asked_for_in_utf_8(tmp_path: Path) -> None:
    """As spreadsheets save it where nobody chose."""
    path = tmp_path / "t.csv"
    path.write_bytes("case,patient\na,Müller\n".encode("cp1252"))
    with pytest.raises(InputError, match="t.csv is not in UTF-8: ") as caught:
        rows_of(path)
    assert caught.value.code == "table" and caught.value.hint == "save it in UTF-8."
