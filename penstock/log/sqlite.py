"""log: the engine of one machine: SQLite in WAL mode, group commit, several processes, readers woken.

A row of `batch` holds the records of one topic that were written together, checked by a CRC; all
topics share one order of positions. Writers of one process share transactions: whoever gets the
write lock commits for all who wait. Reads are short transactions on a connection per thread.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import apsw
import msgspec

from penstock.log import Appended, Checkpoint, Commit
from penstock.log.bell import Bell
from penstock.log.machine import check_home, check_library, file_system, patience, said
from penstock.record.codec import pack, unpack
from penstock.record.errors import Broken, Fenced, NotFound, PenstockError
from penstock.record.record import NO_HEADERS, START, Draft, Position, Record

T = TypeVar("T")

CACHED_RECORDS = 20_000
SYNC_EVERY_S = 0.1
POLL_S = 0.1
WAL_FOLD_BYTES = 4 << 20
WAL_CUT_BYTES = 32 << 20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE IF NOT EXISTS topic(id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS batch(
  base INTEGER PRIMARY KEY, n INTEGER NOT NULL, topic INTEGER NOT NULL,
  crc INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS batch_topic ON batch(topic, base, n);
CREATE TABLE IF NOT EXISTS ident(
  topic INTEGER, id TEXT, position INTEGER NOT NULL, PRIMARY KEY(topic, id)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS producer(name TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS stage(
  name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL,
  state BLOB NOT NULL, state_position INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO meta VALUES('format', 1), ('end', 0);
"""
_END = "SELECT value FROM meta WHERE key = 'end'"
_BATCHES = """
SELECT base, ?1 FROM batch WHERE topic = ?1 AND base < ?3 AND base >=
  coalesce((SELECT max(base) FROM batch WHERE topic = ?1 AND base <= ?2), ?2) ORDER BY base"""


class _Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record in a batch: `at` is its distance from the batch's base."""

    at: int
    id: str
    key: str
    time_ms: int
    value: bytes
    headers: dict[str, str] = NO_HEADERS


class _Work(Generic[T]):
    """One caller's part of a shared transaction."""

    def __init__(self, run: Callable[[apsw.Connection], T], sync: bool) -> None:
        self.run, self.sync = run, sync
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None


