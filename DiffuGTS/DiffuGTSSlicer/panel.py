"""The panel: its sections, their parameter node, and the scene events that affect both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from DiffuGTSLib.worker.protocol import ENDINGS
from DiffuGTSSlicer.display import showSegments
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.messages import Failure
from DiffuGTSSlicer.panel_advanced import AdvancedSection
from DiffuGTSSlicer.panel_batch import BatchSection, scansOf
from DiffuGTSSlicer.panel_handoff import HandOffSection
from DiffuGTSSlicer.panel_inputs import InputsSection, PromptsSection, lastOrgan
from DiffuGTSSlicer.panel_reader_study import ReaderStudySection
from DiffuGTSSlicer.panel_refine import RefineSection
from DiffuGTSSlicer.panel_review import ReviewSection
from DiffuGTSSlicer.panel_run import RunSection
from DiffuGTSSlicer.panel_section import Section
from DiffuGTSSlicer.panel_setup import SetupSection
from DiffuGTSSlicer.panel_synthesis import SynthesisSection
from DiffuGTSSlicer.parameters import DEFAULT_PRESET, applyOrgan, applyPreset
from DiffuGTSSlicer.requirements import Requirements
from DiffuGTSSlicer.result_set import (
    clearResult,
    restoreState,
    selectLatestResult,
    storeRunNode,
    syncStateToSegmentation,
)
from DiffuGTSSlicer.run import Run
from DiffuGTSSlicer.time_point import timePointOf

PARAMETER = "SlicerParameterName"
"""Property of a `.ui` widget: the parameter that it shows. Slicer's `connectGui` reads it too, but returns no tag."""
BEFORE_WIDGETS = 10.0
"""Priority of an observer that is called before those of Slicer's widgets."""


