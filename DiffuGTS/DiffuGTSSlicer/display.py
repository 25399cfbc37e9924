"""How results look in the slice views, and which views there are. Nothing here computes, and nothing needs a model.

Slices draw a voxel of an overlay or leave it out, never half: a map therefore shows from a threshold up, and the
opacity is the layer's. Views are reached through their nodes; only a change of layout needs the application.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSSlicer.view_place import placeOf, putBack, setWidth

INFERNO = "vtkMRMLColorTableNodeFileInferno.txt"
OWN_COLORS = "DiffuGTS heat"
"""The table that stands in where Slicer's own is missing."""
RESIDUAL_THRESHOLD = 0.1
LEGEND_SIZE = (0.08, 0.6)
"""Width and height of a color bar, as shares of the view."""
OUTLINE_PX = 2
CONTEXT_OPACITY = 0.2
SYNTHETIC = "DiffuGTS.Synthetic"
"""Attribute of images that no scanner has made."""
LAYOUTS = {
    "overlay": "SlicerLayoutOneUpRedSliceView",
    "side by side": "SlicerLayoutSideBySideView",
    "four up": "SlicerLayoutFourUpView",
}
"""Name → Slicer's layout. Side by side has the scan in the red view and its synthetic twin in the yellow one."""

_HEAT = (
    (0.0, 0, 0, 0.02),
    (0.25, 0.34, 0.06, 0.43),
    (0.5, 0.73, 0.22, 0.33),
    (0.75, 0.98, 0.55, 0.04),
    (1.0, 0.99, 1, 0.64),
)
"""Position, red, green, blue: dark to light, so that it reads without color vision too."""
_LEFT, _RIGHT = "Red", "Yellow"
_SURFACE = "Closed surface"
_CONTEXT = "DiffuGTS.PaleOrgan"
"""Attribute of the copy that stands for an organ in 3D."""
_BEFORE = "DiffuGTS.Before"
"""Attribute of the nodes of the right view: what to restore when the comparison ends."""


# --- Maps


def showAova(volumeNode: Any, threshold: float) -> None:
    """Style an AOVA map: colors for 0 to 1, and the anatomy where abnormal attention is below the threshold."""
    _showMap(volumeNode, threshold, _("AOVA"))


def showResidual(volumeNode: Any) -> None:
    """Style a fused residual, 0 to 1; it is 0 wherever nothing was repainted."""
    _showMap(volumeNode, RESIDUAL_THRESHOLD, _("Residual"))


def styleSynthetic(volumeNode: Any, scanNode: Any) -> None:
    """Style an image that was made from a scan as that scan, and mark it as synthetic: name, attribute and description.

    The name is what Slicer writes into the corner of every view that shows the image.
    """
    volumeNode.SetAttribute(SYNTHETIC, "1")
    volumeNode.SetDescription(_("Synthetic image: not for diagnosis."))
    word = _("synthetic")
    if word.lower() not in volumeNode.GetName().lower():
        volumeNode.SetName(f"{volumeNode.GetName()} ({word})")
    _windowAs(volumeNode, scanNode)
    display, scan = volumeNode.GetDisplayNode(), scanNode.GetDisplayNode()
    if scan is not None:
        display.SetAndObserveColorNodeID(scan.GetColorNodeID())
        display.SetInterpolate(scan.GetInterpolate())
        display.ApplyThresholdOff()


def isSynthetic(volumeNode: Any) -> bool:
    """Say whether no scanner made this image."""
    return volumeNode is not None and volumeNode.GetAttribute(SYNTHETIC) == "1"


def setThreshold(volumeNode: Any, value: float) -> None:
    """Show a map from this value up."""
    display = volumeNode.GetDisplayNode()
    display.AutoThresholdOff()
    display.SetThreshold(float(value), max(1.0, float(value)))
    display.ApplyThresholdOn()


def voxelsFrom(volumeNode: Any, value: float) -> int:
    """Return how many voxels of a map are shown from this value up; looks at every one."""
    return int(np.count_nonzero(slicer.util.arrayFromVolume(volumeNode) >= np.float32(value)))


