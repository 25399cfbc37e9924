"""Training windows of the head: real tumors, painted ones, healthy ones, and prompts that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, canonical, training_scan, write_case, write_labels, write_protocol
from phantoms import ct_phantom, mr_phantom

from DiffuGTSLib.datasets.protocol import read_protocol
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training import anomalies
from DiffuGTSLib.training.anomalies import (
    MINIMUM_VOXELS,
    AnomalySampler,
    Mixture,
    Sample,
)
from DiffuGTSLib.training.data import TrainingScan, load_case

SIDE = 32
PLAIN = Mixture(
    real=0.0, healthy=0.0, anywhere=0.0, turned=0.0, thick=0.0, thick_mr=0.0, sharp=0.0, remapped=0.0,
    stripped=0.0, decoys=0.0, further=0, phase=0.0,
)  # fmt: skip
REAL = replace(PLAIN, real=1.0)
PAINTED = PLAIN
HEALTHY = replace(PLAIN, healthy=1.0)
ANYWHERE = replace(PLAIN, anywhere=1.0)


@pytest.fixture(scope="module")
def a_ct(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    """A liver with a lesion."""
    data = tmp_path_factory.mktemp("ct")
    return training_scan(data, write_case(data, "ct", ct_phantom(GRID), "train"))


@pytest.fixture(scope="module")
def an_mr(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    """A brain with a lesion."""
    data = tmp_path_factory.mktemp("mr")
    return training_scan(data, write_case(data, "mr", mr_phantom(GRID), "train"))


@pytest.fixture(scope="module")
def a_healthy_ct(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    """A liver and a lung without any lesion; the lesion's voxels play the lung."""
    data = tmp_path_factory.mktemp("healthy")
    row = write_case(data, "ct", ct_phantom(GRID), "train", tumor="")
    scan = training_scan(data, row)
    scan.organs["lung"] = np.roll(scan.organs["liver"], 6, axis=2)
    return scan


@pytest.fixture(scope="module")
def a_label_map(tmp_path_factory: pytest.TempPathFactory) -> TrainingScan:
    data = tmp_path_factory.mktemp("labels")
    return training_scan(data, write_labels(data, "labels", "train"))


def drawn(sampler: AnomalySampler, count: int = 16) -> list[Sample]:
    return [sampler.draw(np.random.default_rng(seed)) for seed in range(count)]


def test_a_real_window_shows_the_outlined_tumor_under_its_organ_s_name(a_ct: TrainingScan) -> None:
    samples = drawn(AnomalySampler([a_ct], SIDE, REAL))
    assert {sample.organ for sample in samples} == {"liver"} and {sample.modality for sample in samples} == {"CT"}
    assert all(sample.image.shape == sample.mask.shape == (SIDE,) * 3 for sample in samples)
    assert max(sample.mask.sum() for sample in samples) == a_ct.tumor.sum()
    assert np.mean([sample.abnormal for sample in samples]) > 0.8
    # The lesion (20 HU) is darker than its liver (110 HU), and mirrored together with its mask.
    for sample in samples:
        if sample.mask.any():
            ring = sample.image[sample.mask].mean()
            assert ring < 0.7, "mask and image were mirrored differently"


def test_a_painted_window_has_a_tumor_where_none_was(a_healthy_ct: TrainingScan) -> None:
    samples = drawn(AnomalySampler([a_healthy_ct], SIDE, PAINTED), 24)
    assert not a_healthy_ct.tumor.any()
    assert np.mean([sample.abnormal for sample in samples]) > 0.7
    assert {sample.organ for sample in samples} == {"liver", "lung"}


