"""log: the tables of the SQLite engine, and what each write does to them within a transaction.

A row of `batch` holds the records of one topic that were written together, as columns, under a CRC
that also covers its place and its predecessor's: a batch that is changed, moved or missing is met by
whoever reads along its topic. The same writes in the same order give the same tables.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import apsw
import msgspec

from penstock.log import Append, Appended, Checkpoint, Claim, Commit, Drop, Write
from penstock.log.crash import Point, point
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken, Fenced, Refused
from penstock.record.record import NO_HEADERS, Draft, Position, Record

FORMAT = 3
NOWHERE = -1

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE IF NOT EXISTS topic(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL,
  first INTEGER NOT NULL DEFAULT 0, last INTEGER NOT NULL DEFAULT {NOWHERE}) STRICT;
CREATE TABLE IF NOT EXISTS batch(
  base INTEGER PRIMARY KEY, n INTEGER NOT NULL, topic INTEGER NOT NULL, prev INTEGER NOT NULL,
  crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS batch_topic ON batch(topic, base, n);
CREATE TABLE IF NOT EXISTS ident(
  topic INTEGER, id TEXT, position INTEGER NOT NULL, PRIMARY KEY(topic, id)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS producer(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS stage(
  name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state(
  stage TEXT PRIMARY KEY, position INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
INSERT OR IGNORE INTO meta VALUES('format', {FORMAT}), ('end', '0 new {zlib.crc32(b"0 new")}');
"""
_BASES = """
SELECT base FROM batch WHERE topic = ?1 AND base < ?3 AND base >=
  coalesce((SELECT max(base) FROM batch WHERE topic = ?1 AND base <= ?2), ?2) ORDER BY base"""


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The records of a batch as columns. `at`: each one's distance from the batch's base; None for 0, 1, 2...
    `ids`, `headers`: None when no record has any."""

    at: list[int] | None
    ids: list[str] | None
    keys: list[str]
    times: list[int]
    values: list[bytes]
    headers: list[dict[str, str]] | None

    def records(self, topic: str, base: int) -> tuple[Record, ...]:
        """The records, in order."""
        places = range(base, base + len(self.keys)) if self.at is None else [base + at for at in self.at]
        ids, headers = self.ids or repeat(""), self.headers or repeat(NO_HEADERS)
        return tuple(map(Record, repeat(topic), places, ids, self.keys, self.times, self.values, headers))

    def last(self, base: int) -> int:
        """The position of the last record."""
        return base + (self.at[-1] if self.at else len(self.keys) - 1)


def body(drafts: Sequence[Draft], places: Sequence[int]) -> Body:
    """The columns of drafts that come to lie at `places`."""
    base = places[0]
    dense = places[-1] - base == len(places) - 1
    return Body(
        None if dense else [at - base for at in places],
        [d.id for d in drafts] if any(d.id for d in drafts) else None,
        [d.key for d in drafts],
        [d.time_ms for d in drafts],
        [d.value for d in drafts],
        [d.headers for d in drafts] if any(d.headers for d in drafts) else None,
    )


# Reading: each within a read or write transaction of the caller's.


def end_of(db: apsw.Connection) -> int:
    """The position that the next record gets."""
    return int(end_and_mark(db)[0])


def end_and_mark(db: apsw.Connection) -> list[str]:
    """The log's end, and the mark of the transaction that wrote it, checked."""
    said = row(db, "SELECT value FROM meta WHERE key = 'end'")
    text, _, crc = str(said[0] if said else "").rpartition(" ")
    if crc != str(zlib.crc32(text.encode())):
        raise Broken("The log's end is damaged.", where="meta", hint="`penstock doctor` says more.")
    return text.split(" ")


def sign(db: apsw.Connection, end: int) -> list[str]:
    """Write the log's end under a mark that no other transaction has; both as `end_and_mark` will give them."""
    text = f"{end} {os.urandom(8).hex()}"
    value = f"{text} {zlib.crc32(text.encode())}"
    db.execute("UPDATE meta SET value = ? WHERE key = 'end'", (value,))
    return text.split(" ")


def must_fit(db: apsw.Connection) -> None:
    """Raise Broken where batches lie beyond the end: the parts of the file are of different times."""
    newest = row(db, "SELECT max(base) FROM batch")
    if newest and newest[0] is not None and newest[0] >= end_of(db):
        raise Broken(
            "The log holds records beyond its end.", where=f"log.db@{newest[0]}",
            hint="Was log.db-wal cut, or put beside another log.db?",
        )  # fmt: skip


def topic_of(db: apsw.Connection, name: str) -> tuple[int, int, int]:
    """A topic's number, the position that retention left, the base of its newest batch; all -1: no such topic."""
    found = row(db, "SELECT id, first, last FROM topic WHERE name = ?", (name,))
    return (found[0], found[1], found[2]) if found else (NOWHERE, NOWHERE, NOWHERE)


