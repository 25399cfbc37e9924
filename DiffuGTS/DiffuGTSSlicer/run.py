"""One run: its wish, its job folder, the nodes that it made so far, and how it ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from DiffuGTSSlicer.messages import Failure
from DiffuGTSSlicer.parameters import RunParameters

ACTIVE, DONE, FAILED, CANCELLED = "active", "done", "failed", "cancelled"


class Run:
    """What `DiffuGTSLogic.process` returns; complete when `isOver`.

    Attributes:
        scanNode: The scan.
        parameters: What was asked.
        isRefinement: Whether the user's candidates were taken instead of detecting some.
        state: `ACTIVE`, then `DONE`, `FAILED` or `CANCELLED`.
        nodes: Artifact → node, as they appear: "aova", "coarse_mask", "pseudo_healthy", "residual", "segmentation".
        segmentIds: "coarse_mask" and "segmentation" → segment.
        result: The worker's `done` event: outcome, anomaly_score, modality, timings_s and findings.
        record: The run's record, as it is kept in the scene.
        failure: Why it failed.
        isDropped: Its scan or its scene is gone; nothing is imported any more.
    """

    def __init__(
        self,
        scanNode: Any,
        parameters: RunParameters,
        isRefinement: bool = False,
        onEvent: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.scanNode = scanNode
        self.parameters = parameters
        self.isRefinement = isRefinement
        self.onEvent = onEvent or (lambda event: None)
        self.state = ACTIVE
        self.nodes: dict[str, Any] = {}
        self.segmentIds: dict[str, str] = {}
        self.result: dict[str, Any] = {}
        self.record: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.isDropped = False
        self.folder = Path(tempfile.mkdtemp(prefix="diffugts-", dir=slicer.app.temporaryPath))

    @property
    def isOver(self) -> bool:
        """Whether nothing more will come."""
        return self.state != ACTIVE

    @property
    def outcome(self) -> str:
        """One sentence: what was found, or why nothing was."""
        return str(self.result.get("outcome", ""))

    def removeFolder(self) -> None:
        """Remove the job folder, unless it was asked to stay."""
        if not self.parameters.keepFiles or self.isDropped:
            shutil.rmtree(self.folder, ignore_errors=True)


def scanState(scanNode: Any) -> tuple[Any, ...]:
    """Return what tells one state of a scan's voxels and place from another, within a session."""
    image = scanNode.GetImageData()
    return (scanNode, image.GetMTime() if image is not None else 0, scanNode.GetOrigin(), scanNode.GetSpacing())
