"""Training scans: what counts as healthy, where organs are found without a label, and the windows cut from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_data import GRID, canonical, training_scan, write_case, write_labels
from phantoms import CENTER_RAS, Ellipsoid, ct_phantom, grid, mr_phantom
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DiffuGTSLib.datasets import protocol
from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.training.data import (
    Crop,
    View,
    inner_body_mask,
    load_case,
    load_cases,
    lung_by_air,
    random_crop,
    random_view,
    split_cases,
)
from DiffuGTSLib.training.prepared import PreparedFolder
from DiffuGTSLib.volumes import CanonicalScan, Volume, to_canonical, write_volume


def around_mm(mask: np.ndarray) -> np.ndarray:
    """Return the distance of every voxel to a mask on the 4 mm grid."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=4.0))


@pytest.fixture
def a_case_row(tmp_path: Path) -> dict[str, Any]:
    return write_case(tmp_path, "ct", ct_phantom(GRID), "train")


def test_a_case_comes_to_the_canonical_grid_with_its_masks(tmp_path: Path, a_case_row: dict[str, Any]) -> None:
    phantom = ct_phantom(GRID)
    scan = training_scan(tmp_path, a_case_row)
    assert scan.scan.image.shape == scan.tumor.shape == scan.healthy.shape == (32, 32, 32)
    assert scan.scan.spacing_mm == pytest.approx((4.0, 4.0, 4.0))
    voxel_ml = 0.064
    assert scan.tumor.sum() * voxel_ml == pytest.approx(phantom.lesion.array.sum() * voxel_ml, rel=0.01)
    assert scan.organs["liver"].sum() == phantom.organ.array.sum() and scan.outlined == {"liver"}
    center = scan.scan.geometry.to_ras(np.argwhere(scan.tumor)).mean(0)
    assert center == pytest.approx(phantom.lesion_center_ras, abs=2.0)


def test_healthy_is_what_lies_more_than_ten_mm_from_the_tumor(tmp_path: Path, a_case_row: dict[str, Any]) -> None:
    scan = training_scan(tmp_path, a_case_row)
    assert np.array_equal(scan.healthy, around_mm(scan.tumor) > 10.0)
    assert not (scan.healthy & scan.tumor).any() and scan.healthy.any()


