"""The whole road with tiny real networks: where results lie, what they promise, who hears of it, what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from phantoms import Phantom, ct_phantom, grid, orientations
from pipeline_parts import LIVER, assert_same, outside_of, seen_as, tiny

from DiffuGTSLib import pipeline
from DiffuGTSLib.config import load_config
from DiffuGTSLib.errors import Cancelled, ConfigError, InputError
from DiffuGTSLib.pipeline import STAGES, Components, Segmentation, load_components, segment
from DiffuGTSLib.text.prompts import organ_prompts
from DiffuGTSLib.volumes import CanonicalScan, Geometry, Volume

pytest_plugins = ["pipeline_fixtures"]


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


def test_attention_that_the_repainting_took_away_is_the_residual(
    some_components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Abnormal before and normal after; where attention rises instead, nothing is a tumor."""
    phantom = ct_phantom()
    config = tiny(
        "residual.beta_pixel=0", "residual.beta_feature=1", "residual.beta_attention=0", "residual.rule=fixed"
    )
    for before, after, is_tumor in ((1.0, 0.0, True), (0.0, 1.0, False)):
        monkeypatch.setattr(
            pipeline, "attend_again",
            lambda twins, *_, b=before, a=after: [(torch.full_like(t.healthy, b), torch.full_like(t.healthy, a)) for t in twins],
        )  # fmt: skip
        result = segment(phantom.scan, LIVER, some_components, config, coarse_mask=phantom.lesion)
        assert result.mask.array[phantom.lesion.array > 0].all() == is_tumor and result.mask.array.any() == is_tumor


def test_the_projection_is_shown_the_scan_s_latent_and_then_the_twin_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was trained on the one less the other: the wrong way around, healthy tissue would be tumor."""
    phantom, config, shown = ct_phantom(), tiny("residual.feature=projection"), []
    project = pipeline.tumor_probability
    monkeypatch.setattr(
        pipeline, "tumor_probability", lambda network, evidence: (shown.append(evidence), project(network, evidence))[1]
    )
    components = load_components(config, allow_untrained=True)
    result = segment(phantom.scan, LIVER, components, config, coarse_mask=phantom.lesion)
    (evidence,) = shown
    assert np.isin(evidence.latent, result.cache.latent).all()
    assert not np.isin(evidence.healthy_latent, result.cache.latent).all()
