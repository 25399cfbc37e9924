"""The widgets of Slicer that know the scene. Names, types and signals are the real ones; they are put into `slicer`."""

from __future__ import annotations

from typing import Any

import ctk
import slicer
import vtk
from declared_widget import declare
from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Property
from ui_loader import register


class HasScene:
    """`mrmlScene` and `setMRMLScene`, and news of the scene for the derived class."""

    _scene: Any = None
    _tags: tuple[int, ...] = ()

    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        """Look at another scene, or at none."""
        if scene is self._scene:
            return
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        events = () if scene is None else ("NodeAdded", "NodeRemoved", "EndImport", "EndClose", "EndBatchProcess")
        self._tags = tuple(
            scene.AddObserver(getattr(scene, f"{name}Event"), lambda *_: self.sceneChanged()) for name in events
        )
        if scene is not None:
            self._tags += (scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._node_goes()),)
        self.sceneChanged()
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)

    def _node_goes(self) -> Any:
        @vtk.calldata_type(vtk.VTK_OBJECT)
        def tell(scene: Any, _event: str, node: Any) -> None:
            if not scene.IsClosing():
                self.nodeGoes(node)

        return tell

    def sceneChanged(self) -> None:
        """Hear that nodes came or went."""

    def nodeGoes(self, node: Any) -> None:
        """Hear that a node is about to leave the scene."""


SCENE_SIGNAL = ["mrmlSceneChanged(vtkMRMLScene*)"]
qMRMLWidget = declare("qMRMLWidget", QtWidgets.QWidget, signals=SCENE_SIGNAL, mixins=(HasScene,))
qSlicerWidget = declare("qSlicerWidget", QtWidgets.QWidget, signals=SCENE_SIGNAL, mixins=(HasScene,))


