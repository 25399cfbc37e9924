"""Which ways there are to need less memory: what changes no result first, the grid last, each below the one above."""

import dataclasses

import numpy as np
import pytest
from planning_parts import CHEST, machine

from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import MemoryLimitError
from DiffuGTSLib.planning.costs import Sketch
from DiffuGTSLib.planning.ladder import ladder
from DiffuGTSLib.planning.plan import differences, make_plan
from DiffuGTSLib.volumes.canonical import canonical_grid

pytest_plugins = ["planning_fixtures"]


def test_on_a_processor_windows_shrink_and_nothing_else() -> None:
    rungs = ladder(CHEST, load_config("mini", overrides=["backbone.window_voxels=128"]), "cpu")
    assert [rung.name for rung in rungs] == ["as asked", "windows of 96 voxels", "windows of 64 voxels"]
    assert differences(rungs[0].config, rungs[2].config) == {"backbone.window_voxels": 64}
    assert len(ladder(CHEST, load_config("mini"), "cpu")) == 1, "no head was trained on less than 64"


def test_on_a_card_what_changes_no_result_comes_first_and_the_grid_last() -> None:
    config = load_config("maisi-ct")
    rungs = ladder(CHEST, config, "cuda")
    assert [rung.name for rung in rungs] == [
        "as asked",
        "networks that are not in use wait in main memory",
        "half precision (bfloat16)",
        "windows of 96 voxels",
        "windows of 64 voxels",
        "a grid of 256 × 256 × 128 voxels (1.50 × 1.50 × 2.34 mm)",
    ]
    assert [rung.name for rung in ladder(CHEST, config, "cuda", grid_fixed=True)] == [r.name for r in rungs[:-1]]


def test_a_card_without_half_precision_goes_on_to_smaller_windows(a_published_sketch: Sketch) -> None:
    config = load_config("maisi-ct", overrides=["runtime.device=cuda"])
    names = [rung.name for rung in ladder(CHEST, config, "cuda", bfloat16=False)]
    assert names[1:3] == ["networks that are not in use wait in main memory", "windows of 96 voxels"]
    old = dataclasses.replace(machine(5, "cuda"), bfloat16=False)
    plan = make_plan(CHEST, config, old, networks=a_published_sketch)
    assert plan.config.runtime.precision == "float32" and plan.rung > 1


def test_a_coarser_grid_keeps_the_whole_field_of_view_and_its_rules() -> None:
    config = load_config("maisi-ct", overrides=["canonical.spacing_mm=0.75"])
    shapes = []
    for rung in ladder(CHEST, config, "cpu"):
        there, _ = canonical_grid(CHEST, rung.config.canonical)
        assert there.extent_mm == pytest.approx(CHEST.extent_mm)
        assert there.shape[0] == there.shape[1] >= 256 and all(side % 128 == 0 for side in there.shape)
        shapes.append(there.shape)
    sizes = [int(np.prod(shape)) for shape in dict.fromkeys(shapes)]
    assert shapes[0] == (512, 512, 384) and shapes[-1] == (256, 256, 128)
    assert sizes == sorted(sizes, reverse=True) and len(sizes) >= 4


def test_less_memory_leads_down_the_ladder_until_nothing_fits(a_published_sketch: Sketch) -> None:
    config = load_config("maisi-ct", overrides=["runtime.device=cuda"])
    plans = {
        memory: make_plan(CHEST, config, machine(memory, "cuda", tflops=30), networks=a_published_sketch)
        for memory in (8.0, 6.0, 4.0)
    }
    assert all(plan.peak_bytes <= memory * 1e9 for memory, plan in plans.items())
    assert plans[8.0].rung == 0, "cards of 8 GB run the published networks"
    assert plans[4.0].rung > plans[6.0].rung > 0
    assert plans[4.0].to_dict()["differs_from_asked"]["runtime.offload"] is True
    assert plans[4.0].host_bytes > 3e9
    with pytest.raises(
        MemoryLimitError, match=r"needs \d\.\d GB of memory at the least .* 1\.0 GB may be used"
    ) as caught:
        make_plan(CHEST, config, machine(1.0, "cuda", tflops=30), networks=a_published_sketch)
    assert "--memory" in caught.value.hint and caught.value.code == "oom"


def test_every_rung_needs_no_more_than_the_one_above(a_published_sketch: Sketch) -> None:
    config = load_config("maisi-ct")
    first = make_plan(CHEST, config, machine(64, "cuda"), networks=a_published_sketch)
    peaks = [
        make_plan(CHEST, config, machine(64, "cuda"), networks=a_published_sketch, first=rung, trust=True).peak_bytes
        for rung in range(len(first.ladder))
    ]
    assert peaks == sorted(peaks, reverse=True)
