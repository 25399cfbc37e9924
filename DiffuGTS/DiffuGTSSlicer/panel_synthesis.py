"""Synthesize tumor: paints tumors into a healthy organ, as a new volume and a segment."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import organ_names
from DiffuGTSSlicer import display, slice_views
from DiffuGTSSlicer.grids import worldFromNode, worldScale
from DiffuGTSSlicer.messages import Failure, failureOf, stageName, timeLeft
from DiffuGTSSlicer.organ_words import organWord, withCapital
from DiffuGTSSlicer.panel_section import ChoiceBox, StartingSection, connectPath, showsErrors
from DiffuGTSSlicer.parameters import PAINTER_FOLDER, PAINTERS, SynthesisParameters
from DiffuGTSSlicer.result_set import belongsToScan
from DiffuGTSSlicer.run import CANCELLED, Run
from DiffuGTSSlicer.scene import SCAN_ROLE, uniqueName
from DiffuGTSSlicer.settings import PAINTER_FOLDER_KEY, setSetting, setting
from DiffuGTSSlicer.worker_client import CANCELLING

FULL = 1000
"""Steps of the progress bar."""
PLACE = "DiffuGTS.Place"
"""Attribute of the markups node that "Place here" moves; the user's own points are never moved."""


class SynthesisSection(StartingSection):
    """One button, Synthesize or Cancel, and the properties of the tumors."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.messageLabel = ui.synthesisMessageLabel
        self._tip = ui.synthesizeButton.toolTip
        self._runToShow: Run | None = None
        for label in (ui.synthesisMessageLabel, ui.synthesisResultLabel):
            label.setTextFormat(qt.Qt.PlainText)
        organs = [("", _("As under Prompts")), *((name, withCapital(organWord(name))) for name in organ_names())]
        sizes = [
            ("mix", _("Mix")), ("tiny", _("Tiny")), ("small", _("Small")), ("medium", _("Medium")),
            ("large", _("Large")),
        ]  # fmt: skip
        painters = [
            ("handcrafted", _("Handcrafted")),
            ("recipe", _("Recipe of SyntheticTumors")),
            (PAINTER_FOLDER, _("Trained, from a folder")),
        ]
        self._organ = ChoiceBox(ui.synthesisOrganComboBox, organs, self._setter("synthesisOrgan"))
        self._size = ChoiceBox(ui.synthesisSizeComboBox, sizes, self._setter("synthesisSize"))
        self._painter = ChoiceBox(ui.painterComboBox, painters, self._setter("painter"))
        ui.painterFolderPathEdit.filters = ctk.ctkPathLineEdit.Dirs
        ui.painterFolderPathEdit.currentPath = setting(PAINTER_FOLDER_KEY)
        connectPath(ui.painterFolderPathEdit, self.onFolder)
        ui.placeHereButton.connect("clicked()", self.onPlaceHere)
        ui.synthesisDiceButton.connect("clicked()", self.onDice)
        ui.synthesizeButton.connect("clicked()", self.onButton)
        ui.beforeAfterButton.connect("clicked()", self.onBeforeAfter)

    def _setter(self, name: str) -> Any:
        def keep(word: str) -> None:
            if self.state is not None:
                setattr(self.state, name, word)

        return keep

    @property
    def isRunning(self) -> bool:
        """Whether tumors are being painted."""
        return self.logic.isRunning and self.logic.run is not None and self.logic.run.isSynthesis

    # Display

    def obstacle(self) -> str:
        """Return why no synthesis can start, or an empty string."""
        state = self.state
        if state is None or state.inputVolume is None:
            return _("Load a healthy scan and choose it under Inputs.")
        if not self._hasOrgan():
            return failureOf("no_organ", _("There is no segment of the organ.")).text()
        # A scene from elsewhere must not choose which files are opened: only names of bundled files are accepted.
        if (state.synthesisOrgan or state.organ) not in organ_names():
            return _("Choose the organ that the segment shows.")
        if state.painter not in (*PAINTERS, PAINTER_FOLDER):
            return _("Choose the painter again.")
        if state.painter == PAINTER_FOLDER and not setting(PAINTER_FOLDER_KEY):
            return _("Choose the folder of the trained painter.")
        return ""

    def _hasOrgan(self) -> bool:
        organ, segmentId = self.state.organSegmentation, self.state.organSegmentId
        return bool(organ and segmentId) and organ.GetSegmentation().GetSegment(segmentId) is not None

    def refresh(self) -> None:
        """Update choices, button, progress and outcome."""
        ui, state, isRunning = self.ui, self.state, self.isRunning
        ui.synthesisCollapsibleButton.enabled = state is not None
        obstacle = "" if isRunning else self.obstacle()
        isCancelling = isRunning and self.logic.client.state == CANCELLING
        isBusy = self.logic.isRunning and not isRunning
        ui.synthesizeButton.setText(_("Canceling…") if isCancelling else _("Cancel") if isRunning else _("Synthesi&ze"))
        ui.synthesizeButton.enabled = not obstacle and not isCancelling and not isBusy
        ui.synthesizeButton.setToolTip(
            obstacle or (_("Another run is in progress: wait until it ends, or cancel it.") if isBusy else self._tip)
        )
        for widget in (ui.synthesisProgressBar, ui.synthesisStageLabel):
            widget.setVisible(isRunning)
        self.showProgress()
        if state is None:
            return
        if self._runToShow is not None and self.panel.mayDraw:  # in another module the views are left alone until then
            run, self._runToShow = self._runToShow, None
            self._show(run)
        self._organ.show(state.synthesisOrgan)
        self._size.show(state.synthesisSize)
        self._painter.show(state.painter)
        ui.synthesisSizeComboBox.enabled = state.synthesisRadiusMm <= 0
        ui.synthesisCountSpinBox.enabled = state.synthesisPlace is None
        ui.placeHereButton.enabled = state.inputVolume is not None
        for widget in (ui.painterFolderLabel, ui.painterFolderPathEdit):
            widget.setVisible(state.painter == PAINTER_FOLDER)
        ui.beforeAfterButton.enabled = self._scanOfPainted() is not None and not self.panel.readerStudy.isReading
        text = self._resultText()
        ui.synthesisResultLabel.setText(text)
        ui.synthesisResultLabel.setVisible(bool(text))

    def showProgress(self) -> None:
        """Update progress bar, stage and time left."""
        if not self.isRunning:
            return
        progress = self.logic.progress
        self.ui.synthesisProgressBar.setValue(int(progress.share * FULL))
        words = [stageName(progress.stage, isSynthesis=True), timeLeft(progress.leftS)]
        self.ui.synthesisStageLabel.setText(", ".join(filter(None, words)))

    def _resultText(self) -> str:
        run = self.logic.run
        if self.isRunning:
            return ""
        if run is not None and run.isSynthesis and run.state == CANCELLED and not run.isAbandoned:
            return _("Canceled.")
        return str(self.state.synthesisOutcome) if self._scanOfPainted() is not None else ""

    def _scanOfPainted(self) -> Any:
        """Return the scan that the painted volume was made from; None if one of the two was removed."""
        painted = None if self.state is None else self.state.painted
        return None if painted is None else painted.GetNodeReference(SCAN_ROLE)

    def showFailure(self, failure: Failure) -> None:
        """Show an error and the next step; errors of weights concern the painter's folder here."""
        if failure.code.startswith("weights"):
            step = _("Choose the folder of a trained painter, or another painter.")
            failure = Failure(failure.code, failure.message, step, failure.detail)
        self.panel.run.log(f"{failure.code}: {failure.message}")
        super().showFailure(failure)

    # Slots

    @showsErrors
    def start(self) -> None:
        """Start a synthesis; does nothing during a run."""
        if self.logic.isRunning or self.state is None or self.obstacle():
            return
        self.panel.run.makeReady()
        more = paintedNodesToCreate(self.state)
        if self.state.painter == PAINTER_FOLDER:
            more["painter"] = setting(PAINTER_FOLDER_KEY)
        parameters = SynthesisParameters.fromNode(self.state, **more)
        self.logic.synthesize(self.state.inputVolume, parameters, waitForCompletion=False)
        self.panel.run.follow()

    @showsErrors
    def onDice(self) -> None:
        """Set another random seed."""
        if self.state is not None:
            self.state.synthesisSeed = random.randrange(1_000_000)  # noqa: S311 no secret

    @showsErrors
    def onFolder(self, path: str) -> None:
        """Use the trained painter of another folder; a path that is not a folder is refused."""
        if path and not Path(path).is_dir():
            raise InputError(
                _("{path} is not a folder.").format(path=path),
                hint=_("choose the folder that holds painter.json."),
                code="painter_folder",
            )
        setSetting(PAINTER_FOLDER_KEY, path)
        self.panel.refresh()

    @showsErrors
    def onPlaceHere(self) -> None:
        """Put the place at the crosshair or slice center; only a point made by this button is moved."""
        logging.info("DiffuGTS: place tumor")
        state = self.state
        node = state.synthesisPlace
        if node is None or node.GetAttribute(PLACE) is None:
            name = _("{scan} tumor place").format(scan=state.inputVolume.GetName())
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", uniqueName(name))
            node.CreateDefaultDisplayNodes()
            node.SetAttribute(PLACE, "1")
        node.RemoveAllControlPoints()
        node.AddControlPointWorld(*slice_views.pointInView())
        state.synthesisPlace = node

    @showsErrors
    def onBeforeAfter(self) -> None:
        """Show the scan beside the painted volume; called only on a click."""
        self.panel.review.stopComparing()
        scan = self._scanOfPainted()
        if scan is not None:
            if self.state.paintedSegmentation is not None:
                display.showSegments(self.state.paintedSegmentation, True)
            slice_views.setLayout("side by side", scan, self.state.painted)
            slice_views.setOverlay(scan)

    # The run

    def onEvent(self, event: dict[str, Any]) -> None:
        """Follow a synthesis; other runs are ignored."""
        name, run = event["event"], self.logic.run
        if run is None or not run.isSynthesis or self.state is None:
            return
        if name == "stage":
            self.showProgress()
        elif name == "warning":
            self.panel.run.log(str(event["message"]))
        elif name == "imported":
            self._storeNode(run, event["kind"])
        elif name == "error":
            failure = run.failure or failureOf(event["code"], event["message"], event.get("hint", ""))
            self.showFailure(failure)
        elif name == "done":
            self.state.synthesisOutcome = "\n".join([outcomeOf(run.result, worldScale(run.scanNode)), *run.notes])
            self._runToShow = run

    def _storeNode(self, run: Run, kind: str) -> None:
        """Store a result node of a synthesis in the parameter node."""
        if kind == "painted":
            self.state.painted = run.nodes[kind]
        else:
            self.state.paintedSegmentation = run.nodes[kind]
            self.state.paintedSegmentId = run.segmentIds[kind]

    def _show(self, run: Run) -> None:
        """Show the painted volume at the largest tumor, beside the scan if the layout is side by side."""
        self.panel.review.stopComparing()
        painted = run.nodes.get("painted")
        if painted is None or not all(slicer.mrmlScene.IsNodePresent(node) for node in (painted, run.scanNode)):
            return
        if slice_views.isCompared():
            slice_views.setLayout("side by side", run.scanNode, painted)
            slice_views.setOverlay(run.scanNode)
        else:
            slice_views.setOverlay(painted)
        tumors = run.result["tumors"]
        if tumors:
            largest = max(tumors, key=lambda tumor: float(tumor["volume_ml"]))
            slice_views.jumpTo((worldFromNode(run.scanNode) @ [*largest["center_ras_mm"], 1.0])[:3])


