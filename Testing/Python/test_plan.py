"""The plan: what a pass costs, what a machine has, which ways there are, and which of them fits; nothing is run for it."""

import dataclasses
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import Phantom, ct_phantom, grid
from torch.utils.flop_counter import FlopCounterMode

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones import PUBLISHED
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder, published_networks
from DiffuGTSLib.clock import Clock
from DiffuGTSLib.config import FEATURE_RESIDUALS, Config, RuntimeConfig, load_config
from DiffuGTSLib.edges import smooth_within_edges
from DiffuGTSLib.errors import ConfigError, MemoryLimitError, WeightsError
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.planning import machine as this_machine
from DiffuGTSLib.planning import plan as plan_module
from DiffuGTSLib.planning.costs import HeldBytes, Sketch, counted, decode_cost, look_cost, sketch, step_cost
from DiffuGTSLib.planning.job_limits import job_limits
from DiffuGTSLib.planning.ladder import ladder
from DiffuGTSLib.planning.machine import BASE_BYTES, Machine, cpu_memory, find_machine, with_speed
from DiffuGTSLib.planning.plan import CANDIDATE_MM, Plan, differences, make_plan
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.twins import box_and_view
from DiffuGTSLib.volumes.canonical import canonical_grid
from DiffuGTSLib.volumes.volume import Geometry

CHEST = Geometry.from_spacing((512, 512, 300), (0.75, 0.75, 1.0))


@pytest.fixture(scope="module")
def a_published_sketch() -> Sketch:
    """MAISI's CT networks at full size, without a number."""
    return sketch(load_config("maisi-ct"))


@pytest.fixture(scope="module")
def a_tiny_sketch() -> Sketch:
    return sketch(load_config("tiny"))


def machine(memory_gb: float, device: str = "cpu", name: str = "one of ours", tflops: float | None = 0.1) -> Machine:
    return Machine(device, name, memory_gb * 1e9, "as asked", tflops, "as asked")


# What a pass costs.


def test_operations_are_those_that_were_counted_before(a_published_sketch: Sketch) -> None:
    """10^12 operations of 128 × 128 × 128 voxels: 3.18 to encode, 6.79 to decode, 0.299 a denoising step."""
    assert decode_cost(a_published_sketch, (128, 128, 128), "float32").flop / 1e12 == pytest.approx(6.79, rel=0.01)
    assert step_cost(a_published_sketch, (128, 128, 128), "float32").flop / 1e12 == pytest.approx(0.299, rel=0.01)
    image = torch.empty(1, 1, 64, 64, 64, device="meta")
    encode = counted(lambda: a_published_sketch.autoencoder.encode(image), "float32", image)
    assert 8 * encode.flop / 1e12 == pytest.approx(3.18, rel=0.01)


def test_a_look_through_the_denoiser_costs_a_step_of_it_more(a_tiny_sketch: Sketch) -> None:
    with torch.device("meta"):
        heads = AovaHead((8, 8, 8), 384), AovaHead((8, 8, 16, 16), 384, denoiser_timestep=50.0)
    plain, tapping = (dataclasses.replace(a_tiny_sketch, head=head) for head in heads)
    shape = (32, 32, 32)
    more = look_cost(tapping, shape, "float32").flop - look_cost(plain, shape, "float32").flop
    assert more > step_cost(a_tiny_sketch, shape, "float32").flop
    assert (plain.looking, tapping.looking) == (("autoencoder", "head"), ("autoencoder", "denoiser", "head"))
    assert (with_speed(machine(8.0), tapping, load_config("tiny"), None).tflops or 0) > 0


def test_the_published_networks_weigh_what_they_should(a_published_sketch: Sketch) -> None:
    assert a_published_sketch.weights_bytes("autoencoder", "denoiser") == 4 * (20_944_897 + 180_500_868)


def test_fused_attention_counts_as_its_two_products() -> None:
    query, key, value = (torch.empty(1, 2, tokens, 4, device="meta") for tokens in (10, 12, 12))
    fused = counted(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value), "float32")
    with FlopCounterMode(display=False) as counter:
        (query @ key.transpose(-1, -2)) @ value
    assert fused.flop == counter.get_total_flops() == 2 * (2 * 2 * 10 * 12 * 4)
    assert fused.peak_bytes == 4 * 2 * 10 * 4, "no matrix of all pairs"


def test_held_bytes_are_those_of_tensors_that_live_at_a_time() -> None:
    first = torch.zeros(100)
    with HeldBytes([first]) as held:
        second = first + 1
        second = second * 2
        del second
        torch.zeros(10)
    assert held.peak == 3 * 400


