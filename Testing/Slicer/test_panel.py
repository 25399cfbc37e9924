"""The panel as a whole: what a new scene shows, and what the scene does to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
import vtk
from DiffuGTSSlicer.panel_batch import scansOf
from DiffuGTSSlicer.scene import importVolume
from DiffuGTSSlicer.settings import ORGAN_KEY, setSetting
from panel_parts import GRID, WHOLE_RUN, Opened
from scene_parts import noise, on_disk, scan_node

from DiffuGTSLib.config import load_config
from DiffuGTSLib.resources import resource_path

pytest_plugins = ["panel_fixtures"]


def test_a_new_scene_is_ready_to_run(a_panel: Opened, a_coarse_scan: Any) -> None:
    ui = a_panel.ui
    assert ui.inputSelector.currentNode() is a_coarse_scan
    assert ui.runButton.enabled and ui.runButton.text == "&Segment"
    assert ui.organComboBox.currentText == "Lung" and "lung" in ui.normalPromptEdit.plainText
    assert ui.setupCollapsibleButton.collapsed and ui.advancedCollapsibleButton.collapsed
    mini = load_config("mini")
    assert ui.stepsSpinBox.value == mini.inpainting.steps
    assert ui.dilationSlider.value == pytest.approx(mini.masks.dilation_mm)
    assert ui.refinementThresholdSlider.value == pytest.approx(mini.residual.threshold)
    assert ui.candidateFloorSlider.value == pytest.approx(mini.masks.floor) and ui.candidateFloorSlider.enabled
    assert not ui.refineButton.enabled and not ui.editSegmentationButton.enabled and not ui.rockButton.enabled


def test_what_is_offered_first_is_a_scan(a_scene: Any, a_qt_application: Any, tmp_path: Path) -> None:
    for kind in ("vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode"):
        slicer.mrmlScene.AddNewNodeByClass(kind, "A")
    gone, scan = (scan_node(GRID, noise(GRID), name) for name in ("Gone", "Scan"))
    path = on_disk(GRID, noise(GRID).astype(np.float32), tmp_path / "map.nrrd")
    importVolume(path, gone, "A map")
    slicer.mrmlScene.RemoveNode(gone)
    scan_node(GRID, noise(GRID), "A hidden helper").SetHideFromEditors(True)
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    assert widget.panel.parameterNode.inputVolume is scan and scansOf(slicer.mrmlScene) == [scan]
    gui.unloadModule(widget)


def test_a_panel_that_is_reloaded_while_it_is_open_stays_open(a_coarse_scan: Any, a_qt_application: Any) -> None:
    widget = gui.loadModule("DiffuGTS", isEntered=True)
    assert widget.panel.isShown
    slicer.mrmlScene.Clear(0)
    assert widget.panel.parameterNode is not None and slicer.modules.diffugts.icon is not None
    gui.unloadModule(widget)


def test_a_new_scene_begins_with_the_organ_that_was_chosen_last_and_the_scan_that_was_loaded_last(
    a_panel: Opened,
) -> None:
    box = a_panel.ui.organComboBox
    box.setCurrentIndex(box.findText("Brain"))
    slicer.mrmlScene.Clear(0)
    assert a_panel.state.organ == "brain" and "brain" in a_panel.ui.abnormalPromptEdit.plainText
    scans = [scan_node(GRID, noise(GRID), name) for name in ("ADC", "FLAIR")]
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(scans[1].GetID())  # as Slicer does after loading
    logic.PropagateVolumeSelection()
    a_panel.widget.enter()
    assert a_panel.state.inputVolume is scans[1]
    for organ, expected in (("gizzard", "lung"), ("liver", "liver")):  # a setting of another version, and a known one
        setSetting(ORGAN_KEY, organ)
        slicer.mrmlScene.Clear(0)
        assert a_panel.state.organ == expected


def test_a_scene_keeps_its_own_organ(a_panel: Opened, tmp_path: Path) -> None:
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    box = a_panel.ui.organComboBox
    box.setCurrentIndex(box.findText("Brain"))
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert a_panel.state.organ == "lung"


def test_a_scene_is_bound_once_and_let_go_of(a_panel: Opened) -> None:
    state = a_panel.state
    for _again in range(3):
        a_panel.widget.exit()
        a_panel.widget.enter()
    assert a_panel.state is state
    steps = state.steps
    a_panel.panel.setParameterNode(None)
    a_panel.ui.stepsSpinBox.value = steps + 5
    assert state.steps == steps


def test_closing_the_scene_during_a_run_leaves_an_empty_panel(a_panel: Opened) -> None:
    a_panel.script(["artifact", "aova"], ["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.state.aova is not None)
    slicer.mrmlScene.Clear(0)
    a_panel.finish(10)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert not a_panel.ui.runButton.enabled and a_panel.state is not None and a_panel.state.preset == "mini"


def test_deleting_the_scan_during_a_run_cancels_it(a_panel: Opened, a_coarse_scan: Any) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint")
    slicer.mrmlScene.RemoveNode(a_coarse_scan)
    a_panel.finish(10)
    assert not a_panel.ui.runButton.enabled


def test_leaving_the_module_does_not_cancel(a_panel: Opened) -> None:
    a_panel.script(["sleep", 0.5], *WHOLE_RUN)
    a_panel.ui.runButton.click()
    a_panel.widget.exit()
    a_panel.finish()
    assert a_panel.logic.run.state == "done" and a_panel.state.segmentation is not None


def test_the_panels_state_comes_back_with_the_scene(a_panel: Opened, tmp_path: Path) -> None:
    a_panel.segment()
    a_panel.ui.stepsSpinBox.value = 42
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    assert a_panel.state.steps != 42
    slicer.util.loadScene(path)
    a_panel.settle()
    assert a_panel.state.steps == 42 and a_panel.ui.stepsSpinBox.value == 42
    assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.messageLabel.text.startswith("2 findings")
    assert a_panel.ui.rockButton.enabled, "Review works on a reopened scene"
    assert a_panel.ui.inputSelector.currentNode() is a_panel.state.resultVolume is slicer.util.getNode("Scan")


@pytest.mark.parametrize("isShown", [True, False])
def test_a_scene_that_is_added_leaves_the_panel_bound(a_panel: Opened, tmp_path: Path, isShown: bool) -> None:
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    if not isShown:
        a_panel.widget.exit()
    slicer.app.coreIOManager().loadNodes("SceneFile", {"fileName": path}, vtk.vtkCollection())
    scans = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert len(scans) == 2 and a_panel.state.inputVolume in scans
    assert a_panel.ui.inputSelector.currentNode() is a_panel.state.inputVolume


def test_the_module_offers_the_demo_scan_with_its_checksum(a_panel: Opened) -> None:
    import hashlib

    import SampleData

    [source] = [each for each in SampleData.registered if each["category"] == "DiffuGTS"]
    scan = resource_path("SampleData", "chest_ct.nii.gz").read_bytes()
    assert source["checksums"] == f"SHA256:{hashlib.sha256(scan).hexdigest()}"
    assert source["uris"].startswith("file://") and Path(source["thumbnailFileName"]).is_file()


@pytest.mark.parametrize("steps", [[["error", "oom", "Too big.", ""]], [["stage", "repaint", 0.1], ["sleep", 60]]])
def test_no_message_outlives_its_scene(a_panel: Opened, steps: list[Any]) -> None:
    a_panel.script(*steps)
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint" or not a_panel.logic.isRunning)
    a_panel.logic.cancel()
    a_panel.finish(10)
    assert a_panel.ui.messageLabel.text.startswith(("Canceled.", "Too big."))
    a_panel.ui.handoffMessageLabel.setText("Still a draft")
    slicer.mrmlScene.Clear(0)
    assert a_panel.logic.run is None and a_panel.ui.handoffMessageLabel.text == ""
    assert a_panel.ui.messageLabel.text == "Load a volume and choose it under Inputs."


def test_a_run_that_its_scene_has_left_says_nothing_in_the_next_one(a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint")
    slicer.mrmlScene.Clear(0)
    a_panel.finish(10)
    assert a_panel.ui.messageLabel.text == "Load a volume and choose it under Inputs."


def test_files_that_shall_stay_outlive_the_module_and_are_told(a_panel: Opened) -> None:
    a_panel.state.keepFiles = True
    a_panel.segment()
    folder = a_panel.logic.run.folder
    assert f"kept in {folder}" in a_panel.ui.logText.plainText
    a_panel.logic.cleanup()
    assert (folder / "job.json").is_file()
    shutil.rmtree(folder)
