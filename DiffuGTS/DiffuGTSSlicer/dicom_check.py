"""Checks whether a segmentation can be exported as a DICOM segmentation, before Slicer's export dialog is opened.

DICOM SEG needs a patient and a study, references to the images that the scan was loaded from, and a terminology entry
for each segment. Without them the export fails late and with little explanation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSSlicer.display import isSegmentShown
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.scene import SCAN_ROLE
from DiffuGTSSlicer.terminology import hasRegion

INSTANCES = "DICOM.instanceUIDs"
"""Attribute of a volume that was loaded from DICOM: its SOP instance UIDs."""


@dataclass(frozen=True)
class DicomCheck:
    """Problems that prevent an export, and recommendations.

    Attributes:
        missing: Problems with their solutions; empty if the export can start.
        advice: Recommendations.
    """

    missing: tuple[str, ...]
    advice: tuple[str, ...]

    def text(self) -> str:
        """Return one line per point."""
        return "\n".join(f"• {words}" for words in (*self.missing, *self.advice))


def checkForDicom(segmentationNode: Any) -> DicomCheck:
    """Check subject hierarchy, reference volume, transforms and terminology of a segmentation; nothing is changed."""
    referred = segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())
    scan = referred or segmentationNode.GetNodeReference(SCAN_ROLE)
    filled = {} if scan is None else _filledSegments(segmentationNode, scan)
    hidden = [segment.GetName() for each, segment in filled.items() if not isSegmentShown(segmentationNode, each)]
    missing = [*_hierarchyGaps(segmentationNode, scan), *_referenceGaps(segmentationNode, referred)]
    if not filled:
        missing.append(_("All segments are empty: there is nothing to export."))
    unnamed = [segment.GetName() for segment in filled.values() if not _namesType(segment.GetTerminology())]
    if unnamed:
        missing.append(
            _("No terminology: {names}. Set it in the Segmentations module.").format(names=", ".join(unnamed))
        )
    return DicomCheck(tuple(missing), tuple(_advice(list(filled.values()), hidden)))


def _hierarchyGaps(segmentationNode: Any, scan: Any) -> list[str]:
    studies = [_study(node) for node in (segmentationNode, scan) if node is not None]
    if not all(studies):
        return [_("The scan belongs to no patient and study. Put scan and segmentation under one in the Data module.")]
    if len(set(studies)) > 1:
        return [_("Scan and segmentation belong to different studies. Move one in the Data module.")]
    return []


def _study(node: Any) -> int:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    study = hierarchy.GetItemAncestorAtLevel(item, "Study") if item else 0
    return int(study) if study and hierarchy.GetItemAncestorAtLevel(study, "Patient") else 0


def _referenceGaps(segmentationNode: Any, scan: Any) -> list[str]:
    gaps = []
    if scan is None:
        gaps.append(_("The segmentation has no reference volume. Set its source geometry in the Segmentations module."))
    elif not scan.GetAttribute(INSTANCES):
        gaps.append(
            _(
                "'{scan}' was not loaded from DICOM, so there are no images to reference. Load it with the DICOM module."
            ).format(scan=scan.GetName())
        )
    elif absent := _absentImages(scan):
        words = _("Slicer's DICOM database lacks {count} images of '{scan}'. Import its series in the DICOM module.")
        gaps.append(words.format(count=absent, scan=scan.GetName()))
    if segmentationNode.GetParentTransformNode() is not None:
        gaps.append(_("The segmentation has a parent transform. Harden it in the Transforms module, on a copy."))
    return gaps


def _absentImages(scan: Any) -> int:
    """Return how many images of a scan are missing in the DICOM database; 0 without a database."""
    database = getattr(slicer, "dicomDatabase", None)
    if database is None:
        return 0
    return sum(not database.fileForInstance(uid) for uid in scan.GetAttribute(INSTANCES).split())


def _filledSegments(segmentationNode: Any, scan: Any) -> dict[str, Any]:
    segmentation = segmentationNode.GetSegmentation()
    return {
        each: segmentation.GetSegment(each)
        for each in segmentation.GetSegmentIDs()
        if segmentMask(segmentationNode, each, scan).any()
    }


def _namesType(entry: str) -> bool:
    """Return whether an entry has a category and a type."""
    parts = entry.split("~")
    return len(parts) > 2 and all(part.strip("^") for part in parts[1:3])


def _advice(segments: list[Any], hidden: list[str]) -> list[str]:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    advice = []
    if hidden:  # for example an earlier version of the same tumor
        advice.append(
            _("Hidden: {names}. Remove segments that should not be exported in the Segment Editor.").format(
                names=", ".join(hidden)
            )
        )
    nowhere = [segment.GetName() for segment in segments if not hasRegion(segment.GetTerminology())]
    if nowhere:
        advice.append(_("No anatomic region: {names}. Add it to the terminology.").format(names=", ".join(nowhere)))
    drafts = [segment.GetName() for segment in segments if logic.GetSegmentStatus(segment) == logic.InProgress]
    if drafts:
        advice.append(
            _("Still a draft: {names}. Review it, then set its status to completed in the Segment Editor.").format(
                names=", ".join(drafts)
            )
        )
    return advice
