"""A QProcess that is used without blocking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt


class QtProcess:
    """A QProcess that passes on output as it arrives, without ever blocking."""

    def __init__(self) -> None:
        self.onOutput: Callable[[bytes], None] = lambda data: None
        self.onErrorOutput: Callable[[bytes], None] = lambda data: None
        self.onFinished: Callable[[int, bool], None] = lambda exitCode, crashed: None
        """Called with exit code and whether it crashed; after a crash the code is the signal number, except on Windows."""
        self.onNotStarted: Callable[[str], None] = lambda reason: None
        """Called with the reason if it could not be started."""
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readErrorOutput)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)

    def start(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        """Start the process; if that fails, `onNotStarted` is called."""
        variables = qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process.setProcessEnvironment(variables)
        self._process.start(program, arguments)

    def write(self, data: bytes) -> None:
        """Write bytes to its standard input."""
        self._process.write(data)

    def isRunning(self) -> bool:
        """Return whether it is starting or running."""
        return self._process.state() != qt.QProcess.NotRunning

    def processId(self) -> int:
        """Return the process ID that Qt knows: that of the launcher, if there is one."""
        return int(self._process.processId())

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def _readOutput(self) -> None:
        self.onOutput(self._read("readAllStandardOutput"))

    def _readErrorOutput(self) -> None:
        self.onErrorOutput(self._read("readAllStandardError"))

    def _read(self, method: str) -> bytes:
        """Read the available output; none while Slicer exits, when the Qt object may be deleted already."""
        try:
            return bytes(getattr(self._process, method)().data())
        except (RuntimeError, ValueError):
            return b""

    def _finished(self, exitCode: int, exitStatus: Any) -> None:
        self._readOutput()
        self._readErrorOutput()
        self.onFinished(int(exitCode), exitStatus == qt.QProcess.CrashExit)

    def _failed(self, error: Any) -> None:
        if error == qt.QProcess.FailedToStart:
            self.onNotStarted(str(self._process.errorString()))
