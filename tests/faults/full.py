"""faults: a disk that is really full: files that may not grow, and a small file system with no room left.

Producers, a stage and blobs take every answer at its word, as on the disk that fails at the n-th call;
here the system itself says no, in the middle of a page where it likes. After some refusals either there
is room again and the process goes on by itself, or it is killed as it stands, and another one goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.log import Appended, sqlite
from penstock.log.blob import FolderBlob
from penstock.log.sqlite import SqliteLog
from penstock.record.errors import PenstockError, Unavailable
from penstock.record.record import Draft
from tests.faults import mount
from tests.faults.crashes import wrong_in
from tests.faults.disk import Work
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import INPUTS, everything, send
from tests.faults.process import KILLED, side_by_side
from tools.kafka.broker import Missing

CASES = {"files may not grow": 300, "tmpfs": 200, "ext4": 200}
LIVES_SPOILT = 20
"""How many lives with a planted bug are looked at: it must show in one of them."""
STEPS = 80
SIZE_BYTES = 8 << 20
SENTENCES = {
    "log_full": ("The disk is full; nothing of this write was kept.", "The disk is full; nothing of this was kept."),
    "log_io": ("The log's file cannot be used: ", "A file cannot be used: "),
    "log_unknown": ("Whether the log kept this write is not known.",),
}  # fmt: skip
"""How a full disk is told of."""


class Told(msgspec.Struct):
    """What a life that a disk was too small for has to tell, however it ended."""

    hits: int = 0
    codes: dict[str, int] = {}
    wrong: list[str] = []
    refused: list[tuple[str, int]] = []
    died: bool = False


class Limit:
    """Files of this process may not grow beyond what they have, and a little."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def fill(self, left: int) -> None:
        """From now on."""
        most = max(file.stat().st_size for file in self.home.glob("log.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most + left, resource.RLIM_INFINITY))

    def clear(self) -> None:
        """As before."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Ballast:
    """The home's file system is filled up with something else, but for a little."""

    def __init__(self, home: Path) -> None:
        self.path = home / "ballast"

    def fill(self, left: int) -> None:
        """From now on."""
        disk = os.statvfs(self.path.parent)
        with contextlib.suppress(OSError):  # the log's keeper was quicker: all the fuller
            self.path.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))

    def clear(self) -> None:
        """There is room again."""
        self.path.unlink(missing_ok=True)


ROOMS = dict(zip(CASES, (Limit, Ballast, Ballast), strict=True))


class Squeezed(Work):
    """A life whose disk is full from some step on, until it was refused a few times; twice over."""

    def __init__(self, home: Path, seed: int, room: Limit | Ballast) -> None:
        super().__init__(home, seed)
        self.room, self.told, self.is_full = room, Told(), False

    def go(self) -> None:
        """Do one thing after the other."""
        fills = sorted(self.chance.sample(range(5, STEPS - 10), 2))
        patience = 0
        for step in range(STEPS):
            if step in fills and not self.is_full:
                self.is_full, patience = True, self.chance.choice([1, 3, 9])
                self.room.fill(self.chance.choice([0, 100, 5_000, 40_000]) + self.chance.randrange(5_000))
            try:
                self.step(step)
            except PenstockError as error:
                self.count(error)
                patience -= 1
                if not patience:
                    self.must_read()
                    self.end_trouble()
        self.room.clear()

    def step(self, step: int) -> None:
        """As on another disk, and now and then a blob."""
        if self.chance.random() < 0.1:
            data = self.chance.randbytes(self.chance.randrange(1, 60_000))
            self.sent.say("blob", FolderBlob(self.home / "blobs").put(data), len(data))
        else:
            super().step(step)

    def count(self, error: PenstockError) -> None:
        """It is told in a sentence that one knows, as what passes; nothing else goes wrong."""
        self.told.hits += 1
        self.codes[error.code] = self.codes.get(error.code, 0) + 1
        if not (isinstance(error, Unavailable) and error.what.startswith(SENTENCES.get(error.code, "-"))):
            self.wrong.append(f"a full disk was told of as: {error!r} from {error.__cause__!r}")
        if not self.is_full:
            self.wrong.append(f"there is room, and yet: {error!r}")

    def must_read(self) -> None:
        """What is there can be read while nothing can be written, by who has the log open: SQLite's shared
        memory is a file, which somebody who opens it may have no room for."""
        try:
            everything(self.log, INPUTS) if self.log else None
        except PenstockError as error:
            self.wrong.append(f"a full disk cannot be read: {error}")

    def end_trouble(self) -> None:
        """Room again, or the end of this process."""
        if self.chance.random() < 0.4:
            self.told.died = True
            self.tell()
            os.kill(os.getpid(), signal.SIGKILL)
        self.room.clear()
        self.is_full = False

    def tell(self) -> None:
        """What there is to tell, in a file beside the home, which is on another disk."""
        self.room.clear() if isinstance(self.room, Limit) else None
        told = msgspec.structs.replace(
            self.told, codes=self.codes, wrong=self.wrong, refused=sorted(self.refused)
        )
        (self.home.parent / "told").write_bytes(msgspec.json.encode(told))


