"""Base classes of the panel's sections, and helpers for errors, path edits, tables and combo boxes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSSlicer.messages import Failure, failureOfError

ROW_PX = 24
"""Row height of tables."""


class Section:
    """One section of the panel. Its widgets are in `ui`.

    Attributes:
        messageLabel: Label for its errors; None shows them under Run.
    """

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        self.ui = panel.ui
        self.messageLabel: Any = None

    @property
    def state(self) -> Any:
        """The parameter node; None while the scene is being closed or imported."""
        return self.panel.parameterNode

    @property
    def logic(self) -> Any:
        """The logic."""
        return self.panel.logic

    def refresh(self) -> None:
        """Update the widgets from the parameter node and the run."""

    def onEvent(self, event: dict[str, Any]) -> None:
        """Handle an event of the worker."""

    def reset(self) -> None:
        """Clear messages and caches, since another result is shown; the next `refresh` updates everything."""
        self.showMessage("")

    def close(self) -> None:
        """Stop timers; called when the module is closed or reloaded."""

    def showFailure(self, failure: Failure) -> None:
        """Show an error and the next step."""
        if self.messageLabel is None:
            self.panel.showFailure(failure)
            return
        logging.error("DiffuGTS: %s: %s", failure.code, failure.message)
        self.showMessage(failure.text())

    def showMessage(self, text: str) -> None:
        """Show a message in this section; an empty text hides it."""
        if self.messageLabel is not None:
            self.messageLabel.setText(text)
            self.messageLabel.setVisible(bool(text))


class StartingSection(Section):
    """A section whose button starts a run, and cancels it while it is in progress."""

    @property
    def isRunning(self) -> bool:
        """Whether the run that the button would cancel is in progress."""
        return bool(self.logic.isRunning)

    def start(self) -> None:
        """Start; does nothing during a run."""
        raise NotImplementedError

    def onButton(self) -> None:
        """Start the run, or cancel it."""
        if self.isRunning:
            self.logic.cancel()
        else:
            self.start()


def showsErrors(slot: Callable[..., Any]) -> Callable[..., Any]:
    """Show errors of a slot in its section; Qt would only print them to the console."""

    @functools.wraps(slot)
    def guarded(section: Any, *arguments: Any) -> Any:
        section.showMessage("")
        try:
            return slot(section, *arguments)
        except DiffuGTSError as error:
            section.showFailure(failureOfError(error))
        except Exception as error:  # top level of the panel: every error must be shown
            logging.exception("DiffuGTS: %s", slot.__name__)
            words = _("Something unexpected went wrong: {error}").format(error=f"{type(error).__name__}: {error}")
            section.showFailure(Failure("error", words, _("Copy the log and report it.")))
        return None

    return guarded


def connectPath(pathEdit: Any, slot: Callable[[str], None]) -> None:
    """Call a slot with every path of a ctkPathLineEdit, also with the empty one, for which CTK emits no path change."""

    def clear(isValid: bool) -> None:
        if not isValid and not pathEdit.currentPath:
            slot("")

    pathEdit.connect("currentPathChanged(QString)", slot)
    pathEdit.connect("validInputChanged(bool)", clear)


def compactTable(table: Any) -> None:
    """Give a table low rows, and let its last column fill the remaining width."""
    table.verticalHeader().setDefaultSectionSize(ROW_PX)
    table.horizontalHeader().setStretchLastSection(True)
    table.horizontalHeader().setHighlightSections(False)


class ChoiceBox:
    """A combo box of values with translated labels."""

    def __init__(self, comboBox: Any, choices: Sequence[tuple[str, str]], onChosen: Callable[[str], None]) -> None:
        self._comboBox = comboBox
        self._onChosen = onChosen
        self._values: list[str] = []
        self._choices: list[tuple[str, str]] = []
        self.offer(choices)
        comboBox.connect("currentIndexChanged(int)", self._chosen)

    def offer(self, choices: Sequence[tuple[str, str]]) -> None:
        """Replace the choices: pairs of value and label."""
        if list(choices) == self._choices:
            return
        self._choices = list(choices)
        wasBlocked = self._comboBox.blockSignals(True)
        self._comboBox.clear()
        for _value, words in choices:
            self._comboBox.addItem(words)
        self._values = [value for value, _words in choices]
        self._comboBox.blockSignals(wasBlocked)

    def show(self, value: str) -> None:
        """Select a value without emitting a signal."""
        index = self._values.index(value) if value in self._values else -1
        if self._comboBox.currentIndex != index:
            wasBlocked = self._comboBox.blockSignals(True)
            self._comboBox.setCurrentIndex(index)
            self._comboBox.blockSignals(wasBlocked)

    def _chosen(self, index: int) -> None:
        if 0 <= index < len(self._values):
            self._onChosen(self._values[index])
