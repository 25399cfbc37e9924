"""The whole road with tiny real networks: where results lie, what they promise, and what is refused at the door."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import Phantom, ct_phantom, grid, orientations
from scipy import ndimage

from DiffuGTSLib.aova import AovaHead
from DiffuGTSLib.backbones.memory import WindowMemory
from DiffuGTSLib.config import Config, load_config
from DiffuGTSLib.errors import (
    Cancelled,
    ConfigError,
    GeometryError,
    InputError,
)
from DiffuGTSLib.masks import dilate_mm
from DiffuGTSLib.pipeline import STAGES, Cache, Components, Segmentation, load_components, segment
from DiffuGTSLib.text.prompts import PromptPair, organ_prompts
from DiffuGTSLib.volumes import CanonicalScan, Geometry, Volume, to_canonical

ROOT = Path(__file__).parents[2]
LIVER = organ_prompts("liver", "CT")


def tiny(*overrides: str) -> Config:
    """The test networks; the untrained head is everywhere undecided, so that half of a threshold lets all pass."""
    return load_config("tiny", overrides=overrides)


@pytest.fixture(scope="module")
def some_components() -> Components:
    """Tiny, real, untrained."""
    return load_components(tiny(), allow_untrained=True)


@pytest.fixture(scope="module")
def a_result(some_components: Components) -> Segmentation:
    """A phantom whose lesion was drawn by the user, all stages."""
    phantom = ct_phantom()
    return segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion)


def outside_of(mask: Volume, config: Config) -> np.ndarray:
    """Voxels beyond whatever a candidate can touch: its dilation, and two canonical voxels of interpolation."""
    reach_mm = config.masks.dilation_mm + 3.5 * config.canonical.spacing_mm
    return ~dilate_mm(mask.array > 0, reach_mm, mask.geometry.spacing_mm)


def assert_same(first: Segmentation, second: Segmentation) -> None:
    for name in ("mask", "coarse_mask", "aova", "pseudo_healthy", "residual"):
        one, two = getattr(first, name), getattr(second, name)
        assert (one is None) == (two is None), name
        assert one is None or np.array_equal(one.array, two.array), name


def test_five_lines_from_a_scan_to_a_segmentation(a_ct_phantom: Phantom) -> None:
    config = load_config("tiny")
    components = load_components(config, allow_untrained=True)
    prompts = organ_prompts("liver", "CT")
    result = segment(a_ct_phantom.scan, prompts, components, config)
    assert result.mask.geometry is a_ct_phantom.scan.geometry
    assert (result.modality, result.modality_reason) == ("CT", "the file says so")
    assert result.prompts is prompts and result.config is config and result.outcome
    assert not components.trained and set(components.weights) == {"text/model.safetensors"}


@pytest.mark.parametrize(
    "geometry",
    [
        grid((40, 36, 44), (2.6, 2.8, 2.5), degrees=(12, -20, 31)),
        grid((44, 30, 38), (2.5, 3.1, 3.0), orientation=list(orientations())[27]),
        grid((50, 60, 20), (2.2, 1.8, 6.0), orientation=np.diag([-1.0, -1.0, 1.0]), degrees=(0, 8, 0)),
        grid((36, 44, 40), (2.9, 2.4, 2.7), orientation=np.diag([-1.0, 1.0, 1.0])),
    ],
    ids=["oblique", "permuted", "thick", "left-handed"],
)
def test_every_map_lies_on_exactly_the_grid_of_the_scan(some_components: Components, geometry: Geometry) -> None:
    phantom = ct_phantom(geometry)
    result = segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion)
    for map_ in (result.mask, result.coarse_mask, result.aova, result.pseudo_healthy, result.residual):
        assert map_ is not None
        assert map_.array.shape == geometry.shape
        assert np.array_equal(map_.geometry.ijk_to_ras, geometry.ijk_to_ras)
    assert result.pseudo_healthy is not None
    changed = result.pseudo_healthy.array != phantom.scan.array
    assert changed[phantom.lesion.array > 0].mean() > 0.9, "repainted where the lesion is"
    assert not changed[outside_of(phantom.lesion, tiny())].any(), "and nowhere else"
    center = geometry.to_ras(np.argwhere(changed)).mean(axis=0)
    assert np.linalg.norm(center - phantom.lesion_center_ras) < 6.0


def test_masks_are_0_and_1_and_maps_are_shares(a_result: Segmentation) -> None:
    for mask in (a_result.mask, a_result.coarse_mask):
        assert mask.array.dtype == np.uint8 and set(np.unique(mask.array)) <= {0, 1}
    assert a_result.residual is not None
    for map_ in (a_result.aova, a_result.residual):
        assert map_.array.dtype == np.float32 and map_.array.min() >= 0 and map_.array.max() <= 1
    assert 0 <= a_result.anomaly_score <= 1
    assert set(a_result.timings_s) == {"read", "aova", "repaint", "residual", "write back"}


def test_the_twin_is_the_scan_itself_outside_what_was_repainted(a_result: Segmentation) -> None:
    phantom = ct_phantom()
    assert a_result.pseudo_healthy is not None
    same = a_result.pseudo_healthy.array == phantom.scan.array
    assert same[outside_of(phantom.lesion, tiny())].all()
    assert not same[phantom.lesion.array > 0].any()
    assert a_result.pseudo_healthy.array.min() >= -1000 - 1e-3 and a_result.pseudo_healthy.array.max() < 1500


def test_the_attention_alone_is_carried_back_at_once_and_the_rest_slab_by_slab_where_it_is(
    some_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantom, pieces, restore = ct_phantom(), [], CanonicalScan.restore
    monkeypatch.setattr(CanonicalScan, "restore", lambda *scan: pieces.append(scan[2:]) or restore(*scan))
    monkeypatch.setattr("DiffuGTSLib.volumes.canonical._PLANES", 4)
    segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion)
    assert pieces.count(()) == 1 and len(pieces) > 8
    voxels = sum(phantom.scan.array[piece[0]].size for piece in pieces if piece)
    assert voxels < 4 * phantom.scan.array.size / 2, "of mask, twin, place and residual"


def test_a_drawn_candidate_is_kept_and_the_refined_one_stays_near_it(a_result: Segmentation) -> None:
    phantom = ct_phantom()
    assert np.array_equal(a_result.coarse_mask.array, phantom.lesion.array)
    assert a_result.mask.array.any() and not a_result.mask.array[outside_of(phantom.lesion, tiny())].any()
    assert a_result.outcome.endswith("refined by residuals")


def test_a_drawn_candidate_that_is_thinner_than_the_model_s_voxels_is_not_lost(some_components: Components) -> None:
    """Of 0.8 mm, beside the lesion and alone: a third of a voxel of 2 mm is covered."""
    fine = ct_phantom(grid((64, 64, 64), 0.8))
    thin = np.zeros(fine.scan.array.shape, np.uint8)
    thin[8:16, 8:16, 10] = 1
    for others in (0, fine.lesion.array):
        drawn = fine.scan.with_array(thin | others)
        result = segment(fine.scan, LIVER, some_components, tiny(), coarse_mask=drawn)
        assert result.pseudo_healthy is not None
        changed = result.pseudo_healthy.array != fine.scan.array
        assert changed[thin > 0].mean() > 0.9, "it was repainted"


def test_a_drawn_candidate_overrules_the_judgment_normal(some_components: Components) -> None:
    phantom = ct_phantom()
    config = tiny("masks.gate=1.0")
    result = segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion)
    assert result.residual is not None and result.outcome.endswith("refined by residuals")


def test_a_seed_gives_one_result_and_another_seed_another(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    torch.manual_seed(99)
    again = segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion)
    assert_same(a_result, again)
    other = segment(phantom.scan, LIVER, some_components, tiny("runtime.seed=1"), coarse_mask=phantom.lesion)
    assert other.pseudo_healthy is not None and a_result.pseudo_healthy is not None
    assert np.array_equal(other.aova.array, a_result.aova.array), "looking draws nothing"
    assert not np.array_equal(other.pseudo_healthy.array, a_result.pseudo_healthy.array)


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


def test_only_the_view_of_a_finding_is_decoded_wherever_the_latent_is_repainted(
    some_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latent is repainted as a whole, here of a scan of 3 × 3 × 3 windows; one window is decoded, twice."""
    decode, decoded = some_components.autoencoder.decode, []
    monkeypatch.setattr(some_components.autoencoder, "decode", lambda each: (decoded.append(each), decode(each))[1])
    phantom = ct_phantom(lesion_mm=6.0)
    config = tiny("canonical.spacing_mm=2.0", "inpainting.margin_mm=500", "inpainting.steps=1")
    segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion, stages=("aova", "repaint"))
    of_the_scan, of_the_twin = decoded
    same = (of_the_scan == of_the_twin).all(dim=1).float().mean()
    assert 0.5 < same < 1, "the same window, but for the candidate's cells"


