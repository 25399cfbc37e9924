"""Lesions measured: volumes, centers and diameters with known answers, tables, files."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from DiffuGTSLib.errors import GeometryError, StorageError
from DiffuGTSLib.output.findings import (
    COLUMNS,
    Finding,
    ball_radius_mm,
    find_lesions,
    findings_table,
    write_findings,
)
from DiffuGTSLib.volumes.volume import Geometry, Volume

SPACING_MM = (1.0, 2.0, 5.0)
GEOMETRY = Geometry.from_spacing((30, 24, 12), SPACING_MM)


def a_volume(fill: float = 0.0) -> Volume:
    return Volume(np.full(GEOMETRY.shape, fill, dtype=np.float32), GEOMETRY)


def a_mask() -> Volume:
    """Two lesions: 3 x 2 x 1 voxels (60 mm³) first in the grid, then 10 x 4 x 2 voxels (800 mm³)."""
    array = np.zeros(GEOMETRY.shape, dtype=np.uint8)
    array[1:4, 1:3, 1:2] = 1
    array[10:20, 8:12, 4:6] = 1
    return Volume(array, GEOMETRY)


def a_finding(label: int = 1, **changes: float) -> Finding:
    values = {"volume_ml": 7.8, "longest": 28.25, "mean": 0.8, "max": 0.99, "change": 731.0, **changes}
    return Finding(
        label,
        values["volume_ml"],
        (-52.0, 13.0, -200.0),
        values["longest"],
        values["mean"],
        values["max"],
        values["change"],
    )


def printed(findings: list[Finding]) -> str:
    text = io.StringIO()
    Console(width=140, file=text).print(findings_table(findings))
    return text.getvalue()


def test_lesions_come_largest_first_with_volume_center_and_diameter() -> None:
    large, small = find_lesions(a_mask(), a_volume(), a_volume(), a_volume())
    assert (large.label, small.label) == (1, 2)
    assert (large.volume_ml, small.volume_ml) == pytest.approx((0.8, 0.06))
    # Mean index (14.5, 9.5, 4.5) times 1, 2 and 5 mm.
    assert large.centroid_ras_mm == pytest.approx((14.5, 19.0, 22.5))
    # In the i-j plane: 10 mm by 8 mm, between side middles: ends of the diagonal (10 - 1, 8) and (10, 8 - 2).
    assert large.longest_in_plane_diameter_mm == pytest.approx(math.hypot(9.0, 8.0))


def test_attention_and_intensity_change_are_means_over_the_lesion_only() -> None:
    mask, aova, scan, healthy = a_mask(), a_volume(0.1), a_volume(40.0), a_volume(0.0)
    aova.array[10:20, 8:12, 4] = 0.6
    aova.array[10:20, 8:12, 5] = 0.8
    healthy.array[10:20, 8:12, 4:6] = -760.0
    large, small = find_lesions(mask, aova, scan, healthy)
    assert (large.mean_aova, large.max_aova) == pytest.approx((0.7, 0.8))
    assert large.mean_intensity_change == pytest.approx(800.0)
    assert (small.mean_aova, small.mean_intensity_change) == pytest.approx((0.1, 40.0))


def test_intensity_change_of_unsigned_voxels_does_not_wrap() -> None:
    mask = a_mask()
    scan = Volume(np.full(GEOMETRY.shape, 10, dtype=np.uint8), GEOMETRY)
    healthy = Volume(np.full(GEOMETRY.shape, 30, dtype=np.uint8), GEOMETRY)
    assert find_lesions(mask, None, scan, healthy)[0].mean_intensity_change == -20.0


def test_without_maps_the_values_are_not_applicable() -> None:
    finding = find_lesions(a_mask(), None, a_volume(), None)[0]
    assert math.isnan(finding.mean_aova) and math.isnan(finding.max_aova) and math.isnan(finding.mean_intensity_change)
    assert finding.volume_ml == pytest.approx(0.8)


def test_an_empty_mask_gives_no_findings() -> None:
    assert find_lesions(a_volume(), a_volume(), a_volume(), a_volume()) == []


def test_the_center_lies_in_the_world_of_an_oblique_grid() -> None:
    turn = math.radians(30)
    matrix = np.eye(4)
    matrix[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    matrix[:3, 3] = (-20.0, 7.0, 100.0)
    geometry = Geometry((8, 8, 8), matrix)
    mask = Volume(np.zeros(geometry.shape, dtype=np.uint8), geometry)
    mask.array[4, 0, 2] = 1
    finding = find_lesions(mask, None, mask, None)[0]
    assert finding.centroid_ras_mm == pytest.approx((-20 + 4 * math.cos(turn), 7 + 4 * math.sin(turn), 102.0))


def test_a_map_on_another_grid_is_refused() -> None:
    other = Volume(np.zeros(GEOMETRY.shape), Geometry.from_spacing(GEOMETRY.shape, (1.0, 2.0, 4.0)))
    with pytest.raises(GeometryError, match=r"AOVA map and the scan lie on different grids: spacing"):
        find_lesions(a_mask(), other, a_volume(), None)
    with pytest.raises(GeometryError, match=r"pseudo-healthy image and the scan"):
        find_lesions(a_mask(), None, a_volume(), other)
    with pytest.raises(GeometryError, match=r"mask and the scan"):
        find_lesions(other, None, a_volume(), None)


def test_findings_are_written_with_units_in_the_header_and_missing_values_named(tmp_path: Path) -> None:
    path = tmp_path / "findings.csv"
    write_findings([a_finding(), a_finding(2, mean=math.nan)], path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["volume_ml"] == "7.8000" and rows[0]["centroid_r_mm"] == "-52.0000"
    assert rows[1]["mean_aova"] == "n/a" and rows[1]["label"] == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["findings.csv"]


def test_no_findings_are_written_as_a_header_alone(tmp_path: Path) -> None:
    write_findings([], tmp_path / "findings.csv")
    assert (tmp_path / "findings.csv").read_text(encoding="utf-8").strip() == ",".join(COLUMNS)


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot write .*findings.csv: there is no folder"):
        write_findings([], tmp_path / "missing" / "findings.csv")


def test_the_table_shows_each_finding_and_says_when_there_is_none() -> None:
    text = printed([a_finding(), a_finding(2, change=math.nan)])
    assert "2 findings" in text and "7.80" in text and "L52 A13 I200" in text and "+731" in text and "n/a" in text
    assert "1 finding" in printed([a_finding()])
    assert "Nothing found" in printed([])


def test_a_ball_of_10_mm_has_4_19_ml() -> None:
    assert ball_radius_mm(4.18879) == pytest.approx(10.0, rel=1e-5)
