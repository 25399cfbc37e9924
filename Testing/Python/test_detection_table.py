"""The table of detections: cubes on both sides of the threshold (DiffTumor description, row 28)."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import grid, orientations

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.evaluation.detection_table import (
    detect_series,
    find_series,
    has_tumor,
    remaining_mm3,
    write_detection_table,
)
from DiffuGTSLib.volumes import Geometry, Volume
from DiffuGTSLib.volumes.io import write_volume

ONE_MM = Geometry.from_spacing((24, 24, 24), (1.0, 1.0, 1.0))


def a_cube(side_mm: float, geometry: Geometry = ONE_MM, corner: int = 4) -> Volume:
    """A cube of whole voxels."""
    array = np.zeros(geometry.shape, np.uint8)
    cut = tuple(slice(corner, corner + round(side_mm / spacing)) for spacing in geometry.spacing_mm)
    array[cut] = 1
    return Volume(array, geometry)


def everywhere(geometry: Geometry = ONE_MM, organ: bool = True) -> Volume:
    return Volume(np.full(geometry.shape, organ, np.uint8), geometry)


def write_masks(folder: Path, **masks: Volume) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        write_volume(mask, folder / f"{name}.nii.gz")


def test_a_cube_of_six_mm_is_too_small_and_one_of_seven_is_not() -> None:
    assert remaining_mm3(a_cube(6), everywhere()) == 4**3
    assert remaining_mm3(a_cube(7), everywhere()) == 5**3
    assert not has_tumor(a_cube(6), everywhere()) and has_tumor(a_cube(7), everywhere())


def test_exactly_the_threshold_is_no_detection() -> None:
    assert not has_tumor(a_cube(7), everywhere(), threshold_mm3=125.0)
    assert has_tumor(a_cube(7), everywhere(), threshold_mm3=124.0)


def test_a_tumor_outside_the_organ_does_not_count() -> None:
    assert not has_tumor(a_cube(12), everywhere(organ=False))
    half = everywhere()
    half.array[:10] = 0  # 6 of the cube's 12 mm lie outside
    assert remaining_mm3(a_cube(12), half) == 4 * 10 * 10


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 2.0), (2.0, 1.0, 0.5), (0.25, 1.0, 1.0)])
def test_it_is_measured_in_mm_whatever_the_voxels(spacing: tuple[float, float, float]) -> None:
    geometry = grid((48, 48, 48), spacing, list(orientations())[21])
    assert remaining_mm3(a_cube(8.0, geometry, corner=4), everywhere(geometry)) == 6**3


def test_a_tumor_at_the_edge_of_the_scan_is_eroded_there_too() -> None:
    assert remaining_mm3(a_cube(7, corner=0), everywhere()) == 5**3


def test_masks_on_different_grids_are_refused() -> None:
    other = Geometry.from_spacing((24, 24, 24), (1.0, 1.0, 2.0))
    with pytest.raises(GeometryError, match="organ mask"):
        has_tumor(a_cube(7), everywhere(other))


def test_the_table_has_upstreams_columns_and_a_row_a_series(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_masks(
        tree / "M1" / "A1" / "S1" / "predictions",
        liver=everywhere(), liver_tumor=a_cube(7), pancreas=everywhere(), pancreas_tumor=a_cube(6),
        kidney=everywhere(organ=False), kidney_tumor=a_cube(12),
    )  # fmt: skip
    write_masks(
        tree / "M1" / "A2" / "S 2",
        liver=everywhere(), kidney_left=everywhere(organ=False), kidney_right=everywhere(), kidney_tumor=a_cube(9),
    )  # fmt: skip
    (tree / ".cache" / "x" / "y").mkdir(parents=True)
    told: list[tuple[str, float]] = []
    rows = write_detection_table(tree, tmp_path / "t.csv", on_progress=lambda *done: told.append(done))
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "Anon_MRN,Anon_Acc_#,Series,liver tumor,pancreas tumor,kidney tumor",
        "M1,A1,S1,1,0,0",
        "M1,A2,S 2,n/a,n/a,1",
    ]
    assert rows[1].problems == ("liver: no mask of the tumor", "pancreas: no mask of the tumor")
    assert told == [("cases", 0.0), ("cases", 0.5)]


def test_a_broken_file_is_told_and_stops_nothing(tmp_path: Path) -> None:
    write_masks(tmp_path / "M" / "A" / "S", liver=everywhere(), spleen=everywhere(), spleen_tumor=a_cube(9))
    (tmp_path / "M" / "A" / "S" / "liver_tumor.nii.gz").write_bytes(b"not a mask")
    row = detect_series(tmp_path, ("M", "A", "S"), organs=("liver", "spleen"))
    assert row.detected == {"liver": None, "spleen": 1}
    assert len(row.problems) == 1 and "liver_tumor.nii.gz" in row.problems[0]


def test_a_folder_without_series_and_a_negative_threshold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no <MRN>/<Acc>/<Series> folders"):
        find_series(tmp_path)
    with pytest.raises(InputError, match="0 mm³ or more, got -1"):
        write_detection_table(tmp_path, tmp_path / "t.csv", threshold_mm3=-1)
