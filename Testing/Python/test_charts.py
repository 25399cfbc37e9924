"""The drawings of a page: well-formed, at the right place, and safe with any name."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from DiffuGTSLib.evaluation.charts import (
    HEIGHT,
    WIDTH,
    Bar,
    Gap,
    Group,
    bars,
    boxes,
    forest,
    froc_curve,
    interval_strip,
    reliability,
)

NAUGHTY = '<script>alert("&")</script>'
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def circles(svg: str) -> list[tuple[float, float, str]]:
    """Every point with what it says."""
    root = ET.fromstring(svg)
    return [(float(c.get("cx", 0)), float(c.get("cy", 0)), c.findtext("title") or "") for c in root.iter("circle")]


def heights(svg: str, kind: str) -> list[float]:
    return [float(r.get("height", 0)) for r in ET.fromstring(svg).iter("rect") if kind in r.get("class", "")]


def test_every_case_is_a_point_that_says_its_name() -> None:
    svg = boxes([Group("A", [0.2, 0.9, math.nan], ["one", NAUGHTY, "three"]), Group("B", [], [])], "Dice")
    points = circles(svg)
    assert [said for _, _, said in points] == ["one: 0.200", f"{NAUGHTY}: 0.900"]
    assert points[0][1] > points[1][1], "a higher value stands higher"
    assert "<script" not in svg


def test_a_box_reaches_from_quartile_to_quartile() -> None:
    full = heights(boxes([Group("A", [0.0, 1.0, 0.0, 1.0], list("abcd"))], "Dice"), "box")[0]
    half = heights(boxes([Group("A", [0.0, 1.0, 0.25, 0.75], list("abcd"))], "Dice"), "box")[0]
    assert half == pytest.approx(0.625 * full, rel=0.01)  # quartiles 0.1875 and 0.8125


def test_a_curve_never_falls_and_stays_in_its_frame() -> None:
    svg = froc_curve((0.2, 0.4, 0.6, 0.8), (0.9, 0.5, 0.7, 0.0), (20.0, 4.0, 2.0, 0.0), RATES)
    line = ET.fromstring(svg).find("polyline")
    assert line is not None
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(points))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y, _ in circles(svg))
    assert len(circles(svg)) == 4
    assert points[-1][1] == next(y for _, y, said in circles(svg) if "0.700" in said), "20 a scan lie off the axis"


def test_a_curve_without_lesions_is_an_empty_frame() -> None:
    assert circles(froc_curve((0.5,), (math.nan,), (1.0,), RATES)) == []


def test_a_calibrated_bin_lies_on_the_diagonal() -> None:
    svg = reliability([0.05, math.nan, 0.25], [0.05, math.nan, 0.25], [10_000, 0, 3])
    ideal = next(e for e in ET.fromstring(svg).iter("line") if e.get("class") == "ideal")
    x1, y1, x2, y2 = (float(ideal.get(name, 0)) for name in ("x1", "y1", "x2", "y2"))
    for x, y, _ in circles(svg):
        assert (y - y1) / (y2 - y1) == pytest.approx((x - x1) / (x2 - x1), abs=1e-3)
    tall = heights(svg, "count")
    assert len(tall) == 2 and tall[0] > tall[1]


def test_bars_are_as_high_as_their_share_and_an_empty_class_has_none() -> None:
    svg = bars(
        [Bar("< 5", 1, 4, 0.1, 0.6), Bar("all", 2, 4, 0.2, 0.8), Bar("≥ 20", 0, 0, math.nan, math.nan)], "y", "x"
    )
    low, high = heights(svg, "bar")
    assert high == pytest.approx(2 * low, abs=0.2) and "0 of 0" in svg and "nan" not in svg


def test_an_interval_is_a_span_and_without_one_a_point() -> None:
    assert 'class="span" x1="22.0" x2="88.0"' in interval_strip(0.5, 0.2, 0.8)
    assert "span" not in interval_strip(0.5, math.nan, math.nan)
    assert interval_strip(math.nan, math.nan, math.nan) == ""


def test_a_difference_lies_on_its_side_of_zero_with_its_interval() -> None:
    gaps = [Gap("less", -0.1, -0.15, -0.05), Gap(NAUGHTY, 0.1, math.nan, math.nan), Gap("none", *3 * (math.nan,))]
    svg = forest(gaps, "Dice")
    points = circles(svg)
    assert [said for _, _, said in points] == ["less: -0.100 (-0.150 to -0.050)", f"{NAUGHTY}: +0.100"]
    zero = next(float(line.get("x1", 0)) for line in ET.fromstring(svg).iter("line") if line.get("class") == "ideal")
    assert points[0][0] < zero < points[1][0] and points[0][0] + points[1][0] == pytest.approx(2 * zero, abs=0.2)
    assert svg.count('class="whisker"') == 1 and "none" in svg


def test_the_axis_of_differences_is_as_wide_as_they_are() -> None:
    assert ">+0.02<" in forest([Gap("a", 0.011, 0.0, 0.02)], "Dice")
    assert ">−1<" in forest([Gap("a", 3.0, 2.0, 4.0)], "Dice"), "what is larger is drawn at the end"
