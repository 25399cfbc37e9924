"""Following the plan with real networks and memory that really runs out: one rung down, said, recorded, and on."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import Phantom

from DiffuGTSLib.config import load_config
from DiffuGTSLib.pipeline import load_components
from DiffuGTSLib.planning.machine import Machine, cpu_memory
from DiffuGTSLib.planning.plan import make_plan
from DiffuGTSLib.planning.running import left_over_mb, segment_by_plan
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import Geometry

ROOT = Path(__file__).parents[2]
LIVER = organ_prompts("liver", "CT")
PLENTY = Machine("cpu", "one of ours", 64e9, "as asked")


def test_a_plan_that_holds_is_on_record_with_the_result(a_ct_phantom: Phantom) -> None:
    config = load_config("tiny")
    components = load_components(config, allow_untrained=True)
    plan = make_plan(a_ct_phantom.scan.geometry, config, PLENTY)
    result = segment_by_plan(a_ct_phantom.scan, LIVER, components, plan, stages=["aova"])
    assert result.plan is not None and result.plan["rung_name"] == "as asked" and result.stepped_down == ()
    assert result.config == config


def test_a_further_look_does_not_forget_what_the_first_one_gave_up(a_ct_phantom: Phantom) -> None:
    asked = load_config("tiny", overrides=["backbone.window_voxels=96"])
    smaller = replace(asked, backbone=replace(asked.backbone, window_voxels=64))
    first = make_plan(a_ct_phantom.scan.geometry, asked, PLENTY)
    then = make_plan(a_ct_phantom.scan.geometry, smaller, PLENTY, given_up=["backbone.window_voxels"])
    assert first.differs_from_asked == {}
    assert then.rung == 0 and then.to_dict()["differs_from_asked"] == {"backbone.window_voxels": 64}
    components = load_components(smaller, allow_untrained=True)
    result = segment_by_plan(a_ct_phantom.scan, LIVER, components, then, stages=["aova"])
    assert result.plan is not None and result.plan["differs_from_asked"] == {"backbone.window_voxels": 64}


@pytest.mark.parametrize("spare_mb", [300, 0, -300])
def test_what_a_plan_leaves_may_be_remembered(a_ct_phantom: Phantom, spare_mb: int) -> None:
    grid, config = a_ct_phantom.scan.geometry, load_config("tiny")
    plan = make_plan(grid, config, PLENTY)
    tight = replace(PLENTY, memory_bytes=plan.peak_bytes + spare_mb * 2**20)
    assert left_over_mb(make_plan(grid, config, tight, trust=True)) == max(0, spare_mb)


def test_beside_a_card_the_computer_s_memory_is_what_is_left() -> None:
    grid = Geometry.from_spacing((512, 512, 300), (0.8, 0.8, 1.0))
    plan = make_plan(grid, load_config("tiny"), Machine("cuda", "a card", 8e9, "as asked"))
    free_mb = cpu_memory()[0] / 2**20
    assert left_over_mb(plan) == pytest.approx(max(0.0, free_mb - plan.host_bytes / 2**20), abs=0.05 * free_mb)


def test_smaller_windows_change_the_map_within_the_stated_tolerance(a_ct_phantom: Phantom) -> None:
    """Of the untrained head, whose map is near 0.5 everywhere: a mean of 0.01. What trained heads do: docs/memory.md."""
    maps = []
    for window in (96, 64):
        config = load_config("tiny", overrides=["canonical.spacing_mm=1.25", f"backbone.window_voxels={window}"])
        plan = make_plan(a_ct_phantom.scan.geometry, config, PLENTY)
        components = load_components(config, allow_untrained=True)
        maps.append(segment_by_plan(a_ct_phantom.scan, LIVER, components, plan, stages=["aova"]).aova.array)
    assert 0 < np.abs(maps[0] - maps[1]).mean() < 0.01


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import MemoryLimitError
from DiffuGTSLib.pipeline import load_components
from DiffuGTSLib.planning.plan import make_plan
from DiffuGTSLib.planning.running import segment_by_plan
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import Geometry, Volume
size = ["canonical.spacing_mm=1.0", "backbone.window_voxels=160", "masks.gate=1.0", "runtime.device=cpu"]
believed = load_config("tiny", overrides=[*size, "runtime.memory_gb=100"])
careful = load_config("tiny", overrides=size)
components = load_components(believed, allow_untrained=True)
array = np.random.default_rng(0).normal(0, 100, (160, 160, 160)).astype(np.float32)
scan = Volume(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 1.0)), "CT")
prompts = organ_prompts("liver", "CT")
plan = make_plan(scan.geometry, believed)
def short_of(room_mb):
    pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + room_mb * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))
short_of(12)
try:
    segment_by_plan(scan, prompts, components, plan)
except MemoryLimitError as error:
    print("at the end:", error.message)
try:
    make_plan(scan.geometry, careful)
except MemoryLimitError as error:
    print("before:", error.message)
short_of(450)
memory = WindowMemory(4000)
result = segment_by_plan(
    scan, prompts, components, plan, stages=["aova"], memory=memory, on_step_down=lambda said: print("aloud:", said)
)
print("remembered:", memory.budget_bytes, memory.used_mb)
print("used:", result.config.backbone.window_voxels, len(result.stepped_down), result.plan["window_voxels"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_memory_that_runs_out_leads_one_rung_down_and_is_said_each_time() -> None:
    # glibc would keep freed blocks and serve the next large array from them, limit or not: every block is to be new.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    program = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("at the end: Out of memory in stage 'read' on cpu"), "the ladder has an end"
    assert lines[1].startswith("before: The scan needs") and "the limit of address space (ulimit -v)" in lines[1]
    aloud = [line for line in lines if line.startswith("aloud:")]
    assert aloud and all("Out of memory in stage 'aova' on cpu" in line for line in aloud), lines
    assert aloud[0].endswith("went on with windows of 128 voxels.")
    assert "remembered: 0 0.0" in lines, "what was remembered is let go, and nothing more is kept"
    window, steps, planned = (int(word) for word in lines[-1].removeprefix("used:").split())
    assert window == planned < 160 and steps == len(aloud)


def test_on_a_processor_nothing_has_to_wait_elsewhere(a_ct_phantom: Phantom) -> None:
    config = load_config("tiny", overrides=["runtime.device=cpu", "runtime.offload=true"])
    components = load_components(config, allow_untrained=True)
    plan = make_plan(a_ct_phantom.scan.geometry, config, PLENTY)
    result = segment_by_plan(a_ct_phantom.scan, LIVER, components, plan, coarse_mask=a_ct_phantom.lesion)
    assert result.residual is not None and result.config.runtime.offload


@pytest.mark.gpu
def test_on_a_card_only_the_networks_in_use_are_there(a_ct_phantom: Phantom) -> None:
    config = load_config("tiny", overrides=["runtime.device=cuda", "runtime.offload=true"])
    components = load_components(config, allow_untrained=True)
    plan = make_plan(a_ct_phantom.scan.geometry, config)
    seen: dict[str, set[tuple[str, str]]] = {}

    def look(stage: str, share: float) -> None:
        parts = (components.autoencoder, components.denoiser)
        here = tuple(next(part.parameters()).device.type for part in parts if isinstance(part, torch.nn.Module))
        seen.setdefault(stage, set()).add((here[0], here[1]))

    segment_by_plan(a_ct_phantom.scan, LIVER, components, plan, coarse_mask=a_ct_phantom.lesion, on_progress=look)
    assert (
        ("cuda", "cpu") in seen["aova"] and ("cpu", "cuda") in seen["repaint"] and ("cuda", "cpu") in seen["residual"]
    )