def test_two_findings_far_from_each_other_are_repainted_and_compared_each_in_its_place(
    some_components: Components,
) -> None:
    phantom = ct_phantom(lesion_mm=6.0)
    both = phantom.lesion.array | phantom.lesion.array[::-1]
    config = tiny("canonical.spacing_mm=2.0", "inpainting.steps=1", "masks.dilation_mm=0", "residual.rule=fixed")
    result = segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion.with_array(both))
    assert result.pseudo_healthy is not None
    changed = result.pseudo_healthy.array != phantom.scan.array
    for lesion in (phantom.lesion.array, phantom.lesion.array[::-1]):
        assert changed[lesion > 0].mean() > 0.9
    assert not changed[outside_of(phantom.lesion.with_array(both), config)].any()
    assert result.residual is not None and result.residual.array[both > 0].max() > 0


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
    assert caught.value.code == "cache" and "leave the cache away" in caught.value.hint


def test_a_cache_knows_its_scan_in_whatever_form_the_numbers_are_kept(
    some_components: Components, a_result: Segmentation
) -> None:
    phantom = ct_phantom()
    other = phantom.scan.with_array(np.asfortranarray(phantom.scan.array.astype(np.float64)))
    again = segment(other, LIVER, some_components, tiny(), coarse_mask=phantom.lesion, cache=a_result.cache)
    assert np.array_equal(again.mask.array, a_result.mask.array)


