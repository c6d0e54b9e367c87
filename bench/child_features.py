"""Our side of the features' benchmark, a child of `features.py`: training set, fold, look-up, memory."""

from __future__ import annotations

import gc
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.data_features import (
    KINDS,
    LATE_MS,
    LATE_SHARE,
    NAMES,
    SEED,
    SPAN_MS,
    START_MS,
    WINDOWS,
    Clock,
    answer_tasks,
    load,
    path,
)  # fmt: skip
from penstock import __version__
from penstock.app.threads import spread
from penstock.dataset.table import arrow_column
from penstock.feature import FeatureSet, Fold, compile, source
from penstock.feature.definition import language
from penstock.feature.replay import Decoded, decoded, kernels, replay
from penstock.record.codec import pack
from penstock.record.decisions import Value
from penstock.record.event import Event, key
from penstock.record.record import Record

TICK_EVERY = 1_000  # records; the live state hears the time about as often
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Payment(Event):
    """What is folded."""

    customer: str = key()
    amount: float
    at: datetime


class Request(Event):
    """What asks for the 49 values."""

    request: str
    customer: str
    at: datetime


def definitions() -> FeatureSet:
    """Seven windows times seven aggregates of one column."""
    payment = source(Payment)
    asked = source(Request, id="request")
    made = {
        f"{kind}_{window}": getattr(language, kind)(payment.amount, window=window)
        for window in WINDOWS
        for kind in KINDS
    }
    return compile(list(made.values()), asked, made)


def payment(position: int, customer: str, t_ms: int, amount: float) -> Record:
    """An event as the log gives it back: its value is bytes."""
    value = pack(Payment(customer=customer, amount=amount, at=EPOCH + timedelta(milliseconds=t_ms)))
    return Record("payment", position, "", customer, t_ms, value)


def request(position: int, customer: str, t_ms: int) -> Record:
    """A request as the log gives it back."""
    asked = Request(request=f"r{position}", customer=customer, at=EPOCH + timedelta(milliseconds=t_ms))
    return Record("request", position, asked.request, customer, t_ms, pack(asked))


def records(folder: Path, form: str, most: int | None = None) -> list[Record]:
    """Events and requests in the log's order."""
    made = [payment(*row) for row in _rows(folder, form, "events")]
    made += [request(*row) for row in _rows(folder, form, "requests")]
    made.sort(key=lambda record: record.position)
    return made[:most]


def _rows(folder: Path, form: str, name: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in load(folder, form, name).columns), strict=True)


