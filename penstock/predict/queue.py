"""predict: requests in a queue: nobody waits at a door, so they may wait for whoever scores, up to a deadline."""

from __future__ import annotations

import msgspec

from penstock.record.codec import span
from penstock.record.errors import DefinitionError

HOLDS = frozenset(("model_away", "model_rests"))
"""Why a batch came to nothing that passes by itself: the queue waits instead of answering with it."""
BATCH = 32
"""So many records a queue's stage takes at once: a model that takes 150 ms a row is within its time."""


class Queue(msgspec.Struct, frozen=True):
    """A model's requests come as events, and its answers are read from its predictions. `within_ms`: whoever sent
    one has given it up so long after its time; 0: never."""

    within_ms: int = 0


def queue(within: str = "") -> Queue:
    """Serve a model by a queue only. A request that is not come to `within` ("30s") its own time is answered
    `expired`, without a score."""
    try:
        within_ms = span(within) if within else 0
    except ValueError as error:
        raise DefinitionError(f"within=: {error}.", code="unit") from None
    if within_ms < 0 or (within and not within_ms):
        raise DefinitionError("within= is a span of time above 0.", code="unit")
    return Queue(within_ms)
