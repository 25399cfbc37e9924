"""The cases of a protocol: which can be scored, and the frame that must not tell where the tumor is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mini_data import GRID, write_case
from phantoms import ct_phantom, grid, mr_phantom, orientations, write_dicom

from DiffuGTSLib.datasets.protocol import Case
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.evaluation.protocol_cases import (
    AIR_HU,
    BaselineRules,
    choose_cases,
    is_healthy,
    read_case,
    reframe,
)
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.hounsfield import in_hounsfield
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


def test_what_was_said_of_a_scans_values_holds_in_another_frame() -> None:
    """A frame may cut all air away: nothing in the values says then that they are HU."""
    phantom = ct_phantom()
    scan, _ = reframe(in_hounsfield(phantom.scan, 0), phantom.lesion, AIR_HU, np.random.default_rng(0))
    assert (scan.offset_hu, scan.modality) == (0, "CT")


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
        _, mask = reframe(phantom.scan, phantom.lesion, AIR_HU, np.random.default_rng(seed))
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
    with pytest.raises(InputError, match="The tumor mask is empty") as caught:
        reframe(scan, scan.with_array(np.zeros(GRID.shape, np.uint8)), AIR_HU, np.random.default_rng(0))
    assert "tumor_values" in caught.value.hint


# Which cases, and how they are read


def a_case(**keys: Any) -> Case:
    return Case(
        **{"name": "a", "patient": "a", "split": "test", "modality": "CT", "image": "a", "organ": "liver", **keys}
    )


@pytest.mark.parametrize(
    ("keys", "healthy"),
    [
        ({}, True),
        ({"tumor": "t"}, False),
        ({"organ": ""}, False),
        ({"modality": "labels"}, False),
        ({"healthy_only_in": ["lung"]}, False),
        ({"unmarked_near": {"liver": 0.0}}, False),
    ],
)
def test_a_scan_is_healthy_where_nothing_says_that_it_is_ill(keys: dict[str, Any], healthy: bool) -> None:
    assert is_healthy(a_case(**keys)) == healthy


def test_cases_are_chosen_that_can_be_scored() -> None:
    ill, well, unsure = a_case(tumor="t"), a_case(name="b"), a_case(name="c", healthy_only_in=["liver"])
    other = a_case(name="d", split="train", tumor="t")
    assert choose_cases([ill, well, unsure, other], "test") == [ill, well]
    with pytest.raises(InputError, match="were trained on") as caught:
        choose_cases([other], "train")
    assert caught.value.code == "leakage"
    assert choose_cases([other], "train", allow_seen=True) == [other]
    with pytest.raises(InputError, match="no case with a mask in split 'test'"):
        choose_cases([well], "test")


def test_a_dicom_series_is_read_as_any_scan(tmp_path: Path) -> None:
    phantom = ct_phantom(GRID)
    write_dicom(phantom.scan, tmp_path / "series")
    read = read_case(a_case(image="series"), tmp_path)
    assert read.scan.geometry.difference(phantom.scan.geometry) == "" and not read.mask.array.any()
    assert np.allclose(read.scan.array, np.round(phantom.scan.array), atol=1)
    assert list(read.digests) == ["series"] and len(read.digests["series"]) == 64


def test_a_scan_that_is_framed_on_its_tumor_is_read_in_the_same_other_frame_every_time(tmp_path: Path) -> None:
    row = write_case(tmp_path, "a", ct_phantom(GRID), "test", framed_on_tumor=True)
    once, twice = (read_case(Case(**row), tmp_path) for _ in range(2))
    assert once.scan.geometry.shape != GRID.shape and np.array_equal(once.scan.array, twice.scan.array)
    assert once.mask.geometry.difference(once.scan.geometry) == ""


def test_the_threshold_is_chosen_on_training_cases_alone(tmp_path: Path) -> None:
    rows = [write_case(tmp_path, name, mr_phantom(GRID), split) for name, split in (("a", "train"), ("b", "test"))]
    rules = BaselineRules([Case(**row) for row in rows], tmp_path)
    (tmp_path / "b" / "tumor.nii.gz").unlink()
    assert rules.of("MR").percentile is not None and rules.of("MR") is rules.of("MR")
    assert rules.of("CT").percentile is None, "no training case: Otsu"
