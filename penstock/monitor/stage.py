"""monitor: the stage: what happens is counted in buckets of event time, and rules are judged at ticks.

A tick judges the time up to the tick before it, in whole buckets: by then the answers to all earlier
requests are on the log, in a replay as in live work. What comes after its time was judged counts to
the time that is next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from penstock.dataset.profile import absent, cell, drift
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
GONE = "gone"
"""The cell of missing values."""
_CLIP = 1e-15


class Bucket(msgspec.Struct, gc=False):
    """Counts of one stretch of event time; buckets add up. `versions`: rows, loss, wrong, positives."""

    requests: int = 0
    blank: dict[str, int] = {}
    served: int = 0
    dead: int = 0
    positives: int = 0
    errors: int = 0
    known: int = 0
    truths: int = 0
    paid: int = 0
    loss: float = 0.0
    latency: dict[str, int] = {}
    missing: dict[str, int] = {}
    cells: dict[str, dict[str, int]] = {}
    sums: dict[str, float] = {}
    versions: dict[str, list[float]] = {}


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
        return state, each(name, lambda record: watch.fold(state, record), records)

    name = f"monitor.{model}"
    inputs = (request.topic, predictions(model), outcomes(model), TICKS, VERSIONS, RELEASES, DEAD, AGAIN)
    return Stage(name, inputs, Watching, step_many, pack, _load, snapshot_every=20_000)


class _Watch:
    """What the stage was declared with, and its step."""

    def __init__(self, model: str, rules: Sequence[Rule], request: Source, features: Sequence[str]) -> None:
        self.model, self.rules, self.request = model, rules, request
        self.names = (*features, "score")
        self.optional = [name for name in request.columns if name != request.id]
        self.grain_ms = _grain(rules)
        longest_ms = max((rule.measure.window_ms for rule in rules), default=0)
        self.keep_ms = max(longest_ms, DRIFT_MS) + 2 * HOUR_MS
        drifts_ms = [rule.measure.window_ms for rule in rules if rule.measure.kind == "drift"]
        self.detail_ms = max(DRIFT_MS, *drifts_ms, 0) + 2 * HOUR_MS
        self.topics = {request.topic: self.ask, predictions(model): self.answer, outcomes(model): self.learn}

    def bucket(self, state: Watching, t_ms: int) -> Bucket:
        """The bucket of a moment, or the next one where that moment has been judged."""
        at = str((max(t_ms, state.judged_ms + 1) - 1) // self.grain_ms)
        found = state.buckets.get(at)
        if found is None:
            found = state.buckets[at] = Bucket()
        return found

    def fold(self, state: Watching, record: Record) -> list[Draft]:
        """Take one record."""
        take = self.topics.get(record.topic)
        if take is not None:
            take(state, record)
        elif record.topic == TICKS:
            return self.tick(state, read(record, Tick).t_ms)
        elif record.topic == DEAD:
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

    def answer(self, state: Watching, record: Record) -> None:
        """Count a prediction that was served."""
        said = read(record, Prediction)
        if said.served:
            _count(self.bucket(state, said.t_ms), said, self.names, state.profiles.get(str(state.champion)))

    def learn(self, state: Watching, record: Record) -> None:
        """Count an outcome whose label is known."""
        outcome = read(record, Outcome)
        if outcome.label is not None and not outcome.amends:
            _learn(self.bucket(state, outcome.known_ms), outcome, outcome.label)

    def tick(self, state: Watching, now_ms: int) -> list[Draft]:
        """Judge the time up to the tick before."""
        until_ms, state.tick_ms = state.tick_ms, max(state.tick_ms, now_ms)
        until_ms -= until_ms % self.grain_ms
        if until_ms <= state.judged_ms:
            return []
        before_ms, state.judged_ms = state.judged_ms, until_ms
        made = []
        busy = {int(at) * self.grain_ms // HOUR_MS for at in state.buckets}
        for hour in sorted(
            busy.intersection(range(state.hour or until_ms // HOUR_MS - 1, until_ms // HOUR_MS))
        ):
            one = _hour(self.model, state, hour, self.grain_ms, self.names, self.request)
            made += [draft(profiles(self.model), one, key=self.model, t_ms=now_ms)] if one else []
        state.hour = until_ms // HOUR_MS
        for rule in self.rules:
            step_ms = max(self.grain_ms, rule.measure.window_ms // JUDGED)
            if until_ms // step_ms == before_ms // step_ms:
                continue
            made += _judge(self.model, rule, state, until_ms, now_ms, self.grain_ms, self.request.columns)
        if until_ms // DRIFT_MS != before_ms // DRIFT_MS:
            self.forget(state, until_ms)
        return made + self.withdrawn(state, now_ms)

    def withdrawn(self, state: Watching, now_ms: int) -> list[Draft]:
        """Clear the alerts of rules that the file no longer has."""
        gone = state.raised.keys() - {str(rule) for rule in self.rules}
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


def _count(into: Bucket, said: Prediction, names: Sequence[str], reference: Profile | None) -> None:
    into.served += 1
    into.positives += bool(said.positive)
    into.errors += said.score is None
    step = str(_bin(said.latency_s))
    into.latency[step] = into.latency.get(step, 0) + 1
    if len(said.values) != len(names) - 1:
        return
    columns = reference.columns if reference else {}
    for name, value in zip(names, (*said.values, said.score), strict=True):
        if absent(value):
            into.missing[name] = into.missing.get(name, 0) + 1
        elif isinstance(value, (int, float)):
            into.sums[name] = into.sums.get(name, 0.0) + value
        column = columns.get(name)
        if column is not None:
            at = cell(column, value)
            place = GONE if at is None else str(at)
            cells = into.cells.setdefault(name, {})
            cells[place] = cells.get(place, 0) + 1


def _bin(seconds: float) -> int:
    """Latencies in bins of a quarter of a factor of two."""
    return round(4 * math.log2(max(seconds, 1e-6) * 1e6))


def _learn(into: Bucket, outcome: Outcome, label: float) -> None:
    into.known += 1
    into.truths += label == 1.0
    for said in outcome.said:
        if said.score is None:
            continue
        one = into.versions.setdefault(str(said.version), [0.0, 0.0, 0.0, 0.0])
        cost = _loss(label, said.score)
        wrong = said.positive is not None and said.positive != (label == 1.0)
        for i, more in enumerate((1.0, cost, float(wrong), label)):
            one[i] += more
        if said.served:
            into.paid += 1
            into.loss += cost


def _loss(label: float, score: float) -> float:
    if label in (0.0, 1.0) and 0.0 <= score <= 1.0:
        return -math.log(max(score if label else 1 - score, _CLIP))
    return (score - label) ** 2


def _between(state: Watching, from_ms: int, to_ms: int, grain_ms: int) -> list[Bucket]:
    """The buckets of (from, to], oldest first."""
    span = range(from_ms // grain_ms, (to_ms - 1) // grain_ms + 1)
    if len(span) > len(state.buckets):
        return [state.buckets[at] for at in sorted(state.buckets, key=int) if int(at) in span]
    return [state.buckets[at] for at in map(str, span) if at in state.buckets]


def _judge(
    model: str, rule: Rule, state: Watching, until_ms: int, now_ms: int, grain_ms: int, columns: Sequence[str]
) -> list[Draft]:
    measure, text = rule.measure, str(rule)
    buckets = _between(state, until_ms - measure.window_ms, until_ms, grain_ms)
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
    counts, gone = _cells(buckets, measure.name)
    return drift(column, counts, gone), sum(counts.values()) + gone


def _cells(buckets: Iterable[Bucket], name: str) -> tuple[dict[int, int], int]:
    counts: dict[int, int] = {}
    gone = 0
    for one in buckets:
        for place, n in one.cells.get(name, {}).items():
            if place == GONE:
                gone += n
            else:
                counts[int(place)] = counts.get(int(place), 0) + n
    return counts, gone


def _share(part: float, whole: int) -> tuple[float, int]:
    return (part / whole if whole else 0.0), whole


def _hour(
    model: str, state: Watching, hour: int, grain_ms: int, names: Sequence[str], request: Source
) -> Hour | None:
    """The record of one hour; None when nothing happened in it."""
    buckets = _between(state, hour * HOUR_MS, (hour + 1) * HOUR_MS, grain_ms)
    if not any(one.requests or one.served or one.known for one in buckets):
        return None
    asked, served = sum(one.requests for one in buckets), sum(one.served for one in buckets)
    reference = state.profiles.get(str(state.champion))
    missing = {
        name: _share(sum(one.blank.get(name, 0) for one in buckets), asked)[0] for name in request.columns
    }
    means: dict[str, float] = {}
    for name in names:
        gone = sum(one.missing.get(name, 0) for one in buckets)
        missing.setdefault(name, _share(gone, served)[0])
        if served > gone:
            means[name] = sum(one.sums.get(name, 0.0) for one in buckets) / (served - gone)
    drifts: dict[str, float] = {}
    if reference and (hour + 1) % DRIFT_HOURS == 0:  # an hour has too few rows for it
        day = _between(state, (hour + 1) * HOUR_MS - DRIFT_MS, (hour + 1) * HOUR_MS, grain_ms)
        drifts = {n: drift(reference.columns[n], *_cells(day, n)) for n in names if n in reference.columns}
    p50, p99 = _quantiles(buckets)
    return Hour(
        model, hour * HOUR_MS, (hour + 1) * HOUR_MS, asked, served,
        sum(one.positives for one in buckets), sum(one.errors for one in buckets),
        p50, p99, {name: share for name, share in missing.items() if share}, means, drifts, _by_version(buckets),
    )  # fmt: skip


def _by_version(buckets: Iterable[Bucket]) -> dict[str, dict[str, float]]:
    totals: dict[str, list[float]] = {}
    for one in buckets:
        for version, numbers in one.versions.items():
            before = totals.get(version, [0.0] * 4)
            totals[version] = [a + b for a, b in zip(before, numbers, strict=True)]
    return {v: dict(zip(("rows", "loss", "wrong", "positives"), n, strict=True)) for v, n in totals.items()}


def _quantiles(buckets: Iterable[Bucket]) -> tuple[float, float]:
    """The median and the 99th percentile of the latencies, in seconds."""
    counts: dict[int, int] = {}
    for one in buckets:
        for text, n in one.latency.items():
            counts[int(text)] = counts.get(int(text), 0) + n
    total, found = sum(counts.values()), []
    for share in (0.5, 0.99):
        below = 0
        for step in sorted(counts):
            below += counts[step]
            if below >= share * total:
                found.append(2 ** (step / 4) / 1e6)
                break
    return (found[0], found[1]) if found else (0.0, 0.0)
