"""chart: any numbers make a picture, any words stay words."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from penstock.chart import calibration, forest, line

SERIES = {
    "nothing": {},
    "empty": {"a": []},
    "nulls": {"a": [(0, None), (1000, None)]},
    "one": {"a": [(0, 3.0)]},
    "constant": {"a": [(i * 3_600_000, 0.0) for i in range(5)]},
    "negative": {
        "a": [(i, -float(i)) for i in range(5)],
        "b": [(i, None if i == 2 else 1e9) for i in range(5)],
    },
}


@pytest.mark.parametrize("case", SERIES)
def test_lines_of_anything(case: str) -> None:
    """Well-formed, with a title for those who cannot see it, and no number that is none."""
    svg = line(SERIES[case], title="<b>", percent=case == "one", bound=0.5, marks=[(0, "<i>")])
    assert ET.fromstring(svg).find("{http://www.w3.org/2000/svg}title") is not None
    assert "<b>" not in svg and "nan" not in svg and "inf" not in svg


def test_intervals_and_calibration() -> None:
    """Also of nothing."""
    drawn = [forest([("<a>", 0.1, -0.1, 0.3)], title="t"), forest([], title="t")]
    drawn += [calibration([(0.1, 0.2, 5)], title="t"), calibration([], title="t")]
    for svg in drawn:
        ET.fromstring(svg)
        assert "<a>" not in svg
