"""The drawings of a report page: small SVG, styled by the page's own sheet, each point saying what it is.

Written by hand rather than by matplotlib: a page of four drawings stays below 50 kB, follows the reader's light or dark
theme, and shows the case under the pointer.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, log2

import numpy as np

WIDTH, HEIGHT = 460.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 14.0, 46.0


@dataclass(frozen=True)
class Group:
    """Values to be drawn as one box.

    Attributes:
        label: Below the box; a line break parts it in two.
        values: One a case; NaN is left out.
        names: The cases.
    """

    label: str
    values: Sequence[float]
    names: Sequence[str]


@dataclass(frozen=True)
class Bar:
    """A share with its interval.

    Attributes:
        label: Below the bar.
        count: How many did.
        total: How many could have.
        low: Lower end of the interval; NaN where there was none that could.
        high: Upper end.
    """

    label: str
    count: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class Gap:
    """A difference with its interval.

    Attributes:
        label: Beside it.
        mean: The difference; NaN draws an empty row.
        low: Lower end of the interval; NaN without one.
        high: Upper end.
    """

    label: str
    mean: float
    low: float
    high: float


def boxes(groups: Sequence[Group], y_label: str) -> str:
    """Draw quartile boxes, their medians, and every case as a point; values of 0 to 1."""
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    parts = [_y_axis(y_label)]
    for number, group in enumerate(groups):
        middle = _LEFT + step * (number + 0.5)
        kept = [(v, n) for v, n in zip(group.values, group.names, strict=True) if not isnan(v)]
        parts.append(_tick_text(middle, group.label))
        if not kept:
            continue
        low, median, high = np.percentile([v for v, _ in kept], [25, 50, 75])
        half = min(34.0, step * 0.3)
        parts.append(
            f'<rect class="box s{number}" x="{middle - half:.1f}" y="{_y(high):.1f}" width="{2 * half:.1f}" '
            f'height="{max(1.0, _y(low) - _y(high)):.1f}"/>'
            f'<line class="median s{number}" x1="{middle - half:.1f}" x2="{middle + half:.1f}" y1="{_y(median):.1f}" '
            f'y2="{_y(median):.1f}"/>'
        )
        for place, (value, name) in enumerate(sorted(kept)):
            aside = ((place * 0.618034) % 1.0 - 0.5) * 1.3 * half  # spread evenly, the same every time
            parts.append(_dot(middle + aside, _y(value), f"{name}: {value:.3f}", f"s{number}"))
    return _svg(parts, f"Box plot: {y_label}")


def froc_curve(
    thresholds: Sequence[float], sensitivity: Sequence[float], rates: Sequence[float], marks: Sequence[float]
) -> str:
    """Draw the best sensitivity over false positives a scan, and every threshold as a point.

    Args:
        thresholds: Of the map.
        sensitivity: At each; NaN draws an empty frame.
        rates: False positives a scan at each.
        marks: Ticks of the axis, above 0 and rising; what lies outside is drawn at its ends.
    """
    first, last = log2(marks[0]), log2(marks[-1])

    def x(rate: float) -> float:
        share = (log2(min(max(rate, marks[0]), marks[-1])) - first) / (last - first)
        return _LEFT + 8 + share * (WIDTH - _LEFT - _RIGHT - 16)

    parts = [_y_axis("Sensitivity")]
    parts += [_tick(x(mark), f"1/{1 / mark:.0f}" if mark < 1 else f"{mark:g}") for mark in marks]
    parts.append(_axis_text("False positives a scan"))
    points = [p for p in zip(rates, sensitivity, thresholds, strict=True) if not isnan(p[1])]
    if points:
        path, best = [], 0.0
        for rate, found, _ in sorted(points, key=lambda p: (p[0], -p[1])):
            if rate > marks[-1]:
                break
            if found > best:
                path += [f"{x(rate):.1f},{_y(best):.1f}", f"{x(rate):.1f},{_y(found):.1f}"]
                best = found
        path.append(f"{x(marks[-1]):.1f},{_y(best):.1f}")
        parts.append(f'<polyline class="curve" points="{" ".join(path)}"/>')
        parts += [
            _dot(x(rate), _y(found), f"threshold {cut:g}: {found:.3f} at {rate:.2f} a scan", "s3")
            for rate, found, cut in points
        ]
    return _svg(parts, "FROC curve: sensitivity over false positives a scan")


def reliability(predicted: Sequence[float], observed: Sequence[float], counts: Sequence[int]) -> str:
    """Draw observed over predicted shares, the diagonal of a calibrated map, and how many voxels each bin holds."""

    def x(share: float) -> float:
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    bins, most = len(counts), max(1, *counts)
    parts = [_y_axis("Tumor voxels, share"), _axis_text("AOVA: predicted share")]
    parts += [_tick(x(mark / 5), f"{mark / 5:g}") for mark in range(6)]
    for number, count in enumerate(counts):
        if count:
            tall = 0.22 * (np.log10(count) + 1) / (np.log10(most) + 1)  # logarithmic: nearly all voxels are in one bin
            parts.append(
                f'<rect class="count" x="{x(number / bins) + 1:.1f}" y="{_y(tall):.1f}" '
                f'width="{x(1 / bins) - x(0) - 2:.1f}" height="{_y(0) - _y(tall):.1f}">'
                f"<title>{count} voxels</title></rect>"
            )
    parts.append(f'<line class="ideal" x1="{x(0)}" y1="{_y(0)}" x2="{x(1)}" y2="{_y(1)}"/>')
    points = [
        (p, o, n) for p, o, n in zip(predicted, observed, counts, strict=True) if n and not (isnan(p) or isnan(o))
    ]
    line = " ".join(f"{x(p):.1f},{_y(o):.1f}" for p, o, _ in points)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    parts += [_dot(x(p), _y(o), f"predicted {p:.3f}, observed {o:.3f}, {n} voxels", "s3") for p, o, n in points]
    return _svg(parts, "Reliability diagram of the AOVA map")


def bars(rows: Sequence[Bar], y_label: str, x_label: str) -> str:
    """Draw shares of 0 to 1 with their intervals; a class without any has its name only."""
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(rows))
    parts = [_y_axis(y_label), _axis_text(x_label)]
    for number, row in enumerate(rows):
        middle, half = _LEFT + step * (number + 0.5), min(26.0, step * 0.32)
        parts.append(_tick_text(middle, f"{row.label}\n{row.count} of {row.total}"))
        if not row.total:
            continue
        share = row.count / row.total
        said = f"{row.label}: {share:.3f} ({row.low:.3f} to {row.high:.3f})"
        parts.append(
            f'<rect class="bar" x="{middle - half:.1f}" y="{_y(share):.1f}" width="{2 * half:.1f}" '
            f'height="{_y(0) - _y(share):.1f}"><title>{html.escape(said)}</title></rect>'
            f'<path class="whisker" d="M{middle:.1f} {_y(row.low):.1f}V{_y(row.high):.1f}'
            f'M{middle - 5:.1f} {_y(row.low):.1f}h10M{middle - 5:.1f} {_y(row.high):.1f}h10"/>'
        )
    return _svg(parts, f"Bars: {y_label}")


def forest(rows: Sequence[Gap], x_label: str) -> str:
    """Draw differences with their intervals below each other, around a line at 0; the axis is as wide as they are."""
    seen = [abs(value) for row in rows for value in (row.mean, row.low, row.high) if not isnan(value)]
    reach = next((each for each in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if each >= max(seen, default=0.0)), 1.0)
    left, step, bottom = 0.46 * WIDTH, 22.0, 40.0
    height = _TOP + step * len(rows) + bottom

    def x(gap: float) -> float:
        return left + (min(max(gap, -reach), reach) / reach + 1) / 2 * (WIDTH - left - _RIGHT)

    axis = height - bottom
    parts = []
    for mark in (-reach, -reach / 2, 0.0, reach / 2, reach):
        kind = "ideal" if mark == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP:g}" y2="{axis:g}"/>')
        text = f"{mark:+g}".replace("-", "−") if mark else "0"
        parts.append(f'<text class="tick" x="{x(mark):.1f}" y="{axis + 14:g}" text-anchor="middle">{text}</text>')
    for number, row in enumerate(rows):
        y = _TOP + step * (number + 0.5)
        parts.append(
            f'<text class="axis" x="{left - 8:g}" y="{y + 4:g}" text-anchor="end">{html.escape(row.label)}</text>'
        )
        if not isnan(row.low):
            parts.append(f'<path class="whisker" d="M{x(row.low):.1f} {y:g}H{x(row.high):.1f}"/>')
        if not isnan(row.mean):
            ends = "" if isnan(row.low) else f" ({row.low:+.3f} to {row.high:+.3f})"
            parts.append(_dot(x(row.mean), y, f"{row.label}: {row.mean:+.3f}{ends}", "s3"))
    middle = (left + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle:g}" y="{height - 6:g}" text-anchor="middle">{html.escape(x_label)}</text>'
    )
    return _svg(parts, f"Differences: {x_label}", height)


def interval_strip(mean: float, low: float, high: float) -> str:
    """Draw one value of 0 to 1 with its interval, as high as a line of text."""
    if isnan(mean):
        return ""
    width = 110.0
    line = "" if isnan(low) else f'<line class="span" x1="{low * width:.1f}" x2="{high * width:.1f}" y1="8" y2="8"/>'
    return (
        f'<svg class="strip" viewBox="-4 0 {width + 8:g} 16" aria-hidden="true"><line class="rail" x1="0" '
        f'x2="{width:g}" y1="8" y2="8"/>{line}<circle cx="{mean * width:.1f}" cy="8" r="3.6"/></svg>'
    )


def _y(share: float) -> float:
    return float(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP))


def _svg(parts: Sequence[str], told: str, height: float = HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{html.escape(told)}">'
        f"{''.join(parts)}</svg>"
    )


def _y_axis(label: str) -> str:
    lines = "".join(
        f'<line class="grid" x1="{_LEFT:g}" x2="{WIDTH - _RIGHT:g}" y1="{_y(mark / 5):.1f}" y2="{_y(mark / 5):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 6:g}" y="{_y(mark / 5) + 3.5:.1f}" text-anchor="end">{mark / 5:g}</text>'
        for mark in range(6)
    )
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {middle:g})"'
    return f'{lines}<text class="axis" x="12" y="{middle:g}" text-anchor="middle" {turned}>{html.escape(label)}</text>'


def _axis_text(label: str) -> str:
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return f'<text class="axis" x="{middle:g}" y="{HEIGHT - 4:g}" text-anchor="middle">{html.escape(label)}</text>'


def _tick(x: float, label: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 15:g}" text-anchor="middle">{label}</text>'


def _tick_text(x: float, label: str) -> str:
    lines = label.split("\n")
    spans = "".join(
        f'<tspan x="{x:.1f}" dy="{0 if number == 0 else 12}">{html.escape(line)}</tspan>'
        for number, line in enumerate(lines)
    )
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16:g}" text-anchor="middle">{spans}</text>'


def _dot(x: float, y: float, said: str, kind: str) -> str:
    return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{html.escape(said)}</title></circle>'
