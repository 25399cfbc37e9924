"""Writes the files of a run's job folder, in small steps."""

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
    """Write the scan, its masks (region and candidates, or the organ) and job.json.

    Args:
        run: Run with an empty folder.
        cache: Cache file of an earlier run on the same scan and prompts, for a refinement.

    Raises:
        InputError: Codes "empty_region", "empty_candidate", "empty_organ", "no_place", "no_segment" and "changed"; else as
            `volumeGeometry`.
        GeometryError, StorageError: As the functions of `scene`.
    """
    yield from scene.exportVolume.steps(run.scanNode, run.folder / protocol.SCAN_FILE)
    more = yield from (_exportOrgan(run) if run.isSynthesis else _exportRegions(run, cache))
    modality = run.parameters.modality or dicomModality(run.scanNode)
    protocol.write_job(dataclasses.replace(run.parameters.job(**more), modality=modality), run.folder)


def dicomModality(scanNode: Any) -> str:
    """Return "CT" or "MR" from the DICOM header of a scan; "" if it has to be guessed."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    item = hierarchy.GetItemByDataNode(scanNode)
    modality = hierarchy.GetItemAttribute(item, name) if item else ""
    return modality if modality in SCAN_MODALITIES else ""


def _exportRegions(run: Run, cache: Path | None) -> Work[dict[str, str]]:
    """Write region and candidates, if there are any, and return their entries in the job."""
    parameters, files = run.parameters, {}
    region = run.folder / REGION_FILE
    isRestricted = yield from scene.exportRegion.steps(
        region, run.scanNode, parameters.organSegmentation, parameters.organSegmentId, parameters.roi
    )
    if isRestricted:
        files["region"] = REGION_FILE
    if run.isRefinement:
        candidate = run.folder / CANDIDATE_FILE
        yield from scene.exportCandidate.steps(
            parameters.candidate, parameters.candidateSegmentId, run.scanNode, candidate
        )
        files["coarse_mask"] = CANDIDATE_FILE
        if cache is not None:
            files["cache"] = str(cache)
    return files


def _exportOrgan(run: Run) -> Work[dict[str, Any]]:
    """Write the mask of the organ to paint into, and return the position of the tumor, if one is given."""
    parameters = run.parameters
    path = run.folder / protocol.SynthesisSpec.organ_mask
    yield from scene.exportOrgan.steps(parameters.organSegmentation, parameters.organSegmentId, run.scanNode, path)
    return {} if parameters.place is None else {"center_ras_mm": scene.pointInScan(parameters.place, run.scanNode)}
