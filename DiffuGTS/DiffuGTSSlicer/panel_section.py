"""What every section of the panel needs: a door that shows errors, paths, and combo boxes over words of the library."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSSlicer.messages import Failure, failureOfError

ROW_PX = 24
"""Height of a table's row."""


class Section:
    """One part of the panel. Its widgets are `ui`'s; what it changes goes through the panel.

    Attributes:
        messageLabel: Where it says what went wrong, so that it is read where the click was; None: under Run.
    """

    def __init__(self, panel: Any) -> None:
        self.panel = panel
        self.ui = panel.ui
        self.messageLabel: Any = None

    @property
    def state(self) -> Any:
        """The parameter node; None while no scene is shown."""
        return self.panel.parameterNode

    @property
    def logic(self) -> Any:
        """The logic."""
        return self.panel.logic

    def refresh(self) -> None:
        """Show what the parameter node and the run say now."""

    def onEvent(self, event: dict[str, Any]) -> None:
        """Hear what the worker said."""

    def reset(self) -> None:
        """Show everything anew in the next `refresh`, and say nothing of before: the result is another one."""
        self.showMessage("")

    def close(self) -> None:
        """Let go of timers."""

    def showFailure(self, failure: Failure) -> None:
        """Say what went wrong and what to do next."""
        if self.messageLabel is None:
            self.panel.showFailure(failure)
            return
        logging.error("DiffuGTS: %s: %s", failure.code, failure.message)
        self.showMessage(failure.text())

    def showMessage(self, text: str) -> None:
        """Show a message of this section's own, or none."""
        if self.messageLabel is not None:
            self.messageLabel.setText(text)
            self.messageLabel.setVisible(bool(text))


class StartingSection(Section):
    """A section whose button starts something, and cancels what is under way."""

    @property
    def isRunning(self) -> bool:
        """Whether what the button would cancel is under way."""
        return bool(self.logic.isRunning)

    def start(self) -> None:
        """Start; does nothing while a run is under way."""
        raise NotImplementedError

    def onButton(self) -> None:
        """Start, or cancel what is under way."""
        if self.isRunning:
            self.logic.cancel()
        else:
            self.start()


def showsErrors(slot: Callable[..., Any]) -> Callable[..., Any]:
    """Show what goes wrong in a slot instead of letting Qt swallow it."""

    @functools.wraps(slot)
    def guarded(section: Any, *arguments: Any) -> Any:
        section.showMessage("")
        try:
            return slot(section, *arguments)
        except DiffuGTSError as error:
            section.showFailure(failureOfError(error))
        except Exception as error:  # the panel is one of the three doors
            logging.exception("DiffuGTS: %s", slot.__name__)
            words = _("Something unexpected went wrong: {error}").format(error=f"{type(error).__name__}: {error}")
            section.showFailure(Failure("error", words, _("Copy the log and report it.")))
        return None

    return guarded


def connectPath(pathEdit: Any, slot: Callable[[str], None]) -> None:
    """Tell a slot every path of a line, the empty one too: to CTK that is no valid input, and no change of the path."""

    def clear(isValid: bool) -> None:
        if not isValid and not pathEdit.currentPath:
            slot("")

    pathEdit.connect("currentPathChanged(QString)", slot)
    pathEdit.connect("validInputChanged(bool)", clear)


def compactTable(table: Any) -> None:
    """Have a table with low rows, whose last column takes the room that is left."""
    table.verticalHeader().setDefaultSectionSize(ROW_PX)
    table.horizontalHeader().setStretchLastSection(True)
    table.horizontalHeader().setHighlightSections(False)


class ChoiceBox:
    """A combo box that shows translated words and chooses among stable ones."""

    def __init__(self, comboBox: Any, choices: Sequence[tuple[str, str]], onChosen: Callable[[str], None]) -> None:
        self._comboBox = comboBox
        self._onChosen = onChosen
        self._values: list[str] = []
        self._choices: list[tuple[str, str]] = []
        self.offer(choices)
        comboBox.connect("currentIndexChanged(int)", self._chosen)

    def offer(self, choices: Sequence[tuple[str, str]]) -> None:
        """Replace the choices, (word, shown words) each."""
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
        """Show a choice without telling anybody."""
        index = self._values.index(value) if value in self._values else -1
        if self._comboBox.currentIndex != index:
            wasBlocked = self._comboBox.blockSignals(True)
            self._comboBox.setCurrentIndex(index)
            self._comboBox.blockSignals(wasBlocked)

    def _chosen(self, index: int) -> None:
        if 0 <= index < len(self._values):
            self._onChosen(self._values[index])
