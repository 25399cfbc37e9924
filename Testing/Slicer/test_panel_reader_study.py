"""The section on its `.ui`: buttons, keys, pause, and what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gui
import pytest
import qt
import slicer
from DiffuGTSSlicer import panel_reader_study
from DiffuGTSSlicer.panel_reader_study import SETTING, ReaderStudySection
from panel_parts import GRID, PAINTING, Opened
from scene_parts import blob, noise, scan_node, set_segment_mask
from test_reader_session import cases, write_session

from DiffuGTSLib.reader_study.answers import read_answers
from DiffuGTSLib.resources import resource_path

pytest_plugins = ["panel_fixtures"]


@pytest.fixture
def a_section(a_scene: Any, a_qt_application: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReaderStudySection]:
    """The section in a panel that is a disclaimer; keys may follow each other at once."""
    monkeypatch.setattr(panel_reader_study, "BOUNCE_S", 0.0)
    slicer.app.settings().setValue(SETTING, "")
    window = slicer.qMRMLWidget()
    window.setLayout(qt.QVBoxLayout())
    disclaimer = qt.QLabel("Research use only")
    window.layout().addWidget(disclaimer)
    window.layout().addStretch(1)
    panel = SimpleNamespace(ui=SimpleNamespace(disclaimerLabel=disclaimer), refresh=lambda: None, isShown=True)
    section = ReaderStudySection(panel, window)
    section.ui.readingCollapsibleButton.collapsed = False
    window.show()
    yield section
    section.close()
    window.close()
    window.deleteLater()
    gui.spin(lambda: True)


@pytest.fixture
def a_session(tmp_path: Path) -> Path:
    """A session of three cases."""
    return write_session(tmp_path / "session")


def opened(section: ReaderStudySection, folder: Path, reader: str = "R1") -> ReaderStudySection:
    """Open a session as a reader."""
    section.ui.readerEdit.setText(reader)
    section.open(str(folder))
    return section


def said(folder: Path, reader: str = "R1") -> list[str]:
    """Return the answers on the disk."""
    return [answer.answer for answer in read_answers(folder / f"answers_{reader}.json").answers]


def press(section: ReaderStudySection, key: str) -> None:
    """Press a key as Qt's shortcuts get it: those that are disabled do not."""
    shortcut = next(s for s in section._shortcuts if s.key.toString() == key)
    if shortcut.enabled:
        shortcut.activated.emit()


def test_nothing_is_offered_before_a_session_is_open(a_section: ReaderStudySection) -> None:
    ui = a_section.ui
    assert ui.openSessionButton.enabled and ui.readerEdit.enabled
    closed = (
        ui.realButton,
        ui.unsureButton,
        ui.syntheticButton,
        ui.readingBackButton,
        ui.pauseReadingButton,
        ui.closeSessionButton,
    )
    assert not any(button.enabled for button in closed)
    assert not any(shortcut.enabled for shortcut in a_section._shortcuts)


def test_the_section_stands_above_the_disclaimer(a_section: ReaderStudySection) -> None:
    layout = a_section.widget.parent().layout()
    assert layout.indexOf(a_section.widget) == 0 and layout.count() == 3


def test_a_session_is_read_by_buttons(a_section: ReaderStudySection, a_session: Path) -> None:
    ui = opened(a_section, a_session).ui
    assert "Case 1 of 3" in ui.caseLabel.text and ui.caseLabel.text.startswith("Liver")
    assert [node.GetName() for node in cases()] == ["Case 1"] and not ui.readerEdit.enabled
    ui.realButton.click()
    ui.unsureButton.click()
    assert ui.readingProgressBar.value == 2 and said(a_session) == ["real", "unsure"]
    ui.syntheticButton.click()
    assert said(a_session) == ["real", "unsure", "synthetic"] and cases() == []
    assert "All 3 scans are answered" in ui.caseLabel.text and "answers_R1.json" in ui.caseLabel.text
    assert not ui.realButton.enabled and ui.readingBackButton.enabled
    ui.readingBackButton.click()
    assert said(a_session) == ["real", "unsure"] and [node.GetName() for node in cases()] == ["Case 3"]


