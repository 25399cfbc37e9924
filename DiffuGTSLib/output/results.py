"""The result folder: the same names every time, written whole or not at all, with enough on record to run it again."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DiffuGTSLib.cache import RUN_AGAIN, Cache, cache_bytes, read_cache
from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config, from_dict
from DiffuGTSLib.errors import InputError, WeightsError, did_you_mean
from DiffuGTSLib.output.findings import Finding, find_lesions, write_findings
from DiffuGTSLib.output.overview import draw_overview, save_overview
from DiffuGTSLib.output.record import SCHEMA, make_record, record_text
from DiffuGTSLib.pipeline import Progress, Segmentation
from DiffuGTSLib.storage import read_json, require_folder_for, whole_folder
from DiffuGTSLib.text.prompts import PromptPair
from DiffuGTSLib.volumes.digest import scan_sha256
from DiffuGTSLib.volumes.hounsfield import in_hounsfield
from DiffuGTSLib.volumes.io import read_volume, write_segmentation, write_volume
from DiffuGTSLib.volumes.volume import Volume

SEGMENTATION = "segmentation.nii.gz"
COARSE_MASK = "coarse_mask.nii.gz"
AOVA = "aova.nii.gz"
PSEUDO_HEALTHY = "pseudo_healthy.nii.gz"
RESIDUAL = "residual.nii.gz"
FINDINGS = "findings.csv"
OVERVIEW = "overview.png"
CACHE = "cache.safetensors"
SLICER_SEGMENTATION = "segmentation.seg.nrrd"
RECORD = "record.json"
NAMES = (
    SEGMENTATION,
    COARSE_MASK,
    AOVA,
    PSEUDO_HEALTHY,
    RESIDUAL,
    FINDINGS,
    OVERVIEW,
    CACHE,
    SLICER_SEGMENTATION,
    RECORD,
)
"""Everything that may lie in a result folder, the record last: a folder without it is no result."""

FORMATS = ("nifti", "nrrd")
"""nrrd adds Slicer's segmentation to the NIfTI files."""

UNTRAINED = "Untrained networks: for tests only, this result means nothing."

_COLOR = (0.85, 0.33, 0.31)
_WHERE_IT_RUNS = (
    "backbone.folder", "text.folder", "runtime.device", "runtime.memory_gb", "runtime.offload", "runtime.compile",
    "runtime.remember_mb",
)  # fmt: skip
"""What of a configuration makes no other result: weights are known by their SHA-256, wherever they lie."""


@dataclass(frozen=True, eq=False)
class StoredResult:
    """A result folder, read back to be refined.

    Attributes:
        folder: Where it lies.
        scan_path: The scan that it was made from.
        scan: That scan, proven unchanged by its SHA-256, with the offset that was added to it then.
        record: record.json as it stands.
        config: The configuration of that run.
        prompts: Its prompts.
        modality: "CT" or "MR", as used then.
        modality_reason: And why.
        region: Where anomalies were allowed, 1 = allowed; None: everywhere.
        cache: What refinement re-uses; None when the file is gone, and the scan must be encoded again.
        image_format: One of `FORMATS`.
    """

    folder: Path
    scan_path: Path
    scan: Volume
    record: Mapping[str, Any]
    config: Config
    prompts: PromptPair
    modality: str
    modality_reason: str
    region: Volume | None
    cache: Cache | None
    image_format: str

    @property
    def given_up_before(self) -> tuple[str, ...]:
        """Keys in which that run left what had been asked for, by its plan."""
        plan = self.record.get("plan")
        return tuple(plan.get("differs_from_asked", ())) if isinstance(plan, dict) else ()

    def require_weights(self, components: Components) -> None:
        """Refuse weights that are not those of the recorded run, since the cache came out of them.

        Raises:
            WeightsError: Naming the first file that differs.
        """
        then, now = dict(self.record["weights"]), dict(components.weights)
        changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if changed:
            raise WeightsError(
                f"{self.folder} was made with other weights than are installed: {changed[0]} has the SHA-256 "
                f"{now.get(changed[0], 'of no file')}, expected {then.get(changed[0], 'of no file')}.",
                hint="run diffugts segment again.",
                code="weights_changed",
            )


def require_result_folder(folder: Path | str, force: bool = False) -> None:
    """Refuse, before anything is computed, a folder that a result could not or should not be written to.

    Raises:
        InputError: If it holds files already, an earlier result included, and `force` is off (code "exists").
        StorageError: If it is a file, or nothing can be created there.
    """
    require_folder_for(folder, RECORD, force, "diffugts refine re-runs it; --force replaces it.", NAMES)