def setLegend(volumeNode: Any, visible: bool) -> None:
    """Show or hide the color bar of a map, in the views that show the map."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(volumeNode)
    if legend is None:
        if not visible:
            return
        legend = logic.AddDefaultColorLegendDisplayNode(volumeNode)
    legend.SetTitleText(volumeNode.GetAttribute("DiffuGTS.Legend") or volumeNode.GetName())
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(6)  # 0, 0.2, … 1: what stands there is what it is
    legend.SetSize(*LEGEND_SIZE)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
    legend.SetVisibility(visible)


# --- Segments


def styleSegmentation(segmentationNode: Any) -> None:
    """Draw segments as outlines: without a filling the image and the overlay in them can be read."""
    if segmentationNode.GetDisplayNode() is None:
        segmentationNode.CreateDefaultDisplayNodes()
    display = segmentationNode.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetOpacity2DFill(0.0)
    display.SetVisibility2DOutline(True)
    display.SetOpacity2DOutline(1.0)
    display.SetSliceIntersectionThickness(OUTLINE_PX)


def showSegments(segmentationNode: Any, visible: bool) -> None:
    """Show or hide a segmentation in every view."""
    if segmentationNode.GetDisplayNode() is None:
        styleSegmentation(segmentationNode)
    segmentationNode.GetDisplayNode().SetVisibility(visible)


def showSegment(segmentationNode: Any, segmentId: str, visible: bool) -> None:
    """Show or hide one segment in every view."""
    if segmentationNode.GetDisplayNode() is None:
        styleSegmentation(segmentationNode)
    segmentationNode.GetDisplayNode().SetSegmentVisibility(segmentId, visible)


def isSegmentShown(segmentationNode: Any, segmentId: str) -> bool:
    """Say whether one segment is shown where its segmentation is."""
    node = segmentationNode.GetDisplayNode()
    return node is None or bool(node.GetSegmentVisibility(segmentId))


def shownSegments(segmentationNode: Any) -> list[str]:
    """Return the segments that are shown where their segmentation is."""
    known = segmentationNode.GetSegmentation().GetSegmentIDs()
    return [str(each) for each in known if isSegmentShown(segmentationNode, each)]


def show3D(segmentationNode: Any, visible: bool) -> bool:
    """Show or hide the segments as surfaces; say whether there is any surface to show.

    The 3D views of the layout turn to what is there to be seen.
    """
    made = True
    if visible:
        made = _holdsAnything(segmentationNode) and bool(segmentationNode.CreateClosedSurfaceRepresentation())
        showSegments(segmentationNode, True)
    segmentationNode.GetDisplayNode().SetVisibility3D(visible)
    manager = slicer.app.layoutManager()
    if visible and made and manager is not None:
        for index in range(manager.threeDViewCount):
            manager.threeDWidget(index).threeDView().resetFocalPoint()
    return made


def isShown3D(segmentationNode: Any) -> bool:
    """Say whether surfaces of a segmentation are there and shown: visible in 3D is also what has none yet."""
    node = segmentationNode.GetDisplayNode()
    hasSurfaces = segmentationNode.GetSegmentation().ContainsRepresentation(_SURFACE)
    return node is not None and hasSurfaces and bool(node.GetVisibility() and node.GetVisibility3D())


def showContext3D(segmentationNode: Any, segmentId: str) -> None:
    """Show the organ around a tumor as a pale surface, until `endContext3D`.

    It is a copy that neither the user nor a saved scene meets: the organ's own node would get surfaces of all its
    segments, and keep them.
    """
    source = segmentationNode.GetSegmentation()
    if source.GetSegment(segmentId) is None:
        return
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(f"{segmentationNode.GetName()} {_CONTEXT}")
    node.SetAttribute(_CONTEXT, "1")
    node.HideFromEditorsOn()
    node.SaveWithSceneOff()
    slicer.mrmlScene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SaveWithSceneOff()
    display.SetVisibility2D(False)
    node.SetAndObserveTransformNodeID(segmentationNode.GetTransformNodeID())
    copy = node.GetSegmentation()
    copy.SetSourceRepresentationName(source.GetSourceRepresentationName())
    copy.CopyConversionParameters(source)
    copy.CopySegmentFromSegmentation(source, segmentId)
    node.CreateClosedSurfaceRepresentation()
    display.SetSegmentOpacity3D(segmentId, CONTEXT_OPACITY)


def endContext3D() -> None:
    """Take every pale organ away."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(_CONTEXT) is not None and node.GetHideFromEditors():
            slicer.mrmlScene.RemoveNode(node)


# --- Layers and views


def setOverlay(scanNode: Any, overlayNode: Any = None, opacity: float = 0.5) -> None:
    """Lay a map, or nothing, over the scan in every slice view; the twin of a comparison stays bare.

    A synthetic image gets the scan's window, as it is now: a difference in brightness would look like a finding. A view
    keeps its place, unless it comes from another volume and the scan lies elsewhere: it would be blank.
    """
    if isSynthetic(overlayNode):
        _windowAs(overlayNode, scanNode)
    for view, layers in _views():
        if view.GetAttribute(_BEFORE) is not None:
            continue
        isAnother = layers.GetBackgroundVolumeID() != scanNode.GetID()
        layers.SetBackgroundVolumeID(scanNode.GetID())
        layers.SetForegroundVolumeID(None if overlayNode is None else overlayNode.GetID())
        layers.SetForegroundOpacity(float(opacity))
        if isAnother:
            _bringIntoView(view, scanNode)