def test_what_is_planned_without_memory_is_what_a_real_pass_holds(a_tiny_sketch: Sketch) -> None:
    real = load_components(load_config("tiny"), allow_untrained=True).autoencoder
    image, latent = torch.rand(1, 1, 48, 32, 32), torch.rand(1, 4, 12, 8, 8)
    planned = decode_cost(a_tiny_sketch, (48, 32, 32), "float32")
    held = counted(lambda: real.decode(latent), "float32", latent)
    assert planned.peak_bytes == pytest.approx(held.peak_bytes, rel=0.05)
    assert planned.flop == held.flop
    empty = torch.empty(1, 1, 48, 32, 32, device="meta")
    planned = counted(lambda: a_tiny_sketch.autoencoder.encode(empty), "float32", empty)
    held = counted(lambda: real.encode(image), "float32", image)
    assert planned.peak_bytes == pytest.approx(held.peak_bytes, rel=0.05)


def test_half_precision_holds_less_but_norms_stay_whole(a_tiny_sketch: Sketch) -> None:
    whole, half = (look_cost(a_tiny_sketch, (64, 64, 64), each) for each in ("float32", "bfloat16"))
    assert 0.5 < half.peak_bytes / whole.peak_bytes < 1 and half.flop == whole.flop


def test_a_model_folder_is_described_without_reading_its_weights() -> None:
    mini = sketch(load_config("mini"))
    assert mini.head.config["text_dim"] == 384 and next(mini.head.parameters()).is_meta
    assert next(torch.nn.Module.parameters(mini.autoencoder)).is_meta  # type: ignore[arg-type]
    assert mini.weights_bytes("autoencoder") < 4e7


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("autoencoder", {"zzz": 1}, "names what MaisiAutoencoder does not know: zzz"),
        ("aova", {"zzz": 1}, "names what AovaHead does not know: zzz"),
        ("autoencoder", {"norm_num_groups": 7}, "describes no MaisiAutoencoder"),
        ("denoiser", {"num_channels": "abc"}, "describes no MaisiUNet"),
        ("denoiser", {"_class_name": "AovaHead"}, "holds a AovaHead; expected a MaisiUNet"),
    ],
)
def test_a_model_folder_that_describes_no_network_is_refused_by_the_plan_as_by_loading(
    tmp_path: Path, an_unchecked_library: None, part: str, change: dict[str, Any], message: str
) -> None:
    for name in ("autoencoder", "denoiser", "aova"):
        config = json.loads((resource_path("Models", "mini") / name / "config.json").read_text(encoding="utf-8"))
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **(change if name == part else {})}))
    with pytest.raises(WeightsError, match=message):
        sketch(load_config("mini", overrides=[f"backbone.folder={tmp_path}"]))


def test_every_published_model_has_a_sketch() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in published_networks(name)[1].parameters()) for name in ("maisi-mr", "maisi-ct")]
    assert sizes[0] == sizes[1]


# What a machine has.


def test_a_card_in_the_table_is_taken_at_a_share_of_its_peak(a_tiny_sketch: Sketch) -> None:
    card = with_speed(machine(24, "cuda", "NVIDIA GeForce RTX 4090", None), a_tiny_sketch, load_config("tiny"), None)
    assert card.tflops == pytest.approx(33) and "20% of the data sheet's 165" in card.tflops_source
    assert card.speed("float32") == pytest.approx(33e12 / 4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312), ("NVIDIA A10", 125), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 NVL", 835), ("NVIDIA GH200 480GB", 989),
        ("NVIDIA RTX 6000 Ada Generation", 364), ("NVIDIA RTX A1000", None), ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)  # fmt: skip
def test_a_card_is_known_by_whole_words_and_a_part_of_one_is_none(
    a_tiny_sketch: Sketch, name: str, peak: float | None
) -> None:
    config, card = load_config("tiny"), machine(24, "cuda", name, None)
    if peak is None:
        with pytest.raises(ConfigError, match="is not known to us"):
            with_speed(card, a_tiny_sketch, config, None)
    else:
        assert with_speed(card, a_tiny_sketch, config, None).tflops == pytest.approx(peak / 5)


