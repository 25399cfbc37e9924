"""What holds over the whole panel: keyboard, explanations, translations, no style of its own, nothing asked of the network."""

from __future__ import annotations

import ast
import re
import socket
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import gui
import pytest
import qt
from DiffuGTSSlicer.messages import nextSteps
from DiffuGTSSlicer.organ_words import organWord
from panel_parts import Opened

from DiffuGTSLib.resources import organ_names, resource_path
from DiffuGTSLib.text.prompts import organs

pytest_plugins = ["panel_fixtures"]

SIDE = Path(__file__).parents[2] / "DiffuGTS"
ROOT = ET.parse(resource_path("UI", "DiffuGTS.ui")).getroot()
BUTTONS = {"QPushButton", "QToolButton", "QCheckBox", "ctkCollapsibleButton"}
FIELDS = {
    "QComboBox", "QSpinBox", "QDoubleSpinBox", "QTextEdit", "QPlainTextEdit", "QTableWidget", "qMRMLNodeComboBox",
    "ctkSliderWidget", "ctkPathLineEdit",
}  # fmt: skip
KEYS_OF_SLICERS_MENUS = set("FEVH")
WORDS = {
    "setText", "setToolTip", "setWindowTitle", "addItem", "setPlaceholderText", "setHorizontalHeaderLabels", "QLabel",
    "QPushButton", "QTableWidgetItem", "getExistingDirectory", "appendPlainText", "log", "tell",
    "confirmOkCancelDisplay", "setPrefix", "setSuffix",
}  # fmt: skip
"""Calls whose texts a user reads."""
NETWORK = {"socket", "urllib", "urllib3", "http", "requests", "ftplib", "ssl"}


def widgets(kinds: set[str]) -> dict[str, ET.Element]:
    return {str(each.get("name")): each for each in ROOT.iter("widget") if each.get("class") in kinds}


def text(widget: ET.Element, name: str) -> str:
    for each in widget.findall("property"):
        if each.get("name") == name:
            return "".join(each.itertext()).strip()
    return ""


def test_every_control_says_what_it_does() -> None:
    controls = widgets(BUTTONS | FIELDS)
    assert len(controls) > 60
    assert [name for name, widget in controls.items() if len(text(widget, "toolTip")) < 12] == []


def test_every_field_has_a_label_that_leads_to_it_or_a_name_for_screen_readers() -> None:
    led = {text(label, "buddy") for label in widgets({"QLabel"}).values()} - {""}
    assert led <= set(widgets(BUTTONS | FIELDS))
    nameless = [
        name for name, widget in widgets(FIELDS).items() if name not in led and not text(widget, "accessibleName")
    ]
    assert nameless == []


def test_the_tab_key_goes_through_every_control_from_top_to_bottom() -> None:
    order = [str(each.text) for each in ROOT.findall("tabstops/tabstop")]
    assert order == list(widgets(BUTTONS | FIELDS))


def test_mnemonics_are_unique_and_leave_slicers_menus_alone() -> None:
    texts = [text(each, "text") for each in ROOT.iter("widget")]
    keys = [found.group(1).upper() for each in texts if (found := re.search(r"&(\w)", each))]
    assert len(keys) > 15
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    assert not set(keys) & KEYS_OF_SLICERS_MENUS
    labels = [each for each in widgets({"QLabel"}).values() if "&" in text(each, "text")]
    assert all(text(each, "buddy") for each in labels), "a label's key needs somewhere to lead to"


def test_a_mnemonic_stays_when_the_buttons_text_changes(a_panel: Opened) -> None:
    before = a_panel.ui.runButton.text
    a_panel.script(["sleep", 0.3])
    a_panel.ui.runButton.click()
    assert (before, a_panel.ui.runButton.text) == ("&Segment", "&Cancel")


def test_nothing_has_a_style_of_its_own() -> None:
    source = resource_path("UI", "DiffuGTS.ui").read_text(encoding="utf-8")
    assert not re.search(r'styleSheet|name="(font|palette|windowOpacity)"|<font>|<palette>', source)
    code = "\n".join(path.read_text(encoding="utf-8") for path in SIDE.rglob("*.py"))
    assert not re.search(r"setStyleSheet|setPalette|setFont\b|<font|<b>|style=", code)


