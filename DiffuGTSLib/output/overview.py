"""One picture of a result, made to be shown to a colleague: three planes through the largest finding, four views each.

Drawn as radiologists read: the patient's right on the left, anterior up in the axial plane (and left in the sagittal
one), superior up. Millimeters are true in every panel. An oblique scan is shown along its own axes, nearest letters
at the edges and the tilt in words, rather than resampled.
"""

import textwrap
import warnings
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from DiffuGTSLib import __version__
from DiffuGTSLib.output.findings import Finding, find_lesions
from DiffuGTSLib.output.planes import PLANES, Cuts, Plane, arrange, tilt_degrees
from DiffuGTSLib.storage import whole_file
from DiffuGTSLib.volumes.volume import Volume, require_same_grid

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_BACKGROUND, _PANEL, _TEXT, _MUTED, _ACCENT, _WARNING = "#0e1116", "#000000", "#f2f4f7", "#8f9aa8", "#35e0d2", "#ffb454"
_FONT = "DejaVu Sans"  # the one that matplotlib carries, so that the picture is the same everywhere
_DPI = 140
_FIELD_MM = 160.0  # side of the view about the finding; larger when the finding is, smaller when the scan is

# Inches; panels are squares.
_SIDE, _GAP, _LEFT, _BOTTOM = 3.3, 0.12, 0.66, 1.15
_RIGHT = _LEFT + 4 * _SIDE + 3 * _GAP
_WIDTH, _HEIGHT = _RIGHT + 0.36, _BOTTOM + 3 * _SIDE + 2 * _GAP + 1.38


def draw_overview(
    scan: Volume,
    mask: Volume,
    aova: Volume | None,
    pseudo_healthy: Volume | None,
    residual: Volume | None,
    *,
    findings: Sequence[Finding] | None = None,
    prompts: tuple[str, str] | None = None,
    modality: str | None = None,
    note: str = "",
) -> "matplotlib.figure.Figure":
    """Return the picture: axial, coronal and sagittal cuts of scan, AOVA map, pseudo-healthy image and residual.

    The cuts go through the centroid of the largest finding, or through the middle of the scan when there is none.

    Args:
        scan: Native units.
        mask: 1 = anomaly, same grid.
        aova: Anomaly attention, 0 to 1, same grid; None when detection was skipped.
        pseudo_healthy: Native units, same grid; None when nothing was repainted.
        residual: Any units, same grid; a map with negative values is shown blue to orange about 0.
        findings: What `find_lesions` says of these volumes, largest first; None: computed here.
        prompts: (normal, abnormal) as the user gave them.
        modality: "CT" or "MR"; None: as the scan says. CT is shown in a fixed window of HU, all else by percentiles.
        note: One sentence of warning under the title, for example that the weights are untrained.

    Raises:
        GeometryError: If one of the volumes is not on the scan's grid.
    """
    named = ((mask, "mask"), (aova, "AOVA map"), (pseudo_healthy, "pseudo-healthy image"), (residual, "residual"))
    for volume, name in named:
        if volume is not None:
            require_same_grid(scan.geometry, volume.geometry, name)
    if findings is None:
        findings = find_lesions(mask, aova, scan, pseudo_healthy)
    modality = modality or scan.modality
    volumes = {"scan": scan, "mask": mask, "aova": aova, "healthy": pseudo_healthy, "residual": residual}
    computed = {name: volume for name, volume in volumes.items() if volume is not None}
    cuts = arrange(computed, findings, modality, _FIELD_MM)

    from matplotlib.figure import Figure  # here, so that nothing else in the library waits for it

    figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, facecolor=_BACKGROUND)
    _draw_header(figure, findings, prompts, note, _described(scan, modality))
    _draw_panels(figure, cuts)
    _draw_footer(figure)
    return figure