def test_a_session_is_read_by_keys(a_section: ReaderStudySection, a_session: Path) -> None:
    opened(a_section, a_session)
    for key in "RZSUR":
        press(a_section, key)
    assert said(a_session) == ["synthetic", "unsure", "real"]
    press(a_section, "R")
    assert len(said(a_session)) == 3


def test_a_key_reaches_the_reader_wherever_the_focus_is(a_section: ReaderStudySection, a_session: Path) -> None:
    opened(a_section, a_session)
    assert all(shortcut.context == qt.Qt.ApplicationShortcut for shortcut in a_section._shortcuts)
    assert all(not shortcut.autoRepeat for shortcut in a_section._shortcuts)
    assert [shortcut.key.toString() for shortcut in a_section._shortcuts if shortcut.enabled] == ["R", "U", "S"]
    press(a_section, "R")
    assert all(shortcut.enabled for shortcut in a_section._shortcuts), "now there is an answer to take back"


def test_in_another_module_the_keys_are_that_modules(
    a_panel: Opened, a_session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Z is Segment Editor's undo."""
    monkeypatch.setattr(panel_reader_study, "BOUNCE_S", 0.0)
    section = opened(a_panel.panel.readerStudy, a_session)
    press(section, "R")
    a_panel.widget.exit()
    for key in "RUSZ":
        press(section, key)
    assert said(a_session) == ["real"]
    a_panel.widget.enter()
    for key in "US":
        press(section, key)
    assert said(a_session) == ["real", "unsure", "synthetic"]
    assert [shortcut.key.toString() for shortcut in section._shortcuts if shortcut.enabled] == ["Z"]
    a_panel.widget.exit()
    press(section, "Z")
    assert len(said(a_session)) == 3, "after the last case, too"


def test_a_key_that_bounces_answers_one_case(
    a_section: ReaderStudySection, a_session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_reader_study, "BOUNCE_S", 0.15)
    opened(a_section, a_session)
    press(a_section, "R")
    assert said(a_session) == []
    time.sleep(0.2)
    press(a_section, "R")
    press(a_section, "R")
    assert said(a_session) == ["real"]


def test_a_pause_hides_the_scan_and_takes_no_answer(a_section: ReaderStudySection, a_session: Path) -> None:
    ui = opened(a_section, a_session).ui
    ui.pauseReadingButton.click()
    assert cases() == [] and ui.pauseReadingButton.text == "Continue"
    assert not ui.realButton.enabled and not any(shortcut.enabled for shortcut in a_section._shortcuts)
    press(a_section, "R")
    press(a_section, "Z")
    before = a_section.session.timeS
    time.sleep(0.02)
    assert a_section.session.timeS == before and said(a_session) == []
    ui.pauseReadingButton.click()
    assert len(cases()) == 1 and ui.pauseReadingButton.text == "Pause"


def test_a_closed_scene_pauses(a_section: ReaderStudySection, a_session: Path) -> None:
    ui = opened(a_section, a_session).ui
    slicer.mrmlScene.Clear(False)
    assert a_section.isPaused and cases() == []
    ui.pauseReadingButton.click()
    assert [node.GetName() for node in cases()] == ["Case 1"]


@pytest.mark.parametrize("way", ["another scan is put into the views", "the case is deleted"])
def test_a_case_that_is_not_in_view_takes_no_answer_and_its_clock_stands(
    a_section: ReaderStudySection, a_session: Path, way: str
) -> None:
    ui = opened(a_section, a_session).ui
    if way == "the case is deleted":
        slicer.mrmlScene.RemoveNode(cases()[0])
    else:
        slicer.util.setSliceViewerLayers(background=scan_node(GRID, noise(GRID), "Scan"))
    press(a_section, "R")
    assert said(a_session) == [] and a_section.isPaused and cases() == []
    assert "no longer in view" in ui.readingMessageLabel.text and "Press Continue" in ui.readingMessageLabel.text
    ui.pauseReadingButton.click()
    press(a_section, "R")
    assert said(a_session) == ["real"] and ui.readingMessageLabel.text == ""


def test_reading_pauses_by_itself_where_the_case_leaves_the_views(
    a_section: ReaderStudySection, a_session: Path
) -> None:
    opened(a_section, a_session)
    slicer.mrmlScene.RemoveNode(cases()[0])
    assert gui.spin(lambda: a_section.isPaused, 3)


def test_what_is_drawn_in_the_scene_is_hidden_while_a_case_is_read(
    a_section: ReaderStudySection, a_session: Path
) -> None:
    kinds = ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsFiducialNode", "vtkMRMLModelNode")
    nodes = [slicer.mrmlScene.AddNewNodeByClass(kind) for kind in kinds]
    for node in nodes:
        node.CreateDefaultDisplayNodes()
    hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Hidden")
    hidden.CreateDefaultDisplayNodes()
    hidden.GetDisplayNode().SetVisibility(False)
    shown = lambda: [bool(node.GetDisplayNode().GetVisibility()) for node in (*nodes, hidden)]  # noqa: E731
    ui = opened(a_section, a_session).ui
    assert shown() == [False] * 4
    ui.realButton.click()
    assert shown() == [False] * 4
    ui.pauseReadingButton.click()
    assert shown() == [True, True, True, False]
    ui.pauseReadingButton.click()
    assert shown() == [False] * 4
    ui.closeSessionButton.click()
    assert shown() == [True, True, True, False]


def test_a_closed_session_goes_on_later(a_section: ReaderStudySection, a_session: Path) -> None:
    ui = opened(a_section, a_session).ui
    ui.realButton.click()
    ui.closeSessionButton.click()
    assert cases() == [] and ui.openSessionButton.enabled and a_section.session is None
    assert str(slicer.app.settings().value(SETTING)) == "R1"
    a_section.open(str(a_session))
    assert "Case 2 of 3" in ui.caseLabel.text


def test_the_time_is_shown(a_section: ReaderStudySection, a_session: Path) -> None:
    opened(a_section, a_session)
    a_section.session._spent[1] = 71.0
    assert gui.spin(lambda: "1:11" in a_section.ui.caseLabel.text, 3)


def test_the_folder_is_asked_for(
    a_section: ReaderStudySection, a_session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_section.ui.readerEdit.setText("R1")
    chosen = iter(["", str(a_session)])
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: next(chosen))
    a_section.ui.openSessionButton.click()
    assert a_section.session is None
    a_section.ui.openSessionButton.click()
    assert "Case 1 of 3" in a_section.ui.caseLabel.text


def test_what_is_no_session_is_said_in_the_section(a_section: ReaderStudySection, tmp_path: Path) -> None:
    opened(a_section, tmp_path)
    assert "holds no reading session" in a_section.ui.readingMessageLabel.text
    assert "Choose the folder of a reading session" in a_section.ui.readingMessageLabel.text
    assert a_section.ui.openSessionButton.enabled and a_section.session is None


def test_a_reader_without_a_name_is_asked_for_one(a_section: ReaderStudySection, a_session: Path) -> None:
    opened(a_section, a_session, "  ")
    assert "reader's name" in a_section.ui.readingMessageLabel.text and "R1" in a_section.ui.readingMessageLabel.text


def test_an_answer_that_cannot_be_kept_is_said_and_asked_for_again(
    a_section: ReaderStudySection, a_session: Path
) -> None:
    ui = opened(a_section, a_session).ui
    a_section.session.path = a_session / "gone" / "answers.json"
    ui.realButton.click()
    assert (
        "Cannot write" in ui.readingMessageLabel.text and "Case 1 of 3" in ui.caseLabel.text and ui.realButton.enabled
    )
    assert "session's folder is writable" in ui.readingMessageLabel.text
    a_section.session.path = a_session / "answers_R1.json"
    ui.realButton.click()
    assert said(a_session) == ["real"] and ui.readingMessageLabel.text == ""


def test_a_case_that_cannot_be_read_takes_no_answer(a_section: ReaderStudySection, a_session: Path) -> None:
    ui = opened(a_section, a_session).ui
    whole = (a_session / "case_2.nii").read_bytes()
    (a_session / "case_2.nii").write_bytes(whole[:500])
    ui.realButton.click()
    assert said(a_session) == ["real"] and cases() == []
    assert "Copy the session's folder again" in ui.readingMessageLabel.text
    assert not ui.realButton.enabled and not any(shortcut.enabled for shortcut in a_section._shortcuts)
    press(a_section, "S")
    assert said(a_session) == ["real"] and ui.pauseReadingButton.text == "Continue"
    (a_session / "case_2.nii").write_bytes(whole)
    ui.pauseReadingButton.click()
    assert [node.GetName() for node in cases()] == ["Case 2"] and ui.readingMessageLabel.text == ""
    press(a_section, "S")
    assert said(a_session) == ["real", "synthetic"]


def test_every_widget_that_can_be_used_says_what_it_does(a_section: ReaderStudySection) -> None:
    names = ("readerEdit", "openSessionButton", "pauseReadingButton", "closeSessionButton", "realButton")
    for name in (*names, "unsureButton", "syntheticButton", "readingBackButton"):
        assert getattr(a_section.ui, name).toolTip


def test_the_section_lives_in_the_panel(a_scene: Any, a_qt_application: Any, a_session: Path) -> None:
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    panel = widget.panel
    section = getattr(panel, "readerStudy", None) or ReaderStudySection(panel, widget.uiWidget)
    opened(section, a_session)
    panel.refresh()
    section.refresh()
    assert "Case 1 of 3" in section.ui.caseLabel.text
    section.close()
    gui.unloadModule(widget)
    assert cases() == []


def backgrounds() -> set[str]:
    """Return the names of what the slice views show."""
    ids = [node.GetBackgroundVolumeID() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")]
    return {slicer.mrmlScene.GetNodeByID(each).GetName() if each else "" for each in ids}


def test_while_a_case_is_read_the_panel_leaves_the_views_alone(a_panel: Opened, a_session: Path) -> None:
    a_panel.segment()
    ui, section, result = a_panel.ui, a_panel.panel.readerStudy, a_panel.state.segmentation
    ui.rockButton.setChecked(True)
    opened(section, a_session)
    assert backgrounds() == {"Case 1"} and not ui.rockButton.checked and not result.GetDisplayNode().GetVisibility()
    for control in (ui.opacitySlider, ui.overlayComboBox, ui.fourUpLayoutButton, ui.rockButton):
        assert not control.enabled
    a_panel.state.opacity = 0.3
    a_panel.segment()
    assert backgrounds() == {"Case 1"} and section.isReading and not result.GetDisplayNode().GetVisibility()
    section.ui.closeSessionButton.click()
    assert backgrounds() == {"Scan"} and ui.opacitySlider.enabled and result.GetDisplayNode().GetVisibility()


def test_tumors_that_are_painted_while_a_case_is_read_are_shown_afterwards(a_panel: Opened, a_session: Path) -> None:
    organs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    organs.GetSegmentation().AddEmptySegment("liver", "liver")
    set_segment_mask(blob(GRID, (18, 17, 10), 6).T, a_panel.state.inputVolume, organs, "liver")
    a_panel.state.organSegmentation, a_panel.state.synthesisOrgan = organs, "liver"
    a_panel.script(*PAINTING)
    opened(a_panel.panel.readerStudy, a_session)
    a_panel.ui.synthesizeButton.click()
    a_panel.finish()
    assert backgrounds() == {"Case 1"} and not a_panel.ui.beforeAfterButton.enabled
    a_panel.panel.readerStudy.ui.pauseReadingButton.click()
    assert backgrounds() == {a_panel.state.painted.GetName()} and a_panel.ui.beforeAfterButton.enabled


def test_a_scene_that_is_added_pauses(a_panel: Opened, a_session: Path, tmp_path: Path) -> None:
    a_panel.segment()
    path = str(tmp_path / "scene.mrb")
    assert slicer.util.saveScene(path)
    slicer.mrmlScene.Clear(0)
    section = opened(a_panel.panel.readerStudy, a_session)
    slicer.util.loadScene(path, {"clear": False})
    assert section.isPaused and cases() == [] and not section.ui.realButton.enabled
    section.ui.pauseReadingButton.click()
    assert backgrounds() == {"Case 1"}


def test_nothing_has_a_style_of_its_own() -> None:
    text = resource_path("UI", "DiffuGTSReaderStudy.ui").read_text(encoding="utf-8")
    assert "styleSheet" not in text and "<font>" not in text and "<palette>" not in text
