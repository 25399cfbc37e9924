"""Scans: a grid with millimeters, files, and the way to the model's grid and exactly back.

What reads files and resamples is loaded when it is first asked for: Slicer's start needs the grid alone, and would wait.
"""

import importlib
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.volumes.volume import Geometry, Volume

if TYPE_CHECKING:
    from DiffuGTSLib.volumes.canonical import CanonicalScan, to_canonical
    from DiffuGTSLib.volumes.io import read_mask, read_volume, write_volume

__all__ = ["CanonicalScan", "Geometry", "Volume", "read_mask", "read_volume", "to_canonical", "write_volume"]

_FILES = {"canonical": ("CanonicalScan", "to_canonical"), "io": ("read_mask", "read_volume", "write_volume")}


def __getattr__(name: str) -> Any:
    """Load the file that a name is in."""
    for file, names in _FILES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
