"""The record beside the maps of a result: what was found, in what, and how."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from DiffuGTSLib.components import Components
from DiffuGTSLib.pipeline import Segmentation
from DiffuGTSLib.storage import for_json
from DiffuGTSLib.versions import versions
from DiffuGTSLib.volumes import Volume

SCHEMA = 1
RESEARCH_USE = "Research use only. Not for diagnosis."


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
