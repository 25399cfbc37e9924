"""The models window: lists models with size, license and checksums; adds and removes model folders of the user."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from DiffuGTSLib.config import load_config, presets
from DiffuGTSLib.errors import WeightsError
from DiffuGTSSlicer import model_folders
from DiffuGTSSlicer.settings import MODEL_FOLDER_KEY, MODEL_FOLDERS_KEY, setSetting, setting

TICK_MS = 1
HIDDEN_PRESETS = ("tiny",)
"""Presets for tests; shown only if a scene uses one."""


def ownFolders() -> list[str]:
    """Return the model folders that the user has added, from the application settings."""
    try:
        folders = json.loads(setting(MODEL_FOLDERS_KEY) or "[]")
    except ValueError:
        folders = []
    chosen = setting(MODEL_FOLDER_KEY)
    return [str(each) for each in folders] + ([chosen] if chosen and chosen not in folders else [])


class ModelsWindow:
    """A dialog; `show` returns at once.

    Attributes:
        onUse: Called with a folder of the user, or with "" and the preset whose own model is used.
    """

    def __init__(self, parent: Any, onUse: Callable[[str, str], None]) -> None:
        self.onUse = onUse
        self._rows: list[tuple[str, Path | None, bool]] = []
        """Preset or folder name, folder, whether it is the user's own."""
        self._verdicts: dict[Path, str] = {}
        self._check: Any = None
        self._checked: Path | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._continueCheck)
        self.dialog = qt.QDialog(parent)
        self.dialog.setObjectName("modelsDialog")
        self.dialog.setAttribute(qt.Qt.WA_DeleteOnClose)  # the next window is a new one
        self.dialog.setWindowTitle(_("DiffuGTS models"))
        self.dialog.resize(720, 340)
        self.dialog.connect("finished(int)", self.close)
        self.table = self._makeTable()
        self.label = self._makeLabel("modelsMessageLabel", "")
        note = _(
            "Nothing is downloaded here. The command diffugts weights fetch downloads published weights, after showing their "
            "license. Add model folders from elsewhere with Add a folder…"
        )
        layout = qt.QVBoxLayout(self.dialog)
        for widget in (self.table, self.label, self._makeLabel("modelsNoteLabel", note)):
            layout.addWidget(widget)
        layout.addLayout(self._makeButtons())
        self.fill()

    def show(self) -> None:
        """Open the window."""
        self.dialog.open()

    def close(self, _result: int = 0) -> None:
        """Stop comparing checksums."""
        self._timer.stop()
        self._check = None

    @property
    def isChecking(self) -> bool:
        """Whether checksums are being compared."""
        return self._check is not None

    # Table

    def fill(self) -> None:
        """Update the table."""
        names = [name for name in presets() if name not in HIDDEN_PRESETS]
        self._rows = [(name, model_folders.modelFolder(load_config(name)), False) for name in names]
        self._rows += [(Path(each).name, Path(each), True) for each in ownFolders()]
        described, chosen = presets(), setting(MODEL_FOLDER_KEY)
        self.table.setRowCount(len(self._rows))
        for row, (name, folder, isOwn) in enumerate(self._rows):
            isThere = model_folders.isFolder(folder)
            values = (
                name,
                model_folders.sizeText(model_folders.sizeBytes(folder)) if isThere else "",
                (model_folders.licenseOf(folder) or _("not stated")) if isThere else "",
                self._verdicts.get(folder, _("not checked")) if isThere else "",
                str(folder) if isThere else _("not installed"),
            )
            tip = described.get(name, "") if not isOwn else _("Model folder that you added.")
            if isOwn and str(folder) == chosen:
                tip = _("In use instead of the preset's own model.")
            for column, text in enumerate(values):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(tip if column == 0 else text)
                self.table.setItem(row, column, item)
        self.table.resizeColumnsToContents()
        self._offer()

    def _offer(self) -> None:
        """Enable the buttons that apply to the selected row."""
        row = self._row()
        isThere = row is not None and model_folders.isFolder(row[1])
        self.useButton.enabled = isThere
        self.checkButton.enabled = isThere and not self.isChecking
        self.removeButton.enabled = row is not None and row[2]

    def _row(self) -> tuple[str, Path | None, bool] | None:
        index = self.table.currentRow()
        return self._rows[index] if 0 <= index < len(self._rows) else None

    # Actions

    def add(self, folder: str) -> None:
        """Add a model folder; a folder without a model is refused."""
        logging.info("DiffuGTS: add model folder")
        try:
            model_folders.requireModel(Path(folder))
        except WeightsError as error:
            self.label.setText(str(error))
            return
        folders = ownFolders()
        if folder not in folders:
            setSetting(MODEL_FOLDERS_KEY, json.dumps([*folders, folder]))
        self.label.setText(_("{folder} was added. Choose it and press Use.").format(folder=folder))
        self.fill()
        self.table.setCurrentCell([str(each[1]) for each in self._rows].index(folder), 0)

    def use(self) -> None:
        """Use the selected model from the next run on."""
        row = self._row()
        if row is None or row[1] is None or not self._agrees(row[0], row[1]):
            return
        logging.info("DiffuGTS: use model %s", row[0])
        self.onUse(str(row[1]) if row[2] else "", "" if row[2] else row[0])
        self.label.setText(_("{name} is used from the next run on.").format(name=row[0]))
        self.fill()

    def _agrees(self, name: str, folder: Path) -> bool:
        """Ask the user to accept a license that is not permissive; return whether the model may be used."""
        license_ = model_folders.licenseOf(folder)
        if model_folders.isPermissive(license_):
            return True
        question = _(
            "The license of {name} is: {license}. It may forbid what you are about to do, for example commercial use. "
            "Have you read it, and may you use the model?"
        ).format(name=name, license=license_ or _("not stated"))
        if slicer.util.confirmOkCancelDisplay(question, windowTitle=_("DiffuGTS models")):
            return True
        self.label.setText(_("{name} is not used.").format(name=name))
        return False

    def remove(self) -> None:
        """Remove an added folder from the list; its files stay."""
        row = self._row()
        if row is None or not row[2]:
            return
        logging.info("DiffuGTS: remove model folder")
        folder = str(row[1])
        setSetting(MODEL_FOLDERS_KEY, json.dumps([each for each in ownFolders() if each != folder]))
        if setting(MODEL_FOLDER_KEY) == folder:
            self.onUse("", "")
        self.label.setText(_("{folder} is no longer listed; its files are still there.").format(folder=folder))
        self.fill()

    def check(self) -> None:
        """Start comparing the selected model's files with their checksums."""
        row = self._row()
        if row is None or row[1] is None or self.isChecking:
            return
        logging.info("DiffuGTS: check model %s", row[0])
        self._check, self._checked = model_folders.verification(row[1]), row[1]
        self._offer()
        self._timer.start()

    def _continueCheck(self) -> None:
        if self._check is None:
            return
        try:
            share = next(self._check)
        except StopIteration as end:
            self._timer.stop()
            self._check = None
            self._verdicts[self._checked] = _("damaged") if end.value else _("verified")
            self.label.setText("\n".join(end.value) or _("All files match checksums.json."))
            self.fill()
        except OSError as error:
            self._timer.stop()
            self._check = None
            self.label.setText(_("A file cannot be read: {error}").format(error=error))
            self._offer()
        else:
            self.label.setText(_("Comparing checksums: {percent} %").format(percent=round(100 * share)))

    # Widgets

    def _makeTable(self) -> Any:
        table = qt.QTableWidget()
        table.setObjectName("modelsTable")
        table.setToolTip(_("Models on this computer, and models that the presets need."))
        table.setColumnCount(5)
        table.setHorizontalHeaderLabels([_("Model"), _("Size"), _("License"), _("Checksums"), _("Folder")])
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.horizontalHeader().setStretchLastSection(True)
        table.horizontalHeader().setHighlightSections(False)
        table.verticalHeader().setVisible(False)
        table.connect("itemSelectionChanged()", self._offer)
        return table

    @staticmethod
    def _makeLabel(name: str, text: str) -> Any:
        label = qt.QLabel()
        label.setObjectName(name)
        label.setWordWrap(True)
        label.setText(text)
        return label

    def _makeButtons(self) -> Any:
        row = qt.QHBoxLayout()
        self.addButton, self.useButton, self.checkButton, self.removeButton, closeButton = (
            self._makeButton(*each)
            for each in (
                (_("&Add a folder…"), _("Select a model folder on this computer."), self._ask),
                (_("&Use"), _("Use the selected model from the next run on."), self.use),
                (_("C&heck files"), _("Compare every weight file with the SHA-256 in the model folder."), self.check),
                (_("&Remove"), _("Remove an added folder from this list. Its files stay on the disk."), self.remove),
                (_("&Close"), _("Close this window."), self._accept),
            )
        )
        for button in (self.addButton, self.useButton, self.checkButton, self.removeButton, closeButton):
            row.addWidget(button)
        return row

    @staticmethod
    def _makeButton(text: str, tip: str, slot: Callable[[], None]) -> Any:
        button = qt.QPushButton(text)
        button.setToolTip(tip)
        button.connect("clicked()", slot)
        return button

    def _ask(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.dialog, _("Model folder"))
        if folder:
            self.add(str(folder))

    def _accept(self) -> None:
        self.dialog.accept()
