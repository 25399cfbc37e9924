"""One picture of a painted scan: three planes through the largest tumor, before, after, and after with its outline."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib import __version__
from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.output.planes import PLANES, Cuts, Plane, arrange
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.volume import Volume

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLUMNS = (("before", "Scan"), ("scan", "Painted"), ("scan", "Painted, tumor outlined"))
_BACKGROUND, _TEXT, _MUTED, _ACCENT, _WARNING = "#0e1116", "#f2f4f7", "#8f9aa8", "#35e0d2", "#ffb454"
_FIELD_MM = 120.0


def write_preview(path: Path, before: Volume, after: Volume, tumor: Volume, modality: str, title: str) -> None:
    """Write the picture of `draw_preview`, replaced as a whole.

    Raises:
        GeometryError: If the volumes lie on different grids.
        StorageError: If the file cannot be written.
    """
    figure = draw_preview(before, after, tumor, modality, title)
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(temporary, format="png", metadata={"Software": f"DiffuGTS {__version__}"})


def draw_preview(before: Volume, after: Volume, tumor: Volume, modality: str, title: str) -> matplotlib.figure.Figure:
    """Return the picture: axial, coronal and sagittal cuts through the largest painted tumor.

    Drawn as radiologists read: the patient's right on the left. The cuts go through the middle of the scan when
    nothing was painted. The window is chosen by what surrounds the tumor.

    Args:
        before: The scan, native units.
        after: With tumors, same grid.
        tumor: 1 = tumor, same grid.
        modality: "CT" or "MR".
        title: First line.

    Raises:
        GeometryError: If the volumes lie on different grids.
    """
    tumors = find_lesions(tumor, None, after, None)
    find_lesions(tumor, None, before, None)  # refuses another grid
    cuts = arrange({"scan": after, "mask": tumor, "before": before}, tumors, modality, _FIELD_MM)

    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 10.4), dpi=110, facecolor=_BACKGROUND)
    panels = figure.subplots(len(PLANES), len(_COLUMNS))
    figure.subplots_adjust(left=0.05, right=0.985, top=0.9, bottom=0.045, wspace=0.03, hspace=0.03)
    for row, plane in enumerate(PLANES):
        for column, (name, heading) in enumerate(_COLUMNS):
            axes = panels[row, column]
            _draw_cut(axes, cuts, name, plane, outlined=column == len(_COLUMNS) - 1)
            if row == 0:
                axes.set_title(heading, color=_TEXT, fontsize=11, loc="left")
        panels[row, 0].set_ylabel(plane.name, color=_MUTED, fontsize=11)
    largest = f"{len(tumors)} painted, the largest {tumors[0].volume_ml:.2f} ml" if tumors else "nothing painted"
    figure.text(0.05, 0.965, title, color=_TEXT, fontsize=15, weight="bold", parse_math=False)
    figure.text(0.05, 0.942, f"{largest}  ·  {modality}, {cuts.window_name}", color=_MUTED, fontsize=10)
    figure.text(0.05, 0.015, "Synthetic image. Research use only.", color=_WARNING, fontsize=10, weight="bold")
    return figure


def _draw_cut(axes: matplotlib.axes.Axes, cuts: Cuts, name: str, plane: Plane, outlined: bool) -> None:
    cuts.show(axes, name, plane)
    if outlined:
        cuts.outline(axes, "mask", plane, _ACCENT, linewidths=1.3)
    cuts.look_at(axes, plane)
    axes.set_facecolor("#000000")
    axes.set_xticks([])
    axes.set_yticks([])