@register
class qMRMLNodeComboBox(
    declare(
        "qMRMLNodeComboBox",
        QtWidgets.QWidget,
        [
            ("QStringList", "nodeTypes", (), ""),
            ("bool", "showHidden", False, ""),
            ("bool", "showChildNodeTypes", True, ""),
            ("QStringList", "hideChildNodeTypes", (), ""),
            ("QString", "baseName", "", ""),
            ("bool", "noneEnabled", False, ""),
            ("bool", "addEnabled", True, ""),
            ("bool", "removeEnabled", True, ""),
            ("bool", "editEnabled", False, ""),
            ("bool", "renameEnabled", False, ""),
            ("bool", "selectNodeUponCreation", True, ""),
            ("QString", "noneDisplay", "None", ""),
            ("QString", "interactionNodeSingletonTag", "", ""),
        ],
        [
            "currentNodeChanged(vtkMRMLNode*)",
            "currentNodeChanged(bool)",
            "currentNodeIDChanged(QString)",
            "nodeActivated(vtkMRMLNode*)",
            "nodeAdded(vtkMRMLNode*)",
            "nodeAddedByUser(vtkMRMLNode*)",
            *SCENE_SIGNAL,
        ],
        mixins=(HasScene,),
    )
):
    """Chooses a node of some classes."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._id: str | None = None
        self._going: str | None = None
        self._filters: list[tuple[str, str, str | None]] = []
        self._updating = False
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._chosen)

    def _chosen(self, index: int) -> None:
        if not self._updating:
            self._select(self._box.itemData(index))

    def _offers(self, node: Any) -> bool:
        if node.GetID() == self._going or (node.GetHideFromEditors() and not self.showHidden):
            return False
        name = node.GetClassName()
        if name in self.hideChildNodeTypes or not (self.showChildNodeTypes or name in self.nodeTypes):
            return False
        return all(
            not node.IsA(kind)
            or node.GetAttribute(key) == value
            or (value is None and node.GetAttribute(key) is not None)
            for kind, key, value in self._filters
        )

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        scene = self._scene
        found = {
            node.GetID(): node
            for kind in self.nodeTypes
            for index in range(scene.GetNumberOfNodesByClass(kind))
            if self._offers(node := scene.GetNthNodeByClass(index, kind))
        }
        return list(found.values())

    def nodeGoes(self, node: Any) -> None:
        """Take the node's row away before it has gone: Qt then chooses what moves into that row, as in Slicer."""
        self._going = node.GetID()
        row = self._box.findData(self._going)
        if row >= 0:
            self._box.removeItem(row)

    def sceneChanged(self, *_: Any) -> None:
        """Offer what there is now."""
        if self._going and self._scene is not None and self._scene.GetNodeByID(self._going) is None:
            self._going = None
        nodes = self._nodes()
        ids = [node.GetID() for node in nodes]
        self._updating = True
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem(self.noneDisplay, None)
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        self._updating = False
        first = ids[0] if ids and not self.noneEnabled else None
        self._select(self._id if self._id in ids else first, refresh=True)

    on_nodeTypes = on_noneEnabled = on_showChildNodeTypes = on_hideChildNodeTypes = on_showHidden = sceneChanged

    def _select(self, node_id: str | None, refresh: bool = False) -> None:
        if node_id == self._id and not refresh:
            return
        changed = node_id != self._id
        self._id = node_id
        self._updating = True
        self._box.setCurrentIndex(self._box.findData(node_id) if node_id else (0 if self.noneEnabled else -1))
        self._updating = False
        if changed:
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(node_id or "")

    def currentNode(self, *_: Any) -> Any:
        """Return the chosen node, or None."""
        return self._scene.GetNodeByID(self._id) if self._scene is not None and self._id else None

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node, given itself or its ID; one that is not offered chooses none."""
        node_id = node.GetID() if hasattr(node, "GetID") else (node or None)
        if node_id and self._box.findData(node_id) < 0:
            self.sceneChanged()
        self._select(node_id if node_id and self._box.findData(node_id) >= 0 else None)

    setCurrentNodeID = setCurrentNode
    currentNodeID = Property(str, lambda self: self._id or "", setCurrentNode)

    def addNode(self, kind: str | None = None) -> Any:
        """Add a node as the menu of the widget does."""
        kind = kind or self.nodeTypes[0]
        name = self._scene.GenerateUniqueName(self.baseName or kind.removeprefix("vtkMRML").removesuffix("Node"))
        node = self._scene.AddNewNodeByClass(kind, name)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def nodeCount(self) -> int:
        """Return how many nodes are offered."""
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        """Return an offered node by number."""
        return self._nodes()[index]

    def addAttribute(self, kind: str, key: str, value: str | None = None) -> None:
        """Offer nodes of a class only with this attribute."""
        self._filters.append((kind, key, value))
        self.sceneChanged()

    def removeAttribute(self, kind: str, key: str) -> None:
        """Take a condition back."""
        self._filters = [entry for entry in self._filters if entry[:2] != (kind, key)]
        self.sceneChanged()


class HasSegmentation(HasScene):
    """A segmentation node, and news of its segments for the derived class."""

    _segmentation: Any = None
    _segmentation_tags: tuple[int, ...] = ()

    def segmentationNode(self) -> Any:
        """Return the segmentation."""
        return self._segmentation

    def setSegmentationNode(self, node: Any) -> None:
        """Look at another segmentation, or at none."""
        if node is self._segmentation:
            return
        for tag in self._segmentation_tags:
            self._segmentation.GetSegmentation().RemoveObserver(tag)
        self._segmentation, self._segmentation_tags = node, ()
        if node is not None:
            events = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved)
            events = (*events, slicer.vtkSegmentation.SegmentModified)
            segmentation = node.GetSegmentation()
            self._segmentation_tags = tuple(
                segmentation.AddObserver(event, lambda *_: self.segmentsChanged()) for event in events
            )
        self.segmentsChanged()

    def currentNode(self) -> Any:
        """Return the segmentation."""
        return self._segmentation

    def setCurrentNode(self, node: Any) -> None:
        """Look at another segmentation, or at none."""
        self.setSegmentationNode(node)

    def segments(self) -> list[tuple[str, Any]]:
        """Return the segments with their IDs, in order."""
        if self._segmentation is None:
            return []
        segmentation = self._segmentation.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
        return [(segment_id, segmentation.GetSegment(segment_id)) for segment_id in ids]

    def segmentsChanged(self) -> None:
        """Hear that segments came, went or changed."""


@register
class qMRMLSegmentSelectorWidget(
    declare(
        "qMRMLSegmentSelectorWidget",
        QtWidgets.QWidget,
        [("bool", "noneEnabled", False, ""), ("bool", "segmentationNodeSelectorVisible", True, "")],
        [
            "currentNodeChanged(vtkMRMLNode*)",
            "currentSegmentChanged(QString)",
            "segmentSelectionChanged(QStringList)",
            *SCENE_SIGNAL,
        ],
        mixins=(HasSegmentation,),
    )
):
    """Chooses a segmentation and one of its segments."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._updating = False
        self._selector = qMRMLNodeComboBox(self)
        self._selector.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._selector)
        layout.addWidget(self._box)
        self._selector.noneEnabled = True
        self._selector.currentNodeChanged.connect(self._segmentation_chosen)
        self._box.currentIndexChanged.connect(self._segment_chosen)

    def setMRMLScene(self, scene: Any) -> None:
        """Look at another scene, or at none."""
        self._selector.setMRMLScene(scene)
        super().setMRMLScene(scene)

    def _segmentation_chosen(self, node: Any) -> None:
        self.setSegmentationNode(node)
        self.currentNodeChanged.emit(node)

    def _segment_chosen(self, index: int) -> None:
        if not self._updating:
            self.currentSegmentChanged.emit(self.currentSegmentID())

    def setCurrentNode(self, node: Any) -> None:
        """Choose a segmentation."""
        self._selector.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a segmentation by its ID."""
        self._selector.setCurrentNodeID(node_id)

    def currentNodeID(self) -> str:
        """Return the ID of the segmentation."""
        return self._selector.currentNodeID

    def segmentsChanged(self) -> None:
        """Offer the segments there are now, and keep the choice where it is still there."""
        before = self.currentSegmentID()
        self._updating = True
        self._box.clear()
        if self.noneEnabled:
            self._box.addItem("None", "")
        for segment_id, segment in self.segments():
            self._box.addItem(segment.GetName(), segment_id)
        index = self._box.findData(before)
        self._box.setCurrentIndex(index if index >= 0 else min(0, self._box.count - 1))
        self._updating = False
        if self.currentSegmentID() != before:
            self.currentSegmentChanged.emit(self.currentSegmentID())

    def on_noneEnabled(self, enabled: bool) -> None:
        """Offer none, or no longer."""
        self.segmentsChanged()

    def currentSegmentID(self) -> str:
        """Return the ID of the chosen segment, or an empty text."""
        return self._box.itemData(self._box.currentIndex) or ""

    def setCurrentSegmentID(self, segment_id: str) -> None:
        """Choose a segment."""
        self._box.setCurrentIndex(self._box.findData(segment_id or ""))


@register
class qMRMLSegmentsTableView(
    declare(
        "qMRMLSegmentsTableView",
        QtWidgets.QWidget,
        [
            ("bool", "readOnly", False, ""),
            ("bool", "headerVisible", True, ""),
            ("bool", "statusColumnVisible", False, ""),
            ("bool", "opacityColumnVisible", True, ""),
            ("bool", "visibilityColumnVisible", True, ""),
        ],
        ["selectionChanged(QItemSelection,QItemSelection)", *SCENE_SIGNAL],
        mixins=(HasSegmentation,),
    )
):
    """Lists the segments of a segmentation."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._list = QtWidgets.QListWidget(self)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._list)

    def segmentsChanged(self) -> None:
        """Show the names in their colors."""
        self._list.clear()
        for segment_id, segment in self.segments():
            item = QtWidgets.QListWidgetItem(segment.GetName())
            item.setForeground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            item.setData(256, segment_id)
            self._list.addItem(item)

    def segmentCount(self) -> int:
        """Return how many segments are listed."""
        return self._list.count

    def selectedSegmentIDs(self) -> list[str]:
        """Return the IDs of the chosen segments."""
        return [item.data(256) for item in self._list.selectedItems()]


