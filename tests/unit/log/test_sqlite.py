"""log: SQLite beyond the contract: processes, damage, a full disk, its own upkeep."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from penstock.log import sqlite
from penstock.log.machine import STEP_BYTES, lengthen, sync_through
from penstock.log.sqlite import WAL_SMALL_BYTES, WAL_TURN_BYTES, SqliteLog
from penstock.log.upkeep.doctor import examine, health
from penstock.record.errors import Broken, NotFound, Unavailable
from penstock.record.record import START, Draft, Position

APPENDER = """
import sys
from pathlib import Path
from penstock.log.sqlite import SqliteLog
from penstock.record.record import Draft
log = SqliteLog(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    log.append([Draft("t", "k", i, b"v", f"{sys.argv[2]}-{i}")], sync=False)
log.close()
"""
WAITER = """
import sys, time
from pathlib import Path
from penstock.log.sqlite import SqliteLog
import penstock.log.sqlite as engine
engine.POLL_S = 60.0
log = SqliteLog(Path(sys.argv[1]))
end = log.end()
log.wait(end, 0.01)
print("ready", flush=True)
print(log.wait(end, 30), flush=True)
log.close()
"""


def process(text: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process."""
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], text=True, **options)


def test_processes_append_side_by_side(tmp_path: Path) -> None:
    """Two processes lose nothing, and positions are dense."""
    SqliteLog(tmp_path).close()
    both = [process(APPENDER, tmp_path, name, 150) for name in "ab"]
    assert [one.wait(60) for one in both] == [0, 0]
    log = SqliteLog(tmp_path)
    found = log.read(["t"], START)[0]
    log.close()
    assert [one.position for one in found] == list(range(300))
    assert len({one.id for one in found}) == 300


def test_another_process_is_woken(tmp_path: Path) -> None:
    """Not by polling, which is switched off in the waiting process, but by the bell."""
    log = SqliteLog(tmp_path)
    waiter = process(WAITER, tmp_path, stdout=subprocess.PIPE)
    assert waiter.stdout is not None and waiter.stdout.readline() == "ready\n"
    time.sleep(0.2)
    began = time.monotonic()
    log.append([Draft("t", "k", 1, b"v")])
    assert waiter.stdout.readline() == "True\n"
    assert time.monotonic() - began < 10
    waiter.communicate(timeout=30)
    log.close()


def test_a_damaged_batch_is_named(tmp_path: Path) -> None:
    """A changed byte on the disk is met by its checksum, with the place."""
    log = SqliteLog(tmp_path)
    log.append([Draft("t", "k", 1, b"a"), Draft("t", "k", 2, b"value")])
    log.close()
    db = apsw.Connection(str(tmp_path / "log.db"))
    db.execute("UPDATE batch SET body = CAST(replace(body, x'76616c7565', x'76616c7566') AS BLOB)")
    db.close()
    log = SqliteLog(tmp_path)
    with pytest.raises(Broken) as caught:
        log.read(["t"], START)
    assert caught.value.where == "t@0"
    log.close()


def test_a_full_disk_keeps_nothing_half(tmp_path: Path) -> None:
    """What does not fit is refused as a whole, says so, and the log goes on when there is room again."""
    log = SqliteLog(tmp_path)
    log.append([Draft("t", "k", 0, b"first", "one")])
    pages = log._writer.execute("PRAGMA page_count").fetchone()
    log._writer.execute(f"PRAGMA max_page_count = {pages[0] + 2}")  # type: ignore[index]
    with pytest.raises(Unavailable) as caught:
        log.append([Draft("t", "k", i, b"x" * 4000, f"id{i}") for i in range(50)])
    assert caught.value.code == "log_full"
    assert log.end() == Position(n=1) and len(log.read(["t"], START)[0]) == 1
    log._writer.execute("PRAGMA max_page_count = 1073741823")
    assert log.append([Draft("t", "k", 1, b"x", "id1")]).places == [1]
    log.close()


def test_there_must_be_a_log_to_read(tmp_path: Path) -> None:
    """Opening what is not there to read it is refused, and makes nothing."""
    with pytest.raises(NotFound):
        SqliteLog(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_the_wal_is_folded_in(tmp_path: Path) -> None:
    """Many unsynced writes do not let the WAL grow with them."""
    log = SqliteLog(tmp_path)
    most = 0
    for i in range(400):
        log.append([Draft("t", "k", i, b"x" * 300_000)], sync=False)
        most = max(most, Path(f"{log.path}-wal").stat().st_size)
        time.sleep(0.002)
    assert most < 80_000_000 < 400 * 300_000
    found = health(log)
    assert next(examine(log), None) is None and found["records"]["t"] == 400
    log.close()


class Counting(apsw.VFS):
    """The system's files; `synced` says which were synced; while it `fails`, a sync raises."""

    def __init__(self) -> None:
        super().__init__("counting", base="")
        self.synced: list[str] = []
        self.fails = False

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802
        """A file that tells of its syncs."""
        return Counted(self, name, flags)


class Counted(apsw.VFSFile):
    """A file that tells of its syncs."""

    def __init__(self, vfs: Counting, name: Any, flags: Any) -> None:
        self.vfs, self.of = vfs, Path(name.filename() if isinstance(name, apsw.URIFilename) else name).name
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Sync, or fail."""
        self.vfs.synced.append(self.of)
        if self.vfs.fails:
            raise apsw.IOError("sync")
        super().xSync(flags)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    """A log's files counted."""
    vfs = Counting()
    monkeypatch.setattr(SqliteLog, "vfs", "counting")
    monkeypatch.setattr(sqlite, "SYNC_EVERY_S", 3600.0)  # what the keeper does, the test does
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: None)
    yield vfs
    vfs.unregister()


