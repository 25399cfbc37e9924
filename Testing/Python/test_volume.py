"""Grids and the voxels on them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from phantoms import grid

from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.volumes.volume import Geometry, Volume, closest_ras, require_same_grid, require_scan


def test_voxel_indices_become_millimeters_as_worked_by_hand() -> None:
    # Axis i runs left (2 mm), j up (3 mm), k backward (4 mm), first voxel at (10, 20, 30).
    geometry = Geometry((5, 6, 7), np.array([[-2.0, 0, 0, 10], [0, 0, -4, 20], [0, 3, 0, 30], [0, 0, 0, 1]]))
    assert geometry.to_ras(np.array([1, 2, 3])).tolist() == [8, 8, 36]
    assert geometry.to_ijk(np.array([8, 8, 36])).tolist() == [1, 2, 3]
    assert geometry.spacing_mm == (2, 3, 4)
    assert geometry.extent_mm == (10, 18, 28)
    assert geometry.voxel_volume_ml == 0.024
    assert geometry.origin_ras.tolist() == [10, 20, 30]
    assert geometry.direction.tolist() == [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]


def test_many_points_go_there_and_back_on_an_oblique_grid() -> None:
    geometry = grid((4, 5, 6), (0.7, 1.1, 3.0), degrees=(10, 20, 30))
    ijk = np.moveaxis(np.indices(geometry.shape), 0, -1)
    assert np.allclose(geometry.to_ijk(geometry.to_ras(ijk)), ijk, rtol=0, atol=1e-12)


def test_the_matrix_cannot_be_changed_and_does_not_alias_the_callers() -> None:
    matrix = np.eye(4)
    geometry = Geometry((2, 2, 2), matrix)
    matrix[0, 0] = 5
    assert geometry.spacing_mm == (1, 1, 1)
    with pytest.raises(ValueError, match="read-only"):
        geometry.ijk_to_ras[0, 0] = 5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda grid: pickle.loads(pickle.dumps(grid))])
def test_the_matrix_of_a_copy_cannot_be_changed_either(copied: Callable[[Geometry], Geometry]) -> None:
    grid = Geometry.from_spacing((2, 3, 4), (1.0, 1.0, 2.5))
    twin = copied(grid)
    assert twin.difference(grid) == "" and not twin.ijk_to_ras.flags.writeable


def test_a_grid_from_spacing_starts_at_the_origin() -> None:
    geometry = Geometry.from_spacing((2, 3, 4), (1.0, 2.0, 3.0))
    assert geometry.to_ras(np.array([1, 1, 1])).tolist() == [1, 2, 3]


@pytest.mark.usefixtures("an_unchecked_library")
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4, 4), (0, 4, 4)])
def test_a_grid_that_is_not_3d_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="Expected a 3D grid"):
        Geometry(shape, np.eye(4))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, 1): np.nan}, "finite 4x4"),
        ({(0, 0): 0.0}, "singular"),
        ({(0, 1): 1.0, (1, 1): 0.0}, "singular"),
        ({(0, 1): 0.3}, "sheared: .* cosine of 0.2873"),
        ({(3, 0): 1.0}, "last row"),
    ],
)
def test_a_matrix_that_is_no_grid_is_refused(change: dict[tuple[int, int], float], message: str) -> None:
    matrix = np.eye(4)
    for place, value in change.items():
        matrix[place] = value
    with pytest.raises(GeometryError, match=message):
        Geometry((4, 4, 4), matrix)


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"finite 4x4 ijk_to_ras matrix, got shape \(3, 3\)"):
        Geometry((4, 4, 4), np.eye(3))


def _moved(geometry: Geometry, mm: float) -> Geometry:
    matrix = geometry.ijk_to_ras.copy()
    matrix[0, 3] += mm
    return Geometry(geometry.shape, matrix)


def test_a_grid_equals_itself_and_one_that_moved_less_than_a_micrometer() -> None:
    geometry = grid(degrees=(5, 0, 0))
    assert geometry.difference(geometry) == ""
    assert geometry.difference(_moved(geometry, 9e-4)) == ""


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (grid((56, 52, 61)), "shape (56, 52, 60) and (56, 52, 61)"),
        (grid(spacing_mm=(2, 2, 2.001)), "spacing 2 x 2 x 2 mm and 2 x 2 x 2.001 mm"),
        (grid(degrees=(0, 0, 0.01)), "direction "),
        (grid(orientation=np.diag([-1.0, -1.0, 1.0])), "direction "),
        (_moved(grid(), 2e-3), "origin "),
    ],
)
def test_another_grid_is_told_apart_by_its_first_difference(other: Geometry, reason: str) -> None:
    assert grid().difference(other).startswith(reason)
    with pytest.raises(GeometryError, match=r"The mask and the scan lie on different grids: .* \(scan first\)"):
        require_same_grid(grid(), other, "mask")


def test_the_same_grid_passes() -> None:
    require_same_grid(grid(), grid(), "mask")


def test_a_difference_that_rounding_hides_is_told_in_mm() -> None:
    geometry = Geometry(
        (100, 100, 50), np.array([[0.7, 0, 0, -170.3], [0, 0.7, 0, -171.2], [0, 0, 1, 30], [0, 0, 0, 1.0]])
    )
    said = geometry.difference(_moved(geometry, 4e-3))
    assert said.startswith("origin -170.3 x") and said.endswith("corners up to 0.004 mm apart")


def test_two_single_slices_of_other_thickness_differ() -> None:
    thin, thick = Geometry.from_spacing((4, 4, 1), (1, 1, 1)), Geometry.from_spacing((4, 4, 1), (1, 1, 5))
    assert thin.difference(thick).startswith("spacing")


def test_voxels_must_fill_their_grid() -> None:
    with pytest.raises(GeometryError, match=r"shape \(2, 2, 3\) do not fill a grid of shape \(2, 2, 2\)"):
        Volume(np.zeros((2, 2, 3)), Geometry((2, 2, 2), np.eye(4)))


def test_other_voxels_on_the_same_grid_keep_grid_and_modality() -> None:
    volume = Volume(np.zeros((2, 2, 2)), Geometry((2, 2, 2), np.eye(4)), "CT")
    other = volume.with_array(np.ones((2, 2, 2)))
    assert other.geometry is volume.geometry
    assert (other.modality, other.array.sum()) == ("CT", 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_scan_with_voxels_that_are_no_numbers_is_refused_with_their_count(bad: float) -> None:
    array = np.arange(8.0).reshape(2, 2, 2)
    array[0, 0, :] = bad
    with pytest.raises(InputError, match="2 NaN or infinite voxels of 8") as caught:
        require_scan(Volume(array, Geometry((2, 2, 2), np.eye(4))))
    assert caught.value.code == "not_finite"


def test_a_constant_scan_is_refused_with_its_value() -> None:
    with pytest.raises(InputError, match="every voxel is -1000") as caught:
        require_scan(Volume(np.full((2, 2, 2), -1000), Geometry((2, 2, 2), np.eye(4))))
    assert caught.value.code == "constant"


def test_a_mask_in_place_of_a_scan_is_refused_with_its_values() -> None:
    array = np.zeros((2, 2, 2), dtype=np.float32)
    array[1, 0, 0] = 255
    with pytest.raises(InputError, match="nothing but 0 and 255: it is a mask") as caught:
        require_scan(Volume(array, Geometry((2, 2, 2), np.eye(4))))
    assert caught.value.code == "mask"


def test_an_ordinary_scan_passes() -> None:
    require_scan(Volume(np.arange(8).reshape(2, 2, 2), Geometry((2, 2, 2), np.eye(4))))


def test_the_axes_of_a_turned_grid_are_named_by_hand() -> None:
    # i runs anterior and a little left, j right and a little anterior, k inferior.
    turn = np.radians(30)
    matrix = np.diag([1.0, 1.0, -1.0, 1.0])
    matrix[:2, :2] = [[-np.sin(turn), np.cos(turn)], [np.cos(turn), np.sin(turn)]]
    permutation, signs = closest_ras(Geometry((4, 4, 4), matrix))
    assert permutation.tolist() == [1, 0, 2]
    assert signs.tolist() == [1, 1, -1]


def test_at_45_degrees_each_voxel_axis_is_still_used_once_and_none_changes_its_place() -> None:
    half = np.sqrt(0.5)
    matrix = np.eye(4)
    matrix[:2, :2] = [[half, -half], [half, half]]
    permutation, signs = closest_ras(Geometry((4, 4, 4), matrix))
    assert permutation.tolist() == [0, 1, 2]
    assert set(np.abs(signs).tolist()) == {1}


def test_a_box_that_is_cut_out_stays_where_it_was_in_the_world() -> None:
    scan = Volume(
        np.arange(5 * 6 * 7).reshape(5, 6, 7),
        grid((5, 6, 7), (1.0, 2.0, 3.0), np.diag([-1.0, -1.0, 1.0]), (10, 0, 20)),
        "CT",
    )
    part = scan.cut((slice(1, 4), slice(0, 6), slice(5, 7)))
    assert part.geometry.shape == (3, 6, 2)
    assert part.modality == "CT"
    np.testing.assert_allclose(part.geometry.to_ras(np.zeros(3)), scan.geometry.to_ras(np.array([1, 0, 5])))
    assert part.array[2, 3, 1] == scan.array[3, 3, 6]