@register
class qMRMLSegmentationShow3DButton(
    declare("qMRMLSegmentationShow3DButton", ctk.ctkMenuButton, signals=SCENE_SIGNAL, mixins=(HasSegmentation,))
):
    """Shows the segmentation as a surface in the 3D views, or no longer."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setText("Show 3D")
        self.setCheckable(True)
        self.toggled.connect(self._show)

    def _show(self, on: bool) -> None:
        if self._segmentation is None:
            return
        closed_surface = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        if on:
            self._segmentation.CreateClosedSurfaceRepresentation()
        else:
            self._segmentation.GetSegmentation().RemoveRepresentation(closed_surface)

    def segmentsChanged(self) -> None:
        """Show whether there is a surface, and offer to make one where there are segments."""
        self.setEnabled(bool(self.segments()))
        shown = self._segmentation is not None and self._segmentation.GetSegmentation().ContainsRepresentation(
            slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        )
        was = self.blockSignals(True)
        self.setChecked(shown)
        self.blockSignals(was)


qMRMLColorTableComboBox = declare("qMRMLColorTableComboBox", qMRMLNodeComboBox)
qMRMLSliderWidget = declare(
    "qMRMLSliderWidget", ctk.ctkSliderWidget, [("QString", "quantity", "", "")], mixins=(HasScene,)
)
qMRMLSpinBox = declare("qMRMLSpinBox", QtWidgets.QDoubleSpinBox, [("QString", "quantity", "", "")], mixins=(HasScene,))
qMRMLRangeWidget = declare("qMRMLRangeWidget", ctk.ctkRangeWidget, mixins=(HasScene,))
qMRMLCollapsibleButton = declare("qMRMLCollapsibleButton", ctk.ctkCollapsibleButton, mixins=(HasScene,))
WIDGETS = {name: value for name, value in list(globals().items()) if name.startswith("q") and isinstance(value, type)}


def install() -> None:
    """Put the widgets into `slicer`, where modules look for them."""
    for name, cls in WIDGETS.items():
        setattr(slicer, name, cls)
