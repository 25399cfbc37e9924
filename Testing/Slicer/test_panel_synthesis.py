"""Synthesize tumor in the panel: what is offered and refused, a run over the real worker, and what is shown and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import slice_views
from DiffuGTSSlicer.panel_synthesis import outcomeOf
from DiffuGTSSlicer.parameters import PAINTERS, SynthesisParameters
from DiffuGTSSlicer.run import DONE, FAILED
from DiffuGTSSlicer.scene import SCAN_ROLE, newSegmentation
from DiffuGTSSlicer.settings import PAINTER_FOLDER_KEY, setSetting, setting
from DiffuGTSSlicer.worker_client import WorkerClient
from logic_parts import jobFolders, nodeNames
from panel_parts import GRID, PAINTING, WHOLE_RUN, Opened
from scene_parts import blob, noise, scan_node, set_segment_mask
from test_liveness import a_large_scan, require_alive

from DiffuGTSLib.resources import organ_names

pytest_plugins = ["panel_fixtures"]


def add_organ(scan: Any, mask: Any, name: str = "Liver") -> tuple[Any, str]:
    """Add a segmentation with one segment (k, j, i)."""
    node = newSegmentation(scan, "Organs")
    segment_id = node.GetSegmentation().AddEmptySegment(name.lower(), name)
    set_segment_mask(mask, scan, node, segment_id)
    return node, segment_id


@pytest.fixture
def a_panel_with_an_organ(a_panel: Opened, a_coarse_scan: Any) -> Iterator[Opened]:
    """A panel whose worker paints two balls, with the liver's segment chosen."""
    a_panel.script(*PAINTING)
    setSetting(PAINTER_FOLDER_KEY, "")
    a_panel.state.organSegmentation, _ = add_organ(a_coarse_scan, blob(GRID, (18, 17, 10), 9).T)
    a_panel.state.synthesisOrgan = "liver"
    a_panel.state.synthesisSize = "small"
    a_panel.state.modality = "CT"
    a_panel.state.avoidVessels = False
    yield a_panel
    setSetting(PAINTER_FOLDER_KEY, "")


def synthesize(panel: Opened) -> None:
    """Press the button and wait."""
    assert panel.ui.synthesizeButton.enabled, panel.ui.synthesizeButton.toolTip
    panel.ui.synthesizeButton.click()
    assert gui.spin(lambda: not panel.logic.isRunning, 90), panel.ui.logText.plainText


def red_layers() -> Any:
    return slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()


def test_the_section_is_folded_and_says_what_is_missing(a_panel: Opened, a_coarse_scan: Any) -> None:
    ui = a_panel.ui
    assert ui.synthesisCollapsibleButton.collapsed
    assert "patents" in ui.synthesisRightsLabel.text and "Synthetic image" in ui.synthesisRightsLabel.text
    assert not ui.synthesizeButton.enabled and "Segment Editor" in ui.synthesizeButton.toolTip
    a_panel.state.organSegmentation, _ = add_organ(a_coarse_scan, blob(GRID, (18, 17, 10), 9).T)
    assert ui.synthesizeButton.enabled, ui.synthesizeButton.toolTip
    a_panel.state.organ = ""
    assert not ui.synthesizeButton.enabled and "organ" in ui.synthesizeButton.toolTip
    a_panel.state.synthesisOrgan = "liver"
    assert ui.synthesizeButton.enabled
    a_panel.state.inputVolume = None
    assert not ui.synthesizeButton.enabled and "healthy scan" in ui.synthesizeButton.toolTip
    assert not ui.beforeAfterButton.enabled and not ui.placeHereButton.enabled


