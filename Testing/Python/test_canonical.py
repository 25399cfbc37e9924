"""To the model's grid and exactly back, whatever the orientation, spacing and obliquity of the scan."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import CENTER_RAS, LESION_OFFSET_MM, Phantom, ct_phantom, grid, mr_phantom, orientations, reoriented

from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.canonical import CanonicalScan, IntensityMap, guess_modality, to_canonical
from DiffuGTSLib.volumes.volume import Geometry, Volume

OBLIQUE = (12.0, -7.0, 21.0)


def _inside(scan: CanonicalScan) -> NDArray[np.float32]:
    return scan.image[tuple(slice(a, b) for a, b in scan.inside)]


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


# Intensities


def test_four_knots_give_the_values_worked_by_hand() -> None:
    window = IntensityMap((-1000, -200, 200, 1000), (0.0, 0.25, 0.85, 1.0), clip=True)
    hu = np.array([-3000, -1000, -600, -200, 0, 200, 600, 1000, 3000])
    assert np.allclose(window.to_unit(hu), [0, 0, 0.125, 0.25, 0.55, 0.85, 0.925, 1, 1], rtol=0, atol=1e-7)
    assert window.to_unit(hu).dtype == np.float32


def test_clipped_values_stay_at_the_ends_and_the_rest_comes_back() -> None:
    window = IntensityMap((-1000, -200, 200, 1000), (0.0, 0.25, 0.85, 1.0), clip=True)
    hu = np.array([-3000, -1000, -600, -200, 0, 200, 600, 1000, 3000])
    assert np.allclose(window.to_native(window.to_unit(hu)), np.clip(hu, -1000, 1000), rtol=0, atol=1e-3)


def test_unclipped_values_follow_the_slope_of_the_last_segment_and_come_back() -> None:
    window = IntensityMap((-1000, -200, 200, 1000), (0.0, 0.25, 0.85, 1.0), clip=False)
    hu = np.array([-1800, -1000, 0, 1000, 1800])
    # 0.25 a 800 HU below, 0.15 a 800 HU above.
    assert np.allclose(window.to_unit(hu), [-0.25, 0, 0.55, 1, 1.15], rtol=0, atol=1e-6)
    assert np.allclose(window.to_native(window.to_unit(hu)), hu, rtol=0, atol=1e-2)


def test_the_intensities_of_a_whole_scan_are_mapped_plane_by_plane_without_a_copy_in_double_precision() -> None:
    window = IntensityMap((-1000, -200, 200, 1000), (0.0, 0.25, 0.85, 1.0), clip=False)
    hu = np.random.default_rng(0).uniform(-1500, 1500, (64, 64, 64)).astype(np.float32)
    tracemalloc.start()
    unit = window.to_unit(hu)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1.5 * unit.nbytes
    assert np.array_equal(unit.ravel(), window.to_unit(hu.ravel()))


def test_ct_and_mr_take_their_own_windows() -> None:
    ct = to_canonical(ct_phantom().scan, CanonicalConfig(), "CT")
    assert (ct.intensity.native, ct.intensity.clip, ct.modality) == ((-1000.0, 1000.0), True, "CT")
    ramp = Volume(np.arange(8000, dtype=np.float32).reshape(20, 20, 20), grid((20, 20, 20)))
    mr = to_canonical(ramp, CanonicalConfig(mr_percentiles=(10, 90), mr_clip=False), "MR")
    assert np.allclose(mr.intensity.native, (799.9, 7199.1))
    assert (mr.intensity.unit, mr.intensity.clip) == ((0.0, 1.0), False)
    assert mr.image.max() == pytest.approx((7999 - 799.9) / 6399.2, abs=1e-5)
    clipped = to_canonical(ramp, CanonicalConfig(mr_percentiles=(10, 90), mr_clip=True), "MR")
    assert (clipped.image.min(), clipped.image.max()) == (0, 1)


def test_an_mr_of_nearly_only_background_uses_its_whole_range() -> None:
    array = np.zeros((20, 20, 20), dtype=np.float32)
    array[10, 10, 10] = 500
    scan = to_canonical(Volume(array, grid((20, 20, 20))), CanonicalConfig(), "MR")
    assert scan.intensity.native == (0.0, 500.0)


def test_another_modality_is_refused(a_ct_phantom: Phantom) -> None:
    with pytest.raises(InputError, match="Expected the modality CT or MR, got 'PET'") as caught:
        to_canonical(a_ct_phantom.scan, CanonicalConfig(), "PET")
    assert caught.value.code == "modality"


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite"), (None, "constant")])
def test_scans_that_no_method_can_read_are_refused(value: float | None, code: str) -> None:
    array = np.full((8, 8, 8), 7.0, dtype=np.float32)
    if value is not None:
        array[0, 0, 0] = value
    with pytest.raises(InputError) as caught:
        to_canonical(Volume(array, grid((8, 8, 8))), CanonicalConfig(), "CT")
    assert caught.value.code == code


def test_the_modality_is_what_the_file_says() -> None:
    assert guess_modality(mr_phantom().scan) == ("MR", "the file says so")
    lying = Volume(ct_phantom().scan.array, grid(), "MR")
    assert guess_modality(lying)[0] == "MR"


@pytest.mark.parametrize("said", ["PT", "ct", "MRI"])
def test_a_scan_that_is_said_to_be_another_is_not_guessed(said: str) -> None:
    with pytest.raises(InputError, match=f"Expected a scan of the modality CT or MR, got '{said}'") as caught:
        guess_modality(Volume(mr_phantom().scan.array, grid(), said))
    assert caught.value.code == "modality"


def test_air_in_hounsfield_units_means_ct_and_no_negative_voxel_means_mr() -> None:
    modality, reason = guess_modality(Volume(ct_phantom().scan.array, grid()))
    assert (modality, "-1000" in reason) == ("CT", True)
    modality, reason = guess_modality(Volume(mr_phantom().scan.array, grid()))
    assert (modality, "negative" in reason) == ("MR", True)


def test_intensities_that_could_be_either_must_be_named() -> None:
    array = np.random.default_rng(0).normal(40, 30, (20, 20, 20))
    with pytest.raises(InputError, match="Cannot tell CT from MR: intensities run from") as caught:
        guess_modality(Volume(array, grid((20, 20, 20))))
    assert caught.value.code == "modality"
    assert "--modality" in caught.value.hint


def test_numbers_far_beyond_hounsfield_units_are_not_taken_for_ct() -> None:
    array = np.linspace(-8192, 8191, 20**3).reshape(20, 20, 20)
    with pytest.raises(InputError, match="Cannot tell CT from MR: intensities run from -8110 to 8109") as caught:
        guess_modality(Volume(array, grid((20, 20, 20))))
    assert caught.value.code == "modality"


# The grid


def test_scans_already_on_the_grid_are_only_reordered_bit_for_bit_in_all_48_orientations() -> None:
    shape = (20, 24, 28)
    scan = Volume(np.random.default_rng(0).uniform(-900, 900, shape).astype(np.float32), grid(shape))
    unit = IntensityMap((-1000.0, 1000.0), (0.0, 1.0), clip=True).to_unit(scan.array)
    for degrees in ((0.0, 0.0, 0.0), OBLIQUE):
        straight = Volume(scan.array, grid(shape, degrees=degrees))
        for orientation in orientations():
            turned = reoriented(straight, orientation)
            canonical = to_canonical(turned, CanonicalConfig(), "CT")
            assert np.array_equal(_inside(canonical), unit)
            assert np.array_equal(
                canonical.restore(canonical.image), reoriented(scan.with_array(unit), orientation).array
            )


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
def test_one_body_gives_one_canonical_image_in_all_48_orientations(degrees: tuple[float, float, float]) -> None:
    scan = ct_phantom(grid((104, 44, 24), (0.8, 2.1, 4.3), degrees=degrees), noise_hu=20).scan
    expected = to_canonical(scan, CanonicalConfig(), "CT")
    for orientation in orientations():
        canonical = to_canonical(reoriented(scan, orientation), CanonicalConfig(), "CT")
        assert canonical.geometry.difference(expected.geometry) == ""
        assert np.abs(canonical.image - expected.image).max() < 1e-5


def test_a_ramp_in_millimeters_keeps_its_place_there_and_back() -> None:
    # HU = 6 x + 4 y - 5 z in RAS mm: any shift or swap of axes shows as a wrong value.
    slopes = np.array([6.0, 4.0, -5.0])
    geometry = grid((50, 44, 24), (1.1, 2.3, 4.1), degrees=OBLIQUE)

    def ramp(on: Geometry) -> NDArray[np.float64]:
        values: NDArray[np.float64] = on.to_ras(np.moveaxis(np.indices(on.shape), 0, -1)) @ slopes
        return values

    for orientation in list(orientations())[::7]:
        source = reoriented(Volume(ramp(geometry).astype(np.float32), geometry), orientation)
        canonical = to_canonical(source, CanonicalConfig(), "CT")
        assert canonical.spacing_mm == pytest.approx((2, 2, 2))
        hu = canonical.intensity.to_native(canonical.image)
        middle = tuple(slice(a + 5, b - 5) for a, b in canonical.inside)
        assert np.abs(hu - ramp(canonical.geometry))[middle].max() < 0.1
        back = canonical.restore(ramp(canonical.geometry))
        assert np.abs(back - source.array)[3:-3, 3:-3, 3:-3].max() < 0.01


@pytest.mark.parametrize("make", [ct_phantom, mr_phantom], ids=["CT", "MR"])
def test_left_stays_left(make: type) -> None:
    for orientation in orientations():
        phantom: Phantom = make(grid((40, 40, 40), (2.6, 2.4, 2.9), orientation, (5, 4, -6)))
        scan = to_canonical(phantom.scan, CanonicalConfig(), phantom.scan.modality or "")
        lesion = scan.project(phantom.lesion)
        center = (np.indices(lesion.shape) * lesion).sum(axis=(1, 2, 3)) / lesion.sum()
        assert np.abs(scan.geometry.to_ras(center) - phantom.lesion_center_ras).max() < 0.6
        # The lesion is to the right of, before and below the middle: canonical X grows to the right, Y forward, Z up.
        middle = scan.geometry.to_ijk(np.array(CENTER_RAS))
        assert (np.sign(center - middle) == np.sign(LESION_OFFSET_MM)).all()


def test_an_oblique_scan_stays_oblique() -> None:
    source = grid((40, 40, 20), (1.5, 1.5, 4.0), np.diag([-1.0, -1.0, 1.0]), OBLIQUE)
    canonical = to_canonical(Volume(np.arange(32000.0).reshape(source.shape), source), CanonicalConfig(), "MR")
    assert np.allclose(canonical.geometry.direction, source.direction * (-1, -1, 1), atol=1e-12)
    assert not np.allclose(canonical.geometry.direction, np.eye(3), atol=0.1)


def test_a_scan_turned_by_45_degrees_still_has_three_axes() -> None:
    source = grid((20, 22, 24), degrees=(0.0, 0.0, 45.0))
    canonical = to_canonical(Volume(np.arange(10560.0).reshape(source.shape), source), CanonicalConfig(), "MR")
    assert abs(np.linalg.det(canonical.geometry.direction)) == pytest.approx(1)
    assert np.diag(canonical.geometry.direction) == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 1])


@pytest.mark.parametrize(
    ("shape", "spacing", "side", "padded", "counted"),
    [
        ((56, 52, 60), (2.0, 2.0, 2.0), 64, (64, 64, 64), (56, 52, 60)),
        ((100, 70, 33), (1.0, 2.0, 4.0), 64, (64, 72, 68), (50, 70, 66)),
        ((41, 33, 20), (2.0, 2.0, 2.15), 32, (44, 36, 32), (41, 33, 22)),
    ],
)
def test_sides_are_padded_evenly_to_what_the_networks_need(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    side: int,
    padded: tuple[int, int, int],
    counted: tuple[int, int, int],
) -> None:
    source = Volume(
        np.random.default_rng(0).uniform(900, 1000, shape).astype(np.float32), grid(shape, spacing), offset_hu=0.0
    )
    canonical = to_canonical(source, CanonicalConfig(minimum_side=side), "CT")
    assert canonical.image.shape == canonical.geometry.shape == padded
    assert tuple(b - a for a, b in canonical.inside) == counted
    assert all(a - (n - b) in (0, -1) for (a, b), n in zip(canonical.inside, padded, strict=True))
    assert _inside(canonical).min() > 0.94
    assert np.count_nonzero(canonical.image) == np.prod(counted)
    # The field of view stays centered on the scan's, at most one voxel longer.
    middle = np.array([(a + b - 1) / 2 for a, b in canonical.inside])
    assert np.allclose(canonical.geometry.to_ras(middle), CENTER_RAS, atol=1e-6)


def test_with_fit_multiple_the_whole_field_of_view_fills_the_grid() -> None:
    phantom = ct_phantom(grid((70, 66, 30), (1.5, 1.6, 4.0), np.diag([-1.0, 1.0, -1.0]), OBLIQUE), lesion_mm=14)
    canonical = to_canonical(phantom.scan, CanonicalConfig(fit_multiple=32), "CT")
    # 105, 105.6 and 120 mm at about 2 mm are 52.5, 52.8 and 60 voxels: 64 each.
    assert canonical.image.shape == (64, 64, 64)
    assert canonical.inside == ((0, 64), (0, 64), (0, 64))
    assert canonical.spacing_mm == pytest.approx((105 / 64, 105.6 / 64, 120 / 64))
    assert canonical.geometry.extent_mm == pytest.approx(phantom.scan.geometry.extent_mm)
    back = canonical.restore(canonical.project(phantom.lesion)) >= 0.5
    assert _dice(back, phantom.lesion.array > 0) > 0.9


# There and back


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.9, 0.9, 3.0), (1.3, 2.2, 1.6)])
def test_a_mask_comes_back_to_exactly_the_source_grid_with_its_volume(
    spacing: tuple[float, float, float], degrees: tuple[float, float, float]
) -> None:
    count = np.ceil(np.array([100, 90, 110]) / spacing).astype(int)
    source = grid((int(count[0]), int(count[1]), int(count[2])), spacing, degrees=degrees)
    phantom = ct_phantom(source, lesion_mm=18)
    for orientation in list(orientations())[::11]:
        scan, lesion = reoriented(phantom.scan, orientation), reoriented(phantom.lesion, orientation)
        canonical = to_canonical(scan, CanonicalConfig(), "CT")
        back = canonical.restore(canonical.project(lesion))
        assert back.shape == lesion.array.shape
        assert back.dtype == np.float32
        assert _dice(back >= 0.5, lesion.array > 0) > 0.96
        ml = float((back >= 0.5).sum()) * lesion.geometry.voxel_volume_ml
        assert ml == pytest.approx(phantom.lesion_ml, rel=0.03)


def test_nothing_of_the_padding_comes_back_whatever_the_grid() -> None:
    rng = np.random.default_rng(0)
    ways, config = list(orientations()), CanonicalConfig(minimum_side=32)
    for _ in range(30):
        count, spacing, degrees = rng.integers(5, 40, 3), rng.uniform(0.5, 4, 3), rng.uniform(-20, 20, 3)
        source = grid((int(count[0]), int(count[1]), int(count[2])), tuple(spacing), ways[rng.integers(48)], degrees)
        canonical = to_canonical(Volume(rng.uniform(-900, 900, source.shape), source), config, "CT")
        scanned = np.zeros(canonical.image.shape, dtype=np.float32)
        scanned[tuple(slice(a, b) for a, b in canonical.inside)] = 1
        assert canonical.restore(scanned).min() > 1 - 1e-6, f"{source.shape} voxels of {spacing} mm"


def test_a_map_comes_back_piece_by_piece_as_it_does_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("DiffuGTSLib.volumes.canonical._PLANES", 7)
    rng = np.random.default_rng(1)
    ways, config = list(orientations()), CanonicalConfig(minimum_side=32)
    skipped = 0
    for _ in range(60):
        count, spacing, degrees = rng.integers(1, 40, 3), rng.uniform(0.5, 4, 3), rng.uniform(-20, 20, 3)
        source = grid((int(count[0]), int(count[1]), int(count[2])), tuple(spacing), ways[rng.integers(48)], degrees)
        canonical = to_canonical(Volume(rng.uniform(-900, 900, source.shape), source), config, "CT")
        first = [int(rng.integers(begin, end)) for begin, end in canonical.inside]
        box = tuple(
            slice(a, int(rng.integers(a, end)) + 1) for a, (_, end) in zip(first, canonical.inside, strict=True)
        )
        values = np.zeros(canonical.image.shape, dtype=np.float32)
        values[box] = rng.uniform(0.2, 1, values[box].shape)
        whole, pieced = canonical.restore(values), np.zeros(source.shape, dtype=np.float32)
        for piece in canonical.pieces(box):
            pieced[piece] = canonical.restore(values, piece)
            skipped += pieced.size - pieced[piece].size
        assert np.allclose(whole, pieced, rtol=0, atol=1e-5)
        assert np.array_equal(canonical.restore_mask(values > 0.5), canonical.restore(values > 0.5) > 0.5)
    assert skipped > 0


def test_the_outermost_slices_of_a_finer_scan_keep_their_hu() -> None:
    array = np.full((40, 40, 100), 40.0, dtype=np.float32)
    array[0, 0, 50] = -1000
    canonical = to_canonical(Volume(array, grid(array.shape, (2.0, 2.0, 0.7))), CanonicalConfig(), "CT")
    hu = canonical.intensity.to_native(canonical.restore(canonical.image))
    assert hu[20, 20] == pytest.approx(40, abs=0.01)


def test_projected_masks_are_the_covered_share_and_keep_the_volume(a_ct_phantom: Phantom) -> None:
    fine = ct_phantom(grid((112, 104, 120), (1.0, 1.0, 1.0)))
    canonical = to_canonical(fine.scan, CanonicalConfig(), "CT")
    share = canonical.project(fine.lesion)
    assert 0 <= share.min() < share.max() <= 1
    assert float(share.sum()) * canonical.geometry.voxel_volume_ml == pytest.approx(fine.lesion_ml, rel=0.01)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_mask_thinner_than_the_model_s_voxels_is_a_share_of_them_wherever_it_lies(first: int) -> None:
    """Every third plane of 1 mm, on a grid of 3 mm: where voxels are only met in the middle it is all or nothing."""
    ramp = Volume(np.arange(30**3, dtype=np.float32).reshape(30, 30, 30), grid((30, 30, 30), (1.0, 1.0, 1.0)))
    planes = np.zeros(ramp.array.shape, dtype=np.uint8)
    planes[first::3] = 1
    scan = to_canonical(ramp, CanonicalConfig(spacing_mm=3.0), "MR")
    share = scan.project(ramp.with_array(planes))[tuple(slice(a, b) for a, b in scan.inside)]
    assert share.min() > 0.15 and share.max() < 0.5


def test_a_mask_on_another_grid_is_not_projected(a_ct_phantom: Phantom) -> None:
    canonical = to_canonical(a_ct_phantom.scan, CanonicalConfig(), "CT")
    other = ct_phantom(grid(spacing_mm=(2.0, 2.0, 2.1))).lesion
    with pytest.raises(GeometryError, match="The mask and the scan lie on different grids: spacing"):
        canonical.project(other)


def test_coarse_voxels_average_what_they_cover() -> None:
    # A checkerboard of 0.4 mm has no detail at 2 mm: gray everywhere, where point samples would be black or white.
    checker = np.indices((60, 60, 60)).sum(axis=0) % 2 * 2000.0 - 1000.0
    canonical = to_canonical(Volume(checker, grid((60, 60, 60), (0.4, 0.4, 0.4))), CanonicalConfig(), "CT")
    assert canonical.inside[0][1] - canonical.inside[0][0] == 12
    assert np.abs(_inside(canonical)[2:-2, 2:-2, 2:-2] - 0.5).max() < 0.02