def seen_as(a_result: Segmentation, phantom: Phantom, inside: float, outside: float, score: float) -> Cache:
    """The cache of a look that saw the lesion with these shares: what a trained head would have left."""
    aova = np.where(segment_coarse(phantom), inside, outside).astype(np.float32)
    return dataclasses.replace(a_result.cache, aova=aova, anomaly_score=score)


def segment_coarse(phantom: Phantom) -> np.ndarray:
    scan = to_canonical(phantom.scan, tiny().canonical, "CT")
    return np.asarray(scan.project(phantom.lesion) >= 0.5)


def test_a_detected_lesion_goes_the_whole_road(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.9, 0.2, 0.8)
    result = segment(phantom.scan, LIVER, some_components, tiny("masks.gate=0.5"), cache=cache)
    overlap = (result.coarse_mask.array & phantom.lesion.array).sum()
    assert 2 * overlap / (result.coarse_mask.array.sum() + phantom.lesion.array.sum()) > 0.75
    assert result.residual is not None and result.anomaly_score == 0.8


def test_below_the_gate_a_scan_is_judged_normal(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.9, 0.2, 0.3)
    result = segment(phantom.scan, LIVER, some_components, tiny("masks.gate=0.5"), cache=cache)
    assert result.outcome == "judged normal: anomaly score 0.30 is below the gate 0.50"
    assert not result.mask.array.any() and not result.coarse_mask.array.any()
    assert result.pseudo_healthy is None and result.residual is None
    assert result.aova.array.max() > 0.8, "the map is shown all the same"


