"""feature: one entity's values of one column, in order, held in few bytes.

Order is (time, position). Three arrays hold an event's time, position and value; a fourth the running sum of
integers; at every fourth event stands the running sum of their squares, in two halves. What an array cannot
hold goes to a wider one, and what none can to a list: nothing wraps.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from itertools import accumulate
from operator import sub
from typing import Any

import msgspec

BLOCK = 4
HALF = 64
SLACK_EVENTS = 16 * BLOCK
Numbers = MutableSequence[int]
_LOWER = (1 << HALF) - 1


class Shape(msgspec.Struct, frozen=True):
    """What a series holds of each event. `code`: the array that holds values ("" for none, "o" for a list)."""

    code: str = ""
    summed: bool = False
    squared: bool = False
    cap: int = 0


class Series:
    """The events are at [head, len): what lies before `head` is gone and not yet cut off. `lower`, `upper`: the
    halves of the sum of squares before every `BLOCK`-th place. `gone`, `total`, `square`: how many events were
    forgotten, and the sums of their integers and squares."""

    __slots__ = (
        "gone", "head", "lower", "order", "positions", "square", "sums", "times", "total", "trimmed", "upper", "values",
    )  # fmt: skip

    def __init__(self, shape: Shape) -> None:
        code = shape.code
        self.times: Numbers = array("q")
        self.positions: Numbers = array("I")
        self.values: Any = None if not code else [] if code == "o" else array(code)
        self.sums: Numbers | None = array("q", (0,)) if shape.summed else None
        self.lower: Numbers | None = array("Q", (0,)) if shape.squared else None
        self.upper: Numbers = array("i", (0,) if shape.squared else ())
        self.order: deque[tuple[int, int]] | None = deque() if shape.cap else None
        self.head = self.gone = self.total = self.square = self.trimmed = 0

    def __len__(self) -> int:
        return len(self.times) - self.head

    def add(self, time_ms: int, position: int, value: Any, units: int) -> None:
        """Insert an event. Almost always it is the newest; a late one rebuilds the sums behind it."""
        times = self.times
        if times and time_ms < times[-1]:
            self._insert(bisect_right(times, time_ms, self.head), time_ms, position, value, units)
            return
        times.append(time_ms)
        try:
            self.positions.append(position)
        except OverflowError:
            self.positions = _wider(self.positions, position)
        if self.values is not None:
            try:
                self.values.append(value)
            except (OverflowError, TypeError):  # not of the column's usual kind: a list holds it as it is
                self.values = [*self.values, value]
        if self.sums is not None:
            try:
                self.sums.append(self.sums[-1] + units)
            except OverflowError:
                self.sums = _wider(self.sums, self.sums[-1] + units)
            if self.lower is not None and not len(times) % BLOCK:
                self._square_from(len(times) - 1)

    def _insert(self, at: int, time_ms: int, position: int, value: Any, units: int) -> None:
        self.times.insert(at, time_ms)
        try:
            self.positions.insert(at, position)
        except OverflowError:
            self.positions = _wider(self.positions[:at], position, *self.positions[at:])
        if self.values is not None:
            try:
                self.values.insert(at, value)
            except (OverflowError, TypeError):
                self.values = [*self.values]
                self.values.insert(at, value)
        if self.sums is not None:
            self._replace(at, [units, *self.units(at)])

    def remove(self, at: int) -> None:
        """Take the event at this place out."""
        if at == self.head:
            self.head += 1
            if self.head >= SLACK_EVENTS:
                self._cut(self.head)
            return
        units = list(self.units(at + 1)) if self.sums is not None else []
        for part in (self.times, self.positions, self.values):
            if part is not None:
                del part[at]
        if self.sums is not None:
            self._replace(at, units)

    def find(self, time_ms: int, position: int) -> int:
        """The place of an event; -1 for none."""
        low = bisect_left(self.times, time_ms, self.head)
        high = bisect_right(self.times, time_ms, low)
        at = bisect_left(self.positions, position, low, high)
        return at if at < high and self.positions[at] == position else -1

    def push_out(self, time_ms: int, position: int, cap: int) -> None:
        """Note an arrival, and let go of what is beyond the newest `cap` arrivals."""
        assert self.order is not None
        self.order.append((time_ms, position))
        if len(self.order) > cap and (at := self.find(*self.order.popleft())) >= 0:
            self.remove(at)

    def let_go(self, floor_ms: int) -> None:
        """Forget the oldest arrivals that are at or before `floor_ms`: whatever comes pushes them out first."""
        order = self.order
        while order and order[0][0] <= floor_ms:
            if (at := self.find(*order.popleft())) >= 0:
                self.remove(at)

    def units(self, start: int) -> Iterator[int]:
        """The integers from a place on."""
        assert self.sums is not None
        return map(sub, self.sums[start + 1 :], self.sums[start:])

    def _replace(self, at: int, units: Sequence[int]) -> None:
        """The integers from a place on are others."""
        assert self.sums is not None
        fresh = list(accumulate(units, initial=self.sums.pop(at)))
        del self.sums[at:]
        try:
            self.sums.extend(fresh)
        except OverflowError:
            self.sums = _wider(self.sums[:at], *fresh)
        if self.lower is not None:
            self._square_from(at)

    def _square_from(self, at: int) -> None:
        """The squares from a place on are others."""
        lower, upper, sums = self.lower, self.upper, self.sums
        if lower is None or sums is None:
            return
        block = at // BLOCK
        del lower[block + 1 :]
        del upper[block + 1 :]
        total = (upper[block] << HALF) + lower[block]
        for start in range(block * BLOCK, len(self.times) - BLOCK + 1, BLOCK):
            a, b, c, d, e = sums[start : start + BLOCK + 1]
            total += (b - a) ** 2 + (c - b) ** 2 + (d - c) ** 2 + (e - d) ** 2
            lower.append(total & _LOWER)
            try:
                upper.append(total >> HALF)
            except OverflowError:
                upper = self.upper = _wider(upper, total >> HALF)

    def squared(self, at: int) -> int:
        """The sum of the squares of the integers before a place."""
        return self.squares((at,))[0]

    def squares(self, places: Sequence[int]) -> list[int]:
        """The same for each of some places; equal ones side by side are worked out once."""
        lower, upper, sums = self.lower, self.upper, self.sums
        assert lower is not None
        assert sums is not None
        made: list[int] = []
        wide, total, done = upper[-1], 0, -1  # none is wider than the last
        for place in places:
            if place != done:
                total, done, rest = lower[place // BLOCK], place, place % BLOCK
                if wide:
                    total += upper[place // BLOCK] << HALF
                if rest:
                    at, after = place, sums[place]
                    while rest:
                        at, rest = at - 1, rest - 1
                        unit = after - (after := sums[at])
                        total += unit * unit
            made.append(total)
        return made

    def trim(self, floor_ms: int, *, keep_newest: bool, tally: bool, exact: bool) -> None:
        """Forget what no read can see any more: events at or before `floor_ms`, but the newest of them if wanted.
        `tally`: what they came to is remembered. Not `exact`: a few of them may stay."""
        cut = bisect_right(self.times, floor_ms, self.head)
        if keep_newest and cut > self.head:
            cut -= 1
        if not exact:
            cut -= cut % BLOCK
        if tally and cut > self.head:
            self.gone += cut - self.head
            if self.sums is not None:
                self.total += self.sums[cut] - self.sums[self.head]
            if self.lower is not None:
                self.square += self.squared(cut) - self.squared(self.head)
        if cut > self.head or (exact and self.head):
            self._cut(max(cut, self.head))
        self.trimmed = len(self)

    def _cut(self, n: int) -> None:
        for part in (self.times, self.positions, self.values, self.sums):
            if part is not None:
                del part[:n]
        self.head = 0
        if self.lower is not None and n % BLOCK:
            self.lower, self.upper = array("Q", (0,)), array("i", (0,))
            self._square_from(0)
        elif self.lower is not None:
            del self.lower[: n // BLOCK]
            del self.upper[: n // BLOCK]

    def rows(self) -> tuple[list[int], list[int], list[Any] | None, list[int] | None]:
        """Times, positions, values and integers, as lists."""
        at = self.head
        return (
            list(self.times[at:]), list(self.positions[at:]),
            None if self.values is None else list(self.values[at:]),
            None if self.sums is None else list(self.units(at)),
        )  # fmt: skip


def _wider(numbers: Iterable[int], *more: int) -> Numbers:
    """Numbers, and more of them, where there is room for all."""
    every = [*numbers, *more]
    try:
        return array("q", every)
    except OverflowError:
        return every


def loaded(
    shape: Shape,
    times: Sequence[int],
    positions: Sequence[int],
    values: Sequence[Any] | None,
    units: Sequence[int] | None,
) -> Series:
    """The series that `rows` wrote."""
    series = Series(shape)
    narrow = max(positions, default=0) >> 32 == 0
    series.times, series.positions = array("q", times), array("I" if narrow else "q", positions)
    if shape.code and values is not None:
        try:
            series.values = list(values) if shape.code == "o" else array(shape.code, values)
        except (OverflowError, TypeError):
            series.values = list(values)
    if units:
        series._replace(0, units)
    series.trimmed = len(times)
    return series