def test_choices_are_words_of_the_library_and_go_both_ways(a_panel_with_an_organ: Opened) -> None:
    ui, state = a_panel_with_an_organ.ui, a_panel_with_an_organ.state
    assert ui.synthesisOrganComboBox.count == 1 + len(organ_names())
    ui.synthesisOrganComboBox.setCurrentIndex(ui.synthesisOrganComboBox.findText("Pancreas"))
    assert state.synthesisOrgan == "pancreas"
    assert ui.synthesisSizeComboBox.count == 5
    ui.synthesisSizeComboBox.setCurrentIndex(4)
    assert state.synthesisSize == "large"
    assert ui.painterComboBox.count == len(PAINTERS) + 1
    ui.painterComboBox.setCurrentIndex(1)
    assert state.painter == "recipe"
    state.painter = "handcrafted"
    assert ui.painterComboBox.currentIndex == 0
    ui.synthesisCountSpinBox.value = 3
    ui.synthesisRadiusSpinBox.value = 7.5
    ui.capsuleCheckBox.checked = True
    ui.avoidVesselsCheckBox.checked = True
    parameters = SynthesisParameters.fromNode(state)
    assert (parameters.organ, parameters.size, parameters.count, parameters.radiusMm) == ("pancreas", "large", 3, 7.5)
    assert (parameters.capsule, parameters.avoidVessels, parameters.massEffect) == (True, True, False)
    assert not ui.synthesisSizeComboBox.enabled, "a radius replaces the size"
    state.synthesisOrgan = ""
    assert SynthesisParameters.fromNode(state).organ == state.organ, "as under Prompts"
    before = state.synthesisSeed
    ui.synthesisDiceButton.click()
    assert state.synthesisSeed != before and ui.synthesisSeedSpinBox.value == state.synthesisSeed


def test_a_scene_from_elsewhere_chooses_no_file_that_the_worker_opens(
    a_panel_with_an_organ: Opened, tmp_path: Path
) -> None:
    panel, ui, state = a_panel_with_an_organ, a_panel_with_an_organ.ui, a_panel_with_an_organ.state
    for name, before, words in (
        ("painter", "handcrafted", "Choose the painter again."),
        ("synthesisOrgan", "liver", "Choose the organ that the segment shows."),
    ):
        setattr(state, name, str(tmp_path / "theirs.json"))
        assert not ui.synthesizeButton.enabled and ui.synthesizeButton.toolTip == words
        panel.panel.synthesis.start()
        assert panel.logic.run is None
        setattr(state, name, before)
        assert ui.synthesizeButton.enabled
    state.synthesisOrgan, state.organ = "", str(tmp_path / "theirs.json")
    assert not ui.synthesizeButton.enabled


def test_the_folder_of_a_trained_painter_is_a_setting_of_the_computer(
    a_panel_with_an_organ: Opened, tmp_path: Path
) -> None:
    panel, ui = a_panel_with_an_organ, a_panel_with_an_organ.ui
    assert not ui.painterFolderPathEdit.isVisibleTo(ui.painterFolderPathEdit.parent())
    ui.painterComboBox.setCurrentIndex(2)
    assert ui.painterFolderPathEdit.isVisibleTo(ui.painterFolderPathEdit.parent())
    assert not ui.synthesizeButton.enabled and "folder" in ui.synthesizeButton.toolTip
    ui.painterFolderPathEdit.currentPath = str(tmp_path / "nothing")
    assert "is not a folder" in ui.synthesisMessageLabel.text and setting(PAINTER_FOLDER_KEY) == ""
    empty = tmp_path / "painter"
    empty.mkdir()
    ui.painterFolderPathEdit.currentPath = str(empty)
    assert setting(PAINTER_FOLDER_KEY) == str(empty) and ui.synthesizeButton.enabled
    assert str(tmp_path) not in panel.state.parameterNode.GetParameterNamesAsCommaSeparatedList()
    panel.script(["error", "weights_missing", "There is no painter.json.", "do this."])
    synthesize(panel)
    assert panel.logic.run.state == FAILED and panel.logic.run.parameters.painter == str(empty)
    assert ui.synthesisMessageLabel.text.startswith("There is no painter.json.\nChoose the folder of a trained painter")
    ui.painterFolderPathEdit.currentPath = ""
    assert setting(PAINTER_FOLDER_KEY) == "" and not ui.synthesizeButton.enabled


