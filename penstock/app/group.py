"""app: seats as the partitions of a Kafka topic, handed out by a consumer group.

The topic of a stage's seats has a partition for each share and holds no record; which partitions a
process is given says which shares it runs. Positions are never read from the group: they lie in the
stages' own commits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from penstock.app.seats import Seat
from penstock.record.errors import Unavailable

MADE_S = 30.0
SESSION_MS = "6000"
"""How long a process may be silent before its seats are given to others."""


class GroupSeats:
    """Seats in the group PREFIX.stages. A process with a `name` of its own (a StatefulSet's pod) that comes
    back within the session finds its seats as they were; without one they go to the others at once."""

    def __init__(self, log: Any, name: str, shares: Mapping[str, int], leave: Callable[[Seat], None]) -> None:
        place = log.place
        self.leave = leave
        self._stages = {place.topic(f"seats.{n}.{stage}"): stage for stage, n in shares.items()}
        self._held: frozenset[Seat] = frozenset()
        quiet = {"log_level": 0, "error_cb": lambda error: None, "client.id": name or "penstock"}
        base: dict[str, Any] = {**quiet, **place.settings, "bootstrap.servers": place.brokers}
        self._make(AdminClient(base), {place.topic(f"seats.{n}.{stage}"): n for stage, n in shares.items()})
        self._consumer = Consumer({
            "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": "1000",
            **base,
            "group.id": place.topic("stages"), "enable.auto.commit": False,
            "partition.assignment.strategy": "cooperative-sticky",
            **({"group.instance.id": name} if name else {}),
        })  # fmt: skip
        self._consumer.subscribe(
            list(self._stages), on_assign=self._given, on_revoke=self._taken, on_lost=self._taken
        )

    def look(self) -> None:
        """See `Seats`: the callbacks run in here."""
        with contextlib.suppress(KafkaException):  # of a broker that is away: the session tells
            self._consumer.poll(0)

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
