"""app: work that may be divided, on as many threads as this process has cores, and no more than it is worth."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

from penstock.feature.replay import PARTS, Spread


@functools.cache
def spread() -> Spread:
    """What a replay spreads its parts with. How many threads there are changes no bit of what comes out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, PARTS), "penstock-replay").map if cores > 1 else map
