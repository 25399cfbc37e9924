"""The window of models: every preset, whether its model is there, and a folder of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSLib.config import Config, load_config, presets
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path


def modelFolder(config: Config) -> Path | None:
    """Return where a configuration's model lies, None where it is not there."""
    if config.backbone.folder:
        folder = Path(config.backbone.folder)
        return folder if folder.is_dir() else None
    try:
        return resource_path("Models", config.backbone.name)
    except InputError:
        return None


class ModelsWindow:
    """A dialog that does not block; `onFolder` is told a folder, or "" for the preset's own, and may refuse it."""

    def __init__(self, parent: Any, ownFolder: Callable[[], str], onFolder: Callable[[str], None]) -> None:
        self._ownFolder, self._onFolder = ownFolder, onFolder
        self.dialog = qt.QDialog(parent)
        self.dialog.setObjectName("modelsDialog")
        self.dialog.setWindowTitle(_("DiffuGTS models"))
        self.dialog.resize(640, 320)
        self.label = qt.QLabel()
        self.label.setWordWrap(True)
        self.table = self._table()
        layout = qt.QVBoxLayout(self.dialog)
        layout.addWidget(self.table)
        layout.addWidget(self.label)
        layout.addLayout(self._buttons())
        self._tell()

    def show(self) -> None:
        """Open the window."""
        self.dialog.open()

    def take(self, folder: str) -> None:
        """Use a model folder of the user's own; empty: the preset's."""
        try:
            self._onFolder(folder)
        except InputError as error:
            self.label.setText(str(error))
            return
        self._tell()

    @staticmethod
    def _table() -> Any:
        table = qt.QTableWidget()
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Preset"), _("Model"), _("Description")])
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        described = presets()
        table.setRowCount(len(described))
        for row, (name, description) in enumerate(described.items()):
            folder = modelFolder(load_config(name))
            there = _("not installed") if folder is None else str(folder)
            for column, text in enumerate((name, there, description)):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()
        return table

    def _buttons(self) -> Any:
        row = qt.QHBoxLayout()
        for text, slot in (
            (_("Choose a folder…"), self._ask),
            (_("Use the preset's"), self._takeNone),
            (_("Close"), self._close),
        ):
            button = qt.QPushButton(text)
            button.connect("clicked()", slot)
            row.addWidget(button)
        return row

    def _tell(self) -> None:
        self.label.setText(_("Your own model folder: {folder}").format(folder=self._ownFolder() or _("none")))

    def _ask(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.dialog, _("Model folder"))
        if folder:
            self.take(str(folder))

    def _takeNone(self) -> None:
        self.take("")

    def _close(self) -> None:
        self.dialog.accept()
