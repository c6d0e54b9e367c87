"""feature: how a vector is worked out: everything is looked up beforehand, so that a read only reads.

First the request's columns, then every aggregate, those of one entity's series and one window together,
then functions and operations on what is there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from penstock.feature.evaluate import compiled
from penstock.feature.expression import Expression
from penstock.feature.language import Aggregate
from penstock.feature.looks import MOMENTS, HopLook, Look, hop_look_of, look_of, total_of
from penstock.feature.plan import FeatureSet, Node
from penstock.feature.series import Series
from penstock.feature.table import Table
from penstock.record.decisions import Value
from penstock.record.errors import Refused

Slots = list[Any]
Seat = tuple[int, Look, HopLook | None, Value]
"""Which slot, how it is read without and with hops, and what stands there when it is null."""


class Window(msgspec.Struct, frozen=True):
    """The aggregates over one window of one entity's series."""

    length_ms: int
    hop_ms: int
    seats: list[Seat]


class Group(msgspec.Struct, frozen=True):
    """The aggregates over one entity's series. `empty`: what each says of an entity without history."""

    table: Table
    asked: int
    windows: list[Window]
    forever: list[Seat]
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
        _look_hops(group, series or Series(table.shape), slots, t_ms)
        return
    if series is None:
        for slot, value in group.empty:
            slots[slot] = value
        return
    times, head = series.times, series.head
    high = bisect_right(times, t_ms, head)
    for window in group.windows:
        start = t_ms - window.length_ms
        if window.hop_ms:
            start = start // window.hop_ms * window.hop_ms
        low = bisect_right(times, start, head)
        for slot, look, _, default in window.seats:
            value = look(series, low, high, t_ms)
            slots[slot] = default if value is None else value
    for slot, look, _, default in group.forever:
        value = look(series, head, high, t_ms)
        slots[slot] = default if value is None else value


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
    windows: dict[int, list[Seat]] = {}
    forever: list[Seat] = []
    for place, one in nodes:
        if one.window_ms:
            windows.setdefault(one.window_ms, []).append(
                (place, look_of(one), hop_look_of(one) if table.key.hop_ms else None, one.default)
            )
        else:
            forever.append((place, _over_all(one, table), None, one.default))
    none = Series(table.shape)
    empty = [
        (place, one.default if (value := look_of(one)(none, 0, 0, 0)) is None else value)
        for place, one in nodes
    ]
    return Group(
        table,
        asked,
        [Window(length, table.key.hop_ms, seats) for length, seats in windows.items()],
        forever,
        empty,
    )


def _over_all(one: Aggregate, table: Table) -> Look:
    """Over all history: with what was forgotten, where nothing but sums is asked of it."""
    if one.kind not in MOMENTS or table.key.cap:
        return look_of(one)
    total, summed, squared = total_of(one), table.shape.summed, one.kind == "std"

    def look(series: Series, low: int, high: int, t_ms: int) -> Value:
        sums = series.sums
        return total(
            series.gone + high - low,
            series.total + sums[high] - sums[low] if summed and sums is not None else 0,
            series.square + series.squared(high) - series.squared(low) if squared else 0,
        )

    return look


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


def _look_hops(group: Group, series: Series, slots: Slots, t_ms: int) -> None:
    """As `_look`, where old events are held as hops."""
    closed = group.table.hops[slots[group.asked]]
    high = bisect_right(series.times, t_ms, series.head)
    for window in group.windows:
        start = start_ms(t_ms, window.length_ms, window.hop_ms)
        low, at = bisect_right(series.times, start, series.head), closed.since(start // window.hop_ms)
        for slot, _, look, default in window.seats:
            assert look is not None
            value = look(closed, at, series, low, high, t_ms)
            slots[slot] = default if value is None else value
