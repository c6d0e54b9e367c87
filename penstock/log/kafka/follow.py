"""log: the journal followed: its entries in order, from where a home stands, for as long as it lives."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Sequence

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from penstock.log.kafka.link import ENTRY_BYTES, Link, refusal
from penstock.log.kafka.wire import Entry
from penstock.record.codec import unpack
from penstock.record.errors import Broken, PenstockError, Unavailable

AGAIN_S = 0.2
TOLD_EVERY_S = 5.0
Numbered = tuple[int, int, Entry]
"""An entry with its offset and the CRC of its bytes."""


class Follower:
    """A thread that hands the journal's entries to `apply`, from `mark` on. It outlives absent brokers and
    a full disk; `failed` is what it cannot outlive."""

    def __init__(
        self,
        link: Link,
        home: str,
        mark: Callable[[], tuple[int, int]],
        apply: Callable[[Sequence[Numbered]], None],
        woken: Callable[[], None],
    ) -> None:
        self._link, self._home = link, home
        self._mark, self._apply, self._woken = mark, apply, woken
        self._closed = threading.Event()
        self._told_s, self._told, self._next = 0.0, 0, 0
        self.failed: PenstockError | None = None
        self._thread = threading.Thread(target=self._following, name="penstock-kafka", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Whoever applies must give up when the log closes."""
        self._closed.set()
        self._thread.join()

    def _following(self) -> None:
        while not self._closed.is_set() and self.failed is None:
            try:
                self._follow()
            except Unavailable:  # what was not applied is read again
                self._closed.wait(AGAIN_S)
            except PenstockError as error:
                self.failed = error
            except Exception as error:  # whatever it is, this home can follow no further
                self.failed = Broken(
                    f"The mirror stopped: {type(error).__name__}.", where=self._link.place.journal
                )
                self.failed.__cause__ = error
        self._woken()

    def _follow(self) -> None:
        """Begin with the entry that was applied last: it must be the same as then."""
        applied, crc = self._mark()
        consumer: Consumer = self._link.client(Consumer, self._settings())
        try:
            consumer.assign([TopicPartition(self._link.place.journal, 0, max(applied, 0))])
            while not self._closed.is_set():
                first = consumer.poll(0.1)
                if first is None:
                    self._tell(consumer)
                    continue
                entries = [self._entry(m) for m in (first, *consumer.consume(499, 0)) if not self._trouble(m)]
                if entries and applied >= 0:
                    if entries[0][:2] != (applied, crc):
                        raise Broken(
                            f"Entry {applied} of the journal is not the one that this home has applied.",
                            code="log_backwards", where=self._link.place.journal,
                            hint="Was it made anew? Move the home's log.db away to follow this one.",
                        )  # fmt: skip
                    applied = -1
                if entries:
                    self._apply(entries)
                    self._next = entries[-1][0] + 1
                    self._tell(consumer)
        finally:
            consumer.close()

    def _settings(self) -> dict[str, object]:
        return self._link.settings(
            **{
                "group.id": f"{self._link.place.prefix}-{self._home}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.message.max.bytes": ENTRY_BYTES,
                "queued.max.messages.kbytes": 32 << 10,
                "fetch.queue.backoff.ms": 10,
            }
        )

    def _entry(self, message: Message) -> Numbered:
        data = message.value() or b""
        return message.offset() or 0, zlib.crc32(data), unpack(data, Entry)

    def _trouble(self, message: Message) -> bool:
        """Whether a message is a note of trouble: what passes is waited for, what does not is raised."""
        error = message.error()
        if error is None:
            return False
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise Broken(
                "The journal has lost entries that this home needs next.", code="log_backwards",
                where=self._link.place.journal,
            )  # fmt: skip
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION):
            raise Unavailable("The journal is not there now.")  # and is looked at from the start again
        refused = refusal(error)
        if refused is not None:
            raise refused
        return True

    def _tell(self, consumer: Consumer) -> None:
        """Let Kafka's own tools show how far this home is; nothing depends on it."""
        if self._next != self._told and time.monotonic() > self._told_s + TOLD_EVERY_S:
            self._told_s, self._told = time.monotonic(), self._next
            at = TopicPartition(self._link.place.journal, 0, self._next)
            consumer.commit(offsets=[at], asynchronous=True)
