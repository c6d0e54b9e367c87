"""dataset: what retention took, told on the log before it goes: from when on rows can be made again."""

from __future__ import annotations

import sys

import msgspec

from penstock.feature import FeatureSet
from penstock.log import Log
from penstock.record.decisions import RETENTION, read
from penstock.record.record import Position
from penstock.stage import every

NEVER = -sys.maxsize


class Retained(msgspec.Struct, frozen=True):
    """A topic was let begin at `first`: `records` older ones went, all of event times below `before_ms`."""

    topic: str
    first: Position
    before_ms: int
    records: int
    t_ms: int


def cuts(log: Log) -> dict[str, int]:
    """By topic, the event time below which events may be gone."""
    found: dict[str, int] = {}
    for record in every(log, [RETENTION]):
        one = read(record, Retained)
        found[one.topic] = max(one.before_ms, found.get(one.topic, NEVER))
    return found


def span_ms(features: FeatureSet, topic: str) -> int | None:
    """How far back the features of a request reach into a topic; None: over all of it."""
    over = [node.aggregate for node in features.nodes if node.aggregate is not None]
    windows = [one.window_ms for one in over if one.source.topic == topic]
    return max(windows, default=0) if all(windows) else None


def horizon_ms(log: Log, features: FeatureSet) -> int:
    """The event time from which on requests see all that they saw when they came."""
    latest = NEVER
    for topic, before_ms in cuts(log).items():
        if topic in (features.request.topic, *features.topics):
            reach = span_ms(features, topic)
            latest = max(latest, sys.maxsize if reach is None else before_ms + reach)
    return latest
