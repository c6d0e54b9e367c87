"""log: a damaged log made whole: all of it that is provably right written anew, then put in the old one's place.

Records keep their positions, topics their numbers, stages their epochs. What is lost leaves a gap in the
positions that readers pass, and is told for good in the log's topic `repairs`. The old files are kept.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import apsw
from msgspec.structs import replace

from penstock.log import tables
from penstock.log.machine import BUSY_S, said_of_files, sync_folder, synced
from penstock.log.segments import Files
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.pages import Pages
from penstock.log.upkeep.rebuild import NEW, Repair, planned, rebuild
from penstock.log.upkeep.salvage import Salvage
from penstock.record.errors import NotFound, PenstockError, Refused, Unavailable

_SHARED = 510, 0x40000002
"""The bytes of its file that SQLite holds a lock on for as long as a process has a log open."""


def repair(
    home: Path, t_ms: int, *, mend: bool = False, accept_loss: bool = False, wait_s: float = BUSY_S + 1
) -> Repair:
    """What is wrong with a home's log and what a repair would do, or did: with `mend` where it loses nothing,
    with `accept_loss` in any case. Otherwise nothing is changed. `t_ms`: now; `wait_s`: see `see_off`.

    Raises Unavailable while another process has a damaged log open, Refused where nothing is of this format."""
    found = look(home)
    if not found:
        return Repair(t_ms)
    with said_of_files(), held(home / "log.db") as handle:
        wal = home / "log.db-wal"
        pages = Pages(handle, wal.read_bytes() if wal.exists() else b"")
        salvage = Salvage(pages, Files(home / "sealed"))
        if not salvage.topics:
            raise Refused(
                "Nothing in here is of this log's format.", where=str(home / "log.db"), code="format"
            )
        plan = replace(planned(salvage), t_ms=t_ms, found=found, kept=_kept(home))
        if not accept_loss and (plan.loses or not mend):
            return plan
        plan = replace(plan, done=True)
        try:
            set_aside(home, salvage, plan.kept)
            rebuild(home, salvage, plan)
        except (PenstockError, OSError):  # a full disk: the old log stands as it did
            for name in (NEW, plan.kept):
                shutil.rmtree(home / name, ignore_errors=True)
            raise
        swap(home, salvage, plan.kept, handle)
        see_off(handle, wait_s)
    return plan


class Looking(SqliteLog):
    """A log of which nothing is changed, not even by the last to close it."""

    def __init__(self, home: Path) -> None:
        try:
            super().__init__(home, create=False)
        except BaseException:  # a handle that is half open would keep its files
            self.close()
            raise

    def _connect(self) -> apsw.Connection:
        db = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        self._connections.append(db)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if tables.row(db, "PRAGMA journal_mode") != ("wal",):
            raise apsw.NotADBError
        return db

    def close(self) -> None:
        """Let go of the files."""
        for db in getattr(self, "_connections", []):
            with suppress(apsw.Error):
                db.close()


def look(home: Path) -> list[str]:
    """What is wrong with a home's log, in sentences."""
    found: list[str] = []
    try:
        with closing(Looking(home)) as log:
            found += [f"{one.where}: {one.what}" for one in examine(log)]
    except PenstockError as error:
        if isinstance(error, NotFound) or error.code in ("sqlite_old", "not_local", "log_busy"):
            raise
        found.append(f"{error.where}: {error.what}" if error.where else error.what)
    return found


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A log's file, open and in nobody else's use: SQLite lets none in meanwhile. No other handle on this file
    may be closed by this process before: that would let go of the lock."""
    handle = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, *_SHARED)
        except OSError:
            raise Unavailable(
                "Another process has this log open.", code="log_busy", hint="Stop it, then repair again."
            ) from None
        yield handle
    finally:
        os.close(handle)


def _kept(home: Path) -> str:
    """The first name under which no old log lies yet."""
    n = 1
    while (home / f"damaged-{n}").exists():
        n += 1
    return f"damaged-{n}"


def set_aside(home: Path, salvage: Salvage, kept: str) -> None:
    """The old files in the folder `kept`, too: the log's, and the segments' that are damaged."""
    aside = home / kept
    (aside / "sealed").mkdir(parents=True)
    for name in ("log.db", "log.db-wal"):
        with suppress(FileNotFoundError):
            os.link(home / name, aside / name)
    for path in salvage.damaged_files:
        os.link(path, aside / "sealed" / path.name)
    for folder in (aside / "sealed", aside, home):
        sync_folder(folder)


def swap(home: Path, salvage: Salvage, kept: str, handle: int) -> None:
    """Put the new log in the place of the old. A process that dies on the way leaves the one or the other, whole
    as it was: the old one has its WAL folded before the WAL goes."""
    salvage.pages.fold()
    synced(os.fsync, handle)
    for name in ("log.db-wal", "log.db-shm"):
        (home / name).unlink(missing_ok=True)
    sync_folder(home)
    os.replace(home / NEW / "log.db", home / "log.db")
    sync_folder(home)
    for path in salvage.damaged_files:
        if path.samefile(home / kept / "sealed" / path.name):  # else it was made again, byte for byte
            path.unlink()
    shutil.rmtree(home / NEW)


def see_off(handle: int, wait_s: float) -> None:
    """Keep the old file's lock while another process has it open, as one that came while it was repaired and
    waits: it gives up in the end, or would go on in the old file beside the new one's WAL."""
    deadline = time.monotonic() + wait_s
    while _open_elsewhere(os.fstat(handle)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _open_elsewhere(file: os.stat_result) -> bool:
    """Whether another process has a file open; yes where the system does not say."""
    system = Path("/proc")
    if not (system / "self" / "fd").exists():
        return True
    others = [name for name in os.listdir(system) if name.isdigit() and name != str(os.getpid())]
    return any(_opens(system / name / "fd", file) for name in others)


def _opens(handles: Path, file: os.stat_result) -> bool:
    """Whether one of a process's handles is of a file; no where it has ended, or is not ours to look at."""
    with suppress(OSError):
        for name in os.listdir(handles):
            with suppress(OSError):
                if os.path.samestat(os.stat(handles / name), file):
                    return True
    return False
