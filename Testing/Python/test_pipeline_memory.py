"""What spares the look: a result's cache and the memory of windows; neither changes an answer or answers for others."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from phantoms import ct_phantom, grid
from pipeline_parts import LIVER, assert_same, tiny

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.pipeline import Components, Segmentation, load_components, segment
from DiffuGTSLib.text.prompts import PromptPair, organ_prompts
from DiffuGTSLib.volumes import Volume

pytest_plugins = ["pipeline_fixtures"]


def test_a_cache_spares_the_look_and_changes_nothing(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    stages: list[tuple[str, float]] = []
    again = segment(
        phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion, cache=a_result.cache,
        on_progress=lambda stage, share: stages.append((stage, share)),
    )  # fmt: skip
    assert_same(a_result, again)
    assert [share for stage, share in stages if stage == "aova"] == [0.0, 1.0], "no window was looked at"


def test_a_head_that_looks_through_the_denoiser_remembers_a_scan_as_what_it_was_called() -> None:
    components = load_components(tiny(), allow_untrained=True)
    torch.manual_seed(0)
    head = AovaHead((8, 8, 16, 16), components.text_encoder.dim, denoiser_timestep=50.0).eval()
    components, memory = dataclasses.replace(components, head=head), WindowMemory(64)
    phantom = ct_phantom()
    first = segment(phantom.scan, LIVER, components, tiny(), modality="CT", coarse_mask=phantom.lesion, memory=memory)
    again = segment(phantom.scan, LIVER, components, tiny(), modality="CT", coarse_mask=phantom.lesion, memory=memory)
    assert memory.recalled > 0
    assert_same(first, again)
    segment(phantom.scan, LIVER, components, tiny(), modality="MR", coarse_mask=phantom.lesion, memory=memory)
    assert memory.recalled == 0


def test_another_prompt_and_another_candidate_are_answered_from_memory_as_afresh(some_components: Components) -> None:
    phantom = ct_phantom()
    drawn = {"coarse_mask": phantom.lesion}
    asked: list[tuple[PromptPair, dict[str, Volume]]] = [(LIVER, drawn), (organ_prompts("kidney", "CT"), drawn)]
    memory = WindowMemory(64)
    looks = []
    for prompts, how in [*asked, (LIVER, {})]:
        fresh = segment(phantom.scan, prompts, some_components, tiny(), **how)
        assert_same(segment(phantom.scan, prompts, some_components, tiny(), memory=memory, **how), fresh)
        looks.append((memory.recalled, memory.made))
    assert looks[0] == (0, looks[0][1]) and looks[1] == (looks[0][1], 0), "the other prompt made nothing anew"
    assert looks[2][0] > 0, "the scan itself is known"
    other = ct_phantom(grid((40, 36, 44), (2.6, 2.8, 2.5)))
    segment(other.scan, LIVER, some_components, tiny(), memory=memory, coarse_mask=other.lesion)
    assert memory.recalled == 0, "another scan finds nothing"


@pytest.mark.parametrize("changed", ["a copy", "in place"])
def test_another_head_is_not_answered_from_the_memory_of_the_first(changed: str) -> None:
    """Both go by the same weight files, as a head does that was fine-tuned after it was loaded."""
    components, memory, scan = load_components(tiny(), allow_untrained=True), WindowMemory(64), ct_phantom().scan
    components = dataclasses.replace(components, trained=True)
    before = segment(scan, LIVER, components, tiny(), memory=memory, stages=("aova",))
    segment(scan, LIVER, components, tiny(), memory=memory, stages=("aova",))
    assert memory.recalled > 0, "the same networks are"
    if changed == "a copy":
        components = dataclasses.replace(components, head=copy.deepcopy(components.head))
    with torch.no_grad():
        for weight in components.head.parameters():
            weight.mul_(-1)
    after = segment(scan, LIVER, components, tiny(), memory=memory, stages=("aova",))
    assert memory.recalled == 0
    assert not np.array_equal(after.aova.array, before.aova.array)
    assert_same(after, segment(scan, LIVER, components, tiny(), stages=("aova",)))


def test_the_cache_of_another_grid_is_refused(some_components: Components, a_result: Segmentation) -> None:
    """The same voxels, said to be three times as large."""
    scan = ct_phantom().scan
    stretched = Volume(scan.array, grid(scan.array.shape, (6.0, 6.0, 6.0)))
    with pytest.raises(InputError, match=r"cached map has shape \(32, 32, 32\), the canonical scan") as caught:
        segment(stretched, LIVER, some_components, tiny(), modality="CT", cache=a_result.cache)
    assert caught.value.code == "cache"


@pytest.mark.parametrize("other", ["scan", "pair of sentences", "modality", "grid or intensity window", "model"])
def test_the_cache_of_another_look_is_refused(some_components: Components, a_result: Segmentation, other: str) -> None:
    """Follow-up scans share a grid, and all small ones are padded to the same sides: shapes tell nothing."""
    scan, prompts, components, config, modality = ct_phantom().scan, LIVER, some_components, tiny(), "CT"
    if other == "scan":
        scan = scan.with_array(scan.array[::-1])
    elif other == "pair of sentences":
        prompts = organ_prompts("kidney", "CT")
    elif other == "modality":
        modality = "MR"
    elif other == "grid or intensity window":
        config = tiny("canonical.mr_clip=false")
    else:
        components = dataclasses.replace(components, weights={"aova/head.safetensors": "another"})
    with pytest.raises(InputError, match=f"The cache was made with another {other}") as caught:
        segment(scan, prompts, components, config, modality=modality, cache=a_result.cache)
    assert caught.value.code == "cache" and "omit the cache" in caught.value.hint


def test_a_cache_knows_its_scan_in_whatever_form_the_numbers_are_kept(
    some_components: Components, a_result: Segmentation
) -> None:
    phantom = ct_phantom()
    other = phantom.scan.with_array(np.asfortranarray(phantom.scan.array.astype(np.float64)))
    again = segment(other, LIVER, some_components, tiny(), coarse_mask=phantom.lesion, cache=a_result.cache)
    assert np.array_equal(again.mask.array, a_result.mask.array)
