"""faults: processes of one home killed again and again, and owners that sleep past their time."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec

from penstock.log import crash, sqlite, tables
from penstock.log.crash import Point
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import shrink
from penstock.record.errors import Fenced
from penstock.record.record import Record
from penstock.stage import Emitted, Running
from tests.faults.crashes import wrong_in
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import LAZY, LEDGER, LINES, SUMS, Accounts, Sent, everything, send
from tests.faults.lives import plant
from tests.faults.process import Hung, ended, run, start

KILLS = 200
BETWEEN_CHECKS = 20
ZOMBIES = 20
FENCED = 7
ROLES = ("p0", "p1", "stage", "upkeep")
STOPS = (Point.STEP, Point.BEGIN, Point.STEPPED)
"""Where an owner may fall asleep: within a transaction it would hold the lock that its successor needs."""


def produce(home: str, producer: str, seed: int, planted: str) -> None:
    """Append, sometimes twice, until killed."""
    chance, log, sent = random.Random(seed), SqliteLog(Path(home)), Sent(Path(home) / "sent")
    while True:
        sequence = log.last(producer) + (chance.random() < 0.9)
        if sequence:
            send(log, sent, producer, sequence, sync=chance.random() < 0.3)
        time.sleep(chance.random() * 0.004)


def fold(home: str, name: str, seed: int, planted: str) -> None:
    """Own the stage until killed."""
    plant(planted)
    sqlite.WAL_FOLD_BYTES, sqlite.WAL_TURN_BYTES = 200_000, 400_000
    tables.PIECE_BYTES = 100
    chance, log = random.Random(seed), SqliteLog(Path(home))
    running = Running(chance.choice([LEDGER, LAZY]), log, batch=chance.choice([1, 7, 50]))
    while True:
        if running.advance() is None:
            log.wait(running.position, 0.05)


def keep(home: str, name: str, seed: int, planted: str) -> None:
    """Seal small segments and give room back, until killed."""
    chance, log = random.Random(seed), SqliteLog(Path(home))
    while True:
        seal(log, records=chance.choice([5, 50]), tail=chance.choice([0, 20]))
        if chance.random() < 0.2:
            shrink(log)
        time.sleep(0.005)


def rounds(chance: random.Random, kills: int, planted: str = "") -> Iterator[list[str]]:
    """After each few kills, what is wrong in the home."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        SqliteLog(Path(folder)).close()
        at_work: dict[str, BaseProcess] = {}
        while kills > 0:
            few = min(kills, BETWEEN_CHECKS)
            for _ in range(few - len(ROLES)):
                _staff(folder, at_work, chance, planted)
                time.sleep(0.01 + chance.random() * 0.06)
                _kill(at_work, [chance.choice(ROLES)])
            _staff(folder, at_work, chance, planted)
            time.sleep(0.05)
            _kill(at_work, ROLES)
            kills -= few
            yield wrong_in(Path(folder))


def _staff(folder: str, at_work: dict[str, BaseProcess], chance: random.Random, planted: str) -> None:
    for role in ROLES:
        if role not in at_work:
            function = {"stage": fold, "upkeep": keep}.get(role, produce)
            at_work[role] = start(function, folder, role, chance.randrange(10**9), planted)


def _kill(at_work: dict[str, BaseProcess], roles: Sequence[str]) -> None:
    for role in roles:
        process = at_work.pop(role)
        process.kill()
        code = ended(process)
        if code != -signal.SIGKILL:
            raise RuntimeError(f"{role} ended by itself, with {code}")


# Owners that sleep.


def _marked(state: Accounts, records: Sequence[Record]) -> tuple[Accounts, list[Emitted]]:
    state, emitted = LEDGER.step_many(state, records)
    return state, [(r, msgspec.structs.replace(d, headers={"by": "zombie"})) for r, d in emitted]


ZOMBIE = msgspec.structs.replace(LEDGER, step_many=_marked)


def sleep_at(home: str, point: int, seed: int, planted: str) -> None:
    """Own the stage, fall asleep at a point of the second step, and go on when woken."""
    plant(planted)
    left = 2

    def reach(at: Point, about: str) -> None:
        nonlocal left
        if at == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)

    log = SqliteLog(Path(home))
    running = Running(ZOMBIE, log, batch=20)
    crash.reach = reach
    try:
        for _ in range(4):
            running.advance()
    except Fenced:
        sys.exit(FENCED)


def succeed(home: str, steps: int) -> None:
    """Take the stage over and go some way."""
    running = Running(LEDGER, SqliteLog(Path(home)), batch=3)
    for _ in range(steps):
        running.advance()


def zombie(chance: random.Random, planted: str = "") -> list[str]:
    """One owner sleeps, another takes over, the first wakes: what is wrong."""
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        home = Path(folder)
        log, sent = SqliteLog(home), Sent(home / "sent")
        for sequence in range(1, 31):
            send(log, sent, "p0", sequence, sync=False)
        point = chance.choice(STOPS)
        sleeper = start(sleep_at, folder, point, chance.randrange(10**9), planted)
        _asleep(sleeper)
        run(succeed, folder, chance.randrange(1, 4))
        taken = log.end().n
        assert sleeper.pid is not None
        os.kill(sleeper.pid, signal.SIGCONT)
        code = ended(sleeper)
        late = [
            r
            for r in everything(log, [LINES, SUMS])
            if r.headers.get("by") == "zombie" and r.position >= taken
        ]
        wrong = [f"the sleeper ended with {code}, not fenced"] if code != FENCED else []
        wrong += [f"{len(late)} records of the sleeper stand after its successor's"] if late else []
        log.close()
        return wrong + ([] if planted else wrong_in(home))


def _asleep(process: BaseProcess, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        if stat.rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.002)
    process.kill()
    raise Hung("an owner did not fall asleep")


def findings(plan: Plan) -> Iterator[Finding]:
    """Kills, then sleepers, each with the bugs that they must show."""
    began = time.monotonic()
    count, wrong = plan.times(KILLS, 20), 0
    for found in rounds(random.Random(plan.seed), count):
        wrong += bool(found)
        if found:
            plan.note(f"kill -9, seed {plan.seed}: {found[0]}")
    bugs = ("position_first", "position_last")
    caught = sum(any(rounds(random.Random(plan.seed), 200, bug)) for bug in bugs)
    took = time.monotonic() - began
    yield Finding("kill -9", count, wrong, " ".join(bugs), caught, len(bugs), took)
    began = time.monotonic()
    chance, count = random.Random(plan.seed), plan.times(ZOMBIES, 3)
    wrong = 0
    for _ in range(count):
        found = zombie(chance)
        wrong += bool(found)
        if found:
            plan.note(f"zombie, seed {plan.seed}: {found[0]}")
    caught = int(any(zombie(chance, "unfenced") for _ in range(4)))
    yield Finding("zombies", count, wrong, "unfenced", caught, 1, time.monotonic() - began)
