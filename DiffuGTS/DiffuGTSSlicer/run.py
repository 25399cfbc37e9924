"""One run: its parameters, its job folder, its result nodes, and how it ended."""

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
"""Artifact → run parameter of its node."""
MASKS = {
    "coarse_mask": ("candidate", "candidateSegmentId"),
    "segmentation": ("segmentation", "tumorSegmentId"),
    "painted_tumor": ("paintedSegmentation", "paintedSegmentId"),
}
"""Artifact → run parameters of its node and its segment ID."""

ACTIVE, DONE, FAILED, CANCELLED = "active", "done", "failed", "cancelled"

PARTIAL = "DiffuGTS.Partial"
"""Attribute of the nodes of a cancelled or failed run; in a segmentation of the user, tag of the segment."""


class Run:
    """Returned by `DiffuGTSLogic.process` and `DiffuGTSLogic.synthesize`; complete when `isOver`.

    Attributes:
        scanNode: The scan.
        parameters: Its parameters.
        isRefinement: Whether the user's candidate region is used instead of detecting candidates.
        state: `ACTIVE`, then `DONE`, `FAILED` or `CANCELLED`.
        nodes: Artifact → node, added as they are imported: "aova", "coarse_mask", "pseudo_healthy", "residual",
            "segmentation"; in a synthesis "painted" and "painted_tumor".
        candidatePeak: Highest attention in the candidates; None if there is none.
        segmentIds: "coarse_mask" and "segmentation", or "painted_tumor" → segment ID.
        result: The worker's `done` event: outcome, anomaly_score, modality, timings_s and findings; in a synthesis
            tumors and skipped instead of score and findings.
        record: The run's record, as it is stored in the scene.
        failure: Error and next step, if it failed.
        scanName: Name of the scan at the start, with its time point if it is part of a sequence.
        timePoint: Time point at the start, see `timePointOf`; the sequence browser may change it during the run.
        scanState: State of the scan at the start, see `grids.scanState`.
        cacheKey: What the attention map depends on, at the start.
        isHandedOver: Whether the worker was given the job.
        isStopped: Whether it was cancelled before that.
        isAbandoned: Whether its scan or scene was removed; nothing more is imported, and imported nodes are removed.
        replaces: Whether it overwrites an earlier result of the scan, which is restored if this run does not complete.
        isUndone: Whether it was undone: its nodes were removed and the earlier result was restored.
        undoActions: Functions that undo its changes to the scene, in the order of the changes.
        notes: Messages for the user.
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
        self.replaces = self._hasEarlierResult()
        self.undoActions: list[Callable[[], None]] = []
        self.notes: list[str] = []
        self.folder = newFolder()

    @property
    def isOver(self) -> bool:
        """Whether it has ended."""
        return self.state != ACTIVE

    @property
    def isSynthesis(self) -> bool:
        """Whether tumors are painted instead of segmented."""
        return isinstance(self.parameters, SynthesisParameters)

    @property
    def outcome(self) -> str:
        """One sentence: what was found, or why nothing was."""
        return str(self.result.get("outcome", ""))

    def _hasEarlierResult(self) -> bool:
        # The candidate does not count: the user may draw one before there is a result.
        names = [*VOLUMES.values(), *(name for kind, (name, _segmentId) in MASKS.items() if kind != "coarse_mask")]
        nodes = [getattr(self.parameters, name, None) for name in names]
        return any(node is not None and node.GetNodeReference(SCAN_ROLE) is self.scanNode for node in nodes)

    def undo(self) -> None:
        """Restore the scene as it was before the run: a mixture of two runs is not a result."""
        for undoAction in reversed(self.undoActions):
            undoAction()
        self.undoActions.clear()
        self.nodes.clear()
        self.segmentIds.clear()
        self.isUndone = True

    def markNodes(self) -> None:
        """Mark the nodes of an incomplete run as partial, also in their names; remove the mark after a complete one.

        In a segmentation of the user, only the segment is marked.
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
        """Remove the job folder, unless temporary files are to be kept."""
        if not self.parameters.keepFiles or self.isAbandoned:
            shutil.rmtree(self.folder, ignore_errors=True)


def newFolder() -> Path:
    """Create a folder in Slicer's temporary folder and return it.

    Raises:
        StorageError: If that folder is missing, not writable or full.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="diffugts-", dir=slicer.app.temporaryPath))
    except OSError as error:
        raise StorageError(
            _("Cannot create a folder in {folder}: {reason}.").format(
                folder=slicer.app.temporaryPath, reason=error.strerror
            ),
            hint=_("choose another temporary folder in the application settings."),
        ) from error