def isInView(volumeNode: Any) -> bool:
    """Say whether a slice view of the layout has a volume as its background."""
    manager = slicer.app.layoutManager()
    names = None if manager is None else manager.sliceViewNames()
    return any(
        layers.GetBackgroundVolumeID() == volumeNode.GetID() and (names is None or view.GetLayoutName() in names)
        for view, layers in _views()
    )


def takeOff(overlayNodes: Iterable[Any]) -> None:
    """Take maps off the slice views that show them, as where their scan is gone."""
    ids = {node.GetID() for node in overlayNodes}
    for _view, layers in _views():
        if layers.GetForegroundVolumeID() in ids:
            layers.SetForegroundVolumeID(None)


def setLayout(name: str, scanNode: Any = None, twinNode: Any = None) -> None:
    """Change to a layout; without a layout manager, as in tests of the application, nothing happens.

    Args:
        name: One of `LAYOUTS`.
        scanNode: Comes back into the right view after a comparison; None: what the left one shows.
        twinNode: For "side by side": the right view shows it, in the plane of the left, and both move together.

    Raises:
        InputError: If there is no layout of that name.
    """
    if name not in LAYOUTS:
        words = _("Unknown layout '{name}'.").format(name=name)
        raise InputError(words, hint=did_you_mean(name, LAYOUTS), code="layout")
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    manager.setLayout(getattr(slicer.vtkMRMLLayoutNode, LAYOUTS[name]))
    if name == "side by side" and twinNode is not None:
        views = {view.GetLayoutName(): (view, layers) for view, layers in _views()}
        if _LEFT in views and _RIGHT in views:
            if scanNode is not None:
                _windowAs(twinNode, scanNode)
            _compare(*views[_LEFT], *views[_RIGHT], twinNode)
    else:
        endComparison(scanNode)


def endComparison(scanNode: Any = None) -> None:
    """Give the right view back what it showed before its twin; None: what the left one shows. May be called any time."""
    views = {view.GetLayoutName(): (view, layers) for view, layers in _views()}
    if _LEFT in views and _RIGHT in views:
        _endComparison(views[_LEFT][1], *views[_RIGHT], scanNode)


def isSideBySide(layout: int) -> bool:
    """Say whether a layout of Slicer's, by its number, is the one for comparing."""
    return layout == getattr(slicer.vtkMRMLLayoutNode, LAYOUTS["side by side"])


def isCompared() -> bool:
    """Say whether a scan and its twin stand side by side."""
    return any(view.GetAttribute(_BEFORE) is not None for view, _layers in _views())


def pointInView() -> tuple[float, float, float]:
    """Return the point of the world where the user looks: the crosshair where it is shown, else the red slice's middle."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None and crosshair.GetCrosshairMode() != crosshair.NoCrosshair:
        r, a, s = crosshair.GetCrosshairRAS()
    else:
        view = next(view for view, _layers in _views() if view.GetLayoutName() == _LEFT)
        r, a, s = (view.GetSliceToRAS().GetElement(row, 3) for row in range(3))
    return float(r), float(a), float(s)


def jumpTo(rasMm: Sequence[float]) -> None:
    """Center every slice view on a point of the world, and put the crosshair there."""
    r, a, s = (float(value) for value in rasMm)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, r, a, s, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(r, a, s)


# --- Comparing in place: the opacity of the pseudo-healthy layer at a phase, 0 to 1 of one cycle


def rock(phase: float) -> float:
    """Fade to the pseudo-healthy image and back."""
    return (1 - math.cos(2 * math.pi * phase)) / 2


def flicker(phase: float) -> float:
    """Switch between the two, half a cycle each."""
    return float(phase % 1 >= 0.5)


def reveal(phase: float) -> float:
    """Fade to the pseudo-healthy image once, and stay for the last quarter."""
    share = min(phase % 1 / 0.75, 1.0)
    return share * share * (3 - 2 * share)


# --- Inside


def _showMap(volumeNode: Any, threshold: float, title: str) -> None:
    volumeNode.SetAttribute("DiffuGTS.Legend", title)
    if volumeNode.GetDisplayNode() is None:
        volumeNode.CreateDefaultDisplayNodes()
    display = volumeNode.GetDisplayNode()
    display.SetAndObserveColorNodeID(_heat().GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.InterpolateOn()
    setThreshold(volumeNode, threshold)


def _windowAs(volumeNode: Any, scanNode: Any) -> None:
    display, scan = volumeNode.GetDisplayNode(), scanNode.GetDisplayNode()
    if display is not None and scan is not None:
        display.AutoWindowLevelOff()
        display.SetWindowLevel(scan.GetWindow(), scan.GetLevel())


def _holdsAnything(segmentationNode: Any) -> bool:
    bounds = [0.0] * 6
    segmentationNode.GetBounds(bounds)
    return bounds[0] <= bounds[1]


def _heat() -> Any:
    """Return Slicer's Inferno, or our own table where it is missing."""
    node = slicer.mrmlScene.GetNodeByID(INFERNO) or slicer.mrmlScene.GetFirstNodeByName(OWN_COLORS)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", OWN_COLORS)
        colors = node.GetColorTransferFunction()
        colors.RemoveAllPoints()
        for point in _HEAT:
            colors.AddRGBPoint(*point)
    return node


