"""The file of a cache: it comes back as it was, and another scan's or a damaged one is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from phantoms import Phantom, ct_phantom, grid

from DiffuGTSLib.cache import Cache, cache_bytes, read_cache
from DiffuGTSLib.errors import GeometryError, InputError


@pytest.fixture(scope="module")
def a_body() -> Phantom:
    """A phantom of 6480 voxels."""
    return ct_phantom(grid((18, 20, 18), (6.0, 5.0, 6.0)))


@pytest.fixture
def a_cache() -> Cache:
    """Any numbers."""
    latent, aova = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2), np.full((2, 2, 2), 0.5, np.float32)
    return Cache(latent, aova, 0.75, {"scan": "abc"}, aova > 0.4)


def test_a_cache_comes_back_with_its_region(a_body: Phantom, a_cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(cache_bytes(a_cache, a_body.organ, "this scan"))
    back, region = read_cache(tmp_path / "cache", a_body.scan.geometry, "this scan")
    assert back is not None and region is not None
    assert np.array_equal(back.latent, a_cache.latent) and np.array_equal(back.aova, a_cache.aova)
    assert back.organ is not None and back.organ.dtype == bool and back.organ.all()
    assert (back.anomaly_score, back.made_of) == (0.75, {"scan": "abc"})
    assert np.array_equal(region.array, a_body.organ.array)


def test_a_score_that_does_not_exist_survives_the_cache(a_body: Phantom, a_cache: Cache, tmp_path: Path) -> None:
    unknown = dataclasses.replace(a_cache, anomaly_score=math.nan, organ=None)
    (tmp_path / "cache").write_bytes(cache_bytes(unknown, None, "x"))
    back, region = read_cache(tmp_path / "cache", a_body.scan.geometry, "x")
    assert back is not None and math.isnan(back.anomaly_score) and region is None and back.organ is None


def test_no_file_is_no_cache_and_no_error(a_body: Phantom, tmp_path: Path) -> None:
    assert read_cache(tmp_path / "none", a_body.scan.geometry, "x") == (None, None)


def test_a_cache_of_something_else_or_none_at_all_is_refused(a_body: Phantom, a_cache: Cache, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes(cache_bytes(a_cache, a_body.organ, "that scan"))
    with pytest.raises(InputError, match="belongs to another scan") as caught:
        read_cache(path, a_body.scan.geometry, "this scan")
    assert caught.value.code == "cache_other"
    with pytest.raises(GeometryError, match="has room for 6480 voxels, the scan has 27"):
        read_cache(path, grid((3, 3, 3)), "that scan")
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="is damaged") as caught:
        read_cache(path, a_body.scan.geometry, "that scan")
    assert caught.value.code == "cache"