def bases(db: apsw.Connection, number: int, start: int, below: int) -> Iterator[tuple[int, int]]:
    """The bases, with the topic's number, of the batches that have records in [start, below), in order."""
    return ((base, number) for (base,) in db.execute(_BASES, (number, start, below)))


def batch(db: apsw.Connection, base: int, topic: str) -> tuple[int, Body]:
    """A batch's predecessor on its topic and its records, checked."""
    found = row(db, "SELECT prev, crc, body FROM batch WHERE base = ?", (base,))
    if found is None or check(found[2], topic, base, found[0]) != found[1]:
        raise damaged(topic, base)
    return found[0], unpack(found[2], Body)


def damaged(topic: str, base: int) -> Broken:
    """The error that names a batch that is not what was written."""
    return Broken(
        "A batch of the log is damaged.", where=f"{topic}@{base}", hint="`penstock doctor` says more."
    )


def place_of(db: apsw.Connection, number: int, id: str) -> int:
    """Where the record with this id lies; -1 for nowhere."""
    found = row(db, "SELECT position FROM ident WHERE topic = ? AND id = ?", (number, id))
    return found[0] if found else NOWHERE


def sequence_of(db: apsw.Connection, producer: str) -> int:
    """The highest sequence of a producer; 0 for none."""
    found = row(db, "SELECT sequence FROM producer WHERE name = ?", (producer,))
    return found[0] if found else 0


def owner(db: apsw.Connection, stage: str) -> tuple[int, int]:
    """A stage's epoch and position, checked; zeros when it never was claimed."""
    found = row(db, "SELECT epoch, position, crc FROM stage WHERE name = ?", (stage,))
    if found is None:
        return 0, 0
    if check(b"", stage, found[0], found[1]) != found[2]:
        raise Broken("A stage's checkpoint is damaged.", where=stage, hint="`penstock doctor` says more.")
    return found[0], found[1]


def checkpoint(db: apsw.Connection, stage: str) -> Checkpoint:
    """A stage's checkpoint with its state, checked."""
    epoch, position = owner(db, stage)
    found = row(db, "SELECT position, crc, body FROM state WHERE stage = ?", (stage,))
    if found is None:
        return Checkpoint(epoch, Position(n=position))
    if check(found[2], stage, found[0]) != found[1]:
        raise Broken("A stage's state is damaged.", where=stage, hint="`penstock doctor` says more.")
    return Checkpoint(epoch, Position(n=position), found[2], Position(n=found[0]))


# Writing.


