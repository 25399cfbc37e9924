"""A reading session of one reader: current case, answers, reading times, and the scan in the scene.

Works without the panel. None of the files that it reads tells which scans are real.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.reader_study.answers import (
    Answer,
    AnswerSheet,
    SessionCard,
    checked_reader,
    read_answers,
    read_session,
    write_answers,
)
from DiffuGTSLib.volumes.io import read_volume
from DiffuGTSSlicer import slice_views

CASE_ATTRIBUTE = "DiffuGTS.ReadingCase"
"""Attribute of a case's volume node, so that one in a saved scene is found and removed."""
_HIDDEN = "DiffuGTS.HiddenWhileReading"
"""Attribute of display nodes that `hideRest` has hidden."""
_DRAWN = ("vtkMRMLSegmentationDisplayNode", "vtkMRMLMarkupsDisplayNode", "vtkMRMLModelDisplayNode")


class ReaderSession:
    """The progress of a reader in a session. Every answer is saved before the next case is shown.

    Attributes:
        card: Description of the session.
        reader: The reader's name.
        path: File of the answers, in the session's folder.
        case: Number of the current case; 0 when all are answered.
    """

    def __init__(self, folder: Path | str, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Open a session and continue where this reader stopped.

        Raises:
            InputError: If the folder has no session, the name is not valid, or the answers file is another reader's.
            StorageError: If answers cannot be written there.
        """
        self.folder = Path(folder)
        self.card: SessionCard = read_session(folder)
        self.reader = checked_reader(reader)
        word = re.sub(r"\W+", "_", self.reader)
        self.path = self.folder / f"answers_{word}.json"
        self._clock = clock
        self._since: float | None = None
        self._spent: dict[int, float] = {}
        self._onDisk = self._file()
        self._answers = self._readAnswers()
        self._save()
        self.case = self._firstOpen()

    @property
    def count(self) -> int:
        """Number of cases."""
        return len(self.card.files)

    @property
    def answered(self) -> int:
        """Number of answered cases."""
        return len(self._answers)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers, sorted by case."""
        return tuple(sorted(self._answers.values(), key=lambda answer: answer.case))

    @property
    def timeS(self) -> float:
        """How long the current case has been shown, in seconds."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._spent.get(self.case, 0.0) + running

    def file(self) -> Path:
        """Return the file of the current case."""
        return self.folder / self.card.files[self.case - 1]

    def start(self) -> None:
        """Start the clock: the scan is shown."""
        if self.case and self._since is None:
            self._since = self._clock()

    def stop(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self._spent[self.case] = self.timeS
            self._since = None

    def answer(self, word: str) -> None:
        """Save an answer to the current case and go to the next one without an answer.

        Raises:
            InputError: If the answers file was changed elsewhere meanwhile (code "elsewhere").
            StorageError: If the answer cannot be saved; the case then stays unanswered.
        """
        if not self.case:
            return
        self.stop()
        self._answers[self.case] = Answer(self.case, word, round(self._spent.get(self.case, 0.0), 1))
        try:
            self._save()
        except BaseException:
            del self._answers[self.case]
            self.start()  # the case is still shown
            raise
        self.case = self._firstOpen()

    def back(self) -> None:
        """Undo the last answer and go to its case.

        Raises:
            InputError: If the answers file was changed elsewhere meanwhile (code "elsewhere").
            StorageError: If that cannot be saved; the answer then stays.
        """
        if not self._answers:
            return
        self.stop()
        case, taken = list(self._answers.items())[-1]
        del self._answers[case]
        try:
            self._save()
        except BaseException:
            self._answers[case] = taken
            self.start()
            raise
        self.case = case

    def _firstOpen(self) -> int:
        return next((number for number in range(1, self.count + 1) if number not in self._answers), 0)

    def _readAnswers(self) -> dict[int, Answer]:
        if not self.path.exists():
            return {}
        sheet = read_answers(self.path)
        if sheet.reader != self.reader or sheet.session != self.card.session:
            raise InputError(
                _("{file} holds answers of {reader} to another session, or of another reader.").format(
                    file=self.path.name, reader=sheet.reader
                ),
                hint=_("choose another name, or move that file."),
                code="reader",
            )
        kept = {answer.case: answer for answer in sheet.answers if answer.case <= self.count}
        self._spent = {case: answer.time_s for case, answer in kept.items()}
        return kept

    def _file(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def _save(self) -> None:
        if self._file() not in (None, self._onDisk):  # the same reader may use another computer, too
            raise InputError(
                _("{file} was changed elsewhere meanwhile, and is not overwritten.").format(file=self.path.name),
                hint=_("close the session and open it again: it then continues after those answers."),
                code="elsewhere",
            )
        write_answers(AnswerSheet(self.card.session, self.reader, self.answers), self.path)
        self._onDisk = self._file()


def showCase(session: ReaderSession) -> Any:
    """Show the current case alone and return its volume node; the previous case is removed, even if this fails.

    The node has a number and voxels, but no storage node and no file name.

    Raises:
        InputError: If the scan cannot be read.
    """
    removeCases()
    volume = read_volume(session.file())
    hideRest()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("Case {number}").format(number=session.case))
    node.SetAttribute(CASE_ATTRIBUTE, str(session.case))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(volume.geometry.ijk_to_ras))
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(volume.array.T.astype(np.int16)))
    node.CreateDefaultDisplayNodes()
    if session.card.window is not None:
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(*session.card.window)
    slicer.util.setSliceViewerLayers(background=node, foreground=None, label=None, fit=True)
    return node


def removeCases() -> None:
    """Remove all cases from the scene, also those of a saved scene, and show hidden nodes again."""
    for node in _cases():
        slicer.mrmlScene.RemoveNode(node)
    for shown in _displays():
        if shown.GetAttribute(_HIDDEN) is not None:
            shown.RemoveAttribute(_HIDDEN)
            shown.SetVisibility(True)


def isCaseInView() -> bool:
    """Return whether a slice view of the layout shows a case."""
    return any(slice_views.isInView(node) for node in _cases())


def hideRest() -> None:
    """Hide segmentations, markups and models until `removeCases`: they belong to other scans."""
    for shown in _displays():
        if shown.GetVisibility():
            shown.SetAttribute(_HIDDEN, "1")
            shown.SetVisibility(False)


def _cases() -> list[Any]:
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(CASE_ATTRIBUTE) is not None]


def _displays() -> list[Any]:
    """Return display nodes that may draw over a slice, without those of Slicer's hidden helper nodes."""
    displays = [each for kind in _DRAWN for each in slicer.util.getNodesByClass(kind)]
    nodes = [(each, each.GetDisplayableNode()) for each in displays]
    return [each for each, node in nodes if node is not None and not node.GetHideFromEditors()]
