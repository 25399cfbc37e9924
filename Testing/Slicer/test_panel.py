"""The panel on its `.ui`: every button, binding and error path, over a scripted worker; one run over the real one."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gui
import numpy as np
import pytest
import qt
import slicer
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.panel_setup import INTERPRETER_KEY, MODEL_FOLDER_KEY, setSetting
from DiffuGTSSlicer.requirements import InstallationError
from DiffuGTSSlicer.worker_client import killTree
from scene_parts import noise, scan_node
from test_logic import jobFolders, nodeNames

from DiffuGTSLib.config import load_config
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes import Geometry

SCRIPT = Path(__file__).parent / "scripted_worker.py"
WHOLE_RUN = [
    ["stage", "load", 1], ["stage", "aova", 0.5], ["artifact", "aova"], ["artifact", "coarse_mask"],
    ["stage", "repaint", 0.5], ["artifact", "pseudo_healthy"], ["artifact", "residual"], ["artifact", "segmentation"],
    ["artifact", "record"], ["done"],
]  # fmt: skip


class Opened:
    """A loaded panel, and the steps that its worker will take."""

    def __init__(self, folder: Path) -> None:
        self.widget = gui.loadModule("DiffuGTS")
        self.widget.enter()
        self.panel, self.ui, self.logic = self.widget.panel, self.widget.ui, self.widget.logic
        self.steps = folder / "steps.json"
        self.script(*WHOLE_RUN)
        self.logic.client.arguments = [str(SCRIPT), "", str(self.steps)]

    @property
    def state(self) -> Any:
        """The parameter node."""
        return self.panel.parameterNode

    def script(self, *steps: list[Any]) -> None:
        """Say what the worker does from the next run on."""
        self.steps.write_text(json.dumps(steps))

    def finish(self, timeout_s: float = 60) -> None:
        """Let the run come to its end."""
        assert gui.spin(lambda: not self.logic.isRunning, timeout_s), self.ui.logText.plainText

    def segment(self) -> None:
        """Press the button and wait."""
        self.ui.runButton.click()
        self.finish()


@pytest.fixture
def a_scan(a_scene: Any) -> Any:
    geometry = Geometry((36, 34, 20), np.diag([4.0, 4.0, 4.0, 1.0]))
    return scan_node(geometry, noise(geometry), "Scan")


@pytest.fixture
def a_panel(a_scan: Any, a_qt_application: Any, tmp_path: Path) -> Iterator[Opened]:
    for key in (INTERPRETER_KEY, MODEL_FOLDER_KEY):
        setSetting(key, "")
    opened = Opened(tmp_path)
    yield opened
    gui.unloadModule(opened.widget)
    assert gui.spin(lambda: not opened.logic.client.isWarm, 10)
    assert jobFolders() == []


def test_a_new_scene_is_ready_to_run(a_panel: Opened, a_scan: Any) -> None:
    ui = a_panel.ui
    assert ui.inputSelector.currentNode() is a_scan
    assert ui.runButton.enabled and ui.runButton.text == "Segment"
    assert ui.organComboBox.currentText == "Lung" and "lung" in ui.normalPromptEdit.plainText
    assert ui.setupCollapsibleButton.collapsed and ui.advancedCollapsibleButton.collapsed
    mini = load_config("mini")
    assert ui.stepsSpinBox.value == mini.inpainting.steps
    assert ui.dilationSlider.value == pytest.approx(mini.masks.dilation_mm)
    assert ui.refinementThresholdSlider.value == pytest.approx(mini.residual.threshold)
    assert not ui.refineButton.enabled and not ui.editSegmentationButton.enabled and not ui.rockButton.enabled


def test_every_widget_that_can_be_used_says_what_it_does(a_panel: Opened) -> None:
    kinds = (qt.QAbstractButton, qt.QComboBox, qt.QTextEdit, qt.QSpinBox, slicer.qMRMLNodeComboBox, qt.QTableWidget)
    named = {name: w for name, w in vars(a_panel.ui).items() if type(w) in kinds or type(w).__mro__[1] in kinds}
    silent = [
        name
        for name, widget in named.items()
        if not widget.toolTip and not name.endswith("CollapsibleButton") and not name.startswith("qt_")
    ]
    assert len(named) > 25 and silent == []


def test_nothing_has_a_style_of_its_own() -> None:
    text = resource_path("UI", "DiffuGTS.ui").read_text(encoding="utf-8")
    assert "styleSheet" not in text and "<font>" not in text and "<palette>" not in text


def test_every_bound_name_is_one_of_the_parameter_node(a_panel: Opened) -> None:
    import xml.etree.ElementTree as ET

    names = [
        each.findtext("string")
        for each in ET.parse(resource_path("UI", "DiffuGTS.ui")).iter("property")
        if each.get("name") == "SlicerParameterName"
    ]
    assert len(names) == len(set(names)) > 12
    assert [name for name in names if not hasattr(a_panel.state, name)] == []


@pytest.mark.parametrize(
    ("widget", "value", "name"),
    [
        ("stepsSpinBox", 23, "steps"),
        ("seedSpinBox", 5, "seed"),
        ("candidateThresholdSlider", 0.31, "candidateThreshold"),
        ("dilationSlider", 2.5, "dilationMm"),
        ("refinementThresholdSlider", 0.61, "refinementThreshold"),
        ("opacitySlider", 0.35, "opacity"),
        ("overlayThresholdSlider", 0.77, "overlayThreshold"),
    ],
)
def test_numbers_are_bound_both_ways(a_panel: Opened, widget: str, value: float, name: str) -> None:
    before = getattr(a_panel.state, name)
    getattr(a_panel.ui, widget).value = value
    assert getattr(a_panel.state, name) == pytest.approx(value)
    setattr(a_panel.state, name, before)
    assert getattr(a_panel.ui, widget).value == pytest.approx(before)


@pytest.mark.parametrize("name", ["keepFiles", "autoRefinement", "legend"])
def test_check_boxes_are_bound(a_panel: Opened, name: str) -> None:
    box = getattr(a_panel.ui, f"{name}CheckBox")
    box.checked = not box.checked
    assert getattr(a_panel.state, name) == box.checked


def test_combo_boxes_choose_words_of_the_library(a_panel: Opened) -> None:
    ui, state = a_panel.ui, a_panel.state
    ui.deviceComboBox.setCurrentIndex(1)
    assert state.device == "cpu"
    ui.modalityComboBox.setCurrentIndex(2)
    assert state.modality == "MR" and "MRI" in ui.normalPromptEdit.plainText
    ui.organComboBox.setCurrentIndex(ui.organComboBox.findText("Liver"))
    assert state.organ == "liver" and "liver" in state.abnormalPrompt
    ui.presetComboBox.setCurrentIndex(ui.presetComboBox.findText("maisi-ct"))
    assert state.preset == "maisi-ct" and state.steps == load_config("maisi-ct").inpainting.steps
    assert "not installed" in ui.modelLabel.text
    assert ui.presetComboBox.findText("tiny") == -1
    state.device = "cuda"
    assert ui.deviceComboBox.currentIndex == 2


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


def test_a_run_from_the_button_to_the_findings(a_panel: Opened, a_scan: Any) -> None:
    ui, state = a_panel.ui, a_panel.state
    a_panel.script(*WHOLE_RUN[:4], ["sleep", 0.4], *WHOLE_RUN[4:])
    ui.runButton.click()
    assert ui.runButton.text == "Cancel" and not ui.segmentationSelector.enabled and not ui.refineButton.enabled
    assert gui.spin(lambda: state.aova is not None, 30)
    assert a_panel.logic.isRunning and state.overlay == "aova", "AOVA is shown while the rest is computed"
    layers = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert layers.GetForegroundVolumeID() == state.aova.GetID()
    a_panel.finish()
    assert ui.messageLabel.text == "2 findings, refined by residuals"
    assert ui.runButton.text == "Segment" and ui.runButton.enabled
    assert state.resultVolume is a_scan and ui.segmentationSelector.currentNode() is state.segmentation
    assert ui.findingsTable.rowCount == 2 and ui.refineButton.enabled and ui.exportDicomButton.enabled
    assert "Modality: CT" in ui.logText.plainText


def test_the_button_cancels_and_says_so(a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint", 30)
    assert "Repainting" in a_panel.ui.stageLabel.text and a_panel.ui.progressBar.value > 0
    a_panel.ui.runButton.click()
    assert a_panel.ui.runButton.text == "Canceling…" and not a_panel.ui.runButton.enabled
    a_panel.finish(5)
    assert a_panel.ui.messageLabel.text == "Canceled." and a_panel.ui.runButton.text == "Segment"


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


def test_a_killed_worker_is_told_and_the_next_run_works(a_panel: Opened) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["say", "last words"], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: "last words" in a_panel.ui.logText.plainText, 30)
    killTree(a_panel.logic.client.processId)
    a_panel.finish()
    assert "unexpectedly" in a_panel.ui.messageLabel.text and "Segment" in a_panel.ui.messageLabel.text
    assert not a_panel.ui.logCollapsibleButton.collapsed
    a_panel.ui.copyLogButton.click()
    copied = qt.QApplication.clipboard().text()
    assert "DiffuGTS" in copied and "last words" in copied and "crashed" in copied and "preset mini" in copied
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


def test_closing_the_scene_during_a_run_leaves_an_empty_panel(a_panel: Opened) -> None:
    a_panel.script(["artifact", "aova"], ["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.state.aova is not None, 30)
    slicer.mrmlScene.Clear(0)
    a_panel.finish(10)
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert not a_panel.ui.runButton.enabled and a_panel.state is not None and a_panel.state.preset == "mini"


def test_deleting_the_scan_during_a_run_cancels_it(a_panel: Opened, a_scan: Any) -> None:
    a_panel.script(["stage", "repaint", 0.1], ["sleep", 60])
    a_panel.ui.runButton.click()
    assert gui.spin(lambda: a_panel.logic.progress.stage == "repaint", 30)
    slicer.mrmlScene.RemoveNode(a_scan)
    a_panel.finish(10)
    assert not a_panel.ui.runButton.enabled


def test_leaving_the_module_does_not_cancel(a_panel: Opened) -> None:
    a_panel.script(["sleep", 0.5], *WHOLE_RUN)
    a_panel.ui.runButton.click()
    a_panel.widget.exit()
    a_panel.finish()
    assert a_panel.logic.run.state == "done" and a_panel.state.segmentation is not None


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
    ui.overlayThresholdSlider.value = 0.9
    few = ui.voxelCountLabel.text
    ui.overlayThresholdSlider.value = 0.5
    assert few != ui.voxelCountLabel.text and "voxels" in few
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


def test_a_finding_is_jumped_to_dropped_and_taken_back(a_panel: Opened, a_scan: Any) -> None:
    a_panel.segment()
    table, state = a_panel.ui.findingsTable, a_panel.state
    whole = segmentMask(state.segmentation, state.tumorSegmentId, a_scan).sum()
    table.cellClicked.emit(1, 1)
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert 0 < segmentMask(state.segmentation, state.tumorSegmentId, a_scan).sum() < whole
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    assert segmentMask(state.segmentation, state.tumorSegmentId, a_scan).sum() == whole


def test_the_candidate_comes_from_the_threshold_and_is_refined(a_panel: Opened, a_scan: Any) -> None:
    a_panel.segment()
    state = a_panel.state
    a_panel.ui.overlayThresholdSlider.value = 0.9
    a_panel.ui.candidateFromThresholdButton.click()
    expected = slicer.util.arrayFromVolume(state.aova) >= np.float32(0.9)
    assert np.array_equal(segmentMask(state.candidate, state.candidateSegmentId, a_scan) > 0, expected)
    tumor = state.tumorSegmentId
    a_panel.ui.refineButton.click()
    assert a_panel.logic.run.isRefinement
    a_panel.finish()
    assert state.tumorSegmentId == tumor
    assert np.array_equal(segmentMask(state.candidate, state.candidateSegmentId, a_scan) > 0, expected)
    a_panel.ui.overlayThresholdSlider.value = 1.0
    a_panel.ui.candidateFromThresholdButton.click()
    assert "above the threshold" in a_panel.ui.messageLabel.text


def test_the_result_goes_to_slicers_own_modules(a_panel: Opened, a_scan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a_panel.segment()
    opened: list[Any] = []
    module = "DiffuGTSSlicer.panel_handoff.openSegmentEditor"
    monkeypatch.setattr(module, lambda *arguments: opened.append(arguments))
    a_panel.ui.editSegmentationButton.click()
    a_panel.ui.editCandidateButton.click()
    state = a_panel.state
    assert opened == [
        (state.segmentation, state.tumorSegmentId, a_scan), (state.candidate, state.candidateSegmentId, a_scan)
    ]  # fmt: skip
    a_panel.ui.show3DButton.checked = True
    assert state.segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    a_panel.ui.show3DButton.checked = False
    a_panel.ui.exportDicomButton.click()
    assert "patient and" in a_panel.ui.messageLabel.text


def test_install_asks_and_tells_what_is_missing(a_panel: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    ui, requirements = a_panel.ui, a_panel.panel.requirements
    missing = ["monai>=1.6.1"]
    monkeypatch.setattr(requirements, "missing", lambda: list(missing))

    def declines() -> None:
        raise InstallationError("Nothing was installed.", code="declined")

    monkeypatch.setattr(requirements, "ensure", declines)
    a_panel.panel.setup.look()
    a_panel.panel.refresh()
    assert ui.installButton.enabled and "monai" in ui.packagesLabel.text and not ui.checkButton.enabled
    a_panel.ui.runButton.click()
    assert not a_panel.logic.isRunning and "Install under Setup" in ui.messageLabel.text
    monkeypatch.setattr(requirements, "ensure", missing.clear)
    ui.installButton.click()
    assert not ui.installButton.enabled and "installed" in ui.packagesLabel.text
    a_panel.segment()
    assert ui.messageLabel.text.startswith("2 findings")


def test_check_tells_the_device_and_release_is_answered(a_panel: Opened) -> None:
    a_panel.ui.checkButton.click()
    assert gui.spin(lambda: "no graphics card" in a_panel.ui.deviceLabel.text, 30)
    a_panel.panel.refresh()
    a_panel.ui.releaseButton.click()
    assert gui.spin(lambda: "memory is free" in a_panel.ui.logText.plainText, 10)


def test_models_and_interpreter_are_refused_when_they_are_none(a_panel: Opened, tmp_path: Path) -> None:
    a_panel.ui.modelsButton.click()
    window = a_panel.panel.setup.window
    assert window.table.rowCount >= 4
    window.take(str(tmp_path))
    assert "holds no model" in window.label.text
    own = resource_path("Models", "mini")
    window.take(str(own))
    assert str(own) in window.label.text and "mini" in a_panel.ui.modelLabel.text
    window.take("")
    window.dialog.accept()
    a_panel.ui.interpreterPathEdit.currentPath = "/nowhere/python"
    assert "no program" in a_panel.ui.messageLabel.text


def test_a_new_seed_is_drawn(a_panel: Opened) -> None:
    seeds = set()
    for _again in range(5):
        a_panel.ui.diceButton.click()
        seeds.add(a_panel.state.seed)
    assert len(seeds) > 1


def test_the_panels_state_comes_back_with_the_scene(a_panel: Opened, tmp_path: Path) -> None:
    a_panel.segment()
    a_panel.ui.stepsSpinBox.value = 42
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    assert a_panel.state.steps != 42
    slicer.util.loadScene(path)
    assert a_panel.state.steps == 42 and a_panel.ui.stepsSpinBox.value == 42
    assert a_panel.ui.findingsTable.rowCount == 2 and a_panel.ui.messageLabel.text.startswith("2 findings")
    assert a_panel.ui.rockButton.enabled, "Review works on a reopened scene"


def test_five_runs_in_a_row_leave_no_node_or_folder(a_panel: Opened) -> None:
    a_panel.segment()
    names, worker = nodeNames(), a_panel.logic.client.processId
    for _again in range(5):
        a_panel.segment()
    assert nodeNames() == names and a_panel.logic.client.processId == worker and jobFolders() == []


def test_the_interface_is_never_blocked(a_panel: Opened, record_property: Callable[[str, object], None]) -> None:
    ticks: list[float] = []
    timer = qt.QTimer()
    timer.setInterval(10)
    timer.connect("timeout()", lambda: ticks.append(time.perf_counter()))
    timer.start()
    a_panel.segment()
    timer.stop()
    longest = max(b - a for a, b in itertools.pairwise(ticks))
    record_property("longest_gap_ms", round(longest * 1000))
    print(f"longest gap {longest * 1000:.0f} ms")
    assert longest < 0.25


def test_the_module_offers_the_demo_scan_with_its_checksum(a_panel: Opened) -> None:
    import hashlib

    import SampleData

    [source] = [each for each in SampleData.registered if each["category"] == "DiffuGTS"]
    scan = resource_path("SampleData", "chest_ct.nii.gz").read_bytes()
    assert source["checksums"] == f"SHA256:{hashlib.sha256(scan).hexdigest()}"
    assert source["uris"].startswith("file://")


@pytest.mark.slow
def test_the_real_worker_segments_the_demo_scan(a_demo_scan: Any, a_qt_application: Any) -> None:
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    widget.panel.parameterNode.device = "cpu"
    widget.panel.parameterNode.steps = 2
    widget.ui.runButton.click()
    assert gui.spin(lambda: not widget.logic.isRunning, 540), widget.ui.logText.plainText
    assert widget.logic.run.state == "done", widget.ui.messageLabel.text
    assert widget.ui.findingsTable.rowCount >= 1
    gui.unloadModule(widget)
