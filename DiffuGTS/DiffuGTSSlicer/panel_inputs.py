"""Inputs and prompts: the scan, the region to search, and the two sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.text.prompts import organs
from DiffuGTSSlicer.organ_words import organWord, withCapital
from DiffuGTSSlicer.panel_section import ChoiceBox, Section, showsErrors
from DiffuGTSSlicer.parameters import DEFAULT_ORGAN, RunParameters, applyOrgan, promptFault
from DiffuGTSSlicer.patients import noteScan
from DiffuGTSSlicer.region import fitRoi, newRoi
from DiffuGTSSlicer.settings import ORGAN_KEY, setSetting, setting

OWN_SENTENCES = ""


class InputsSection(Section):
    """Volume, modality, region of interest and organ segment; node selectors are bound in the `.ui`."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        modalities = [("", _("Guess from the scan")), ("CT", _("CT")), ("MR", _("MR"))]
        self._chosenIn: Any = None
        self._modality = ChoiceBox(self.ui.modalityComboBox, modalities, self._chooseModality)
        self._segment = ChoiceBox(self.ui.organSegmentComboBox, [], self._chooseSegment)
        self.ui.fitRoiButton.connect("clicked()", self.onFitRoi)

    def refresh(self) -> None:
        """Update modality and segments."""
        state = self.state
        self.ui.inputsCollapsibleButton.enabled = state is not None
        if state is None:
            self._chosenIn = None
            return
        self._modality.show(state.modality)
        segments = self._segments()
        self._segment.offer(segments)
        self.ui.organSegmentComboBox.enabled = bool(segments)
        for widget in (self.ui.organSegmentLabel, self.ui.organSegmentComboBox):
            widget.setVisible(bool(segments))
        if segments:  # without any, a choice waits for its segmentation
            self._chooseFirst([segmentId for segmentId, _name in segments])
        self._segment.show(state.organSegmentId)
        ui = self.ui
        ui.fitRoiButton.enabled = state.inputVolume is not None
        ui.fitRoiButton.setText(_("Fit to organ") if segments else _("Fit to scan"))
        ui.fitMarginSpinBox.enabled = bool(segments)

    def _chooseFirst(self, known: list[str]) -> None:
        """Select the first segment if another segmentation was selected, or no segment yet.

        A selected segment that was deleted stays selected, and a run is refused: it would silently search another organ.
        """
        state, before = self.state, self._chosenIn
        self._chosenIn = state.organSegmentation
        isNew = before is not None and before is not state.organSegmentation
        if not state.organSegmentId or (isNew and state.organSegmentId not in known):
            state.organSegmentId = known[0]

    def _segments(self) -> list[tuple[str, str]]:
        node = self.state.organSegmentation
        if node is None:
            return []
        segmentation = node.GetSegmentation()
        return [(each, segmentation.GetSegment(each).GetName()) for each in segmentation.GetSegmentIDs()]

    @showsErrors
    def _chooseModality(self, modality: str) -> None:
        """Set the modality; built-in prompts are adapted to it."""
        if self.state is None:
            return
        builtIn = self.state.organ and not self.panel.prompts.areEdited
        self.state.modality = modality
        if builtIn:
            applyOrgan(self.state, self.state.organ)

    def _chooseSegment(self, segmentId: str) -> None:
        if self.state is not None:
            self.state.organSegmentId = segmentId

    @showsErrors
    def onFitRoi(self) -> None:
        """Fit the region of interest to the organ or the whole scan; create one if there is none."""
        logging.info("DiffuGTS: fit region of interest")
        state = self.state
        isNew = state.roi is None
        roi = newRoi(state.inputVolume) if isNew else state.roi
        try:
            fitRoi(
                roi, state.inputVolume, state.organSegmentation, state.organSegmentId, self.ui.fitMarginSpinBox.value
            )
        except DiffuGTSError:
            if isNew:
                slicer.mrmlScene.RemoveNode(roi)
            raise
        noteScan(roi, state.inputVolume)
        state.roi = roi


class PromptsSection(Section):
    """Organ and prompts. They are not bound by Slicer, whose binding resets the cursor at every keystroke."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        choices = [(OWN_SENTENCES, _("Own sentences")), *((name, withCapital(organWord(name))) for name in organs())]
        self._organ = ChoiceBox(self.ui.organComboBox, choices, self._chooseOrgan)
        self._edits = {"normalPrompt": self.ui.normalPromptEdit, "abnormalPrompt": self.ui.abnormalPromptEdit}
        for name, edit in self._edits.items():
            edit.connect("textChanged()", self._keeper(name, edit))
        self.ui.resetPromptsButton.connect("clicked()", self.onReset)

    def _keeper(self, name: str, edit: Any) -> Callable[[], None]:
        def keep() -> None:
            if self.state is not None:
                setattr(self.state, name, edit.plainText)

        return keep

    @property
    def areEdited(self) -> bool:
        """Whether the prompts differ from the organ's built-in ones."""
        if self.state is None or promptFault(self.state) is not None:
            return True
        return "organ" not in RunParameters.fromNode(self.state).jobPrompts()

    def refresh(self) -> None:
        """Update organ and prompts, and show problems with the prompts."""
        state = self.state
        self.ui.promptsCollapsibleButton.enabled = state is not None
        if state is None:
            return
        self._organ.show(state.organ)
        for name, edit in self._edits.items():
            self._show(edit, getattr(state, name))
        fault = promptFault(state)
        self.ui.promptHintLabel.setText("" if fault is None else str(fault))
        self.ui.resetPromptsButton.enabled = bool(state.organ) and self.areEdited

    @staticmethod
    def _show(edit: Any, text: str) -> None:
        """Set a text without emitting a signal; an equal text is left alone, since the user may be typing."""
        if edit.plainText != text:
            wasBlocked = edit.blockSignals(True)
            edit.setPlainText(text)
            edit.blockSignals(wasBlocked)

    @showsErrors
    def _chooseOrgan(self, organ: str) -> None:
        """Set the organ with its prompts, and remember it for new scenes."""
        if self.state is not None:
            applyOrgan(self.state, organ)
            if organ:
                setSetting(ORGAN_KEY, organ)

    @showsErrors
    def onReset(self) -> None:
        """Restore the organ's built-in prompts."""
        if self.state is not None and self.state.organ:
            applyOrgan(self.state, self.state.organ)


def lastOrgan() -> str:
    """Return the last selected organ from the application settings, or the default."""
    organ = setting(ORGAN_KEY)
    return organ if organ in organs() else DEFAULT_ORGAN
