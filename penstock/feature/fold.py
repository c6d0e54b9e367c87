"""feature: the fold: events in, values at (t, O) out. Live, replay and look-up all use this one.

A record added so far lies below O; a window is (t - w, t] in event time; order inside is (time,
position). Numbers enter sums as integers, so values do not depend on the order of arrival.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from operator import attrgetter, sub
from typing import Any

import msgspec

from penstock.feature.language import Aggregate
from penstock.feature.plan import FeatureSet, Key, Node
from penstock.record.codec import pack, unpack
from penstock.record.decisions import Value
from penstock.record.errors import Refused
from penstock.record.event import Event
from penstock.record.record import Record

SLACK_MS = 2 * 86_400_000
"""How far a request's time may lie behind the newest tick and still be answered from the live state."""
LARGEST_UNITS = 2**62
_NEVER = -(2**62)


class Past(Refused):
    """The request's time lies behind what the live state keeps; its values are read from the log."""

    code = "past"


class Seen(msgspec.Struct, frozen=True):
    """What stands behind one value: how many events, and the positions of the first and the last (-1: none)."""

    name: str
    value: Value
    kind: str
    topic: str
    entity: str
    window_ms: int
    count: int
    first: int
    last: int


class Series:
    """One entity's values of one column, by (time, position), with prefix sums of their integers.

    `gone` events were forgotten; `sums[0]` and `squares[0]` are theirs, so totals over all history stay exact.
    """

    __slots__ = ("gone", "positions", "squares", "sums", "times", "trimmed", "values")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.positions: list[int] = []
        self.values: list[Any] = []
        self.sums: list[int] = [0]
        self.squares: list[int] = [0]
        self.gone = 0
        self.trimmed = 0

    def add(self, time_ms: int, position: int, value: Any, units: int) -> None:
        """Insert an event. Almost always it is the newest; a late one rebuilds the sums behind it."""
        times = self.times
        if not times or time_ms >= times[-1]:
            times.append(time_ms)
            self.positions.append(position)
            self.values.append(value)
            self.sums.append(self.sums[-1] + units)
            self.squares.append(self.squares[-1] + units * units)
            return
        at = bisect_right(times, time_ms)
        times.insert(at, time_ms)
        self.positions.insert(at, position)
        self.values.insert(at, value)
        self.sums[at + 1 :] = [self.sums[at] + units, *(n + units for n in self.sums[at + 1 :])]
        square = units * units
        self.squares[at + 1 :] = [self.squares[at] + square, *(n + square for n in self.squares[at + 1 :])]

    def trim(self, floor_ms: int, keep_newest: bool) -> None:
        """Forget what no read can see any more: events at or before `floor_ms`, but the newest of them if wanted."""
        gone = bisect_right(self.times, floor_ms)
        if keep_newest:
            gone = gone - 1 if gone else 0
        if gone > 0:
            self.gone += gone
            for part in (self.times, self.positions, self.values, self.sums, self.squares):
                del part[:gone]
        self.trimmed = len(self.times)


_EMPTY = Series()
Read = Callable[[Series, int], Value]


class _Table:
    """All series of one key, by entity, and how long their events matter."""

    def __init__(self, key: Key, nodes: list[Aggregate]) -> None:
        self.key = key
        self.entity = attrgetter(key.entity)
        self.column = attrgetter(key.column) if key.column else None
        self.summed = any(node.kind in ("sum", "mean", "std") for node in nodes)
        forever = [node for node in nodes if not node.window_ms]
        self.newest = any(node.kind in ("last", "since") for node in forever)
        self.whole = any(node.kind in ("min", "max", "first", "distinct") for node in forever)
        self.window_ms = max((node.window_ms for node in nodes), default=0)
        self.horizon_ms = -_NEVER if forever else self.window_ms
        self.series: dict[Any, Series] = {}