def test_the_button_paints_shows_and_tells(a_panel_with_an_organ: Opened, a_coarse_scan: Any) -> None:
    panel, ui, state = a_panel_with_an_organ, a_panel_with_an_organ.ui, a_panel_with_an_organ.state
    panel.logic.client.arguments = WorkerClient().arguments  # the real one
    review = (state.resultVolume, state.segmentation, state.outcome)
    ui.synthesizeButton.click()
    assert ui.synthesizeButton.text == "Cancel" and not ui.batchButton.enabled and not ui.refineButton.enabled
    assert ui.synthesisProgressBar.isVisibleTo(ui.synthesisProgressBar.parent())
    assert ui.synthesisStageLabel.text == "Starting the worker"
    assert gui.spin(lambda: not panel.logic.isRunning, 90), ui.logText.plainText
    assert panel.logic.run.state == DONE, ui.synthesisMessageLabel.text
    assert ui.synthesizeButton.text == "Synthesi&ze" and ui.synthesizeButton.enabled
    assert state.painted.GetName() == "Scan with painted tumor (synthetic)"
    assert state.painted.GetNodeReference(SCAN_ROLE) is a_coarse_scan
    assert red_layers().GetBackgroundVolumeID() == state.painted.GetID()
    shown = state.paintedSegmentation.GetDisplayNode()
    assert shown.GetVisibility() and shown.GetVisibility2DOutline()
    tumors = panel.logic.run.result["tumors"]
    assert tumors and " ml" in ui.synthesisResultLabel.text and "painted" in ui.synthesisResultLabel.text
    largest = max(tumors, key=lambda tumor: tumor["volume_ml"])
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairRAS() == pytest.approx(largest["center_ras_mm"])
    assert (state.resultVolume, state.segmentation, state.outcome) == review, "what is being reviewed is left alone"
    assert ui.runButton.text == "&Segment" and "Modality" not in ui.messageLabel.text
    ui.beforeAfterButton.click()
    yellow = slicer.app.layoutManager().sliceWidget("Yellow").mrmlSliceCompositeNode()
    assert red_layers().GetBackgroundVolumeID() == a_coarse_scan.GetID()
    assert yellow.GetBackgroundVolumeID() == state.painted.GetID() and slice_views.isCompared()
    painted, names = state.painted, nodeNames()
    ui.synthesisDiceButton.click()
    synthesize(panel)
    assert state.painted is painted and nodeNames() == names, "the last result is replaced"
    assert red_layers().GetBackgroundVolumeID() == a_coarse_scan.GetID(), "still side by side"
    ui.keepPaintedCheckBox.checked = True
    synthesize(panel)
    assert state.painted is not painted and slicer.mrmlScene.IsNodePresent(painted)


def test_another_scan_gets_a_painted_volume_of_its_own(a_panel_with_an_organ: Opened, a_coarse_scan: Any) -> None:
    panel, state = a_panel_with_an_organ, a_panel_with_an_organ.state
    synthesize(panel)
    first = state.painted
    second = scan_node(GRID, noise(GRID, 1), "Second")
    panel.ui.inputSelector.setCurrentNode(second)
    synthesize(panel)
    assert state.painted is not first and state.painted.GetNodeReference(SCAN_ROLE) is second
    assert first.GetNodeReference(SCAN_ROLE) is a_coarse_scan


def test_a_painted_volume_that_has_a_result_is_not_painted_over(
    a_panel_with_an_organ: Opened, a_coarse_scan: Any
) -> None:
    panel, state = a_panel_with_an_organ, a_panel_with_an_organ.state
    synthesize(panel)
    first, tumor = state.painted, state.paintedSegmentation
    synthesize(panel)
    assert (state.painted, state.paintedSegmentation) == (first, tumor), "nobody has looked at it yet"
    panel.script(*WHOLE_RUN)
    state.inputVolume = first
    panel.segment()
    assert state.segmentation.GetNodeReference(SCAN_ROLE) is first
    voxels = slicer.util.arrayFromVolume(first).copy()
    panel.script(*PAINTING)
    state.inputVolume = a_coarse_scan
    slicer.util.updateVolumeFromArray(a_coarse_scan, slicer.util.arrayFromVolume(a_coarse_scan) + np.int16(100))
    synthesize(panel)
    assert state.painted is not first and state.painted.GetNodeReference(SCAN_ROLE) is a_coarse_scan
    assert np.array_equal(slicer.util.arrayFromVolume(first), voxels) and state.paintedSegmentation is not tumor


