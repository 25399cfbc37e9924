"""A run's wish → the files of its job folder, in small steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import slicer

from DiffuGTSLib.volumes.volume import SCAN_MODALITIES
from DiffuGTSLib.worker import protocol
from DiffuGTSSlicer import scene
from DiffuGTSSlicer.run import Run
from DiffuGTSSlicer.steps import Work, stepwise

CANDIDATE_FILE = "candidate.nrrd"
REGION_FILE = "region.nrrd"


@stepwise
def exportJob(run: Run, cache: Path | None = None) -> Work[None]:
    """Write the scan, what goes with it (region and candidates, or the organ) and job.json.

    Args:
        run: With an empty folder.
        cache: What an earlier run has found out about the same scan and prompts, for a refinement.

    Raises:
        InputError: Codes "empty_region", "empty_candidate", "empty_organ", "no_place", "no_segment" and "changed"; else as
            `volumeGeometry`.
        GeometryError, StorageError: As the functions of `scene`.
    """
    yield from scene.exportVolume.steps(run.scanNode, run.folder / protocol.SCAN_FILE)
    more = yield from (_exportOrgan(run) if run.isSynthesis else _exportHints(run, cache))
    modality = run.parameters.modality or dicomModality(run.scanNode)
    protocol.write_job(dataclasses.replace(run.parameters.job(**more), modality=modality), run.folder)


def dicomModality(scanNode: Any) -> str:
    """Return "CT" or "MR" where a scan was loaded from DICOM, which says so; "" to have it guessed."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    item = hierarchy.GetItemByDataNode(scanNode)
    said = hierarchy.GetItemAttribute(item, name) if item else ""
    return said if said in SCAN_MODALITIES else ""


def _exportHints(run: Run, cache: Path | None) -> Work[dict[str, str]]:
    """Write region and candidates, as far as there are some, and return what the job says of them."""
    wish, files = run.parameters, {}
    region = run.folder / REGION_FILE
    isRestricted = yield from scene.exportRegion.steps(
        region, run.scanNode, wish.organSegmentation, wish.organSegmentId, wish.roi
    )
    if isRestricted:
        files["region"] = REGION_FILE
    if run.isRefinement:
        candidate = run.folder / CANDIDATE_FILE
        yield from scene.exportCandidate.steps(wish.candidate, wish.candidateSegmentId, run.scanNode, candidate)
        files["coarse_mask"] = CANDIDATE_FILE
        if cache is not None:
            files["cache"] = str(cache)
    return files


def _exportOrgan(run: Run) -> Work[dict[str, Any]]:
    """Write the mask of the organ that is painted into, and return where in it the tumor is wanted."""
    wish = run.parameters
    path = run.folder / protocol.SynthesisSpec.organ_mask
    yield from scene.exportOrgan.steps(wish.organSegmentation, wish.organSegmentId, run.scanNode, path)
    return {} if wish.place is None else {"center_ras_mm": scene.pointInScan(wish.place, run.scanNode)}
