"""log: what the engine asks of its machine: the library, the file system, patience, errors in the house's words."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

from penstock.record.errors import Broken, NotFound, Refused, Unavailable

OLDEST_SQLITE = (3, 51, 3)  # older ones may corrupt a WAL that is reset while it is read
NOT_LOCAL = ("nfs", "cifs", "smb")  # SQLite's WAL needs shared memory, so a local file system
BUSY_S = 30.0
STEP_BYTES = 1 << 18
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
FSYNC = {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}
PASSING = (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.NoMemError, apsw.ProtocolError)


def patience() -> Callable[[int], bool]:
    """Wait for another writer in steps of 0.2 ms, which is shorter than SQLite's own steps."""
    deadline = 0.0

    def again(attempt: int) -> bool:
        nonlocal deadline
        if attempt == 0:
            deadline = time.monotonic() + BUSY_S
        time.sleep(0.0002)
        return time.monotonic() < deadline

    return again


class Disk:
    """Who uses SQLite does it within this: its errors come in the words of the house. After a sync that failed there
    is only that one."""

    def __init__(self) -> None:
        self.failed = False  # nothing more is asked of the disk
        self._path, self._inode = Path(), 0

    def opened(self, path: Path) -> None:
        """From now on there is a file, and it must lie where it was opened: what it takes would be lost."""
        self._path, self._inode = path, os.stat(path).st_ino

    def __enter__(self) -> None:
        if self.failed:
            raise fsync_failed()
        with contextlib.suppress(FileNotFoundError):
            if not self._inode or os.stat(self._path).st_ino == self._inode:
                return
        raise went_back("The log's file was replaced.")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            told = worded(error)
            self.failed |= getattr(told, "code", "") == "log_fsync"
            if told is not error:
                raise told from error


def worded(error: BaseException) -> BaseException:
    """An error of SQLite's in the words of the house; any other as it is."""
    if of_sync(error):
        return fsync_failed()
    if isinstance(error, apsw.BusyError):
        return Unavailable("Another process holds the log's write lock.", code="log_busy")
    if isinstance(error, apsw.FullError):
        return Unavailable("The disk is full; nothing of this write was kept.", code="log_full")
    if isinstance(error, PASSING):
        return Unavailable(f"The log's file cannot be used: {type(error).__name__}.", code="log_io")
    if isinstance(error, apsw.Error | UnicodeDecodeError):  # what SQLite reads is not what was written
        return Broken("The log's file is damaged.", where="log.db", hint="`penstock repair` says more.")
    return error


def of_sync(error: BaseException) -> bool:
    """Whether it is a sync that failed."""
    return getattr(error, "extendedresult", 0) in FSYNC


def fsync_failed() -> Broken:
    """The error after which nobody knows what the disk holds, and a second sync would say that all is well."""
    return Broken(
        "The disk did not take what was synced; whether it was kept, the next start finds out.",
        code="log_fsync", hint="End this process; look at the disk; start again.",
    )  # fmt: skip


def sync_file(path: Path, sync: Callable[[int], None] = os.fdatasync) -> None:
    """Sync a file; raises Broken when the disk does not take it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        synced(sync, handle)
    finally:
        os.close(handle)


def synced(sync: Callable[[int], None], handle: int) -> None:
    """Sync an open file; raises Broken when the disk does not take it."""
    try:
        sync(handle)
    except OSError as error:
        raise fsync_failed() from error


def sync_through(db: apsw.Connection) -> None:
    """Sync a database's own file by SQLite's handle of it (`xSync`, the sixth word of its methods): to open it here and
    close it again would take SQLite's locks away. Raises Broken when the disk does not take it."""
    word, file = ctypes.c_void_p.from_address, ctypes.c_void_p()
    db.file_control("main", apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(file))
    at = (word(file.value or 0).value or 0) + 5 * ctypes.sizeof(file)
    with contextlib.suppress(SystemError):  # raised by a file that is written in Python
        if not _SYNC(word(at).value or 0)(file, apsw.SQLITE_SYNC_NORMAL):
            return
    raise fsync_failed()


def lengthen(path: Path, used: int) -> int:
    """Let a file that is used up have room to be written over, which syncs sooner than growing; how long it is. What is
    appended are zeros: to SQLite they are no part of a WAL, whoever writes to it meanwhile."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        if file.tell() < used + STEP_BYTES // 8:
            file.write(bytes(STEP_BYTES))
        return file.tell()
    return used  # a full disk has room for commits at most


def make_folder(folder: Path) -> None:
    """A folder whose name, and those on the way to it, are on the disk when this returns."""
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in made or [folder]:
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """A new name is durable once its folder is."""
    sync_file(folder, os.fsync)


@contextlib.contextmanager
def said_of_files() -> Iterator[None]:
    """The system's errors in the words of the house."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("There is no such file.") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Unavailable("The disk is full; nothing of this was kept.", code="log_full") from error
        raise Unavailable(f"A file cannot be used: {type(error).__name__}.", code="log_io") from error


def went_back(what: str) -> Broken:
    """The error of who followed a log that is not the one of before."""
    return Broken(what, code="log_backwards", hint="Was an older copy put back? Followers must start anew.")


def file_system(home: Path) -> str:
    """The type of the file system that a folder lies on; "unknown" where /proc is missing."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    over = [(len(at), kind) for at, kind in mounts if home.resolve().is_relative_to(at)]
    return max(over)[1] if over else "unknown"


def check_home(home: Path) -> None:
    """Raise Refused for a library or a file system that a log cannot lie on."""
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        raise Refused(
            f"SQLite {version} may damage a log; {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed.",
            code="sqlite_old", hint="Upgrade apsw.",
        )  # fmt: skip
    if (kind := file_system(home)).startswith(NOT_LOCAL):
        raise Refused(f"A log cannot lie on {kind}: SQLite needs a local file system.", code="not_local")
