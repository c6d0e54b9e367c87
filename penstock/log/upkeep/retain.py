"""log: what may go of a topic: its oldest segments and batches, by age and by size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from penstock.log import tables
from penstock.log.segments import segments
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.turn import rows
from penstock.record.codec import pack
from penstock.record.record import Position

_ROWS = "SELECT coalesce(sum(length(body)), 0) FROM batch WHERE place >= ? AND place < ?"


class Old(NamedTuple):
    """What may go: all below a position, so many bytes, all of event times below `before_ms`."""

    below: Position
    before_ms: int
    size: int


class _Held(NamedTuple):
    end: int
    size: int
    newest_ms: int


def oldest(
    log: SqliteLog,
    topic: str,
    *,
    before_ms: int | None,
    most_bytes: int | None,
    below: Position,
    until_ms: int,
) -> Old | None:
    """The oldest segments and batches of a topic that lie below a position, have no event from `until_ms` on,
    and are older than `before_ms` or more than the topic's newest `most_bytes`; None when nothing is."""
    total = _size(log, topic) if most_bytes is not None else 0
    found = Old(Position(), -(1 << 63), 0)
    for one in _held(log, topic):
        aged = before_ms is not None and one.newest_ms < before_ms
        spare = most_bytes is not None and total - found.size > most_bytes
        if one.end > below.n or one.newest_ms >= until_ms or not (aged or spare):
            break
        newest = max(found.before_ms, one.newest_ms + 1)
        found = Old(Position(n=one.end), newest, found.size + one.size)
    return found if found.below.n else None


def _held(log: SqliteLog, topic: str) -> Iterator[_Held]:
    with log._reading() as db:
        at = tables.fact(db, tables.Topic, topic)
        files = [one for one in segments(db, at, at.first, at.sealed) if one.last >= at.first] if at else []
    if at is None:
        return
    sealed = (_Held(one.last + 1, one.size, one.newest_ms) for one in files)
    loose = (
        _Held(one.last + 1, len(pack(one.body)), max(one.body.times))
        for one in rows(log, topic, max(at.sealed, at.first), at.last + 1)
    )
    yield from chain(sealed, loose)


def _size(log: SqliteLog, topic: str) -> int:
    with log._reading() as db:
        at = tables.fact(db, tables.Topic, topic)
        if at is None:
            return 0
        begin = at.number * tables.SPAN
        loose = tables.row(db, _ROWS, (begin + max(at.sealed, at.first), begin + tables.SPAN)) or (0,)
        return int(loose[0]) + sum(one.size for one in segments(db, at, at.first, at.sealed))
