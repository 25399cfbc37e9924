"""Links all nodes of a result to its segmentation, so that a review never mixes two runs."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util
from slicer.i18n import tr as _

from DiffuGTSLib.volumes.volume import AS_ASKED
from DiffuGTSSlicer import display, provenance
from DiffuGTSSlicer.grids import scanState, segmentBox
from DiffuGTSSlicer.result_import import highestOf
from DiffuGTSSlicer.run import MASKS, VOLUMES, Run
from DiffuGTSSlicer.scene import SCAN_ROLE, isResult
from DiffuGTSSlicer.time_point import timePointOf, timePointOfResult

MAPS = {"aova": "DiffuGTS.Aova", "pseudoHealthy": "DiffuGTS.PseudoHealthy", "residual": "DiffuGTS.Residual"}
"""Name in the parameter node → reference role of the segmentation."""
SEGMENT_OF = {"candidate": "candidateSegmentId", "segmentation": "tumorSegmentId"}
_CANDIDATE = "DiffuGTS.Candidate"
_TUMOR_SEGMENT, _CANDIDATE_SEGMENT = "DiffuGTS.TumorSegment", "DiffuGTS.CandidateSegment"
_OUTCOME, _THRESHOLD = "DiffuGTS.Outcome", "DiffuGTS.OverlayThreshold"
_RECORDED = ("segmentation", "painted_tumor")
"""Artifacts whose node stores the record."""


# --- In the scene


def completeResult(run: Run) -> None:
    """Link the nodes of a completed run to its segmentation; earlier maps that it did not replace are removed.

    Nodes deleted during the run are no longer part of it.
    """
    for kind, node in list(run.nodes.items()):
        if not slicer.mrmlScene.IsNodePresent(node):
            del run.nodes[kind]
            run.segmentIds.pop(kind, None)
            run.notes.append(_("'{name}' was deleted during the run.").format(name=node.GetName()))
    for kind, name in VOLUMES.items():
        node = getattr(run.parameters, name, None)
        if node is not None and kind not in run.nodes and slicer.mrmlScene.IsNodePresent(node) and isResult(node):
            slicer.mrmlScene.RemoveNode(node)
    if not run.timePoint and scanState(run.scanNode) != run.scanState:  # a sequence may have been played
        run.notes.append(
            _("The scan was changed during the run: the result belongs to the scan as it was before. Run it again.")
        )
    if not run.parameters.modality and run.result.get("modality") == "MR" and run.result["modality_reason"] != AS_ASKED:
        words = _("Assumed to be MR, since {reason}. If it is a CT, set the modality under Inputs.")
        run.notes.append(words.format(reason=run.result["modality_reason"]))
    for about in _RECORDED:
        if about in run.nodes and run.record:
            provenance.writeProvenance(run.nodes[about], run.record)
    if "segmentation" in run.nodes:
        _linkResult(run)


def _linkResult(run: Run) -> None:
    node = run.nodes["segmentation"]
    for kind, name in VOLUMES.items():
        if name in MAPS:
            _setReference(node, MAPS[name], run.nodes.get(kind))
    candidate = run.parameters.candidate if run.isRefinement else run.nodes.get("coarse_mask")
    _setReference(node, _CANDIDATE, candidate)
    node.SetAttribute(_TUMOR_SEGMENT, run.segmentIds["segmentation"])
    noted = node.GetAttribute(_CANDIDATE_SEGMENT) if run.isRefinement else run.segmentIds.get("coarse_mask")
    isThere = candidate is not None and noted and candidate.GetSegmentation().GetSegment(noted) is not None
    node.SetAttribute(_CANDIDATE_SEGMENT, noted if isThere else None)
    node.SetAttribute(_OUTCOME, run.outcome or None)
    level = scanThreshold(run)
    node.SetAttribute(_THRESHOLD, None if level is None else f"{level:.4f}")


def _setReference(node: Any, role: str, other: Any) -> None:
    node.SetNodeReferenceID(role, None if other is None else other.GetID())


def scanThreshold(run: Run) -> float | None:
    """Return the candidate threshold of a run, if the preset's is relative to each scan; None if it is fixed."""
    if "aova" not in run.nodes or run.parameters.config().masks.rule != "relative":
        return None
    peak = run.candidatePeak
    return run.parameters.overlayThreshold(highestOf(run.nodes["aova"]) if peak is None else peak)


