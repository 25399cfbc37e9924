"""Slice views and layouts: overlay of a map, side-by-side comparison with a synthetic image, jump to a point.

Views are accessed through their MRML nodes; only a change of layout needs the application.
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
from DiffuGTSSlicer.view_place import restorePosition, setWidth, viewPosition

LAYOUTS = {
    "overlay": "SlicerLayoutOneUpRedSliceView",
    "side by side": "SlicerLayoutSideBySideView",
    "four up": "SlicerLayoutFourUpView",
}
"""Name → Slicer's layout. Side by side has the scan in the red view and the synthetic image in the yellow one."""
_LEFT, _RIGHT = "Red", "Yellow"
_BEFORE, _SYNTHETIC = "DiffuGTS.Before", "DiffuGTS.Twin"
"""Attributes of the view nodes: what to restore when the comparison ends, and the image shown in it."""


def setOverlay(scanNode: Any, overlayNode: Any = None, opacity: float = 0.5, isEverywhere: bool = True) -> None:
    """Show the scan with a map, or none, in the slice views; the right view of a comparison is not changed.

    A synthetic image gets the scan's current window/level: a difference in brightness would look like a finding. A view
    keeps its position, unless the scan would not be visible there.

    Args:
        scanNode: The scan.
        overlayNode: The map, shown as foreground.
        opacity: Opacity of the foreground.
        isEverywhere: Whether to change every view; otherwise a view that shows another volume, such as a prior scan,
            keeps it. If no view of the layout shows the scan, all views are changed.
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
    """Return whether a slice view of the layout shows a volume as background."""
    manager = slicer.app.layoutManager()
    names = None if manager is None else manager.sliceViewNames()
    return any(
        layers.GetBackgroundVolumeID() == volumeNode.GetID() and (names is None or view.GetLayoutName() in names)
        for view, layers in _views()
    )


def removeOverlays(overlayNodes: Iterable[Any]) -> None:
    """Remove maps from the slice views, for example if their scan was deleted."""
    ids = {node.GetID() for node in overlayNodes}
    for _view, layers in _views():
        if layers.GetForegroundVolumeID() in ids:
            layers.SetForegroundVolumeID(None)


def setLayout(name: str, scanNode: Any = None, syntheticNode: Any = None) -> None:
    """Change the layout; without a layout manager, as in tests, nothing happens.

    Args:
        name: One of `LAYOUTS`.
        scanNode: As of `endComparison`.
        syntheticNode: For "side by side": shown in the right view, in the same plane as the left one, with linked views.

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
    if name == "side by side" and syntheticNode is not None:
        views = {view.GetLayoutName(): (view, layers) for view, layers in _views()}
        if _LEFT in views and _RIGHT in views:
            if scanNode is not None:
                windowAs(syntheticNode, scanNode)
            _compare(*views[_LEFT], *views[_RIGHT], syntheticNode)
    else:
        endComparison(scanNode)


def endComparison(scanNode: Any = None) -> None:
    """Restore what the right view showed before the comparison; does nothing if there is none.

    Args:
        scanNode: Shown in the right view if it showed the scan before; None for what the left view shows.
    """
    views = {view.GetLayoutName(): (view, layers) for view, layers in _views()}
    if _LEFT in views and _RIGHT in views:
        _endComparison(views[_LEFT][1], *views[_RIGHT], scanNode)


def isSideBySide(layout: int) -> bool:
    """Return whether a Slicer layout is the one for side-by-side comparison."""
    return layout == getattr(slicer.vtkMRMLLayoutNode, LAYOUTS["side by side"])


def isCompared() -> bool:
    """Return whether a scan and a synthetic image are compared side by side."""
    return any(view.GetAttribute(_BEFORE) is not None for view, _layers in _views())


def pointInView() -> tuple[float, float, float]:
    """Return the RAS position of the crosshair if it is shown, otherwise of the center of the red slice view."""
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None and crosshair.GetCrosshairMode() != crosshair.NoCrosshair:
        r, a, s = crosshair.GetCrosshairRAS()
    else:
        view = next(view for view, _layers in _views() if view.GetLayoutName() == _LEFT)
        r, a, s = (view.GetSliceToRAS().GetElement(row, 3) for row in range(3))
    return float(r), float(a), float(s)


def jumpTo(rasMm: Sequence[float]) -> None:
    """Center all slice views on a RAS position, and move the crosshair there."""
    r, a, s = (float(value) for value in rasMm)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, r, a, s, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(r, a, s)


# --- Comparison in place: opacity of the pseudo-healthy image at a phase, 0 to 1, of the cycle


def rock(phase: float) -> float:
    """Fade to the pseudo-healthy image and back."""
    return (1 - math.cos(2 * math.pi * phase)) / 2


