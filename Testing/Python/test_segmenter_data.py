"""A segmenter's windows: how often what is painted, how long a healthy crop is looked for, and what stays untouched."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from mini_data import GRID
from numpy.typing import NDArray
from phantoms import ct_phantom, mr_phantom

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import ConfigError, InputError
from DiffuGTSLib.supervised.networks import TUMOR
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.synthesis.painter import Site
from DiffuGTSLib.training.data import Crop
from DiffuGTSLib.training.segmenter_cases import SegmenterScan
from DiffuGTSLib.training.segmenter_data import (
    ATTEMPTS,
    PaintedTumors,
    SegmenterSampler,
    SegmenterWindow,
    SynthesisChances,
    augmented,
    balanced_crop,
    healthy_crop,
    paint_window,
    painted_windows,
    required_radius_mm,
)
from DiffuGTSLib.volumes import Volume, to_canonical

FINE = CanonicalConfig(spacing_mm=4.0, minimum_side=32, ct_knots_hu=(-175.0, 250.0))
SIDE = 24


def a_case(*, healthy: bool = True, modality: str = "CT", noise: float = 15.0) -> SegmenterScan:
    """A phantom whose liver is healthy, or holds the lesion that the phantom has."""
    phantom = ct_phantom(GRID, noise_hu=noise) if modality == "CT" else mr_phantom(GRID, noise=noise)
    image = np.where(phantom.lesion.array > 0, 110.0, phantom.scan.array) if healthy else phantom.scan.array
    scan = to_canonical(phantom.scan.with_array(image.astype(np.float32)), FINE, modality)
    organ = scan.project(phantom.organ) >= 0.5
    tumor = (scan.project(phantom.lesion) >= 0.5) & (not healthy)
    return SegmenterScan("case", scan, organ, tumor, np.ones_like(organ), organ & healthy, "liver")


class CountingSource:
    """Marks one voxel; counts how often it is asked for what."""

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self.counts: Counter[tuple[str, int]] = Counter()

    def minimum_radius_mm(self, organ_name: str) -> float:
        """Ask for nothing."""
        return 0.0

    def paint(
        self, window: Volume, places: Volume, organ_name: str, size: str, count: int, rng: np.random.Generator,
        clipped_at: tuple[float, float] = (0.0, 0.0),
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:  # fmt: skip
        """Count the wish."""
        self.sizes[size] += 1
        self.counts[size, count] += 1
        image, mask = window.array.copy(), np.zeros(window.array.shape, dtype=bool)
        image[0, 0, 0], mask[0, 0, 0] = 77.0, True
        return image, mask


def test_half_of_the_healthy_windows_are_painted_eight_in_ten_of_them_early() -> None:
    source, rng = CountingSource(), np.random.default_rng(0)
    sampler = SegmenterSampler([a_case()], SIDE, source, augment=False)
    kinds = Counter(sampler.draw(rng).kind for _ in range(2000))
    assert kinds["synthetic"] / 2000 == pytest.approx(0.50, abs=0.03)
    assert kinds["synthetic"] + kinds["healthy"] == 2000
    painted = source.sizes.total()
    early = source.sizes["tiny"] + source.sizes["small"]
    assert early / painted == pytest.approx(0.80, abs=0.03)
    assert source.sizes["medium"] / painted == pytest.approx(0.10, abs=0.03)
    assert source.sizes["large"] / painted == pytest.approx(0.10, abs=0.03)
    assert source.sizes["tiny"] / early == pytest.approx(0.50, abs=0.05)


def test_early_tumors_come_one_to_three_at_a_time_later_ones_alone() -> None:
    source, rng = CountingSource(), np.random.default_rng(1)
    sampler = SegmenterSampler([a_case()], SIDE, source)
    for _ in range(600):
        sampler.draw(rng)
    assert {count for size, count in source.counts if size in ("tiny", "small")} == {1, 2, 3}
    assert {count for size, count in source.counts if size in ("medium", "large")} == {1}


def test_a_real_case_is_never_painted_into() -> None:
    source, rng = CountingSource(), np.random.default_rng(0)
    case = a_case(healthy=False)
    sampler = SegmenterSampler([case], SIDE, source, augment=False)
    windows = [sampler.draw(rng) for _ in range(100)]
    assert {window.kind for window in windows} == {"real"} and not source.sizes
    seen = set(np.unique(np.concatenate([window.image.ravel() for window in windows])))
    assert seen <= {*np.unique(case.scan.image), 0.0}, "no voxel of a real case changes"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_real_and_synthetic_windows_are_mixed_as_asked(share: float) -> None:
    rng = np.random.default_rng(0)
    sampler = SegmenterSampler([a_case(), a_case(healthy=False)], SIDE, CountingSource(), real_share=share)
    real = sum(sampler.draw(rng).kind == "real" for _ in range(1000)) / 1000
    assert real == pytest.approx(share, abs=0.04)


def test_without_a_wish_every_case_is_drawn_as_often() -> None:
    rng = np.random.default_rng(0)
    sampler = SegmenterSampler([a_case(), a_case(), a_case(), a_case(healthy=False)], SIDE)
    kinds = Counter(sampler.draw(rng).kind for _ in range(1000))
    assert kinds["real"] / 1000 == pytest.approx(0.25, abs=0.04) and "synthetic" not in kinds


def test_the_attempts_for_a_healthy_crop_are_relaxed_as_upstream() -> None:
    wanted = [30] * 5 + [25] * 5 + [20] * 5 + [15] * 5 + [10] * 5 + [5] * 5 + [0]
    assert [required_radius_mm(30.0, attempt) for attempt in range(1, 32)] == wanted
    assert [required_radius_mm(15.0, attempt) for attempt in (1, 6, 11, 16, 30, 31)] == [15, 10, 5, 5, 5, 0]
    assert ATTEMPTS == 30


def test_a_crop_that_shows_enough_of_the_organ_is_taken_at_once() -> None:
    found = healthy_crop(a_case(), 28, 5.0, np.random.default_rng(0))
    assert found.attempts == 1 and found.required_mm == 5.0


def test_a_crop_is_found_once_the_wish_is_relaxed_enough() -> None:
    """The phantom's organ has the volume of a ball of 27 mm: 30 mm are never there, 25 mm are."""
    case = a_case()
    voxel_mm3 = float(np.prod(case.scan.spacing_mm))
    assert 25 < (case.places.sum() * voxel_mm3 * 3 / 4 / np.pi) ** (1 / 3) < 30
    found = healthy_crop(case, 32, 30.0, np.random.default_rng(0))
    assert 6 <= found.attempts <= 10 and found.required_mm == 25.0


