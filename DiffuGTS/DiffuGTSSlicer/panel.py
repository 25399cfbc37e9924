"""The panel: its sections, the parameter node that they show, and what the scene does to both."""

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
from DiffuGTSSlicer.panel_binding import Section
from DiffuGTSSlicer.panel_handoff import HandOffSection
from DiffuGTSSlicer.panel_inputs import InputsSection, PromptsSection, lastOrgan
from DiffuGTSSlicer.panel_reading import ReadingSection
from DiffuGTSSlicer.panel_refine import RefineSection
from DiffuGTSSlicer.panel_review import ReviewSection
from DiffuGTSSlicer.panel_run import RunSection
from DiffuGTSSlicer.panel_setup import SetupSection
from DiffuGTSSlicer.panel_synthesis import SynthesisSection
from DiffuGTSSlicer.parameters import DEFAULT_PRESET, applyOrgan, applyPreset
from DiffuGTSSlicer.requirements import Requirements
from DiffuGTSSlicer.result_set import chooseLatest, clearResult, goBackInState, keepInState, takeUp
from DiffuGTSSlicer.run import Run
from DiffuGTSSlicer.time_point import timePointOf

PARAMETER = "SlicerParameterName"
"""Property of a widget of the `.ui`: which parameter it shows. Slicer's `connectGui` reads it too, and returns no tag."""
BEFORE_WIDGETS = 10.0
"""Priority of an observer that hears of the scene before Slicer's widgets do."""


