"""Refine the candidate region, and hand the result on to Slicer's own modules."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer import display
from DiffuGTSSlicer.grids import setSegmentMask
from DiffuGTSSlicer.panel_binding import Section, door
from DiffuGTSSlicer.result_import import CANDIDATE_COLOR
from DiffuGTSSlicer.scene import newSegmentation


class RefineSection(Section):
    """Edit the candidate region, or draw it from the map, and run the rest again."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.ui.editCandidateButton.connect("clicked()", self.onEdit)
        self.ui.candidateFromThresholdButton.connect("clicked()", self.onFromThreshold)
        self.ui.refineButton.connect("clicked()", self.onRefine)

    def refresh(self) -> None:
        """Offer what can be done now."""
        state, isRunning = self.state, self.logic.isRunning
        hasScan = state is not None and state.inputVolume is not None
        isOfThisScan = hasScan and state.resultVolume is state.inputVolume
        hasCandidate = hasScan and state.candidate is not None and bool(state.candidateSegmentId)
        self.ui.editCandidateButton.enabled = hasScan and not isRunning
        self.ui.candidateFromThresholdButton.enabled = isOfThisScan and state.aova is not None and not isRunning
        self.ui.refineButton.enabled = hasCandidate and not isRunning and not self.panel.run.obstacle()

    @door
    def onEdit(self) -> None:
        """Open the candidate region in the Segment Editor; a new, empty one where there is none."""
        logging.info("DiffuGTS: edit candidate")
        state = self.state
        self._ensureCandidate()
        openSegmentEditor(state.candidate, state.candidateSegmentId, state.inputVolume)

    @door
    def onFromThreshold(self) -> None:
        """Take what the AOVA map shows at or above the threshold of Review."""
        logging.info("DiffuGTS: candidate from threshold")
        state = self.state
        mask = slicer.util.arrayFromVolume(state.aova) >= np.float32(state.overlayThreshold)
        if not mask.any():
            raise InputError(
                _("Nothing lies above the threshold."), hint=_("lower the threshold under Review."), code="threshold"
            )
        self._ensureCandidate()
        setSegmentMask(mask.astype(np.uint8), state.inputVolume, state.candidate, state.candidateSegmentId)

    @door
    def onRefine(self) -> None:
        """Run repainting and outlining again."""
        logging.info("DiffuGTS: refine")
        self.panel.run.startRefinement()

    def _ensureCandidate(self) -> None:
        state = self.state
        if state.candidate is None:
            name = _("{scan} candidate region").format(scan=state.inputVolume.GetName())
            state.candidate = newSegmentation(state.inputVolume, name)
        segmentation = state.candidate.GetSegmentation()
        if segmentation.GetSegment(state.candidateSegmentId) is None:
            segmentId = segmentation.AddEmptySegment("", _("Candidate region"), CANDIDATE_COLOR)
            state.candidateSegmentId = segmentId


class HandOffSection(Section):
    """Segment Editor, 3D, Segment Statistics, DICOM."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.ui.editSegmentationButton.connect("clicked()", self.onEdit)
        self.ui.show3DButton.connect("toggled(bool)", self.onShow3D)
        self.ui.statisticsButton.connect("clicked()", self.onStatistics)
        self.ui.exportDicomButton.connect("clicked()", self.onExportDicom)

    def refresh(self) -> None:
        """Offer what can be done with the result."""
        hasResult = self._segmentation() is not None and not self.logic.isRunning
        ui = self.ui
        for button in (ui.editSegmentationButton, ui.show3DButton, ui.statisticsButton, ui.exportDicomButton):
            button.enabled = hasResult

    def _segmentation(self) -> Any:
        return None if self.state is None else self.state.segmentation

    @door
    def onEdit(self) -> None:
        """Open the result in the Segment Editor."""
        logging.info("DiffuGTS: edit segmentation")
        scan = self.state.resultVolume or self.state.inputVolume
        openSegmentEditor(self.state.segmentation, self.state.tumorSegmentId, scan)

    @door
    def onShow3D(self, isOn: bool) -> None:
        """Show or hide the result in 3D."""
        node = self._segmentation()
        if node is None:
            return
        logging.info("DiffuGTS: show 3D %s", isOn)
        if not display.show3D(node, isOn):
            raise InputError(_("The segment is empty: there is no surface to show."), code="empty_mask")

    @door
    def onStatistics(self) -> None:
        """Measure with Segment Statistics and show the table."""
        logging.info("DiffuGTS: statistics")
        import SegmentStatistics

        logic = SegmentStatistics.SegmentStatisticsLogic()
        node = logic.getParameterNode()
        scan = self.state.resultVolume or self.state.inputVolume
        node.SetParameter("Segmentation", self.state.segmentation.GetID())
        node.SetParameter("ScalarVolumeSegmentStatisticsPlugin.enabled", "True")
        node.SetNodeReferenceID("ScalarVolume", scan.GetID())
        node.SetParameter("ScalarVolume", scan.GetID())
        logic.computeStatistics()
        name = _("{name} statistics").format(name=self.state.segmentation.GetName())
        table = slicer.mrmlScene.GetFirstNodeByName(name) or slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLTableNode", name
        )
        logic.exportToTable(table)
        logic.showTable(table)

    @door
    def onExportDicom(self) -> None:
        """Open Slicer's DICOM export at the study of the result."""
        logging.info("DiffuGTS: export DICOM")
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        item = hierarchy.GetItemByDataNode(self.state.segmentation)
        study = hierarchy.GetItemAncestorAtLevel(item, "Study") if item else 0
        if not study:
            raise InputError(
                _("The scan belongs to no patient and study."),
                hint=_("in the Data module, put scan and segmentation under a patient and a study, then export."),
                code="no_study",
            )
        dialog = slicer.qSlicerDICOMExportDialog(None)
        dialog.setMRMLScene(slicer.mrmlScene)
        dialog.execDialog(study)


def openSegmentEditor(segmentationNode: Any, segmentId: str, scanNode: Any) -> None:
    """Switch to the Segment Editor with a segment and its scan chosen."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentationNode)
    editor.setSourceVolumeNode(scanNode)
    editor.setCurrentSegmentID(segmentId)
