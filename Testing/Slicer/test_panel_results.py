"""A result is one run's: its scan, its maps and its segments are reviewed together, and the user's segments are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import qt
import slicer
import vtk
from DiffuGTSSlicer.boxed_mask import BoxedMask
from DiffuGTSSlicer.grids import segmentBox, segmentMask
from DiffuGTSSlicer.result_set import isClone
from DiffuGTSSlicer.scene import DIGEST_TAG, SCAN_ROLE
from DiffuGTSSlicer.terminology import hasRegion
from logic_parts import nodeNames
from panel_parts import GRID, WHOLE_RUN, Opened
from scene_parts import blob, noise, rigid, scan_node, set_segment_mask

from DiffuGTSLib.volumes import Geometry

pytest_plugins = ["panel_fixtures"]

SHIFTED = Geometry(GRID.shape, GRID.ijk_to_ras + np.array([[0, 0, 0, 40], [0, 0, 0, 40], [0, 0, 0, 20], [0, 0, 0, 0]]))
"""Overlaps the first scan's place in the world, and holds less of it."""
RESULT = ("aova", "pseudoHealthy", "residual", "candidate", "candidateSegmentId", "segmentation", "tumorSegmentId")
MAPS_ONLY = [["artifact", "aova"], ["artifact", "coarse_mask"], ["stage", "repaint", 0.1]]
FOUND_NOTHING = [["artifact", "aova"], ["artifact", "coarse_mask"], ["artifact", "segmentation"], ["done"]]


def resultOf(panel: Opened) -> dict[str, Any]:
    """Return what is under review."""
    return {name: getattr(panel.state, name) for name in RESULT}


def segmentOn(panel: Opened, scan: Any) -> dict[str, Any]:
    """Segment another scan and return its result."""
    panel.ui.inputSelector.setCurrentNode(scan)
    panel.segment()
    return resultOf(panel)


def segments(node: Any) -> dict[str, bool]:
    """Return the segments by name, and whether each is shown."""
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    ids = segmentation.GetSegmentIDs()
    return {segmentation.GetSegment(each).GetName(): bool(display.GetSegmentVisibility(each)) for each in ids}


def isShown(node: Any) -> bool:
    return bool(node.GetDisplayNode().GetVisibility())


# --- An earlier result is chosen


