"""The worker as a real process, spoken to over its pipes: whole runs, what it refuses, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid

from DiffuGTSLib.output.findings import COLUMNS
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import Volume
from DiffuGTSLib.worker.protocol import (
    ARTIFACT_FILES,
    CACHE_FILE,
    ENDINGS,
    JOB_FILE,
    PREFIX,
    SYNTHESIS_FILES,
    JobSpec,
    SynthesisSpec,
    parse_event,
    request_line,
    worker_environment,
    write_job,
)

PATIENCE_S = 900.0
"""Torch takes seconds to load, on a busy computer minutes."""
LONG = ("inpainting.steps=1000", "inpainting.resample=50")
CANCEL_S = 3.0

Event = dict[str, Any]


class Client:
    """Starts a worker and hears what it says."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.worker"],
            env={**os.environ, **worker_environment()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.log: list[str] = []
        self.greeting: list[Event] = []
        self.ears = [
            threading.Thread(target=self._listen, args=(pipe, keep), daemon=True)
            for pipe, keep in ((self.process.stdout, self.lines.put), (self.process.stderr, self.log.append))
        ]
        for ear in self.ears:
            ear.start()

    @staticmethod
    def _listen(pipe: Any, keep: Any) -> None:
        for line in pipe:
            keep(line)

    def send(self, do: str, **values: str) -> None:
        """Write a request."""
        self.write(request_line(do, **values))

    def write(self, text: str) -> None:
        """Write anything."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def hear(self, *names: str) -> list[Event]:
        """Return all events up to the first one of these names; nothing but events is said on stdout."""
        heard: list[Event] = []
        while not heard or heard[-1]["event"] not in names:
            line = self._next_line()
            event = parse_event(line)
            assert event is not None, line
            heard.append(event)
        return heard

    def _next_line(self) -> str:
        for _ in range(int(PATIENCE_S)):
            with contextlib.suppress(queue.Empty):
                return self.lines.get(timeout=1)
            assert self.process.poll() is None or not self.lines.empty(), self.log
        raise TimeoutError(f"nothing heard for {PATIENCE_S} s: {self.log}")

    def run(self, folder: Path, **wishes: Any) -> list[Event]:
        """Do a job and return its events, the ending last."""
        write_job(JobSpec(**{"preset": "tiny", "allow_untrained": True, "organ": "liver", **wishes}), folder)
        self.send("run", job=str(folder))
        return self.hear(*ENDINGS)

    def end(self, within_s: float) -> int:
        """Return the exit code of a process that ends by itself."""
        return self.process.wait(timeout=within_s)

    def close(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for ear in self.ears:
            ear.join(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def a_worker() -> Iterator[Client]:
    """A warm worker for all tests that leave it idle."""
    client = Client()
    client.greeting = client.hear("ready")
    yield client
    client.close()


@pytest.fixture(scope="module")
def a_body() -> Phantom:
    """A phantom on an oblique, left-handed grid of 43200 voxels."""
    turned = np.diag([-1.0, 1.0, 1.0])
    return ct_phantom(grid((36, 40, 30), (3.0, 2.5, 3.5), orientation=turned, degrees=(5, -4, 8)))


@pytest.fixture
def a_job(tmp_path: Path, a_body: Phantom) -> Path:
    """A job folder with a scan, a drawn lesion and an organ, in a place with a name that ASCII cannot write."""
    folder = tmp_path / "Größe 腫瘍"
    folder.mkdir()
    for name, volume in (("input", a_body.scan), ("drawn", a_body.lesion), ("organ", a_body.organ)):
        write_volume(volume, folder / f"{name}.nrrd")
    return folder


def names(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


def artifacts(events: list[Event]) -> dict[str, Path]:
    return {event["kind"]: Path(event["path"]) for event in events if event["event"] == "artifact"}


def stages(events: list[Event]) -> list[str]:
    return list(dict.fromkeys(event["stage"] for event in events if event["event"] == "stage"))


def assert_idle_and_well(worker: Client, folder: Path) -> None:
    assert worker.run(folder, stages=["aova"])[-1]["event"] == "done"


# Whole runs


def test_it_says_hello_first_and_is_ready_when_torch_is_there(a_worker: Client) -> None:
    hello, ready = a_worker.greeting
    assert hello["event"] == "hello" and hello["protocol"] == 1 and hello["pid"] == a_worker.process.pid
    assert hello["versions"]["torch"] == ready["versions"]["torch"] and hello["devices"] == []


def test_a_run_tells_its_stages_and_shows_its_files_as_they_come(
    a_worker: Client, a_job: Path, a_body: Phantom
) -> None:
    events = a_worker.run(a_job, coarse_mask="drawn.nrrd")
    assert names(events)[0] == "started" and Path(events[0]["job"]) == a_job
    done = events[-1]
    assert done["event"] == "done", (done, a_worker.log)
    assert stages(events) == ["load", "read", "aova", "repaint", "residual", "write back", "write"]
    assert list(artifacts(events)) == list(ARTIFACT_FILES)
    order = [event.get("kind") or event.get("stage") for event in events]
    assert order.index("coarse_mask") < order.index("repaint"), "shown before the diffusion begins"
    shares = [(event["stage"], event["share"]) for event in events if event["event"] == "stage"]
    assert len(shares) == len(set(shares)), "nothing is told twice"
    for kind, path in artifacts(events).items():
        assert path == a_job / ARTIFACT_FILES[kind] and path.stat().st_size > 0
        if path.suffix == ".nrrd":
            assert not read_volume(path).geometry.difference(a_body.scan.geometry), kind
    assert np.array_equal(read_volume(a_job / "coarse_mask_found.nrrd").array, a_body.lesion.array)
    rows = (a_job / "findings.csv").read_text().splitlines()
    assert rows[0] == ",".join(COLUMNS) and len(rows) == 1 + len(done["findings"])
    record = json.loads((a_job / "record.json").read_text(encoding="utf-8"))
    assert record["outcome"] == done["outcome"] and record["trained"] is False and record["asked"]["organ"] == "liver"
    assert set(done["timings_s"]) == set(stages(events)) and done["modality"] == "CT" and done["modality_reason"]
    left = {path.name for path in a_job.iterdir()} - {"input.nrrd", "drawn.nrrd", "organ.nrrd"}
    assert left == {JOB_FILE, CACHE_FILE, *ARTIFACT_FILES.values()}, "no temporary file stays"


def test_a_second_run_finds_the_networks_loaded_and_a_release_forgets_them(
    a_worker: Client, a_job: Path, tmp_path: Path
) -> None:
    """Damage that neither size nor time of the file betrays is met by whoever reads the weights, and by nobody else."""
    model = tmp_path / "model"
    shutil.copytree(resource_path("Models", "mini"), model)
    wishes = {"preset": "mini", "overrides": [f"backbone.folder={model}"], "stages": ["aova"]}
    cold = a_worker.run(a_job, **wishes)[-1]
    weights = model / "aova" / "diffusion_pytorch_model.safetensors"
    content, known = weights.read_bytes(), weights.stat()
    weights.write_bytes(bytes(len(content)))
    os.utime(weights, ns=(known.st_atime_ns, known.st_mtime_ns))
    warm = a_worker.run(a_job, **wishes)[-1]
    assert warm["event"] == cold["event"] == "done" and warm["outcome"] == cold["outcome"]

    a_worker.send("release")
    assert names(a_worker.hear("released")) == ["released"]
    refused = a_worker.run(a_job, **wishes)[-1]
    assert refused["event"] == "error" and str(weights) in refused["message"]
    weights.write_bytes(content)
    assert a_worker.run(a_job, **wishes)[-1]["outcome"] == cold["outcome"]


def test_an_empty_result_is_no_error(a_worker: Client, a_job: Path) -> None:
    events = a_worker.run(a_job, overrides=["masks.gate=1.0"], region="organ.nrrd")
    done = events[-1]
    assert done["event"] == "done" and "judged normal" in done["outcome"] and done["findings"] == []
    assert "repaint" not in stages(events)
    assert list(artifacts(events)) == ["aova", "coarse_mask", "segmentation", "findings", "record"]
    assert not read_volume(a_job / "segmentation.nrrd").array.any()


def test_an_edited_candidate_is_refined_without_another_look(
    a_worker: Client, a_job: Path, a_body: Phantom, tmp_path: Path
) -> None:
    first = a_worker.run(a_job, stages=["aova"])
    second = tmp_path / "second"
    second.mkdir()
    write_volume(a_body.scan, second / "input.nrrd", compressed=False)
    write_volume(a_body.lesion, second / "drawn.nrrd")
    wishes = {"coarse_mask": "drawn.nrrd", "cache": str(a_job / CACHE_FILE)}
    events = a_worker.run(second, **wishes)
    assert events[-1]["event"] == "done" and "warning" not in names(events)
    assert [e["share"] for e in events if e.get("stage") == "aova"] == [0.0, 1.0]
    assert np.array_equal(read_volume(second / "aova.nrrd").array, read_volume(artifacts(first)["aova"]).array)
    assert read_mask(second / "segmentation.nrrd", a_body.scan.geometry).array.any()

    others = a_worker.run(second, **wishes, organ="kidney")
    said = [event["message"] for event in others if event["event"] == "warning"]
    assert said == [
        "The earlier result is of another scan, other prompts or another model: the scan is looked at again."
    ]
    (a_job / CACHE_FILE).write_bytes(b"spoiled")
    damaged = a_worker.run(second, **wishes)
    (a_job / CACHE_FILE).unlink()
    gone = a_worker.run(second, **wishes)
    for heard, word in ((damaged, "is damaged"), (gone, "is gone")):
        assert heard[-1]["event"] == "done"
        assert any(word in event["message"] for event in heard if event["event"] == "warning")


# What it refuses


@pytest.mark.parametrize(
    ("wishes", "code", "said"),
    [
        ({"preset": "tinny"}, "config", "Unknown preset 'tinny'"),
        ({"overrides": ["masks.treshold=1"]}, "config", "Unknown configuration key 'masks.treshold'"),
        ({"organ": "livver"}, "organ", "Unknown organ 'livver'"),
        ({"organ": "", "normal": "liver", "abnormal": "no tumor"}, "negation", "says that something is absent"),
        ({"allow_untrained": False}, "untrained", "are untrained"),
        ({"scan": "none.nrrd"}, "missing", "none.nrrd"),
        ({"stages": ["residual"]}, "config", "Stages build on each other"),
        ({"preset": "maisi-ct", "overrides": ["text.encoder=minilm"]}, "weights_missing", "are not here"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_error_with_its_code(
    a_worker: Client, a_job: Path, wishes: dict[str, Any], code: str, said: str
) -> None:
    events = a_worker.run(a_job, **wishes)
    assert names(events).count("error") == 1 and names(events)[0] == "started"
    assert events[-1]["code"] == code and said in events[-1]["message"], events[-1]


def test_scans_and_masks_that_do_not_fit_are_refused(a_worker: Client, a_job: Path, a_body: Phantom) -> None:
    other = ct_phantom(grid((36, 40, 30), (3.0, 2.5, 3.6)))
    write_volume(other.lesion, a_job / "other.nrrd")
    event = a_worker.run(a_job, coarse_mask="other.nrrd")[-1]
    assert event["code"] == "geometry" and "different grids" in event["message"] and event["hint"]
    holes = a_body.scan.array.copy()
    holes[3, 3, 3] = np.nan
    write_volume(Volume(holes, a_body.scan.geometry), a_job / "holes.nrrd")
    event = a_worker.run(a_job, scan="holes.nrrd")[-1]
    assert event["code"] == "not_finite" and "1 NaN or infinite voxels" in event["message"]
    write_volume(a_body.lesion.with_array(np.zeros_like(a_body.lesion.array)), a_job / "empty.nrrd")
    event = a_worker.run(a_job, coarse_mask="empty.nrrd")[-1]
    assert event["code"] == "empty_candidate"
    assert_idle_and_well(a_worker, a_job)


def test_candidates_outside_the_region_are_cut_off_with_a_warning(
    a_worker: Client, a_job: Path, a_body: Phantom
) -> None:
    """A threshold of the map draws them, too."""
    drawn = a_body.lesion.array.copy()
    drawn[0:3, 0:3, 0:3] = 1
    write_volume(a_body.lesion.with_array(drawn), a_job / "drawn.nrrd")
    events = a_worker.run(a_job, coarse_mask="drawn.nrrd", region="organ.nrrd")
    assert events[-1]["event"] == "done", events[-1]
    (warning,) = [event["message"] for event in events if event["event"] == "warning"]
    assert "ml that were drawn lie outside the region and were cut off." in warning


def test_tumors_are_painted_by_the_same_process(a_worker: Client, a_job: Path) -> None:
    write_job(SynthesisSpec(organ_mask="organ.nrrd", organ="liver", size="small", count=1), a_job)
    a_worker.send("run", job=str(a_job))
    events = a_worker.hear(*ENDINGS)
    assert events[-1]["event"] == "done", (events[-1], a_worker.log)
    assert list(artifacts(events)) == list(SYNTHESIS_FILES)
    assert all(path.is_file() for path in artifacts(events).values())
    assert [tumor["size"] for tumor in events[-1]["tumors"]] == ["small"]


def test_jobs_and_requests_that_are_none_are_answered(a_worker: Client, a_job: Path, tmp_path: Path) -> None:
    a_worker.send("run", job=str(tmp_path / "nowhere"))
    assert a_worker.hear(*ENDINGS)[-1]["code"] == "protocol"
    (a_job / JOB_FILE).write_text('{"format": 99}')
    a_worker.send("run", job=str(a_job))
    assert "format 99" in a_worker.hear(*ENDINGS)[-1]["message"]
    a_worker.write("dance\n")
    assert a_worker.hear(*ENDINGS)[-1]["code"] == "protocol"
    a_worker.send("cancel")  # of nothing: not answered
    assert_idle_and_well(a_worker, a_job)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prlimit")
def test_memory_that_runs_out_is_an_error_and_the_next_run_works(a_worker: Client, a_job: Path) -> None:
    import resource

    pid = a_worker.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 200 * 2**20, before[1]))
    try:
        huge = ["canonical.spacing_mm=0.25", "backbone.window_voxels=256"]
        event = a_worker.run(a_job, overrides=huge)[-1]
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)
    assert event["event"] == "error" and event["code"] == "oom", event
    assert "emory" in event["message"] and "processor" in event["hint"]
    assert_idle_and_well(a_worker, a_job)


# How it ends


def begin_repainting(worker: Client, folder: Path) -> None:
    """Start a run that takes minutes, and return in the midst of it."""
    wish = JobSpec(organ="liver", preset="tiny", allow_untrained=True, coarse_mask="drawn.nrrd", overrides=LONG)
    write_job(wish, folder)
    worker.send("run", job=str(folder))
    while worker.hear("stage")[-1]["stage"] != "repaint":
        pass


def test_a_cancel_in_the_diffusion_ends_the_run_soon_and_the_worker_is_well(a_worker: Client, a_job: Path) -> None:
    begin_repainting(a_worker, a_job)
    begin_s = time.monotonic()
    a_worker.send("cancel")
    events = a_worker.hear(*ENDINGS)
    assert names(events)[-1] == "cancelled" and time.monotonic() - begin_s < CANCEL_S
    assert {"aova.nrrd", "coarse_mask_found.nrrd"} <= {path.name for path in a_job.iterdir()}, "what was shown stays"
    assert not [path for path in a_job.iterdir() if path.name.startswith(".")]
    assert_idle_and_well(a_worker, a_job)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


_PARENT = f"""
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-m", "DiffuGTSLib.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
while not (line := worker.stdout.readline()).startswith({PREFIX.encode()!r}):
    pass
print(worker.pid, flush=True)
worker.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and SIGKILL")
def test_whoever_kills_the_parent_leaves_no_worker() -> None:
    """While it still loads torch: no run is there that could look at a flag."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], env={**os.environ, **worker_environment()}, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
        end_s = time.monotonic() + 10
        while is_alive(pid) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert not is_alive(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="another kind of pipe")
def test_a_worker_that_nobody_listens_to_leaves_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.worker"],
        env={**os.environ, **worker_environment()},
        stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_end_of_stdin_ends_the_process_in_the_middle_of_a_run(a_worker: Client, a_job: Path) -> None:
    """The last test of this file: the worker that all others share is gone after it."""
    begin_repainting(a_worker, a_job)
    assert a_worker.process.stdin is not None
    begin_s = time.monotonic()
    a_worker.process.stdin.close()
    assert a_worker.end(within_s=10) == 0 and time.monotonic() - begin_s < CANCEL_S
    assert not [path for path in a_job.iterdir() if path.name.startswith(".")]
    assert "Traceback" not in "".join(a_worker.log[-5:])
