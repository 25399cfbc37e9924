"""Client of the worker process: starts it when needed, gives it jobs, cancels it in three steps, and always ends it."""

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
"""Time for a cancelled worker to finish its step before it is terminated."""
TERMINATE_GRACE_S = 0.7
"""Time for it to end before its process tree is killed; less than 3 s in total."""
HELLO_TIMEOUT_S = 120.0
IDLE_TIMEOUT_S = 600.0
"""An idle worker is ended after this time, to release its memory."""
TAIL_LINES = 20
SIGKILL = 9
"""`signal.SIGKILL`, which Python does not define on Windows."""


class WorkerClient:
    """Runs jobs in a worker process and keeps it running, with the model loaded, between runs.

    Set `onEvent`, `onLog` and `onState`. Exactly one event of done, error and cancelled ends a run, whatever happens to the
    process: if the worker cannot send it, the client does.
    """

    def __init__(self) -> None:
        self.onEvent: Callable[[Event], None] = lambda event: None
        self.onLog: Callable[[str], None] = lambda line: None
        self.onState: Callable[[str], None] = lambda state: None
        self.state = IDLE
        self.hello: Event = {}
        self.interpreter = ""
        """Another Python than Slicer's; empty for Slicer's."""
        self.cancelGraceS, self.terminateGraceS, self.helloTimeoutS = CANCEL_GRACE_S, TERMINATE_GRACE_S, HELLO_TIMEOUT_S
        self.idleTimeoutS = IDLE_TIMEOUT_S
        """0 keeps an idle worker until Slicer exits."""
        self.arguments = ["-m", "DiffuGTSLib.worker"]
        self._process = QtProcess()
        self._process.onOutput = self._onOutput
        self._process.onErrorOutput = self._onErrorOutput
        self._process.onFinished, self._process.onNotStarted = self._onFinished, self._onNotStarted
        self._pending: Path | None = None
        self._isWanted = False
        """Whether to start another process when the current one has ended."""
        self._fault: Event | None = None
        self._tree: set[int] = set()
        """Processes to kill with the worker."""
        self._output, self._errorOutput = protocol.LineBuffer(), protocol.LineBuffer()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._timeIsUp)
        self._onTimeout: Callable[[], None] = lambda: None

    def listenWeakly(
        self, onEvent: Callable[[Event], None], onLog: Callable[[str], None], onState: Callable[[str], None]
    ) -> None:
        """Set three methods of an object as callbacks, with weak references to the object."""
        self.onEvent, self.onLog, self.onState = _weakly(onEvent), _weakly(onLog), _weakly(onState)

    @property
    def isWarm(self) -> bool:
        """Whether the process is running."""
        return self._process.isRunning()

    @property
    def isBusy(self) -> bool:
        """Whether a run is in progress."""
        return self.state != IDLE

    @property
    def processId(self) -> int:
        """Process ID of the interpreter, from its hello; 0 if there is none. Qt knows only Slicer's launcher."""
        return int(self.hello.get("pid", 0)) if self.isWarm else 0

    @property
    def _isEnding(self) -> bool:
        """Whether the running process is being ended."""
        return bool(self._tree)

    def run(self, folder: Path) -> None:
        """Give the worker a job folder, starting the process if needed."""
        if self.isBusy:
            raise RuntimeError("The worker is busy; check isBusy first.")
        self._tail.clear()
        self._timer.stop()
        self._pending = folder
        if self.isWarm and self.hello and not self._isEnding:
            self._sendPending()
        else:
            self._setState(STARTING)
            self.warmUp()

    def warmUp(self) -> None:
        """Start the worker if it is not running, so that it reports its versions and devices."""
        if self.isWarm:  # one that is ending is followed by a new one, see `_onFinished`
            self._isWanted = self._isEnding
            return
        self.hello, self._fault = {}, None
        self._tail.clear()
        self._output, self._errorOutput = protocol.LineBuffer(), protocol.LineBuffer()
        program = self.interpreter or slicerPython()
        logging.info("Starting the DiffuGTS worker: %s %s", program, " ".join(self.arguments))
        self._process.start(program, self.arguments, workerEnvironment(bool(self.interpreter)))
        self._after(self.helloTimeoutS, self._helloIsLate)

    def cancel(self) -> None:
        """Ask the run to stop at its next step; if it does not, terminate the process, then kill its tree."""
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
        """Have an idle worker unload its model and release its memory."""
        if self.isWarm and not self.isBusy and self.hello and not self._isEnding:
            self._send("release")

    def stop(self) -> None:
        """Kill the worker's process tree; safe to call at any time, also when Slicer exits."""
        self._timer.stop()
        self._pending, self._isWanted = None, False
        self._killTree()

    def close(self) -> None:
        """Kill the worker and disconnect from it: Qt objects may be deleted before the process has ended."""
        self.stop()
        self.onEvent, self.onLog, self.onState = (lambda value: None,) * 3
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

    def _onOutput(self, data: bytes) -> None:
        for line in self._output.feed(data):
            self._onLine(line)

    def _onErrorOutput(self, data: bytes) -> None:
        for line in self._errorOutput.feed(data):
            self._logLine(line)

    def _logLine(self, line: str) -> None:
        if line.strip():
            self._tail.append(line)
            self.onLog(line)

    def _onLine(self, line: str) -> None:
        try:
            event = protocol.parse_event(line)
        except WorkerError as error:
            self._logLine(line)
            self._fail(error.code, error.message, error.hint)
            return
        if event is None:
            self._logLine(line)
        elif event["event"] == "hello":
            self._onHello(event)
        elif event["event"] in protocol.ENDINGS:
            self._endRun(event)
        elif event["event"] != "artifact" or self.state == RUNNING:
            self.onEvent(event)

    def _onHello(self, event: Event) -> None:
        self._timer.stop()
        self.hello = event
        if event.get("protocol") != protocol.PROTOCOL:
            words = _("The worker uses protocol {given}, this panel protocol {expected}.")
            self._fail("protocol", words.format(given=event.get("protocol"), expected=protocol.PROTOCOL))
            return
        self.onEvent(event)
        if self._pending is not None and self.state == STARTING:
            self._sendPending()
        else:
            self._rest()

    def _endRun(self, event: Event) -> None:
        """Pass on the event that ends a run; "done" after a cancellation counts as cancelled."""
        if not self.isBusy:
            return
        self._timer.stop()
        if self.state == CANCELLING and event["event"] == "done":
            event = {"event": "cancelled"}
        self._setState(IDLE)
        self._rest()
        self.onEvent(event)

    def _rest(self) -> None:
        """Wait for the next run; end the worker after the idle timeout."""
        if self.isWarm and not self._isEnding and self.idleTimeoutS > 0:
            self._after(self.idleTimeoutS, self._endIdle)

    # Ends

    def _endIdle(self) -> None:
        words = _(
            "The worker was ended after {minutes} min without work, to release its memory. The next run starts another."
        )
        self.onLog(words.format(minutes=f"{self.idleTimeoutS / 60:.3g}"))
        self._killTree()

    def _fail(self, code: str, message: str, hint: str = "") -> None:
        """End the run with an error found by the client; the worker is not used again."""
        self._pending = None
        self._fault = {"event": "error", "code": code, "message": message, "hint": hint}
        self._killTree()
        self._endRun(self._fault)

    def _onNotStarted(self, reason: str) -> None:
        program = self.interpreter or slicerPython()
        message = _("The interpreter {program} cannot be started: {reason}").format(program=program, reason=reason)
        self._fault = {"event": "error", "code": "interpreter", "message": message, "hint": ""}
        self._onFinished(-1, False)

    def _onFinished(self, exitCode: int, crashed: bool) -> None:
        for buffer in (self._output, self._errorOutput):
            self._logLine(buffer.rest())
        self._timer.stop()
        isFollowed = self._isEnding and self.state == STARTING
        for processId in self._tree:  # terminate may have reached only the launcher, or only the worker
            killOne(processId)
        wasKilled = not self._isEnding and (exitCode == 128 + SIGKILL or (crashed and exitCode == SIGKILL))
        greeted, self.hello, self._tree = bool(self.hello), {}, set()
        reason = _exitReason(exitCode, crashed, greeted, wasKilled, list(self._tail), self.interpreter)
        cause = {"detail": "", **(self._fault or reason)}
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
        words = _("The worker did not respond within {seconds} s after it was started.")
        self._fail("crashed", words.format(seconds=int(self.helloTimeoutS)))

    def _endProcess(self) -> None:
        self._tree = self._processes()
        self._process.terminate()
        self._after(self.terminateGraceS, self._killTree)

    def _killTree(self) -> None:
        """Kill the interpreter and its descendants, then the process that Qt started."""
        if not self.isWarm:
            return
        self._tree |= self._processes()
        for processId in self._tree:
            killOne(processId)
        self._process.kill()

    def _processes(self) -> set[int]:
        """Return all processes of the worker, while they run: the descendants of an ended process cannot be found."""
        own = {self.processId, self._process.processId()} - {0}
        return {each for processId in own for each in processTree(processId)}


