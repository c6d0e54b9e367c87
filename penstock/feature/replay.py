"""feature: the replay: events and requests as columns, every request answered at its own (t, O) in one sweep.

The values are the fold's, bit for bit. What the kernels cannot hold in 64 bits, or do not know, is folded by
the same series and looks that serve live: exact sums, very large ones, and all of it where numba is not there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.feature.definition.language import Aggregate
from penstock.feature.definition.plan import FeatureSet, mixed
from penstock.feature.fold import Fold
from penstock.feature.state.reading import Group, Reading
from penstock.feature.state.table import FOREVER_MS, SLACK_MS, Table, Take
from penstock.record.decisions import RETRACTIONS, Retraction, Value, read
from penstock.record.event import Event
from penstock.record.record import Record

Numbers = NDArray[np.int64]
Places = NDArray[np.intp]
ALWAYS = 2**63 - 1
"""Until when an event holds that nobody takes away."""
SUMMED = ("sum", "mean", "std")
ORDERED = ("min", "max")
ENDED = (*SUMMED, *ORDERED, "first")
"""What the kernel of that name works out, in its order."""
NEWEST = ("last", "since", "last_k")
WORTH = 20_000
"""So many events and requests are worth the loading of the kernels."""


class Answers(msgspec.Struct, frozen=True):
    """One feature's values by request. `valid`: where there is one (None: everywhere)."""

    values: NDArray[Any]
    valid: NDArray[np.bool_] | None = None

    def tolist(self) -> list[Value]:
        """As Python's own values, with None for null."""
        found: list[Value] = self.values.tolist()
        if self.valid is None:
            return found
        return [value if there else None for value, there in zip(found, self.valid.tolist(), strict=True)]


class Taken:
    """What one table of the fold takes of the events, as columns, by position. Entities are numbered. `until`: those
    taken back, by position, and when; `folded`: what lies below it, the table itself holds, too."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.numbers: dict[Any, int] = {}
        self.entities: list[Any] = []
        self.whose, self.times, self.since = array("i"), array("q"), array("q")
        self.until: dict[int, int] = {}
        self.folded = 0
        code = table.shape.code
        self.values: array[Any] | list[Any] | None = None if not code else [] if code == "o" else array(code)
        self.units: array[int] | list[int] | None = array("q") if table.summed else None

    def add(self, take: Take, time_ms: int, position: int) -> None:
        """An event that counts from a position on."""
        number = self.numbers.setdefault(take.entity, len(self.numbers))
        if number == len(self.entities):
            self.entities.append(take.entity)
        self.whose.append(number)
        self.times.append(time_ms)
        self.since.append(position)
        if self.values is not None:
            try:
                self.values.append(take.value)
            except (OverflowError, TypeError):  # not of the column's usual kind
                self.values = [*self.values, take.value]
        if self.units is not None:
            try:
                self.units.append(take.units)
            except OverflowError:
                self.units = [*self.units, take.units]

    def keep(self, chosen: Places) -> None:
        """Forget all events but these."""
        for name in ("whose", "times", "since", "values", "units"):
            part = getattr(self, name)
            if isinstance(part, list):
                setattr(self, name, [part[i] for i in chosen])
            elif part is not None:
                setattr(self, name, array(part.typecode, np.asarray(part)[chosen].tobytes()))
        held = set(self.since)
        self.until = {since: until for since, until in self.until.items() if since in held}


class Decoded:
    """Events and requests taken from records, in log order, as columns: what a replay works on. `asked`: by group of
    the plan the number of each request's entity, -1 where nothing is known of it yet."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.fold = Fold(features, prune=False)
        self.reading = self.fold.whole
        self.taken = [Taken(table) for table in self.fold.tables]
        self._of = {id(one.table): one for one in self.taken}
        names = dict(zip(self.reading.column_slots, self.reading.columns, strict=True))
        self._asks = [(self.of(group.table).numbers, names[group.asked]) for group in self.reading.groups]
        self.clear()

    def of(self, table: Table) -> Taken:
        """What a table of the fold takes."""
        return self._of[id(table)]

    def clear(self) -> None:
        """Forget the requests."""
        self.columns: list[list[Any]] = [[] for _ in self.reading.columns]
        self.asked = [array("i") for _ in self.reading.groups]
        self.t_ms, self.o = array("q"), array("q")

    def take(self, record: Record, event: Event | None = None, *, ask: bool = False) -> None:
        """A record of a source, a retraction, or (`ask`) a request, which does not see itself. Raises Poison as the
        fold does, and has taken nothing then."""
        event = event or self.fold.event(record)
        due = self.fold.fit(record, event) if self.features.reads(record.topic) else []
        if ask:
            for column, name in zip(self.columns, self.reading.columns, strict=True):
                column.append(getattr(event, name))
            for asked, (numbers, name) in zip(self.asked, self._asks, strict=True):
                asked.append(numbers.get(getattr(event, name), -1))
            self.t_ms.append(record.time_ms)
            self.o.append(record.o)
        gone = read(record, Retraction).position if record.topic == RETRACTIONS else -1
        for table, take in due:
            if take is None:
                continue
            if gone < 0:
                self.of(table).add(take, record.time_ms, record.o)
            else:
                self.of(table).until.setdefault(gone, record.o)

    def forget(self, now_ms: int) -> None:
        """Forget the events that no request sees any more which comes later than these records, and whose time is
        at most `SLACK_MS` behind `now_ms`."""
        for one in self.taken:
            table = one.table
            if table.key.cap:
                one.keep(np.flatnonzero(_pushed_out(one, *_by_entity(one)) == ALWAYS))
            elif table.horizon_ms < FOREVER_MS:
                floor_ms = now_ms - SLACK_MS - table.horizon_ms - table.key.hop_ms
                one.keep(np.flatnonzero(np.asarray(one.times) > floor_ms))
            for entity, series in table.series.items():
                table.trim(entity, series, now_ms)

    def held(self) -> int:
        """How many events are held, over all tables."""
        return sum(len(one.times) for one in self.taken)


