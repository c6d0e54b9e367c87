"""console: the newest records of a topic, read from the log's end backwards in growing steps."""

from __future__ import annotations

from penstock.log import Log
from penstock.record.record import Position, Record

STEP, MOST = 500, 1 << 20
"""How many places back the first look goes, and the last one that is not for all of the topic."""


def newest(log: Log, topic: str, n: int, below: Position | None = None) -> list[Record]:
    """The newest `n` records of a topic below a position (default: the end), oldest first."""
    end = (below or log.end()).n
    first, reach = log.first(topic).n, STEP
    while True:
        start = max(first, end - reach)
        found = _between(log, topic, start, end, n)
        if len(found) >= n or start <= first:
            return found
        reach = reach * 4 if reach < MOST else end


def _between(log: Log, topic: str, start: int, end: int, n: int) -> list[Record]:
    found: list[Record] = []
    position = Position(n=start)
    while True:
        records, position = log.read([topic], position, stop=Position(n=end))
        if not records:
            return found
        found = [*found, *records][-n:]
