"""app: a model that others score: within its time or not at all, left alone when it keeps failing.

A batch that a process died of, or that took too long, is tried row by row, once: the others are answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.app.scoring.order import Fell, Limits, Row, Scores
from penstock.app.scoring.piped import Piped
from penstock.record.errors import Unavailable

if TYPE_CHECKING:
    from penstock.app.scoring.remote import Remote

Told = tuple[float | None, str]
"""A score, or none and why."""
LIMITS = Limits()
PATIENT = msgspec.structs.replace(LIMITS, batch_s=60.0, tries_s=60.0)
"""For evaluation and `verify`, where nobody waits for one answer."""


class Apart:
    """A model in a process of its own, started when it is first asked, or at an address. One batch at a time."""

    def __init__(
        self,
        asks: Piped | Remote,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.asks, self.limits, self.clock, self.noted = asks, limits, clock, noted
        self._lock = threading.Lock()
        self._falls, self._rests_until_s = 0, float("-inf")

    def start(self) -> None:
        """Have it ready; raises Unavailable where it does not come up."""
        with self._lock:
            try:
                self.asks.start(self.limits)
            except Fell as why:
                self._fell(why.code)
                raise Unavailable(
                    "What is to score a model did not come up.", code=why.code,
                    hint="Does the program keep to the line protocol, or is the server there?",
                ) from None  # fmt: skip

    def __call__(self, rows: Sequence[Row]) -> list[Told]:
        """What the model says of each row; where it says nothing, why: `model_failed`, `model_died`, `model_late`,
        `model_protocol`, `model_away`, or `model_rests` where it fell too often."""
        if not rows:
            return []
        with self._lock:
            if self.clock() < self._rests_until_s:
                return [(None, "model_rests")] * len(rows)
            try:
                return self._ask(rows)
            except Fell as why:
                if len(rows) == 1 or why.whole:
                    return [(None, why.code)] * len(rows)
            return self._one_by_one(rows)

    def memory(self) -> int:
        """The memory of its process, in bytes."""
        return self.asks.memory()

    def close(self) -> None:
        """End the process, or the connections."""
        with self._lock:
            self.asks.close()

    def _one_by_one(self, rows: Sequence[Row]) -> list[Told]:
        until_s = self.clock() + self.limits.tries_s
        told: list[Told] = []
        for row in rows:
            if self.clock() >= until_s or self.clock() < self._rests_until_s:
                told.append((None, "model_late"))
                continue
            try:
                told += self._ask([row])
            except Fell as why:
                told.append((None, why.code))
        return told

    def _ask(self, rows: Sequence[Row]) -> list[Told]:
        try:
            said = self.asks.ask(rows, self.limits)
        except Fell as why:
            self._fell(why.code)
            raise
        self._falls = 0
        if self.asks.memory() > self.limits.most_bytes:
            self.noted("model_grew")
            self.asks.end()
        return _told(said, len(rows))

    def _fell(self, code: str) -> None:
        self._falls += 1
        self.noted(code)
        if self._falls >= self.limits.strikes:
            self._falls, self._rests_until_s = 0, self.clock() + self.limits.rest_s
            self.noted("model_rests")


def _told(said: Scores, n: int) -> list[Told]:
    if said.code:
        return [(None, said.code)] * n
    return [(score, "" if score is not None else "model_failed") for score in said.scores]