def test_nothing_is_painted_where_a_scan_is_not_known_to_be_healthy(
    a_healthy_ct: TrainingScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.indices(a_healthy_ct.healthy.shape)[0]
    half = a_healthy_ct.healthy & (x < np.median(x[a_healthy_ct.organs["liver"]]))
    given: list[int] = []
    paint = anomalies.paint_tumors

    def painted(image: np.ndarray, organ: np.ndarray, *more: object) -> tuple[np.ndarray, np.ndarray]:
        given.append(int(organ.sum()))
        return paint(image, organ, *more)

    monkeypatch.setattr(anomalies, "paint_tumors", painted)
    drawn(AnomalySampler([replace(a_healthy_ct, healthy=half)], 64, PAINTED))
    assert 0 < max(given) <= max(int((mask & half).sum()) for mask in a_healthy_ct.organs.values())


def test_a_healthy_window_has_an_empty_target(a_healthy_ct: TrainingScan) -> None:
    samples = drawn(AnomalySampler([a_healthy_ct], SIDE, HEALTHY))
    assert not any(sample.mask.any() or sample.abnormal for sample in samples)


def test_a_tumor_is_not_one_of_another_organ_wherever_that_is(a_ct: TrainingScan, an_mr: TrainingScan) -> None:
    asked = 0
    for sample in drawn(AnomalySampler([a_ct, an_mr], SIDE, replace(REAL, further=2))):
        assert len(sample.further) == (1 if sample.mask.any() else 0), "of what shows no tumor nothing is known"
        for question in sample.further:
            asked += 1
            assert {sample.organ, question.organ} == {"liver", "brain"}
            assert question.mask is not None and not question.mask.any() and question.abnormal == 0
            assert question.shown is None, "nobody said that no brain is in the trunk"
    assert asked > 8


def test_a_sampler_of_one_organ_cannot_ask_for_another(a_ct: TrainingScan) -> None:
    sampler = AnomalySampler([a_ct], SIDE, replace(REAL, further=2))
    assert not any(sample.further for sample in drawn(sampler, 6))


def test_the_same_generator_draws_the_same_window(a_ct: TrainingScan, an_mr: TrainingScan) -> None:
    sampler = AnomalySampler([a_ct, an_mr], SIDE, Mixture())
    for seed in range(6):
        first, second = (sampler.draw(np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first.image, second.image) and np.array_equal(first.mask, second.mask)
        assert (first.organ, first.modality) == (second.organ, second.modality)


def test_a_tumor_that_shows_in_its_own_organ_s_painted_window_stays_a_target(a_ct: TrainingScan) -> None:
    """Painting is off, and still the lesion that lies in the window belongs to the liver that is asked for."""
    samples = drawn(AnomalySampler([a_ct], SIDE, HEALTHY), 24)
    assert any(sample.abnormal for sample in samples)


def test_a_window_from_anywhere_asks_for_what_is_known(a_ct: TrainingScan, a_healthy_ct: TrainingScan) -> None:
    samples = drawn(AnomalySampler([a_ct, a_healthy_ct], SIDE, ANYWHERE), 32)
    assert {sample.organ for sample in samples} == {"liver", "lung"}
    assert not any(sample.mask.any() for sample in samples if sample.organ == "lung")
    assert any(sample.mask.any() for sample in samples), "the outlined lesion stays a target of the liver"


def test_an_organ_in_another_spelling_gives_the_same_windows(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train")
    windows = []
    for spelled in ("liver", "Liver"):  # the label map says "liver" both times
        (case,) = read_protocol(write_protocol(tmp_path / "p.json", [{**row, "organ": spelled}]))
        windows.append(drawn(AnomalySampler([load_case(case, tmp_path, canonical())], SIDE, ANYWHERE)))
    assert any(window.abnormal for window in windows[0])
    for one, other in zip(*windows, strict=True):
        assert one.organ == other.organ == "liver" and np.array_equal(one.mask, other.mask)


def test_nobody_asks_anywhere_for_an_organ_that_may_hold_an_unmarked_tumor(a_healthy_ct: TrainingScan) -> None:
    suspect = replace(a_healthy_ct, case=replace(a_healthy_ct.case, unmarked_near={"liver": 5.0}))
    certain = replace(a_healthy_ct, case=replace(a_healthy_ct.case, healthy_only_in=["lung"]))
    for scan in (suspect, certain):
        assert {sample.organ for sample in drawn(AnomalySampler([scan], SIDE, ANYWHERE), 12)} == {"lung"}


def test_a_healthy_scan_is_asked_about_its_organ_even_where_nobody_outlined_it(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train", labels="", label_names={}, tumor="")
    scan = replace(training_scan(tmp_path, row), organs={"lung": np.ones((32, 32, 32), dtype=bool)})
    samples = drawn(AnomalySampler([scan], SIDE, ANYWHERE), 12)
    assert {sample.organ for sample in samples} == {"liver", "lung"} and not any(
        sample.mask.any() for sample in samples
    )
    painted = replace(ANYWHERE, anywhere=0.0)
    assert {sample.organ for sample in drawn(AnomalySampler([scan], SIDE, painted), 12)} == {"lung"}


def test_a_window_says_where_its_organ_is_as_far_as_that_was_outlined(a_ct: TrainingScan, tmp_path: Path) -> None:
    turned = replace(REAL, turned=1.0)
    for sample in drawn(AnomalySampler([a_ct], SIDE, turned)):
        assert sample.shown is not None and (sample.shown >= sample.mask).all(), "a tumor belongs to its organ"
        if sample.shown.any() and not sample.mask.all():
            liver, outside = sample.image[sample.shown & ~sample.mask], sample.image[~sample.shown]
            assert liver.mean() > outside.mean(), "110 HU against fat and air: turned and mirrored like its image"
    depth = write_case(tmp_path, "mr", mr_phantom(GRID), "train", labels="", label_names={})
    assert {sample.shown is None for sample in drawn(AnomalySampler([training_scan(tmp_path, depth)], SIDE, REAL))} == {
        True
    }


def test_a_window_is_asked_about_a_second_organ_of_its_scan_too(a_healthy_ct: TrainingScan) -> None:
    """Here the lung lies where the liver does: both answers come from the same view, turned and mirrored alike."""
    liver = a_healthy_ct.organs["liver"]
    both = replace(a_healthy_ct, organs={"liver": liver, "lung": liver}, outlined=frozenset({"liver", "lung"}))
    asked, alone = (AnomalySampler([both], SIDE, replace(HEALTHY, turned=1.0, further=count)) for count in (2, 0))
    seen = set()
    for one, other in zip(drawn(asked), drawn(alone), strict=True):
        assert not other.further and one.shown is not None
        first, second = one.questions
        assert (first.organ, first.shown, first.mask) == (one.organ, one.shown, one.mask)
        assert {first.organ, second.organ} == {"liver", "lung"} and second.shown is not None
        assert np.array_equal(second.shown, one.shown) and one.shown.any()
        seen.add(second.organ)
    assert seen == {"liver", "lung"}


def test_a_window_is_asked_about_several_organs_each_once(a_healthy_ct: TrainingScan) -> None:
    liver = a_healthy_ct.organs["liver"]
    names = ("liver", "lung", "kidney", "spleen")
    many = replace(a_healthy_ct, organs=dict.fromkeys(names, liver), outlined=frozenset(names))
    for sample in drawn(AnomalySampler([many], SIDE, replace(HEALTHY, further=2)), 8):
        assert len({question.organ for question in sample.questions}) == 3


def test_a_second_question_about_the_sick_organ_shows_its_tumor(a_ct: TrainingScan) -> None:
    lung = np.roll(a_ct.organs["liver"], 6, axis=2)
    both = replace(a_ct, organs={**a_ct.organs, "lung": lung}, outlined=frozenset({"liver", "lung"}))
    sampler = AnomalySampler([both], SIDE, replace(ANYWHERE, turned=1.0, further=1))
    asked = [sample for sample in drawn(sampler, 32) if sample.organ == "lung"]
    seen = [sample for sample in asked for question in sample.further if question.abnormal]
    assert asked and seen and not any(sample.mask.any() for sample in asked)
    for sample in seen:
        (question,) = sample.further
        assert question.shown is not None and question.mask is not None and (question.shown >= question.mask).all()
        assert sample.image[question.mask].mean() < 0.7, "the lesion (20 HU), not its liver (110 HU)"


def test_of_an_organ_that_may_hold_an_unmarked_tumor_only_its_place_is_asked(a_healthy_ct: TrainingScan) -> None:
    ask = replace(PAINTED, further=1)
    suspect = replace(
        a_healthy_ct,
        outlined=frozenset({"liver", "lung"}),
        case=replace(a_healthy_ct.case, unmarked_near={"lung": 5.0}),
    )
    sampler = AnomalySampler([suspect], SIDE, ask)
    asked = [sample for sample in drawn(sampler) if sample.organ == "liver"]
    assert sampler.organs == ["liver", "lung"] and asked
    assert all(sample.further[0].organ == "lung" for sample in asked)
    for sample in asked:
        (question,) = sample.further
        assert question.shown is not None and question.mask is None and np.isnan(question.abnormal)
    alone = drawn(AnomalySampler([a_healthy_ct], SIDE, ask))  # of this one, the liver alone is outlined
    outlined = {question.organ for sample in alone for question in sample.further if question.shown is not None}
    assert outlined == {"liver"}


def test_an_organ_that_is_not_asked_for_shifts_too(a_healthy_ct: TrainingScan) -> None:
    both = replace(a_healthy_ct, outlined=frozenset({"liver", "lung"}))
    phase, plain = (AnomalySampler([both], SIDE, replace(ANYWHERE, phase=share)) for share in (1.0, 0.0))
    changed = 0
    for seed in range(12):
        one, other = (sampler.draw(np.random.default_rng(seed)) for sampler in (phase, plain))
        assert one.organ == other.organ
        changed += one.organ == "lung" and np.abs(one.image - other.image).max() > 0.01
    assert changed > 0, "asked for the lung, the liver is in another phase"


def test_a_turned_window_carries_its_mask_along(a_ct: TrainingScan) -> None:
    """The lesion (20 HU) is darker than its liver (110 HU) however the window is turned."""
    turned = drawn(AnomalySampler([a_ct], SIDE, replace(REAL, turned=1.0)))
    plain = drawn(AnomalySampler([a_ct], SIDE, REAL))
    assert not any(np.array_equal(one.image, other.image) for one, other in zip(turned, plain, strict=True))
    seen = [sample for sample in turned if sample.abnormal]
    assert len(seen) > 8
    assert all(sample.image[sample.mask].mean() < 0.7 for sample in seen)


def test_a_thick_window_is_smoother(a_ct: TrainingScan) -> None:
    thick, thin = (AnomalySampler([a_ct], SIDE, replace(REAL, thick=share)) for share in (1.0, 0.0))
    for seed in range(4):
        blurred, sharp = (sampler.draw(np.random.default_rng(seed)) for sampler in (thick, thin))
        assert np.abs(np.diff(blurred.image, axis=2)).mean() < np.abs(np.diff(sharp.image, axis=2)).mean()


def test_a_sharp_window_has_stronger_edges(a_ct: TrainingScan) -> None:
    sharp, plain = (AnomalySampler([a_ct], SIDE, replace(REAL, sharp=share)) for share in (1.0, 0.0))
    for seed in range(4):
        sharpened, as_it_is = (sampler.draw(np.random.default_rng(seed)) for sampler in (sharp, plain))
        assert np.abs(np.diff(sharpened.image, axis=0)).mean() > np.abs(np.diff(as_it_is.image, axis=0)).mean()
        assert sharpened.mask.sum() == as_it_is.mask.sum()


def test_only_mr_windows_get_another_contrast(a_ct: TrainingScan, an_mr: TrainingScan) -> None:
    for scan, changes in ((a_ct, False), (an_mr, True)):
        remapped, plain = (AnomalySampler([scan], SIDE, replace(REAL, remapped=share)) for share in (1.0, 0.0))
        for seed in range(4):
            one, other = (sampler.draw(np.random.default_rng(seed)) for sampler in (remapped, plain))
            assert np.array_equal(one.image, other.image) != changes
            assert one.mask.sum() == other.mask.sum()


def test_a_healthy_window_with_decoys_looks_different_and_stays_healthy(a_healthy_ct: TrainingScan) -> None:
    decoys, plain = (AnomalySampler([a_healthy_ct], SIDE, replace(HEALTHY, decoys=share)) for share in (1.0, 0.0))
    changed = 0
    for seed in range(12):
        one, other = (sampler.draw(np.random.default_rng(seed)) for sampler in (decoys, plain))
        changed += not np.array_equal(one.image, other.image)
        assert not one.mask.any()
    assert changed >= 8


def test_a_scan_that_shows_more_of_an_organ_is_drawn_more_often(a_healthy_ct: TrainingScan) -> None:
    less = replace(
        a_healthy_ct,
        organs={"liver": a_healthy_ct.organs["liver"] & (np.indices(a_healthy_ct.tumor.shape)[0] % 4 == 0)},
    )
    sampler = AnomalySampler(
        [replace(a_healthy_ct, organs={"liver": a_healthy_ct.organs["liver"]}), less], SIDE, PAINTED
    )
    assert sampler._scan_chances["liver"] == pytest.approx([2 / 3, 1 / 3], abs=0.03)  # square roots of 4 and 1


def test_a_label_map_with_densities_is_shown_as_a_ct_with_its_skull(tmp_path: Path) -> None:
    row = write_labels(tmp_path, "labels", "train")
    scan = training_scan(tmp_path, {**row, "label_hu": {"-1000": [0], "35": [41], "30": [500]}})
    sampler = AnomalySampler([scan], SIDE, replace(PAINTED, stripped=1.0))
    samples = [sampler.draw(np.random.default_rng(seed)) for seed in range(8)]
    assert {sample.modality for sample in samples} == {"CT"} and any(sample.mask.any() for sample in samples)
    tissue = np.concatenate([sample.image[~sample.mask & (sample.image > 0.3)] for sample in samples])
    assert np.median(scan.scan.intensity.to_native(tissue)) == pytest.approx(32, abs=12)


def test_a_stripped_label_map_shows_the_brain_alone_and_tumors_in_it(a_label_map: TrainingScan) -> None:
    whole, alone = (AnomalySampler([a_label_map], SIDE, replace(PAINTED, stripped=share)) for share in (0.0, 1.0))
    dark_whole, dark_alone = (np.mean([(s.image == 0).mean() for s in drawn(each, 8)]) for each in (whole, alone))
    assert dark_alone > dark_whole
    assert any(sample.abnormal for sample in drawn(alone, 8))
    for sample in drawn(alone, 8):
        assert not sample.mask.any() or (sample.image[sample.mask] == 0).mean() < 0.5, "none in the dark around"


def test_a_stripped_label_map_does_not_say_where_an_organ_is_that_it_no_longer_shows(
    a_label_map: TrainingScan,
) -> None:
    """A brain of the lesion's size, in bone: without the skull, hardly any bone is left to be found."""
    organs = {"brain": a_label_map.scan.image == 1, "bone": a_label_map.scan.image == 2}
    both = replace(a_label_map, organs=organs, outlined=frozenset(organs))
    whole, alone = (AnomalySampler([both], SIDE, replace(PAINTED, stripped=share, further=1)) for share in (0.0, 1.0))
    bone = [
        sum(
            each.shown.sum()
            for sample in drawn(sampler, 8)
            for each in sample.questions
            if each.organ == "bone" and each.shown is not None
        )
        for sampler in (whole, alone)
    ]
    assert bone[1] < 0.5 * bone[0]


def test_nobody_asks_in_vain_about_an_organ_that_may_hold_an_unmarked_tumor(
    a_ct: TrainingScan, an_mr: TrainingScan
) -> None:
    unsure = replace(an_mr, case=replace(an_mr.case, unmarked_near={"liver": 5.0}))
    only = replace(an_mr, case=replace(an_mr.case, healthy_only_in=["brain"]))
    for scan in (unsure, only):
        samples = drawn(AnomalySampler([a_ct, scan], SIDE, replace(REAL, further=1)))
        assert not any(sample.further for sample in samples if sample.organ == "brain")


def test_a_label_map_is_painted_and_called_mr(a_label_map: TrainingScan) -> None:
    samples = drawn(AnomalySampler([a_label_map], SIDE, PAINTED), 6)
    assert {sample.modality for sample in samples} == {"MR"} and {sample.organ for sample in samples} == {"brain"}
    assert all(sample.image.min() >= 0 and sample.image.max() <= 1 for sample in samples)
    assert len({float(sample.image.mean()) for sample in samples}) == 6, "a contrast of its own each time"


def test_a_tumor_too_small_to_see_counts_as_normal() -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask.reshape(-1)[: MINIMUM_VOXELS - 1] = True
    image = np.zeros(mask.shape, np.float32)
    assert not Sample(image, mask, "liver", "CT", (2.0, 2.0, 2.0)).abnormal
    mask.reshape(-1)[MINIMUM_VOXELS] = True
    assert Sample(image, mask, "liver", "CT", (2.0, 2.0, 2.0)).abnormal


def test_scans_without_a_healthy_organ_are_refused(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train", labels="", label_names={}, organ="")
    with pytest.raises(InputError, match="None of 1 scans shows 100 voxels of a healthy organ"):
        AnomalySampler([training_scan(tmp_path, row)], SIDE, Mixture())
