"""One small picture of a case: what is true and what was seen in three planes, and the map behind it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from DiffuGTSLib.output.findings import find_lesions
from DiffuGTSLib.output.planes import PLANES, Cuts, Plane, arrange
from DiffuGTSLib.volumes.volume import Volume

if TYPE_CHECKING:
    import matplotlib.axes

TRUTH_COLOR, SEEN_COLOR = "#ffd23f", "#35e0d2"
_DPI, _SIDE = 110, 1.9
_QUALITY = 84
_LINE = 1.1
_FIELD_MM = 130.0  # side of the view; larger where the lesion is


def case_picture(scan: Volume, truth: Volume, seen: Volume, aova: Volume, modality: str) -> bytes:
    """Return a JPEG: above the scan with both outlines, below the AOVA map over it; axial, coronal, sagittal.

    The planes go through the largest lesion of the reference; of the prediction where there is none; through the
    middle of the scan where there is neither.

    Args:
        scan: Native units.
        truth: The reference mask on its grid.
        seen: The predicted mask on its grid.
        aova: 0 to 1, on its grid.
        modality: "CT" or "MR".

    Raises:
        GeometryError: If one of them lies on another grid.
    """
    from matplotlib.figure import Figure

    focus = truth if truth.array.any() else seen
    findings = find_lesions(focus, aova, scan, None)
    volumes = {"scan": scan, "mask": focus, "truth": truth, "seen": seen, "aova": aova}
    cuts = arrange(volumes, findings, modality, _FIELD_MM)
    figure = Figure(figsize=(3 * _SIDE, 2 * _SIDE), dpi=_DPI, facecolor="#000000")
    for row in range(2):
        for column, plane in enumerate(PLANES):
            axes = figure.add_axes((column / 3 + 0.002, (1 - row) / 2 + 0.003, 1 / 3 - 0.004, 0.494))
            axes.set_axis_off()
            cuts.show(axes, "scan", plane, "bilinear")
            if row:
                _draw_map(axes, cuts, plane)
            cuts.outline(axes, "truth", plane, TRUTH_COLOR, linewidths=_LINE)
            if not row:
                cuts.outline(axes, "seen", plane, SEEN_COLOR, linewidths=_LINE)
                axes.text(
                    0.03, 0.97, plane.name, color="#d8dee8", fontsize=8.5, va="top", transform=axes.transAxes
                )  # fmt: skip
            cuts.look_at(axes, plane)
    stream = io.BytesIO()
    figure.savefig(stream, format="jpg", facecolor="#000000", pil_kwargs={"quality": _QUALITY, "optimize": True})
    return stream.getvalue()


def _draw_map(axes: matplotlib.axes.Axes, cuts: Cuts, plane: Plane) -> None:
    values = np.asarray(cuts.cut("aova", plane), dtype=np.float32)
    opaque = np.clip((values - 0.05) / 0.45, 0.0, 1.0) * 0.78  # as in the overview: low attention lets anatomy through
    cuts.show(axes, "aova", plane, "bilinear", cmap="inferno", vmin=0.0, vmax=1.0, alpha=opaque)
