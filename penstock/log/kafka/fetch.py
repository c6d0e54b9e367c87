"""log: messages in, by their places. Reads on from where it was, and keeps what comes early, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from penstock.log.kafka.link import PATIENCE_S, Link
from penstock.log.kafka.wire import Where
from penstock.record.errors import Broken, Unavailable

SKIP = 50_000
"""A gap of more messages of a partition than this is jumped over, not read through."""
EARLY_BYTES = 48 << 20
_COST = 300  # bytes that a message takes beside its value
_Part = tuple[str, int]


class Fetcher:
    """One thread at a time."""

    def __init__(self, link: Link, closed: threading.Event) -> None:
        self._link, self._closed = link, closed
        self._consumer: Consumer | None = None
        self._next: dict[_Part, int] = {}  # the offset that comes next
        self._asked: dict[_Part, int] = {}  # the highest that was asked for
        self._early: dict[_Part, dict[int, Message]] = {}
        self._early_bytes = 0
        self._paused: set[_Part] = set()

    def fetch(self, places: Iterable[Where]) -> dict[Where, Message]:
        """The messages at these places, without those that the brokers no longer have."""
        wanted: dict[_Part, set[int]] = {}
        for topic, part, offset in places:
            wanted.setdefault((topic, part), set()).add(offset)
        lacking: dict[_Part, int] = {}  # the highest offset that is not here yet
        for where, offsets in wanted.items():
            self._asked[where] = max(self._asked.get(where, -1), *offsets)
            missing = offsets - self._early.setdefault(where, {}).keys()
            if missing:
                self._go(where, min(missing))
                lacking[where] = max(missing)
        self._read(lacking)
        found = {}
        for where, offsets in wanted.items():
            early = self._early[where]
            for at in offsets & early.keys():
                found[(*where, at)] = message = early.pop(at)
                self._early_bytes -= _size(message)
        if self._early_bytes > EARLY_BYTES:
            self._forget()
        return found

    def _read(self, lacking: dict[_Part, int]) -> None:
        """Read until each partition is past the offset that is asked of it."""
        deadline = time.monotonic() + PATIENCE_S
        while lacking := {where: at for where, at in lacking.items() if self._next[where] <= at}:
            assert self._consumer is not None
            self._balance(lacking)
            first = self._consumer.poll(0.2)
            if first is not None:
                for message in (first, *self._consumer.consume(2000, 0)):
                    self._take(message)
            if self._closed.is_set():
                raise Unavailable("The log was closed.", code="log_closed")
            if time.monotonic() > deadline:
                self._lost(lacking)

    def _lost(self, lacking: dict[_Part, int]) -> None:
        """Say why records do not come: Broken when a partition ends before them."""
        for (topic, part), offset in lacking.items():
            _, high = self._link.reach(topic, part)
            if high <= offset:
                raise Broken(
                    f"A topic ends at {high}, before a record that the journal names.", code="log_backwards",
                    where=f"{topic}/{part}@{offset}", hint="Was it made anew? Start this home from a snapshot.",
                )  # fmt: skip
        raise self._link.away()

    def _balance(self, lacking: dict[_Part, int]) -> None:
        """Stop the partitions that are ahead while there is too much of them; go on with those that lack."""
        assert self._consumer is not None
        full = self._early_bytes > EARLY_BYTES
        stop = self._next.keys() - lacking.keys() - self._paused if full else set()
        go = self._paused & lacking.keys() if full else self._paused
        if stop:
            self._consumer.pause([TopicPartition(*where) for where in sorted(stop)])
        if go:
            self._consumer.resume([TopicPartition(*where) for where in sorted(go)])
        self._paused = (self._paused | stop) - go

    def _forget(self) -> None:
        """Drop early messages that others have passed: left by writes that never were, or read again if not."""
        for where, early in self._early.items():
            for at in [at for at in early if at < self._asked.get(where, -1)]:
                self._early_bytes -= _size(early.pop(at))

    def close(self) -> None:
        """Let go of the brokers."""
        if self._consumer is not None:
            self._consumer.close()

    def _settings(self) -> dict[str, Any]:
        return self._link.settings(
            **{
                "group.id": f"{self._link.place.prefix}-fetch",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 32 << 10,
                "fetch.queue.backoff.ms": 10,
            }
        )

    def _go(self, where: _Part, offset: int) -> None:
        """Make sure that a partition is read from `offset` on, without a jump where it soon gets there."""
        if self._consumer is None:
            self._consumer = self._link.client(Consumer, self._settings())
        known = self._next.get(where)
        if known is not None and known <= offset < known + SKIP:
            return
        if known is not None:
            self._consumer.incremental_unassign([TopicPartition(*where)])
            self._paused.discard(where)
        self._consumer.incremental_assign([TopicPartition(*where, offset)])
        self._next[where] = offset

    def _take(self, message: Message) -> None:
        where = (message.topic() or "", message.partition() or 0)
        offset, error = message.offset(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            return
        if offset is None or where not in self._next or offset < self._next[where]:
            return  # of before a jump
        if error is not None:
            self._next[where] = offset
            return
        if offset not in self._early.setdefault(where, {}):
            self._early_bytes += _size(message)
        self._early[where][offset] = message
        self._next[where] = offset + 1


def _size(message: Message) -> int:
    return len(message) + _COST
