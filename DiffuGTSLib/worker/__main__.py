"""The worker's process: `python -m DiffuGTSLib.worker`. It is started by programs and speaks as `protocol` says.

One thread takes requests, one loads torch, this one works. Nothing that takes long is imported here: a client waits for
`hello`, and whoever asks for a run with a wrong preset is told so before torch is there.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import platform
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import Cancelled, InputError, WorkerError
from DiffuGTSLib.versions import versions
from DiffuGTSLib.worker.channel import EventPipe, Inbox, JobRun
from DiffuGTSLib.worker.failures import Failure, describe
from DiffuGTSLib.worker.library import Library
from DiffuGTSLib.worker.protocol import PROTOCOL, SynthesisSpec, read_job
from DiffuGTSLib.worker.teller import Teller

if TYPE_CHECKING:
    from DiffuGTSLib.worker.model import WarmModel

_logger = logging.getLogger("DiffuGTSLib.worker")


class Worker:
    """Takes one request after the other until it shall leave."""

    def __init__(self, pipe: EventPipe, inbox: Inbox) -> None:
        self._tell = pipe.tell
        self._inbox = inbox
        self._library = Library(pipe.tell)
        self._model: WarmModel | None = None

    def serve(self) -> None:
        """Say hello, then work."""
        self._tell(
            "hello",
            protocol=PROTOCOL,
            pid=os.getpid(),
            python=platform.python_version(),
            versions=versions(),
            devices=[],
        )
        self._inbox.start()
        self._library.start()
        while (request := self._inbox.next()) is not None:
            if isinstance(request, JobRun):
                failure = self._run(request)
                self._inbox.ended(request)
                if failure is not None and failure.is_fatal:
                    return
            elif isinstance(request, WorkerError):
                self._tell("error", code=request.code, message=request.message, hint=request.hint)
            else:
                if self._model is not None:
                    self._model.release()
                self._tell("released")

    def _run(self, run: JobRun) -> Failure | None:
        """Do a job, or say why not: the one place where every error ends."""
        self._tell("started", job=run.job)
        folder = Path(run.job)
        try:
            self._perform(folder, run)
        except Cancelled:
            self._tell("cancelled")
        except Exception as error:
            failure = describe(error, folder)
            _logger.error("The run failed.", exc_info=None if isinstance(error, InputError) else error)
            self._tell("error", code=failure.code, message=failure.message, hint=failure.hint)
            return failure
        finally:
            if self._model is not None:
                from DiffuGTSLib.planning.running import give_memory_back

                give_memory_back()
        return None

    def _perform(self, folder: Path, run: JobRun) -> None:
        """Refuse what can be refused without torch, then wait for it."""
        spec = read_job(folder)
        teller = Teller(self._tell, run.check)
        if isinstance(spec, SynthesisSpec):
            teller.progress("load", 0.0)
            self._library.wait(run.check)

            from DiffuGTSLib.worker.synthesis_job import perform_synthesis

            perform_synthesis(folder, spec, teller)
            return
        config = load_config(spec.preset, overrides=spec.overrides)
        spec.prompts(spec.modality or "CT")  # an organ is known in both, or in none
        teller.progress("load", 0.0)
        self._library.wait(run.check)

        from DiffuGTSLib.worker.job import perform
        from DiffuGTSLib.worker.model import WarmModel

        self._model = self._model or WarmModel()
        perform(folder, spec, config, self._model, teller)


def main() -> None:
    """Work until stdin ends."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the program that started us
    pipe = EventPipe()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    code = 1
    try:
        Worker(pipe, Inbox()).serve()
        code = 0
    except SystemExit:  # nobody listens any more
        code = 0
    except Exception:
        _logger.exception("The worker failed.")
    finally:
        # At once: neither the thread that still loads torch nor the one that waits for requests may hold us up.
        os._exit(code)


if __name__ == "__main__":
    main()