class Panel(VTKObservationMixin):
    """Composes the sections over one `.ui`; the logic is given to it.

    Attributes:
        isShown: Whether the user is in this module; in another one no view is touched.
    """

    def __init__(self, uiWidget: Any, logic: DiffuGTSLogic) -> None:
        VTKObservationMixin.__init__(self)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.logic = logic
        self.requirements = Requirements()
        self.parameterNode: Any = None
        self._tag: Any = None
        self._bound: dict[str, Any] = {}
        self._followed: tuple[str, str] | None = None
        self._isRefreshing = self.isShown = self._isTakenUpAgain = False
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
        self.reading = ReadingSection(self, uiWidget)
        self.sections = (
            self.setup, self.inputs, self.prompts, self.run, self.review, self.refine, self.handOff, self.batch,
            self.synthesis, self.advanced, self.reading,
        )  # fmt: skip
        logic.onEvent, logic.onLog, logic.onState = self._onEvent, self.run.log, self._onState
        self._shortcuts = [self._shortcut(uiWidget, keys) for keys in ("Ctrl+Return", "Ctrl+Enter")]
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self._onSceneCloses)
        self.addObserver(scene, scene.EndCloseEvent, self._onSceneIsEmpty)
        self.addObserver(scene, scene.StartImportEvent, self._onSceneComes)
        self.addObserver(scene, scene.EndImportEvent, self._onSceneIsThere)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onNodeGoes, priority=BEFORE_WIDGETS)
        self.addObserver(scene, scene.NodeRemovedEvent, self._onNodeIsGone)

    def _shortcut(self, uiWidget: Any, keys: str) -> Any:
        shortcut = qt.QShortcut(qt.QKeySequence(keys), uiWidget)
        shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
        shortcut.connect("activated()", self.run.start)
        return shortcut

    @property
    def mayDraw(self) -> bool:
        """Whether the slice views are the panel's: not in another module, and not while a case is read."""
        return self.isShown and not self.reading.isReading

    def enter(self) -> None:
        """The module is shown: take up the scene's state."""
        self.isShown = True
        self.review.measureAnew()
        self.connectScene()

    def exit(self) -> None:
        """Another module is shown; a run goes on."""
        self.isShown = False
        self.review.stopComparing()

    def cleanup(self) -> None:
        """The module goes away: nothing of it may stay."""
        for section in self.sections:
            section.close()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.cleanup()

    # The scene

    def connectScene(self) -> None:
        """Show the scene's parameter node; a new one gets the organ that was chosen last, a preset and a volume.

        That is the volume that Slicer shows, as the last that was loaded, where it is a scan; else the first by name.
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
        """Show another parameter node, or none."""
        if self.parameterNode is not None:
            self.parameterNode.disconnectGui(self._tag)
            self.removeObserver(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self.parameterNode, self._tag, self._bound, self._followed = node, None, {}, None
        if node is not None:
            bound = {widget.property(PARAMETER): widget for widget in vars(self.ui).values()}
            self._bound = {name: widget for name, widget in bound.items() if name}
            self._tag = node.connectParametersToGui(self._bound)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified)
        self.refresh()

    def _onSceneCloses(self, _caller: Any, _event: Any) -> None:
        self.review.stopComparing()
        self.setParameterNode(None)

    def _onSceneIsEmpty(self, _caller: Any, _event: Any) -> None:
        self.logic.leaveScene()
        for section in self.sections:
            section.forget()
        if self.isShown:
            self.connectScene()

    def _onSceneComes(self, _caller: Any, _event: Any) -> None:
        """Let go of the parameter node: it tells nobody of the nodes that it refers to and that come after it."""
        self._isTakenUpAgain = self.parameterNode is not None
        self._onSceneCloses(_caller, _event)

    def _onSceneIsThere(self, _caller: Any, _event: Any) -> None:
        self.logic.forget()
        if self.isShown or self._isTakenUpAgain:
            self.connectScene()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, _caller: Any, _event: Any, node: Any) -> None:
        """Choose nothing where a node is chosen that is deleted: Slicer's combo boxes would choose its neighbor."""
        state = self.parameterNode
        if state is None:
            return
        names = [name for name in self._bound if getattr(state, name) is node]
        with slicer.util.NodeModify(state):
            for name in names:
                setattr(state, name, None)

    def _onNodeIsGone(self, _caller: Any, _event: Any) -> None:
        """Review nothing any more where the scan is deleted; the scene would take it out of the state without a word."""
        scan = None if self.parameterNode is None else self.parameterNode.resultVolume
        if scan is not None and not slicer.mrmlScene.IsNodePresent(scan):
            self.parameterNode.resultVolume = None

    def _onModified(self, _caller: Any = None, _event: Any = None) -> None:
        if not slicer.mrmlScene.IsImporting():
            self.refresh()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Change many parameters without showing each; whoever holds refreshes afterwards."""
        before, self._isRefreshing = self._isRefreshing, True
        try:
            yield
        finally:
            self._isRefreshing = before

    def refresh(self) -> None:
        """Have every section show the state; what a section changes meanwhile is shown in the same round."""
        if self._isRefreshing:
            return
        self._isRefreshing = True
        try:
            self._followChoice()
            for section in self.sections:
                section.refresh()
        finally:
            self._isRefreshing = False

    def _followChoice(self) -> None:
        """Review the result that the chosen segmentation is of; a scan, or time point, that is chosen brings its newest one.

        During a run the choice is the run's.
        """
        state = self.parameterNode
        if state is None:
            return
        if not self.logic.isRunning:
            if self._followed not in (None, _choiceOf(state)):
                chooseLatest(state)
            if takeUp(state):
                self._changeResult()
        self._followed = _choiceOf(state)

    def _changeResult(self) -> None:
        """Forget what was shown of another result, and show this one's tumor."""
        for section in self.sections:
            section.forget()
        if self.parameterNode.segmentation is not None:
            showSegments(self.parameterNode.segmentation, True)

    # The run

    def _onState(self, _state: str) -> None:
        self.refresh()

    def _onEvent(self, event: dict[str, Any]) -> None:
        run, state = self.logic.run, self.parameterNode
        with self.held():
            isOver = state is not None and run is not None and event["event"] in ENDINGS
            if isOver and run.isUndone and not run.isDropped:  # a scene that has come since is not the run's
                goBackInState(state, run)
                self.review.forget()
            for section in self._listeners(run):
                section.onEvent(event)
        if event["event"] != "stage":
            self.refresh()

    def _listeners(self, run: Run | None) -> tuple[Section, ...]:
        """Return who hears of a run; what is being reviewed is left to the panel's own."""
        if run is not None and self.batch.concerns(run):  # a click on a case takes it into Review
            return (self.setup, self.advanced)
        if run is not None and run.isSynthesis:
            return (self.setup, self.synthesis, self.advanced)
        return self.sections

    def showRun(self, run: Run) -> None:
        """Review another run: its scan, its maps, its findings."""
        state = self.parameterNode
        with self.held():
            clearResult(state)
            state.inputVolume = state.resultVolume = run.scanNode
            for kind, node in run.nodes.items():
                if slicer.mrmlScene.IsNodePresent(node):
                    keepInState(state, run, kind)
            state.outcome = run.outcome
            self._changeResult()
            self._followed = _choiceOf(state)
        self.refresh()

    def showFailure(self, failure: Failure) -> None:
        """Say what went wrong and what to do next, in the panel: no box in the way."""
        logging.error("DiffuGTS: %s: %s", failure.code, failure.message)
        self.run.showFailure(failure)


def _choiceOf(state: Any) -> tuple[str, str]:
    """Return which scan is chosen, by its ID, and its time point."""
    scan = state.inputVolume
    return ("" if scan is None else scan.GetID(), timePointOf(scan))
