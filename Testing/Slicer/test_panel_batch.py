"""Batch: chosen scans one after the other, each with its state; one that fails stops none, and each can be reviewed."""

from __future__ import annotations

from typing import Any

import gui
import pytest
import qt
import slicer
from panel_parts import GRID, WHOLE_RUN, Opened
from scene_parts import bending_transform, noise, scan_node, under

pytest_plugins = ["panel_fixtures"]


@pytest.fixture
def three_scans(a_coarse_scan: Any) -> list[Any]:
    """The scan of the panel, and two more."""
    return [a_coarse_scan, scan_node(GRID, noise(GRID, 1), "Second"), scan_node(GRID, noise(GRID, 2), "Third")]


def rows(panel: Opened) -> dict[str, list[str]]:
    """Return state and findings by scan."""
    table = panel.ui.batchTable
    return {
        table.item(row, 0).text(): [table.item(row, column).text() for column in (1, 2)]
        for row in range(table.rowCount)
    }


def check(panel: Opened, *names: str) -> None:
    """Check scans by name."""
    table = panel.ui.batchTable
    for row in range(table.rowCount):
        item = table.item(row, 0)
        item.setCheckState(qt.Qt.Checked if item.text() in names else qt.Qt.Unchecked)


def click(panel: Opened, name: str) -> None:
    """Click a scan."""
    table = panel.ui.batchTable
    [row] = [each for each in range(table.rowCount) if table.item(each, 0).text() == name]
    table.cellClicked.emit(row, 1)


def test_the_scans_of_the_scene_are_offered_and_results_are_not(three_scans: list[Any], a_panel: Opened) -> None:
    assert list(rows(a_panel)) == ["Scan", "Second", "Third"]
    assert not a_panel.ui.batchButton.enabled, "nothing is checked"
    a_panel.segment()
    scan_node(GRID, noise(GRID, 3), "Fourth")
    assert list(rows(a_panel)) == ["Fourth", "Scan", "Second", "Third"]
    slicer.mrmlScene.RemoveNode(three_scans[2])
    assert list(rows(a_panel)) == ["Fourth", "Scan", "Second"]


def test_checked_scans_are_segmented_one_after_the_other(three_scans: list[Any], a_panel: Opened) -> None:
    ui = a_panel.ui
    check(a_panel, "Second", "Third")
    ui.batchButton.click()
    assert ui.batchButton.text == "Cancel batch" and ui.runButton.text == "&Cancel"
    a_panel.finish()
    gui.spin(lambda: bool(ui.batchMessageLabel.text))
    # The scripted worker lists no findings; those that are drawn are counted under Review.
    assert rows(a_panel) == {"Scan": ["", ""], "Second": ["done", "0"], "Third": ["done", "0"]}
    assert ui.batchMessageLabel.text == "2 of 2 scans done"
    assert a_panel.state.segmentation is None, "what is being reviewed is left alone"


def test_a_case_that_fails_is_named_and_stops_no_other(three_scans: list[Any], a_panel: Opened) -> None:
    bend = bending_transform()
    under(three_scans[1], bend)
    check(a_panel, "Scan", "Second", "Third")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    gui.spin(lambda: "failed" in a_panel.ui.batchMessageLabel.text)
    assert [state for state, _count in rows(a_panel).values()] == ["done", "failed", "done"]
    assert a_panel.ui.batchMessageLabel.text == "2 of 3 scans done, 1 failed: click one to see why"
    click(a_panel, "Second")
    assert "Second" in a_panel.ui.batchMessageLabel.text and "nonlinear" in a_panel.ui.batchMessageLabel.text
    slicer.mrmlScene.RemoveNode(bend)


def test_a_click_takes_a_case_into_review(three_scans: list[Any], a_panel: Opened) -> None:
    check(a_panel, "Second", "Third")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    for scan in three_scans[1:]:
        click(a_panel, scan.GetName())
        a_panel.settle()
        state = a_panel.state
        assert state.inputVolume is scan and state.resultVolume is scan
        assert state.segmentation.GetName() == f"{scan.GetName()} tumor"
        assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.refineButton.enabled
        assert not state.candidate.GetDisplayNode().GetVisibility()
        layers = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
        assert layers.GetBackgroundVolumeID() == scan.GetID()


