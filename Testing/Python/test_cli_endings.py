"""How the program ends when it must: stopped, without room or memory, or by a mistake of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from terminal import ROOT, TINY, run, start

from DiffuGTSLib import __version__
from DiffuGTSLib.cli.failures import as_known
from DiffuGTSLib.cli.interrupts import Interrupt
from DiffuGTSLib.errors import Cancelled, MemoryLimitError, StorageError

pytest_plugins = ["terminal_fixtures"]

_STOPPABLE = """import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
"""
_LONG = ("--set", "inpainting.steps=1000", "--set", "inpainting.resample=50")


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of Ctrl-C")
@pytest.mark.parametrize(
    ("wish", "exit_code", "earlier"),
    [("SIGINT", 130, True), ("SIGINT", 130, False), ("SIGTERM", 143, True), ("SIGHUP", 129, False)],
)
def test_who_wishes_it_to_stop_is_heard_and_nothing_is_left(
    a_folder: Path, tmp_path: Path, wish: str, exit_code: int, earlier: bool
) -> None:
    """Ctrl-C, a scheduler's SIGTERM and a closed terminal, over an earlier result and into a new folder."""
    output = tmp_path / "result"
    if earlier:
        run("segment", a_folder / "scan.nii.gz", "-o", output, "--organ", "liver", *TINY, "--stages", "aova")
    before = {path.name: path.read_bytes() for path in output.iterdir()} if earlier else {}
    organ = ("--organ", "liver", "--coarse-mask", a_folder / "lesion.nii.gz", "--force")
    process = start(_STOPPABLE, "segment", a_folder / "scan.nii.gz", "-o", output, *organ, *TINY, *_LONG)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Repainting"):
            break
    time.sleep(0.3)
    process.send_signal(getattr(signal, wish))
    out, err = process.communicate(timeout=60)
    assert process.returncode == exit_code, err
    assert err.count("Stopped. No file is left half written") == 1
    assert "Traceback" not in err
    assert out == ""
    assert output.exists() == earlier
    if earlier:
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before


