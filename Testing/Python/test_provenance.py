"""How to make a report again: the protocol by name and digest, the model by its weights."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from DiffuGTSLib.components import load_components
from DiffuGTSLib.config import load_config
from DiffuGTSLib.datasets.protocol import read_protocol
from DiffuGTSLib.evaluation.provenance import report_provenance
from DiffuGTSLib.resources import resource_path


def test_a_report_tells_protocol_model_and_machine(tmp_path: Path) -> None:
    config = load_config("tiny")
    components = load_components(config, allow_untrained=True)
    bundled = resource_path("Protocols", "mini.json")
    own = Path(shutil.copy(bundled, tmp_path / "own.json"))
    cases = read_protocol(own)
    about = report_provenance(bundled, "test", cases, config, components)
    assert about["protocol"] == "mini", "a bundled one is found by its name"
    told = report_provenance(own, "test", cases, config, components)
    assert told["protocol"] == "own.json" and told["protocol_sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert told["splits"]["test"] == sum(case.split == "test" for case in cases) and "excluded" not in told["splits"]
    assert (told["trained"], told["preset"], set(told["weights"])) == (False, "tiny", {"text/model.safetensors"})
    assert "diffugts" in told["versions"]
