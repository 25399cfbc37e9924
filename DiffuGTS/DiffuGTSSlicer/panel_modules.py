"""Slicer's own modules that results are handed to: whether they are there, and how they are opened."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSSlicer.display import shownSegments

SEGMENT_EDITOR, SEGMENT_STATISTICS, DICOM = "SegmentEditor", "SegmentStatistics", "DICOM"
_DICOM_PLUGIN = "DICOMSegmentationPlugin"
_EDITOR_TAG = "SegmentEditor"
"""Singleton tag under which the Segment Editor keeps what it is editing."""


def absence(module: str) -> str:
    """Say why a module of Slicer's cannot be used, or return an empty string where it can."""
    if not hasattr(slicer.modules, module.lower()):
        return _(
            "Slicer's module {module} is not loaded. Enable it under Application Settings, Modules, and restart."
        ).format(module=module)
    if module == DICOM and _DICOM_PLUGIN not in getattr(slicer.modules, "dicomPlugins", {}):
        return _(
            "Slicer's {plugin}, which writes DICOM segmentations, is not loaded. Where this Slicer has no such module, "
            "install the extension QuantitativeReporting, and restart."
        ).format(plugin=_DICOM_PLUGIN)
    return ""


def openSegmentEditor(segmentationNode: Any, segmentId: str, scanNode: Any) -> None:
    """Switch to the Segment Editor with a segment and its scan chosen.

    Slicer's default erases from every segment what is painted into one, also from those that are hidden because they were
    set aside; where there are such, only what is seen is painted over. Another choice of the user's stays.
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