def decoded(features: FeatureSet, records: Iterable[Record]) -> Decoded:
    """Records of sources and of the request as columns; each record of the request is asked."""
    found = Decoded(features)
    for record in records:
        found.take(record, ask=record.topic == features.request.topic)
    return found


Spread = Callable[[Callable[[int], None], Sequence[int]], Iterable[None]]
"""As `map`: calls a function with each number."""
PARTS = 16
"""The work is cut into so many parts, so that threads that share them end at about the same time."""
CHUNK = 256
"""So many events of an entity are looked at one by one; of more, those at the ends of windows."""


def replay(decoded: Decoded, *, least: int = WORTH, spread: Spread = map) -> dict[str, Answers]:
    """Every feature's value for every request, at its own (t, O). Fewer than `least` events and requests are folded
    in plain Python. `spread` is `map`, or one that does several parts of the work at the same time, such as that of
    a pool of threads: the kernels hold no lock."""
    plan = decoded.reading
    slots: list[Any] = [None] * plan.size
    columns = dict(zip(plan.column_slots, decoded.columns, strict=True))
    for slot, column in columns.items():
        if plan.later or slot in decoded.features.outputs:
            slots[slot] = answers(column)
    compiled = kernels() if decoded.held() + len(decoded.o) >= least else None
    left: list[Taken] = []
    for taken in decoded.taken:
        groups = [group for group in plan.groups if group.table is taken.table]
        laid = _laid(compiled, taken, groups, decoded, spread) if compiled else None
        if compiled and laid:
            for group, asks in zip(groups, laid.asks, strict=True):
                _fill(slots, _swept(compiled, laid, taken, group, decoded, asks, spread))
        else:
            left.append(taken)
    if left:
        _fill(slots, _folded(left, decoded, columns))
    _work(plan, slots, len(decoded.o))
    names = zip(decoded.features.names, decoded.features.outputs, strict=True)
    return {name: slots[place] for name, place in names}


def _fill(slots: list[Any], found: dict[int, Answers]) -> None:
    for slot, values in found.items():
        slots[slot] = values


def kernels() -> ModuleType | None:
    """The compiled kernels, where numba is installed."""
    try:
        from penstock.feature import kernels
    except ImportError:
        return None
    return kernels


