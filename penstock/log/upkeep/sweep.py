"""log: what is no longer in force taken away: rows that lie in a segment, what retention dropped, stray files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from penstock.log import tables
from penstock.log.crash import Point, point
from penstock.log.machine import said_of_files
from penstock.log.segments import segment_name, segments
from penstock.log.sqlite import PAGE_BYTES, SqliteLog
from penstock.log.tables import Body, Segment
from penstock.log.upkeep.turn import LOCK, PIECE, alone, change, rows, topic_of
from penstock.log.writing import Writing
from penstock.record.errors import Broken

FOLD_S = 2.0
"""How long others that read or fold the WAL are waited for."""
_BATCH = "DELETE FROM batch WHERE place = ?"
_ID = "DELETE FROM ident WHERE topic = ? AND id = ? AND position = ?"
_LEFT = "SELECT place FROM batch WHERE place >= ? AND place < ? ORDER BY place"


def sweep(log: SqliteLog) -> None:
    """Take away what retention or a segment has put out of force."""
    with alone(log, wait=True):
        sweep_alone(log)


def sweep_alone(log: SqliteLog) -> None:
    """The same for who is alone already. A file is a stray only as far as all that the log knew is known."""
    with log._reading() as db:
        tables.must_hold(db)
    for name in log.topics():
        let_go(log, name)
        with log._reading() as db:
            at = topic_of(db, name)
            files = [one for one in segments(db, at, 0, at.first) if one.last < at.first]
        for one in rows(log, name, at.sealed, at.first):
            if one.last < at.first:
                _forget(log, at.number, [(one.base, one.body)])
                change(log, _BATCH, [(at.number * tables.SPAN + one.base,)])
        for made in files:
            with suppress(Broken):  # then its ids stay, out of force as they are
                _forget(log, at.number, _bodies(log, name, made))
            _remove(log, segment_name(at, made.base))
    for path in strays(log):
        point(Point.STRAY)
        with said_of_files():
            os.unlink(path)


def let_go(log: SqliteLog, name: str) -> None:
    """Delete the batches of a topic that lie in segments."""
    with log._reading() as db:
        at = topic_of(db, name)
        begin = at.number * tables.SPAN
        sealed = list(db.execute(_LEFT, (begin, begin + at.sealed)))
    change(log, _BATCH, sealed)


def shrink(log: SqliteLog) -> int:
    """Give the file system back the pages that are free; the bytes that the file lost."""
    _fold(log)
    before, free = _bytes(log), [1]

    def cut(writing: Writing) -> None:
        for _ in writing.db.execute(f"PRAGMA incremental_vacuum({PIECE})"):
            pass
        free.append((tables.row(writing.db, "PRAGMA freelist_count") or (0,))[0])

    while free[-1]:
        log._transact(cut, sync=False)
        if free[-1] == free[-2]:
            break
    _fold(log)
    return before - _bytes(log)


def _bytes(log: SqliteLog) -> int:
    """What the file is once the WAL is folded into it, be that now or later."""
    with log._reading() as db:
        return PAGE_BYTES * int((tables.row(db, "PRAGMA page_count") or (0,))[0])


def _fold(log: SqliteLog) -> None:
    """The WAL into the database: only then is its file what the log needs. Whoever folds it at this moment is
    waited for; a reader that goes on holding it is not."""
    until_s = time.monotonic() + FOLD_S
    while True:
        with log._disk:
            (busy, *_) = tables.row(log._reader(), "PRAGMA wal_checkpoint(TRUNCATE)") or (0,)
        if not busy or time.monotonic() > until_s:
            return
        time.sleep(0.01)


def strays(log: SqliteLog) -> list[str]:
    """Files that no segment names: of sealings that ended too early, and of what was dropped."""
    files = log.chain.files
    if not files.folder.exists():
        return []
    there = [one for one in os.scandir(files.folder) if one.name != LOCK]
    known = set()
    for name in log.topics():
        with log._reading() as db:
            at = topic_of(db, name)
            known |= {files.path(name, one).name for one in segments(db, at, 0, at.sealed)}
    return [one.path for one in there if one.name not in known]


def _bodies(log: SqliteLog, name: str, made: Segment) -> Iterator[tuple[int, Body]]:
    files = log.chain.files
    for base, group in files.groups(name, made, 0, made.last + 1):
        yield base, files.body(name, made, group)


def _forget(log: SqliteLog, number: int, bodies: Iterable[tuple[int, Body]]) -> None:
    for base, body in bodies:
        named = zip(body.ids or (), body.places(base), strict=False)
        change(log, _ID, [(number, id, at) for id, at in named if id])


def _remove(log: SqliteLog, name: str) -> None:
    """Forget a segment: its file is a stray then."""

    def leave(writing: Writing) -> None:
        writing.db.execute("DELETE FROM fact WHERE kind = 'segment' AND name = ?", (name,))
        writing.facts -= 1

    log._transact(leave, sync=True)
