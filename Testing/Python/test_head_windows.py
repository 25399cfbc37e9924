"""What each mode of training looks at: it draws what it says, and is validated on nothing that it may not see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, training_scan, write_case
from phantoms import ct_phantom, mr_phantom

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.training.anomalies import AnomalySampler, Mixture, Sample
from DiffuGTSLib.training.data import TrainingScan
from DiffuGTSLib.training.head_options import HeadOptions
from DiffuGTSLib.training.head_windows import (
    in_words,
    require_validation_windows,
    scans_by_split,
    scans_for,
    validation_windows,
)

SIDE = 32


@pytest.fixture(scope="module")
def two_scans(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingScan]:
    """A liver with an outlined tumor, and a brain without any."""
    data = tmp_path_factory.mktemp("scans")
    rows = [
        write_case(data, "ct", ct_phantom(GRID), "train"),
        write_case(data, "mr", mr_phantom(GRID), "train", tumor=""),
    ]
    return [training_scan(data, row) for row in rows]


def drawn(options: HeadOptions, scans: list[TrainingScan], count: int = 24) -> list[Sample]:
    """Draw plain windows of a mode."""
    mixture = replace(options.mixture, turned=0.0, thick=0.0)
    sampler = AnomalySampler(scans_for(options, scans, "train"), SIDE, mixture)
    return [sampler.draw(np.random.default_rng(seed)) for seed in range(count)]


def test_a_mixture_shows_real_tumors_and_painted_ones(two_scans: list[TrainingScan]) -> None:
    samples = drawn(HeadOptions(), two_scans)
    assert {sample.organ for sample in samples if sample.abnormal} == {"liver", "brain"}
    assert not all(sample.abnormal for sample in samples)


def test_seen_shows_real_tumors_only(two_scans: list[TrainingScan]) -> None:
    samples = drawn(HeadOptions(mode="seen"), two_scans)
    assert {sample.organ for sample in samples if sample.abnormal} == {"liver"}, "none was painted into the brain"
    assert {sample.organ for sample in samples} == {"liver", "brain"}, "which is there as healthy"
    assert max(sample.mask.sum() for sample in samples) <= two_scans[0].tumor.sum(), "nor beside the real one"


def test_seen_needs_no_outlined_organ(tmp_path: Path) -> None:
    """As in the Decathlon's lungs and colons, where the tumor alone is outlined."""
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train", labels="", label_names={})
    scan = training_scan(tmp_path, row)
    assert scan.tumor.any() and not scan.organs
    options = HeadOptions(mode="seen")
    samples = drawn(options, [scan])
    assert {sample.organ for sample in samples} == {"liver"} and any(sample.abnormal for sample in samples)
    assert max(sample.mask.sum() for sample in samples) <= scan.tumor.sum(), "nothing was painted"
    assert any(window.abnormal for window in validation_windows([scan], SIDE, options))
    with pytest.raises(InputError, match="a tumor could be painted into") as caught:
        drawn(HeadOptions(), [scan])
    assert "mode=seen" in caught.value.hint


def test_label_free_looks_at_no_scan_with_an_outlined_tumor(two_scans: list[TrainingScan]) -> None:
    samples = drawn(HeadOptions(mode="label-free"), two_scans)
    assert {(sample.organ, sample.modality) for sample in samples} == {("brain", "MR")}
    abnormal = np.mean([sample.abnormal for sample in samples])
    assert 0.2 < abnormal < 0.9, "painted tumors, and healthy windows"


def test_image_labels_show_the_windows_of_a_mixture(two_scans: list[TrainingScan]) -> None:
    with_labels, mixture = (drawn(HeadOptions(mode=mode), two_scans, 6) for mode in ("image-labels", "mixture"))
    for one, other in zip(with_labels, mixture, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)


def test_a_mode_without_what_it_learns_from_is_refused(two_scans: list[TrainingScan]) -> None:
    sick, healthy = two_scans
    with pytest.raises(InputError, match="mode=label-free needs a scan without an outlined tumor; none of 1") as caught:
        scans_for(HeadOptions(mode="label-free"), [sick], "validation")
    assert "--kind label-free" in caught.value.hint
    with pytest.raises(InputError, match="mode=seen needs an outlined tumor; none of 1 scans of the split 'train'"):
        scans_for(HeadOptions(mode="seen"), [healthy], "train")
    assert scans_for(HeadOptions(mode="seen"), [healthy], "validation") == [healthy]


