"""monitor: the stage: what happens is counted in buckets of event time, and rules are judged at ticks.

A tick judges the time up to the tick before it, in whole buckets: by then the answers to all earlier
requests are on the log, in a replay as in live work. What comes after its time was judged counts to
the time that is next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

import msgspec

from penstock.dataset.profile import drift
from penstock.monitor.bucket import Bucket, by_version, cells, count, learn, quantiles
from penstock.monitor.rules import HOUR_MS, Measure, Rule, watched
from penstock.record.codec import pack, unpack
from penstock.record.decisions import (
    AGAIN,
    ALERTS,
    DEAD,
    RELEASES,
    TICKS,
    VERSIONS,
    Alert,
    Hour,
    Outcome,
    Prediction,
    Profile,
    Release,
    Tick,
    Version,
    draft,
    outcomes,
    predictions,
    profiles,
    read,
)
from penstock.record.event import Source
from penstock.record.record import Draft, Record
from penstock.stage import Emitted, Stage, each

GRAINS_MS = (3_600_000, 1_800_000, 900_000, 300_000, 60_000)
PROFILES_KEPT = 8
JUDGED = 24
"""How often a rule is judged in the length of its window, at most."""
DRIFT_MS = 24 * HOUR_MS
DRIFT_HOURS = 6
"""Every sixth hour's record says how far the day up to it has drifted."""
CLEAR_AFTER = 2
"""A raised alert clears when its rule held this many times in a row, on however few rows."""


class Watching(msgspec.Struct):
    """The stage's state. Buckets by their number as text; alerts by their rule's text."""

    judged_ms: int = 0
    tick_ms: int = 0
    hour: int = 0
    buckets: dict[str, Bucket] = {}
    champion: int = 0
    profiles: dict[str, Profile] = {}
    raised: dict[str, Alert] = {}
    held: dict[str, int] = {}


def standing(state: Watching) -> dict[str, Alert]:
    """The alerts that stand, by their rule's text."""
    return dict(state.raised)


def monitor_stage(
    model: str, rules: Sequence[Rule], request: Source, features: Sequence[str]
) -> Stage[Watching]:
    """The stage `monitor.MODEL`: profiles of every hour, and alerts when rules break and hold again."""
    watch = _Watch(model, watched(rules), request, features)

    def step_many(state: Watching, records: Sequence[Record]) -> tuple[Watching, list[Emitted]]:
        answers: list[Prediction] = []
        emitted = each(name, lambda record: watch.fold(state, record, answers), records)
        watch.count(state, answers)
        return state, emitted

    name = f"monitor.{model}"
    inputs = (request.topic, predictions(model), outcomes(model), TICKS, VERSIONS, RELEASES, DEAD, AGAIN)
    return Stage(name, inputs, Watching, step_many, pack, _load, snapshot_every=20_000)


