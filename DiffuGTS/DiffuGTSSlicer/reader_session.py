"""One reader at one reading session: which case, what was answered, for how long, and the scan in the scene.

Works without the panel. The truth is in none of the files that are read here.
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
"""Marks the volume of a case, so that one in a scene that was saved in between is found and removed."""
_HIDDEN = "DiffuGTS.HiddenWhileReading"
"""Attribute of the display of what `hideRest` has hidden."""
_DRAWN = ("vtkMRMLSegmentationDisplayNode", "vtkMRMLMarkupsDisplayNode", "vtkMRMLModelDisplayNode")


class ReaderSession:
    """A reader's way through a session. Every answer is on the disk before the next case is shown.

    Attributes:
        card: Of the session.
        reader: The reader's name.
        path: The file of the answers, in the session's folder.
        case: Number of the case that is read now; 0 when all are answered.
    """

    def __init__(self, folder: Path | str, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Open a session and go on where this reader left it.

        Raises:
            InputError: If the folder holds no session, the name is none, or the file of its answers is another's.
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
        """How many cases there are."""
        return len(self.card.files)

    @property
    def answered(self) -> int:
        """How many of them are answered."""
        return len(self._answers)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers by case."""
        return tuple(sorted(self._answers.values(), key=lambda answer: answer.case))

    @property
    def timeS(self) -> float:
        """How long the case has been in view, seconds."""
        running = 0.0 if self._since is None else self._clock() - self._since
        return self._spent.get(self.case, 0.0) + running

    def file(self) -> Path:
        """Return the scan of the case that is read now."""
        return self.folder / self.card.files[self.case - 1]

    def start(self) -> None:
        """Let the clock run: the scan is in view."""
        if self.case and self._since is None:
            self._since = self._clock()

    def stop(self) -> None:
        """Stop the clock."""
        if self._since is not None:
            self._spent[self.case] = self.timeS
            self._since = None

    def answer(self, word: str) -> None:
        """Answer the case and go on to the next that is open.

        Raises:
            InputError: If answers were given elsewhere meanwhile (code "elsewhere").
            StorageError: If the answer cannot be kept; the case is then still open.
        """
        if not self.case:
            return
        self.stop()
        self._answers[self.case] = Answer(self.case, word, round(self._spent.get(self.case, 0.0), 1))
        try:
            self._save()
        except BaseException:
            del self._answers[self.case]
            self.start()  # the case is still in view
            raise
        self.case = self._firstOpen()

    def back(self) -> None:
        """Take the last answer back and go to its case.

        Raises:
            InputError: If answers were given elsewhere meanwhile (code "elsewhere").
            StorageError: If that cannot be kept; the answer then stays.
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
        if self._file() not in (None, self._onDisk):  # the same reader sits at another computer, too
            raise InputError(
                _("{file} holds answers that were given elsewhere meanwhile: they were not written over.").format(
                    file=self.path.name
                ),
                hint=_("close the session and open it again: it then goes on after them."),
                code="elsewhere",
            )
        write_answers(AnswerSheet(self.card.session, self.reader, self.answers), self.path)
        self._onDisk = self._file()


def showCase(session: ReaderSession) -> Any:
    """Show the case that is read now, alone, and return its volume node; the case before is gone, even if it fails.

    The node knows number and voxels only: no file, no storage node.

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
    """Take every case out of the scene, one of an earlier reading in a saved scene too, and show the rest again."""
    for node in _cases():
        slicer.mrmlScene.RemoveNode(node)
    for shown in _displays():
        if shown.GetAttribute(_HIDDEN) is not None:
            shown.RemoveAttribute(_HIDDEN)
            shown.SetVisibility(True)


def isCaseInView() -> bool:
    """Say whether a case is in the scene and a slice view of the layout shows it."""
    return any(slice_views.isInView(node) for node in _cases())


def hideRest() -> None:
    """Hide outlines, points and surfaces until `removeCases`: over a case they would be those of another scan."""
    for shown in _displays():
        if shown.GetVisibility():
            shown.SetAttribute(_HIDDEN, "1")
            shown.SetVisibility(False)


def _cases() -> list[Any]:
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(CASE_ATTRIBUTE) is not None]


def _displays() -> list[Any]:
    """Return the displays of what may be drawn over a slice; Slicer's own helpers, as its slices in 3D, are none of them."""
    displays = [each for kind in _DRAWN for each in slicer.util.getNodesByClass(kind)]
    nodes = [(each, each.GetDisplayableNode()) for each in displays]
    return [each for each, node in nodes if node is not None and not node.GetHideFromEditors()]