def literals_without_translation(tree: ast.AST) -> list[tuple[int, str]]:
    """Return line and text of what is shown in one language only."""
    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in WORDS:
            found += [
                (each.lineno, each.value) for argument in call.args for each in _plain_texts(argument) if each.value
            ]
    return [(line, words) for line, words in found if re.search(r"[A-Za-z]{2}", words)]


def _plain_texts(node: ast.AST) -> list[Any]:
    """Return the texts of an expression that are not in `_()`; keys of lookups and formats of numbers are no texts."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
        "_",
        "tr",
        "str",
        "getattr",
        "format",
        "setting",
    ):
        return []
    if isinstance(node, ast.Subscript | ast.Compare | ast.FormattedValue):
        return []
    if isinstance(node, ast.Constant):
        return [node] if isinstance(node.value, str) else []
    return [each for child in ast.iter_child_nodes(node) for each in _plain_texts(child)]


@pytest.mark.parametrize("path", sorted(SIDE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_word_that_is_shown_can_be_translated(path: Path) -> None:
    found = literals_without_translation(ast.parse(path.read_text(encoding="utf-8")))
    assert [each for each in found if each[1] not in ("DiffuGTS",)] == []


def test_a_planted_english_word_is_found() -> None:
    planted = 'label.setText("Ready" if x else _("Busy")); label.setText(_("{n} ml") + " left"); box.addItem(name)'
    assert literals_without_translation(ast.parse(planted)) == [(1, "Ready"), (1, " left")]


@pytest.mark.parametrize("organ", sorted({*organs(), *organ_names()}))
def test_every_organ_has_a_word_that_can_be_translated(organ: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("DiffuGTSSlicer.organ_words._", lambda text: f"«{text}»")
    assert organWord(organ) == f"«{organ}»" and organWord("gizzard") == "gizzard"


def test_results_bear_translated_names_whose_capitals_are_the_translators(
    a_panel: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    german = {
        "{organ} tumor": "Tumor der {organ}",
        "lung": "Lunge",
        "{scan} pseudo-healthy (synthetic)": "{scan} scheingesund (synthetisch)",
        "synthetic": "synthetisch",
    }
    for module in ("organ_words", "result_import", "display"):
        monkeypatch.setattr(f"DiffuGTSSlicer.{module}._", lambda text: german.get(text, text))
    a_panel.segment()
    segmentation = a_panel.state.segmentation.GetSegmentation()
    assert segmentation.GetSegment(a_panel.state.tumorSegmentId).GetName() == "Tumor der Lunge"
    assert a_panel.state.pseudoHealthy.GetName() == "Scan scheingesund (synthetisch)"


def test_no_file_of_the_slicer_side_can_speak_to_the_network() -> None:
    for path in SIDE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & NETWORK, path


def test_opening_the_panel_asks_nothing_of_the_network_and_starts_no_process(
    a_scene: Any, a_qt_application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise AssertionError("asked of the network, or of another process")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    widget = gui.loadModule("DiffuGTS")
    widget.enter()
    assert not widget.logic.client.isWarm
    widget.panel.setup.onModels()
    widget.panel.setup.window.dialog.accept()
    gui.unloadModule(widget)


def test_control_and_enter_work_wherever_in_the_panel_the_cursor_is(a_panel: Opened) -> None:
    shortcuts = a_panel.panel._shortcuts
    assert [each.key.toString() for each in shortcuts] == ["Ctrl+Return", "Ctrl+Enter"]
    assert all(each.context == qt.Qt.WidgetWithChildrenShortcut for each in shortcuts)
    assert a_panel.ui.normalPromptEdit.tabChangesFocus and a_panel.ui.abnormalPromptEdit.tabChangesFocus


def test_no_text_promises_that_a_region_saves_memory_or_time() -> None:
    """The whole scan is encoded, whatever the region; only what is repainted may get less."""
    assert "Crop Volume" in nextSteps()["oom"] and "region" not in nextSteps()["oom"]
    tips = {name: text(widget, "toolTip") for name, widget in widgets(BUTTONS | FIELDS).items()}
    assert "faster" not in tips["roiSelector"] and "repaint" in tips["roiSelector"]
    assert "in Refine one for each drawn region" in tips["autoRefinementCheckBox"]
    assert "it is faster" not in (SIDE.parent / "README.md").read_text(encoding="utf-8")