def _work(plan: Reading, slots: list[Any], rows: int) -> None:
    """Functions and operations, row by row, by the steps that serve live."""
    if not plan.later:
        return
    given = [slot for slot, column in enumerate(slots) if column is not None]
    lists = zip(*(slots[slot].tolist() for slot in given), strict=True) if given else repeat((), rows)
    made: list[list[Any]] = [[] for _ in plan.later]
    row: list[Any] = [None] * plan.size
    for values in lists:
        for slot, value in zip(given, values, strict=True):
            row[slot] = value
        for (slot, work), column in zip(plan.later, made, strict=True):
            row[slot] = work(row)
            column.append(row[slot])
    for (slot, _), column in zip(plan.later, made, strict=True):
        slots[slot] = answers(column)


def answers(values: Sequence[Value]) -> Answers:
    """Python's own values as a column: of one type where they are of one."""
    kinds = set(map(type, values))
    if type(None) not in kinds:
        return Answers(_typed(values, kinds))
    valid = np.array([value is not None for value in values], np.bool_)
    kinds.discard(type(None))
    if kinds in ({float}, {int}, {bool}):
        (kind,) = kinds
        return Answers(_typed([kind() if value is None else value for value in values], kinds), valid)
    return Answers(_typed(values, kinds), valid)


def _typed(values: Sequence[Any], kinds: set[type]) -> NDArray[Any]:
    for kind, dtype in ((float, np.float64), (bool, np.bool_), (int, np.int64)):
        if kinds == {kind}:
            try:
                return np.array(values, dtype)
            except OverflowError:  # an integer beyond 64 bits
                break
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _filled(found: Answers, default: Value) -> Answers:
    """With what stands in the place of a null."""
    if default is None or found.valid is None:
        return found
    if np.array(default).dtype == found.values.dtype:
        return Answers(np.where(found.valid, found.values, default))
    return answers([default if value is None else value for value in found.tolist()])


# The order of things.


def _by_entity(taken: Taken) -> tuple[Numbers, Numbers]:
    """Where each entity's events begin among the members, and the members: events by entity and position."""
    whose, compiled = np.asarray(taken.whose), kernels()
    if compiled:
        starts, members = compiled.grouped(whose, len(taken.numbers))
        return starts, members
    members = np.argsort(whose, kind="stable")
    starts = np.zeros(len(taken.numbers) + 1, np.int64)
    np.cumsum(np.bincount(whose, minlength=len(taken.numbers)), out=starts[1:])
    return starts, members


def _pushed_out(taken: Taken, starts: Numbers, members: Numbers) -> Numbers:
    """Until when each event is among its entity's newest, where only so many count."""
    until = np.full(len(members), ALWAYS)
    cap, since, whose = taken.table.key.cap, np.asarray(taken.since), np.asarray(taken.whose)
    if cap:
        later = np.arange(len(members)) + cap
        inside = later < starts[whose[members] + 1]
        until[members[inside]] = since[members[later[inside]]]
    return until


def _until(taken: Taken, starts: Numbers, members: Numbers) -> Numbers:
    """Until when each event counts."""
    until, since = _pushed_out(taken, starts, members), np.asarray(taken.since)
    for position, o in taken.until.items():
        at = int(np.searchsorted(since, position))
        if at < len(since) and since[at] == position:
            until[at] = min(o, int(until[at]))
    return until


# The compiled sweep.


Asks = tuple[Numbers, Numbers, Numbers]
"""What the kernel of that name says of the requests."""
NO_ASKS: Asks = (np.zeros(0, np.int64),) * 3


class Laid(msgspec.Struct, frozen=True):
    """A table's events as the kernels take them, and for each of its groups what the kernel of that name says of the
    requests. `by_key`: whether keys say the values; `codes`: how many different keys there are, if they are such."""

    events: tuple[Numbers, Numbers]
    asks: list[Asks]
    leaving: tuple[Numbers, Numbers, Numbers]
    values: NDArray[Any]
    by_key: bool
    codes: int

    @property
    def floats(self) -> bool:
        """Whether the values that the keys say are floats."""
        return self.by_key and self.values.dtype == np.float64


