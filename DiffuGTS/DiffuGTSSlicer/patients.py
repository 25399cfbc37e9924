"""Checks that an organ segment or a region of interest belongs to the patient of the scan."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer.grids import volumeGeometry
from DiffuGTSSlicer.scene import SCAN_ROLE

_ROI_SCAN_ROLE = "DiffuGTS.RoiScan"
"""Node reference from a region of interest to the scan that it was fitted to, or first used for."""


def noteScan(roiNode: Any, scanNode: Any) -> None:
    """Store the scan that a region of interest belongs to."""
    roiNode.SetNodeReferenceID(_ROI_SCAN_ROLE, scanNode.GetID())


def requireOwnRegions(
    scanNode: Any, organSegmentation: Any = None, roiNode: Any = None, isWatched: bool = True
) -> list[str]:
    """Refuse an organ segment or region of another patient, which would silently exclude parts of the scan.

    A region of interest that belongs to no scan yet is assigned to this one.

    Args:
        scanNode: The scan.
        organSegmentation: Segmentation with the organ; None for the whole scan.
        roiNode: Region of interest; None for the whole scan.
        isWatched: Whether the user is looking at this scan. Otherwise (in a batch), if the subject hierarchy has no
            patients, scans on different grids are refused: any two CTs overlap in world coordinates.

    Returns:
        Messages for the user if the subject hierarchy has no patients.

    Raises:
        InputError: Code "other_patient".
    """
    notes = []
    if organSegmentation is not None:
        role = organSegmentation.GetReferenceImageGeometryReferenceRole()
        outlined = organSegmentation.GetNodeReference(role) or organSegmentation.GetNodeReference(SCAN_ROLE)
        name = _("The organ segment of '{organ}'").format(organ=organSegmentation.GetName())
        notes += _requireOwn(scanNode, organSegmentation, outlined, name, isWatched)
    if roiNode is not None:
        name = _("The region of interest '{roi}'").format(roi=roiNode.GetName())
        notes += _requireOwn(scanNode, roiNode, roiNode.GetNodeReference(_ROI_SCAN_ROLE), name, isWatched)
        if roiNode.GetNodeReference(_ROI_SCAN_ROLE) is None:
            noteScan(roiNode, scanNode)
    return notes


def _requireOwn(scanNode: Any, node: Any, ownerNode: Any, name: str, isWatched: bool) -> list[str]:
    """Refuse a region of another patient's scan; return a message about one that may be."""
    if scanNode is ownerNode or _isMadeFrom(scanNode, ownerNode):
        return []
    patients = _patientOf(ownerNode) or _patientOf(node), _patientOf(scanNode)
    owner = "" if ownerNode is None else ownerNode.GetName()
    if all(patients):
        if patients[0] == patients[1]:
            return []
        why = _("another patient's scan") if owner else _("another patient's")
    elif not owner:
        return []
    elif isWatched or not volumeGeometry(scanNode).difference(volumeGeometry(ownerNode)):
        words = _("{region} belongs to '{owner}': check that this is the same patient.")
        return [words.format(region=name, owner=owner)]
    else:
        why = _("a scan on another grid; if both are of one patient, put them under that patient in the Data module")
    words = _("{region} belongs to '{owner}', {why}.") if owner else _("{region} is {why}.")
    raise InputError(
        words.format(region=name, owner=owner, why=why),
        hint=_("choose those of this scan under Inputs (the button Fit creates a region of interest), or none."),
        code="other_patient",
    )


def _isMadeFrom(scanNode: Any, ownerNode: Any) -> bool:
    """Return whether a volume was made from a scan, for example by painting tumors."""
    return ownerNode is not None and scanNode.GetNodeReference(SCAN_ROLE) is ownerNode


def _patientOf(node: Any) -> int:
    if node is None:
        return 0
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    return int(hierarchy.GetItemAncestorAtLevel(item, "Patient")) if item else 0
