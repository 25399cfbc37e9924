"""A run's wish → the files of its job folder, in small steps."""

from __future__ import annotations

from pathlib import Path

from DiffuGTSLib.worker import protocol
from DiffuGTSSlicer import scene
from DiffuGTSSlicer.run import Run
from DiffuGTSSlicer.steps import Work, stepwise

CANDIDATE_FILE = "candidate.nrrd"
REGION_FILE = "region.nrrd"


@stepwise
def exportJob(run: Run, cache: Path | None = None) -> Work[None]:
    """Write scan, region, candidates and job.json.

    Args:
        run: With an empty folder.
        cache: What an earlier run has found out about the same scan and prompts, for a refinement.

    Raises:
        InputError: Codes "empty_region", "empty_candidate", "missing" and "changed"; else as `volumeGeometry`.
        GeometryError, StorageError: As the functions of `scene`.
    """
    wish, files = run.parameters, {}
    yield from scene.exportVolume.steps(run.scanNode, run.folder / protocol.SCAN_FILE)
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
    protocol.write_job(wish.job(**files), run.folder)
