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
from penstock.log.machine import sync_folder, synced
from penstock.log.segments import FIELDS, Files, file_digest, groups, schema, segment_name
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Body, Segment
from penstock.log.upkeep.sweep import let_go, sweep_alone
from penstock.log.upkeep.turn import alone, rows, topic_of
from penstock.log.writing import Writing
from penstock.record.errors import Broken

SEGMENT_RECORDS = 1 << 18
SEGMENT_BYTES = 64 << 20
TAIL_RECORDS = 1 << 16
"""Of each topic, so many records stay rows: what is read most."""
_HOW: dict[str, Any] = {
    "compression": "zstd",
    "write_page_checksum": True,
    "use_dictionary": ["key"],
    "column_encoding": {"position": "DELTA_BINARY_PACKED", "time_ms": "DELTA_BINARY_PACKED"},
}
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


def _due(log: SqliteLog, name: str, records: int, tail: int) -> int:
    """The base that the next segment ends before; 0 while too little lies behind the tail."""
    with log._reading() as db:
        at = topic_of(db, name)
        begin, spare = at.number * tables.SPAN, at.total - at.ahead - tail
        if spare < records:
            return 0
        n = size = 0
        for place, held, length in db.execute(_SIZED, (begin + at.sealed, begin + at.last)):
            if n >= records or size >= SEGMENT_BYTES or n + held > spare:
                return place - begin if n else 0
            n, size = n + held, size + length
        return at.last if n else 0


def _seal(log: SqliteLog, name: str, below: int) -> int:
    with log._reading() as db:
        start = topic_of(db, name).sealed
    made = write(log, name, start, below)
    compare(log, name, made, start, below)

    def enter(writing: Writing) -> None:
        at = writing.topic(name)
        if at is None or at.sealed != start:
            raise Broken("The batches changed while they were sealed.", where=f"{name}@{made.base}")
        tables.put(writing.db, segment_name(at, made.base), made)
        writing.facts += 1
        point(Point.SEALED)
        writing.change(name, replace(at, sealed=made.last + 1, ahead=made.ahead + made.n))

    log._transact(enter, sync=True)
    let_go(log, name)
    return made.n


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
