"""feature: the least and the greatest of windows against Python's own, few and many, in arrays and in lists."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.feature.state.looks import MANY, extremes

FLOATS = st.sampled_from([0.0, -0.0, 1.5, -2.5, float("inf"), float("-inf")])
INTS = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
HELD = st.one_of(
    st.lists(FLOATS, min_size=1, max_size=3 * MANY).map(lambda some: array("d", some)),
    st.lists(INTS, min_size=1, max_size=3 * MANY).map(lambda some: array("q", some)),
    st.lists(st.one_of(FLOATS, INTS), min_size=1, max_size=2 * MANY),
)


@given(HELD, st.data())
def test_extremes_are_those_of_each_window(held: Any, data: st.DataObject) -> None:
    """Of windows that are empty, as long as the one before, or hold all of it; of two zeros it is 0.0."""
    high = data.draw(st.integers(0, len(held)))
    lows = tuple(sorted(data.draw(st.lists(st.integers(0, high), min_size=1, max_size=8)), reverse=True))
    leasts, mosts = extremes(held, lows, high)
    for low, least, most in zip(lows, leasts, mosts, strict=True):
        window = held[low:high]
        assert least == min(window, default=None) and most == max(window, default=None)
        assert "-0.0" not in (repr(least), repr(most))
        assert type(held) is list or {type(least), type(most)} <= {type(held[0]), type(None)}


def test_all_of_many_is_looked_at() -> None:
    """A window of many numbers has its ends in it, and nothing beyond `high`."""
    held = array("d", [-9.0, *range(1, MANY + 1), 99.0])
    assert extremes(held, (MANY, 1, 0), MANY + 1) == ([MANY, 1.0, -9.0], [MANY, MANY, MANY])
