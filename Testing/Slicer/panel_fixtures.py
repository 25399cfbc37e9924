"""A scan and a panel for the tests of the panel's sections, which name this file as a plugin of pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gui
import pytest
import slicer
from DiffuGTSSlicer.settings import INTERPRETER_KEY, MODEL_FOLDER_KEY, MODEL_FOLDERS_KEY, ORGAN_KEY, setSetting
from logic_parts import jobFolders
from panel_parts import GRID, Opened
from scene_parts import noise, scan_node


@pytest.fixture
def a_coarse_scan(a_scene: Any) -> Any:
    return scan_node(GRID, noise(GRID), "Scan")


@pytest.fixture
def the_modules_of_the_application(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Slicer's own modules as far as the panel asks for them: present, and each noted when it is opened."""
    opened: list[str] = []
    for name in ("segmenteditor", "segmentstatistics", "dicom"):
        monkeypatch.setattr(slicer.modules, name, object(), raising=False)
    monkeypatch.setattr(slicer.modules, "dicomPlugins", {"DICOMSegmentationPlugin": object()}, raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", opened.append)
    return opened


@pytest.fixture
def a_panel(a_coarse_scan: Any, a_qt_application: Any, tmp_path: Path) -> Iterator[Opened]:
    for key in (INTERPRETER_KEY, MODEL_FOLDER_KEY, MODEL_FOLDERS_KEY, ORGAN_KEY):
        setSetting(key, "")
    opened = Opened(tmp_path)
    yield opened
    setSetting(ORGAN_KEY, "")
    gui.unloadModule(opened.widget)
    assert gui.spin(lambda: not opened.logic.client.isWarm)
    assert jobFolders() == []