def flicker(phase: float) -> float:
    """Switch between the two, half a cycle each."""
    return float(phase % 1 >= 0.5)


def reveal(phase: float) -> float:
    """Fade to the pseudo-healthy image once, and show it for the last quarter."""
    share = min(phase % 1 / 0.75, 1.0)
    return share * share * (3 - 2 * share)


# --- Internal


def _views() -> Iterator[tuple[Any, Any]]:
    """Yield slice node and slice composite node of each slice view."""
    layers = {node.GetLayoutName(): node for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if view.GetLayoutName() in layers:
            yield view, layers[view.GetLayoutName()]


def _isFree(layers: Any, scanNode: Any) -> bool:
    """Return whether a view shows nothing, the scan or one of our images, but no other volume selected by the user."""
    shown = slicer.mrmlScene.GetNodeByID(layers.GetBackgroundVolumeID() or "")
    return shown in (None, scanNode) or isOurs(shown)


def _bringIntoView(view: Any, scanNode: Any) -> None:
    """Fit a slice view to the scan if the scan is outside of its field of view."""
    logic = slicer.app.applicationLogic().GetSliceLogic(view)
    if logic is not None and scanNode.GetImageData() is not None and not _isInField(view, logic, scanNode):
        logic.FitSliceToBackground()


def _isInField(view: Any, logic: Any, scanNode: Any) -> bool:
    """Return whether a view's plane cuts a scan, and the center of one of the two is inside the other in that plane."""
    bounds = [0.0] * 6
    logic.GetVolumeSliceBounds(scanNode, bounds)  # along the view's axes, from the world origin
    toRas = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
    here = toRas[:3, :3].T @ toRas[:3, 3] + view.GetXYZOrigin()
    if not bounds[4] <= here[2] <= bounds[5]:
        return False
    for axis, (low, high) in enumerate((bounds[0:2], bounds[2:4])):
        half = view.GetFieldOfView()[axis] / 2
        if not (low <= here[axis] <= high or abs((low + high) / 2 - here[axis]) <= half):
            return False
    return True


def _compare(left: Any, leftLayers: Any, right: Any, rightLayers: Any, syntheticNode: Any) -> None:
    if right.GetAttribute(_BEFORE) is None:
        right.SetAttribute(_BEFORE, viewPosition(right))
        for layers in (leftLayers, rightLayers):
            links = f"{layers.GetLinkedControl()} {layers.GetHotLinkedControl()}"
            layers.SetAttribute(_BEFORE, f"{links} {layers.GetBackgroundVolumeID()}")
    rightLayers.SetAttribute(_SYNTHETIC, syntheticNode.GetID())
    rightLayers.SetBackgroundVolumeID(syntheticNode.GetID())
    rightLayers.SetForegroundVolumeID(None)
    right.GetSliceToRAS().DeepCopy(left.GetSliceToRAS())
    right.UpdateMatrices()
    width, _height, depth = left.GetFieldOfView()
    setWidth(right, width, depth)
    for layers in (leftLayers, rightLayers):
        layers.SetLinkedControl(True)
        layers.SetHotLinkedControl(True)


def _endComparison(leftLayers: Any, right: Any, rightLayers: Any, scanNode: Any) -> None:
    position = right.GetAttribute(_BEFORE)
    if position is None:
        return
    restorePosition(right, position)
    right.RemoveAttribute(_BEFORE)
    backgrounds = []
    for layers in (leftLayers, rightLayers):
        linked, hot, background = (layers.GetAttribute(_BEFORE) or "0 0 None").split()
        layers.SetLinkedControl(int(linked))
        layers.SetHotLinkedControl(int(hot))
        layers.RemoveAttribute(_BEFORE)
        backgrounds.append(background)
    left, before = backgrounds
    synthetic = rightLayers.GetAttribute(_SYNTHETIC)
    rightLayers.RemoveAttribute(_SYNTHETIC)
    if rightLayers.GetBackgroundVolumeID() not in (synthetic, None):  # the user has selected another volume since
        return
    if before != left and slicer.mrmlScene.GetNodeByID(before) is not None:  # a prior scan, and not the scan itself
        rightLayers.SetBackgroundVolumeID(before)
        return
    rightLayers.SetBackgroundVolumeID(leftLayers.GetBackgroundVolumeID() if scanNode is None else scanNode.GetID())
    rightLayers.SetForegroundVolumeID(leftLayers.GetForegroundVolumeID())
    rightLayers.SetForegroundOpacity(leftLayers.GetForegroundOpacity())
    shown = slicer.mrmlScene.GetNodeByID(rightLayers.GetBackgroundVolumeID() or "")
    if shown is not None and shown.GetID() != before:  # not the scan that the view showed before the comparison
        _bringIntoView(right, shown)
