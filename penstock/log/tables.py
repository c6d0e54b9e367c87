"""log: the tables of the SQLite engine. What they mean is `chain`'s to read and `writing`'s to change.

A row of `batch` holds the records of one topic that were written together, as columns, under a CRC that
covers its place and how many records came before it too. All that is small (the log's end, topics,
stages, producers) is a `fact` under a CRC, and the end counts them: none can be changed or go unnoticed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, TypeVar

import apsw
import msgspec

from penstock.log import Checkpoint
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken
from penstock.record.record import NO_HEADERS, Draft, Position, Record

FORMAT = 4
NOWHERE = -1
PIECE_BYTES = 256 << 10
"""A larger state lies in pieces of so much. They are written before the commit that they belong to, one at a time, so
that others write in between."""
SPAN = 1 << 48
"""The place of a batch is its topic's number times this, and its base: a topic's batches lie together."""

SCHEMA = f"""
CREATE TABLE fact(
  kind TEXT, name TEXT, crc INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(kind, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE batch(
  place INTEGER PRIMARY KEY, n INTEGER NOT NULL, ahead INTEGER NOT NULL, crc INTEGER NOT NULL,
  body BLOB NOT NULL) STRICT;
CREATE TABLE ident(
  topic INTEGER, id TEXT, position INTEGER NOT NULL, PRIMARY KEY(topic, id)) STRICT, WITHOUT ROWID;
CREATE TABLE state(stage TEXT PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
PRAGMA user_version = {FORMAT};
"""
_NEWEST = "SELECT coalesce(max(place) - ?1, -1) FROM batch WHERE place >= ?1 AND place < ?1 + ?2"
_BASES = """
SELECT place - ?1 FROM batch WHERE place < ?1 + ?4 AND place >= coalesce(
  (SELECT max(place) FROM batch WHERE place >= ?1 + ?2 AND place <= ?1 + ?3), ?1 + ?2) ORDER BY place"""
_STATE = "SELECT crc, coalesce(CAST(body AS BLOB), x'') FROM state WHERE stage = ?"
_PIECES = "SELECT coalesce(CAST(body AS BLOB), x'') FROM state WHERE stage >= ?1 AND stage < ?1 || '~' ORDER BY stage"
_LIE = "SELECT count(*) FROM state WHERE stage >= ?1 AND stage < ?1 || '~'"
_STALE = """DELETE FROM state WHERE rowid IN (SELECT rowid FROM state WHERE stage >= ?1 AND stage < ?1 || '~'
  AND NOT (stage >= ?2 AND stage < ?2 || '~') AND NOT (stage >= ?3 AND stage < ?3 || '~') LIMIT ?4)"""


class Fact(msgspec.Struct, frozen=True, array_like=True):
    """Something small that the log knows. Its kind is the name of its class."""


F = TypeVar("F", bound=Fact)


class End(Fact, frozen=True):
    """`n`: the position that the next record gets; `mark`: of the transaction that wrote this, which no
    other has; `facts`: how many there are beside this one."""

    n: int = 0
    mark: str = ""
    facts: int = 0


class Topic(Fact, frozen=True):
    """`first`, `dropped`: where retention lets it begin, and how many records it dropped; `sealed`, `ahead`:
    below where its records lie in segments, and how many were written before that place; `last`: the base
    of its newest batch; `total`: how many records were ever written."""

    number: int
    first: int = 0
    dropped: int = 0
    sealed: int = 0
    ahead: int = 0
    last: int = NOWHERE
    total: int = 0


class Segment(Fact, frozen=True):
    """A file of `n` records of one topic, from `base` to `last`; `ahead` were written before. `size`: bytes;
    `newest_ms`: the latest event time; `digest`: of the file's bytes."""

    base: int
    last: int
    n: int
    ahead: int
    size: int
    newest_ms: int
    digest: str


class Stage(Fact, frozen=True):
    """How far a stage has come under which epoch; `state`: the position that its state stands at."""

    epoch: int = 0
    position: int = 0
    state: int = NOWHERE

    def checkpoint(self, state: bytes = b"") -> Checkpoint:
        """The same in the words of the port."""
        return Checkpoint(self.epoch, Position(n=self.position), state, Position(n=max(0, self.state)))


class Producer(Fact, frozen=True):
    """The highest sequence of a producer."""

    sequence: int = 0


KINDS: tuple[type[Fact], ...] = (End, Topic, Segment, Stage, Producer)


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The records of a batch as columns. `at`: each one's distance from the batch's base; None for 0, 1, 2...
    `ids`, `headers`: None when no record has any."""

    at: list[int] | None
    ids: list[str] | None
    keys: list[str]
    times: list[int]
    values: list[bytes]
    headers: list[dict[str, str]] | None

    def places(self, base: int) -> Sequence[int]:
        """The records' positions."""
        return range(base, base + len(self.keys)) if self.at is None else [base + at for at in self.at]

    def records(self, topic: str, base: int) -> tuple[Record, ...]:
        """The records, in order."""
        ids, headers = self.ids or repeat(""), self.headers or repeat(NO_HEADERS)
        columns = self.places(base), ids, self.keys, self.times, self.values, headers
        return tuple(map(Record, repeat(topic), *columns))

    def last(self, base: int) -> int:
        """The position of the last record."""
        return base + (self.at[-1] if self.at else len(self.keys) - 1)


def body(drafts: Sequence[Draft], places: Sequence[int]) -> Body:
    """The columns of drafts that come to lie at `places`."""
    base = places[0]
    dense = places[-1] - base == len(places) - 1
    ids, headers = [d.id for d in drafts], [d.headers for d in drafts]
    return Body(
        None if dense else [at - base for at in places],
        ids if any(ids) else None,
        [d.key for d in drafts],
        [d.time_ms for d in drafts],
        [d.value for d in drafts],
        headers if any(headers) else None,
    )


# Facts.


def fact(db: apsw.Connection, kind: type[F], name: str = "") -> F | None:
    """What the log knows under a name, checked; None when nothing."""
    word = kind.__name__.lower()
    found = row(db, "SELECT crc, body FROM fact WHERE kind = ? AND name = ?", (word, name))
    return None if found is None else _checked(kind, name, *found)


def put(db: apsw.Connection, name: str, value: Fact) -> None:
    """Let the log know it, in place of what it knew. Who puts a new one counts it in the end."""
    word, data = type(value).__name__.lower(), pack(value)
    db.execute("INSERT OR REPLACE INTO fact VALUES(?, ?, ?, ?)", (word, name, check(data, word, name), data))


def _checked(kind: type[F], name: str, crc: int, data: bytes) -> F:
    word = kind.__name__.lower()
    if check(data, word, name) != crc:
        raise Broken("What the log knows is damaged.", where=f"{word} {name}".strip(), hint=DOCTOR)
    return unpack(data, kind)


def facts(db: apsw.Connection, kind: type[F]) -> dict[str, F]:
    """All of a kind by name, in order."""
    sql = "SELECT name, crc, body FROM fact WHERE kind = ? ORDER BY name"
    return {name: _checked(kind, name, *more) for name, *more in db.execute(sql, (kind.__name__.lower(),))}


def end_of(db: apsw.Connection) -> End:
    """The log's end."""
    found = fact(db, End)
    if found is None:
        raise Broken("The log's end is missing.", where="end", hint=DOCTOR)
    return found


def sign(db: apsw.Connection, end: End) -> End:
    """Write the end under a mark that no other transaction has."""
    signed = msgspec.structs.replace(end, mark=os.urandom(8).hex())
    put(db, "", signed)
    return signed


def must_hold(db: apsw.Connection) -> None:
    """Raise Broken where a fact is damaged or missing, or where a topic's newest batch is not what it says,
    as when the parts of the file are of different times."""
    found = [(kind, name) for kind in KINDS for name in facts(db, kind)]
    known = sum(fact(db, kind, name) is not None for kind, name in found)  # each is found by its name, too
    if known != end_of(db).facts + 1 or row(db, "SELECT count(*) FROM fact") != (known,):
        raise Broken("Something that the log knew is missing.", where="fact", hint=DOCTOR)
    for name, topic in facts(db, Topic).items():
        (base,) = row(db, _NEWEST, (topic.number * SPAN, SPAN)) or (NOWHERE,)
        if base != topic.last and (topic.last >= topic.first or base > topic.last):
            raise damaged(name, max(base, topic.last))


# Batches.


def bases(db: apsw.Connection, topic: Topic, start: int, below: int) -> Iterator[int]:
    """The bases of the batches, behind the sealed ones, that may have records in [start, below), in order: the
    first is the newest that does not begin after `start`, where there is one."""
    given = topic.number * SPAN, topic.sealed, max(topic.sealed, start), below
    return (base for (base,) in db.execute(_BASES, given))


def batch(db: apsw.Connection, topic: Topic, name: str, base: int) -> tuple[int, Body]:
    """How many records lie ahead of a batch, and its own, checked."""
    found = row(db, "SELECT n, ahead, crc, body FROM batch WHERE place = ?", (topic.number * SPAN + base,))
    if found is None or check(found[3], name, base, found[0], found[1]) != found[2]:
        raise damaged(name, base)
    return found[1], unpack(found[3], Body)


def insert(db: apsw.Connection, topic: Topic, name: str, base: int, held: Body) -> None:
    """Write a batch behind all others of its topic."""
    n, data = len(held.keys), pack(held)
    crc = check(data, name, base, n, topic.total)
    row = (topic.number * SPAN + base, n, topic.total, crc, data)
    db.execute("INSERT INTO batch VALUES(?, ?, ?, ?, ?)", row)


def damaged(topic: str, base: int) -> Broken:
    """The error that names a batch that is not what was written."""
    return Broken("A batch of the log is damaged.", where=f"{topic}@{base}", hint=DOCTOR)


# Ids, stages.


def place_of(db: apsw.Connection, topic: Topic, id: str) -> int:
    """Where the record with this id lies; -1 for nowhere."""
    found = row(db, "SELECT position FROM ident WHERE topic = ? AND id = ?", (topic.number, id))
    # A damaged page may give something else.
    return found[0] if found and isinstance(found[0], int) and found[0] >= topic.first else NOWHERE


def checkpoint(db: apsw.Connection, name: str) -> Checkpoint:
    """A stage's checkpoint with its state, checked."""
    at = fact(db, Stage, name) or Stage()
    if at.state == NOWHERE:
        return at.checkpoint()
    crc, first = row(db, _STATE, (name,)) or (0, b"")
    lie = db.execute(_PIECES, (mark(name, at.state, crc, len(first)),))
    state = b"".join([first, *(piece for (piece,) in lie)])
    if check(state, name, at.state) != crc:
        raise Broken("A stage's state is damaged.", where=name, hint=DOCTOR)
    return at.checkpoint(state)


def mark(name: str, position: int, crc: int, size: int) -> str:
    """How the names of a state's pieces begin, which no other state's do, nor those of one that was cut otherwise.
    `size`: of the first."""
    return f"{name}\n{position}.{crc}.{size}."


def pieces(name: str, position: int, state: bytes) -> list[tuple[str, int, memoryview]]:
    """The rows of a stage's state at a position: the one of the stage, which names the others, and those. Each is
    under the CRC of all."""
    crc, cuts = check(state, name, position), range(0, len(state) or 1, PIECE_BYTES)
    begins, whole = mark(name, position, crc, len(state[:PIECE_BYTES])), memoryview(state)
    return [(f"{begins}{at:015}" if at else name, crc, whole[at : at + PIECE_BYTES]) for at in cuts]


def keep(db: apsw.Connection, name: str, position: int, state: bytes) -> None:
    """A stage's state at a position, in place of the one before; pieces of it that lie there need not be written."""
    rows = pieces(name, position, state)
    lie = row(db, _LIE, (mark(name, position, rows[0][1], len(rows[0][2])),))
    lay(db, name, position, rows[:1] if lie == (len(rows) - 1,) else rows)


def lay(db: apsw.Connection, name: str, position: int, rows: Sequence[tuple[str, int, memoryview]]) -> None:
    """Write rows of a stage's state at a position, and take away as many that are neither of that state nor of the
    one that the stage has."""
    db.executemany("INSERT OR REPLACE INTO state VALUES(?, ?, ?)", rows)
    at, held = fact(db, Stage, name), row(db, "SELECT crc, length(body) FROM state WHERE stage = ?", (name,))
    live = mark(name, at.state if at else NOWHERE, *(held or (0, 0)))
    db.execute(_STALE, (f"{name}\n", mark(name, position, rows[0][1], PIECE_BYTES), live, len(rows)))


DOCTOR = "`penstock doctor` and `penstock repair` say more."


def row(db: apsw.Connection, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
    """The first row of a query."""
    return db.execute(sql, values).fetchone()


def check(data: Any, *place: str | int) -> int:
    """The CRC of bytes and of the place that they belong to. A damaged page may give something else."""
    return zlib.crc32(data if isinstance(data, bytes) else b"", zlib.crc32(repr(place).encode()))
