"""What the display of results says about itself, and what the views are told; the pictures are in test_views.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer
from DiffuGTSSlicer import display, scene, slice_views
from phantoms import grid
from scene_parts import TURNED, blob, linear_transform, noise, scan_node, set_segment_mask, under

from DiffuGTSLib.errors import InputError
from DiffuGTSLib.volumes import Geometry

GRID = grid((20, 24, 16), (1.1, 0.7, 2.5), degrees=(11, -7, 23))


@pytest.fixture
def a_scan(a_scene) -> Any:
    """A small CT with a window of its own."""
    node = scan_node(GRID, noise(GRID))
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevel(1500, -600)
    return node


@pytest.fixture
def a_map(a_scan) -> Any:
    """A map of 0, 0.25, 0.5, 0.75 and 1 on its grid."""
    return scan_node(GRID, (noise(GRID, 3) % 5 / 4).astype(np.float32), "AOVA")


@pytest.fixture
def a_twin(a_scan) -> Any:
    """A pseudo-healthy image on its grid."""
    return scan_node(GRID, noise(GRID, 4).astype(np.float32), "Scan pseudo-healthy")


@pytest.fixture
def no_layout_manager(monkeypatch) -> None:
    """Slicer as its own tests start it: without a main window."""
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)


def layers(view: str) -> Any:
    return slicer.app.layoutManager().sliceWidget(view).mrmlSliceCompositeNode()


def plane(view: str) -> Any:
    return slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()


def test_an_aova_map_is_colored_from_0_to_1_and_shows_from_its_threshold_up(a_map) -> None:
    display.showAova(a_map, 0.5)
    node = a_map.GetDisplayNode()
    assert not node.GetAutoWindowLevel() and (node.GetWindowLevelMin(), node.GetWindowLevelMax()) == (0, 1)
    assert node.GetApplyThreshold() and not node.GetAutoThreshold()
    assert (node.GetLowerThreshold(), node.GetUpperThreshold()) == (0.5, 1.0)
    assert node.GetColorNodeID() == display.INFERNO


def test_without_slicers_table_there_is_one_of_ours_and_only_one(a_scene, a_map, monkeypatch) -> None:
    monkeypatch.setattr(display, "INFERNO", "vtkMRMLColorTableNodeThatIsMissing")
    other = scan_node(GRID, np.zeros(GRID.shape, np.float32))
    display.showAova(a_map, 0.5)
    display.showResidual(other)
    own = a_map.GetDisplayNode().GetColorNode()
    assert own.GetName() == display.OWN_COLORS and other.GetDisplayNode().GetColorNode() is own
    colors = own.GetColorTransferFunction()
    light = [np.dot(colors.GetColor(x), (0.2126, 0.7152, 0.0722)) for x in np.linspace(0, 1, 21)]
    assert np.all(np.diff(light) > 0)  # dark to light, all the way


def test_a_residual_shows_what_changed_at_all_noticeably(a_map) -> None:
    display.showResidual(a_map)
    assert a_map.GetDisplayNode().GetLowerThreshold() == pytest.approx(0.1)
    assert (a_map.GetDisplayNode().GetWindowLevelMin(), a_map.GetDisplayNode().GetWindowLevelMax()) == (0, 1)


@pytest.mark.parametrize(
    ("value", "values"), [(0.0, (0, 1, 2, 3, 4)), (0.25, (1, 2, 3, 4)), (0.6, (3, 4)), (1.0, (4,))]
)
def test_the_threshold_says_how_many_voxels_it_leaves(a_map, value, values) -> None:
    array = slicer.util.arrayFromVolume(a_map)
    display.setThreshold(a_map, value)
    assert display.voxelsFrom(a_map, value) == np.isin(array, np.array(values) / 4).sum() > 0
    assert a_map.GetDisplayNode().GetLowerThreshold() == value


def test_a_threshold_that_half_precision_of_a_slider_blurs_counts_what_the_view_draws(a_map) -> None:
    slicer.util.updateVolumeFromArray(a_map, np.full(GRID.shape[::-1], 0.7, np.float32))
    assert display.voxelsFrom(a_map, 0.7) == np.prod(GRID.shape)


def test_the_twin_looks_as_its_scan_and_says_that_it_is_synthetic(a_scan, a_twin) -> None:
    display.styleSynthetic(a_twin, a_scan)
    assert (a_twin.GetDisplayNode().GetWindow(), a_twin.GetDisplayNode().GetLevel()) == (1500, -600)
    assert not a_twin.GetDisplayNode().GetAutoWindowLevel()
    assert a_twin.GetName() == "Scan pseudo-healthy (synthetic)"
    assert display.isSynthetic(a_twin) and not display.isSynthetic(a_scan) and not display.isSynthetic(None)
    assert "not for diagnosis" in a_twin.GetDescription()
    display.styleSynthetic(a_twin, a_scan)
    assert a_twin.GetName().count("synthetic") == 1


def test_a_scan_without_a_display_leaves_the_twin_its_own(a_scan, a_twin) -> None:
    slicer.mrmlScene.RemoveNode(a_scan.GetDisplayNode())
    display.styleSynthetic(a_twin, a_scan)
    assert display.isSynthetic(a_twin)


def test_the_legend_says_what_it_is_of_and_can_be_hidden(a_map) -> None:
    display.showAova(a_map, 0.5)
    logic = slicer.modules.colors.logic()
    display.setLegend(a_map, False)
    assert logic.GetColorLegendDisplayNode(a_map) is None
    display.setLegend(a_map, True)
    legend = logic.GetColorLegendDisplayNode(a_map)
    assert legend.GetVisibility() and legend.GetTitleText() == "AOVA"
    display.setLegend(a_map, False)
    assert not legend.GetVisibility()
    display.setLegend(a_map, True)
    assert logic.GetColorLegendDisplayNode(a_map) is legend and legend.GetVisibility()


def test_an_overlay_lies_over_the_scan_in_every_view_and_can_be_taken_off(a_scan, a_map) -> None:
    slice_views.setOverlay(a_scan, a_map, 0.4)
    for view in ("Red", "Green", "Yellow"):
        assert layers(view).GetBackgroundVolumeID() == a_scan.GetID()
        assert layers(view).GetForegroundVolumeID() == a_map.GetID()
        assert layers(view).GetForegroundOpacity() == pytest.approx(0.4)
    slice_views.setOverlay(a_scan)
    assert layers("Green").GetForegroundVolumeID() is None


def middle_of(view: str) -> np.ndarray:
    to_ras = plane(view).GetXYToRAS()
    width, height, _ = plane(view).GetDimensions()
    return np.array(to_ras.MultiplyPoint((width / 2, height / 2, 0, 1))[:3])


def far_away(offset_mm: tuple[float, float, float]) -> Any:
    """A scan of another patient, elsewhere in the scanner."""
    matrix = GRID.ijk_to_ras.copy()
    matrix[:3, 3] += offset_mm
    return scan_node(Geometry(GRID.shape, matrix), noise(GRID, 5), "Far")


@pytest.mark.parametrize("offset_mm", [(0, 0, 500.0), (700.0, 0, 0), (-300, 400, -900.0)])
def test_a_view_goes_to_a_scan_that_lies_elsewhere(a_scan, a_map, offset_mm) -> None:
    far = far_away(offset_mm)
    slice_views.setOverlay(a_scan, a_map)
    before = middle_of("Red")
    slice_views.setOverlay(far, None)
    bounds = [0.0] * 6
    far.GetRASBounds(bounds)
    for view in ("Red", "Green", "Yellow"):
        assert np.all(middle_of(view) >= bounds[0::2]) and np.all(middle_of(view) <= bounds[1::2]), view
    slice_views.setOverlay(a_scan, a_map)
    assert np.linalg.norm(middle_of("Red") - before) < 30


def test_a_view_stays_where_the_user_has_put_it(a_scan, a_map) -> None:
    near = far_away((3.0, -2.0, 4.0))
    slice_views.setOverlay(a_scan, a_map)
    plane("Red").SetSliceOffset(28.0)
    plane("Red").SetFieldOfView(40, 40, 1)
    before = (middle_of("Red"), plane("Red").GetFieldOfView())

    def assert_still() -> None:
        assert np.allclose(middle_of("Red"), before[0]) and plane("Red").GetFieldOfView() == before[1]

    slice_views.setOverlay(near, a_map)
    assert_still()
    slice_views.jumpTo((900.0, 900.0, 900.0))
    before = (middle_of("Red"), plane("Red").GetFieldOfView())
    for overlay, opacity in ((None, 0.5), (a_map, 0.5), (a_map, 0.9)):
        slice_views.setOverlay(near, overlay, opacity)
        assert_still()


def test_views_without_a_logic_get_their_layers_all_the_same(a_scan, a_map) -> None:
    slice_views.setOverlay(a_scan, a_map)
    logics = slicer.app.applicationLogic().GetSliceLogics()
    kept = [logics.GetItemAsObject(index) for index in range(logics.GetNumberOfItems())]
    logics.RemoveAllItems()
    far = far_away((0, 0, 500.0))
    slice_views.setOverlay(far)
    assert layers("Red").GetBackgroundVolumeID() == far.GetID()
    for logic in kept:
        logics.AddItem(logic)


def test_layouts_have_names(a_scan) -> None:
    manager = slicer.app.layoutManager()
    for name, views in (
        ("overlay", ("Red",)),
        ("side by side", ("Red", "Yellow")),
        ("four up", ("Red", "Green", "Yellow")),
    ):
        slice_views.setLayout(name)
        assert set(manager.sliceViewNames()) == set(views), name
    with pytest.raises(InputError, match="Unknown layout 'four-up'") as refusal:
        slice_views.setLayout("four-up")
    assert "did you mean 'four up'" in refusal.value.hint


def test_side_by_side_shows_the_twin_in_the_same_plane_and_moves_with_it(a_scan, a_map, a_twin) -> None:
    slice_views.setOverlay(a_scan, a_map, 0.4)
    plane("Red").SetSliceOffset(12.0)
    before = (layers("Red").GetLinkedControl(), layers("Red").GetHotLinkedControl())
    slice_views.setLayout("side by side", a_scan, a_twin)
    assert layers("Red").GetForegroundVolumeID() == a_map.GetID()
    assert layers("Yellow").GetBackgroundVolumeID() == a_twin.GetID()
    assert layers("Yellow").GetForegroundVolumeID() is None
    assert plane("Yellow").GetOrientation() == "Axial" and plane("Yellow").GetSliceOffset() == pytest.approx(12.0)
    assert np.allclose(plane("Yellow").GetFieldOfView(), plane("Red").GetFieldOfView())
    for view in ("Red", "Yellow"):
        assert layers(view).GetLinkedControl() and layers(view).GetHotLinkedControl()
    slice_views.setOverlay(a_scan, a_map, 0.9)  # the twin stays bare
    assert layers("Yellow").GetBackgroundVolumeID() == a_twin.GetID()
    assert layers("Yellow").GetForegroundVolumeID() is None
    slice_views.setLayout("side by side", a_scan, a_twin)  # again changes nothing
    slice_views.setLayout("four up", a_scan)
    assert plane("Yellow").GetOrientation() == "Sagittal"
    assert layers("Yellow").GetBackgroundVolumeID() == a_scan.GetID()
    assert layers("Yellow").GetForegroundVolumeID() == a_map.GetID()
    assert layers("Yellow").GetForegroundOpacity() == pytest.approx(0.9)
    assert (layers("Red").GetLinkedControl(), layers("Red").GetHotLinkedControl()) == before


def test_a_prior_stays_in_its_view_unless_every_view_is_meant(a_scan, a_map, a_twin) -> None:
    prior = scan_node(GRID, noise(GRID, 5), "Prior")
    display.styleSynthetic(a_twin, a_scan)
    slice_views.setOverlay(a_scan)
    layers("Yellow").SetBackgroundVolumeID(prior.GetID())
    layers("Green").SetBackgroundVolumeID(a_twin.GetID())
    slice_views.setOverlay(a_scan, a_map, isEverywhere=False)
    shown = [layers(view).GetBackgroundVolumeID() for view in ("Red", "Green", "Yellow")]
    assert shown == [a_scan.GetID(), a_scan.GetID(), prior.GetID()]
    assert layers("Red").GetForegroundVolumeID() == a_map.GetID() and not layers("Yellow").GetForegroundVolumeID()
    for view in ("Red", "Green"):
        layers(view).SetBackgroundVolumeID(prior.GetID())
    slice_views.setOverlay(a_scan, a_map, isEverywhere=False)
    assert layers("Yellow").GetBackgroundVolumeID() == a_scan.GetID(), "a map that is seen nowhere is of no use"
    layers("Yellow").SetBackgroundVolumeID(prior.GetID())
    slice_views.setOverlay(a_scan, a_map)
    assert layers("Yellow").GetBackgroundVolumeID() == a_scan.GetID()


@pytest.mark.parametrize("put", ["before", "meanwhile"])
def test_a_prior_is_in_the_right_view_after_a_comparison_too(a_scan, a_map, a_twin, put: str) -> None:
    prior = scan_node(GRID, noise(GRID, 5), "Prior")
    slice_views.setOverlay(a_scan, a_map)
    if put == "before":
        layers("Yellow").SetBackgroundVolumeID(prior.GetID())
    slice_views.setLayout("side by side", a_scan, a_twin)
    if put == "meanwhile":
        layers("Yellow").SetBackgroundVolumeID(prior.GetID())
    slice_views.setLayout("four up", a_scan)
    assert layers("Yellow").GetBackgroundVolumeID() == prior.GetID() and not slice_views.isCompared()
    assert not layers("Yellow").GetForegroundVolumeID()


@pytest.mark.parametrize("orientation", ["oblique", "Coronal"])
def test_after_a_comparison_the_right_view_looks_where_it_did(a_scan, a_twin, orientation) -> None:
    slice_views.setOverlay(a_scan)
    view = plane("Yellow")
    if orientation == "oblique":
        view.RotateToVolumePlane(a_scan)
    else:
        view.SetOrientation(orientation)
    view.SetSliceOffset(view.GetSliceOffset() + 3.5)
    view.SetFieldOfView(*(0.5 * side for side in view.GetFieldOfView()[:2]), view.GetFieldOfView()[2])
    view.SetXYZOrigin(2.0, -1.0, 0.0)

    def place() -> list[float]:
        matrix = slicer.util.arrayFromVTKMatrix(view.GetXYToRAS())
        return [*matrix.flat, *view.GetFieldOfView(), *view.GetXYZOrigin()]

    before = place()
    slice_views.setLayout("side by side", a_scan, a_twin)
    assert not np.allclose(place(), before)
    slice_views.setLayout("four up", a_scan)
    assert place() == pytest.approx(before)


def test_a_comparison_that_ends_at_another_scan_shows_that_one(a_scan, a_twin) -> None:
    slice_views.setOverlay(a_scan)
    slice_views.setLayout("side by side", a_scan, a_twin)
    far = far_away((0, 0, 500.0))
    slice_views.setLayout("four up", far)
    bounds = [0.0] * 6
    far.GetRASBounds(bounds)
    middle = np.add(bounds[::2], bounds[1::2]) / 2
    to_ras = slicer.util.arrayFromVTKMatrix(plane("Yellow").GetSliceToRAS())
    assert np.linalg.norm(to_ras[:3, 3] - middle) < 30


def test_a_comparison_of_a_scene_that_only_knew_the_orientations_name_ends_too(a_scan, a_twin) -> None:
    slice_views.setLayout("side by side", a_scan, a_twin)
    plane("Yellow").SetAttribute("DiffuGTS.Before", "Coronal")
    slice_views.endComparison(a_scan)
    assert plane("Yellow").GetOrientation() == "Coronal" and not slice_views.isCompared()


@pytest.mark.parametrize("comparison", ["laid over", "side by side"])
def test_a_comparison_begins_in_the_scans_window_of_now(a_scan, a_twin, comparison) -> None:
    display.styleSynthetic(a_twin, a_scan)
    a_scan.GetDisplayNode().SetWindowLevel(400, 40)
    if comparison == "laid over":
        slice_views.setOverlay(a_scan, a_twin, 0.5)
    else:
        slice_views.setLayout("side by side", a_scan, a_twin)
    assert (a_twin.GetDisplayNode().GetWindow(), a_twin.GetDisplayNode().GetLevel()) == (400, 40)


def test_a_map_keeps_its_own_window(a_scan, a_map) -> None:
    display.showAova(a_map, 0.5)
    slice_views.setOverlay(a_scan, a_map, 0.5)
    assert (a_map.GetDisplayNode().GetWindowLevelMin(), a_map.GetDisplayNode().GetWindowLevelMax()) == (0, 1)


def test_without_a_layout_manager_only_nodes_change(a_scan, a_map, a_twin, no_layout_manager) -> None:
    slice_views.setLayout("side by side", a_scan, a_twin)
    slice_views.setOverlay(a_scan, a_map)
    slice_views.jumpTo((1, 2, 3))
    with pytest.raises(InputError, match="Unknown layout"):
        slice_views.setLayout("nine")


def test_a_jump_centers_every_view_and_carries_the_crosshair(a_scan) -> None:
    slice_views.setOverlay(a_scan)
    slice_views.jumpTo((10.0, -20.0, 30.0))
    for view in ("Red", "Green", "Yellow"):
        to_ras = plane(view).GetXYToRAS()
        width, height, _ = plane(view).GetDimensions()
        middle = np.array(to_ras.MultiplyPoint((width / 2, height / 2, 0, 1))[:3])
        assert np.linalg.norm(middle - (10, -20, 30)) < 1.5
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert np.allclose(crosshair.GetCrosshairRAS(), (10, -20, 30))


def test_rock_flicker_and_reveal_are_opacities_of_a_phase() -> None:
    assert [slice_views.rock(phase) for phase in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [slice_views.flicker(phase) for phase in (0, 0.49, 0.5, 0.99, 1)] == [0, 0, 1, 1, 0]
    assert [slice_views.reveal(phase) for phase in (0, 0.375, 0.75, 0.99)] == pytest.approx([0, 0.5, 1, 1])
    phases = np.linspace(0, 3, 301)
    for course in (slice_views.rock, slice_views.flicker, slice_views.reveal):
        assert all(0 <= course(phase) <= 1 for phase in phases)


def test_segments_are_outlined_and_stand_up_as_surfaces(a_scan) -> None:
    segmentation = scene.newSegmentation(a_scan, "Tumor")
    segmentation.GetSegmentation().AddEmptySegment("tumor", "Tumor")
    set_segment_mask(blob(GRID, (9, 12, 8), 4).T, a_scan, segmentation, "tumor")
    node = segmentation.GetDisplayNode()
    assert not node.GetVisibility2DFill() and node.GetVisibility2DOutline() and node.GetOpacity2DOutline() == 1
    slicer.mrmlScene.RemoveNode(node)
    display.styleSegmentation(segmentation)
    node = segmentation.GetDisplayNode()
    assert not node.GetVisibility2DFill() and node.GetVisibility2DOutline()
    assert display.show3D(segmentation, True) and node.GetVisibility3D()
    assert segmentation.GetSegmentation().ContainsRepresentation("Closed surface")
    assert display.show3D(segmentation, False) and not node.GetVisibility3D()


def test_a_pale_organ_stands_where_its_own_does_and_is_not_saved(a_scan, tmp_path) -> None:
    organs = scene.newSegmentation(a_scan, "Organs")
    organs.GetSegmentation().AddEmptySegment("liver", "Liver")
    set_segment_mask(blob(GRID, (9, 12, 8), 4).T, a_scan, organs, "liver")
    under(organs, linear_transform(TURNED))
    before = slicer.mrmlScene.GetNumberOfNodes()
    display.showContext3D(organs, "no such segment")
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    display.showContext3D(organs, "liver")
    [pale] = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node is not organs]
    assert pale.GetTransformNodeID() == organs.GetTransformNodeID()
    shown = pale.GetDisplayNode()
    assert shown.GetVisibility() and shown.GetVisibility3D() and not shown.GetVisibility2D()
    display.endContext3D()
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    display.showContext3D(organs, "liver")
    path = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(path))
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")] == ["Organs"]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode")) == 1
