"""What lies beside the maps of a result: the record of how they were made, and the cache for a second look."""

import dataclasses
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from DiffuGTSLib.cache import Cache
from DiffuGTSLib.errors import GeometryError, InputError
from DiffuGTSLib.pipeline import Components, Segmentation
from DiffuGTSLib.storage import for_json
from DiffuGTSLib.versions import versions
from DiffuGTSLib.volumes.volume import Geometry, Volume

SCHEMA = 1
RESEARCH_USE = "Research use only. Not for diagnosis."
RUN_AGAIN = "run diffugts segment again."


def make_record(
    scan: Volume, scan_path: Path, digest: str, result: Segmentation, components: Components
) -> dict[str, Any]:
    """Return what was found in which scan, and with which prompts, configuration, weights, seed and versions.

    Args:
        scan: As it was segmented: as it was read, with what was added to it by `in_hounsfield`.
        scan_path: From where.
        digest: Its SHA-256, taken when it was read: by the end somebody may have written another one there.
        result: What was found.
        components: With what.
    """
    return {
        "schema": SCHEMA,
        "notice": RESEARCH_USE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "outcome": result.outcome.rstrip("."),
        "anomaly_score": for_json(result.anomaly_score),
        "input": {
            "name": scan_path.name,
            "path": str(scan_path.absolute()),
            "sha256": digest,
            "offset_hu": scan.offset_hu,
            "shape": list(scan.geometry.shape),
            "spacing_mm": list(scan.geometry.spacing_mm),
            "ijk_to_ras": scan.geometry.ijk_to_ras.tolist(),
        },
        "modality": result.modality,
        "modality_reason": result.modality_reason,
        "prompts": dataclasses.asdict(result.prompts),
        "seed": result.config.runtime.seed,
        "config": result.config.to_dict(),
        "weights": dict(components.weights),
        "trained": components.trained,
        "device": str(components.device),
        "plan": result.plan,
        "stepped_down": list(result.stepped_down),
        "timings_s": {stage: round(seconds, 3) for stage, seconds in result.timings_s.items()},
        "versions": versions(),
    }


def record_text(record: Mapping[str, Any]) -> str:
    """Return a record as the text of its file."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def packed_cache(cache: Cache, region: Volume | None, belongs_to: str) -> bytes:
    """Return a cache as the content of its file.

    Args:
        cache: From a `Segmentation`.
        region: Where anomalies were allowed; kept with it.
        belongs_to: Digest of what the file belongs to: of the scan's file, or of more.
    """
    tensors = {"latent": np.ascontiguousarray(cache.latent), "aova": np.ascontiguousarray(cache.aova)}
    if region is not None:
        tensors["region_bits"] = np.packbits(region.array > 0)
    about = {
        "scan_sha256": belongs_to,
        "anomaly_score": for_json(cache.anomaly_score),
        "made_of": dict(cache.made_of),
    }
    return safetensors.numpy.save(tensors, metadata={"cache": json.dumps(about)})


def unpacked_cache(path: Path, geometry: Geometry, belongs_to: str) -> tuple[Cache | None, Volume | None]:
    """Return the cache and the region; neither where the file is gone.

    Raises:
        InputError: If the file is damaged, or was made of another scan (code "cache").
        GeometryError: If the region has another number of voxels than the scan.
    """
    if not path.exists():
        return None, None
    try:
        with safetensors.safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {})["cache"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        score, made_of = about["anomaly_score"], dict(about["made_of"])
        cache = Cache(tensors["latent"], tensors["aova"], math.nan if score is None else float(score), made_of)
        fits = about["scan_sha256"] == belongs_to
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is damaged: {error!r}.", hint=RUN_AGAIN, code="cache") from error
    if not fits:
        raise InputError(f"{path} belongs to another scan than record.json beside it.", hint=RUN_AGAIN, code="cache")
    if "region_bits" not in tensors:
        return cache, None
    voxels = math.prod(geometry.shape)
    bits = tensors["region_bits"]
    if bits.size != (voxels + 7) // 8:
        raise GeometryError(
            f"{path}: the region has room for {bits.size * 8} voxels, the scan has {voxels}.", hint=RUN_AGAIN
        )
    return cache, Volume(np.unpackbits(bits, count=voxels).reshape(geometry.shape), geometry)
