"""What is painted into a window of training: tumors, decoys and phases of the contrast agent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mini_data import GRID, training_scan, write_case, write_labels
from phantoms import ct_phantom

from DiffuGTSLib.config import load_config
from DiffuGTSLib.synthesis.organs import organ_spec
from DiffuGTSLib.training.window_paint import (
    EXOPHYTIC_CHANCE,
    edge_blur_voxels,
    paint_decoys,
    paint_tumors,
    shift_organ,
    training_spec,
)
from DiffuGTSLib.volumes.canonical import IntensityMap


@pytest.fixture(scope="module")
def an_intensity_map() -> IntensityMap:
    canonical = load_config("mini").canonical
    return IntensityMap(canonical.ct_knots_hu, canonical.ct_knots_unit, clip=True)


GRID_MM = (2.0, 2.0, 2.0)
EVERYWHERE = np.ones((40, 40, 40), bool)


def a_window(hu: float, intensity: IntensityMap) -> np.ndarray:
    return intensity.to_unit(hu + np.random.default_rng(0).normal(0, 8, EVERYWHERE.shape))


def test_tumors_on_ct_are_painted_in_hu_through_the_scan_s_own_map(an_intensity_map: IntensityMap) -> None:
    """The same organ file serves whole scans and training windows: 30 to 110 HU in the bladder, whatever the map."""
    curved = IntensityMap((-1000.0, -200.0, 300.0, 1000.0), (0.0, 0.2, 0.8, 1.0), clip=True)
    for intensity in (an_intensity_map, curved):
        found = []
        for seed in range(16):
            window = a_window(0.0, intensity)
            image, mask = paint_tumors(
                window, EVERYWHERE, training_spec("bladder"), 1, intensity, GRID_MM, np.random.default_rng(seed)
            )
            assert image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1
            found.append(float(np.median(intensity.to_native(image[mask]))))
        assert 20 < np.median(found) < 110


def test_a_window_outside_its_tumors_is_left_as_it_was(an_intensity_map: IntensityMap) -> None:
    window = a_window(110.0, an_intensity_map)
    before = window.copy()
    organ = EVERYWHERE & (np.indices(EVERYWHERE.shape)[0] < 20)
    for intensity in (an_intensity_map, None):
        image, mask = paint_tumors(window, organ, organ_spec("liver"), 3, intensity, GRID_MM, np.random.default_rng(1))
        assert np.array_equal(window, before) and mask.any() and not mask[~organ].any()
        assert np.array_equal(image[~organ], before[~organ])


def test_a_tumor_without_a_place_is_left_out(an_intensity_map: IntensityMap) -> None:
    window, nowhere = a_window(110.0, an_intensity_map), np.zeros_like(EVERYWHERE)
    sliver = nowhere.copy()
    sliver[20, 20, 20:23] = True
    for organ in (nowhere, sliver):
        image, mask = paint_tumors(
            window, organ, organ_spec("liver"), 2, an_intensity_map, GRID_MM, np.random.default_rng(0)
        )
        assert np.array_equal(image, window) and not mask.any()


def test_radii_are_log_uniform_in_the_organ_s_range(an_intensity_map: IntensityMap) -> None:
    """Liver, 7 to 45 mm: half of the tumors are below the geometric mean of 17.7 mm; large ones are cut here."""
    window, radii = a_window(110.0, an_intensity_map), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        _, mask = paint_tumors(window, EVERYWHERE, organ_spec("liver"), 1, an_intensity_map, GRID_MM, rng)
        radii.append(np.cbrt(3 * mask.sum() * 8 / (4 * np.pi)))
    assert np.median(radii) == pytest.approx(17.7, rel=0.35) and min(radii) < 11


def test_training_tumors_may_leave_any_organ_now_and_then() -> None:
    assert training_spec("liver").exophytic_chance == dict.fromkeys(
        ("tiny", "small", "medium", "large"), EXOPHYTIC_CHANCE
    )
    assert training_spec("kidney").exophytic_chance["large"] == 0.5
    assert training_spec("gallbladder").ct == organ_spec("other").ct


def test_a_solid_organ_shifts_as_a_whole_or_most_at_its_rim_and_lung_stays(an_intensity_map: IntensityMap) -> None:
    organ = np.zeros(EVERYWHERE.shape, bool)
    organ[10:30, 10:30, 10:30] = True
    far = (slice(0, 6),) * 3
    shifts = []
    for seed in range(16):
        liver = a_window(60.0, an_intensity_map)
        shifted = shift_organ(liver, organ, an_intensity_map, GRID_MM, np.random.default_rng(seed))
        change_hu = an_intensity_map.to_native(shifted) - an_intensity_map.to_native(liver)
        rim, inside = change_hu[16:24, 16:24, 11], change_hu[18:22, 18:22, 18:22]
        assert rim.std() < 1 and inside.std() < 1 and np.abs(change_hu[far]).max() < 0.5
        assert abs(inside.mean()) < abs(rim.mean()) + 2, "an inside never changes more than its rim"
        shifts.append((float(rim.mean()), float(inside.mean())))
    alike = [abs(rim - inside) < 2 for rim, inside in shifts]
    assert any(alike) and not all(alike)
    assert -31 < min(shifts)[0] < 0 < max(shifts)[0] < 81
    lung = a_window(-850.0, an_intensity_map)
    assert shift_organ(lung, organ, an_intensity_map, GRID_MM, np.random.default_rng(0)) is lung
    assert shift_organ(lung, np.zeros_like(organ), an_intensity_map, GRID_MM, np.random.default_rng(0)) is lung


def test_decoys_in_a_lung_are_as_dense_as_blood(an_intensity_map: IntensityMap) -> None:
    lung = a_window(-850.0, an_intensity_map)
    painted = paint_decoys(lung, EVERYWHERE, an_intensity_map, 0.3, GRID_MM, np.random.default_rng(0))
    changed = an_intensity_map.to_native(painted)[painted > lung + 0.2]
    assert changed.size > 30 and -300 < changed.max() < 260
    nowhere = np.zeros_like(EVERYWHERE)
    assert paint_decoys(lung, nowhere, an_intensity_map, 0.3, GRID_MM, np.random.default_rng(0)) is lung


def test_decoys_in_a_solid_organ_differ_from_it_a_little() -> None:
    flat = np.full(EVERYWHERE.shape, 0.5, np.float32)
    levels = []
    for seed in range(12):
        painted = paint_decoys(flat, EVERYWHERE, None, 0.3, GRID_MM, np.random.default_rng(seed))
        levels.append(float(painted.reshape(-1)[np.abs(painted - flat).argmax()]))
    assert min(levels) < 0.45 and max(levels) > 0.55 and np.abs(np.array(levels) - 0.5).max() > 0.3


def test_edges_are_painted_as_soft_as_a_coarse_scan_s(tmp_path: Path) -> None:
    a_ct = training_scan(tmp_path, write_case(tmp_path, "ct", ct_phantom(GRID), "train"))
    a_label_map = training_scan(tmp_path, write_labels(tmp_path, "labels", "train"))
    source = a_ct.scan.source
    coarse = replace(source, ijk_to_ras=source.ijk_to_ras @ np.diag([3.0, 3.0, 3.0, 1.0]))
    far = replace(a_ct, scan=replace(a_ct.scan, source=coarse))
    fine, soft = (
        np.mean([edge_blur_voxels(scan, np.random.default_rng(seed)) for seed in range(20)]) for scan in (a_ct, far)
    )
    assert 0.35 < fine < 0.55 and soft > 1.4 * fine
    assert 0.3 <= edge_blur_voxels(a_label_map, np.random.default_rng(0)) <= 0.8
