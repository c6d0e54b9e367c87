"""feature: what is left of events that are older than any window's end can be: one row for each hop.

Hop k holds the events of ((k * hop), (k + 1) * hop]. Windows start at whole hops, so these rows are enough.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

Place = tuple[int, int, Any]
NOT_COUNTED: Counter[Any] = Counter()
"""How often each value occurred, where nobody asks: one for all rows."""


class Hops:
    """The rows of one entity, by hop, as columns."""

    __slots__ = (
        "counting",
        "counts",
        "firsts",
        "keys",
        "kinds",
        "lasts",
        "leasts",
        "mosts",
        "squares",
        "totals",
        "width_ms",
    )  # fmt: skip

    def __init__(self, width_ms: int, *, counting: bool) -> None:
        self.width_ms = width_ms
        self.counting = counting  # how often each value occurred
        self.keys: list[int] = []
        self.counts: list[int] = []
        self.totals: list[int] = []
        self.squares: list[int] = []
        self.firsts: list[Place] = []
        self.lasts: list[Place] = []
        self.leasts: list[Any] = []
        self.mosts: list[Any] = []
        self.kinds: list[Counter[Any]] = []

    def columns(self) -> tuple[list[Any], ...]:
        """All columns, the keys first."""
        return (
            self.keys, self.counts, self.totals, self.squares, self.firsts, self.lasts, self.leasts, self.mosts,
            self.kinds,
        )  # fmt: skip

    def add(self, time_ms: int, position: int, value: Any, units: int) -> None:
        """Fold one event into its hop."""
        key = (time_ms - 1) // self.width_ms
        at = bisect_left(self.keys, key)
        place = (time_ms, position, value)
        if at == len(self.keys) or self.keys[at] != key:
            kinds = Counter() if self.counting else NOT_COUNTED
            fresh: tuple[Any, ...] = (key, 1, units, units * units, place, place, value, value, kinds)
            for column, one in zip(self.columns(), fresh, strict=True):
                column.insert(at, one)
            self._count(at, value, 1)
            return
        self.counts[at] += 1
        self.totals[at] += units
        self.squares[at] += units * units
        self.firsts[at] = min(self.firsts[at], place, key=_when)
        self.lasts[at] = max(self.lasts[at], place, key=_when)
        if value is not None:
            self.leasts[at], self.mosts[at] = min(self.leasts[at], value), max(self.mosts[at], value)
        self._count(at, value, 1)

    def _count(self, at: int, value: Any, n: int) -> None:
        if self.counting:
            self.kinds[at][value] += n
            if not self.kinds[at][value]:
                del self.kinds[at][value]

    def hidden(self, time_ms: int, position: int, value: Any, *, ends: bool, extremes: bool) -> bool:
        """Whether an event stands before others that are forgotten: it is its row's first or last, and such
        `ends` are read, or its least or greatest, and such `extremes` are."""
        key = (time_ms - 1) // self.width_ms
        at = self.since(key)
        if at == len(self.keys) or self.keys[at] != key or self.counts[at] == 1:
            return False
        if ends and (time_ms, position) in (_when(self.firsts[at]), _when(self.lasts[at])):
            return True
        return extremes and not self.leasts[at] < value < self.mosts[at]

    def remove(self, time_ms: int, value: Any, units: int) -> None:
        """Take one event out of its hop."""
        key = (time_ms - 1) // self.width_ms
        at = self.since(key)
        if at == len(self.keys) or self.keys[at] != key:
            return
        if self.counts[at] == 1:
            for column in self.columns():
                del column[at]
            return
        self.counts[at] -= 1
        self.totals[at] -= units
        self.squares[at] -= units * units
        self._count(at, value, -1)

    def since(self, key: int) -> int:
        """The place of the first row at or after a hop."""
        return bisect_left(self.keys, key)

    def forget(self, key: int) -> None:
        """Drop the rows before a hop."""
        if at := self.since(key):
            for column in self.columns():
                del column[:at]

    def rows(self) -> list[list[Any]]:
        """All of it as lists."""
        return [
            [
                *(key, n, str(total), str(square), first, last, least, most),
                sorted(kinds.items(), key=repr) if kinds else [],
            ]
            for key, n, total, square, first, last, least, most, kinds in zip(*self.columns(), strict=True)
        ]


def _when(place: Place) -> tuple[int, int]:
    return place[0], place[1]


def loaded(width_ms: int, rows: list[list[Any]], *, counting: bool) -> Hops:
    """The hops that `rows` wrote."""
    hops = Hops(width_ms, counting=counting)
    if rows:
        keys, counts, totals, squares, firsts, lasts, leasts, mosts, kinds = map(
            list, zip(*rows, strict=True)
        )
        hops.keys, hops.counts, hops.leasts, hops.mosts = keys, counts, leasts, mosts
        hops.totals, hops.squares = list(map(int, totals)), list(map(int, squares))
        hops.firsts, hops.lasts = list(map(tuple, firsts)), list(map(tuple, lasts))
        hops.kinds = [Counter(dict(some)) for some in kinds] if counting else [NOT_COUNTED] * len(rows)
    return hops