class SqliteLog:
    """A log in `home/log.db`. Any number of processes may append, read and wait."""

    vfs: str | None = None  # SQLite's way to the disk; None is its own

    def __init__(self, home: Path, *, create: bool = True) -> None:
        self.path = home / "log.db"
        if not create and not self.path.exists():
            raise NotFound(f"There is no log in {home}.", hint="`penstock up FILE` makes one.")
        check_library()
        home.mkdir(parents=True, exist_ok=True)
        check_home(home)
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._topics: dict[str, int] = {}
        self._cache: OrderedDict[int, tuple[Record, ...]] = OrderedDict()
        self._cached = 0
        self._known = -1  # the end at which `_newest`, the last position by topic, was true
        self._newest: dict[str, int] = {}
        self._lock = threading.Lock()
        self._queue: list[_Work[Any]] = []
        self._fresh: list[tuple[Record, ...]] = []
        self._end = 0  # inside a write transaction: the position that the next record gets
        self._writing = threading.Lock()
        self._bell = Bell(home)
        self._unsynced = threading.Event()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None
        with said():
            self._writer = self._connect()
            self._full = True
            if create:
                self._writer.execute(_SCHEMA)

    # The port.

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """See the port."""

        def run(db: apsw.Connection) -> Appended:
            if producer:
                if sequence <= _one(db, "SELECT sequence FROM producer WHERE name = ?", (producer,)):
                    return Appended([], [], Position(n=self._end))
                db.execute("INSERT OR REPLACE INTO producer VALUES(?, ?)", (producer, sequence))
            return self._insert(db, drafts)

        return self._write(run, sync)

    def read(
        self, topics: Sequence[str], start: Position, *, limit: int = 1024, stop: Position | None = None
    ) -> tuple[list[Record], Position]:
        """See the port. The end is taken in the snapshot that the records are read from."""
        if stop is None:
            end = self.end().n
            if start.n >= end or not self._maybe_new(topics, start.n, end):
                return [], Position(n=max(start.n, end))
        with self._reading() as db:
            end = _one(db, _END)
            below = min(stop.n, end) if stop else end
            if start.n >= below:
                return [], start
            fresh = self._maybe_new(topics, start.n, end)
            found, reach = self._merged(db, fresh, start.n, below, limit)
        if reach == end:
            self._note_newest(fresh, found, start.n, end)
        return found, Position(n=reach)

    def find(self, topic: str, id: str) -> Record | None:
        """See the port."""
        with self._reading() as db:
            number = self._topic(db, topic)
            place = _one(db, "SELECT position FROM ident WHERE topic = ? AND id = ?", (number, id), -1)
            if place < 0:
                return None
            return self._merged(db, [topic], place, place + 1, 1)[0][0]

    def wait(self, position: Position, timeout_s: float) -> bool:
        """See the port."""
        deadline = time.monotonic() + timeout_s
        while True:
            rings = self._bell.rings
            if self.end().n > position.n:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._bell.wait(rings, min(left, POLL_S))

    def end(self) -> Position:
        """See the port."""
        with said():
            return Position(n=_one(self._reader(), _END))

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """See the port."""
        if claim:
            claimed = "INSERT INTO stage VALUES(?, 1, 0, x'', 0) ON CONFLICT DO UPDATE SET epoch = epoch + 1"
            self._write(lambda db: db.execute(claimed, (stage,)) and None, True)
        with self._reading() as db:
            row = db.execute(
                "SELECT epoch, position, state, state_position FROM stage WHERE name = ?", (stage,)
            ).fetchone()
        if row is None:
            return Checkpoint()
        return Checkpoint(row[0], Position(n=row[1]), row[2], Position(n=row[3]))

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """See the port."""

        def run(db: apsw.Connection) -> Appended:
            if commit.epoch != _one(db, "SELECT epoch FROM stage WHERE name = ?", (commit.stage,)):
                raise Fenced(where=commit.stage)
            place = commit.position.n
            if commit.state is None:
                db.execute("UPDATE stage SET position = ? WHERE name = ?", (place, commit.stage))
            else:
                sql = "UPDATE stage SET position = ?1, state = ?2, state_position = ?1 WHERE name = ?3"
                db.execute(sql, (place, commit.state, commit.stage))
            return self._insert(db, commit.outputs)

        return self._write(run, sync)

    def last(self, producer: str) -> int:
        """See the port."""
        with self._reading() as db:
            return _one(db, "SELECT sequence FROM producer WHERE name = ?", (producer,))

    # What people ask about.

    def topics(self) -> list[str]:
        """The topics that have records."""
        with self._reading() as db:
            return [name for (name,) in db.execute("SELECT name FROM topic ORDER BY name")]

    def count(self, topic: str, start: Position = START) -> int:
        """The number of records of a topic from a position on."""
        with self._reading() as db:
            number = self._topic(db, topic)
            after = "SELECT coalesce(sum(n), 0), min(base) FROM batch WHERE topic = ? AND base >= ?"
            whole, base = _row(db, after, (number, start.n))
            below = _one(db, _END) if base is None else base
            begun = self._merged(db, [topic], start.n, below, below)[0] if start.n < below else []
            return int(whole) + len(begun)

    def stages(self) -> dict[str, Checkpoint]:
        """Every stage's epoch and position, without its state."""
        with self._reading() as db:
            rows: list[Any] = db.execute(
                "SELECT name, epoch, position, state_position FROM stage ORDER BY name"
            ).fetchall()
        return {
            name: Checkpoint(epoch, Position(n=at), b"", Position(n=saved)) for name, epoch, at, saved in rows
        }

    def health(self) -> dict[str, Any]:
        """What `penstock doctor` shows. Sizes in bytes; `integrity` is "ok" or SQLite's first complaint."""
        with self._reading() as db:
            integrity = db.execute("PRAGMA quick_check(1)").fetchone()
        wal = Path(f"{self.path}-wal")
        return {
            "sqlite": apsw.sqlite_lib_version(),
            "journal": "wal",
            "sync": "full at commits, 100 ms at most behind for bulk appends",
            "file_system": file_system(self.path.parent),
            "free_bytes": shutil.disk_usage(self.path.parent).free,
            "log_bytes": self.path.stat().st_size,
            "wal_bytes": wal.stat().st_size if wal.exists() else 0,
            "integrity": integrity[0] if integrity else "unknown",
            "end": self.end().n,
            "records": {topic: self.count(topic) for topic in self.topics()},
        }

    def close(self) -> None:
        """Sync what is not yet on the disk and let go of the files."""
        self._closed.set()
        self._unsynced.set()
        if self._keeper is not None:
            self._keeper.join()
        self._bell.close()
        with self._writing:
            for connection in self._connections:
                connection.close()

    # Writing.

    def _write(self, run: Callable[[apsw.Connection], T], sync: bool) -> T:
        """Queue the work; whoever holds the write lock commits all that waits, in one transaction."""
        work = _Work(run, sync)
        with self._lock:
            self._queue.append(work)
        with self._writing:
            if not work.done:
                with self._lock:
                    group, self._queue = self._queue, []
                self._lead(group)
        if work.error is not None:
            raise work.error
        return cast(T, work.result)

    def _lead(self, group: list[_Work[Any]]) -> None:
        db, full = self._writer, any(work.sync for work in group)
        try:
            with said():
                if full != self._full:
                    db.execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
                    self._full = full
                db.execute("BEGIN IMMEDIATE")
                before = self._end = _one(db, _END)
                for work in group:
                    _attempt(db, work)
                if self._end != before:
                    db.execute("UPDATE meta SET value = ? WHERE key = 'end'", (self._end,))
                db.execute("COMMIT")
        except BaseException as error:
            for work in group:
                work.error = work.error or error
            self._undo(db)
        else:
            self._remember(self._fresh)
            self._follow(before)
            if not full:
                self._keep()
            self._bell.ring()
        finally:
            self._fresh = []
            for work in group:
                work.done = True

    def _follow(self, before: int) -> None:
        """What this handle knows of the topics' ends stays true only if nobody else wrote meanwhile."""
        with self._lock:
            if self._known != before:
                self._newest = {}
            self._newest.update((records[0].topic, records[-1].position) for records in self._fresh)
            self._known = self._end

    def _undo(self, db: apsw.Connection) -> None:
        """After a failure nothing in memory may claim more than the file: roll back, forget."""
        self._topics = {}
        with contextlib.suppress(apsw.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")

    def _insert(self, db: apsw.Connection, drafts: Sequence[Draft]) -> Appended:
        """Give the drafts their positions. Ids are tried all at once, and one by one if some stand already."""
        end = self._end
        if not drafts:
            return Appended([], [], Position(n=end))
        numbers = {topic: self._make_topic(db, topic) for topic in {draft.topic for draft in drafts}}
        places = list(range(end, end + len(drafts)))
        repeats: list[int] = []
        named = [(numbers[d.topic], d.id, at) for d, at in zip(drafts, places, strict=True) if d.id]
        if named:
            before = db.total_changes()
            db.executemany("INSERT OR IGNORE INTO ident VALUES(?, ?, ?)", named)
            if db.total_changes() - before < len(named):
                db.executemany("DELETE FROM ident WHERE topic = ? AND id = ? AND position = ?", named)
                places, repeats = _place(db, drafts, numbers, end)
        repeated = set(repeats)
        records = [
            Record(d.topic, 0, at, d.id, d.key, d.time_ms, d.value, d.headers)
            for i, (d, at) in enumerate(zip(drafts, places, strict=True))
            if i not in repeated
        ]
        for topic, number in numbers.items():
            self._insert_batch(db, number, tuple(r for r in records if r.topic == topic))
        self._end = end + len(records)
        return Appended(places, repeats, Position(n=self._end))

    def _insert_batch(self, db: apsw.Connection, number: int, records: tuple[Record, ...]) -> None:
        if not records:
            return
        base = records[0].position
        body = pack([_Item(r.position - base, r.id, r.key, r.time_ms, r.value, r.headers) for r in records])
        row = (base, len(records), number, _crc(base, records[0].topic, body), body)
        db.execute("INSERT INTO batch VALUES(?, ?, ?, ?, ?)", row)
        self._fresh.append(records)

    def _make_topic(self, db: apsw.Connection, name: str) -> int:
        number = self._topic(db, name)
        if number < 0:
            db.execute("INSERT INTO topic(name) VALUES(?)", (name,))
            number = db.last_insert_rowid()
        return number

    # Reading.

    def _topic(self, db: apsw.Connection, name: str) -> int:
        """A topic's number; -1 when it has no records yet."""
        number = self._topics.get(name)
        if number is None:
            number = _one(db, "SELECT id FROM topic WHERE name = ?", (name,), -1)
            if number >= 0 and db is not self._writer:  # what the writer sees may still be undone
                self._topics[name] = number
        return number

    def _maybe_new(self, topics: Sequence[str], start: int, end: int) -> list[str]:
        """The topics that may have records at or above `start`, as far as this handle knows without a look."""
        with self._lock:
            if self._known != end:
                return list(topics)
            return [topic for topic in topics if self._newest.get(topic, end) >= start]

    def _note_newest(self, topics: Sequence[str], found: Sequence[Record], start: int, end: int) -> None:
        """These topics were read up to `end`: nothing of theirs lies beyond what was found."""
        with self._lock:
            if self._known != end:
                self._known, self._newest = end, {}
            self._newest.update(dict.fromkeys(topics, start - 1))
            self._newest.update((record.topic, record.position) for record in found)

    def _merged(
        self, db: apsw.Connection, topics: Sequence[str], start: int, below: int, limit: int
    ) -> tuple[list[Record], int]:
        """At most `limit` records in [start, below), in order, and the position that they reach."""
        numbers = {self._topic(db, topic): topic for topic in topics}
        streams = [db.execute(_BATCHES, (number, start, below)) for number in numbers if number >= 0]
        found: list[Record] = []
        reach = below
        for base, number in streams[0] if len(streams) == 1 else heapq.merge(*streams):
            if len(found) >= limit and sum(r.position < base for r in found) >= limit:
                reach = base  # every batch not yet read begins here or later
                break
            records = self._batch(db, base, numbers[number])
            whole = base >= start and records[-1].position < below
            found.extend(records if whole else [r for r in records if start <= r.position < below])
        if len(streams) > 1:  # the batches of one write interleave
            found.sort(key=attrgetter("position"))
            while found and found[-1].position >= reach:
                found.pop()
        if len(found) > limit:
            del found[limit:]
            reach = found[-1].position + 1
        return found, reach

    def _batch(self, db: apsw.Connection, base: int, topic: str) -> tuple[Record, ...]:
        """The records of a batch, checked when they come from the disk."""
        records = self._cache.get(base)
        if records is None:
            crc, body = _row(db, "SELECT crc, body FROM batch WHERE base = ?", (base,))
            if _crc(base, topic, body) != crc:
                raise Broken(
                    "A batch of the log is damaged.",
                    where=f"{topic}@{base}",
                    hint="`penstock doctor` says more.",
                )
            items = unpack(body, list[_Item])
            records = tuple(
                Record(topic, 0, base + i.at, i.id, i.key, i.time_ms, i.value, i.headers) for i in items
            )
            self._remember([records])
        return records

    def _remember(self, batches: Iterable[tuple[Record, ...]]) -> None:
        """Keep what was just written or read: several stages of a process read the same tail."""
        with self._lock:
            for records in batches:
                if records[0].position not in self._cache:
                    self._cache[records[0].position] = records
                    self._cached += len(records)
            while self._cached > CACHED_RECORDS and len(self._cache) > 1:
                self._cached -= len(self._cache.popitem(last=False)[1])

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """A read transaction on this thread's connection."""
        with said():
            db = self._reader()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                db.execute("COMMIT")

    def _reader(self) -> apsw.Connection:
        """This thread's connection; one must not cross a fork."""
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None or self._local.pid != os.getpid():
            db = self._local.db = self._connect()
            self._local.pid = os.getpid()
        return db

    def _connect(self) -> apsw.Connection:
        db = apsw.Connection(str(self.path), statementcachesize=100, vfs=self.vfs)
        db.set_busy_handler(patience())
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute(f"PRAGMA journal_size_limit = {WAL_CUT_BYTES}")
        with self._lock:
            self._connections.append(db)
        return db

    # The keeper: syncs and checkpoints off the hot path.

    def _keep(self) -> None:
        self._unsynced.set()
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keeping, name="penstock-log", daemon=True)
            self._keeper.start()

    def _keeping(self) -> None:
        db = self._connect()
        db.set_busy_handler(None)  # it can wait for the next turn
        while not self._closed.wait(SYNC_EVERY_S):
            if self._unsynced.is_set():
                self._unsynced.clear()
                self._tidy(db)
        self._tidy(db)

    def _tidy(self, db: apsw.Connection) -> None:
        """Sync the WAL; fold it into the database when it has grown. A busy or full disk is met again later."""
        wal = f"{self.path}-wal"
        with contextlib.suppress(OSError, apsw.Error):
            handle = os.open(wal, os.O_RDONLY)
            try:
                os.fdatasync(handle)
                size = os.fstat(handle).st_size
            finally:
                os.close(handle)
            if size > WAL_FOLD_BYTES:
                db.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if size > WAL_CUT_BYTES else 'PASSIVE'})")


