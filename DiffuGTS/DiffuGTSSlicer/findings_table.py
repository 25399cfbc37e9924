"""The findings as a table node, for Slicer's Tables and Plots modules and for export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSSlicer.findings import Finding
from DiffuGTSSlicer.scene import uniqueName

FINDINGS_ROLE, STATISTICS_ROLE = "DiffuGTS.FindingsTable", "DiffuGTS.StatisticsTable"
"""Node references from a segmentation to its tables."""


def columns() -> list[tuple[str, str, Callable[[Finding], float]]]:
    """Return name, unit and value of each column, in the current language."""
    return [
        (_("Finding"), "", lambda each: each.number),
        (_("Kept"), "", lambda each: int(each.kept)),
        (_("Volume"), "ml", lambda each: each.volumeMl),
        (_("Diameter"), "mm", lambda each: each.diameterMm),
        (_("R"), "mm", lambda each: each.centroidRas[0]),
        (_("A"), "mm", lambda each: each.centroidRas[1]),
        (_("S"), "mm", lambda each: each.centroidRas[2]),
        (_("Mean AOVA"), "", lambda each: each.meanAova),
        (_("Max AOVA"), "", lambda each: each.maxAova),
        (_("Change"), _("HU or MR units"), lambda each: each.meanChange),
    ]


def tableOf(segmentationNode: Any, role: str, name: str) -> Any:
    """Return the table that a segmentation references, created under a name if there is none.

    The name alone is not enough: another result may have a table of the same name.
    """
    node = segmentationNode.GetNodeReference(role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", uniqueName(name))
        segmentationNode.SetNodeReferenceID(role, node.GetID())
    return node


def findingsTable(rows: Sequence[Finding], segmentationNode: Any) -> Any:
    """Write findings into the table of their segmentation and return it."""
    name = _("{name} findings").format(name=segmentationNode.GetName())
    node = tableOf(segmentationNode, FINDINGS_ROLE, name)
    table = vtk.vtkTable()
    for title, unit, value in columns():
        column = vtk.vtkIntArray() if unit == "" and title in (_("Finding"), _("Kept")) else vtk.vtkDoubleArray()
        column.SetName(f"{title} ({unit})" if unit else title)
        for each in rows:
            column.InsertNextValue(value(each))
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    return node


def showTable(tableNode: Any) -> None:
    """Show a table in the current layout, if there is one."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    withTable = slicer.modules.tables.logic().GetLayoutWithTable(manager.layout)
    manager.setLayout(withTable)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActiveTableID(tableNode.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()