class _Watch:
    """What the stage was declared with, and its step."""

    def __init__(self, model: str, rules: Sequence[Rule], request: Source, features: Sequence[str]) -> None:
        self.model, self.request = model, request
        self.rules = [(str(rule), rule) for rule in rules]
        self.names = (*features, "score")
        self.optional = [name for name in request.columns if name != request.id]
        self.grain_ms = _grain(rules)
        longest_ms = max((rule.measure.window_ms for rule in rules), default=0)
        self.keep_ms = max(longest_ms, DRIFT_MS) + 2 * HOUR_MS
        drifts_ms = [rule.measure.window_ms for rule in rules if rule.measure.kind == "drift"]
        self.detail_ms = max(DRIFT_MS, *drifts_ms, 0) + 2 * HOUR_MS
        self.said = predictions(model)
        self.topics = {request.topic: self.ask, outcomes(model): self.learn}

    def at(self, state: Watching, t_ms: int) -> str:
        """The number of that bucket."""
        return str((max(t_ms, state.judged_ms + 1) - 1) // self.grain_ms)

    def bucket(self, state: Watching, t_ms: int) -> Bucket:
        """The bucket of a moment, or the next one where that moment has been judged."""
        at = self.at(state, t_ms)
        found = state.buckets.get(at)
        if found is None:
            found = state.buckets[at] = Bucket()
        return found

    def fold(self, state: Watching, record: Record, answers: list[Prediction]) -> list[Draft]:
        """Take one record; predictions are put to `answers`, and counted before anything that they depend on."""
        take = self.topics.get(record.topic)
        if record.topic == self.said:
            prediction = read(record, Prediction)
            if prediction.served:
                answers.append(prediction)
            return []
        if take is not None:
            take(state, record)
            return []
        self.count(state, answers)
        if record.topic == TICKS:
            return self.tick(state, read(record, Tick).t_ms)
        if record.topic == DEAD:
            self.bury(state, record)
        elif record.key == self.model:
            _follow(state, record)
        return []

    def ask(self, state: Watching, record: Record) -> None:
        """Count a request, and what is missing in it."""
        event = self.request.event(record)
        into = self.bucket(state, record.time_ms)
        into.requests += 1
        for name in self.optional:
            value = getattr(event, name)
            if value is None or value == "" or value != value:
                into.blank[name] = into.blank.get(name, 0) + 1

    def bury(self, state: Watching, record: Record) -> None:
        """Count a dead letter of one of the model's stages, when it is met: its own time may be anything."""
        if record.key.partition(".")[2] == self.model:
            self.bucket(state, state.tick_ms).dead += 1

    def count(self, state: Watching, answers: list[Prediction]) -> None:
        """Count predictions that were served, those of one bucket together."""
        reference = state.profiles.get(str(state.champion))
        for _, group in groupby(answers, lambda one: self.at(state, one.t_ms)):
            some = list(group)
            count(self.bucket(state, some[0].t_ms), some, self.names, reference)
        answers.clear()

    def learn(self, state: Watching, record: Record) -> None:
        """Count an outcome whose label is known."""
        outcome = read(record, Outcome)
        if outcome.label is not None and not outcome.amends:
            learn(self.bucket(state, outcome.known_ms), outcome, outcome.label)

    def tick(self, state: Watching, now_ms: int) -> list[Draft]:
        """Judge the time up to the tick before."""
        until_ms, state.tick_ms = state.tick_ms, max(state.tick_ms, now_ms)
        until_ms -= until_ms % self.grain_ms
        if until_ms <= state.judged_ms:
            return []
        before_ms, state.judged_ms = state.judged_ms, until_ms
        made, spans = [], Spans(state, self.grain_ms)
        for hour in spans.hours(state.hour or until_ms // HOUR_MS - 1, until_ms // HOUR_MS):
            one = _hour(self.model, state, hour, spans, self.names, self.request)
            made += [draft(profiles(self.model), one, key=self.model, t_ms=now_ms)] if one else []
        state.hour = until_ms // HOUR_MS
        for text, rule in self.rules:
            step_ms = max(self.grain_ms, rule.measure.window_ms // JUDGED)
            if until_ms // step_ms == before_ms // step_ms:
                continue
            made += _judge(self.model, text, rule, state, until_ms, now_ms, spans, self.request.columns)
        if until_ms // DRIFT_MS != before_ms // DRIFT_MS:
            self.forget(state, until_ms)
        return made + self.withdrawn(state, now_ms)

    def withdrawn(self, state: Watching, now_ms: int) -> list[Draft]:
        """Clear the alerts of rules that the file no longer has."""
        gone = state.raised.keys() - {text for text, _ in self.rules}
        cleared = [
            msgspec.structs.replace(state.raised.pop(text), state="cleared", t_ms=now_ms)
            for text in sorted(gone)
        ]
        return [draft(ALERTS, alert, key=self.model, t_ms=now_ms) for alert in cleared]

    def forget(self, state: Watching, until_ms: int) -> None:
        """Once a day: drop what no window reaches, and the details that only drift and the hours need."""
        oldest = (until_ms - self.keep_ms) // self.grain_ms
        detailed = (until_ms - self.detail_ms) // self.grain_ms
        state.buckets = {at: one for at, one in state.buckets.items() if int(at) >= oldest}
        for at, one in state.buckets.items():
            if int(at) < detailed and one.cells:
                one.cells, one.sums, one.latency, one.versions = {}, {}, {}, {}


def _load(data: bytes) -> Watching:
    return unpack(data, Watching)


def _grain(rules: Sequence[Rule]) -> int:
    """The length of a bucket: a 12th of the shortest window at most, and an hour at most."""
    shortest_ms = min((rule.measure.window_ms for rule in rules), default=24 * HOUR_MS)
    return next((grain_ms for grain_ms in GRAINS_MS if grain_ms * 12 <= shortest_ms), GRAINS_MS[-1])


def _follow(state: Watching, record: Record) -> None:
    """Remember the profiles of versions, and whose the champion's is."""
    if record.topic == VERSIONS:
        version = read(record, Version)
        state.profiles[str(version.version)] = version.profile
        kept = {str(state.champion), *sorted(state.profiles, key=int)[-PROFILES_KEPT:]}
        state.profiles = {n: one for n, one in state.profiles.items() if n in kept}
        return
    release = read(record, Release)
    before = state.champion
    if release.step == "champion":
        state.champion = release.version
    elif release.step == "rolled_back":
        state.champion = release.restored
    if state.champion != before:
        for bucket in state.buckets.values():
            bucket.cells = {}  # they were counted in another version's cells


class Spans:
    """The buckets that there are at a tick, in order of time."""

    def __init__(self, state: Watching, grain_ms: int) -> None:
        self.grain_ms = grain_ms
        names = sorted(state.buckets, key=int)
        self.numbers = list(map(int, names))
        self.buckets = [state.buckets[name] for name in names]

    def hours(self, first: int, end: int) -> list[int]:
        """The numbers of the hours from `first` on, below `end`, that have buckets."""
        low, high = (bisect_left(self.numbers, -(-hour * HOUR_MS // self.grain_ms)) for hour in (first, end))
        return sorted({n * self.grain_ms // HOUR_MS for n in self.numbers[low:high]})

    def between(self, from_ms: int, to_ms: int) -> list[Bucket]:
        """The buckets of (from, to], oldest first."""
        low = bisect_left(self.numbers, from_ms // self.grain_ms)
        return self.buckets[low : bisect_left(self.numbers, -(-to_ms // self.grain_ms), low)]


def _judge(
    model: str,
    text: str,
    rule: Rule,
    state: Watching,
    until_ms: int,
    now_ms: int,
    spans: Spans,
    columns: Sequence[str],
) -> list[Draft]:
    measure = rule.measure
    buckets = spans.between(until_ms - measure.window_ms, until_ms)
    value, rows = _measured(measure, buckets, state.profiles.get(str(state.champion)), columns)
    standing, holds = text in state.raised, rule.holds(value)
    if rows < (1 if standing else measure.at_least):
        return []
    state.held[text] = state.held.get(text, 0) + 1 if holds else 0
    if standing == (not holds) or (standing and state.held[text] < CLEAR_AFTER):
        return []
    alert = Alert(
        model, text, "cleared" if standing else "raised", value, rule.bound, measure.window_ms, rows, now_ms
    )
    if standing:
        del state.raised[text]
    else:
        state.raised[text] = alert
    return [draft(ALERTS, alert, key=model, t_ms=now_ms)]


def _measured(
    measure: Measure, buckets: Sequence[Bucket], reference: Profile | None, columns: Sequence[str]
) -> tuple[float, int]:
    """The value of a measure over buckets, and the rows behind it. `columns` are the request's."""
    match measure.kind:
        case "missing":
            asked = sum(one.requests for one in buckets)
            if measure.name in columns:
                return _share(sum(one.blank.get(measure.name, 0) for one in buckets), asked)
            unknown = sum(one.missing.get(measure.name, 0) for one in buckets)
            return _share(unknown, sum(one.served for one in buckets))
        case "rate" if measure.name == "label":
            return _share(sum(one.truths for one in buckets), sum(one.known for one in buckets))
        case "rate":
            return _share(sum(one.positives for one in buckets), sum(one.served for one in buckets))
        case "errors":
            return _share(sum(one.errors for one in buckets), sum(one.served for one in buckets))
        case "dead":
            dead = sum(one.dead for one in buckets)
            return float(dead), 1
        case "loss":
            return _share(sum(one.loss for one in buckets), sum(one.paid for one in buckets))
    column = reference.columns.get(measure.name) if reference else None
    if column is None:
        return 0.0, 0
    counts, gone = cells(buckets, measure.name)
    return drift(column, counts, gone), sum(counts.values()) + gone


N = TypeVar("N", int, float)


def _total(counts: Sequence[dict[str, N]]) -> dict[str, N]:
    """Counts by name, added up, the oldest first."""
    total = dict(counts[0]) if counts else {}
    for some in counts[1:]:
        for name, n in some.items():
            total[name] = total.get(name, 0) + n
    return total


def _share(part: float, whole: int) -> tuple[float, int]:
    return (part / whole if whole else 0.0), whole


def _hour(
    model: str, state: Watching, hour: int, spans: Spans, names: Sequence[str], request: Source
) -> Hour | None:
    """The record of one hour; None when nothing happened in it."""
    buckets = spans.between(hour * HOUR_MS, (hour + 1) * HOUR_MS)
    if not any(one.requests or one.served or one.known for one in buckets):
        return None
    asked, served = sum(one.requests for one in buckets), sum(one.served for one in buckets)
    reference = state.profiles.get(str(state.champion))
    blank, unknown = _total([one.blank for one in buckets]), _total([one.missing for one in buckets])
    sums = _total([one.sums for one in buckets])
    missing = {name: blank[name] / asked for name in request.columns if blank.get(name)}
    means: dict[str, float] = {}
    for name in names:
        gone = unknown.get(name, 0)
        if gone and name not in request.columns:
            missing[name] = gone / served
        if served > gone:
            means[name] = sums.get(name, 0.0) / (served - gone)
    drifts: dict[str, float] = {}
    if reference and (hour + 1) % DRIFT_HOURS == 0:  # an hour has too few rows for it
        day = spans.between((hour + 1) * HOUR_MS - DRIFT_MS, (hour + 1) * HOUR_MS)
        drifts = {n: drift(reference.columns[n], *cells(day, n)) for n in names if n in reference.columns}
    p50, p99 = quantiles(buckets)
    return Hour(
        model, hour * HOUR_MS, (hour + 1) * HOUR_MS, asked, served,
        sum(one.positives for one in buckets), sum(one.errors for one in buckets),
        p50, p99, missing, means, drifts, by_version(buckets),
    )  # fmt: skip
