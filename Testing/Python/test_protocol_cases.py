"""The cases of a protocol: the frame that must not tell where the tumor is."""

from __future__ import annotations

import numpy as np
import pytest
from mini_data import GRID
from phantoms import ct_phantom, grid, orientations

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.protocol_cases import AIR_HU, reframe
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.volume import Geometry


def oblique() -> Geometry:
    return grid((40, 36, 30), (2.0, 2.5, 4.0), list(orientations())[17], (12.0, -7.0, 20.0))


@pytest.mark.parametrize("geometry", [GRID, oblique()], ids=["upright", "oblique"])
def test_every_voxel_stays_at_its_place_in_the_world(geometry: Geometry) -> None:
    phantom = ct_phantom(geometry)
    phantom.scan.array[:] += np.random.default_rng(0).normal(0, 30, geometry.shape)
    for seed in range(12):
        scan, mask = reframe(phantom.scan, phantom.lesion, AIR_HU, np.random.default_rng(seed))
        assert scan.geometry.difference(mask.geometry) == "" and scan.modality == "CT"
        assert np.allclose(scan.geometry.ijk_to_ras[:3, :3], geometry.ijk_to_ras[:3, :3])
        index = np.moveaxis(np.indices(scan.array.shape), 0, -1)
        source = geometry.to_ijk(scan.geometry.to_ras(index))
        assert np.abs(source - np.round(source)).max() < 1e-6, "voxels fall onto voxels: nothing was resampled"
        source = np.round(source).astype(int)
        within = ((source >= 0) & (source < geometry.shape)).all(axis=-1)
        assert np.array_equal(scan.array[within], phantom.scan.array[tuple(source[within].T)])
        assert np.array_equal(mask.array[within], phantom.lesion.array[tuple(source[within].T)])
        assert (scan.array[~within] == AIR_HU).all() and not mask.array[~within].any()


@pytest.mark.parametrize("geometry", [GRID, oblique()], ids=["upright", "oblique"])
def test_the_tumor_is_never_cut_and_keeps_five_mm_around_it(geometry: Geometry) -> None:
    phantom = ct_phantom(geometry)
    spacing = np.array(geometry.spacing_mm)
    before = np.argwhere(phantom.lesion.array)
    room = (
        np.minimum(5.0, before.min(0) * spacing),
        np.minimum(5.0, (np.array(geometry.shape) - 1 - before.max(0)) * spacing),
    )
    for seed in range(40):
        _, mask = reframe(phantom.scan, phantom.lesion, AIR_HU, np.random.default_rng(seed), reach_mm=200.0)
        found = np.argwhere(mask.array)
        assert mask.array.sum() == phantom.lesion.array.sum()
        assert (found.min(0) * spacing >= room[0] - 1e-9).all()
        assert ((np.array(mask.array.shape) - 1 - found.max(0)) * spacing >= room[1] - 1e-9).all()


def test_the_frame_moves_by_no_more_than_its_reach_both_ways() -> None:
    phantom = ct_phantom(GRID)
    grown = [
        (
            np.array(reframe(phantom.scan, phantom.lesion, AIR_HU, np.random.default_rng(seed))[0].array.shape)
            - GRID.shape
        )
        * 4
        for seed in range(40)
    ]
    assert np.max(grown) <= 2 * 40 and np.min(grown) >= -2 * 40
    assert np.max(grown) > 30 and np.min(grown) < -15


def test_the_tumor_is_no_longer_in_the_middle() -> None:
    phantom = ct_phantom(GRID)
    middles = []
    for seed in range(40):
        _, mask = reframe(phantom.scan, phantom.lesion, AIR_HU, np.random.default_rng(seed))
        middles.append((np.argwhere(mask.array).mean(0) + 0.5) / mask.array.shape)
    assert np.std(middles, axis=0).min() > 0.08


def test_a_tumor_at_the_edge_is_not_cut() -> None:
    array = np.zeros(GRID.shape, np.uint8)
    array[0, 0, 0] = array[-1, -1, -1] = 1
    mask, scan = Volume(array, GRID), ct_phantom(GRID).scan
    for seed in range(10):
        assert reframe(scan, mask, AIR_HU, np.random.default_rng(seed))[1].array.sum() == 2


def test_an_empty_mask_has_no_frame() -> None:
    scan = ct_phantom(GRID).scan
    with pytest.raises(InputError, match="The tumor mask is empty"):
        reframe(scan, scan.with_array(np.zeros(GRID.shape, np.uint8)), AIR_HU, np.random.default_rng(0))
