"""The layouts of the field, told apart by their file names."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import write_brats, write_kits, write_msd, write_nnunet

from DiffuGTSLib.datasets.recognize import recognize


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("msd", ["dataset.json", "imagesTr/liver_0.nii.gz", "labelsTr/liver_0.nii.gz"]),
        ("nnunet", ["dataset.json", "imagesTr/liver_0_0000.nii.gz", "labelsTr/liver_0.nii.gz"]),
        ("kits", ["case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz"]),
        ("brats", ["BraTS-GLI-00000-000/BraTS-GLI-00000-000-seg.nii.gz"]),
        ("brats", ["BraTS20_001/BraTS20_001_seg.nii.gz"]),
        ("totalsegmentator", ["s0000/ct.nii.gz", "s0000/segmentations/liver.nii.gz"]),
        ("", ["scan.nii.gz", "tumor.nii.gz", "cases.csv"]),
        ("", ["case_00000/._imaging.nii.gz"]),
        ("", ["dataset.json"]),
    ],
)
def test_a_layout_is_known_by_its_names(tmp_path: Path, layout: str, files: list[str]) -> None:
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert recognize(tmp_path) == layout


def test_the_layouts_that_are_read_are_recognized(tmp_path: Path) -> None:
    assert recognize(write_msd(tmp_path / "msd", 1)) == "msd"
    assert recognize(write_kits(tmp_path / "kits", 1)) == "kits"
    assert recognize(write_brats(tmp_path / "brats", ["BraTS20_001"], ["t1"])) == "brats"
    assert recognize(write_nnunet(tmp_path / "nnunet", ["CT"], {"background": 0, "liver": 1, "tumor": 2})) == "nnunet"