_STOPPED_WHILE_LOADING = f"""{_STOPPABLE}
import sys
class Presses:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Presses())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of Ctrl-C")
def test_ctrl_c_before_the_program_has_loaded_is_heard_without_a_traceback() -> None:
    process = start(_STOPPED_WHILE_LOADING, "presets")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "Stopped before anything was begun.\n")


_SLOW_TO_TIDY_UP = f"""{_STOPPABLE}
import sys, time
import DiffuGTSLib.config
def slow():
    try:
        print("begun", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("tidied up", file=sys.stderr, flush=True)
DiffuGTSLib.config.presets = slow
"""


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of signals")
@pytest.mark.parametrize(("first", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_who_wishes_it_again_until_it_has_left_changes_nothing(first: str, exit_code: int) -> None:
    with start(_SLOW_TO_TIDY_UP, "presets") as process:
        assert process.stderr is not None and process.stderr.readline() == "begun\n"
        process.send_signal(getattr(signal, first))
        while process.poll() is None:
            time.sleep(0.03)
            process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == exit_code
    assert said == "tidied up\nStopped. No file is left half written; what was finished before is kept.\n", said


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of signals")
def test_a_second_wish_disturbs_no_tidying_up_and_a_late_one_ends_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert interrupt.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


_FULL = "import sys; sys.stdout = open('/dev/full', 'w')"
_ASCII = "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict')"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_printed_is_there_and_that_is_said(a_folder: Path, tmp_path: Path) -> None:
    case = ("segment", a_folder / "scan.nii.gz", "-o", tmp_path, "--organ", "liver", *TINY, "--stages", "aova")
    process = start(_FULL, *case, "--json")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 6, err
    assert f"Error: The result is whole in {tmp_path}, but printing failed: No space left on device." in err
    assert (tmp_path / "record.json").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("asked", ["--version", "--help"])
def test_a_word_that_cannot_be_printed_is_no_mistake_of_the_program(asked: str) -> None:
    process = start(_FULL, asked)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 6
    assert err.startswith("Error: Reading or writing failed: [Errno 28] No space left on device.\nHint: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("scan", "exit_code"), [("scan.nii.gz", 0), ("absent.nii.gz", 2)])
def test_a_log_on_a_full_disk_neither_ends_the_work_nor_hides_how_it_ended(
    a_folder: Path, tmp_path: Path, scan: str, exit_code: int
) -> None:
    case = ("segment", a_folder / scan, "-o", tmp_path / "result", "--organ", "liver", *TINY, "--stages", "aova")
    process = start("import sys; sys.stderr = open('/dev/full', 'w')", *case)
    process.communicate(timeout=120)
    assert process.returncode == exit_code
    assert (tmp_path / "result" / "record.json").is_file() == (exit_code == 0)


def test_what_the_terminal_has_no_letters_for_is_printed_otherwise(a_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "результат"
    case = ("segment", a_folder / "scan.nii.gz", "-o", output, "--organ", "liver", *TINY, "--stages", "aova")
    process = start(_ASCII, *case)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert str(output).encode("ascii", "backslashreplace").decode() in out


_LITTLE_DISK = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_ends_with_6_and_leaves_nothing(a_folder: Path, tmp_path: Path) -> None:
    case = ("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "new" / "result", "--organ", "liver", *TINY)
    process = start(_LITTLE_DISK, *case)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 6, err
    assert f"Error: Cannot write {tmp_path}/new/result/" in err
    assert "MB free" in err
    assert list(tmp_path.iterdir()) == []


_NAMELESS = """
import os, pwd
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "DIFFUGTS_MODELS", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users have names there")
def test_a_user_without_name_and_home_as_in_a_container_can_segment_and_is_told_what_is_missing(
    a_folder: Path, tmp_path: Path
) -> None:
    case = ("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", "--organ", "liver", *TINY)
    for command, words in (
        (case, "Overview:"),
        (("doctor",), "fetched models: name a folder for them with DIFFUGTS_MODELS"),
    ):
        process = start(_NAMELESS, *command)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert words in out


_LITTLE_MEMORY = """
import resource
import DiffuGTSLib.pipeline, DiffuGTSLib.output.results
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, used + 200 * 2**20))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS and /proc")
def test_too_little_memory_ends_with_4_and_leaves_nothing(a_folder: Path, tmp_path: Path) -> None:
    huge = ("--set", "canonical.spacing_mm=0.25", "--set", "backbone.window_voxels=256")
    case = ("segment", a_folder / "scan.nii.gz", "-o", tmp_path / "result", "--organ", "liver", *TINY, *huge)
    process = start(_LITTLE_MEMORY, *case)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 4, err
    assert "emory" in err
    assert "Hint: " in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_every_kind_of_out_of_memory_is_known(error: BaseException) -> None:
    known = as_known(error)
    assert isinstance(known, MemoryLimitError)
    assert known.exit_code == 4
    assert known.hint


def test_what_ctrl_c_breaks_is_not_a_mistake_of_the_program() -> None:
    assert isinstance(as_known(KeyboardInterrupt()), Cancelled)
    assert isinstance(as_known(ImportError("half imported"), interrupted=True), Cancelled)
    stopped = Cancelled("Stopped. The last checkpoint is kept.")
    assert as_known(stopped, interrupted=True) is stopped
    assert as_known(ValueError("a mistake")) is None


def test_what_the_file_system_refuses_is_no_mistake_of_the_program() -> None:
    known = as_known(PermissionError(13, "Permission denied", "/data/scan.nii"))
    assert isinstance(known, StorageError) and known.exit_code == 6
    assert known.message == "/data/scan.nii cannot be used: Permission denied." and known.hint
    nameless = as_known(OSError("the disk is gone"))
    assert nameless is not None and nameless.message == "Reading or writing failed: the disk is gone."
    assert as_known(BrokenPipeError(32, "Broken pipe")) is None


_BROKEN = """
import DiffuGTSLib.config
def fail():
    raise ZeroDivisionError("one over none")
DiffuGTSLib.config.presets = fail
"""


@pytest.mark.parametrize("debug", [True, False])
def test_a_mistake_of_the_program_is_said_shortly_and_traced_on_demand(debug: bool) -> None:
    process = start(_BROKEN, *(["--debug"] if debug else []), "presets")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Error: Unexpected ZeroDivisionError: one over none" in err
    assert "diffugts --debug" in err
    assert ("Traceback" in err) == debug


def test_python_m_is_the_same_program() -> None:
    command = [sys.executable, "-m", "DiffuGTSLib", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"diffugts {__version__}\n")
