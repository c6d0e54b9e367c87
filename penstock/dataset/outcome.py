"""dataset: truth joins what was said. Requests, predictions and labels in, one outcome a request out.

A request waits for its label for `wait_ms` of event time. A label that comes later still amends the
outcome for as long again; a label for nobody is parked, then refused by record.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    AGAIN,
    REFUSED,
    TICKS,
    Outcome,
    Prediction,
    Refusal,
    Said,
    Tick,
    Vector,
    draft,
    outcomes,
    predictions,
    read,
    vectors,
)
from penstock.record.event import Event, Source
from penstock.record.poison import opened
from penstock.record.record import Draft, Record
from penstock.stage import Emitted, Stage, each


class Label(msgspec.Struct, frozen=True):
    """Where truth comes from: a source keyed by the request's id, and what an event of it says.

    `silence` is the label of a request whose label never comes: 0.0 where the event itself is the
    truth (a chargeback), None where silence says nothing (a flight that never lands).
    """

    source: Source
    value: Callable[[Event], float | None]
    wait_ms: int
    silence: float | None = None


class Waiting(msgspec.Struct, gc=False):
    """A request between its prediction and the end of its patience. There are many, so none holds anything that
    Python's collector would look at each time: a list of what was said would, a tuple does not."""

    entity: str
    position: int
    t_ms: int
    tick: int
    said: tuple[Said, ...] = ()
    label: float | None = None
    known_ms: int = 0
    state: Literal["pending", "known", "observed", "expired"] = "pending"


class Joining(msgspec.Struct):
    """The stage's state. `due` is a heap of (deadline, id): expiry first, forgetting a wait later."""

    ticks: int = 0
    waiting: dict[str, Waiting] = {}
    known: list[str] = []
    parked: dict[str, tuple[int, float | None]] = {}
    due: list[tuple[int, str]] = []
    observed: int = 0
    expired: int = 0
    amended: int = 0
    unknown: int = 0
    repeated: int = 0


def outcome_stage(model: str, request: Source, label: Label) -> Stage[Joining]:
    """The stage `outcome.MODEL`: joins labels to requests by id.

    An outcome is written at the first tick after its label, and never before a whole tick has passed
    since the request, so that the predictions of the request are on the log by then.
    """
    spoken, direct, name = predictions(model), vectors(model), f"outcome.{model}"

    def fold(state: Joining, record: Record) -> list[Draft]:
        if record.topic == request.topic:
            request.event(record)
            return _ask(state, record, label)
        if record.topic == direct:
            again = opened(record, Vector).request
            return [] if again else _ask(state, record, label)
        if record.topic == spoken:
            return _speak(model, state, read(record, Prediction))
        if record.topic == label.source.topic:
            return _know(state, record, label)
        return _tick(model, state, read(record, Tick).t_ms, label)

    def step_many(state: Joining, records: Sequence[Record]) -> tuple[Joining, list[Emitted]]:
        return state, each(name, lambda record: fold(state, record), records)

    return Stage(
        name,
        (request.topic, direct, spoken, label.source.topic, TICKS, AGAIN),
        Joining,
        step_many,
        _dump,
        lambda data: unpack(data, Joining),
        snapshot_every=4000,
    )


def _dump(state: Joining) -> bytes:
    """The state's bytes. There may be a million who wait, and what came later is mostly in order: for such, the order
    that `pack` makes by itself takes a time that grows with the square; for what is in order already it does not."""
    waiting, parked = (dict(sorted(some.items())) for some in (state.waiting, state.parked))
    return pack(msgspec.structs.replace(state, waiting=waiting, parked=parked))


def _ask(state: Joining, record: Record, label: Label) -> list[Draft]:
    if record.id in state.waiting:
        return []
    row = Waiting(record.key, record.position, record.time_ms, state.ticks)
    state.waiting[record.id] = row
    heapq.heappush(state.due, (record.time_ms + label.wait_ms, record.id))
    if record.id in state.parked:
        row.known_ms, row.label = state.parked.pop(record.id)
        row.state = "known"
        state.known.append(record.id)
    return []


