"""A segmenter over a whole scan: windows, the source grid, and what post-processing leaves out."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from phantoms import ct_phantom, grid, mr_phantom, reoriented

from DiffuGTSLib.backbones.weights import save_module
from DiffuGTSLib.config import CanonicalConfig
from DiffuGTSLib.errors import ConfigError, GeometryError, WeightsError
from DiffuGTSLib.supervised.networks import Segmenter
from DiffuGTSLib.supervised.prediction import (
    PostProcessing,
    TrainedSegmenter,
    class_probs,
    find_segmenter,
    load_segmenter,
    post_process,
    predict,
    save_segmenter,
)
from DiffuGTSLib.volumes import to_canonical

RAW = PostProcessing(minimum_radius_mm=0.0)
MILLIMETER = (1.0, 1.0, 1.0)


def a_segmenter(side: int = 32, spacing_mm: float = 4.0, seed: int = 0) -> TrainedSegmenter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Segmenter("unet", channels=(4, 8, 8)).eval()
    config = CanonicalConfig(spacing_mm=spacing_mm, minimum_side=side, ct_knots_hu=(-175.0, 250.0))
    return TrainedSegmenter(network, config, side)


class Thresholder(torch.nn.Module):
    """Gives tumor above 0.6, organ above 0.3: what it says is known at every voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.dummy = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits of near certainty."""
        classes = (image > 0.3).long() + (image > 0.6).long()
        return 20 * torch.nn.functional.one_hot(classes[:, 0], 3).movedim(-1, 1).float() + 0 * self.dummy


def a_thresholder(side: int = 32, spacing_mm: float = 2.0) -> TrainedSegmenter:
    trained = a_segmenter(side, spacing_mm)
    trained.network.net = Thresholder()
    return trained


def test_one_window_is_the_network_itself() -> None:
    trained = a_segmenter(side=32)
    scan = to_canonical(ct_phantom(grid((28, 26, 30), (4.0, 4.0, 4.0))).scan, trained.grid, "CT")
    assert scan.image.shape == (32, 32, 32)
    with torch.no_grad():
        direct = trained.network(torch.from_numpy(scan.image)[None, None]).softmax(dim=1)[0].numpy()
    assert np.allclose(class_probs(trained, scan), direct, atol=1e-6)


@pytest.mark.slow
def test_a_scan_of_96_is_seen_as_the_published_networks_see_a_window() -> None:
    network = Segmenter("unet").eval()
    trained = TrainedSegmenter(network, CanonicalConfig(spacing_mm=1.0, minimum_side=96), 96)
    scan = to_canonical(ct_phantom(grid((96, 90, 96), MILLIMETER), noise_hu=20).scan, trained.grid, "CT")
    with torch.no_grad():
        direct = network(torch.from_numpy(scan.image)[None, None]).softmax(dim=1)[0].numpy()
    for overlap in (0.5, 0.75):
        assert np.allclose(class_probs(trained, scan, overlap), direct, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_of_any_overlap_cover_every_voxel(overlap: float) -> None:
    trained = a_thresholder()
    scan = to_canonical(ct_phantom().scan, trained.grid, "CT")
    probs = class_probs(trained, scan, overlap)
    found = probs.argmax(axis=0)
    assert np.array_equal(found, (scan.image > 0.3).astype(int) + (scan.image > 0.6))
    assert np.allclose(probs.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("orientation", list(itertools.islice(itertools.permutations(range(3)), 6)))
def test_the_answer_lies_on_the_grid_of_the_scan(orientation: tuple[int, int, int]) -> None:
    phantom = ct_phantom(grid((50, 48, 32), (2.0, 2.2, 3.5), degrees=(5, -8, 3)))
    turned = np.eye(3)[:, orientation] * (1, -1, 1)
    scan = reoriented(phantom.scan, turned)
    result = predict(a_thresholder(), scan, "CT", post=RAW)
    assert result.labels.geometry.difference(scan.geometry) == "" and result.labels.array.dtype == np.uint8
    assert result.tumor_probs.geometry.difference(scan.geometry) == ""
    organ = reoriented(phantom.organ, turned).array > 0
    found = result.labels.array == 2  # the organ, the lesion in it left out, and the spine
    lesion = reoriented(phantom.lesion, turned).array > 0
    assert found[organ & ~lesion].mean() > 0.9 and found[lesion & organ].mean() < 0.15


def test_mr_is_seen_too() -> None:
    result = predict(a_thresholder(), mr_phantom().scan, "MR", post=RAW)
    assert set(np.unique(result.labels.array)) <= {0, 1, 2} and result.labels.array.any()


def test_an_organ_mask_replaces_the_networks_organ_and_holds_every_tumor() -> None:
    phantom = ct_phantom()
    free = predict(a_thresholder(), phantom.scan, "CT", post=RAW).labels.array
    held = predict(a_thresholder(), phantom.scan, "CT", organ=phantom.organ, post=RAW).labels.array
    organ = phantom.organ.array > 0
    assert (free[~organ] == 2).any() and np.array_equal(held > 0, organ)
    assert np.array_equal(held == 2, (free == 2) & organ)


def test_an_organ_mask_on_another_grid_is_refused_before_anything_is_computed() -> None:
    with pytest.raises(GeometryError, match="organ mask and the scan lie on different grids"):
        predict(a_thresholder(), ct_phantom().scan, "CT", organ=ct_phantom(grid((20, 20, 20))).organ)


def test_an_overlap_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"overlap of 0 to 0\.9, got 1"):
        predict(a_thresholder(), ct_phantom().scan, "CT", overlap=1.0)


def ball(radius_mm: float, spacing_mm: tuple[float, float, float] = (0.5, 0.5, 0.5), side: int = 24) -> np.ndarray:
    axes = [(np.arange(side) - (side - 1) / 2) * s for s in spacing_mm]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.where(x**2 + y**2 + z**2 <= radius_mm**2, 2, 0).astype(np.uint8)


@pytest.mark.parametrize(("radius_mm", "kept"), [(2.9, False), (3.1, True)])
def test_tumors_smaller_than_a_ball_of_3_mm_are_dropped(radius_mm: float, kept: bool) -> None:
    labels = ball(radius_mm)
    found = post_process(labels, (0.5, 0.5, 0.5), PostProcessing())
    assert (found == 2).any() == kept
    assert np.array_equal(found > 0, labels > 0), "a dropped tumor is still part of its organ"


def test_voxels_that_touch_at_a_corner_are_one_tumor() -> None:
    """Two cubes of 4 mm side have 64 mm³ each, less than the 113 mm³ of the smallest tumor, and 128 mm³ together."""
    labels = np.zeros((10, 10, 10), dtype=np.uint8)
    labels[1:5, 1:5, 1:5] = labels[5:9, 5:9, 5:9] = 2
    assert (post_process(labels, MILLIMETER, PostProcessing()) == 2).sum() == 128
    labels[5:9, 5:9, 5:9] = 0
    labels[6:10, 6:10, 6:10] = 2
    assert not (post_process(labels, MILLIMETER, PostProcessing()) == 2).any()


def test_only_the_largest_organ_is_kept_its_tumor_counted_to_it() -> None:
    labels = np.zeros((30, 12, 12), dtype=np.uint8)
    labels[1:7, 1:11, 1:11] = 1
    labels[7:11, 1:11, 1:11] = 2  # 6 slices of organ and 4 of tumor are one organ of 10
    labels[16:25, 1:11, 1:11] = 1
    found = post_process(labels, MILLIMETER, PostProcessing(largest_organ=True))
    assert (found[:11] == labels[:11]).all() and not found[11:].any()
    assert np.array_equal(post_process(labels, MILLIMETER, PostProcessing()), labels)


def test_a_tumor_out_of_reach_of_the_organ_is_dropped() -> None:
    labels = np.zeros((60, 12, 12), dtype=np.uint8)
    labels[1:9, 2:10, 2:10] = 1
    labels[20:28, 2:10, 2:10] = labels[42:50, 2:10, 2:10] = 2
    found = post_process(labels, MILLIMETER, PostProcessing(largest_organ=True, reach_mm=30.0))
    assert (found == 2).any(axis=(1, 2)).nonzero()[0].tolist() == list(range(20, 28))
    near = post_process(labels, (0.5, 1.0, 1.0), PostProcessing(reach_mm=30.0))
    assert (near == 2).sum() == 2 * 8**3, "the reach is in mm"


def test_nothing_found_stays_nothing() -> None:
    nothing = np.zeros((8, 8, 8), dtype=np.uint8)
    wish = PostProcessing(largest_organ=True, reach_mm=30.0)
    assert not post_process(nothing, MILLIMETER, wish).any()


@pytest.mark.parametrize("wish", [{"minimum_radius_mm": -1.0}, {"reach_mm": -1.0}])
def test_a_negative_length_is_refused(wish: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Expected 0 mm or more"):
        PostProcessing(**wish)  # type: ignore[arg-type]


def test_a_segmenter_comes_back_with_its_grid(tmp_path: Path) -> None:
    trained = a_segmenter()
    save_segmenter(trained, tmp_path / "segmenter" / "model")
    for folder in (tmp_path / "segmenter" / "model", tmp_path / "segmenter", tmp_path):
        assert find_segmenter(folder) == tmp_path / "segmenter" / "model"
    back = load_segmenter(tmp_path)
    assert back.grid == trained.grid and back.window_voxels == 32
    scan = to_canonical(ct_phantom(grid((28, 26, 30), (4.0, 4.0, 4.0))).scan, trained.grid, "CT")
    assert np.array_equal(class_probs(back, scan), class_probs(trained, scan))


def test_a_segmenter_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    save_segmenter(replace(a_segmenter(), modalities=("CT", "MR"), organs=("liver", "lung")), tmp_path)
    back = load_segmenter(tmp_path)
    assert back.modalities == ("CT", "MR") and back.organs == ("liver", "lung")


def test_a_segmenter_whose_weights_are_others_is_refused(tmp_path: Path) -> None:
    save_segmenter(a_segmenter(), tmp_path)
    other = a_segmenter(seed=1)
    save_module(other.network, tmp_path)
    with pytest.raises(WeightsError, match="is not the file that checksums.json names"):
        load_segmenter(tmp_path)
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(WeightsError, match=r"checksums\.json"):
        load_segmenter(tmp_path)
    save_segmenter(a_segmenter(), tmp_path)
    load_segmenter(tmp_path)


def test_a_folder_without_a_segmenter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no segmenter in"):
        load_segmenter(tmp_path)


@pytest.mark.parametrize(
    "content", [{}, {"canonical": {"mm": 1}, "window_voxels": 32}, {"canonical": 3, "window_voxels": 3}]
)
def test_a_grid_file_that_is_none_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    save_segmenter(a_segmenter(), tmp_path)
    (tmp_path / "grid.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="does not describe a grid"):
        load_segmenter(tmp_path)