def save_overview(figure: "matplotlib.figure.Figure", path: Path | str) -> None:
    """Write what `draw_overview` returned as a PNG file, whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    with whole_file(path) as temporary, warnings.catch_warnings():
        # A prompt in a script that the font lacks is drawn as boxes; the record holds it as given.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(temporary, format="png", metadata={"Software": f"DiffuGTS {__version__}"})


def _draw_header(
    figure: "matplotlib.figure.Figure",
    findings: Sequence[Finding],
    prompts: tuple[str, str] | None,
    note: str,
    described: str,
) -> None:
    normal, abnormal = prompts or ("", "")
    title = abnormal[:1].upper() + abnormal[1:] if abnormal else "Segmentation"
    _write(figure, _LEFT, 0.42, _short(title, 52), 21.0, weight="bold")
    against = f"against “{_short(normal, 60)}”  ·  " if normal else ""
    _write(figure, _LEFT, 0.72, against + described, 11.0, _MUTED)
    if note:
        _write(figure, _LEFT, 0.98, _short(note, 110), 11.0, _WARNING)
    if not findings:
        _write(figure, _RIGHT, 0.42, "Nothing found", 21.0, weight="bold", ha="right")
        _write(figure, _RIGHT, 0.72, "cuts through the middle of the scan", 11.0, _MUTED, ha="right")
        return
    first = findings[0]
    _write(figure, _RIGHT, 0.42, f"{_volume(first.volume_ml)} ml", 21.0, _ACCENT, weight="bold", ha="right")
    parts = [f"{first.longest_in_plane_diameter_mm:.0f} mm longest in plane"]
    if len(findings) > 1:
        total = sum(finding.volume_ml for finding in findings)
        parts.insert(0, f"largest of {len(findings)} findings, {_volume(total)} ml in all")
    if not isnan(first.mean_aova):
        parts.append(f"mean AOVA {first.mean_aova:.2f}")
    _write(figure, _RIGHT, 0.72, "  ·  ".join(parts), 11.0, _MUTED, ha="right")


def _described(scan: Volume, modality: str | None) -> str:
    i, j, k = scan.geometry.spacing_mm
    tilt = tilt_degrees(scan.geometry)
    oblique = f"  ·  oblique by {tilt:.0f}°" if tilt >= 1.0 else ""
    return f"{modality or 'unknown modality'}  ·  voxels {i:.2f} × {j:.2f} × {k:.2f} mm{oblique}"


def _draw_panels(figure: "matplotlib.figure.Figure", cuts: Cuts) -> None:
    for column, (name, heading) in enumerate(
        (
            ("scan", "Scan and segmentation"),
            ("aova", "AOVA map"),
            ("healthy", "Pseudo-healthy"),
            ("residual", "Residual"),
        )
    ):
        left = _LEFT + column * (_SIDE + _GAP)
        top = _BOTTOM + 3 * _SIDE + 2 * _GAP
        _write(figure, left, _HEIGHT - top - 0.12, heading, 12.5)
        image = None
        for row, plane in enumerate(PLANES):
            bottom = _BOTTOM + (2 - row) * (_SIDE + _GAP)
            axes = _panel(figure, left, bottom, _SIDE)
            image = _draw_map(axes, cuts, name, plane) or image
            cuts.look_at(axes, plane)
            if name in cuts.maps:
                _draw_letters(axes, plane, everything=column == 0)
            if column == 0:
                _draw_row_label(figure, cuts, plane, bottom)
                _draw_scale_bar(axes, cuts)
                _draw_locator(figure, cuts, plane, left, bottom)
        if image is not None:
            unit = {"aova": "anomaly attention", "residual": "residual"}.get(name, cuts.window_name)
            _draw_colorbar(figure, image, left, unit)


def _draw_map(axes: "matplotlib.axes.Axes", cuts: Cuts, name: str, plane: Plane) -> Any:
    """Draw one panel's image and contour; return what its colorbar shows, or None where the map was not computed."""
    if name not in cuts.maps:
        _label(axes, 0.5, 0.5, "not computed", 11.0, "center", "center", _MUTED)
        return None
    values = cuts.cut(name, plane)
    if name in ("scan", "healthy"):
        image = cuts.show(axes, name, plane)
    elif name == "aova":
        cuts.show(axes, "scan", plane)
        opaque = np.clip((values - 0.05) / 0.45, 0.0, 1.0) * 0.78  # low attention lets the anatomy through
        image = cuts.show(axes, name, plane, "bilinear", cmap="inferno", vmin=0.0, vmax=1.0, alpha=opaque)
    else:
        colors = _residual_colors(cuts)
        cuts.show(axes, "scan", plane, alpha=0.3)
        opaque = np.clip(np.abs(values) / (0.25 * colors["vmax"]), 0.0, 1.0)  # unchanged lets a hint of anatomy through
        image = cuts.show(axes, name, plane, "bilinear", alpha=opaque, **colors)
    _draw_contour(axes, cuts, plane, faint=name != "scan")
    return image


