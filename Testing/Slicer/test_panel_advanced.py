"""Advanced: seed and interpreter."""

from __future__ import annotations

import sys

from DiffuGTSSlicer.settings import INTERPRETER_KEY, setting
from panel_parts import Opened

from DiffuGTSLib.config import load_config

pytest_plugins = ["panel_fixtures"]


def test_a_new_seed_is_drawn(a_panel: Opened) -> None:
    seeds = set()
    for _again in range(5):
        a_panel.ui.diceButton.click()
        seeds.add(a_panel.state.seed)
    assert len(seeds) > 1


def test_an_interpreter_that_is_none_is_refused(a_panel: Opened) -> None:
    a_panel.ui.interpreterPathEdit.currentPath = "/nowhere/python"
    assert "not a program" in a_panel.ui.messageLabel.text


def test_an_interpreter_can_be_chosen_and_cleared(a_panel: Opened) -> None:
    line = a_panel.ui.interpreterPathEdit
    line.currentPath = "/nowhere/python"
    line.currentPath = sys.executable
    assert setting(INTERPRETER_KEY) == sys.executable
    assert a_panel.ui.messageLabel.text == "", "what was wrong with half a path is over"
    line.currentPath = ""
    assert setting(INTERPRETER_KEY) == "" and "installed" in a_panel.ui.packagesLabel.text


def test_a_quality_is_a_multiple_of_the_presets_steps(a_panel: Opened) -> None:
    box, state = a_panel.ui.qualityComboBox, a_panel.state
    steps = load_config("mini").inpainting.steps
    assert box.currentText == "Balanced" and state.steps == steps
    box.setCurrentIndex(box.findText("Fast"))
    assert state.steps == round(steps / 3) and a_panel.ui.stepsSpinBox.value == state.steps
    box.setCurrentIndex(box.findText("Full"))
    assert state.steps == 3 * steps
    a_panel.ui.stepsSpinBox.value = 17
    assert box.currentText == "Custom number of steps"
    box.setCurrentIndex(box.findText("Custom number of steps"))
    assert state.steps == 17