def belongsToScan(node: Any, scanNode: Any, timePoint: str | None = None) -> bool:
    """Return whether a node is a result of a scan, or not a result at all, such as a clone made by the user.

    Each time point of a sequence counts as a scan: the one that is shown, unless another is given.
    """
    if not isResult(node) or isClone(node):
        return True
    timePoint = timePointOf(scanNode) if timePoint is None else timePoint
    return node.GetNodeReference(SCAN_ROLE) is scanNode and timePointOfResult(node) == timePoint


def isClone(node: Any) -> bool:
    """Return whether a segmentation is a clone of a result: Slicer clones node attributes, but no node references.

    A result whose scan was deleted still has references to its maps.
    """
    roles = (SCAN_ROLE, *MAPS.values(), _CANDIDATE)
    return node.GetAttribute(_TUMOR_SEGMENT) is not None and not any(node.GetNodeReferenceID(role) for role in roles)


# --- In the parameter node


def shownResult(state: Any) -> Any:
    """Return the segmentation under review; None if it does not belong to the scan under review."""
    node, scan = state.segmentation, state.resultVolume
    return node if None not in (node, scan) and node.GetNodeReference(SCAN_ROLE) is scan else None


def hideOtherResults(state: Any, known: set[str]) -> None:
    """Hide the segmentations of other scans than the one under review, each only once: the user may show them again.

    Tumors painted into the selected scan stay visible: their own volume is shown with them.

    Args:
        state: The parameter node.
        known: IDs of nodes that were hidden before; new ones are added.
    """
    shown = shownResult(state)
    timePoint = None if shown is None else timePointOfResult(shown)
    painted = state.painted is not None and state.painted.GetNodeReference(SCAN_ROLE) is state.inputVolume
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        isPainted = painted and node is state.paintedSegmentation
        if node.GetID() not in known and not isPainted and not belongsToScan(node, state.resultVolume, timePoint):
            known.add(node.GetID())
            display.showSegments(node, False)


def syncStateToSegmentation(state: Any) -> bool:
    """Set scan, maps and segments to those of the selected segmentation; return whether anything changed."""
    node = state.segmentation
    if node is not None and isClone(node):
        _linkClone(state, node)
    scan = None if node is None else node.GetNodeReference(SCAN_ROLE)
    if scan is None or node.GetAttribute(_TUMOR_SEGMENT) is None:
        return False
    wanted = {name: node.GetNodeReference(role) for name, role in MAPS.items()}
    wanted.update(resultVolume=scan, tumorSegmentId=node.GetAttribute(_TUMOR_SEGMENT))
    if all(getattr(state, name) == value for name, value in wanted.items()):
        return False
    if state.resultVolume is not scan:
        state.inputVolume = scan
    for name, value in wanted.items():
        setattr(state, name, value)
    state.candidate = node.GetNodeReference(_CANDIDATE)
    state.candidateSegmentId = node.GetAttribute(_CANDIDATE_SEGMENT) or ""
    state.outcome = node.GetAttribute(_OUTCOME) or ""
    _restoreThreshold(state)
    return True


