"""record: what stands on a log: records, the drafts they are made from, and positions."""

from __future__ import annotations

import zlib
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
    """A draft with its place in the log's one order."""

    topic: str
    position: int
    id: str
    key: str
    time_ms: int
    value: bytes
    headers: dict[str, str] = NO_HEADERS

    @property
    def o(self) -> int:
        """The place from which on it counts: its own."""
        return self.position


def placed(draft: Draft, position: int) -> Record:
    """A draft that was given its place."""
    return Record(draft.topic, position, draft.id, draft.key, draft.time_ms, draft.value, draft.headers)


class Returned(Record, frozen=True, gc=False):
    """A record that a stage had buried, folded after all: itself, but it counts from `again` on."""

    again: int = 0

    @property
    def o(self) -> int:
        """The place from which on it counts: that of the word that brought it back."""
        return self.again


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place in the log's one order over all topics: everything below it has been seen."""

    n: int = 0

    def covers(self, record: Record) -> bool:
        """Whether the record lies below this position."""
        return record.position < self.n

    def __str__(self) -> str:
        return str(self.n)


START = Position()


def output_id(stage: str, topic: str, position: int, n: int) -> str:
    """The id of a stage's n-th output for one source record: the same whenever it is made again."""
    return f"{stage}:{topic}:{position}:{n}"


def partition(key: str, partitions: int) -> int:
    """The partition that a key's records belong to: one key, one partition, whoever computes it."""
    return zlib.crc32(key.encode()) % partitions


def below(records: Iterable[Record], position: Position) -> list[Record]:
    """The records that lie below a position, in order."""
    return [record for record in records if position.covers(record)]
