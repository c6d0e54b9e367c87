"""dataset: what a feature set was at (t, O), from the log: its state at O, and how far that knows of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.dataset.kept import horizon_ms
from penstock.feature import FeatureSet, Fold
from penstock.feature.lookup import Columns
from penstock.log import Log
from penstock.record.decisions import AGAIN, TICKS, Tick, read
from penstock.record.errors import Poison, Refused
from penstock.record.record import Position, Record
from penstock.stage import folded

Keys = Mapping[str, frozenset[str]]
"""By topic, whose events are wanted; of a topic that is not in it, all."""


class Standing:
    """A fold of the log, and until when it knows what happened: the newest tick, before any the newest event."""

    def __init__(self, fold: Fold, tick_ms: int | None = None) -> None:
        self.fold, self.tick_ms = fold, tick_ms
        self.event_ms: int | None = None
        self.poison: set[int] = set()

    def take(self, record: Record) -> None:
        """Fold a tick or a source's record; poison is left out, as the answering stage leaves it out."""
        if record.topic == TICKS:
            t_ms = read(record, Tick).t_ms
            self.fold.tick(t_ms)
            self.tick_ms = t_ms if self.tick_ms is None else max(self.tick_ms, t_ms)
            return
        try:
            self.fold.add(record)
        except Poison:
            self.poison.add(record.o)
            return
        if self.event_ms is None or record.time_ms > self.event_ms:
            self.event_ms = record.time_ms

    def newest_ms(self) -> int | None:
        """Until when it knows; None: it has seen nothing."""
        return self.event_ms if self.tick_ms is None else self.tick_ms

    def age_ms(self, t_ms: int) -> int | None:
        """How far that lies behind `t_ms`."""
        newest_ms = self.newest_ms()
        return None if newest_ms is None else max(0, t_ms - newest_ms)


def as_of(
    log: Log,
    name: str,
    features: FeatureSet,
    o: Position,
    entities: Iterable[Columns],
    going: Callable[[], None] = lambda: None,
) -> Standing:
    """What stage `name` had folded at `o`, as far as `entities` see it: one sweep over the log, in memory what
    is theirs. `going` is called between batches and may raise. Raises Refused where the log ends below `o`.
    """
    end = log.end()
    if not 0 <= o.n <= end.n:
        raise Refused("The log does not reach this position.", code="position", hint=f"It ends at {end}.")
    standing, keys = Standing(Fold(features, prune=False)), keys_of(features, list(entities))
    for records, _ in folded(log, name, (*features.topics, TICKS, AGAIN), stop=o, limit=4096):
        going()
        for record in records:
            if record.topic not in keys or record.key in keys[record.topic]:
                standing.take(record)
    return standing


def must_reach(log: Log, features: FeatureSet, t_ms: int) -> None:
    """Raise Refused where retention has taken what a look-up at `t_ms` would see."""
    if t_ms < horizon_ms(log, features):
        raise Refused("Retention has taken events that this looks back to.", code="log_passed")


def keys_of(features: FeatureSet, entities: Sequence[Columns]) -> Keys:
    """The keys of the events that entities see, where a topic is read by its key alone."""
    keys: dict[str, set[str]] = {}
    by_others = {one.topic for one in features.series if one.entity != features.sources[one.topic].key}
    for node in features.nodes:
        if node.aggregate is not None and (topic := node.aggregate.source.topic) not in by_others:
            asked = [str(one[node.entity]) for one in entities if node.entity in one]
            keys.setdefault(topic, set()).update(asked)
    return {topic: frozenset(some) for topic, some in keys.items()}
