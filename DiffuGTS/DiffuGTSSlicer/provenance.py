"""Provenance of a segmentation in the scene: the run's record as a text node, its main values as attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import slicer

from DiffuGTSSlicer.scene import placeBeside, uniqueName

ROLE = "DiffuGTS.Provenance"
"""Node reference from the segmentation to its text node."""


def writeProvenance(
    segmentationNode: slicer.vtkMRMLSegmentationNode, record: Mapping[str, Any]
) -> slicer.vtkMRMLTextNode:
    """Store a run's record with its segmentation; an earlier record of that segmentation is replaced."""
    node = segmentationNode.GetNodeReference(ROLE)
    if node is None:
        name = uniqueName(f"{segmentationNode.GetName()} provenance")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name)
        segmentationNode.SetNodeReferenceID(ROLE, node.GetID())
        placeBeside(node, segmentationNode)
    node.SetText(json.dumps(record, indent=1, ensure_ascii=False))
    for name, value in _attributes(record).items():
        for each in (segmentationNode, node):
            each.SetAttribute(f"DiffuGTS.{name}", value)
    return node


def _attributes(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the main values of a record, for node attributes; None removes the value of an earlier run."""
    prompts = record.get("prompts") or {"organ": (record.get("organ") or {}).get("name")}
    facts = {
        "Version": (record.get("versions") or {}).get("diffugts"),
        "Created": record.get("created"),
        "Outcome": record.get("outcome"),
        "AnomalyScore": record.get("anomaly_score"),
        "Modality": record.get("modality"),
        "Organ": prompts.get("organ"),
        "NormalPrompt": prompts.get("normal"),
        "AbnormalPrompt": prompts.get("abnormal"),
        "Painter": record.get("painter"),
        "Seed": record.get("seed"),
        "Device": record.get("device"),
        "Notice": record.get("notice"),
    }
    return {name: None if value in (None, "") else str(value) for name, value in facts.items()}
