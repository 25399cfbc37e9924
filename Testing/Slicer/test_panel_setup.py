"""Setup: what is missing, installed and found, over a real process."""

from __future__ import annotations

import gui
import pytest
from DiffuGTSSlicer.requirements import InstallationError
from panel_parts import Opened

pytest_plugins = ["panel_fixtures"]


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
