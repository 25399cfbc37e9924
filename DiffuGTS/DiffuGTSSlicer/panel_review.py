"""Review: overlay, comparison with the pseudo-healthy image, and findings; works on a saved scene, without PyTorch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import isnan
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSSlicer import display, slice_views
from DiffuGTSSlicer.findings import Finding, Findings
from DiffuGTSSlicer.grids import worldScale
from DiffuGTSSlicer.messages import Failure, failureOf, failureOfError
from DiffuGTSSlicer.panel_section import ChoiceBox, Section, compactTable, showsErrors
from DiffuGTSSlicer.result_set import hideOtherResults, shownResult
from DiffuGTSSlicer.steps import StepQueue
from DiffuGTSSlicer.time_point import isOfShownTimePoint, timePointOf

TICK_MS = 40
COUNT_MS = 150
"""Delay before the voxels above the threshold are counted, so that they are not at each step of the slider."""
CYCLE_S = {"rock": 2.0, "flicker": 1.0, "reveal": 3.0}
PHASES: dict[str, Callable[[float], float]] = {
    "rock": slice_views.rock,
    "flicker": slice_views.flicker,
    "reveal": slice_views.reveal,
}
KEEP_COLUMN = 0


class ReviewSection(Section):
    """Overlay, layouts, comparison and findings."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        overlays = [
            ("none", _("None")),
            ("aova", _("AOVA (abnormal attention)")),
            ("residual", _("Residual")),
            ("pseudo_healthy", _("Pseudo-healthy (synthetic)")),
        ]
        self._overlay = ChoiceBox(ui.overlayComboBox, overlays, self._chooseOverlay)
        self._synthetic = ui.syntheticLabel.text
        self._shown: tuple[Any, ...] = ()
        self._inViews: Any = None
        self._threshold: tuple[Any, float] | None = None
        self.findings: Findings | None = None
        self._measured: tuple[Any, ...] | None = None
        self._failure: Failure | None = None
        self._reviewed: Any = None
        self._hidden: set[str] = set()
        self._work = StepQueue()
        self._isFilling = False
        self._comparing, self._since = "", 0.0
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._tick)
        self._counting = qt.QTimer()
        self._counting.setSingleShot(True)
        self._counting.setInterval(COUNT_MS)
        self._counting.connect("timeout()", self._count)
        for name, button in (
            ("overlay", ui.overlayLayoutButton),
            ("side by side", ui.sideBySideLayoutButton),
            ("four up", ui.fourUpLayoutButton),
        ):
            button.connect("clicked()", self._layoutSlot(name))
        self._modes = {"rock": ui.rockButton, "flicker": ui.flickerButton, "reveal": ui.revealButton}
        for name, button in self._modes.items():
            button.connect("toggled(bool)", self._modeSlot(name))
        self._setUpFindingsTable(ui.findingsTable)
        ui.findingsTable.connect("cellClicked(int,int)", self._jump)
        ui.findingsTable.connect("itemChanged(QTableWidgetItem*)", self._keep)
        self._layouts = slicer.app.layoutManager()
        if self._layouts is not None:
            self._layouts.connect("layoutChanged(int)", self._onLayout)

    @staticmethod
    def _setUpFindingsTable(table: Any) -> None:
        heads = (
            (_("Keep"), _("Part of the segment. The largest finding is number 1.")),
            (_("ml"), _("Volume.")),
            (_("mm"), _("Longest diameter within one acquired slice.")),
            (_("AOVA"), _("Mean abnormal attention, 0 to 1.")),
            (_("Max"), _("Highest abnormal attention, 0 to 1.")),
            (
                _("Change"),
                _("Mean scan intensity minus mean pseudo-healthy intensity: HU in CT, the scan's units in MR."),
            ),
        )
        table.setColumnCount(len(heads))
        for column, (title, tip) in enumerate(heads):
            item = qt.QTableWidgetItem(title)
            item.setToolTip(tip)
            table.setHorizontalHeaderItem(column, item)
        compactTable(table)

    def close(self) -> None:
        """Stop comparing and measuring."""
        self.stopComparing()
        self._counting.stop()
        self._work.clear()
        if self._layouts is not None:
            self._layouts.disconnect("layoutChanged(int)", self._onLayout)

    # Overlay

    def maps(self) -> dict[str, Any]:
        """Return the available maps by name."""
        state = self.state
        if state is None:
            return {}
        nodes = {"aova": state.aova, "residual": state.residual, "pseudo_healthy": state.pseudoHealthy}
        return {word: node for word, node in nodes.items() if node is not None}

    @showsErrors
    def refresh(self) -> None:
        """Update overlay, buttons and findings."""
        ui, state = self.ui, self.state
        maps = self.maps()
        isReading = self.panel.readerStudy.isReading
        hasScan = state is not None and state.resultVolume is not None and not isReading
        for widget in (ui.overlayComboBox, ui.opacitySlider, ui.overlayLayoutButton, ui.fourUpLayoutButton):
            widget.enabled = hasScan
        ui.overlayThresholdSlider.enabled = ui.legendCheckBox.enabled = hasScan and "aova" in maps
        for widget in (ui.sideBySideLayoutButton, *self._modes.values()):
            widget.enabled = hasScan and "pseudo_healthy" in maps
        remarks = [
            self._synthetic if "pseudo_healthy" in maps else "",
            self._timePointRemark(),
            self._missingSegmentRemark(),
        ]
        ui.syntheticLabel.setText("\n".join(filter(None, remarks)))
        ui.syntheticLabel.setVisible(any(remarks))
        if state is None or state.resultVolume is None:
            self._inViews = None
        if state is None:
            self._overlay.show("none")
            self._fill(())
            return
        self._overlay.show(state.overlay)
        self._hideOthers()
        if hasScan:
            self._applyThreshold()
            if self.panel.mayDraw:
                self._applyOverlay()
        elif (self.panel.isShown or isReading) and (self._shown or self._comparing):
            self.stopComparing()  # with its controls disabled, the user could not remove it
            slice_views.removeOverlays(maps.values())
            self._shown = ()
        if not self.logic.isRunning:
            self._measure()

    def _timePointRemark(self) -> str:
        """Return a remark if the scan shows another time point than the result, or an empty string."""
        state = self.state
        if state is None or state.pseudoHealthy is None or state.resultVolume is None:
            return ""
        if isOfShownTimePoint(state.pseudoHealthy, state.resultVolume):
            return ""
        return _(
            "This result belongs to another time point than the one shown: go back to that one to compare, or segment this one."
        )

    def _missingSegmentRemark(self) -> str:
        """Return a remark if the segment under review was removed, otherwise an empty string."""
        node = None if self.state is None or self.logic.isRunning else shownResult(self.state)
        if node is None or node.GetSegmentation().GetSegment(self.state.tumorSegmentId) is not None:
            return ""
        return _("The segment was removed or undone: restore it in the Segment Editor, or segment again.")

    def _hideOthers(self) -> None:
        """Hide the results of other scans, which would look like those of the scan under review.

        Without a scan under review nothing is hidden, except results of a batch, which are shown when reviewed.
        """
        if self.state.resultVolume is None and self.logic.batch is None:
            return
        if self.state.resultVolume is not self._reviewed:
            self._reviewed = self.state.resultVolume
            self._hidden.clear()
        hideOtherResults(self.state, self._hidden)

    def onEvent(self, event: dict[str, Any]) -> None:
        """Show the AOVA map as soon as it is imported, and update everything at the end."""
        if event["event"] == "imported":
            self._shown = ()
            if event["kind"] == "aova" and self.state is not None:
                self._threshold = None
                self.state.overlay = "aova"
        elif event["event"] == "done":
            self.reset()

    def reset(self) -> None:
        """Update views and findings in the next `refresh`."""
        super().reset()
        self._shown, self._measured, self._threshold = (), None, None

    def measureAnew(self) -> None:
        """Measure again in the next `refresh`, since the segment may have been edited. Views are not changed."""
        self._measured = None

    def _chooseOverlay(self, overlay: str) -> None:
        self.stopComparing()
        if self.state is not None:
            self.state.overlay = overlay

    def _applyOverlay(self) -> None:
        """Show the selected map over the scan; views change only with the selection, never during a reading session.

        A scan is shown in every view when its review begins; later, a view where the user shows a prior scan keeps it.
        """
        if self.panel.readerStudy.isReading:
            return
        state, maps = self.state, self.maps()
        node = maps.get(state.overlay)
        current = (state.resultVolume, node, state.opacity, state.legend)
        if self._comparing or current == self._shown:
            return
        isFirst = state.resultVolume is not self._inViews
        self._shown, self._inViews = current, state.resultVolume
        slice_views.setOverlay(state.resultVolume, node, state.opacity, isEverywhere=isFirst)
        for word in ("aova", "residual"):
            if word in maps:
                display.setLegend(maps[word], bool(state.legend) and word == state.overlay)

    def _applyThreshold(self) -> None:
        state = self.state
        current = (state.aova, state.overlayThreshold)
        if state.aova is None or current == self._threshold:
            if state.aova is None:
                self.ui.voxelCountLabel.setText("")
            return
        self._threshold = current
        display.setThreshold(*current)
        self._counting.start()

    def _count(self) -> None:
        """Show number and volume of voxels at or above the threshold."""
        state = self.state
        if state is None or state.aova is None or state.aova.GetImageData() is None:
            return
        voxels = display.voxelsFrom(state.aova, state.overlayThreshold)
        ml = voxels * np.prod(state.aova.GetSpacing()) * worldScale(state.aova) / 1000
        self.ui.voxelCountLabel.setText(_("{voxels} voxels, {ml} ml").format(voxels=voxels, ml=_number(ml, ".2f")))

    # Layouts and comparison

    def _layoutSlot(self, name: str) -> Callable[[], None]:
        def show() -> None:
            self.showLayout(name)

        return show

    @showsErrors
    def showLayout(self, name: str) -> None:
        """Change the layout and show the scan in every view; called only on a click.

        When a comparison ends, the right view shows its previous volume again instead.
        """
        self.stopComparing()
        state = self.state
        if state is not None and state.resultVolume is not None:
            if not slice_views.isCompared():
                self._inViews = None
            slice_views.setLayout(name, state.resultVolume, state.pseudoHealthy)
            self._shown = ()
            self._applyOverlay()

    def _onLayout(self, layout: int) -> None:
        """Restore the right view on any layout change: a synthetic image must not be mistaken for a scan."""
        if not slice_views.isSideBySide(layout):
            slice_views.endComparison()

    def _modeSlot(self, name: str) -> Callable[[bool], None]:
        def toggle(isOn: bool) -> None:
            self.compare(name if isOn else "", name)

        return toggle

    @showsErrors
    def compare(self, mode: str, asked: str) -> None:
        """Start rock, flicker or reveal; an empty mode stops the requested one."""
        if not mode:
            if self._comparing == asked:
                self.stopComparing()
            return
        for name, button in self._modes.items():
            if name != mode:
                wasBlocked = button.blockSignals(True)
                button.setChecked(False)
                button.blockSignals(wasBlocked)
        self._comparing, self._since = mode, time.monotonic()
        self._timer.start()
        self._tick()

    def stopComparing(self) -> None:
        """Stop the comparison and show the overlay again."""
        self._timer.stop()
        if not self._comparing:
            return
        self._comparing, self._shown = "", ()
        for button in self._modes.values():
            wasBlocked = button.blockSignals(True)
            button.setChecked(False)
            button.blockSignals(wasBlocked)
        if self.state is not None and self.state.resultVolume is not None:
            self._applyOverlay()

    def _tick(self) -> None:
        state = self.state
        if state is None or state.resultVolume is None or state.pseudoHealthy is None:
            self.stopComparing()
            return
        phase = (time.monotonic() - self._since) / CYCLE_S[self._comparing] % 1
        opacity = PHASES[self._comparing](phase)
        slice_views.setOverlay(state.resultVolume, state.pseudoHealthy, opacity, isEverywhere=False)

    # Findings

    def _measure(self) -> None:
        """Measure the findings again if segment or maps have changed."""
        state = self.state
        node = shownResult(state)
        segment = node.GetSegmentation().GetSegment(state.tumorSegmentId) if node is not None else None
        if segment is None:
            self.findings, self._measured = None, None
            self._fill(())
            self._withdrawFailure()
            return
        shown = (node, state.tumorSegmentId, state.resultVolume, state.aova, state.pseudoHealthy)
        current = (*shown, timePointOf(state.resultVolume))
        if current != self._measured:
            self._measured, self.findings = current, None
            self._fill(())
            findings = Findings(*shown, isMeasured=False)
            self._work.add(
                findings.update.steps(),
                onEnd=lambda _rows: self._onMeasured(findings),
                onError=self._onMeasureError,
                isWanted=lambda: self._measured == current,
            )

    @property
    def isMeasuring(self) -> bool:
        """Whether the findings are still being measured, in small steps between other events."""
        return not self._work.isIdle

    def _onMeasured(self, findings: Findings) -> None:
        self.findings = findings
        self._fill(findings.rows)
        self._withdrawFailure()
        self.panel.handOff.refresh()

    def _onMeasureError(self, error: Exception) -> None:
        if isinstance(error, DiffuGTSError):
            self._failure = failureOfError(error)
        else:
            logging.error("DiffuGTS: the findings cannot be measured", exc_info=error)
            words = _("The findings cannot be measured: {error}")
            self._failure = failureOf("error", words.format(error=f"{type(error).__name__}: {error}"))
        self.showFailure(self._failure)

    def _withdrawFailure(self) -> None:
        """Remove the message that the findings cannot be measured, once it no longer applies."""
        if self._failure is not None:
            self.panel.run.withdrawFailure(self._failure)
            self._failure = None

    def _fill(self, rows: tuple[Finding, ...]) -> None:
        table = self.ui.findingsTable
        self._isFilling = True
        table.setRowCount(len(rows))
        for row, finding in enumerate(rows):
            keep = qt.QTableWidgetItem(str(finding.number))
            keep.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            keep.setCheckState(qt.Qt.Checked if finding.kept else qt.Qt.Unchecked)
            table.setItem(row, KEEP_COLUMN, keep)
            values = (
                f"{finding.volumeMl:.2f}", f"{finding.diameterMm:.1f}", _number(finding.meanAova, ".2f"),
                _number(finding.maxAova, ".2f"), _number(finding.meanChange, ".0f"),
            )  # fmt: skip
            for column, text in enumerate(values, start=1):
                table.setItem(row, column, qt.QTableWidgetItem(text))
        table.resizeColumnsToContents()
        self._isFilling = False

    @showsErrors
    def _jump(self, row: int, _column: int) -> None:
        """Show the finding in every slice view."""
        if self.findings is not None:
            self.findings.jump(row + 1)

    @showsErrors
    def _keep(self, item: Any) -> None:
        """Remove a finding from the segment, or restore it."""
        if self._isFilling or self.findings is None or item.column() != KEEP_COLUMN:
            return
        kept = item.checkState() == qt.Qt.Checked
        if self.findings.rows[item.row()].kept != kept:
            try:
                self.findings.keep(item.row() + 1, kept)
            finally:  # if that was refused, the check box is reset
                self._fill(self.findings.rows)


def _number(value: float, form: str) -> str:
    return "–" if isnan(value) else format(value, form)