def squeeze(kind: str, home: Path, seed: int, planted: str = "") -> Told:
    """A life on a full disk in a process of its own, and what another process finds after it."""
    room = ROOMS[kind](home)
    child = os.fork()
    if not child:
        status = 1
        try:
            sqlite.SYNC_EVERY_S, sqlite.WAL_FOLD_BYTES = 0.003, 60_000
            if isinstance(room, Limit):  # a WAL that was lengthened ahead would seldom come to the limit
                sqlite.WAL_SMALL_BYTES = 1 << 30
            PLANTED[planted]()
            work = Squeezed(home, seed, room)
            work.go()
            work.begin_anew()
            work.tell()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    room.clear()
    if not (home.parent / "told").exists():
        return Told(wrong=[f"a life ended with {status}", *found_after(home, seed, Told())])
    told = msgspec.json.decode((home.parent / "told").read_bytes(), type=Told)
    if status != (KILLED if told.died else 0):
        told.wrong.append(f"a life ended with {status}")
    told.wrong += found_after(home, seed, told)
    return told


def found_after(home: Path, seed: int, told: Told) -> list[str]:
    """What is wrong in a home that has room again, at once and after some more work."""
    shutil.copy(home.parent / "sent", home / "sent")
    work = Work(home, seed)
    work.refused = set(told.refused)
    wrong = [*work.ghosts(home), *wrong_in(home)]
    try:
        log = SqliteLog(home)
        for producer in "pqr":
            send(log, work.sent, producer, log.last(producer) + 1)
        log.close()
    except PenstockError as error:
        wrong.append(f"there is room, and yet: {error}")
    shutil.copy(home.parent / "sent", home / "sent")
    return wrong + wrong_in(home)


# Bugs to be found.

_append = SqliteLog.append


def believed(log: SqliteLog, drafts: Sequence[Draft], **options: Any) -> Appended:
    """A refusal is taken for a yes."""
    try:
        return _append(log, drafts, **options)
    except Unavailable:
        return Appended([], [], log.end())


def in_parts(log: SqliteLog, drafts: Sequence[Draft], **options: Any) -> Appended:
    """A batch is written record by record, the last one under the sequence."""
    for one in drafts[:-1]:
        _append(log, [one], sync=options["sync"])
    return _append(log, drafts[-1:], **options)


PLANTED: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "refusal_believed": lambda: setattr(SqliteLog, "append", believed),
    "written_in_parts": lambda: setattr(SqliteLog, "append", in_parts),
}


# The part.


def limited(case: tuple[int, str]) -> Told:
    """A life whose files may not grow."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        (Path(folder) / "home").mkdir()
        return squeeze("files may not grow", Path(folder) / "home", *case)


def small(kind: str, cases: Sequence[tuple[int, str]]) -> list[Told]:
    """Lives on a small file system, in a process that has it to itself."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        done = subprocess.run(
            [*mount.on(home, str(SIZE_BYTES), kind), sys.executable, "-m", "tests.faults.full", kind, folder],
            input=json.dumps(cases), capture_output=True, text=True, timeout=600, check=True,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return msgspec.json.decode(done.stdout, type=list[Told])


def main() -> None:
    """One after the other, what is left of each removed; the answers on standard output."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    answers = []
    for seed, planted in json.load(sys.stdin):
        answers.append(squeeze(kind, folder / "home", seed, planted))
        for path in [*folder.joinpath("home").iterdir(), folder / "sent", folder / "told"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print(msgspec.json.encode(answers).decode())


def findings(plan: Plan) -> Iterator[Finding]:
    """Lives whose files may not grow, then lives on a small file system, each with planted bugs."""
    bugs = [bug for bug in PLANTED if bug]
    for kind, full in CASES.items() if plan.scale >= 0.1 else [*CASES.items()][:2]:
        if ROOMS[kind] is Ballast and mount.missing(kind):
            raise Missing(mount.missing(kind))
        began, chance = time.monotonic(), random.Random(plan.seed)
        cases = [(chance.randrange(10**9), "") for _ in range(plan.times(full, 6))]
        planted = [(chance.randrange(10**9), bug) for bug in bugs for _ in range(LIVES_SPOILT)]
        told = (
            small(kind, [*cases, *planted])
            if ROOMS[kind] is Ballast
            else [*side_by_side(limited, [*cases, *planted])]
        )
        codes: dict[str, int] = {}
        for (seed, _), one in zip(cases, told, strict=False):
            for code, n in one.codes.items():
                codes[code] = codes.get(code, 0) + n
            if one.wrong:
                plan.note(f"{kind}, seed {seed}: {one.wrong[0]}")
        real, spoilt = told[: len(cases)], zip(planted, told[len(cases) :], strict=True)
        caught = {bug for (_, bug), one in spoilt if one.wrong}
        said = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
        yield Finding(
            f"full: {kind}", sum(one.hits > 0 for one in real), sum(bool(one.wrong) for one in real),
            " ".join(bugs), len(caught), len(bugs), time.monotonic() - began,
            f"{said}; {sum(one.died for one in real)} killed while full",
        )  # fmt: skip


if __name__ == "__main__":
    main()
