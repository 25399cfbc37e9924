"""Advanced: seed and interpreter."""

from __future__ import annotations

from panel_parts import Opened

pytest_plugins = ["panel_fixtures"]


def test_a_new_seed_is_drawn(a_panel: Opened) -> None:
    seeds = set()
    for _again in range(5):
        a_panel.ui.diceButton.click()
        seeds.add(a_panel.state.seed)
    assert len(seeds) > 1


def test_an_interpreter_that_is_none_is_refused(a_panel: Opened) -> None:
    a_panel.ui.interpreterPathEdit.currentPath = "/nowhere/python"
    assert "no program" in a_panel.ui.messageLabel.text
