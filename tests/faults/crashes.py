"""faults: a process dies at each numbered point, and at random ones in random schedules; the next goes on."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from penstock.log.blob import FolderBlob
from penstock.log.crash import Point
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import examine
from penstock.log.upkeep.seal import seal
from penstock.log.upkeep.sweep import shrink, strays, sweep
from penstock.record.errors import PenstockError
from tests.faults import whole
from tests.faults.finding import Finding, Plan
from tests.faults.ledger import INPUTS, Sent, check, finish
from tests.faults.ledger import digest as digest_of
from tests.faults.lives import live
from tests.faults.process import KILLED, Died, Target, run, side_by_side

OF_THE_LOG = [one for one in Point if one not in {Point.EFFECT, Point.RESULT}]
SCHEDULES = 1000
STEPS = 60
SEALING = [Point.SEGMENT_WRITTEN, Point.SEGMENT_NAMED, Point.SEALED, Point.STRAY]
COMMITS = [Point.STEP, Point.STEPPED, Point.OWNER, Point.STATE, Point.CLOSED, Point.COMMITTED]


def wrong_in(home: Path) -> list[str]:
    """Finish the work in a home, and say what is not as it should be."""
    try:
        log = SqliteLog(home)
        sent = Sent(home / "sent")
        finish(log)
        wrong = check(log, sent)
        if next(examine(log), None) is not None:
            wrong.append("the file is not whole")
        log.close()
    except PenstockError as error:
        return [f"the log cannot be used: {error}"]
    wrong += [f"a former owner's step was taken ({epoch})" for _, epoch in sent.said("unfenced")]
    return wrong + _sealed(home) + _blobs(home, sent)


def _sealed(home: Path) -> list[str]:
    """The next upkeep seals, sweeps and shrinks: nothing is left that no segment names, and nothing differs."""
    try:
        log = SqliteLog(home)
        before = digest_of(log)
        seal(log, records=30, tail=3)
        sweep(log)
        shrink(log)
        wrong = [f"a stray file is left: {Path(one).name}" for one in strays(log)]
        wrong += ["the records differ after sealing"] if digest_of(log) != before else []
        wrong += [f"the file is not whole after sealing: {one}" for one in examine(log)]
        log.close()
    except PenstockError as error:
        return [f"upkeep fails: {error}"]
    return wrong


def _blobs(home: Path, sent: Sent) -> list[str]:
    blobs = FolderBlob(home / "blobs")
    wrong = []
    for digest, size in sent.said("blob"):
        try:
            if len(blobs.get(digest)) != size:
                wrong.append(f"blob {digest[:8]} has another size")
        except PenstockError as error:
            wrong.append(f"blob {digest[:8]} was acknowledged: {error}")
    return wrong


def at_point(case: tuple[Target, int, str]) -> Died:
    """Die at a target in a fresh home, live on to the end, look."""
    target, seed, planted = case
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        first = run(live, folder, seed, 9 * STEPS, target, planted)
        second = run(live, folder, seed + 1, STEPS // 2, None, planted)
        wrong = wrong_in(Path(folder))
    if second:
        wrong.append(f"the next process ended with {second}")
    return Died(target, first == KILLED, wrong)


def reached(seed: int) -> list[Died]:
    """Each point of the log at its first reach, and at one later on."""
    chance = random.Random(seed)
    cases = [(Target(point, nth), chance.randrange(10**6), "") for nth in (1, 4) for point in OF_THE_LOG]
    return list(side_by_side(at_point, cases))


class Schedule(msgspec.Struct, frozen=True):
    """One random schedule: the deaths that were met and what was wrong in the end."""

    deaths: int
    records: int
    wrong: list[str]


def schedule(case: tuple[int, str]) -> Schedule:
    """Several lives in one home, each to end at a random point's random reach, then an orderly one."""
    seed, planted = case
    chance = random.Random(seed)
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="penstock-faults-") as folder:
        for _ in range(chance.randrange(1, 5)):
            points = chance.choice([COMMITS, COMMITS, OF_THE_LOG, SEALING])
            target = Target(chance.choice(points), 1 + int(chance.expovariate(1 / 6)))
            code = run(live, folder, chance.randrange(10**9), chance.randrange(5, STEPS), target, planted)
            deaths += code == KILLED
            if code not in {0, KILLED} and not planted:
                return Schedule(deaths, 0, [f"a process ended with {code}"])
        wrong = wrong_in(Path(folder))
        log = SqliteLog(Path(folder))
        records = sum(log.count(topic) for topic in INPUTS)
        log.close()
    return Schedule(deaths, records, wrong)


def caught(bug: str, seed: int, tries: int = 60) -> bool:
    """Whether some schedule shows a planted bug."""
    runs = ([(seed + n, bug) for n in range(some, some + 6)] for some in range(0, tries, 6))
    return any(one.wrong for cases in runs for one in side_by_side(schedule, cases))


def findings(plan: Plan) -> Iterator[Finding]:
    """Every point once, then random schedules, then the bugs."""
    began = time.monotonic()
    dead = reached(plan.seed) + whole.reached(plan)
    missed = [str(one.target) for one in dead if not one.died]
    wrong = [f"{one.target}: {one.wrong[0]}" for one in dead if one.wrong]
    points = {one.target.point for one in dead if one.died}
    for text in (*wrong, *(f"{target} was not reached" for target in missed)):
        plan.note(text)
    yield Finding(
        "crash points", len(points), len(wrong) + len(missed), seconds=time.monotonic() - began,
        note=f"{len(dead)} deaths; of {len(Point)} points",
    )  # fmt: skip
    yield _schedules(plan)


def _schedules(plan: Plan) -> Finding:
    began = time.monotonic()
    count = plan.times(SCHEDULES, 6)
    wrong = deaths = records = 0
    seeds = [(plan.seed * 1_000_000 + n, "") for n in range(count)]
    for (seed, _), one in zip(seeds, side_by_side(schedule, seeds), strict=True):
        deaths, records = deaths + one.deaths, records + one.records
        if one.wrong:
            wrong += 1
            plan.note(f"schedule {seed}: {one.wrong[0]}")
    took = time.monotonic() - began
    bugs = ("position_first", "position_last", "unfenced", "rows_first")
    found = sum(caught(bug, plan.seed) for bug in bugs)
    return Finding(
        "random schedules", count, wrong, " ".join(bugs), found, len(bugs), time.monotonic() - began,
        f"{deaths} deaths, {records} events, {count / took * 60:.0f} schedules a minute",
    )  # fmt: skip
