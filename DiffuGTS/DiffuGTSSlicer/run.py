"""One run: its wish, its job folder, the nodes that it made so far, and how it ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import StorageError
from DiffuGTSSlicer.grids import scanState
from DiffuGTSSlicer.messages import Failure
from DiffuGTSSlicer.parameters import RunParameters, SynthesisParameters
from DiffuGTSSlicer.scene import SCAN_ROLE, freeSegmentName, isUserOwned, uniqueName
from DiffuGTSSlicer.time_point import nameWithTime, timePointOf

VOLUMES = {"aova": "aova", "pseudo_healthy": "pseudoHealthy", "residual": "residual", "painted": "painted"}
"""Artifact → the run parameter that holds its node."""
MASKS = {
    "coarse_mask": ("candidate", "candidateSegmentId"),
    "segmentation": ("segmentation", "tumorSegmentId"),
    "painted_tumor": ("paintedSegmentation", "paintedSegmentId"),
}
"""Artifact → the run parameters that hold its node and its segment."""

ACTIVE, DONE, FAILED, CANCELLED = "active", "done", "failed", "cancelled"

PARTIAL = "DiffuGTS.Partial"
"""Attribute of the nodes of a run that was cancelled or failed; in the user's own segmentation, tag of the segment."""


class Run:
    """What `DiffuGTSLogic.process` and `DiffuGTSLogic.synthesize` return; complete when `isOver`.

    Attributes:
        scanNode: The scan.
        parameters: What was asked.
        isRefinement: Whether the user's candidates were taken instead of detecting some.
        state: `ACTIVE`, then `DONE`, `FAILED` or `CANCELLED`.
        nodes: Artifact → node, as they appear: "aova", "coarse_mask", "pseudo_healthy", "residual", "segmentation"; of a
            synthesis "painted" and "painted_tumor".
        candidatePeak: Highest attention in a candidate; None before there is one.
        segmentIds: "coarse_mask" and "segmentation", or "painted_tumor" → segment.
        result: The worker's `done` event: outcome, anomaly_score, modality, timings_s and findings; of a synthesis
            tumors and skipped instead of score and findings.
        record: The run's record, as it is kept in the scene.
        failure: Why it failed.
        scanName: Of the scan as it was at the beginning, with its time point where it is one of a sequence.
        timePoint: That time point, which a browser may leave while the run goes on; see `timePointOf`.
        scanState: The scan's voxels and place as they were at the beginning, as of `grids.scanState`.
        cacheKey: What a detection depends on, as it was at the beginning.
        isHandedOver: Whether the worker has the job, or had it.
        isStopped: It was cancelled before that.
        isAbandoned: Its scan or its scene is gone; nothing is imported any more, and what was goes.
        replaces: It writes over results of an earlier run on the same scan, which come back if this one is cut short.
        isUndone: It was cut short; what it had brought is gone, and what it had written over is back.
        undoActions: What undoes its writing, in the order in which it was written.
        notes: What it did that the user has to know.
    """

    def __init__(
        self,
        scanNode: Any,
        parameters: RunParameters | SynthesisParameters,
        isRefinement: bool = False,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.scanNode = scanNode
        self.parameters = parameters
        self.isRefinement = isRefinement
        self.onEvent = onEvent or (lambda event: None)
        self.scanName, self.timePoint = nameWithTime(scanNode), timePointOf(scanNode)
        self.state = ACTIVE
        self.nodes: dict[str, Any] = {}
        self.candidatePeak: float | None = None
        self.segmentIds: dict[str, str] = {}
        self.result: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.scanState = scanState(scanNode)
        self.cacheKey = (*self.scanState, *parameters.detectionKey())
        self.isHandedOver = self.isStopped = self.isAbandoned = self.isUndone = False
        self.replaces = self._findsResults()
        self.undoActions: list[Callable[[], None]] = []
        self.notes: list[str] = []
        self.folder = newFolder()

    @property
    def isOver(self) -> bool:
        """Whether nothing more will come."""
        return self.state != ACTIVE

    @property
    def isSynthesis(self) -> bool:
        """Whether tumors are painted instead of looked for."""
        return isinstance(self.parameters, SynthesisParameters)

    @property
    def outcome(self) -> str:
        """One sentence: what was found, or why nothing was."""
        return str(self.result.get("outcome", ""))

    def _findsResults(self) -> bool:
        # The candidate does not count: who draws one has no result yet.
        names = [*VOLUMES.values(), *(name for kind, (name, _segmentId) in MASKS.items() if kind != "coarse_mask")]
        nodes = [getattr(self.parameters, name, None) for name in names]
        return any(node is not None and node.GetNodeReference(SCAN_ROLE) is self.scanNode for node in nodes)

    def undo(self) -> None:
        """Have everything as it was before: a mixture of two runs is no result."""
        for undoAction in reversed(self.undoActions):
            undoAction()
        self.undoActions.clear()
        self.nodes.clear()
        self.segmentIds.clear()
        self.isUndone = True

    def markNodes(self) -> None:
        """Mark the nodes of a run that did not come to its end as partial, in their names too; of one that did, as whole.

        Of a segmentation of the user's own, only the segment is marked.
        """
        partial = _(" (partial)")
        for kind, node in self.nodes.items():
            if isUserOwned(node):
                self._markSegment(node.GetSegmentation(), self.segmentIds[kind], partial)
                continue
            name = node.GetName().removesuffix(partial)
            if self.state == DONE:
                node.RemoveAttribute(PARTIAL)
                if node.GetName() != name:
                    node.SetName(uniqueName(name))
            elif not self.isAbandoned and slicer.mrmlScene.IsNodePresent(node):
                node.SetAttribute(PARTIAL, "1")
                node.SetName(name + partial)

    def _markSegment(self, segmentation: Any, segmentId: str, partial: str) -> None:
        segment = segmentation.GetSegment(segmentId)
        if segment is None:
            return
        name = segment.GetName().removesuffix(partial)
        if self.state == DONE:
            segment.RemoveTag(PARTIAL)
        else:
            segment.SetTag(PARTIAL, "1")
            name += partial
        if segment.GetName() != name:
            segment.SetName(freeSegmentName(segmentation, name, segmentId))

    def removeFolder(self) -> None:
        """Remove the job folder, unless it was asked to stay."""
        if not self.parameters.keepFiles or self.isAbandoned:
            shutil.rmtree(self.folder, ignore_errors=True)


def newFolder() -> Path:
    """Make a folder in Slicer's temporary one and return it.

    Raises:
        StorageError: If that is gone, not writable or full.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="diffugts-", dir=slicer.app.temporaryPath))
    except OSError as error:
        raise StorageError(
            _("Cannot make a folder in {folder}: {reason}.").format(
                folder=slicer.app.temporaryPath, reason=error.strerror
            ),
            hint=_("choose another temporary folder in the application's settings."),
        ) from error
