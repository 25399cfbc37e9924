"""What a pass costs: its operations and bytes, counted on networks without a number, are those of a real one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from planning_parts import machine
from torch.utils.flop_counter import FlopCounterMode

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.maisi import published_networks
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import WeightsError
from DiffuGTSLib.pipeline import load_components
from DiffuGTSLib.planning.costs import HeldBytes, Sketch, counted, decode_cost, look_cost, sketch, step_cost
from DiffuGTSLib.planning.machine import with_speed
from DiffuGTSLib.resources import resource_path

pytest_plugins = ["planning_fixtures"]


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
