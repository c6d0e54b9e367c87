"""log: the readable reference engine: lists and dicts under one lock. What it does is what the port means."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from penstock.log import Appended, Checkpoint, Commit
from penstock.record.errors import Fenced
from penstock.record.record import START, Draft, Position, Record


class MemoryLog:
    """A log that lives as long as its process."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._ids: dict[tuple[str, str], Record] = {}
        self._producers: dict[str, int] = {}
        self._stages: dict[str, Checkpoint] = {}
        self._changed = threading.Condition()

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """See the port."""
        with self._changed:
            if producer:
                if sequence <= self._producers.get(producer, 0):
                    return Appended([], [], self.end())
                self._producers[producer] = sequence
            return self._write(drafts)

    def _write(self, drafts: Sequence[Draft]) -> Appended:
        places: list[int] = []
        repeats: list[int] = []
        for i, draft in enumerate(drafts):
            first = self._ids.get((draft.topic, draft.id)) if draft.id else None
            if first is not None:
                repeats.append(i)
                places.append(first.position)
                continue
            record = Record(
                draft.topic,
                0,
                len(self._records),
                draft.id,
                draft.key,
                draft.time_ms,
                draft.value,
                draft.headers,
            )
            self._records.append(record)
            if draft.id:
                self._ids[draft.topic, draft.id] = record
            places.append(record.position)
        self._changed.notify_all()
        return Appended(places, repeats, self.end())

    def read(
        self, topics: Sequence[str], start: Position, *, limit: int = 1024, stop: Position | None = None
    ) -> tuple[list[Record], Position]:
        """See the port."""
        with self._changed:
            end = min(stop.n, len(self._records)) if stop else len(self._records)
            found: list[Record] = []
            for record in self._records[start.n : end]:
                if record.topic in topics:
                    found.append(record)
                    if len(found) == limit:
                        return found, Position(n=record.position + 1)
            return found, Position(n=max(start.n, end))

    def find(self, topic: str, id: str) -> Record | None:
        """See the port."""
        return self._ids.get((topic, id))

    def wait(self, position: Position, timeout_s: float) -> bool:
        """See the port."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._records) > position.n, timeout_s)

    def end(self) -> Position:
        """See the port."""
        return Position(n=len(self._records))

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """See the port."""
        with self._changed:
            found = self._stages.get(stage, Checkpoint())
            if claim:
                found = self._stages[stage] = msgspec.structs.replace(found, epoch=found.epoch + 1)
            return found

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """See the port."""
        with self._changed:
            before = self._stages.get(commit.stage, Checkpoint())
            if commit.epoch != before.epoch:
                raise Fenced(where=commit.stage)
            kept = commit.state is None
            self._stages[commit.stage] = Checkpoint(
                commit.epoch,
                commit.position,
                before.state if commit.state is None else commit.state,
                before.state_position if kept else commit.position,
            )
            return self._write(commit.outputs)

    def last(self, producer: str) -> int:
        """See the port."""
        return self._producers.get(producer, 0)

    def topics(self) -> list[str]:
        """The topics that have records."""
        return sorted({record.topic for record in self._records})

    def count(self, topic: str, start: Position = START) -> int:
        """The number of records of a topic from a position on."""
        return sum(record.topic == topic for record in self._records[start.n :])

    def stages(self) -> dict[str, Checkpoint]:
        """Every stage's epoch and position, without its state."""
        return {
            name: msgspec.structs.replace(found, state=b"") for name, found in sorted(self._stages.items())
        }