def _laid(
    compiled: ModuleType, taken: Taken, groups: Sequence[Group], decoded: Decoded, spread: Spread = map
) -> Laid | None:
    """None where the kernels would not be exact: more than 64 bits, or an order that they do not know."""
    kinds = {one.kind for group in groups for one in _aggregates(group, decoded.features)}
    if taken.table.exact or isinstance(taken.units, list):
        return None
    none = np.zeros(0, np.int64)
    units = none if taken.units is None else np.asarray(taken.units)
    held = none if taken.values is None else taken.values
    values = _typed(held, set(map(type, held))) if isinstance(held, list) else np.asarray(held)
    by_key, codes = values.dtype in (np.float64, np.int64) and "distinct" not in kinds, 0
    if by_key:
        keys = values.view(np.int64)
    else:
        ordered = _ordered(values)
        if ordered is None and kinds & {*ORDERED}:
            return None
        keys = none if ordered is None else ordered
        if "distinct" in kinds:
            keys, codes = _coded(values, ordered)
    n, whose, times = len(taken.since), np.asarray(taken.whose), np.asarray(taken.times)
    many = PARTS // 2 if n > PARTS * len(taken.numbers) else 2  # each has a count of every entity
    parts, largest = [(n * i // many, n * (i + 1) // many) for i in range(many)], [0] * many
    counts = np.zeros((many, len(taken.numbers) + 1), np.int32)

    def count(i: int) -> None:
        part = slice(*parts[i])
        largest[i] = compiled.counted(whose[part], units[part], counts[i])

    for _ in spread(count, range(many)):
        pass
    starts = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
    if int(np.diff(starts).max()) * max(largest) >= 2**63:
        return None
    rows, asks = np.empty((n, compiled.EVENT + (not by_key)), np.int64), [NO_ASKS] * len(groups)
    laid = Laid((starts, rows), asks, _leaving(taken, starts), values, by_key, codes)
    moments, since = (np.asarray(decoded.t_ms), np.asarray(decoded.o)), np.asarray(taken.since)

    def lay(i: int) -> None:
        if i >= 0:
            free = starts[:-1] + counts[:i].sum(axis=0)
            compiled.lay(parts[i], free, (whose, times, keys, units), laid.floats, rows)
            return
        asked = np.asarray(decoded.asked[decoded.reading.groups.index(groups[i])])
        asks[i] = compiled.asks(asked, len(taken.numbers), moments, whose, since)

    for _ in spread(lay, range(-len(groups), many)):
        pass
    return laid


def _aggregates(group: Group, features: FeatureSet) -> list[Aggregate]:
    found = [features.nodes[slot].aggregate for slot in group.places]
    return [one for one in found if one is not None]


def _ordered(values: NDArray[Any]) -> Numbers | None:
    """Integers in the order of the values, equal where those are; None for what has no such."""
    if values.dtype == object:
        held = values.tolist()
        if not set(map(type, held)) <= {int, float, bool} or any(abs(value) > 2**53 for value in held):
            return None
        values = values.astype(np.float64)
    if values.dtype == np.float64:
        bits = (values + 0.0).view(np.int64)
        return bits ^ ((bits >> 63) & np.int64(2**63 - 1))
    return values.astype(np.int64)


def _coded(values: NDArray[Any], keys: Numbers | None) -> tuple[Numbers, int]:
    """Numbers from 0 on for the different values, in their order where they have one."""
    if keys is not None:
        different, codes = np.unique(keys, return_inverse=True)
        return codes.astype(np.int64), len(different)
    numbers: dict[Any, int] = {}
    found = [numbers.setdefault(value, len(numbers)) for value in values.tolist()]
    return np.array(found, np.int64), len(numbers)


def _leaving(taken: Taken, starts: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """The events that are taken away, by entity and by when: their places in their entity, and when."""
    whose = np.asarray(taken.whose)
    if not taken.until and not taken.table.key.cap:
        return np.zeros(len(starts), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    members = _by_entity(taken)[1]
    until = _until(taken, starts, members)
    going = np.flatnonzero(until < ALWAYS)
    going = going[np.lexsort((until[going], whose[going]))]
    begins = np.zeros(len(starts), np.int64)
    np.cumsum(np.bincount(whose[going], minlength=len(starts) - 1), out=begins[1:])
    places = np.empty(len(members), np.int64)
    places[members] = np.arange(len(members)) - starts[whose[members]]
    return begins, places[going], until[going]


def _swept(
    compiled: ModuleType, laid: Laid, taken: Taken, group: Group, decoded: Decoded, asks: Asks, spread: Spread
) -> dict[int, Answers]:  # fmt: skip
    """One group's answers. The kernel finds them by field, window and request, those of an entity side by side."""
    whole, rows, spans = _aggregates(group, decoded.features), len(decoded.o), len(group.windows)
    seated = list(zip(group.places, whole, strict=True))
    kinds, t_ms = {one.kind for one in whole}, np.asarray(decoded.t_ms)
    starts, known, place = asks
    many = max(one.k or int(one.kind in NEWEST) for one in whole)
    wide = (
        rows // 512 * 512 + 520
    )  # columns that are a power of two apart fight for the same lines of a cache
    out = np.empty((compiled.FIELDS, spans, wide), np.int64)
    heads = np.empty((many and many + 1, wide), np.int64)
    hops = [taken.table.key.hop_ms if length_ms else 0 for length_ms in group.windows]
    wanted = (
        not kinds.isdisjoint(SUMMED), not kinds.isdisjoint(ORDERED), "first" in kinds, "distinct" in kinds,
        not laid.by_key,
    )  # fmt: skip
    told = [{one.kind for one in whole if one.window_ms == length_ms} for length_ms in group.windows]
    finals = np.array([[kind in some for kind in ENDED] for some in told], np.bool_)
    events, shares = laid.events[0], np.linspace(0, len(taken.since), PARTS + 1)[1:-1]
    cuts = [0, *np.searchsorted(events, shares).tolist(), len(events) - 1]

    def part(i: int) -> None:
        compiled.sweep(
            (cuts[i], cuts[i + 1]), laid.events, laid.leaving, (starts, known), np.array((group.windows, hops)), wanted,
            laid.codes, CHUNK, out, heads,
        )  # fmt: skip
        ends = starts[cuts[i]], starts[cuts[i + 1]]
        compiled.finish(ends, out, out.view(np.float64), heads, finals, taken.table.key.quantum, laid.floats)

    for _ in spread(part, range(PARTS)):
        pass
    fields = dict(zip(ENDED, compiled.ENDS, strict=True)) | {
        "count": compiled.HELD,
        "distinct": compiled.KINDS,
    }
    columns: list[dict[str, Numbers]] = [
        {kind: out[fields[kind], at] for kind in ("count", *some) if kind in fields}
        for at, some in enumerate(told)
    ]
    every = [*heads, *(column for some in columns for column in some.values())]

    def put(i: int) -> None:
        room = np.empty(rows, np.int64)
        for column in every[i::PARTS]:
            compiled.put(column, place, room)

    for _ in spread(put, range(PARTS)):
        pass
    made: dict[int, Answers] = {}
    newest = [head[:rows] for head in heads]
    for at, some in enumerate(columns):
        found: dict[str, NDArray[Any]] = {
            kind: (column.view(np.float64) if kind in SUMMED else column)[:rows]
            for kind, column in some.items()
        }
        look = Look(laid, found, found["count"] > 0, newest, t_ms)
        for slot, one in seated:
            if one.window_ms == group.windows[at]:
                made[slot] = _filled(_FINALS[one.kind](look, one), one.default)
    return made


class Look(msgspec.Struct, frozen=True):
    """What the last step of the aggregates over one window sees, by request. `found`: columns by kind; `valid`: whether
    any event lies in it; `newest`: the newest event's time, and what tells of the newest values."""

    laid: Laid
    found: dict[str, NDArray[Any]]
    valid: NDArray[np.bool_]
    newest: list[Numbers]
    t_ms: Numbers

    def values(self, said: Numbers) -> NDArray[Any]:
        """The values that keys or events say."""
        if self.laid.by_key:
            return said.view(self.laid.values.dtype)
        values = self.laid.values
        return values[said] if len(values) else np.zeros(len(said), values.dtype)


def _extreme(look: Look, one: Aggregate) -> Answers:
    """The least or the greatest; of numbers of several types as a float, and 0.0 for -0.0."""
    found = look.values(look.found[one.kind])
    if mixed(one):
        found = found.astype(np.float64)
    return Answers(found + 0.0 if found.dtype == np.float64 and not look.laid.by_key else found, look.valid)


def _rate(look: Look, one: Aggregate) -> Answers:
    """n * per / window, the integers exact."""
    if int(look.found["count"].max(initial=0)) * one.per_ms > 2**53:
        return answers([n * one.per_ms / one.window_ms for n in look.found["count"].tolist()])
    return Answers(look.found["count"] * one.per_ms / one.window_ms)


def _since(look: Look, one: Aggregate) -> Answers:
    past_ms = np.where(look.valid, look.t_ms - look.newest[0], 0)
    if int(past_ms.max(initial=0)) > 2**53:
        return Answers(np.array([n / 1000 for n in past_ms.tolist()]), look.valid)
    return Answers(past_ms / 1000, look.valid)


_FINALS: dict[str, Callable[[Look, Aggregate], Answers]] = {
    "count": lambda look, one: Answers(look.found["count"]),
    "rate": _rate,
    "sum": lambda look, one: Answers(look.found["sum"]),
    "mean": lambda look, one: Answers(look.found["mean"], look.valid),
    "std": lambda look, one: Answers(look.found["std"], look.found["count"] > 1),
    "min": _extreme,
    "max": _extreme,
    "first": lambda look, one: Answers(look.values(look.found["first"]), look.valid),
    "last": lambda look, one: Answers(look.values(look.newest[1]), look.valid),
    "last_k": lambda look, one: Answers(look.values(look.newest[one.k]), look.found["count"] >= one.k),
    "since": _since,
    "distinct": lambda look, one: Answers(look.found["distinct"]),
}
"""What of it is the answer, by the operations of `looks`, in their order."""


# In plain Python.


def _folded(left: Sequence[Taken], decoded: Decoded, columns: dict[int, list[Any]]) -> dict[int, Answers]:
    """The same by the series and looks that serve live. What they hold stays for the requests to come."""
    tables = {id(taken.table) for taken in left}
    groups = [group for group in decoded.reading.groups if id(group.table) in tables]
    places = [slot for group in groups for slot in group.places]
    entities = [(slot, columns[slot]) for slot in {group.asked for group in groups}]
    looks, moves, next_ = [group.look for group in groups], _moves(left), 0
    slots: list[Any] = [None] * decoded.reading.size
    rows: list[list[Value]] = []
    for i, (t_ms, o) in enumerate(zip(decoded.t_ms, decoded.o, strict=True)):
        while next_ < len(moves) and moves[next_][0] < o:
            _move(*moves[next_])
            next_ += 1
        for slot, column in entities:
            slots[slot] = column[i]
        for look in looks:
            look(slots, t_ms)
        rows.append([slots[slot] for slot in places])
    found = zip(*rows, strict=True) if rows else repeat(())
    return {slot: answers(values) for slot, values in zip(places, found, strict=False)}


Move = tuple[int, Taken, int, bool]


def _moves(left: Sequence[Taken]) -> list[Move]:
    """What is still to happen to tables, by position: which event comes, or goes."""
    moves: list[Move] = []
    for taken in left:
        at = bisect_left(taken.since, taken.folded)
        moves += [(taken.since[i], taken, i, True) for i in range(at, len(taken.since))]
        if taken.until:
            places = {position: i for i, position in enumerate(taken.since)}
            gone = ((o, places[p]) for p, o in taken.until.items() if o >= taken.folded and p in places)
            moves += [(o, taken, i, False) for o, i in gone]
    return sorted(moves, key=itemgetter(0))


def _move(position: int, taken: Taken, i: int, comes: bool) -> None:
    value = None if taken.values is None else taken.values[i]
    take = Take(taken.entities[taken.whose[i]], value, taken.units[i] if taken.units is not None else 0)
    if comes:
        taken.table.add(take, taken.times[i], position, None)
    else:
        taken.table.remove(take, taken.times[i], taken.since[i])
    taken.folded = position + 1
