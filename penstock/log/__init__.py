"""log: the port. Append, read, commit, blob; what an engine must do, and nothing of how.

`memory` is the readable reference, `sqlite` the engine of one machine. Both pass one contract suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from penstock.record.record import START, Draft, Position, Record


class Appended(msgspec.Struct, frozen=True):
    """Where drafts came to lie. `places[i]` is the position of draft i; `repeats` are the indices of
    drafts whose id stood on the topic already (their place is that of the first)."""

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


class Commit(msgspec.Struct, frozen=True):
    """A stage's step made visible: position, outputs and, where given, state, together or not at all."""

    stage: str
    epoch: int
    position: Position
    outputs: Sequence[Draft]
    state: bytes | None = None


class Log(Protocol):
    """An ordered, durable sequence of records on topics. Safe to use from several threads."""

    def append(
        self, drafts: Sequence[Draft], *, producer: str = "", sequence: int = 0, sync: bool = True
    ) -> Appended:
        """Write drafts in order, all or none. `sync`: safe against power loss when this returns, else
        against a killed process only (and synced within 100 ms).

        A (producer, sequence) pair that was appended before changes nothing and answers as it did
        (`places` of the earlier append may then be empty); sequences of a producer grow."""

    def read(
        self, topics: Sequence[str], start: Position, *, limit: int = 1024, stop: Position | None = None
    ) -> tuple[list[Record], Position]:
        """At most `limit` records of the topics from `start` on, below `stop` (default: the end), in the
        log's order, and the position up to which nothing on these topics was left out."""

    def find(self, topic: str, id: str) -> Record | None:
        """The record with this id on a topic."""

    def wait(self, position: Position, timeout_s: float) -> bool:
        """Sleep until the log's end lies beyond `position`, or the time is over; says which."""

    def end(self) -> Position:
        """The position that the next record will get."""

    def load(self, stage: str, *, claim: bool = False) -> Checkpoint:
        """A stage's checkpoint; with `claim` under a new epoch, which fences every earlier owner."""

    def commit(self, commit: Commit, *, sync: bool = True) -> Appended:
        """Make a step visible in one write; raises Fenced when the epoch is not the newest.
        Outputs whose id stands already are left out, as in `append`."""

    def last(self, producer: str) -> int:
        """The highest sequence that a producer has appended; 0 when none."""


class Blob(Protocol):
    """Bytes by digest. What was put is never changed; what is read is verified."""

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their digest; repeating it changes nothing."""

    def get(self, digest: str) -> bytes:
        """The bytes of a digest; raises NotFound when absent, Broken when they do not match."""

    def has(self, digest: str) -> bool:
        """Whether the bytes are here."""
