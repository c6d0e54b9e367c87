"""feature: a series against lists: late, taken out, cut off; numbers that no array holds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.feature.state.series import Series, Shape, loaded

SHAPE = Shape("d", summed=True, squared=True)
UNITS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**40, -(2**61), 2**62 - 1, -(2**62) + 1, 2**70, 1, 0]),
    st.integers(0, 2**1074),
)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), UNITS),
        st.tuples(st.just("remove"), st.integers(0, 60), st.none()),
        st.tuples(st.just("trim"), st.integers(0, 12), st.booleans()),
        st.tuples(st.just("load"), st.none(), st.none()),
    ),
    max_size=80,
)


@given(MOVES, st.sampled_from([0, 2**32 - 20, 2**40]))
def test_a_series_is_a_sorted_list(moves: list[Any], start: int) -> None:
    """Sums and squares between any two places are those of the events there, whatever happened before."""
    series, events, gone = Series(SHAPE), list[tuple[int, int, int]](), [0, 0, 0]
    for position, (what, at, more) in enumerate(moves, start):
        if what == "add":
            series.add(at, position, float(position), more)
            events.append((at, position, more))
            events.sort()
        elif what == "remove" and events:
            time_ms, place, _ = events.pop(at % len(events))
            series.remove(series.find(time_ms, place))
            assert series.find(time_ms, place) == -1
        elif what == "trim":
            series.trim(at, keep_newest=False, tally=True, exact=True)
            old = [units for time_ms, _, units in events if time_ms <= at]
            events = [event for event in events if event[0] > at]
            gone = [gone[0] + len(old), gone[1] + sum(old), gone[2] + sum(u * u for u in old)]
        elif what == "load":
            tally = series.gone, series.total, series.square
            series = loaded(SHAPE, *series.rows())
            series.gone, series.total, series.square = tally
        assert [series.gone, series.total, series.square] == gone
        head = series.head
        assert [*zip(series.times[head:], series.positions[head:], strict=True)] == [e[:2] for e in events]
        assert list(series.values[head:]) == [float(place) for _, place, _ in events]
        base, square = series.sums[head], series.squared(head)  # type: ignore[index]
        for n in range(len(events) + 1):
            units = [units for *_, units in events[:n]]
            assert series.sums[head + n] - base == sum(units)  # type: ignore[index]
            assert series.squared(head + n) - square == sum(u * u for u in units)


def test_an_event_of_a_series_without_sums_is_taken_out() -> None:
    """A series that only counts gives its middle event back."""
    series = Series(Shape())
    for position in range(5):
        series.add(position, position, None, 0)
    series.remove(2)
    assert list(series.times) == [0, 1, 3, 4] and series.find(2, 2) == -1


def test_arrays_hold_what_they_can() -> None:
    """An event takes 32 bytes and a little, however large the position; beyond that it is wider, never wrapped."""
    series = Series(SHAPE)
    for position in (1, 2**32 - 1, 2**32, 2**62):
        series.add(position, position, 0.5, 2**62 - 1)
    assert list(series.positions) == [1, 2**32 - 1, 2**32, 2**62]
    assert series.sums is not None and series.sums[4] == 4 * (2**62 - 1)
    assert series.squared(4) == 4 * (2**62 - 1) ** 2