class Ours:
    """The tasks. What one form's tasks share is kept until another form is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.features = folder, definitions()
        self._form, self._records = "", list[Record]()
        self._laid: dict[str, Decoded] = {}

    def of(self, form: str) -> list[Record]:
        """The records of a form."""
        if form != self._form:
            self._records = []
            self._form, self._records = form, records(self.folder, form)
            gc.collect()
            gc.freeze()
        return self._records

    def training(self, form: str) -> dict[str, Any]:
        """The training set of all requests; its values are left in a file for the comparison."""
        if form not in self._laid:
            self._laid[form] = laid_out(self.features, self.of(form))
        seconds, way, table = ours_replay(self._laid[form])
        pq.write_table(table, path(self.folder, form, "ours"))
        values = table.num_rows * len(NAMES)
        return {"ways": [{"way": way, "s": seconds, "values": values, "requests": table.num_rows}]}

    def fold(self, form: str, reads: bool) -> dict[str, Any]:
        """Records a second, each decoded first: the events alone, and (`reads`) the requests read between them."""
        log = self.of(form)
        events = [record for record in log if record.topic == "payment"]
        alone = self._folded(events)
        found = {"per_s": len(events) / alone.seconds, "events": len(events)}
        found["per_worked_s"] = len(events) / alone.worked
        return found | ({"with_reads_per_s": len(log) / self._folded(log).seconds} if reads else {})

    def _folded(self, log: list[Record]) -> Clock:
        fold, clock = Fold(self.features), Clock()
        decode, add, read = fold.event, fold.add, fold.read
        gc.collect()
        with clock():
            for i, record in enumerate(log):
                event = decode(record)
                if record.topic == "payment":
                    add(record, event)
                else:
                    read(record, event)
                if i % TICK_EVERY == 0:
                    fold.tick(record.time_ms)
        return clock

    def lookup(self, form: str, looks: int) -> dict[str, Any]:
        """One entity's values, and those of a hundred: medians of many. In the form with a hot key, that one's."""
        fold, log = Fold(self.features), self.of(form)
        for record in log:
            if record.topic == "payment":
                fold.add(record)
        t_ms, chance = START_MS + SPAN_MS, random.Random(SEED)
        known = sorted({record.key for record in log})
        gc.collect()
        if form == "hot":
            return {"one_us": median_us(fold, ["c00000"] * 20, t_ms)}
        hundred = []
        for _ in range(looks // 50):
            customers = chance.sample(known, 100)
            began = time.perf_counter_ns()
            fold.get_many([{"customer": customer} for customer in customers], t_ms)
            hundred.append(time.perf_counter_ns() - began)
        one_us = median_us(fold, chance.choices(known, k=looks), t_ms)
        return {"one_us": one_us, "hundred_ms": statistics.median(hundred) / 1e6}

    def memory(self, events: int, keys: int) -> dict[str, Any]:
        """Bytes that the process grows by, an event retained; in a child of its own that has done nothing else."""
        fold = Fold(self.features)
        made = arriving(events, keys)
        for record in itertools.islice(made, 1_000):
            fold.add(record)
        fold = Fold(self.features)
        gc.collect()
        before, clock = resident(), Clock()
        with clock():
            for i, record in enumerate(made):
                fold.add(record)
                if i % TICK_EVERY == 0:
                    fold.tick(record.time_ms)
        gc.collect()
        grown = resident() - before
        return {"bytes_an_event": grown / events, "mb": grown / 1e6, "s": clock.seconds, "kept": kept(fold)}


def median_us(fold: Fold, customers: Sequence[str], t_ms: int) -> float:
    """The median time of a look-up of one."""
    took = []
    for customer in customers:
        began = time.perf_counter_ns()
        look_up(fold, customer, t_ms)
        took.append(time.perf_counter_ns() - began)
    return statistics.median(took) / 1e3


def arriving(events: int, keys: int) -> Iterator[Record]:
    """A thousand events and then `events` more, over 30 days, 5 % late; each is made as it is asked for."""
    chance = random.Random(SEED)
    names = [f"c{i:05d}" for i in range(keys)]
    n = events + 1_000
    for i in range(n):
        t_ms = START_MS + i * SPAN_MS // n
        if chance.random() < LATE_SHARE:
            t_ms -= chance.randrange(1, LATE_MS)
        yield payment(i, names[i % keys], t_ms, round(chance.lognormvariate(3.0, 1.0), 2))


def resident() -> int:
    """The process's bytes in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# What the benchmark needs of the features' doors, in one place.


def laid_out(features: FeatureSet, log: list[Record]) -> Decoded:
    """Decoded events and requests. The kernels are loaded here, or compiled, where that has not been done before."""
    replay(decoded(features, log[:1_000]), least=0)
    return decoded(features, log)


def ours_replay(given: Decoded) -> tuple[float, str, pa.Table]:
    """The seconds of a replay over decoded events, how it was done, and its values by request position."""
    clock = Clock()
    gc.collect()
    with clock():
        found = replay(given, spread=spread())
        columns = {
            name: arrow_column(one, pa.from_numpy_dtype(one.values.dtype)) for name, one in found.items()
        }
        table = pa.table({"position": pa.array(np.asarray(given.o)), **columns})
    return (
        clock.seconds,
        f"replay, numba, {len(os.sched_getaffinity(0))} threads" if kernels() else "replay, plain Python",
        table,
    )


def look_up(fold: Fold, customer: str, t_ms: int) -> list[Value]:
    """The values of one entity now, in process."""
    return fold.get({"customer": customer}, t_ms)


def kept(fold: Fold) -> int:
    """How many events the state holds."""
    return sum(fold.sizes().values())


def main() -> None:
    """Answer tasks about the data in the given folder."""
    ours = Ours(Path(sys.argv[1]))
    tasks = (ours.training, ours.fold, ours.lookup, ours.memory)
    answer_tasks(f"penstock {__version__}", {task.__name__: task for task in tasks})


if __name__ == "__main__":
    main()