def write_results(
    folder: Path | str,
    scan: Volume,
    scan_path: Path | str,
    result: Segmentation,
    components: Components,
    *,
    stages: Sequence[str],
    region: Volume | None = None,
    image_format: str = "nifti",
    notes: Mapping[str, Any] | None = None,
    force: bool = False,
    digest: str | None = None,
    on_progress: Progress | None = None,
) -> list[Finding]:
    """Write the whole result folder and return the findings, largest first.

    Everything is written aside first, then moved: on any failure, or Ctrl-C, an earlier result is as it was. Where
    nothing was repainted the pseudo-healthy image equals the scan and the residual is 0, and the record says so.

    Args:
        folder: Made if absent. Files of other names in it are left alone.
        scan: As it was segmented: as it was read, with what was added to it by `in_hounsfield`.
        scan_path: From where it was read.
        result: What `segment` returned.
        components: What it was made with.
        stages: Those that were run.
        region: Where anomalies were allowed; kept for refinement.
        image_format: One of `FORMATS`.
        notes: More entries for the record, JSON values: what the user asked for beside the configuration.
        force: Replace an earlier result.
        digest: The scan's SHA-256, which goes on record, by `scan_sha256` before it was read; None: as the file is now.
        on_progress: Called with ("write", share done) after each image; what it raises leaves an earlier result as it was.

    Raises:
        InputError: If `image_format` is another word; else as `require_result_folder`.
        StorageError: If a file cannot be written.
    """
    folder, scan_path = Path(folder), Path(scan_path)
    if image_format not in FORMATS:
        raise InputError(f"Unknown format '{image_format}'.", hint=did_you_mean(image_format, FORMATS))
    require_result_folder(folder, force)
    report = on_progress or (lambda stage, share: None)
    report("write", 0.0)
    findings = find_lesions(result.mask, result.aova, scan, result.pseudo_healthy)
    about = {"region": region is not None, "stages": list(stages), "format": image_format, "findings": len(findings)}
    outcome = {"outcome": _outcome_of_all_files(result)}
    digest = scan_sha256(scan_path) if digest is None else digest
    record = {**make_record(scan, scan_path, digest, result, components), **outcome, **about, **(notes or {})}
    with whole_folder(folder, NAMES) as staging:
        _write_images(staging, scan, result, image_format, report)
        write_findings(findings, staging / FINDINGS)
        overview = draw_overview(
            scan, result.mask, result.aova, result.pseudo_healthy, result.residual,
            findings=findings, prompts=(result.prompts.normal, result.prompts.abnormal), modality=result.modality,
            note="" if components.trained else UNTRAINED,
        )  # fmt: skip
        save_overview(overview, staging / OVERVIEW)
        (staging / CACHE).write_bytes(cache_bytes(result.cache, region, record["input"]["sha256"]))
        (staging / RECORD).write_text(record_text(record), encoding="utf-8")
    report("write", 1.0)
    return findings


def read_results(folder: Path | str, scan_path: Path | str | None = None) -> StoredResult:
    """Read a result folder for refinement, and its scan, which must be the very one of the record.

    Args:
        folder: One that `write_results` wrote.
        scan_path: Where the scan lies now; None: where it lay then.

    Raises:
        InputError: If the folder holds no result or a damaged one, or the scan is gone or has changed.
        ConfigError: If the record's configuration is of another version of DiffuGTS.
    """
    folder = Path(folder)
    record = read_record(folder)
    try:
        path = Path(record["input"]["path"] if scan_path is None else scan_path)
        expected = str(record["input"]["sha256"])
        prompts = PromptPair(**record["prompts"])
        modality, reason = str(record["modality"]), str(record["modality_reason"])
        image_format, config_values, offset_hu = str(record["format"]), record["config"], record["input"]["offset_hu"]
        offset_hu = None if offset_hu is None else float(offset_hu)
        dict(record["weights"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / RECORD} lacks or garbles the entry {error}.", hint=RUN_AGAIN, code="record"
        ) from error
    if not path.exists():
        raise InputError(
            f"The scan of this result, {path}, does not exist.",
            hint="it was moved: name its place with --scan.",
            code="missing",
        )
    scan = read_volume(path) if offset_hu is None else in_hounsfield(read_volume(path), offset_hu)
    given = scan_sha256(path)
    if given != expected:
        raise InputError(
            f"The scan {path} has changed since {folder} was made: expected the SHA-256 {expected}, got {given}.",
            hint="restore the scan, or run diffugts segment again.",
            code="scan_changed",
        )
    cache, region = read_cache(folder / CACHE, scan.geometry, expected)
    if record.get("region") and region is None:
        raise InputError(
            f"{folder / CACHE} is missing, and with it the region that this result was restricted to.",
            hint=RUN_AGAIN,
            code="cache",
        )
    config = from_dict(config_values)
    return StoredResult(folder, path, scan, record, config, prompts, modality, reason, region, cache, image_format)


