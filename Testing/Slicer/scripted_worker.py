"""A real process that speaks the worker's protocol and does what a job folder's script.json says; no torch.

Each step is a list: the name of one of `STEP` and its values, as ["stage", "aova", 0.5]. The first argument is "", or "mute"
(never says hello), "foreign" (speaks protocol 99) or "broken" (fails as Python does where a package is missing); the
second is a file of steps for jobs without their own.
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from DiffuGTSLib.volumes import read_volume, write_volume
from DiffuGTSLib.worker import protocol

KIND = sys.argv[1] if len(sys.argv) > 1 else ""
STEPS = Path(sys.argv[2]) if len(sys.argv) > 2 else None
"""What to do where a job folder has no script.json of its own."""
FILES = {**protocol.SYNTHESIS_FILES, **protocol.ARTIFACT_FILES}
MASKS = ("coarse_mask", "segmentation", "painted_tumor")
IMAGES = ("pseudo_healthy", "painted")
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
    own = folder / "script.json"
    script = own if own.exists() or STEPS is None else STEPS
    for name, *values in json.loads(script.read_text()):
        if cancelled.is_set() and not deaf.is_set():
            say("cancelled")
            return
        if STEP[name](folder, *values):
            return
    say("cancelled")


def sleep(_folder: Path, seconds: float) -> None:
    """Wait, unless a cancel comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (deaf.is_set() or not cancelled.is_set()):
        time.sleep(0.01)


def artifact(folder: Path, kind: str) -> None:
    """Write a file of this kind, where there is a scan to lie on, and announce it: two balls, one larger."""
    path = folder / FILES[kind]
    if kind == "record":
        path.write_text(json.dumps({"outcome": "2 findings", "seed": 0}))
    elif kind == "findings":
        path.write_text("number\n")
    elif (folder / protocol.SCAN_FILE).exists():
        scan = read_volume(folder / protocol.SCAN_FILE)
        made = scan.array
        if kind not in IMAGES:
            far = np.minimum(distance(scan.geometry.shape, 0.3), distance(scan.geometry.shape, 0.7) + 0.05)
            made = (far < 0.2).astype(np.uint8) if kind in MASKS else np.clip(1 - far, 0, 1)
        write_volume(scan.with_array(made), path, compressed=False)
    say("artifact", kind=kind, path=str(path))


def distance(shape: tuple[int, int, int], place: float) -> np.ndarray:
    """Return how far each voxel is from a place on the grid's diagonal, in sides of the grid."""
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) / n - place for n in shape), indexing="ij", sparse=True)
    return np.sqrt(sum(axis**2 for axis in axes))


def garble(folder: Path, kind: str) -> None:
    """Announce a file that is none."""
    path = folder / FILES[kind]
    path.write_text("no image")
    say("artifact", kind=kind, path=str(path))


def go_deaf(_folder: Path) -> None:
    """Hear no cancel and no terminate any more."""
    deaf.set()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def go_numb(_folder: Path) -> None:
    """Hear no cancel any more, as in the middle of a long computation."""
    deaf.set()


def child(folder: Path) -> None:
    """Start a process of our own."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "child").write_text(str(process.pid))


def fail(_folder: Path, code: str, message: str, hint: str) -> bool:
    """End with an error."""
    say("error", code=code, message=message, hint=hint)
    return True


def cache(folder: Path) -> None:
    """Leave what a refinement would take up."""
    (folder / protocol.CACHE_FILE).write_bytes(b"found out")


def done(_folder: Path, findings: Sequence[dict[str, float]] = ()) -> bool:
    """End well."""
    about = {"modality": "CT", "modality_reason": "as asked", "timings_s": {}, "findings": list(findings)}
    say("done", outcome="2 findings, refined by residuals", anomaly_score=0.9, **about)
    return True


def painted(_folder: Path) -> bool:
    """End a synthesis well."""
    about = {"modality": "CT", "modality_reason": "as asked", "timings_s": {}, "skipped": []}
    tumors = [{"volume_ml": 2.5, "center_ras_mm": [60.0, 64.0, 40.0]}, {"volume_ml": 0.5, "center_ras_mm": [9, 9, 9]}]
    say("done", outcome="2 tumors painted", tumors=tumors, **about)
    return True


STEP = {
    "sleep": sleep,
    "stage": lambda _folder, stage, share: say("stage", stage=stage, share=share),
    "say": lambda _folder, text: print(text, file=sys.stderr, flush=True),
    "raw": lambda _folder, text: print(text, flush=True),
    "warning": lambda _folder, text: say("warning", message=text),
    "artifact": artifact,
    "garble": garble,
    "deaf": go_deaf,
    "numb": go_numb,
    "child": child,
    "die": lambda _folder, code: os._exit(code),
    "kill": lambda _folder: os.kill(os.getpid(), signal.SIGKILL),
    "error": fail,
    "cache": cache,
    "done": done,
    "painted": painted,
}


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