def test_an_unknown_card_has_to_be_told_of(a_tiny_sketch: Sketch) -> None:
    config = load_config("tiny")
    with pytest.raises(ConfigError, match="How fast 'Voodoo' is") as caught:
        with_speed(machine(8, "cuda", "Voodoo", None), a_tiny_sketch, config, None)
    assert "--tflops" in caught.value.hint
    assert with_speed(machine(8, "cuda", "Voodoo", None), a_tiny_sketch, config, 12.0).tflops == 12.0
    with pytest.raises(ConfigError, match="--tflops: expected a number above 0"):
        with_speed(machine(8), a_tiny_sketch, config, -1.0)


def test_a_processor_is_measured(a_tiny_sketch: Sketch) -> None:
    measured = with_speed(machine(8, tflops=None), a_tiny_sketch, load_config("tiny"), None)
    assert measured.tflops is not None and 1e-6 < measured.tflops < 100
    assert "measured" in measured.tflops_source


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_here_needs_its_memory_said() -> None:
    with pytest.raises(ConfigError, match="no CUDA GPU here") as caught:
        find_machine(load_config("tiny", overrides=["runtime.device=cuda"]).runtime)
    assert "--memory" in caught.value.hint
    asked = find_machine(load_config("tiny", overrides=["runtime.device=cuda", "runtime.memory_gb=8"]).runtime)
    assert (asked.device, asked.memory_bytes, asked.memory_source) == ("cuda", 8e9, "as asked")


def test_a_processor_has_what_is_free() -> None:
    bytes_, source = cpu_memory()
    assert bytes_ > 1e8 and source
    assert find_machine(load_config("tiny", overrides=["runtime.device=cpu"]).runtime).device == "cpu"


def a_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(str(content))


def in_groups(root: Path, *lines: str) -> None:
    a_group(root / "proc" / "self", cgroup="\n".join(lines) + "\n")


def test_a_container_has_what_others_leave_in_it(tmp_path: Path) -> None:
    """2 GB, of which others hold 1 GB, and copies of files 0.5 GB that are given back."""
    own, there = 3 * 10**8, tmp_path / "sys" / "fs" / "cgroup"
    stat = f"anon 1\ninactive_file {5 * 10**8}\n"
    in_groups(tmp_path, "0::/")
    a_group(there, memory_max=2 * 10**9 + own, memory_current=int(1.5e9) + own, memory_stat=stat)
    assert list(job_limits(own, tmp_path, {})) == [(1e9 + own, "the limit of its container or job (cgroup)")]
    a_group(there, memory_max="max")
    assert list(job_limits(own, tmp_path, {})) == []


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_limit_on_the_way_to_the_root_counts(tmp_path: Path, version: int) -> None:
    """As on a cluster: the task has no limit of its own, its job has one of 4 GB, the slice above one of 64."""
    there = tmp_path / "sys" / "fs" / "cgroup"
    limit, used = (
        ("memory_max", "memory_current") if version == 2 else ("memory_limit_in_bytes", "memory_usage_in_bytes")
    )
    if version == 1:
        there /= "memory"
        in_groups(tmp_path, "9:name=systemd:/", "4:cpu,memory:/slurm/job_7/task_0", "0::/elsewhere")
    else:
        in_groups(tmp_path, "0::/slurm/job_7/task_0")
    a_group(there / "slurm", **{limit: 64 * 10**9, used: 50 * 10**9})
    a_group(there / "slurm" / "job_7", **{limit: 4 * 10**9, used: 10**9})
    a_group(there / "slurm" / "job_7" / "task_0", **{limit: "max" if version == 2 else 2**63 - 4096, used: 10**9})
    assert min(job_limits(1e9, tmp_path, {}))[0] == 4e9


def test_groups_that_only_the_computer_outside_can_name_leave_the_container_s_own(tmp_path: Path) -> None:
    in_groups(tmp_path, "4:memory:/docker/0123")
    a_group(tmp_path / "sys" / "fs" / "cgroup" / "memory", memory_limit_in_bytes=10**9)
    assert [bytes_ for bytes_, _ in job_limits(0, tmp_path, {})] == [1e9]


@pytest.mark.parametrize(
    ("environment", "mib"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, [4096]),
        ({"SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "8"}, [8192]),
        ({"SLURM_MEM_PER_NODE": "0"}, []),
        ({"SLURM_MEM_PER_NODE": "much"}, []),
        ({}, []),
    ],
)
def test_a_job_of_slurm_has_what_it_was_given(tmp_path: Path, environment: dict[str, str], mib: list[int]) -> None:
    assert [bytes_ / 2**20 for bytes_, _ in job_limits(0, tmp_path, environment)] == mib


def test_a_processor_s_plan_sees_the_job_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "job_limits", lambda held: [(5e7, "the job's memory (SLURM)")])
    assert cpu_memory() == (5e7, "the job's memory (SLURM)")


