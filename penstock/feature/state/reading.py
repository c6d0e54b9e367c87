"""feature: how a vector is worked out: everything is looked up beforehand, so that a read only reads.

First the request's columns, then every aggregate, those of one entity's series and one window together,
then functions and operations on what is there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from penstock.feature.definition.evaluate import compiled
from penstock.feature.definition.expression import Expression
from penstock.feature.definition.language import Aggregate
from penstock.feature.definition.plan import FeatureSet, Node
from penstock.feature.state.looks import HopLook, hop_look_of
from penstock.feature.state.series import Series
from penstock.feature.state.table import Table, tables_of
from penstock.feature.state.written import Look, Slots, start_ms, written
from penstock.record.decisions import Value
from penstock.record.errors import Refused


class Seat(NamedTuple):
    """One aggregate over one window, where old events are held as hops."""

    look: HopLook
    place: int
    window_ms: int
    default: Value


class Group(msgspec.Struct, frozen=True):
    """The aggregates over one entity's series. `places`: their slots; `windows`: their lengths, the shortest first,
    0 (all history) last."""

    table: Table
    asked: int
    places: tuple[int, ...]
    windows: tuple[int, ...]
    look: Look


class Reading(msgspec.Struct, frozen=True):
    """The plan of a vector, or of a part of one. `columns`: the request's columns that it needs; `span`: the wanted
    slots, where they lie side by side."""

    columns: tuple[str, ...]
    column_slots: tuple[int, ...]
    groups: list[Group]
    looks: list[Look]
    later: list[tuple[int, Callable[[Slots], Any]]]
    size: int
    wanted: tuple[int, ...]
    span: slice | None = None

    def slots(self, asked: Iterable[Sequence[Any]], t_ms: int) -> Iterator[Slots]:
        """Every node's value at `t_ms`, for each of some columns."""
        size, at, looks, later = self.size, self.column_slots, self.looks, self.later
        for columns in asked:
            slots: Slots = [None] * size
            for slot, value in zip(at, columns, strict=True):
                slots[slot] = value
            for look in looks:
                look(slots, t_ms)
            for slot, work in later:
                slots[slot] = work(slots)
            yield slots

    def outputs(self, slots: Slots) -> list[Value]:
        """The vector."""
        return slots[self.span] if self.span is not None else [slots[place] for place in self.wanted]

    def places(self, node: Node, series: Series, t_ms: int) -> tuple[int, int]:
        """Where an aggregate's window lies in a series."""
        one = node.aggregate
        assert one is not None
        high = bisect_right(series.times, t_ms, series.head)
        if not one.window_ms:
            return series.head, high
        return bisect_right(series.times, start_ms(t_ms, one.window_ms, one.hop_ms), series.head), high


class Layout(msgspec.Struct, frozen=True):
    """A group before it is bound to a table: that of its `series`."""

    series: int
    asked: int
    places: tuple[int, ...]
    windows: tuple[int, ...]
    bound: Callable[[Table], Look]


def reading(features: FeatureSet, tables: Sequence[Table], names: Sequence[str]) -> Reading:
    """The plan of some features of a set, over these tables of it."""
    plan, layouts = _planned(features, tuple(names))
    groups = [
        Group(tables[one.series], one.asked, one.places, one.windows, one.bound(tables[one.series]))
        for one in layouts
    ]
    return msgspec.structs.replace(plan, groups=groups, looks=[group.look for group in groups])


@lru_cache(maxsize=256)
def _planned(features: FeatureSet, names: tuple[str, ...]) -> tuple[Reading, list[Layout]]:
    """A plan without its groups, and these before they are bound: a set's states are many, and come and go."""
    by_name = dict(zip(features.names, features.outputs, strict=True))
    wanted = tuple(by_name[name] for name in names)
    needed: set[int] = set()
    waiting = list(wanted)
    while waiting:
        place = waiting.pop()
        if place not in needed:
            needed.add(place)
            waiting += features.nodes[place].inputs
    nodes = [(place, features.nodes[place]) for place in sorted(needed)]
    columns = [(place, node.column) for place, node in nodes if node.column]
    later = [
        (place, _later(node))
        for place, node in nodes
        if node.function is not None or node.operation is not None
    ]
    plan = Reading(
        tuple(name for _, name in columns), tuple(place for place, _ in columns), [], [], later,
        len(features.nodes), wanted, _span(wanted),
    )  # fmt: skip
    return plan, _layouts(nodes, tables_of(features))


def _span(places: tuple[int, ...]) -> slice | None:
    span = slice(min(places, default=0), max(places, default=-1) + 1)
    return span if places == tuple(range(span.start, span.stop)) else None


def _layouts(nodes: Sequence[tuple[int, Node]], tables: Sequence[Table]) -> list[Layout]:
    found: dict[tuple[int, int], list[tuple[int, Aggregate]]] = {}
    for place, node in nodes:
        if node.aggregate is not None:
            found.setdefault((node.series, node.inputs[0]), []).append((place, node.aggregate))
    return [_layout(series, tables[series], asked, seats) for (series, asked), seats in found.items()]


def _layout(series: int, table: Table, asked: int, nodes: Sequence[tuple[int, Aggregate]]) -> Layout:
    windows = tuple(sorted({one.window_ms for _, one in nodes}, key=lambda ms: (not ms, ms)))
    bound = written(table, asked, windows, nodes)
    if table.key.hop_ms:
        bound = _with_hops(asked, nodes, bound)
    return Layout(series, asked, tuple(place for place, _ in nodes), windows, bound)


# Functions and operations.


def _later(node: Node) -> Callable[[Slots], Any]:
    if node.function is not None:
        function, inputs = node.function.function, node.inputs
        return lambda slots: value_of(function(*[slots[i] for i in inputs]))
    places = node.places

    def leaf(one: Expression) -> Callable[[Slots], Any]:
        place = places[id(one)]
        return lambda slots: value if (value := slots[place]) == value else None

    return compiled(node.operation, leaf)


def value_of(answer: Any) -> Value:
    """What a user's function returned as a feature value; a numpy scalar is taken for its Python twin."""
    if answer is None or type(answer) in (float, int, str, bool):
        value: Value = answer
        return value
    item = getattr(answer, "item", None)
    if item is not None:
        return value_of(item())
    raise Refused(
        f"A feature returned a {type(answer).__name__}; it may be a number, a bool, a text or None.",
        code="feature_type",
    )


# Hops.


def _with_hops(
    asked: int, nodes: Sequence[tuple[int, Aggregate]], bound: Callable[[Table], Look]
) -> Callable[[Table], Look]:
    """As `bound`, also where an entity's old events are held as hops."""
    seats = [Seat(hop_look_of(one), place, one.window_ms, one.default) for place, one in nodes]
    return lambda table: _behind(table, asked, seats, bound(table))


def _behind(table: Table, asked: int, seats: Sequence[Seat], look: Look) -> Look:
    none = Series(table.shape)

    def look_behind(slots: Slots, t_ms: int) -> None:
        hops = table.hops.get(slots[asked])
        if hops is None:
            look(slots, t_ms)
            return
        series = table.series.get(slots[asked], none)
        high = bisect_right(series.times, t_ms, series.head)
        for seat, place, window_ms, default in seats:
            start = start_ms(t_ms, window_ms, hops.width_ms)
            low, at = bisect_right(series.times, start, series.head), hops.since(start // hops.width_ms)
            value = seat(hops, at, series, low, high, t_ms)
            slots[place] = default if value is None else value

    return look_behind