class Fold:
    """The state of a feature set. `add` and `tick` in log order; `read` at any point of it."""

    def __init__(self, features: FeatureSet, prune: bool = True) -> None:
        self.features, self.prune = features, prune
        self.now_ms = _NEVER
        self.dropped: dict[str, int] = {}
        self._tables = [
            _Table(key, [n.aggregate for n in features.nodes if n.aggregate is not None and n.series == i])
            for i, key in enumerate(features.series)
        ]
        self._adding = {
            topic: [table for table in self._tables if table.key.topic == topic] for topic in features.sources
        }
        self._steps = [_step(node, self._tables) for node in features.nodes]
        self._windowed = bool(self._tables)
        self._outputs = features.outputs

    def event(self, record: Record) -> Event:
        """The event of a source or of the request; raises Poison, and has changed nothing then."""
        source = self.features.sources.get(record.topic, self.features.request)
        return source.event(record)

    def add(self, record: Record, event: Event | None = None) -> None:
        """Fold one record of a source; raises Poison where it is none. What is left out of it is counted
        in `dropped`: events of nobody, numbers too large, and those too late for any window to see."""
        event = event or self.event(record)
        tables = self._adding[record.topic]
        time_ms, position = record.time_ms, record.o
        if self.prune and all(time_ms <= self.now_ms - SLACK_MS - table.horizon_ms for table in tables):
            self._drop(f"{record.topic}: late")
        for table in tables:
            entity = table.entity(event)
            if entity is None:
                self._drop(f"{record.topic}: no {table.key.entity}")
                continue
            value, units = None, 0
            if table.column is not None:
                value = table.column(event)
                if value is None or value != value:  # a NaN says as little as a null
                    continue
                if table.summed:
                    scaled = value / table.key.quantum
                    if not -LARGEST_UNITS < scaled < LARGEST_UNITS:
                        self._drop(f"{record.topic}.{table.key.column}: too large to sum")
                        continue
                    units = round(scaled)
            series = table.series.get(entity)
            if series is None:
                series = table.series[entity] = Series()
            series.add(time_ms, position, value, units)
            if self.prune and len(series.times) > 2 * series.trimmed + 32:
                self._trim(table, series)

    def _drop(self, why: str) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def tick(self, t_ms: int) -> None:
        """Time has reached `t_ms`: what lies too far back for any read may be forgotten."""
        self.now_ms = max(self.now_ms, t_ms)

    def read(self, record: Record, event: Event | None = None) -> list[Value]:
        """The values for a request whose position is O. Raises Poison where it is none, Past when its time
        lies too far back, and whatever a function of the user's raises."""
        slots = self._evaluate(record, event or self.features.request.event(record))
        return [slots[place] for place in self._outputs]

    def _evaluate(self, record: Record, event: Event) -> list[Any]:
        t_ms = record.time_ms
        if self.prune and self._windowed and t_ms < self.now_ms - SLACK_MS:
            raise Past(where=record.topic)
        slots: list[Any] = []
        for step in self._steps:
            slots.append(step(event, slots, t_ms))
        return slots

    def explain(self, record: Record) -> list[Seen]:
        """For each feature its value and what stands behind it."""
        slots = self._evaluate(record, self.features.request.event(record))
        found = []
        for name, place in zip(self.features.names, self._outputs, strict=True):
            node = self.features.nodes[place]
            found.append(self._seen(name, node, slots[place], slots, record.time_ms))
        return found

    def _seen(self, name: str, node: Node, value: Value, slots: list[Any], t_ms: int) -> Seen:
        one = node.aggregate
        if one is None:
            needs = ", ".join(self.features.nodes[i].name for i in node.inputs)
            return Seen(
                name,
                value,
                f"of {needs}" if node.function else "column",
                self.features.request.topic,
                "",
                0,
                0,
                -1,
                -1,
            )
        entity = slots[node.inputs[0]]
        series = self._tables[node.series].series.get(entity, _EMPTY)
        low = bisect_right(series.times, t_ms - one.window_ms) if one.window_ms else 0
        high = bisect_right(series.times, t_ms)
        if one.kind in ("last", "since"):
            low = max(low, high - 1)
        some = series.positions[low:high]
        forgotten = 0 if one.window_ms or one.kind in ("last", "since") else series.gone
        first, last = (min(some), max(some)) if some else (-1, -1)
        what = f"{one.kind} of {one.column}" if one.column else one.kind
        return Seen(
            name,
            value,
            what,
            one.source.topic,
            str(entity),
            one.window_ms,
            forgotten + len(some),
            first,
            last,
        )

    def dump(self) -> bytes:
        """The state's bytes: equal states give equal bytes, whatever the order in which they came to be."""
        tables = []
        for table in self._tables:
            for entity in list(table.series):
                series = table.series[entity]
                if self.prune:
                    self._trim(table, series)
                if not series.times and not series.gone:
                    del table.series[entity]
            rows = sorted(table.series.items(), key=lambda pair: str(pair[0]))
            tables.append(
                [[entity, *_base(s), s.times, s.positions, s.values, _units_of(s)] for entity, s in rows]
            )
        return pack([self.now_ms, sorted(self.dropped.items()), tables])

    @staticmethod
    def load(features: FeatureSet, data: bytes) -> Fold:
        """The fold that `dump` wrote."""
        fold = Fold(features)
        fold.now_ms, dropped, tables = unpack(
            data, tuple[int, dict[str, int] | list[tuple[str, int]], list[Any]]
        )
        fold.dropped = dict(dropped)
        for table, rows in zip(fold._tables, tables, strict=True):
            for entity, gone, total, square, times, positions, values, units in rows:
                series = table.series[entity] = Series()
                series.gone, series.trimmed = gone, len(times)
                series.times, series.positions, series.values = times, positions, values
                series.sums = list(accumulate(units, initial=int(total)))
                series.squares = list(accumulate((n * n for n in units), initial=int(square)))
        return fold

    def _trim(self, table: _Table, series: Series) -> None:
        if table.whole:
            series.trimmed = len(series.times)
        else:
            series.trim(self.now_ms - SLACK_MS - table.window_ms, table.newest)


