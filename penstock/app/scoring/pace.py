"""app: how long a model's batches take, and from when on one of them is overdue."""

from __future__ import annotations

import math
from collections import deque

KEPT = 64
"""So many of the newest batches of each size are remembered; sizes are told apart by their powers of two."""
USUAL = 0.9
"""What this part of them kept within is usual: a few slow rows make no slow model."""
TIMES = 10.0
"""A batch is overdue when it takes so many times what is usual..."""
FLOOR_S, ROW_FLOOR_S = 0.25, 0.5
"""...and never sooner than this: a busy machine keeps a process from running for some tenths of a second. The rows of
a batch are only asked again, one by one; a single row is given up."""


class Pace:
    """A model's own pace."""

    def __init__(self) -> None:
        self._took: dict[int, deque[float]] = {}

    def took(self, rows: int, seconds: float) -> None:
        """A batch of so many rows was answered."""
        self._took.setdefault(rows.bit_length(), deque(maxlen=KEPT)).append(seconds)

    def overdue_s(self, rows: int) -> float:
        """How long a batch may take before it is overdue: for ever, where nothing is known yet. A size that was not
        seen is taken to need as much a row as the nearest smaller one."""
        size = rows.bit_length()
        near = min(self._took, key=lambda one: abs(one - size), default=None)
        if near is None:
            return math.inf
        found = sorted(self._took[near])
        usual_s = found[int(USUAL * (len(found) - 1))] * (1 << max(0, size - near))
        return max(ROW_FLOOR_S if rows == 1 else FLOOR_S, TIMES * usual_s)