def _residual_colors(cuts: Cuts) -> dict[str, Any]:
    """Black means unchanged. Signed maps run from blue (darker than healthy) to orange, others from 0 up."""
    from matplotlib.colors import LinearSegmentedColormap

    residual = cuts.maps["residual"]
    reach = float(residual.max()) or 1.0
    if residual.min() < 0:
        reach = float(np.percentile(np.abs(residual[residual != 0]), 99.5))
        colors = LinearSegmentedColormap.from_list("change", ["#9be7ff", "#2383e2", "#06080c", "#f07818", "#ffe9b0"])
        return {"cmap": colors, "vmin": -reach, "vmax": reach}
    return {"cmap": "magma", "vmin": 0.0, "vmax": reach}


def _draw_contour(axes: "matplotlib.axes.Axes", cuts: Cuts, plane: Plane, faint: bool) -> None:
    from matplotlib.patheffects import withStroke

    width, alpha, stroke = (0.9, 0.75, 1.8) if faint else (1.7, 1.0, 3.0)
    lines = cuts.outline(axes, "mask", plane, _ACCENT, linewidths=width, alpha=alpha)
    if lines is not None:
        lines.set_path_effects([withStroke(linewidth=stroke, foreground="#00000090")])


def _draw_letters(axes: "matplotlib.axes.Axes", plane: Plane, everything: bool) -> None:
    places = (
        (0.025, 0.5, "left", "center"),
        (0.975, 0.5, "right", "center"),
        (0.5, 0.975, "center", "top"),
        (0.5, 0.025, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in list(zip(plane.letters, places, strict=True))[: 4 if everything else 1]:
        _label(axes, x, y, letter, 11.0, ha, va)


def _draw_row_label(figure: "matplotlib.figure.Figure", cuts: Cuts, plane: Plane, bottom: float) -> None:
    position = cuts.center_ras[plane.across]
    letter = plane.position[0 if position >= 0 else 1]
    text = f"{plane.name}   {letter} {abs(position):.0f} mm"
    _write(figure, _LEFT - 0.2, _HEIGHT - bottom - _SIDE / 2, text, 12.5, rotation=90, ha="center", va="center")


def _draw_scale_bar(axes: "matplotlib.axes.Axes", cuts: Cuts) -> None:
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm <= 0.3 * cuts.side_mm), default=1)
    share = length / cuts.side_mm
    axes.plot(
        [0.035, 0.035 + share],
        [0.035, 0.035],
        transform=axes.transAxes,
        color="#000000",
        linewidth=5.5,
        solid_capstyle="butt",
    )
    axes.plot(
        [0.035, 0.035 + share],
        [0.035, 0.035],
        transform=axes.transAxes,
        color=_TEXT,
        linewidth=2.5,
        solid_capstyle="butt",
    )
    _label(axes, 0.035, 0.05, f"{length} mm", 9.5, "left", "bottom")


