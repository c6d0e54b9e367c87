"""feature: the replay: events and requests as columns, every request answered at its own (t, O) in one sweep.

The values are the fold's, bit for bit. What the kernels cannot hold in 64 bits, or do not know, is folded by
the same series and looks that serve live: exact sums, very large ones, and all of it where numba is not there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
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
ORDERED = ("min", "max")
SUMMED = ("sum", "mean", "std")
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
        self.whose, self.times, self.since = array("q"), array("q"), array("q")
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
    """Events and requests taken from records, in log order, as columns: what a replay works on."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.fold = Fold(features, prune=False)
        self.reading = self.fold.whole
        self.taken = [Taken(table) for table in self.fold.tables]
        self._of = {id(one.table): one for one in self.taken}
        self.clear()

    def of(self, table: Table) -> Taken:
        """What a table of the fold takes."""
        return self._of[id(table)]

    def clear(self) -> None:
        """Forget the requests."""
        self.columns: list[list[Any]] = [[] for _ in self.reading.columns]
        self.t_ms, self.o = array("q"), array("q")

    def take(self, record: Record, event: Event | None = None, *, ask: bool = False) -> None:
        """A record of a source, a retraction, or (`ask`) a request, which does not see itself. Raises Poison as the
        fold does, and has taken nothing then."""
        event = event or self.fold.event(record)
        due = self.fold.fit(record, event) if self.features.reads(record.topic) else []
        if ask:
            for column, name in zip(self.columns, self.reading.columns, strict=True):
                column.append(getattr(event, name))
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
PARTS = 8


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
    for taken in decoded.taken:
        groups = [group for group in plan.groups if group.table is taken.table]
        laid = _laid(compiled, taken, groups, decoded.features, spread) if compiled else None
        if compiled and laid:
            for group in groups:
                _fill(slots, _swept(compiled, laid, taken, group, decoded, columns[group.asked], spread))
        else:
            _fill(slots, _folded(taken, groups, decoded, columns))
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


class Laid(msgspec.Struct, frozen=True):
    """A table's events as the kernels take them; `codes`: how many different keys there are, if they are such."""

    events: tuple[Numbers, Numbers]
    leaving: tuple[Numbers, Numbers, Numbers]
    values: NDArray[Any]
    times: Numbers
    codes: int

    @property
    def by_key(self) -> bool:
        """Whether the keys say the values."""
        return not self.codes and self.values.dtype in (np.float64, np.int64)


def _laid(
    compiled: ModuleType, taken: Taken, groups: Sequence[Group], features: FeatureSet, spread: Spread = map
) -> Laid | None:
    """None where the kernels would not be exact: more than 64 bits, or an order that they do not know."""
    kinds = {one.kind for group in groups for one in _aggregates(group, features)}
    n, values, ordered = len(taken.since), np.zeros(0), None
    units, keys = np.zeros(n, np.int64), np.zeros(n, np.int64)
    if taken.table.exact or isinstance(taken.units, list):
        return None
    if taken.units is not None:
        units = np.asarray(taken.units)
    if taken.values is not None:
        held = taken.values
        values = _typed(held, set(map(type, held))) if isinstance(held, list) else np.asarray(held)
        ordered = _ordered(values)
        if ordered is None and kinds & {*ORDERED}:
            return None
        keys = keys if ordered is None else ordered
    codes = 0
    if "distinct" in kinds:
        keys, codes = _coded(values, ordered)
    whose, times = np.asarray(taken.whose), np.asarray(taken.times)
    half, entities = n // 2, len(taken.numbers)
    first, second = (np.bincount(part, minlength=entities) for part in (whose[:half], whose[half:]))
    starts = np.zeros(entities + 1, np.int64)
    np.cumsum(first + second, out=starts[1:])
    most, largest = (
        int(np.diff(starts).max(initial=0)),
        max(int(units.max(initial=0)), -int(units.min(initial=0))),
    )
    if most * largest >= 2**63:
        return None
    rows, free = np.empty((n, compiled.ROW), np.int64), (starts[:-1].copy(), starts[:-1] + first)

    def lay(i: int) -> None:
        compiled.lay((half * i, n if i else half), free[i], (whose, times, keys, units), rows)

    for _ in spread(lay, range(2)):
        pass
    return Laid((starts, rows), _leaving(taken, starts), values, times, codes)


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