def test_nothing_above_the_threshold_is_said(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.45, 0.2, 0.9)
    result = segment(phantom.scan, LIVER, some_components, tiny(), cache=cache)
    assert result.outcome == "nothing above the threshold: the highest abnormal attention is 0.45"
    assert not result.mask.array.any() and result.pseudo_healthy is None


@pytest.mark.parametrize(
    ("override", "beside", "reason"),
    [
        ("masks.peak=0.8", False, "no candidate reaches masks.peak (0.80)"),
        ("masks.rule=relative masks.floor=0.75", False, "nothing reaches masks.floor (0.75)"),
        ("masks.minimum_ml=1e6", False, "every candidate is smaller than masks.minimum_ml"),
        (
            "masks.rule=otsu masks.threshold=0.8 masks.minimum_ml=1e6",
            False,
            "every candidate is smaller than masks.minimum_ml",
        ),
        ("masks.threshold=0.3", True, "nothing above the threshold"),
        ("masks.rule=relative masks.floor=0.5", True, "nothing reaches masks.floor (0.50)"),
    ],
)
def test_why_no_candidate_is_left_is_said_and_is_true_of_the_region(
    some_components: Components, a_result: Segmentation, override: str, beside: bool, reason: str
) -> None:
    """Attention is 0.7 in the lesion and 0.2 beside it; what lies outside of the region has no part in the reason."""
    phantom = ct_phantom()
    away = ~ndimage.binary_dilation(phantom.lesion.array > 0, iterations=6)
    region = Volume(away.astype(np.uint8), phantom.scan.geometry) if beside else None
    cache = seen_as(a_result, phantom, 0.7, 0.2, 0.9)
    result = segment(phantom.scan, LIVER, some_components, tiny(*override.split()), cache=cache, region=region)
    assert result.outcome == f"{reason}: the highest abnormal attention is {0.2 if beside else 0.7:.2f}"
    assert not result.coarse_mask.array.any()


def test_a_region_restricts_to_itself(some_components: Components, a_result: Segmentation) -> None:
    phantom = ct_phantom()
    half = np.zeros(phantom.scan.array.shape, dtype=np.uint8)
    middle = int(np.argwhere(phantom.lesion.array)[:, 0].mean())
    half[:middle] = 1
    region = Volume(half, phantom.scan.geometry)
    cache = seen_as(a_result, phantom, 0.9, 0.2, 0.8)
    for given in (None, phantom.lesion):
        result = segment(phantom.scan, LIVER, some_components, tiny(), cache=cache, region=region, coarse_mask=given)
        assert result.mask.array.any() and not result.mask.array[half == 0].any()
        assert result.coarse_mask.array.any() and not result.coarse_mask.array[half == 0].any()
        assert result.pseudo_healthy is not None
        changed = result.pseudo_healthy.array != phantom.scan.array
        assert not changed[middle:].any(), "nor is anything repainted"


@pytest.mark.parametrize("value", [255, 10, -1])
def test_a_region_is_as_large_whatever_number_its_label_has(
    some_components: Components, a_result: Segmentation, value: int
) -> None:
    """A label of a label map, or a mask of 0 and 255; what is not above 0 is outside everywhere."""
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.9, 0.9, 0.8)
    near = ndimage.binary_dilation(phantom.lesion.array > 0, iterations=4)
    numbers = np.where(near, abs(value), min(value, 0)).astype(np.int16)
    found = [
        segment(
            phantom.scan, LIVER, some_components, tiny(), cache=cache, region=phantom.lesion.with_array(region),
            stages=("aova",),
        ).mask.array
        for region in (near.astype(np.uint8), numbers)
    ]  # fmt: skip
    assert found[0].any() and np.array_equal(*found)


