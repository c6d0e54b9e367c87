"""feature: the fold: events in, values at (t, O) out. Live, replay and look-up all use this one.

A record added so far lies below O; a window is (t - w, t] in event time; order inside is (time,
position). Numbers enter sums as integers, so values do not depend on the order of arrival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from penstock.feature.definition.plan import FeatureSet, Node
from penstock.feature.state.reading import Reading, reading
from penstock.feature.state.series import Series
from penstock.feature.state.table import SLACK_MS, Table, Take, Unfit, tables_of
from penstock.record.codec import pack, unpack
from penstock.record.decisions import RETRACTIONS, Retraction, Value, read
from penstock.record.errors import Poison, Refused
from penstock.record.event import Event, unknown
from penstock.record.poison import poison
from penstock.record.record import Record

_NEVER = -(2**62)
MOST_PLANS = 100
"""So many choices of features are kept ready to be read."""


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


Due = list[tuple[Table, Take | None]]
"""What each series would take of a record; None: nothing, for it belongs to nobody."""


class Fold:
    """The state of a feature set. `add` and `tick` in log order; `read` at any point of it."""

    def __init__(self, features: FeatureSet, prune: bool = True) -> None:
        self.features, self.prune = features, prune
        self.now_ms = _NEVER
        self.seen = -1  # what lies at or before this place has been folded
        self.taken: set[int] = set()  # the positions of what was taken back
        self.dropped: dict[str, int] = {}
        self.tables = [table.fresh() for table in tables_of(features)]
        self._adding = {
            topic: [table for table in self.tables if table.key.topic == topic] for topic in features.sources
        }
        self._reach_ms = {
            topic: max((table.horizon_ms for table in tables), default=_NEVER)
            for topic, tables in self._adding.items()
        }
        self.whole = reading(features, self.tables, features.names)
        self._some: dict[tuple[str, ...], Reading] = {}
        self._asked = [attrgetter(name) for name in self.whole.columns]

    def event(self, record: Record) -> Event:
        """The event of a source or of the request (of a retraction an empty one); raises Poison."""
        if record.topic == RETRACTIONS:
            return Event()
        source = self.features.sources.get(record.topic, self.features.request)
        return source.event(record)

    def add(self, record: Record, event: Event | None = None) -> None:
        """Fold one record of a source, or a retraction; raises Poison where it is none, or where a feature
        cannot take it, and has changed nothing then. What is left out of it is counted in `dropped`: events of
        nobody, and those too late for any window to see. One that was folded before changes nothing."""
        self.fold(record, self.fit(record, event))

    def fit(self, record: Record, event: Event | None = None) -> Due:
        """What each series would take of a record. It changes nothing, and raises Poison as `add` does."""
        if record.o <= self.seen:
            return []
        if record.topic == RETRACTIONS:
            return self._fit_retraction(record)
        now_ms = self.now_ms if self.prune else None
        try:
            due = self._due(record.topic, event or self.event(record))
            if now_ms is not None:
                for table, take in due:
                    if take is not None:
                        table.room(take.entity, now_ms)
        except Unfit as error:
            raise self.features.sources[record.topic].poison(record, error.code, error.what) from None
        return due

    def fold(self, record: Record, due: Sequence[tuple[Table, Take | None]]) -> None:
        """Fold a record that fits."""
        o = record.o
        if o <= self.seen:
            self._drop(f"{record.topic}: again")
            return
        self.seen = o
        if record.topic == RETRACTIONS:
            taken = read(record, Retraction)
            if due:
                self.taken.add(taken.position)
            for table, take in due:
                if take is not None:
                    table.remove(take, taken.time_ms, taken.position)
            return
        now_ms, time_ms = self.now_ms if self.prune else None, record.time_ms
        if now_ms is not None and time_ms <= now_ms - SLACK_MS - self._reach_ms[record.topic]:
            self._drop(f"{record.topic}: late")
        for table, take in due:
            if take is None:
                self._drop(f"{record.topic}: no {table.key.entity}")
            else:
                table.add(take, time_ms, o, now_ms)

    def _due(self, topic: str, event: Event) -> Due:
        due: Due = []
        for table in self._adding[topic]:
            take = table.take(event)
            if take is not None or table.nobodys(event):
                due.append((table, take))
        return due

    def _fit_retraction(self, record: Record) -> Due:
        """What a retraction takes out: once, and only what had been folded."""
        taken = read(record, Retraction)
        if taken.topic not in self._adding or taken.position >= record.o or taken.position in self.taken:
            return []
        try:
            due = self._due(taken.topic, self.event(_retracted(taken)))
        except (Poison, Unfit):  # what cannot be read had been buried, not folded
            return []
        try:
            if self.prune:
                for table, take in due:
                    if take is not None:
                        table.removable(take, taken.time_ms, taken.position, self.now_ms)
        except Unfit as error:
            raise poison(record, error.code, error.what, Retraction.__struct_fields__) from None
        return due

    def _drop(self, why: str) -> None:
        self.dropped[why] = self.dropped.get(why, 0) + 1

    def tick(self, t_ms: int) -> None:
        """Time has reached `t_ms`: what lies too far back for any read may be forgotten."""
        self.now_ms = max(self.now_ms, t_ms)

    def read(self, record: Record, event: Event | None = None) -> list[Value]:
        """The values for a request whose position is O. Raises Poison where it is none, Past when its time
        lies too far back, and whatever a function of the user's raises."""
        event = event or self.features.request.event(record)
        return self.whole.outputs(self._evaluate(event, record.time_ms, record.topic))

    def _evaluate(self, event: Event, t_ms: int, topic: str) -> list[Any]:
        self._keeps(t_ms, topic)
        (slots,) = self.whole.slots([[get(event) for get in self._asked]], t_ms)
        return slots

    def _keeps(self, t_ms: int, topic: str) -> None:
        if self.prune and self.tables and t_ms < self.now_ms - SLACK_MS:
            raise Past(where=topic)

    def get(self, columns: Mapping[str, Any], t_ms: int, names: Sequence[str] = ()) -> list[Value]:
        """The values of features (default: all) at `t_ms`, looked up by the request's columns that they are made
        of. Raises Refused where one is missing or unknown, and Past as `read` does."""
        return self.get_many([columns], t_ms, names)[0]

    def get_many(
        self, rows: Sequence[Mapping[str, Any]], t_ms: int, names: Sequence[str] = ()
    ) -> list[list[Value]]:
        """As `get`, for each of some, in order."""
        self._keeps(t_ms, self.features.request.topic)
        some = self.whole if not names else self._some.get(tuple(names)) or self._chosen(tuple(names))
        try:
            names = some.columns
            asked = [[columns[name] for name in names] for columns in rows]
        except KeyError as error:
            raise Refused(
                f'The features need the column "{error.args[0]}" of {self.features.request.topic}.',
                code="unknown_column", hint="Give it, or ask for features that do without.",
            ) from None  # fmt: skip
        return [some.outputs(slots) for slots in some.slots(asked, t_ms)]

    def _chosen(self, names: tuple[str, ...]) -> Reading:
        for name in names:
            if name not in self.features.names:
                text = unknown(name, self.features.names, "a feature of this set")
                raise Refused(text, code="unknown_feature")
        if len(self._some) >= MOST_PLANS:
            self._some.clear()
        some = self._some[names] = reading(self.features, self.tables, names)
        return some

    def explain(self, record: Record) -> list[Seen]:
        """For each feature its value and what stands behind it."""
        slots = self._evaluate(self.features.request.event(record), record.time_ms, record.topic)
        pairs = zip(self.features.names, self.features.outputs, strict=True)
        return [
            self._seen(n, self.features.nodes[place], slots[place], slots, record.time_ms)
            for n, place in pairs
        ]

    def _seen(self, name: str, node: Node, value: Value, slots: list[Any], t_ms: int) -> Seen:
        one = node.aggregate
        if one is None:
            needs = ", ".join(self.features.nodes[i].name for i in node.inputs)
            kind = f"of {needs}" if node.inputs else "column"
            return Seen(name, value, kind, self.features.request.topic, "", 0, 0, -1, -1)
        entity, table = slots[node.inputs[0]], self.tables[node.series]
        series = table.series.get(entity, Series(table.shape))
        low, high = self.whole.places(node, series, t_ms)
        forgotten, ends = table.behind(entity, one, t_ms)
        if one.kind in ("last", "since"):
            low, forgotten = max(low, high - 1), 0
        some = [*series.positions[low:high], *ends]
        first, last = (min(some), max(some)) if some else (-1, -1)
        what = f"{one.kind} of {table.key.column}" if table.key.column else one.kind
        return Seen(
            name,
            value,
            what,
            one.source.topic,
            str(entity),
            one.window_ms,
            forgotten + high - low,
            first,
            last,
        )

    def sizes(self) -> dict[str, int]:
        """How many events (and rows of hops) are held, by series."""
        sizes: dict[str, int] = {}
        for table in self.tables:
            label = table.key.label
            sizes[label] = sizes.get(label, 0) + sum(table.held())
        return sizes

    def dump(self) -> bytes:
        """The state's bytes: equal states give equal bytes, whatever the order in which they came to be."""
        now_ms = self.now_ms if self.prune else None
        return pack(
            [
                self.now_ms,
                sorted(self.dropped.items()),
                [table.dump(now_ms) for table in self.tables],
                self.seen,
                sorted(self.taken),
            ]
        )

    @staticmethod
    def load(features: FeatureSet, data: bytes) -> Fold:
        """The fold that `dump` wrote; an older one did not say what it had seen."""
        fold = Fold(features)
        fold.now_ms, dropped, tables, *later = unpack(data, list[Any])
        fold.dropped = dict(dropped)
        fold.seen, taken = later if len(later) == 2 else (*later, -1, ())[:2]
        fold.taken = set(taken)
        for table, rows in zip(fold.tables, tables, strict=True):
            table.load(rows)
        return fold


def dropped(data: bytes) -> list[tuple[str, int]]:
    """What was left out, and how often, by the bytes of `dump`; nothing else of them is read."""
    return unpack(unpack(data, list[msgspec.Raw])[1], list[tuple[str, int]])


def _retracted(taken: Retraction) -> Record:
    return Record(taken.topic, taken.position, taken.id, "", taken.time_ms, taken.value)
