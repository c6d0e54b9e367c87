"""record: what stands on a log: records, the drafts they are made from, and positions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

NO_HEADERS: dict[str, str] = {}


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A record before the log has given it a place.

    `time_ms` is event time in UTC milliseconds. Within a topic an `id` stands at most once;
    a draft without one is never taken for a repeat.
    """

    topic: str
    key: str
    time_ms: int
    value: bytes
    id: str = ""
    headers: dict[str, str] = NO_HEADERS


class Record(msgspec.Struct, frozen=True, gc=False):
    """A draft with its place: `position` on `partition` of `topic`."""

    topic: str
    partition: int
    position: int
    id: str
    key: str
    time_ms: int
    value: bytes
    headers: dict[str, str] = NO_HEADERS


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the whole log: everything below it has been seen.

    On a log with one order over all topics it is the number `n`; on a log of independent
    partitions it is `parts`, the next offset by "topic/partition". Only one of them is used.
    """

    n: int = 0
    parts: dict[str, int] = {}

    def covers(self, record: Record) -> bool:
        """Whether the record lies below this position."""
        if self.parts:
            return record.position < self.parts.get(f"{record.topic}/{record.partition}", 0)
        return record.position < self.n

    def __str__(self) -> str:
        if self.parts:
            return ",".join(f"{part}:{n}" for part, n in sorted(self.parts.items()))
        return str(self.n)


START = Position()


def output_id(stage: str, source: Record, n: int) -> str:
    """The id of a stage's n-th output for one source record: the same whenever it is made again."""
    return f"{stage}:{source.topic}:{source.partition}:{source.position}:{n}"


def below(records: Iterable[Record], position: Position) -> list[Record]:
    """The records that lie below a position, in order."""
    return [record for record in records if position.covers(record)]
