"""Around the stages: seconds and progress of each, and one error for whatever runs out or cannot be compiled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from DiffuGTSLib.clock import Clock, out_of_memory_as_error, span
from DiffuGTSLib.errors import ConfigError, DiffuGTSError, MemoryLimitError

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_a_stage_is_timed_and_reported_from_its_beginning_to_its_end() -> None:
    heard: list[tuple[str, float]] = []
    clock = Clock(lambda stage, share: heard.append((stage, share)))
    with clock.stage("look"):
        clock.report(0.5)
    assert heard == [("look", 0.0), ("look", 0.5), ("look", 1.0)]
    assert list(clock.seconds) == ["look"] and clock.seconds["look"] > 0


def test_a_stage_that_fails_is_timed_and_never_reported_as_done() -> None:
    heard: list[float] = []
    clock = Clock(lambda stage, share: heard.append(share))
    with pytest.raises(ValueError, match="no"), clock.stage("look"):
        raise ValueError("no")
    assert heard == [0.0] and "look" in clock.seconds


def test_a_span_is_a_part_of_the_stage() -> None:
    heard: list[float] = []
    on_window = span(heard.append, 0.5, 1.0)
    for done in range(3):
        on_window(done, 2)
    assert heard == [0.5, 0.75, 1.0]


SHORT_OF_MEMORY = """
import resource
import numpy as np
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import MemoryLimitError
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.text.prompts import PromptPair, organ_prompts
from DiffuGTSLib.volumes import Geometry, Volume
config = load_config("tiny", overrides=["canonical.spacing_mm=1.0", "backbone.window_voxels=160"])
components = load_components(config, allow_untrained=True)
array = np.random.default_rng(0).normal(0, 100, (160, 160, 160)).astype(np.float32)
scan = Volume(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 1.0)), "CT")
def short_of(room_mb):
    pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + room_mb * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        segment(scan, organ_prompts("liver", "CT"), components, config)
    except MemoryLimitError as error:
        print(error.code, "|", error.message, "|", error.hint, "|", type(error.__cause__).__mro__)
short_of(5)
short_of(200)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_memory_that_runs_out_is_one_error_with_its_stage() -> None:
    """On a CPU torch raises a bare RuntimeError, numpy a MemoryError: both are this error."""
    program = [sys.executable, "-c", SHORT_OF_MEMORY]
    # glibc would keep freed blocks and serve the next large array from them, limit or not: every block is to be new.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    while_reading, while_looking = done.stdout.splitlines()
    assert "Out of memory in stage 'aova' on cpu" in while_looking and "RuntimeError" in while_looking
    assert "Out of memory in stage 'read' on cpu" in while_reading and "MemoryError" in while_reading
    assert "backbone.window_voxels" in while_looking and while_looking.startswith("oom")


def test_any_other_failure_of_torch_comes_through_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="a device-side assert") as caught, out_of_memory_as_error(Clock(None), CPU):
        raise RuntimeError("a device-side assert")
    assert not isinstance(caught.value, DiffuGTSError)


@pytest.mark.parametrize(
    "text",
    [
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "Seems to be OOM",
        "",
    ],
)
def test_the_words_of_windows_and_of_cuda_are_understood(text: str) -> None:
    with pytest.raises(MemoryLimitError, match=text or "no details given"), out_of_memory_as_error(Clock(None), CPU):
        raise RuntimeError(text) if text else torch.OutOfMemoryError("")


def test_a_compiler_that_ran_out_of_memory_is_short_of_memory_and_not_broken() -> None:
    with pytest.raises(MemoryLimitError, match="on cuda"), out_of_memory_as_error(Clock(None), torch.device("cuda")):
        raise TorchDynamoException("the backend failed") from torch.OutOfMemoryError("Tried to allocate 9 GiB")


def test_a_compiler_that_fails_is_said_in_words() -> None:
    with (
        pytest.raises(ConfigError, match="The denoiser could not be compiled for cuda: no Triton") as caught,
        out_of_memory_as_error(Clock(None), torch.device("cuda")),
    ):
        raise TorchDynamoException("no Triton")
    assert "runtime.compile at false" in caught.value.hint