def _draw_locator(figure: "matplotlib.figure.Figure", cuts: Cuts, plane: Plane, left: float, bottom: float) -> None:
    """Show the whole cut in the corner, and on it the square that the panel shows, when that is but a part."""
    width, height = cuts.extent_mm(plane.horizontal), cuts.extent_mm(plane.vertical)
    if max(width, height) <= cuts.side_mm:
        return
    from matplotlib.patches import Rectangle

    side = 0.27 * _SIDE
    w, h = side * width / max(width, height), side * height / max(width, height)
    axes = figure.add_axes(
        ((left + _SIDE - w - 0.06) / _WIDTH, (bottom + _SIDE - h - 0.06) / _HEIGHT, w / _WIDTH, h / _HEIGHT)
    )
    _bare(axes, edge="#ffffff70")
    cuts.show(axes, "scan", plane, "antialiased")
    corner = (cuts.low_mm[plane.horizontal], cuts.low_mm[plane.vertical])
    axes.add_patch(Rectangle(corner, cuts.side_mm, cuts.side_mm, fill=False, edgecolor=_ACCENT, linewidth=1.2))
    axes.set_xlim(width, 0.0)
    axes.set_ylim(0.0, height)


def _draw_colorbar(figure: "matplotlib.figure.Figure", image: Any, left: float, unit: str) -> None:
    axes = figure.add_axes((left / _WIDTH, (_BOTTOM - 0.2) / _HEIGHT, _SIDE / _WIDTH, 0.085 / _HEIGHT))
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(ScalarMappable(image.norm, image.cmap), cax=axes, orientation="horizontal")
    low, high = image.get_clim()
    bar.set_ticks([low, (low + high) / 2, high], labels=[_tick(v, high - low) for v in (low, (low + high) / 2, high)])
    axes.tick_params(length=0, pad=3, labelsize=9, labelcolor=_MUTED, labelfontfamily=_FONT)
    first, _, last = axes.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    for spine in axes.spines.values():
        spine.set_visible(False)
    _write(figure, left + _SIDE / 2, _HEIGHT - (_BOTTOM - 0.53), unit, 9.0, _MUTED, ha="center")


def _draw_footer(figure: "matplotlib.figure.Figure") -> None:
    _write(figure, _LEFT, _HEIGHT - 0.2, "Research use only. Not for diagnosis.", 10.5, _WARNING, weight="bold")
    text = f"Radiological view: the patient's right is on the left  ·  DiffuGTS {__version__}"
    _write(figure, _RIGHT, _HEIGHT - 0.2, text, 10.0, _MUTED, ha="right")


def _panel(figure: "matplotlib.figure.Figure", left: float, bottom: float, side: float) -> "matplotlib.axes.Axes":
    axes = figure.add_axes((left / _WIDTH, bottom / _HEIGHT, side / _WIDTH, side / _HEIGHT))
    _bare(axes, edge="#262c36")
    return axes


def _bare(axes: "matplotlib.axes.Axes", edge: str) -> None:
    axes.set_facecolor(_PANEL)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(edge)
        spine.set_linewidth(0.8)


def _write(
    figure: "matplotlib.figure.Figure",
    left: float,
    top: float,
    text: str,
    size: float,
    color: str = _TEXT,
    **style: Any,
) -> None:
    """Put a line of text at inches from the left and the top; its baseline lies there."""
    style = {"va": "baseline", "family": _FONT, **style}
    # parse_math: a prompt with two dollar signs is text, not a formula.
    figure.text(left / _WIDTH, 1.0 - top / _HEIGHT, text, fontsize=size, color=color, parse_math=False, **style)


def _label(
    axes: "matplotlib.axes.Axes", x: float, y: float, text: str, size: float, ha: str, va: str, color: str = _TEXT
) -> None:
    from matplotlib.patheffects import withStroke

    effects = [withStroke(linewidth=2.5, foreground="#000000c0")]
    style: dict[str, Any] = {"ha": ha, "va": va, "family": _FONT, "path_effects": effects, "transform": axes.transAxes}
    axes.text(x, y, text, fontsize=size, color=color, **style)


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" …")


def _volume(ml: float) -> str:
    return f"{ml:.2f}" if ml < 1 else f"{ml:.1f}" if ml < 100 else f"{ml:.0f}"


def _tick(value: float, reach: float) -> str:
    text = f"{value:.0f}" if reach >= 10 else f"{value:.2g}"
    return text.replace("-", "−")
