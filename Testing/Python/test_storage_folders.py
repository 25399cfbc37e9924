"""A folder of results arrives whole, or the earlier one stays: also where a run is killed while it moves."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.storage import copy_contents, mend_folder, new_folder, require_folder_for, whole_folder

NAMES = ("a", "b", "only new", "record")


def killed(folder: Path, after: int, earlier: bool = True) -> Path:
    """Move a result in over an earlier one, die after some moves, and return what is left of the staging folder."""
    folder.mkdir()
    for name in ("a", "b", "record") if earlier else ():
        (folder / name).write_text("earlier")
    pid = os.fork()
    if not pid:
        moved, real = iter(range(after)), os.replace

        def replace(source: Path, target: Path) -> None:
            if next(moved, None) is None:
                os._exit(9)
            real(source, target)

        os.replace = replace  # type: ignore[assignment]
        with whole_folder(folder, NAMES) as staging:
            for name in NAMES:
                (staging / name).write_text("new")
        os._exit(0)
    os.waitpid(pid, 0)
    (left,) = folder.glob(".diffugts-*")
    return left


@pytest.mark.parametrize("after", range(8))
def test_a_signal_right_after_a_move_loses_nothing_of_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    for name in ("a", "b", "record"):
        (tmp_path / name).write_text("earlier")
    real, moved = os.replace, iter(range(after))

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if next(moved, None) is None:
            monkeypatch.setattr(os, "replace", real)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path, NAMES) as staging:
        for name in NAMES:
            (staging / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("a", "b", "record"), "earlier"
    )


@pytest.mark.parametrize(("earlier", "after"), [(3, after) for after in range(8)] + [(0, after) for after in range(5)])
@pytest.mark.parametrize("back", range(3))
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")], ids=["stop", "disk"])
def test_what_stops_the_putting_back_loses_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, earlier: int, after: int, back: int
) -> None:
    """A second signal, or a disk that fails, while the first one's harm is undone; the next run does the rest."""
    folder, before = tmp_path / "result", dict.fromkeys(("a", "b", "record")[:earlier], "earlier")
    folder.mkdir()
    for name in before:
        (folder / name).write_text("earlier")
    real, moves = os.replace, iter(range(100))

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if next(moves) in (after, after + 1 + back):
            raise error

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((KeyboardInterrupt, StorageError)), whole_folder(folder, NAMES) as staging:
        for name in NAMES:
            (staging / name).write_text("new")
    monkeypatch.undo()
    for left in folder.glob(".diffugts-*"):
        aged(left, 100)
    mend_folder(folder, "record", NAMES)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_what_went_wrong_is_said_where_another_run_has_begun_in_the_same_new_folder(tmp_path: Path) -> None:
    """As another task of a job array does: the folder above is no longer empty, and stays."""
    with pytest.raises(StorageError, match="No space left"), whole_folder(tmp_path / "new" / "mine", NAMES):
        (tmp_path / "new" / "another").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["another"]


def aged(staging: Path, seconds: float) -> None:
    for path in (staging, *staging.iterdir()):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("earlier", [True, False], ids=["over an earlier result", "into an empty folder"])
@pytest.mark.parametrize("after", range(8))
def test_what_a_killed_run_had_put_aside_is_put_back_by_the_next_one(tmp_path: Path, after: int, earlier: bool) -> None:
    folder = tmp_path / "result"
    if not earlier and after > 4:
        pytest.skip("there are not so many moves")
    aged(killed(folder, after, earlier), 100)
    mend_folder(folder, "record", NAMES)
    left = {path.name: path.read_text() for path in folder.iterdir()}
    assert left == (dict.fromkeys(("a", "b", "record"), "earlier") if earlier else {})
    require_folder_for(folder, "record", True, "", NAMES)
    with whole_folder(folder, NAMES) as staging:
        (staging / "record").write_text("third")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"record": "third"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_run_that_may_still_be_moving_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "result"
    left = killed(folder, 2)
    with pytest.raises(StorageError, match="another run is moving its result in, or was killed") as caught:
        require_folder_for(folder, "record", True, "", NAMES)
    assert "wait a minute" in caught.value.hint
    assert left.is_dir() and not (folder / "record").exists()
    aged(left, 100)
    require_folder_for(folder, "record", True, "", NAMES)
    assert (folder / "record").read_text() == "earlier" and not left.exists()


def test_what_killed_runs_left_is_removed_and_a_run_that_writes_is_left_alone(tmp_path: Path) -> None:
    stale, busy, done = (tmp_path / f".diffugts-{name}" for name in ("stale", "busy", "done"))
    for staging in (stale, busy, done):
        staging.mkdir()
        (staging / "a").write_text("half")
    (done / "earlier").mkdir()  # it was killed after its record had arrived
    (tmp_path / "record").write_text("whole")
    aged(stale, 25 * 3600)
    aged(busy, 3600)
    aged(done, 100)
    require_folder_for(tmp_path, "record", True, "", NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [busy.name, "record"]
    mend_folder(tmp_path / "absent", "record", NAMES)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "new"
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as lent:
        (lent / "part").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "above").iterdir()) == []
    with new_folder(folder) as lent:
        (lent / "part").touch()
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["part"] and list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_becomes_the_new_one_and_a_full_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    with new_folder(folder) as lent:
        (lent / "first").touch()
    with pytest.raises(StorageError, match="Cannot write to .*new: Directory not empty") as caught, new_folder(folder):
        pass
    assert "choose another folder" in caught.value.hint
    assert [path.name for path in folder.iterdir()] == ["first"] and list(tmp_path.iterdir()) == [folder]


def test_a_copy_has_the_rights_of_anything_new_there_not_those_of_a_read_only_disk(tmp_path: Path) -> None:
    source, target = tmp_path / "disk", tmp_path / "copy"
    (source / "part").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "part" / "weights").write_text("numbers")
    read_only = [source / "part" / "weights", source / "part", source]
    for path in read_only:
        path.chmod(0o500 if path.is_dir() else 0o400)
    target.mkdir()
    try:
        copy_contents(source, target)
    finally:
        for path in read_only:
            path.chmod(0o700)
    assert (target / "part" / "weights").read_text() == "numbers" and (target / "empty").is_dir()
    (tmp_path / "new").mkdir()
    assert (target / "part").stat().st_mode == (tmp_path / "new").stat().st_mode
    assert (target / "part" / "weights").stat().st_mode & 0o200, "so that it can be removed"
