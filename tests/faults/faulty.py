"""faults: a disk that fails at the n-th call of a kind: SQLite's system calls, its syncs, and those of blobs."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import apsw

from penstock.log import segments

_libc = ctypes.CDLL(None, use_errno=True)
_INT, _PTR, _SIZE, _OFF = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
CALLS: dict[str, tuple[list[str], Any, list[Any], Any]] = {
    "write": (["pwrite64", "pwrite"], ctypes.c_ssize_t, [_INT, _PTR, _SIZE, _OFF], -1),
    "read": (["pread64", "pread"], ctypes.c_ssize_t, [_INT, _PTR, _SIZE, _OFF], -1),
    "truncate": (["ftruncate"], _INT, [_INT, _OFF], -1),
    "open": (["open"], _INT, [ctypes.c_char_p, _INT, _INT], -1),
    "share": (["mmap"], _PTR, [_PTR, _SIZE, _INT, _INT, _INT, _OFF], 2**64 - 1),
    "unlink": (["unlink"], _INT, [ctypes.c_char_p], -1),
}
"""Kinds of calls: the names that SQLite knows them by, their types, what they return on failure."""
KINDS = {
    "full": ("write", errno.ENOSPC),
    "write error": ("write", errno.EIO),
    "read error": ("read", errno.EIO),
    "truncate error": ("truncate", errno.EIO),
    "open error": ("open", errno.EMFILE),
    "no shared memory": ("share", errno.ENOMEM),
    "unlink error": ("unlink", errno.EIO),
    "sync error": ("sync", errno.EIO),
}
"""Faults: the kind of call that fails, and how."""


class Disk:
    """The one disk of this process. `arm` it, and the n-th call of a kind from then on fails, once or on and on."""

    def __init__(self) -> None:
        self.call, self.error, self.left, self.lasting = "", 0, 0, False
        self.count: dict[str, int] = dict.fromkeys([*CALLS, "sync"], 0)
        self.hits = 0

    def arm(self, kind: str, n: int, *, lasting: bool) -> None:
        """Let the n-th call fail."""
        self.call, self.error = KINDS[kind]
        self.left, self.lasting, self.hits = n, lasting, 0

    def heal(self) -> None:
        """All is well from now on."""
        self.call = ""

    def fails(self, call: str) -> bool:
        """Whether this call is one that fails."""
        self.count[call] += 1
        if call != self.call:
            return False
        self.left -= 1
        hit = self.left == 0 or (self.lasting and self.left < 0)
        self.hits += hit
        return hit


disk = Disk()
_kept: list[Any] = []  # what C holds on to


def _intercepted(call: str, name: str, returns: Any, takes: list[Any], failed: Any) -> None:
    real = getattr(_libc, name)
    real.restype, real.argtypes = returns, takes

    def hook(*arguments: Any) -> Any:
        if disk.fails(call):
            if call == "write" and disk.error == errno.ENOSPC and arguments[2] > 1:
                real(arguments[0], arguments[1], arguments[2] // 2, arguments[3])  # what still fitted
            ctypes.set_errno(disk.error)
            return failed
        return real(*arguments)

    pointer = ctypes.CFUNCTYPE(returns, *takes, use_errno=True)(hook)
    _kept.append(pointer)
    vfs.xSetSystemCall(name, ctypes.cast(pointer, ctypes.c_void_p).value)


class _File(apsw.VFSFile):
    def xSync(self, flags: int) -> None:  # noqa: N802
        if disk.fails("sync"):
            error = apsw.IOError("sync")
            error.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise error
        super().xSync(flags)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("faulty", base="")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File("", name, flags)


def _failing(real: Callable[[int], None]) -> Callable[[int], None]:
    def sync(handle: int) -> None:
        if disk.fails("sync"):
            raise OSError(disk.error, os.strerror(disk.error))
        real(handle)

    return sync


vfs = _Vfs()


def install() -> None:
    """Put this process's SQLite and its own syncs on the faulty disk. SQLite hears of what they raise."""
    sys.excepthook = sys.unraisablehook = lambda *error: None
    if not _kept:
        for call, (names, returns, takes, failed) in CALLS.items():
            for name in names:
                if hasattr(_libc, name) and name in _known():
                    _intercepted(call, name, returns, takes, failed)
        os.fsync, os.fdatasync = _failing(os.fsync), _failing(os.fdatasync)
        os.fdopen = _fdopen(os.fdopen)  # type: ignore[assignment]
        tempfile.mkstemp = _outside("open", tempfile.mkstemp)  # type: ignore[assignment]
        os.unlink = _outside("unlink", os.unlink)  # type: ignore[assignment]
        segments.file_digest = _outside("read", segments.file_digest)


def _outside(call: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """A call to the disk that is not SQLite's: what sealing does with its files."""

    def calling(*arguments: Any, **options: Any) -> Any:
        if disk.fails(call):
            raise OSError(disk.error, os.strerror(disk.error))
        return real(*arguments, **options)

    return calling


def _fdopen(real: Callable[..., Any]) -> Callable[..., Any]:
    def opening(handle: int, mode: str = "r", *more: Any, **options: Any) -> Any:
        file = real(handle, mode, *more, **options)
        return _Written(file) if Path(f"/proc/self/fd/{handle}").readlink().parent.name == "sealed" else file

    return opening


class _Written:
    """A segment's file on the way to the disk: what fitted is there, the rest fails."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        """Half of it, when the disk fails."""
        if disk.fails("write"):
            self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(disk.error, os.strerror(disk.error))
        return int(self.file.write(data))


def _known() -> list[str]:
    names: list[str] = []
    name = vfs.xNextSystemCall(None)
    while name is not None:
        names.append(name)
        name = vfs.xNextSystemCall(name)
    return names
