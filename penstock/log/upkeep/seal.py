"""log: old batches sealed: written behind the tail, read back and compared, then put in their rows' place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from penstock.log import tables
from penstock.log.crash import Point, point
from penstock.log.machine import said_of_files, sync_folder, synced
from penstock.log.segments import FIELDS, Files, file_digest, groups, schema, segment_name
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Body, Segment, Topic
from penstock.log.upkeep.sweep import let_go, sweep_alone
from penstock.log.upkeep.turn import alone, rows, topic_of
from penstock.log.writing import Writing
from penstock.record.errors import Broken

SEGMENT_RECORDS = 1 << 18
SEGMENT_BYTES = 64 << 20
TAIL_RECORDS = 1 << 16
TAIL_BYTES = 16 << 20
"""Of each topic, so much stays rows, whichever is less: what is read most."""
_HOW: dict[str, Any] = {
    "compression": "zstd",
    "write_page_checksum": True,
    "use_dictionary": ["key"],
    "column_encoding": {"position": "DELTA_BINARY_PACKED", "time_ms": "DELTA_BINARY_PACKED"},
}
_SUMS = "SELECT coalesce(sum(n), 0), coalesce(sum(length(body)), 0) FROM batch WHERE place >= ? AND place < ?"
_SIZED = "SELECT place, n, length(body) FROM batch WHERE place >= ? AND place < ? ORDER BY place"


def seal(log: SqliteLog, *, records: int = SEGMENT_RECORDS, tail: int = TAIL_RECORDS) -> int:
    """Put what lies behind each topic's tail into segments of so many records, or SEGMENT_BYTES; how many
    records went. Writers go on meanwhile. Where another is at it, this does nothing."""
    done = 0
    with alone(log, wait=False) as mine:
        if mine:
            sweep_alone(log)
            for name in log.topics():
                while below := _due(log, name, records, tail):
                    done += _seal(log, name, below)
    return done


def worth(log: SqliteLog) -> bool:
    """Whether so many records of a topic lie behind its tail that there is a segment to make, without a look at
    how large they are."""
    with log._reading() as db:
        found = tables.facts(db, Topic).values()
    return any(at.total - max(at.ahead, at.dropped) >= SEGMENT_RECORDS + TAIL_RECORDS for at in found)


def sealed_below(log: SqliteLog, name: str) -> int:
    """The position below which a topic's records lie in segments."""
    with log._reading() as db:
        return topic_of(db, name).sealed


def _due(log: SqliteLog, name: str, records: int, tail: int) -> int:
    """What the batches of the next segment begin below; 0 while too little lies behind the tail."""
    with log._reading() as db:
        at = topic_of(db, name)
        begin = at.number * tables.SPAN
        among = begin + at.sealed, begin + at.last
        left_n, left_size = tables.row(db, _SUMS, among) or (0, 0)
        n = size = 0
        for place, held, length in db.execute(_SIZED, among):
            left_n, left_size = left_n - held, left_size - length
            if left_n < tail and left_size < TAIL_BYTES:
                return 0
            n, size = n + held, size + length
            if n >= records or size >= SEGMENT_BYTES:
                return int(place - begin + 1)
    return 0


def _seal(log: SqliteLog, name: str, below: int) -> int:
    start = sealed_below(log, name)
    with log._disk, said_of_files():
        made = write(log, name, start, below)
    compare(log, name, made, start, below)
    enter(log, name, made)
    let_go(log, name)
    return made.n


def enter(log: SqliteLog, name: str, made: Segment) -> None:
    """Let the log know of a segment, in place of the rows that lie in it."""

    def enter(writing: Writing) -> None:
        at = writing.topic(name)
        if at is None or at.sealed > made.base:
            raise Broken("The batches changed while they were sealed.", where=f"{name}@{made.base}")
        tables.put(writing.db, segment_name(at, made.base), made)
        writing.facts += 1
        point(Point.SEALED)
        writing.change(name, replace(at, sealed=made.last + 1, ahead=made.ahead + made.n))

    log._transact(enter, sync=True)


def write(log: SqliteLog, name: str, start: int, below: int) -> Segment:
    """Write the batches that begin in [start, below), at least one, to a file that is on the disk under its
    name when this returns."""
    parts = rows(log, name, start, below)
    first = next(parts)
    return store(log.chain.files, name, first.ahead, ((one.base, one.body) for one in chain([first], parts)))


def store(files: Files, name: str, ahead: int, bodies: Iterable[tuple[int, Body]]) -> Segment:
    """The same of records that are at hand, at least one; `ahead` lie before them."""
    import pyarrow.parquet as parquet

    first, n, last, newest_ms = tables.NOWHERE, 0, tables.NOWHERE, -(1 << 63)
    handle, path = tempfile.mkstemp(dir=files.folder, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            with parquet.ParquetWriter(file, schema(name), **_HOW) as writer:
                for group in groups(name, bodies):
                    writer.write_batch(group)
                    places = group.column("position")
                    first = places[0].as_py() if not n else first
                    n, last = n + len(group), places[-1].as_py()
                    newest_ms = max(newest_ms, int(group.column("time_ms").to_numpy().max()))
            file.flush()
            point(Point.SEGMENT_WRITTEN)
            synced(os.fsync, file.fileno())
        digest, size = file_digest(Path(path)), Path(path).stat().st_size
        made = Segment(first, last, n, ahead, size, newest_ms, digest)
        os.replace(path, files.path(name, made))
    except BaseException:  # half a file on a full disk would keep it full
        Path(path).unlink(missing_ok=True)
        raise
    sync_folder(files.folder)
    point(Point.SEGMENT_NAMED)
    return made


def compare(log: SqliteLog, name: str, made: Segment, start: int, below: int) -> None:
    """Read a segment back; raises Broken unless it holds just these batches."""
    files = log.chain.files
    left: Sequence[int] = range(len(files.opened(name, made).rows))
    bodies = ((one.base, one.body) for one in rows(log, name, start, below))
    for group in groups(name, bodies):
        if not left or not files.read(name, made, left[:1], FIELDS).to_batches()[0].equals(group):
            raise tables.damaged(name, made.base)
        left = left[1:]
    if left:
        raise tables.damaged(name, made.base)
