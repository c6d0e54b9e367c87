"""dataset: rows as they were at (t, O): the training set is what serving would have seen, replayed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec

from penstock.dataset.kept import horizon_ms
from penstock.feature import FeatureSet, Fold, Past
from penstock.log import Blob, Log
from penstock.record.codec import pack, unpack
from penstock.record.decisions import AGAIN, TICKS, Dataset, Outcome, Tick, Value, outcomes, read
from penstock.record.errors import Poison, Refused
from penstock.record.event import Event
from penstock.record.record import Position, Record
from penstock.stage import folded

Progress = Callable[[int, int], None]


class Row(msgspec.Struct, frozen=True, gc=False):
    """One request as it was seen, with its label as known at O; `facts` are the columns it is sliced by."""

    request: str
    entity: str
    t_ms: int
    position: int
    values: list[Value]
    label: float
    facts: list[str]


def rows(
    log: Log,
    features: FeatureSet,
    model: str,
    *,
    o: Position,
    from_ms: int,
    facts: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """The labelled requests from `from_ms` on, in log order: features at each one's own (t, O).

    Labels are those known below `o`; requests still waiting for theirs are left out. One sweep over
    the log; memory is that of the rows and of the fold's windows. Requests that look back to what
    retention took are left out: no row is other than it was.
    """
    from_ms = max(from_ms, horizon_ms(log, features))
    fold, name = Fold(features), f"predict.{model}"
    asked = features.request.topic
    found: list[tuple[Record, list[Value]]] = []
    labels: dict[str, float | None] = {}
    late: list[Record] = []
    sources = set(features.topics)
    topics = tuple(sorted(sources | {asked, outcomes(model), TICKS, AGAIN}))
    for records, position in folded(log, name, topics, stop=o, limit=4096):
        for record in records:
            if record.topic == TICKS:
                fold.tick(read(record, Tick).t_ms)
                continue
            if record.topic == outcomes(model):
                outcome = read(record, Outcome)
                labels[outcome.request] = outcome.label
                continue
            try:
                event = fold.event(record)
            except Poison:  # the answering stage buries it, too
                continue
            if record.topic == asked and record.time_ms >= from_ms:
                try:
                    found.append((record, fold.read(record, event)))
                except Past:
                    late.append(record)
            if record.topic in sources:
                fold.add(record, event)
        progress(position.n, o.n)
    if late:
        found.extend(past(log, name, features, late))
        found.sort(key=lambda pair: pair[0].o)
    made = []
    for record, values in found:
        label = labels.get(record.id)
        if label is not None:
            event = unpack(record.value, features.request.schema)
            told = [_fact(event, features.names, values, name) for name in facts]
            made.append(Row(record.id, record.key, record.time_ms, record.position, values, label, told))
    return made


def past(
    log: Log, name: str, features: FeatureSet, requests: Sequence[Record]
) -> list[tuple[Record, list[Value]]]:
    """The values of requests whose time lies too far back for the live state of stage `name`: read from the
    log itself. Raises Refused where retention has taken what they would need."""
    if min(request.time_ms for request in requests) < horizon_ms(log, features):
        raise Refused("Retention has taken events that this request looks back to.", code="log_passed")
    fold = Fold(features, prune=False)
    wanted = {request.o for request in requests}
    topics = tuple(sorted({*features.topics, features.request.topic, AGAIN}))
    made: list[tuple[Record, list[Value]]] = []
    for records, _ in folded(log, name, topics, stop=Position(n=max(wanted) + 1), limit=4096):
        for record in records:
            with contextlib.suppress(Poison):
                event = fold.event(record)
                if record.o in wanted:
                    made.append((record, fold.read(record, event)))
                if features.reads(record.topic):
                    fold.add(record, event)
    return made


def _fact(event: Event, names: Sequence[str], values: Sequence[Value], name: str) -> str:
    value = values[names.index(name)] if name in names else getattr(event, name)
    return "missing" if value is None else str(value)


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
