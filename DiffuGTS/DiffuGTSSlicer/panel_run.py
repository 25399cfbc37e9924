"""Run: the button that starts and cancels, progress, outcome, and log."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib import __version__
from DiffuGTSSlicer.messages import Failure, failureOf, stageName, timeLeft
from DiffuGTSSlicer.panel_section import StartingSection, showsErrors
from DiffuGTSSlicer.parameters import RunParameters, promptFault
from DiffuGTSSlicer.result_set import belongsToScan, resultNodesToCreate, storeRunNode
from DiffuGTSSlicer.run import DONE
from DiffuGTSSlicer.settings import INTERPRETER_KEY, MODEL_FOLDER_KEY, setting
from DiffuGTSSlicer.worker_client import CANCELLING

REFRESH_MS = 500
FULL = 1000
"""Steps of the progress bar."""


class RunSection(StartingSection):
    """One button, Segment or Cancel, with progress, outcome and log."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.failure: Failure | None = None
        self._canceled = ""
        self._ticker = qt.QTimer()
        self._ticker.setInterval(REFRESH_MS)
        self._ticker.connect("timeout()", self.showProgress)
        self.ui.progressBar.setMaximum(FULL)
        self.ui.messageLabel.setTextFormat(qt.Qt.PlainText)
        self.ui.runButton.connect("clicked()", self.onButton)
        self.ui.copyLogButton.connect("clicked()", self.onCopy)

    def close(self) -> None:
        """Stop the timer."""
        self._ticker.stop()

    @showsErrors
    def start(self) -> None:
        """Start a segmentation; does nothing during a run."""
        self._begin(isRefinement=False)

    @showsErrors
    def startRefinement(self) -> None:
        """Start a refinement with the current candidate region."""
        self._begin(isRefinement=True)

    def _begin(self, isRefinement: bool) -> None:
        if self.logic.isRunning or self.state is None or self.obstacle():
            return
        parameters = self.prepare()
        if isRefinement:  # all shown segments of the candidate are read, whatever result it belongs to
            candidate = self.state.candidate
            isOurs = candidate is not None and belongsToScan(candidate, self.state.inputVolume)
            parameters = replace(parameters, candidate=candidate if isOurs else None, candidateSegmentId="")
        begin = self.logic.refine if isRefinement else self.logic.process
        begin(self.state.inputVolume, parameters, waitForCompletion=False)
        self.follow()

    def prepare(self) -> RunParameters:
        """Prepare a run and return its parameters.

        Raises:
            InstallationError: If something is missing afterwards.
            PromptError: As `RunParameters.jobPrompts`.
        """
        self.makeReady()
        more = {"modelFolder": setting(MODEL_FOLDER_KEY), **resultNodesToCreate(self.state)}
        parameters = RunParameters.fromNode(self.state, **more)
        if not setting(INTERPRETER_KEY) and self.panel.requirements.needsTextModel(parameters.jobPrompts()):
            self.panel.requirements.ensureTextModel()
        return parameters

    def makeReady(self) -> None:
        """Install missing packages, after confirmation, and set the interpreter.

        Raises:
            InstallationError: If something is missing afterwards.
        """
        self.clear()
        if not self.panel.setup.isReady:
            self.panel.setup.install()
        self.useInterpreter(setting(INTERPRETER_KEY))

    def follow(self) -> None:
        """Start updating the progress."""
        self._ticker.start()
        self.panel.refresh()

    def useInterpreter(self, interpreter: str) -> None:
        """Stop the worker if it runs on another interpreter; the next run starts it again."""
        if self.logic.client.interpreter != interpreter:
            self.logic.client.stop()
            self.logic.client.interpreter = interpreter

    def obstacle(self) -> str:
        """Return why no run can start, or an empty string."""
        state = self.state
        if state is None or state.inputVolume is None:
            return _("Load a volume and choose it under Inputs.")
        return self.promptObstacle()

    def promptObstacle(self) -> str:
        """Return the problem with the prompts, or an empty string."""
        fault = None if self.state is None else promptFault(self.state)
        return "" if fault is None else str(fault)

    def refresh(self) -> None:
        """Update button, progress and message."""
        ui, isRunning = self.ui, self.logic.isRunning
        obstacle = "" if isRunning else self.obstacle()
        isCancelling = isRunning and self.logic.client.state == CANCELLING
        ui.runButton.setText(_("Canceling…") if isCancelling else _("&Cancel") if isRunning else _("&Segment"))
        ui.runButton.enabled = not obstacle and not isCancelling
        ui.runButton.setToolTip(
            obstacle
            or (
                _("Stop at the next step. An earlier result is restored; without one, partial results stay.")
                if isRunning
                else _("Detect abnormal regions, repaint them as healthy and segment what changed (Ctrl+Enter).")
            )
        )
        ui.segmentationSelector.enabled = not isRunning
        ui.progressBar.setVisible(isRunning)
        ui.stageLabel.setVisible(isRunning)
        self.showProgress()
        self.showOutcome()

    def showProgress(self) -> None:
        """Update progress bar, stage and time left."""
        if not self.logic.isRunning:
            self._ticker.stop()
            return
        progress = self.logic.progress
        self.ui.progressBar.setValue(int(progress.share * FULL))
        words = [stageName(progress.stage, self._isSynthesis), timeLeft(progress.leftS)]
        if self.logic.client.state == CANCELLING:
            words = [_("Canceling: the current step is finished first")]
        self.ui.stageLabel.setText(", ".join(filter(None, words)))

    @property
    def _isSynthesis(self) -> bool:
        return self.logic.run is not None and self.logic.run.isSynthesis

    def showOutcome(self) -> None:
        """Show the outcome, the error, or why no run can start."""
        if self.failure is not None:
            text = self.failure.text()
        elif self.logic.isRunning:
            text = ""
        elif self._canceled:
            text = self._canceled
        elif self.state is None or self.state.inputVolume is None:
            text = self.obstacle()
        else:  # only an outcome of the selected scan
            text = self.state.outcome if self.state.resultVolume is self.state.inputVolume else ""
        self.ui.messageLabel.setText(text)
        self.ui.messageLabel.setVisible(bool(text))

    def showFailure(self, failure: Failure) -> None:
        """Show an error and the next step; the log opens if the worker crashed."""
        self.failure = failure
        self.ui.runCollapsibleButton.collapsed = False
        self.log(f"{failure.code}: {failure.message}")
        if failure.detail:
            self.ui.logCollapsibleButton.collapsed = False
        self.showOutcome()

    def withdrawFailure(self, failure: Failure) -> None:
        """Remove a failure whose cause is gone, if it is still shown."""
        if self.failure is failure:
            self.failure = None
            self.showOutcome()

    def clear(self) -> None:
        """Clear message and log of the last run."""
        self.reset()
        self.ui.logText.clear()

    def reset(self) -> None:
        """Clear the message of the last run."""
        super().reset()
        self.failure, self._canceled = None, ""

    def onEvent(self, event: dict[str, Any]) -> None:
        """Follow a run."""
        name = event["event"]
        if name == "stage":
            self.showProgress()
        elif name == "warning":
            self.log(str(event["message"]))
        elif name == "imported":
            self._storeNode(event["kind"])
        elif name == "error":
            failure = self.logic.run.failure if self.logic.run is not None else None
            self.panel.showFailure(failure or failureOf(event["code"], event["message"], event.get("hint", "")))
        elif name == "cancelled" and not (self._isSynthesis or self.logic.run.isAbandoned):
            isUndone = self.logic.run.isUndone
            self._canceled = _("Canceled: the earlier result was restored.") if isUndone else _("Canceled.")
        elif name == "done":
            self._storeOutcome(event)

    def _storeNode(self, kind: str) -> None:
        """Store a result node of the run in the parameter node."""
        if self.state is not None and self.logic.run is not None:
            storeRunNode(self.state, self.logic.run, kind)

    def _storeOutcome(self, event: dict[str, Any]) -> None:
        if self.state is None or self.logic.run is None or self.logic.run.state != DONE:
            return
        run = self.logic.run
        self.state.outcome = "\n".join([run.outcome, *run.notes])
        for note in run.notes:
            self.log(note)
        reason = _("Modality: {modality} ({reason})")
        self.log(reason.format(modality=event["modality"], reason=event["modality_reason"]))

    def log(self, line: str) -> None:
        """Append a line to the log."""
        self.ui.logText.appendPlainText(line)

    @showsErrors
    def onCopy(self) -> None:
        """Copy the log, with versions and settings, for a bug report."""
        logging.info("DiffuGTS: copy log")
        head = [f"DiffuGTS {__version__}", f"Python {sys.version.split()[0]}", f"{sys.platform}"]
        head.append(f"Slicer {getattr(slicer.app, 'applicationVersion', '?')}")
        if self.state is not None:
            parameters = RunParameters.fromNode(self.state)
            head += [f"preset {parameters.preset}", *parameters.overrideTexts()]
        message = "" if self.failure is None else f"{self.failure.code}: {self.failure.text()}\n{self.failure.detail}"
        text = "\n".join([*head, message, self.ui.logText.plainText])
        qt.QApplication.clipboard().setText(text)