def _unordered(keys: Numbers) -> NDArray[np.float64]:
    """The floats that such integers are of, in their place."""
    keys ^= (keys >> 63) & np.int64(2**63 - 1)
    return keys.view(np.float64)


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


class Swept(msgspec.Struct, frozen=True):
    """What the kernel found: `out` by field, span and request, those of an entity side by side, and at the end what
    holds where there is no entity; `newest`: events by their numbers; `place`: where each request is."""

    out: NDArray[np.int64]
    newest: Numbers
    place: Numbers


def _swept(
    compiled: ModuleType,
    laid: Laid,
    taken: Taken,
    group: Group,
    decoded: Decoded,
    entities: Sequence[Any],
    spread: Spread,
) -> dict[int, Answers]:
    places, whole = group.places, _aggregates(group, decoded.features)
    kinds, rows, spans = {one.kind for one in whole}, len(entities), len(group.windows)
    asked = np.fromiter(map(taken.numbers.get, entities, repeat(-1)), np.int64, rows)
    t_ms, o, since = np.asarray(decoded.t_ms), np.asarray(decoded.o), np.asarray(taken.since)
    starts, asks, place = compiled.asks(asked, len(taken.numbers), t_ms, o, since)
    known = asks.shape[1]
    newest = max(one.k or int(one.kind in NEWEST) for one in whole)
    found = Swept(
        np.empty((compiled.FIELDS, spans, known + 1), np.int64),
        np.empty((newest, known + 1), np.int64), place,
    )  # fmt: skip
    compiled.nothing(found.out, found.newest, known, known + 1)
    hops = [taken.table.key.hop_ms if length_ms else 0 for length_ms in group.windows]
    wanted = (
        any(one in kinds for one in SUMMED), any(one in kinds for one in ORDERED), "first" in kinds, bool(laid.codes),
        compiled.KEY if laid.by_key else compiled.EVENT,
    )  # fmt: skip
    cuts = np.searchsorted(laid.events[0], np.linspace(0, len(laid.times), PARTS + 1)[1:-1]).tolist()
    ends = [0, *cuts, len(taken.numbers)]

    def part(i: int) -> None:
        compiled.sweep(
            (ends[i], ends[i + 1]), laid.events, laid.leaving, (starts, asks), np.array((group.windows, hops)), wanted,
            laid.codes, found.out, found.newest,
        )  # fmt: skip

    for _ in spread(part, range(PARTS)):
        pass
    held = found.out[compiled.HELD].take(place, axis=1)
    valid, room = held > 0, np.empty((len(places), rows), np.int64)
    picked = [_picked(laid, events.take(place)) for events in found.newest]
    made: dict[int, Answers] = {}

    def last(i: int) -> None:
        for slot, one, values in list(zip(places, whole, room, strict=True))[i::PARTS]:
            at = group.windows.index(one.window_ms)
            look = Look(compiled, one, found, at, held[at], valid[at], values, picked, laid, t_ms)
            made[slot] = _filled(_FINALS[one.kind](look), one.default)

    for _ in spread(last, range(PARTS)):
        pass
    return made


class Look(msgspec.Struct, frozen=True):
    """One aggregate's last step: over which span of what was found; `held`: how many events lie in each request's,
    and `valid`: whether any; `room`: for the values; `picked`: the newest values."""

    compiled: ModuleType
    one: Aggregate
    found: Swept
    at: int
    held: Numbers
    valid: NDArray[np.bool_]
    room: Numbers
    picked: list[NDArray[Any]]
    laid: Laid
    t_ms: Numbers

    def of(self, field: int) -> Numbers:
        """By request what was found of the span, in the room."""
        found: Numbers = self.found.out[field, self.at].take(self.found.place, out=self.room, mode="clip")
        return found


def _picked(laid: Laid, events: Numbers) -> NDArray[Any]:
    """The values of some events, which are no negative numbers."""
    if not len(laid.values):
        return np.zeros(len(events), laid.values.dtype)
    return laid.values[np.maximum(events, 0)]