def _speak(model: str, state: Joining, said: Prediction) -> list[Draft]:
    row = state.waiting.get(said.request)
    if row is None:
        return []
    mine = said.version, said.role
    others = (one for one in row.said if (one.version, one.role) != mine)  # it may have been scored again
    row.said = (*others, Said(said.version, said.role, said.served, said.score, said.positive, said.error))
    if row.state in ("observed", "expired"):  # answered late, after its outcome: say it again, whole
        return [_outcome(model, said.request, row, amends=True)]
    return []


def _know(state: Joining, record: Record, label: Label) -> list[Draft]:
    value = _value(record, label)
    row = state.waiting.get(record.key)
    if row is None:
        state.repeated += record.key in state.parked  # the newer one stands
        state.parked[record.key] = (record.time_ms, value)
        heapq.heappush(state.due, (record.time_ms + label.wait_ms, record.key))
    elif row.state == "pending" or row.label != value:
        row.label, row.known_ms = value, record.time_ms
        state.known.append(record.key)
        if row.state == "pending":
            row.state = "known"
    else:
        state.repeated += 1
    return []


def _value(record: Record, label: Label) -> float | None:
    """What a label says; raises Poison where it is none, or the user's function raises on it."""
    event = label.source.event(record)
    try:
        return label.value(event)
    except Exception as error:  # the user's function raises what it likes: it costs this label only
        note = f"The label's function raised {type(error).__name__}."
        raise label.source.poison(record, "label_failed", note) from None


def _tick(model: str, state: Joining, now_ms: int, label: Label) -> list[Draft]:
    state.ticks += 1
    made, later = [], []
    for request in state.known:
        row = state.waiting.get(request)
        if row is None:
            continue
        if row.tick + 2 > state.ticks:
            later.append(request)
            continue
        amends = row.state != "known"
        row.state = "observed"
        state.observed += not amends
        state.amended += amends
        made.append(_outcome(model, request, row, amends=amends))
    state.known = later
    while state.due and state.due[0][0] <= now_ms:
        made.extend(_expire(model, state, heapq.heappop(state.due)[1], now_ms, label))
    return made


def _expire(model: str, state: Joining, request: str, now_ms: int, label: Label) -> list[Draft]:
    """A deadline has come: of a request's first wait, of its second, or of a parked label."""
    row = state.waiting.get(request)
    if row is None:
        parked = state.parked.get(request)
        if parked is None or parked[0] + label.wait_ms > now_ms:  # a newer one has a deadline of its own
            return []
        del state.parked[request]
        state.unknown += 1
        note = "A label came for a request that nobody made."
        refusal = Refusal(label.source.topic, "label_unknown", note, now_ms)
        return [draft(REFUSED, refusal, key=label.source.topic, t_ms=now_ms)]
    made = []
    if row.state == "pending":
        row.state, row.label, row.known_ms = "expired", label.silence, row.t_ms + label.wait_ms
        state.expired += 1
        made = [_outcome(model, request, row, amends=False)]
    if now_ms >= row.t_ms + 2 * label.wait_ms and row.state != "known":
        del state.waiting[request]  # time may have jumped over both waits at once
    else:
        heapq.heappush(state.due, (max(row.t_ms + 2 * label.wait_ms, now_ms + 1), request))
    return made


def _outcome(model: str, request: str, row: Waiting, *, amends: bool) -> Draft:
    state: Literal["observed", "expired"] = "expired" if row.state == "expired" else "observed"
    said = sorted(row.said, key=lambda one: (one.role, one.version))
    value = Outcome(
        model, request, row.entity, row.position, row.t_ms, row.known_ms, state, row.label, said, amends
    )
    return draft(outcomes(model), value, key=request, t_ms=row.known_ms)
