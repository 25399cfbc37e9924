"""One warm worker process: started when first needed, fed job folders, cancelled in three steps, never left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSLib.errors import WorkerError
from DiffuGTSLib.worker import protocol
from DiffuGTSSlicer.process_tree import killOne, processTree
from DiffuGTSSlicer.qt_process import QtProcess

Event = dict[str, Any]

IDLE, STARTING, RUNNING, CANCELLING = "idle", "starting", "running", "cancelling"

CANCEL_GRACE_S = 1.5
"""A cancelled worker has this long to finish its step before it is asked to end."""
TERMINATE_GRACE_S = 0.7
"""And this long to end before its whole tree is killed: less than 3 s in all."""
HELLO_TIMEOUT_S = 120.0
IDLE_TIMEOUT_S = 600.0
"""A warm worker that nobody needs is ended after this time, and its memory is free."""
TAIL_LINES = 20
SIGKILL = 9
"""Python has no such signal on Windows, where nothing ends so."""


class WorkerClient:
    """Speaks the worker's protocol over a process, and keeps the process warm between runs.

    Set `onEvent`, `onLog` and `onState`. Exactly one of done, error and cancelled ends a run, whatever happens to the
    process: where the worker could not say so itself, the client does.
    """

    def __init__(self) -> None:
        self.onEvent: Callable[[Event], None] = lambda event: None
        self.onLog: Callable[[str], None] = lambda line: None
        self.onState: Callable[[str], None] = lambda state: None
        self.state = IDLE
        self.hello: Event = {}
        self.interpreter = ""
        """Another Python than Slicer's; empty: Slicer's."""
        self.cancelGraceS, self.terminateGraceS, self.helloTimeoutS = CANCEL_GRACE_S, TERMINATE_GRACE_S, HELLO_TIMEOUT_S
        self.idleTimeoutS = IDLE_TIMEOUT_S
        """0: an idle worker stays until Slicer ends."""
        self.arguments = ["-m", "DiffuGTSLib.worker"]
        self._process = QtProcess()
        self._process.onOutput = self._takeOutput
        self._process.onErrorOutput = self._takeErrorOutput
        self._process.onFinished, self._process.onNotStarted = self._takeEnd, self._takeNoStart
        self._pending: Path | None = None
        self._isWanted = False
        """Whether the process that leaves is to be followed by one without a job."""
        self._fault: Event | None = None
        self._tree: set[int] = set()
        """Processes that shall not outlive the worker."""
        self._output, self._errorOutput = protocol.LineBuffer(), protocol.LineBuffer()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._timeIsUp)
        self._onTimeout: Callable[[], None] = lambda: None

    def listenWeakly(
        self, onEvent: Callable[[Event], None], onLog: Callable[[str], None], onState: Callable[[str], None]
    ) -> None:
        """Tell three methods of an object for as long as it is there: to be told keeps nobody alive."""
        self.onEvent, self.onLog, self.onState = _weakly(onEvent), _weakly(onLog), _weakly(onState)

    @property
    def isWarm(self) -> bool:
        """Whether a process is there."""
        return self._process.isRunning()

    @property
    def isBusy(self) -> bool:
        """Whether a run is under way."""
        return self.state != IDLE

    @property
    def processId(self) -> int:
        """The interpreter's own id, told in its hello; 0 where there is none. Qt knows only Slicer's launcher."""
        return int(self.hello.get("pid", 0)) if self.isWarm else 0

    @property
    def _isLeaving(self) -> bool:
        """Whether the process that is still there has been ended."""
        return bool(self._tree)

    def run(self, folder: Path) -> None:
        """Hand a job folder to the worker, starting it first where there is none."""
        if self.isBusy:
            raise RuntimeError("The worker is busy; check isBusy first.")
        self._tail.clear()
        self._timer.stop()
        self._pending = folder
        if self.isWarm and self.hello and not self._isLeaving:
            self._sendPending()
        else:
            self._setState(STARTING)
            self.warmUp()

    def warmUp(self) -> None:
        """Start the worker where there is none, so that it tells its versions and devices."""
        if self.isWarm:  # one that leaves is followed by a new one, see `_takeEnd`
            self._isWanted = self._isLeaving
            return
        self.hello, self._fault = {}, None
        self._tail.clear()
        self._output, self._errorOutput = protocol.LineBuffer(), protocol.LineBuffer()
        program = self.interpreter or slicerPython()
        logging.info("Starting the DiffuGTS worker: %s %s", program, " ".join(self.arguments))
        self._process.start(program, self.arguments, workerEnvironment(bool(self.interpreter)))
        self._after(self.helloTimeoutS, self._helloIsLate)

    def cancel(self) -> None:
        """Ask the run to stop at its next step; if it does not, end the process, then kill its tree."""
        if self.state in (IDLE, CANCELLING):
            return
        if self._pending is not None:
            self._pending, self._isWanted = None, False
            self._setState(CANCELLING)
            self._endProcess()
            return
        self._setState(CANCELLING)
        self._send("cancel")
        self._after(self.cancelGraceS, self._endProcess)

    def release(self) -> None:
        """Have an idle worker forget its model and give its memory back."""
        if self.isWarm and not self.isBusy and self.hello and not self._isLeaving:
            self._send("release")

    def stop(self) -> None:
        """End the worker now, its tree included; safe to call at any time, and at Slicer's end."""
        self._timer.stop()
        self._pending, self._isWanted = None, False
        self._killTree()

    def close(self) -> None:
        """End the worker and hear no more of it: Qt's objects may be gone before its end is told."""
        self.stop()
        self.onEvent, self.onLog, self.onState = (lambda told: None,) * 3
        self._process.onOutput = self._process.onErrorOutput = lambda data: None
        self._process.onFinished = lambda exitCode, crashed: None
        self._process.onNotStarted = lambda reason: None

    def _sendPending(self) -> None:
        folder, self._pending = self._pending, None
        self._setState(RUNNING)
        self._send("run", job=str(folder))

    def _send(self, do: str, **values: Any) -> None:
        self._process.write(protocol.request_line(do, **values).encode("ascii"))

    def _setState(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.onState(state)

    # Output

    def _takeOutput(self, data: bytes) -> None:
        for line in self._output.feed(data):
            self._takeLine(line)

    def _takeErrorOutput(self, data: bytes) -> None:
        for line in self._errorOutput.feed(data):
            self._note(line)

    def _note(self, line: str) -> None:
        if line.strip():
            self._tail.append(line)
            self.onLog(line)

    def _takeLine(self, line: str) -> None:
        try:
            event = protocol.parse_event(line)
        except WorkerError as error:
            self._note(line)
            self._fail(error.code, error.message, error.hint)
            return
        if event is None:
            self._note(line)
        elif event["event"] == "hello":
            self._greet(event)
        elif event["event"] in protocol.ENDINGS:
            self._endRun(event)
        elif event["event"] != "artifact" or self.state == RUNNING:
            self.onEvent(event)

    def _greet(self, event: Event) -> None:
        self._timer.stop()
        self.hello = event
        if event.get("protocol") != protocol.PROTOCOL:
            words = _("The worker speaks protocol {given}, this panel protocol {expected}.")
            self._fail("protocol", words.format(given=event.get("protocol"), expected=protocol.PROTOCOL))
            return
        self.onEvent(event)
        if self._pending is not None and self.state == STARTING:
            self._sendPending()
        else:
            self._rest()

    def _endRun(self, event: Event) -> None:
        """Pass on what ends a run; a worker that is done while it was being cancelled has cancelled as far as we care."""
        if not self.isBusy:
            return
        self._timer.stop()
        if self.state == CANCELLING and event["event"] == "done":
            event = {"event": "cancelled"}
        self._setState(IDLE)
        self._rest()
        self.onEvent(event)

    def _rest(self) -> None:
        """Wait for the next run, but not forever."""
        if self.isWarm and not self._isLeaving and self.idleTimeoutS > 0:
            self._after(self.idleTimeoutS, self._leaveUnused)

    # Ends

    def _leaveUnused(self) -> None:
        words = _(
            "The worker was ended after {minutes} min without work; its memory is free. The next run starts another."
        )
        self.onLog(words.format(minutes=f"{self.idleTimeoutS / 60:.3g}"))
        self._killTree()

    def _fail(self, code: str, message: str, hint: str = "") -> None:
        """End the run with an error of the client's own; such a worker is not trusted with another job."""
        self._pending = None
        self._fault = {"event": "error", "code": code, "message": message, "hint": hint}
        self._killTree()
        self._endRun(self._fault)

    def _takeNoStart(self, reason: str) -> None:
        program = self.interpreter or slicerPython()
        message = _("The interpreter {program} cannot be started: {reason}").format(program=program, reason=reason)
        self._fault = {"event": "error", "code": "interpreter", "message": message, "hint": ""}
        self._takeEnd(-1, False)

    def _takeEnd(self, exitCode: int, crashed: bool) -> None:
        for buffer in (self._output, self._errorOutput):
            self._note(buffer.rest())
        self._timer.stop()
        isFollowed = self._isLeaving and self.state == STARTING
        for processId in self._tree:  # where only a launcher or the worker itself heard that it shall end
            killOne(processId)
        wasKilled = not self._isLeaving and (exitCode == 128 + SIGKILL or (crashed and exitCode == SIGKILL))
        greeted, self.hello, self._tree = bool(self.hello), {}, set()
        certificate = _deathCertificate(exitCode, crashed, greeted, wasKilled, list(self._tail), self.interpreter)
        cause = {"detail": "", **(self._fault or certificate)}
        if not isFollowed:
            self._pending = None
            if self.state == CANCELLING:
                self._endRun({"event": "cancelled"})
            elif self.isBusy:
                self._endRun(cause)
        isWanted, self._isWanted = self._isWanted, False
        if isWanted or (isFollowed and self._pending is not None):
            self.warmUp()
        self.onEvent({"event": "ended", "exit_code": exitCode, "cause": cause})

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._onTimeout = action
        self._timer.start(int(seconds * 1000))

    def _timeIsUp(self) -> None:
        self._onTimeout()

    def _helloIsLate(self) -> None:
        words = _("The worker said nothing for {seconds} s after it was started.")
        self._fail("crashed", words.format(seconds=int(self.helloTimeoutS)))

    def _endProcess(self) -> None:
        self._tree = self._processes()
        self._process.terminate()
        self._after(self.terminateGraceS, self._killTree)

    def _killTree(self) -> None:
        """Kill the interpreter that said hello and its children, then what Qt started."""
        if not self.isWarm:
            return
        self._tree |= self._processes()
        for processId in self._tree:
            killOne(processId)
        self._process.kill()

    def _processes(self) -> set[int]:
        """Return all that belongs to the worker: once a process is gone, nobody can tell what it had started."""
        own = {self.processId, self._process.processId()} - {0}
        return {each for processId in own for each in processTree(processId)}


def _weakly(method: Callable[[Any], None]) -> Callable[[Any], None]:
    found = weakref.WeakMethod(method)

    def call(told: Any) -> None:
        present = found()
        if present is not None:
            present(told)

    return call


def slicerPython() -> str:
    """Return Slicer's Python: inside Slicer `sys.executable` may be the application."""
    return shutil.which("PythonSlicer") or sys.executable


def workerEnvironment(isForeign: bool = False) -> dict[str, str]:
    """Return the variables that a worker starts with; another interpreter must not see those that Slicer set."""
    environment = dict(os.environ)
    if isForeign:
        import slicer

        with contextlib.suppress(AttributeError):
            environment = dict(slicer.util.startupEnvironment())
    threads = str(max(1, (os.cpu_count() or 2) - 1))
    needed = protocol.worker_environment()
    inherited = "" if isForeign else environment.get("PYTHONPATH", "")
    paths = os.pathsep.join(filter(None, [needed["PYTHONPATH"], inherited]))
    return {"OMP_NUM_THREADS": threads, **environment, **needed, "PYTHONPATH": paths}


def _deathCertificate(
    exitCode: int, crashed: bool, greeted: bool, wasKilled: bool, tail: list[str], interpreter: str
) -> Event:
    """Say what a worker died of, as far as its exit code and last lines tell."""
    said = "\n".join(tail)
    how = f"{_('crash, code') if crashed else _('exit code')} {exitCode}"
    if not greeted and any(sign in said for sign in ("ModuleNotFoundError", "ImportError", "No module named")):
        code, message = "import_failed", _("The worker could not load its packages.")
    elif any(sign in said for sign in ("OutOfMemoryError", "MemoryError", "DefaultCPUAllocator", "bad_alloc")):
        code, message = "oom", _("The worker ran out of memory.")
    elif "No space left on device" in said:
        code, message = "disk_full", _("The disk is full.")
    elif wasKilled:  # a process has no last words where Linux kills it to get memory back
        code, message = "oom", _("The worker was killed from outside, most likely since the memory was full.")
    elif interpreter and not greeted:
        code = "interpreter"
        message = _(
            "{program} cannot run the worker ({how}); expected Python 3.11 or newer, with the packages installed."
        ).format(program=interpreter, how=how)
    else:
        code, message = "crashed", _("The worker ended unexpectedly ({how}).").format(how=how)
    return {"event": "error", "code": code, "message": message, "hint": "", "detail": said}
