"""app: upkeep of a home: what its sources' `keep` lets go is dropped, old history sealed, room given back.

An event goes only when nobody can need it: every stage that reads it has a state beyond it, every model
trains on newer ones, and every version's training set is sealed by digest. That it went is a record.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from penstock.app.home import Home, inputs_of
from penstock.app.keep import Keep, keep_of, needed_ms
from penstock.app.pipeline import File, looking
from penstock.dataset.kept import Retained
from penstock.log import Log
from penstock.log.sqlite import SqliteLog
from penstock.log.upkeep.doctor import health
from penstock.log.upkeep.retain import oldest
from penstock.log.upkeep.seal import seal, worth
from penstock.log.upkeep.sweep import shrink, sweep
from penstock.record.decisions import RETENTION, TICKS, Tick, draft, read
from penstock.record.errors import PenstockError
from penstock.record.record import Position, Record
from penstock.release.registry import registry

LOOK_S = 60.0
AT_LEAST_S = 3600.0
"""A running home is looked at so often; what ages goes at the latest after this."""
SHRINK_BYTES = 64 << 20
"""Free room in the file that is left for what comes next."""


class Cut(msgspec.Struct, frozen=True):
    """What retention takes of a topic, or what holds it back."""

    topic: str
    first: Position = Position()
    before_ms: int = 0
    records: int = 0
    size: int = 0
    held: str = ""


class Kept(msgspec.Struct, frozen=True):
    """What one turn of upkeep did."""

    cuts: list[Cut]
    sealed: int
    freed: int


def due(file: File, home: Home) -> list[Cut]:
    """What each source's `keep` lets go now, by the newest tick's time."""
    kept = [(source, keep) for source in file.kept if (keep := keep_of(source)) != Keep()]
    tick = newest(home.log, TICKS) if kept else None
    if tick is None:
        return []
    now_ms = read(tick, Tick).t_ms
    return [_cut(file, home, source.topic, keep, now_ms) for source, keep in kept]


def newest(log: Log, topic: str) -> Record | None:
    """The newest record of a topic."""
    end, back = log.end().n, 1024
    while True:
        start = max(log.first(topic).n, end - back)
        found: list[Record] = []
        position = Position(n=start)
        while position.n < end:
            more, position = log.read([topic], position, limit=4096)
            found = more[-1:] or found
        if found or start <= log.first(topic).n:
            return found[0] if found else None
        back *= 8


def _cut(file: File, home: Home, topic: str, keep: Keep, now_ms: int) -> Cut:
    needed = needed_ms(looking(file), topic)
    if needed is None:
        return Cut(topic, held="a model looks back over all of it")
    unsealed = _unsealed(file, home, topic)
    if unsealed:
        return Cut(topic, held=f"the training set of {unsealed} is not sealed")
    below = min((at.n for at in _states(file, home, topic)), default=home.log.end().n)
    found = oldest(
        home.log,
        topic,
        before_ms=None if keep.age_ms is None else now_ms - keep.age_ms,
        most_bytes=keep.size,
        below=Position(n=below),
        until_ms=now_ms - needed,
    )
    if found is None:
        return Cut(topic)
    records = home.log.count(topic) - home.log.count(topic, found.below)
    return Cut(topic, found.below, found.before_ms, records, found.size)


def _states(file: File, home: Home, topic: str) -> list[Position]:
    """Where the states of the stages that read a topic stand: what lies above is folded again on resumption."""
    readers = {name for name, topics in inputs_of(file, home.blobs).items() if topic in topics}
    return [at.state_position for name, at in home.log.stages().items() if name.partition("/")[0] in readers]


def _unsealed(file: File, home: Home, topic: str) -> str:
    """A version that was trained on a topic and whose rows are not in the blob store."""
    for name, plan in file.plans.items():
        if topic in (plan.pipeline.request.topic, *plan.features.topics):
            entry = registry(home.log).models.get(name)
            for version in entry.versions.values() if entry else ():
                if not (home.blobs.has(version.training.digest) and home.blobs.has(version.holdout.digest)):
                    return f"{name}@v{version.version}"
    return ""


def turn(file: File, home: Home, now_ms: int) -> Kept:
    """Let go what is due, seal what is old, give back the room. Each may end after any step and go on later."""
    cuts = due(file, home)
    for cut in cuts:
        if cut.records:
            said = Retained(cut.topic, cut.first, cut.before_ms, cut.records, now_ms)
            id = f"{cut.topic}:{cut.first.n}"
            home.log.append([draft(RETENTION, said, key=cut.topic, t_ms=now_ms, id=id)])
            home.log.drop(cut.topic, cut.first)
    sealed = 0
    if type(home.log) is SqliteLog:  # a mirror of a log on Kafka is given on as one file
        sealed = seal(home.log)
    sweep(home.log)
    spare = health(home.log)["spare_bytes"]
    return Kept(cuts, sealed, shrink(home.log) if spare > SHRINK_BYTES else 0)


class Caretaker(threading.Thread):
    """Upkeep of a running home, in a process of its own that yields to the others: neither its memory nor its
    work is on the hot path."""

    def __init__(self, path: Path, log: SqliteLog, stop: threading.Event) -> None:
        super().__init__(name="penstock-upkeep", daemon=True)
        self.path, self.log, self.stopping = path, log, stop

    def run(self) -> None:
        """Look now and then; what cannot be done now is met again."""
        since = time.monotonic()
        while not self.stopping.wait(LOOK_S):
            with contextlib.suppress(PenstockError):
                sealable = type(self.log) is SqliteLog and worth(self.log)
                if sealable or time.monotonic() - since > AT_LEAST_S:
                    since = time.monotonic()
                    self._turn()

    def _turn(self) -> None:
        command = [sys.executable, "-m", "penstock.cli", "upkeep", "--json", "--home", str(self.path)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        os.setpriority(os.PRIO_PROCESS, child.pid, 10)
        while child.poll() is None:
            if self.stopping.wait(0.2):  # it may end after any step
                child.terminate()
                child.wait()
