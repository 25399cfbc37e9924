"""The harness itself: a real scene, pictures of it, a panel bound to a node, and processes under a running event loop."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Any

import ctk
import gui
import numpy as np
import pytest
import qt
import slicer
import vtk
import vtk_messages
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


class Quality(enum.Enum):
    """Kept by its name."""

    FAST = "fast"
    FULL = "full"


@parameterNodeWrapper
class Parameters:
    """What a module would keep."""

    scan: slicer.vtkMRMLScalarVolumeNode
    prompt: str = "lung nodule"
    threshold: Annotated[float, WithinRange(0, 1)] = 0.5
    quality: Quality = Quality.FULL
    legend: bool = True


def test_the_scene_is_real_and_empty(a_scene: Any) -> None:
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert set(slicer.app.layoutManager().sliceViewNames()) == {"Red", "Green", "Yellow"}
    assert vtk_messages.heard() == []


def test_an_emptied_scene_has_as_many_nodes_as_before(a_scene: Any) -> None:
    import slicer_headless

    before = a_scene.GetNumberOfNodes()
    slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
    slicer_headless.reset()
    assert a_scene.GetNumberOfNodes() == before


def test_what_vtk_complains_of_is_heard(a_scene: Any) -> None:
    vtk.vtkMatrix4x4().SetElement(0, 0, 1.0)
    reader = vtk.vtkXMLImageDataReader()
    reader.SetFileName("no such file")
    reader.Update()
    assert any("no such file" in said for said in vtk_messages.forget())


def test_a_scan_its_segment_and_its_surface_are_drawn(a_demo_scan: Any) -> None:
    slicer.util.setSliceViewerLayers(background=a_demo_scan, fit=True)
    red = slicer.app.layoutManager().sliceWidget("Red")
    plain = red.picture()
    assert plain.shape == (400, 400, 3)
    assert np.ptp(plain) > 200
    assert (plain[..., 0] == plain[..., 1]).all(), "a CT is gray"
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(a_demo_scan)
    segment = segmentation.GetSegmentation().AddEmptySegment("ball", "ball", (1, 0, 0))
    mask = np.zeros(slicer.util.arrayFromVolume(a_demo_scan).shape, np.uint8)
    mask[tuple(slice(n // 3, 2 * n // 3) for n in mask.shape)] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, a_demo_scan)
    colored = red.picture().astype(int)
    assert ((colored[..., 0] - colored[..., 1]) > 50).sum() > 500
    segmentation.CreateClosedSurfaceRepresentation()
    view = slicer.app.layoutManager().threeDWidget(0)
    view.lookFrom("Anterior")
    surface = view.picture().astype(int)
    assert ((surface[..., 0] - surface[..., 2]) > 50).sum() > 5000


def test_a_member_and_its_widget_follow_one_another(a_scene: Any, a_qt_application: Any) -> None:
    parameters = Parameters(a_scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    window = qt.QWidget()
    widgets = {"prompt": qt.QTextEdit(window), "threshold": ctk.ctkSliderWidget(window)}
    widgets |= {"quality": qt.QComboBox(window), "legend": qt.QCheckBox(window)}
    tag = parameters.connectParametersToGui(widgets)
    assert widgets["prompt"].toPlainText() == "lung nodule"
    assert widgets["threshold"].value == 0.5
    widgets["threshold"].value = 0.25
    widgets["quality"].currentIndex = 0
    assert (parameters.threshold, parameters.quality) == (0.25, Quality.FAST)
    assert parameters.parameterNode.GetParameter("quality") == "FAST"
    parameters.legend = False
    assert not widgets["legend"].checked
    with pytest.raises(ValueError, match="within|range|less"):
        parameters.threshold = 2.0
    parameters.disconnectGui(tag)
    widgets["threshold"].value = 0.75
    assert parameters.threshold == 0.25


def test_a_member_is_read_anew_only_when_its_node_says_that_it_was_modified(a_scene: Any) -> None:
    """As in Slicer, whose wrapper misses a reference that is resolved later in an import."""
    node = a_scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = Parameters(node)
    assert parameters.isCached("scan") and parameters.isCached("prompt")
    was = node.GetDisableModifiedEvent()
    node.SetDisableModifiedEvent(True)
    node.SetParameter("prompt", "liver tumor")
    node.SetDisableModifiedEvent(was)
    assert parameters.prompt == "lung nodule" and Parameters(node).prompt == "liver tumor"
    node.Modified()
    assert parameters.prompt == "liver tumor"


def test_a_combo_box_chooses_the_neighbor_of_a_node_that_goes(a_scene: Any, a_qt_application: Any) -> None:
    """As in Slicer, where Qt selects what moves into the row that goes, or the last one."""
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes, box.noneEnabled = ["vtkMRMLTextNode"], True
    box.setMRMLScene(a_scene)
    nodes = [a_scene.AddNewNodeByClass("vtkMRMLTextNode", name) for name in "ABC"]
    heard: list[Any] = []
    box.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: heard.append((node, nodes[1].GetScene())))
    box.setCurrentNode(nodes[1])
    heard.clear()
    a_scene.RemoveNode(nodes[1])
    assert box.currentNode() is nodes[2] and heard == [(nodes[2], a_scene)], "told before the node has gone"
    a_scene.RemoveNode(nodes[2])
    assert box.currentNode() is nodes[0]
    a_scene.RemoveNode(nodes[0])
    assert box.currentNode() is None and box.nodeCount() == 0
    box.setMRMLScene(None)


def test_widgets_that_are_bound_by_their_property_cannot_be_loosened(a_scene: Any, a_qt_application: Any) -> None:
    """As in Slicer 5.12, whose `connectGui` returns no tag."""
    parameters = Parameters(a_scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    window = qt.QWidget()
    box = qt.QCheckBox(window)
    box.setProperty("SlicerParameterName", "legend")
    assert parameters.connectGui(window) is None
    box.checked = False
    assert not parameters.legend


def test_a_line_for_a_path_tells_of_an_empty_one_only_that_it_is_not_valid(a_qt_application: Any) -> None:
    line, told = ctk.ctkPathLineEdit(), []
    line.connect("currentPathChanged(QString)", told.append)
    line.connect("validInputChanged(bool)", told.append)
    for path in ("a", "ab", ""):
        line.currentPath = path
    assert told == ["a", True, "ab", False]


def test_a_change_of_layout_is_told_once_its_views_are_there(a_scene: Any) -> None:
    manager, told = slicer.app.layoutManager(), []
    listen = lambda layout: told.append((layout, manager.sliceViewNames()))  # noqa: E731
    manager.connect("layoutChanged(int)", listen)
    for _again in range(2):
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
    assert manager.disconnect("layoutChanged(int)", listen)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert told == [(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView, ("Red", "Yellow"))]


def test_a_widget_that_slicer_cannot_bind_is_refused(a_scene: Any, a_qt_application: Any) -> None:
    parameters = Parameters(a_scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    with pytest.raises(RuntimeError, match="GUI connector"):
        parameters.connectParametersToGui({"prompt": qt.QPlainTextEdit()})


def test_a_process_is_heard_while_qt_works(a_qt_application: Any) -> None:
    process, heard = qt.QProcess(), []
    process.readyReadStandardOutput.connect(lambda: heard.append(process.readAllStandardOutput().data()))
    process.start(sys.executable, ["-c", "print('hello')"])
    assert gui.spin(lambda: process.state() == qt.QProcess.NotRunning, timeout_s=60)
    assert b"".join(heard).strip() == b"hello"


def test_qt_may_be_called_for_hours(a_qt_application: Any) -> None:
    """Each call takes a reference of None away; see `shim/qt.py`."""
    timer = qt.QTimer()
    for _each in range(50_000):
        timer.stop()
    assert sys.getrefcount(None) > 50_000


def test_a_message_box_is_kept_and_answered(the_message_boxes: list[str]) -> None:
    assert slicer.util.confirmYesNoDisplay("Install?")
    slicer.util.errorDisplay("No memory")
    assert the_message_boxes == ["Install?", "No memory"]
