"""Painters without weights: SyntheticTumors' recipe in HU, and a varied one that keeps the scan's grain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DiffuGTSLib.synthesis.handcrafted import (
    CT_RANGE_HU,
    HandcraftedPainter,
    RecipePainter,
    mr_unit,
    reference_tissue,
)
from DiffuGTSLib.synthesis.organs import CtContrast, MrContrast, OrganSpec, organ_spec
from DiffuGTSLib.synthesis.painter import Painter, Site, blend
from DiffuGTSLib.synthesis.texture import Noise, draw_grain, measure_noise

SHAPE = (40, 40, 30)
SPACING = (1.0, 1.0, 1.5)


def a_site(
    spec: OrganSpec, tissue: float = 110.0, noise: float = 8.0, modality: str = "CT", radius_mm: float = 11.0
) -> Site:
    """A tumor of 11 mm radius in the middle of an organ that fills all but the rim of the box."""
    x, y, z = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(SHAPE, SPACING, strict=True)), indexing="ij")
    distance_mm = np.sqrt(x**2 + y**2 + z**2)
    share = np.clip(0.5 + (radius_mm - distance_mm) / 2, 0, 1).astype(np.float32)
    organ = np.zeros(SHAPE, bool)
    organ[2:-2, 2:-2, 2:-2] = True
    grain = draw_grain(SHAPE, Noise(noise, (0.6, 0.6, 0.3)), np.random.default_rng(99))
    return Site((tissue + grain).astype(np.float32), share, organ, SPACING, modality, spec, "medium")


def shifts(painter: Painter, spec: OrganSpec, count: int = 60, **site: object) -> np.ndarray:
    """Median change in the tumor, a seed each."""
    one = a_site(spec, **site)
    deep = one.share >= 1
    painted = [painter.paint(one, np.random.default_rng(seed)) for seed in range(count)]
    return np.array([float(np.median(p[deep] - one.image[deep])) for p in painted])


# SyntheticTumors' recipe


def test_the_recipe_drops_at_most_145_hu_and_never_raises() -> None:
    site = a_site(organ_spec("liver"))
    for seed in range(20):
        drop = site.image - blend(site.image, RecipePainter().paint(site, np.random.default_rng(seed)), site.share)
        assert drop.min() >= -1e-4 and drop.max() <= 145
        assert drop[site.share <= 0].max() == 0
        assert drop[site.share >= 1].mean() > 5


def test_the_recipe_s_drop_is_drawn_from_65_to_145_hu_times_its_texture() -> None:
    drops = -shifts(RecipePainter(), organ_spec("liver"), 40)
    assert 25 < np.median(drops) < 75  # the texture is about one half
    assert drops.max() < 110


def test_two_workers_with_streams_of_their_own_paint_differently() -> None:
    site = a_site(organ_spec("liver"))
    workers = np.random.default_rng(0).spawn(2)
    first, second = (RecipePainter().paint(site, worker) for worker in workers)
    assert not np.allclose(first, second)
    again = RecipePainter().paint(site, np.random.default_rng(0).spawn(2)[0])
    assert np.array_equal(first, again)


def test_on_mr_the_recipe_shifts_by_the_organ_s_own_spread() -> None:
    spec = replace(organ_spec("liver"), mr=MrContrast(shift_sd=((-4.0, -2.0),)))
    drops = -shifts(RecipePainter(), spec, 20, tissue=400.0, noise=30.0, modality="MR")
    assert 10 < np.median(drops) < 80


# The varied painter


def test_a_shift_on_ct_is_one_of_the_organ_s_ranges() -> None:
    found = shifts(HandcraftedPainter(), replace(organ_spec("liver"), ct=CtContrast(shift_hu=((-90, -60), (40, 60)))))
    assert 0.25 < np.mean(found > 0) < 0.75
    assert np.median(found[found < 0]) == pytest.approx(-75, abs=15)
    assert np.median(found[found > 0]) == pytest.approx(50, abs=12)


def test_an_absolute_intensity_does_not_depend_on_the_organ() -> None:
    spec = replace(organ_spec("bladder"), ct=CtContrast(shift_hu=(), absolute_hu=((40, 60),)))
    for tissue in (0.0, 300.0):
        assert np.median(shifts(HandcraftedPainter(), spec, 30, tissue=tissue) + tissue) == pytest.approx(50, abs=12)


def test_organs_with_both_take_each_half_of_the_time() -> None:
    spec = replace(organ_spec("soft tissue"), ct=CtContrast(shift_hu=((-30, -20),), absolute_hu=((700, 800),)))
    assert np.mean(shifts(HandcraftedPainter(), spec, 80) > 300) == pytest.approx(0.5, abs=0.17)


def test_contrast_on_mr_is_measured_in_the_organ_s_standard_deviations() -> None:
    spec = replace(organ_spec("brain"), mr=MrContrast(shift_sd=((3.0, 3.0),)))
    for noise in (20.0, 60.0):
        found = shifts(HandcraftedPainter(), spec, 30, tissue=600.0, noise=noise, modality="MR")
        assert np.median(found) == pytest.approx(3 * noise, rel=0.3)


def test_a_flat_organ_on_mr_still_gets_a_visible_tumor() -> None:
    """4 % of the box's range are the least unit."""
    image = np.full((20, 20, 20), 300, np.float32)
    image[:10] = 0
    assert mr_unit(image, image > 0) == pytest.approx(12.0)


