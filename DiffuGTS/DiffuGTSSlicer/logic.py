"""Nodes and sentences in, nodes out: scriptable, without a widget; owns the worker and the one run under way.

logic = DiffuGTSLogic()
run = logic.process(scanNode, RunParameters(organ="lung"))
run.nodes["segmentation"]
logic.cleanup()

The worker stays warm for the next run of the same logic, and ends with `cleanup` or with the logic itself.
"""

from __future__ import annotations

import functools
import logging
import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic
from slicer.util import VTKObservationMixin

from DiffuGTSLib.errors import DiffuGTSError, InputError, WorkerError
from DiffuGTSLib.worker import protocol
from DiffuGTSSlicer.batch import Batch, Case
from DiffuGTSSlicer.grids import requireWritable, volumeGeometry
from DiffuGTSSlicer.job_export import exportJob
from DiffuGTSSlicer.messages import Failure, failureOf, failureOfError
from DiffuGTSSlicer.parameters import DiffuGTSParameterNode, RunParameters, SynthesisParameters
from DiffuGTSSlicer.patients import requireOwnRegions
from DiffuGTSSlicer.result_import import importArtifact
from DiffuGTSSlicer.result_set import completeResult
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED, MASKS, Run, newFolder
from DiffuGTSSlicer.run_progress import RunProgress
from DiffuGTSSlicer.steps import StepQueue, Work, inBackground
from DiffuGTSSlicer.worker_client import WorkerClient

Listener = Callable[[dict[str, Any]], None]


def handleEvents() -> None:
    """Let Slicer work for a moment."""
    slicer.app.processEvents()
    time.sleep(0.005)


