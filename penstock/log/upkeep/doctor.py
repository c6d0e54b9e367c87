"""log: the health of a log: sizes and counts at once, and whether all of it is what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from penstock.log import tables
from penstock.log.chain import begun
from penstock.log.machine import file_system
from penstock.log.segments import segments
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Body, Segment, Stage, Topic
from penstock.record.errors import Broken, PenstockError

PIECE = 200
"""Batches looked at in one read transaction: none is held for long."""


class Problem(NamedTuple):
    """Something that is not what was written: where, and what of it."""

    where: str
    what: str


def health(log: SqliteLog) -> dict[str, Any]:
    """What `penstock doctor` shows first. Sizes in bytes."""
    wal, end = Path(f"{log.path}-wal"), log.end().n
    with log._reading() as db:  # sizes not of the files: a sweep may take one away
        free, page = (tables.row(db, f"PRAGMA {name}") or (0,) for name in ("freelist_count", "page_size"))
        sealed = sum(one.size for one in tables.facts(db, Segment).values())
    return {
        "sqlite": apsw.sqlite_lib_version(),
        "file_system": file_system(log.path.parent),
        "free_bytes": shutil.disk_usage(log.path.parent).free,
        "log_bytes": log.path.stat().st_size,
        "spare_bytes": free[0] * page[0],
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "sealed_bytes": sealed,
        "end": end,
        "records": {topic: log.count(topic) for topic in log.topics()},
        "behind": {name: max(0, end - at.position.n) for name, at in log.stages().items()},
        **log.about(),
    }


def examine(log: SqliteLog, told: Callable[[int], None] = lambda records: None) -> Iterator[Problem]:
    """Read all of a log, each batch, segment, id and state, and name what is not right. `told` hears now and
    then how many records were read. Writers go on meanwhile."""
    with log._reading() as db:
        found = tables.row(db, "PRAGMA quick_check(1)")
        topics, stages = list(tables.facts(db, Topic)), list(tables.facts(db, Stage))
    if found != ("ok",):
        yield Problem("log.db", str(found[0] if found else "unreadable").splitlines()[-1])
    for name in topics:
        yield from _Topic(log, name, told).examine()
    for name in stages:
        try:
            log.load(name)
        except Broken as error:
            yield Problem(error.where or name, error.what)


class _Topic:
    """A topic on its way through the doctor's hands. Retention and sealing may go on meanwhile: each look begins
    where the one before ended, in whatever the records lie by then."""

    def __init__(self, log: SqliteLog, name: str, told: Callable[[int], None]) -> None:
        self.log, self.name, self.told = log, name, told
        self.records = self.ids = 0
        self.seen = self.first = tables.NOWHERE  # the last position that was looked at; where the topic began
        self.ahead: int | None = None  # how many records should lie ahead of the next link; none after damage
        self.damaged = False
        self.found: list[Problem] = []

    def examine(self) -> Iterator[Problem]:
        """Its problems, in order."""
        while True:
            with self.log._reading() as db:
                at = self._at(db)
                start = self._start(at)
                left = segments(db, at, start, at.sealed) if start < at.sealed else iter(())
                made = next((one for one in left if one.last >= start), None)
                piece = [] if made else self._rows(db, at, start)
                if not made and not piece:
                    self._whole(db, at)
            if made:
                self._segment(made, start)
            yield from self.found
            self.found.clear()
            self.told(self.records)
            if not made and not piece:
                return

    def _at(self, db: apsw.Connection) -> Topic:
        return tables.fact(db, Topic, self.name) or Topic(0)

    def _start(self, at: Topic) -> int:
        """Where to look next. What retention has dropped since is not missed."""
        start = max(self.seen + 1, at.first)
        if at.first > self.first:
            if at.first > self.seen:
                self.ahead = begun(at, at.first)
            self.first = at.first
        return start

    def _problem(self, place: int, what: str) -> None:
        self.damaged = True
        self.found.append(Problem(f"{self.name}@{place}", what))

    def _rows(self, db: apsw.Connection, at: Topic, start: int) -> list[int]:
        """Look at some batches."""
        bases = (base for base in tables.bases(db, at, start, at.last + 1) if base > self.seen)
        piece = list(islice(bases, PIECE))
        for base in piece:
            self._batch(db, at, base, start)
        return piece

    def _segment(self, made: Segment, start: int) -> None:
        files = self.log.chain.files
        try:
            self._next(made.base, made.ahead, made.n, start)
            files.verify(self.name, made)
            for base, group in files.groups(self.name, made, start, made.last + 1):
                body = files.body(self.name, made, group)
                with self.log._reading() as db:
                    self._ids(db, self._at(db), base, body, start)
        except Broken as error:
            with self.log._reading() as db:
                if made.last >= self._at(db).first:  # it was not dropped meanwhile
                    self._problem(made.base, error.what)
        self.seen = made.last

    def _batch(self, db: apsw.Connection, at: Topic, base: int, start: int) -> None:
        self.seen = base
        try:
            ahead, body = tables.batch(db, at, self.name, base)
        except PenstockError as error:
            self._problem(base, error.what)
            self.ahead = None
        else:
            self._next(base, ahead, len(body.keys), start)
            self._ids(db, at, base, body, start)
            self.seen = body.last(base)

    def _next(self, base: int, ahead: int, n: int, start: int) -> None:
        if self.ahead is not None and ahead != self.ahead and base >= start:
            self._problem(base, f"{abs(ahead - self.ahead)} records that should lie before it do not.")
        self.ahead = ahead + n
        self.records += n

    def _ids(self, db: apsw.Connection, at: Topic, base: int, body: Body, start: int) -> None:
        for place, id in zip(body.places(base), body.ids or (), strict=False):
            if id and place >= max(start, at.first):
                self.ids += 1
                if tables.place_of(db, at, id) != place:
                    self._problem(place, "The id of this record is not known, or is another's.")

    def _whole(self, db: apsw.Connection, at: Topic) -> None:
        if self.ahead is not None and max(self.ahead, at.dropped) != at.total:
            self._problem(at.last, "The newest records are missing.")
        known = "SELECT count(*) FROM ident WHERE topic = ? AND position >= ?"
        ids = (tables.row(db, known, (at.number, at.first)) or (0,))[0]
        if ids > self.ids and not self.damaged:
            self._problem(at.first, f"{ids - self.ids} ids are known of no record.")