def test_attention_is_smoothed_before_it_is_shown_and_cut_and_kept_as_it_was(some_components: Components) -> None:
    """A speck without an edge of its own fades; with another reach the same cache answers anew."""
    phantom = ct_phantom()
    first = segment(phantom.scan, LIVER, some_components, tiny(), stages=("aova",))
    middle = tuple(slice(side // 2, side // 2 + 2) for side in first.cache.aova.shape)
    aova = np.full(first.cache.aova.shape, 0.2, dtype=np.float32)
    aova[middle] = 0.9
    cache = dataclasses.replace(first.cache, aova=aova, anomaly_score=0.8)
    plain, smooth = (
        segment(phantom.scan, LIVER, some_components, tiny("masks.gate=0", *more), cache=cache, stages=("aova",))
        for more in ((), ("masks.smooth_mm=20", "masks.smooth_edge=0.5"))
    )
    assert plain.coarse_mask.array.any() and not smooth.coarse_mask.array.any()
    assert smooth.aova.array.max() < 0.5 < plain.aova.array.max()
    assert np.array_equal(smooth.cache.aova, aova)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 5.0)])
@pytest.mark.parametrize("smooth", ["masks.smooth_mm=0", "masks.smooth_mm=4"])
def test_what_lies_beside_a_region_has_no_say_in_it(
    some_components: Components, smooth: str, spacing_mm: tuple[float, float, float]
) -> None:
    """A neighbor that is surer than anything inside would set the level of a relative threshold."""
    shape = tuple(round(80 / side) for side in spacing_mm)
    phantom = ct_phantom(grid(shape, spacing_mm))
    first = segment(phantom.scan, LIVER, some_components, tiny(), stages=("aova",))
    points = phantom.scan.geometry.to_ras(np.moveaxis(np.indices(shape), 0, -1))
    middle = points.reshape(-1, 3).mean(axis=0)
    ball = (np.linalg.norm(points - middle, axis=-1) < 24).astype(np.uint8)
    region = phantom.scan.with_array(ball)
    scan = to_canonical(phantom.scan, tiny().canonical, "CT")
    around = np.linalg.norm(scan.geometry.to_ras(np.moveaxis(np.indices(scan.image.shape), 0, -1)) - middle, axis=-1)
    aova = np.where(around > 24.5, 0.95, 0.15).astype(np.float32)
    aova[around < 8] = 0.5
    config = tiny("masks.rule=relative", "masks.floor=0.2", "masks.gate=0", smooth, "masks.smooth_edge=0.05")
    cache = dataclasses.replace(first.cache, aova=aova, anomaly_score=0.8)
    result = segment(phantom.scan, LIVER, some_components, config, cache=cache, region=region, stages=("aova",))
    found = result.coarse_mask.array > 0
    assert found.any() and np.linalg.norm(points[found] - middle, axis=-1).max() < 16


def test_a_region_thinner_than_the_models_voxels_is_looked_at_as_a_whole(
    some_components: Components, a_result: Segmentation
) -> None:
    """A tube of one voxel of 2 mm, as a vessel's mask is, on a grid of 4 mm."""
    phantom = ct_phantom()
    tube = np.zeros_like(phantom.lesion.array)
    i, j, _ = (int(v) for v in np.argwhere(phantom.lesion.array).mean(axis=0))
    tube[i, j] = phantom.lesion.array[i, j]
    cache = seen_as(a_result, phantom, 0.9, 0.9, 0.8)
    region = phantom.lesion.with_array(tube)
    result = segment(phantom.scan, LIVER, some_components, tiny(), cache=cache, region=region, stages=("aova",))
    assert np.array_equal(result.coarse_mask.array, tube)


@pytest.mark.parametrize("stages", [("aova",), ("aova", "repaint")])
def test_a_beginning_of_the_road_leaves_the_rest_out(
    some_components: Components, a_result: Segmentation, stages: tuple[str, ...]
) -> None:
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.9, 0.2, 0.8)
    result = segment(phantom.scan, LIVER, some_components, tiny(), cache=cache, stages=stages)
    assert (result.pseudo_healthy is not None) == ("repaint" in stages)
    assert result.residual is None and np.array_equal(result.mask.array, result.coarse_mask.array)
    assert result.outcome == "1 finding, not refined"
    assert set(result.timings_s) == {"read", "write back", *stages}