def test_the_search_for_a_healthy_crop_ends_after_31_attempts() -> None:
    places = np.zeros_like(a_case().places)
    places[20, 20, 20] = True
    found = healthy_crop(replace(a_case(), places=places), 8, 30.0, np.random.default_rng(0))
    assert found.attempts == 31 and found.required_mm == 0.0


def test_half_of_the_crops_surround_the_foreground() -> None:
    foreground = np.zeros((60, 60, 60), dtype=bool)
    foreground[5:8, 5:8, 5:8] = True
    rng = np.random.default_rng(0)
    shown = [bool(balanced_crop(foreground, 8, rng).cut(foreground).any()) for _ in range(400)]
    assert np.mean(shown) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("value", [True, False])
def test_a_crop_is_found_where_everything_or_nothing_is_foreground(value: bool) -> None:
    crop = balanced_crop(np.full((10, 10, 10), value), 8, np.random.default_rng(0))
    assert all(0 <= start <= 2 for start in crop.start)


def test_a_painted_window_changes_the_tumor_and_nothing_far_from_it() -> None:
    case, rng = a_case(), np.random.default_rng(3)
    crop = Crop((2, 2, 2), (28, 24, 28))
    # Values between those that whole HU have: a way to HU and back would not meet each of them again.
    image = crop.cut(case.scan.image) + np.random.default_rng(0).uniform(0, 1e-3, crop.side)
    image = np.clip(image, 0, 1).astype(np.float32)
    window = SegmenterWindow(image, case.labels(crop), crop.cut(case.known), "healthy")
    painted = paint_window(window, case, crop, PaintedTumors(HandcraftedPainter()), ("medium", 1), rng)
    assert painted.kind == "synthetic" and painted.size == "medium"
    tumor = painted.labels == 2
    assert tumor.any() and (window.labels[tumor] == 1).all(), "a liver's tumor lies in the liver"
    assert np.array_equal(painted.labels[~tumor], window.labels[~tumor])
    changed = painted.image != window.image
    assert changed[tumor].mean() > 0.9
    reach = np.argwhere(tumor).min(axis=0) - 4, np.argwhere(tumor).max(axis=0) + 5
    changed[tuple(slice(max(0, a), b) for a, b in zip(*reach, strict=True))] = False
    assert not changed.any(), "other voxels keep their value to the last bit"


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_tumors_are_painted_on_ct_and_mr(modality: str) -> None:
    case = a_case(modality=modality)
    windows = painted_windows([case], 28, PaintedTumors(HandcraftedPainter()))
    again = painted_windows([case], 28, PaintedTumors(HandcraftedPainter()))
    assert 3 <= len(windows) <= 6
    assert all(w.tumor.any() and not w.healthy and w.scan.image.shape == (28, 28, 28) for w in windows)
    assert all(np.array_equal(a.scan.image, b.scan.image) for a, b in zip(windows, again, strict=True))
    start = np.round(case.scan.geometry.to_ijk(windows[0].scan.geometry.origin_ras)).astype(int)
    crop = Crop((int(start[0]), int(start[1]), int(start[2])), (28, 28, 28))
    assert np.array_equal(crop.cut(case.organ), windows[0].organ), "the window knows where it was cut"


