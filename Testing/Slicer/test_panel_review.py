"""Review: overlay, comparison and findings act on views and segments."""

from __future__ import annotations

from typing import Any

import gui
import numpy as np
import pytest
import qt
import slicer
from DiffuGTSSlicer import display, findings
from DiffuGTSSlicer.grids import segmentMask
from panel_parts import GRID, Opened
from scene_parts import TURNED, bending_transform, linear_transform, noise, scan_node, set_segment_mask, under

pytest_plugins = ["panel_fixtures"]


def test_the_threshold_is_shown_at_once_and_counted_when_it_stays(
    a_panel: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_panel.segment()
    slider, label, aova = a_panel.ui.overlayThresholdSlider, a_panel.ui.voxelCountLabel, a_panel.state.aova
    assert gui.spin(lambda: "voxels" in label.text)
    counted: list[float] = []
    monkeypatch.setattr(display, "voxelsFrom", lambda _node, value: counted.append(value) or 7)
    for value in (0.9, 0.8, 0.7, 0.6):
        slider.value = value
        assert aova.GetDisplayNode().GetLowerThreshold() == pytest.approx(value)
    assert counted == []
    assert gui.spin(lambda: label.text.startswith("7 voxels"))
    assert counted == [pytest.approx(0.6)]
    slider.value = 0.5
    slicer.mrmlScene.RemoveNode(aova)
    assert label.text == "" and not gui.spin(lambda: label.text, 0.3)


def test_the_volume_above_the_threshold_is_that_of_the_world(a_panel: Opened, a_coarse_scan: Any) -> None:
    under(a_coarse_scan, linear_transform(np.diag([2.0, 2.0, 2.0, 1.0])))
    a_panel.segment()
    ui, state = a_panel.ui, a_panel.state
    assert gui.spin(lambda: "voxels" in ui.voxelCountLabel.text)
    voxels, ml = (float(word) for word in ui.voxelCountLabel.text.replace(" voxels,", "").split()[:2])
    assert ml == pytest.approx(voxels * 8**3 / 1000, abs=0.006)
    ui.candidateFromThresholdButton.click()
    rows = findings.Findings(state.candidate, state.candidateSegmentId, a_coarse_scan).rows
    assert ml == pytest.approx(sum(row.volumeMl for row in rows), abs=0.006)
    under(state.aova, bending_transform())
    a_panel.panel.review.reset()
    a_panel.panel.refresh()
    assert gui.spin(lambda: "– ml" in ui.voxelCountLabel.text), "a bent voxel has no one volume"


def test_review_controls_act_on_the_views(a_panel: Opened) -> None:
    a_panel.segment()
    ui, state = a_panel.ui, a_panel.state
    layers = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    ui.overlayComboBox.setCurrentIndex(2)
    assert layers.GetForegroundVolumeID() == state.residual.GetID()
    ui.opacitySlider.value = 0.2
    assert layers.GetForegroundOpacity() == pytest.approx(0.2)
    ui.overlayComboBox.setCurrentIndex(0)
    assert not layers.GetForegroundVolumeID()
    for mode in (ui.rockButton, ui.flickerButton, ui.revealButton):
        mode.checked = True
        assert layers.GetForegroundVolumeID() == state.pseudoHealthy.GetID()
    assert not ui.rockButton.checked and not ui.flickerButton.checked
    ui.revealButton.checked = False
    assert not layers.GetForegroundVolumeID(), "the overlay that was chosen comes back"
    ui.sideBySideLayoutButton.click()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
    ui.fourUpLayoutButton.click()
    ui.overlayLayoutButton.click()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView


def test_a_prior_that_the_user_has_put_into_a_view_stays_there(a_panel: Opened) -> None:
    prior = scan_node(GRID, noise(GRID, 5), "Prior CT")
    a_panel.segment()
    ui, state = a_panel.ui, a_panel.state
    red, yellow = (slicer.app.layoutManager().sliceWidget(each).mrmlSliceCompositeNode() for each in ("Red", "Yellow"))
    assert yellow.GetBackgroundVolumeID() == state.inputVolume.GetID(), "what is first reviewed is in every view"
    yellow.SetBackgroundVolumeID(prior.GetID())
    yellow.SetForegroundVolumeID(None)
    for touch in (
        lambda: setattr(ui.opacitySlider, "value", 0.3),
        ui.legendCheckBox.click,
        lambda: ui.overlayComboBox.setCurrentIndex(2),
        lambda: (setattr(ui.rockButton, "checked", True), setattr(ui.rockButton, "checked", False)),
        a_panel.segment,
        lambda: (ui.sideBySideLayoutButton.click(), ui.fourUpLayoutButton.click()),
    ):
        touch()
        assert yellow.GetBackgroundVolumeID() == prior.GetID()
        assert red.GetBackgroundVolumeID() == state.inputVolume.GetID()
    ui.fourUpLayoutButton.click()
    assert yellow.GetBackgroundVolumeID() == state.inputVolume.GetID(), "a layout that is chosen takes every view"


@pytest.mark.parametrize("isRocking", [False, True])
def test_a_map_leaves_the_views_with_its_scan(a_panel: Opened, a_coarse_scan: Any, isRocking: bool) -> None:
    a_panel.segment()
    a_panel.ui.rockButton.checked = isRocking
    layers = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert layers.GetForegroundVolumeID()
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    assert not layers.GetForegroundVolumeID() and not a_panel.ui.rockButton.checked
    assert a_panel.ui.findingsTable.rowCount == 0 and not a_panel.ui.overlayComboBox.enabled


def test_a_finding_is_jumped_to_dropped_and_taken_back(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    table, state = a_panel.ui.findingsTable, a_panel.state
    whole = segmentMask(state.segmentation, state.tumorSegmentId, a_coarse_scan).sum()
    table.cellClicked.emit(1, 1)
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert 0 < segmentMask(state.segmentation, state.tumorSegmentId, a_coarse_scan).sum() < whole
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    assert segmentMask(state.segmentation, state.tumorSegmentId, a_coarse_scan).sum() == whole


def test_a_box_that_cannot_be_cleared_under_a_bending_transform_is_checked_again_and_says_why(a_panel: Opened) -> None:
    a_panel.segment()
    under(a_panel.state.segmentation, bending_transform())
    box = a_panel.ui.findingsTable
    box.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert box.item(1, 0).checkState() == qt.Qt.Checked
    assert (
        "nonlinear transform" in a_panel.ui.messageLabel.text and "arden the transform" in a_panel.ui.messageLabel.text
    )


def test_a_segment_that_was_edited_elsewhere_is_measured_again_when_the_panel_is_opened(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    a_panel.segment()
    state = a_panel.state
    before = a_panel.panel.review.findings.rows
    mask = segmentMask(state.segmentation, state.tumorSegmentId, a_coarse_scan)
    mask[:] = 0
    mask[2:5, 2:5, 2:5] = 1
    set_segment_mask(mask, a_coarse_scan, state.segmentation, state.tumorSegmentId)
    a_panel.widget.exit()
    a_panel.widget.enter()
    a_panel.settle()
    assert len(before) == 2 and a_panel.ui.findingsTable.rowCount == 1
    assert a_panel.panel.review.findings.rows[0].volumeMl == pytest.approx(27 * 0.064)


def test_a_map_on_another_grid_fails_the_measuring_in_words(a_panel: Opened) -> None:
    a_panel.segment()
    a_panel.state.aova.SetOrigin(50, 0, 0)
    a_panel.widget.enter()
    a_panel.settle()
    assert "AOVA map" in a_panel.ui.messageLabel.text and a_panel.ui.findingsTable.rowCount == 0
    assert not a_panel.ui.findingsToTableButton.enabled


def test_what_kept_findings_from_being_measured_is_said_no_more_once_it_is_gone(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    a_panel.segment()
    outcome = a_panel.ui.messageLabel.text
    under(a_coarse_scan, linear_transform(TURNED))
    a_panel.widget.enter()
    a_panel.settle()
    assert "have different parent transforms" in a_panel.ui.messageLabel.text
    a_coarse_scan.SetAndObserveTransformNodeID(None)
    a_panel.widget.enter()
    a_panel.settle()
    assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.messageLabel.text == outcome


def test_a_scan_that_was_hardened_after_its_result_is_told_what_can_be_done_in_slicer(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    under(a_coarse_scan, linear_transform(TURNED))
    a_panel.segment()
    state = a_panel.state
    slicer.vtkSlicerTransformLogic.hardenTransform(a_coarse_scan)
    a_panel.widget.enter()
    a_panel.settle()
    assert "'Scan' was changed after its result was made" in a_panel.ui.messageLabel.text
    assert "harden the same one on the segmentation and the maps" in a_panel.ui.messageLabel.text
    for node in (state.segmentation, state.aova, state.pseudoHealthy, state.residual):
        slicer.vtkSlicerTransformLogic.hardenTransform(node)
    a_panel.widget.enter()
    a_panel.settle()
    assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.messageLabel.text.startswith("2 findings")


def test_what_nobody_expected_of_the_measuring_is_said(a_panel: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    a_panel.segment()
    monkeypatch.setattr(findings, "_lesions", None)
    a_panel.widget.exit()
    a_panel.widget.enter()
    a_panel.settle()
    assert "The findings cannot be measured: TypeError" in a_panel.ui.messageLabel.text


@pytest.mark.parametrize("leave", ["menu", "findings to table"])
def test_the_twin_leaves_its_view_whoever_changes_the_layout(a_panel: Opened, a_coarse_scan: Any, leave: str) -> None:
    a_panel.segment()
    manager, state = slicer.app.layoutManager(), a_panel.state
    a_panel.ui.sideBySideLayoutButton.click()
    yellow = manager.sliceWidget("Yellow").mrmlSliceCompositeNode()
    assert yellow.GetBackgroundVolumeID() == state.pseudoHealthy.GetID()
    if leave == "menu":
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    else:
        a_panel.ui.findingsToTableButton.click()
    assert yellow.GetBackgroundVolumeID() == a_coarse_scan.GetID()
    assert yellow.GetForegroundVolumeID() == state.aova.GetID()


def test_who_comes_back_to_the_module_finds_the_views_as_they_were_left(a_panel: Opened) -> None:
    a_panel.segment()
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    a_panel.widget.exit()
    red.SetForegroundVolumeID(None)
    a_panel.widget.enter()
    a_panel.settle()
    assert red.GetForegroundVolumeID() is None


def test_a_run_that_ends_behind_another_module_is_shown_on_the_way_back(a_panel: Opened) -> None:
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    a_panel.ui.runButton.click()
    a_panel.widget.exit()
    before = (red.GetBackgroundVolumeID(), red.GetForegroundVolumeID())
    a_panel.finish()
    assert a_panel.state.aova is not None
    assert (red.GetBackgroundVolumeID(), red.GetForegroundVolumeID()) == before
    a_panel.widget.enter()
    assert red.GetForegroundVolumeID() == a_panel.state.aova.GetID()
