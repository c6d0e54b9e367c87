"""feature: how a vector is worked out: everything is looked up beforehand, so that a read only reads.

First the request's columns, then every aggregate, those of one entity's series and one window together,
then functions and operations on what is there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock.feature.definition.evaluate import compiled
from penstock.feature.definition.expression import Expression
from penstock.feature.definition.language import Aggregate
from penstock.feature.definition.plan import FeatureSet, Node
from penstock.feature.state.hops import Hops
from penstock.feature.state.looks import HopLook, Look, hop_look_of, look_of
from penstock.feature.state.series import Series
from penstock.feature.state.table import Table
from penstock.record.decisions import Value
from penstock.record.errors import Refused

Slots = list[Any]


class Sight(NamedTuple):
    """One aggregate over several windows of one entity's series. `span`: the slots, where they lie side by side;
    `picks`: which of the group's windows (None: all); `default`: what stands where there is no value."""

    look: Look
    places: tuple[int, ...]
    span: slice | None
    picks: tuple[int, ...] | None
    default: Value


class Seat(NamedTuple):
    """One aggregate over one window, where old events are held as hops."""

    look: HopLook
    place: int
    window_ms: int
    default: Value


class Group(msgspec.Struct, frozen=True):
    """The aggregates over one entity's series. `windows`: their lengths, the shortest first, 0 (all history) last;
    `empty`: what each says of an entity without history."""

    table: Table
    asked: int
    windows: tuple[int, ...]
    sights: list[Sight]
    seats: list[Seat]
    empty: list[tuple[int, Value]]


class Reading(msgspec.Struct, frozen=True):
    """The plan of a vector, or of a part of one. `columns`: the request's columns that it needs."""

    columns: tuple[str, ...]
    column_slots: tuple[int, ...]
    groups: list[Group]
    later: list[tuple[int, Callable[[Slots], Any]]]
    size: int
    wanted: tuple[int, ...]

    def slots(self, columns: Sequence[Any], t_ms: int) -> Slots:
        """Every node's value at `t_ms`."""
        slots: Slots = [None] * self.size
        for slot, value in zip(self.column_slots, columns, strict=True):
            slots[slot] = value
        for group in self.groups:
            _look(group, slots, t_ms)
        for slot, work in self.later:
            slots[slot] = work(slots)
        return slots

    def outputs(self, slots: Slots) -> list[Value]:
        """The vector."""
        return [slots[place] for place in self.wanted]

    def places(self, node: Node, series: Series, t_ms: int) -> tuple[int, int]:
        """Where an aggregate's window lies in a series."""
        one = node.aggregate
        assert one is not None
        high = bisect_right(series.times, t_ms, series.head)
        if not one.window_ms:
            return series.head, high
        return bisect_right(series.times, start_ms(t_ms, one.window_ms, one.hop_ms), series.head), high


def start_ms(t_ms: int, window_ms: int, hop_ms: int) -> int:
    """Where a window begins; what lies exactly there is not in it."""
    start = t_ms - window_ms
    return start // hop_ms * hop_ms if hop_ms else start


def _look(group: Group, slots: Slots, t_ms: int) -> None:
    entity, table = slots[group.asked], group.table
    series = table.series.get(entity)
    if table.hops and entity in table.hops:
        _look_hops(group, Series(table.shape) if series is None else series, table.hops[entity], slots, t_ms)
        return
    if series is None:
        for place, value in group.empty:
            slots[place] = value
        return
    times, head, hop_ms = series.times, series.head, table.key.hop_ms
    low = high = bisect_right(times, t_ms, head)
    lows: list[int] = []
    for length_ms in group.windows:
        if length_ms:
            start = start_ms(t_ms, length_ms, hop_ms) if hop_ms else t_ms - length_ms
            low = bisect_right(times, start, head, low)
        else:
            low = head
        lows.append(low)
    for look, places, span, picks, default in group.sights:
        values = look(series, lows if picks is None else [lows[i] for i in picks], high, t_ms)
        if default is not None:
            values = [default if value is None else value for value in values]
        if span is not None:
            slots[span] = values
        else:
            for place, value in zip(places, values, strict=True):
                slots[place] = value


def reading(features: FeatureSet, tables: Sequence[Table], names: Sequence[str]) -> Reading:
    """The plan of some features of a set."""
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
    return Reading(
        tuple(name for _, name in columns), tuple(place for place, _ in columns), _groups(nodes, tables), later,
        len(features.nodes), wanted,
    )  # fmt: skip


def _groups(nodes: Sequence[tuple[int, Node]], tables: Sequence[Table]) -> list[Group]:
    found: dict[tuple[int, int], list[tuple[int, Aggregate]]] = {}
    for place, node in nodes:
        if node.aggregate is not None:
            found.setdefault((node.series, node.inputs[0]), []).append((place, node.aggregate))
    return [_group(tables[series], asked, seats) for (series, asked), seats in found.items()]


def _group(table: Table, asked: int, nodes: Sequence[tuple[int, Aggregate]]) -> Group:
    windows = tuple(sorted({one.window_ms for _, one in nodes}, key=lambda ms: (not ms, ms)))
    families: dict[tuple[Any, ...], list[tuple[int, Aggregate]]] = {}
    for place, one in sorted(nodes, key=lambda pair: windows.index(pair[1].window_ms)):
        alone = one.window_ms if one.kind == "rate" or not one.window_ms else -1
        alike = (one.kind, one.k, one.per_ms, repr(one.default), alone)
        families.setdefault(alike, []).append((place, one))
    sights = [_sight(table, windows, family) for family in families.values()]
    seats = [
        Seat(hop_look_of(one), place, one.window_ms, one.default) for place, one in nodes if table.key.hop_ms
    ]
    none = Series(table.shape)
    empty = [
        (place, one.default if (value := look_of(one)(none, [0], 0, 0)[0]) is None else value)
        for place, one in nodes
    ]
    return Group(table, asked, windows, sights, seats, empty)


def _sight(table: Table, windows: tuple[int, ...], family: list[tuple[int, Aggregate]]) -> Sight:
    one, places = family[0][1], tuple(place for place, _ in family)
    side_by_side = places == tuple(range(places[0], places[0] + len(places)))
    picks = tuple(windows.index(member.window_ms) for _, member in family)
    return Sight(
        look_of(one, forgotten=not one.window_ms and not table.key.cap), places,
        slice(places[0], places[0] + len(places)) if side_by_side else None,
        None if picks == tuple(range(len(windows))) else picks, one.default,
    )  # fmt: skip


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


def _look_hops(group: Group, series: Series, hops: Hops, slots: Slots, t_ms: int) -> None:
    """As `_look`, where old events are held as hops."""
    high = bisect_right(series.times, t_ms, series.head)
    for look, place, window_ms, default in group.seats:
        start = start_ms(t_ms, window_ms, hops.width_ms)
        low, at = bisect_right(series.times, start, series.head), hops.since(start // hops.width_ms)
        value = look(hops, at, series, low, high, t_ms)
        slots[place] = default if value is None else value
