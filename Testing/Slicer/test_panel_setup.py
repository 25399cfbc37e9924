"""Setup: what is missing, installed and found, over a real process."""

from __future__ import annotations

import sys
from pathlib import Path

import gui
import pytest
from DiffuGTSSlicer.requirements import InstallationError
from panel_parts import SCRIPT, Opened

pytest_plugins = ["panel_fixtures"]


def test_install_asks_and_tells_what_is_missing(a_panel: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    ui, requirements = a_panel.ui, a_panel.panel.requirements
    missing = ["monai>=1.6.1"]
    monkeypatch.setattr(requirements, "missing", lambda: list(missing))

    def declines() -> None:
        raise InstallationError("Nothing was installed.", code="declined")

    monkeypatch.setattr(requirements, "ensure", declines)
    a_panel.panel.setup.checkPackages()
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
    assert gui.spin(lambda: "finds no GPU" in a_panel.ui.deviceLabel.text)
    a_panel.panel.refresh()
    a_panel.ui.releaseButton.click()
    assert gui.spin(lambda: "released its memory" in a_panel.ui.logText.plainText)


def test_check_asks_the_interpreter_that_was_chosen_last(a_panel: Opened, tmp_path: Path) -> None:
    client, other, mark = a_panel.logic.client, tmp_path / "python", tmp_path / "started"
    other.write_text(f'#!/bin/sh\ntouch "{mark}"\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    a_panel.ui.checkButton.click()
    assert gui.spin(lambda: "finds no GPU" in a_panel.ui.deviceLabel.text)
    first = client.processId
    a_panel.ui.checkButton.click()
    assert "finds no GPU" in a_panel.ui.deviceLabel.text and client.processId == first, "it is known already"
    a_panel.ui.interpreterPathEdit.currentPath = str(other)
    a_panel.ui.checkButton.click()
    assert "asking" in a_panel.ui.deviceLabel.text
    assert gui.spin(lambda: "finds no GPU" in a_panel.ui.deviceLabel.text)
    assert client.processId not in (0, first) and mark.exists()


def test_a_check_that_finds_no_packages_says_so(a_panel: Opened) -> None:
    a_panel.logic.client.arguments = [str(SCRIPT), "broken"]
    a_panel.ui.checkButton.click()
    assert gui.spin(lambda: a_panel.ui.messageLabel.text != "")
    assert "could not load its packages" in a_panel.ui.messageLabel.text
    assert "asking" not in a_panel.ui.deviceLabel.text
