"""SNOMED CT terminology of segments: the type of the lesion from its name, the anatomic region from the organ.

The codes are in `Resources/Terminology/organs.json`. All but two are from Slicer's DICOM master lists; the regions bone
and soft tissue are missing there and come from SNOMED CT itself.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from DiffuGTSLib.errors import PromptError
from DiffuGTSLib.resources import resource_path
from DiffuGTSLib.text.prompts import find_organ

_NOTHING = "^^"


def terminologyEntry(organ: str, words: str = "") -> str:
    """Return the entry that `vtkSegment.SetTerminology` takes.

    Args:
        organ: Name or synonym of a built-in organ. For any other, the region is left empty: see `hasRegion`.
        words: Name of the segment, which may contain nodule, cyst, metastasis, left or right.
    """
    library = _library()
    place, side = _place(organ, words)
    return "~".join(
        (
            library["terminology"],
            _triple(library["category"]),
            _triple(_type(words)),
            _NOTHING,
            library["anatomy"],
            place,
            side,
        )
    )


def hasRegion(entry: str) -> bool:
    """Return whether an entry has an anatomic region, as it should in a DICOM segmentation."""
    parts = entry.split("~")
    return len(parts) > 5 and parts[5] not in ("", _NOTHING)


def _type(words: str) -> dict[str, str]:
    return next(kind for kind in _library()["types"] if not kind["words"] or _contains(words, kind["words"]))


def _place(organ: str, words: str) -> tuple[str, str]:
    try:
        entry = _library()["organs"].get(find_organ(organ))
    except PromptError:
        entry = None
    if entry is None:
        return _NOTHING, _NOTHING
    said = [side for side in _library()["sides"] if _contains(f"{organ} {words}", side)]
    if entry.get("paired") and len(said) == 1:
        return _triple(entry), _triple(_library()["sides"][said[0]])
    return _triple(entry), _NOTHING


def _contains(text: str, words: str) -> bool:
    return re.search(rf"\b(?:{words})\b", text, re.IGNORECASE) is not None


def _triple(entry: dict[str, str]) -> str:
    return f"SCT^{entry['code']}^{entry['meaning']}"


@functools.cache
def _library() -> dict[str, Any]:
    library: dict[str, Any] = json.loads(resource_path("Terminology", "organs.json").read_text(encoding="utf-8"))
    return library
