"""chart: boxes stand apart, lines go from layer to layer, what leads back is told apart, and words are text."""

from __future__ import annotations

import random
import re
from xml.etree import ElementTree as ET

import pytest

from penstock.chart import Box, flow
from penstock.chart.flow import BACK, layered

EDGES = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "b"), ("x", "c")]


def test_layers_follow_the_order() -> None:
    """A box stands below all that lead to it from before, a beginning just above what it leads to."""
    assert layered(["a", "b", "x", "c"], EDGES) == {"a": 0, "b": 1, "x": 1, "c": 2}


def _frames(svg: str) -> list[tuple[float, float, float, float]]:
    found = re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    return [(x, y, x + w, y + h) for x, y, w, h in (map(float, one) for one in found)]


@pytest.mark.parametrize("sideways", [False, True])
def test_no_box_covers_another(sideways: bool) -> None:
    """In random graphs, too; all of it lies inside the picture."""
    for seed in range(30):
        chance = random.Random(seed)
        n = chance.randrange(2, 25)
        boxes = [Box(str(i), ("x" * chance.randrange(1, 30),) * chance.randrange(1, 4)) for i in range(n)]
        edges = [(str(a), str(b)) for a in range(n) for b in range(n) if a != b and chance.random() < 1.5 / n]
        svg = flow(boxes, edges, title="t", sideways=sideways)
        w, h = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
        frames = _frames(svg)
        assert len(frames) == n and svg.count("<path") == len(edges)
        for i, (x1, y1, x2, y2) in enumerate(frames):
            assert x1 >= 0 and y1 >= 0 and x2 <= w + 1 and y2 <= h + 1
            for a1, b1, a2, b2 in frames[:i]:
                assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1, seed


def test_what_leads_back_has_another_colour() -> None:
    """One edge of the five goes to an earlier box."""
    svg = flow([Box(id, (id,)) for id in ("a", "b", "x", "c")], EDGES, title="t")
    assert svg.count("<path") == 5 and svg.count(f'stroke="{BACK}"') == 1


def test_words_are_text() -> None:
    """The SVG is well formed whatever a box is called."""
    svg = flow([Box("a", ("<b>&", "'\"")), Box("<", ("]]>",))], [("a", "<")], title="<&>")
    assert ET.fromstring(svg).tag.endswith("svg")
