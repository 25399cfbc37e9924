"""Batch: segments several scans of the scene, one after the other; a table shows status and number of findings."""

from __future__ import annotations

import logging
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer.batch import Batch, BatchItem, statusWords
from DiffuGTSSlicer.findings_table import showTable
from DiffuGTSSlicer.panel_section import StartingSection, compactTable, showsErrors
from DiffuGTSSlicer.run import CANCELLED, DONE, FAILED
from DiffuGTSSlicer.scene import isResult

SCAN_COLUMN = 0


class BatchSection(StartingSection):
    """Select scans, segment all of them, and review each."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.messageLabel = ui.batchMessageLabel
        self._scans: list[Any] = []
        self._checked: set[str] = set()
        self._isFilling = False
        self._shown: list[tuple[str, ...]] = []
        self._tip = ui.batchButton.toolTip
        ui.batchTable.setColumnCount(3)
        ui.batchTable.setHorizontalHeaderLabels([_("Scan"), _("State"), _("Findings")])
        compactTable(ui.batchTable)
        ui.batchTable.connect("itemChanged(QTableWidgetItem*)", self._check)
        ui.batchTable.connect("cellClicked(int,int)", self._review)
        ui.batchButton.connect("clicked()", self.onButton)
        ui.batchToTableButton.connect("clicked()", self.onToTable)
        scene = slicer.mrmlScene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            panel.addObserver(scene, event, self._onNodes)

    @property
    def batch(self) -> Batch | None:
        """The current batch, or the last one."""
        batch: Batch | None = self.logic.batch
        return batch

    @property
    def isRunning(self) -> bool:
        """Whether a batch is in progress."""
        return self.batch is not None and not self.batch.isOver

    def concerns(self, run: Any) -> bool:
        """Return whether a run belongs to the batch."""
        return self.batch is not None and any(item.run is run for item in self.batch.items if item.run is not None)

    def refresh(self) -> None:
        """Show scans, states and what can be done."""
        ui = self.ui
        self._fill()
        isBusy = self.logic.isRunning and not self.isRunning
        obstacle = self.panel.run.promptObstacle()
        ui.batchButton.setText(_("Cancel batch") if self.isRunning else _("Segment checked scans"))
        ui.batchButton.enabled = self.isRunning or (bool(self._checked) and not isBusy and not obstacle)
        ui.batchButton.setToolTip(obstacle or self._tip)
        ui.batchToTableButton.enabled = self.batch is not None and not self.isRunning

    def _onNodes(self, _caller: Any, _event: Any) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():
            self._fill()

    def _fill(self) -> None:
        """Write the rows that have changed; nothing is touched where nothing has."""
        self._scans = scansOf(slicer.mrmlScene)
        self._checked &= {node.GetID() for node in self._scans}
        rows = [self._row(node) for node in self._scans]
        if rows == self._shown:
            return
        self._shown = rows
        table = self.ui.batchTable
        self._isFilling = True
        table.setRowCount(len(rows))
        for row, (node, (name, state, count, message)) in enumerate(zip(self._scans, rows, strict=True)):
            for column, text in enumerate((name, state, count)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(message or name)
                if column == SCAN_COLUMN:
                    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
                    item.setCheckState(qt.Qt.Checked if node.GetID() in self._checked else qt.Qt.Unchecked)
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        self._isFilling = False

    def _row(self, node: Any) -> tuple[str, ...]:
        item = self._itemOf(node)
        if item is None:
            return (node.GetName(), "", "", "")
        count = "" if item.findingCount is None else str(item.findingCount)
        return (node.GetName(), statusWords()[item.status], count, item.message)

    def _itemOf(self, node: Any) -> BatchItem | None:
        items = () if self.batch is None else self.batch.items
        return next((item for item in items if item.scanNode is node), None)

    # What can be done

    @showsErrors
    def start(self) -> None:
        """Segment the checked scans."""
        scans = [node for node in self._scans if node.GetID() in self._checked]
        if not scans or self.logic.isRunning:
            return
        logging.info("DiffuGTS: batch of %d scans", len(scans))
        parameters = self.panel.run.prepare()
        self.logic.startBatch(scans, parameters, onItem=self._onBatchItem, onDone=self._onBatchDone)
        self.panel.run.follow()

    def _onBatchItem(self, _item: BatchItem) -> None:
        self.panel.refresh()

    def _onBatchDone(self, batch: Batch) -> None:
        if batch is not self.batch:  # of a scene that is closed
            return
        states = [item.status for item in batch.items]
        text = _("{done} of {count} scans done").format(done=states.count(DONE), count=len(states))
        if FAILED in states:
            text += _(", {failed} failed: click one to see why").format(failed=states.count(FAILED))
        if CANCELLED in states:
            text += _(", {canceled} canceled").format(canceled=states.count(CANCELLED))
        self.showMessage(text)
        self.panel.refresh()

    @showsErrors
    def onToTable(self) -> None:
        """Add the batch's results to the scene as a table and show it."""
        logging.info("DiffuGTS: batch to table")
        if self.batch is not None:
            showTable(self.batch.tableNode())

    def _check(self, item: Any) -> None:
        """Remember which scans are checked."""
        if self._isFilling or item.column() != SCAN_COLUMN:
            return
        identifier = self._scans[item.row()].GetID()
        if item.checkState() == qt.Qt.Checked:
            self._checked.add(identifier)
        else:
            self._checked.discard(identifier)
        self.panel.refresh()

    @showsErrors
    def _review(self, row: int, _column: int) -> None:
        """Show the results of a scan under Review, or why there are none."""
        item = self._itemOf(self._scans[row])
        if item is None or self.logic.isRunning or self.state is None:
            return
        if item.status == FAILED:
            raise InputError(f"{item.name}: {item.message}", code="batch_item")
        if item.status == DONE and item.run is not None:
            self.panel.showRun(item.run)


def scansOf(scene: Any) -> list[Any]:
    """Return the scans of a scene, sorted by name: scalar volumes that are not hidden and not results of this module."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
    scans = [
        node
        for node in nodes
        if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors() and not isResult(node)
    ]
    return sorted(scans, key=lambda node: node.GetName().lower())
