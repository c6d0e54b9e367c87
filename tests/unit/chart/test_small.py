"""chart: word-sized pictures are well formed, of nothing and of odd numbers, and say what they show."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from penstock.chart import spark, spread
from penstock.chart.small import number


@pytest.mark.parametrize(
    "ys", [[], [1.0], [0.0, 0.0], [1e300, -1e300], [None, 2.0, None, 3.0], [5e-324, 1.0]]
)
def test_a_line_of_anything(ys: list[float | None]) -> None:
    """It stays inside its cell, and names its least and its greatest value."""
    svg = spark(list(enumerate(ys)), title="<a&b>")
    ET.fromstring(svg)
    path = re.findall(r' d="([^"]+)"', svg)
    numbers = [float(x) for x in re.findall(r"-?[\d.]+", path[0])] if path else []
    assert all(-1 <= x <= 170 for x in numbers)
    known = [y for y in ys if y is not None]
    assert all(f">{number(y)}<" in svg for y in ({max(known)} if known else set()))


def test_a_spread_names_its_cells() -> None:
    """Each cell says its share now and in training; bars are as high as their shares."""
    svg = spread([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], ["<1", "1 to 2", "over 2"], title="x")
    ET.fromstring(svg)
    assert "&lt;1: 50.0%, in training 25.0%" in svg
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#7fb0d4"', svg)]
    assert heights[0] == 2 * heights[1] == 2 * heights[2]
    assert "no data yet" in spread([], [], [], title="x")
