"""Many scans, one after the other through the one warm worker; a case that fails does not stop the others."""

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
"""States of a case before it is `DONE`, `FAILED` or `CANCELLED`."""

_NEW_RESULTS: dict[str, Any] = {
    "segmentation": None, "tumorSegmentId": "", "candidate": None, "candidateSegmentId": "", "aova": None,
    "pseudoHealthy": None, "residual": None,
}  # fmt: skip
"""Every case gets result nodes of its own."""


@dataclass(eq=False)
class Case:
    """One scan of a batch.

    Attributes:
        name: Of the scan.
        scanNode: The scan; None until a file's turn comes.
        path: Where it is read from, None for a node that was there.
        status: `WAITING`, `RUNNING`, `DONE`, `FAILED` or `CANCELLED`.
        findingCount: Lesions found; None as long as nobody has looked.
        volumeMl: Of all of them in the world.
        message: The outcome and what is to be known of it, or what went wrong and the next step.
        run: Its run, with the result nodes; None before it began.
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
        """Whether nothing more will come of it."""
        return self.status in (DONE, FAILED, CANCELLED)


class Batch:
    """What `DiffuGTSLogic.startBatch` returns.

    Attributes:
        cases: In the order in which they are done.
        onCase: Told each case whose status changes.
        onDone: Told the batch once when all its cases are over.
    """

    def __init__(
        self,
        begin: Callable[..., Run],
        stop: Callable[[], None],
        scans: Sequence[Any],
        parameters: RunParameters,
        onCase: Callable[[Case], None] | None = None,
        onDone: Callable[[Batch], None] | None = None,
    ) -> None:
        """Take what starts and stops a run, and the scans: volume nodes, or files that are loaded in their turn.

        Raises:
            InputError: If there is no scan at all.
        """
        if not scans:
            raise InputError(_("There is no scan to segment."), hint=_("choose at least one volume."), code="no_scan")
        self.cases = tuple(_case(scan) for scan in scans)
        self.onCase = onCase or (lambda case: None)
        self.onDone = onDone or (lambda batch: None)
        self._begin, self._stop = begin, stop
        self._parameters = replace(parameters, **_NEW_RESULTS)
        self._isToldDone = False
        self._next = qt.QTimer()  # the next case begins when everybody was told of the last one's end
        self._next.setSingleShot(True)
        self._next.connect("timeout()", self._beginNext)

    @property
    def isOver(self) -> bool:
        """Whether no case is left."""
        return all(case.isOver for case in self.cases)

    def start(self) -> None:
        """Begin with the first case, when Slicer is next idle."""
        self._next.start(0)

    def cancel(self) -> None:
        """Stop the case under way and leave those that wait; results that are there stay."""
        for case in self.cases:
            if case.status == WAITING:
                self._tell(case, CANCELLED)
        if any(case.status == RUNNING for case in self.cases):
            self._stop()
        else:
            self._next.start(0)

    def table(self) -> list[tuple[str, ...]]:
        """Return the results in words: the column names, then a row for each case."""
        rows = [(_("Scan"), _("Status"), _("Findings"), _("Volume (ml)"), _("Anomaly score"), _("Message"))]
        words = statusWords()
        for case in self.cases:
            result = case.run.result if case.run is not None else {}
            score = result.get("anomaly_score")
            count = "" if case.findingCount is None else str(case.findingCount)
            rows.append(
                (
                    case.name,
                    words[case.status],
                    count,
                    f"{case.volumeMl:.2f}" if count else "",
                    "" if score is None else f"{score:.3f}",
                    case.message,
                )
            )
        return rows

    def tableNode(self) -> Any:
        """Keep the table in the scene and return its node."""
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
        case = next((each for each in self.cases if each.status == WAITING), None)
        if case is None:
            if not self._isToldDone:
                self._isToldDone = True
                self.onDone(self)
                del self._begin, self._stop  # Qt's timer keeps a batch, and so it would keep the logic and its worker
            return
        self._tell(case, RUNNING)
        try:
            if case.scanNode is None:
                case.scanNode = _load(case)
            if not slicer.mrmlScene.IsNodePresent(case.scanNode):
                raise InputError(_("The scan is no longer in the scene."), hint=_("load it again."), code="no_scan")
            case.run = self._begin(case.scanNode, self._parameters, onEvent=self._listener(case))
        except DiffuGTSError as error:
            logging.warning("DiffuGTS: %s: %s", case.name, error.message)
            self._end(case, FAILED, failureOfError(error).text())
        except Exception as error:  # a case that is never over would block the panel
            logging.exception("DiffuGTS: %s", case.name)
            words = _("Something unexpected went wrong: {error}").format(error=f"{type(error).__name__}: {error}")
            self._end(case, FAILED, failureOf("error", words).text())
        else:
            if case.run.isOver:  # where the worker could not even be started
                self._settle(case, case.run)

    def _listener(self, case: Case) -> Callable[[dict[str, Any]], None]:
        def listen(event: dict[str, Any]) -> None:
            if event["event"] in ENDINGS and case.run is not None:
                self._settle(case, case.run)

        return listen

    def _settle(self, case: Case, run: Run) -> None:
        if run.state == DONE:
            found = run.result.get("findings", ())
            case.findingCount = len(found)
            case.volumeMl = sum(float(each["volume_ml"]) for each in found) * worldScale(run.scanNode)
            self._end(case, DONE, "\n".join([run.outcome, *run.notes]))
        elif run.state == FAILED and run.failure is not None:
            self._end(case, FAILED, run.failure.text())
        else:
            self._end(case, run.state, _("The scan was deleted.") if run.isDropped else "")

    def _end(self, case: Case, status: str, message: str = "") -> None:
        case.message = message
        self._tell(case, status)
        self._next.start(0)

    def _tell(self, case: Case, status: str) -> None:
        case.status = status
        self.onCase(case)


def statusWords() -> dict[str, str]:
    """Return status → word, in the language that is set now."""
    return {
        WAITING: _("waiting"),
        RUNNING: _("running"),
        DONE: _("done"),
        FAILED: _("failed"),
        CANCELLED: _("canceled"),
    }


def _case(scan: Any) -> Case:
    if isinstance(scan, str | Path):
        return Case(Path(scan).name, path=Path(scan))
    return Case(scan.GetName(), scanNode=scan)


def _load(case: Case) -> Any:
    """Load a file as Slicer does.

    Raises:
        InputError: If it is not there, or Slicer cannot read it.
    """
    if not Path(str(case.path)).exists():
        words = _("{path} does not exist.").format(path=case.path)
        raise InputError(words, hint=_("check that the disk is connected."), code="no_file")
    try:
        return slicer.util.loadVolume(str(case.path))
    except (RuntimeError, OSError) as error:
        raise InputError(
            _("{path} cannot be loaded as a volume.").format(path=case.path),
            hint=_("load it in Slicer first, to see why."),
            code="not_loaded",
        ) from error
