"""faults: the power goes: what was not synced is dropped, kept or torn, sector by sector and file by file.

A VFS writes through to real files and remembers, for each file, what a sync has made safe and what came
since; for each name, which files it may lead to until its folder is synced. `image` is one of the disks
that a power cut could leave.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from penstock.log import machine, sqlite, tables
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep import seal as sealing
from penstock.record.errors import PenstockError
from penstock.record.record import Draft, Position
from penstock.stage import Running
from tests.faults.crashes import wrong_in
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import LAZY, LEDGER, Sent, send
from tests.faults.lives import rows_first
from tests.faults.process import side_by_side

LOSSES = 1000
CUTS = 10
"""Power cuts looked at in one run."""
STEPS = 50
BUGS = ("synchronous_normal", "segment_not_synced", "folder_not_synced", "rows_first")


class Inode:
    """A file's bytes: what is safe, and the writes (offset, bytes) and truncations (size) since."""

    def __init__(self, data: bytes = b"") -> None:
        self.safe = bytearray(data)
        self.since: list[tuple[int, bytes] | int] = []

    def sync(self) -> None:
        """All of it is safe."""
        for change in self.since:
            _apply(self.safe, change)
        self.since = []

    def after(self, chance: random.Random, sector: int, keep: float) -> bytes:
        """What a cut may leave: each sector of each write new, old, or new up to some byte."""
        data = bytearray(self.safe)
        for change in self.since:
            if isinstance(change, int):
                if chance.random() < keep:
                    _apply(data, change)
                continue
            offset, new = change
            while new:
                size = min(len(new), sector - offset % sector)
                piece, new = new[:size], new[size:]
                if chance.random() < keep:
                    torn = chance.random() < 0.1
                    _apply(data, (offset, piece[: chance.randrange(size)] if torn else piece))
                offset += size
        return bytes(data)


