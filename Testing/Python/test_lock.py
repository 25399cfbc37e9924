"""Two trainings of one part of a run: the second one is told who is there, and a killed one leaves no lock."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import filelock
import pytest

from DiffuGTSLib.errors import StorageError
from DiffuGTSLib.training import lock
from DiffuGTSLib.training.lock import alone_in

A_TRAINING = """
import sys, time
from pathlib import Path
from DiffuGTSLib.training.lock import alone_in
with alone_in(Path(sys.argv[1]), print):
    print("training", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_told_who_is_there_and_what_to_do(tmp_path: Path) -> None:
    folder, said = tmp_path / "run" / "aova", []
    with (
        alone_in(folder, said.append),
        pytest.raises(StorageError, match=rf"Another training writes into .*aova: process {os.getpid()} on ") as caught,
        alone_in(folder, said.append),
    ):
        pass
    assert "end it" in caught.value.hint and "another folder" in caught.value.hint
    with alone_in(folder, said.append), alone_in(folder.with_name("residual"), said.append):
        assert said == [], "whoever was first has ended; another part is another folder"


def test_a_killed_training_leaves_no_lock(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", A_TRAINING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        assert other.stdout is not None and other.stdout.readline() == "training\n"
        with pytest.raises(StorageError, match=f"process {other.pid} on"), alone_in(tmp_path, print):
            pass
        other.kill()
    with alone_in(tmp_path, print):
        pass


def test_who_has_not_said_its_name_yet_is_refused_as_well(tmp_path: Path) -> None:
    with alone_in(tmp_path, print):
        (tmp_path / ".training.json").unlink()
        with pytest.raises(StorageError, match="one that has only just begun"), alone_in(tmp_path, print):
            pass


class Softened(filelock.SoftFileLock):
    """What newer versions of filelock put in place of a lock that the disk does not know, with a warning."""

    def acquire(self, *args: Any, **keywords: Any) -> Any:
        """Warn, and make a file."""
        warnings.warn("flock not supported on this filesystem", stacklevel=2)
        return super().acquire(*args, **keywords)


def refusing(error: Exception) -> type:
    class Refusing(filelock.FileLock):  # type: ignore[misc,valid-type]
        def acquire(self, *args: Any, **keywords: Any) -> Any:
            raise error

    return Refusing


@pytest.mark.parametrize(
    "kind", [Softened, refusing(NotImplementedError()), refusing(OSError(errno.ENOLCK, "no locks"))]
)
def test_a_disk_without_locks_is_used_without_and_left_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    """A file in place of a lock would outlive a killed training."""
    monkeypatch.setattr(lock, "FileLock", kind)
    said: list[str] = []
    with alone_in(tmp_path, said.append):
        assert list(tmp_path.iterdir()) == []
    assert len(said) == 1 and "knows no locks" in said[0]


def test_a_file_that_lies_in_place_of_a_lock_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was copied from a disk with locks brings it along."""
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(lock, "FileLock", Softened)
    with alone_in(tmp_path, print), alone_in(tmp_path, print):
        pass


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FileLock", refusing(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(StorageError, match="Cannot write to .*: Permission denied"), alone_in(tmp_path, print):
        pass
