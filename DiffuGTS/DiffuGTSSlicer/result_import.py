"""Files that the worker wrote → nodes of the scene, into the nodes of the last run where those are still ours."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSSlicer import display, provenance, scene
from DiffuGTSSlicer.grids import segmentMask
from DiffuGTSSlicer.run import Run

VOLUMES = {"aova": "aova", "pseudo_healthy": "pseudoHealthy", "residual": "residual"}
"""Artifact → the run parameter that holds its node."""
MASKS = {"coarse_mask": ("candidate", "candidateSegmentId"), "segmentation": ("segmentation", "tumorSegmentId")}
DIGEST_TAG = "DiffuGTS.Digest"
"""Tag of a segment: what it was when it was imported, so that an edited one is never written over."""
CANDIDATE_COLOR = (0.95, 0.77, 0.2)


def importArtifact(run: Run, kind: str, path: Path) -> None:
    """Bring one artifact into the scene; kinds that have no node are read or passed over.

    Raises:
        GeometryError: If an image does not lie on the scan's grid.
    """
    if kind in VOLUMES:
        _importVolume(run, kind, path)
    elif kind in MASKS and not (kind == "coarse_mask" and run.isRefinement):
        _importMask(run, kind, path)
    elif kind == "record":
        run.record = json.loads(path.read_text(encoding="utf-8"))
        if "segmentation" in run.nodes:
            provenance.writeProvenance(run.nodes["segmentation"], run.record)


def _importVolume(run: Run, kind: str, path: Path) -> None:
    words = {
        "aova": _("{scan} AOVA"),
        "pseudo_healthy": _("{scan} pseudo-healthy (synthetic)"),
        "residual": _("{scan} residual"),
    }
    name = words[kind].format(scan=run.scanNode.GetName())
    node = scene.importVolume(str(path), run.scanNode, name, node=_present(getattr(run.parameters, VOLUMES[kind])))
    if kind == "aova":
        display.showAova(node, run.parameters.config().masks.threshold)
    elif kind == "residual":
        display.showResidual(node)
    else:
        display.stylePseudoHealthy(node, run.scanNode)
    run.nodes[kind] = node


def _importMask(run: Run, kind: str, path: Path) -> None:
    isTumor = kind == "segmentation"
    nodeName = _("{scan} tumor") if isTumor else _("{scan} candidate region")
    organ = run.parameters.organ
    segmentName = _("{organ} tumor").format(organ=organ or _("Unnamed")).strip().capitalize()
    node, segmentId = _ours(*(getattr(run.parameters, name) for name in MASKS[kind]), run.scanNode)
    if node is None:
        node = scene.newSegmentation(run.scanNode, nodeName.format(scan=run.scanNode.GetName()))
    segmentId = scene.importMask(
        str(path),
        run.scanNode,
        node,
        segmentName if isTumor else _("Candidate region"),
        organ,
        segmentId=segmentId,
        color=scene.TUMOR_COLOR if isTumor else CANDIDATE_COLOR,
    )
    node.GetSegmentation().GetSegment(segmentId).SetTag(DIGEST_TAG, segmentDigest(node, segmentId, run.scanNode))
    run.nodes[kind], run.segmentIds[kind] = node, segmentId


def _present(node: Any) -> Any:
    """Return a node that is still in the scene, else None."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def _ours(node: Any, segmentId: str, scanNode: Any) -> tuple[Any, str]:
    """Return the node and segment to write into: a segment that somebody edited since is left alone."""
    node = _present(node)
    segment = node.GetSegmentation().GetSegment(segmentId) if node is not None and segmentId else None
    if segment is None or isEdited(node, segmentId, scanNode):
        return node, ""
    return node, segmentId


def isEdited(node: Any, segmentId: str, scanNode: Any) -> bool:
    """Return whether a segment differs from what a run had put there, or was never put there by one."""
    value = vtk.reference("")
    segment = node.GetSegmentation().GetSegment(segmentId)
    known = str(value) if segment.GetTag(DIGEST_TAG, value) else ""
    return known != segmentDigest(node, segmentId, scanNode)


def segmentDigest(node: Any, segmentId: str, scanNode: Any) -> str:
    """Return a checksum of a segment's voxels on the scan's grid."""
    return f"{zlib.crc32(np.packbits(segmentMask(node, segmentId, scanNode)).tobytes()):08x}"