def test_cancel_leaves_the_scans_that_wait(three_scans: list[Any], a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    check(a_panel, "Scan", "Third")
    a_panel.ui.batchButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint")
    assert rows(a_panel)["Scan"][0] == "running" and rows(a_panel)["Third"][0] == "waiting"
    a_panel.ui.batchButton.click()
    a_panel.finish(10)
    gui.spin(lambda: bool(a_panel.ui.batchMessageLabel.text))
    assert [rows(a_panel)[name][0] for name in ("Scan", "Third")] == ["canceled", "canceled"]
    assert a_panel.ui.batchMessageLabel.text == "0 of 2 scans done, 2 canceled"
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert a_panel.ui.messageLabel.text.startswith("2 findings")


def test_the_results_become_a_table_of_the_scene(three_scans: list[Any], a_panel: Opened) -> None:
    assert not a_panel.ui.batchToTableButton.enabled
    check(a_panel, "Second")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    gui.spin(lambda: a_panel.ui.batchToTableButton.enabled)
    a_panel.ui.batchToTableButton.click()
    [table] = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert table.GetNumberOfRows() == 1 and table.GetCellText(0, 0) == "Second"


def test_prompts_that_would_be_refused_keep_the_batch_from_starting(three_scans: list[Any], a_panel: Opened) -> None:
    check(a_panel, "Second")
    a_panel.ui.abnormalPromptEdit.setPlainText("lung without tumor")
    assert not a_panel.ui.batchButton.enabled and "absent" in a_panel.ui.batchButton.toolTip


def test_closing_the_scene_empties_the_batch(three_scans: list[Any], a_panel: Opened) -> None:
    check(a_panel, "Second")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    slicer.mrmlScene.Clear(0)
    assert rows(a_panel) == {} and not a_panel.ui.batchButton.enabled


def outlined() -> list[str]:
    """Return the names of the segmentations that are shown."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return sorted(node.GetName() for node in nodes if node.GetDisplayNode().GetVisibility())


def test_only_the_case_under_review_is_outlined(three_scans: list[Any], a_panel: Opened) -> None:
    """The scans lie in the same place of the world: outlines of another one would look like this one's own."""
    check(a_panel, "Scan", "Second", "Third")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    assert outlined() == [], "no case is under review yet"
    for name in ("Second", "Third"):
        click(a_panel, name)
        assert outlined() == [f"{name} tumor"]
    slicer.util.getNode("Second tumor").GetDisplayNode().SetVisibility(True)
    a_panel.panel.refresh()
    assert outlined() == ["Second tumor", "Third tumor"], "what the user shows stays"
    click(a_panel, "Second")
    assert outlined() == ["Second tumor"]


def test_a_message_about_one_case_does_not_stand_over_another(three_scans: list[Any], a_panel: Opened) -> None:
    check(a_panel, "Second")
    a_panel.ui.batchButton.click()
    a_panel.finish()
    for end in (["sleep", 60], ["error", "oom", "Too big.", ""]):
        a_panel.script(["stage", "repaint", 0.1], end)
        a_panel.ui.runButton.click()
        assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint" or not a_panel.logic.isRunning)
        a_panel.logic.cancel()
        a_panel.finish(10)
        assert a_panel.ui.messageLabel.text.startswith(("Canceled.", "Too big."))
        click(a_panel, "Second")
        assert a_panel.ui.messageLabel.text.startswith("2 findings")


@pytest.mark.parametrize("isUnderWay", [False, True])
def test_a_batch_goes_with_its_scene(three_scans: list[Any], a_panel: Opened, isUnderWay: bool) -> None:
    if isUnderWay:
        a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    check(a_panel, "Second")
    a_panel.ui.batchButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint" or not a_panel.logic.isRunning)
    if not isUnderWay:
        a_panel.finish()
    slicer.mrmlScene.Clear(0)
    a_panel.finish(10)
    gui.spin(lambda: False, 0.2)
    assert a_panel.logic.batch is None and not a_panel.ui.batchToTableButton.enabled
    assert a_panel.ui.batchMessageLabel.text == ""
