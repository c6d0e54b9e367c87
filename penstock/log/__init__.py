"""log: the port. Append, read, commit, blob; what an engine must do, and nothing of how.

`memory` is the readable reference, `sqlite` the engine of one machine, `kafka` that of several.
All pass one contract suite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from penstock.record.record import START, Draft, Position, Record, partition


class Appended(msgspec.Struct, frozen=True):
    """Where drafts came to lie. `places[i]` is the position of draft i; `repeats` are the indices of
    drafts whose id stood on the topic already (their place is that of the first). Where the producer's
    sequence stood already, all are repeats, and none has a place."""

    places: list[int]
    repeats: list[int]
    end: Position


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a stage has come. All records below `position` are folded and their outputs written.

    `state` is the bytes of the state at `state_position`, at or below `position`: the records between
    the two are folded again on resumption, their outputs stand already. `epoch` is the owner's.
    """

    epoch: int = 0
    position: Position = START
    state: bytes = b""
    state_position: Position = START


class Append(msgspec.Struct, frozen=True, tag="append"):
    """Drafts made records, all or none; under a producer's sequence at most once."""

    drafts: Sequence[Draft]
    producer: str = ""
    sequence: int = 0


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """A stage taken over under the next epoch."""

    stage: str


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """A stage's step made visible: position, outputs and, where given, state, together or not at all."""

    stage: str
    epoch: int
    position: Position
    outputs: Sequence[Draft]
    state: bytes | None = None


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """Retention: a topic's records below a position forgotten."""

    topic: str
    below: int


Write = Append | Claim | Commit | Drop
"""All that ever changes a log."""

Then = Callable[[Appended], Commit]
"""The commit that an append leads to, once it is known where its records come to lie."""


class Where(msgspec.Struct, frozen=True):
    """Which records of the topics to read: all conditions that are given hold.

    `keys`: of these keys; `since_ms`, `until_ms`: event time in [since, until); `share`: (k, n), the
    keys of partition k of n.
    """

    keys: frozenset[str] | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    share: tuple[int, int] | None = None

    def test(self) -> Callable[[Record], bool]:
        """The conditions as a function of a record."""
        keys, since, until, share = self.keys, self.since_ms, self.until_ms, self.share
        known: dict[str, bool] = {}

        def mine(key: str) -> bool:
            if key not in known:
                known[key] = share is None or partition(key, share[1]) == share[0]
            return known[key]

        return lambda record: (
            (keys is None or record.key in keys)
            and (since is None or record.time_ms >= since)
            and (until is None or record.time_ms < until)
            and (share is None or mine(record.key))
        )


class Log(Protocol):
    """An ordered, durable sequence of records on topics. Safe to use from several threads."""

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """Write drafts in order, all or none. `sync`: safe against power loss when this returns, else
        against a killed process only (and synced within 20 ms).

        A (producer, sequence) pair that was appended before changes nothing and answers as it did
        (`places` of the earlier append may then be empty); sequences of a producer grow."""

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
        """At most `limit` records of the topics from `start` on, below `stop` (default: the end), in the
        log's order, and the position up to which nothing that was asked for was left out.

        Raises Broken when the log does not reach `start` (it went backwards), or when retention has
        dropped records at or above a `start` that is not START; `passing` reads on all the same, as who
        began at START may."""

    def news(self, topics: Collection[str], since: Position) -> list[str]:
        """Those of the topics, by name, that got records since the log ended at `since`. Topics that never had any
        cost nothing."""

    def find(self, topic: str, id: str) -> Record | None:
        """The record with this id on a topic."""

    def wait(self, position: Position, timeout_s: float) -> bool:
        """Sleep until the log's end lies beyond `position`, or the time is over; says which."""

    def hear(self, heard: int, timeout_s: float) -> int:
        """Sleep until this handle has heard of a write, a stage's position among them, after the
        `heard`-th, or the time is over; the number of the newest."""

    def end(self) -> Position:
        """The position that the next record will get."""

    def first(self, topic: str) -> Position:
        """The position from which on nothing of a topic was dropped by retention."""

    def drop(self, topic: str, below: Position) -> int:
        """Retention: forget a topic's records below a position, and their ids; the number that went."""

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """A stage's checkpoint; with `claim` under a new epoch, which fences every earlier owner.
        Raises Broken when the checkpoint lies beyond the log's end."""

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """Make a step visible in one write; raises Fenced when the epoch is not the newest.
        Outputs whose id stands already are left out, as in `append`."""

    def last(self, producer: str) -> int:
        """The highest sequence that a producer has appended; 0 when none."""

    def topics(self) -> list[str]:
        """The topics that have, or had, records."""

    def count(self, topic: str, start: Position = START) -> int:
        """The number of records of a topic from a position on: its lag for who stands there."""

    def stages(self) -> dict[str, Checkpoint]:
        """Every stage's epoch and positions, without its state."""


@runtime_checkable
class Joint(Protocol):
    """A log whose writer can be alone with it, as on one machine (`alone` says so)."""

    alone: bool

    def join(self, drafts: Sequence[Draft], then: Then, *, sync: bool = True) -> tuple[Appended, Appended]:
        """Append drafts and commit what `then` makes of it, in one write, with the answers of both: nobody else
        writes in between, and `then` may read what lies below. What it raises leaves nothing of either."""


class Blob(Protocol):
    """Bytes by digest. What was put is never changed; what is read is verified."""

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest; repeating it changes nothing."""

    def get(self, digest: str) -> bytes:
        """The bytes of a digest; raises NotFound when absent, Broken when they do not match."""

    def has(self, digest: str) -> bool:
        """Whether the bytes are here."""
