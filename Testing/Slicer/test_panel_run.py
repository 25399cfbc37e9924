"""The button that segments and cancels, over a scripted worker; one run over the real one."""

from __future__ import annotations

import sys
from typing import Any

import gui
import numpy as np
import pytest
import qt
import slicer
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.process_tree import killOne
from DiffuGTSSlicer.settings import INTERPRETER_KEY, setSetting
from logic_parts import jobFolders, nodeNames
from panel_parts import GRID, WHOLE_RUN, Opened
from scene_parts import noise, scan_node

from DiffuGTSLib.config import load_config

pytest_plugins = ["panel_fixtures"]


def test_a_run_from_the_button_to_the_findings(a_panel: Opened, a_coarse_scan: Any) -> None:
    ui, state = a_panel.ui, a_panel.state
    a_panel.script(*WHOLE_RUN[:4], ["sleep", 0.4], *WHOLE_RUN[4:])
    ui.runButton.click()
    assert ui.runButton.text == "&Cancel" and not ui.segmentationSelector.enabled and not ui.refineButton.enabled
    assert gui.spin(lambda: state.aova is not None)
    assert a_panel.logic.isRunning and state.overlay == "aova", "AOVA is shown while the rest is computed"
    layers = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert layers.GetForegroundVolumeID() == state.aova.GetID()
    a_panel.finish()
    assert ui.messageLabel.text == "2 findings, refined by residuals"
    assert ui.runButton.text == "&Segment" and ui.runButton.enabled
    assert state.resultVolume is a_coarse_scan and ui.segmentationSelector.currentNode() is state.segmentation
    assert ui.findingsTable.rowCount == 2 and ui.refineButton.enabled and ui.show3DButton.enabled
    assert "Modality: CT" in ui.logText.plainText


