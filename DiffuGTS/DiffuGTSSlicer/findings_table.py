"""The findings as a table of the scene, for Slicer's Tables and Plots modules and for a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSSlicer.findings import Finding


def columns() -> list[tuple[str, str, Callable[[Finding], float]]]:
    """Return each column's name, unit and value, in the language that is set now."""
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


def findingsTable(rows: Sequence[Finding], name: str) -> Any:
    """Write findings into the table node of a name, which is made where there is none, and return it."""
    node = slicer.mrmlScene.GetFirstNodeByName(name)
    if node is None or not node.IsA("vtkMRMLTableNode"):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
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
    """Show a table below the views, where there are views."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    withTable = slicer.modules.tables.logic().GetLayoutWithTable(manager.layout)
    manager.setLayout(withTable)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActiveTableID(tableNode.GetID())
    slicer.app.applicationLogic().PropagateTableSelection()
