"""From attention to candidates: the gate, thresholds and smoothing, and what a region or a drawn mask allows."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid
from pipeline_parts import LIVER, seen_as, tiny
from scipy import ndimage

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.pipeline import Components, Segmentation, segment
from DiffuGTSLib.volumes import Volume, to_canonical

pytest_plugins = ["pipeline_fixtures"]


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
        ("masks.rule=relative masks.floor=0.75 masks.region_floor=0.1", False, "nothing reaches masks.floor (0.75)"),
        ("masks.minimum_ml=1e6", False, "every candidate is smaller than masks.minimum_ml"),
        (
            "masks.rule=otsu masks.threshold=0.8 masks.minimum_ml=1e6",
            False,
            "every candidate is smaller than masks.minimum_ml",
        ),
        ("masks.threshold=0.3", True, "nothing above the threshold"),
        ("masks.rule=relative masks.region_floor=0.5", True, "nothing reaches masks.region_floor (0.50)"),
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


def test_less_attention_is_enough_where_a_region_says_where_to_look(
    some_components: Components, a_result: Segmentation
) -> None:
    phantom = ct_phantom()
    config = tiny("masks.rule=relative", "masks.floor=0.75", "masks.region_floor=0.6", "masks.gate=0")
    cache = seen_as(a_result, phantom, 0.7, 0.2, 0.9)
    for region, is_found in ((None, False), (phantom.lesion, True)):
        result = segment(phantom.scan, LIVER, some_components, config, cache=cache, region=region, stages=("aova",))
        assert result.coarse_mask.array.any() == is_found


@pytest.mark.parametrize(
    ("share", "by_region", "found"), [(0.0, False, "both"), (0.3, False, "lesion"), (0.3, True, "both")]
)
def test_what_looks_ill_outside_the_organ_s_main_part_is_no_candidate(
    some_components: Components, a_result: Segmentation, share: float, by_region: bool, found: str
) -> None:
    """A second place is as suspicious as the lesion; the head takes it for the organ, but it is small and lies elsewhere."""
    phantom = ct_phantom()
    second = np.roll(phantom.lesion.array, -(np.argwhere(phantom.lesion.array)[:, 2].min() - 1), axis=2) > 0
    cache = seen_as(a_result, phantom, 0.9, 0.2, 0.8)
    scan = to_canonical(phantom.scan, tiny().canonical, "CT")
    there = scan.project(Volume(second.astype(np.uint8), phantom.scan.geometry)) >= 0.5
    aova = np.where(there, np.float32(0.9), cache.aova)
    cache = dataclasses.replace(cache, aova=aova, organ=there | (scan.project(phantom.organ) >= 0.5))
    assert not (second & (phantom.organ.array > 0)).any(), "the phantom's lesion is inside its organ, the copy is not"
    region = Volume(np.ones_like(phantom.lesion.array), phantom.scan.geometry) if by_region else None
    config = tiny(f"masks.organ_share={share}", "masks.gate=0")
    result = segment(phantom.scan, LIVER, some_components, config, cache=cache, region=region, stages=("aova",))
    assert result.coarse_mask.array[phantom.lesion.array > 0].any()
    assert result.coarse_mask.array[second].any() == (found == "both")
    kept = result.cache.organ
    assert kept is not None and np.array_equal(kept, cache.organ), "for the next run with another region"


def test_why_nothing_was_found_tells_of_attention_outside_the_organ(
    some_components: Components, a_result: Segmentation
) -> None:
    phantom = ct_phantom()
    cache = seen_as(a_result, phantom, 0.45, 0.2, 0.9)
    scan = to_canonical(phantom.scan, tiny().canonical, "CT")
    organ = scan.project(phantom.organ) >= 0.5
    corner = tuple(start for start, _ in scan.inside)
    assert not organ[corner]
    cache.aova[corner] = 0.95
    config = tiny("masks.organ_share=0.3")
    result = segment(phantom.scan, LIVER, some_components, config, cache=dataclasses.replace(cache, organ=organ))
    assert result.outcome == (
        "nothing above the threshold: the highest abnormal attention is 0.45 in what was taken for the organ "
        "(masks.organ_share), 0.95 elsewhere"
    )


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
    config = tiny("masks.rule=relative", "masks.region_floor=0.2", "masks.gate=0", smooth, "masks.smooth_edge=0.05")
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


@pytest.mark.parametrize("name", ["coarse mask", "region"])
def test_an_empty_mask_or_one_on_another_grid_is_refused(
    some_components: Components, a_ct_phantom: Phantom, name: str
) -> None:
    def give(mask: Volume) -> Segmentation:
        if name == "region":
            return segment(a_ct_phantom.scan, LIVER, some_components, tiny(), region=mask)
        return segment(a_ct_phantom.scan, LIVER, some_components, tiny(), coarse_mask=mask)

    for value in (0, -1):
        empty = a_ct_phantom.lesion.with_array(np.full(a_ct_phantom.lesion.array.shape, value, np.int16))
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
