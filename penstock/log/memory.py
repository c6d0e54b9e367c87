"""log: the readable reference of the log and of blobs, in memory. What they do is what the ports mean."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import msgspec

from penstock.log import Appended, Checkpoint, Commit, Then, Where
from penstock.record.codec import digest as digest_of
from penstock.record.errors import Broken, Fenced, NotFound, Refused
from penstock.record.record import START, Draft, Position, Record, placed


class MemoryLog:
    """A log that lives as long as its process: lists and dicts under one lock."""

    alone = True

    def __init__(self) -> None:
        self._records: list[Record | None] = []  # None: dropped
        self._topics: set[str] = set()
        self._first: dict[str, Position] = {}  # from where on those are whole of which something was dropped
        self._ids: dict[tuple[str, str], Record] = {}
        self._producers: dict[str, int] = {}
        self._stages: dict[str, Checkpoint] = {}  # by name, without their states
        self._states: dict[str, bytes] = {}
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._writes = 0

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """See the port."""
        with self._lock:
            if producer:
                if sequence <= self._producers.get(producer, 0):
                    return Appended([], list(range(len(drafts))), self.end())
                self._producers[producer] = sequence
            return self._write(drafts)

    def _write(self, drafts: Sequence[Draft]) -> Appended:
        places: list[int] = []
        repeats: list[int] = []
        for i, draft in enumerate(drafts):
            self._topics.add(draft.topic)
            first = self._ids.get((draft.topic, draft.id)) if draft.id else None
            if first is not None:
                repeats.append(i)
                places.append(first.position)
                continue
            place = len(self._records)
            record = placed(draft, place)
            self._records.append(record)
            if draft.id:
                self._ids[draft.topic, draft.id] = record
            places.append(place)
        self._writes += 1
        self._changed.notify_all()
        return Appended(places, repeats, self.end())

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
        """See the port."""
        with self._lock:
            end = len(self._records)
            if start.n > end:
                raise Broken("The log went backwards.", code="log_backwards")
            if (
                self._first
                and not passing
                and any(START.n < start.n < self.first(topic).n for topic in topics)
            ):
                raise Broken("Retention has dropped records that were not read yet.", code="log_passed")
            below = min(stop.n, end) if stop else end
            if start.n >= below:
                return [], start
            wanted = frozenset(topics)
            found = [r for r in self._records[start.n : below] if r is not None and r.topic in wanted]
            if where:
                found = list(filter(where.test(), found))
            if len(found) < limit:
                return found, Position(n=below)
            del found[limit:]
            return found, Position(n=found[-1].position + 1)

    def news(self, topics: Collection[str], since: Position) -> list[str]:
        """See the port."""
        with self._lock:
            fresh = {r.topic for r in self._records[since.n :] if r is not None}
        return sorted(fresh.intersection(topics))

    def find(self, topic: str, id: str) -> Record | None:
        """See the port."""
        return self._ids.get((topic, id))

    def wait(self, position: Position, timeout_s: float) -> bool:
        """See the port."""
        with self._lock:
            return self._changed.wait_for(lambda: len(self._records) > position.n, timeout_s)

    def hear(self, heard: int, timeout_s: float) -> int:
        """See the port."""
        with self._lock:
            self._changed.wait_for(lambda: self._writes > heard, timeout_s)
            return self._writes

    def end(self) -> Position:
        """See the port."""
        return Position(n=len(self._records))

    def first(self, topic: str) -> Position:
        """See the port."""
        return self._first.get(topic, START)

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> tuple[Appended, Appended]:
        """See the port. What was appended is taken back where nothing comes of it."""
        with self._lock:
            n = len(self._records)
            done = self._write(drafts)
            try:
                return done, self.commit(then(done))
            except BaseException:
                for record in self._records[n:]:
                    if record is not None:
                        self._ids.pop((record.topic, record.id), None)
                del self._records[n:]
                raise

    def drop(self, topic: str, below: Position) -> int:
        """See the port."""
        with self._lock:
            gone = 0
            for place, record in enumerate(self._records[: below.n]):
                if record is not None and record.topic == topic:
                    self._records[place] = None
                    self._ids.pop((topic, record.id), None)
                    self._first[topic] = Position(n=place + 1)
                    gone += 1
            return gone

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """See the port."""
        with self._lock:
            found = self._stages.get(stage, Checkpoint())
            if claim:
                found = msgspec.structs.replace(found, epoch=found.epoch + 1)
                self._stages = dict(sorted({**self._stages, stage: found}.items()))
            if found.position.n > len(self._records):
                raise Broken("The log went backwards.", code="log_backwards")
            return msgspec.structs.replace(found, state=self._states.get(stage, b""))

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """See the port."""
        with self._lock:
            before = self._stages.get(commit.stage, Checkpoint())
            if commit.epoch != before.epoch or not before.epoch:
                raise Fenced(where=commit.stage)
            if commit.position.n < before.position.n:
                raise Refused("A stage's position does not go back.", where=commit.stage, code="position")
            at = before.state_position
            if commit.state is not None:
                self._states[commit.stage], at = commit.state, commit.position
            self._stages[commit.stage] = Checkpoint(commit.epoch, commit.position, b"", at)
            return self._write(commit.outputs)

    def last(self, producer: str) -> int:
        """See the port."""
        return self._producers.get(producer, 0)

    def topics(self) -> list[str]:
        """See the port."""
        return sorted(self._topics)

    def count(self, topic: str, start: Position = START) -> int:
        """See the port."""
        return sum(r is not None and r.topic == topic for r in self._records[start.n :])

    def stages(self) -> dict[str, Checkpoint]:
        """See the port."""
        with self._lock:
            return dict(self._stages)


class MemoryBlob:
    """Blobs that live as long as their process."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """See the port."""
        digest = digest_of(data)
        self._data[digest] = data
        return digest

    def get(self, digest: str) -> bytes:
        """See the port."""
        if digest not in self._data:
            raise NotFound("There is no blob of this digest.", where=digest[:12])
        return self._data[digest]

    def has(self, digest: str) -> bool:
        """See the port."""
        return digest in self._data