def _weakly(method: Callable[[Any], None]) -> Callable[[Any], None]:
    found = weakref.WeakMethod(method)

    def call(value: Any) -> None:
        present = found()
        if present is not None:
            present(value)

    return call


def slicerPython() -> str:
    """Return Slicer's Python; inside Slicer `sys.executable` may be the application."""
    return shutil.which("PythonSlicer") or sys.executable


def workerEnvironment(isForeign: bool = False) -> dict[str, str]:
    """Return the worker's environment; for another interpreter, without the variables that Slicer has set."""
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


def _exitReason(
    exitCode: int, crashed: bool, greeted: bool, wasKilled: bool, tail: list[str], interpreter: str
) -> Event:
    """Return why a worker ended, judging by its exit code and last output."""
    output = "\n".join(tail)
    how = (_("crash, code {code}") if crashed else _("exit code {code}")).format(code=exitCode)
    if not greeted and any(sign in output for sign in ("ModuleNotFoundError", "ImportError", "No module named")):
        code, message = "import_failed", _("The worker could not load its packages.")
    elif any(sign in output for sign in ("OutOfMemoryError", "MemoryError", "DefaultCPUAllocator", "bad_alloc")):
        code, message = "oom", _("The worker ran out of memory.")
    elif "No space left on device" in output:
        code, message = "disk_full", _("The disk is full.")
    elif wasKilled:  # Linux kills a process without output to free memory
        code, message = "oom", _("The worker was killed, most likely because memory was full.")
    elif interpreter and not greeted:
        code = "interpreter"
        message = _(
            "{program} cannot run the worker ({how}); expected Python 3.11 or newer, with the packages installed."
        ).format(program=interpreter, how=how)
    else:
        code, message = "crashed", _("The worker ended unexpectedly ({how}).").format(how=how)
    return {"event": "error", "code": code, "message": message, "hint": "", "detail": output}
