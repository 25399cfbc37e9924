"""Wishes and logics for the tests of runs, and what of a run is on disk or in sight; fixtures are in logic_fixtures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from DiffuGTSSlicer.logic import DiffuGTSLogic
from DiffuGTSSlicer.parameters import RunParameters

SCRIPT = Path(__file__).parent / "scripted_worker.py"
TINY = RunParameters(organ="lung", modality="CT", preset="tiny", device="cpu", allowUntrained=True)
ALL = {"aova", "coarse_mask", "pseudo_healthy", "residual", "segmentation"}
EVERYTHING = [*(["artifact", kind] for kind in (*sorted(ALL), "record")), ["cache"], ["done"]]


def tiny(**values: Any) -> RunParameters:
    """The test networks, with a threshold low enough that they always find a candidate."""
    return replace(TINY, **{"candidateThreshold": 0.01, **values})


def continued(run: Any, **values: Any) -> RunParameters:
    """The same parameters, into the nodes that a run has made."""
    nodes = run.nodes
    return tiny(
        segmentation=nodes["segmentation"], tumorSegmentId=run.segmentIds["segmentation"],
        candidate=nodes["coarse_mask"], candidateSegmentId=run.segmentIds["coarse_mask"], aova=nodes["aova"],
        pseudoHealthy=nodes["pseudo_healthy"], residual=nodes["residual"], **values,
    )  # fmt: skip


def scripted(folder: Path, steps: list[list[str]]) -> DiffuGTSLogic:
    """A logic of its own, whose worker does what it is told."""
    (folder / "steps.json").write_text(json.dumps(steps))
    logic = DiffuGTSLogic()
    logic.client.arguments = [str(SCRIPT), "", str(folder / "steps.json")]
    return logic


def jobFolders() -> list[Path]:
    """Return what we have in Slicer's temporary folder."""
    return sorted(Path(slicer.app.temporaryPath).glob("diffugts-*"))


def nodeNames() -> list[str]:
    """Return the names of the nodes that a user sees."""
    nodes = slicer.util.getNodesByClass("vtkMRMLDisplayableNode") + slicer.util.getNodesByClass("vtkMRMLTextNode")
    return sorted(node.GetName() for node in nodes if not node.GetHideFromEditors())
