"""How to make a report again: what was run, with what, on what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from DiffuGTSLib.components import Components
from DiffuGTSLib.config import Config
from DiffuGTSLib.protocol import SPLITS, Case
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.versions import versions


def report_provenance(
    protocol_path: Path, split: str, cases: Sequence[Case], config: Config, components: Components
) -> dict[str, Any]:
    """Return what a report says about its protocol, model and machine, as JSON.

    Args:
        protocol_path: A bundled one is told by its name alone.
        split: That was judged.
        cases: All of the protocol.
        config: Of the model.
        components: The model.
    """
    text = protocol_path.read_bytes()
    bundled = protocol_path.resolve().parent == resource_path("Protocols").resolve()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": protocol_path.stem if bundled else protocol_path.name,
        "protocol_sha256": hashlib.sha256(text).hexdigest(),
        "description": str(json.loads(text).get("description", "")),
        "split": split,
        "splits": {each: sum(case.split == each for case in cases) for each in SPLITS if each != "excluded"},
        "preset": config.preset,
        "seed": config.runtime.seed,
        "weights": dict(components.weights),
        "trained": components.trained,
        "device": str(components.device),
        "versions": versions(),
    }
