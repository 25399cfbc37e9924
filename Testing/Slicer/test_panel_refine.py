"""Refine: the candidate region by threshold or by hand, and the rest again."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from DiffuGTSSlicer.grids import segmentMask
from panel_parts import GRID, Opened
from scene_parts import blob, noise, scan_node, set_segment_mask

from DiffuGTSLib.volumes import read_volume

pytest_plugins = ["panel_fixtures"]


def test_the_candidate_comes_from_the_threshold_and_is_refined(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    state = a_panel.state
    a_panel.ui.overlayThresholdSlider.value = 0.9
    a_panel.ui.candidateFromThresholdButton.click()
    expected = slicer.util.arrayFromVolume(state.aova) >= np.float32(0.9)
    assert np.array_equal(segmentMask(state.candidate, state.candidateSegmentId, a_coarse_scan) > 0, expected)
    tumor = state.tumorSegmentId
    a_panel.ui.refineButton.click()
    assert a_panel.logic.run.isRefinement
    a_panel.finish()
    assert state.tumorSegmentId == tumor
    assert np.array_equal(segmentMask(state.candidate, state.candidateSegmentId, a_coarse_scan) > 0, expected)
    a_panel.ui.overlayThresholdSlider.value = 1.0
    a_panel.ui.candidateFromThresholdButton.click()
    assert "above the threshold" in a_panel.ui.refineMessageLabel.text


@pytest.mark.parametrize("why", ["edited", "completed"])
def test_a_candidate_that_the_user_drew_or_judged_is_kept_hidden_when_one_is_drawn_from_the_map(
    a_panel: Opened, a_coarse_scan: Any, why: str
) -> None:
    a_panel.segment()
    state, logic = a_panel.state, slicer.vtkSlicerSegmentationsModuleLogic
    node, users = state.candidate, state.candidateSegmentId
    if why == "edited":
        set_segment_mask(blob(GRID, (5, 5, 5), 2).T, a_coarse_scan, node, users)
    else:
        logic.SetSegmentStatus(node.GetSegmentation().GetSegment(users), logic.Completed)
    mine = segmentMask(node, users, a_coarse_scan)
    for level in (0.9, 0.8):  # what came from the map is replaced by the next from the map
        a_panel.ui.overlayThresholdSlider.value = level
        a_panel.ui.candidateFromThresholdButton.click()
        expected = slicer.util.arrayFromVolume(state.aova) >= np.float32(level)
        assert np.array_equal(segmentMask(node, state.candidateSegmentId, a_coarse_scan) > 0, expected)
        told = f"'Candidate region' is {why}: it is kept, hidden, as 'Candidate region ({why})'."
        assert a_panel.ui.refineMessageLabel.text == (told if level == 0.9 else "")
    assert state.candidateSegmentId != users and node.GetSegmentation().GetNumberOfSegments() == 2
    assert np.array_equal(segmentMask(node, users, a_coarse_scan), mine)
    assert not node.GetDisplayNode().GetSegmentVisibility(users)


def test_the_candidates_outline_is_hidden_when_the_tumor_is_there_and_can_be_shown(a_panel: Opened) -> None:
    box, state = a_panel.ui.showCandidateCheckBox, a_panel.state
    assert not box.enabled and not box.checked
    a_panel.segment()
    node = state.candidate.GetDisplayNode()
    assert not node.GetVisibility() and not box.checked and box.enabled
    box.checked = True
    assert node.GetVisibility()
    box.checked = False
    a_panel.ui.candidateFromThresholdButton.click()
    assert node.GetVisibility() and box.checked, "who draws the region wants to see it"


def test_the_candidate_opens_in_the_segment_editor(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str]
) -> None:
    a_panel.panel.refresh()
    a_panel.ui.editCandidateButton.click()
    state = a_panel.state
    editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert the_modules_of_the_application == ["SegmentEditor"]
    assert editor.GetSegmentationNode() is state.candidate and editor.GetSourceVolumeNode() is a_coarse_scan
    assert editor.GetSelectedSegmentID() == state.candidateSegmentId != ""
    a_panel.ui.refineButton.click()
    a_panel.finish()
    assert "has no voxel" in a_panel.ui.messageLabel.text, "nothing was painted"


def test_without_the_segment_editor_the_button_says_why(a_panel: Opened) -> None:
    button = a_panel.ui.editCandidateButton
    assert not button.enabled and "SegmentEditor is not loaded" in button.toolTip


def refinedMask(panel: Opened) -> Any:
    """Refine, and return the candidates that the worker was given, (k, j, i)."""
    panel.state.keepFiles = True
    panel.ui.refineButton.click()
    panel.finish()
    folder = panel.logic.run.folder
    assert panel.logic.run.isRefinement and panel.logic.run.state == "done", panel.ui.messageLabel.text
    mask = read_volume(folder / "candidate.nrrd").array.T
    shutil.rmtree(folder)
    return mask


def test_every_segment_of_the_candidates_that_is_shown_is_refined(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    state = a_panel.state
    found = segmentMask(state.candidate, state.candidateSegmentId, a_coarse_scan)
    drawn = {"a": blob(GRID, (30, 5, 3), 2).T, "b": blob(GRID, (5, 30, 16), 2).T}
    for name, mask in drawn.items():
        state.candidate.GetSegmentation().AddEmptySegment(name, name)
        set_segment_mask(mask, a_coarse_scan, state.candidate, name)
    assert np.array_equal(refinedMask(a_panel) > 0, found | drawn["a"] | drawn["b"] > 0)
    state.candidate.GetDisplayNode().SetSegmentVisibility("b", False)
    assert np.array_equal(refinedMask(a_panel) > 0, found | drawn["a"] > 0)
    state.candidate.GetSegmentation().RemoveSegment(state.candidateSegmentId)
    assert np.array_equal(refinedMask(a_panel), drawn["a"])


def test_candidates_of_which_none_is_shown_or_none_is_left_are_told(a_panel: Opened) -> None:
    a_panel.segment()
    state = a_panel.state
    state.candidate.GetDisplayNode().SetSegmentVisibility(state.candidateSegmentId, False)
    a_panel.ui.refineButton.click()
    a_panel.finish()
    assert "No segment of 'Scan candidate region' is visible" in a_panel.ui.messageLabel.text
    state.candidate.GetSegmentation().RemoveSegment(state.candidateSegmentId)
    a_panel.panel.refresh()
    assert not a_panel.ui.refineButton.enabled


def test_who_edits_after_the_candidate_was_deleted_and_drawn_anew_edits_the_new_one(
    a_panel: Opened, the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    state = a_panel.state
    segmentation = state.candidate.GetSegmentation()
    segmentation.RemoveSegment(state.candidateSegmentId)
    segmentation.AddEmptySegment("b", "b")
    a_panel.ui.editCandidateButton.click()
    assert state.candidateSegmentId == "b" and segmentation.GetNumberOfSegments() == 1


def test_the_candidate_of_another_scan_is_not_edited_on_this_one(
    a_panel: Opened, the_modules_of_the_application: list[str]
) -> None:
    a_panel.segment()
    first = a_panel.state.candidate
    second = scan_node(GRID, noise(GRID, 1), "Second")
    a_panel.ui.inputSelector.setCurrentNode(second)
    a_panel.ui.editCandidateButton.click()
    candidate = a_panel.state.candidate
    assert candidate is not first and candidate.GetNodeReference("DiffuGTS.Scan") is second


def test_a_refined_tumor_is_no_longer_the_programs_alone(a_panel: Opened) -> None:
    for start, kind in ((a_panel.ui.runButton, "AUTOMATIC"), (a_panel.ui.refineButton, "SEMIAUTOMATIC")):
        start.click()
        a_panel.finish()
        told = vtk.reference("")
        segment = a_panel.state.segmentation.GetSegmentation().GetSegment(a_panel.state.tumorSegmentId)
        assert segment.GetTag("DICOM.SegmentAlgorithmType", told) and str(told) == kind
