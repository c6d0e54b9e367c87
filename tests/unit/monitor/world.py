"""monitor: a small world for its tests: visits, what a model said to them, what became of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.dataset.profile import profile
from penstock.feature import source
from penstock.monitor.rules import Rule
from penstock.monitor.stage import Watching, monitor_stage
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    ALERTS,
    RELEASES,
    TICKS,
    VERSIONS,
    Alert,
    Dataset,
    Hour,
    Outcome,
    Prediction,
    Profile,
    Release,
    ReleaseStep,
    Said,
    Tick,
    Value,
    Version,
    outcomes,
    predictions,
    profiles,
)
from penstock.record.event import Event, key
from penstock.record.record import START, Record
from penstock.stage import Stage

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
T0_MS = 24_000 * HOUR_MS
MODEL = "buys"
NAMES = ["price", "country"]


class Visit(Event):
    visit: str
    who: str = key()
    at: int
    previous_page: str | None
    price: float | None


visit = source(Visit, id="visit", time="at")


def watching(*rules: Rule) -> Stage[Watching]:
    """The stage under test."""
    return monitor_stage(MODEL, rules, visit, NAMES)


class Story:
    """Records in the order of the log. Times are minutes after the start."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, topic: str, value: msgspec.Struct, minute: float, key: str = MODEL) -> None:
        """Append one record."""
        n = len(self.records)
        self.records.append(Record(topic, n, str(n), key, T0_MS + round(minute * MINUTE_MS), pack(value)))

    def ask(self, minute: float, page: str | None = "home", price: float | None = 1.0) -> None:
        """Append a request."""
        at = T0_MS + round(minute * MINUTE_MS)
        self.put(visit.topic, Visit(visit="v", who="w", at=at, previous_page=page, price=price), minute)

    def answer(
        self,
        minute: float,
        score: float | None = 0.1,
        values: Sequence[Value] = (1.0, "fr"),
        *,
        served: bool = True,
        latency_s: float = 0.004,
    ) -> None:
        """Append a prediction."""
        positive = None if score is None else score >= 0.5
        self.put(
            predictions(MODEL),
            Prediction(
                MODEL, 1, "d", "champion", served, "v", "w", visit.topic, 0, T0_MS + round(minute * MINUTE_MS),
                START, "f", list(values), 0, score, positive, "" if positive is not None else "fit", latency_s,
            ),
            minute,
        )  # fmt: skip

    def truth(self, minute: float, label: float | None, *said: Said, amends: bool = False) -> None:
        """Append an outcome that became known at `minute`."""
        known_ms = T0_MS + round(minute * MINUTE_MS)
        value = Outcome(MODEL, "v", "w", 0, known_ms - 1, known_ms, "observed", label, list(said), amends)
        self.put(outcomes(MODEL), value, minute)

    def tick(self, minute: float) -> None:
        """Append a tick."""
        self.put(TICKS, Tick(T0_MS + round(minute * MINUTE_MS)), minute, key="")

    def version(self, number: int, learned: Profile, *, key: str = MODEL) -> None:
        """Append a version with its training profile."""
        rows = Dataset(visit.topic, 0, 1, START, 1, 1, "")
        value = Version(
            key, number, "d", "i", "", 0, rows, rows, "f", NAMES, "c", "e", {}, 0, 1, {}, learned, ""
        )
        self.put(VERSIONS, value, 0, key)

    def release(self, number: int, step: ReleaseStep = "champion", *, restored: int = 0) -> None:
        """Append a step of a version."""
        value = Release(MODEL, number, "d", step, 100, "", "gate", 0, restored=restored)
        self.put(RELEASES, value, 0)


def said(score: float | None, version: int = 1, *, served: bool = True) -> Said:
    """One version's answer."""
    positive = None if score is None else score >= 0.5
    return Said(version, "champion" if served else "candidate", served, score, positive)


def learned(rows: Sequence[Sequence[Value]]) -> Profile:
    """A training profile of rows of (price, country, score)."""
    return profile([*NAMES, "score"], rows)


def alerts(stage: Stage[Watching], story: Story) -> list[Alert]:
    """The alerts of a story."""
    _, emitted = stage.step_many(stage.empty(), story.records)
    return [unpack(draft.value, Alert) for _, draft in emitted if draft.topic == ALERTS]


def hours(stage: Stage[Watching], story: Story) -> list[Hour]:
    """The hours of a story."""
    _, emitted = stage.step_many(stage.empty(), story.records)
    return [unpack(draft.value, Hour) for _, draft in emitted if draft.topic == profiles(MODEL)]
