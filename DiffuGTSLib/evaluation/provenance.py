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
from DiffuGTSLib.datasets.protocol import SPLITS, Case
from DiffuGTSLib.errors import InputError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.storage import read_json
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
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": _told_name(protocol_path),
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


def require_same_cases(output: Path, protocol_path: Path, split: str, cases: Sequence[Case]) -> None:
    """Refuse to replace a finished report by one of another protocol or split, or by one that lacks some of its cases.

    Args:
        output: A new folder, or one that holds a report; one that was stopped, or is damaged, is gone on with.
        protocol_path: Protocol of the new report.
        split: Split of the new report.
        cases: That the split has.

    Raises:
        InputError: If the folder holds a finished report of other cases (code "exists").
    """
    try:
        report = read_json(output / "report.json")
        earlier = f"{report['about']['protocol']}, split '{report['about']['split']}'"
        names = list(dict.fromkeys(row["case"] for row in report["cases"]))
    except (InputError, KeyError, TypeError):
        return
    wanted, known = f"{_told_name(protocol_path)}, split '{split}'", {case.name for case in cases}
    lost = [name for name in names if name not in known]
    if earlier == wanted and not lost:
        return
    listed = f", without {', '.join(lost[:5])}{'…' if len(lost) > 5 else ''}" if earlier == wanted else ""
    raise InputError(
        f"{output} holds the report of {len(names)} cases of {earlier}; it would be replaced by that of {wanted}{listed}.",
        hint="choose another folder, or delete that one.",
        code="exists",
    )


def _told_name(protocol_path: Path) -> str:
    """Return a protocol's name as a report tells it: a bundled one's without its ending."""
    bundled = protocol_path.resolve().parent == resource_path("Protocols").resolve()
    return protocol_path.stem if bundled else protocol_path.name
