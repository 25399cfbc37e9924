"""A reader's way through a session, without the panel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer.reader_session import CASE_ATTRIBUTE, ReaderSession, removeCases, showCase

from DiffuGTSLib.errors import InputError, StorageError
from DiffuGTSLib.reader_study.answers import SessionCard, read_answers, session_record
from DiffuGTSLib.volumes.io import write_volume
from DiffuGTSLib.volumes.volume import Geometry, Volume

SESSION = "0123456789abcdef"


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        """Return what it shows."""
        return self.now


def write_session(folder: Path, count: int = 3, window: tuple[float, float] | None = (-160.0, 240.0)) -> Path:
    """Write a session whose case n has the value n in its first voxel."""
    folder.mkdir(exist_ok=True)
    files = tuple(f"case_{n}.nii" for n in range(1, count + 1))
    for number, name in enumerate(files, start=1):
        array = np.random.default_rng(number).integers(-100, 200, (12, 10, 8)).astype(np.int16)
        array[0, 0, 0] = number
        write_volume(
            Volume(array, Geometry.from_spacing((12, 10, 8), (1.0, 1.0, 2.0))), folder / name, compressed=False
        )
    card = SessionCard(SESSION, "Liver", "CT", window, "HU", files)
    (folder / "session.json").write_text(json.dumps(session_record(card)))
    return folder


@pytest.fixture
def a_session(tmp_path: Path) -> Path:
    """A session of three cases."""
    return write_session(tmp_path / "session")


@pytest.fixture
def a_clock() -> Clock:
    """A clock that stands still."""
    return Clock()


def cases() -> list[Any]:
    """Return the volumes of cases in the scene."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(CASE_ATTRIBUTE) is not None]


def test_answers_are_on_the_disk_before_the_next_case(a_session: Path, a_clock: Clock) -> None:
    session = ReaderSession(a_session, " R 1 ", a_clock)
    assert (session.reader, session.case, session.answered, session.count) == ("R 1", 1, 0, 3)
    session.start()
    a_clock.now += 12.34
    assert session.timeS == pytest.approx(12.34)
    session.answer("synthetic")
    assert session.path == a_session / "answers_R_1.json"
    sheet = read_answers(session.path)
    assert (sheet.session, sheet.reader) == (SESSION, "R 1")
    assert [(a.case, a.answer, a.time_s) for a in sheet.answers] == [(1, "synthetic", 12.3)]
    assert session.case == 2 and session.timeS == 0