def test_candidates_too_small_for_the_scans_grid_are_said_to_be(
    some_components: Components, a_result: Segmentation
) -> None:
    """One canonical voxel of 4 mm, 0.064 ml, loses its corners where it is read at 2 mm."""
    phantom = ct_phantom()
    aova = np.full_like(a_result.cache.aova, 0.1)
    aova[16, 16, 16] = 0.9
    cache = dataclasses.replace(a_result.cache, aova=aova, anomaly_score=0.8)
    config = tiny("masks.minimum_ml=0.064")
    result = segment(phantom.scan, LIVER, some_components, config, cache=cache, stages=("aova",))
    assert not result.mask.array.any() and "smaller than masks.minimum_ml" in result.outcome


def test_what_refinement_leaves_may_be_too_small_and_is_said_to_be(some_components: Components) -> None:
    phantom = ct_phantom()
    volume_ml = float(phantom.lesion.array.sum()) * phantom.lesion.geometry.voxel_volume_ml
    config = tiny(f"masks.minimum_ml={20 * volume_ml}", "residual.rule=relative", "residual.threshold=0.5")
    result = segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion)
    assert not result.mask.array.any()
    assert result.outcome.startswith("nothing left after refinement") and "masks.minimum_ml" in result.outcome


def test_a_head_in_mr_goes_the_same_road(some_components: Components, an_mr_phantom: Phantom) -> None:
    brain = organ_prompts("brain", "MR")
    result = segment(an_mr_phantom.scan, brain, some_components, tiny(), coarse_mask=an_mr_phantom.lesion)
    assert result.modality == "MR" and result.pseudo_healthy is not None and result.residual is not None
    same = result.pseudo_healthy.array == an_mr_phantom.scan.array
    assert same[outside_of(an_mr_phantom.lesion, tiny())].all()


def test_the_modality_is_guessed_with_a_reason_or_taken_as_told(
    some_components: Components, a_ct_phantom: Phantom
) -> None:
    unnamed = dataclasses.replace(a_ct_phantom.scan, modality=None)
    result = segment(unnamed, LIVER, some_components, tiny(), stages=("aova",))
    assert result.modality == "CT" and "Hounsfield" in result.modality_reason
    result = segment(unnamed, LIVER, some_components, tiny(), stages=("aova",), modality="MR")
    assert (result.modality, result.modality_reason) == ("MR", "as asked")


def test_progress_only_rises_within_a_stage_and_stages_follow_each_other(some_components: Components) -> None:
    phantom = ct_phantom()
    heard: list[tuple[str, float]] = []
    segment(
        phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion,
        on_progress=lambda stage, share: heard.append((stage, share)),
    )  # fmt: skip
    order = list(dict.fromkeys(stage for stage, _ in heard))
    assert order == ["read", *STAGES, "write back"]
    for stage in order:
        shares = [share for name, share in heard if name == stage]
        assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert len([1 for stage, _ in heard if stage == "repaint"]) > 4, "each step is heard"


@pytest.mark.parametrize("stage", ["read", "aova", "repaint", "residual", "write back"])
def test_cancelling_in_any_stage_comes_through_as_it_is(some_components: Components, stage: str) -> None:
    phantom = ct_phantom()
    stop = Cancelled("stopped by the user")

    def cancel(at: str, share: float) -> None:
        if at == stage:
            raise stop

    before = phantom.scan.array.copy()
    with pytest.raises(Cancelled) as caught:
        segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion, on_progress=cancel)
    assert caught.value is stop
    assert np.array_equal(phantom.scan.array, before)


