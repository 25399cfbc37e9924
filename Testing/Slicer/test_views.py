"""What the radiologist sees: pictures of the demo scan with results, drawn by Slicer's own displayable managers.

Set DIFFUGTS_UPDATE_PICTURES=1 to draw the pictures in `pictures/` anew, and look at them before they are committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import display, slice_views
from DiffuGTSSlicer.findings import Findings
from PIL import Image
from results_on_demo import Results, results_on

PICTURES = Path(__file__).parent / "pictures"
SIDE = 200


@pytest.fixture
def a_result(a_demo_scan, tmp_path) -> Results:
    """The demo scan with results, the largest finding in the middle of every view."""
    results = results_on(a_demo_scan, tmp_path)
    manager = slicer.app.layoutManager()
    slice_views.setOverlay(results.scan)
    for name in manager.sliceViewNames():
        manager.sliceWidget(name).resize(SIDE, SIDE)
    manager.resetSliceViews()
    Findings(results.segmentation, results.segment_id, results.scan).jump(1)
    slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode").SetCrosshairMode(0)
    return results


def picture(view: str) -> np.ndarray:
    """Return what a slice view shows, as whole numbers that can be subtracted."""
    return slicer.app.layoutManager().sliceWidget(view).picture().astype(int)


def colored(pixels: np.ndarray) -> np.ndarray:
    """Return where a picture is not gray."""
    return np.ptp(pixels, axis=-1) > 20


def alike(name: str, pixels: np.ndarray) -> bool:
    """Compare with the kept picture: renderers differ in a pixel's shade and in the edge of a letter."""
    path = PICTURES / f"{name}.png"
    if os.environ.get("DIFFUGTS_UPDATE_PICTURES"):
        Image.fromarray(pixels.astype(np.uint8)).quantize(64).save(path, optimize=True)
    kept = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert path.stat().st_size < 60_000
    difference = np.abs(pixels - kept).max(axis=-1)
    return kept.shape == pixels.shape and difference.mean() < 12 and (difference > 60).mean() < 0.02


def mask_in(results: Results, view: str, level: np.ndarray) -> np.ndarray:
    """Return where in a view the scan's voxels satisfy something, by asking the view's own geometry, pixel by pixel."""
    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    to_ras = slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())
    ijk = np.linalg.inv(_matrix(results.scan)) @ to_ras
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    points = ijk[:3, :2] @ np.stack([x.ravel(), y.ravel()]) + ijk[:3, 3:]
    nearest = np.rint(points).astype(int)
    inside = ((nearest >= 0) & (nearest < np.array(level.shape)[:, None])).all(axis=0)
    shown = np.zeros(SIDE * SIDE, bool)
    shown[inside] = level[tuple(nearest[:, inside])]
    return shown.reshape(SIDE, SIDE)[::-1]


def _matrix(node: Any) -> np.ndarray:
    from scene_parts import matrix_of

    return matrix_of(node)


def test_the_scan_alone_is_gray(a_result) -> None:
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    assert not colored(picture("Red")).any()
    assert np.ptp(picture("Red")) > 150


@pytest.mark.parametrize("view", ["Red", "Green", "Yellow"])
def test_the_overlay_covers_exactly_what_lies_above_the_threshold(a_result, view) -> None:
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    slice_views.setOverlay(a_result.scan, a_result.aova, 1.0)
    a_result.aova.GetDisplayNode().InterpolateOff()
    for threshold in (0.3, 0.6):
        display.setThreshold(a_result.aova, threshold)
        expected = mask_in(a_result, view, a_result.maps["aova"] >= np.float32(threshold))
        shown = colored(picture(view))
        assert expected.sum() > 200
        assert (shown & expected).sum() > 0.9 * expected.sum()  # Inferno's darkest and lightest are nearly gray
        assert (shown & ~expected).sum() < 0.02 * expected.sum() + 10


