"""What a segmentation lacks to become a DICOM segmentation, in words, before Slicer's export is opened.

DICOM SEG names a patient and a study, refers to the images that the scan was loaded from, and says in codes what each
segment is. An export that lacks one of these fails late and says little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSSlicer.display import isSegmentShown
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.scene import SCAN_ROLE
from DiffuGTSSlicer.terminology import namesPlace

INSTANCES = "DICOM.instanceUIDs"
"""Attribute of a volume that was loaded from DICOM: the images that it consists of."""


@dataclass(frozen=True)
class DicomCheck:
    """What stands in the way of an export, and what should be seen to before.

    Attributes:
        missing: Each a sentence with its remedy; empty where an export can begin.
        advice: What a reader of the export would miss.
    """

    missing: tuple[str, ...]
    advice: tuple[str, ...]

    def text(self) -> str:
        """Return one line for each point."""
        return "\n".join(f"• {words}" for words in (*self.missing, *self.advice))


def checkForDicom(segmentationNode: Any) -> DicomCheck:
    """Look at hierarchy, reference, transforms and terminology of a segmentation; nothing is changed."""
    referred = segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())
    scan = referred or segmentationNode.GetNodeReference(SCAN_ROLE)
    filled = {} if scan is None else _filledSegments(segmentationNode, scan)
    hidden = [segment.GetName() for each, segment in filled.items() if not isSegmentShown(segmentationNode, each)]
    missing = [*_hierarchyGaps(segmentationNode, scan), *_referenceGaps(segmentationNode, referred)]
    if not filled:
        missing.append(_("No segment holds anything: there is nothing to export."))
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
        gaps.append(_("The segmentation refers to no scan. Set its source geometry in the Segmentations module."))
    elif not scan.GetAttribute(INSTANCES):
        gaps.append(
            _(
                "'{scan}' was not loaded from DICOM, so that there are no images to refer to. Load it with the DICOM module."
            ).format(scan=scan.GetName())
        )
    elif absent := _absentImages(scan):
        words = _("Slicer's DICOM database lacks {count} images of '{scan}'. Import its series in the DICOM module.")
        gaps.append(words.format(count=absent, scan=scan.GetName()))
    if segmentationNode.GetParentTransformNode() is not None:
        gaps.append(_("The segmentation lies under a transform. Harden it in the Transforms module, on a copy."))
    return gaps


def _absentImages(scan: Any) -> int:
    """Return how many images of a scan the export will not find; 0 where there is no database to ask."""
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
    """Say whether an entry has a category and a type."""
    parts = entry.split("~")
    return len(parts) > 2 and all(part.strip("^") for part in parts[1:3])


def _advice(segments: list[Any], hidden: list[str]) -> list[str]:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    advice = []
    if hidden:  # an earlier state of the same tumor, say
        advice.append(
            _("Hidden: {names}. Remove what is not to be exported in the Segment Editor.").format(
                names=", ".join(hidden)
            )
        )
    nowhere = [segment.GetName() for segment in segments if not namesPlace(segment.GetTerminology())]
    if nowhere:
        advice.append(
            _("No place in the body: {names}. Add the region to the terminology.").format(names=", ".join(nowhere))
        )
    drafts = [segment.GetName() for segment in segments if logic.GetSegmentStatus(segment) == logic.InProgress]
    if drafts:
        advice.append(
            _("Still a draft: {names}. Review it, then set its status to completed in the Segment Editor.").format(
                names=", ".join(drafts)
            )
        )
    return advice