def test_a_long_wal_is_folded_and_synced_before_the_writers_wait(tmp_path: Path, counting: Counting) -> None:
    """The database's own sync takes long: it happens twice while others may write, so that the third finds nothing."""
    log = SqliteLog(tmp_path)
    log.append([Draft("t", "k", 0, b"x" * WAL_TURN_BYTES)], sync=False)
    counting.synced.clear()
    log._tidy()
    assert counting.synced.count("log.db") >= 2
    log.append([Draft("t", "k", 1, b"")])
    assert log._wal_bytes < WAL_SMALL_BYTES, "it began anew"
    log.close()


def test_a_failed_sync_of_the_database_ends_the_handle(tmp_path: Path, counting: Counting) -> None:
    """What of the WAL would be written over next may be nowhere else."""
    log = SqliteLog(tmp_path)
    log.append([Draft("t", "k", 0, b"x" * WAL_TURN_BYTES)], sync=False)
    counting.fails = True
    with pytest.raises(Broken, match="log_fsync"), log._disk:
        sync_through(log._reader())
    counting.fails = False
    with pytest.raises(Broken, match="log_fsync"):
        log.append([Draft("t", "k", 1, b"")])
    with pytest.raises(Broken, match="log_fsync"):
        log.close()


def test_a_sync_by_sqlites_handle_leaves_its_locks(tmp_path: Path) -> None:
    """A process that opens and closes a file of its own gives up the locks that SQLite holds on it."""
    db = apsw.Connection(str(tmp_path / "a.db"))
    db.execute("CREATE TABLE t(x); BEGIN EXCLUSIVE")
    sync_through(db)
    locked = "import apsw, sys; apsw.Connection(sys.argv[1]).execute('SELECT * FROM t')"
    _, said = process(locked, tmp_path / "a.db", stderr=subprocess.PIPE).communicate()
    assert "BusyError" in said
    db.close()


def test_a_wal_in_use_is_longer_than_what_is_written(tmp_path: Path) -> None:
    """Commits write over zeros that lie ahead of them; what lies there is no record, to nobody who opens a copy of
    the files as a killed process leaves them."""
    log = SqliteLog(tmp_path / "home")
    for i in range(30):
        log.append([Draft("t", "k", i, bytes(8000))])
    wal = (tmp_path / "home" / "log.db-wal").read_bytes()
    assert log._wal_bytes < len(wal) < log._wal_bytes + 2 * STEP_BYTES
    assert not any(wal[-1000:])
    (tmp_path / "copy").mkdir()
    for name in ("log.db", "log.db-wal"):
        (tmp_path / "copy" / name).write_bytes((tmp_path / "home" / name).read_bytes())
    log.close()
    copy = SqliteLog(tmp_path / "copy")
    assert [one.position for one in copy.read(["t"], START)[0]] == list(range(30))
    copy.append([Draft("t", "k", 30, b"")])
    assert next(examine(copy), None) is None
    copy.close()


def test_a_short_wal_is_as_long_as_what_is_written(tmp_path: Path) -> None:
    """Who appends little needs no more room than before."""
    log = SqliteLog(tmp_path)
    log.append([Draft("t", "k", 1, b"v")])
    assert (tmp_path / "log.db-wal").stat().st_size < WAL_SMALL_BYTES
    log.close()


def test_a_wal_grows_where_the_disk_has_no_room_ahead(tmp_path: Path) -> None:
    """What cannot be lengthened is used up as far as it goes."""
    assert lengthen(tmp_path / "missing" / "wal", 5) == 5
    (tmp_path / "wal").write_bytes(b"w" * 100)
    assert lengthen(tmp_path / "wal", 100) == 100 + STEP_BYTES
    assert lengthen(tmp_path / "wal", 100) == 100 + STEP_BYTES  # there is room
    assert (tmp_path / "wal").read_bytes() == b"w" * 100 + bytes(STEP_BYTES)


def test_a_handle_that_another_wrote_behind_goes_on_at_the_end(tmp_path: Path) -> None:
    """What it left is not what it finds: SQLite's version of the data tells."""
    logs = SqliteLog(tmp_path), SqliteLog(tmp_path)
    for n in range(6):
        topic = f"t{n % 3}"
        assert logs[n % 2].append([Draft(topic, "k", 0, b"")]).places == [n]
    assert logs[0].append([Draft("t0", "k", 0, b"")]).places == [6]
    assert [logs[1].count(f"t{n}") for n in range(3)] == [3, 2, 2]
    for log in logs:
        log.close()
