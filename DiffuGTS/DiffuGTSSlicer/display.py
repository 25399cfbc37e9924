"""Display of results: colors, thresholds, window/level, legends, segment outlines, and surfaces.

Slice views draw an overlay's voxel with the opacity of its layer or not at all, so a map is shown above a threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

INFERNO = "vtkMRMLColorTableNodeFileInferno.txt"
OWN_COLORS = "DiffuGTS heat"
"""Color table that is used if Slicer's Inferno is missing."""
RESIDUAL_THRESHOLD = 0.1
LEGEND_SIZE = (0.08, 0.6)
"""Width and height of a color legend, as fractions of the view."""
OUTLINE_PX = 2
CONTEXT_OPACITY = 0.2
SYNTHETIC = "DiffuGTS.Synthetic"
"""Attribute of synthetic images."""

_HEAT = (
    (0.0, 0, 0, 0.02),
    (0.25, 0.34, 0.06, 0.43),
    (0.5, 0.73, 0.22, 0.33),
    (0.75, 0.98, 0.55, 0.04),
    (1.0, 0.99, 1, 0.64),
)
"""Position, red, green, blue: dark to light, so that it can be read without color vision."""
_SURFACE = "Closed surface"
_CONTEXT = "DiffuGTS.PaleOrgan"
"""Attribute of the copy that shows an organ in 3D."""
_LEGEND = "DiffuGTS.Legend"
"""Attribute of a map: the title of its color legend."""


# --- Maps


def showAova(volumeNode: Any, threshold: float) -> None:
    """Style an AOVA map: colors from 0 to 1, transparent below the threshold."""
    _showMap(volumeNode, threshold, _("AOVA"))


def showResidual(volumeNode: Any) -> None:
    """Style a fused residual, 0 to 1; it is 0 wherever nothing was repainted."""
    _showMap(volumeNode, RESIDUAL_THRESHOLD, _("Residual"))


def styleSynthetic(volumeNode: Any, scanNode: Any) -> None:
    """Style a synthetic image like its scan, and mark it as synthetic: name, attribute and description.

    Slicer shows the name in the corner of every view of the image.
    """
    volumeNode.SetAttribute(SYNTHETIC, "1")
    volumeNode.SetDescription(_("Synthetic image: not for diagnosis."))
    word = _("synthetic")
    if word.lower() not in volumeNode.GetName().lower():
        volumeNode.SetName(f"{volumeNode.GetName()} ({word})")
    windowAs(volumeNode, scanNode)
    display, scan = volumeNode.GetDisplayNode(), scanNode.GetDisplayNode()
    if scan is not None:
        display.SetAndObserveColorNodeID(scan.GetColorNodeID())
        display.SetInterpolate(scan.GetInterpolate())
        display.ApplyThresholdOff()


def windowAs(volumeNode: Any, scanNode: Any) -> None:
    """Apply the current window/level of a scan to an image."""
    display, scan = volumeNode.GetDisplayNode(), scanNode.GetDisplayNode()
    if display is not None and scan is not None:
        display.AutoWindowLevelOff()
        display.SetWindowLevel(scan.GetWindow(), scan.GetLevel())


def isSynthetic(volumeNode: Any) -> bool:
    """Return whether an image is synthetic."""
    return volumeNode is not None and volumeNode.GetAttribute(SYNTHETIC) == "1"


def isOurs(volumeNode: Any) -> bool:
    """Return whether an image was made by this module: a map or a synthetic image."""
    return isSynthetic(volumeNode) or volumeNode.GetAttribute(_LEGEND) is not None


def setThreshold(volumeNode: Any, value: float) -> None:
    """Show a map at or above a value."""
    display = volumeNode.GetDisplayNode()
    display.AutoThresholdOff()
    display.SetThreshold(float(value), max(1.0, float(value)))
    display.ApplyThresholdOn()


def voxelsFrom(volumeNode: Any, value: float) -> int:
    """Return the number of voxels of a map at or above a value."""
    return int(np.count_nonzero(slicer.util.arrayFromVolume(volumeNode) >= np.float32(value)))