def test_the_opacity_mixes_the_overlay_into_the_scan(a_result) -> None:
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    bare = picture("Red")
    slice_views.setOverlay(a_result.scan, a_result.aova, 1.0)
    full = picture("Red")
    slice_views.setOverlay(a_result.scan, a_result.aova, 0.5)
    half = picture("Red")
    assert np.abs(half - (bare + full) / 2).max() <= 2
    slice_views.setOverlay(a_result.scan)
    assert np.array_equal(picture("Red"), bare)


def test_the_outline_of_the_tumor_runs_around_the_mask(a_result) -> None:
    pixels = picture("Red")
    line = (pixels[..., 0] - pixels[..., 1] > 60) & (pixels[..., 0] - pixels[..., 2] > 60)
    inside = mask_in(a_result, "Red", a_result.mask > 0)
    rows, columns = np.nonzero(line)
    expected_rows, expected_columns = np.nonzero(inside)
    assert 40 < line.sum() < 600
    for found, wanted in ((rows, expected_rows), (columns, expected_columns)):
        assert abs(found.min() - wanted.min()) <= 3 and abs(found.max() - wanted.max()) <= 3


def test_a_dropped_finding_vanishes_from_the_views(a_result) -> None:
    with_tumor = colored(picture("Red")).sum()  # the outline
    table = Findings(a_result.segmentation, a_result.segment_id, a_result.scan)
    for row in table.rows:
        table.keep(row.number, False)
    assert with_tumor > 100 and not colored(picture("Red")).any()
    table.keep(1, True)
    assert colored(picture("Red")).sum() > 0.8 * with_tumor


def test_overlay_outline_and_legend_look_as_they_did(a_result) -> None:
    slice_views.setOverlay(a_result.scan, a_result.aova, 0.6)
    before = picture("Red")
    display.setLegend(a_result.aova, True)
    with_legend = picture("Red")
    changed = np.abs(with_legend - before).max(axis=-1) > 30
    columns = np.nonzero(changed)[1]
    assert len(columns) > 300 and np.median(columns) > 0.7 * SIDE  # a bar on the right
    display.setLegend(a_result.aova, False)
    assert np.array_equal(picture("Red"), before)
    assert alike("overlay", before)


def test_side_by_side_shows_the_same_place_once_with_and_once_without_the_tumor(a_result) -> None:
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    slice_views.setLayout("side by side", a_result.scan, a_result.healthy)
    left, right = picture("Red"), picture("Yellow")
    inside = mask_in(a_result, "Red", a_result.mask > 0)
    outside = ~mask_in(a_result, "Red", a_result.maps["aova"] > 0.05)
    assert np.abs(left - right)[outside].max() <= 2
    assert left[inside].mean() - right[inside].mean() > 60
    assert alike("side_by_side", np.concatenate([left, right], axis=1))


def test_rocking_goes_from_the_scan_to_its_twin_and_back(a_result) -> None:
    a_result.segmentation.GetDisplayNode().SetVisibility(False)
    inside = mask_in(a_result, "Red", a_result.mask > 0)
    brightness = []
    for phase in (0, 0.25, 0.5, 1):
        slice_views.setOverlay(a_result.scan, a_result.healthy, slice_views.rock(phase))
        brightness.append(picture("Red")[inside].mean())
    assert brightness[0] == pytest.approx(brightness[3]) and brightness[0] > brightness[1] > brightness[2]


def test_the_tumor_stands_in_3d_in_its_color(a_result) -> None:
    view = slicer.app.layoutManager().threeDWidget(0)
    view.resize(SIDE, SIDE)
    view.lookFrom("Anterior")
    empty = view.picture().astype(int)
    assert display.show3D(a_result.segmentation, True)
    view.lookFrom("Anterior")
    pixels = view.picture().astype(int)
    red = (pixels[..., 0] > pixels[..., 2] + 20) & (pixels[..., 0] > 60)
    assert red.sum() > 2000 and not ((empty[..., 0] > empty[..., 2] + 20) & (empty[..., 0] > 60)).any()
    assert alike("surface", pixels)
