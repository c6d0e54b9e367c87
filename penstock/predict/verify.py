"""predict: every logged prediction made again from the log and the blobs, and compared bit for bit."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping, Sequence

import msgspec

from penstock.dataset.kept import NEVER, horizon_ms
from penstock.feature import FeatureSet, Fold, Past
from penstock.log import Log
from penstock.model.fit import answers
from penstock.model.pack import Model
from penstock.record.decisions import (
    AGAIN,
    TICKS,
    Prediction,
    Tick,
    Value,
    Vector,
    predictions,
    read,
    vectors,
)
from penstock.record.errors import PenstockError, Poison
from penstock.record.event import Source
from penstock.record.poison import opened
from penstock.record.record import Position, Record, Returned
from penstock.stage import folded


class Unequal(msgspec.Struct, frozen=True):
    """One prediction that came out otherwise: which, where, what differs."""

    id: str
    position: int
    what: str


class Verified(msgspec.Struct, frozen=True):
    """How many predictions were made again, and those that differ; of `beyond` retention has taken what they
    saw, so that only their scores were made again."""

    predictions: int
    unequal: list[Unequal]
    beyond: int = 0


Progress = Callable[[int, int], None]

KEPT = 50_000
"""Requests without an answer so far whose values are kept; those of older ones are read from the log."""


class _Sweep:
    """One pass over the log: requests' values as they come by, compared when their predictions do."""

    def __init__(
        self,
        log: Log,
        model: str,
        request: Source,
        sets: Mapping[str, FeatureSet],
        load: Callable[[str], Model],
        past: Callable[[FeatureSet, Record], list[Value]],
    ) -> None:
        self.log, self.model, self.request, self.sets = log, model, request, sets
        self.load, self.past = load, past
        self.folds = {digest: Fold(features) for digest, features in sets.items()}
        self.values: dict[int, dict[str, list[Value]]] = {}
        self.last = -1
        self.group: dict[str, list[tuple[str, int, Prediction]]] = {}
        self.count = self.beyond = 0
        self.horizons = {digest: horizon_ms(log, features) for digest, features in sets.items()}
        self.unequal: list[Unequal] = []

    def fold(self, record: Record) -> None:
        """Take one record of the log's order."""
        if record.topic == TICKS:
            now_ms = read(record, Tick).t_ms
            for fold in self.folds.values():
                fold.tick(now_ms)
        elif record.topic == predictions(self.model):
            self.compare(record)
        elif record.topic == vectors(self.model):
            with contextlib.suppress(Poison):
                self.keep(record.o, dict.fromkeys(self.sets, opened(record, Vector).values))
        else:
            if record.topic == self.request.topic:
                self.keep(record.o, self.seen(record))
            for digest, fold in self.folds.items():
                if self.sets[digest].reads(record.topic):
                    with contextlib.suppress(Poison):
                        fold.add(record)

    def keep(self, position: int, values: dict[str, list[Value]]) -> None:
        """Keep a request's values until its answers have come by; shares answer at their own pace."""
        self.values[position] = values
        if len(self.values) > KEPT:
            del self.values[next(iter(self.values))]

    def seen(self, record: Record) -> dict[str, list[Value]]:
        """A request's values by feature set; a set whose function raises has none."""
        out: dict[str, list[Value]] = {}
        for digest, fold in self.folds.items():
            if record.time_ms < self.horizons[digest]:
                continue
            try:
                out[digest] = fold.read(record)
            except Past:
                out[digest] = self.past(self.sets[digest], record)
            except Exception:  # the user's function raised when it was served, too; compare() checks that
                continue
        return out

    def again(self, features: str, asked: Record) -> list[Value]:
        """The values of a request that came by long ago."""
        if asked.topic == vectors(self.model):
            return read(asked, Vector).values
        return self.past(self.sets[features], asked)

    def compare(self, record: Record) -> None:
        """Values now; the score once the whole batch that was scored together is known."""
        said = read(record, Prediction)
        self.count += 1
        if said.t_ms < self.horizons.get(said.features, NEVER):
            self.beyond += 1
            return self.queue(record, said)
        if said.o.n != self.last:
            self.values.pop(self.last, None)
            self.last = said.o.n
        if said.o.n not in self.values and said.features in self.sets:
            asked = self.log.read([said.source], Position(n=said.position), limit=1)[0][0]
            if said.o.n != asked.position:  # it had been buried, and came back there
                asked = Returned(**msgspec.structs.asdict(asked), again=said.o.n)
            self.values[said.o.n] = {said.features: self.again(said.features, asked)}
        values = self.values.get(said.o.n, {}).get(said.features, [])
        if not same(values, said.values):
            self.unequal.append(Unequal(record.id, record.position, _which(self.sets, said, values)))
        self.queue(record, said)

    def queue(self, record: Record, said: Prediction) -> None:
        """What was scored together is scored together."""
        group = self.group.setdefault(said.digest, [])
        if group and group[0][2].batch != said.batch:
            self.score(said.digest)
        self.group.setdefault(said.digest, []).append((record.id, record.position, said))

    def score(self, digest: str) -> None:
        """Score one batch again, in one call as it was."""
        group = self.group.pop(digest)
        able = [one for one in group if one[2].error in ("", "model_failed")]
        try:
            scores = answers(self.load(digest), [one[2].values for one in able]) if able else []
        except PenstockError as error:
            scores = [None] * len(able)
            if any(one[2].error == "" for one in able):
                self.unequal.append(
                    Unequal(able[0][0], able[0][1], f"the model cannot be loaded: {error.code}")
                )
                return
        for (id, position, said), score in zip(able, scores, strict=True):
            if not same([score], [said.score]):
                self.unequal.append(Unequal(id, position, "score"))


def verify(
    log: Log,
    model: str,
    request: Source,
    sets: Mapping[str, FeatureSet],
    load: Callable[[str], Model],
    past: Callable[[FeatureSet, Record], list[Value]],
    progress: Progress = lambda done, total: None,
) -> Verified:
    """Fold the log from its start and compare every prediction of a model with what is on it.

    `sets`: every feature set that its versions were bound to, by digest.
    """
    sweep = _Sweep(log, model, request, sets, load, past)
    topics = {topic for features in sets.values() for topic in features.topics}
    topics |= {request.topic, vectors(model), predictions(model), TICKS, AGAIN}
    stop = log.end()
    for records, position in folded(log, f"predict.{model}", sorted(topics), stop=stop, limit=4096):
        for record in records:
            sweep.fold(record)
        progress(position.n, stop.n)
    for digest in list(sweep.group):
        sweep.score(digest)
    unequal = sorted(sweep.unequal, key=lambda one: one.position)
    return Verified(sweep.count, unequal, sweep.beyond)


def same(a: Sequence[Value], b: Sequence[Value]) -> bool:
    """Equal in type and bits: 1 is not 1.0, NaN is NaN, and null is neither."""
    return len(a) == len(b) and all(_bits(x) == _bits(y) for x, y in zip(a, b, strict=True))


def _bits(value: Value) -> tuple[type, object]:
    return type(value), struct.pack("<d", value) if isinstance(value, float) else value


def _which(sets: Mapping[str, FeatureSet], said: Prediction, values: Sequence[Value]) -> str:
    if len(values) != len(said.values):
        return "features"
    names = sets[said.features].names
    return "feature " + next(
        n for n, a, b in zip(names, values, said.values, strict=True) if not same([a], [b])
    )
