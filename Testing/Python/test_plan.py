"""Which of the ways there are fits a machine, what the plan says of the scan, and that the road keeps to the plan."""

import dataclasses
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from phantoms import Phantom, ct_phantom, grid
from planning_parts import CHEST, machine

from DiffuGTSLib.backbones import PUBLISHED
from DiffuGTSLib.backbones.maisi import MaisiAutoencoder
from DiffuGTSLib.clock import Clock
from DiffuGTSLib.config import FEATURE_RESIDUALS, Config, MasksConfig, load_config
from DiffuGTSLib.errors import ConfigError, MemoryLimitError
from DiffuGTSLib.pipeline import load_components, segment
from DiffuGTSLib.planning import plan as plan_module
from DiffuGTSLib.planning.costs import HeldBytes, Sketch, sketch
from DiffuGTSLib.planning.machine import BASE_BYTES
from DiffuGTSLib.planning.plan import CANDIDATE_MM, Plan, make_plan
from DiffuGTSLib.smoothing import smooth_within_edges
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.twins import box_and_view
from DiffuGTSLib.volumes.canonical import canonical_grid
from DiffuGTSLib.volumes.volume import Geometry

pytest_plugins = ["planning_fixtures"]


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


def test_every_call_of_the_denoiser_and_every_look_is_counted(a_tiny_sketch: Sketch) -> None:
    more = ["inpainting.steps=5", "inpainting.resample=2", "inpainting.seeds=3", "backbone.mirror=true"]
    once, often = (
        make_plan(CHEST, load_config("tiny", overrides=each), machine(64), networks=a_tiny_sketch)
        for each in (["backbone.mirror=false"], more)
    )
    assert often.stages[2].what.startswith("up to 30 steps on ")
    assert often.stages[1].windows == 2 * once.stages[1].windows


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
    smooth_within_edges(attention, picture, everywhere, (2.0, 2.0, 2.0), MasksConfig(smooth_mm=6.0, smooth_edge=0.1))
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