def _apply(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del data[change:]
        data.extend(bytes(change - len(data)))
        return
    offset, new = change
    data.extend(bytes(max(0, offset - len(data))))
    data[offset : offset + len(new)] = new


class Disk:
    """What is safe of the files that this process has written, and a bell at each change."""

    def __init__(self) -> None:
        self.names: dict[str, list[Inode | None]] = {}  # what each may lead to; the last is what it does now
        self.rung: Callable[[], None] = lambda: None

    def now(self, name: str) -> Inode:
        """The file that a name leads to; one that is not known yet is on the disk as it is."""
        found = self.names.get(name)
        if found is None:
            path = Path(name)
            found = self.names[name] = [Inode(path.read_bytes()) if path.exists() else None]
        if found[-1] is None:
            found.append(Inode())
        inode = found[-1]
        assert inode is not None
        return inode

    def change(self, name: str, change: tuple[int, bytes] | int) -> None:
        """A write or a truncation."""
        self.now(name).since.append(change)
        self.rung()

    def sync(self, name: str) -> None:
        """A file's bytes are safe."""
        self.now(name).sync()
        self.rung()

    def forget(self, name: str) -> None:
        """A name is gone, until its folder is synced perhaps."""
        if name in self.names or Path(name).exists():
            self.now(name)
            self.names[name].append(None)
        self.rung()

    def sync_folder(self, folder: Path) -> None:
        """The names of a folder are safe."""
        for name, may in self.names.items():
            if Path(name).parent == folder:
                del may[:-1]
        self.rung()

    def image(self, chance: random.Random) -> dict[str, bytes]:
        """The files after a cut."""
        sector, keep = chance.choice([512, 4096]), chance.choice([0.0, 0.1, 0.5, 0.5, 0.9, 1.0])
        chosen = {
            name: may[-1] if chance.random() < keep else chance.choice(may)
            for name, may in self.names.items()
        }
        return {name: one.after(chance, sector, keep) for name, one in chosen.items() if one is not None}

    # What lies outside SQLite: segments, written under one name and then given another.

    def sync_whole(self, name: str) -> None:
        """A file's bytes, as they are, are safe."""
        self.now(name).safe[:] = Path(name).read_bytes()
        self.rung()

    def rename(self, name: str, to: str) -> None:
        """A file has another name. What of its bytes was not synced may be there or not."""
        inode = (self.names.pop(name, None) or [None])[-1] or Inode()  # none: it was never synced
        data = Path(name).read_bytes()
        if inode.safe != data:
            inode.since = [(0, data)]
        self.names.setdefault(to, [None]).append(inode)
        self.rung()


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int]) -> None:
        self.path = name.filename() if isinstance(name, apsw.URIFilename) else name
        fresh = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not Path(self.path).exists()
        # SQLite syncs the folder with the first sync of a new journal or WAL.
        self.named = not (fresh and flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        super().__init__("", name, flags)
        _vfs.disk.now(self.path)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        _vfs.disk.change(self.path, (offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        _vfs.disk.change(self.path, size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        _vfs.disk.sync(self.path)
        if not self.named:
            self.named = True
            _vfs.disk.sync_folder(Path(self.path).parent)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("power", base="")
        self.disk = Disk()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _File(name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        super().xDelete(name, sync)
        self.disk.forget(name)
        if sync:
            self.disk.sync_folder(Path(name).parent)


_vfs = _Vfs()


def install() -> Disk:
    """A fresh disk under this process's logs."""
    _vfs.disk = Disk()
    SqliteLog.vfs = "power"
    sqlite.sync_file = _sync_file
    sqlite.SYNC_EVERY_S, sqlite.WAL_CUT_BYTES = 3600.0, 300_000
    sqlite.WAL_FOLD_BYTES, sqlite.WAL_TURN_BYTES = 100_000, 150_000
    tables.PIECE_BYTES = 100
    sealing.synced, sealing.sync_folder = _synced, _sync_folder
    return _vfs.disk


def _synced(sync: Callable[[int], None], handle: int) -> None:
    """The sync of a segment's bytes."""
    machine.synced(sync, handle)
    _vfs.disk.sync_whole(str(Path(f"/proc/self/fd/{handle}").readlink()))


def _sync_folder(folder: Path) -> None:
    """The sync of a segment's name."""
    machine.sync_folder(folder)
    _vfs.disk.sync_folder(folder)


@contextmanager
def _names() -> Iterator[None]:
    """Within it, segments that get and lose their names are told of to the disk."""
    replace, unlink = os.replace, os.unlink

    def replacing(name: str, to: Path) -> None:
        _vfs.disk.rename(name, str(to))
        replace(name, to)

    def unlinking(name: str) -> None:
        unlink(name)
        if Path(name).parent.name == "sealed":
            _vfs.disk.forget(name)

    os.replace, os.unlink = replacing, unlinking  # type: ignore[assignment]
    try:
        yield
    finally:
        os.replace, os.unlink = replace, unlink


def _sync_file(path: Path) -> None:
    """The keeper's own sync."""
    machine.sync_file(path)
    if path.exists():
        _vfs.disk.sync(str(path))


class Cut(msgspec.Struct):
    """A disk after a power cut, and what had been promised by then."""

    files: dict[str, bytes]
    sent: str
    owned: tuple[int, int]  # the stage's epoch and position, as last acknowledged


class Run:
    """Work on a home, with cuts of the power at random changes of the disk."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.sent = Sent(home.parent / f"{home.name}.sent")
        self.cuts: list[Cut] = []
        self.owned = 0, 0
        self.left = 1
        self.disk = install()

    def rung(self) -> None:
        """The disk has changed: perhaps the power goes now."""
        self.left -= 1
        if self.left == 0:
            self.left = 1 + int(self.chance.expovariate(1 / 60))
            text = self.sent.path.read_text() if self.sent.path.exists() else ""
            self.cuts.append(Cut(self.disk.image(self.chance), text, self.owned))

    def go(self) -> list[Cut]:
        """Work; the cuts that happened meanwhile."""
        log = SqliteLog(self.home)
        self.left = self.chance.randrange(1, 60)
        self.disk.rung = self.rung
        running = self._own(log)
        for _ in range(STEPS):
            word = self.chance.random()
            if word < 0.46:
                producer = self.chance.choice("pqr")
                send(log, self.sent, producer, log.last(producer) + 1, sync=self.chance.random() < 0.6)
            elif word < 0.8:
                if running.advance() is not None:
                    self.owned = running.epoch, running.position.n
            elif word < 0.84:
                log._tidy()
            elif word < 0.87:
                log.append([Draft("scrap", "", n, bytes(2000)) for n in range(9)])
                log.drop("scrap", Position(n=log.end().n - 4))
            elif word < 0.9:
                running = self._own(log)
            elif word < 0.985:
                sealing.seal(log, records=self.chance.choice([1, 5]), tail=self.chance.choice([0, 9]))
            else:
                log.close()
                log = SqliteLog(self.home)
                running = self._own(log)
        self.disk.rung = lambda: None
        log.close()
        return self.cuts

    def _own(self, log: SqliteLog) -> Running[Any]:
        running = Running(self.chance.choice([LEDGER, LAZY]), log, batch=self.chance.choice([3, 30]))
        self.owned = running.epoch, running.position.n
        return running


def look(cut: Cut, home: Path) -> list[str]:
    """Start again on the disk that a cut has left: is all there that was promised?"""
    home.mkdir()
    for name, data in cut.files.items():
        path = home / ("sealed" if name.endswith(".parquet") else "") / Path(name).name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (home / "sent").write_text("\n".join(line for line in cut.sent.split("\n") if line[:4] != "kept"))
    try:
        log = SqliteLog(home)
        found = log.load(LEDGER.name)
        log.close()
    except PenstockError as error:
        return [f"the log cannot be opened: {error}"]
    wrong = []
    if (found.epoch, found.position.n) < cut.owned:
        wrong.append(f"the stage stood at {cut.owned}, and stands at {found.epoch, found.position.n}")
    return wrong + wrong_in(home)


class Lost(msgspec.Struct, frozen=True):
    """What came of one run: its power losses and those after which something was wrong."""

    losses: int
    wrong: list[str]


def lose(case: tuple[int, str]) -> Lost:
    """A run, then each of its cuts looked at on a disk of its own."""
    seed, planted = case
    cuts: list[Cut] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        run = Run(Path(folder) / "home", seed)
        with _planted(planted), _names():
            every = run.go()
        cuts = random.Random(seed).sample(every, min(CUTS, len(every)))
        SqliteLog.vfs = None
        for n, cut in enumerate(cuts):
            found = look(cut, Path(folder) / f"after{n}")
            wrong += [f"cut {n}: {found[0]}"] if found else []
    return Lost(len(cuts), wrong)


class _planted:  # noqa: N801
    """Within it, a bug is in the product."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.was = SqliteLog._locked
        self.sealing = sealing.synced, sealing.sync_folder, sealing._seal
        if self.name == "synchronous_normal":
            SqliteLog._locked = lambda log, db, run, sync: self.was(log, db, run, False)
        if self.name == "segment_not_synced":
            sealing.synced = lambda sync, handle: None
        if self.name == "folder_not_synced":
            sealing.sync_folder = lambda folder: None
        if self.name == "rows_first":
            sealing._seal = rows_first

    def __exit__(self, *error: object) -> None:
        SqliteLog._locked = self.was
        sealing.synced, sealing.sync_folder, sealing._seal = self.sealing


def _caught(seed: int, bug: str) -> bool:
    """Whether some runs show a planted bug."""
    runs = ([(seed + n, bug) for n in range(some, some + 4)] for some in range(0, 40, 4))
    return any(one.wrong for cases in runs for one in side_by_side(lose, cases))


def findings(plan: Plan) -> Iterator[Finding]:
    """Many cuts, then the bug."""
    began = time.monotonic()
    wanted, losses, wrong = plan.times(LOSSES, 20), 0, 0
    seeds = [(plan.seed * 1_000_000 + n, "") for n in range(wanted // CUTS + wanted // 20 + 2)]
    for (seed, _), one in zip(seeds, side_by_side(lose, seeds), strict=True):
        losses += one.losses
        wrong += len(one.wrong)
        for text in one.wrong:
            plan.note(f"power, run {seed}, {text}")
    caught = sum(_caught(plan.seed, bug) for bug in BUGS)
    took = time.monotonic() - began
    yield Finding("power loss", losses, wrong, " ".join(BUGS), caught, len(BUGS), took)