def is_result(folder: Path | str) -> bool:
    """Tell whether a folder holds a whole result."""
    return (Path(folder) / RECORD).is_file()


def require_made_so(
    folder: Path | str,
    scan_path: Path,
    prompts: PromptPair,
    config: Config,
    components: Components,
    *,
    asked: Mapping[str, Any],
    more: Mapping[str, Any],
) -> None:
    """Refuse an earlier result that was not made as one is asked for now.

    Where it runs (device, memory, offload, compile) does not count, nor what its plan had to give up.

    Args:
        folder: Of the result.
        scan_path: The scan.
        prompts: The sentences.
        config: As it is asked for.
        components: The networks.
        asked: Where to look, as `notes` said it then: masks are known by their SHA-256, wherever they lie.
        more: Other entries that its record should have.

    Raises:
        InputError: Saying what was another (code "exists"), or that the record is none.
    """
    record = read_record(folder)
    now: dict[str, Any] = {"prompts": asdict(prompts), "weights": dict(components.weights), **more}
    other = [name for name, value in now.items() if record.get(name) != value]
    asked_then = record.get("asked") or {}
    other += [name for name, value in asked.items() if name != "organ_mask" and asked_then.get(name) != value]
    if dict(record.get("input", {})).get("sha256") != scan_sha256(scan_path):
        other.append("scan")
    plan = record.get("plan")
    free = {*_WHERE_IT_RUNS, *(plan.get("differs_from_asked", ()) if isinstance(plan, dict) else ())}
    then = record.get("config", {})
    other += [
        f"{stage}.{key}"
        for stage, values in config.to_dict().items()
        if isinstance(values, dict)
        for key, value in values.items()
        if f"{stage}.{key}" not in free and then.get(stage, {}).get(key) != value
    ]
    if other:
        raise InputError(
            f"{folder} holds a result that was made with another {', another '.join(other)}.",
            hint="choose another folder, or --force to replace it.",
            code="exists",
        )


def read_record(folder: Path | str) -> dict[str, Any]:
    """Return a result folder's record.

    Raises:
        InputError: If there is none, or it is not one of ours (code "record").
    """
    path = Path(folder) / RECORD
    try:
        record = read_json(path, hint=RUN_AGAIN, code="record")
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(
                f"{folder} is not a result folder: it has no {RECORD}.",
                hint="name the folder that was given to diffugts segment -o.",
                code="record",
            ) from None
        raise
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"{path}: expected a record of schema {SCHEMA}, got {record.get('schema')!r}.",
            hint=RUN_AGAIN,
            code="record",
        )
    return record


def _outcome_of_all_files(result: Segmentation) -> str:
    """Say it where a file stands for something that was not made."""
    outcome = result.outcome.rstrip(".")
    if result.pseudo_healthy is None:
        return outcome + "; nothing was repainted: the pseudo-healthy image equals the scan and the residual is 0"
    if result.residual is None:
        return outcome + "; nothing was compared: the residual is 0"
    return outcome


_STEPS = 4096
"""Of a map from 0 to 1 in a file. Finer digits say nothing: `mini`'s attention on the bundled chest CT takes 2.9 MB with
them, and 0.08 MB so."""


def _in_steps(shares: Volume) -> Volume:
    return shares.with_array(np.round(shares.array * _STEPS) / np.float32(_STEPS))


def _write_images(folder: Path, scan: Volume, result: Segmentation, image_format: str, report: Progress) -> None:
    images = {
        SEGMENTATION: result.mask,
        COARSE_MASK: result.coarse_mask,
        AOVA: result.aova,
        PSEUDO_HEALTHY: result.pseudo_healthy or scan,
        RESIDUAL: result.residual or scan.with_array(np.zeros(scan.geometry.shape, dtype=np.float32)),
    }
    for number, (name, image) in enumerate(images.items(), start=1):
        write_volume(_in_steps(image) if name in (AOVA, RESIDUAL) else image, folder / name)
        report("write", number / (len(images) + 1))  # the last share is the overview's
    if image_format == "nrrd":
        write_segmentation(result.mask, folder / SLICER_SEGMENTATION, result.prompts.abnormal, _COLOR)
