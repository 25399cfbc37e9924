"""Findings as a table: the same numbers, with units in the heads, in one node of the segmentation's own."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
import slicer
from DiffuGTSSlicer.findings import Finding
from DiffuGTSSlicer.findings_table import findingsTable, showTable

ROWS = (
    Finding(1, 6.75, 26.9, (-56.0, -85.6, -115.5), 0.87, 1.0, 292.4, True),
    Finding(2, 0.5, 9.1, (1.0, 2.0, 3.0), nan, nan, nan, False),
)


@pytest.fixture
def a_segmentation(a_scene: Any) -> Any:
    """The segmentation whose findings they are."""
    return a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Tumor")


def cells(node: Any, row: int) -> list[float]:
    return [node.GetTable().GetValue(row, column).ToDouble() for column in range(node.GetNumberOfColumns())]


def test_every_number_stands_under_its_name_and_unit(a_segmentation: Any) -> None:
    node = findingsTable(ROWS, a_segmentation)
    heads = [node.GetColumnName(column) for column in range(node.GetNumberOfColumns())]
    assert heads[:4] == ["Finding", "Kept", "Volume (ml)", "Diameter (mm)"]
    assert cells(node, 0) == pytest.approx([1, 1, 6.75, 26.9, -56.0, -85.6, -115.5, 0.87, 1.0, 292.4])
    assert cells(node, 1)[1] == 0 and cells(node, 1)[7:] == pytest.approx([nan] * 3, nan_ok=True)


def test_each_segmentation_has_a_table_of_its_own_which_is_written_anew(a_scene: Any) -> None:
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Tumor") for _each in range(2))
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Tumor findings")
    tables = [findingsTable(ROWS, node) for node in (first, second)]
    assert len({other, *tables}) == 3
    assert len({other.GetName(), *(table.GetName() for table in tables)}) == 3
    first.SetName("Lesion")
    assert findingsTable(ROWS[:1], first) is tables[0]
    assert [table.GetNumberOfRows() for table in (*tables, other)] == [1, 2, 0]


def test_a_table_is_shown_in_a_layout_with_a_table(a_segmentation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = findingsTable(ROWS, a_segmentation)
    showTable(node)
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    showTable(node)  # as Slicer's own tests start it: without a main window
