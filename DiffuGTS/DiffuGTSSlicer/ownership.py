"""Whose a segment is: a run's, which the next run writes over, or by now the user's, which is left alone."""

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
    """Return whether a segment differs from what a run had put there, or was never put there by one.

    A transform that has moved it, or its scan, since is no edit.
    """
    if (yield from _isAsWritten(node, segmentId, scanNode)):
        return False
    return not (yield from _isAsWritten(node, segmentId, scanNode, isInWorld=False))


@stepwise
def userOwnedReason(node: Any, segmentId: str, scanNode: Any) -> Work[str]:
    """Return in a word why a segment is the user's: its status, or that it was edited, or moved away from its scan.

    Empty where it is a run's.
    """
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    words = {logic.Completed: _("completed"), logic.Flagged: _("flagged")}
    status = logic.GetSegmentStatus(node.GetSegmentation().GetSegment(segmentId))
    if status not in (logic.NotStarted, logic.InProgress):
        return words.get(status, _("reviewed"))
    if (yield from _isAsWritten(node, segmentId, scanNode)):
        return ""
    return _("edited") if (yield from isEdited.steps(node, segmentId, scanNode)) else _("moved")


def setAside(node: Any, segmentId: str, why: str) -> str:
    """Hide a segment of the user's under a name of its own, so that no tumor counts twice; return what to tell of it."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segmentId)
    name = _("{name} ({why})").format(name=segment.GetName(), why=why)
    name = freeSegmentName(segmentation, name, segmentId)
    words = _("'{before}' is {why}: it is kept, hidden, as '{after}'.")
    told = words.format(before=segment.GetName(), why=why, after=name)
    segment.SetName(name)
    display.showSegment(node, segmentId, False)
    return told


def markEdited(node: Any, scanNode: Any) -> None:
    """Have DICOM say of segments of ours that a person has changed, by hand or by dropping findings, that one had a part."""
    segmentation, value = node.GetSegmentation(), vtk.reference("")
    for segmentId in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentId)
        if segment.GetTag(DIGEST_TAG, value) and isEdited(node, segmentId, scanNode):
            segment.SetTag(ALGORITHM_TYPE_TAG, SEMIAUTOMATIC)


# --- What puts nodes back as they are now, for a run that is cut short


def volumeRestorer(node: Any) -> Callable[[], None]:
    """Return what gives a volume its voxels and its name back."""
    image, name = node.GetImageData(), node.GetName()

    def undo() -> None:
        if slicer.mrmlScene.IsNodePresent(node):
            node.SetName(name)
            node.SetAndObserveImageData(image)

    return undo


def segmentRestorer(node: Any, segmentId: str, scanNode: Any, mask: BoxedMask | None = None) -> Callable[[], None]:
    """Return what gives a segment its name, its look and, where a mask is given, its voxels and what is said of them back.

    Voxels that the user has edited since they were written over are left alone.
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
    """Return what removes a new segment, unless the user has edited it."""

    def undo() -> None:
        if _isThere(node, segmentId) and not isEdited(node, segmentId, scanNode):
            node.GetSegmentation().RemoveSegment(segmentId)

    return undo


def nodeRemover(node: Any) -> Callable[[], None]:
    """Return what removes a new node, unless segments are left in it: they are the user's."""

    def undo() -> None:
        isUserOwned = node.IsA("vtkMRMLSegmentationNode") and node.GetSegmentation().GetNumberOfSegments() > 0
        if slicer.mrmlScene.IsNodePresent(node) and not isUserOwned:
            slicer.mrmlScene.RemoveNode(node)

    return undo


def _isAsWritten(node: Any, segmentId: str, scanNode: Any, isInWorld: bool = True) -> Work[bool]:
    """Return whether a segment is what a run had put there; `isInWorld` as of `segmentBox`."""
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
