"""The worker's two pipes: events out, requests in, the latter read by a thread so that a run can be stopped."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from DiffuGTSLib.errors import Cancelled, WorkerError
from DiffuGTSLib.worker.protocol import LineBuffer, event_line, parse_request

GRACE_S = 3.0
"""How long a run has to end by itself when the worker shall leave."""


class EventPipe:
    """Where stdout led at the start. What anybody prints from now on goes to stderr, into the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe = os.dup(1)
        os.dup2(2, 1)

    def tell(self, event: str, **values: Any) -> None:
        """Write an event.

        Raises:
            SystemExit: If nobody listens any more.
        """
        line = event_line(event, **values).encode("ascii")
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._pipe, line) :]
        except OSError:
            raise SystemExit(0) from None


class JobRun:
    """A run that was asked for and has not ended."""

    def __init__(self, job: str) -> None:
        self.job = job
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask it to end at its next `check`."""
        self._stop.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Cancelled: If somebody asked for it.
        """
        if self._stop.is_set():
            raise Cancelled("Stopped.")


class Inbox:
    """Takes requests while the worker works: a cancel reaches the run at once, the others wait for their turn.

    Where the requests end, or ask to stop, the run has `GRACE_S` to end; then the process is ended, come what may.
    """

    def __init__(
        self, read: Callable[[], bytes] = lambda: os.read(0, 1 << 16), exit_now: Callable[[], None] | None = None
    ) -> None:
        self._read = read
        self._exit_now = exit_now or (lambda: os._exit(1))
        self._waiting: queue.SimpleQueue[JobRun | WorkerError | str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[JobRun] = []

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def next(self) -> JobRun | WorkerError | str | None:
        """Wait for a run, the word "release", a request that is none, or None: the end."""
        return self._waiting.get()

    def ended(self, run: JobRun) -> None:
        """Note that a run has told its ending: a cancel that comes too late must not meet the next one."""
        with self._lock:
            self._open.remove(run)

    def _listen(self) -> None:
        lines = LineBuffer()
        try:
            while piece := self._read():
                for line in lines.feed(piece):
                    self._take(line)
        except OSError:
            pass  # a broken pipe is an end like another
        self._leave()

    def _take(self, line: str) -> None:
        try:
            request = parse_request(line)
        except WorkerError as error:
            self._waiting.put(error)
            return
        if request["do"] == "run":
            run = JobRun(request["job"])
            with self._lock:
                self._open.append(run)
            self._waiting.put(run)
        elif request["do"] == "cancel":
            self._stop_runs()
        elif request["do"] == "release":
            self._waiting.put("release")
        else:
            self._leave()

    def _leave(self) -> None:
        timer = threading.Timer(GRACE_S, self._exit_now)
        timer.daemon = True
        timer.start()
        self._stop_runs()
        self._waiting.put(None)

    def _stop_runs(self) -> None:
        with self._lock:
            for run in self._open:
                run.stop()