def test_where_no_scan_without_a_tumor_is_left_to_validate_with_patients_are_held_out(
    two_scans: list[TrainingScan],
) -> None:
    sick, healthy = two_scans
    many = [replace(healthy, case=replace(healthy.case, name=f"{n}", patient=f"p{n // 2:02}")) for n in range(40)]
    options = HeadOptions(mode="label-free")
    kept, held_out = scans_by_split(options, {"train": [sick, *many], "validation": [sick]})
    assert len(held_out) == 2, "a tenth of 20 patients"
    assert {scan.case.patient for scan in kept["validation"]} == set(held_out) and len(kept["validation"]) == 4
    assert len(kept["train"]) == 36 and not set(held_out) & {scan.case.patient for scan in kept["train"]}
    again = scans_by_split(options, {"train": [*many[::-1], sick], "validation": [sick]})[1]
    assert again == held_out, "the same in every run, in whatever order"
    kept, held_out = scans_by_split(options, {"train": many, "validation": [sick, healthy]})
    assert held_out == [] and kept == {"train": many, "validation": [healthy]}
    assert scans_by_split(HeadOptions(), {"train": many, "validation": [sick]})[0]["validation"] == [sick]
    with pytest.raises(InputError, match="none of 1 scans of the split 'validation'") as caught:
        scans_by_split(options, {"train": [healthy], "validation": [sick]})
    assert "add scans without a tumor" in caught.value.hint


def test_seen_is_validated_on_real_tumors_and_healthy_windows(two_scans: list[TrainingScan]) -> None:
    windows = validation_windows(two_scans, SIDE, HeadOptions(mode="seen"))
    assert [window.organ for window in windows[:2]] == ["liver"] * 2 and all(w.abnormal for w in windows[:2])
    assert not any(window.abnormal for window in windows if window.organ == "brain")


def test_label_free_is_validated_on_painted_tumors_alone(two_scans: list[TrainingScan]) -> None:
    options = HeadOptions(mode="label-free")
    windows = validation_windows(scans_for(options, two_scans, "validation"), SIDE, options)
    assert len(windows) == 24 and {window.organ for window in windows} == {"brain"}
    assert any(window.abnormal for window in windows) and not all(window.abnormal for window in windows)


def window(abnormal: bool) -> Sample:
    mask = np.full((SIDE,) * 3, abnormal)
    return Sample(mask.astype(np.float32), mask, "liver", "CT", (2.0, 2.0, 2.0))


def test_patience_needs_windows_that_give_its_figure() -> None:
    patient, by_labels = HeadOptions(patience=3), HeadOptions(patience=3, mode="image-labels")
    require_validation_windows(HeadOptions(), [window(False)])
    require_validation_windows(patient, [window(True)])
    require_validation_windows(by_labels, [window(True), window(False)])
    for options, windows in ((patient, [window(False)]), (by_labels, [window(True)])):
        with pytest.raises(InputError, match="which 1 validation windows cannot give: all of them are") as caught:
            require_validation_windows(options, windows)
        assert caught.value.code == "validation"


def test_the_shares_of_windows_in_words_sum_to_one() -> None:
    mixture = Mixture(real=0.3, healthy=0.25, anywhere=0.1, further=2)
    assert in_words(mixture, 4) == (
        "30 % around a real tumor (4 scans), 10 % from anywhere, 45 % with painted tumors, 15 % in a healthy organ; "
        "each is asked about 2 other organs as well"
    )
    assert in_words(mixture, 4, organs=False).startswith("30 % around a real tumor (4 scans), 70 % from anywhere;")
    assert in_words(mixture, 0).startswith("10 % from anywhere, 68 % with painted tumors, 22 % in a healthy organ")


def test_windows_are_fixed_and_show_the_real_tumor(two_scans: list[TrainingScan]) -> None:
    first, second = (validation_windows(two_scans, SIDE) for _ in range(2))
    assert len(first) == 2 + 8 and all(w.mask.any() and w.organ == "liver" for w in first[:2])
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)
