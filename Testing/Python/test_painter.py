"""Tumors painted into whole scans: where they were asked for, on the scan's own grid, and nothing else touched."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid, mr_phantom, orientations, reoriented
from scipy import ndimage

from DiffuGTSLib.errors import Cancelled, ConfigError, GeometryError, InputError
from DiffuGTSLib.output.findings import ball_radius_mm
from DiffuGTSLib.synthesis.handcrafted import HandcraftedPainter, RecipePainter
from DiffuGTSLib.synthesis.organs import OrganSpec, organ_spec
from DiffuGTSLib.synthesis.outline import UNCLIPPED
from DiffuGTSLib.synthesis.painter import (
    Painter,
    Site,
    Synthesis,
    TumorRequest,
    _Canvas,
    blend,
    synthesize,
    wanted_sizes,
)
from DiffuGTSLib.volumes.volume import Geometry, Volume

LIVER = organ_spec("liver")


class Flat:
    """A painter whose paint is one value, so that what was blended can be read off."""

    name = "flat"

    def __init__(self, value: float = 1000.0, context_mm: float = 0.0, whole_box: bool = False) -> None:
        self.value, self.context_mm, self.whole_box = value, context_mm, whole_box
        self.sites: list[Site] = []

    def paint(self, site: Site, rng: np.random.Generator) -> np.ndarray:
        """Fill the box and remember it."""
        self.sites.append(site)
        return np.full(site.image.shape, self.value, np.float32)


@pytest.fixture(scope="module")
def a_phantom() -> Phantom:
    """A trunk on an anisotropic grid, with noise; its dark lesion is part of the organ here."""
    return ct_phantom(grid((56, 52, 40), (2.0, 2.0, 3.0)), lesion_mm=4.0, noise_hu=6.0)


def painted(
    phantom: Phantom,
    tumors: TumorRequest = TumorRequest(),  # noqa: B008 - frozen
    seed: int = 0,
    painter: Painter | None = None,
    spec: OrganSpec = LIVER,
    modality: str = "CT",
) -> Synthesis:
    return synthesize(
        phantom.scan,
        phantom.organ,
        spec,
        tumors,
        painter or HandcraftedPainter(),
        modality=modality,
        rng=np.random.default_rng(seed),
    )


# What comes back


@pytest.mark.parametrize("painter", [HandcraftedPainter(), RecipePainter()], ids=lambda painter: painter.name)
def test_scan_and_mask_come_back_on_the_scan_s_grid(a_phantom: Phantom, painter: Painter) -> None:
    before = a_phantom.scan.array.copy()
    result = painted(a_phantom, TumorRequest("small", count=3), painter=painter)
    assert len(result.tumors) == 3 and result.skipped == ()
    for volume in (result.image, result.tumor):
        assert volume.geometry.difference(a_phantom.scan.geometry) == ""
    assert result.image.array.dtype == np.float32 and result.tumor.array.dtype == np.uint8
    assert set(np.unique(result.tumor.array)) == {0, 1}
    assert np.array_equal(a_phantom.scan.array, before), "the scan that was given is left as it was"


def test_outside_the_blend_every_voxel_is_bit_identical(a_phantom: Phantom) -> None:
    for seed in range(6):
        flat = Flat()
        result = painted(a_phantom, TumorRequest(count=3), seed, flat)
        changed = result.image.array != a_phantom.scan.array
        organ = a_phantom.organ.array > 0
        assert changed.any() and not changed[~organ].any(), "a tumor of the liver changes nothing outside the liver"
        assert (changed | (result.tumor.array == 0)).all(), "every voxel of the mask was painted"
        support = sum(np.count_nonzero(site.share) for site in flat.sites)
        assert changed.sum() <= support


def test_the_record_of_a_tumor_is_what_the_mask_shows(a_phantom: Phantom) -> None:
    result = painted(a_phantom, TumorRequest("medium", count=1), 1)
    (tumor,) = result.tumors
    inside = result.tumor.array > 0
    assert tumor.volume_ml == pytest.approx(inside.sum() * 0.012)
    assert tumor.radius_mm == pytest.approx(ball_radius_mm(tumor.volume_ml))
    center = a_phantom.scan.geometry.to_ras(np.argwhere(inside).mean(axis=0))
    assert tumor.center_ras_mm == pytest.approx(tuple(center))
    change = (result.image.array - a_phantom.scan.array)[inside].mean()
    assert tumor.mean_shift == pytest.approx(float(change), abs=1e-3) and tumor.size == "medium"


@pytest.mark.parametrize("tumors", [TumorRequest(), TumorRequest("small", count=2, mass_effect=True, capsule=True)])
def test_the_same_generator_paints_the_same_tumors(a_phantom: Phantom, tumors: TumorRequest) -> None:
    first, second, other = (painted(a_phantom, tumors, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.image.array, second.image.array) and first.tumors == second.tumors
    assert not np.array_equal(first.tumor.array, other.tumor.array)


def test_a_scan_in_any_orientation_gets_the_same_tumors_at_the_same_place() -> None:
    """All 48 orders of the axes: no voxel is resampled, and Z is always along the patient."""
    phantom = ct_phantom(grid((40, 38, 30), (2.5, 2.5, 4.0)), noise_hu=5.0)
    expected = painted(phantom, TumorRequest("small", count=2), 3)
    for orientation in orientations():
        scan, organ = (reoriented(volume, orientation) for volume in (phantom.scan, phantom.organ))
        result = synthesize(
            scan,
            organ,
            LIVER,
            TumorRequest("small", count=2),
            HandcraftedPainter(),
            modality="CT",
            rng=np.random.default_rng(3),
        )
        assert np.array_equal(result.image.array, reoriented(expected.image, orientation).array)
        assert np.array_equal(result.tumor.array, reoriented(expected.tumor, orientation).array)
        for one, other in zip(result.tumors, expected.tumors, strict=True):
            assert one.center_ras_mm == pytest.approx(other.center_ras_mm, abs=1e-6)


def test_an_mr_is_painted_in_its_own_intensities() -> None:
    phantom = mr_phantom(noise=12.0)
    shifts = []
    for seed in range(8):
        result = painted(phantom, TumorRequest("small", count=1), seed, spec=organ_spec("brain"), modality="MR")
        assert result.image.array.min() >= 0
        shifts += [abs(tumor.mean_shift) for tumor in result.tumors]
    assert len(shifts) == 8 and min(shifts) > 5


# What is asked for


def test_without_a_count_a_class_has_as_many_as_it_has() -> None:
    rng = np.random.default_rng(0)
    for name, fewest, most in (("tiny", 1, 3), ("small", 1, 3), ("medium", 1, 1), ("large", 1, 1)):
        counts = {len(wanted_sizes(LIVER, TumorRequest(name), rng)) for _ in range(500)}
        assert counts == set(range(fewest, most + 1))


def test_a_mix_takes_the_organ_s_chances() -> None:
    rng = np.random.default_rng(0)
    names = [size.name for size in wanted_sizes(LIVER, TumorRequest("mix", count=2000), rng)]
    shares = [names.count(name) / 2000 for name in ("tiny", "small", "medium", "large")]
    assert shares == pytest.approx([0.4, 0.4, 0.1, 0.1], abs=0.03)
    first = [wanted_sizes(LIVER, TumorRequest("mix"), rng) for _ in range(40)]
    assert all(len({size.name for size in sizes}) == 1 for sizes in first), "one class a scan, as DiffTumor"


def test_a_tumor_lies_where_it_was_asked_for(a_phantom: Phantom) -> None:
    center = (26.0, -14.0, 24.0)
    result = painted(a_phantom, TumorRequest("small", center_ras_mm=center))
    (tumor,) = result.tumors
    assert np.linalg.norm(np.subtract(tumor.center_ras_mm, center)) < 5


@pytest.mark.parametrize("orientation", [np.eye(3), np.diag([-1.0, -1.0, 1.0])[:, [2, 0, 1]]], ids=["RAS", "SLP"])
def test_a_center_between_voxels_is_the_nearest_one(a_phantom: Phantom, orientation: np.ndarray) -> None:
    scan, organ = (reoriented(volume, orientation) for volume in (a_phantom.scan, a_phantom.organ))
    canvas = _Canvas(scan, organ, LIVER, TumorRequest(), Flat(), "CT", UNCLIPPED)
    for off in (-0.4, 0.4):
        center = scan.geometry.to_ras(canvas._ijk(np.array([30.0, 25.0, 17.0]) + off))
        assert canvas._voxel((float(center[0]), float(center[1]), float(center[2]))) == (30, 25, 17)


@pytest.mark.parametrize("radius_mm", [5.0, 9.0, 14.0])
def test_a_tumor_has_the_radius_that_was_asked_for(a_phantom: Phantom, radius_mm: float) -> None:
    radii = [
        painted(a_phantom, TumorRequest(radius_mm=radius_mm, avoid_vessels=False), seed).tumors[0].radius_mm
        for seed in range(12)
    ]
    assert np.median(radii) == pytest.approx(radius_mm, rel=0.2)


def test_a_large_tumor_of_the_pancreas_sits_in_the_middle_of_the_organ_s_box(a_phantom: Phantom) -> None:
    pancreas = organ_spec("pancreas")
    smaller = replace(
        pancreas, sizes={"large": replace(pancreas.sizes["large"], semi_axis_mm=(10.0, 14.0), elastic_mm=(1.5, 3.0))}
    )
    voxels = np.argwhere(a_phantom.organ.array)
    middle = a_phantom.scan.geometry.to_ras((voxels.min(axis=0) + voxels.max(axis=0)) / 2)
    for seed in range(4):
        (tumor,) = painted(a_phantom, TumorRequest("large"), seed, Flat(), smaller).tumors
        assert np.linalg.norm(np.subtract(tumor.center_ras_mm, middle)) < 6


def test_tumors_do_not_overlap(a_phantom: Phantom) -> None:
    result = painted(a_phantom, TumorRequest("small", count=5), 2)
    assert sum(t.volume_ml for t in result.tumors) == pytest.approx(np.count_nonzero(result.tumor.array) * 0.012)


@pytest.mark.parametrize("seed", range(8))
def test_tumors_do_not_touch_so_that_each_can_be_counted(a_phantom: Phantom, seed: int) -> None:
    result = painted(a_phantom, TumorRequest("small", count=6, avoid_vessels=False), seed)
    assert ndimage.label(result.tumor.array, np.ones((3, 3, 3)))[1] == len(result.tumors) > 1


def test_vessels_are_avoided_by_small_tumors(a_phantom: Phantom) -> None:
    """A bright tube through the organ: small tumors keep their radius away from it, or are skipped in words."""
    scan = a_phantom.scan.array.copy()
    scan[26:29, 26:29] += 120
    bright = scan - a_phantom.scan.array > 0
    tube = replace(a_phantom, scan=a_phantom.scan.with_array(scan))
    hit = placed = 0
    for seed in range(40):
        result = painted(tube, TumorRequest("tiny", count=1), seed)
        placed += len(result.tumors)
        hit += int((result.tumor.array[bright] > 0).any())
        assert all("clear of vessels" in reason for reason in result.skipped)
    assert placed > 20 and hit == 0
    careless = [painted(tube, TumorRequest("tiny", count=1, avoid_vessels=False), seed) for seed in range(40)]
    assert any((result.tumor.array[bright] > 0).any() for result in careless)


def test_a_mass_effect_moves_tissue_around_the_tumor_and_nothing_far_from_it(a_phantom: Phantom) -> None:
    plain, pushed = (
        painted(a_phantom, TumorRequest("medium", count=1, mass_effect=effect), 4) for effect in (False, True)
    )
    assert np.array_equal(plain.tumor.array, pushed.tumor.array)
    moved = (pushed.image.array != a_phantom.scan.array) & (plain.image.array == a_phantom.scan.array)
    assert moved.any()
    reach = a_phantom.scan.geometry.to_ras(np.argwhere(moved)) - np.array(pushed.tumors[0].center_ras_mm)
    assert np.linalg.norm(reach, axis=1).max() < 1.3 * 20 * 1.5  # half axes of a medium tumor are at most 20 mm


def test_a_mass_effect_moves_no_earlier_tumor(a_phantom: Phantom) -> None:
    """Its outline stays, so that its voxels do."""
    compared = 0
    for seed in range(8):
        first, all_three = (
            painted(a_phantom, TumorRequest(count=n, radius_mm=8, mass_effect=True), seed) for n in (1, 3)
        )
        inside = first.tumor.array > 0
        assert np.array_equal(all_three.image.array[inside], first.image.array[inside]), seed
        compared += len(all_three.tumors) > 1
    assert compared > 4


def test_a_capsule_is_brighter_than_tumor_and_organ() -> None:
    phantom = ct_phantom(grid((60, 56, 64), (1.0, 1.0, 1.0)), lesion_mm=4.0, noise_hu=4.0)
    dark = replace(LIVER, ct=replace(LIVER.ct, shift_hu=((-60, -50),)), blend_sigma_mm=(0.0, 0.0))
    tumors = TumorRequest(radius_mm=12.0, center_ras_mm=(22.0, -16.0, 24.0), capsule=True)
    for seed in range(4):
        result = painted(phantom, tumors, seed, spec=dark)
        inside = result.tumor.array > 0
        depth_mm = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
        organ = phantom.organ.array > 0
        ring, core, around = (
            float(result.image.array[organ & (depth_mm > low) & (depth_mm <= high)].mean())
            for low, high in ((0, 2), (5, 99), (-6, -3))
        )
        assert ring > core + 10 and ring > around, seed


def test_paint_replaces_the_box_only_where_organ_file_and_painter_say_so(a_phantom: Phantom) -> None:
    replacing = replace(organ_spec("pancreas"), blending="replace")
    whole = Flat(whole_box=True, context_mm=40.0)
    result = painted(a_phantom, TumorRequest("tiny", count=1), 0, whole, replacing)
    assert np.count_nonzero(result.image.array == 1000) == whole.sites[0].image.size
    assert whole.sites[0].image.size > 3 * np.count_nonzero(whole.sites[0].share)
    for painter, spec in ((Flat(whole_box=True), organ_spec("pancreas")), (Flat(), replacing)):
        changed = (
            painted(a_phantom, TumorRequest("tiny", count=1), 0, painter, spec).image.array != a_phantom.scan.array
        )
        assert changed.sum() <= np.count_nonzero(painter.sites[0].share)


def test_a_painter_sees_a_box_in_patient_order_with_what_it_needs(a_phantom: Phantom) -> None:
    flat = Flat(context_mm=60.0)
    turned = np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    scan, organ = (reoriented(volume, turned) for volume in (a_phantom.scan, a_phantom.organ))
    synthesize(scan, organ, LIVER, TumorRequest("tiny", count=1), flat, modality="CT", rng=np.random.default_rng(0))
    (site,) = flat.sites
    assert site.spacing_mm == pytest.approx((2.0, 2.0, 3.0)) and site.modality == "CT" and site.size == "tiny"
    assert all(n * s >= 40 for n, s in zip(site.image.shape, site.spacing_mm, strict=True))  # cut at the scan's edge
    assert site.share.max() > 0.5 and site.radius_mm < 6 and site.organ.any()


# Blend


def test_a_share_of_0_keeps_the_bits_and_of_1_takes_the_paint() -> None:
    image = np.array([-1000.1, 37.7, np.float32(1 / 3)], np.float32).reshape(3, 1, 1)
    share = np.array([0.0, 0.25, 1.0], np.float32).reshape(3, 1, 1)
    result = blend(image, np.full_like(image, 100.0), share).ravel()
    assert result[0] == image.ravel()[0] and result[1] == pytest.approx(0.75 * 37.7 + 25) and result[2] == 100


@pytest.mark.parametrize("sigma_mm", [0.0, 4.0])
def test_the_result_lies_between_scan_and_paint_and_is_the_paint_where_nothing_is_blurred(
    a_phantom: Phantom, sigma_mm: float
) -> None:
    spec, flat = replace(LIVER, blend_sigma_mm=(sigma_mm, sigma_mm)), Flat()
    result = painted(a_phantom, TumorRequest(radius_mm=14.0), 1, flat, spec)
    scan, inside = a_phantom.scan.array, result.tumor.array > 0
    assert (result.image.array >= np.minimum(scan, 1000) - 1e-3).all()
    assert (result.image.array <= np.maximum(scan, 1000) + 1e-3).all()
    whole = (flat.sites[0].share == 1).sum()
    assert np.count_nonzero(result.image.array == 1000) >= whole
    if sigma_mm == 0:
        assert (result.image.array[ndimage.binary_erosion(inside, iterations=3)] > 999).all()
        far = ~ndimage.binary_dilation(inside, iterations=3)
        assert np.array_equal(result.image.array[far], scan[far])


# What is refused, and what is skipped


def test_an_empty_organ_mask_is_refused(a_phantom: Phantom) -> None:
    empty = replace(a_phantom, organ=a_phantom.organ.with_array(np.zeros_like(a_phantom.organ.array)))
    with pytest.raises(InputError, match="The organ mask is empty.*shows the liver") as caught:
        painted(empty)
    assert caught.value.code == "empty_mask"


def test_a_mask_on_another_grid_is_refused(a_phantom: Phantom) -> None:
    other = Volume(a_phantom.organ.array, Geometry.from_spacing(a_phantom.organ.array.shape, (2.0, 2.0, 3.0)))
    with pytest.raises(GeometryError, match="organ mask and the scan lie on different grids"):
        painted(replace(a_phantom, organ=other))


@pytest.mark.parametrize(
    ("tumors", "said"),
    [
        (TumorRequest("smalll"), "no size 'smalll'.*did you mean 'small'"),
        (TumorRequest(count=0), "Expected 1 to 1000000 tumors, got 0"),
        (TumorRequest(count=10**400), "Expected 1 to 1000000 tumors, got 1000"),
        (TumorRequest(radius_mm=-3.0), "Expected a radius of more than 0 and at most 200 mm, got -3"),
        (TumorRequest(radius_mm=float("nan")), "Expected a radius of more than 0 and at most 200 mm, got nan"),
        (
            TumorRequest(center_ras_mm=(500.0, 0.0, 0.0)),
            r"The center \(500.0, 0.0, 0.0\) mm \(RAS\) lies outside the scan",
        ),
        (TumorRequest(center_ras_mm=(float("nan"), 0.0, 0.0)), "lies outside the scan"),
        (TumorRequest(center_ras_mm=(20.0, -16.0, 24.0), count=2), "A center was given for 2 tumors"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(a_phantom: Phantom, tumors: TumorRequest, said: str) -> None:
    with pytest.raises(InputError, match=said):
        painted(a_phantom, tumors)


def test_another_modality_or_a_broken_scan_is_refused(a_phantom: Phantom) -> None:
    with pytest.raises(InputError, match="Expected the modality CT or MR, got 'PET'"):
        painted(a_phantom, modality="PET")
    broken = a_phantom.scan.array.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 NaN or infinite voxels"):
        painted(replace(a_phantom, scan=a_phantom.scan.with_array(broken)))


def test_a_tumor_that_finds_no_place_is_a_counted_skip(a_phantom: Phantom) -> None:
    one = np.zeros_like(a_phantom.organ.array)
    one[28, 26, 20] = 1
    started = time.process_time()
    for size in ("tiny", "large"):
        result = painted(replace(a_phantom, organ=a_phantom.organ.with_array(one)), TumorRequest(size, count=2))
        assert result.tumors == () and len(result.skipped) == 2
        assert result.skipped[0].startswith(f"{size} tumor: the organ (0.012 ml) is too small")
        assert np.array_equal(result.image.array, a_phantom.scan.array) and not result.tumor.array.any()
    assert time.process_time() - started < 1


def test_a_center_outside_the_organ_is_a_counted_skip(a_phantom: Phantom) -> None:
    result = painted(a_phantom, TumorRequest("tiny", center_ras_mm=(-30.0, -20.0, 30.0)))
    assert result.tumors == () and "fewer than 6 voxels of it fit into the organ" in result.skipped[0]


@pytest.mark.parametrize("radius_mm", [0.3, 1e-6, 1e-300])
def test_a_tumor_smaller_than_a_voxel_is_a_counted_skip(a_phantom: Phantom, radius_mm: float) -> None:
    for center in (None, (0.0, 0.0, 0.0)):
        result = painted(a_phantom, TumorRequest(radius_mm=radius_mm, center_ras_mm=center))
        assert result.tumors == () and "mm is less than a voxel" in result.skipped[0]


# Progress


def test_progress_is_told_before_each_tumor_and_at_the_end_and_may_cancel(a_phantom: Phantom) -> None:
    told: list[tuple[str, float]] = []

    def listen(stage: str, share: float) -> None:
        told.append((stage, share))
        if len(told) == 7:
            raise Cancelled("stopped")

    def run() -> Synthesis:
        return synthesize(
            a_phantom.scan, a_phantom.organ, LIVER, TumorRequest("tiny", count=3), Flat(), modality="CT",
            rng=np.random.default_rng(0), on_progress=listen,
        )  # fmt: skip

    run()
    assert told == [("synthesize", 0.0), ("synthesize", 1 / 3), ("synthesize", 2 / 3), ("synthesize", 1.0)]
    with pytest.raises(Cancelled, match="stopped"):
        run()


def test_the_organ_of_one_s_own_is_read_before_anything_is_painted() -> None:
    with pytest.raises(ConfigError):
        organ_spec("nowhere.json")


@pytest.mark.slow
def test_a_tumor_takes_at_most_a_second_in_a_full_ct() -> None:
    """512 x 512 x 133 voxels, one tumor a call, files not counted."""
    shape = (512, 512, 133)
    i, j, k = np.ogrid[:512, :512, :133]
    organ = ((i - 180) / 120) ** 2 + ((j - 256) / 110) ** 2 + ((k - 60) / 40) ** 2 <= 1
    scan = np.where(organ, 110, -90).astype(np.float32)
    scan += np.random.default_rng(0).normal(0, 12, shape).astype(np.float32)
    geometry = Geometry.from_spacing(shape, (0.7, 0.7, 2.5))
    seconds = []
    for size in ("tiny", "small", "medium", "large"):
        started = time.process_time()
        result = synthesize(
            Volume(scan, geometry, "CT"), Volume(organ.astype(np.uint8), geometry), LIVER,
            TumorRequest(size, count=1), HandcraftedPainter(), modality="CT", rng=np.random.default_rng(1),
        )  # fmt: skip
        seconds.append(time.process_time() - started)
        assert len(result.tumors) == 1
    assert np.mean(seconds) < 1.0, seconds
