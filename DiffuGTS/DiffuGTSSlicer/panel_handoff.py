"""Hand-off of the result to other modules: Segment Editor, 3D view, statistics, tables, DICOM."""

from __future__ import annotations

import logging
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer import display
from DiffuGTSSlicer.dicom_check import checkForDicom
from DiffuGTSSlicer.findings_table import STATISTICS_ROLE, findingsTable, showTable, tableOf
from DiffuGTSSlicer.ownership import markEdited
from DiffuGTSSlicer.panel_modules import DICOM, SEGMENT_EDITOR, SEGMENT_STATISTICS, absence, openSegmentEditor
from DiffuGTSSlicer.panel_section import Section, showsErrors
from DiffuGTSSlicer.result_set import shownResult


class HandOffSection(Section):
    """Buttons that continue in other modules."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.messageLabel = ui.handoffMessageLabel
        ui.editSegmentationButton.connect("clicked()", self.onEdit)
        ui.show3DButton.connect("toggled(bool)", self.onShow3D)
        ui.statisticsButton.connect("clicked()", self.onStatistics)
        ui.findingsToTableButton.connect("clicked()", self.onFindingsToTable)
        ui.exportDicomButton.connect("clicked()", self.onExportDicom)
        self._needs = {
            ui.editSegmentationButton: SEGMENT_EDITOR,
            ui.statisticsButton: SEGMENT_STATISTICS,
            ui.exportDicomButton: DICOM,
        }
        self._tips = {button: button.toolTip for button in self._needs}

    def refresh(self) -> None:
        """Enable the buttons that apply; the tooltip of a disabled one names the missing module."""
        ui = self.ui
        node = self._segmentation()
        hasResult = node is not None and not self.logic.isRunning
        ui.show3DButton.enabled = hasResult
        wasBlocked = ui.show3DButton.blockSignals(True)
        ui.show3DButton.setChecked(node is not None and display.isShown3D(node))
        ui.show3DButton.blockSignals(wasBlocked)
        ui.findingsToTableButton.enabled = hasResult and self.panel.review.findings is not None
        for button, module in self._needs.items():
            why = absence(module)
            button.enabled = hasResult and not why
            button.setToolTip(why or self._tips[button])

    def reset(self) -> None:
        """Remove the organ surface that was shown around the previous result."""
        super().reset()
        display.endContext3D()

    def _segmentation(self) -> Any:
        return None if self.state is None else shownResult(self.state)

    @showsErrors
    def onEdit(self) -> None:
        """Open the result in the Segment Editor."""
        logging.info("DiffuGTS: edit segmentation")
        openSegmentEditor(self.state.segmentation, self.state.tumorSegmentId, self.state.resultVolume)

    @showsErrors
    def onShow3D(self, isOn: bool) -> None:
        """Show or hide the result in 3D, with the selected organ as a transparent surface."""
        node = self._segmentation()
        if node is None:
            return
        logging.info("DiffuGTS: show 3D %s", isOn)
        display.endContext3D()
        organ = self.state.organSegmentation
        if isOn and organ is not None and organ is not node:
            display.showContext3D(organ, self.state.organSegmentId)
        isMade = display.show3D(node, isOn)
        self.refresh()
        if not isMade:
            raise InputError(
                _("The segment is empty: there is no surface to show."),
                hint=_("keep a finding under Review, or segment again."),
                code="empty_result",
            )

    @showsErrors
    def onStatistics(self) -> None:
        """Compute Segment Statistics and show the table."""
        logging.info("DiffuGTS: statistics")
        import SegmentStatistics

        logic = SegmentStatistics.SegmentStatisticsLogic()
        node = logic.getParameterNode()
        node.SetParameter("Segmentation", self.state.segmentation.GetID())
        node.SetParameter("ScalarVolume", self.state.resultVolume.GetID())
        node.SetParameter("visibleSegmentsOnly", "True")  # hidden earlier versions must not be counted again
        logic.computeStatistics()
        name = _("{name} statistics").format(name=self.state.segmentation.GetName())
        table = tableOf(self.state.segmentation, STATISTICS_ROLE, name)
        logic.exportToTable(table)
        logic.showTable(table)

    @showsErrors
    def onFindingsToTable(self) -> None:
        """Add the findings to the scene as a table and show it."""
        logging.info("DiffuGTS: findings to table")
        showTable(findingsTable(self.panel.review.findings.rows, self.state.segmentation))

    @showsErrors
    def onExportDicom(self) -> None:
        """Open Slicer's DICOM export for the result alone; requirements that are not met are reported first."""
        logging.info("DiffuGTS: export DICOM")
        check = checkForDicom(self.state.segmentation)
        if check.missing:
            raise InputError(
                _("The result cannot be exported as a DICOM segmentation yet:\n{points}").format(points=check.text()),
                code="dicom",
            )
        self.showMessage(check.text())
        markEdited(self.state.segmentation, self.state.resultVolume)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        dialog = slicer.qSlicerDICOMExportDialog(None)
        dialog.setMRMLScene(slicer.mrmlScene)
        dialog.execDialog(hierarchy.GetItemByDataNode(self.state.segmentation))
