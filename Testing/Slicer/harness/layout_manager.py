"""Stand-in for the layout manager: Slicer's own layout logic says which views there are, `views.py` draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from views import SliceView, ThreeDView


class LayoutManager:
    """Offers the views of the current layout. Changing the layout makes the views that are missing, and keeps others."""

    tableViewCount = plotViewCount = 0

    def __init__(self, application_logic: vtk.vtkObject) -> None:
        self._application_logic = application_logic
        self._logic: vtk.vtkObject | None = None
        self._tag = 0
        self._shown_layout: int | None = None
        self._slots: list[Callable[[int], None]] = []
        self._slices: dict[str, SliceView] = {}
        self._threeds: dict[str, ThreeDView] = {}

    def open(self) -> None:
        """Start with the conventional layout: three slice views and a 3D view."""
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        node = self._logic.GetLayoutNode()
        self._tag = node.AddObserver("ModifiedEvent", lambda *_: self._make_views())
        self.setLayout(node.SlicerLayoutFourUpView)

    def close(self) -> None:
        """Forget every view and its nodes."""
        if self._logic is not None:
            self._logic.GetLayoutNode().RemoveObserver(self._tag)
        for view in [*self._slices.values(), *self._threeds.values()]:
            view.close()
        self._slices, self._threeds, self._logic, self._shown_layout = {}, {}, None, None
        self._slots.clear()

    def connect(self, signal: str, slot: Callable[[int], None]) -> bool:
        """Call a slot with every layout that is shown from now on; there is no other signal."""
        if signal != "layoutChanged(int)":
            return False
        self._slots.append(slot)
        return True

    def disconnect(self, signal: str, slot: Callable[[int], None]) -> bool:
        """Forget a slot; say whether it was there."""
        if signal != "layoutChanged(int)" or slot not in self._slots:
            return False
        self._slots.remove(slot)
        return True

    def layoutLogic(self) -> vtk.vtkObject:
        """Return the logic with the layout node."""
        if self._logic is None:
            self.open()
        return self._logic

    def setLayout(self, layout: int) -> None:
        """Show a layout by its number."""
        self.layoutLogic().GetLayoutNode().SetViewArrangement(layout)
        self._make_views()

    @property
    def layout(self) -> int:
        """Number of the layout that is shown."""
        return int(self.layoutLogic().GetLayoutNode().GetViewArrangement())

    @layout.setter
    def layout(self, layout: int) -> None:
        self.setLayout(layout)

    def _make_views(self) -> None:
        """Make the views that the layout wants and do not exist; mark all by whether they are shown."""
        nodes = self.layoutLogic().GetViewNodes()
        wanted = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
        for node in wanted:
            name = node.GetLayoutName()
            if node.IsA("vtkMRMLSliceNode") and name not in self._slices:
                self._slices[name] = SliceView(node, self._application_logic)
            elif node.IsA("vtkMRMLViewNode") and name not in self._threeds:
                self._threeds[name] = ThreeDView(node)
        for view in [*self._slices.values(), *self._threeds.values()]:
            view.node.SetMappedInLayout(view.node in wanted)
        self._tell()

    def _tell(self) -> None:
        """Tell of another layout once its views are there."""
        if self._logic is None or self._shown_layout == self.layout:
            return
        self._shown_layout = self.layout
        for slot in list(self._slots):
            slot(self._shown_layout)

    def _shown(self, views: dict[str, Any]) -> list[str]:
        self._make_views()
        return [name for name, view in views.items() if view.node.IsMappedInLayout()]

    def sliceViewNames(self) -> tuple[str, ...]:
        """Return the names of the slice views of this layout."""
        return tuple(self._shown(self._slices))

    def sliceWidget(self, name: str) -> SliceView | None:
        """Return a slice view by name, or None."""
        self._shown(self._slices)
        return self._slices.get(name)

    @property
    def threeDViewCount(self) -> int:
        """How many 3D views this layout has."""
        return len(self._shown(self._threeds))

    def threeDWidget(self, index: int) -> ThreeDView | None:
        """Return a 3D view by number, or None."""
        names = self._shown(self._threeds)
        return self._threeds[names[index]] if index < len(names) else None

    def mrmlSliceLogics(self) -> vtk.vtkCollection:
        """Return the logics of all slice views."""
        return self._application_logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        """Fit every slice view to its background."""
        for name in self.sliceViewNames():
            self._slices[name].fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Frame everything in every 3D view."""
        for name in self._shown(self._threeds):
            self._threeds[name].resetFocalPoint()