def test_tissue_near_an_organ_that_may_hold_a_tumor_is_not_healthy(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train", tumor="", unmarked_near={"liver": 20.0})
    scan = training_scan(tmp_path, row)
    assert not scan.tumor.any()
    assert np.array_equal(scan.healthy, around_mm(scan.organs["liver"]) > 20.0)


def test_only_named_organs_are_healthy_where_nobody_outlined_the_tumors(tmp_path: Path) -> None:
    row = write_case(tmp_path, "ct", ct_phantom(GRID), "train", tumor="", healthy_only_in=["liver"])
    scan = training_scan(tmp_path, row)
    assert np.array_equal(scan.healthy, scan.organs["liver"])


def test_tumor_organ_and_cyst_may_be_values_of_one_label_map(tmp_path: Path) -> None:
    phantom = ct_phantom(GRID)
    labels = phantom.organ.array.astype(np.uint8)
    labels[phantom.lesion.array > 0] = 2
    cyst = (slice(20, 22), slice(12, 14), slice(10, 12))
    labels[cyst] = 3
    row = write_case(
        tmp_path, "ct", phantom, "train", tumor="ct/labels.nii.gz", tumor_values=[2], labels="ct/labels.nii.gz",
        label_names={"liver": [1, 2, 3]}, other_lesion_values=[3],
    )  # fmt: skip
    write_volume(phantom.scan.with_array(labels), tmp_path / "ct" / "labels.nii.gz")
    scan = training_scan(tmp_path, row)
    assert scan.tumor.sum() == (labels == 2).sum() and scan.organs["liver"].sum() == (labels > 0).sum()
    lesions = scan.scan.project(phantom.scan.with_array((labels >= 2).astype(np.uint8))) >= 0.5
    assert np.array_equal(scan.healthy, around_mm(lesions) > 10.0), "a cyst is no tumor, and not healthy either"


def test_an_organ_may_be_made_of_several_files(tmp_path: Path) -> None:
    phantom = ct_phantom(GRID)
    row = write_case(
        tmp_path, "ct", phantom, "train", tumor="", labels="", label_names={},
        organ_files={"liver": ["ct/upper.nii.gz", "ct/lower.nii.gz"]},
    )  # fmt: skip
    for name, part in (("upper", np.s_[:, :, 14:]), ("lower", np.s_[:, :, :14])):
        half = np.zeros_like(phantom.organ.array)
        half[part] = phantom.organ.array[part]
        write_volume(phantom.organ.with_array(half), tmp_path / "ct" / f"{name}.nii.gz")
    assert training_scan(tmp_path, row).organs["liver"].sum() == phantom.organ.array.sum()


def test_an_organ_s_outline_may_come_with_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = ct_phantom(GRID)
    row = write_case(
        tmp_path / "data", "ct", phantom, "train", tumor="", labels="", label_names={},
        organ_files={"liver": ["resource:Outlines/ct/liver.nii.gz"]},
    )  # fmt: skip
    monkeypatch.setattr(protocol, "resource_path", (tmp_path / "Resources").joinpath)
    (tmp_path / "Resources" / "Outlines" / "ct").mkdir(parents=True)
    write_volume(phantom.organ, tmp_path / "Resources" / "Outlines" / "ct" / "liver.nii.gz")
    scan = training_scan(tmp_path / "data", row)
    assert scan.organs["liver"].sum() == phantom.organ.array.sum() and scan.outlined == {"liver"}


def test_the_organ_of_a_case_without_labels_is_the_depth_of_the_body(tmp_path: Path) -> None:
    row = write_case(tmp_path, "mr", mr_phantom(GRID), "train", labels="", label_names={})
    scan = training_scan(tmp_path, row)
    assert np.array_equal(scan.organs["brain"], inner_body_mask(scan.scan, 18.0)) and scan.organs["brain"].any()
    assert not scan.outlined, "outside of it may be brain as well"
    assert replace(scan, outlined=frozenset({"brain", "liver"})).outlined == {"brain"}, "no outline without a mask"


def test_an_organ_that_is_named_and_not_outlined_is_nowhere(tmp_path: Path) -> None:
    keys = {"tumor": "", "labels": "", "label_names": {}}
    healthy = training_scan(tmp_path, write_case(tmp_path, "ct", ct_phantom(GRID), "train", **keys))
    assert healthy.case.organ == "liver" and healthy.organs == {} and healthy.healthy.all()
    row = write_case(tmp_path, "near", ct_phantom(GRID), "train", **keys, unmarked_near={"liver": 8.0})
    assert training_scan(tmp_path, row).organs["liver"].any(), "nothing near the body is taken for healthy"


def test_a_label_map_becomes_small_whole_numbers_without_mixing_labels(tmp_path: Path) -> None:
    scan = training_scan(tmp_path, write_labels(tmp_path, "labels", "train"))
    assert np.unique(scan.scan.image).tolist() == [0.0, 1.0, 2.0]  # 0, 41 and 500 in the file
    assert scan.scan.modality == "labels"
    lesion = (mr_phantom(GRID).lesion.array > 0).sum()
    assert (scan.scan.image == 1).sum() == lesion
    assert np.array_equal(scan.organs["brain"], scan.scan.image > 0)


def test_a_label_map_with_densities_is_painted_in_hu_and_names_every_tissue(tmp_path: Path) -> None:
    row = write_labels(tmp_path, "labels", "train")
    scan = training_scan(tmp_path, {**row, "label_hu": {"-1000": [0], "900": [41], "30 to 40": [500]}})
    assert scan.tissue_hu is not None and scan.tissue_hu.tolist() == [[-1000, -1000], [900, 900], [30, 40]]
    image = scan.paint_labels(scan.scan.image, np.random.default_rng(0))
    assert image.min() >= 0 and image.max() <= 1
    hu = scan.scan.intensity.to_native(image)
    inner = {value: ndimage.binary_erosion(scan.scan.image == value) for value in (0, 1, 2)}
    assert np.median(hu[inner[0]]) < -980 and np.median(hu[inner[1]]) > 500 and 20 < np.median(hu[inner[2]]) < 50
    with pytest.raises(InputError, match="label_hu does not say how dense 0, 500 are") as caught:
        training_scan(tmp_path, {**row, "label_hu": {"35": [41]}})
    assert "the background's too" in caught.value.hint


def test_a_mask_on_another_grid_is_refused(tmp_path: Path, a_case_row: dict[str, Any]) -> None:
    other = grid((28, 26, 30), (4.0, 4.0, 5.0))
    write_volume(Volume(np.ones(other.shape, np.uint8), other), tmp_path / "ct" / "organ.nii.gz")
    with pytest.raises(GeometryError, match="different grids"):
        training_scan(tmp_path, a_case_row)


def test_a_split_is_loaded_in_the_protocol_s_order_and_each_case_is_told_before_it_is_read(tmp_path: Path) -> None:
    rows = [
        write_case(tmp_path, name, ct_phantom(GRID), split)
        for name, split in (("b", "train"), ("a", "train"), ("c", "test"))
    ]
    cases = [Case(**row) for row in rows]
    said: list[str] = []
    loading = load_cases(split_cases(cases, "train"), tmp_path, canonical(), said.append)
    assert next(loading).case.name == "b" and said == ["reading train 1 of 2: b"]
    assert [scan.case.name for scan in loading] == ["a"] and said[1:] == ["reading train 2 of 2: a"]


@pytest.mark.parametrize("kept", [False, True])
def test_of_many_cases_the_one_that_cannot_be_read_is_named(
    tmp_path: Path, a_case_row: dict[str, Any], kept: bool
) -> None:
    other = grid((28, 26, 30), (4.0, 4.0, 5.0))
    write_volume(Volume(np.ones(other.shape, np.uint8), other), tmp_path / "ct" / "organ.nii.gz")
    prepared = PreparedFolder(tmp_path / "prepared") if kept else None
    with pytest.raises(GeometryError, match="^Case 'ct': .* different grids"):
        load_case(Case(**a_case_row), tmp_path, canonical(), prepared)


def test_a_scan_s_size_in_memory_is_that_of_its_picture_and_masks(tmp_path: Path, a_case_row: dict[str, Any]) -> None:
    scan = training_scan(tmp_path, a_case_row)
    assert scan.nbytes == 32**3 * (4 + 1 + 1 + len(scan.organs)), "float32, then tumor, healthy tissue and organs"


def test_a_split_without_cases_is_refused(tmp_path: Path, a_case_row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no case in split 'validation'"):
        split_cases([Case(**a_case_row)], "validation")


# Windows


def test_a_crop_inside_the_scan_is_the_array(tmp_path: Path) -> None:
    array = np.arange(1000).reshape(10, 10, 10)
    assert np.array_equal(Crop((1, 2, 3), (4, 5, 6)).cut(array), array[1:5, 2:7, 3:9])


def test_what_hangs_over_the_edge_is_zero() -> None:
    array = np.ones((4, 4, 4), np.float32)
    window = Crop((-2, 0, 3), (4, 4, 4)).cut(array)
    assert window.shape == (4, 4, 4) and window.dtype == np.float32
    assert window.sum() == 2 * 4 * 1  # two planes along x, four along y, one along z are within
    assert window[2:, :, :1].all() and not window[:2].any() and not window[:, :, 1:].any()


def test_a_crop_beside_the_scan_is_all_zero() -> None:
    array = np.ones((4, 4, 4), bool)
    for start in ((4, 0, 0), (-4, 0, 0), (0, 0, 9)):
        assert not Crop(start, (4, 4, 4)).cut(array).any()


@pytest.mark.parametrize("overhang", [0.0, 0.15, 0.3])
@pytest.mark.parametrize("shape", [(20, 40, 100), (64, 64, 64)])
def test_a_random_crop_always_holds_the_voxel_that_it_should(shape: tuple[int, int, int], overhang: float) -> None:
    rng = np.random.default_rng(0)
    corners = [np.array(corner) for corner in ((0, 0, 0), np.array(shape) - 1)]
    for number in range(300):
        voxel = corners[number] if number < 2 else rng.integers(0, shape)
        crop = random_crop(shape, 32, rng, voxel, overhang)
        assert ((voxel >= crop.start) & (voxel < np.add(crop.start, crop.side))).all(), (voxel, crop)


def test_the_held_voxel_is_not_always_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    voxel = np.array([50, 50, 50])
    offsets = {50 - random_crop((100, 100, 100), 32, rng, voxel).start[0] for _ in range(200)}
    assert min(offsets) < 8 and max(offsets) > 24


def test_a_random_crop_hangs_over_by_no_more_than_it_may() -> None:
    rng = np.random.default_rng(0)
    starts = np.array([random_crop((40, 40, 40), 20, rng, overhang=0.2).start for _ in range(400)])
    assert starts.min() == -4 and starts.max() == 40 - 20 + 4
    inside = np.array([random_crop((40, 40, 40), 20, rng, overhang=0.0).start for _ in range(400)])
    assert inside.min() == 0 and inside.max() == 20


def test_a_scan_smaller_than_the_crop_is_held_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = random_crop((10, 10, 10), 32, rng, overhang=0.0).start
        assert all(-22 <= s <= 0 for s in start)


# Turned windows


def test_a_view_that_is_not_turned_is_its_crop() -> None:
    array = np.random.default_rng(0).random((9, 8, 7)).astype(np.float32)
    crop = Crop((-1, 2, 3), (6, 6, 6))
    np.testing.assert_allclose(View(crop, np.eye(3)).cut(array), crop.cut(array), atol=1e-6)
    assert np.array_equal(View(crop, np.eye(3)).cut(array > 0.5), crop.cut(array > 0.5))


def test_a_quarter_turn_is_the_array_turned_around_the_crop_s_middle() -> None:
    array = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a step in x of the window is one in y of the scan
    window = View(Crop((1, 1, 1), (5, 5, 5)), turn).cut(array)
    assert window[4, 2, 2] == pytest.approx(array[3, 5, 3]) and window[2, 4, 2] == pytest.approx(array[1, 3, 3])


def test_a_view_at_twice_the_step_shows_everything_half_as_large() -> None:
    ball = (np.indices((40, 40, 40)) - 19.5) ** 2
    ball = ball.sum(0) < 12**2
    window = View(Crop((0, 0, 0), (40, 40, 40)), 2 * np.eye(3)).cut(ball)
    assert window.dtype == bool
    assert window.sum() == pytest.approx(ball.sum() / 8, rel=0.05)


def test_labels_are_never_mixed_by_a_turn() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:, :, :], labels[:, 10:, :] = 40, 7
    view = random_view(Crop((0, 0, 0), (20, 20, 20)), np.random.default_rng(2))
    assert set(np.unique(view.cut(labels))) <= {0, 7, 40}


def test_random_views_turn_and_scale_moderately() -> None:
    views = [random_view(Crop((0, 0, 0), (8, 8, 8)), np.random.default_rng(seed)) for seed in range(300)]
    scales = np.array([np.cbrt(np.linalg.det(view.turn)) for view in views])
    assert np.log(scales).std() == pytest.approx(0.15, abs=0.03) and abs(np.log(scales).mean()) < 0.03
    angles = [
        np.rad2deg(Rotation.from_matrix(view.turn / np.linalg.norm(view.turn, axis=0)).magnitude()) for view in views
    ]
    assert 8 < np.mean(angles) < 14
    assert np.array_equal(random_view(views[0].crop, np.random.default_rng(0)).turn, views[0].turn)


# Organs without labels


def trunk(parts: list[Ellipsoid]) -> CanonicalScan:
    """Lay ellipsoids of HU in air on a 4 mm grid."""
    geometry = grid((80, 64, 64), (4.0, 4.0, 4.0))
    points = geometry.to_ras(np.moveaxis(np.indices(geometry.shape), 0, -1))
    image = np.full(geometry.shape, -1000.0, dtype=np.float32)
    for part in parts:
        image[part.covers(points)] = part.intensity
    return to_canonical(Volume(image, geometry, "CT"), canonical(), "CT")


BODY = Ellipsoid((0, 0, 0), (140, 105, 110), 40)
LUNGS = [Ellipsoid((x, 10, 10), (42, 55, 70), -820) for x in (-70, 70)]
GAS = Ellipsoid((0, 40, -80), (28, 20, 24), -1000)
"""Bowel gas of 56 ml."""


def covered(scan: CanonicalScan, parts: list[Ellipsoid]) -> np.ndarray:
    points = scan.geometry.to_ras(np.moveaxis(np.indices(scan.image.shape), 0, -1))
    inside: np.ndarray = np.any([part.covers(points) for part in parts], axis=0)
    return inside


def test_the_lungs_are_found_as_enclosed_air_without_bowel_gas() -> None:
    scan = trunk([BODY, *LUNGS, GAS])
    found, lungs = lung_by_air(scan), covered(scan, LUNGS)
    overlap = 2 * (found & lungs).sum() / (found.sum() + lungs.sum())
    assert overlap > 0.95
    assert not (found & covered(scan, [GAS])).any()


def test_a_vessel_in_the_lung_is_closed_over() -> None:
    vessel = Ellipsoid((70, 10, 10), (5, 40, 5), 60)
    scan = trunk([BODY, *LUNGS, vessel])
    assert lung_by_air(scan)[covered(scan, [vessel])].mean() > 0.9


def test_a_small_pocket_of_air_is_no_lung() -> None:
    assert not lung_by_air(trunk([BODY, Ellipsoid((0, 0, 0), (18, 18, 18), -820)])).any()  # 24 ml


def test_the_body_is_filled_and_the_table_is_not_part_of_it() -> None:
    table = Ellipsoid((0, -121, 0), (150, 5, 150), 100)
    scan = trunk([BODY, *LUNGS, table])
    body = inner_body_mask(scan, 0.0)
    assert body[covered(scan, LUNGS)].all()
    truth = covered(scan, [BODY])
    assert 2 * (body & truth).sum() / (body.sum() + truth.sum()) > 0.95
    assert not body[covered(scan, [table])].any()


def test_depth_takes_away_that_many_mm_from_each_side() -> None:
    scan = trunk([BODY])
    center = np.round(scan.geometry.to_ijk(np.array(CENTER_RAS))).astype(int)
    lengths = [int(inner_body_mask(scan, depth)[:, center[1], center[2]].sum()) for depth in (0.0, 10.0, 20.0)]
    # A voxel n layers below the skin is 4 n mm deep: more than 10 mm leaves two layers out, more than 20 mm five.
    assert lengths[0] - lengths[1] == 2 * 2 and lengths[0] - lengths[2] == 2 * 5


def test_a_scan_of_nothing_but_air_has_no_body() -> None:
    assert not inner_body_mask(trunk([Ellipsoid((0, 0, 0), (5, 5, 5), 0)]), 4.0).any()
