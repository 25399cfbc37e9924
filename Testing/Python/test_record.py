"""The record beside the maps; how it lies in a result folder is in test_results.py."""

from __future__ import annotations

import json

from DiffuGTSLib.output.record import record_text


def test_a_record_is_json_that_people_can_read() -> None:
    text = record_text({"prompts": {"normal": "Größe"}, "score": None})
    assert "Größe" in text and text.endswith("}\n") and json.loads(text)["score"] is None