def _views() -> Iterator[tuple[Any, Any]]:
    """Yield the node of each slice view with the node of its layers."""
    layers = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if view.GetLayoutName() in layers:
            yield view, layers[view.GetLayoutName()]


def _bringIntoView(view: Any, scanNode: Any) -> None:
    """Fit a slice view to its scan where that lies outside of what the view shows."""
    logic = slicer.app.applicationLogic().GetSliceLogic(view)
    if logic is not None and scanNode.GetImageData() is not None and not _isInField(view, logic, scanNode):
        logic.FitSliceToBackground()


def _isInField(view: Any, logic: Any, scanNode: Any) -> bool:
    """Say whether a view's plane cuts a scan, and the middle of one of the two lies within the other in that plane."""
    bounds = [0.0] * 6
    logic.GetVolumeSliceBounds(scanNode, bounds)  # along the view's axes, from the origin of the world
    toRas = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    here = toRas[:3, :3].T @ toRas[:3, 3] + view.GetXYZOrigin()
    if not bounds[4] <= here[2] <= bounds[5]:
        return False
    for axis, (low, high) in enumerate((bounds[0:2], bounds[2:4])):
        half = view.GetFieldOfView()[axis] / 2
        if not (low <= here[axis] <= high or abs((low + high) / 2 - here[axis]) <= half):
            return False
    return True


def _compare(left: Any, leftLayers: Any, right: Any, rightLayers: Any, twinNode: Any) -> None:
    if right.GetAttribute(_BEFORE) is None:
        right.SetAttribute(_BEFORE, placeOf(right))
        for layers in (leftLayers, rightLayers):
            links = f"{layers.GetLinkedControl()} {layers.GetHotLinkedControl()}"
            layers.SetAttribute(_BEFORE, f"{links} {layers.GetBackgroundVolumeID()}")
    rightLayers.SetBackgroundVolumeID(twinNode.GetID())
    rightLayers.SetForegroundVolumeID(None)
    right.GetSliceToRAS().DeepCopy(left.GetSliceToRAS())
    right.UpdateMatrices()
    width, _height, depth = left.GetFieldOfView()
    setWidth(right, width, depth)
    for layers in (leftLayers, rightLayers):
        layers.SetLinkedControl(True)
        layers.SetHotLinkedControl(True)


def _endComparison(leftLayers: Any, right: Any, rightLayers: Any, scanNode: Any) -> None:
    place = right.GetAttribute(_BEFORE)
    if place is None:
        return
    putBack(right, place)
    right.RemoveAttribute(_BEFORE)
    for layers in (leftLayers, rightLayers):
        linked, hot, *before = (layers.GetAttribute(_BEFORE) or "0 0").split()
        layers.SetLinkedControl(int(linked))
        layers.SetHotLinkedControl(int(hot))
        layers.RemoveAttribute(_BEFORE)
    rightLayers.SetBackgroundVolumeID(leftLayers.GetBackgroundVolumeID() if scanNode is None else scanNode.GetID())
    rightLayers.SetForegroundVolumeID(leftLayers.GetForegroundVolumeID())
    rightLayers.SetForegroundOpacity(leftLayers.GetForegroundOpacity())
    shown = slicer.mrmlScene.GetNodeByID(rightLayers.GetBackgroundVolumeID() or "")
    if shown is not None and shown.GetID() not in before:  # another scan than before the comparison in that view
        _bringIntoView(right, shown)
