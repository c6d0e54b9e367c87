"""predict: a model's requests read again by folds of one's own, and kept until what was served comes by.

`verify` and the consistency stage both compare with this, and nothing here is shared with the stage that
answered but the log.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

import msgspec

from penstock.dataset.kept import NEVER
from penstock.feature import FeatureSet, Fold, Past
from penstock.record.decisions import RELEASES, TICKS, Prediction, Release, Tick, Value, Vector, read, vectors
from penstock.record.errors import Poison, Refused
from penstock.record.event import Event, Source
from penstock.record.poison import opened
from penstock.record.record import Record
from penstock.release.route import Route, follow

KEPT = 50_000
"""Requests without an answer so far whose values are kept; shares answer at their own pace."""

Values = dict[str, list[Value]]
"""A request's values, by the digest of the feature set."""


class Reading(msgspec.Struct):
    """What is known at a position: a fold of each feature set, from which event time on it has seen all
    there was (`since`), the route, and the values of requests whose predictions have not come by."""

    folds: dict[str, Fold]
    since: dict[str, int]
    route: Route = Route()
    waiting: dict[int, Values] = {}
    last: int = -1


class Kept(msgspec.Struct, frozen=True):
    """A reading's bytes."""

    folds: dict[str, bytes]
    since: dict[str, int]
    route: Route
    waiting: list[tuple[int, Values]]
    last: int


class Refold:
    """How a model's records are read again. `past` reads values too old for a fold from the log itself;
    `wanted` says of whose records: the values of a request are kept, and events are folded, where they can
    only be seen by such."""

    def __init__(
        self,
        model: str,
        request: Source,
        sets: Mapping[str, FeatureSet],
        past: Callable[[FeatureSet, Record], list[Value]],
        wanted: Callable[[Record], bool] = lambda record: True,
    ) -> None:
        self.model, self.request, self.sets, self.past, self.wanted = model, request, sets, past, wanted
        self.direct = vectors(model)
        topics = {topic for features in sets.values() for topic in features.topics}
        self.inputs = tuple(sorted(topics | {request.topic, self.direct, RELEASES, TICKS}))
        self.alone = _alone(request, sets)

    def empty(self, horizon: Callable[[FeatureSet], int]) -> Reading:
        """Nothing read yet. `horizon` says from which time on a set's events are all there."""
        since = {digest: horizon(features) for digest, features in self.sets.items()}
        return Reading({digest: Fold(features) for digest, features in self.sets.items()}, since)

    def take(self, at: Reading, record: Record) -> None:
        """Fold one record, in the log's order. What is poison to the answering stage changes nothing."""
        if record.topic == TICKS:
            now_ms = read(record, Tick).t_ms
            for fold in at.folds.values():
                fold.tick(now_ms)
        elif record.topic == RELEASES:
            if record.key == self.model:
                at.route = follow(at.route, read(record, Release))
        elif record.topic not in self.alone or self.wanted(record):
            try:
                self._event(at, record)
            except Poison:
                return

    def _event(self, at: Reading, record: Record) -> None:
        asked = record.topic == self.request.topic
        keep = at.route.champion is not None and self.wanted(record)
        if record.topic == self.direct:
            if keep:
                self._keep(at, record, dict.fromkeys(self.sets, opened(record, Vector).values))
            return
        using = [(d, one) for d, one in at.folds.items() if asked or self.sets[d].reads(record.topic)]
        events = [(d, one, one.event(record)) for d, one in using]  # all are read before any is folded
        due = [(one, one.fit(record, event)) for d, one, event in events if self.sets[d].reads(record.topic)]
        if asked and keep:
            inside = [one for one in events if record.time_ms >= at.since[one[0]]]
            found = {d: self._read(d, one, record, event) for d, one, event in inside}
            self._keep(at, record, {d: values for d, values in found.items() if values is not None})
        for one, fitting in due:
            one.fold(record, fitting)

    def _read(self, digest: str, fold: Fold, record: Record, event: Event) -> list[Value] | None:
        """The values of one request; none at all where a function of the user's raises, as it did then;
        None where retention has taken what they need."""
        try:
            return fold.read(record, event)
        except Past:
            try:
                return self.past(self.sets[digest], record)
            except Refused:
                return None
        except Exception:  # whatever the user's function raises, it raised when it was served
            return []

    def _keep(self, at: Reading, record: Record, values: Values) -> None:
        at.waiting[record.o] = values
        if len(at.waiting) > KEPT:
            del at.waiting[next(iter(at.waiting))]

    def folded(self, at: Reading, said: Prediction) -> list[Value] | None:
        """What the request of a prediction has been folded to; None where that is not known here. All that
        was said of one request comes together: the values of the one before are let go."""
        if said.o.n != at.last:
            at.waiting.pop(at.last, None)
            at.last = said.o.n
        return at.waiting.get(said.o.n, {}).get(said.features)

    def beyond(self, at: Reading, said: Prediction) -> bool:
        """Whether retention has taken what a prediction saw."""
        return said.t_ms < at.since.get(said.features, NEVER)

    def dump(self, at: Reading) -> Kept:
        """The reading's bytes."""
        folds = {digest: fold.dump() for digest, fold in at.folds.items()}
        return Kept(folds, at.since, at.route, list(at.waiting.items()), at.last)

    def load(self, kept: Kept, begun: Callable[[FeatureSet], tuple[Fold, int]]) -> Reading:
        """The reading that `dump` wrote; `begun` folds a set that it did not have yet, and says since when."""
        folds, since = {}, {}
        for digest, features in self.sets.items():
            if digest in kept.folds:
                folds[digest] = Fold.load(features, kept.folds[digest])
                since[digest] = kept.since[digest]
            else:
                folds[digest], since[digest] = begun(features)
        return Reading(folds, since, kept.route, dict(kept.waiting), kept.last)


def _alone(request: Source, sets: Mapping[str, FeatureSet]) -> set[str]:
    """The topics whose events are seen by requests of the same key only: others need not be folded for those."""
    topics = {request.topic, *(topic for features in sets.values() for topic in features.sources)}
    for features in sets.values():
        for node in features.nodes:
            if node.aggregate is not None:
                source, mine = node.aggregate.source, features.series[node.series].entity
                if (mine, node.entity) != (source.key, request.key):
                    topics.discard(source.topic)
    return topics if request.key else set()


def same(a: Sequence[Value], b: Sequence[Value]) -> bool:
    """Equal in type and bits: 1 is not 1.0, NaN is NaN, and null is neither."""
    return len(a) == len(b) and all(bits(x) == bits(y) for x, y in zip(a, b, strict=True))


def bits(value: Value) -> tuple[type, object]:
    """What two values must share to be the same."""
    return type(value), struct.pack("<d", value) if isinstance(value, float) else value