def outcomeOf(result: Mapping[str, Any], scale: float = 1.0) -> str:
    """Return what was painted and what could not be placed, one line each; `scale` is that of `worldScale`."""
    tumors, skipped = result["tumors"], result["skipped"]
    ml = sum(float(tumor["volume_ml"]) for tumor in tumors) * scale
    if len(tumors) == 1:
        lines = [_("1 tumor painted, {ml} ml.").format(ml=f"{ml:.2f}")]
    elif tumors:
        lines = [_("{count} tumors painted, {ml} ml in total.").format(count=len(tumors), ml=f"{ml:.2f}")]
    else:
        lines = [_("Nothing was painted.")]
    if skipped:
        reasons = "; ".join(dict.fromkeys(skipped))
        lines.append(_("{count} could not be placed: {reasons}.").format(count=len(skipped), reasons=reasons))
        lines.append(_("Choose a smaller size, another place, or another organ segment."))
    return "\n".join(lines)


def paintedNodesToCreate(state: Any) -> dict[str, Any]:
    """Return empty result parameters if a synthesis must create new nodes; nothing if it may overwrite the last ones.

    New nodes are needed for another scan, if the last result is to be kept, and if the painted volume was segmented
    since: that result would no longer match its image.
    """
    scan = None if state.painted is None else state.painted.GetNodeReference(SCAN_ROLE)
    isKept = state.keepPainted or (scan is not None and _hasResult(state.painted, state.paintedSegmentation))
    if scan is not None and belongsToScan(state.painted, state.inputVolume) and not isKept:
        return {}
    return {"painted": None, "paintedSegmentation": None, "paintedSegmentId": ""}


def _hasResult(volumeNode: Any, besides: Any) -> bool:
    """Return whether a volume has a result other than the segmentation of its painted tumors."""
    others = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each is not besides]
    return any(each.GetNodeReference(SCAN_ROLE) is volumeNode for each in others)
