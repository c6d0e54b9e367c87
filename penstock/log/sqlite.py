"""log: the engine of one machine: SQLite in WAL mode, group commit, several processes, readers woken.

All topics share one order of positions. Writers of one process share transactions: whoever gets the
write lock commits for all who wait. Reads are short transactions on a connection per thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw
from msgspec.structs import replace

from penstock.log import Append, Appended, Checkpoint, Claim, Commit, Drop, Then, Where, Write, tables
from penstock.log.bell import Bell
from penstock.log.chain import Chain
from penstock.log.crash import Point, point
from penstock.log.machine import (
    Disk,
    check_home,
    fsync_failed,
    lengthen,
    make_folder,
    of_sync,
    patience,
    sync_file,
    sync_through,
    went_back,
)
from penstock.log.segments import Gone
from penstock.log.tables import NOWHERE, Producer, Stage, Topic
from penstock.log.writing import Writing
from penstock.record.errors import Broken, NotFound, PenstockError, Refused, Unavailable
from penstock.record.record import START, Draft, Position, Record

T = TypeVar("T")

PAGE_BYTES = 4096
SYNC_EVERY_S = 0.02
"""Much is synced and folded in small pieces: on a core that is shared, whoever writes waits for one to be over."""
POLL_S = 0.1
PIECE_PAUSE_S = 0.001
"""Between two pieces of a large state, so that whoever waits for the write lock meets it free."""
WAL_FOLD_BYTES = 2 << 20
WAL_TURN_BYTES = 4 << 20
"""From this size on writers wait, if need be, until the WAL is folded and begins anew: a file that is
written over syncs in half the time of one that grows."""
WAL_CUT_BYTES = 64 << 20
WAL_SMALL_BYTES = 64 << 10
"""Up to this size a WAL grows as it is written; from there on ahead of it, in steps."""


class Work:
    """One caller's part of a shared transaction."""

    def __init__(self, write: Write, sync: bool) -> None:
        self.write, self.sync = write, sync
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None


