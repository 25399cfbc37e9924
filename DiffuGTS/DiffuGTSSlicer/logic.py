"""The module logic: nodes and prompts in, nodes out. Scriptable, without a widget; owns the worker and the current run.

logic = DiffuGTSLogic()
run = logic.process(scanNode, RunParameters(organ="lung"))
run.nodes["segmentation"]
logic.cleanup()

The worker keeps the model loaded for the next run of the same logic. It ends with `cleanup`, or with the logic itself.
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
from DiffuGTSSlicer.batch import Batch, BatchItem
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
    """Process Slicer's pending events."""
    slicer.app.processEvents()
    time.sleep(0.005)


class DiffuGTSLogic(ScriptedLoadableModuleLogic, VTKObservationMixin):
    """Starts, monitors and cancels runs.

    Attributes:
        run: The current run, or the last one.
        batch: The current batch, or the last one.
        progress: Progress of the current run.
        onEvent: Called with every event of the worker, and {"event": "imported", "kind", "node"} for each node.
        onLog: Called with every line of the worker's output that is no event.
        onState: Called with the worker's state.
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
        """Return the parameter node, wrapped."""
        return DiffuGTSParameterNode(super().getParameterNode())

    @property
    def client(self) -> WorkerClient:
        """The worker's client; created at first use."""
        if self._client is None:
            self._client = WorkerClient()
            self._client.listenWeakly(self._onWorkerEvent, self._onWorkerLog, self._onWorkerState)
            # Qt keeps a client for good; a logic of one line in a script must leave no worker behind.
            weakref.finalize(self, self._client.close).atexit = False
        return self._client

    def _onWorkerLog(self, line: str) -> None:
        self.onLog(line)

    def _onWorkerState(self, state: str) -> None:
        self.onState(state)

    @property
    def isRunning(self) -> bool:
        """Whether a run or a batch is in progress, including one that is being cancelled."""
        return self._isRunUnderWay or (self.batch is not None and not self.batch.isOver)

    @property
    def _isRunUnderWay(self) -> bool:
        return self.run is not None and not self.run.isOver

    def process(
        self, scanNode: Any, parameters: RunParameters, waitForCompletion: bool = True, onEvent: Listener | None = None
    ) -> Run:
        """Segment a scan: detect abnormal regions, repaint them as healthy, and outline what changed.

        Args:
            scanNode: Scalar volume.
            parameters: Prompts and settings.
            waitForCompletion: Return when the run is over, processing Slicer's events meanwhile; otherwise at once.
            onEvent: Called with every event of this run.

        Raises:
            DiffuGTSError: For errors found before the worker starts: prompts, settings, geometry, a run in progress.
                Later errors are in `Run.failure`.
        """
        self._requireIdle()
        return self._startRun(scanNode, parameters, False, waitForCompletion, onEvent)

    def refine(
        self, scanNode: Any, parameters: RunParameters, waitForCompletion: bool = True, onEvent: Listener | None = None
    ) -> Run:
        """Run repainting and refinement again, with `parameters.candidate` as the candidate region.

        The attention map of the last run is reused if scan, prompts and model are the same.

        Raises:
            DiffuGTSError: As `process`; and code "empty_candidate" without a candidate.
        """
        self._requireIdle()
        if parameters.candidate is None:
            raise InputError(
                _("There is no candidate region to refine."), hint=_("segment first."), code="empty_candidate"
            )
        return self._startRun(scanNode, parameters, True, waitForCompletion, onEvent)

    def synthesize(
        self,
        scanNode: Any,
        parameters: SynthesisParameters,
        waitForCompletion: bool = True,
        onEvent: Listener | None = None,
    ) -> Run:
        """Paint synthetic tumors into a healthy organ: a new volume beside the scan, and a segment of the tumors.

        Raises:
            DiffuGTSError: As `process`; and code "no_organ" without a segment of the organ.
        """
        self._requireIdle()
        return self._startRun(scanNode, parameters, False, waitForCompletion, onEvent)

    def startBatch(
        self,
        scans: Sequence[Any],
        parameters: RunParameters,
        onItem: Callable[[BatchItem], None] | None = None,
        onDone: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Segment many scans, one after the other, and return at once. Every scan gets its own result nodes.

        Args:
            scans: Scalar volumes, or files that are loaded when it is their turn.
            parameters: Used for all of them; an organ segment applies to scans of its own patient only.
            onItem: Called with each item whose status changes.
            onDone: Called with the batch when all items are over.

        Raises:
            DiffuGTSError: For errors that concern all of them: prompts, settings, no scan, another run in progress.
        """
        self._requireIdle()
        parameters.job()
        begin = functools.partial(self._startRun, isRefinement=False, wait=False, isWatched=False)
        self.batch = Batch(begin, self._cancelRun, scans, parameters, onItem, onDone)
        self.batch.start()
        return self.batch

    def processMany(
        self, scans: Sequence[Any], parameters: RunParameters, onItem: Callable[[BatchItem], None] | None = None
    ) -> Batch:
        """Segment many scans and return when all are over, processing Slicer's events; otherwise as `startBatch`."""
        batch = self.startBatch(scans, parameters, onItem)
        while not batch.isOver:
            handleEvents()
        return batch

    def cancel(self) -> None:
        """Cancel the current run at its next step, and its batch.

        An earlier result that was overwritten is restored; without one, what was imported stays, marked as partial.
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
            self._queueEnd(run, {"event": "cancelled"})

    def release(self) -> None:
        """Have the worker unload its model, which frees its memory and the GPU's."""
        if self._client is not None:
            self._client.release()

    def cleanup(self) -> None:
        """End the worker and remove all temporary files; called when the module is closed or reloaded."""
        self.onEvent, self.onLog, self.onState = (lambda x: None,) * 3
        if self.batch is not None:
            self.batch.cancel()
        self._steps.clear()
        if self._client is not None:
            self._client.close()
        if self.run is not None and not self.run.isOver:
            if self.run.replaces:
                self.run.undo()
            self.run.isAbandoned = True
            self.run.removeFolder()
            self._finishRun(self.run, {"event": "cancelled"})
        self.removeObservers()
        self.removeCache()

    def removeCache(self) -> None:
        """Remove the files kept for the next refinement."""
        self._cacheKey = None
        self._removeSession()
        self._session = None

    def resetForNewScene(self) -> None:
        """Forget the closed scene: the cache for refinements, the batch, and the run if it is over."""
        self.removeCache()
        if self.batch is not None:
            self.batch.cancel()
            self.batch = None
        if not self._isRunUnderWay:
            self.run = None

    # Starting a run

    def _requireIdle(self) -> None:
        """Refuse a run while another one is in progress.

        Raises:
            WorkerError: Code "busy".
        """
        if self.isRunning:
            raise WorkerError(_("A run is under way."), hint=_("wait for its end, or cancel it."), code="busy")

    def _startRun(
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
        notes = requireOwnRegions(scanNode, parameters.organSegmentation, getattr(parameters, "roi", None), isWatched)
        self.run = run = Run(scanNode, parameters, isRefinement, onEvent)
        run.notes += notes
        stages = protocol.SYNTHESIS_STAGES if run.isSynthesis else protocol.JOB_STAGES
        self.progress.begin(stages, skip=("aova",) if isRefinement else ())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
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
        """Process Slicer's events until a run is over."""
        while not run.isOver:
            handleEvents()

    def _handOver(self, run: Run) -> None:
        """Give the worker its job: from here on the run ends when the worker says so."""
        run.isHandedOver = True
        self.client.run(run.folder)

    def _failExport(self, run: Run, error: Exception) -> None:
        run.failure = _failure(error, _("The scan cannot be handed to the worker"))
        self._queueEnd(run, {"event": "error"})

    # Following a run

    def _onWorkerEvent(self, event: dict[str, Any]) -> None:
        """Handle an event of the worker; artifacts are imported in the order of the events, and the end comes last."""
        run, name = self.run, event["event"]
        if run is None or run.isOver:
            self.onEvent(event)
        elif name in protocol.ENDINGS:
            self._queueEnd(run, event)
        else:
            if name == "stage":
                self.progress.update(str(event["stage"]), float(event["share"]))
            elif name == "artifact":
                self._import(run, str(event["kind"]), run.folder / str(event["path"]))
            self._emit(run, event)

    def _emit(self, run: Run, event: dict[str, Any]) -> None:
        run.onEvent(event)
        self.onEvent(event)

    def _import(self, run: Run, kind: str, path: Path) -> None:
        def emit(_none: None) -> None:
            if kind in run.nodes:
                self._emit(run, {"event": "imported", "kind": kind, "node": run.nodes[kind]})

        def fail(error: Exception) -> None:
            run.failure = _failure(error, _("The file '{kind}' of the worker cannot be read").format(kind=kind))
            self.client.cancel()

        wanted = lambda: not run.isAbandoned and run.failure is None  # noqa: E731
        self._steps.add(importArtifact.steps(run, kind, path), onEnd=emit, onError=fail, isWanted=wanted)

    def _queueEnd(self, run: Run, event: dict[str, Any]) -> None:
        """Complete or undo a run, remove its files and finish it, once everything queued before is imported."""

        def fail(error: Exception) -> None:
            run.failure = run.failure or _failure(error, _("The run cannot be brought to its end"))
            self._finishRun(run, event)

        self._steps.add(self._completeOrUndo(run, event), onEnd=lambda _none: self._finishRun(run, event), onError=fail)

    def _completeOrUndo(self, run: Run, event: dict[str, Any]) -> Work[None]:
        isDone = event["event"] == "done" and run.failure is None and not run.isAbandoned
        if isDone:
            try:
                self._keepCache(run)
                run.result = {key: value for key, value in event.items() if key != "event"}
                completeResult(run)
                run.undoActions.clear()  # it holds what was written over
            except Exception as error:  # noqa: BLE001 - an earlier result must not stay written over by half of this
                run.failure = _failure(error, _("The run cannot be brought to its end"))
                isDone = False
        if not isDone and (run.replaces or run.isAbandoned):  # of a scan that is gone, partial results are of no use
            run.undo()
        yield from inBackground(run.removeFolder)
        if run.folder.exists():
            self._onWorkerLog(_("The files of this run are kept in {folder}").format(folder=run.folder))

    def _finishRun(self, run: Run, event: dict[str, Any]) -> None:
        """Set the final state of a run and emit its last event."""
        if run.isOver:
            return
        self.removeObservers(self.onSceneStartClose)
        self.removeObservers(self.onNodeAboutToBeRemoved)
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
        self._emit(run, event)

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        """Cancel batch and run: their scans go with the scene."""
        if self.batch is not None:
            self.batch.cancel()
        self._abandonRun()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, _caller: Any, _event: Any, node: Any) -> None:
        """Cancel the run whose scan is deleted."""
        if self.run is not None and node is self.run.scanNode:
            self._abandonRun()

    def _abandonRun(self) -> None:
        """Cancel the run and import nothing more of it."""
        if self.run is not None and not self.run.isOver:
            self.run.isAbandoned = True
            self._cancelRun()
        self.removeCache()

    # Cache for the next refinement

    def _cacheFile(self) -> Path | None:
        path = None if self._session is None else self._session / protocol.CACHE_FILE
        return path if path is not None and path.exists() else None

    def _keepCache(self, run: Run) -> None:
        """Move the worker's cache out of the job folder, which is removed; only the last one is kept.

        If it cannot be kept, a refinement computes the attention map again.
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
    """Refuse result segmentations that no labelmap can be written into; the candidate of a refinement is only read.

    Raises:
        GeometryError, InputError: As `requireWritable`.
    """
    for kind, (name, _segmentId) in MASKS.items():
        node = getattr(parameters, name, None)
        if node is not None and not (kind == "coarse_mask" and isRefinement):
            requireWritable(node)


def _failure(error: Exception, words: str) -> Failure:
    """Log an error of a step with its traceback and return it as a failure."""
    logging.error("DiffuGTS: %s", words, exc_info=error)
    if not isinstance(error, DiffuGTSError):
        error = WorkerError(f"{words}: {error}")
    return failureOfError(error)
