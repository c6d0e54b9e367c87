"""faults: every call to the disk fails once, and from then on; then the disk heals and the work goes on."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from penstock.log import machine, sqlite
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.seal import seal
from penstock.record.errors import Broken, PenstockError, Unavailable
from penstock.record.record import START
from penstock.stage import Running
from tests.faults.crashes import wrong_in
from tests.faults.faulty import KINDS, disk, install
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import INPUTS, LAZY, LEDGER, Accounts, Sent, drafts, everything
from tests.faults.process import side_by_side

STEPS = 30
PASSING = {"log_full", "log_io", "log_busy", "log_unknown"}
FAILED = {"log_full", "log_io", "log_busy"}
"""Answers that say: nothing of this was kept."""


class Suffered(msgspec.Struct, frozen=True):
    """What came of a run on a disk that failed. `counts`: how many calls of each kind it made in all."""

    hits: int
    codes: dict[str, int]
    counts: dict[str, int]
    wrong: list[str]


class Work:
    """Producers and a stage that take every answer at its word."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.sent = Sent(home.parent / "sent")
        self.log: SqliteLog | None = None
        self.running: Running[Accounts] | None = None
        self.next: dict[str, int] = {}
        self.refused: set[tuple[str, int]] = set()  # said not to be kept, and never sent again
        self.codes: dict[str, int] = {}
        self.wrong: list[str] = []

    def go(self) -> None:
        """Do one thing after the other; the disk heals after some trouble."""
        for step in range(STEPS):
            try:
                self.step(step)
            except Broken as error:
                self.count(error)
                self.must_stay_dead(error)
                self.begin_anew()
            except PenstockError as error:
                self.count(error)
                if disk.hits > self.chance.choice([1, 3, 9]):
                    self.must_read()
                    disk.heal()
        disk.heal()

    def count(self, error: PenstockError) -> None:
        """An answer that is not the hoped for one."""
        self.codes[error.code] = self.codes.get(error.code, 0) + 1
        fatal = {"log_fsync", "broken"} if disk.call == "read" else {"log_fsync"}
        if error.code not in (PASSING if isinstance(error, Unavailable) else fatal):
            self.wrong.append(f"a disk that failed was told of as: {error!r} from {error.__cause__!r}")

    def step(self, step: int) -> None:
        """One of the things that may be done."""
        if self.log is None:
            self.log = SqliteLog(self.home)
        if self.running is None:
            self.running = Running(self.chance.choice([LEDGER, LAZY]), self.log, batch=20)
        word = self.chance.random()
        if word < 0.5:
            self.send(self.chance.choice("pqr"))
        elif word < 0.88:
            self.running.advance()
        elif word < 0.93:
            self.begin_anew()
        elif word < 0.98:
            seal(self.log, records=self.chance.choice([1, 5]), tail=self.chance.choice([0, 9]))
        else:
            self.log._tidy()

    def send(self, producer: str) -> None:
        """A producer's next batch; what it is told decides what it does next."""
        assert self.log is not None
        sequence = self.next.get(producer, 1)
        self.sent.say("tried", producer, sequence)
        sync = self.chance.random() < 0.7
        try:
            self.log.append(drafts(producer, sequence), producer=producer, sequence=sequence, sync=sync)
        except PenstockError as error:
            if error.code in FAILED and self.chance.random() < 0.5:
                self.refused.add((producer, sequence))
                self.next[producer] = sequence + 1
            raise
        self.sent.say("safe" if sync else "kept", producer, sequence)
        self.next[producer] = sequence + 1

    def must_read(self) -> None:
        """While nothing can be written, what is there can be read."""
        if disk.call == "write" and self.log is not None:
            try:
                everything(self.log, INPUTS)
            except PenstockError as error:
                self.wrong.append(f"a full disk cannot be read: {error}")

    def must_stay_dead(self, error: Broken) -> None:
        """After a failed sync a handle does nothing more, least of all another sync."""
        if self.log is None or error.code != "log_fsync":
            return
        before = disk.count["sync"], disk.count["write"]
        for use in (
            lambda log: log.append(drafts("z", 1)),
            lambda log: log.read(INPUTS, START),
            SqliteLog.close,
        ):
            try:
                use(self.log)
            except Broken as again:
                if again.code == "log_fsync":
                    continue
            self.wrong.append("a handle goes on after a failed sync")
        if before != (disk.count["sync"], disk.count["write"]):
            self.wrong.append("a handle syncs or writes after a failed sync")
        self.log = self.running = None

    def begin_anew(self) -> None:
        """An end and a start."""
        log, self.log, self.running = self.log, None, None
        if log is not None:
            log.close()

    def end(self) -> list[str]:
        """What is wrong on the healed disk, and in what a killed process would have left."""
        wrong = list(self.wrong)
        left = self.home.parent / "left"
        left.mkdir()
        for file in self.home.glob("log.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, left / file.name)
        if (self.home / "sealed").exists():
            shutil.copytree(self.home / "sealed", left / "sealed")
        shutil.copy(self.sent.path, left / "sent") if self.sent.path.exists() else None
        wrong += [f"as a kill would leave it: {one}" for one in wrong_in(left)]
        wrong += [f"as a kill would leave it: {one}" for one in self.ghosts(left)]
        try:
            self.begin_anew()
        except PenstockError as error:
            wrong.append(f"it does not close: {error}")
        shutil.copy(self.sent.path, self.home / "sent") if self.sent.path.exists() else None
        return wrong + wrong_in(self.home) + self.ghosts(self.home)

    def ghosts(self, home: Path) -> list[str]:
        """Batches that are there although their producer was told that they are not."""
        log = SqliteLog(home)
        found = [r.value for topic in INPUTS for r in everything(log, [topic])]
        log.close()
        return [
            f"{producer}/{sequence} is there, against what was said"
            for producer, sequence in sorted(self.refused)
            if any(d.value in found for d in drafts(producer, sequence))
        ]


BUGS = {"believed": "write error", "forgotten": "sync error"}
"""Planted, and the fault that shows it: a COMMIT that failed is taken for kept without asking; a failed sync
is forgotten by the handle."""


@contextlib.contextmanager
def planted(bug: str) -> Iterator[None]:
    """The engine with one of the bugs in it; "" for none."""
    names: dict[str, list[tuple[type, str]]] = {
        "": [], "believed": [(SqliteLog, "_kept")], "forgotten": [(machine.Disk, "failed")]
    }  # fmt: skip
    plain = {(where, name): where.__dict__.get(name) for where, name in names[bug]}
    if bug == "believed":
        SqliteLog._kept = lambda self, db, writing, error: not db.in_transaction  # type: ignore[method-assign]
    elif bug == "forgotten":
        machine.Disk.failed = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        for (where, name), one in plain.items():
            delattr(where, name) if one is None else setattr(where, name, one)


def suffer(case: tuple[str, int, bool, int], bug: str = "") -> Suffered:
    """A run in which the n-th call of a kind fails, once or on and on until somebody made room."""
    with planted(bug):
        return _suffer(case)


def _suffer(case: tuple[str, int, bool, int]) -> Suffered:
    kind, n, lasting, seed = case
    install()
    SqliteLog.vfs = "faulty"
    sqlite.WAL_FOLD_BYTES, sqlite.WAL_TURN_BYTES = 30_000, 60_000  # so that both kinds of folding are met
    sqlite.SYNC_EVERY_S = 3600.0  # and by this thread: two that open files through Python may deadlock
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        work = Work(Path(folder) / "home", seed)
        disk.count = dict.fromkeys(disk.count, 0)
        disk.arm(kind, n, lasting=lasting)
        try:
            work.go()
            hits, counts = disk.hits, dict(disk.count)
            wrong = work.end()
        finally:
            disk.heal()
            SqliteLog.vfs = None
    return Suffered(hits, work.codes, counts, wrong)


def findings(plan: Plan) -> Iterator[Finding]:
    """Each kind of fault at each call of a run."""
    for kind, (call, _) in KINDS.items():
        began = time.monotonic()
        full = next(side_by_side(suffer, [(kind, 10**9, False, plan.seed)])).counts[call]
        count = min(full, plan.times(full, 4))
        places = sorted(random.Random(plan.seed).sample(range(1, full + 1), count))
        cases = [(kind, n, lasting, plan.seed) for n in places for lasting in (False, True)]
        hits = wrong = 0
        codes: dict[str, int] = {}
        for case, one in zip(cases, side_by_side(suffer, cases), strict=True):
            hits += one.hits > 0
            for code, n in one.codes.items():
                codes[code] = codes.get(code, 0) + n
            if one.wrong:
                wrong += 1
                plan.note(f"{case}: {one.wrong[0]}")
        said = ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))
        bugs = [bug for bug, shown in BUGS.items() if shown == kind]
        caught = sum(_caught(plan.seed, bug) for bug in bugs)
        took = time.monotonic() - began
        yield Finding(f"disk: {kind}", hits, wrong, " ".join(bugs), caught, len(bugs), took, said)


def _caught(seed: int, bug: str) -> bool:
    """Whether one of some runs shows a planted bug."""
    cases = [(BUGS[bug], n, False, seed) for n in range(3, 80, 7)]
    return any(one.wrong for one in side_by_side(partial(suffer, bug=bug), cases))
