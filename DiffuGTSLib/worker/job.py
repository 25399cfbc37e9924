"""One job: from the files in its folder to the files in its folder."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from DiffuGTSLib.cache import Cache, cache_bytes, key_of, read_cache
from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.drawn import inside_region
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.output.findings import Finding, find_lesions, write_findings
from DiffuGTSLib.output.record import make_record, record_text
from DiffuGTSLib.pipeline import Segmentation
from DiffuGTSLib.planning.running import plan_here, segment_by_plan
from DiffuGTSLib.storage import json_sha256, whole_file
from DiffuGTSLib.volumes import Volume
from DiffuGTSLib.volumes.canonical import guess_modality
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume
from DiffuGTSLib.volumes.volume import AS_ASKED, require_scan
from DiffuGTSLib.worker.model import WarmModel
from DiffuGTSLib.worker.protocol import ARTIFACT_FILES, CACHE_FILE, JobSpec
from DiffuGTSLib.worker.teller import Teller

_logger = logging.getLogger(__name__)


def perform(folder: Path, spec: JobSpec, config: Config, model: WarmModel, teller: Teller) -> None:
    """Do a job, tell of it as it goes, and tell `done` at the end.

    Args:
        folder: Of the job.
        spec: What it says.
        config: What its preset and overrides come to.
        model: Keeps the networks for the next one.
        teller: Takes the events; may raise `Cancelled`.

    Raises:
        DiffuGTSError: Whatever reading, `load_components` and `segment` refuse, or a file that cannot be written.
    """
    with teller.stage("load"):
        digest = scan_sha256(folder / spec.scan)
        scan = read_volume(folder / spec.scan)
        require_scan(scan)
        modality, reason = (spec.modality, AS_ASKED) if spec.modality else guess_modality(scan)
        prompts = spec.prompts(modality)
        region = read_mask(folder / spec.region, scan.geometry) if spec.region else None
        drawn = read_mask(folder / spec.coarse_mask, scan.geometry) if spec.coarse_mask else None
        if region is not None and drawn is not None:
            drawn, cut_off = inside_region(drawn, region, drop_outside=True)
            if cut_off:
                teller.tell("warning", message=f"{cut_off}.")
        teller.progress("load", 0.5)
        plan = plan_here(scan.geometry, config)
        if spec.cache:  # made on the grid that was planned then, from where only the rest may be planned smaller
            plan = plan_here(scan.geometry, plan.config, grid_fixed=True, given_up=plan.differs_from_asked)
        config = plan.config
        components = model.components(config, spec.allow_untrained)
        cache = None
        if spec.cache:
            made_of = digest_of_key(key_of(scan, prompts, modality, components, config), scan, config)
            cache = read_earlier_cache(folder / spec.cache, scan, made_of, teller)

    def show(kind: str, made: Volume) -> None:
        write_volume(made, folder / ARTIFACT_FILES[kind], compressed=False)
        teller.artifact(kind, folder / ARTIFACT_FILES[kind])

    memory = model.memory(plan)
    result = segment_by_plan(
        scan, prompts, components, plan, on_step_down=lambda said: teller.tell("warning", message=said),
        modality=modality, region=region, coarse_mask=drawn, cache=cache, memory=memory, stages=spec.stages,
        on_progress=teller.progress, on_artifact=show,
    )  # fmt: skip
    _logger.info(memory.summary())
    result = replace(result, modality_reason=reason)
    with teller.stage("write"):
        if result.residual is not None:
            show("residual", result.residual)
        show("segmentation", result.mask)
        findings = find_lesions(result.mask, result.aova, scan, result.pseudo_healthy)
        write_findings(findings, folder / ARTIFACT_FILES["findings"])
        teller.artifact("findings", folder / ARTIFACT_FILES["findings"])
        with whole_file(folder / CACHE_FILE) as temporary:
            made_of = digest_of_key(result.cache.made_of, scan, result.config)  # memory may have run out
            temporary.write_bytes(cache_bytes(result.cache, None, made_of))
        write_record(folder, spec, scan, digest, result, components, findings)
        teller.artifact("record", folder / ARTIFACT_FILES["record"])
    seconds = {"load": teller.seconds["load"], **result.timings_s, "write": teller.seconds["write"]}
    teller.tell(
        "done",
        outcome=result.outcome,
        anomaly_score=float(result.anomaly_score),
        modality=modality,
        modality_reason=reason,
        timings_s={stage: round(taken_s, 3) for stage, taken_s in seconds.items()},
        findings=[asdict(finding) for finding in findings],
    )


def digest_of_key(key: Mapping[str, str], scan: Volume, config: Config) -> str:
    """Return all that a cache depends on as one digest: what `key_of` names, the grid, and how it was done.

    Of the scan the voxels and the grid, not the file: the same node may be written again with another header.
    """
    how = [asdict(config.backbone), asdict(config.text), config.runtime.precision]
    all_of_it = [dict(key), how, scan.geometry.ijk_to_ras.tolist(), scan.geometry.shape]
    return json_sha256(all_of_it)


def read_earlier_cache(path: Path, scan: Volume, made_of: str, teller: Teller) -> Cache | None:
    """Return the cache of an earlier job, or None, with a warning, where it is gone, damaged or another scan's."""
    try:
        cache, _ = read_cache(path, scan.geometry, made_of)
    except InputError as error:
        other = error.code == "cache_other"
        reason = "is of another scan, other prompts or another model" if other else "is damaged"
        teller.tell("warning", message=f"The earlier result {reason}: the scan is looked at again.")
        return None
    if cache is None:
        teller.tell("warning", message="The earlier result is gone: the scan is looked at again.")
    return cache


def write_record(
    folder: Path, spec: JobSpec, scan: Volume, digest: str, result: Segmentation, components: Components,
    findings: list[Finding],
) -> None:  # fmt: skip
    """Write record.json: as in a result folder, and what the job asked for."""
    about = {
        "region": bool(spec.region),
        "stages": list(spec.stages),
        "format": "nrrd",
        "findings": len(findings),
        "asked": asdict(spec),
    }
    with whole_file(folder / ARTIFACT_FILES["record"]) as temporary:
        text = record_text({**make_record(scan, folder / spec.scan, digest, result, components), **about})
        temporary.write_text(text, encoding="utf-8")
