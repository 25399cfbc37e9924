"""Inputs and prompts: what is offered, and what is refused as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import qt
import slicer
from DiffuGTSSlicer.grids import roiMask
from panel_parts import GRID, Opened
from scene_parts import blob, set_segment_mask

pytest_plugins = ["panel_fixtures"]


def test_sentences_are_checked_as_they_are_typed(a_panel: Opened) -> None:
    ui = a_panel.ui
    ui.abnormalPromptEdit.setPlainText("lung without tumor")
    assert not ui.runButton.enabled and "absent" in ui.promptHintLabel.text and ui.resetPromptsButton.enabled
    ui.resetPromptsButton.click()
    assert ui.runButton.enabled and ui.promptHintLabel.text == "" and not ui.resetPromptsButton.enabled
    ui.organComboBox.setCurrentIndex(0)
    ui.normalPromptEdit.setPlainText("")
    ui.abnormalPromptEdit.setPlainText("")
    assert not ui.runButton.enabled and ui.promptHintLabel.text


def test_a_sentence_is_typed_from_left_to_right(a_panel: Opened) -> None:
    for name in ("normalPrompt", "abnormalPrompt"):
        edit = getattr(a_panel.ui, f"{name}Edit")
        edit.selectAll()
        for letter in "a lung":
            for kind in (qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
                qt.QCoreApplication.sendEvent(edit, qt.QKeyEvent(kind, 0, qt.Qt.NoModifier, letter))
        assert edit.plainText == getattr(a_panel.state, name) == "a lung"
        setattr(a_panel.state, name, "a liver")
        assert edit.plainText == "a liver"


def test_segments_of_the_chosen_segmentation_are_offered(a_panel: Opened) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name)
    a_panel.ui.organSegmentationSelector.setCurrentNode(node)
    box = a_panel.ui.organSegmentComboBox
    assert box.enabled and box.count == 2 and a_panel.state.organSegmentId == "liver"
    box.setCurrentIndex(1)
    assert a_panel.state.organSegmentId == "spleen"
    slicer.mrmlScene.RemoveNode(node)
    assert not box.enabled and box.count == 0 and a_panel.state.organSegmentation is None
    assert a_panel.state.organSegmentId == "spleen", "without segments, nobody has chosen another one"


def test_an_organ_whose_segment_is_gone_is_not_replaced_by_another_one(a_panel: Opened, a_coarse_scan: Any) -> None:
    node, other = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name) for name in ("Organs", "Others"))
    for name in ("spleen", "lung"):
        node.GetSegmentation().AddEmptySegment(name, name)
        set_segment_mask(blob(GRID, (18, 17, 10), 3).T, a_coarse_scan, node, name)
    other.GetSegmentation().AddEmptySegment("liver", "liver")
    ui, state, box = a_panel.ui, a_panel.state, a_panel.ui.organSegmentComboBox
    ui.organSegmentationSelector.setCurrentNode(node)
    box.setCurrentIndex(1)
    state.synthesisOrgan = "lung"
    assert state.organSegmentId == "lung" and ui.synthesizeButton.enabled
    a_panel.panel.exit()
    node.GetSegmentation().RemoveSegment("lung")  # in the Segment Editor
    a_panel.panel.enter()
    assert state.organSegmentId == "lung" and box.currentText == ""
    assert not ui.synthesizeButton.enabled and "choose its segment" in ui.synthesizeButton.toolTip
    a_panel.segment()
    assert "'Organs' has no segment 'lung'" in ui.messageLabel.text and "again under Inputs" in ui.messageLabel.text
    ui.organSegmentationSelector.setCurrentNode(other)
    assert state.organSegmentId == "liver", "another segmentation begins with its first segment"
    ui.organSegmentationSelector.setCurrentNode(node)
    assert state.organSegmentId == "spleen" and box.currentText == "spleen"


def test_the_chosen_segment_comes_back_with_the_scene(
    a_panel: Opened, a_coarse_scan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    for name in ("liver", "spleen"):
        node.GetSegmentation().AddEmptySegment(name, name)
        set_segment_mask(blob(GRID, (18, 17, 10), 3).T, a_coarse_scan, node, name)
    a_panel.ui.organSegmentationSelector.setCurrentNode(node)
    a_panel.ui.organSegmentComboBox.setCurrentIndex(1)
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    refreshed: list[bool] = []
    refresh = a_panel.panel.inputs.refresh
    monkeypatch.setattr(
        a_panel.panel.inputs,
        "refresh",
        lambda: refreshed.append(a_panel.state is not None and bool(slicer.mrmlScene.IsImporting())) or refresh(),
    )
    slicer.util.loadScene(path)
    assert refreshed and not any(refreshed), "while the scene comes, its nodes are not complete"
    assert a_panel.state.organSegmentId == "spleen" and a_panel.ui.organSegmentComboBox.currentText == "spleen"
    assert a_panel.ui.organSegmentationSelector.currentNode() is slicer.util.getNode("Organs")


@pytest.mark.parametrize("name", ["inputVolume", "roi", "organSegmentation", "segmentation", "synthesisPlace"])
def test_in_the_place_of_a_node_that_is_deleted_none_is_chosen(a_panel: Opened, name: str) -> None:
    widgets = [widget for widget in vars(a_panel.ui).values() if widget.property("SlicerParameterName") == name]
    [selector] = widgets
    first, second, third = (slicer.mrmlScene.AddNewNodeByClass(selector.nodeTypes[0], each) for each in "ABC")
    selector.setCurrentNode(second)
    assert getattr(a_panel.state, name) is second
    slicer.mrmlScene.RemoveNode(first)
    assert getattr(a_panel.state, name) is second and selector.currentNode() is second
    slicer.mrmlScene.RemoveNode(second)
    assert getattr(a_panel.state, name) is None and selector.currentNode() is None
    slicer.mrmlScene.RemoveNode(third)
    assert getattr(a_panel.state, name) is None


def test_the_region_is_fitted_to_the_scan_or_to_the_organ_with_a_margin(a_panel: Opened, a_coarse_scan: Any) -> None:
    ui, state = a_panel.ui, a_panel.state
    assert ui.fitRoiButton.text == "Fit to scan" and not ui.fitMarginSpinBox.enabled
    ui.fitRoiButton.click()
    roi = state.roi
    assert not ui.roiSelector.addEnabled, "a new one of the selector's would have no size"
    assert roi.GetName() == "Scan ROI" and ui.roiSelector.currentNode() is roi and roiMask(roi, a_coarse_scan).all()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    node.GetSegmentation().AddEmptySegment("liver", "liver")
    set_segment_mask(blob(GRID, (18, 17, 10), 3).T, a_coarse_scan, node, "liver")
    ui.organSegmentationSelector.setCurrentNode(node)
    assert ui.fitRoiButton.text == "Fit to organ" and ui.fitMarginSpinBox.enabled
    ui.fitMarginSpinBox.value = 8
    ui.fitRoiButton.click()
    assert state.roi is roi and roi.GetSize() == pytest.approx((7 * 4 + 16,) * 3)


def test_an_empty_organ_leaves_no_region_behind(a_panel: Opened) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    node.GetSegmentation().AddEmptySegment("liver", "liver")
    a_panel.ui.organSegmentationSelector.setCurrentNode(node)
    a_panel.ui.fitRoiButton.click()
    assert "has no voxel" in a_panel.ui.messageLabel.text
    assert a_panel.state.roi is None and slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []
