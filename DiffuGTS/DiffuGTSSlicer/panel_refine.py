"""Refine: edit the candidate region, or create it from the AOVA map, and run repainting and refinement again."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer import display
from DiffuGTSSlicer.boxed_mask import BoxedMask
from DiffuGTSSlicer.grids import requireWritable, segmentBox
from DiffuGTSSlicer.ownership import hideAndRename, userOwnedReason
from DiffuGTSSlicer.panel_modules import SEGMENT_EDITOR, absence, openSegmentEditor
from DiffuGTSSlicer.panel_section import Section, showsErrors
from DiffuGTSSlicer.parameters import RunParameters
from DiffuGTSSlicer.result_set import belongsToScan
from DiffuGTSSlicer.scene import CANDIDATE_COLOR, SEMIAUTOMATIC, newSegmentation, showMask


class RefineSection(Section):
    """Edit the candidate region, or create it from the AOVA map, and run the later steps again."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        ui = self.ui
        self.messageLabel = ui.refineMessageLabel
        self._editTip = ui.editCandidateButton.toolTip
        ui.showCandidateCheckBox.connect("toggled(bool)", self.onShow)
        ui.editCandidateButton.connect("clicked()", self.onEdit)
        ui.candidateFromThresholdButton.connect("clicked()", self.onFromThreshold)
        ui.refineButton.connect("clicked()", self.onRefine)

    def refresh(self) -> None:
        """Enable the buttons that apply."""
        ui, state, isRunning = self.ui, self.state, self.logic.isRunning
        hasScan = state is not None and state.inputVolume is not None
        isOfThisScan = hasScan and state.resultVolume is state.inputVolume
        hasCandidate = hasScan and bool(self._segments()) and belongsToScan(state.candidate, state.inputVolume)
        noEditor = absence(SEGMENT_EDITOR)
        ui.editCandidateButton.enabled = hasScan and not isRunning and not noEditor
        ui.editCandidateButton.setToolTip(noEditor or self._editTip)
        ui.candidateFromThresholdButton.enabled = isOfThisScan and state.aova is not None and not isRunning
        ui.refineButton.enabled = hasCandidate and not isRunning and not self.panel.run.obstacle()
        ui.showCandidateCheckBox.enabled = hasCandidate
        display_ = state.candidate.GetDisplayNode() if hasCandidate else None
        self._check(display_ is not None and bool(display_.GetVisibility()))

    def _segments(self) -> list[str]:
        """Return the segment IDs of the candidate region; none if there is no candidate region."""
        candidate = None if self.state is None else self.state.candidate
        return [] if candidate is None else list(candidate.GetSegmentation().GetSegmentIDs())

    def _check(self, isShown: bool) -> None:
        box = self.ui.showCandidateCheckBox
        wasBlocked = box.blockSignals(True)
        box.setChecked(isShown)
        box.blockSignals(wasBlocked)

    def onEvent(self, event: dict[str, Any]) -> None:
        """Follow a run."""
        if event["event"] == "done":
            self.reset()

    def reset(self) -> None:
        """Hide the candidates once the tumor is segmented: two nearly identical outlines are hard to read."""
        super().reset()
        state = self.state
        if state is not None and state.candidate is not None and state.segmentation is not None:
            display.showSegments(state.candidate, False)

    def onShow(self, isOn: bool) -> None:
        """Show or hide the candidate region."""
        if self.state is not None and self.state.candidate is not None:
            display.showSegments(self.state.candidate, isOn)

    @showsErrors
    def onEdit(self) -> None:
        """Open the candidate region in the Segment Editor; create an empty one if there is none."""
        logging.info("DiffuGTS: edit candidate")
        state = self.state
        self._ensureCandidate()
        openSegmentEditor(state.candidate, state.candidateSegmentId, state.inputVolume)

    @showsErrors
    def onFromThreshold(self) -> None:
        """Create the candidate region from the AOVA map at or above the threshold of Review; an edited one is kept."""
        logging.info("DiffuGTS: candidate from threshold")
        state = self.state
        if not belongsToScan(state.aova, state.inputVolume):
            raise InputError(
                _("The map belongs to another time point than the one shown."),
                hint=_("go back to that time point, or segment this one."),
                code="time_point",
            )
        mask = slicer.util.arrayFromVolume(state.aova) >= np.float32(state.overlayThreshold)
        if not mask.any():
            raise InputError(
                _("Nothing lies above the threshold."), hint=_("lower the threshold under Review."), code="threshold"
            )
        self._ensureCandidate()
        requireWritable(state.candidate)  # before another segment is hidden and renamed
        message = self._keepUserCandidate()
        state.candidateSegmentId = showMask(
            BoxedMask.of(mask),
            state.inputVolume,
            state.candidate,
            _("Candidate region"),
            RunParameters.fromNode(state).namedOrgan,
            segmentId=state.candidateSegmentId,
            color=CANDIDATE_COLOR,
            algorithmType=SEMIAUTOMATIC,
        )
        self.showMessage(message)

    def _keepUserCandidate(self) -> str:
        """Hide and keep a candidate that the user has drawn or reviewed; return a message about it."""
        state = self.state
        where = (state.candidate, state.candidateSegmentId, state.inputVolume)
        stored = segmentBox(*where)
        isEmpty = stored is not None and not stored.voxels.size
        why = "" if isEmpty else userOwnedReason(*where)
        if not why:
            return ""
        state.candidateSegmentId = ""
        return hideAndRename(*where[:2], why)

    @showsErrors
    def onRefine(self) -> None:
        """Run repainting and outlining again."""
        logging.info("DiffuGTS: refine")
        self.panel.run.startRefinement()

    def _ensureCandidate(self) -> None:
        """Ensure that there is a candidate segment of this scan, and show it."""
        state = self.state
        if state.candidate is None or not belongsToScan(state.candidate, state.inputVolume):
            name = _("{scan} candidate region").format(scan=state.inputVolume.GetName())
            state.candidate = newSegmentation(state.inputVolume, name)
        segments = self._segments()
        if state.candidateSegmentId not in segments and len(segments) == 1:  # deleted, and another one drawn
            state.candidateSegmentId = segments[0]
        elif state.candidateSegmentId not in segments:
            segmentation = state.candidate.GetSegmentation()
            state.candidateSegmentId = segmentation.AddEmptySegment("", _("Candidate region"), CANDIDATE_COLOR)
        display.showSegments(state.candidate, True)
        self._check(True)