class SqliteLog:
    """A log in `home/log.db`. Any number of processes may append, read and wait."""

    alone = True
    vfs: str | None = None  # SQLite's way to the disk; None is its own

    def __init__(self, home: Path, *, create: bool = True) -> None:
        self.path = home / "log.db"
        if not create and not self.path.exists():
            raise NotFound(f"There is no log in {home}.", hint="`penstock up FILE` makes one.")
        check_home(home)
        if create:
            make_folder(home)
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self.chain = Chain(home)
        self._lock = threading.Lock()
        self._queue: list[Work] = []
        self._leading = threading.Lock()  # held by whoever carries out the queue
        self._writing = threading.Lock()  # held by whoever is in a write transaction
        self._bell = Bell(home)
        self._unsynced = threading.Event()  # the keeper has something to do
        self._wal_bytes = 0  # in use, as the newest commit left it; the file may be larger
        self._wal_room = WAL_SMALL_BYTES  # so much of it may be in use before we look at the file again
        self._wrote: Writing | None = None
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None
        self._disk = Disk()
        with self._disk:
            self._writer = self._connect()
            self._disk.opened(self.path)
            self._writer.set_wal_hook(self._note_wal)
            self._full = True
            if create:
                self._make()
            if tables.row(self._writer, "PRAGMA user_version") != (tables.FORMAT,):  # then nothing is touched
                self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                raise Refused("This log was written in another format.", where=str(home), code="format")
        with self._reading() as db:
            tables.must_hold(db)

    def _make(self) -> None:
        """The tables of a new log."""
        db = self._writer
        db.execute("BEGIN IMMEDIATE")
        if not tables.row(db, "SELECT 1 FROM sqlite_schema"):
            db.execute(tables.SCHEMA)
            tables.sign(db, tables.End())
        db.execute("COMMIT")

    # The port.

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """See the port."""
        return cast(Appended, self._write(Append(drafts, producer, sequence), sync))

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """See the port. The pieces of a large state are written before, each by itself."""
        if commit.state is not None and len(commit.state) > tables.PIECE_BYTES and self.alone:
            at = commit.stage, commit.position.n
            rows = tables.pieces(*at, commit.state)[1:]
            while rows:
                self._transact(lambda writing: tables.lay(writing.db, *at, [rows.pop()]), sync=False)
                time.sleep(PIECE_PAUSE_S)
        return cast(Appended, self._write(commit, sync))

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> tuple[Appended, Appended]:
        """See the port."""
        done: list[Appended] = []

        def run(writing: Writing) -> None:
            done.append(writing.apply(Append(drafts)))
            done.append(writing.apply(then(done[0])))
            point(Point.APPLIED)

        self._transact(run, sync=sync, seldom=True)
        return done[0], done[1]

    def drop(self, topic: str, below: Position) -> int:
        """See the port. The file keeps the room for what comes next; `shrink` gives it back."""
        gone: int = self._write(Drop(topic, below.n), True)
        return gone

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """See the port. The state is read after the claim is written: it may be large, and others write meanwhile."""
        epoch = self._write(Claim(stage), True) if claim else 0
        found = self._ask(lambda db: tables.checkpoint(db, stage))
        if found.position.n > (end := self.end().n):
            raise _backwards(found.position.n, end)
        return replace(found, epoch=epoch) if claim else found

    def read(
        self,
        topics: Sequence[str],
        start: Position,
        *,
        limit: int = 1024,
        stop: Position | None = None,
        where: Where | None = None,
        passing: bool = False,
    ) -> tuple[list[Record], Position]:
        """See the port. The end is taken in the snapshot that the records are read from."""
        if stop is None and start == self.end():
            return [], start

        def look(db: apsw.Connection) -> tuple[list[Record], Position]:
            end = tables.end_of(db).n
            below = min(stop.n, end) if stop else end
            if start.n > end:
                raise _backwards(start.n, end)
            if start.n >= below:
                return [], start
            found, reach = self.chain.merged(db, topics, start.n, below, limit, where, passing)
            return found, Position(n=reach)

        return self._ask(look)

    def news(self, topics: Collection[str], since: Position) -> list[str]:
        """See the port. No batch lies on both sides of where the log ended."""
        found = self._ask(lambda db: tables.facts(db, Topic))
        return [name for name, at in found.items() if at.last >= since.n and name in topics]

    def find(self, topic: str, id: str) -> Record | None:
        """See the port."""

        def look(db: apsw.Connection) -> Record | None:
            at = tables.fact(db, Topic, topic)
            place = NOWHERE if at is None else tables.place_of(db, at, id)
            return None if at is None or place == NOWHERE else self.chain.record(db, topic, at, place, id)

        return self._ask(look)

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

    def hear(self, heard: int, timeout_s: float) -> int:
        """See the port. A ring that got lost is heard with the next."""
        self._bell.wait(heard, timeout_s)
        return self._bell.rings

    def end(self) -> Position:
        """See the port."""
        with self._disk:
            return Position(n=tables.end_of(self._reader()).n)

    def first(self, topic: str) -> Position:
        """See the port."""
        at = self._ask(lambda db: tables.fact(db, Topic, topic))
        return Position(n=at.first) if at else START

    def last(self, producer: str) -> int:
        """See the port."""
        return (self._ask(lambda db: tables.fact(db, Producer, producer)) or Producer()).sequence

    def topics(self) -> list[str]:
        """See the port."""
        return list(self._ask(lambda db: tables.facts(db, Topic)))

    def count(self, topic: str, start: Position = START) -> int:
        """See the port. It takes no longer on a longer log."""

        def look(db: apsw.Connection) -> int:
            at = tables.fact(db, Topic, topic)
            return at.total - self.chain.upto(db, topic, at, start.n)[0] if at else 0

        return self._ask(look)

    def stages(self) -> dict[str, Checkpoint]:
        """See the port."""
        found = self._ask(lambda db: tables.facts(db, Stage))
        return {name: at.checkpoint() for name, at in found.items()}

    def about(self) -> dict[str, Any]:
        """How this engine keeps what it is given."""
        return {"journal": "wal", "sync": "full at commits, 20 ms at most behind for bulk appends"}

    def close(self) -> None:
        """Sync what is not yet on the disk and let go of the files."""
        self._closed.set()
        self._unsynced.set()
        if self._keeper is not None:
            self._keeper.join()
        self._bell.close()
        with self._writing:
            for connection in self._connections:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(self._disk.failed))
                with contextlib.suppress(apsw.Error):  # it folds the WAL, which need not succeed
                    connection.close()
        if self._disk.failed:
            raise fsync_failed()

    # Writing.

    def _write(self, write: Write, sync: bool) -> Any:
        """Queue the write; whoever leads carries out all that wait, in one transaction."""
        work = Work(write, sync)
        with self._lock:
            self._queue.append(work)
        with self._leading:
            if not work.done:
                with self._lock:
                    group, self._queue = self._queue, []
                self._lead(group)
        if work.error is not None:
            raise work.error
        return work.answer

    def _lead(self, group: list[Work]) -> None:
        """Carry out the writes of a group in one transaction; each gets its answer or its error."""

        def run(writing: Writing) -> None:
            for work in group:
                try:
                    work.answer = writing.apply(work.write)
                    point(Point.APPLIED)
                except Broken:
                    raise
                except PenstockError as error:
                    work.error = error

        try:
            self._transact(run, sync=any(work.sync for work in group))
        except BaseException as error:  # whatever it is, each who waits is told
            for work in group:
                work.error = work.error or error
        finally:
            for work in group:
                work.done = True

    def _transact(self, run: Callable[[Writing], None], *, sync: bool, seldom: bool = False) -> None:
        """One write transaction, all or nothing. `seldom`: whoever writes so will write again at once."""
        db = self._writer
        with self._writing:
            writing = self._wrote = self._locked(db, run, sync)
        if self.chain.used:
            self.chain.keep({(number, one.base): one for number, one in writing.fresh})
        self._keep()  # from the first write on: begun by a later one, it would have the niceness of whoever wrote that
        self._bell.ring(seldom=seldom)
        if self._wal_bytes > self._wal_room:
            self._wal_room = lengthen(Path(f"{self.path}-wal"), self._wal_bytes)

    def _locked(self, db: apsw.Connection, run: Callable[[Writing], None], sync: bool) -> Writing:
        try:
            with self._disk:
                if sync != self._full:
                    db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
                    self._full = sync
                point(Point.BEGIN)
                db.execute("BEGIN IMMEDIATE")
                point(Point.BEGUN)
                writing = Writing(db, self.chain, self._wrote)
                run(writing)
                writing.close()
                point(Point.CLOSED)
                try:
                    db.execute("COMMIT")
                    writing.version = db.data_version()
                except apsw.Error as error:
                    if not self._kept(db, writing, error):
                        raise
                point(Point.COMMITTED)
        except BaseException:  # nothing of a transaction outlives what broke it
            with contextlib.suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            raise
        return writing

    def _kept(self, db: apsw.Connection, writing: Writing, error: apsw.Error) -> bool:
        """Whether a transaction whose COMMIT raised is on the log all the same. The write that asks takes
        the place in the WAL of whatever is left of it, so that no later start can find it there."""
        if db.in_transaction or isinstance(error, apsw.FullError) or of_sync(error):
            return False
        try:
            db.execute("BEGIN IMMEDIATE")
            end = tables.end_of(db)
            kept = end == writing.signed
            tables.sign(db, end)
            db.execute("COMMIT")
        except apsw.Error as again:
            if of_sync(again):
                raise
            raise Unavailable(
                "Whether the log kept this write is not known.",
                code="log_unknown", hint="Send it again under its id or sequence.",
            ) from again  # fmt: skip
        return kept

    # Reading.

    def _ask(self, look: Callable[[apsw.Connection], T]) -> T:
        """The answer of one short read transaction. A segment that retention took away after it began is none
        of the next one's."""
        try:
            with self._reading() as db:
                return look(db)
        except Gone:
            with self._reading() as db:
                return look(db)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """A read transaction on this thread's connection."""
        with self._disk:
            db = self._reader()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:  # not after an error that ended it
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
        if not tables.row(db, "SELECT 1 FROM sqlite_schema"):  # it writes, which a full disk does not allow
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        wal = f"wal_autocheckpoint = 0; PRAGMA journal_size_limit = {WAL_CUT_BYTES}"
        settings = f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA {wal}"
        list(db.execute(settings))  # carried out as far as it is read
        with self._lock:
            self._connections.append(db)
        return db

    # The keeper: syncs and checkpoints off the hot path.

    def _keep(self) -> None:
        if not self._unsynced.is_set():
            self._unsynced.set()
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keeping, name="penstock-log", daemon=True)
            self._keeper.start()

    def _keeping(self) -> None:
        while not self._closed.wait(SYNC_EVERY_S):
            self._unsynced.wait()
            self._unsynced.clear()
            self._tidy()
            self._bell.settle()
        self._tidy()

    def _note_wal(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._wal_bytes = pages * (PAGE_BYTES + 24)  # each has a head
        return 0

    def _tidy(self) -> None:
        """Sync the WAL; fold it into the database when it has grown. A busy or full disk is met again
        later; after a failed sync whoever next uses this handle is told."""
        try:
            with self._disk:
                point(Point.SYNC)
                with contextlib.suppress(FileNotFoundError):
                    sync_file(Path(f"{self.path}-wal"))
                point(Point.SYNCED)
                if self._wal_bytes > WAL_TURN_BYTES:
                    for _ in range(2):  # what came during the first is little, and next to nothing is left
                        self._fold("PASSIVE")
                        sync_through(self._reader())
                    with self._writing:  # a busy writer would hardly ever let it in
                        self._fold("RESTART")
                elif self._wal_bytes > WAL_FOLD_BYTES:
                    self._fold("PASSIVE")
        except (OSError, PenstockError):
            self._unsynced.set()

    def _fold(self, mode: str) -> None:
        db = self._reader()
        db.set_busy_handler(None)  # it can wait for the next turn
        point(Point.FOLD)
        db.execute(f"PRAGMA wal_checkpoint({mode})")
        point(Point.FOLDED)


def _backwards(position: int, end: int) -> Broken:
    return went_back(f"The log ends at {end}, before position {position} that was read: it went backwards.")