def test_choosing_an_earlier_result_reviews_it_on_its_own_scan_and_with_its_own_maps(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    first = segmentOn(a_panel, a_coarse_scan)
    mask = segmentMask(first["segmentation"], first["tumorSegmentId"], a_coarse_scan)
    a_panel.script(*FOUND_NOTHING)
    second = segmentOn(a_panel, scan_node(SHIFTED, noise(SHIFTED, 1), "Second"))
    assert not any(first[name] is second[name] for name in ("aova", "candidate", "segmentation"))
    assert not isShown(first["segmentation"]) and isShown(second["segmentation"])
    a_panel.ui.segmentationSelector.setCurrentNode(first["segmentation"])
    a_panel.settle()
    assert resultOf(a_panel) == first
    assert a_panel.state.resultVolume is a_coarse_scan and a_panel.state.inputVolume is a_coarse_scan
    assert isShown(first["segmentation"]) and not isShown(second["segmentation"])
    assert a_panel.ui.messageLabel.text.startswith("2 findings") and a_panel.ui.rockButton.enabled
    for check in (qt.Qt.Unchecked, qt.Qt.Checked):
        a_panel.ui.findingsTable.item(1, 0).setCheckState(check)
    assert np.array_equal(segmentMask(first["segmentation"], first["tumorSegmentId"], a_coarse_scan), mask)


def test_choosing_a_scan_again_brings_its_newest_result_back_and_a_run_writes_into_that(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    first, second = a_coarse_scan, scan_node(SHIFTED, noise(SHIFTED, 1), "Second")
    results = {scan.GetName(): segmentOn(a_panel, scan) for scan in (first, second)}
    names = nodeNames()
    for scan in (first, second, first):
        a_panel.ui.inputSelector.setCurrentNode(scan)
        a_panel.settle()
        assert a_panel.state.resultVolume is scan and resultOf(a_panel) == results[scan.GetName()]
        assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.refineButton.enabled
        a_panel.segment()
        assert nodeNames() == names, "no second set of maps"


def test_a_scan_without_a_result_leaves_review_alone_but_takes_neither_its_outcome_nor_its_candidate(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    result = segmentOn(a_panel, a_coarse_scan)
    a_panel.ui.inputSelector.setCurrentNode(scan_node(SHIFTED, noise(SHIFTED, 1), "Second"))
    a_panel.settle()
    assert a_panel.state.resultVolume is a_coarse_scan and resultOf(a_panel) == result
    assert a_panel.ui.messageLabel.text == "" and not a_panel.ui.refineButton.enabled
    assert not a_panel.ui.showCandidateCheckBox.enabled


def test_an_outcome_goes_with_its_scan(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    assert "Load a volume" in a_panel.ui.messageLabel.text
    second = scan_node(SHIFTED, noise(SHIFTED, 1), "Second")
    a_panel.widget.enter()
    assert a_panel.state.inputVolume is second and a_panel.ui.messageLabel.text == ""


def test_a_cloned_result_stays_shown_and_can_be_reviewed(a_panel: Opened, a_coarse_scan: Any) -> None:
    first = segmentOn(a_panel, a_coarse_scan)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(first["segmentation"])
    clone = hierarchy.GetItemDataNode(
        slicer.vtkSlicerSubjectHierarchyModuleLogic.CloneSubjectHierarchyItem(hierarchy, item)
    )
    a_panel.widget.exit()
    a_panel.widget.enter()
    a_panel.settle()
    assert isShown(clone) and a_panel.state.segmentation is first["segmentation"]
    a_panel.ui.segmentationSelector.setCurrentNode(clone)
    a_panel.settle()
    assert isShown(clone) and clone.GetNodeReference(SCAN_ROLE) is a_coarse_scan
    assert resultOf(a_panel) == {**first, "segmentation": clone}
    assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.findingsToTableButton.enabled
    assert a_panel.ui.findingsTable.item(0, 3).text() != "–", "by the maps of the first"
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    assert not isClone(first["segmentation"]), "a result whose scan is gone"


def test_an_earlier_result_comes_back_with_its_own_overlay_threshold_and_after_saving(
    a_panel: Opened, a_coarse_scan: Any, tmp_path: Any
) -> None:
    segmentOn(a_panel, a_coarse_scan)
    level = a_panel.state.overlayThreshold
    segmentOn(a_panel, scan_node(SHIFTED, noise(SHIFTED, 1), "Second"))
    a_panel.state.overlayThreshold = 0.93
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert a_panel.state.overlayThreshold == pytest.approx(0.93), "nothing was chosen yet"
    a_panel.ui.segmentationSelector.setCurrentNode(slicer.util.getNode("Scan tumor"))
    a_panel.settle()
    assert a_panel.state.aova is slicer.util.getNode("Scan AOVA") and a_panel.ui.findingsTable.rowCount == 2
    assert a_panel.state.overlayThreshold == pytest.approx(level, abs=0.001)


def test_a_segmentation_that_is_not_of_the_scan_under_review_is_neither_measured_nor_handed_on(
    a_panel: Opened, a_coarse_scan: Any, the_modules_of_the_application: list[str]
) -> None:
    first = segmentOn(a_panel, a_coarse_scan)
    segmentOn(a_panel, scan_node(SHIFTED, noise(SHIFTED, 1), "Second"))
    first["segmentation"].RemoveAttribute("DiffuGTS.TumorSegment")  # as in a scene of before
    a_panel.ui.segmentationSelector.setCurrentNode(first["segmentation"])
    a_panel.settle()
    assert a_panel.panel.review.findings is None and a_panel.ui.findingsTable.rowCount == 0
    ui = a_panel.ui
    for button in (ui.editSegmentationButton, ui.show3DButton, ui.statisticsButton, ui.exportDicomButton):
        assert not button.enabled, button.text


def test_a_new_segmentation_gets_maps_of_its_own_and_the_earlier_ones_stay(a_panel: Opened) -> None:
    a_panel.segment()
    first = resultOf(a_panel)
    a_panel.ui.segmentationSelector.setCurrentNode(None)
    a_panel.segment()
    second = resultOf(a_panel)
    for name in ("aova", "pseudoHealthy", "residual", "candidate", "segmentation"):
        assert second[name] is not first[name] and slicer.mrmlScene.IsNodePresent(first[name]), name
        assert second[name].GetName() == f"{first[name].GetName()}_1", "what is alike is not told apart"
    a_panel.ui.segmentationSelector.setCurrentNode(first["segmentation"])
    assert resultOf(a_panel) == first


def test_where_no_scan_is_under_review_nothing_is_hidden(a_panel: Opened) -> None:
    """As of a result that a script made before the panel was opened, or where the scan under review was deleted."""
    a_panel.segment()
    node = a_panel.state.segmentation
    a_panel.ui.segmentationSelector.setCurrentNode(None)
    a_panel.state.resultVolume = None
    a_panel.panel.refresh()
    assert isShown(node)


def test_the_candidate_of_a_result_is_edited_although_its_outcome_will_go_elsewhere(a_panel: Opened) -> None:
    a_panel.segment()
    candidate, segment = a_panel.state.candidate, a_panel.state.candidateSegmentId
    a_panel.ui.segmentationSelector.setCurrentNode(None)
    a_panel.ui.candidateFromThresholdButton.click()
    assert (a_panel.state.candidate, a_panel.state.candidateSegmentId) == (candidate, segment)


# --- A second run on the same scan


def test_a_run_that_finds_nothing_leaves_no_map_of_the_run_before(a_panel: Opened) -> None:
    a_panel.segment()
    assert a_panel.state.residual is not None
    a_panel.script(*FOUND_NOTHING)
    a_panel.segment()
    assert a_panel.state.pseudoHealthy is None and a_panel.state.residual is None
    assert not a_panel.ui.rockButton.enabled
    assert not [name for name in nodeNames() if "synthetic" in name or "residual" in name]


@pytest.mark.parametrize("end", ["canceled", "oom"])
def test_a_run_that_is_cut_short_brings_the_earlier_result_back_whole(
    a_panel: Opened, a_coarse_scan: Any, end: str
) -> None:
    a_panel.segment()
    first, state = resultOf(a_panel), a_panel.state
    slicer.util.updateVolumeFromArray(state.aova, np.full(GRID.shape[::-1], 0.25, np.float32))
    earlier = blob(GRID, (18, 17, 10), 4).T
    set_segment_mask(earlier, a_coarse_scan, state.candidate, state.candidateSegmentId)
    segment = state.candidate.GetSegmentation().GetSegment(state.candidateSegmentId)
    segment.SetTag(DIGEST_TAG, BoxedMask.of(earlier).digest)
    names, level = nodeNames(), state.overlayThreshold
    a_panel.script(*MAPS_ONLY, ["sleep", 60] if end == "canceled" else ["error", "oom", "Too big.", "Smaller."])
    a_panel.ui.runButton.click()
    if end == "canceled":
        assert gui.spin(lambda: "coarse_mask" in a_panel.logic.run.nodes)
        assert slicer.util.arrayFromVolume(state.aova).max() > 0.9, "the new map is shown as soon as it is there"
        a_panel.ui.runButton.click()
    a_panel.finish(20)
    assert resultOf(a_panel) == first and nodeNames() == names
    assert slicer.util.arrayFromVolume(state.aova).max() == 0.25
    assert np.array_equal(segmentMask(state.candidate, state.candidateSegmentId, a_coarse_scan), earlier)
    assert state.overlayThreshold == pytest.approx(level, abs=0.001)
    words = "Canceled: the earlier result was restored." if end == "canceled" else "Too big."
    assert a_panel.ui.messageLabel.text.startswith(words) and a_panel.ui.findingsTable.rowCount == 2


def test_a_module_that_goes_away_during_a_run_brings_the_earlier_result_back(a_panel: Opened) -> None:
    a_panel.segment()
    state = a_panel.state
    slicer.util.updateVolumeFromArray(state.aova, np.full(GRID.shape[::-1], 0.25, np.float32))
    a_panel.script(*MAPS_ONLY, ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: "coarse_mask" in a_panel.logic.run.nodes)
    a_panel.logic.cleanup()
    assert slicer.util.arrayFromVolume(state.aova).max() == 0.25
    assert not [name for name in nodeNames() if "partial" in name]


@pytest.mark.parametrize("isNew", [False, True])
def test_what_the_user_painted_during_a_run_is_not_taken_back_with_it(
    a_panel: Opened, a_coarse_scan: Any, isNew: bool
) -> None:
    a_panel.segment()
    state = a_panel.state
    if isNew:
        slicer.mrmlScene.RemoveNode(state.candidate)
    a_panel.script(*MAPS_ONLY, ["sleep", 60])
    a_panel.ui.runButton.click()
    nodes = a_panel.logic.run.nodes
    assert gui.spin(lambda: "coarse_mask" in nodes and state.candidate is nodes["coarse_mask"])
    painted, where = blob(GRID, (18, 17, 10), 4).T, (state.candidate, state.candidateSegmentId)
    set_segment_mask(painted, a_coarse_scan, *where)
    a_panel.ui.runButton.click()
    a_panel.finish(20)
    assert slicer.mrmlScene.IsNodePresent(where[0])
    assert np.array_equal(segmentMask(*where, a_coarse_scan), painted)


def test_a_run_that_is_cut_short_in_a_segmentation_of_the_users_own_marks_its_segment_alone(a_panel: Opened) -> None:
    own, state = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Patient 7 organs"), a_panel.state
    own.GetSegmentation().AddEmptySegment("liver", "Liver")
    names = lambda: [own.GetSegmentation().GetSegment(i).GetName() for i in own.GetSegmentation().GetSegmentIDs()]  # noqa: E731
    state.segmentation = own
    a_panel.script(*WHOLE_RUN[:8], ["error", "oom", "Not enough memory.", ""])
    a_panel.segment()
    assert own.GetName() == "Patient 7 organs" and names() == ["Liver", "Lung tumor (partial)"]
    assert state.aova.GetName() == "Scan AOVA (partial)", "what the run itself has made is partial as a whole"
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert own.GetName() == "Patient 7 organs" and names() == ["Liver", "Lung tumor"]
    a_panel.script(*WHOLE_RUN[:8], ["error", "oom", "Not enough memory.", ""])
    a_panel.segment()
    assert own.GetName() == "Patient 7 organs" and names() == ["Liver", "Lung tumor"], "the earlier result is back"


def test_a_first_run_that_is_cut_short_says_partial_until_one_comes_to_its_end(a_panel: Opened) -> None:
    a_panel.script(*MAPS_ONLY, ["error", "oom", "Too big.", "Smaller."])
    a_panel.segment()
    assert a_panel.state.aova.GetName() == "Scan AOVA (partial)"
    assert a_panel.state.candidate.GetName() == "Scan candidate region (partial)"
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert a_panel.state.aova.GetName() == "Scan AOVA" and not [name for name in nodeNames() if "partial" in name]


def test_a_first_run_on_another_scan_that_is_cut_short_is_no_mixture_with_the_first_scan(
    a_panel: Opened, a_coarse_scan: Any
) -> None:
    first = segmentOn(a_panel, a_coarse_scan)
    second = scan_node(SHIFTED, noise(SHIFTED, 1), "Second")
    a_panel.script(["artifact", "aova"], ["error", "oom", "Too big.", "Smaller."])
    segmentOn(a_panel, second)
    state = a_panel.state
    assert state.resultVolume is second and state.aova.GetName() == "Second AOVA (partial)"
    assert state.segmentation is None and state.pseudoHealthy is None and a_panel.ui.findingsTable.rowCount == 0
    a_panel.ui.segmentationSelector.setCurrentNode(first["segmentation"])
    assert resultOf(a_panel) == first


@pytest.mark.parametrize("kind", ["segmentation", "aova"])
def test_what_is_deleted_before_the_end_of_its_run_is_no_part_of_it_and_told(a_panel: Opened, kind: str) -> None:
    a_panel.script(*WHOLE_RUN[:-2], ["sleep", 1.0], *WHOLE_RUN[-2:])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: "segmentation" in a_panel.logic.run.nodes, 60)
    node = a_panel.logic.run.nodes[kind]
    name = node.GetName()
    slicer.mrmlScene.RemoveNode(node)
    a_panel.finish()
    run = a_panel.logic.run
    assert run.state == "done", a_panel.ui.messageLabel.text
    assert kind not in run.nodes and kind not in run.segmentIds and getattr(a_panel.state, kind) is None
    assert f"'{name}' was deleted during the run." in a_panel.ui.messageLabel.text
    hierarchy, items = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene), vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    names = [hierarchy.GetItemName(items.GetId(index)) for index in range(items.GetNumberOfIds())]
    assert names.count(name) <= 1, "no second item, without a node"  # the application removes the first


def test_sentences_about_something_else_leave_the_chosen_organ_out_of_name_and_code(
    a_panel: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(a_panel.panel.requirements, "needsTextModel", lambda _prompts: False)
    for normal, abnormal, name, isPlaced in (
        ("muscle of the thigh", "sarcoma of the thigh", "Unnamed tumor", False),
        ("lung of a smoker", "lung with a nodule", "Lung tumor", True),
    ):
        a_panel.ui.normalPromptEdit.setPlainText(normal)
        a_panel.ui.abnormalPromptEdit.setPlainText(abnormal)
        a_panel.segment()
        segment = a_panel.state.segmentation.GetSegmentation().GetSegment(a_panel.state.tumorSegmentId)
        assert a_panel.state.organ == "lung" and segment.GetName() == name
        assert hasRegion(segment.GetTerminology()) == isPlaced


# --- Segments that have become the user's


def test_a_result_in_a_segmentation_on_a_finer_grid_is_the_runs_after_the_scene_was_saved_too(
    a_panel: Opened, tmp_path: Path
) -> None:
    fine = Geometry((72, 68, 40), GRID.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0]) @ rigid((0, 0, 0), (-0.5,) * 3))
    finer = scan_node(fine, np.zeros(fine.shape, np.int16), "Finer")
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Own")
    own.SetReferenceImageGeometryParameterFromVolumeNode(finer)
    own.GetSegmentation().AddEmptySegment("lung", "Lung")
    set_segment_mask(np.ones(fine.shape[::-1], np.uint8), finer, own, "lung")
    a_panel.state.segmentation = own
    a_panel.segment()
    before = [row.volumeMl for row in a_panel.panel.review.findings.rows]
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(path)
    a_panel.settle()
    state = a_panel.state
    assert segmentBox(state.segmentation, state.tumorSegmentId, state.resultVolume) is None, "it is on the finer grid"
    assert [row.volumeMl for row in a_panel.panel.review.findings.rows] == pytest.approx(before)
    a_panel.segment()
    assert a_panel.ui.messageLabel.text == "2 findings, refined by residuals"
    segmentation = state.segmentation.GetSegmentation()
    assert [segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs()] == ["Lung", "Lung tumor"]


def test_an_edited_segment_is_kept_hidden_under_another_name_and_told(a_panel: Opened) -> None:
    a_panel.segment()
    node = a_panel.state.segmentation
    for expected in (["Lung tumor (edited)"], ["Lung tumor (edited)", "Lung tumor (edited) 2"]):
        a_panel.ui.findingsTable.item(1, 0).setCheckState(qt.Qt.Unchecked)
        a_panel.segment()
        assert segments(node) == {**dict.fromkeys(expected, False), "Lung tumor": True}
        told = f"'Lung tumor' is edited: it is kept, hidden, as '{expected[-1]}'."
        assert told in a_panel.ui.logText.plainText and told in a_panel.ui.messageLabel.text


def test_an_undo_across_a_run_is_said_and_the_next_run_gives_no_name_twice(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    state, history = a_panel.state, slicer.vtkSegmentationHistory()
    node = state.segmentation
    history.SetSegmentation(node.GetSegmentation())  # as the Segment Editor does, before each step
    history.SaveState()
    set_segment_mask(blob(GRID, (18, 17, 10), 4).T, a_coarse_scan, node, state.tumorSegmentId)
    history.SaveState()
    a_panel.segment()
    assert "undone" not in a_panel.ui.syntheticLabel.text
    history.RestorePreviousState()
    a_panel.widget.enter()
    assert a_panel.ui.findingsTable.rowCount == 0 and "removed or undone" in a_panel.ui.syntheticLabel.text
    a_panel.segment()
    assert segments(node) == {"Lung tumor": False, "Lung tumor 2": True}
    assert a_panel.ui.findingsTable.rowCount == 2 and "undone" not in a_panel.ui.syntheticLabel.text


@pytest.mark.parametrize("status", ["Completed", "Flagged"])
def test_a_segment_that_somebody_has_judged_is_not_written_over(
    a_panel: Opened, a_coarse_scan: Any, status: str
) -> None:
    a_panel.segment()
    state, logic = a_panel.state, slicer.vtkSlicerSegmentationsModuleLogic
    judged, segmentId = state.segmentation.GetSegmentation().GetSegment(state.tumorSegmentId), state.tumorSegmentId
    logic.SetSegmentStatus(judged, getattr(logic, status))
    a_panel.segment()
    assert state.tumorSegmentId != segmentId and logic.GetSegmentStatus(judged) == getattr(logic, status)
    assert segments(state.segmentation) == {f"Lung tumor ({status.lower()})": False, "Lung tumor": True}


def test_a_cancel_gives_an_edited_segment_its_name_and_its_look_back(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    state = a_panel.state
    painted = blob(GRID, (18, 17, 10), 4).T
    set_segment_mask(painted, a_coarse_scan, state.candidate, state.candidateSegmentId)
    before = state.candidateSegmentId
    a_panel.script(*MAPS_ONLY, ["error", "oom", "Too big.", "Smaller."])
    a_panel.segment()
    assert segments(state.candidate) == {"Candidate region": True} and state.candidateSegmentId == before
    assert np.array_equal(segmentMask(state.candidate, before, a_coarse_scan), painted)
