"""feature: all series of one key, by entity: what an event adds to them, what a retraction takes out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from penstock.feature.definition.evaluate import compiled
from penstock.feature.definition.expression import Expression, Op
from penstock.feature.definition.language import SUMS, Aggregate
from penstock.feature.definition.plan import VALUES, FeatureSet, Key, column_of, row_types
from penstock.feature.state import hops
from penstock.feature.state.hops import Hops
from penstock.feature.state.looks import whole
from penstock.feature.state.series import Series, Shape, loaded
from penstock.record.errors import Refused

SLACK_MS = 2 * 86_400_000
"""How far a request's time may lie behind the newest tick and still be answered from the live state."""
LARGEST_UNITS = 2.0**62
MOST_EVENTS = 1_000_000
"""More events of one entity are not held for its windows."""
FOREVER_MS = 2**62
KINDS_OF_VALUES = ("min", "max", "first", "last", "last_k", "distinct")
_CODES = {frozenset((float,)): "d", frozenset((int,)): "q"}


class Unfit(Refused):
    """The event cannot be folded into a feature."""


class Take(msgspec.Struct, frozen=True, gc=False):
    """What an event is to one key: whose it is, its value, and the value as an integer."""

    entity: Any
    value: Any
    units: int


class Table:
    """All series of one key, by entity, and how long their events matter."""

    def __init__(self, key: Key, nodes: Sequence[Aggregate]) -> None:
        self.key = key
        one = nodes[0]
        self.entity = attrgetter(key.entity)
        self.value = None if one.value is None else _reading(one.value)
        self.where = None if one.where is None else _reading(one.where)
        kinds = {node.kind for node in nodes}
        self.summed = bool(kinds & set(SUMS))
        self.exact = self.summed and one.exact
        self.shape = Shape(
            _code(one.value) if kinds & set(KINDS_OF_VALUES) and one.value is not None else "",
            self.summed, "std" in kinds, key.cap,
        )  # fmt: skip
        self.counting = "distinct" in kinds
        forever = [node for node in nodes if not node.window_ms]
        self.tally = bool(forever)
        self.newest = any(node.kind in ("last", "since") for node in forever)
        self.numbers = bool(kinds & {*SUMS, "min", "max"})
        self.ends = bool(kinds & {"first", "last", "since"})
        self.extremes = bool(kinds & {"min", "max"})
        self.whole = any(node.kind in ("min", "max", "first", "distinct", "last_k") for node in forever)
        self.window_ms = max((node.window_ms for node in nodes), default=0)
        self.horizon_ms = FOREVER_MS if forever else self.window_ms
        self.none = Series(self.shape)
        self.series: dict[Any, Series] = {}
        self.hops: dict[Any, Hops] = {}

    def fresh(self) -> Table:
        """Another one of the same key, which holds nothing."""
        one = Table.__new__(Table)
        vars(one).update(vars(self), series={}, hops={})
        return one

    def take(self, event: Any) -> Take | None:
        """What an event is to this key; None: nothing. Raises Unfit where it cannot be summed, or where a row
        function of the user's fails."""
        entity = self.entity(event)
        if entity is None or entity != entity or (self.where is not None and not self.where(event)):
            return None
        if self.value is None:
            return Take(entity, None, 0)
        value = self.value(event)
        if value is None or value != value:  # a NaN says as little as a null
            return None
        if self.numbers and not isinstance(value, (int, float)):  # a row function may return what it likes
            raise Unfit(f"A {type(value).__name__} is no number.", code="wrong_type")
        return Take(entity, value, self.units(value) if self.summed else 0)

    def nobodys(self, event: Any) -> bool:
        """Whether an event has no entity."""
        entity = self.entity(event)
        return entity is None or entity != entity

    def units(self, value: Any) -> int:
        """A number as an integer."""
        if self.exact and math.isfinite(value):
            return whole(value)
        scaled: float = value / self.key.quantum
        if not abs(scaled) < LARGEST_UNITS:
            raise Unfit(
                f"A number of {self.key.topic} is too large to be summed: declare a larger quantum=, or exact=True.",
                code="too_large",
            )
        return round(scaled)

    def room(self, entity: Any, now_ms: int) -> None:
        """Raises Unfit where an entity has more events than may be held for its windows."""
        series = self.series.get(entity)
        if series is None or len(series.times) < MOST_EVENTS or self._held(series, now_ms) < MOST_EVENTS:
            return
        mend = "cap=" if self.key.hop_ms else "cap= or a window" if self.whole else "hop= or cap="
        raise Unfit(
            f"More than {MOST_EVENTS:,} events of one {self.key.entity} of {self.key.topic} must be held: "
            f"declare {mend}, or a shorter window.",
            code="too_many",
        )

    def _held(self, series: Series, now_ms: int) -> int:
        """How many events must be held, whether or not what may be forgotten has been."""
        if self.whole or self.key.cap:
            return len(series)
        floor_ms = self.closed_ms(now_ms) if self.key.hop_ms else now_ms - SLACK_MS - self.window_ms
        past = bisect_right(series.times, floor_ms, series.head) - series.head
        return len(series) - past + (self.newest and past > 0)

    def add(self, take: Take, time_ms: int, position: int, now_ms: int | None) -> None:
        """Fold an event. `now_ms`: the newest tick, where old events are forgotten; else None."""
        entity = take.entity
        if self.key.hop_ms and now_ms is not None and time_ms <= self.closed_ms(now_ms):
            self._close(entity, time_ms, position, take.value, take.units)
            return
        series = self.series.get(entity)
        if series is None:
            series = self.series[entity] = Series(self.shape)
        series.add(time_ms, position, take.value, take.units)
        if self.key.cap:
            series.push_out(time_ms, position, self.key.cap)
        if now_ms is not None and len(series.times) > 2 * series.trimmed + 32:
            self.trim(entity, series, now_ms)

    def closed_ms(self, now_ms: int) -> int:
        """Events at or before this time are kept as hops: no request can tell them apart."""
        return (now_ms - SLACK_MS) // self.key.hop_ms * self.key.hop_ms

    def _oldest(self, now_ms: int) -> int:
        """The oldest hop that a window may still reach."""
        return (self.closed_ms(now_ms) - self.window_ms) // self.key.hop_ms

    def _close(self, entity: Any, time_ms: int, position: int, value: Any, units: int) -> None:
        closed = self.hops.get(entity)
        if closed is None:
            closed = self.hops[entity] = Hops(self.key.hop_ms, counting=self.counting)
        closed.add(time_ms, position, value if self.shape.code else None, units)

    def trim(self, entity: Any, series: Series, now_ms: int, *, exact: bool = False) -> None:
        """Forget what no read can see any more."""
        if self.key.cap and not self.tally:
            series.let_go(now_ms - SLACK_MS - self.window_ms)
        if self.whole or self.key.cap:
            series.trimmed = len(series)
            return
        if self.key.hop_ms:
            self._fold_hops(entity, series, now_ms)
            return
        floor_ms = now_ms - SLACK_MS - self.window_ms
        series.trim(floor_ms, keep_newest=self.newest, tally=self.tally, exact=exact)

    def _fold_hops(self, entity: Any, series: Series, now_ms: int) -> None:
        floor_ms = self.closed_ms(now_ms)
        if len(series) and series.times[series.head] <= floor_ms:
            times, positions, values, units = series.rows()
            for i in range(bisect_right(times, floor_ms)):
                value, unit = values[i] if values else None, units[i] if units else 0
                self._close(entity, times[i], positions[i], value, unit)
        series.trim(floor_ms, keep_newest=False, tally=False, exact=True)

    def removable(self, take: Take, time_ms: int, position: int, now_ms: int) -> None:
        """Raises Unfit where an event can no longer be taken out, since what it hid has been forgotten. What may
        be forgotten is forgotten first, so that the answer does not depend on when that was done last."""
        series = self.series.get(take.entity)
        at = -1
        if series is not None:
            self.trim(take.entity, series, now_ms, exact=True)
            at = series.find(time_ms, position)
            hidden = self.newest and at == series.head and series.gone > 0
        closed = self.hops.get(take.entity)
        if at < 0:
            hidden = False
        if at < 0 and closed is not None:
            closed.forget(self._oldest(now_ms))
            hidden = closed.hidden(time_ms, position, take.value, ends=self.ends, extremes=self.extremes)
        if hidden:
            raise Unfit(
                "This event is too old to be retracted: what it hid is forgotten.", code="retracted_late"
            )

    def remove(self, take: Take, time_ms: int, position: int) -> None:
        """Take an event out."""
        series = self.series.get(take.entity)
        at = series.find(time_ms, position) if series is not None else -1
        if series is not None and at >= 0:
            series.remove(at)
        elif take.entity in self.hops:
            self.hops[take.entity].remove(time_ms, take.value, take.units)
        elif series is not None and series.gone and not self.key.cap:
            series.gone -= 1
            series.total -= take.units
            series.square -= take.units * take.units if self.shape.squared else 0

    def behind(self, entity: Any, one: Aggregate, t_ms: int) -> tuple[int, list[int]]:
        """How many events a read sees that are not held one by one, and the positions of some of them."""
        if not one.window_ms:
            series = self.series.get(entity)
            return (0 if series is None else series.gone), []
        closed = self.hops.get(entity)
        if closed is None:
            return 0, []
        at = closed.since((t_ms - one.window_ms) // self.key.hop_ms)
        places = closed.firsts[at:] + closed.lasts[at:]
        return sum(closed.counts[at:]), [position for _, position, _ in places]

    def held(self) -> list[int]:
        """How many events, or rows of hops, each entity has."""
        events = {entity: len(series) for entity, series in self.series.items()}
        for entity, closed in self.hops.items():
            events[entity] = events.get(entity, 0) + len(closed.keys)
        return list(events.values())

    def dump(self, now_ms: int | None) -> list[list[Any]]:
        """All series, in an order that does not depend on how they came to be."""
        for entity in list(self.series):
            series = self.series[entity]
            if now_ms is not None:
                self.trim(entity, series, now_ms, exact=True)
            if not len(series) and not series.gone and not series.order:
                del self.series[entity]
        for entity, closed in list(self.hops.items()):
            if now_ms is not None:
                closed.forget(self._oldest(now_ms))
            if not closed.keys:
                del self.hops[entity]
        entities = sorted({*self.series, *self.hops}, key=repr)
        return [self._row(entity) for entity in entities]

    def _row(self, entity: Any) -> list[Any]:
        series = self.series.get(entity, self.none)  # one without events has sums, too
        times, positions, values, units = series.rows()
        whole_units = [str(n) for n in units] if self.exact and units is not None else units
        sums = str(series.total), str(series.square)
        row = [entity, series.gone, *sums, times, positions, values, whole_units]
        closed = self.hops.get(entity)
        if closed is not None or series.order:
            row.append([list(series.order or ()), closed.rows() if closed is not None else None])
        return row

    def load(self, rows: Sequence[Sequence[Any]]) -> None:
        """The series that `dump` wrote."""
        for entity, gone, total, square, times, positions, values, units, *more in rows:
            order, closed = more[0] if more else ((), None)
            if closed is not None:
                self.hops[entity] = hops.loaded(self.key.hop_ms, closed, counting=self.counting)
            if times or gone or order:
                whole_units = [int(n) for n in units] if units else units
                series = self.series[entity] = loaded(self.shape, times, positions, values, whole_units)
                series.gone, series.total, series.square = gone, int(total), int(square)
                if series.order is not None:
                    series.order.extend((time_ms, position) for time_ms, position in order)


@lru_cache(maxsize=64)
def tables_of(features: FeatureSet) -> tuple[Table, ...]:
    """An empty table of each of a set's keys, to be made fresh: sets are folded anew again and again."""
    nodes = [(node.series, node.aggregate) for node in features.nodes if node.aggregate is not None]
    return tuple(
        Table(key, [one for series, one in nodes if series == i]) for i, key in enumerate(features.series)
    )


def _code(value: Expression) -> str:
    """The array that holds such values; a row function may return what its annotation does not say."""
    return "o" if _calls(value) else _CODES.get(row_types(value), "o")


def _calls(value: Any) -> bool:
    return isinstance(value, Op) and (value.op == "call" or any(_calls(arg) for arg in value.args))


def _reading(value: Expression) -> Callable[[Any], Any]:
    """The function of an event that reads a value of it."""
    read = compiled(value, column_of)
    if not _calls(value):
        return read

    def guarded(event: Any) -> Any:
        try:
            made = read(event)
        except Exception:  # a row function is the user's code: whatever it raises costs this event only
            raise Unfit("A row function failed on this event.", code="row_failed") from None
        if made is not None and type(made) not in VALUES:
            raise Unfit(f"A row function returned a {type(made).__name__}.", code="row_failed")
        return made

    return guarded
