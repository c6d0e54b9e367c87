"""app: how much the features' states hold: events by series, and those of the largest entity."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from penstock.app.counters import Count
from penstock.feature import Fold
from penstock.stage import Running

LOOK_S = 10.0
"""How often the states are looked through, at least: never for more than a hundredth of the time."""


class Sizes:
    """What the answering stages hold, as of a while ago. `look` is called by the thread that folds the stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._counts: dict[str, list[Count]] = {}
        self._next_s: dict[str, float] = {}

    @property
    def counts(self) -> list[Count]:
        """Every model's counts."""
        return [one for counts in list(self._counts.values()) for one in counts]

    def look(self, running: Running[Any]) -> None:
        """Count again, if it is time to; every share holds everything, so that one of a model's is enough."""
        began_s, model = self.clock(), running.stage.said_as.removeprefix("predict.")
        if began_s < self._next_s.get(model, float("-inf")):
            return
        self._counts[model] = sizes(model, running.state.folds.values())
        ended_s = self.clock()
        self._next_s[model] = ended_s + max(LOOK_S, 100 * (ended_s - began_s))


def sizes(model: str, folds: Iterable[Fold]) -> list[Count]:
    """The counts of a model's feature sets, by set and series; a row of hops counts as an event."""
    held: Counter[tuple[str, str]] = Counter()
    entities: Counter[tuple[str, str]] = Counter()
    largest: dict[tuple[str, str], int] = {}
    for fold in folds:
        for table in fold.tables:
            at, each = (fold.features.digest[:12], table.key.label), table.held()
            held[at] += sum(each)
            entities[at] = max(entities[at], len(each))
            largest[at] = max(largest.get(at, 0), max(each, default=0))
    return [
        Count(f"state_{name}", {"model": model, "set": digest, "series": series}, n)
        for name, some in (("events", held), ("entities", entities), ("largest", largest))
        for (digest, series), n in some.items()
    ]
