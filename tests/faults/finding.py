"""faults: what a part of the harness is told, and what it answers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One kind of fault. `provoked`: how often it was made to happen; `differences`: how often something
    was wrong after it. `planted`: the names of the bugs put in on purpose; `caught` of the `planned` ones
    were noticed."""

    name: str
    provoked: int
    differences: int
    planted: str = ""
    caught: int = 0
    planned: int = 0
    seconds: float = 0.0
    note: str = ""


class Plan(msgspec.Struct, frozen=True):
    """How much to do: everything at scale 1, all of it decided by the seed; `note` tells how far it is."""

    seed: int
    scale: float
    note: Callable[[str], None]

    def times(self, full: int, least: int = 1) -> int:
        """The number of times at this scale of what the full form does `full` times."""
        return max(least, round(full * self.scale))
