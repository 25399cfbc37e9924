"""Inputs and prompts: what is offered, and what is refused as it is typed."""

from __future__ import annotations

from typing import Any

import pytest
import qt
import slicer
from DiffuGTSSlicer.grids import roiMask, setSegmentMask
from panel_parts import GRID, Opened
from scene_parts import blob

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
    assert not box.enabled and a_panel.state.organSegmentId == ""


def test_the_region_is_fitted_to_the_scan_or_to_the_organ_with_a_margin(a_panel: Opened, a_coarse_scan: Any) -> None:
    ui, state = a_panel.ui, a_panel.state
    assert ui.fitRoiButton.text == "Fit to scan" and not ui.fitMarginSpinBox.enabled
    ui.fitRoiButton.click()
    roi = state.roi
    assert roi.GetName() == "Scan ROI" and ui.roiSelector.currentNode() is roi and roiMask(roi, a_coarse_scan).all()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    node.GetSegmentation().AddEmptySegment("liver", "liver")
    setSegmentMask(blob(GRID, (18, 17, 10), 3).T, a_coarse_scan, node, "liver")
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
    assert "holds no voxel" in a_panel.ui.messageLabel.text
    assert a_panel.state.roi is None and slicer.util.getNodesByClass("vtkMRMLMarkupsROINode") == []
