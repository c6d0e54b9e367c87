"""client: names for what is sent, so that the server knows a repeat: ids of requests, numbers of appends."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.record.errors import PenstockError


def drawn(rng: random.Random) -> str:
    """A name that nobody else has."""
    return f"{rng.getrandbits(96):024x}"


def with_ids(rows: Sequence[Mapping[str, Any]], id: str, rng: random.Random) -> Sequence[Mapping[str, Any]]:
    """Rows with an id in the column of this name; as they are without such a column."""
    if not id:
        return rows
    return [row if row.get(id) is not None else {**row, id: drawn(rng)} for row in rows]


class Numbering:
    """The numbers of one client's appends, by topic. Where it cannot be known whether a number was taken, the client
    goes on under another producer's name: under the old one other events could pass for a repeat."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self._last = rng, dict[str, int]()
        self._producer = drawn(rng)

    def next(self, topic: str) -> tuple[str, int]:
        """The producer and the number of the append that follows."""
        return self._producer, self._last.get(topic, 0) + 1

    def taken(self, topic: str) -> None:
        """The append is on the log."""
        self._last[topic] = self._last.get(topic, 0) + 1

    def failed(self, error: PenstockError) -> None:
        """The append came to this error."""
        if error.status >= 500 or error.code == "sequence":
            self.renew()

    def renew(self) -> None:
        """Go on under another name."""
        self._last.clear()
        self._producer = drawn(self._rng)