@pytest.mark.parametrize("rule", ["fixed", "relative"])
def test_the_overlay_begins_where_candidates_do(a_panel: Opened, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn "from threshold" is what the run took; a level of one's own stays where levels are fixed."""
    config = load_config(overrides=[f"masks.rule={rule}", "masks.threshold=0.4"])
    monkeypatch.setattr(RunParameters, "config", lambda parameters: config)
    monkeypatch.setattr("DiffuGTSSlicer.result_set.highestOf", lambda node: 0.5)  # a higher or lower place elsewhere
    a_panel.script(*WHOLE_RUN)
    a_panel.ui.overlayThresholdSlider.value = 0.9
    a_panel.segment()
    state = a_panel.state
    candidates = segmentMask(state.candidate, state.candidateSegmentId, state.resultVolume)
    highest = float(slicer.util.arrayFromVolume(state.aova)[candidates > 0].max())
    assert highest > 0
    wanted = 0.4 * highest if rule == "relative" else 0.9
    assert a_panel.state.overlayThreshold == pytest.approx(wanted, abs=0.01)
    assert a_panel.state.aova.GetDisplayNode().GetLowerThreshold() == pytest.approx(wanted, abs=0.01)


def test_a_scan_that_is_changed_during_its_run_is_told(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.script(*WHOLE_RUN[:4], ["sleep", 0.5], *WHOLE_RUN[4:])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.state.aova is not None)
    slicer.util.updateVolumeFromArray(a_coarse_scan, slicer.util.arrayFromVolume(a_coarse_scan)[::-1].copy())
    a_panel.finish()
    outcome, note = a_panel.ui.messageLabel.text.split("\n")
    assert outcome.startswith("2 findings") and "was changed during the run" in note
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert a_panel.ui.messageLabel.text == outcome


def test_the_button_cancels_and_says_so(a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint")
    assert "Repainting" in a_panel.ui.stageLabel.text and a_panel.ui.progressBar.value > 0
    a_panel.ui.runButton.click()
    assert a_panel.ui.runButton.text == "Canceling…" and not a_panel.ui.runButton.enabled
    a_panel.finish(5)
    assert a_panel.ui.messageLabel.text == "Canceled." and a_panel.ui.runButton.text == "&Segment"


@pytest.mark.parametrize(
    "code",
    ["oom", "cuda_arch", "disk_full", "weights_missing", "weights_corrupt", "import_failed", "geometry", "protocol"],
)
def test_every_error_is_told_with_the_next_step_and_the_next_run_works(a_panel: Opened, code: str) -> None:
    a_panel.script(["error", code, "What is wrong.", "do this."])
    a_panel.segment()
    lines = a_panel.ui.messageLabel.text.split("\n")
    assert lines[0] == "What is wrong." and len(lines) == 2 and len(lines[1]) > 8
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert a_panel.ui.messageLabel.text.startswith("2 findings")


def test_the_next_step_is_one_that_the_panel_offers_then(a_panel: Opened) -> None:
    ui = a_panel.ui
    for code in ("cuda", "cuda_arch"):
        a_panel.script(["error", code, "What is wrong.", ""])
        a_panel.segment()
        assert f"set Device to {ui.deviceComboBox.itemText(1)} under" in ui.messageLabel.text
        assert ui.releaseButton.text not in ui.messageLabel.text, "that worker has left"
    setSetting(INTERPRETER_KEY, sys.executable)
    a_panel.script(["error", "import_failed", "What is wrong.", ""])
    a_panel.segment()
    assert not ui.installButton.enabled and "Another interpreter" in ui.messageLabel.text


def test_a_killed_worker_is_told_and_the_next_run_works(a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["say", "last words"], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: "last words" in a_panel.ui.logText.plainText)
    killOne(a_panel.logic.client.processId)
    a_panel.finish()
    assert "memory was full" in a_panel.ui.messageLabel.text and "Crop the scan" in a_panel.ui.messageLabel.text
    assert not a_panel.ui.logCollapsibleButton.collapsed
    a_panel.ui.copyLogButton.click()
    copied = qt.QApplication.clipboard().text()
    assert "DiffuGTS" in copied and "last words" in copied and "oom" in copied and "preset mini" in copied
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    assert a_panel.ui.messageLabel.text.startswith("2 findings")


def test_a_file_that_cannot_be_read_fails_the_run_in_words(a_panel: Opened) -> None:
    a_panel.script(["garble", "aova"], ["sleep", 60], ["done"])
    a_panel.segment()
    assert len(a_panel.ui.messageLabel.text.split("\n")) == 2
    assert a_panel.state.aova is None


def test_control_and_enter_starts_and_never_cancels(a_panel: Opened) -> None:
    assert [s.key.toString() for s in a_panel.panel._shortcuts] == ["Ctrl+Return", "Ctrl+Enter"]
    a_panel.script(["sleep", 60])
    a_panel.panel.run.start()
    assert a_panel.logic.isRunning
    a_panel.panel.run.start()
    assert a_panel.logic.isRunning and a_panel.logic.client.state != "cancelling"


def test_another_scan_gets_results_of_its_own_and_the_firsts_stay(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.segment()
    state = a_panel.state
    first = {name: getattr(state, name) for name in ("aova", "pseudoHealthy", "residual", "candidate", "segmentation")}
    second = scan_node(GRID, noise(GRID, 1), "Second")
    a_panel.ui.inputSelector.setCurrentNode(second)
    a_panel.segment()
    for name, node in first.items():
        assert getattr(state, name) is not node and node.GetNodeReference("DiffuGTS.Scan") is a_coarse_scan
        assert getattr(state, name).GetNodeReference("DiffuGTS.Scan") is second
    assert first["segmentation"].GetName() == "Scan tumor" and state.segmentation.GetName() == "Second tumor"
    assert state.resultVolume is second and a_panel.ui.findingsTable.rowCount == 2


def test_the_results_of_a_scan_that_was_deleted_are_left_alone(a_panel: Opened, a_coarse_scan: Any) -> None:
    """Also after a first run on the other scan that did not come to its end."""
    a_panel.segment()
    state = a_panel.state
    first = {name: getattr(state, name) for name in ("aova", "pseudoHealthy", "residual", "candidate", "segmentation")}
    before = segmentMask(first["segmentation"], state.tumorSegmentId, a_coarse_scan)
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    second = scan_node(GRID, noise(GRID, 1), "Second")
    a_panel.ui.inputSelector.setCurrentNode(second)
    a_panel.script(["artifact", "aova"], ["error", "oom", "Too big.", "Smaller."])
    a_panel.segment()
    a_panel.script(*WHOLE_RUN)
    a_panel.segment()
    for name, node in first.items():
        assert getattr(state, name) is not node and getattr(state, name).GetNodeReference("DiffuGTS.Scan") is second
    assert first["segmentation"].GetSegmentation().GetNumberOfSegments() == 1
    [segment] = first["segmentation"].GetSegmentation().GetSegmentIDs()
    assert np.array_equal(segmentMask(first["segmentation"], segment, second), before)


def test_a_segmentation_of_ones_own_is_taken_and_belongs_to_the_scan_then(a_panel: Opened, a_coarse_scan: Any) -> None:
    own = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    a_panel.ui.segmentationSelector.setCurrentNode(own)
    a_panel.segment()
    assert a_panel.state.segmentation is own and own.GetNodeReference("DiffuGTS.Scan") is a_coarse_scan
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    a_panel.ui.inputSelector.setCurrentNode(scan_node(GRID, noise(GRID, 1), "Second"))
    a_panel.segment()
    assert a_panel.state.segmentation is not own and own.GetSegmentation().GetNumberOfSegments() == 1


def test_a_segmentation_of_surfaces_is_refused_before_anything_runs(a_panel: Opened) -> None:
    surfaces = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surfaces")
    surfaces.SetSourceRepresentationToClosedSurface()
    a_panel.ui.segmentationSelector.setCurrentNode(surfaces)
    a_panel.ui.runButton.click()
    assert not a_panel.logic.isRunning and not a_panel.logic.client.isWarm
    assert "Create new segmentation" in a_panel.ui.messageLabel.text


def test_five_runs_in_a_row_leave_no_node_or_folder(a_panel: Opened) -> None:
    a_panel.segment()
    names, worker = nodeNames(), a_panel.logic.client.processId
    for _again in range(5):
        a_panel.segment()
    assert nodeNames() == names and a_panel.logic.client.processId == worker and jobFolders() == []


@pytest.mark.slow
def test_the_real_worker_segments_the_demo_scan(a_demo_scan: Any, a_qt_application: Any) -> None:
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    widget.panel.parameterNode.device = "cpu"
    widget.panel.parameterNode.steps = 2
    widget.ui.runButton.click()
    assert gui.spin(lambda: not widget.logic.isRunning, 540), widget.ui.logText.plainText
    assert widget.logic.run.state == "done", widget.ui.messageLabel.text
    assert gui.spin(lambda: widget.ui.findingsTable.rowCount >= 1)
    gui.unloadModule(widget)