def _moment(look: Look, work: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
    """As a kernel works it out."""
    values: NDArray[np.float64] = work(look.found.out, look.at, look.one.quantum)
    return values.take(look.found.place, out=look.room.view(np.float64), mode="clip")


def _sum(look: Look) -> Answers:
    return Answers(
        np.multiply(look.of(look.compiled.TOTAL), look.one.quantum, out=look.room.view(np.float64))
    )


def _extreme(look: Look, field: int) -> Answers:
    """The least or the greatest, 0.0 for -0.0; of numbers of several types as a float."""
    found: NDArray[Any] = look.of(field)
    found *= look.valid
    if not look.laid.by_key:
        found = _picked(look.laid, found)
    elif look.laid.values.dtype == np.float64:
        found = _unordered(found)
    if mixed(look.one):
        found = found.astype(np.float64)
    return Answers(found + 0.0 if found.dtype == np.float64 and not look.laid.by_key else found, look.valid)


def _rate(look: Look) -> Answers:
    """n * per / window, the integers exact."""
    counts = look.held * look.one.per_ms
    if int(look.held.max(initial=0)) * look.one.per_ms > 2**53:
        return answers([n * look.one.per_ms / look.one.window_ms for n in look.held.tolist()])
    return Answers(counts / look.one.window_ms)


def _since(look: Look) -> Answers:
    newest, times = look.found.newest[0].take(look.found.place), look.laid.times
    past_ms = np.where(look.valid, look.t_ms - times[newest], 0) if len(times) else np.zeros_like(newest)
    if int(past_ms.max(initial=0)) > 2**53:
        return Answers(np.array([n / 1000 for n in past_ms.tolist()]), look.valid)
    return Answers(past_ms / 1000, look.valid)


_FINALS: dict[str, Callable[[Look], Answers]] = {
    "count": lambda look: Answers(look.held),
    "rate": _rate,
    "sum": _sum,
    "mean": lambda look: Answers(_moment(look, look.compiled.mean), look.valid),
    "std": lambda look: Answers(_moment(look, look.compiled.std), look.held > 1),
    "min": lambda look: _extreme(look, look.compiled.LEAST),
    "max": lambda look: _extreme(look, look.compiled.MOST),
    "first": lambda look: Answers(_picked(look.laid, look.of(look.compiled.FIRST) * look.valid), look.valid),
    "last": lambda look: Answers(look.picked[0], look.valid),
    "last_k": lambda look: Answers(look.picked[look.one.k - 1], look.held >= look.one.k),
    "since": _since,
    "distinct": lambda look: Answers(look.of(look.compiled.KINDS)),
}
"""From integers to the answer, by the operations of `looks`, in their order."""


# In plain Python.


def _folded(
    taken: Taken, groups: Sequence[Group], decoded: Decoded, columns: dict[int, list[Any]]
) -> dict[int, Answers]:
    """The same by the series and looks that serve live. What they hold stays for the requests to come."""
    found: dict[int, list[Value]] = {slot: [] for group in groups for slot in group.places}
    asked, looks = {group.asked for group in groups}, [group.look for group in groups]
    entities = [(slot, columns[slot]) for slot in asked]
    moves, next_ = _moves(taken), 0
    slots: list[Any] = [None] * decoded.reading.size
    for i, (t_ms, o) in enumerate(zip(decoded.t_ms, decoded.o, strict=True)):
        while next_ < len(moves) and moves[next_][0] < o:
            _move(taken, *moves[next_])
            taken.folded = moves[next_][0] + 1
            next_ += 1
        for slot, column in entities:
            slots[slot] = column[i]
        for look in looks:
            look(slots, t_ms)
        for slot, values in found.items():
            values.append(slots[slot])
    return {slot: answers(values) for slot, values in found.items()}


def _moves(taken: Taken) -> list[tuple[int, int, bool]]:
    """What is still to happen to the table, by position: which event comes, or goes."""
    comes = [(position, i, True) for i, position in enumerate(taken.since)]
    places = {position: i for position, i, _ in comes}
    goes = [(o, places[position], False) for position, o in taken.until.items() if position in places]
    return sorted(move for move in (*comes, *goes) if move[0] >= taken.folded)


def _move(taken: Taken, position: int, i: int, comes: bool) -> None:
    value = None if taken.values is None else taken.values[i]
    take = Take(taken.entities[taken.whose[i]], value, taken.units[i] if taken.units is not None else 0)
    if comes:
        taken.table.add(take, taken.times[i], position, None)
    else:
        taken.table.remove(take, taken.times[i], taken.since[i])
