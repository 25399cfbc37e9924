"""Findings as a table: the same numbers, with units in the heads, in one node that is written anew."""

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


def cells(node: Any, row: int) -> list[float]:
    return [node.GetTable().GetValue(row, column).ToDouble() for column in range(node.GetNumberOfColumns())]


def test_every_number_stands_under_its_name_and_unit(a_scene: Any) -> None:
    node = findingsTable(ROWS, "Findings")
    heads = [node.GetColumnName(column) for column in range(node.GetNumberOfColumns())]
    assert heads[:4] == ["Finding", "Kept", "Volume (ml)", "Diameter (mm)"]
    assert cells(node, 0) == pytest.approx([1, 1, 6.75, 26.9, -56.0, -85.6, -115.5, 0.87, 1.0, 292.4])
    assert cells(node, 1)[1] == 0 and cells(node, 1)[7:] == pytest.approx([nan] * 3, nan_ok=True)


def test_the_same_name_is_written_anew_and_another_node_of_that_name_is_left_alone(a_scene: Any) -> None:
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Findings")
    first = findingsTable(ROWS, "Findings")
    assert first is not other
    node = findingsTable(ROWS, "Lesions")
    assert findingsTable(ROWS[:1], "Lesions") is node and node.GetNumberOfRows() == 1


def test_a_table_is_shown_in_a_layout_with_a_table(a_scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = findingsTable(ROWS, "Findings")
    showTable(node)
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    showTable(node)  # as Slicer's own tests start it: without a main window
