"""Color tables under the names that Slicer's own files have, computed from matplotlib's maps."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

MAPS = {
    "Inferno": "inferno",
    "Viridis": "viridis",
    "Plasma": "plasma",
    "DivergingBlueRed": "bwr",
    "GenericColors": "tab20",
}
"""Slicer's table by the map that it looks like. Its nodes are called vtkMRMLColorTableNodeFile<name>.txt."""
ENTRIES = 256


def write(folder: Path) -> None:
    """Write the tables in Slicer's text format: number, name, red, green, blue, alpha."""
    folder.mkdir(parents=True)
    for name, source in MAPS.items():
        colors = np.rint(mpl.colormaps[source](np.linspace(0, 1, ENTRIES)) * 255).astype(int)
        rows = [f"{index} {index} {' '.join(map(str, color))}" for index, color in enumerate(colors)]
        (folder / f"{name}.txt").write_text("\n".join([f"# Color table {name}", *rows, ""]), encoding="utf-8")
