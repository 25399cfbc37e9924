"""Slicer modules that results are handed to: whether they are loaded, and how to open them."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSSlicer.display import shownSegments

SEGMENT_EDITOR, SEGMENT_STATISTICS, DICOM = "SegmentEditor", "SegmentStatistics", "DICOM"
_DICOM_PLUGIN = "DICOMSegmentationPlugin"
_EDITOR_TAG = "SegmentEditor"
"""Singleton tag of the Segment Editor's parameter node."""


def absence(module: str) -> str:
    """Return why a module of Slicer cannot be used, or an empty string if it can."""
    if not hasattr(slicer.modules, module.lower()):
        return _(
            "Slicer's module {module} is not loaded. Enable it under Application Settings, Modules, and restart."
        ).format(module=module)
    if module == DICOM and _DICOM_PLUGIN not in getattr(slicer.modules, "dicomPlugins", {}):
        return _(
            "Slicer's {plugin}, which writes DICOM segmentations, is not loaded. If this Slicer has no such module, "
            "install the extension QuantitativeReporting, and restart."
        ).format(plugin=_DICOM_PLUGIN)
    return ""


def openSegmentEditor(segmentationNode: Any, segmentId: str, scanNode: Any) -> None:
    """Switch to the Segment Editor with a segment and its source volume selected.

    By default Slicer overwrites all other segments while painting. If some are hidden, such as earlier versions of a tumor,
    only visible segments are overwritten; another overwrite mode set by the user is kept.
    """
    node = slicer.mrmlScene.GetSingletonNode(_EDITOR_TAG, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(_EDITOR_TAG)
        node = slicer.mrmlScene.AddNode(node)
    node.SetAndObserveSegmentationNode(segmentationNode)
    node.SetAndObserveSourceVolumeNode(scanNode)
    node.SetSelectedSegmentID(segmentId)
    isAllShown = len(shownSegments(segmentationNode)) == segmentationNode.GetSegmentation().GetNumberOfSegments()
    if not isAllShown and node.GetOverwriteMode() == node.OverwriteAllSegments:
        node.SetOverwriteMode(node.OverwriteVisibleSegments)
    slicer.util.selectModule(SEGMENT_EDITOR)