class DiffuGTSLogic(ScriptedLoadableModuleLogic, VTKObservationMixin):
    """Starts, follows and cancels runs.

    Attributes:
        run: The last run, or the one under way.
        batch: The last batch, or the one under way.
        progress: How far it is.
        onEvent: Told every event of the worker, and {"event": "imported", "kind", "node"} when a node is there.
        onLog: Told every line of the worker's that is no event.
        onState: Told the worker's state.
    """

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.run: Run | None = None
        self.batch: Batch | None = None
        self.progress = RunProgress()
        self.onEvent: Listener = lambda event: None
        self.onLog: Callable[[str], None] = lambda line: None
        self.onState: Callable[[str], None] = lambda state: None
        self._client: WorkerClient | None = None
        self._steps = StepQueue()
        self._session: Path | None = None
        self._removeSession: Callable[[], Any] = lambda: None
        self._cacheKey: tuple[Any, ...] | None = None

    def getParameterNode(self) -> DiffuGTSParameterNode:
        """Return the panel's state in the scene."""
        return DiffuGTSParameterNode(super().getParameterNode())

    @property
    def client(self) -> WorkerClient:
        """The worker's client; made when it is first asked for."""
        if self._client is None:
            self._client = WorkerClient()
            self._client.tellWeakly(self._takeEvent, self._tellLine, self._tellState)
            # Qt keeps a client for good; a logic of one line in a script must leave no worker behind.
            weakref.finalize(self, self._client.close).atexit = False
        return self._client

    def _tellLine(self, line: str) -> None:
        self.onLog(line)

    def _tellState(self, state: str) -> None:
        self.onState(state)

    @property
    def isRunning(self) -> bool:
        """Whether a run or a batch is under way; one that is being cancelled still is."""
        return self._isRunUnderWay or (self.batch is not None and not self.batch.isOver)

    @property
    def _isRunUnderWay(self) -> bool:
        return self.run is not None and not self.run.isOver

    def process(
        self, scanNode: Any, parameters: RunParameters, waitForCompletion: bool = True, onEvent: Listener | None = None
    ) -> Run:
        """Find, repaint and outline what looks abnormal.

        Args:
            scanNode: Scalar volume.
            parameters: What to look for, and how.
            waitForCompletion: Return when it is over, handling Slicer's events meanwhile; else at once.
            onEvent: Told every event of this run.

        Raises:
            DiffuGTSError: What can be refused before the worker starts: prompts, settings, geometry, a run under way.
                What goes wrong later is `Run.failure`.
        """
        self._requireIdle()
        return self._begin(scanNode, parameters, False, waitForCompletion, onEvent)

    def refine(
        self, scanNode: Any, parameters: RunParameters, waitForCompletion: bool = True, onEvent: Listener | None = None
    ) -> Run:
        """Take the candidates of `parameters.candidate` as they stand; only repainting and refinement run again.

        What the last run has found out about the same scan and prompts is re-used.

        Raises:
            DiffuGTSError: As `process`; and code "empty_candidate" without a candidate.
        """
        self._requireIdle()
        if parameters.candidate is None:
            raise InputError(
                _("There is no candidate region to refine."), hint=_("segment first."), code="empty_candidate"
            )
        return self._begin(scanNode, parameters, True, waitForCompletion, onEvent)

    def synthesize(
        self,
        scanNode: Any,
        parameters: SynthesisParameters,
        waitForCompletion: bool = True,
        onEvent: Listener | None = None,
    ) -> Run:
        """Paint tumors into a healthy organ: a new volume beside the scan, and a segment of what was painted.

        Raises:
            DiffuGTSError: As `process`; and code "no_organ" without a segment of the organ.
        """
        self._requireIdle()
        return self._begin(scanNode, parameters, False, waitForCompletion, onEvent)

    def startBatch(
        self,
        scans: Sequence[Any],
        parameters: RunParameters,
        onCase: Callable[[Case], None] | None = None,
        onDone: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Segment many scans, one after the other, and return at once; every scan gets result nodes of its own.

        Args:
            scans: Scalar volumes, or files that are loaded when their turn comes.
            parameters: What to look for, in all of them; an organ segment holds for scans of its own patient only.
            onCase: Told each case whose status changes.
            onDone: Told the batch when all is over.

        Raises:
            DiffuGTSError: What can be refused for all of them: prompts, settings, no scan, a run under way.
        """
        self._requireIdle()
        parameters.job()
        begin = functools.partial(self._begin, isRefinement=False, wait=False, isWatched=False)
        self.batch = Batch(begin, self._cancelRun, scans, parameters, onCase, onDone)
        self.batch.start()
        return self.batch

    def processMany(
        self, scans: Sequence[Any], parameters: RunParameters, onCase: Callable[[Case], None] | None = None
    ) -> Batch:
        """Segment many scans and return when all are over, handling Slicer's events meanwhile; else as `startBatch`."""
        batch = self.startBatch(scans, parameters, onCase)
        while not batch.isOver:
            handleEvents()
        return batch

    def cancel(self) -> None:
        """Stop the run under way at its next step, and its batch.

        What it wrote over comes back; where there was no earlier result, what was imported stays, marked as partial.
        """
        if self.batch is not None and not self.batch.isOver:
            self.batch.cancel()
        else:
            self._cancelRun()

    def _cancelRun(self) -> None:
        run = self.run
        if run is None or run.isOver:
            return
        logging.info("DiffuGTS: canceling")
        if self.client.isBusy:
            self.client.cancel()
        elif not run.isHandedOver and not run.isStopped:
            run.isStopped = True
            self._end(run, {"event": "cancelled"})

    def release(self) -> None:
        """Have the worker forget its model, so that its memory and the graphics card's are free."""
        if self._client is not None:
            self._client.release()

    def cleanup(self) -> None:
        """End the worker and remove every file; call it when the module goes away."""
        self.onEvent, self.onLog, self.onState = (lambda x: None,) * 3
        if self.batch is not None:
            self.batch.cancel()
        self._steps.clear()
        if self._client is not None:
            self._client.close()
        if self.run is not None and not self.run.isOver:
            if self.run.replaces:
                self.run.goBack()
            self.run.isDropped = True
            self.run.removeFolder()
            self._settle(self.run, {"event": "cancelled"})
        self.removeObservers()
        self.forget()

    def forget(self) -> None:
        """Remove what was kept for a refinement."""
        self._cacheKey = None
        self._removeSession()
        self._session = None

    def leaveScene(self) -> None:
        """Forget what was of a scene that is closed: what a refinement re-uses, the batch, and the run where it is over."""
        self.forget()
        if self.batch is not None:
            self.batch.cancel()
            self.batch = None
        if not self._isRunUnderWay:
            self.run = None

    # A run's beginning

    def _requireIdle(self) -> None:
        """Refuse a second run beside the first.

        Raises:
            WorkerError: Code "busy".
        """
        if self.isRunning:
            raise WorkerError(_("A run is under way."), hint=_("wait for its end, or cancel it."), code="busy")

    def _begin(
        self,
        scanNode: Any,
        parameters: RunParameters | SynthesisParameters,
        isRefinement: bool = False,
        wait: bool = False,
        onEvent: Listener | None = None,
        isWatched: bool = True,
    ) -> Run:
        parameters.job()  # refuses before anything is written
        volumeGeometry(scanNode)
        _requireWritable(parameters, isRefinement)
        told = requireOwnRegions(scanNode, parameters.organSegmentation, getattr(parameters, "roi", None), isWatched)
        self.run = run = Run(scanNode, parameters, isRefinement, onEvent)
        run.notes += told
        stages = protocol.SYNTHESIS_STAGES if run.isSynthesis else protocol.STAGES
        self.progress.begin(stages, skip=("aova",) if isRefinement else ())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._onSceneCloses)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self._onNodeGoes)
        doing = "painting into" if run.isSynthesis else "refining" if isRefinement else "segmenting"
        logging.info("DiffuGTS: %s %s", doing, scanNode.GetName())
        cache = self._cacheFile() if isRefinement and self._cacheKey == run.cacheKey else None
        self._steps.add(
            exportJob.steps(run, cache),
            onEnd=lambda _none: self._handOver(run),
            onError=lambda error: self._failExport(run, error),
            isWanted=lambda: not run.isStopped,
        )
        if wait:
            self.wait(run)
        return run

    @staticmethod
    def wait(run: Run) -> None:
        """Handle Slicer's events until a run is over."""
        while not run.isOver:
            handleEvents()

    def _handOver(self, run: Run) -> None:
        """Give the worker its job: from here on it is the worker's end that ends the run."""
        run.isHandedOver = True
        self.client.run(run.folder)

    def _failExport(self, run: Run, error: Exception) -> None:
        run.failure = _failure(error, _("The scan cannot be handed to the worker"))
        self._end(run, {"event": "error"})

    # A run's events

    def _takeEvent(self, event: dict[str, Any]) -> None:
        """Follow the worker; what it has written is imported in the order in which it was told, and so is the end."""
        run, name = self.run, event["event"]
        if run is None or run.isOver:
            self.onEvent(event)
        elif name in protocol.ENDINGS:
            self._end(run, event)
        else:
            if name == "stage":
                self.progress.update(str(event["stage"]), float(event["share"]))
            elif name == "artifact":
                self._import(run, str(event["kind"]), run.folder / str(event["path"]))
            self._tell(run, event)

    def _tell(self, run: Run, event: dict[str, Any]) -> None:
        run.onEvent(event)
        self.onEvent(event)

    def _import(self, run: Run, kind: str, path: Path) -> None:
        def tell(_none: None) -> None:
            if kind in run.nodes:
                self._tell(run, {"event": "imported", "kind": kind, "node": run.nodes[kind]})

        def giveUp(error: Exception) -> None:
            run.failure = _failure(error, _("The file '{kind}' of the worker cannot be read").format(kind=kind))
            self.client.cancel()

        wanted = lambda: not run.isDropped and run.failure is None  # noqa: E731
        self._steps.add(importArtifact.steps(run, kind, path), onEnd=tell, onError=giveUp, isWanted=wanted)

    def _end(self, run: Run, event: dict[str, Any]) -> None:
        """Tidy up behind a run and settle its fate, after all that is still to be imported."""

        def fail(error: Exception) -> None:
            run.failure = run.failure or _failure(error, _("The run cannot be brought to its end"))
            self._settle(run, event)

        self._steps.add(self._tidyUp(run, event), onEnd=lambda _none: self._settle(run, event), onError=fail)

    def _tidyUp(self, run: Run, event: dict[str, Any]) -> Work[None]:
        isDone = event["event"] == "done" and run.failure is None and not run.isDropped
        if isDone:
            try:
                self._keepCache(run)
                run.result = {key: value for key, value in event.items() if key != "event"}
                completeResult(run)
                run.putBack.clear()  # it holds what was written over
            except Exception as error:  # noqa: BLE001 - an earlier result must not stay written over by half of this
                run.failure = _failure(error, _("The run cannot be brought to its end"))
                isDone = False
        if not isDone and (run.replaces or run.isDropped):  # where the scan is gone, a part of its result is of no use
            run.goBack()
        yield from inBackground(run.removeFolder)
        if run.folder.exists():
            self._tellLine(_("The files of this run are kept in {folder}").format(folder=run.folder))

    def _settle(self, run: Run, event: dict[str, Any]) -> None:
        """Say how a run has ended, in its state and to whoever listens."""
        if run.isOver:
            return
        self.removeObservers(self._onSceneCloses)
        self.removeObservers(self._onNodeGoes)
        if run.failure is not None:
            event = {"event": "error", "code": run.failure.code, "message": run.failure.message, "hint": ""}
        elif event["event"] == "error":
            run.failure = failureOf(
                str(event["code"]), str(event["message"]), str(event.get("hint", "")), str(event.get("detail", ""))
            )
        elif event["event"] == "done":
            self.progress.learn(run.result.get("timings_s", {}))
        run.state = {"done": DONE, "error": FAILED, "cancelled": CANCELLED}[event["event"]]
        run.markNodes()
        logging.info("DiffuGTS: %s", run.state)
        self._tell(run, event)

    # A run's scan or scene goes away

    def _onSceneCloses(self, _caller: Any, _event: Any) -> None:
        if self.batch is not None:
            self.batch.cancel()
        self._drop()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, _caller: Any, _event: Any, node: Any) -> None:
        if self.run is not None and node is self.run.scanNode:
            self._drop()

    def _drop(self) -> None:
        """Cancel, and import nothing more."""
        if self.run is not None and not self.run.isOver:
            self.run.isDropped = True
            self._cancelRun()
        self.forget()

    # What a refinement re-uses

    def _cacheFile(self) -> Path | None:
        path = None if self._session is None else self._session / protocol.CACHE_FILE
        return path if path is not None and path.exists() else None

    def _keepCache(self, run: Run) -> None:
        """Move the worker's cache out of the job folder, which goes away; the last one is kept.

        One that cannot be kept costs a refinement another look at the scan, and no more.
        """
        written = run.folder / protocol.CACHE_FILE
        if not written.exists():
            return
        self._cacheKey = None
        try:
            if self._session is None or not self._session.is_dir():  # what cleans temporary folders may have taken it
                self._session = newFolder()
                self._removeSession = weakref.finalize(self, shutil.rmtree, self._session, ignore_errors=True)
            shutil.move(str(written), str(self._session / protocol.CACHE_FILE))
        except OSError as error:
            logging.warning("DiffuGTS: nothing is kept for a refinement: %s", error)
            return
        self._cacheKey = run.cacheKey


def _requireWritable(parameters: RunParameters | SynthesisParameters, isRefinement: bool) -> None:
    """Refuse result nodes that no mask can be written into; the candidate of a refinement is only read.

    Raises:
        GeometryError, InputError: As `requireWritable`.
    """
    for kind, (name, _segmentId) in MASKS.items():
        node = getattr(parameters, name, None)
        if node is not None and not (kind == "coarse_mask" and isRefinement):
            requireWritable(node)


def _failure(error: Exception, words: str) -> Failure:
    """Return what an error in a step means, with its trace in Slicer's log."""
    logging.error("DiffuGTS: %s", words, exc_info=error)
    if not isinstance(error, DiffuGTSError):
        error = WorkerError(f"{words}: {error}")
    return failureOfError(error)
