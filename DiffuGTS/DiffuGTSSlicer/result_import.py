"""Files that the worker wrote → nodes of the scene, into the nodes of the last run where those are still ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSSlicer import display, provenance, scene
from DiffuGTSSlicer.grids import segmentBox
from DiffuGTSSlicer.run import Run
from DiffuGTSSlicer.scene import CANDIDATE_COLOR, DIGEST_TAG, TUMOR_COLOR
from DiffuGTSSlicer.steps import Work, stepwise

VOLUMES = {"aova": "aova", "pseudo_healthy": "pseudoHealthy", "residual": "residual"}
"""Artifact → the run parameter that holds its node."""
MASKS = {"coarse_mask": ("candidate", "candidateSegmentId"), "segmentation": ("segmentation", "tumorSegmentId")}


@stepwise
def importArtifact(run: Run, kind: str, path: Path) -> Work[None]:
    """Bring one artifact into the scene; kinds that have no node are read or passed over.

    Raises:
        GeometryError: If an image does not lie on the scan's grid.
    """
    if kind in VOLUMES:
        yield from _importVolume(run, kind, path)
    elif kind in MASKS and not (kind == "coarse_mask" and run.isRefinement):
        yield from _importMask(run, kind, path)
    elif kind == "record":
        run.record = json.loads(path.read_text(encoding="utf-8"))
        if "segmentation" in run.nodes:
            provenance.writeProvenance(run.nodes["segmentation"], run.record)


def _importVolume(run: Run, kind: str, path: Path) -> Work[None]:
    words = {
        "aova": _("{scan} AOVA"),
        "pseudo_healthy": _("{scan} pseudo-healthy (synthetic)"),
        "residual": _("{scan} residual"),
    }
    name = words[kind].format(scan=run.scanNode.GetName())
    known = _present(getattr(run.parameters, VOLUMES[kind]))
    node = yield from scene.importVolume.steps(path, run.scanNode, name, node=known)
    yield None
    if kind == "aova":
        display.showAova(node, run.parameters.config().masks.threshold)
    elif kind == "residual":
        display.showResidual(node)
    else:
        display.stylePseudoHealthy(node, run.scanNode)
    yield None
    run.nodes[kind] = node


def _importMask(run: Run, kind: str, path: Path) -> Work[None]:
    isTumor = kind == "segmentation"
    nodeName = _("{scan} tumor") if isTumor else _("{scan} candidate region")
    organ = run.parameters.organ
    segmentName = _("{organ} tumor").format(organ=organ or _("Unnamed")).strip().capitalize()
    mask = yield from scene.readMask.steps(path, run.scanNode)
    node = _present(getattr(run.parameters, MASKS[kind][0]))
    segmentId = yield from _ours(node, getattr(run.parameters, MASKS[kind][1]), run.scanNode)
    if node is None:
        node = scene.newSegmentation(run.scanNode, nodeName.format(scan=run.scanNode.GetName()))
    run.segmentIds[kind] = scene.showMask(
        mask,
        run.scanNode,
        node,
        segmentName if isTumor else _("Candidate region"),
        organ,
        segmentId=segmentId,
        color=TUMOR_COLOR if isTumor else CANDIDATE_COLOR,
    )
    run.nodes[kind] = node
    yield None


def _present(node: Any) -> Any:
    """Return a node that is still in the scene, else None."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def _ours(node: Any, segmentId: str, scanNode: Any) -> Work[str]:
    """Return the segment to write into, none for a new one: a segment that somebody edited since is left alone."""
    segment = node.GetSegmentation().GetSegment(segmentId) if node is not None and segmentId else None
    if segment is None or (yield from isEdited.steps(node, segmentId, scanNode)):
        return ""
    return segmentId


@stepwise
def isEdited(node: Any, segmentId: str, scanNode: Any) -> Work[bool]:
    """Return whether a segment differs from what a run had put there, or was never put there by one."""
    value = vtk.reference("")
    segment = node.GetSegmentation().GetSegment(segmentId)
    if not segment.GetTag(DIGEST_TAG, value):
        return True
    found = yield from segmentBox.steps(node, segmentId, scanNode)
    return found is None or found.digest != str(value)