class NamedPainter(HandcraftedPainter):
    """Remembers the organs and sizes that it was asked to paint."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, str]] = set()

    def paint(self, site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
        """Note who asked."""
        self.asked.add((site.spec.name, site.size))
        return super().paint(site, rng)


def test_a_painter_may_paint_into_another_organ_than_it_learned_and_is_made_once() -> None:
    early, late = NamedPainter(), NamedPainter()
    source = PaintedTumors(early, late, {"liver": organ_spec("kidney")})
    sampler = SegmenterSampler([a_case()], SIDE, source, SynthesisChances(rate=1.0))
    rng = np.random.default_rng(0)
    for _ in range(60):
        sampler.draw(rng)
    assert {size for _, size in early.asked} == {"tiny", "small"}
    assert {size for _, size in late.asked} <= {"medium", "large"} and late.asked
    assert {organ for organ, _ in early.asked | late.asked} == {"kidney"}
    assert source.minimum_radius_mm("liver") == organ_spec("kidney").organ_radius_mm


def test_a_window_beside_the_organ_or_of_air_only_stays_healthy() -> None:
    source, rng = PaintedTumors(HandcraftedPainter()), np.random.default_rng(0)
    air = Volume(np.full(GRID.shape, -175.0, dtype=np.float32), GRID, "CT")
    some = Volume(np.ones(GRID.shape, dtype=np.uint8), GRID)
    nowhere = some.with_array(np.zeros_like(some.array))
    assert source.paint(air, some, "liver", "tiny", 1, rng) is None
    assert source.paint(ct_phantom(GRID).scan, nowhere, "liver", "tiny", 1, rng) is None
    case = a_case()
    window = SegmenterWindow(case.scan.image, case.labels(), case.known, "healthy")
    crop = Crop((0, 0, 0), window.image.shape)
    tight = replace(case, places=np.zeros_like(case.places))
    assert paint_window(window, tight, crop, source, ("large", 1), rng) is window


def test_an_exophytic_tumor_grows_neither_into_air_nor_into_bone_of_a_clipped_window() -> None:
    """Beside the organ lies half air, half bone; in the window of -175 to 250 HU both are at its ends."""
    native = np.full(GRID.shape, 40.0, dtype=np.float32)
    half_x, half_y = (side // 2 for side in GRID.shape[:2])
    native[:, :half_y] = -1000.0
    native[half_x:, :half_y] = 900.0
    native += np.random.default_rng(0).normal(0, 8, GRID.shape).astype(np.float32)
    organ = np.zeros(GRID.shape, dtype=np.uint8)
    organ[:, half_y:, :] = 1
    scan = to_canonical(Volume(native, GRID, "CT"), FINE, "CT")
    inside = scan.project(Volume(organ, GRID)) >= 0.5
    forbidden = scan.project(Volume((np.abs(native) > 500).astype(np.uint8), GRID)) >= 0.5
    case = SegmenterScan("a", scan, inside, np.zeros_like(inside), np.ones_like(inside), inside, "kidney")
    source = PaintedTumors(
        HandcraftedPainter(), None, {"kidney": replace(organ_spec("kidney"), exophytic_chance={"medium": 1.0})}
    )
    crop = Crop((0, 0, 0), scan.image.shape)
    window = SegmenterWindow(scan.image, case.labels(), case.known, "healthy")
    painted = [
        paint_window(window, case, crop, source, ("medium", 1), np.random.default_rng(seed)) for seed in range(6)
    ]
    tumors = [each.labels == TUMOR for each in painted if each.kind == "synthetic"]
    assert len(tumors) > 3 and not any((tumor & forbidden).any() for tumor in tumors)


def test_every_generator_draws_windows_of_its_own_and_the_same_one_the_same() -> None:
    sampler = SegmenterSampler([a_case()], SIDE, PaintedTumors(HandcraftedPainter()))
    first, second = (sampler.draw(generator) for generator in np.random.default_rng(5).spawn(2))
    again = sampler.draw(np.random.default_rng(5).spawn(1)[0])
    assert not np.array_equal(first.image, second.image)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.labels, again.labels)


def test_image_labels_and_what_is_known_are_flipped_and_turned_together() -> None:
    rng, image = np.random.default_rng(2), np.arange(4**3, dtype=np.float32).reshape(4, 4, 4)
    turned = 0
    for _ in range(60):
        labels = (image % 3).astype(np.uint8)
        window = augmented(SegmenterWindow(image, labels, image > 20, "real"), rng)
        back = np.round((window.image - window.image.min()) / np.ptp(window.image) * 63)
        assert np.array_equal(back % 3, window.labels) and np.array_equal(back > 20, window.known)
        turned += not np.array_equal(back, image)
    assert turned > 20


@pytest.mark.parametrize(
    ("chances", "message"),
    [
        ({"rate": 1.5}, "synthesis rate of 0 to 1, got 1.5"),
        ({"stages": {"early": 0.5}}, "stages to share out 1"),
        ({"early": {"tiny": 2.0, "small": -1.0}}, "early to share out 1"),
    ],
)
def test_chances_that_are_none_are_refused(chances: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthesisChances(**chances)  # type: ignore[arg-type]


@pytest.mark.parametrize(("cases", "share"), [([], None), (["healthy"], 0.5), (["real"], 0.0)])
def test_a_mix_of_what_is_not_there_is_refused(cases: list[str], share: float | None) -> None:
    scans = [a_case(healthy=kind == "healthy") for kind in cases]
    with pytest.raises(InputError, match=r"Windows were asked for from .*% real cases"):
        SegmenterSampler(scans, SIDE, real_share=share)
