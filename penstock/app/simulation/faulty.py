"""app: a log and a blob store that fail by seeded chance, as real ones do. Off, they are plain.

A `FaultyLog` is one process's handle: it may be cut off, see the end late, and answer an error for a
write that happened. What stands on the log behind it is always what the port promises.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar, cast

from penstock.log import Appended, Blob, Checkpoint, Commit, Joint, Log, Then, Where
from penstock.record.errors import Unavailable
from penstock.record.record import START, Draft, Position, Record

T = TypeVar("T")

KINDS = {
    "away": 0.01,
    "killed_before": 0.02,
    "killed_after": 0.02,
    "lost": 0.02,
    "unsure": 0.03,
    "short": 0.2,
    "stale": 0.15,
    "blob_away": 0.05,
}
"""How often each fault strikes at most, of the calls that it can strike."""
AWAY_CALLS = 12


class Killed(BaseException):
    """The process that called is no more; nothing may catch this but who starts it again."""


class Faults:
    """Which faults there are, how often, and how many struck. `on` heals all of them at once."""

    def __init__(self, chance: random.Random, rates: dict[str, float]) -> None:
        self.chance, self.rates = chance, rates
        self.on = True
        self.struck: Counter[str] = Counter()

    def strikes(self, kind: str) -> bool:
        """Whether a fault of this kind happens now."""
        rate = self.rates.get(kind) if self.on else None
        if not rate or self.chance.random() >= rate:
            return False
        self.struck[kind] += 1
        return True


def drawn(chance: random.Random, kinds: Sequence[str] = tuple(KINDS)) -> dict[str, float]:
    """Rates for one schedule: some faults not at all, so that others show what they do alone."""
    return {kind: KINDS[kind] * chance.random() for kind in kinds if chance.random() < 0.75}


class FaultyLog:
    """One process's handle on a log."""

    alone = True

    def __init__(self, log: Log, faults: Faults) -> None:
        self.log, self.faults = log, faults
        self._away = 0
        self._seen = START

    def _reach(self) -> None:
        """Raise Unavailable while this handle is cut off."""
        if self.faults.strikes("away"):
            self._away = self.faults.chance.randrange(1, AWAY_CALLS)
        if self._away and self.faults.on:
            self._away -= 1
            raise Unavailable("The log cannot be reached.")

    def _write(self, write: Callable[[], T]) -> T:
        self._reach()
        if self.faults.strikes("killed_before"):
            raise Killed
        if self.faults.strikes("lost"):
            raise Unavailable("The write may have happened.", code="unknown")
        done = write()
        if self.faults.strikes("killed_after"):
            raise Killed
        if self.faults.strikes("unsure"):
            raise Unavailable("The write may have happened.", code="unknown")
        return done

    def _past(self, position: Position) -> None:
        """What this handle has seen, it never sees less of."""
        if position.n > self._seen.n:
            self._seen = position

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """See the port."""
        done = self._write(lambda: self.log.append(drafts, producer=producer, sequence=sequence, sync=sync))
        self._past(done.end)
        return done

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """See the port."""
        done = self._write(lambda: self.log.commit(commit, sync=sync))
        self._past(done.end)
        return done

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> tuple[Appended, Appended]:
        """See the port. What `then` reads comes by this handle, too."""
        log = cast(Joint, self.log)
        done = self._write(lambda: log.join(drafts, then, sync=sync))
        self._past(done[1].end)
        return done

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """See the port."""
        if claim:
            found = self._write(lambda: self.log.load(stage, claim=True))
        else:
            self._reach()
            found = self.log.load(stage)
        self._past(found.position)
        return found

    def read(
        self,
        topics: Sequence[str],
        start: Position,
        *,
        limit: int = 1024,
        stop: Position | None = None,
        where: Where | None = None,
        passing: bool = False,
    ) -> tuple[list[Record], Position]:
        """See the port. Short: fewer records than there are; stale: only those below an earlier end."""
        self._reach()
        self._past(start)
        if self.faults.strikes("short"):
            limit = self.faults.chance.randrange(1, min(limit, 40) + 1)
        if stop is None and self.faults.strikes("stale"):
            stop = Position(n=self.faults.chance.randrange(self._seen.n, self.log.end().n + 1))
        found, position = self.log.read(topics, start, limit=limit, stop=stop, where=where, passing=passing)
        self._past(position)
        return found, position

    def news(self, topics: Collection[str], since: Position) -> list[str]:
        """See the port."""
        self._reach()
        return self.log.news(topics, since)

    def find(self, topic: str, id: str) -> Record | None:
        """See the port."""
        self._reach()
        return self.log.find(topic, id)

    def wait(self, position: Position, timeout_s: float) -> bool:
        """See the port. Nobody sleeps where time is simulated."""
        return self.log.end().n > position.n

    def hear(self, heard: int, timeout_s: float) -> int:
        """See the port. Nobody sleeps where time is simulated."""
        return self.log.hear(heard, 0)

    def end(self) -> Position:
        """See the port."""
        self._reach()
        self._past(self.log.end())
        return self._seen

    def first(self, topic: str) -> Position:
        """See the port."""
        return self.log.first(topic)

    def drop(self, topic: str, below: Position) -> int:
        """See the port."""
        return self._write(lambda: self.log.drop(topic, below))

    def last(self, producer: str) -> int:
        """See the port."""
        self._reach()
        return self.log.last(producer)

    def topics(self) -> list[str]:
        """See the port."""
        return self.log.topics()

    def count(self, topic: str, start: Position = START) -> int:
        """See the port."""
        return self.log.count(topic, start)

    def stages(self) -> dict[str, Checkpoint]:
        """See the port."""
        return self.log.stages()


class FaultyBlob:
    """One process's handle on a blob store that is away at times."""

    def __init__(self, blobs: Blob, faults: Faults) -> None:
        self.blobs, self.faults = blobs, faults

    def _reach(self) -> None:
        if self.faults.strikes("blob_away"):
            raise Unavailable("The blob store cannot be reached.", code="blob_away")

    def put(self, data: bytes) -> str:
        """See the port."""
        self._reach()
        return self.blobs.put(data)

    def get(self, digest: str) -> bytes:
        """See the port."""
        self._reach()
        return self.blobs.get(digest)

    def has(self, digest: str) -> bool:
        """See the port."""
        self._reach()
        return self.blobs.has(digest)
