"""Lists of tumors: what they may say, what is left out with a word, and the similarity study over one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantoms import ct_phantom, grid

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.tumor_list import measure_list, read_tumor_list, sheet_rows, study_similarity
from DiffuGTSLib.volumes.io import write_volume

SMALL = grid((36, 34, 40), (3.0, 3.0, 3.0))


@pytest.fixture(scope="module")
def a_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients with a real tumor each, and a coarser painted one; one of them too small."""
    folder = tmp_path_factory.mktemp("list")
    lines = ["case,patient,group,scan,mask,modality"]
    for patient in range(8):
        for group, noise in (("real", 10.0), ("painted", 60.0)):
            phantom = ct_phantom(SMALL, noise_hu=noise, seed=patient + 100 * (group == "real"))
            name = f"{group}_{patient}"
            write_volume(phantom.scan, folder / f"{name}.nii.gz")
            mask = phantom.lesion.array.copy()
            if name == "painted_7":
                mask[:] = 0
            write_volume(phantom.lesion.with_array(mask), folder / f"{name}_mask.nii.gz")
            lines.append(f"{name},p{patient},{group},{name}.nii.gz,{name}_mask.nii.gz,ct")
    (folder / "tumors.csv").write_text("\n".join(lines) + "\n")
    return folder / "tumors.csv"


def test_paths_start_from_the_list_and_patients_and_modality_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("case,group,scan,mask\na,real,x/s.nrrd,m.nrrd\n")
    (listed,) = read_tumor_list(tmp_path / "t.csv")
    assert (listed.scan, listed.mask) == (tmp_path / "x" / "s.nrrd", tmp_path / "m.nrrd")
    assert (listed.patient, listed.modality) == ("a", "")


def test_a_tumor_that_is_too_small_is_left_out_with_a_word(a_list: Path) -> None:
    told: list[tuple[str, float]] = []
    tumors, patients, remarks = measure_list(read_tumor_list(a_list), lambda *done: told.append(done))
    assert len(tumors) == len(patients) == 15 and len(told) == 16
    assert remarks == ["Left out: painted_7: The tumor mask is empty."]


def test_parts_that_are_measured_as_one_tumor_are_told(tmp_path: Path) -> None:
    phantom = ct_phantom(SMALL)
    mask = phantom.lesion.array.copy()
    mask[1:5, 1:5, 1:5] = 1
    write_volume(phantom.scan, tmp_path / "scan.nii.gz")
    write_volume(phantom.lesion.with_array(mask), tmp_path / "mask.nii.gz")
    (tmp_path / "t.csv").write_text("case,group,scan,mask,modality\na,real,scan.nii.gz,mask.nii.gz,CT\n")
    tumors, _, remarks = measure_list(read_tumor_list(tmp_path / "t.csv"))
    assert len(tumors) == 1
    assert remarks == ["a: 2 separate parts were measured as one tumor; list a mask of each."]


def test_units_of_ct_and_mr_are_not_compared(a_list: Path) -> None:
    listed = read_tumor_list(a_list)
    mixed = [listed[0], replace(listed[1], modality="MR")]
    with pytest.raises(InputError, match=r"mixes CT \('real_0'\) and MR \('painted_0'\)"):
        measure_list(mixed)


def test_a_file_that_is_missing_stops_the_study(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("case,group,scan,mask\na,real,s.nrrd,m.nrrd\n")
    with pytest.raises(InputError, match="s.nrrd does not exist"):
        measure_list(read_tumor_list(tmp_path / "t.csv"))


def test_coarser_tumors_are_told_apart_and_the_report_says_so(a_list: Path, tmp_path: Path) -> None:
    test = study_similarity(read_tumor_list(a_list), tmp_path / "out", permutations=39)
    assert test.told_apart and test.accuracy.share > 0.9
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["total"] == 15 and report["p_value"] == pytest.approx(1 / 40)
    assert "the groups are told apart" in report["notes"][0] and "Left out: painted_7" in report["notes"][2]
    assert "| painted | 7 |" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "tumors.csv").is_file() and (tmp_path / "out" / "kinds.csv").is_file()


def test_a_sheet_puts_a_patients_tumors_side_by_side(a_list: Path) -> None:
    rows = sheet_rows(read_tumor_list(a_list), 3)
    titles = [[exhibit.title for exhibit in row] for row in rows]
    assert titles == [[f"real: real_{n}", f"painted: painted_{n}"] for n in range(3)]
    assert np.array_equal(rows[0][0].mask.array.shape, SMALL.shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,group,scan\na,real,s\n", "lacks mask"),
        ("case,group,scan,mask,colour\na,real,s,m,x\n", "unknown column 'colour'"),
        ("case,group,scan,mask,modality\na,real,s,m,PET\n", "expected the modality CT or MR, got 'PET'"),
        ("case,group,scan,mask,label\na,real,s,m,tumor\n", "case 'a': expected labels as 2 or 1 2, got 'tumor'"),
        ("case,group,scan,mask\n", "lacks case, group, scan, mask"),
    ],
)
def test_lists_that_cannot_be_read_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_tumor_list(tmp_path / "t.csv")


def test_an_organ_in_the_mask_is_no_tumor(tmp_path: Path) -> None:
    phantom = ct_phantom(SMALL)
    write_volume(phantom.scan, tmp_path / "s.nrrd")
    write_volume(phantom.organ.with_array(phantom.organ.array + phantom.lesion.array), tmp_path / "m.nrrd")
    (tmp_path / "t.csv").write_text("case,group,scan,mask\na,real,s.nrrd,m.nrrd\n")
    with pytest.raises(InputError, match="holds the labels 1, 2") as caught:
        measure_list(read_tumor_list(tmp_path / "t.csv"))
    assert "column 'label'" in caught.value.hint
    (tmp_path / "t.csv").write_text("case,group,scan,mask,label\na,real,s.nrrd,m.nrrd,2\n")
    (listed,) = read_tumor_list(tmp_path / "t.csv")
    assert np.array_equal(listed.read()[1].array, phantom.lesion.array)
