"""Data sets of phantoms in the layouts of the field: the same folders and file names, some kilobytes of voxels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mini_data import GRID
from numpy.typing import NDArray
from phantoms import Phantom, ct_phantom, mr_phantom

from DiffuGTSLib.volumes import write_volume


def labels_of(phantom: Phantom) -> NDArray[np.uint8]:
    """Return 1 for the organ and 2 for the tumor in it."""
    labels = phantom.organ.array.astype(np.uint8)
    labels[phantom.lesion.array > 0] = 2
    return labels


def write_scan(phantom: Phantom, image: Path, label: Path | None, labels: NDArray[Any] | None = None) -> None:
    """Write a scan and its label map."""
    for path in (image, *([label] if label else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(phantom.scan, image)
    if label is not None:
        write_volume(phantom.scan.with_array(labels_of(phantom) if labels is None else labels), label)


def write_msd(folder: Path, count: int = 4, **changes: Any) -> Path:
    """Write a task of the Decathlon: a liver and its cancer, and a test scan without labels."""
    names = [f"liver_{number}" for number in range(count)]
    for number, name in enumerate(names):
        phantom = ct_phantom(GRID, noise_hu=10, seed=number)
        write_scan(phantom, folder / "imagesTr" / f"{name}.nii.gz", folder / "labelsTr" / f"{name}.nii.gz")
    write_scan(ct_phantom(GRID), folder / "imagesTs" / "liver_9.nii.gz", None)
    content = {
        "name": "Liver", "tensorImageSize": "3D", "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"}, "numTraining": count, "numTest": 1,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/liver_9.nii.gz"],
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps({**content, **changes}))
    return folder


def write_kits(folder: Path, count: int = 3) -> Path:
    """Write KiTS23: kidney 1, tumor 2, cyst 3, one folder a case."""
    for number in range(count):
        phantom = ct_phantom(GRID, noise_hu=10, seed=100 + number)
        labels = labels_of(phantom)
        labels[20:22, 12:14, 10:12] = 3
        case = folder / f"case_{number:05d}"
        write_scan(phantom, case / "imaging.nii.gz", case / "segmentation.nii.gz", labels)
    (folder / "kits23.json").write_text("[]")
    return folder


def write_brats(folder: Path, visits: list[str], contrasts: list[str], parting: str = "_") -> Path:
    """Write BraTS: a folder a visit, a file a contrast, and the labels."""
    for number, visit in enumerate(visits):
        phantom = mr_phantom(GRID, noise=10, seed=number)
        labels = phantom.lesion.array.astype(np.uint8)
        for contrast in contrasts:
            write_scan(phantom, folder / visit / f"{visit}{parting}{contrast}.nii.gz", None)
        write_volume(phantom.scan.with_array(labels), folder / visit / f"{visit}{parting}seg.nii.gz")
    return folder


def write_nnunet(folder: Path, channels: list[str], labels: dict[str, Any], test: bool = False) -> Path:
    """Write nnU-Net's raw data of three cases, and one with labels in its test set."""
    sets = [("Tr", f"case_{number}") for number in range(3)] + [("Ts", "case_9")] * test
    for number, (which, name) in enumerate(sets):
        phantom = ct_phantom(GRID, noise_hu=10, seed=number)
        label = folder / f"labels{which}" / f"{name}.nii.gz"
        for channel in range(len(channels)):
            write_scan(phantom, folder / f"images{which}" / f"{name}_{channel:04d}.nii.gz", label)
    names = {str(number): name for number, name in enumerate(channels)}
    content = {"channel_names": names, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_totalsegmentator(folder: Path) -> Path:
    """Write TotalSegmentator's data: a mask file for each structure, and a table on the scans."""
    rows = ["image_id;age;split;pathology"]
    for number, (split, pathology) in enumerate(
        (("train", "no_pathology"), ("test", "no_pathology"), ("val", "tumor"))
    ):
        phantom = ct_phantom(GRID, noise_hu=10, seed=number)
        case = folder / f"s{number:04d}"
        write_scan(phantom, case / "ct.nii.gz", None)
        (case / "segmentations").mkdir()
        for name in ("liver", "kidney_left", "kidney_right", "kidney_cyst_left", "vertebrae_L1", "aorta"):
            write_volume(phantom.organ, case / "segmentations" / f"{name}.nii.gz")
        rows.append(f"{case.name};50;{split};{pathology}")
    (folder / "meta.csv").write_text("\n".join(rows))
    return folder


def write_table(folder: Path, text: str, names: list[str]) -> Path:
    """Write a table and the scans and masks that it may name: NAME.nii.gz and NAME_tumor.nii.gz."""
    for number, name in enumerate(names):
        phantom = ct_phantom(GRID, noise_hu=10, seed=number)
        write_scan(phantom, folder / f"{name}.nii.gz", folder / f"{name}_tumor.nii.gz", phantom.lesion.array)
    (folder / "cases.csv").write_text(text)
    return folder / "cases.csv"