def broken(phantom: Phantom, value: float) -> Volume:
    array = phantom.scan.array.copy()
    array[3, 3, 3] = value
    return Volume(array, phantom.scan.geometry, None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scan_with_holes_is_refused_whatever_its_modality(
    some_components: Components, a_ct_phantom: Phantom, value: float
) -> None:
    with pytest.raises(InputError, match=r"1 NaN or infinite voxels"):
        segment(broken(a_ct_phantom, value), LIVER, some_components, tiny())


def test_a_constant_scan_is_refused(some_components: Components, a_ct_phantom: Phantom) -> None:
    flat = a_ct_phantom.scan.with_array(np.full_like(a_ct_phantom.scan.array, 7.0))
    with pytest.raises(InputError, match=r"constant: every voxel is 7"):
        segment(flat, LIVER, some_components, tiny())


@pytest.mark.parametrize("name", ["coarse mask", "region"])
def test_an_empty_mask_or_one_on_another_grid_is_refused(
    some_components: Components, a_ct_phantom: Phantom, name: str
) -> None:
    def give(mask: Volume) -> Segmentation:
        if name == "region":
            return segment(a_ct_phantom.scan, LIVER, some_components, tiny(), region=mask)
        return segment(a_ct_phantom.scan, LIVER, some_components, tiny(), coarse_mask=mask)

    empty = a_ct_phantom.lesion.with_array(np.zeros_like(a_ct_phantom.lesion.array))
    with pytest.raises(InputError, match=rf"The {name} is empty") as caught:
        give(empty)
    assert caught.value.code in ("empty_candidate", "empty_region")
    with pytest.raises(GeometryError, match=rf"The {name} and the scan lie on different grids"):
        give(ct_phantom(grid(spacing_mm=(2.0, 2.0, 2.1))).lesion)


def one_voxel(phantom: Phantom) -> Volume:
    array = np.zeros_like(phantom.lesion.array)
    array[28, 26, 30] = 1
    return phantom.lesion.with_array(array)


def test_masks_too_small_for_the_models_grid_are_refused_before_anything_is_looked_at(
    some_components: Components, a_ct_phantom: Phantom
) -> None:
    heard: list[str] = []
    listen: Callable[[str, float], None] = lambda stage, share: heard.append(stage)  # noqa: E731
    fine = ct_phantom(grid((48, 48, 48), (0.3, 0.3, 0.3)))
    with pytest.raises(InputError, match=r"coarse mask is too small for one voxel of the model's grid") as caught:
        segment(fine.scan, LIVER, some_components, tiny(), coarse_mask=one_voxel(fine), on_progress=listen)
    assert caught.value.code == "empty_candidate"
    with pytest.raises(InputError, match=r"The region is too small for one voxel") as caught:
        segment(fine.scan, LIVER, some_components, tiny(), region=one_voxel(fine), on_progress=listen)
    assert caught.value.code == "empty_region" and "aova" not in heard


def test_a_candidate_outside_the_region_is_refused(some_components: Components, a_ct_phantom: Phantom) -> None:
    elsewhere = a_ct_phantom.lesion.with_array(a_ct_phantom.lesion.array[::-1].copy())
    with pytest.raises(InputError, match=r"lies outside the region"):
        segment(a_ct_phantom.scan, LIVER, some_components, tiny(), coarse_mask=a_ct_phantom.lesion, region=elsewhere)


def test_what_was_cut_off_at_the_region_s_border_is_said_in_the_outcome(
    some_components: Components, a_ct_phantom: Phantom
) -> None:
    half = np.zeros_like(a_ct_phantom.lesion.array)
    half[: int(np.argwhere(a_ct_phantom.lesion.array)[:, 0].mean())] = 1
    region = a_ct_phantom.lesion.with_array(half)
    result = segment(a_ct_phantom.scan, LIVER, some_components, tiny(), coarse_mask=a_ct_phantom.lesion, region=region)
    assert result.outcome.endswith(" ml that were drawn lie outside the region and were cut off")


def test_a_candidate_that_only_touches_the_region_is_refused(
    some_components: Components, a_ct_phantom: Phantom
) -> None:
    """On the model's coarser grid it would smear into it, and what nobody drew would be repainted."""
    phantom, left, beside = a_ct_phantom, *np.zeros((2, *a_ct_phantom.scan.geometry.shape), dtype=np.uint8)
    left[:23], beside[23:30, 10:30, 10:30] = 1, 1
    region, drawn = phantom.lesion.with_array(left), phantom.lesion.with_array(beside)
    with pytest.raises(InputError, match=r"lies outside the region") as caught:
        segment(phantom.scan, LIVER, some_components, tiny(), coarse_mask=drawn, region=region)
    assert caught.value.code == "empty_candidate"


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (("aova", "repeint"), "Unknown stage 'repeint'"),
        (("repaint",), "expected a beginning of aova, repaint, residual, got repaint"),
        (("aova", "residual"), "got aova, residual"),
        ((), "got none"),
    ],
)
def test_a_road_that_is_none_is_refused(
    some_components: Components, a_ct_phantom: Phantom, stages: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        segment(a_ct_phantom.scan, LIVER, some_components, tiny(), stages=stages)


def test_sides_that_the_denoiser_cannot_take_are_refused(some_components: Components, a_ct_phantom: Phantom) -> None:
    """Sides of 36 voxels are 9 latent cells, of which the last could never be repainted."""
    config = tiny("canonical.side_multiple=4", "canonical.spacing_mm=3.0")
    with pytest.raises(ConfigError, match=r"sides that are multiples of 8 voxels, got \(40, 36, 40\)") as caught:
        segment(a_ct_phantom.scan, LIVER, some_components, config)
    assert "canonical.side_multiple=8" in caught.value.hint


def test_half_precision_goes_the_whole_road(some_components: Components, a_result: Segmentation) -> None:
    """Refused on many CPUs because it is slow, not because it fails: tiny networks do not mind."""
    phantom = ct_phantom()
    config = tiny("runtime.precision=bfloat16")
    result = segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion)
    assert result.pseudo_healthy is not None and np.isfinite(result.pseudo_healthy.array).all()
    np.testing.assert_allclose(result.aova.array, a_result.aova.array, atol=0.05)


