"""app: a recorded history through the loop: events and ticks by event time, in lock step with the stages.

Each period of event time is one append (events, then the tick), under the period's number as its
sequence; the stages then run until nothing is new, here or in other processes. A killed replay goes on
at the next period and ends in the same log.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from penstock.app.processes.turn import Player
from penstock.app.system import clock_draft
from penstock.record.decisions import DECISIONS, Decision, draft
from penstock.record.errors import Refused

Timed = tuple[int, str, Any]
"""An event of a history: when it becomes known (UTC ms), its topic, its row (a mapping, or a
person's `Decision`)."""

PRODUCER = "replay"


class Played(msgspec.Struct, frozen=True):
    """How far a replay is: event time, events taken and refused so far in this process."""

    now_ms: int
    events: int
    refused: int


def periods(history: Iterable[Timed], period_ms: int) -> Iterator[tuple[int, list[Timed]]]:
    """The history in whole periods of event time, empty ones among them; each with its end."""
    end_ms = 0
    for period, group in itertools.groupby(history, lambda event: event[0] // period_ms):
        this_ms = (period + 1) * period_ms
        if end_ms and this_ms <= end_ms:
            raise Refused("The history is not in order of time.", code="order")
        while end_ms and end_ms + period_ms < this_ms:
            end_ms += period_ms
            yield end_ms, []
        end_ms = this_ms
        yield end_ms, list(group)


def replay(
    system: Player,
    history: Iterable[Timed],
    *,
    period_ms: int = 3_600_000,
    told: Callable[[Played], None] = lambda played: None,
) -> Played:
    """Play a history, in order of time, from where an earlier replay of it on this log ended."""
    system.drain()
    done = system.log.last(PRODUCER)
    played = Played(0, 0, 0)
    for number, (end_ms, events) in enumerate(periods(history, period_ms), 1):
        if number <= done:
            continue
        drafts, refused = [], 0
        for at_ms, topic, row in events:
            if isinstance(row, Decision):
                drafts.append(draft(DECISIONS, row, key=row.model, t_ms=at_ms))
                continue
            source = system.file.source(topic)
            try:
                drafts.append(source.draft(source.parse(row)))
            except Refused:
                refused += 1
        system.log.append(
            [*drafts, clock_draft(end_ms)], producer=PRODUCER, sequence=number, sync=system.sync
        )
        system.drain()
        played = Played(end_ms, played.events + len(drafts), played.refused + refused)
        told(played)
    return played
