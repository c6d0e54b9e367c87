"""What all sides of the features' benchmark share: the seeded events and requests, and how a child is talked to.

Nothing of Penstock is imported here: the peers' environments have none of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MINUTE_MS, DAY_MS = 60_000, 86_400_000
WINDOWS = {
    "5m": 5 * MINUTE_MS, "1h": 60 * MINUTE_MS, "6h": 360 * MINUTE_MS,
    "1d": DAY_MS, "7d": 7 * DAY_MS, "14d": 14 * DAY_MS, "30d": 30 * DAY_MS,
}  # fmt: skip
KINDS = ("count", "sum", "mean", "std", "min", "max", "last")
NAMES = tuple(f"{kind}_{window}" for window in WINDOWS for kind in KINDS)
FORMS = ("uniform", "hot")
HOT_SHARE = 0.25  # of the events and of the requests, in the form with a hot key
LATE_SHARE, LATE_MS = 0.05, 6 * 60 * MINUTE_MS
START_MS = 1_790_000_000_000
SPAN_MS = 30 * DAY_MS
SEED = 20_261_124


def make(folder: Path, form: str, events: int, requests: int, keys: int, seed: int = SEED) -> None:
    """Write `FORM-events.parquet` and `FORM-requests.parquet`.

    The log is one order: `position`. Its time runs evenly over 30 days; a request's time is its place in it, an
    event's too, but that 5 % of the events are late: their event time lies up to six hours behind.
    """
    chance = np.random.default_rng([seed, FORMS.index(form)])
    n = events + requests
    times = START_MS + np.sort(chance.integers(0, SPAN_MS, n))
    asked = np.zeros(n, bool)
    asked[chance.choice(n, requests, replace=False)] = True
    late = (chance.random(n) < LATE_SHARE) & ~asked
    times[late] -= chance.integers(1, LATE_MS, int(late.sum()))
    key = chance.integers(0, keys, n)
    if form == "hot":
        key[chance.random(n) < HOT_SHARE] = 0
    amount = np.round(chance.lognormal(3.0, 1.0, n), 2)
    position = np.arange(n, dtype=np.int64)
    columns = {"position": position, "customer": np.char.mod("c%05d", key), "t_ms": times}
    for name, rows in (("events", ~asked), ("requests", asked)):
        table = pa.table({column: pa.array(values[rows]) for column, values in columns.items()})
        if name == "events":
            table = table.append_column("amount", pa.array(amount[rows]))
        pq.write_table(table, path(folder, form, name))


def path(folder: Path, form: str, name: str) -> Path:
    """Where `make` put one of them."""
    return folder / f"{form}-{name}.parquet"


def load(folder: Path, form: str, name: str) -> pa.Table:
    """One of them, read."""
    return pq.read_table(path(folder, form, name))


class Clock:
    """Seconds of the part of a task that is measured, and those of them that the process worked."""

    def __init__(self) -> None:
        self.seconds = self.worked = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Measure what is done inside."""
        began, idle = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - began
        self.worked += time.process_time() - idle


def answer_tasks(version: str, tasks: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Be a child: say the version, then answer each line `{"task": NAME, ...}` with one line, until there is none."""
    replies = sys.stdout
    sys.stdout = sys.stderr  # whatever a peer prints is not an answer
    print(json.dumps({"version": version}), file=replies, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = tasks[asked.pop("task")](**asked)
        except Exception as error:  # a peer that cannot do one task may do the next
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=replies, flush=True)
