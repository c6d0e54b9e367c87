"""log: the health of a log: sizes and counts at once, and whether all of it is what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from penstock.log import tables
from penstock.log.machine import file_system
from penstock.log.segments import segments
from penstock.log.sqlite import SqliteLog
from penstock.log.tables import Body, Stage, Topic
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
    return {
        "sqlite": apsw.sqlite_lib_version(),
        "file_system": file_system(log.path.parent),
        "free_bytes": shutil.disk_usage(log.path.parent).free,
        "log_bytes": log.path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "sealed_bytes": sum(one.stat().st_size for one in log.chain.files.folder.glob("*.parquet")),
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
    """A topic on its way through the doctor's hands."""

    def __init__(self, log: SqliteLog, name: str, told: Callable[[int], None]) -> None:
        self.log, self.name, self.told = log, name, told
        self.records = self.ids = 0
        self.ahead: int | None = 0  # at least so many records lie ahead of the next link; none after damage
        self.found: list[Problem] = []

    def examine(self) -> Iterator[Problem]:
        """Its problems, in order."""
        yield from self._sealed()
        seen = tables.NOWHERE
        while True:
            with self.log._reading() as db:
                at = self._at(db)
                bases = tables.bases(db, at, max(seen, at.first), at.last + 1)
                piece = [base for base in islice(bases, PIECE) if base > seen]
                for base in piece:
                    self._batch(db, at, base)
                if not piece:
                    self._whole(db, at)
            yield from self.found
            self.found.clear()
            self.told(self.records)
            if not piece:
                return
            seen = piece[-1]

    def _at(self, db: apsw.Connection) -> Topic:
        return tables.fact(db, Topic, self.name) or Topic(0)

    def _problem(self, place: int, what: str) -> None:
        self.found.append(Problem(f"{self.name}@{place}", what))

    def _sealed(self) -> Iterator[Problem]:
        files = self.log.chain.files
        with self.log._reading() as db:
            at = self._at(db)
            made = list(segments(db, at, at.first, at.sealed))
        for one in made:
            try:
                self._next(at, one.base, one.ahead, one.n)
                files.verify(self.name, one)
                for base, group in files.groups(self.name, one, 0, one.last + 1):
                    body = files.body(self.name, one, group)
                    with self.log._reading() as db:
                        self._ids(db, self._at(db), base, body)
            except Broken as error:
                self._problem(one.base, error.what)
            yield from self.found
            self.found.clear()
            self.told(self.records)

    def _batch(self, db: apsw.Connection, at: Topic, base: int) -> None:
        try:
            ahead, body = tables.batch(db, at, self.name, base)
        except PenstockError as error:
            self._problem(base, error.what)
            self.ahead = None
        else:
            self._next(at, base, ahead, len(body.keys))
            self._ids(db, at, base, body)

    def _next(self, at: Topic, base: int, ahead: int, n: int) -> None:
        due = None if self.ahead is None else max(self.ahead, at.dropped)
        if due is not None and ahead != due and base >= at.first:
            self._problem(base, f"{abs(ahead - due)} records that should lie before it do not.")
        self.ahead = ahead + n
        self.records += n

    def _ids(self, db: apsw.Connection, at: Topic, base: int, body: Body) -> None:
        for place, id in zip(body.places(base), body.ids or (), strict=False):
            if id and place >= at.first:
                self.ids += 1
                if tables.place_of(db, at, id) != place:
                    self._problem(place, "The id of this record is not known, or is another's.")

    def _whole(self, db: apsw.Connection, at: Topic) -> None:
        if self.ahead is not None and max(self.ahead, at.dropped) != at.total:
            self._problem(at.last, "The newest records are missing.")
        known = "SELECT count(*) FROM ident WHERE topic = ? AND position >= ?"
        ids = (tables.row(db, known, (at.number, at.first)) or (0,))[0]
        if ids > self.ids and self.ahead is not None:
            self._problem(at.first, f"{ids - self.ids} ids are known of no record.")
