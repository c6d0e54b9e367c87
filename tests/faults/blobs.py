"""faults: blobs and new names on a disk that forgets, at the next power cut, all that was not synced.

The syncs of this process are noted down: a file's, with the size that it had, and a folder's, with the
names that it held. What a path leads to survives when its bytes and each name on the way were synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from penstock.log import blob, crash, machine
from penstock.log.blob import FolderBlob
from penstock.log.crash import Point
from penstock.log.sqlite import SqliteLog
from penstock.record.errors import Broken, PenstockError, Unavailable
from tests.faults.finding import Finding, Plan

POINTS = [one for one in Point if one.name.startswith("BLOB")]
LOSSES = 200


class Died(BaseException):
    """The process ended here."""


class Notes:
    """What was synced: of files their sizes, of folders their names, by inode."""

    def __init__(self) -> None:
        self.files: dict[int, int] = {}
        self.folders: dict[int, set[tuple[str, int]]] = {}

    def synced(self, handle: int) -> None:
        """A sync that has succeeded."""
        stat = os.fstat(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.folders[stat.st_ino] = {(entry.name, entry.inode()) for entry in os.scandir(path)}
        else:
            self.files[stat.st_ino] = stat.st_size

    def survives(self, path: Path, base: Path) -> str:
        """Why a path would be gone after a cut, or "": the base was always there."""
        if path.is_file() and self.files.get(path.stat().st_ino) != path.stat().st_size:
            return "its bytes were not synced"
        while path != base:
            known = self.folders.get(path.parent.stat().st_ino, set())
            if (path.name, path.stat().st_ino) not in known:
                return f"the name {path.name[:8]} was not synced"
            path = path.parent
        return ""


@contextlib.contextmanager
def noted() -> Iterator[Notes]:
    """Within it, syncs are noted down."""
    notes, fsync, fdatasync = Notes(), os.fsync, os.fdatasync

    def hook(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(handle: int) -> None:
            real(handle)
            notes.synced(handle)

        return sync

    os.fsync, os.fdatasync = hook(fsync), hook(fdatasync)
    try:
        yield notes
    finally:
        os.fsync, os.fdatasync = fsync, fdatasync


@contextlib.contextmanager
def dying(at: Point | None) -> Iterator[None]:
    """Within it, the process dies at a point: as far as it can be seen, by a raise that nobody handles."""

    def reach(point: Point, about: str) -> None:
        if point == at:
            raise Died

    crash.reach = reach
    try:
        yield
    except Died:
        pass
    finally:
        crash.reach = None


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """Within it, a sync is left out."""
    file, folder = blob.synced, machine.sync_folder
    if bug == "blob_not_synced":
        blob.synced = lambda sync, handle: None
    if bug == "folder_not_synced":
        blob.sync_folder = machine.sync_folder = lambda path: None
    try:
        yield
    finally:
        blob.synced, blob.sync_folder, machine.sync_folder = file, folder, folder


def lose(seed: int, bug: str = "") -> str:
    """Put a blob after a process died putting it; then the power goes. What is wrong, or ""."""
    chance = random.Random(seed)
    data = chance.randbytes(chance.randrange(1, 20_000))
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder, noted() as notes, planted(bug):
        base = Path(folder)
        blobs = FolderBlob(base / "home" / "blobs")
        with dying(chance.choice([None, *POINTS])):
            blobs.put(chance.choice([data, data[:-1]]))
        digest = blobs.put(data)
        path = blobs.folder / digest[:2] / digest[2:]
        return notes.survives(path, base) or ("" if path.read_bytes() == data else "other bytes")


def home_name() -> str:
    """The name of a new home is safe as soon as something was acknowledged in it."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder, noted() as notes:
        home = Path(folder) / "some" / "home"
        SqliteLog(home).close()
        return notes.survives(home, Path(folder))


def full(n: int, error: int) -> str:
    """The n-th call that writes a blob fails; what is wrong, or "". The next `put` is whole."""
    data = random.Random(n).randbytes(5000)
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        blobs = FolderBlob(Path(folder) / "blobs")
        with _failing(n, error) as failed:
            try:
                digest = blobs.put(data)
            except (Unavailable, Broken) as told:
                code = {"sync": "log_fsync", errno.ENOSPC: "log_full"}.get(
                    failed[0] if failed[0] == "sync" else error
                )
                if told.code != (code or "log_io"):
                    return f"{failed[0]} failed and was told of as {told}"
            else:
                if failed:
                    return f"{failed[0]} failed and nobody heard"
        for one in blobs.folder.rglob("*"):
            if one.is_file() and not one.name.startswith(".new-") and one.read_bytes() != data:
                return "half a blob has a name"
        try:
            digest = blobs.put(data)
            return "" if blobs.get(digest) == data else "other bytes"
        except PenstockError as told:
            return f"a healed disk does not take it: {told}"


@contextlib.contextmanager
def _failing(n: int, error: int) -> Iterator[list[str]]:
    """Within it, the n-th of the calls fails; what it was is in the list."""
    failed: list[str] = []
    real = os.mkdir, tempfile.mkstemp, os.fdopen, os.fsync, os.replace
    left = n

    def hook(word: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                failed.append(word)
                raise OSError(error, os.strerror(error))
            return call(*arguments, **options)

        return calling

    def opening(handle: int, mode: str) -> Any:
        return _Half(real[2](handle, mode), hook("write", lambda: None))

    os.mkdir, tempfile.mkstemp, os.fdopen = hook("mkdir", real[0]), hook("mkstemp", real[1]), opening
    os.fsync, os.replace = hook("sync", real[3]), hook("replace", real[4])
    try:
        yield failed
    finally:
        os.mkdir, tempfile.mkstemp, os.fdopen, os.fsync, os.replace = real


class _Half:
    """A file whose write may end half way."""

    def __init__(self, file: Any, allowed: Callable[[], None]) -> None:
        self.file, self.allowed = file, allowed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> None:
        """Half of it, then the rest."""
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.allowed()
        self.file.write(data[len(data) // 2 :])


def findings(plan: Plan) -> Iterator[Finding]:
    """Power cuts with two syncs left out on purpose, then calls that fail."""
    began = time.monotonic()
    count = plan.times(LOSSES, 20)
    seeds = [plan.seed * 1_000_000 + n for n in range(count)]
    wrong = [f"blob {seed}: {said}" for seed in seeds if (said := lose(seed))]
    wrong += [f"a home's name: {said}"] if (said := home_name()) else []
    for text in wrong:
        plan.note(text)
    bugs = ("blob_not_synced", "folder_not_synced")
    caught = sum(any(lose(seed, bug) for seed in seeds) for bug in bugs)
    took = time.monotonic() - began
    yield Finding("power loss: blobs", count + 1, len(wrong), " ".join(bugs), caught, len(bugs), took)
    began = time.monotonic()
    cases = [(n, error) for n in range(1, 12) for error in (errno.ENOSPC, errno.EIO)]
    wrong = [f"call {n} of a blob: {said}" for n, error in cases if (said := full(n, error))]
    for text in wrong:
        plan.note(text)
    yield Finding("disk: blobs", len(cases), len(wrong), seconds=time.monotonic() - began)
