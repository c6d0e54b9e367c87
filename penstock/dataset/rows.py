"""dataset: rows as they were at (t, O): the training set is what serving would have seen, replayed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import msgspec

from penstock.dataset.kept import NEVER, horizon_ms
from penstock.feature import FeatureSet, Fold
from penstock.feature.definition.plan import Key
from penstock.feature.replay import Answers, Decoded, Spread, answers, replay
from penstock.feature.state.table import SLACK_MS
from penstock.log import Blob, Log
from penstock.record.codec import pack, unpack
from penstock.record.decisions import AGAIN, TICKS, Dataset, Outcome, Tick, Value, outcomes, read
from penstock.record.errors import Poison, Refused
from penstock.record.event import Event
from penstock.record.record import Position, Record
from penstock.stage import folded

Progress = Callable[[int, int], None]


BATCH_ROWS = 65_536
BATCH_EVENTS = 1 << 20
"""A batch is answered when it has so many requests, or when so many events have come since the last one."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One request as it was seen, with its label as known at O; `facts` are the columns it is sliced by."""

    request: str
    entity: str
    t_ms: int
    position: int
    values: list[Value]
    label: float
    facts: list[str]


class Batch(msgspec.Struct, frozen=True):
    """Some rows as columns, in log order. `o`: what each request saw lies below it; `states`: how its label became
    known; `facts`: the columns they are sliced by, by name."""

    requests: list[str]
    entities: list[str]
    t_ms: list[int]
    positions: list[int]
    o: list[int]
    columns: dict[str, Answers]
    labels: list[float]
    states: list[str]
    facts: dict[str, list[str]]

    def rows(self) -> Iterator[Row]:
        """One by one, as a model is fitted on them."""
        values = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        facts = zip(*self.facts.values(), strict=True) if self.facts else repeat(())
        heads = zip(self.requests, self.entities, self.t_ms, self.positions, strict=True)
        for head, row, label, told in zip(heads, values, self.labels, facts, strict=False):
            yield Row(*head, list(row), label, list(told))


def rows(
    log: Log,
    features: FeatureSet,
    model: str,
    *,
    o: Position,
    from_ms: int,
    facts: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    spread: Spread = map,
) -> list[Row]:
    """All rows of `batches`."""
    found = batches(log, features, model, o=o, from_ms=from_ms, facts=facts, progress=progress, spread=spread)
    return [row for batch in found for row in batch.rows()]


def batches(
    log: Log,
    features: FeatureSet,
    model: str,
    *,
    o: Position,
    from_ms: int,
    facts: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    spread: Spread = map,
) -> Iterator[Batch]:
    """The labelled requests from `from_ms` on, in log order: features at each one's own (t, O).

    Labels are those known below `o`; requests still waiting for theirs are left out. Requests that look back to what
    retention took are left out: no row is other than it was. The log is read twice: for labels, then for rows. What is
    held is the labels, the events that the features' windows still reach (some 100 bytes each for every key), and
    one batch. `spread`: see `replay`.
    """
    from_ms = max(from_ms, horizon_ms(log, features))
    name, asked = f"predict.{model}", features.request.topic
    known = _known(log, name, features, model, o, from_ms, progress)
    old = {record.o: values for record, values in past(log, name, features, known.late)} if known.late else {}
    topics = tuple(sorted({*features.topics, asked, TICKS, AGAIN}))
    found, due = Decoded(features), _Due(features, facts, spread)
    now_ms, held = NEVER, 0
    for records, position in folded(log, name, topics, stop=o, limit=4096):
        for record in records:
            if record.topic == TICKS:
                now_ms = max(now_ms, read(record, Tick).t_ms)
                continue
            label = (
                known.labels.get(record.id) if record.topic == asked and record.time_ms >= from_ms else None
            )
            try:
                event = found.fold.event(record)
                found.take(record, event, ask=label is not None and record.o not in old)
            except Poison:  # the answering stage buries it, too
                continue
            if label is not None:
                due.add(record, event, label, old.get(record.o))
        progress(o.n + position.n, 2 * o.n)
        if len(due.records) >= BATCH_ROWS or found.held() > held + BATCH_EVENTS:
            yield from due.batch(found)
            found.clear()
            found.forget(now_ms)
            held = found.held()
    yield from due.batch(found)


class _Known(msgspec.Struct, frozen=True):
    """What is to be known before the sweep: labels by request, with how they became known, and the requests whose
    time lies too far back for the live state."""

    labels: dict[str, tuple[float, str]]
    late: list[Record]


def _known(
    log: Log, name: str, features: FeatureSet, model: str, o: Position, from_ms: int, progress: Progress
) -> _Known:
    labels: dict[str, tuple[float, str]] = {}
    late: list[Record] = []
    now_ms = NEVER
    topics = tuple(sorted({features.request.topic, outcomes(model), TICKS, AGAIN}))
    for records, position in folded(log, name, topics, stop=o, limit=4096):
        progress(position.n, 2 * o.n)
        for record in records:
            if record.topic == TICKS:
                now_ms = max(now_ms, read(record, Tick).t_ms)
            elif record.topic == outcomes(model):
                said = read(record, Outcome)
                labels.pop(said.request, None)
                if said.label is not None:
                    labels[said.request] = (said.label, said.state)
            elif features.sources and from_ms <= record.time_ms < now_ms - SLACK_MS:
                late.append(record)
    return _Known(labels, [record for record in late if record.id in labels])


