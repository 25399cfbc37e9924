"""A process of Qt's that never makes anybody wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt


class QtProcess:
    """A QProcess that hands over bytes as they come, without ever waiting."""

    def __init__(self) -> None:
        self.onOutput: Callable[[bytes], None] = lambda data: None
        self.onErrorOutput: Callable[[bytes], None] = lambda data: None
        self.onFinished: Callable[[int, bool], None] = lambda exitCode, crashed: None
        """Called with the exit code and whether it crashed; then the code is the signal's number, except on Windows."""
        self.onNotStarted: Callable[[str], None] = lambda reason: None
        """Called with the reason instead."""
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readErrorOutput)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)

    def start(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        """Start it; a failure to start is told through `onNotStarted`."""
        variables = qt.QProcessEnvironment()
        for name, value in environment.items():
            variables.insert(name, value)
        self._process.setProcessEnvironment(variables)
        self._process.start(program, arguments)

    def write(self, data: bytes) -> None:
        """Hand bytes to its standard input."""
        self._process.write(data)

    def isRunning(self) -> bool:
        """Return whether it is starting or running."""
        return self._process.state() != qt.QProcess.NotRunning

    def processId(self) -> int:
        """Return the process id that Qt knows: of a launcher, where there is one."""
        return int(self._process.processId())

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def _readOutput(self) -> None:
        self.onOutput(self._read("readAllStandardOutput"))

    def _readErrorOutput(self) -> None:
        self.onErrorOutput(self._read("readAllStandardError"))

    def _read(self, method: str) -> bytes:
        """Read what there is; nothing where Slicer ends and Qt's object is gone, whose end is still told."""
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