class Panel(VTKObservationMixin):
    """Builds the sections on one `.ui` and connects them to the parameter node and the logic.

    Attributes:
        isShown: Whether this module is open; views are changed only then.
    """

    def __init__(self, uiWidget: Any, logic: DiffuGTSLogic) -> None:
        VTKObservationMixin.__init__(self)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = logic
        self.requirements = Requirements()
        self.parameterNode: Any = None
        self._tag: Any = None
        self._bound: dict[str, Any] = {}
        self._lastScan: tuple[str, str] | None = None
        self._isRefreshing = self.isShown = self._reconnectAfterImport = False
        self.setup = SetupSection(self)
        self.inputs = InputsSection(self)
        self.prompts = PromptsSection(self)
        self.run = RunSection(self)
        self.review = ReviewSection(self)
        self.refine = RefineSection(self)
        self.handOff = HandOffSection(self)
        self.batch = BatchSection(self)
        self.synthesis = SynthesisSection(self)
        self.advanced = AdvancedSection(self)
        self.readerStudy = ReaderStudySection(self, uiWidget)
        self.sections = (
            self.setup, self.inputs, self.prompts, self.run, self.review, self.refine, self.handOff, self.batch,
            self.synthesis, self.advanced, self.readerStudy,
        )  # fmt: skip
        logic.onEvent, logic.onLog, logic.onState = self._onEvent, self.run.log, self._onState
        self._shortcuts = [self._shortcut(uiWidget, keys) for keys in ("Ctrl+Return", "Ctrl+Enter")]
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved, priority=BEFORE_WIDGETS)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)

    def _shortcut(self, uiWidget: Any, keys: str) -> Any:
        shortcut = qt.QShortcut(qt.QKeySequence(keys), uiWidget)
        shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
        shortcut.connect("activated()", self.run.start)
        return shortcut

    @property
    def mayDraw(self) -> bool:
        """Whether the panel may change the slice views: not in another module, and not during a reader study."""
        return self.isShown and not self.readerStudy.isReading

    def enter(self) -> None:
        """Called when the module is opened: connect to the parameter node."""
        self.isShown = True
        self.review.measureAnew()
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called when another module is opened; a run continues."""
        self.isShown = False
        self.review.stopComparing()
        self.readerStudy.refresh()

    def cleanup(self) -> None:
        """Called when the module is closed or reloaded: remove every observer, timer and process."""
        for section in self.sections:
            section.close()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.cleanup()

    # The scene

    def initializeParameterNode(self) -> None:
        """Connect to the scene's parameter node; a new one gets the last used organ, the default preset and a volume.

        That is the active volume if it is a scan, otherwise the first scan by name.
        """
        node = self.logic.getParameterNode()
        if not node.preset:
            applyPreset(node, DEFAULT_PRESET)
            applyOrgan(node, lastOrgan())
        if node.inputVolume is None:
            scans = scansOf(slicer.mrmlScene)
            shownId = slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID()
            if scans:
                node.inputVolume = next((scan for scan in scans if scan.GetID() == shownId), scans[0])
        shown = self.parameterNode
        if shown is not None and shown.parameterNode is node.parameterNode:  # a wrapper that is bound already
            self.refresh()
        else:
            self.setParameterNode(node)

    def setParameterNode(self, node: Any) -> None:
        """Connect the GUI to another parameter node, or to none."""
        if self.parameterNode is not None:
            self.parameterNode.disconnectGui(self._tag)
            self.removeObserver(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGUIFromParameterNode)
        self.parameterNode, self._tag, self._bound, self._lastScan = node, None, {}, None
        if node is not None:
            bound = {widget.property(PARAMETER): widget for widget in vars(self.ui).values()}
            self._bound = {name: widget for name, widget in bound.items() if name}
            self._tag = node.connectParametersToGui(self._bound)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.updateGUIFromParameterNode)
        self.refresh()

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        """Disconnect from the parameter node."""
        self.review.stopComparing()
        self.setParameterNode(None)

    def onSceneEndClose(self, _caller: Any, _event: Any) -> None:
        """Reset logic and sections; take a new parameter node if the module is open."""
        self.logic.resetForNewScene()
        for section in self.sections:
            section.reset()
        if self.isShown:
            self.initializeParameterNode()

    def onSceneStartImport(self, _caller: Any, _event: Any) -> None:
        """Disconnect: the parameter node sends no event when the nodes it references are imported after it."""
        self._reconnectAfterImport = self.parameterNode is not None
        self.onSceneStartClose(_caller, _event)

    def onSceneEndImport(self, _caller: Any, _event: Any) -> None:
        """Reconnect to the parameter node that the import may have replaced."""
        self.logic.removeCache()
        if self.isShown or self._reconnectAfterImport:
            self.initializeParameterNode()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _caller: Any, _event: Any, node: Any) -> None:
        """Clear parameters that reference the deleted node: node selectors would select another node instead."""
        state = self.parameterNode
        if state is None:
            return
        names = [name for name in self._bound if getattr(state, name) is node]
        with slicer.util.NodeModify(state):
            for name in names:
                setattr(state, name, None)

    def onNodeRemoved(self, _caller: Any, _event: Any) -> None:
        """End the review of a deleted scan: the scene removes the reference without a ModifiedEvent."""
        scan = None if self.parameterNode is None else self.parameterNode.resultVolume
        if scan is not None and not slicer.mrmlScene.IsNodePresent(scan):
            self.parameterNode.resultVolume = None

    def updateGUIFromParameterNode(self, _caller: Any = None, _event: Any = None) -> None:
        """Update all sections, except while a scene is being imported."""
        if not slicer.mrmlScene.IsImporting():
            self.refresh()

    @contextmanager
    def deferredUpdates(self) -> Iterator[None]:
        """Change several parameters without a GUI update for each; the caller refreshes afterwards."""
        before, self._isRefreshing = self._isRefreshing, True
        try:
            yield
        finally:
            self._isRefreshing = before

    def refresh(self) -> None:
        """Update every section from the parameter node; changes made by a section cause no second update."""
        if self._isRefreshing:
            return
        self._isRefreshing = True
        try:
            self._syncToSelection()
            for section in self.sections:
                section.refresh()
        finally:
            self._isRefreshing = False

    def _syncToSelection(self) -> None:
        """Show the result of the selected segmentation; selecting another scan or time point selects its newest result.

        Nothing is changed during a run.
        """
        state = self.parameterNode
        if state is None:
            return
        if not self.logic.isRunning:
            if self._lastScan not in (None, _selectedScan(state)):
                selectLatestResult(state)
            if syncStateToSegmentation(state):
                self._onResultChanged()
        self._lastScan = _selectedScan(state)

    def _onResultChanged(self) -> None:
        """Reset the sections for another result, and show its tumor segment."""
        for section in self.sections:
            section.reset()
        if self.parameterNode.segmentation is not None:
            showSegments(self.parameterNode.segmentation, True)

    # The run

    def _onState(self, _state: str) -> None:
        self.refresh()

    def _onEvent(self, event: dict[str, Any]) -> None:
        run, state = self.logic.run, self.parameterNode
        with self.deferredUpdates():
            isOver = state is not None and run is not None and event["event"] in ENDINGS
            if isOver and run.isUndone and not run.isAbandoned:  # a scene that has come since is not the run's
                restoreState(state, run)
                self.review.reset()
            for section in self._listeners(run):
                section.onEvent(event)
        if event["event"] != "stage":
            self.refresh()

    def _listeners(self, run: Run | None) -> tuple[Section, ...]:
        """Return the sections that follow a run; runs of a batch and syntheses leave the review alone."""
        if run is not None and self.batch.concerns(run):  # a click on its row opens it in Review
            return (self.setup, self.advanced)
        if run is not None and run.isSynthesis:
            return (self.setup, self.synthesis, self.advanced)
        return self.sections

    def showRun(self, run: Run) -> None:
        """Show another run's scan, maps and findings under Review."""
        state = self.parameterNode
        with self.deferredUpdates():
            clearResult(state)
            state.inputVolume = state.resultVolume = run.scanNode
            for kind, node in run.nodes.items():
                if slicer.mrmlScene.IsNodePresent(node):
                    storeRunNode(state, run, kind)
            state.outcome = run.outcome
            self._onResultChanged()
            self._lastScan = _selectedScan(state)
        self.refresh()

    def showFailure(self, failure: Failure) -> None:
        """Show an error and the next step in the panel instead of a message box."""
        logging.error("DiffuGTS: %s: %s", failure.code, failure.message)
        self.run.showFailure(failure)


def _selectedScan(state: Any) -> tuple[str, str]:
    """Return the ID of the selected scan, and its time point."""
    scan = state.inputVolume
    return ("" if scan is None else scan.GetID(), timePointOf(scan))