def test_what_exists_is_shown_before_the_repainting_begins(some_components: Components) -> None:
    phantom = ct_phantom()
    heard: list[str] = []
    shown: dict[str, Volume] = {}

    def show(kind: str, made: Volume) -> None:
        heard.append(kind)
        shown[kind] = made

    result = segment(
        phantom.scan, LIVER, some_components, tiny(), coarse_mask=phantom.lesion, on_artifact=show,
        on_progress=lambda stage, share: heard.append(stage),
    )  # fmt: skip
    order = list(dict.fromkeys(heard))
    assert order == ["read", "aova", "coarse_mask", "repaint", "pseudo_healthy", "residual", "write back"]
    for kind, made in shown.items():
        assert made is getattr(result, kind), "it is the result's own, computed once"


def test_nothing_repainted_is_not_shown(some_components: Components, a_ct_phantom: Phantom) -> None:
    shown: list[str] = []
    segment(
        a_ct_phantom.scan, LIVER, some_components, tiny("masks.gate=1.0"),
        on_artifact=lambda kind, made: shown.append(kind),
    )  # fmt: skip
    assert shown == ["aova", "coarse_mask"]


def test_whoever_is_shown_something_may_stop_the_work(some_components: Components, a_ct_phantom: Phantom) -> None:
    heard: list[str] = []

    def stop(kind: str, made: Volume) -> None:
        raise Cancelled("enough seen")

    with pytest.raises(Cancelled, match="enough seen"):
        segment(
            a_ct_phantom.scan, LIVER, some_components, tiny(), on_artifact=stop,
            on_progress=lambda stage, share: heard.append(stage),
        )  # fmt: skip
    assert "repaint" not in heard
