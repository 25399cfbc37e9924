"""Many scans, one after the other, through one worker; an item that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError, InputError
from DiffuGTSLib.worker.protocol import ENDINGS
from DiffuGTSSlicer.grids import worldScale
from DiffuGTSSlicer.messages import failureOf, failureOfError
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED, Run
from DiffuGTSSlicer.scene import uniqueName

WAITING, RUNNING = "waiting", "running"
"""States of an item before it is `DONE`, `FAILED` or `CANCELLED`."""

_NEW_RESULTS: dict[str, Any] = {
    "segmentation": None, "tumorSegmentId": "", "candidate": None, "candidateSegmentId": "", "aova": None,
    "pseudoHealthy": None, "residual": None,
}  # fmt: skip
"""Every item gets its own result nodes."""


@dataclass(eq=False)
class BatchItem:
    """One scan of a batch.

    Attributes:
        name: Name of the scan.
        scanNode: The scan; None until its file is loaded.
        path: Its file; None for a scan that was in the scene already.
        status: `WAITING`, `RUNNING`, `DONE`, `FAILED` or `CANCELLED`.
        findingCount: Number of lesions found; None before it is done.
        volumeMl: Their total volume in world coordinates.
        message: The outcome and its notes, or the error and the next step.
        run: Its run, with the result nodes; None before it is started.
    """

    name: str
    scanNode: Any = None
    path: Path | None = None
    status: str = WAITING
    findingCount: int | None = None
    volumeMl: float = 0.0
    message: str = ""
    run: Run | None = None

    @property
    def isOver(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self.status in (DONE, FAILED, CANCELLED)


class Batch:
    """What `DiffuGTSLogic.startBatch` returns.

    Attributes:
        items: In processing order.
        onItem: Called with each item whose status changes.
        onDone: Called once with the batch when all its items are over.
    """

    def __init__(
        self,
        begin: Callable[..., Run],
        stop: Callable[[], None],
        scans: Sequence[Any],
        parameters: RunParameters,
        onItem: Callable[[BatchItem], None] | None = None,
        onDone: Callable[[Batch], None] | None = None,
    ) -> None:
        """Create a batch from functions that start and stop a run, and from scans: volume nodes, or files to load.

        Raises:
            InputError: If there is no scan at all.
        """
        if not scans:
            raise InputError(_("There is no scan to segment."), hint=_("choose at least one volume."), code="no_scan")
        self.items = tuple(_item(scan) for scan in scans)
        self.onItem = onItem or (lambda item: None)
        self.onDone = onDone or (lambda batch: None)
        self._begin, self._stop = begin, stop
        self._parameters = replace(parameters, **_NEW_RESULTS)
        self._isToldDone = False
        self._next = qt.QTimer()  # the next item starts after all listeners were called for the last one
        self._next.setSingleShot(True)
        self._next.connect("timeout()", self._beginNext)

    @property
    def isOver(self) -> bool:
        """Whether all items are over."""
        return all(item.isOver for item in self.items)

    def start(self) -> None:
        """Start the first item when Slicer is idle."""
        self._next.start(0)

    def cancel(self) -> None:
        """Cancel the current item and those that wait; finished results stay."""
        for item in self.items:
            if item.status == WAITING:
                self._setStatus(item, CANCELLED)
        if any(item.status == RUNNING for item in self.items):
            self._stop()
        else:
            self._next.start(0)

    def table(self) -> list[tuple[str, ...]]:
        """Return the results as text: the column names, then one row per item."""
        rows = [(_("Scan"), _("Status"), _("Findings"), _("Volume (ml)"), _("Anomaly score"), _("Message"))]
        words = statusWords()
        for item in self.items:
            result = item.run.result if item.run is not None else {}
            score = result.get("anomaly_score")
            count = "" if item.findingCount is None else str(item.findingCount)
            rows.append(
                (
                    item.name,
                    words[item.status],
                    count,
                    f"{item.volumeMl:.2f}" if count else "",
                    "" if score is None else f"{score:.3f}",
                    item.message,
                )
            )
        return rows

    def tableNode(self) -> Any:
        """Add the results to the scene as a table node and return it."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", uniqueName(_("DiffuGTS batch")))
        head, *rows = self.table()
        for index, name in enumerate(head):
            column = vtk.vtkStringArray()
            column.SetName(name)
            for row in rows:
                column.InsertNextValue(row[index])
            node.AddColumn(column)
        return node

    def _beginNext(self) -> None:
        item = next((each for each in self.items if each.status == WAITING), None)
        if item is None:
            if not self._isToldDone:
                self._isToldDone = True
                self.onDone(self)
                del self._begin, self._stop  # Qt's timer keeps a batch, and so it would keep the logic and its worker
            return
        self._setStatus(item, RUNNING)
        try:
            if item.scanNode is None:
                item.scanNode = _load(item)
            if not slicer.mrmlScene.IsNodePresent(item.scanNode):
                raise InputError(_("The scan is no longer in the scene."), hint=_("load it again."), code="no_scan")
            item.run = self._begin(item.scanNode, self._parameters, onEvent=self._listener(item))
        except DiffuGTSError as error:
            logging.warning("DiffuGTS: %s: %s", item.name, error.message)
            self._end(item, FAILED, failureOfError(error).text())
        except Exception as error:  # an item that is never over would block the panel
            logging.exception("DiffuGTS: %s", item.name)
            words = _("Something unexpected went wrong: {error}").format(error=f"{type(error).__name__}: {error}")
            self._end(item, FAILED, failureOf("error", words).text())
        else:
            if item.run.isOver:  # where the worker could not even be started
                self._finish(item, item.run)

    def _listener(self, item: BatchItem) -> Callable[[dict[str, Any]], None]:
        def listen(event: dict[str, Any]) -> None:
            if event["event"] in ENDINGS and item.run is not None:
                self._finish(item, item.run)

        return listen

    def _finish(self, item: BatchItem, run: Run) -> None:
        if run.state == DONE:
            found = run.result.get("findings", ())
            item.findingCount = len(found)
            item.volumeMl = sum(float(each["volume_ml"]) for each in found) * worldScale(run.scanNode)
            self._end(item, DONE, "\n".join([run.outcome, *run.notes]))
        elif run.state == FAILED and run.failure is not None:
            self._end(item, FAILED, run.failure.text())
        else:
            self._end(item, run.state, _("The scan was deleted.") if run.isAbandoned else "")

    def _end(self, item: BatchItem, status: str, message: str = "") -> None:
        item.message = message
        self._setStatus(item, status)
        self._next.start(0)

    def _setStatus(self, item: BatchItem, status: str) -> None:
        item.status = status
        self.onItem(item)


def statusWords() -> dict[str, str]:
    """Return status → word, in the current language."""
    return {
        WAITING: _("waiting"),
        RUNNING: _("running"),
        DONE: _("done"),
        FAILED: _("failed"),
        CANCELLED: _("canceled"),
    }


def _item(scan: Any) -> BatchItem:
    if isinstance(scan, str | Path):
        return BatchItem(Path(scan).name, path=Path(scan))
    return BatchItem(scan.GetName(), scanNode=scan)


def _load(item: BatchItem) -> Any:
    """Load the file of an item with Slicer's readers.

    Raises:
        InputError: If it is not there, or Slicer cannot read it.
    """
    if not Path(str(item.path)).exists():
        words = _("{path} does not exist.").format(path=item.path)
        raise InputError(words, hint=_("check that the disk is connected."), code="no_file")
    try:
        return slicer.util.loadVolume(str(item.path))
    except (RuntimeError, OSError) as error:
        raise InputError(
            _("{path} cannot be loaded as a volume.").format(path=item.path),
            hint=_("load it in Slicer first, to see why."),
            code="not_loaded",
        ) from error