def test_beside_a_card_main_memory_has_to_suffice(a_published_sketch: Sketch) -> None:
    config = load_config("maisi-ct", overrides=["runtime.device=cuda"])

    def planned(main_gb: float | None, card_gb: float = 64) -> Plan:
        beside = None if main_gb is None else main_gb * 1e9
        card = dataclasses.replace(machine(card_gb, "cuda"), main_memory_bytes=beside, main_memory_source="of the job")
        return make_plan(CHEST, config, card, networks=a_published_sketch)

    needed = planned(None).host_bytes / 1e9
    assert planned(needed + 0.1).rung == 0
    assert planned(needed + 0.1).to_dict()["machine"]["main_memory_bytes"] == round((needed + 0.1) * 1e9)
    with pytest.raises(
        MemoryLimitError, match=r"Beside the card the scan needs \d+\.\d GB of main memory .* \(of the job\)"
    ) as caught:
        planned(needed / 2)
    assert "main memory" in caught.value.hint
    assert planned(None, card_gb=6).config.runtime.offload
    with pytest.raises(MemoryLimitError, match="Beside the card"):
        planned(needed + 0.1, card_gb=6)  # the networks that would have to wait there do not fit either


def test_a_card_that_is_here_is_planned_with_the_computer_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 10**10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(this_machine, "cpu_memory", lambda: (3e9, "of the job"))
    for size, card in (("0", 8e9 + BASE_BYTES["cuda"]), ("6", 6e9)):
        found = find_machine(load_config("tiny", overrides=[f"runtime.memory_gb={size}"]).runtime)
        assert not found.bfloat16
        assert (found.memory_bytes, found.main_memory_bytes, found.main_memory_source) == (card, 3e9, "of the job")


def test_a_card_that_is_not_here_may_have_any_number_but_no_other_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card here")
    assert find_machine(RuntimeConfig(device="cuda:7", memory_gb=8.0)).device == "cuda"
    for name in ("cudaa", "cuda0", "cuda:x"):
        with pytest.raises(ConfigError, match=f"Unknown device '{name}'") as caught:
            find_machine(RuntimeConfig(device=name, memory_gb=8.0))
        assert "cuda:N" in caught.value.hint


# Which ways there are.


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


# Which of them fits.


def test_what_fits_is_run_as_asked(a_tiny_sketch: Sketch) -> None:
    plan = make_plan(CHEST, load_config("tiny"), machine(64), networks=a_tiny_sketch)
    assert plan.rung == 0 and plan.config == plan.asked
    assert [stage.stage for stage in plan.stages] == ["read", "aova", "repaint", "residual", "write back"]
    assert plan.seconds is not None and plan.seconds > 0
    told = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert told["rung_name"] == "as asked" and told["differs_from_asked"] == {} and told["grid"] == [96, 96, 80]


def test_a_grid_that_the_denoiser_cannot_take_is_refused_with_what_to_set(a_tiny_sketch: Sketch) -> None:
    config = load_config("tiny", overrides=["canonical.side_multiple=4"])
    odd = Geometry.from_spacing((100, 100, 100), (2.0, 2.0, 2.0))
    with pytest.raises(ConfigError, match=r"sides that are multiples of 8 voxels, got \(52, 52, 52\)") as caught:
        make_plan(odd, config, machine(64), networks=a_tiny_sketch)
    assert caught.value.hint == "use --set canonical.side_multiple=8."


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


def test_networks_that_wait_in_main_memory_are_counted_there_and_on_a_processor_none_waits(
    a_published_sketch: Sketch,
) -> None:
    waiting, plain = (load_config("maisi-ct", overrides=[f"runtime.offload={wish}"]) for wish in ("true", "false"))
    weights = a_published_sketch.weights_bytes("autoencoder", "denoiser", "head")
    on_card, off = (
        make_plan(CHEST, each, machine(64, "cuda"), networks=a_published_sketch) for each in (plain, waiting)
    )
    assert off.host_bytes == pytest.approx(on_card.host_bytes + weights)
    peaks = [make_plan(CHEST, each, machine(64), networks=a_published_sketch).peak_bytes for each in (plain, waiting)]
    assert peaks[0] == peaks[1]


