"""log: messages out: each sent until a broker has confirmed it, by a new producer after each doubt."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from penstock.log.kafka.link import ATTEMPT_S, MESSAGE_BYTES, Link, refusal
from penstock.log.kafka.wire import Outgoing

_SETTINGS: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 5,  # `flush` does not wait for it; without it each record would travel alone
    "message.timeout.ms": int(ATTEMPT_S * 1000),
    "message.max.bytes": MESSAGE_BYTES,
    "queue.buffering.max.messages": 2_000_000,
}
_Part = tuple[str, int]


class Publisher:
    """One thread at a time. `renewed` counts the producers that were given up."""

    def __init__(self, link: Link, closed: threading.Event) -> None:
        self._link, self._closed = link, closed
        self._producer: Producer | None = None
        self.renewed = 0

    def publish(self, messages: Sequence[Outgoing], deadline: float) -> list[int]:
        """Send messages, each until a broker has confirmed it; their offsets. After a failure the producer
        is a new one: what an old one still holds cannot arrive in its name any more."""
        offsets: dict[int, int] = {}
        refusals = 0
        while len(offsets) < len(messages):
            self._link.trouble = None
            left = [i for i in range(len(messages)) if i not in offsets]
            offsets.update(self._attempt(messages, left))
            if len(offsets) < len(messages):
                self._renew()
                refusals += self._link.refused() is not None
                if time.monotonic() > deadline or self._closed.is_set() or refusals > 1:
                    raise self._link.away()
        return [offsets[i] for i in range(len(messages))]

    def _attempt(self, messages: Sequence[Outgoing], left: Sequence[int]) -> dict[int, int]:
        """Send once; the offsets of the partitions whose messages were all confirmed. An offset belongs to
        its message by the order of sending, which holds only where nothing failed."""
        if self._producer is None:
            self._producer = self._link.client(Producer, self._link.settings(**_SETTINGS))
        sent: dict[_Part, list[int]] = {}
        told: dict[_Part, list[int]] = {}
        notes: dict[_Part, Any] = {}
        try:
            for i in left:
                topic, part, key, value, at_ms, headers = messages[i]
                where = topic, part
                if where not in sent:
                    sent[where], told[where] = [], []
                    notes[where] = partial(self._note, told[where])
                sent[where].append(i)
                self._produce(topic, value, key, part, notes[where], timestamp=at_ms, headers=headers)
            self._producer.flush(ATTEMPT_S * 2)
        except (KafkaException, SystemError) as error:
            self._ended(error)
            return {}
        found: dict[int, int] = {}
        for where, numbers in sent.items():
            if len(told[where]) == len(numbers) and min(told[where]) >= 0:
                found.update(zip(numbers, told[where], strict=True))
        return found

    def _produce(self, *message: Any, **more: Any) -> None:
        assert self._producer is not None
        while True:
            try:
                self._producer.produce(*message, **more)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _ended(self, error: KafkaException | SystemError) -> None:
        """This producer has ended itself, perhaps while it told of a message."""
        fatal = error.__cause__ if isinstance(error, SystemError) else error
        if isinstance(fatal, KafkaException):
            self._link.note(fatal.args[0])
        elif "without setting an exception" not in str(
            error
        ):  # it may end without a word; the next one has it
            raise error

    def _renew(self) -> None:
        if self._producer is not None:
            with contextlib.suppress(KafkaException):
                self._producer.purge()
            self._producer = None
        self.renewed += 1

    def close(self) -> None:
        """Let go of the brokers; nothing is on its way when no write is."""
        self._renew()

    def _note(self, offsets: list[int], error: KafkaError | None, message: Message) -> None:
        if error is not None and refusal(error) is not None:
            self._link.note(error)
        at = message.offset()
        offsets.append(-1 if error is not None or at is None else at)