def _base(series: Series) -> tuple[int, str, str]:
    """The forgotten events' number and sums; these may be longer than 64 bits."""
    return series.gone, str(series.sums[0]), str(series.squares[0])


def _units_of(series: Series) -> list[int]:
    return list(map(sub, series.sums[1:], series.sums))


Step = Callable[[Event, list[Any], int], Any]


def _step(node: Node, tables: list[_Table]) -> Step:
    """How to work one node out, with everything looked up beforehand."""
    if node.column:
        column = attrgetter(node.column)
        return lambda event, slots, t_ms: column(event)
    if node.function is not None:
        function, inputs = node.function.function, node.inputs
        return lambda event, slots, t_ms: _value(function(*[slots[i] for i in inputs]))
    assert node.aggregate is not None
    series, place = tables[node.series].series, node.inputs[0]
    read, default = _reader(node.aggregate), node.aggregate.default

    def step(event: Event, slots: list[Any], t_ms: int) -> Any:
        value = read(series.get(slots[place], _EMPTY), t_ms)
        return default if value is None else value

    return step


def _value(answer: Any) -> Value:
    """What a user's function returned as a feature value; a numpy scalar is taken for its Python twin."""
    if answer is None or type(answer) in (float, int, str, bool):
        value: Value = answer
        return value
    item = getattr(answer, "item", None)
    if item is not None:
        return _value(item())
    raise Refused(
        f"A feature returned a {type(answer).__name__}; it may be a number, a bool, a text or None.",
        code="feature_type",
    )


def _reader(node: Aggregate) -> Read:
    """The read of one aggregate: two bisections for the window, then one look or one scan."""
    window_ms, q, look = node.window_ms, node.quantum, _LOOKS[node.kind]

    def windowed(series: Series, t_ms: int) -> Value:
        times = series.times
        return look(series, bisect_right(times, t_ms - window_ms), bisect_right(times, t_ms), t_ms, q)

    def whole(series: Series, t_ms: int) -> Value:
        return look(series, 0, bisect_right(series.times, t_ms), t_ms, q)

    def total(series: Series, t_ms: int) -> Value:
        high = bisect_right(series.times, t_ms)
        return totals(series.gone + high, series.sums[high], series.squares[high], q)

    if window_ms:
        return windowed
    if node.kind not in _TOTALS:
        return whole
    totals = _TOTALS[node.kind]
    return total


def _std(n: int, total: int, square: int, q: float) -> Value:
    """From integers: n Σx² - (Σx)² is exact, then one division and one root."""
    return math.sqrt((n * square - total * total) / (n * (n - 1))) * q if n > 1 else None


Total = Callable[[int, int, int, float], Value]
_TOTALS: dict[str, Total] = {
    "count": lambda n, total, square, q: n,
    "sum": lambda n, total, square, q: total * q,
    "mean": lambda n, total, square, q: total / n * q if n else None,
    "std": _std,
}
"""From the number of values, the sum and the sum of squares of their integers, and the quantum."""


Look = Callable[[Series, int, int, int, float], Value]
_LOOKS: dict[str, Look] = {
    "count": lambda s, low, high, t, q: high - low,
    "sum": lambda s, low, high, t, q: (s.sums[high] - s.sums[low]) * q,
    "mean": lambda s, low, high, t, q: (
        (s.sums[high] - s.sums[low]) / (high - low) * q if high > low else None
    ),
    "std": lambda s, low, high, t, q: _std(
        high - low, s.sums[high] - s.sums[low], s.squares[high] - s.squares[low], q
    ),
    "min": lambda s, low, high, t, q: min(s.values[low:high], default=None),
    "max": lambda s, low, high, t, q: max(s.values[low:high], default=None),
    "first": lambda s, low, high, t, q: s.values[low] if high > low else None,
    "last": lambda s, low, high, t, q: s.values[high - 1] if high > low else None,
    "distinct": lambda s, low, high, t, q: len(set(s.values[low:high])),
    "since": lambda s, low, high, t, q: (t - s.times[high - 1]) / 1000 if high > low else None,
}