def test_a_shift_that_leaves_the_range_of_an_mr_turns_around() -> None:
    spec = replace(organ_spec("brain"), mr=MrContrast(shift_sd=((-20.0, -20.0),)))
    found = shifts(HandcraftedPainter(), spec, 10, tissue=100.0, noise=10.0, modality="MR")
    assert (found > 0).all()


def test_the_grain_of_the_tumor_is_the_scan_s_own() -> None:
    """Standard deviation within 15 % in the core, within 20 % on the border, where scan and paint are mixed."""
    spec = replace(organ_spec("liver"), ct=CtContrast(shift_hu=((0.0, 0.0),)))
    for noise in (6.0, 18.0):
        site = a_site(spec, noise=noise)
        cores, borders = [], []
        for seed in range(12):
            result = blend(site.image, HandcraftedPainter().paint(site, np.random.default_rng(seed)), site.share)
            cores.append(measure_noise(result, site.share >= 1).deviation)
            borders.append(measure_noise(result, (site.share > 0.25) & (site.share < 0.75)).deviation)
        assert np.median(cores) == pytest.approx(noise, rel=0.15)
        assert np.median(borders) == pytest.approx(noise, rel=0.2)


def test_two_of_five_tumors_have_a_core_or_a_rim_of_their_own() -> None:
    """A quarter a core, 15 % a rim; some of these too slight to tell."""
    site = a_site(organ_spec("liver"), noise=0.0)
    core, rim = site.share >= 1, (site.share > 0.6) & (site.share < 1)
    core[:, :, : SHAPE[2] // 2 - 2] = core[:, :, SHAPE[2] // 2 + 3 :] = False
    core &= np.hypot(*np.meshgrid(*(np.arange(n) - n // 2 for n in SHAPE[:2]), indexing="ij"))[:, :, None] < 4
    painted = [HandcraftedPainter().paint(site, np.random.default_rng(seed)) for seed in range(100)]
    differing = [abs(float(np.median(p[core]) - np.median(p[rim]))) > 20 for p in painted]
    assert 0.2 < np.mean(differing) < 0.5


def test_painted_intensities_stay_in_what_a_ct_can_hold() -> None:
    spec = replace(organ_spec("bone"), ct=CtContrast(shift_hu=(), absolute_hu=((4000, 5000), (-3000, -2000))))
    for seed in range(4):
        painted = HandcraftedPainter().paint(a_site(spec, tissue=200.0), np.random.default_rng(seed))
        assert painted.min() >= CT_RANGE_HU[0] and painted.max() <= CT_RANGE_HU[1] and painted.dtype == np.float32


def test_vessels_show_through_ground_glass_and_not_through_a_solid_nodule() -> None:
    site = a_site(organ_spec("lung"), tissue=-850.0, noise=15.0)
    site.image[20, :, 15] = 60.0  # a vessel through the middle
    for base, seen in ((-600.0, True), (20.0, False)):
        spec = replace(
            organ_spec("lung"), ct=CtContrast(shift_hu=(), absolute_hu=((base, base),), part_solid_chance=0.0)
        )
        painted = HandcraftedPainter().paint(replace(site, spec=spec), np.random.default_rng(3))
        beside = float(np.median(painted[22:25, 18:22, 13:17]))
        assert beside == pytest.approx(base, abs=60)
        assert (float(np.median(painted[20, 17:24, 15])) > beside + 300) == seen


def test_a_part_solid_nodule_is_denser_inside_than_outside() -> None:
    look = CtContrast(shift_hu=(), absolute_hu=((20.0, 20.0),), part_solid_chance=1.0)
    site = a_site(replace(organ_spec("lung"), ct=look), tissue=-850.0, noise=15.0)
    for seed in range(6):
        painted = HandcraftedPainter().paint(site, np.random.default_rng(seed))
        core = float(np.median(painted[18:23, 18:23, 13:18]))
        rim = float(np.median(painted[(site.share > 0.6) & (site.share < 1)]))
        assert rim < core - 150 and rim > -850


def test_the_reference_is_the_organ_around_the_tumor_and_the_best_there_is_otherwise() -> None:
    site = a_site(organ_spec("liver"))
    assert np.array_equal(reference_tissue(site), site.organ & (site.share <= 0))
    covered = replace(site, share=np.ones(SHAPE, np.float32))
    assert np.array_equal(reference_tissue(covered), site.organ)
    nowhere = replace(site, organ=np.zeros(SHAPE, bool))
    assert np.array_equal(reference_tissue(nowhere), site.share <= 0)
    neither = replace(covered, organ=np.zeros(SHAPE, bool))
    assert reference_tissue(neither).all()


@pytest.mark.parametrize("painter", [HandcraftedPainter(), RecipePainter()], ids=lambda painter: painter.name)
def test_a_painter_keeps_its_promises(painter: Painter) -> None:
    """Same shape, float32, finite, the site untouched, and the same generator paints the same."""
    for modality in ("CT", "MR"):
        site = a_site(organ_spec("kidney"), tissue=200.0, modality=modality)
        before = site.image.copy()
        first, second, other = (painter.paint(site, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first.shape == SHAPE and first.dtype == np.float32 and np.isfinite(first).all()
        assert np.array_equal(first, second) and not np.array_equal(first, other)
        assert np.array_equal(site.image, before)
    assert isinstance(painter, Painter)
