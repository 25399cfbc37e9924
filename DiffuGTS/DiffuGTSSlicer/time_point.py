"""Which time point of a sequence a volume shows: its voxels change while it stays the same node, and results must not."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util

TIME_POINT = "DiffuGTS.TimePoint"
"""Attribute of a result of a sequence: the item number that the browser of its scan had then."""


def timePointOf(volumeNode: Any) -> str:
    """Return the item number that a sequence's browser has given a volume; "" of a volume that is of no sequence."""
    browser = _browserOf(volumeNode)
    return "" if browser is None else str(browser.GetSelectedItemNumber())


def timePointOfResult(node: Any) -> str:
    """Return the item number that a result is of; "" where its scan was of no sequence."""
    return node.GetAttribute(TIME_POINT) or ""


def setTimePoint(node: Any, timePoint: str) -> None:
    """Note what a result is of, as `timePointOf` has told it of the scan."""
    node.SetAttribute(TIME_POINT, timePoint or None)


def isOfShown(node: Any, scanNode: Any) -> bool:
    """Say whether a scan's result is of the time point that the scan shows now."""
    return timePointOfResult(node) == timePointOf(scanNode)


def nameWithTime(volumeNode: Any) -> str:
    """Return a volume's name with its time point, "DCE [time=2s]" as Slicer writes it where it is asked to."""
    browser, name = _browserOf(volumeNode), str(volumeNode.GetName())
    if browser is None or browser.GetSelectedItemNumber() < 0:
        return name
    sequence = browser.GetMasterSequenceNode()
    value = sequence.GetNthIndexValue(browser.GetSelectedItemNumber())
    words = f"[{sequence.GetIndexName() or ''}={value}{sequence.GetIndexUnit() or ''}]"
    return name if words in name else f"{name} {words}"


def _browserOf(volumeNode: Any) -> Any:
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    return next((each for each in browsers if volumeNode and each.GetSequenceNode(volumeNode) is not None), None)