def selectLatestResult(state: Any) -> None:
    """Select the newest result of the selected scan and time point, unless the selected one belongs to it already."""
    scan, chosen = state.inputVolume, state.segmentation
    if scan is None or (chosen is not None and belongsToScan(chosen, scan)):
        return
    for node in reversed(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")):
        isWhole = node.GetAttribute(_TUMOR_SEGMENT) is not None and node.GetNodeReference(SCAN_ROLE) is scan
        if isWhole and belongsToScan(node, scan):
            state.segmentation = node
            return


def _linkClone(state: Any, node: Any) -> None:
    """Link a clone to the scan under review and its maps, if it is on the grid of that scan."""
    scan, segmentId = state.resultVolume, node.GetAttribute(_TUMOR_SEGMENT)
    if scan is None or node.GetSegmentation().GetSegment(segmentId) is None:
        return
    if segmentBox(node, segmentId, scan) is not None:
        node.SetNodeReferenceID(SCAN_ROLE, scan.GetID())
        for name, role in MAPS.items():
            _setReference(node, role, getattr(state, name))


def storeRunNode(state: Any, run: Run, kind: str) -> None:
    """Store a node of a run in the parameter node, for Review, Refine and Hand-off."""
    others = [name for name in (*MAPS, *SEGMENT_OF) if not _fits(state, name, run.scanNode, run.timePoint)]
    if state.resultVolume is not run.scanNode or others:
        _clear(state, others)
        state.resultVolume, state.outcome = run.scanNode, ""
    name = VOLUMES[kind] if kind in VOLUMES else MASKS[kind][0]
    setattr(state, name, run.nodes[kind])
    if name in SEGMENT_OF:
        setattr(state, SEGMENT_OF[name], run.segmentIds[kind])
    level = scanThreshold(run) if kind in ("aova", "coarse_mask") else None
    if level is not None:
        state.overlayThreshold = level


def restoreState(state: Any, run: Run) -> None:
    """Set the parameter node back to the nodes that it had before an undone run."""
    names = [*VOLUMES.values(), *(name for pair in MASKS.values() for name in pair)]
    for name in names:
        isRead = run.isRefinement and name.startswith("candidate")
        if hasattr(run.parameters, name) and not isRead:
            value = getattr(run.parameters, name)
            isGone = value is not None and not isinstance(value, str) and not slicer.mrmlScene.IsNodePresent(value)
            setattr(state, name, None if isGone else value)
    _restoreThreshold(state)


def resultNodesToCreate(state: Any) -> dict[str, Any]:
    """Return the result parameters, emptied, for which a run must create new nodes instead of overwriting.

    These are results of another scan or time point, and maps and candidates that belong to another segmentation than the
    selected one.
    A result whose scan was deleted has no reference to it, and so does not belong to the current scan.
    """
    new: dict[str, Any] = {}
    for name in (*MAPS, *SEGMENT_OF):
        if not _fits(state, name, state.inputVolume) or _belongsToOtherResult(getattr(state, name), state.segmentation):
            new[name] = None
            if name in SEGMENT_OF:
                new[SEGMENT_OF[name]] = ""
    return new


def clearResult(state: Any) -> None:
    """Remove all result nodes from the parameter node."""
    _clear(state, [*MAPS, *SEGMENT_OF])
    state.outcome = ""


def _clear(state: Any, names: list[str]) -> None:
    for name in names:
        setattr(state, name, None)
        if name in SEGMENT_OF:
            setattr(state, SEGMENT_OF[name], "")


def _fits(state: Any, name: str, scanNode: Any, timePoint: str | None = None) -> bool:
    node = getattr(state, name)
    return node is None or belongsToScan(node, scanNode, timePoint)


def _belongsToOtherResult(node: Any, segmentationNode: Any) -> bool:
    """Return whether a node belongs to the result of another segmentation."""
    if node is None:
        return False
    others = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each is not segmentationNode]
    return any(each.GetNodeReference(role) is node for each in others for role in (*MAPS.values(), _CANDIDATE))


def _restoreThreshold(state: Any) -> None:
    level = None if state.segmentation is None else state.segmentation.GetAttribute(_THRESHOLD)
    if level:
        state.overlayThreshold = float(level)