def test_the_button_cancels_and_segmenting_waits_meanwhile(a_panel_with_an_organ: Opened) -> None:
    panel, ui = a_panel_with_an_organ, a_panel_with_an_organ.ui
    panel.script(["stage", "synthesize", 0.4], ["sleep", 60])
    ui.synthesizeButton.click()
    assert gui.spin(lambda: panel.logic.progress.stage == "synthesize")
    assert "Painting" in ui.synthesisStageLabel.text and ui.synthesisProgressBar.value > 0
    panel.panel.run.start()
    ui.synthesizeButton.click()
    assert ui.synthesizeButton.text == "Canceling…" and not ui.synthesizeButton.enabled
    panel.finish(10)
    assert ui.synthesisResultLabel.text == "Canceled." and ui.messageLabel.text != "Canceled."
    assert panel.state.painted is None and jobFolders() == []
    panel.script(["sleep", 60])
    ui.runButton.click()
    assert not ui.synthesizeButton.enabled and "in progress" in ui.synthesizeButton.toolTip
    ui.runButton.click()
    panel.finish(10)


def test_a_synthesis_that_is_cut_short_brings_the_earlier_one_back(a_panel_with_an_organ: Opened) -> None:
    panel, state = a_panel_with_an_organ, a_panel_with_an_organ.state
    panel.script(*PAINTING)
    synthesize(panel)
    slicer.util.updateVolumeFromArray(state.painted, np.full(GRID.shape[::-1], 7, np.int16))
    before = (state.painted, state.paintedSegmentation, state.paintedSegmentId, nodeNames())
    panel.script(*PAINTING[:4], ["error", "oom", "Too big.", "Smaller."])
    synthesize(panel)
    assert (state.painted, state.paintedSegmentation, state.paintedSegmentId, nodeNames()) == before
    assert slicer.util.arrayFromVolume(state.painted).max() == 7


def test_a_failure_is_told_here_with_the_next_step(a_panel_with_an_organ: Opened, a_coarse_scan: Any) -> None:
    panel, ui = a_panel_with_an_organ, a_panel_with_an_organ.ui
    empty = panel.state.organSegmentation.GetSegmentation().AddEmptySegment("empty", "Empty")
    panel.state.organSegmentId = empty
    synthesize(panel)
    assert panel.logic.run.failure.code == "empty_organ"
    lines = ui.synthesisMessageLabel.text.split("\n")
    assert "has no voxel in 'Scan'" in lines[0] and "Inputs" in lines[1]
    assert "empty_organ" in ui.logText.plainText and not ui.messageLabel.text.startswith(lines[0])
    panel.state.organSegmentId = "liver"
    synthesize(panel)
    assert ui.synthesisMessageLabel.text == "" and panel.logic.run.state == DONE


def test_place_here_puts_one_point_where_the_user_looks_and_leaves_the_users_own_alone(
    a_panel_with_an_organ: Opened,
) -> None:
    panel, ui, state = a_panel_with_an_organ, a_panel_with_an_organ.ui, a_panel_with_an_organ.state
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    crosshair.SetCrosshairMode(crosshair.NoCrosshair)
    here = tuple(float(value) for value in GRID.to_ras(np.array([18, 17, 10])))
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *here, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    ui.placeHereButton.click()
    mine = state.synthesisPlace
    assert mine.GetNthControlPointPositionWorld(0) == pytest.approx(here, abs=1e-3)
    assert not ui.synthesisCountSpinBox.enabled and ui.synthesisPlaceSelector.currentNode() is mine
    crosshair.SetCrosshairMode(crosshair.ShowBasic)
    crosshair.SetCrosshairRAS(*(value + 4 for value in here))
    ui.placeHereButton.click()
    assert state.synthesisPlace is mine and mine.GetNumberOfControlPoints() == 1
    assert mine.GetNthControlPointPositionWorld(0) == pytest.approx([value + 4 for value in here])
    theirs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Theirs")
    theirs.AddControlPointWorld(1.0, 2.0, 3.0)
    state.synthesisPlace = theirs
    ui.placeHereButton.click()
    assert state.synthesisPlace is not theirs
    assert tuple(theirs.GetNthControlPointPositionWorld(0)) == (1.0, 2.0, 3.0)
    state.synthesisPlace, state.synthesisCount, state.synthesisRadiusMm = mine, 4, 10.0
    parameters = SynthesisParameters.fromNode(state)
    assert parameters.place is mine and parameters.count == 0, "one tumor, at one place"
    synthesize(panel)
    assert panel.logic.run.state == DONE