class Writing:
    """One write transaction on its way: apply writes, then `close` before the COMMIT.

    `fresh` collects the batches made, as (topic, base, predecessor, body).
    """

    def __init__(self, db: apsw.Connection) -> None:
        self.db = db
        self.before = self.end = end_of(db)
        self.fresh: list[tuple[str, int, int, Body]] = []
        self.mark: list[str] = []
        self._topics: dict[str, tuple[int, int]] = {}  # number and newest base by name

    def apply(self, write: Write) -> Any:
        """The effect of one write; its answer is the port's. It refuses before it writes: nothing to undo."""
        if isinstance(write, Append):
            return self._append(write)
        if isinstance(write, Commit):
            return self._commit(write)
        if isinstance(write, Claim):
            return self._claim(write)
        return self._drop(write)

    def close(self) -> None:
        """Write what the transaction's writes share. Every transaction writes: SQLite syncs nothing for
        one that did not, though what it found standing may not be safe yet."""
        self.mark = sign(self.db, self.end)
        newest = {topic: base for topic, base, _, _ in self.fresh}
        for topic, base in newest.items():
            self.db.execute("UPDATE topic SET last = ? WHERE id = ?", (base, self._topics[topic][0]))

    def _append(self, write: Append) -> Appended:
        if write.producer:
            if write.sequence <= sequence_of(self.db, write.producer):
                return Appended([], list(range(len(write.drafts))), Position(n=self.end))
            row = (write.producer, write.sequence)
            self.db.execute("INSERT OR REPLACE INTO producer VALUES(?, ?)", row)
            point(Point.PRODUCER)
        return self._insert(write.drafts)

    def _claim(self, write: Claim) -> Checkpoint:
        epoch, position = owner(self.db, write.stage)
        self._own(write.stage, epoch + 1, position)
        return checkpoint(self.db, write.stage)

    def _commit(self, write: Commit) -> Appended:
        epoch, position = owner(self.db, write.stage)
        if write.epoch != epoch or not epoch:
            raise Fenced(where=write.stage)
        if write.position.n < position:
            raise Refused("A stage's position does not go back.", where=write.stage, code="position")
        self._own(write.stage, epoch, write.position.n)
        point(Point.OWNER, write.stage)
        if write.state is not None:
            self.keep(write.stage, write.position.n, write.state)
            point(Point.STATE, write.stage)
        return self._insert(write.outputs)

    def _own(self, stage: str, epoch: int, position: int) -> None:
        crc = check(b"", stage, epoch, position)
        self.db.execute("INSERT OR REPLACE INTO stage VALUES(?, ?, ?, ?)", (stage, epoch, position, crc))

    def keep(self, stage: str, position: int, state: bytes) -> None:
        """A stage's state at a position, in place of the one before."""
        crc = check(state, stage, position)
        self.db.execute("INSERT OR REPLACE INTO state VALUES(?, ?, ?, ?)", (stage, position, crc, state))

    def _drop(self, write: Drop) -> int:
        number, _, _ = topic_of(self.db, write.topic)
        gone, first = 0, NOWHERE
        for base, _ in list(bases(self.db, number, 0, write.below)):
            _, held = batch(self.db, base, write.topic)
            if held.last(base) >= write.below:
                break
            first = held.last(base) + 1
            ids = [(number, id) for id in held.ids or () if id]
            self.db.executemany("DELETE FROM ident WHERE topic = ? AND id = ?", ids)
            self.db.execute("DELETE FROM batch WHERE base = ?", (base,))
            gone += len(held.keys)
        if gone:
            point(Point.FORGOTTEN)
            self.db.execute("UPDATE topic SET first = ? WHERE id = ?", (first, number))
        return gone

    def _insert(self, drafts: Sequence[Draft]) -> Appended:
        """Give the drafts their positions. Ids are tried all at once, and one by one if some stand already."""
        if not drafts:
            return Appended([], [], Position(n=self.end))
        names = {draft.topic for draft in drafts}
        numbers = {name: self._topic(name)[0] for name in names}
        places = list(range(self.end, self.end + len(drafts)))
        repeats: list[int] = []
        named = [(numbers[d.topic], d.id, at) for d, at in zip(drafts, places, strict=True) if d.id]
        if named:
            before = self.db.total_changes()
            self.db.executemany("INSERT OR IGNORE INTO ident VALUES(?, ?, ?)", named)
            if self.db.total_changes() - before < len(named):
                sql = "DELETE FROM ident WHERE topic = ? AND id = ? AND position = ?"
                self.db.executemany(sql, named)
                places, repeats = self._place(drafts, numbers)
            point(Point.IDS)
        fresh, at = list(drafts), places
        if repeats:
            repeated = set(repeats)
            kept = [i for i in range(len(drafts)) if i not in repeated]
            fresh, at = [drafts[i] for i in kept], [places[i] for i in kept]
        if len(names) == 1:
            self._insert_batch(drafts[0].topic, fresh, at)
        else:
            for name in sorted(names):
                mine = [i for i, draft in enumerate(fresh) if draft.topic == name]
                self._insert_batch(name, [fresh[i] for i in mine], [at[i] for i in mine])
        self.end += len(fresh)
        return Appended(places, repeats, Position(n=self.end))

    def _insert_batch(self, topic: str, drafts: Sequence[Draft], places: Sequence[int]) -> None:
        if not drafts:
            return
        number, prev = self._topics[topic]
        base, held = places[0], body(drafts, places)
        data = pack(held)
        row = (base, len(drafts), number, prev, check(data, topic, base, prev), data)
        self.db.execute("INSERT INTO batch VALUES(?, ?, ?, ?, ?, ?)", row)
        self._topics[topic] = number, base
        self.fresh.append((topic, base, prev, held))
        point(Point.BATCH)

    def _topic(self, name: str) -> tuple[int, int]:
        found = self._topics.get(name)
        if found is None:
            number, _, last = topic_of(self.db, name)
            if number == NOWHERE:
                self.db.execute("INSERT INTO topic(name) VALUES(?)", (name,))
                number = self.db.last_insert_rowid()
            found = self._topics[name] = number, last
        return found

    def _place(self, drafts: Sequence[Draft], numbers: dict[str, int]) -> tuple[list[int], list[int]]:
        """The position of each draft, and the indices of those whose id stands already."""
        places: list[int] = []
        repeats: list[int] = []
        end = self.end
        for i, draft in enumerate(drafts):
            number = numbers[draft.topic]
            first = place_of(self.db, number, draft.id) if draft.id else NOWHERE
            if first != NOWHERE:
                repeats.append(i)
                places.append(first)
                continue
            if draft.id:
                self.db.execute("INSERT INTO ident VALUES(?, ?, ?)", (number, draft.id, end))
            places.append(end)
            end += 1
        return places, repeats


def row(db: apsw.Connection, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query."""
    return db.execute(sql, values).fetchone()


def check(data: bytes | None, *place: str | int) -> int:
    """The CRC of bytes and of the place that they belong to. A damaged page may give null for bytes."""
    return zlib.crc32(data or b"", zlib.crc32(repr(place).encode()))
