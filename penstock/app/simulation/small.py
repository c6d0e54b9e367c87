"""app: a pipeline file made small: its own features, gate and release on some dozens of requests.

Spans shrink to a history of a few weeks, trainings to tens of rows; `fit` may be replaced by a quick one.
The history is made up from the types, with truths that a model can learn and that change on the way,
and with all that real producers do: late, out of order, twice, for nobody, contradicting.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.app.pipeline import File, Plan
from penstock.app.sample import START_AT, columns, made_row, sampled
from penstock.feature import asked
from penstock.model.fit import Data
from penstock.record.codec import millis
from penstock.record.event import Source
from penstock.record.record import Draft

REQUESTS = 100
PERIODS = 32
"""Of a lock-step replay: each is one append and one round of every stage."""


class Sent(msgspec.Struct, frozen=True):
    """An event and when its producer has it to send: at its time, or later."""

    at_ms: int
    topic: str
    row: dict[str, Any]
    draft: Draft


class History(msgspec.Struct, frozen=True):
    """Events in the order in which they become known, and what is sure of them.

    `truths`: the final label of every request whose one label comes in good time, or never.
    """

    events: list[Sent]
    start_ms: int
    end_ms: int
    wait_ms: int
    truths: dict[str, dict[str, float | None]]


class Line:
    """A logistic or straight line over the one column that tells most: what stands for a fit that is slow."""

    def __init__(self, column: int, middle: float, a: float, b: float, binary: bool) -> None:
        self.column, self.middle, self.a, self.b, self.binary = column, middle, a, b, binary

    def predict(self, x: Any) -> Any:
        """One number a row, worked out row by row: no bit depends on how many rows there are."""
        found = [self.a + self.b * (_number(value) - self.middle) for value in x[:, self.column].tolist()]
        return np.array([1 / (1 + math.exp(-one)) for one in found] if self.binary else found)

    predict_proba = predict


def _number(value: Any) -> float:
    return value if isinstance(value, (int, float)) and value == value else 0.0


def quick_fit(data: Data) -> Line:
    """A few Newton steps on the column that goes most with the labels: enough for a simple truth."""
    x = np.array([[_number(value) for value in row] for row in data.x.tolist()])
    y = np.asarray(data.y, dtype=float)
    binary = set(y.tolist()) <= {0.0, 1.0}
    spread = x.std(axis=0)
    spread[spread == 0] = math.inf
    tells = np.abs(((x - x.mean(axis=0)) / spread * (y - y.mean())[:, None]).sum(axis=0))
    column = int(tells.argmax())
    middle, scale = float(x[:, column].mean()), float(min(spread[column], 1e12))
    z = np.column_stack([np.ones(len(y)), (x[:, column] - middle) / scale])
    weights = np.zeros(2)
    for _ in range(5 if binary else 1):
        p = 1 / (1 + np.exp(-z @ weights)) if binary else z @ weights
        bend = p * (1 - p) if binary else np.ones(len(y))
        weights = weights + np.linalg.solve(
            z.T @ (z * bend[:, None]) + 0.3 * np.eye(2), z.T @ (y - p) - 0.3 * weights
        )
    return Line(column, middle, float(weights[0]), float(weights[1]) / scale, binary)


def shrink(file: File, *, quick: bool) -> File:
    """The same file with spans of days and trainings of tens of rows."""
    return msgspec.structs.replace(
        file, plans={name: _shrunk(plan, _span(file), quick) for name, plan in file.plans.items()}
    )


def _span(file: File) -> int:
    """How long a history is: some waits for the slowest label."""
    return 8 * max(plan.label.wait_ms for plan in file.plans.values())


def _shrunk(plan: Plan, span_ms: int, quick: bool) -> Plan:
    pipeline, hold_ms = plan.pipeline, span_ms // 64
    train = msgspec.structs.replace(
        pipeline.train, period_ms=span_ms // 4, window_ms=0, labels=0, at_least=44, holdout=0.7
    )
    release = msgspec.structs.replace(
        pipeline.release, shadow_ms=hold_ms, canary=(50,), hold_ms=hold_ms, guard_ms=hold_ms,
        at_least=2, alpha=0.1,
    )  # fmt: skip
    changed = {"train": train, "release": release, **({"fit": quick_fit, "predict": None} if quick else {})}
    return msgspec.structs.replace(plan, pipeline=msgspec.structs.replace(pipeline, **changed))


def history(file: File, number: int, data: Path | None) -> History:
    """The history of this number: the same events whenever it is asked for."""
    chance = random.Random(number)
    made = _Made(file, chance)
    if data is None:
        made.up()
    else:
        made.taken(data)
    events = sorted(made.events, key=lambda one: one.at_ms)
    wait_ms = min(plan.label.wait_ms for plan in file.plans.values())
    return History(events, events[0].at_ms, events[-1].at_ms, wait_ms, made.truths)


class _Made:
    """A history in the making."""

    def __init__(self, file: File, chance: random.Random) -> None:
        self.file, self.chance = file, chance
        self.events: list[Sent] = []
        self.truths: dict[str, dict[str, float | None]] = {name: {} for name in file.plans}
        self.pools: dict[str, list[Any]] = {}
        self.rows: dict[str, list[tuple[datetime, dict[str, Any], int]]] = {}  # the requests by topic

    def send(self, topic: str, row: dict[str, Any], late_ms: int = 0) -> None:
        """An event sent at its time or later; one with an id is sometimes sent again."""
        source = self.file.sources[topic]
        draft = source.draft(source.parse(row))
        at_ms = (draft.time_ms or millis(START_AT)) + late_ms
        self.events.append(Sent(at_ms, topic, row, draft))
        if source.id and self.chance.random() < 0.05:
            self.events.append(Sent(at_ms + self.chance.randrange(late_ms + 86_400_000), topic, row, draft))

    def taken(self, folder: Path) -> None:
        """The first events of the samples, at their times."""
        left = REQUESTS * len(self.file.plans)
        topics = {asked(plan.pipeline.request).topic for plan in self.file.plans.values()}
        for _, topic, row in sampled(self.file, folder):
            left -= topic in topics
            if left < 0:
                return
            self.send(topic, row, self.late(3_600_000))

    def late(self, most_ms: int) -> int:
        """How long an event is on its way: mostly no time."""
        return self.chance.randrange(most_ms) if self.chance.random() < 0.15 else 0

    def up(self) -> None:
        """Events made up from the types."""
        span_ms = _span(self.file)
        used: set[str] = set()
        for plan in self.file.plans.values():
            request, kept = asked(plan.pipeline.request), plan.label.source.topic
            if not {request.topic, kept} <= used:  # else they were made for a model before
                self.asked(plan, request, span_ms)
            used |= {request.topic, kept}
        for topic in sorted(self.file.sources.keys() - used):
            for i in range(REQUESTS // 4):
                when = START_AT + timedelta(milliseconds=self.chance.randrange(span_ms))
                row = made_row(self.file.sources[topic], when, i, self.chance, self.pools)
                self.send(topic, row, self.late(10_800_000))

    def asked(self, plan: Plan, request: Source, span_ms: int) -> None:
        """A model's requests and their truths, which turn round at some point of most histories."""
        wait_ms = plan.label.wait_ms
        column, turns = _telling(plan), self.chance.choice((0.7, 0.8, 2.0))
        noise, step_ms = self.chance.choice((0.0, 0.03, 0.1)), span_ms // (2 * REQUESTS)
        kept, rows = plan.label.source.topic, self.rows.setdefault(request.topic, [])
        for i in range(REQUESTS):
            place = i + max(0, 2 * i - REQUESTS)  # half of them in the first quarter: so training is early
            when = START_AT + timedelta(milliseconds=place * step_ms + self.chance.randrange(step_ms))
            if i == len(rows):
                row = made_row(request, when, i, self.chance, self.pools)
                late_ms = 3 * 86_400_000 if self.chance.random() < 0.01 else self.late(wait_ms // 10)
                self.send(request.topic, row, late_ms)
                rows.append((when, row, late_ms))
            when, row, late_ms = rows[i]
            truth = bool(row[column] > _MIDDLE.get(type(row[column]), 0)) if column else i % 2 == 1
            truth ^= (self.chance.random() < noise) ^ (i > turns * REQUESTS)
            self.truth(plan, str(row[request.id]), row[request.id], i, truth, late_ms, when)
        self.send(kept, {**self.labelled(plan, 0, True, START_AT), plan.label.source.key: _nobody(plan)})

    def truth(self, plan: Plan, request: str, id: Any, i: int, truth: bool, late_ms: int, when: Any) -> None:
        """The label of one request: in time, late, twice, or never."""
        source, wait_ms, luck = plan.label.source, plan.label.wait_ms, self.chance.random()
        sure = late_ms <= wait_ms // 10
        if luck < 0.05 or (plan.label.silence is not None and not truth):
            if sure:
                self.truths[plan.name][request] = plan.label.silence
            return
        part = self.chance.uniform(1.1, 2.4) if luck < 0.1 else self.chance.uniform(0.02, 0.5)
        row = self.labelled(plan, i, truth, when + timedelta(milliseconds=int(part * wait_ms)))
        row[source.key] = id
        self.send(source.topic, row, self.late(wait_ms // 10))
        if 0.1 <= luck < 0.13:  # a second label says otherwise
            other = self.labelled(plan, i, not truth, when + timedelta(milliseconds=int(0.7 * wait_ms)))
            self.send(source.topic, {**other, **({source.id: f"x{i}"} if source.id else {}), source.key: id})
        elif part < 1 and sure:
            self.truths[plan.name][request] = plan.label.value(source.parse(row))

    def labelled(self, plan: Plan, i: int, truth: bool, when: Any) -> dict[str, Any]:
        """An event of the label's source that says a truth, if one can be made up."""
        source = plan.label.source
        row: dict[str, Any] = {}
        for _ in range(30):
            row = made_row(source, when, i, self.chance, self.pools)
            said = plan.label.value(source.parse(row))
            if said is not None and bool(said) == truth:
                break
        return row


_MIDDLE = {float: 7.4, int: 50, bool: 0}
"""What made-up numbers lie above half of the time."""


def _nobody(plan: Plan) -> Any:
    hint = columns(plan.label.source.schema)[plan.label.source.key]
    return "nobody" if hint is str else 10**9


def _telling(plan: Plan) -> str:
    """The request's column that tells the truth: a number, and a feature if there is one."""
    request = asked(plan.pipeline.request)
    hints = columns(request.schema)
    numbers = [name for name in request.columns if hints[name] in _MIDDLE and name != request.id]
    named = [name for name in numbers if name in plan.features.names]
    return next(iter(named or numbers), "")
