"""app: who sends events and who asks for answers, in the order in which each learns of things."""

from __future__ import annotations

import random
from collections.abc import Callable

from penstock.app.pipeline import File
from penstock.app.simulation.faulty import FaultyLog
from penstock.app.simulation.small import History
from penstock.feature import asked
from penstock.record.record import Draft

ASKED = (0.0, 0.5, 1.0)
"""How many of a topic's requests are asked at the door; the others come as events."""
TOGETHER = 12
"""Events that one sends at once, at most."""
Batch = tuple[int, list[Draft]]
"""When it is there to send, and what."""


class Producer:
    """Who sends some topics: batches under its sequence, each until it is acknowledged."""

    def __init__(self, name: str, log: FaultyLog, batches: list[Batch]) -> None:
        self.name, self.log, self.batches = name, log, batches
        self.sent = 0

    def due_ms(self) -> int | None:
        """When the next batch is there to send."""
        return self.batches[self.sent][0] if self.sent < len(self.batches) else None


class Asker(Producer):
    """Who asks: each batch of requests until it is answered, by one of these models."""

    def __init__(self, name: str, log: FaultyLog, batches: list[Batch], models: list[str]) -> None:
        super().__init__(name, log, batches)
        self.models = models


def producers(
    file: File, history: History, chance: random.Random, handle: Callable[[], FaultyLog]
) -> list[Producer]:
    """Three producers share the topics, and of each topic that a door takes some requests are asked there."""
    topics, answering = sorted(file.sources), _doors(file)
    sends = {topic: f"producer-{i % 3}" for i, topic in enumerate(chance.sample(topics, len(topics)))}
    share = {topic: chance.choice(ASKED) for topic in answering}
    most = {topic: chance.choice((1, TOGETHER)) for topic in answering}
    batches: dict[str, list[Batch]] = {name: [] for name in [*sorted(set(sends.values())), *answering]}
    for one in history.events:
        name = one.topic if chance.random() < share.get(one.topic, 0.0) else sends[one.topic]
        mine = batches[name]
        if not mine or one.at_ms > mine[-1][0] or len(mine[-1][1]) >= most.get(name, TOGETHER):
            mine.append((one.at_ms + history.wait_ms // chance.choice((10**6, 24, 6)), []))
        mine[-1][1].append(one.draft)
    return [
        Asker(name, handle(), some, answering[name]) if name in answering else Producer(name, handle(), some)
        for name, some in batches.items()
        if some
    ]


def _doors(file: File) -> dict[str, list[str]]:
    """The models that answer at a door, by the topic of what they are asked."""
    found: dict[str, list[str]] = {}
    for name, plan in file.plans.items():
        source = asked(plan.pipeline.request)
        if plan.pipeline.serves is None and source.id:
            found.setdefault(source.topic, []).append(name)
    return found
