"""What the worker and its client say to each other: every message there and back, and every refusal."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from DiffuGTSLib.errors import PromptError, WorkerError
from DiffuGTSLib.worker.protocol import (
    ARTIFACT_FILES,
    ENDINGS,
    EVENTS,
    JOB_FILE,
    JOB_STAGES,
    PREFIX,
    REQUESTS,
    ROAD,
    SYNTHESIS_FILES,
    JobSpec,
    LineBuffer,
    SynthesisSpec,
    event_line,
    parse_event,
    parse_job,
    parse_request,
    read_job,
    request_line,
    worker_environment,
    write_job,
)

ROOT = Path(__file__).parents[2]


# Jobs


def test_a_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    spec = JobSpec(
        modality="CT", normal="Größe der Leber", abnormal="腫瘍", region="region.nrrd", coarse_mask="drawn.nrrd",
        cache="/elsewhere/cache.safetensors", preset="tiny", overrides=["inpainting.steps=3"], stages=["aova"],
        allow_untrained=True,
    )  # fmt: skip
    write_job(spec, tmp_path)
    assert (tmp_path / JOB_FILE).read_bytes().isascii()
    assert read_job(tmp_path) == spec
    assert spec.overrides == ("inpainting.steps=3",) and spec.stages == ("aova",)


def test_an_organ_is_all_that_a_job_must_say() -> None:
    spec = parse_job('{"format": 1, "organ": "liver"}')
    assert spec == JobSpec(organ="liver")
    assert (spec.scan, spec.preset, spec.stages, spec.allow_untrained) == ("input.nrrd", "mini", ROAD, False)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 2}, "The job has format 2; expected 1."),
        ({"format": True}, "The job has format True"),
        ({"organs": "liver"}, "unknown key 'organs'; did you mean 'organ'?"),
        ({"organ": 3}, "The job's organ: expected text, got 3."),
        ({"scan": ""}, "The job names no scan."),
        ({"modality": "PET"}, "expected CT, MR or nothing, got 'PET'"),
        ({"allow_untrained": 1}, "The job's allow_untrained: expected true or false, got 1."),
        ({"overrides": "inpainting.steps=3"}, "The job's overrides: expected a list of texts"),
        ({"stages": ["aova", 2]}, "The job's stages: expected a list of texts"),
        ({"cache": "cache.safetensors"}, "of use with a coarse mask only"),
    ],
)
def test_a_job_that_is_none_is_refused(an_unchecked_library: None, values: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse_job(json.dumps({"format": 1, "organ": "liver", **values}))
    assert said in caught.value.message
    assert caught.value.code == "protocol" and "restart" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected an object, got list"),
        ('{"organ": "liver"}', "names no format"),
    ],
)
def test_a_text_that_is_no_job_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / JOB_FILE).write_text(text)
    with pytest.raises(WorkerError, match=said):
        read_job(tmp_path)


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"job.json cannot be read") as caught:
        read_job(tmp_path)
    assert caught.value.code == "protocol"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "nothing to look for"),
        ({"normal": "lung"}, "only one of two sentences"),
        ({"abnormal": "lung nodule", "normal": "  "}, "only one of two sentences"),
        ({"organ": "lung", "normal": "lung"}, "got both"),
    ],
)
def test_a_job_asks_for_an_organ_or_with_two_sentences(values: dict[str, str], said: str) -> None:
    with pytest.raises(PromptError, match=said) as caught:
        JobSpec(**values)
    assert caught.value.code == "choice" and caught.value.hint


# Messages

REQUEST = {"job": "/a b/ö"}
EVENT: dict[str, Any] = {
    "protocol": 1, "pid": 7, "python": "3.12", "versions": {"torch": "2"}, "devices": [], "job": "/a b/ö",
    "stage": "aova", "share": 0.5, "kind": "aova", "path": "/a b/ö/aova.nrrd", "message": "Größe\nzwei", "code": "oom",
    "hint": "", "outcome": "1 finding", "anomaly_score": 0.7, "modality": "CT", "modality_reason": "as asked",
    "timings_s": {"load": 0.1}, "findings": [{"label": 1}],
}  # fmt: skip


@pytest.mark.parametrize("do", REQUESTS)
def test_every_request_comes_through_one_line_of_ascii(do: str) -> None:
    values = {key: REQUEST[key] for key in REQUESTS[do]}
    line = request_line(do, **values)
    assert line.isascii() and line.count("\n") == 1 and line.endswith("\n")
    assert parse_request(line) == {"do": do, **values}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_comes_through_one_line_of_ascii(event: str) -> None:
    values = {key: EVENT[key] for key in EVENTS[event]}
    line = event_line(event, **values)
    assert line.startswith(PREFIX) and line.isascii() and line.count("\n") == 1
    assert parse_event(line.rstrip("\n") + "\r\n") == {"event": event, **values}


def test_numbers_that_json_has_no_word_for_become_null() -> None:
    findings = [{"mean_aova": math.nan, "centroid_ras_mm": (1.0, math.inf)}]
    line = event_line("done", **{**{key: EVENT[key] for key in EVENTS["done"]}, "findings": findings})
    event = parse_event(line)
    assert event is not None and event["findings"] == [{"mean_aova": None, "centroid_ras_mm": [1.0, None]}]


@pytest.mark.parametrize("line", ["", "Loading…", "@diffugts", 'x @diffugts {"event": "cancelled"}', '{"event": "x"}'])
def test_any_other_line_is_log_text(line: str) -> None:
    assert parse_event(line) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("@diffugts {", "not valid JSON"),
        ("@diffugts 3", "expected an object"),
        ('@diffugts {"event": "dancing"}', "'event' is 'dancing'"),
        ('@diffugts {"event": ["done"]}', "'event' is ['done']"),
        ('@diffugts {"event": "stage", "stage": "aova"}', "'stage' lacks share"),
        ("@diffugts " + "[" * 100_000, "not valid JSON"),
    ],
)
def test_a_line_that_begins_as_an_event_must_be_one(line: str, said: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse_event(line)
    assert said in caught.value.message and caught.value.code == "protocol"


@pytest.mark.parametrize("line", ["", "run", "[]", '{"do": "jump"}', '{"do": "run"}', '{"do": "run", "job": 3}'])
def test_a_line_that_is_no_request_is_refused(line: str) -> None:
    with pytest.raises(WorkerError) as caught:
        parse_request(line)
    assert caught.value.code == "protocol"


def test_neither_side_can_send_what_the_other_would_refuse() -> None:
    with pytest.raises(WorkerError, match="'run' lacks job"):
        request_line("run")
    with pytest.raises(WorkerError, match="'event' is 'dancing'"):
        event_line("dancing")


def test_lines_are_put_together_from_whatever_pieces_the_pipe_brings() -> None:
    text = "one\r\nzwei: ö\n\nrest"
    for size in (1, 2, 3, 50):
        buffer, lines = LineBuffer(), []
        data = text.encode()
        for start in range(0, len(data), size):
            lines += buffer.feed(data[start : start + size])
        assert lines == ["one", "zwei: ö", ""] and buffer.rest() == "rest" and buffer.rest() == ""


def test_a_line_that_does_not_end_is_gathered_in_a_time_that_grows_with_its_length_alone() -> None:
    """In a second or two at most, while a buffer that copied all that has come for each piece would take minutes."""
    buffer, began = LineBuffer(), time.perf_counter()
    for _ in range(16_000):
        assert list(buffer.feed(b"x" * 4096)) == []
    assert [len(line) for line in buffer.feed(b"\n")] == [16_000 * 4096]
    assert time.perf_counter() - began < 20


def test_bytes_that_are_no_text_do_not_stop_the_lines() -> None:
    assert list(LineBuffer().feed(b"\xff\n@diffugts {}\n")) == ["\ufffd", "@diffugts {}"]


def test_a_synthesis_job_comes_back_as_it_was_written(tmp_path: Path) -> None:
    spec = SynthesisSpec(organ="Größe.json", radius_mm=12, center_ras_mm=[1, 2.5, -3], mass_effect=True, seed=4)
    write_job(spec, tmp_path)
    assert (tmp_path / JOB_FILE).read_bytes().isascii()
    assert read_job(tmp_path) == spec
    assert spec.center_ras_mm == (1.0, 2.5, -3.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "dream"}, "kind 'dream'"),
        ({"format": 2}, "format 2"),
        ({"organ": 3}, "organ: expected str, got 3"),
        ({"count": "2"}, "count: expected int"),
        ({"count": True}, "count: expected int"),
        ({"capsule": 1}, "capsule: expected bool"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"center_ras_mm": [1, 2]}, "radius and center"),
        ({"center_ras_mm": [1, 2, math.nan]}, "radius and center"),
        ({"center_ras_mm": None}, "radius and center"),
        ({"center_ras_mm": 5}, "radius and center"),
        ({"radius_mm": 10**400}, "radius and center"),
        ({"radius_mm": True}, "radius and center"),
        ({"radius_mm": "wide"}, "radius and center"),
        ({"capsul": True}, "unknown key 'capsul'"),
    ],
)
def test_a_synthesis_job_that_is_none_is_refused(an_unchecked_library: None, values: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkerError, match=said) as caught:
        parse_job(json.dumps({"format": 1, "kind": "synthesize", "organ": "liver", **values}))
    assert caught.value.code == "protocol"


# What both sides rely on


def test_the_stages_are_those_of_the_road_and_the_files_those_of_a_result() -> None:
    from DiffuGTSLib import pipeline

    assert pipeline.STAGES == ROAD
    assert JOB_STAGES == ("load", "read", "aova", "repaint", "residual", "write back", "write")
    assert set(ENDINGS) < set(EVENTS)
    assert len(set(ARTIFACT_FILES.values())) == len(ARTIFACT_FILES)
    assert not set(SYNTHESIS_FILES.values()) & set(ARTIFACT_FILES.values())


def test_the_environment_lets_a_process_find_the_library_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the current folder is not to be searched')")
    program = "import DiffuGTSLib.worker.protocol as p, sys; print(p.__file__); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=worker_environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == ROOT / "DiffuGTSLib" / "worker" / "protocol.py"
