"""app: a model that others score: within its time or not at all, left alone when it keeps failing.

A batch that a process died of, or that took too long, is tried row by row, once: the others are answered. A row that a
process fell over when it was asked alone is known for a while, and not asked again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.app.scoring.order import Fell, Limits, Row, Scores
from penstock.app.scoring.pool import Pool
from penstock.model.pack import Told
from penstock.record.codec import pack
from penstock.record.errors import Unavailable

if TYPE_CHECKING:
    from penstock.app.scoring.remote import Remote

LIMITS = Limits()
PATIENT = msgspec.structs.replace(LIMITS, batch_s=60.0, tries_s=60.0)
"""For evaluation and `verify`, where nobody waits for one answer."""
GUILTY = ("model_late", "model_died", "model_protocol")
"""What a process that was asked a single row fell of: the row's doing, as far as anybody knows."""
MOST_KNOWN = 1000


class Apart:
    """A model in processes of its own, started when it is first asked, or at an address. One batch at a time."""

    def __init__(
        self,
        asks: Pool | Remote,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.asks, self.limits, self.clock, self.noted = asks, limits, clock, noted
        self._lock = threading.Lock()
        self._falls, self._rests_until_s = 0, float("-inf")
        self._known: dict[bytes, tuple[float, Fell]] = {}  # guilty rows by digest: until when, and of what

    def start(self) -> None:
        """Have it ready; raises Unavailable where it does not come up."""
        with self._lock:
            try:
                self.asks.start(self.limits)
            except Fell as why:
                self.noted(why.code)
                self._fell()
                raise Unavailable(
                    "What is to score a model did not come up.", code=why.code,
                    hint="Does the program keep to the line protocol, or is the server there?",
                ) from None  # fmt: skip

    def __call__(self, rows: Sequence[Row]) -> list[Told]:
        """What the model says of each row; where it says nothing, why: `model_failed`, `model_died`, `model_late`,
        `model_protocol`, `model_away`, `row_rests` where a process fell over that row just now and others wait, or
        `model_rests` where the model fell too often."""
        if not rows:
            return []
        with self._lock:
            if self.clock() < self._rests_until_s:
                return [(None, "model_rests", False)] * len(rows)
            crowded = len(rows) > 1 or self.asks.waiting() > 1
            known = [self._knows(row, crowded) for row in rows] if self._known else [None] * len(rows)
            if any(one is not None and one[0] is not None for one in known):
                return self._one_by_one(rows)
            asked = [row for row, one in zip(rows, known, strict=True) if one is None]
            said = iter(self._batch(asked) if asked else ())
            return [one or next(said) for one in known]

    def memory(self) -> int:
        """The memory of its processes, in bytes."""
        return self.asks.memory()

    def close(self) -> None:
        """End the processes, or the connections."""
        self.asks.close()

    def _batch(self, rows: Sequence[Row]) -> list[Told]:
        try:
            return self._ask(rows)
        except Fell as why:
            if len(rows) == 1 or why.whole:
                return [(None, why.code, False)] * len(rows)
        return self._one_by_one(rows)

    def _one_by_one(self, rows: Sequence[Row]) -> list[Told]:
        until_s = self.clock() + self.limits.tries_s
        told: list[Told] = []
        for row in rows:
            known = self._knows(row, crowded=True)
            if known is not None:
                told.append((*known[:2], True))
                continue
            if self.clock() >= until_s or self.clock() < self._rests_until_s:
                told.append((None, "model_late", True))
                continue
            try:
                ((score, why, _),) = self._ask([row])
                told.append((score, why, True))
            except Fell as fell:
                told.append((None, fell.code, True))
        return told

    def _ask(self, rows: Sequence[Row]) -> list[Told]:
        try:
            said = self.asks.ask(rows, self.limits)
        except Fell as why:
            self.noted(why.code)
            if len(rows) == 1 or why.whole:
                self._fell()
            if len(rows) == 1 and not why.whole and why.code in GUILTY:
                self._know(rows[0], why)
            raise
        self._falls = 0
        if len(rows) == 1 and self._known:
            self._known.pop(_digest(rows[0]), None)
        if self.asks.trim(self.limits):
            self.noted("model_grew")
        return _told(said, len(rows))

    def _know(self, row: Row, why: Fell) -> None:
        self._known[_digest(row)] = self.clock() + self.limits.known_s, why
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _knows(self, row: Row, crowded: bool) -> Told | None:
        """What is told of a row that is known; where a process that was left with it has answered since, that. Where
        it holds up nobody it is asked again."""
        digest = _digest(row)
        until_s, why = self._known.get(digest, (0.0, None))
        if why is None:
            return None
        if self.clock() >= until_s:
            del self._known[digest]
            return None
        said = why.later.result() if why.later is not None and why.later.done() else None
        if said is not None:
            return _told(said, 1)[0]
        is_asked = why.later is not None and not why.later.done()
        return (None, "row_rests", False) if crowded or is_asked else None

    def _fell(self) -> None:
        self._falls += 1
        if self._falls >= self.limits.strikes:
            self._falls, self._rests_until_s = 0, self.clock() + self.limits.rest_s
            self.noted("model_rests")


def _digest(row: Row) -> bytes:
    return hashlib.sha256(pack(list(row))).digest()


def _told(said: Scores, n: int) -> list[Told]:
    if said.code:
        return [(None, said.code, said.alone)] * n
    return [(score, "" if score is not None else "model_failed", said.alone) for score in said.scores]
