"""Imports the worker's files into the scene, into the nodes of the last run if the user has not changed them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSLib.storage import read_json
from DiffuGTSSlicer import display, scene
from DiffuGTSSlicer.boxed_mask import BoxedMask
from DiffuGTSSlicer.grids import writtenBox
from DiffuGTSSlicer.organ_words import organWord, withCapital
from DiffuGTSSlicer.ownership import (
    hideAndRename,
    nodeRemover,
    segmentRemover,
    segmentRestorer,
    userOwnedReason,
    volumeRestorer,
)
from DiffuGTSSlicer.run import MASKS, VOLUMES, Run
from DiffuGTSSlicer.scene import AUTOMATIC, CANDIDATE_COLOR, SCAN_ROLE, SEMIAUTOMATIC, TUMOR_COLOR
from DiffuGTSSlicer.steps import Work, stepwise
from DiffuGTSSlicer.time_point import setTimePoint


@stepwise
def importArtifact(run: Run, kind: str, path: Path) -> Work[None]:
    """Import one artifact; the record is read, and other kinds without a node are ignored.

    Raises:
        GeometryError: If an image does not lie on the scan's grid.
    """
    if kind in VOLUMES:
        yield from _importVolume(run, kind, path)
    elif kind in MASKS and not (kind == "coarse_mask" and run.isRefinement):
        yield from _importMask(run, kind, path)
    elif kind == "record":
        run.record = read_json(path)


def highestOf(volumeNode: Any) -> float:
    """Return the maximum of a map."""
    return float(slicer.util.arrayFromVolume(volumeNode).max())


def highestWithin(volumeNode: Any, mask: BoxedMask) -> float | None:
    """Return the maximum of a map within a mask on its grid; None if the mask is empty."""
    values = slicer.util.arrayFromVolume(volumeNode)[mask.box][mask.voxels > 0]
    return float(values.max()) if values.size else None


def _importVolume(run: Run, kind: str, path: Path) -> Work[None]:
    words = {
        "aova": _("{scan} AOVA"),
        "pseudo_healthy": _("{scan} pseudo-healthy (synthetic)"),
        "residual": _("{scan} residual"),
        "painted": _("{scan} with painted tumor (synthetic)"),
    }
    name = words[kind].format(scan=run.scanName)
    known = _present(getattr(run.parameters, VOLUMES[kind]))
    if known is not None:
        run.undoActions.append(volumeRestorer(known))
    node = yield from scene.importVolume.steps(path, run.scanNode, name, node=known)
    if known is None:
        run.undoActions.append(nodeRemover(node))
    setTimePoint(node, run.timePoint)
    yield None
    if kind == "aova":
        display.showAova(node, run.parameters.overlayThreshold(highestOf(node)))
    elif kind == "residual":
        display.showResidual(node)
    else:
        display.styleSynthetic(node, run.scanNode)
    yield None
    run.nodes[kind] = node


def _importMask(run: Run, kind: str, path: Path) -> Work[None]:
    organ = run.parameters.namedOrgan
    nodeName, segmentName = {
        "coarse_mask": (_("{scan} candidate region"), _("Candidate region")),
        "segmentation": (_("{scan} tumor"), _("{organ} tumor")),
        "painted_tumor": (_("{scan} painted tumor"), _("Painted {organ} tumor")),
    }[kind]
    segmentName = withCapital(segmentName.format(organ=organWord(organ) if organ else _("Unnamed")))
    mask = yield from scene.readMask.steps(path, run.scanNode)
    if kind == "coarse_mask" and "aova" in run.nodes:
        run.candidatePeak = highestWithin(run.nodes["aova"], mask)
    node = _present(getattr(run.parameters, MASKS[kind][0]))
    segmentId = yield from _segmentToOverwrite(run, node, getattr(run.parameters, MASKS[kind][1]))
    # Painted tumors are shown on the painted volume, which Segment Editor then selects as source, too.
    shownOn = _present(run.nodes.get("painted")) or run.scanNode
    if node is None:
        node = scene.newSegmentation(shownOn, nodeName.format(scan=run.scanName))
        run.undoActions.append(nodeRemover(node))
    elif node.GetNodeReference(SCAN_ROLE) is None:  # the user's own segmentation, which now holds a result of this scan
        scene.markResult(node, run.scanNode, isMade=False)
    setTimePoint(node, run.timePoint)
    role = node.GetReferenceImageGeometryReferenceRole()
    if node.GetNodeReference(role) is None:  # without it Slicer's DICOM export finds no images
        node.SetNodeReferenceID(role, shownOn.GetID())
    run.segmentIds[kind] = scene.showMask(
        mask,
        run.scanNode,
        node,
        segmentName,
        organ,
        segmentId=segmentId,
        color=CANDIDATE_COLOR if kind == "coarse_mask" else TUMOR_COLOR,
        algorithmType=SEMIAUTOMATIC if run.isRefinement else AUTOMATIC,
    )
    if not segmentId:
        run.undoActions.append(segmentRemover(node, run.segmentIds[kind], run.scanNode))
    run.nodes[kind] = node
    yield None


def _present(node: Any) -> Any:
    """Return a node that is still in the scene, else None."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def _segmentToOverwrite(run: Run, node: Any, segmentId: str) -> Work[str]:
    """Return the segment to overwrite, "" for a new one; a segment of the user is hidden, renamed and reported."""
    segment = node.GetSegmentation().GetSegment(segmentId) if node is not None and segmentId else None
    if segment is None:
        return ""
    why = yield from userOwnedReason.steps(node, segmentId, run.scanNode)
    if why:
        run.undoActions.append(segmentRestorer(node, segmentId, run.scanNode))
        run.notes.append(hideAndRename(node, segmentId, why))
        return ""
    mask = yield from writtenBox.steps(node, segmentId, run.scanNode)
    run.undoActions.append(segmentRestorer(node, segmentId, run.scanNode, mask))
    return segmentId
