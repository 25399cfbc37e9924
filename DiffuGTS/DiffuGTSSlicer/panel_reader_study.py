"""Reading session of a reader study: is a tumor real or synthetic? Answered by button or key, saved at once."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from DiffuGTSLib.reader_study.answers import REAL, SYNTHETIC, UNSURE
from DiffuGTSLib.resources import resource_path
from DiffuGTSSlicer.messages import Failure
from DiffuGTSSlicer.panel_section import Section, showsErrors
from DiffuGTSSlicer.reader_session import ReaderSession, hideRest, isCaseInView, removeCases, showCase

SETTING = "DiffuGTS/reader"
BOUNCE_S = 0.35
"""Answers sooner than this after a scan is shown are ignored: a key pressed twice must not answer the next scan."""
TICK_MS = 500


class ReaderStudySection(Section, VTKObservationMixin):
    """A section with its own `.ui`. It stores nothing in the parameter node: a scene must not reveal who reads what."""

    def __init__(self, panel: Any, uiWidget: Any) -> None:
        """Add the section to the panel's widget, above the disclaimer."""
        Section.__init__(self, panel)
        VTKObservationMixin.__init__(self)
        self.widget = slicer.util.loadUI(str(resource_path("UI", "DiffuGTSReaderStudy.ui")))
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.messageLabel = self.ui.readingMessageLabel
        layout = uiWidget.layout()
        layout.insertWidget(layout.indexOf(panel.ui.disclaimerLabel), self.widget)
        self.session: ReaderSession | None = None
        self.isPaused = False
        self._shownAt = 0.0
        ui = self.ui
        ui.readerEdit.setText(str(slicer.app.settings().value(SETTING, "") or ""))
        for button, slot in (
            (ui.openSessionButton, self.onOpen),
            (ui.pauseReadingButton, self.onPause),
            (ui.closeSessionButton, self.onClose),
            (ui.realButton, self.onReal),
            (ui.unsureButton, self.onUnsure),
            (ui.syntheticButton, self.onSynthetic),
            (ui.readingBackButton, self.onBack),
        ):
            button.connect("clicked()", slot)
        keys = (("R", self.onReal), ("U", self.onUnsure), ("S", self.onSynthetic), ("Z", self.onBack))
        self._shortcuts = [self._shortcut(uiWidget, key, slot) for key, slot in keys]
        *self._answerKeys, self._backKey = self._shortcuts
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._look)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.showMessage("")
        self.refresh()

    @staticmethod
    def _shortcut(uiWidget: Any, key: str, slot: Any) -> Any:
        """Create an application-wide keyboard shortcut, for slice views too; enabled only while it means something here."""
        shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow() or uiWidget)
        shortcut.setContext(qt.Qt.ApplicationShortcut)
        shortcut.setAutoRepeat(False)
        shortcut.setEnabled(False)
        shortcut.connect("activated()", slot)
        return shortcut

    @property
    def isReading(self) -> bool:
        """Whether a case is shown and the session is not paused."""
        return self.session is not None and bool(self.session.case) and not self.isPaused

    def refresh(self) -> None:
        """Update progress and buttons."""
        ui, session = self.ui, self.session
        isOpen = session is not None
        ui.readerEdit.enabled = not isOpen
        ui.openSessionButton.enabled = not isOpen
        ui.closeSessionButton.enabled = isOpen
        ui.pauseReadingButton.enabled = isOpen and bool(session.case)
        ui.pauseReadingButton.setText(_("Continue") if self.isPaused else _("Pause"))
        for button in (ui.realButton, ui.unsureButton, ui.syntheticButton):
            button.enabled = self.isReading
        mayGoBack = isOpen and session.answered > 0 and not self.isPaused
        ui.readingBackButton.enabled = mayGoBack
        ui.readingProgressBar.setMaximum(session.count if isOpen else 1)
        ui.readingProgressBar.setValue(session.answered if isOpen else 0)
        for shortcut in self._answerKeys:  # in other modules these keys mean something else
            shortcut.setEnabled(self.isReading and self.panel.isShown)
        self._backKey.setEnabled(mayGoBack and self.panel.isShown)
        if self.isReading:  # a run may have brought an outline
            hideRest()
        self._tick()

    def close(self) -> None:
        """Close the session; all answers are saved already."""
        self._end()
        self.removeObservers()
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.deleteLater()  # the main window would keep it

    def showFailure(self, failure: Failure) -> None:
        """Show an error; next steps differ from those of a run, since the files are the session's."""
        step = _nextSteps().get(failure.code, failure.nextStep)
        super().showFailure(dataclasses.replace(failure, nextStep=step))
        self.refresh()

    # Slots

    @showsErrors
    def onOpen(self) -> None:
        """Let the user select the folder of a session."""
        folder = qt.QFileDialog.getExistingDirectory(self.ui.openSessionButton, _("Folder of the reading session"))
        if folder:
            self.open(str(folder))

    @showsErrors
    def open(self, folder: str) -> None:
        """Open a session and show the first case without an answer."""
        self._end()
        self.session = ReaderSession(folder, self.ui.readerEdit.text)
        slicer.app.settings().setValue(SETTING, self.session.reader)
        logging.info("DiffuGTS: reading session %s, %d answered", self.session.card.session, self.session.answered)
        self._timer.start()
        self._show()

    @showsErrors
    def onReal(self) -> None:
        """The tumor is real."""
        self._answer(REAL)

    @showsErrors
    def onUnsure(self) -> None:
        """The reader cannot tell."""
        self._answer(UNSURE)

    @showsErrors
    def onSynthetic(self) -> None:
        """The tumor was painted."""
        self._answer(SYNTHETIC)

    @showsErrors
    def onBack(self) -> None:
        """Undo the last answer."""
        if self.session is not None and self.session.answered and not self.isPaused:
            self.session.back()
            self._show()

    @showsErrors
    def onPause(self) -> None:
        """Pause: hide the scan, or show it again."""
        if self.session is None:
            return
        if self.isPaused:
            self._show()
        else:
            self._pause()

    @showsErrors
    def onClose(self) -> None:
        """Close the session."""
        self._end()
        self._share()

    def _answer(self, word: str) -> None:
        self._look()
        if self.isReading and time.monotonic() - self._shownAt >= BOUNCE_S:
            self.session.answer(word)
            self._show()

    def _show(self) -> None:
        """Show the current case and start its clock; after the last case, remove it.

        If it cannot be shown the session is paused, so that no key answers a scan that was not seen.
        """
        self.isPaused = bool(self.session.case)
        if self.session.case:
            showCase(self.session)
            self.isPaused = False
            self._shownAt = time.monotonic()
            self.session.start()
        else:
            removeCases()
        self._share()

    def _share(self) -> None:
        """Update this section and the panel, which leaves the slice views alone during a reading session."""
        self.refresh()
        self.panel.refresh()

    def _look(self) -> None:
        """Pause if the case is no longer shown in a slice view; update the time."""
        if self.isReading and not isCaseInView():
            self._pause()
            self.showMessage(_("The case is no longer in view, so reading is paused. Press Continue to see it again."))
        self._tick()

    def _pause(self) -> None:
        """Stop the clock and hide the scan."""
        self.session.stop()
        self.isPaused = bool(self.session.case)
        removeCases()
        self._share()

    def _end(self) -> None:
        self._timer.stop()
        if self.session is not None:
            self.session.stop()
            self.session = None
            removeCases()
        self.isPaused = False

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        """Pause, since the scan is removed with the scene."""
        if self.isReading:
            self.session.stop()
            self.isPaused = True
            self.refresh()

    def onSceneEndImport(self, _caller: Any, _event: Any) -> None:
        """Pause, since an imported scene shows its own volumes in the views."""
        if self.isReading:
            self._pause()

    def _tick(self) -> None:
        session = self.session
        if session is None:
            self.ui.caseLabel.setText(_("Decide for each scan: real, synthetic or unsure. Research use only."))
        elif not session.case:
            words = _("All {count} scans are answered. Thank you. Your answers: {path}")
            self.ui.caseLabel.setText(words.format(count=session.count, path=session.path))
        else:
            seconds = int(session.timeS)
            words = _("{title} Case {number} of {count}, {minutes}:{seconds}")
            self.ui.caseLabel.setText(
                words.format(
                    title=session.card.title, number=session.case, count=session.count,
                    minutes=seconds // 60, seconds=f"{seconds % 60:02d}",
                )
            )  # fmt: skip


def _nextSteps() -> dict[str, str]:
    """Return code → next step, for codes whose next step differs from that of a run."""
    copy = _("Copy the session's folder again, then press Continue.")
    return {
        "missing": copy,
        "unreadable": copy,
        "no_session": _("Choose the folder of a reading session: session.json and the scans are in it."),
        "storage": _("Check that the session's folder is writable and has free space, then try again."),
    }