def test_the_section_comes_back_with_the_scene(a_panel_with_an_organ: Opened, tmp_path: Path) -> None:
    panel, ui = a_panel_with_an_organ, a_panel_with_an_organ.ui
    ui.synthesisSeedSpinBox.value = 77
    ui.capsuleCheckBox.checked = True
    ui.placeHereButton.click()
    panel.state.synthesisPlace = None
    synthesize(panel)
    told = ui.synthesisResultLabel.text
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    assert panel.state.synthesisSeed != 77 and ui.synthesisResultLabel.text == ""
    assert not ui.beforeAfterButton.enabled
    slicer.util.loadScene(path)
    assert (panel.state.synthesisSeed, panel.state.capsule, panel.state.synthesisSize) == (77, True, "small")
    assert ui.synthesisOrganComboBox.currentText == "Liver" and ui.synthesisResultLabel.text == told
    assert ui.beforeAfterButton.enabled and ui.synthesizeButton.enabled, ui.synthesizeButton.toolTip
    painted, names = panel.state.painted, nodeNames()
    synthesize(panel)
    assert panel.state.painted is painted and nodeNames() == names


def test_closing_the_scene_while_painting_leaves_an_empty_section(a_panel_with_an_organ: Opened) -> None:
    panel, ui = a_panel_with_an_organ, a_panel_with_an_organ.ui
    panel.script(["stage", "synthesize", 0.4], ["sleep", 60])
    ui.synthesizeButton.click()
    assert gui.spin(lambda: panel.logic.progress.stage == "synthesize")
    slicer.mrmlScene.Clear(0)
    panel.finish(10)
    assert not ui.synthesizeButton.enabled and ui.synthesisResultLabel.text == ""
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []


def test_what_was_painted_is_told_in_words() -> None:
    two = [{"volume_ml": 1.5}, {"volume_ml": 0.25}]
    assert outcomeOf({"tumors": two[:1], "skipped": []}) == "1 tumor painted, 1.50 ml."
    assert outcomeOf({"tumors": two, "skipped": []}) == "2 tumors painted, 1.75 ml in total."
    assert outcomeOf({"tumors": two, "skipped": []}, scale=8) == "2 tumors painted, 14.00 ml in total."
    told = outcomeOf({"tumors": [], "skipped": ["large tumor: too small", "large tumor: too small"]}).split("\n")
    assert told[:2] == ["Nothing was painted.", "2 could not be placed: large tumor: too small."]
    assert "smaller size" in told[2]


def test_painting_into_a_scan_of_133_slices_does_not_freeze_the_interface(
    a_panel_with_an_organ: Opened, record_property: Any
) -> None:
    panel = a_panel_with_an_organ
    scan = a_large_scan(133)
    mask = np.zeros((133, 512, 512), dtype=np.uint8)
    mask[40:100, 150:350, 150:350] = 1
    panel.state.inputVolume = scan
    slicer.util.arrayFromVolume(scan)[:] += np.random.default_rng(1).integers(-9, 9, mask.shape, dtype=np.int16)
    panel.state.organSegmentation, _ = add_organ(scan, mask)
    require_alive(lambda: synthesize(panel), record_property, "synthesis, 512x512x133")
    assert panel.logic.run.state == DONE, panel.ui.synthesisMessageLabel.text


def test_a_synthesis_that_ends_behind_another_module_is_shown_on_the_way_back(a_panel_with_an_organ: Opened) -> None:
    panel = a_panel_with_an_organ
    before = red_layers().GetBackgroundVolumeID()
    panel.ui.synthesizeButton.click()
    panel.widget.exit()
    assert gui.spin(lambda: not panel.logic.isRunning, 90)
    assert panel.state.painted is not None and red_layers().GetBackgroundVolumeID() == before
    panel.widget.enter()
    assert red_layers().GetBackgroundVolumeID() == panel.state.painted.GetID()
