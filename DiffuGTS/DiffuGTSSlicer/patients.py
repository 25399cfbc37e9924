"""Whose an organ's segment and a region of interest are: one patient's are no place to look in for another's tumors."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.errors import InputError
from DiffuGTSSlicer.grids import volumeGeometry
from DiffuGTSSlicer.scene import SCAN_ROLE

_ROI_SCAN_ROLE = "DiffuGTS.RoiScan"
"""Reference from a region of interest to the scan that it was fitted to, or first used for."""


def noteScan(roiNode: Any, scanNode: Any) -> None:
    """Note which scan a region of interest belongs to."""
    roiNode.SetNodeReferenceID(_ROI_SCAN_ROLE, scanNode.GetID())


def requireOwnRegions(
    scanNode: Any, organSegmentation: Any = None, roiNode: Any = None, isWatched: bool = True
) -> list[str]:
    """Refuse to work on a scan only within another patient's organ or box, which would leave the rest out in silence.

    A box that belongs to no scan yet is this one's from now on.

    Args:
        scanNode: The scan.
        organSegmentation: With the organ's segment; None for the whole scan.
        roiNode: A box; None for the whole scan.
        isWatched: Whether somebody looks at this one scan. Otherwise, where the Data module knows no patients, only a scan
            on the grid of the other one is taken for the same patient's: two CTs overlap in the world whosoever they are.

    Returns:
        What to tell where the Data module knows no patients.

    Raises:
        InputError: Code "other_patient".
    """
    told = []
    if organSegmentation is not None:
        role = organSegmentation.GetReferenceImageGeometryReferenceRole()
        outlined = organSegmentation.GetNodeReference(role) or organSegmentation.GetNodeReference(SCAN_ROLE)
        name = _("The organ segment of '{organ}'").format(organ=organSegmentation.GetName())
        told += _requireOwn(scanNode, organSegmentation, outlined, name, isWatched)
    if roiNode is not None:
        name = _("The region of interest '{roi}'").format(roi=roiNode.GetName())
        told += _requireOwn(scanNode, roiNode, roiNode.GetNodeReference(_ROI_SCAN_ROLE), name, isWatched)
        if roiNode.GetNodeReference(_ROI_SCAN_ROLE) is None:
            noteScan(roiNode, scanNode)
    return told


def _requireOwn(scanNode: Any, node: Any, ownerNode: Any, name: str, isWatched: bool) -> list[str]:
    """Refuse a region of another patient's scan; return what to tell of one that may be."""
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
        words = _("{region} belongs to '{owner}': see that this is the same patient.")
        return [words.format(region=name, owner=owner)]
    else:
        why = _("a scan on another grid; put both scans under one patient in the Data module if they are of one")
    words = _("{region} belongs to '{owner}', {why}.") if owner else _("{region} is {why}.")
    raise InputError(
        words.format(region=name, owner=owner, why=why),
        hint=_("choose the scan's own under Inputs (the button Fit makes a region of interest so), or none."),
        code="other_patient",
    )


def _isMadeFrom(scanNode: Any, ownerNode: Any) -> bool:
    """Say whether a volume was made from a scan, as one with painted tumors is."""
    return ownerNode is not None and scanNode.GetNodeReference(SCAN_ROLE) is ownerNode


def _patientOf(node: Any) -> int:
    if node is None:
        return 0
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    return int(hierarchy.GetItemAncestorAtLevel(item, "Patient")) if item else 0
