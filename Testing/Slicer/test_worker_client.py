"""The client against real processes: a scripted worker for every way in which one can behave, and misbehave."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gui
import pytest
from DiffuGTSSlicer.process_tree import killOne
from DiffuGTSSlicer.worker_client import CANCELLING, IDLE, RUNNING, STARTING, WorkerClient, workerEnvironment

SCRIPT = Path(__file__).parent / "scripted_worker.py"


class Listener:
    """A client with everything that it told."""

    def __init__(self, *kind: str) -> None:
        self.client = WorkerClient()
        self.client.arguments = [str(SCRIPT), *kind]
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.states: list[str] = []
        self.client.onEvent = self.events.append
        self.client.onLog = self.lines.append
        self.client.onState = self.states.append

    def names(self) -> list[str]:
        """Return the names of all events so far."""
        return [event["event"] for event in self.events]

    def last(self, name: str) -> dict[str, Any]:
        """Return the newest event of a name."""
        return next(event for event in reversed(self.events) if event["event"] == name)

    def wait(self, name: str, timeout_s: float = gui.PATIENCE_S) -> dict[str, Any]:
        """Wait for one more event of a name and return it."""
        count = self.names().count(name)
        assert gui.spin(lambda: self.names().count(name) > count, timeout_s), (name, self.events, self.lines)
        return self.last(name)

    def waitIdle(self, timeout_s: float = gui.PATIENCE_S) -> None:
        """Wait until no run is going on."""
        assert gui.spin(lambda: not self.client.isBusy, timeout_s), (self.client.state, self.events)


@pytest.fixture
def a_listener(a_qt_application: Any) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(*kind: str) -> Listener:
        made.append(Listener(*kind))
        return made[-1]

    yield make
    for listener in made:
        listener.client.stop()
        assert gui.spin(lambda each=listener: not each.client.isWarm)


@pytest.fixture
def a_job(tmp_path: Path) -> Callable[..., Path]:
    def make(*steps: list[Any]) -> Path:
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "script.json").write_text(json.dumps(steps))
        return folder

    return make


def isAlive(processId: int) -> bool:
    """Say whether a process runs; one that nobody has buried yet does not."""
    try:
        return (Path("/proc") / str(processId) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_is_told_from_its_beginning_to_its_end(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["stage", "aova", 0.5], ["say", "hello there"], ["artifact", "aova"], ["done"]))
    listener.wait("done")
    assert listener.names() == ["hello", "ready", "started", "stage", "artifact", "done"]
    assert gui.spin(lambda: "hello there" in listener.lines)
    assert listener.states == [STARTING, RUNNING, IDLE]


def test_the_second_run_takes_the_warm_worker(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["done"]))
    listener.waitIdle()
    first = listener.client.processId
    listener.client.run(a_job(["done"]))
    listener.waitIdle()
    assert listener.client.processId == first > 0
    assert listener.names().count("hello") == 1


def test_a_second_run_during_the_first_is_refused(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["sleep", 5]))
    with pytest.raises(RuntimeError, match="busy"):
        listener.client.run(a_job(["done"]))


def test_cancel_is_heard_and_the_worker_stays_warm(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["stage", "repaint", 0.1], ["sleep", 30]))
    listener.wait("stage")
    begin = time.monotonic()
    listener.client.cancel()
    assert listener.client.state == CANCELLING
    listener.wait("cancelled")
    assert time.monotonic() - begin < 1
    assert listener.client.isWarm and listener.client.state == IDLE


def test_cancel_before_the_worker_said_hello_ends_it(a_listener, a_job) -> None:
    listener = a_listener("mute")
    listener.client.run(a_job(["done"]))
    listener.client.cancel()
    listener.wait("cancelled")
    assert gui.spin(lambda: not listener.client.isWarm)


def test_a_deaf_worker_is_terminated_then_killed_with_its_children_within_three_seconds(
    a_listener, a_job, record_property
) -> None:
    listener = a_listener()
    job = a_job(["deaf"], ["child"], ["stage", "repaint", 0.1], ["sleep", 60])
    listener.client.run(job)
    listener.wait("stage")
    worker, child = listener.client.processId, int((job / "child").read_text())
    assert isAlive(worker) and isAlive(child)
    begin = time.monotonic()
    listener.client.cancel()
    assert gui.spin(lambda: not isAlive(worker) and not isAlive(child))
    listener.waitIdle()
    took = time.monotonic() - begin
    record_property("cancel_s", round(took, 3))
    print(f"a worker that hears nothing is gone in {took:.2f} s")
    assert took < 3 and listener.last("cancelled")
    listener.client.run(a_job(["done"]))
    listener.wait("done")


def test_a_child_is_not_left_behind_by_a_worker_that_lets_itself_be_terminated(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.cancelGraceS = 0.3
    job = a_job(["numb"], ["child"], ["stage", "repaint", 0.1], ["sleep", 60])
    listener.client.run(job)
    listener.wait("stage")
    worker, child = listener.client.processId, int((job / "child").read_text())
    listener.client.cancel()
    listener.wait("cancelled", 5)
    assert gui.spin(lambda: not isAlive(worker) and not isAlive(child), 3)


def test_a_run_that_is_asked_for_while_the_worker_leaves_gets_a_new_one(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["done"]))
    listener.waitIdle()
    first = listener.client.processId
    listener.client.stop()
    listener.client.run(a_job(["done"]))
    assert listener.client.state == STARTING
    listener.wait("done")
    assert listener.client.processId not in (0, first) and "error" not in listener.names()


def test_an_idle_worker_leaves_after_its_time_and_says_so(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.idleTimeoutS = 0.3
    listener.client.run(a_job(["sleep", 0.6], ["done"]))
    listener.wait("done")
    worker = listener.client.processId
    assert isAlive(worker), "a run that takes longer is no idleness"
    listener.wait("ended")
    assert not listener.client.isWarm and not isAlive(worker)
    assert any("without work" in line for line in listener.lines) and "error" not in listener.names()
    listener.client.run(a_job(["done"]))
    listener.wait("done")
    assert listener.client.processId != worker


def test_a_worker_that_was_only_warmed_up_leaves_too_and_without_a_time_it_stays(a_listener) -> None:
    staying, leaving = a_listener(), a_listener()
    staying.client.idleTimeoutS, leaving.client.idleTimeoutS = 0, 0.2
    staying.client.warmUp()
    leaving.client.warmUp()
    assert gui.spin(lambda: staying.client.processId)
    assert gui.spin(lambda: "ended" in leaving.names())
    assert staying.client.isWarm


def test_done_that_arrives_after_cancel_counts_as_cancelled(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["deaf"], ["stage", "aova", 0], ["sleep", 0.3], ["done"]))
    listener.wait("stage")
    listener.client.cancel()
    listener.waitIdle()
    assert "cancelled" in listener.names() and "done" not in listener.names()


def test_a_killed_worker_is_a_clear_error_and_the_next_run_works(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["say", "last words"], ["sleep", 0.1], ["kill"]))
    error = listener.wait("error")
    assert error["code"] == "oom" and "memory was full" in error["message"] and "last words" in error["detail"]
    listener.client.run(a_job(["done"]))
    listener.wait("done")
    assert listener.names().count("hello") == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory", "oom"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("Segmentation fault", "crashed"),
    ],
)
def test_what_a_worker_died_of_is_read_from_its_last_words(a_listener, a_job, words, code) -> None:
    listener = a_listener()
    listener.client.run(a_job(["say", words], ["sleep", 0.1], ["die", 1]))
    assert listener.wait("error")["code"] == code


def test_a_kill_that_only_a_launcher_saw_is_known_by_its_exit_code_and_our_own_is_none(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["sleep", 0.1], ["die", 137]))
    assert listener.wait("error")["code"] == "oom"
    listener.client.run(a_job(["sleep", 0.2], ["done"]))
    listener.wait("done")
    listener.client.stop()
    assert listener.wait("ended")["cause"]["code"] == "crashed"


def test_missing_packages_are_told_apart_from_a_crash(a_listener, a_job) -> None:
    listener = a_listener("broken")
    listener.client.run(a_job(["done"]))
    error = listener.wait("error")
    assert error["code"] == "import_failed" and "torch" in error["detail"]


def test_an_interpreter_of_the_users_that_cannot_run_the_worker_is_named_as_the_cause(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.interpreter = sys.executable
    listener.client.arguments = ["-c", "int | 'text'"]  # as an older Python stumbles over newer code
    listener.client.run(a_job(["done"]))
    error = listener.wait("error")
    assert error["code"] == "interpreter" and "TypeError" in error["detail"]
    assert sys.executable in error["message"] and "3.11 or newer" in error["message"]


def test_an_interpreter_that_has_once_said_hello_is_not_blamed_for_a_crash(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.interpreter = sys.executable
    listener.client.run(a_job(["die", 3]))
    assert listener.wait("error")["code"] == "crashed"


def test_a_worker_of_another_version_is_refused_and_ended(a_listener, a_job) -> None:
    listener = a_listener("foreign")
    listener.client.run(a_job(["done"]))
    assert listener.wait("error")["code"] == "protocol"
    assert gui.spin(lambda: not listener.client.isWarm)


@pytest.mark.parametrize(
    "line", ["@diffugts {", "@diffugts []", '@diffugts {"event": "wave"}', '@diffugts {"event": "stage"}']
)
def test_a_garbled_event_ends_the_run(a_listener, a_job, line) -> None:
    listener = a_listener()
    listener.client.run(a_job(["raw", line], ["sleep", 30]))
    assert listener.wait("error")["code"] == "protocol"
    assert listener.names().count("error") == 1


def test_a_worker_that_never_says_hello_is_given_up(a_listener, a_job) -> None:
    listener = a_listener("mute")
    listener.client.helloTimeoutS = 0.3
    listener.client.run(a_job(["done"]))
    error = listener.wait("error")
    assert error["code"] == "crashed" and "did not respond" in error["message"]
    assert gui.spin(lambda: not listener.client.isWarm)


def test_a_program_that_does_not_exist_is_an_error(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.interpreter = "/nowhere/python"
    listener.client.run(a_job(["done"]))
    if listener.client.isBusy:
        listener.wait("error")
    error = listener.last("error")
    assert error["code"] == "interpreter" and "/nowhere/python cannot be started" in error["message"]


def test_typed_errors_of_the_worker_pass_through(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["error", "oom", "Too big.", "Smaller."]))
    assert listener.wait("error") == {"event": "error", "code": "oom", "message": "Too big.", "hint": "Smaller."}
    assert listener.client.isWarm


def test_release_is_answered_and_not_sent_during_a_run(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.release()
    listener.client.run(a_job(["done"]))
    listener.waitIdle()
    listener.client.release()
    listener.wait("released")


def test_warming_up_tells_devices_without_a_run(a_listener) -> None:
    listener = a_listener()
    listener.client.warmUp()
    assert listener.wait("ready")["versions"] == {"torch": "0"}
    assert listener.client.state == IDLE


def test_a_worker_that_leaves_is_followed_by_the_one_that_was_asked_for(a_listener) -> None:
    listener = a_listener()
    listener.client.warmUp()
    listener.wait("ready")
    first = listener.client.processId
    listener.client.stop()
    listener.client.warmUp()
    listener.wait("ready")
    assert listener.client.processId not in (0, first)


def test_a_worker_that_leaves_is_not_followed_where_the_run_was_cancelled_meanwhile(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.warmUp()
    listener.wait("ready")
    listener.client.stop()
    listener.client.run(a_job(["done"]))
    listener.client.cancel()
    listener.wait("ended")
    assert listener.names()[-2:] == ["cancelled", "ended"] and not listener.client.isWarm


def test_a_worker_that_ends_without_a_job_says_of_what(a_listener) -> None:
    for kind, code in (("broken", "import_failed"), ("foreign", "protocol")):
        listener = a_listener(kind)
        listener.client.warmUp()
        assert listener.wait("ended")["cause"]["code"] == code and "error" not in listener.names()


def test_a_worker_that_dies_while_idle_is_no_error(a_listener, a_job) -> None:
    listener = a_listener()
    listener.client.run(a_job(["done"]))
    listener.waitIdle()
    killOne(listener.client.processId)
    listener.wait("ended")
    assert "error" not in listener.names()
    assert listener.client.processId == 0


def test_stop_ends_the_whole_tree_at_once(a_listener, a_job) -> None:
    listener = a_listener()
    job = a_job(["child"], ["stage", "aova", 0], ["sleep", 60])
    listener.client.run(job)
    listener.wait("stage")
    worker, child = listener.client.processId, int((job / "child").read_text())
    listener.client.stop()
    assert gui.spin(lambda: not isAlive(worker) and not isAlive(child), 3)


def test_killing_the_parent_leaves_no_worker(tmp_path: Path, a_job) -> None:
    """The client's process dies without a word, as when Slicer is killed: the worker's stdin ends and it leaves."""
    import subprocess

    job = a_job(["stage", "repaint", 0.1], ["sleep", 60])
    code = (
        "import sys; sys.path[:0] = {paths!r}\n"
        "import slicer_headless; slicer_headless.boot()\n"
        "import gui\n"
        "from pathlib import Path\n"
        "from DiffuGTSSlicer.worker_client import WorkerClient\n"
        "client = WorkerClient()\n"
        "client.arguments = [{script!r}]\n"
        "seen = []\n"
        "client.onEvent = lambda event: seen.append(event['event'])\n"
        "client.run(Path({job!r}))\n"
        "gui.spin(lambda: 'stage' in seen)\n"
        "print('worker', client.processId, flush=True)\n"
        "gui.spin(lambda: False, 60)\n"
    )
    here = Path(__file__).parent
    paths = [
        str(here / "harness" / "shim"),
        str(here / "harness"),
        str(here.parents[1] / "DiffuGTS"),
        str(here.parents[1]),
    ]
    program = code.format(paths=paths, script=str(SCRIPT), job=str(job))
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        worker = 0
        for line in parent.stdout:
            if line.startswith("worker"):
                worker = int(line.split()[1])
                break
        assert worker and isAlive(worker)
    finally:
        parent.kill()
        parent.communicate(timeout=10)
    begin = time.monotonic()
    while isAlive(worker) and time.monotonic() - begin < 5:
        time.sleep(0.05)
    assert not isAlive(worker)


def test_the_worker_gets_what_it_needs_and_another_interpreter_nothing_of_slicers(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/slicer")
    own, foreign = workerEnvironment(), workerEnvironment(isForeign=True)
    assert own["PYTHONPATH"].split(os.pathsep)[1:] == ["/of/slicer"]
    assert "/of/slicer" not in foreign["PYTHONPATH"]
    assert own["HF_HUB_OFFLINE"] == foreign["HF_HUB_OFFLINE"] == "1"
    assert int(own["OMP_NUM_THREADS"]) >= 1