def setLegend(volumeNode: Any, visible: bool) -> None:
    """Show or hide the color legend of a map, in the views that show the map."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(volumeNode)
    if legend is None:
        if not visible:
            return
        legend = logic.AddDefaultColorLegendDisplayNode(volumeNode)
    legend.SetTitleText(volumeNode.GetAttribute(_LEGEND) or volumeNode.GetName())
    legend.SetLabelFormat("%.1f")
    legend.SetNumberOfLabels(6)  # 0, 0.2, … 1: exact with one digit
    legend.SetSize(*LEGEND_SIZE)
    for text in (legend.GetTitleTextProperty(), legend.GetLabelTextProperty()):
        text.SetFontFamilyToArial()
    legend.SetVisibility(visible)


# --- Segments


def styleSegmentation(segmentationNode: Any) -> None:
    """Draw segments as outlines, so that the image and the overlay inside stay visible."""
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
    """Return whether a segment is visible in its segmentation."""
    node = segmentationNode.GetDisplayNode()
    return node is None or bool(node.GetSegmentVisibility(segmentId))


def shownSegments(segmentationNode: Any) -> list[str]:
    """Return the visible segments of a segmentation."""
    known = segmentationNode.GetSegmentation().GetSegmentIDs()
    return [str(each) for each in known if isSegmentShown(segmentationNode, each)]


def show3D(segmentationNode: Any, visible: bool) -> bool:
    """Show or hide the segments in 3D; return whether there is any surface to show.

    The 3D views of the layout are centered.
    """
    made = True
    if visible:
        made = _isNotEmpty(segmentationNode) and bool(segmentationNode.CreateClosedSurfaceRepresentation())
        showSegments(segmentationNode, True)
    segmentationNode.GetDisplayNode().SetVisibility3D(visible)
    manager = slicer.app.layoutManager()
    if visible and made and manager is not None:
        for index in range(manager.threeDViewCount):
            manager.threeDWidget(index).threeDView().resetFocalPoint()
    return made


def isShown3D(segmentationNode: Any) -> bool:
    """Return whether a segmentation has surfaces that are shown; 3D visibility alone is also on without any."""
    node = segmentationNode.GetDisplayNode()
    hasSurfaces = segmentationNode.GetSegmentation().ContainsRepresentation(_SURFACE)
    return node is not None and hasSurfaces and bool(node.GetVisibility() and node.GetVisibility3D())


def showContext3D(segmentationNode: Any, segmentId: str) -> None:
    """Show the organ around a tumor as a transparent surface, until `endContext3D`.

    It is a hidden copy that is not saved: the organ's own node would get, and keep, surfaces of all its segments.
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
    """Remove all organ surfaces of `showContext3D`."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(_CONTEXT) is not None and node.GetHideFromEditors():
            slicer.mrmlScene.RemoveNode(node)


# --- Internal


def _showMap(volumeNode: Any, threshold: float, title: str) -> None:
    volumeNode.SetAttribute(_LEGEND, title)
    if volumeNode.GetDisplayNode() is None:
        volumeNode.CreateDefaultDisplayNodes()
    display = volumeNode.GetDisplayNode()
    display.SetAndObserveColorNodeID(_heat().GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(0.0, 1.0)
    display.InterpolateOn()
    setThreshold(volumeNode, threshold)


def _isNotEmpty(segmentationNode: Any) -> bool:
    bounds = [0.0] * 6
    segmentationNode.GetBounds(bounds)
    return bounds[0] <= bounds[1]


def _heat() -> Any:
    """Return Slicer's Inferno, or a similar color table if it is missing."""
    node = slicer.mrmlScene.GetNodeByID(INFERNO) or slicer.mrmlScene.GetFirstNodeByName(OWN_COLORS)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLProceduralColorNode", OWN_COLORS)
        colors = node.GetColorTransferFunction()
        colors.RemoveAllPoints()
        for point in _HEAT:
            colors.AddRGBPoint(*point)
    return node
