"""Whether a segment still belongs to a run, and may be overwritten, or was changed by the user, and is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSSlicer import display
from DiffuGTSSlicer.boxed_mask import BoxedMask, toRasIndices
from DiffuGTSSlicer.grids import segmentBox, setSegmentBox, volumeGeometry, writtenBox
from DiffuGTSSlicer.scene import ALGORITHM_TYPE_TAG, DIGEST_TAG, SEMIAUTOMATIC, WRITTEN_TAGS, freeSegmentName
from DiffuGTSSlicer.steps import Work, stepwise


@stepwise
def isEdited(node: Any, segmentId: str, scanNode: Any) -> Work[bool]:
    """Return whether a segment differs from what a run wrote, or was not written by a run.

    A transform that moved it or its scan does not count as an edit.
    """
    if (yield from _isAsWritten(node, segmentId, scanNode)):
        return False
    return not (yield from _isAsWritten(node, segmentId, scanNode, isInWorld=False))


@stepwise
def userOwnedReason(node: Any, segmentId: str, scanNode: Any) -> Work[str]:
    """Return why a segment belongs to the user: its status, or "edited", or "moved" away from its scan.

    Empty if it belongs to a run.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    words = {logic.Completed: _("completed"), logic.Flagged: _("flagged")}
    status = logic.GetSegmentStatus(node.GetSegmentation().GetSegment(segmentId))
    if status not in (logic.NotStarted, logic.InProgress):
        return words.get(status, _("reviewed"))
    if (yield from _isAsWritten(node, segmentId, scanNode)):
        return ""
    return _("edited") if (yield from isEdited.steps(node, segmentId, scanNode)) else _("moved")


def hideAndRename(node: Any, segmentId: str, why: str) -> str:
    """Hide and rename a segment of the user, so that no tumor is counted twice; return a message about it."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segmentId)
    name = _("{name} ({why})").format(name=segment.GetName(), why=why)
    name = freeSegmentName(segmentation, name, segmentId)
    words = _("'{before}' is {why}: it is kept, hidden, as '{after}'.")
    message = words.format(before=segment.GetName(), why=why, after=name)
    segment.SetName(name)
    display.showSegment(node, segmentId, False)
    return message


def markEdited(node: Any, scanNode: Any) -> None:
    """Mark segments that the user has edited, or dropped findings from, as semiautomatic for DICOM."""
    segmentation, value = node.GetSegmentation(), vtk.reference("")
    for segmentId in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentId)
        if segment.GetTag(DIGEST_TAG, value) and isEdited(node, segmentId, scanNode):
            segment.SetTag(ALGORITHM_TYPE_TAG, SEMIAUTOMATIC)


# --- Undo functions, for a run that does not complete


def volumeRestorer(node: Any) -> Callable[[], None]:
    """Return a function that restores a volume's voxels and name."""
    image, name = node.GetImageData(), node.GetName()

    def undo() -> None:
        if slicer.mrmlScene.IsNodePresent(node):
            node.SetName(name)
            node.SetAndObserveImageData(image)

    return undo


def segmentRestorer(node: Any, segmentId: str, scanNode: Any, mask: BoxedMask | None = None) -> Callable[[], None]:
    """Return a function that restores a segment's name, visibility and, if a mask is given, its voxels and tags.

    Voxels that the user has edited since they were overwritten are kept.
    """
    segment = node.GetSegmentation().GetSegment(segmentId)
    name, isShown = segment.GetName(), display.isSegmentShown(node, segmentId)
    tags = {tag: _tagOf(segment, tag) for tag in WRITTEN_TAGS}

    def undo() -> None:
        if not _isThere(node, segmentId) or (mask is not None and isEdited(node, segmentId, scanNode)):
            return
        segment.SetName(name)
        display.showSegment(node, segmentId, isShown)
        if mask is not None:
            setSegmentBox(mask, scanNode, node, segmentId)
            for tag, value in tags.items():
                segment.RemoveTag(tag) if value is None else segment.SetTag(tag, value)

    return undo


def segmentRemover(node: Any, segmentId: str, scanNode: Any) -> Callable[[], None]:
    """Return a function that removes a new segment, unless the user has edited it."""

    def undo() -> None:
        if _isThere(node, segmentId) and not isEdited(node, segmentId, scanNode):
            node.GetSegmentation().RemoveSegment(segmentId)

    return undo


def nodeRemover(node: Any) -> Callable[[], None]:
    """Return a function that removes a new node, unless it has segments of the user."""

    def undo() -> None:
        isUserOwned = node.IsA("vtkMRMLSegmentationNode") and node.GetSegmentation().GetNumberOfSegments() > 0
        if slicer.mrmlScene.IsNodePresent(node) and not isUserOwned:
            slicer.mrmlScene.RemoveNode(node)

    return undo


def _isAsWritten(node: Any, segmentId: str, scanNode: Any, isInWorld: bool = True) -> Work[bool]:
    """Return whether a segment is as a run wrote it; `isInWorld` as of `segmentBox`."""
    value = _tagOf(node.GetSegmentation().GetSegment(segmentId), DIGEST_TAG)
    if value is None:
        return False
    if isInWorld:
        found = yield from writtenBox.steps(node, segmentId, scanNode)
    else:
        found = yield from segmentBox.steps(node, segmentId, scanNode, isInWorld)
    return found is not None and found.reindexed(toRasIndices(volumeGeometry(scanNode))).digest == value


def _isThere(node: Any, segmentId: str) -> bool:
    return bool(slicer.mrmlScene.IsNodePresent(node)) and node.GetSegmentation().GetSegment(segmentId) is not None


def _tagOf(segment: Any, tag: str) -> str | None:
    value = vtk.reference("")
    return str(value) if segment.GetTag(tag, value) else None
