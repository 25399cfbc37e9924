"""What the slice views show: the scan under its map, the scan beside its twin, a place; and which layouts there are.

Views are reached through their nodes; only a change of layout needs the application.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import slicer
import slicer.util
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError, did_you_mean
from DiffuGTSSlicer.display import isOurs, isSynthetic, windowAs
from DiffuGTSSlicer.view_place import placeOf, putBack, setWidth

LAYOUTS = {
    "overlay": "SlicerLayoutOneUpRedSliceView",
    "side by side": "SlicerLayoutSideBySideView",
    "four up": "SlicerLayoutFourUpView",
}
"""Name → Slicer's layout. Side by side has the scan in the red view and its synthetic twin in the yellow one."""
_LEFT, _RIGHT = "Red", "Yellow"
_BEFORE, _TWIN = "DiffuGTS.Before", "DiffuGTS.Twin"
"""Attributes of the nodes of the right view: what to restore when the comparison ends, and what was shown in it."""


def setOverlay(scanNode: Any, overlayNode: Any = None, opacity: float = 0.5, isEverywhere: bool = True) -> None:
    """Lay a map, or nothing, over the scan in the slice views; the twin of a comparison stays bare.

    A synthetic image gets the scan's window, as it is now: a difference in brightness would look like a finding. A view
    keeps its place, unless it comes from another volume and the scan lies elsewhere: it would be blank.

    Args:
        scanNode: The scan.
        overlayNode: The map.
        opacity: Of the map's layer.
        isEverywhere: In every view; otherwise a view that shows another volume, as a prior, keeps it. Where the scan is
            in none of the layout's views, all show it.
    """
    if isSynthetic(overlayNode):
        windowAs(overlayNode, scanNode)
    isEverywhere = isEverywhere or not isInView(scanNode)
    for view, layers in _views():
        if view.GetAttribute(_BEFORE) is not None or not (isEverywhere or _isFree(layers, scanNode)):
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
        scanNode: As of `endComparison`.
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
                windowAs(twinNode, scanNode)
            _compare(*views[_LEFT], *views[_RIGHT], twinNode)
    else:
        endComparison(scanNode)


def endComparison(scanNode: Any = None) -> None:
    """Give the right view back what it showed before its twin. May be called any time.

    Args:
        scanNode: What it shows where that was the scan; None: what the left one shows.
    """
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


def _views() -> Iterator[tuple[Any, Any]]:
    """Yield the node of each slice view with the node of its layers."""
    layers = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if view.GetLayoutName() in layers:
            yield view, layers[view.GetLayoutName()]


def _isFree(layers: Any, scanNode: Any) -> bool:
    """Say whether a view shows nothing, the scan, or an image of ours, and no volume that the user has put there."""
    shown = slicer.mrmlScene.GetNodeByID(layers.GetBackgroundVolumeID() or "")
    return shown in (None, scanNode) or isOurs(shown)


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
    rightLayers.SetAttribute(_TWIN, twinNode.GetID())
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
    backgrounds = []
    for layers in (leftLayers, rightLayers):
        linked, hot, background = (layers.GetAttribute(_BEFORE) or "0 0 None").split()
        layers.SetLinkedControl(int(linked))
        layers.SetHotLinkedControl(int(hot))
        layers.RemoveAttribute(_BEFORE)
        backgrounds.append(background)
    left, before = backgrounds
    twin = rightLayers.GetAttribute(_TWIN)
    rightLayers.RemoveAttribute(_TWIN)
    if rightLayers.GetBackgroundVolumeID() not in (twin, None):  # somebody has put another volume there since
        return
    if before != left and slicer.mrmlScene.GetNodeByID(before) is not None:  # a prior, and not the scan
        rightLayers.SetBackgroundVolumeID(before)
        return
    rightLayers.SetBackgroundVolumeID(leftLayers.GetBackgroundVolumeID() if scanNode is None else scanNode.GetID())
    rightLayers.SetForegroundVolumeID(leftLayers.GetForegroundVolumeID())
    rightLayers.SetForegroundOpacity(leftLayers.GetForegroundOpacity())
    shown = slicer.mrmlScene.GetNodeByID(rightLayers.GetBackgroundVolumeID() or "")
    if shown is not None and shown.GetID() != before:  # another scan than before the comparison in that view
        _bringIntoView(right, shown)
