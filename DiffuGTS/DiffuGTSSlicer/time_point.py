"""Time points of sequences: a proxy volume node changes its voxels, so each result stores its time point."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util

TIME_POINT = "DiffuGTS.TimePoint"
"""Attribute of a result: item number that was selected in the sequence browser of its scan."""


def timePointOf(volumeNode: Any) -> str:
    """Return the selected item number of a volume's sequence browser; "" if the volume is not part of a sequence."""
    browser = _browserOf(volumeNode)
    return "" if browser is None else str(browser.GetSelectedItemNumber())


def timePointOfResult(node: Any) -> str:
    """Return the item number of a result; "" if its scan is not part of a sequence."""
    return node.GetAttribute(TIME_POINT) or ""


def setTimePoint(node: Any, timePoint: str) -> None:
    """Store the time point of a result, as returned by `timePointOf`."""
    node.SetAttribute(TIME_POINT, timePoint or None)


def isOfShownTimePoint(node: Any, scanNode: Any) -> bool:
    """Return whether a result is of the time point that its scan shows now."""
    return timePointOfResult(node) == timePointOf(scanNode)


def nameWithTime(volumeNode: Any) -> str:
    """Return a volume's name with its time point, "DCE [time=2s]", as the Sequences module writes it."""
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
