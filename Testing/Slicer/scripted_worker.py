"""A real process that speaks the worker's protocol and does what a job folder's script.json says; no torch.

Each step is a list: ["stage", name, share], ["say", text], ["sleep", seconds], ["raw", line], ["artifact", kind],
["error", code, message, hint], ["done"], ["die", exit code], ["kill"], ["deaf"] (does not hear a cancel),
["child"] (starts a process of its own). Run with "mute" it never says hello, with "foreign" it speaks protocol 99, with
"broken" it fails as Python does where a package is missing.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from DiffuGTSLib.worker import protocol

KIND = sys.argv[1] if len(sys.argv) > 1 else ""
requests: queue.Queue[dict] = queue.Queue()
cancelled = threading.Event()
deaf = threading.Event()


def say(event: str, **values: object) -> None:
    """Write one event."""
    sys.stdout.write(protocol.event_line(event, **values))
    sys.stdout.flush()


def listen() -> None:
    """Take requests; the end of stdin ends the process, in the middle of a run too."""
    for line in sys.stdin:
        request = protocol.parse_request(line)
        if request["do"] == "cancel":
            cancelled.set()
        else:
            requests.put(request)
    if not deaf.is_set():
        os._exit(0)


def run(folder: Path) -> None:
    """Do the steps of a job until one of them ends it."""
    cancelled.clear()
    say("started", job=str(folder))
    for name, *values in json.loads((folder / "script.json").read_text()):
        if cancelled.is_set() and not deaf.is_set():
            say("cancelled")
            return
        if step(folder, name, values):
            return
    say("cancelled")


def step(folder: Path, name: str, values: list) -> bool:
    """Do one step; return whether it ended the run."""
    if name == "sleep":
        end = time.monotonic() + values[0]
        while time.monotonic() < end and (deaf.is_set() or not cancelled.is_set()):
            time.sleep(0.01)
    elif name == "stage":
        say("stage", stage=values[0], share=values[1])
    elif name == "say":
        print(values[0], file=sys.stderr, flush=True)
    elif name == "raw":
        print(values[0], flush=True)
    elif name == "artifact":
        say("artifact", kind=values[0], path=str(folder / protocol.ARTIFACT_FILES[values[0]]))
    elif name == "deaf":
        deaf.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif name == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "child").write_text(str(child.pid))
    elif name == "die":
        os._exit(values[0])
    elif name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "error":
        say("error", code=values[0], message=values[1], hint=values[2])
        return True
    elif name == "done":
        say(
            "done",
            outcome="1 finding",
            anomaly_score=0.9,
            modality="CT",
            modality_reason="as asked",
            timings_s={},
            findings=[],
        )
        return True
    return False


if KIND == "broken":
    raise ModuleNotFoundError("No module named 'torch'")
if KIND == "mute":
    time.sleep(600)
threading.Thread(target=listen, daemon=True).start()
number = 99 if KIND == "foreign" else protocol.PROTOCOL
say("hello", protocol=number, pid=os.getpid(), python=sys.version.split()[0], versions={}, devices=[])
say("ready", versions={"torch": "0"}, devices=[])
while True:
    wish = requests.get()
    if wish["do"] == "run":
        run(Path(wish["job"]))
    elif wish["do"] == "release":
        say("released")
    else:
        break
