"""The window of models: size, license, checksums; folders of one's own are added, used, checked and removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gui
import pytest
import slicer
from DiffuGTSSlicer.panel_models import ownFolders
from DiffuGTSSlicer.settings import MODEL_FOLDER_KEY, MODEL_FOLDERS_KEY, setSetting, setting
from panel_parts import Opened

from DiffuGTSLib.resources import resource_path

pytest_plugins = ["panel_fixtures"]


@pytest.fixture
def a_window(a_panel: Opened) -> Any:
    a_panel.ui.modelsButton.click()
    return a_panel.panel.setup.window


@pytest.fixture
def a_model(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return Path(shutil.copytree(resource_path("Models", "mini"), tmp_path / "mine"))


def row_of(window: Any, name: str) -> list[str]:
    """Return a row's texts, by the name in its first column, and choose it."""
    table = window.table
    [row] = [each for each in range(table.rowCount) if table.item(each, 0).text() == name]
    table.setCurrentCell(row, 0)
    return [table.item(row, column).text() for column in range(table.columnCount)]


def checked(window: Any) -> str:
    """Compare the chosen model's checksums, and return what is said."""
    window.check()
    assert gui.spin(lambda: not window.isChecking)
    return str(window.label.text)


def test_every_preset_is_listed_with_size_license_and_place(a_window: Any) -> None:
    name, size, license_, checksums, folder = row_of(a_window, "mini")
    assert (name, license_, checksums) == ("mini", "Apache License 2.0", "not checked")
    assert size.endswith(" MB") and 10 < float(size.split()[0]) < 30
    assert folder == str(resource_path("Models", "mini"))
    assert row_of(a_window, "maisi-ct")[1:] == ["", "", "", "not installed"]
    assert not a_window.useButton.enabled and not a_window.checkButton.enabled and not a_window.removeButton.enabled


def test_the_window_says_that_nothing_is_downloaded(a_window: Any) -> None:
    import qt

    assert "Nothing is downloaded here" in a_window.dialog.findChild(qt.QLabel, "modelsNoteLabel").text


def test_the_bundled_model_is_verified(a_window: Any) -> None:
    row_of(a_window, "mini")
    assert checked(a_window) == "All files match checksums.json."
    assert row_of(a_window, "mini")[3] == "verified"


def test_an_altered_model_is_damaged_and_named(a_window: Any, a_model: Path) -> None:
    weights = a_model / "aova" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    a_window.add(str(a_model))
    row_of(a_window, "mine")
    assert "aova/diffusion_pytorch_model.safetensors does not match checksums.json" in checked(a_window)
    assert row_of(a_window, "mine")[3] == "damaged"


def test_a_folder_of_ones_own_is_added_used_and_removed(a_panel: Opened, a_window: Any, a_model: Path) -> None:
    a_window.add(str(a_model))
    assert ownFolders() == [str(a_model)] and setting(MODEL_FOLDER_KEY) == ""
    row_of(a_window, "mine")
    a_window.use()
    assert setting(MODEL_FOLDER_KEY) == str(a_model) and "mine" in a_panel.ui.modelLabel.text
    row_of(a_window, "mini")
    a_window.use()
    assert setting(MODEL_FOLDER_KEY) == "" and a_panel.ui.modelLabel.text == "Model: mini"
    row_of(a_window, "mine")
    a_window.use()
    a_window.remove()
    assert ownFolders() == [] and setting(MODEL_FOLDER_KEY) == "" and a_model.is_dir(), "its files stay"
    a_window.dialog.accept()


def test_a_folder_without_a_model_is_refused(a_window: Any, tmp_path: Path) -> None:
    a_window.add(str(tmp_path))
    assert "holds no model" in a_window.label.text and ownFolders() == []


def test_a_folder_that_cannot_be_described_is_listed_and_can_be_removed(a_window: Any, a_model: Path) -> None:
    (a_model / "README.md").unlink()
    (a_model / "LICENSES").mkdir()
    a_window.add(str(a_model))
    assert row_of(a_window, "mine")[2] == "not stated"
    refused = "x" * 300  # the file system answers with an error instead of "not there"
    setSetting(MODEL_FOLDERS_KEY, json.dumps([str(a_model), str(a_model.parent / refused)]))
    a_window.fill()
    assert row_of(a_window, refused)[4] == "not installed" and not a_window.useButton.enabled
    a_window.remove()
    row_of(a_window, "mine")
    a_window.remove()
    assert ownFolders() == []


def test_closing_the_window_stops_the_check(a_window: Any) -> None:
    row_of(a_window, "mini")
    a_window.check()
    dialog, gone = a_window.dialog, []
    dialog.connect("destroyed()", lambda: gone.append(True))
    dialog.accept()
    assert not a_window.isChecking
    assert gui.spin(lambda: gone, timeout_s=5), "each click on Models… would leave a window"


@pytest.mark.parametrize("agrees", [True, False])
def test_a_license_that_restricts_is_asked_about_before_the_model_is_used(
    a_panel: Opened, a_window: Any, a_model: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    asked: list[str] = []

    def answer(question: str, **_named: Any) -> bool:
        asked.append(question)
        return agrees

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", answer)
    (a_model / "README.md").unlink()
    (a_model / "LICENSE").write_text("NVIDIA Non-Commercial License")
    a_window.add(str(a_model))
    row_of(a_window, "mine")
    a_window.use()
    assert len(asked) == 1 and "NVIDIA Non-Commercial License" in asked[0]
    assert setting(MODEL_FOLDER_KEY) == (str(a_model) if agrees else "")
    row_of(a_window, "mini")
    a_window.use()
    assert len(asked) == 1, "the bundled model's license asks for nothing"