def test_the_clock_goes_on_where_an_answer_cannot_be_kept(
    a_session: Path, a_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = ReaderSession(a_session, "R1", a_clock)

    def full(*_: Any) -> None:
        raise StorageError("The disk is full.")

    for go_on in (lambda: session.answer("real"), session.back):
        session.start()
        a_clock.now += 1
        with monkeypatch.context() as patch, pytest.raises(StorageError):
            patch.setattr("DiffuGTSSlicer.reader_session.write_answers", full)
            go_on()
        a_clock.now += 2
        assert session.timeS == 3.0
        session.answer("real")
        assert session.answers[-1].time_s == 3.0


def test_the_clock_runs_while_the_case_is_in_view(a_session: Path, a_clock: Clock) -> None:
    session = ReaderSession(a_session, "R1", a_clock)
    session.start()
    a_clock.now += 5
    session.stop()
    a_clock.now += 100
    session.start()
    session.start()
    a_clock.now += 2
    session.answer("real")
    assert read_answers(session.path).answers[0].time_s == 7


def test_time_goes_on_where_an_answer_is_taken_back(a_session: Path, a_clock: Clock) -> None:
    session = ReaderSession(a_session, "R1", a_clock)
    session.start()
    a_clock.now += 5
    session.answer("real")
    session.back()
    assert session.case == 1 and read_answers(session.path).answers == ()
    session.start()
    a_clock.now += 3
    session.answer("unsure")
    assert [(a.answer, a.time_s) for a in session.answers] == [("unsure", 8)]
    session.back()
    session.back()
    assert session.case == 1


def test_a_reader_goes_on_where_he_left(a_session: Path) -> None:
    for word in ("real", "unsure"):
        ReaderSession(a_session, "R1").answer(word)
    assert ReaderSession(a_session, "R1").case == 3
    assert ReaderSession(a_session, "R2").case == 1
    session = ReaderSession(a_session, "R1")
    session.answer("synthetic")
    assert session.case == 0 and session.answered == 3
    session.answer("real")
    assert session.answered == 3, "a finished session takes no answer"


def test_answers_of_others_are_not_touched(a_session: Path) -> None:
    ReaderSession(a_session, "R.1").answer("real")
    with pytest.raises(InputError, match="answers of R.1") as caught:
        ReaderSession(a_session, "R-1")
    assert caught.value.code == "reader"
    with pytest.raises(InputError, match="reader's name"):
        ReaderSession(a_session, "")


def test_answers_given_elsewhere_meanwhile_are_not_written_over(a_session: Path) -> None:
    here, elsewhere = ReaderSession(a_session, "R1"), ReaderSession(a_session, "R1")
    elsewhere.answer("synthetic")
    elsewhere.answer("unsure")
    for _again in range(2):
        with pytest.raises(InputError, match="changed elsewhere") as caught:
            here.answer("real")
        assert caught.value.code == "elsewhere" and (here.case, here.answered) == (1, 0)
    elsewhere.back()
    assert [a.answer for a in read_answers(here.path).answers] == ["synthetic"]
    again = ReaderSession(a_session, "R1")
    again.answer("real")
    with pytest.raises(InputError, match="changed elsewhere"):
        elsewhere.back()
    assert [a.answer for a in read_answers(here.path).answers] == ["synthetic", "real"]


def test_what_cannot_be_kept_is_not_taken(a_session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ReaderSession(a_session, "R1")
    session.answer("real")
    whole, session.path = session.path, a_session / "gone" / "answers.json"
    with pytest.raises(StorageError):
        session.answer("real")
    assert (session.case, session.answered) == (2, 1)
    with pytest.raises(StorageError):
        session.back()
    assert (session.case, session.answered) == (2, 1)
    session.path = whole
    session.answer("real")
    assert session.answered == 2


def test_one_case_is_in_the_scene_with_number_and_voxels_only(a_scene: Any, a_session: Path) -> None:
    session = ReaderSession(a_session, "R1")
    showCase(session)
    session.answer("real")
    node = showCase(session)
    assert cases() == [node] and node.GetName() == "Case 2"
    array = slicer.util.arrayFromVolume(node)
    assert array.dtype == np.int16 and array.shape == (8, 10, 12) and array[0, 0, 0] == 2
    assert node.GetStorageNode() is None and node.GetSpacing() == pytest.approx((1, 1, 2))
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (-160, 240)
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == node.GetID() and not composite.GetForegroundVolumeID()


def test_the_scene_holds_no_path_and_no_answer(a_scene: Any, a_session: Path, tmp_path: Path) -> None:
    session = ReaderSession(a_session, "R1")
    session.answer("synthetic")
    showCase(session)
    slicer.mrmlScene.SetSaveToXMLString(1)
    slicer.mrmlScene.Commit()
    text = str(slicer.mrmlScene.GetSceneXMLString())
    slicer.mrmlScene.SetSaveToXMLString(0)
    assert "Case 2" in text
    assert not [word for word in (str(a_session), "case_2.nii", "synthetic", SESSION, 'R1"') if word in text]


def test_a_case_of_a_saved_scene_is_removed(a_scene: Any, a_session: Path) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Case 7")
    node.SetAttribute(CASE_ATTRIBUTE, "7")
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    shown = showCase(ReaderSession(a_session, "R1"))
    assert cases() == [shown]
    removeCases()
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == [other]


def test_a_session_without_a_window_is_shown_by_the_scans_own(a_scene: Any, tmp_path: Path) -> None:
    node = showCase(ReaderSession(write_session(tmp_path / "mr", window=None), "R1"))
    assert node.GetDisplayNode().GetAutoWindowLevel()