class _Due:
    """The requests of the batch to come."""

    def __init__(self, features: FeatureSet, facts: Sequence[str], spread: Spread) -> None:
        self.facts, self.spread = facts, spread
        self.plain = [name for name in facts if name not in features.names]
        self.clear()

    def clear(self) -> None:
        """Begin the next batch."""
        self.records: list[Record] = []
        self.labels: list[tuple[float, str]] = []
        self.told: list[dict[str, Value]] = []
        self.old: dict[int, list[Value]] = {}

    def add(self, record: Record, event: Event, label: tuple[float, str], old: list[Value] | None) -> None:
        """A labelled request; `old`: its values, where they are not for the sweep to find."""
        if old is not None:
            self.old[len(self.records)] = old
        self.records.append(record)
        self.labels.append(label)
        self.told.append({name: getattr(event, name) for name in self.plain})

    def batch(self, found: Decoded) -> Iterator[Batch]:
        """The batch, where there are any."""
        if not self.records:
            return
        columns = replay(found, spread=self.spread)
        if self.old:
            columns = {
                name: self._woven(i, column.tolist()) for i, (name, column) in enumerate(columns.items())
            }
        yield Batch(
            [record.id for record in self.records], [record.key for record in self.records],
            [record.time_ms for record in self.records], [record.position for record in self.records],
            [record.o for record in self.records], columns,
            [label for label, _ in self.labels], [state for _, state in self.labels],
            {name: self._fact(name, columns) for name in self.facts},
        )  # fmt: skip
        self.clear()

    def _woven(self, i: int, values: list[Value]) -> Answers:
        """A column with the old requests' values in their places."""
        swept = iter(values)
        return answers([self.old[n][i] if n in self.old else next(swept) for n in range(len(self.records))])

    def _fact(self, name: str, columns: dict[str, Answers]) -> list[str]:
        found = [told[name] for told in self.told] if name in self.plain else columns[name].tolist()
        return ["missing" if value is None else str(value) for value in found]


def past(
    log: Log, name: str, features: FeatureSet, requests: Sequence[Record]
) -> list[tuple[Record, list[Value]]]:
    """The values of requests whose time lies too far back for the live state of stage `name`: read from the
    log itself, of which only what they ask about is kept. Raises Refused where retention has taken what they would
    need."""
    if min(request.time_ms for request in requests) < horizon_ms(log, features):
        raise Refused("Retention has taken events that this request looks back to.", code="log_passed")
    fold = Fold(features, prune=False)
    wanted = {request.o for request in requests}
    asked = _asked(fold, requests)
    topics = tuple(sorted({*features.topics, features.request.topic, AGAIN}))
    made: list[tuple[Record, list[Value]]] = []
    for records, _ in folded(log, name, topics, stop=Position(n=max(wanted) + 1), limit=4096):
        for record in records:
            try:
                event = fold.event(record)
                if record.o in wanted:
                    made.append((record, fold.read(record, event)))
                due = fold.fit(record, event) if features.reads(record.topic) else None
            except Poison:
                continue
            if due is not None:
                mine = [(t, take) for t, take in due if take is not None and take.entity in asked[t.key]]
                fold.fold(record, mine)
    return made


def _asked(fold: Fold, requests: Sequence[Record]) -> dict[Key, set[Value]]:
    """The entities that requests ask about, by key: no other events are seen by them."""
    nodes, found = fold.features.nodes, {key: set[Value]() for key in fold.features.series}
    for request in requests:
        with contextlib.suppress(Poison):
            event = fold.event(request)
            for node in nodes:
                if node.aggregate is not None:
                    found[fold.features.series[node.series]].add(getattr(event, nodes[node.inputs[0]].column))
    return found


def described(chosen: Sequence[Row], source: str, o: Position, blobs: Blob) -> Dataset:
    """What a dataset record says of rows: their range, counts and digest. The rows themselves are sealed under
    it: the events that they were made of may go."""
    content = blobs.put(pack([(row.request, row.values, row.label) for row in chosen]))
    first = min((row.t_ms for row in chosen), default=0)
    last = max((row.t_ms for row in chosen), default=0)
    positives = sum(row.label == 1.0 for row in chosen)
    return Dataset(source, first, last, o, len(chosen), positives, content)


def sealed(blobs: Blob, digest: str) -> list[Row]:
    """The rows that `described` sealed: values and labels, which is what a model is fitted on."""
    found = unpack(blobs.get(digest), list[tuple[str, list[Value], float]])
    return [Row(request, "", 0, 0, values, label, []) for request, values, label in found]


def split(chosen: Sequence[Row], share: float, not_before_ms: int) -> tuple[list[Row], list[Row]]:
    """Training rows and the held-out newest stretch of request time.

    The holdout is the newest `share` of the rows, and never older than `not_before_ms`, the end of
    what the champion was trained on: neither version has seen it.
    """
    ordered = sorted(chosen, key=lambda row: (row.t_ms, row.position))
    if not ordered:
        return [], []
    cut_ms = max(ordered[min(len(ordered) - 1, int(len(ordered) * (1 - share)))].t_ms, not_before_ms)
    return [row for row in ordered if row.t_ms < cut_ms], [row for row in ordered if row.t_ms >= cut_ms]