def _attempt(db: apsw.Connection, work: _Work[Any]) -> None:
    """One part of a shared transaction. A part refuses before it writes, so there is nothing to undo."""
    try:
        work.result = work.run(db)
    except PenstockError as error:
        work.error = error


def _place(
    db: apsw.Connection, drafts: Sequence[Draft], numbers: dict[str, int], end: int
) -> tuple[list[int], list[int]]:
    """The position of each draft, and the indices of those whose id stands already."""
    places: list[int] = []
    repeats: list[int] = []
    for i, draft in enumerate(drafts):
        key = (numbers[draft.topic], draft.id)
        first = _one(db, "SELECT position FROM ident WHERE topic = ? AND id = ?", key, -1) if draft.id else -1
        if first >= 0:
            repeats.append(i)
            places.append(first)
            continue
        if draft.id:
            db.execute("INSERT INTO ident VALUES(?, ?, ?)", (*key, end))
        places.append(end)
        end += 1
    return places, repeats


def _one(db: apsw.Connection, sql: str, values: tuple[Any, ...] = (), default: int = 0) -> int:
    row: Any = db.execute(sql, values).fetchone()
    return default if row is None or row[0] is None else int(row[0])


def _row(db: apsw.Connection, sql: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    row: Any = db.execute(sql, values).fetchone()
    return tuple(row)


def _crc(base: int, topic: str, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(f"{topic}@{base}".encode()))
