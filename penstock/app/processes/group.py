"""app: seats as the partitions of a Kafka topic, handed out by a consumer group.

The topic of a stage's seats has a partition for each share and holds no record; which partitions a
process is given says which shares it runs. Positions are never read from a group: they lie in the
stages' own commits. `Lags` shows them as groups' offsets, for the tools that watch a Kafka.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import confluent_kafka.admin
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.app.processes.seats import Seat
from penstock.record.errors import Refused, Unavailable
from penstock.record.record import Position, partition

MADE_S = 30.0
ASKED_S = 5.0
SHOWN = 10_000
"""The most records that a lag is counted in, for each topic."""
SESSION_MS = "6000"
"""How long a process may be silent before its seats are given to others."""


_LATEST: Any = vars(confluent_kafka.admin)["OffsetSpec"].latest()  # the package exports no type of it
_MENDS = {
    KafkaError.INVALID_SESSION_TIMEOUT: "The brokers do not allow this session.timeout.ms.",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "The brokers do not let us join the group of the stages.",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "The brokers do not let us read the topics of the seats.",
    KafkaError._FATAL: "Another process runs under this --name.",
}


def _base(log: Any, name: str = "penstock") -> dict[str, Any]:
    """What every client of a log's brokers is configured with."""
    quiet = {"log_level": 0, "error_cb": lambda error: None, "client.id": name}
    return {**quiet, **log.place.settings, "bootstrap.servers": log.place.brokers}


class GroupSeats:
    """Seats in the group PREFIX.stages. A process with a `name` of its own (a StatefulSet's pod) that comes
    back within the session finds its seats as they were; without one they go to the others at once."""

    def __init__(self, log: Any, name: str, shares: Mapping[str, int], leave: Callable[[Seat], None]) -> None:
        place = log.place
        self.leave = leave
        self._stages = {place.topic(f"seats.{n}.{stage}"): stage for stage, n in shares.items()}
        self._held: frozenset[Seat] = frozenset()
        topics = {place.topic(f"seats.{n}.{stage}"): n for stage, n in shares.items()}
        self._make(AdminClient(_base(log)), topics)
        self._consumer = Consumer({
            "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": "500",
            **_base(log, name or "penstock"),
            "group.id": place.topic("stages"), "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
            **({"group.instance.id": name} if name else {}),
        })  # fmt: skip
        self._consumer.subscribe(
            list(self._stages), on_assign=self._given, on_revoke=self._taken, on_lost=self._taken
        )

    def look(self) -> None:
        """See `Seats`: the callbacks run in here."""
        try:
            message = self._consumer.poll(0)
        except KafkaException:  # a broker that is away: the session tells
            return
        error = message.error() if message is not None else None
        if error is not None and error.code() in _MENDS:
            raise Refused(_MENDS[error.code()], code="seats", hint=error.name())

    def held(self) -> frozenset[Seat]:
        """See `Seats`."""
        return self._held

    def close(self) -> None:
        """See `Seats`."""
        self._consumer.close()

    def _seats(self, partitions: Sequence[TopicPartition]) -> list[Seat]:
        return [(self._stages[one.topic], one.partition) for one in partitions if one.topic in self._stages]

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        self._held |= set(self._seats(partitions))

    def _taken(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for seat in self._seats(partitions):
            self._held -= {seat}
            self.leave(seat)
        with contextlib.suppress(KafkaException):
            consumer.incremental_unassign(partitions)

    def _make(self, admin: AdminClient, topics: Mapping[str, int]) -> None:
        try:
            known = admin.list_topics(timeout=MADE_S)
            copies = min(3, len(known.brokers))
            missing = [NewTopic(name, n, copies) for name, n in topics.items() if name not in known.topics]
            for made in (admin.create_topics(missing) if missing else {}).values():
                with contextlib.suppress(KafkaException):  # another process was faster
                    made.result(MADE_S)
        except KafkaException as error:
            raise Unavailable(
                f"The brokers cannot be used: {error.args[0].name()}.", code="log_away"
            ) from None


class Lags:
    """How far each stage is, as the offsets of a group without members, PREFIX.STAGE. Only to be looked at:
    nobody reads them back."""

    def __init__(self, log: Any) -> None:
        self.log = log
        self._admin = AdminClient(_base(log))

    def show(self, stage: str, topics: Sequence[str], position: Position) -> None:
        """A stage's place on its topics: each partition's end, less the records beyond the position."""
        name = self.log.place.topic
        with contextlib.suppress(KafkaException, TimeoutError):  # a display: the next one will do
            known = self._admin.list_topics(timeout=ASKED_S).topics
            spread = {t: len(known[name(t)].partitions) for t in topics if name(t) in known}
            parts = [TopicPartition(name(t), at) for t, n in spread.items() for at in range(n)]
            ends = self._admin.list_offsets(dict.fromkeys(parts, _LATEST)) if parts else {}
            found = {(one.topic, one.partition): made.result(ASKED_S).offset for one, made in ends.items()}
            for topic, n in spread.items():
                for record in self.log.read([topic], position, limit=SHOWN)[0]:
                    found[name(topic), partition(record.key, n)] -= 1
            offsets = [TopicPartition(*where, max(0, at)) for where, at in found.items()]
            group = ConsumerGroupTopicPartitions(name(stage), offsets)
            for made in self._admin.alter_consumer_group_offsets([group]).values() if offsets else ():
                made.result(ASKED_S)