def test_every_rung_needs_no_more_than_the_one_above(a_published_sketch: Sketch) -> None:
    config = load_config("maisi-ct")
    first = make_plan(CHEST, config, machine(64, "cuda"), networks=a_published_sketch)
    peaks = [
        make_plan(CHEST, config, machine(64, "cuda"), networks=a_published_sketch, first=rung, trust=True).peak_bytes
        for rung in range(len(first.ladder))
    ]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_presets_repaint_the_whole_of_a_scan_of_a_meter_and_a_half(name: str) -> None:
    config, scan = load_config(name), Geometry.from_spacing((512, 512, 1500), (0.98, 0.98, 1.0))
    grid, _ = canonical_grid(scan, config.canonical)
    whole = tuple(slice(0, side // 4) for side in grid.shape)
    for first in (0, grid.shape[2] // 2, grid.shape[2] - 20):
        found = slice(120, 130), slice(120, 130), slice(first, first + 20)
        assert box_and_view(found, grid.shape, grid.spacing_mm, config, 4, 8)[0] == whole


def test_a_scan_beyond_what_the_denoiser_saw_is_said_to_be() -> None:
    config = load_config("maisi-ct")
    networks = sketch(config)
    narrow = Geometry.from_spacing((200, 150, 20), (1.0, 1.0, 2.0))
    notes = " ".join(make_plan(narrow, config, machine(64), networks=networks).notes)
    assert "150 mm wide" in notes and "0.5 to 5 mm along the body" in notes
    assert make_plan(CHEST, config, machine(64), networks=networks).notes == ()
    cropped = load_config("maisi-ct", overrides=["inpainting.margin_mm=48"])
    (note,) = make_plan(CHEST, cropped, machine(64), networks=networks).notes
    assert "around a candidate is 144 mm wide" in note and "inpainting.margin_mm" in note


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_denoiser_sees_the_scan_whole_from_side_to_side(name: str) -> None:
    """As it was trained; where the candidate lies does not matter."""
    config = load_config(name)
    grid_, _ = canonical_grid(CHEST, config.canonical)
    repaint = make_plan(CHEST, config, machine(64)).stages[2]
    assert f"steps on {' × '.join(map(str, grid_.shape))}," in repaint.what
    corner = (slice(0, 8), slice(0, 8), slice(0, 8))
    cells, _ = box_and_view(corner, grid_.shape, grid_.spacing_mm, config, 4, 8)
    assert [4 * (c.stop - c.start) for c in cells[:2]] == list(grid_.shape[:2])


def test_the_plan_counts_the_windows_that_the_road_visits(a_tiny_sketch: Sketch, a_ct_phantom: Phantom) -> None:
    config = load_config("tiny", overrides=["canonical.spacing_mm=2.5"])
    plan = make_plan(a_ct_phantom.scan.geometry, config, machine(64), networks=a_tiny_sketch)
    told: list[float] = []
    segment(
        a_ct_phantom.scan, organ_prompts("liver", "CT"), load_components(config, allow_untrained=True), config,
        stages=["aova"], on_progress=lambda stage, share: told.append(share) if stage == "aova" else None,
    )  # fmt: skip
    assert plan.stages[1].windows == len(set(told) - {0.0}) > 1


@pytest.mark.parametrize("feature", FEATURE_RESIDUALS)
def test_the_plan_counts_the_looks_at_both_twins(
    a_tiny_sketch: Sketch, feature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantom = ct_phantom(grid((64, 64, 64), (2.0, 2.0, 2.0)))
    config = load_config("tiny", overrides=["canonical.spacing_mm=2.0", f"residual.feature={feature}"])
    plan = make_plan(phantom.scan.geometry, config, machine(64), networks=a_tiny_sketch)
    components = load_components(config, allow_untrained=True)
    stages: list[str] = [""]
    seen: list[str] = []
    encode = MaisiAutoencoder.encode

    def counted_encode(self: MaisiAutoencoder, image: torch.Tensor) -> object:
        seen.append(stages[-1])
        return encode(self, image)

    monkeypatch.setattr(MaisiAutoencoder, "encode", counted_encode)
    half = round(CANDIDATE_MM / 2 - config.masks.dilation_mm)
    drawn = np.zeros(phantom.scan.geometry.shape, np.uint8)
    drawn[tuple(slice(n // 2 - half // 2, n // 2 + half // 2) for n in drawn.shape)] = 1
    segment(
        phantom.scan, organ_prompts("liver", "CT"), components, config, modality="CT",
        coarse_mask=phantom.scan.with_array(drawn), on_progress=lambda stage, share: stages.append(stage),
    )  # fmt: skip
    assert "aova" in seen and seen.count("residual") == plan.stages[3].windows
    assert (plan.stages[3].windows == 0) == (feature == "projection")


@pytest.mark.parametrize("feature", FEATURE_RESIDUALS)
def test_the_road_holds_no_more_than_planned(a_tiny_sketch: Sketch, feature: str) -> None:
    """Of torch's tensors: base and numpy's share are left out on both sides."""
    phantom = ct_phantom(grid((64, 64, 64), (2.0, 2.0, 2.0)))
    of_this_size = ["canonical.spacing_mm=2.0", "backbone.window_voxels=64"]
    config: Config = load_config("tiny", overrides=[*of_this_size, f"residual.feature={feature}"])
    components = load_components(config, allow_untrained=True)
    plan = make_plan(phantom.scan.geometry, config, machine(64), networks=a_tiny_sketch)
    with HeldBytes() as held:
        segment(phantom.scan, organ_prompts("liver", "CT"), components, config, coarse_mask=phantom.lesion)
    voxels = int(np.prod(phantom.scan.geometry.shape))
    planned = max(s.peak_bytes - BASE_BYTES["cpu"] - plan_module._HOST[s.stage] * voxels for s in plan.stages)
    assert 0.4 * planned < held.peak <= planned, (held.peak, planned)


@pytest.mark.parametrize("found", ["one lesion", "everything"])
def test_arrays_in_main_memory_take_no_more_a_voxel_than_planned(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid so coarse that the scan's own arrays are nearly all there is."""
    phantom = ct_phantom(grid((160, 150, 170), (1.0, 1.0, 1.0)))
    all_over = ["masks.rule=fixed", "masks.threshold=0.01", "masks.peak=0.01"]
    config = load_config("tiny", overrides=["canonical.spacing_mm=6", *(all_over if found == "everything" else [])])
    components, drawn = load_components(config, allow_untrained=True), phantom.lesion
    held, stage = {}, Clock.stage

    @contextmanager
    def measured(clock: Clock, name: str) -> Iterator[None]:
        tracemalloc.reset_peak()
        with stage(clock, name):
            yield
        held[name] = (tracemalloc.get_traced_memory()[1] + phantom.scan.array.nbytes) / phantom.scan.array.size

    monkeypatch.setattr(Clock, "stage", measured)
    tracemalloc.start()
    result = segment(
        phantom.scan, organ_prompts("liver", "CT"), components, config,
        coarse_mask=None if found == "everything" else drawn,
    )  # fmt: skip
    tracemalloc.stop()
    assert (result.coarse_mask.array.mean() > 0.9) == (found == "everything")
    assert all(held[name] <= planned for name, planned in plan_module._HOST.items()), held
    assert max(held.values()) > 0.85 * max(plan_module._HOST.values()), held


def test_smoothing_the_map_is_planned_for(a_tiny_sketch: Sketch) -> None:
    """A map that lies above the least attention everywhere: one part, as large as the scan."""
    picture = np.random.default_rng(0).random((64, 64, 64), dtype=np.float32)
    attention, everywhere = 0.2 + 0.8 * picture, picture >= 0
    tracemalloc.start()
    smooth_within_edges(attention, picture, everywhere, (2.0, 2.0, 2.0), 6.0, 0.1, 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 14 * picture.nbytes < peak <= 16 * picture.nbytes
    config = load_config("tiny", overrides=["canonical.spacing_mm=2.0", "backbone.window_voxels=32"])
    coarse = Geometry.from_spacing((16, 16, 16), (16.0, 16.0, 16.0))  # of a fine scan, its own arrays are most
    plain, smoothed = (
        make_plan(
            coarse,
            dataclasses.replace(config, masks=dataclasses.replace(config.masks, smooth_mm=mm)),
            machine(64),
            networks=a_tiny_sketch,
        )
        for mm in (0.0, 6.0)
    )
    more = smoothed.stages[1].peak_bytes - plain.stages[1].peak_bytes
    whole = 16 * 4 * int(np.prod(plain.shape))
    assert 0.5 * whole < more <= whole, "of the windows' own memory nothing is left by then"


def test_a_plan_without_a_speed_has_no_times(a_tiny_sketch: Sketch) -> None:
    plan = make_plan(CHEST, load_config("tiny"), machine(64, tflops=None), networks=a_tiny_sketch)
    assert plan.seconds is None and dataclasses.asdict(plan.stages[1])["seconds"] is None
